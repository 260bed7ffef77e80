//! Accessibility of the list of lessons.

use crate::pages::access::*;
use crate::support::browser::{driver, url};
use crate::support::harness::*;
use crate::support::wings::has;
use std::path::PathBuf;
use tincan::wings::lessons::script::{LESSONS, comment, languages};

const SCENES: &[Scene] =
    &[("the list of the lessons", "/lessons", |page, _| page.becomes("all('#lessons li').length > 20", "true"))];

#[test]
fn axe_finds_nothing() {
    axe(SCENES);
}

#[test]
fn each_text_can_be_read_on_whatever_it_can_stand() {
    contrasts(SCENES);
}

#[test]
fn all_fits_and_can_be_hit_however_small_the_window_or_large_the_letters() {
    fits(SCENES);
}

#[test]
fn the_focus_can_always_be_seen() {
    focus(SCENES);
}

#[test]
fn pictures() {
    photographed(SCENES);
}

#[test]
fn the_lessons_are_listed_for_browsers_in_their_language() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let lists = |accept: &str| {
        let response = server.ask(format!("GET /lessons HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n"));
        let mut wire = server.connect();
        wire.send(format!("HEAD /lessons HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n"));
        let fields = |head: &str| head.lines().filter(|line| !line.starts_with("Date")).collect::<Vec<_>>().join("\n");
        assert_eq!(fields(&wire.until(b"\r\n\r\n")), fields(&response.head), "{accept}");
        assert_eq!((response.status, response.field("vary")), (200, Some("Accept")));
        let page = response.text().starts_with("<!doctype html>");
        let kind = if page { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
        assert_eq!(
            (response.field("content-type"), response.field("content-security-policy").is_some()),
            (Some(kind), page)
        );
        page
    };
    for accept in ["text/html,application/xhtml+xml,*/*;q=0.8", "text/html", "text/plain;q=0.1, text/*;q=0.2"] {
        assert!(lists(&format!("Accept: {accept}\r\n")), "{accept}");
    }
    for accept in ["*/*", "text/plain", "text/*", "text/html, text/plain", "text/html;q=0.5, */*;q=0.6", "image/png"] {
        assert!(!lists(&format!("Accept: {accept}\r\n")), "{accept}");
    }
    assert!(!lists(""), "curl does not send an Accept-Language");

    let shots = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from);
    for (language, looks) in LANGUAGES {
        let page = driver.chromium(language, "normal");
        page.open(&url(&server, "/lessons"));
        page.becomes("all('#lessons li').length", &LESSONS.len().to_string());
        for (n, lesson) in LESSONS.iter().enumerate() {
            let (english, chinese) = languages(lesson.text);
            let part = if language == "en" { english } else { chinese };
            let title = comment(part, "lesson").unwrap();
            let name = lesson.name;
            let links = format!(
                "[...all('#lessons li')[{n}].querySelectorAll('a')].map(a => a.getAttribute('href') + ' ' + a.textContent).join('\\n')"
            );
            assert_eq!(page.js(&links), format!("/lab#{name} {title}\n/lessons/{name}.txt {name}.txt"));
        }
        let page_says =
            page.js("[document.documentElement.lang, document.title, q('h1').textContent, all('h1').length].join('|')");
        let expected =
            if language == "en" { "en|Lessons · tincan|Lessons|1" } else { "zh-CN|课程 · tincan|课程|1" };
        assert_eq!(page_says, expected);
        assert_eq!(page.console(), [""; 0]);
        for (scheme, width) in looks {
            page.looks((scheme, *width));
            if let Some(dir) = &shots {
                std::fs::create_dir_all(dir).unwrap();
                page.shot(&dir.join(format!("lessons-{language}-{scheme}-{width}.png")));
            }
        }
        if language == "en" && has("lab") {
            page.js("q('#lessons li:nth-child(2) a').click()");
            page.becomes("q('#lesson-title')?.textContent", comment(LESSONS[1].text, "lesson").unwrap());
            page.js("q('footer a[href=\"/lessons\"]').click()");
            page.becomes("all('#lessons li').length > 0", "true");
        }
    }
    // It reports that the server cannot be reached, and stops reporting it once the server is back.
    let page = driver.chromium("en", "normal");
    page.before(
        "(real => window.fetch = (...args) => window.there ? real(...args) : Promise.reject(new TypeError('')))(fetch)",
    );
    page.open(&url(&server, "/lessons"));
    page.becomes("q('#error').textContent", "could not reach the server");
    page.js("(window.there = true)");
    page.becomes("[q('#error').textContent, all('#lessons li').length > 20]", ",true");
}

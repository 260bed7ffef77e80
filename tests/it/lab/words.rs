//! The pages in Chinese and in English, and the link to the lab.

use crate::pages::words::words;
use crate::support::browser::*;
use crate::support::harness::*;
use tincan::server::pages;
use tincan::wings::lab::TABLES;

#[test]
fn no_word_is_missing_or_left_over_or_differs_from_what_the_page_says_without_scripts() {
    let pages = [("chat.html", "/kitchen"), ("lessons.html", "/lessons"), ("lab.html", "/lab")];
    words(&["common", "chat", "lab", "lessons"], &pages);
}

#[test]
fn the_chat_page_leads_to_the_lab_and_has_nothing_else_of_it() {
    let plain_page = String::from_utf8(pages::chat("")).unwrap();
    let further = String::from_utf8(pages::chat(TABLES.link)).unwrap();
    assert_eq!(further.replace(TABLES.link, ""), plain_page);
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    for (languages, text) in [
        ("en-US,en", "See each byte of this channel in the wire lab"),
        ("zh-CN,zh,en", "在字节实验室里查看本频道的每个字节"),
        ("zh-TW", "在字节实验室里查看本频道的每个字节"),
        ("fr", "See each byte of this channel in the wire lab"),
        ("fr,zh-CN,en", "在字节实验室里查看本频道的每个字节"),
        ("en,zh-CN", "See each byte of this channel in the wire lab"),
    ] {
        let page = driver.chromium(languages, "normal");
        page.open(&url(&server, "/kitchen"));
        page.is_open();
        assert_eq!(page.js("all('a').map(e => e.textContent.trim())"), text, "{languages}");
        assert_eq!(page.js("q('#lab').pathname + q('#lab').hash"), "/lab#/kitchen");
    }
}

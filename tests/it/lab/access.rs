//! Accessibility of the lab.

use crate::pages::access::*;
use crate::support::browser::{driver, url};
use crate::support::harness::*;
use crate::support::wings::has;

const SCENES: [Scene; 5] = [
    ("the lab before anything came", "/lab#/kitchen", |page, _| page.js("(stop(), clear(), showState())").clear()),
    ("a lesson, with a row pointed at that has the focus", "/lab#chunks", |page, _| {
        page.becomes("all('.over').length", "1");
        page.js("all('details').forEach(details => details.open = true)");
        page.js("(q('#hex').click(), q('.dispatch').closest('tr').focus({ focusVisible: true }))");
    }),
    ("a lesson that fails", "/lab#unavailable", |page, _| page.becomes("all('.fired .failed').length", "1")),
    ("a lesson that opens more", "/lab#six-connections", |page, _| {
        page.becomes("q('#state').dataset.state", "open");
        page.js("q('#more button').click()");
        page.becomes("q('#more output').textContent !== ''", "true");
    }),
    ("an EventSource, with long data", "/lab#/kitchen", |page, server| {
        page.becomes("q('#state').dataset.state", "open");
        server.post("/kitchen", "a line\n".repeat(30));
        page.becomes("all('.fired .event').length", "1");
        page.js("point(all('tr:has(q)').pop())");
        page.js("(q('#event').value = 'stew', q('#send').click())");
        page.becomes("all('.fired .unheard').length", "1");
    }),
];

/// States that need WebSockets.
const SOCKETS: [Scene; 2] = [
    ("a WebSocket, with long data", "/lab#/kitchen", |page, server| {
        page.js("(q('#as').value = 'event-stream', q('#as').onchange(), q('#connect').click())");
        page.becomes("q('#state').dataset.state", "open");
        server.post("/kitchen", "long ".repeat(200));
        page.becomes("all('.fired .event').length > 1", "true");
        page.js("(q('#hex').click(), point(all('.block-end').pop()))");
    }),
    ("side by side", "/lab#/kitchen", |page, _| {
        page.becomes("q('#state').dataset.state", "open");
        page.js("q('#ways-start').click()");
        page.becomes("q('#ways-poll-heard').textContent > 1", "true");
        page.js(
            "(q('#ways-silence').textContent = word('ways-silence', { list: '' }), q('#ways-masked').hidden = false)",
        );
    }),
];

fn scenes() -> Vec<Scene> {
    let sockets = if has("websocket") { &SOCKETS[..] } else { &[] };
    [&SCENES[..], sockets].concat()
}

#[test]
fn axe_finds_nothing() {
    axe(&scenes());
}

#[test]
fn each_text_can_be_read_on_whatever_it_can_stand() {
    contrasts(&scenes());
}

#[test]
fn all_fits_and_can_be_hit_however_small_the_window_or_large_the_letters() {
    fits(&scenes());
}

#[test]
fn the_focus_can_always_be_seen() {
    focus(&scenes());
    let Some(driver) = driver() else { return };
    // A row that is reached upwards is not covered by the table's head.
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#lines"));
    page.becomes("all('.over').length", "1");
    page.size(900, 700, false);
    page.js("q('tbody').lastElementChild.focus()");
    for n in (0..page.js("q('tbody').rows.length - 1").parse().unwrap()).rev() {
        press(&page, "ArrowUp", 38);
        page.becomes("[...q('tbody').rows].indexOf(document.activeElement)", &n.to_string());
        let top = "(({ left, top }) => document.elementFromPoint(left + 20, top + 3))(document.activeElement.getBoundingClientRect())";
        page.becomes(&format!("document.activeElement.contains({top})"), "true"); // otherwise the row is covered
    }
}

#[test]
fn pictures() {
    photographed(&scenes());
}

#[test]
fn what_is_marked_by_colour_alone_is_marked_where_the_user_chooses_the_colours() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#lines"));
    page.becomes("all('.over').length", "1");
    let params = "{\"features\":[{\"name\":\"forced-colors\",\"value\":\"active\"}]}";
    page.cdp("Emulation.setEmulatedMedia", params);
    page.becomes("matchMedia('(forced-colors: active)').matches", "true");
    page.js("point(q('.dispatch').closest('tr'))");
    let marked = "['.here', '.same:not(.here)', 'tbody tr:not(.same, .here)'].map(css => { \
        const { outlineStyle, outlineColor } = getComputedStyle(q(css)); \
        return outlineStyle !== 'none' && !/^rgba/.test(outlineColor) })";
    page.becomes(marked, "true,true,false");
}

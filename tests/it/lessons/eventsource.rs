//! `static/common/eventsource.js` compared with the browser's own EventSource, in the lesson about chunks.

use crate::pages::eventsource::KINDS;
use crate::support::browser::{driver, url};
use crate::support::harness::*;

#[test]
fn an_answer_that_breaks_off_between_two_chunks_is_taken_up_as_by_the_browser() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let load =
        "document.head.append(Object.assign(document.createElement('script'), { src: '/assets/eventsource.js' }))";
    let pages = KINDS.map(|kind| {
        let page = driver.page(&url(&server, "/lessons"));
        page.js(load);
        page.becomes("typeof window.TincanEventSource", "function");
        if kind == "xhr" {
            page.js("delete Response.prototype.body");
        }
        let name = if kind == "native" { "EventSource" } else { "TincanEventSource" };
        page.js(&format!(
            "((window.told = [], window.own = new {name}('/lessons/chunks')), \
             own.onopen = own.onerror = event => told.push(event.type + own.readyState), \
             own.onmessage = event => told.push(event.data + ' ' + event.lastEventId))"
        ));
        (kind, page)
    });
    let expected = [
        "open1,this line comes in two chunks ,two events ,in one chunk 1,error0",
        "open1,and now without a last chunk 2,error0",
        "open1,back again: for an EventSource both are the same 3,error0",
    ];
    for (kind, page) in pages {
        page.becomes("told.slice(0, 11)", &expected.join(","));
        page.js("own.close()");
        assert_eq!(page.js("own.readyState"), "2", "{kind}");
    }
}

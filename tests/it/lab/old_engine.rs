//! The lab in browsers of 2021 and 2022.

use crate::pages::old_engine::*;
use crate::support::browser::url;
use crate::support::harness::*;
use crate::support::wings::has;

#[test]
fn old_browsers_play_lessons_and_ways() {
    if !has("websocket") {
        return;
    }
    for path in engines() {
        let server = Tincan::start(&[]);
        let mut page = Engine::start(&path, "zh-CN");
        page.open(&url(&server, "/lab"));
        page.becomes("q('#lesson').hidden + ' ' + document.title", "false 字节实验室 · tincan");
        page.becomes("q('#wire').textContent.includes('onmessage')", "true");
        page.becomes("q('#wire tbody tr').getAttribute('role')", "row");
        // Rows that belong together are marked.
        page.js("point(q('#wire tbody').lastElementChild)");
        page.becomes("/^rgba\\(0, 0, 0, 0\\)$/.test(getComputedStyle(q('tr.here')).backgroundColor)", "false");
        page.js("q('#what').value = '', q('#what').onchange()");
        page.becomes("q('#publish').hidden", "false");
        page.js("connect()");
        page.becomes(STATE, "open");
        page.js("q('#data').value = 'soup', q('#publish').requestSubmit()");
        page.becomes("q('#wire tbody').textContent.includes('data \"soup\"')", "true");
        page.js("q('#ways-start').click()");
        page.becomes(
            "['poll', 'long', 'stream', 'websocket'].every(way => q(`#ways-${way}-heard`).textContent >= 1)",
            "true",
        );
        page.becomes("/^正在频道 \\/[\\w-]+ 上运行。$/.test(q('#ways-state').textContent.trim())", "true");
        page.js("q('#ways-start').click()");
        page.is_content("");
    }
}

#[test]
fn scripts_and_style_sheets_use_nothing_that_is_too_young() {
    nothing_is_too_young(&["lab"]);
}

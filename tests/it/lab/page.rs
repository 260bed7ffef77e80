//! The wire lab's page in a real Chromium: the rows that it shows for the bytes on the wire.

use crate::support::browser::{Page, TAB, driver, string, url};
use crate::support::harness::*;
use crate::support::websocket::*;
use crate::support::wings::has;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tincan::wings::lessons::script::{LESSONS, languages};
use tincan::wire::event::json;

/// The rows of the table, except those of chunks. Each is a text with its bytes, the step of the algorithm, and the
/// fired event.
const ROWS: &str = "all('tbody .row:not(.framing)').map(row => [row.querySelector('code')?.textContent,
    ...[...row.cells].slice(1).map(cell => [...cell.childNodes].map(node => node.textContent).join('/'))].join(' | '))";
const SOUP: &str = "data: soup␊ | data/ /soup/appended to the data buffer, with a line feed | ";

/// Opens the lab on a channel, and returns when its EventSource is open.
fn on_channel(page: &Page, server: &Tincan, channel: &str) {
    page.open("about:blank"); // a URL that differs only in its fragment would not load the page
    page.open(&url(server, &format!("/lab#/{channel}")));
    page.becomes("q('#state').dataset.state", "open");
    page.becomes("all('.fired .open').length", "1");
}

/// Returns how a text is displayed in the left column.
fn visible(bytes: &str) -> String {
    let picture = |c: char| match c {
        '\u{feff}' => "⟨EF BB BF⟩".into(),
        c if c < ' ' => char::from_u32(0x2400 + c as u32).unwrap().to_string(),
        c => c.to_string(),
    };
    bytes.chars().map(picture).collect()
}

#[test]
fn the_picture_of_the_lab_is_of_this_page() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    page.size(1100, 690, false);
    on_channel(&page, &server, "kitchen");
    server.post("/kitchen", "soup is ready");
    page.becomes(&format!("{ROWS}.filter(row => row.includes('fire “message”')).length"), "1");
    page.picture("static/lab/lab.png", 1100, 690);
}

#[test]
fn the_lab_sets_bytes_algorithm_and_eventsource_beside_each_other() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--retry", "200"]);
    let page = driver.page(&url(&server, "/lab"));
    on_channel(&page, &server, "kitchen");
    let id = server.post("/kitchen", "soup").remove(0);
    let last = |n: usize| format!("{ROWS}.slice(-{n}).join('\\n')");
    let fired = |handler: &str, data: &str, id: &str| format!("{handler}\ndata \"{data}\"\nlastEventId \"{id}\"");
    let id_row =
        |id: &str| format!("id: {id}␊ | id/ /{id}/into the last event ID buffer; takes effect at the blank line | ");
    let received = fired("onmessage", "soup", &id);
    page.becomes(&last(3), &format!("{SOUP}\n{}\n␊ | blank line: fire “message” | {received}", id_row(&id)));
    // An event whose type has no listener is not fired.
    page.js("(q('#event').value = 'stew', q('#data').value = 'two\\nlines', q('#send').click())");
    page.becomes(
        &format!("{ROWS}.findLast(row => row.includes('fire “stew”'))"),
        "␊ | blank line: fire “stew” | no listener for “stew”: the page does not receive it",
    );
    assert_eq!(page.text("#sent"), "This page has no listener for “stew”.");
    // The page shows exactly those bytes of its two connections that the tap has. (In the tap, the response to a POST
    // comes after the event.)
    let (mut bytes, mut shown) = (String::new(), String::new());
    eventually("the page shows all bytes of the tap", || {
        let tap = server.get(&format!("/lab/{}?wait=0&since=all", page.js("key"))).text();
        let pieces = tap.lines().filter_map(|line| line.strip_prefix("data: "));
        let pieces = pieces.filter(|data| data.contains("\"bytes\":")).map(|data| string(data, "\"bytes\":"));
        bytes = String::from_utf8(pieces.flat_map(|text| text.chars().map(|c| c as u8).collect::<Vec<_>>()).collect())
            .unwrap();
        shown = page.js("all('.bytes code:first-child').map(code => code.textContent).join('')");
        bytes.contains("\r\n\r\ntwo\nlines") && shown == visible(&bytes)
    });
    assert!(bytes.starts_with("GET /kitchen?tap="), "{bytes}");
    assert_eq!(page.console(), [""; 0]);
}

#[test]
fn the_plug_is_pulled_and_the_eventsource_comes_back_with_its_last_event_id() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--retry", "200"]);
    let page = driver.page(&url(&server, "/lab"));
    on_channel(&page, &server, "kitchen");
    let id = server.post("/kitchen", "before").remove(0);
    page.becomes("all('.fired .event').length", "1");
    page.js("q('#plug').click()");
    page.becomes("all('.fired .error').length + ' ' + all('.fired .open').length", "1 2");
    let ended = "all('.ended').map(row => [...row.cells].map(c => c.textContent).join(' | ').replace(/^\\S+/, ''))[0]";
    let cut = "The last chunk is missing: the response was cut off.";
    let error = "onerror\nreadyState 0: it reconnects by itself";
    page.becomes(ended, &format!(" s · connection 1 has ended {cut} | {error}"));
    page.becomes(
        &format!("{ROWS}.filter(row => row.startsWith('Last-Event-ID')).join()"),
        &format!("Last-Event-ID: {id}␍␊ | field line/the ID of the last event that the client received | "),
    );
    server.post("/kitchen", "after");
    page.becomes("all('.fired .event').at(-1).textContent.split('\\n')[1]", "data \"after\"");
    page.js("q('#disconnect').click()");
    page.becomes(
        "q('#state').textContent + all('.ended').at(-1).textContent",
        "closedclose() was called: readyState 2",
    );
    eventually("all streams have ended", || server.readers("kitchen") == 0);
}

#[test]
fn a_lesson_in_the_lab_shows_its_bytes_and_what_came_of_each() {
    let Some(driver) = driver() else { return };
    let page = driver.chromium("en", "normal");
    // All lessons are played at the same time, each by its own server: a browser opens six connections to one server.
    let names = [
        "first-event",
        "one-space",
        "line-ends",
        "byte-order-mark",
        "nul-in-id",
        "fresh-start",
        "unavailable",
        "pause",
    ];
    let play = |name| {
        let server = Tincan::start(&[]);
        let tab = page.tab();
        page.open(&url(&server, &format!("/lab#{name}")));
        (name, server, tab)
    };
    let played = names.map(play);
    for (name, _server, tab) in &played {
        page.turn_to(tab);
        page.becomes("q('#what').options.length", &(LESSONS.len() + 1).to_string());
        let lesson = LESSONS.iter().find(|lesson| lesson.name == *name).unwrap();
        page.becomes(
            "q('#lesson-title').textContent",
            tincan::wings::lessons::script::comment(lesson.text, "lesson").unwrap(),
        );
        match *name {
            "pause" => {
                page.becomes("all('.over').length && source.readyState", "2");
                page.becomes("all('.fired .event').length", "6");
            }
            name => shows(&page, name, lesson.text),
        }
    }
}

/// Waits until a lesson is over, and compares its table with its file.
fn shows(page: &Page, name: &str, text: &str) {
    page.becomes("source?.readyState + ' ' + all('.over, .fired .failed').length", "2 1");
    // How the stream differs from its file.
    let unlike = [("{CR}", "\r"), ("{NUL}", "\0"), ("{BOM}", "\u{feff}"), ("{wait 1 s}", ""), ("{last-event-id}", "")];
    let part = languages(text).0.split(": when ").next().unwrap();
    let sent = unlike.iter().fold(part.to_string(), |sent, (word, bytes)| sent.replace(word, bytes));
    let out = "all('tbody .row.out:not(.framing)').map(row => row.querySelector('code').textContent).join('')";
    let shown = page.js(out);
    let body = shown.split_once("␍␊␍␊").unwrap().1;
    assert!(body.starts_with(&visible(&sent)), "{name}: {body}\n{}", visible(&sent));
    // The events of the algorithm are those that the browser fired.
    let both = "[...all('.dispatch').map(step => /“(.*)”/.exec(step.textContent)[1]), '-',
        ...all('.fired .event').map(event => event.textContent.split('\\n')[0].replace('on', ''))].join()";
    let both = page.js(both);
    let (algorithm, browser) = both.split_once(",-,").unwrap_or(("", ""));
    assert_eq!(algorithm, browser, "{name}");
    assert_eq!(algorithm.is_empty(), name == "unavailable", "{name}");
    // The algorithm's column makes invisible characters visible too, within the line.
    let special = match name {
        "byte-order-mark" => "BOM EF BB BF",
        "nul-in-id" => "NUL",
        _ => "",
    };
    assert_eq!(page.js("all('.steps .control').map(mark => mark.dataset.name).join()"), special, "{name}");
    let inside = "all('.steps :is(b, q) span').every(span => getComputedStyle(span).display === 'inline')";
    assert_eq!(page.js(inside), "true", "{name}");
    if name == "fresh-start" {
        // If Chromium deviates from the specification, the table shows both.
        let second = "notes.get(all('.dispatch')[1].closest('tr')).state.lastEventId";
        assert_eq!(
            page.js(&format!("[{second}, all('.fired .event')[1].textContent.split('\\n')[2]].join()")),
            ",lastEventId \"5\""
        );
    }
}

/// The lines of chunks: their bytes, and the notes on them.
const CHUNKS: &str =
    "all('tbody .framing').map(row => [...row.cells].map(cell => cell.firstChild?.textContent).join(' '))";

#[test]
fn chunks_in_the_lab_are_shown_as_what_frames_the_stream_and_not_as_its_lines() {
    let Some(driver) = driver() else { return };
    for (language, sized, end, last, over, missing) in [
        (
            "en",
            "HTTP: a chunk of 31 bytes",
            "HTTP: end of the chunk",
            "HTTP: the last chunk, of size 0",
            "HTTP: end of the body",
            "The last chunk is missing: the response was cut off.",
        ),
        (
            "zh",
            "HTTP：一个 31 字节的分块",
            "HTTP：分块结束",
            "HTTP：最后一个分块，大小为 0",
            "HTTP：消息体结束",
            "缺少最后一个分块：响应被切断。",
        ),
    ] {
        let server = Tincan::start(&[]);
        let page = driver.chromium(language, "normal");
        page.open(&url(&server, "/lab#chunks"));
        page.becomes("all('.over').length", "1"); // after four connections the lesson is over
        let rows = page.js(&format!("{CHUNKS}.slice(2, 10).map(text => text.trim()).join('\\n')"));
        let sizes = [sized.to_string(), sized.replace("31", "6"), sized.replace("31", "44")];
        let expected = [("1f", 0), ("6", 1), ("2c", 2)].map(|(size, n)| format!("{size}␍␊ {}\n␍␊ {end}", sizes[n]));
        assert!(rows.starts_with(&expected.join("\n")), "{rows}");
        // The stream's lines are complete, wherever a chunk ends, and its events are at their places.
        let whole = "all('.dispatch').slice(0, 3).map(step => step.closest('tr').cells[2].textContent.split('\\n')[1])";
        page.becomes(
            &format!("{whole}.join()"),
            "data \"this line comes in two chunks\",data \"two events\",data \"in one chunk\"",
        );
        assert_eq!(
            page.js("all('tbody tr').filter(row => /ignored: unknown field|未知的字段/.test(row.textContent)).length"),
            "0"
        );
        // The connections end with the last chunk, without it, and with it again.
        let ends = "all('.ended:not(.over)').map(row => [row.previousElementSibling.cells[1].textContent, \
            row.querySelector('small')?.textContent ?? ''].join(' ').trim()).slice(0, 3).join('\\n')";
        assert_eq!(page.js(ends), format!("{over}\n{end} {missing}\n{over}"));
        assert_eq!(page.js(&format!("{CHUNKS}.filter(text => text.startsWith('0␍␊ {last}')).length")), "3");
        // The buffers show their state at this moment, and no part of the stream belongs to such a row.
        let row = "all('tbody .framing')[3]"; // after half a line
        page.js(&format!("{row}.dispatchEvent(new MouseEvent('mouseover', {{ bubbles: true }}))"));
        assert_eq!(page.js("all('.same').length + ' ' + all('.here').length"), "0 1");
        let faint = "(row => getComputedStyle(row.cells[0].firstChild).color === getComputedStyle(row.cells[1]).color)";
        assert_eq!(page.js(&format!("{faint}({row})")), "true", "the row is fainter than the stream");
        // The browser's message about a response that was cut off.
        let console = page.console();
        assert!(console.iter().all(|line| line.contains("ERR_INCOMPLETE_CHUNKED_ENCODING")), "{console:?}");
    }
}

#[test]
fn chunks_are_read_wherever_they_and_their_pieces_are_cut() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    on_channel(&page, &server, "kitchen");
    let stream = "id:1\ndata:\u{6c64}\r\n\r\n:ping\n\nevent:message\rdata:a\r\r\n".as_bytes();
    let head = |n: usize, more: &str| {
        let response = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{more}\r\n");
        tap_event("in", n, b"GET / HTTP/1.1\r\n\r\n") + "," + &tap_event("out", n, response.as_bytes())
    };
    // The steps of the algorithm, and all text that is no chunk framing.
    let steps = "all('tbody .out:not(.framing) .steps').filter(cell => cell.children.length && !/^field/.test(cell.textContent)).map(cell => cell.textContent).join('\\n')";
    let text = "all('tbody .row.out:not(.framing) code:first-child').map(code => code.textContent).join('')";
    let play = |all: String| {
        page.js("body.replaceChildren()");
        page.js(&format!("[{all}].forEach(receiveTap)"));
        assert_eq!(page.js("all('.fired .failed').length"), "0");
        (page.js(steps), page.js(text))
    };
    let (plain, _) = play(head(900, "") + "," + &tap_event("out", 900, stream));
    assert_eq!(plain.matches("fire “message”").count(), 2, "{plain}");
    for n in 1..stream.len() {
        let (a, b) = stream.split_at(n);
        let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        let bytes = [chunk(a), chunk(b), b"0\r\n\r\n".to_vec()].concat();
        // In one piece; in two pieces; or each byte by itself.
        let cut = n * bytes.len() / stream.len();
        let pieces: Vec<&[u8]> = match n % 3 {
            0 => vec![&bytes],
            1 => vec![&bytes[..cut], &bytes[cut..]],
            _ => bytes.chunks(1).collect(),
        };
        let pieces: Vec<String> = pieces.into_iter().map(|piece| tap_event("out", 900 + n, piece)).collect();
        let (got, shown) = play(head(900 + n, "Transfer-Encoding: chunked\r\n") + "," + &pieces.join(","));
        assert_eq!(got, plain, "{n}");
        let shown = shown.replace("⟨E6⟩⟨B1⟩⟨A4⟩", "\u{6c64}"); // a character that is cut is displayed as bytes
        assert_eq!(shown.split_once("␍␊␍␊").unwrap().1, visible(str::from_utf8(stream).unwrap()), "{n}");
        assert!(page.js(&format!("{CHUNKS}.at(-1)")).contains("␊ HTTP: end of the body"), "{n}");
    }
    // Bytes that the tap lost. If they end inside the chunk, the body goes on. If they end after it, the next visible
    // chunk size counts.
    let lost = |n: usize| format!("{{ type: 'lost', data: '{{\"connection\":1000,\"at\":1,\"bytes\":{n}}}' }}");
    let all = [
        head(1000, "Transfer-Encoding: chunked\r\n"),
        tap_event("out", 1000, b"20\r\ndata:a\n"),
        lost(20),
        tap_event("out", 1000, b"bcd\n\n\r\n40\r\n:e\n"),
        lost(1000),
        tap_event("out", 1000, b"f\n\n\r\n5\r\n:gh\n\n\r\n0\r\n\r\n"),
    ];
    let (_, shown) = play(all.join(","));
    assert!(shown.ends_with("␍␊␍␊data:a␊bcd␊␊:e␊:gh␊␊"), "{shown}");
    let sizes = [
        "␍␊ HTTP: end of the chunk",
        "40␍␊ HTTP: a chunk of 64 bytes",
        "f␊ body or framing: the lab cannot tell which",
    ];
    let other_lines = [
        "␊ body or framing: the lab cannot tell which",
        "␍␊ body or framing: the lab cannot tell which",
        "5␍␊ HTTP: a chunk of 5 bytes",
    ];
    let rows = page.js(&format!("{CHUNKS}.map(text => text.trim()).join('\\n')"));
    assert!(rows.contains(&[sizes, other_lines].concat().join("\n")), "{rows}");
}

#[test]
fn what_a_tap_lost_is_shown() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    for (language, shown) in [
        ("en", "connection 1 · 1234 bytes are missing here: too much was sent for the lab to record it"),
        ("zh", "连接 1 · 此处缺少 1234 字节：数据太多，实验室来不及记录"),
    ] {
        let server = Tincan::start(&[]);
        let page = driver.chromium(language, "normal");
        page.open(&url(&server, "/lab"));
        on_channel(&page, &server, "kitchen");
        page.js("tap.dispatchEvent(new MessageEvent('lost', { data: `{\"connection\":${[...connections.keys()][0]},\"at\":1,\"bytes\":1234}` }))");
        page.becomes("all('.ended').at(-1).textContent", shown);
        assert_eq!(page.console(), [""; 0]);
    }
}

/// Returns bytes in the tap as an event for the page's script.
fn tap_event(way: &str, n: usize, bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|b| char::from(*b)).collect();
    let data = format!("{{\"connection\":{n},\"at\":1,\"bytes\":{}}}", json(&text));
    format!("{{ type: '{way}', data: {} }}", json(&data))
}

/// Quotes as JSON.stringify does.
fn quoted(text: &str) -> String {
    json(text).replace("\\u000a", "\\n")
}

/// Opens the lab on a channel with a WebSocket.
fn on_socket(page: &Page, server: &Tincan, channel: &str, kind: &str) {
    on_channel(page, server, channel);
    page.js(&format!("(e => {{ e.value = '{kind}'; e.dispatchEvent(new Event('change')) }})(q('#as'))"));
    assert_eq!(page.js("q('#state').dataset.state + all('tbody#wire tr').length"), "closed0");
    page.js("q('#connect').click()");
    page.becomes("q('#state').dataset.state + all('.fired .open').length", "open1");
}

/// Returns the left column for frames: each part of a frame is a row.
fn frames(mut rest: &[u8]) -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(" ");
    let mut rows = Vec::new();
    while let [first, second, ..] = *rest {
        rows.push(format!("{first:02X} = {:b} {:03b} {:04b}", first >> 7, first >> 4 & 7, first & 15));
        rows.push(format!("{second:02X} = {:b} {:07b}", second >> 7, second & 127));
        let (more, key) = (
            match second & 127 {
                126 => 2,
                127 => 8,
                _ => 0,
            },
            if second >> 7 == 1 { 4 } else { 0 },
        );
        let length = match more {
            0 => usize::from(second & 127),
            _ => rest[2..2 + more].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        };
        let (longer, tail) = rest[2..].split_at(more);
        let (mask, tail) = tail.split_at(key);
        let (payload, tail) = tail.split_at(length);
        rows.extend([longer, mask].iter().filter(|part| !part.is_empty()).map(|part| hex(part)));
        if length > 0 {
            rows.push(if key == 0 && first & 15 < 8 {
                visible(str::from_utf8(payload).unwrap())
            } else {
                hex(payload)
            });
        }
        rest = tail;
    }
    rows
}

#[test]
fn a_websocket_in_the_lab_is_shown_part_by_part_of_its_frames() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--heartbeat", "2"]);
    let page = driver.page(&url(&server, "/lab"));
    on_socket(&page, &server, "kitchen", "WebSocket");
    server.post("/kitchen", "soup");
    let head = "FIN 1: the message ends with this frame/RSV1 to RSV3: 0, because no extension uses them";
    let soup = [
        &format!("81 = 1 000 0001 | {head}/opcode 1: text frame | "),
        "04 = 0 0000100 | MASK 0: not masked, like every frame from a server/payload length: 4 bytes | ",
        "soup | payload data/message received: fire “message” | onmessage\ndata \"soup\"",
    ];
    page.becomes(&format!("{ROWS}.slice(-3).join('\\n')"), &soup.join("\n"));
    // The page sends its message over the same connection, masked. The server sends the message back too.
    let message = format!("two\nlines, é {}", "long ".repeat(60));
    page.js(&format!("(q('#data').value = {}, q('#send').click())", json(&message)));
    page.becomes("all('.fired .event').at(-1)?.textContent", &format!("onmessage\ndata {}", quoted(&message)));
    assert_eq!(page.js("q('.steps q').textContent"), visible(&message));
    assert_eq!(page.js("all('.fired .new').at(-1).textContent"), format!("send({})", quoted(&message)));
    // A Ping frame, and the response to it.
    page.becomes("all('.in .dispatch').at(-1).textContent", "the response to the Ping: the client is still there");
    page.js("q('#disconnect').click()");
    page.becomes("all('.ended .fired').length", "1");
    page.becomes(
        "all('.fired .failed, .fired .new').slice(-2).map(e => e.textContent).join()",
        "close(1000),onclose\ncode 1000\nreason \"\"\nwasClean true\nreadyState 3",
    );
    page.becomes("all('.ended').at(-1).textContent.split('.')[0]", "A WebSocket does not reconnect by itself");
    assert_eq!(page.js("source.readyState + q('#state').textContent + q('#disconnect').disabled"), "3closedtrue");
    // Each byte of the tap is displayed with its meaning, and no other bytes are.
    let tap = server.get(&format!("/lab/{}?wait=0&since=all", page.js("key"))).text();
    let mut ways = [Vec::new(), Vec::new()];
    for block in tap.split("\n\n").filter(|block| block.contains("\"bytes\":")) {
        let bytes = string(block, "\"bytes\":").chars().map(|c| c as u8).collect::<Vec<_>>();
        ways[usize::from(block.starts_with("event: out\n"))].extend(bytes);
    }
    for (way, bytes) in ["in", "out"].iter().zip(&ways) {
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
        let parts: Vec<String> = head.split_inclusive('\n').map(visible).chain(frames(&bytes[at..])).collect();
        let shown = page.js(&format!("all('.{way} code:first-child').map(code => code.textContent).join('\\n')"));
        assert_eq!(shown, parts.join("\n"), "{way}");
        assert!(parts.iter().any(|part| part.starts_with("88 = 1 000 1000")), "{parts:?}");
    }
    assert_eq!(page.console(), [""; 0]);
}

#[test]
fn frames_are_read_wherever_they_are_cut() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    on_socket(&page, &server, "kitchen", "event-stream");
    // A message in two frames, with a Ping between them.
    let mut out = b"\x01\x04so\xc3\xa9\x89\x02hi\x80\x02\np".to_vec();
    out.extend(served(0x81, "stew, ".repeat(50)));
    out.extend(served(0x81, "bread".repeat(13_200)));
    out.extend(served(0x81, ""));
    out.extend(served(0x88, b"\x03\xe9bye"));
    out.extend(served(0x88, ""));
    // For each part, in one row or several: its bytes, the note on it, and the number of the rows that belong
    // together.
    let parts = "((parts, text) => { for (const row of all('tbody .row.out')) {
        const [code, steps] = [row.querySelector('code').textContent, row.cells[1].textContent];
        text += (text && / = /.test(code + text) ? '!' : text && /^[0-9A-F]{2}( [0-9A-F]{2})*$/.test(code) ? ' ' : '') + code;
        if (steps === 'the rest is in the next piece') continue;
        parts.push([text, steps, notes.get(row).block.split('.')[1]].join(' | '));
        text = '';
    } return parts.join('\\n'); })([], '')";
    let mut expected = String::new();
    // All at once; in small pieces that cut each part of a frame; in large ones.
    for (n, (fine, large)) in [(0, out.len()), (250, out.len()), (0, 4093)].into_iter().enumerate() {
        // The table is hidden: its layout would take long, and is not tested.
        page.js("(body.replaceChildren(), q('#wire').style.display = 'none')");
        let heads = [
            tap_event("in", 900 + n, b"GET / HTTP/1.1\r\n\r\n"),
            tap_event("out", 900 + n, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ];
        let (begin, rest) = out.split_at(fine);
        let pieces = begin.chunks(1).chain(rest.chunks(large)).map(|piece| tap_event("out", 900 + n, piece));
        let all: Vec<String> = heads.into_iter().chain(pieces).collect();
        page.js(&format!("[{}].forEach(receiveTap)", all.join(",")));
        let got = page.js(parts).replace("⟨C3⟩⟨A9⟩", "é"); // a character that is cut is displayed as bytes
        if n == 0 {
            expected = got;
        } else {
            assert!(got == expected, "{n}: {:?}", got.lines().zip(expected.lines()).find(|(a, b)| a != b));
        }
    }
    let line = |bytes: &str| {
        expected.lines().find(|line| line.starts_with(bytes)).unwrap_or_else(|| panic!("{bytes}: {expected}"))
    };
    assert!(line("soé").ends_with("payload data | 4"), "{}", line("soé"));
    assert!(line("hi").ends_with("the browser responds with a Pong; the page does not notice | 5"), "{}", line("hi"));
    assert!(line("␊p").ends_with("fire “message” | 4"), "{}", line("␊p"));
    assert!(line("01 2C").ends_with("extended payload length: 300 bytes | 7"), "{}", line("01 2C"));
    assert!(line("00 00 00 00 00 01 01 D0 | extended payload length: 66000 bytes").ends_with('8'));
    assert!(line("00 = 0 0000000").contains("fire “message”"), "an empty message");
    assert!(line("03 E9 62 79 65").contains("status code 1001, reason \"bye\""), "{}", line("03 E9"));
    assert!(expected.contains("no status code"));
}

#[test]
fn a_websocket_in_the_lab_does_not_come_back_and_says_why_it_ended() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--max-body", "1K"]);
    let page = driver.page(&url(&server, "/lab"));
    on_socket(&page, &server, "kitchen", "event-stream");
    let ids = server.post("/kitchen", "soup");
    let block = format!("onmessage\ndata {}", quoted(&format!("data: soup\nid: {}\n\n", ids[0])));
    page.becomes("all('.fired .event').at(-1)?.textContent", &block);
    assert_eq!(page.js("['types-field', 'event-field', 'as-field'].map(id => q(`#${id}`).hidden)"), "true,true,false");
    assert_eq!(
        page.js("all('#buffers div:not([hidden])').map(e => e.lastChild.textContent)"),
        "event-stream,empty,1·OPEN".replace('·', " ")
    );
    let line = format!("new WebSocket(\"ws://127.0.0.1:{}/kitchen\", \"event-stream\")", server.port);
    assert_eq!(page.text("#curl"), line);
    let closed = |code: u16, reason: &str, clean: bool| {
        let fired = format!("onclose\ncode {code}\nreason {}\nwasClean {clean}\nreadyState 3", json(reason));
        page.becomes("all('.fired .failed').at(-1)?.textContent", &fired);
        page.becomes("all('.ended').length + ' ' + all('.ended .failed').length", "2 1");
    };
    page.js("q('#plug').click()");
    closed(1006, "", false);
    // After the close the form publishes with a POST.
    page.js("q('#send').click()");
    eventually("the form has published", || {
        server.get("/kitchen?wait=0&since=all").text().contains("\ndata: soup is ready\n")
    });
    // From the last id; the same again while that connection is open; and then a message that is too long.
    for _ in 0..2 {
        page.js(&format!("(q('#since').value = '{}', q('#connect').click())", ids[0]));
        page.becomes("all('.fired .event').at(-1)?.textContent.includes('soup is ready')", "true");
    }
    page.js("(q('#data').value = 'long '.repeat(300), q('#send').click())");
    let mut other = Ws::open(&server, "/other");
    other.send(text("x".repeat(1500)));
    closed(1009, str::from_utf8(&other.frame().unwrap().1[2..]).unwrap(), true);
    assert_eq!(page.js("all('.fired .failed').length"), "1", "events of the connection before are not in this table");
    // A handshake that is refused.
    page.js("(q('#since').value = 'nonsense', q('#connect').click())");
    page.becomes("all('.fired .failed, .fired .error').length", "2");
    page.becomes("/400, not 101/.test(q('#wire').textContent)", "true");
    assert_eq!(page.js("source.readyState"), "3");
    page.js("(q('#what').value = 'named', q('#what').onchange())");
    page.becomes("q('#as-field').hidden + ' ' + all('.fired .open').length", "true 1");
    assert_eq!(page.js("all('thead b')[2].textContent"), "EventSource");
    let upgrades = server.stderr().matches(" 101 ").count() + server.stderr().matches(" 101\n").count();
    assert_eq!(upgrades, 4, "three of them from the page: {}", server.stderr());
}

#[test]
fn the_table_is_walked_with_the_arrow_keys_and_shows_the_buffers_as_they_were() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#lines"));
    page.becomes("all('.over').length", "1");
    let now = "['data', 'type', 'id'].map(name => q(`#buffer-${name}`).textContent).join()";
    assert_eq!(page.js(now), "empty,empty,empty");
    page.js("q('#scroll').focus()");
    page.keys("#scroll", TAB); // the whole table is one stop of the Tab key
    assert_eq!(page.js("document.activeElement === q('tbody tr')"), "true");
    let steps = page.js("all('tbody tr').findIndex(row => row.textContent.startsWith('data: second'))");
    page.keys("tbody tr:focus", &"\u{e015}".repeat(steps.parse().unwrap())); // WebDriver: arrow down
    assert_eq!(page.js("document.activeElement.cells[0].textContent.slice(0, 12)"), "data: second");
    assert_eq!(page.js(now), "first␊second␊,empty,empty");
    let marked =
        "all('.same').map(row => row.querySelector('code').textContent).filter(line => line[0] !== ':').join()";
    assert_eq!(page.js(marked), "data: first␊,data: second␊,data:␊,data: fourth␊,␊");
    page.keys("tbody tr:focus", "\u{e010}"); // end
    assert_eq!(page.js("document.activeElement === q('tbody').lastElementChild"), "true");
}

#[test]
fn the_table_and_the_buffers_keep_up_with_what_comes() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    page.size(900, 700, false); // narrow, so that each step has several lines
    let below = "Math.round(q('#scroll').scrollHeight - q('#scroll').clientHeight - q('#scroll').scrollTop)";
    let id = "q('#buffer-lastEventId').textContent";
    on_channel(&page, &server, "kitchen");
    for n in 1..=4 {
        let last_id = server.post("/kitchen", format!("soup {n}")).remove(0);
        page.becomes(&format!("all('.fired .event').length + ' ' + {id}"), &format!("{n} {last_id}"));
        // The page scrolls in one of these frames.
        page.js(&format!("requestAnimationFrame(() => requestAnimationFrame(() => window.seen = {n}))"));
        page.becomes("window.seen", &n.to_string());
        assert_eq!(page.js(below), "0");
    }
    // The table keeps the row under the mouse, and does not scroll for a user who has scrolled up.
    page.js("all('.block-end')[0].dispatchEvent(new MouseEvent('mouseover', { bubbles: true }))");
    let then = page.js(id);
    page.js("q('#scroll').scrollTop = 0");
    page.becomes("following", "false");
    server.post("/kitchen", "more");
    page.becomes("all('.fired .event').length", "5");
    assert_eq!(page.js(&format!("{id} + ' ' + q('#scroll').scrollTop")), format!("{then} 0"));
}

#[test]
fn events_named_open_and_error_are_taken_for_what_they_are() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    on_channel(&page, &server, "kitchen");
    for name in ["error", "open"] {
        server.post(&format!("/kitchen?event={name}"), "soup");
        let last = format!("{ROWS}.at(-1).split('\\n').slice(0, 2).join()");
        page.becomes(&last, &format!("␊ | blank line: fire “{name}” | on{name},data \"soup\""));
    }
    // Neither the ways side by side nor the chat page takes such an event for a lost connection.
    let received = "Number(q('#ways-stream-heard').textContent)";
    let channel = page.text("#ways-start").replace("Start in ", "");
    page.js("q('#ways-start').click()");
    page.becomes(&format!("{received} > 0"), "true");
    server.post(&format!("{channel}?event=error"), "soup");
    let before = page.js(received);
    page.becomes(&format!("{received} > {before}"), "true");
    assert_eq!(page.text("#ways-state").trim_end(), format!("Running on {channel}."));
    page.open(&url(&server, "/chat"));
    page.is_open();
    server.post("/chat?event=error", "soup");
    server.post("/chat", "received after it");
    page.shows(&["plain|received after it"]);
    page.is_open();
}

#[test]
fn a_lesson_comes_whatever_the_lesson_of_the_six_connections_holds() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#six-connections"));
    page.becomes("source?.readyState", "1");
    page.js("Array.from({ length: 7 }, () => q('#more button').click()).length");
    page.becomes("q('#more output').textContent", "4 open, 3 waiting; the lab itself uses two more connections");
    // Another fragment loads its lesson.
    page.js("location.hash = '#one-space'");
    page.becomes("q('#lesson-title').textContent + source?.readyState", "One space after the colon1");
}

#[test]
fn where_the_browser_is_stricter_than_the_specification_the_failure_stands_at_the_head() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#wrong-charset"));
    page.becomes(
        &format!("{ROWS}.find(row => row.includes('onerror'))"),
        "␍␊ | end of the head | onerror\nreadyState 2: it does not reconnect",
    );
}

#[test]
fn what_curl_would_do_is_written_so_that_a_shell_reads_it() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    on_channel(&page, &server, "kitchen");
    let type_in = |id: &str, text: &str| {
        page.js(&format!("(q('#{id}').value = {}, q('#{id}').dispatchEvent(new Event('input')))", json(text)))
    };
    let typed = "it's \"$HOME\" `ls`\nand\\n é";
    type_in("data", typed);
    type_in("event", "a b");
    type_in("since", "7-1");
    assert_eq!(page.text("#curl"), format!("curl -N -H 'Last-Event-ID: 7-1' {}", url(&server, "/kitchen")));
    let run = |line: String| std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
    let id = String::from_utf8(run(page.text("#curl-say").replacen("curl", "curl -s", 1)).stdout).unwrap();
    let received = server.get("/kitchen?wait=0&since=all").text();
    let data = typed.replace('\n', "\ndata: ");
    assert!(received.ends_with(&format!("event: a b\ndata: {data}\nid: {}\n\n", id.trim_end())), "{received}");
    // The text of a link is not displayed as a command.
    page.open("about:blank");
    page.open(&url(&server, "/lab#/kitchen;id"));
    page.becomes("/^“\\/kitchen;id” is not the name of a channel/.test(q('#unknown').textContent)", "true");
    assert!(!page.js("all('code').map(code => code.textContent).join()").contains(";id"));
    on_channel(&page, &server, "kitchen");
    type_in("since", "7-1");
    // The start that is typed goes into the URL, and the gap event is fired.
    page.js("q('#connect').click()");
    page.becomes("all('.fired .event')[0]?.textContent.split('\\n')[0]", "addEventListener('gap')");
}

#[test]
fn the_lab_fits_a_phone_and_speaks_chinese() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#named"));
    let shots = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from);
    for (name, width, phone, dark) in [
        ("wide", 1280, false, false),
        ("dark", 1280, false, true),
        ("phone", 390, true, false),
        ("phone-dark", 390, true, true),
    ] {
        page.size(width, 900, phone);
        let scheme = if dark { "dark" } else { "light" };
        page.cdp(
            "Emulation.setEmulatedMedia",
            &format!("{{\"features\":[{{\"name\":\"prefers-color-scheme\",\"value\":\"{scheme}\"}}]}}"),
        );
        page.open(&url(&server, "/lab#named"));
        page.becomes("all('.fired .event').length > 1", "true"); // in the middle of the lesson
        page.becomes("document.documentElement.scrollWidth <= innerWidth", "true");
        if let Some(dir) = &shots {
            std::fs::create_dir_all(dir).unwrap();
            page.shot(&dir.join(format!("lab-{name}.png")));
        }
    }
    // Frames fit as well, and the last one is visible.
    on_socket(&page, &server, "kitchen", "event-stream");
    server.post("/kitchen", "long ".repeat(500));
    page.becomes("all('.fired .event').length > 1", "true");
    page.becomes("document.documentElement.scrollWidth <= innerWidth", "true");
    page.becomes("q('#scroll').scrollHeight - q('#scroll').scrollTop - q('#scroll').clientHeight < 24", "true");
    // Every control has a name, in both languages.
    let nameless =
        "all('button, input, select, textarea, a').filter(e => !(e.textContent.trim() || e.labels?.length)).length";
    assert_eq!(page.js(nameless), "0");
}

/// The rows of the table in order, without events: the number of each new connection, the fired notifications, and
/// the ends.
const STORY: &str = "(max => all('tbody tr').flatMap(row => {
    const n = Number(/(?:connection|连接) (\\d+)/.exec(row.cells[0].textContent)?.[1]);
    const fired = [...row.querySelectorAll('.fired > span')].map(span => span.className).filter(name => name !== 'event');
    const piece = row.matches('.piece') && n > max ? [max = n] : row.matches('.piece') && n < max ? ['late' + n] : [];
    return [...piece, row.matches('.ended') ? n ? 'end' + n : 'over' : row.matches('.row:not(:has(code))') ? 'alone' : '',
        ...fired].filter(Boolean);
}).join(' '))(0)";

#[test]
fn behind_a_plug_that_was_pulled_the_story_goes_on_in_its_order_in_every_lesson_and_channel() {
    let Some(driver) = driver() else { return };
    let page = driver.chromium("en", "normal");
    let story = "1 new open end1 error 2 open end2 error 3 open";
    let play = |name: &'static str| {
        let server = Tincan::start(&["--retry", "200"]);
        let tab = page.tab();
        page.open(&url(&server, &format!("/lab#{name}")));
        page.becomes("all('.fired .open').length", "1");
        (name, server, tab)
    };
    let played = ["/kitchen", "clock", "six-connections", "fields"].map(play);
    for opened in 1..=2 {
        for (_, server, tab) in &played {
            page.turn_to(tab);
            page.becomes("all('.fired .open').length + q('#state').textContent", &format!("{opened}open"));
            server.post("/kitchen", "soup"); // an event comes
            page.js("q('#plug').click()");
        }
    }
    for (name, server, tab) in &played {
        page.turn_to(tab);
        page.becomes(&format!("{STORY}.split(' 4')[0].split(' end3')[0]"), story);
        page.becomes("q('#state').textContent", "open");
        server.post("/kitchen", "the end");
        page.becomes("q('#state').textContent", "open");
        assert_eq!(page.js("all('.over').length"), "0", "{name}: the EventSource reconnects");
        assert_eq!(page.js("/has not reported/.test(q('#wire').textContent)"), "false", "{name}");
    }
    // A lesson that ends by itself reconnects after a pulled plug, and closes only at its end.
    let server = Tincan::start(&[]);
    page.open(&url(&server, "/lab#heartbeat"));
    page.becomes("all('.fired .open').length", "1");
    page.js("q('#plug').click()");
    page.becomes(STORY, "1 new open end1 error 2 open end2 error over");
}

#[test]
fn the_lesson_of_the_reconnection_goes_on_where_it_was_round_after_round() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#reconnection"));
    let received = "all('.fired .event').map(e => e.textContent.split('\\n').slice(1).join()).join(' ')";
    let three = "data \"three, which you missed. You sent Last-Event-ID: 2\",lastEventId \"3\"";
    let all = format!(
        "data \"one\",lastEventId \"1\" data \"two\",lastEventId \"2\" {three} \
         data \"four, and the stream stays\",lastEventId \"4\""
    );
    page.becomes(received, &all);
    for round in 3..=5 {
        page.becomes("all('.fired .open').length + q('#state').textContent", &format!("{round}open"));
        page.becomes("q('#buffer-lastEventId').textContent", "4"); // the id of the connection's first block
        page.js("q('#plug').click()");
    }
    page.becomes("all('.fired .open').length", "6");
    let sent = "all('.in').map(row => /^Last-Event-ID: (\\d)/.exec(row.textContent)?.[1]).filter(Boolean).join('')";
    page.becomes(sent, "23444");
    page.becomes("all('.out').filter(row => /^: You sent Last-Event-ID: 4/.test(row.textContent)).length", "3");
    assert_eq!(page.js(received), all, "no event comes twice");
    assert_eq!(page.js("all('.over').length"), "0");
    // A lesson that sends ids and reconnects does not start from its beginning.
    for name in ["cut-id", "chunks"] {
        page.open("about:blank");
        page.open(&url(&server, &format!("/lab#{name}")));
        page.becomes("all('.over').length", "1");
        let sent = page.js(sent);
        assert_eq!((sent.len(), sent.chars().is_sorted()), (3, true), "{name}: {sent}");
        let text = page.js("q('#wire').textContent");
        assert_eq!(text.matches(": lesson: ").count(), 1, "{name}");
    }
}

#[test]
fn a_server_that_goes_away_is_told_and_forgotten_once_it_is_back() {
    let Some(driver) = driver() else { return };
    let page = driver.chromium("en", "normal");
    for name in ["/kitchen", "clock"] {
        let mut server = Tincan::start(&["--retry", "300"]);
        page.open("about:blank");
        page.open(&url(&server, &format!("/lab#{name}")));
        page.becomes("all('.fired .open').length", "1");
        page.becomes("all('.out').length > 9", "true");
        server.kill();
        let (lost, unreachable) =
            ("the connection has ended; the browser reconnects", "could not reach the server; the browser tries again");
        page.becomes(&format!("/^{lost}|{unreachable}$/.test(q('#state').textContent)"), "true");
        page.js("(q('#data').value = 'nobody hears it', q('#send').click())");
        page.becomes("q('#sent').textContent", "could not reach the server");
        page.becomes("q('#state').textContent", unreachable);
        let broken = "connection 1 is lost; the server has not reported its end | onerror\nreadyState 0: it reconnects by itself";
        let rows_without_bytes =
            "all('.row:not(:has(code))').map(row => [...row.cells].map(cell => cell.textContent).join(' | '))";
        page.becomes(&format!("{rows_without_bytes}[0]"), broken);
        page.becomes(&format!("{rows_without_bytes}.length > 1 && /^\\(/.test({rows_without_bytes}[1])"), "true");
        assert_eq!(page.js("all('.ended').length"), "0", "{name}: the lab has closed no connection");
        let server = Tincan::spawn(&format!("127.0.0.1:{}", server.port), &["--retry", "300"]);
        page.becomes("all('.fired .open').length + q('#state').textContent", "2open");
        assert_eq!(page.text("#sent"), "", "{name}");
        assert_eq!(page.js("/could not reach/.test(document.body.innerText)"), "false", "{name}");
        // The notifications are at the bytes of their own connection again.
        page.becomes(&format!("/^1 new open( alone error)+ 2 open/.test({STORY})"), "true");
        if name == "/kitchen" {
            server.post("/kitchen", "soup");
            page.becomes(&format!("{ROWS}.at(-1).split('\\n')[0]"), "␊ | blank line: fire “message” | onmessage");
        }
    }
}

/// Delays the events of the tap and of other streams by these numbers of milliseconds.
fn late(tap: u32, stream: u32) -> String {
    format!(
        "window.EventSource = class extends EventSource {{
            addEventListener(type, hear) {{
                const late = this.url.includes('/lab/') ? {tap} : {stream};
                super.addEventListener(type, event => setTimeout(hear, late, event));
            }}
            set onerror(hear) {{ this.addEventListener('error', hear); }}
            set onopen(hear) {{ this.addEventListener('open', hear); }}
        }}"
    )
}

#[test]
fn what_was_fired_stands_at_its_own_connection_whichever_is_late() {
    let Some(driver) = driver() else { return };
    for (tap, stream) in [(900, 0), (0, 900)] {
        let page = driver.chromium("en", "normal");
        page.before(&late(tap, stream));
        let server = Tincan::start(&["--retry", "300"]);
        page.open(&url(&server, "/lab#/kitchen"));
        for opened in 1..=3 {
            page.becomes("q('#state').dataset.state + all('.fired .open').length", &format!("open{opened}"));
            server.post("/kitchen", format!("soup {opened}"));
            page.becomes("all('.fired .event').length", &opened.to_string());
            if opened < 3 {
                page.js("q('#plug').click()");
            }
        }
        page.becomes(STORY, "1 new open end1 error 2 open end2 error 3 open");
        page.becomes(&format!("{ROWS}.filter(row => row.includes('onmessage')).length"), "3");
    }
}

#[test]
fn a_name_that_is_no_lesson_or_channel_plays_none() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    for (language, lesson, channel) in [
        ("en", "There is no lesson “nosuch”.", "“/bad name!” is not the name of a channel"),
        ("zh", "没有名为“nosuch”的课程", "“/bad name!”不是频道"),
    ] {
        let page = driver.chromium(language, "normal");
        for (asked, message) in [
            ("nosuch", lesson),
            ("/bad%20name!", channel),
            ("/bad name!", channel),
            ("Clock", "Clock"),
            ("/", "“/”"),
            ("/lab", "“/lab”"),
            ("/health", "“/health”"),
            ("/%E0%A4%A", "“/%E0%A4%A”"),
            (&format!("/{}", "a".repeat(65)), "aaaa"),
        ] {
            page.open("about:blank");
            page.open(&url(&server, &format!("/lab#{asked}")));
            page.becomes(&format!("q('#unknown').innerText.includes({})", json(message)), "true");
            assert_eq!(page.js("all('#unknown a').length"), LESSONS.len().to_string());
            assert_eq!(page.js("[source, key, q('#lesson').hidden, q('#state').dataset.state]"), ",,true,closed");
            assert_eq!(page.js("q('#what').selectedIndex"), "0");
        }
        page.js("all('#unknown a').find(a => a.hash === '#clock').click()");
        page.becomes("source?.readyState + ' ' + q('#unknown').hidden", "1 true");
        // A fragment of any other kind is still a lesson or a channel.
        page.js("location.hash = '/kitchen'");
        page.becomes("q('#curl').textContent", &format!("curl -N {}", url(&server, "/kitchen")));
        page.becomes("source?.readyState", "1");
        // The button that goes back plays again, and so does the button that connects. Both keep the fragment.
        page.js("location.hash = '/b+d'");
        page.becomes("q('#unknown').hidden", "false");
        page.js("history.back()");
        page.becomes("[location.hash, q('#unknown').hidden, source?.readyState]", "#/kitchen,true,1");
        page.js("location.hash = 'nosuch'");
        page.becomes("q('#unknown').hidden", "false");
        page.js("q('#connect').click()");
        page.becomes("[location.hash, q('#unknown').hidden, source?.readyState]", "#/kitchen,true,1");
        // The lesson that was chosen last is displayed, whichever file arrives first.
        page.js("window.load = (real => async path => { if (path.includes('named')) await new Promise(done => setTimeout(done, 300)); return real(path); })(load)");
        page.js("(location.hash = 'named', setTimeout(() => { location.hash = 'clock' }, 50))");
        page.becomes("q('#file').pathname", "/lessons/clock.txt");
        page.js("setTimeout(() => { window.late = true }, 500)");
        page.becomes("window.late", "true");
        let shown = page.js("[q('#file').pathname, q('#types').value.includes('connecttime')]");
        assert_eq!(shown, "/lessons/clock.txt,true");
        assert!(!server.stderr().contains("bad") && !server.stderr().contains("GET /lessons/first-event"));
    }
}

#[test]
fn each_number_has_its_noun() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    on_channel(&page, &server, "kitchen");
    let head = tap_event("in", 900, b"GET / HTTP/1.1\r\n");
    let all = format!(
        "[{head}, {}, {}, {}]",
        tap_event("in", 900, b"\r"),
        tap_event("out", 900, b"x"),
        tap_event("out", 900, b"xy")
    );
    page.js(&format!("{all}.forEach(receiveTap)"));
    let pieces = "all('.piece').slice(-4).map(row => row.textContent.replace(/.* /, '') && row.textContent.split(' · ')[2]).join()";
    assert_eq!(
        page.js(pieces),
        "the client sends 16 bytes,the client sends 1 byte,the server sends 1 byte,the server sends 2 bytes"
    );
    page.js("receiveTap({ type: 'lost', data: '{\"connection\":900,\"at\":1,\"bytes\":1}' })");
    assert!(page.js("all('.ended').at(-1).textContent").contains(" 1 byte is missing here"));
    // Each word that takes a number and a noun has a form for one.
    let without = "Object.entries(WORDS).filter(([, [text]]) => !text.includes('|') &&
        /\\{\\w+\\} (bytes|subscribers|messages|connections|seconds)/.test(text.replace('after {n} seconds', ''))).map(([key]) => key)";
    assert_eq!(page.js(without), "");
}

#[test]
fn with_a_server_that_is_not_there_at_first_the_lab_waits_for_it() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.chromium("en", "normal");
    // At first the page's requests fail.
    page.before(
        "window.gone = true; window.fetch = (real => (...all) => gone ? Promise.reject(TypeError()) : real(...all))(fetch)",
    );
    page.open(&url(&server, "/lab#named"));
    page.becomes("q('#state').textContent", "could not reach the server");
    page.js("window.gone = false");
    page.becomes("q('#state').textContent + q('#lesson-title').textContent", "openNamed events");
    assert_eq!(page.js("q('#what').options.length"), (LESSONS.len() + 1).to_string());
    page.js("window.gone = true");
    page.js("q('#next').click()");
    page.becomes("q('#state').textContent", "could not reach the server");
    page.js("window.gone = false");
    page.becomes("q('#state').textContent + q('#lesson-title').textContent", "openLines that are ignored");
    assert_eq!(page.console(), [""; 0]);
}

#[test]
fn the_lab_tells_the_truth_behind_a_server_that_ends_streams() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--max-age", "1", "--retry", "100"]);
    let page = driver.page(&url(&server, "/lab"));
    on_channel(&page, &server, "kitchen");
    page.becomes("all('.fired .open').length > 3", "true");
    let story = page.js(&format!("{STORY}.split(' 4')[0]"));
    assert_eq!(story, "1 new open end1 error 2 open end2 error 3 open end3 error");
    assert_eq!(page.js("/last chunk is missing/.test(q('#wire').textContent)"), "false");
    // No other program than the page itself has ended it.
    page.js("q('#disconnect').click()");
    page.becomes("q('.ended:last-child') && all('.ended').at(-1).textContent", "close() was called: readyState 2");
    assert_eq!(page.js("/last chunk is missing/.test(q('#wire').textContent)"), "false");
}

#[test]
fn in_the_lesson_of_the_six_connections_the_lab_counts_its_own_only_while_it_has_them() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#six-connections"));
    page.becomes("source?.readyState", "1");
    page.js("Array.from({ length: 5 }, () => q('#more button').click()).length");
    page.becomes("q('#more output').textContent", "4 open, 1 waiting; the lab itself uses two more connections");
    page.js("q('#disconnect').click()");
    page.becomes("q('#more output').textContent", "5 open, 0 waiting");
}

/// Passes bytes on, each piece with this delay. Returns its port, and a function that breaks all its connections.
fn relay(server: u16, late: Duration) -> (u16, impl Fn()) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let all = Arc::<Mutex<Vec<TcpStream>>>::default();
    let held = all.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                to.set_nodelay(true).unwrap();
                held.lock().unwrap().push(to.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(n @ 1..) = from.read(&mut bytes) {
                        std::thread::sleep(late);
                        if to.write_all(&bytes[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (port, move || all.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both))))
}

#[test]
fn behind_a_relay_that_is_slow_or_tears_its_connections_each_error_stands_at_its_own() {
    let Some(driver) = driver() else { return };
    let page = driver.chromium("en", "normal");
    for late in [0, 250] {
        let server = Tincan::start(&["--retry", "300", "--heartbeat", "1"]);
        let (port, tear) = relay(server.port, Duration::from_millis(late));
        page.open("about:blank");
        page.open(&format!("http://127.0.0.1:{port}/lab#/kitchen"));
        page.becomes("all('.fired .open').length", "1");
        page.becomes("/:ping/.test(q('#wire').textContent)", "true"); // so the tap has opened
        tear();
        page.becomes("all('.fired .open').length", "2");
        page.becomes("q('#state').textContent", "open");
        page.js("q('#plug').click()");
        page.becomes("all('.fired .open').length", "3");
        page.becomes("all('.fired .error').length", "2");
        let at = "all('.fired .error').map(e => /connection \\d/.exec(e.closest('tr').textContent)[0]).join()";
        assert_eq!(page.js(at), "connection 1,connection 2", "{late}");
        assert_eq!(page.js("/has not reported any bytes/.test(q('#wire').textContent)"), "false", "{late}");
        // The server finds out with a ping that the client of the broken connection no longer reads.
        let mut story = page.js(STORY);
        for may in [" late1", " end1", " alone", " end2"] {
            story = story.replace(may, "");
        }
        assert_eq!(story, "1 new open error 2 open error 3 open", "{late}");
    }
}

//! `static/common/eventsource.js` compared with the browser's own EventSource, in a real Chromium: the same streams
//! make the same events. The expected events are written out, so they also show where Chromium deviates from the
//! standard.

use crate::support::browser::{driver, guarded, signed_url};
use crate::support::harness::*;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Streams and their events: `type=data#lastEventId`, with data and id escaped as in JSON.
const STREAMS: &[(&[u8], &str)] = &[
    (b"data: a\n\n", "message=a#"),
    (b"data:a\ndata: b\ndata:  c\ndata\n\n", r"message=a\nb\n c\n#"),
    (b"data\n\ndata:\n\ndata\ndata:\n\n", r"message=# message=# message=\n#"),
    (b"\n\n\r\n\r", ""),
    (b"\xef\xbb\xbfdata: a\n\n", "message=a#"),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", "message=b#"),
    (b"\xef\xbb\xbf: comment\ndata: a\n\xef\xbb\xbfdata: b\n\n", "message=a#"),
    (b"\xef\xbbdata: a\n\ndata: \xef\xbb\xbfb\n\n", "message=\u{feff}b#"),
    (b"\n\xef\xbb\xbfdata: a\n\n", ""),
    (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", "message=a# message=b# message=c#"),
    (b"data: a\r\n\rdata: b\n\r\ndata: c\r\r\n", "message=a# message=b# message=c#"),
    (b"data: a\n\rdata: b\r\r", "message=a# message=b#"),
    (b"data: a\r\ndata: b\r\n\r\n", r"message=a\nb#"),
    (b"data: a\n\ndata: cut off", "message=a#"),
    (b"data: a\n\nid: 1\ndata: cut off\n", "message=a#"),
    (b": comment\ndata: a\n:\n:data: b\n\n", "message=a#"),
    (b"event: a\ndata: 1\n\ndata: 2\n\n", "a=1# message=2#"),
    (b"event: a\n\ndata: 1\n\n", "message=1#"),
    (b"event: a\nevent: b\ndata: 1\n\nevent: a\nevent\ndata: 2\n\n", "b=1# message=2#"),
    (b"event: error\ndata: 1\n\nevent: open\ndata: 2\n\nevent: message\ndata: 3\n\n", "error=1# open=2# message=3#"),
    (b"event:  a\ndata: 1\n\nevent: a \ndata: 2\n\nevent: \xc3\xa9\ndata: 3\n\n", " a=1# a =2# é=3#"),
    (b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", "message=a#1 message=b#1 message=c#"),
    (b"id: 1\n\ndata: a\n\nid: 2\nid: 3\ndata: b\n\n", "message=a#1 message=b#3"),
    (b"id: 1\x00\ndata: a\n\nid: 2\n\nid: \x00\ndata: b\n\n", "message=a# message=b#2"),
    (b"id: \xc3\xa9\xf0\x9f\x8d\xb2\ndata: \xf0\x9f\x8d\xb2\n\n", "message=🍲#é🍲"),
    (b"data: a\xe2\x80\xa8b\xc2\x85c\x0bd\x0ce\n\n", "message=a\u{2028}b\u{85}c\\u000bd\\fe#"),
    (b"data: \xff.\xc3(\xe2\x82\xf0\x9f\x8d\n\n", "message=\u{fffd}.\u{fffd}(\u{fffd}\u{fffd}#"),
    (b"da\x00ta: a\ndata: b\x00c\n\n", r"message=b\u0000c#"),
    (b"Data: a\ndata : b\n data: c\nfoo: d\ndat\ndataa: e\nDATA\ndata: f\n\n", "message=f#"),
    (b"data: a:b: c\ndata:\td\n\n", r"message=a:b: c\n\td#"),
    (b"retry: 1x\nretry: -1\nretry:  5\nretry:\nretry\nretry: 99999999999999999999999\ndata: a\n\n", "message=a#"),
];

/// The script of the page: a function for each test.
const SCRIPT: &str = include_str!("eventsource.js");

/// A response: its bytes, and whether the connection then stays open until the client closes it.
#[derive(Clone)]
struct Answer(Vec<u8>, bool);

fn head(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{fields}\r\n")
}

fn stream(body: impl AsRef<[u8]>) -> Answer {
    Answer([head("200 OK", "Content-Type: text/event-stream\r\n").as_bytes(), body.as_ref()].concat(), false)
}

/// Returns the same in chunks: these parts, and then the bytes in `last`.
fn chunked(parts: &[&str], last: &str) -> Answer {
    let fields = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n";
    let chunks: String = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
    Answer((head("200 OK", fields) + &chunks + last).into_bytes(), false)
}

/// A server that misbehaves on request. `/bytes/N` and `/stream/N/K` send the stream N, the latter cut after K bytes.
/// The n-th request for `/KIND/NAME` gets the n-th response of that name and is noted.
struct Server {
    port: u16,
    noted: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start(scripts: Vec<(&'static str, Vec<Answer>)>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (noted, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let server = Server { port: listener.local_addr().unwrap().port(), noted: noted.clone(), stop: stop.clone() };
        let scripts = Arc::new(scripts);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(|s| s.ok().filter(|_| !stop.load(SeqCst))) {
                let (noted, scripts) = (noted.clone(), scripts.clone());
                thread::spawn(move || serve(stream, &noted, &scripts));
            }
        });
        server
    }

    fn noted(&self) -> Vec<String> {
        self.noted.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Serves one request. Chromium opens connections that it does not use. They end with the browser.
fn serve(mut wire: TcpStream, noted: &Mutex<Vec<String>>, scripts: &[(&str, Vec<Answer>)]) -> Option<()> {
    wire.set_read_timeout(Some(SOON)).unwrap();
    wire.set_nodelay(true).unwrap();
    let lines = BufReader::new(wire.try_clone().ok()?).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = lines.first()?.split(' ').nth(1)?;
    let field = |name: &str| {
        let found = lines.iter().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map_or("-", |(_, value)| value).to_string()
    };
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let file =
        |kind: &str, body: &[u8]| [head("200 OK", &format!("Content-Type: {kind}\r\n")).as_bytes(), body].concat();
    let (bytes, at, hold) = match parts[..] {
        [""] => (
            file(
                "text/html",
                b"<!doctype html><script src=/assets/eventsource.js></script><script src=/assets/test.js></script>",
            ),
            0,
            false,
        ),
        ["assets", "test.js"] => (file("text/javascript; charset=utf-8", SCRIPT.as_bytes()), 0, false),
        ["assets", _] => {
            (file("text/javascript; charset=utf-8", include_bytes!("../../../static/common/eventsource.js")), 0, false)
        }
        ["bytes", n] => (file("application/octet-stream", STREAMS[n.parse::<usize>().ok()?].0), 0, false),
        ["stream", n, at] => {
            let (body, at) = (STREAMS[n.parse::<usize>().ok()?].0, at.parse::<usize>().ok()?);
            let bytes = stream(body).0;
            let at = bytes.len() - body.len() + at;
            (bytes, at, false)
        }
        [kind, name] => {
            let responses = &scripts.iter().find(|(n, _)| *n == name)?.1;
            let mut noted = noted.lock().unwrap();
            let start = format!("{path} ");
            let Answer(bytes, hold) =
                responses[noted.iter().filter(|n| n.starts_with(&start)).count().min(responses.len() - 1)].clone();
            noted.push(format!(
                "{start}{} {} {} {}",
                field("accept"),
                field("cache-control"),
                field("last-event-id"),
                field("authorization")
            ));
            (String::from_utf8(bytes).unwrap().replace("KIND", kind).into_bytes(), 0, hold)
        }
        _ => return None,
    };
    if at > 0 {
        wire.write_all(&bytes[..at]).ok()?;
        thread::sleep(Duration::from_millis(4)); // the other part must come in a packet of its own
    }
    wire.write_all(&bytes[at..]).ok()?;
    if hold {
        // A client that closes while bytes are unread resets the connection.
        let ended = match wire.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(e) => e.kind() == ErrorKind::ConnectionReset,
        };
        noted.lock().unwrap().push(format!("{path} closed {ended}"));
    }
    Some(())
}

impl crate::support::browser::Page<'_> {
    /// Starts a promise, waits for its value, and returns it.
    fn awaited(&self, promise: &str) -> String {
        self.js(&format!("then({promise})"));
        let mut value = String::new();
        eventually(promise, || {
            value = self.js("window.result");
            !value.is_empty()
        });
        value
    }
}

pub const KINDS: [&str; 3] = ["native", "fetch", "xhr"];

#[test]
fn each_stream_makes_the_same_events_as_in_the_browser_wherever_it_is_cut() {
    let Some(driver) = driver() else { return };
    let server = Server::start(vec![]);
    let page = driver.page(&format!("http://127.0.0.1:{}/", server.port));
    for (n, (bytes, expected)) in STREAMS.iter().enumerate() {
        let expected = if expected.is_empty() { "nothing" } else { expected };
        assert_eq!(page.awaited(&format!("cuts({n})")), expected, "{}", bytes.escape_ascii());
    }
    // Over sockets, each stream is sent whole and cut in its middle. Some are cut everywhere: in a character, a BOM
    // or a CR LF.
    let whole: Vec<String> =
        STREAMS.iter().enumerate().map(|(n, s)| format!("[{n},0],[{n},{}]", s.0.len() / 2)).collect();
    let cut = [4, 12, 10, 24].map(|n| (1..STREAMS[n].0.len()).map(|at| format!("[{n},{at}],")).collect::<String>());
    let list = format!("{}{}", cut.concat(), whole.join(","));
    for kind in KINDS {
        let received = page.awaited(&format!("hearAll('{kind}', [{list}])"));
        assert!(received.lines().count() > 100, "{received}");
        for line in received.lines() {
            let (position, events) = line.split_once(' ').unwrap();
            let n: usize = position.split(',').next().unwrap().parse().unwrap();
            assert_eq!(events, STREAMS[n].1, "{kind}, {}, cut at {position}", STREAMS[n].0.escape_ascii());
        }
    }
}

#[test]
fn connections_are_announced_failed_and_reestablished_as_by_the_browser() {
    let Some(driver) = driver() else { return };
    let refuse = |status: &str, fields: &str| {
        vec![Answer([head(status, fields).as_bytes(), "data: é\n\n".as_bytes()].concat(), false)]
    };
    let kind = |kind: &str| refuse("200 OK", &format!("Content-Type: {kind}\r\n"));
    let no_content = Answer(head("204 No Content", "").into_bytes(), false);
    let cut = Answer(Vec::new(), false);
    let moved = Answer(head("302 Found", "Location: /KIND/again\r\n").into_bytes(), false);
    let held = Answer(stream("id: 7\ndata: a\n\ndata: b\n\n").0, true);
    let resumed = "open1 message=a#11 error0 open1 message=b#11 error0 open1 error0 open1 error0 error2";
    let stops = "retry: 20\nid: 1\ndata: a\n\nid: 2\ndata: cut off\n";
    let resume =
        vec![stream(stops), stream("\ndata: b\n\n"), stream("id: é🍲\n\n"), stream("id\n\n"), no_content.clone()];
    let nobody = vec![stream("retry: 20\n\n"), cut.clone(), cut, no_content.clone()];
    let again = vec![stream("retry: 20\nid: 7\ndata: a\n\ndata: b\n\n")];
    // With the last chunk; without it, cut between two chunks and inside one. (If an event is complete just before a
    // cut, it may be lost: fetch throws away bytes that were not read.)
    let chunks = vec![
        chunked(&["retry: 20\nid: 1\nda", "ta: a\n\n"], "0\r\n\r\n"),
        chunked(&["id: 2\ndata: cut off\n"], ""),
        chunked(&["id: 2\n"], "20\r\ndata: cut off"),
        chunked(&["data: b\n\n"], "0\r\n\r\n"),
        no_content.clone(),
    ];
    let taken = "open1 message=a#11 error0 open1 error0 open1 error0 open1 message=b#11 error0 error2";
    let media = "Content-Type: text/event-stream\r\n";
    let (fails, opens) = (("error2", "-"), ("open1 message=é#1", "-"));
    // Name, responses, and number of events after which to close; then the expected events with the state, and the
    // Last-Event-ID of each request.
    let scripts = vec![
        ("resume", resume, 0, (resumed, "- 1 1 é🍲 -")),
        ("chunks", chunks, 0, (taken, "- 1 1 1 1")),
        ("nobody", nobody, 0, ("open1 error0 error0 error0 error2", "- - - -")),
        ("moved", vec![moved], 4, ("open1 message=a#71 message=b#71 error0", "-")),
        ("there", vec![held], 2, ("open1 message=a#71", "-")),
        ("404", refuse("404 Not Found", media), 0, fails),
        ("500", refuse("500 Internal Server Error", media), 0, fails),
        ("204", vec![no_content], 0, fails),
        ("201", refuse("201 Created", media), 0, fails),
        ("none", refuse("200 OK", ""), 0, fails),
        ("plain", kind("text/plain"), 0, fails),
        ("longer", kind("text/event-streams"), 0, fails),
        ("upper", kind("TEXT/Event-Stream"), 2, opens),
        ("utf8", kind("text/event-stream ; charset=UTF-8;a=b"), 2, opens),
        ("latin1", kind("text/event-stream; charset=latin1"), 2, opens),
    ];
    let server = Server::start(scripts.iter().map(|s| (s.0, s.1.clone())).chain([("again", again)]).collect());
    let page = driver.page(&format!("http://127.0.0.1:{}/", server.port));
    for kind in KINDS {
        for (name, _, count, (fired, ids)) in &scripts {
            // Here Chromium deviates from the standard, which ignores the charset.
            let fired = if (kind, *name) == ("native", "latin1") { "error2" } else { fired };
            let run = format!("each('{kind}', () => hearScript('{kind}', '/{kind}/{name}', {count}))");
            assert_eq!(page.awaited(&run), fired, "{kind} {name}");
            let start = format!("/{kind}/{name} ");
            let noted = server.noted();
            let requests: Vec<&str> =
                noted.iter().filter_map(|n| n.strip_prefix(&start)).filter(|n| !n.starts_with("closed")).collect();
            let asked: Vec<String> = ids.split(' ').map(|id| format!("text/event-stream no-cache {id} -")).collect();
            assert_eq!(requests, asked, "{kind} {name}");
        }
        let closed = format!("/{kind}/there closed true");
        eventually("the server sees that it is closed", || server.noted().contains(&closed));
    }
    // After a redirect all kinds reconnect to the new URL.
    let run = |kind: &str| format!("each('{kind}', () => hearScript('{kind}', '/{kind}/moved', 7))");
    for kind in KINDS {
        let before = server.noted().len();
        assert!(page.awaited(&run(kind)).ends_with("error0 open1 message=a#71 message=b#71"), "{kind}");
        let paths: Vec<String> = server.noted()[before..].iter().map(|n| n.split(' ').next().unwrap().into()).collect();
        assert_eq!(paths, ["moved", "again", "again"].map(|name| format!("/{kind}/{name}")));
    }
    // With headers of the caller, it starts again from the first URL, and sends the headers each time.
    let before = server.noted().len();
    page.awaited("hearScript('fetch', '/fetch/moved', 7, { headers: { Authorization: 'Bearer s3same' } })");
    let paths: Vec<String> = server.noted()[before..].iter().map(|n| n.split(' ').next().unwrap().into()).collect();
    assert_eq!(paths, ["moved", "again", "moved", "again"].map(|name| format!("/fetch/{name}")));
    assert!(server.noted()[before..].iter().all(|n| n.ends_with(" Bearer s3same")), "{:?}", server.noted());
}

#[test]
fn the_interface_is_that_of_the_browser() {
    let Some(driver) = driver() else { return };
    let server = Server::start(vec![("there", vec![Answer(stream("").0, true)])]);
    let page = driver.page(&format!("http://127.0.0.1:{}/", server.port));
    let of = |kind: &str| page.js(&format!("facts({kind}, 'here')"));
    let native = of("EventSource");
    assert!(native.contains("/here/there#f true 0 http"), "{native}");
    assert_eq!(of("TincanEventSource"), native);
    // If the browser has no EventSource, the script provides one. A browser's own EventSource is kept.
    assert_eq!(page.js("EventSource === TincanEventSource"), "false");
    page.js("(delete window.EventSource, document.head.append(Object.assign(document.createElement('script'), \
             { src: '/assets/eventsource.js' })))");
    page.becomes("window.EventSource === TincanEventSource", "true");
}

#[test]
fn pauses_grow_while_nobody_answers_and_no_pause_is_too_long_for_a_timer() {
    let Some(driver) = driver() else { return };
    let nobody = Answer(Vec::new(), false);
    let first = stream("retry: 1000\n\n");
    let responses = vec![first.clone(), nobody.clone(), nobody.clone(), first, nobody];
    let long = stream("retry: 99999999999999999999999\n\n");
    let server = Server::start(vec![("nobody", responses), ("long", vec![long])]);
    let page = driver.page(&format!("http://127.0.0.1:{}/", server.port));
    page.js("skipPauses()");
    page.awaited("hearScript('fetch', '/fetch/nobody', 12)");
    assert_eq!(page.js("pauses.splice(0)"), "1000,2000,4000,1000,2000,4000,8000,16000,30000,30000");
    page.awaited("hearScript('fetch', '/fetch/long', 2)");
    assert_eq!(page.js("pauses"), "2147483647");
}

#[test]
fn every_step_of_the_parser_can_be_watched() {
    let Some(driver) = driver() else { return };
    let server = Server::start(vec![]);
    let page = driver.page(&format!("http://127.0.0.1:{}/", server.port));
    let first = r"'\n: hello\nevent: a\nid: 2\ndata: b\nretry: 010\nretry: -1\nretry\nid: \0\nnone'";
    let expected = r#"line ""
nothing
line ": hello"
comment " hello"
line "event: a"
field "event" "a" "names the event"
line "id: 2"
field "id" "2" "the last event ID, from the blank line on"
line "data: b"
field "data" "b" "appended to the data"
line "retry: 010"
retry 10
field "retry" "010" "the reconnection time"
line "retry: -1"
field "retry" "-1" "ignored: not only digits"
line "retry"
field "retry" "" "ignored: not only digits"
line "id: \u0000"
field "id" "\u0000" "ignored: an id with NUL"
state "b\n" "a" "2" "1"
line "none"
field "none" "" "ignored: no such field"
line ""
dispatch {"type":"a","data":"b","lastEventId":"2"}
state "" "" "2" "2""#;
    assert_eq!(page.js(&format!(r"watch({first}, '\n\n')")), expected);
}

#[test]
fn a_page_can_listen_with_its_token_in_a_header() {
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish p0ppy\nread s3same\n");
    let page = driver.page(&signed_url(&server, "s3same"));
    page.js("document.head.append(Object.assign(document.createElement('script'), { src: '/assets/eventsource.js' }))");
    page.becomes("typeof window.TincanEventSource", "function");
    // The page's own stream uses the password in its URL. If a header is given, only the header counts.
    let listen = |token: &str| {
        page.js(&format!(
            "((window.told = [], window.own = new TincanEventSource('/kitchen', {{ headers: {{ Authorization: \
             'Bearer {token}' }} }})), own.onopen = own.onerror = event => told.push(event.type + own.readyState), \
             own.onmessage = event => told.push(event.data + ' ' + event.lastEventId))"
        ))
    };
    listen("s3same");
    page.becomes("told", "open1");
    let response = server.post_with("/kitchen", "Authorization: Bearer p0ppy\r\n", "soup");
    page.becomes("told", &format!("open1,soup {}", response.text().trim_end()));
    listen("p0ppy");
    page.becomes("told", "error2");
}

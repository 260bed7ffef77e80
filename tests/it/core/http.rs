//! HTTP/1.1: the table of refusals in CONTRACT section 10, and the requirements of RFC 9110 and RFC 9112.

use crate::support::documents::{blocks, document};
use crate::support::harness::*;
use crate::support::refusals::{covered, elsewhere};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tincan::wire::reject::{self, *};

const HOST: &str = "Host: localhost\r\n";

fn get(fields: &str) -> String {
    format!("GET /health HTTP/1.1\r\n{HOST}{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\n{HOST}{fields}\r\n{body}")
}

fn chunks(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// Requests after which the start of the next request is unknown. They are refused, and the connection ends.
fn unframed() -> Vec<(String, Reject)> {
    use reject::*;
    let long = |n: usize| "x".repeat(n);
    let line = |line: &str| format!("{line}\r\n{HOST}\r\n");
    vec![
        ("GET /health HTTP/1.1\nHost: localhost\n\n".into(), LONE_LF),
        ("\n".into(), LONE_LF),
        (get("A: b\nC: d\r\n"), LONE_LF),
        (line("GET /health\r HTTP/1.1"), LONE_CR),
        (get("A: b\rc\r\n"), LONE_CR),
        (get("A: b\r\r\n"), LONE_CR),
        (line("GET"), REQUEST_LINE),
        (line("GET /health"), REQUEST_LINE),
        (line("GET  /health HTTP/1.1"), REQUEST_LINE),
        (line("GET /health  HTTP/1.1"), REQUEST_LINE),
        (line("GET /health HTTP/1.1 "), REQUEST_LINE),
        (line(" GET /health HTTP/1.1"), REQUEST_LINE),
        (line("GET\t/health\tHTTP/1.1"), REQUEST_LINE),
        (line("GET /health HTTP/1"), REQUEST_LINE),
        (line("GET /health HTTP/1.10"), REQUEST_LINE),
        (line("GET /health http/1.1"), REQUEST_LINE),
        (line("G(T /health HTTP/1.1"), REQUEST_LINE),
        (line("G\u{e9}T /health HTTP/1.1"), REQUEST_LINE),
        (line(&format!("{} /health HTTP/1.1", long(32))), METHOD),
        (long(33), METHOD),
        ("\u{16}".repeat(40), REQUEST_LINE),
        (line("GET health HTTP/1.1"), TARGET),
        (line("GET * HTTP/1.1"), TARGET),
        (line("GET localhost:80 HTTP/1.1"), TARGET),
        (line("GET ftp://localhost/health HTTP/1.1"), TARGET),
        (line("GET /a?<b> HTTP/1.1"), TARGET),
        (line("GET http:///health HTTP/1.1"), TARGET),
        (line("GET http://user@localhost/health HTTP/1.1"), TARGET),
        (line("GET /a#b HTTP/1.1"), TARGET),
        (line("GET /\u{e9} HTTP/1.1"), TARGET),
        (line("GET /a\0 HTTP/1.1"), TARGET),
        (line("GET /a%zz HTTP/1.1"), TARGET),
        (line("GET /a% HTTP/1.1"), TARGET),
        (line("GET /a%ff HTTP/1.1"), TARGET),
        (get(" folded: x\r\n"), FOLDED),
        (get("A: b\r\n\tc\r\n"), FOLDED),
        (get("A : b\r\n"), SPACE_BEFORE_COLON),
        (get("A\t: b\r\n"), SPACE_BEFORE_COLON),
        (get("no colon\r\n"), FIELD_NAME),
        (get(": b\r\n"), FIELD_NAME),
        (get("a b: c\r\n"), FIELD_NAME),
        (get("a\u{e9}: c\r\n"), FIELD_NAME),
        (get("a(b): c\r\n"), FIELD_NAME),
        (get("A: b\0c\r\n"), FIELD_VALUE),
        (get("A: b\u{1b}c\r\n"), FIELD_VALUE),
        (get("A: b\u{7f}c\r\n"), FIELD_VALUE),
        ("GET /health HTTP/1.1\r\n\r\n".into(), NO_HOST),
        (get("Host: localhost\r\n"), TWO_HOSTS),
        ("GET /health HTTP/1.1\r\nHost:\r\n\r\n".into(), BAD_HOST),
        ("GET /health HTTP/1.1\r\nHost: a b\r\n\r\n".into(), BAD_HOST),
        ("GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), BAD_HOST),
        ("GET /health HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), BAD_HOST),
        ("GET /health HTTP/1.1\r\nHost: evil%2eexample\r\n\r\n".into(), BAD_HOST),
        ("GET /health HTTP/1.1\r\nHost: a:b\r\n\r\n".into(), BAD_HOST),
        ("GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n".into(), BAD_HOST),
        ("GET /health HTTP/1.1\r\nHost: [nonsense]\r\n\r\n".into(), BAD_HOST),
        ("GET http://localhost/health HTTP/1.1\r\nHost: a b\r\n\r\n".into(), BAD_HOST),
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "x"), BOTH_LENGTHS),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "x"), BOTH_LENGTHS),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n", "xx"), LENGTH),
        (post("Content-Length: 1, 2\r\n", "xx"), LENGTH),
        (post("Content-Length: +1\r\n", "x"), LENGTH),
        (post("Content-Length: -1\r\n", "x"), LENGTH),
        (post("Content-Length: 0x1\r\n", "x"), LENGTH),
        (post("Content-Length: 1 1\r\n", "x"), LENGTH),
        (post("Content-Length: 1_0\r\n", "x"), LENGTH),
        (post("Content-Length: ten\r\n", "x"), LENGTH),
        (post("Content-Length:\r\n", "x"), LENGTH),
        (post("Content-Length: 1,\r\n", "x"), LENGTH),
        ("POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), CODING_1_0),
        (post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), NOT_LAST),
        (post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), NOT_LAST),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), NOT_LAST),
        (chunks("x\r\n"), CHUNK),
        (chunks("\r\n"), CHUNK),
        (chunks("-1\r\n"), CHUNK),
        (chunks("+1\r\na\r\n"), CHUNK),
        (chunks("0x1\r\na\r\n"), CHUNK),
        (chunks("1_0\r\n"), CHUNK),
        (chunks(" 1\r\na\r\n"), CHUNK),
        (chunks("1 1\r\na\r\n"), CHUNK),
        (chunks("1;a\0b\r\na\r\n"), CHUNK),
        (chunks("1 \r\na\r\n"), CHUNK),
        (chunks("1;\r\na\r\n"), CHUNK),
        (chunks("1;=b\r\na\r\n"), CHUNK),
        (chunks("1;a=\r\na\r\n"), CHUNK),
        (chunks("1;a=;b\r\na\r\n"), CHUNK),
        (chunks("1;bad[=x\r\na\r\n"), CHUNK),
        (chunks("1;a=b c\r\na\r\n"), CHUNK),
        (chunks("1;a b\r\na\r\n"), CHUNK),
        (chunks("1;a=b=c\r\na\r\n"), CHUNK),
        (chunks("1;a;;b\r\na\r\n"), CHUNK),
        (chunks("1;a;\r\na\r\n"), CHUNK),
        (chunks("1;a=b/c\r\na\r\n"), CHUNK),
        (chunks("1;a=\"b\r\na\r\n"), CHUNK),
        (chunks("1;a=\"b\\\"\r\na\r\n"), CHUNK),
        (chunks("1;a=\"b\"c\r\na\r\n"), CHUNK),
        (chunks("1;a=\"b\u{7f}\"\r\na\r\n"), CHUNK),
        (chunks("1;\u{e9}\r\na\r\n"), CHUNK),
        (chunks("1 a\r\na\r\n"), CHUNK),
        (chunks("1\r\nab"), CHUNK),
        (chunks("1\r\na\n"), CHUNK),
        (chunks(&format!("1;{}\r\n", long(300))), CHUNK),
        (chunks("1\na\r\n"), LONE_LF),
        (chunks("0\r\nbad trailer\r\n\r\n"), FIELD_NAME),
        (post("Content-Length: 65537\r\n", ""), TOO_LARGE),
        (post("Content-Length: 99999999999999999999999\r\n", ""), TOO_LARGE),
        (chunks("10001\r\n"), TOO_LARGE),
        (chunks("fffffffffffffffffffffff\r\n"), TOO_LARGE),
        (chunks(&format!("8000\r\n{}\r\n8001\r\n", long(0x8000))), TOO_LARGE),
        (line(&format!("GET /{} HTTP/1.1", long(8192))), LONG_TARGET),
        (format!("GET /{}", long(8193)), LONG_TARGET),
        (get(&format!("A: {}\r\n", long(16384))), LARGE_SECTION),
        (format!("GET / HTTP/1.1\r\n{HOST}A: {}", long(16384)), LARGE_SECTION),
        (get(&"A: b\r\n".repeat(100)), LARGE_SECTION),
        (chunks(&format!("0\r\n{}", "A: b\r\n".repeat(4000))), LARGE_SECTION),
        (chunks(&format!("0\r\nA: {}", long(16384))), LARGE_SECTION),
        (post("Expect: tea\r\nContent-Length: 1\r\n", "x"), EXPECT),
        (post("Expect: 100-continue, tea\r\nContent-Length: 1\r\n", "x"), EXPECT),
        (post("Transfer-Encoding: gzip\r\n", ""), CODING),
        (post("Transfer-Encoding: gzip, chunked\r\n", ""), CODING),
        (post("Transfer-Encoding: identity\r\n", ""), CODING),
        (post("Transfer-Encoding:\r\n", ""), CODING),
        (post("Transfer-Encoding: ,\r\n", ""), CODING),
        (post("Transfer-Encoding: chunked;a=b\r\n", ""), CODING),
        (post("Transfer-Encoding: \"chunked\"\r\n", ""), CODING),
        (post("Transfer-Encoding: xchunked\r\n", ""), CODING),
        (line("GET /health HTTP/2.0"), VERSION),
        (line("GET /health HTTP/3.1"), VERSION),
        (line("PRI * HTTP/2.0"), VERSION),
        (line("GET /health HTTP/0.9"), VERSION),
    ]
}

/// Requests that are refused while the connection goes on.
fn framed() -> Vec<(String, Reject)> {
    use reject::*;
    let to = |line: &str| format!("{line} HTTP/1.1\r\n{HOST}\r\n");
    let coded = |fields: &str| post(&format!("{fields}Content-Length: 2\r\n"), "hi");
    let stream = |body: &str| {
        format!(
            "POST /a HTTP/1.1\r\n{HOST}Content-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    vec![
        (to("POST /a?event=a%0Ab"), EVENT_NAME),
        (to("POST /a?event=a%0Db"), EVENT_NAME),
        (to("POST /a?event=a%00b"), EVENT_NAME),
        (to(&format!("POST /a?event={}", "x".repeat(257))), EVENT_NAME),
        (stream("event: a\0b\ndata: x\n\n"), EVENT_NAME),
        (stream(&format!("event: {}\ndata: x\n\n", "x".repeat(257))), EVENT_NAME),
        (stream("data: x\n\n").replace("/a", "/a?event=b"), TWO_NAMES),
        (to("POST /a?event=gap"), RESERVED),
        (stream("data: x\n\nevent: gap\ndata: x\n\n"), RESERVED),
        (coded("Content-Encoding: gzip\r\n"), CONTENT_CODING),
        (coded("Content-Encoding: identity, BR\r\n"), CONTENT_CODING),
        (coded("Content-Encoding:\r\nContent-Encoding: x-own\r\n"), CONTENT_CODING),
        (coded("Content-Type: text/plain; charset=iso-8859-1\r\n"), CHARSET),
        (coded("Content-Type: text/event-stream;Charset=\"UTF-16\"\r\n"), CHARSET),
        (coded("Content-Type: text/plain; a=\";charset=utf-8\"; charset = windows-1252\r\n"), CHARSET),
        (coded("Content-Type: text/plain\r\nContent-Type: text/plain; charset=us-ascii\r\n"), CHARSET),
        (coded("Content-Type: multipart/form-data; boundary=x\r\n"), MULTIPART),
        (coded("Content-Type: Multipart/Mixed\r\n"), MULTIPART),
        (stream("id: 1\ndata: x\n\n"), BLOCK_ID),
        (stream("data: x\n\nid\n\n"), BLOCK_ID),
        (stream("retry: 99999999999999999999\ndata: x\n\n"), BLOCK_RETRY),
        (stream("data: x\n\ndata: y\n"), UNFINISHED),
        (stream("data: x"), UNFINISHED),
        (stream(""), NO_DATA),
        (stream(": only a comment\n\nevent: a\n\nretry: 1\n\n"), NO_DATA),
        (to("POST /a?event=%ff"), TARGET),
        (to("GET /a?since=%zz"), TARGET),
        (to("GET /a?since=nonsense"), SINCE),
        (to("GET /a?since="), SINCE),
        (to("GET /a?since=1"), SINCE),
        (to("GET /a?wait=301"), WAIT),
        (to("GET /a?wait=-1"), WAIT),
        (to("GET /a?wait=%2B1"), WAIT),
        (to("GET /a?wait=1.5"), WAIT),
        (to("GET /a?wait="), WAIT),
        (to("GET /a?wait=ten"), WAIT),
        (to("GET /nothing/here"), NOT_FOUND),
        (to("GET /a/"), SLASH),
        (to("POST /a/"), SLASH),
        (to("GET /health/"), SLASH),
        (to("GET /nothing/here/?x"), SLASH),
        (to("GET /assets"), NOT_FOUND),
        (to("GET /assets/nothing.js"), NO_FILE),
        (to("GET /assets/../src/main.rs"), NO_FILE),
        (to("GET /caf%C3%A9"), NOT_FOUND),
        (to(&format!("GET /{}", "a".repeat(65))), NOT_FOUND),
        (to("OPTIONS /nothing/here"), NOT_FOUND),
        (to("POST /"), PAGE_METHOD),
        (to("DELETE /metrics"), PAGE_METHOD),
        (to("POST /health"), PAGE_METHOD),
        (to("PUT /assets/chat.js"), PAGE_METHOD),
        (to("PUT /a"), CHANNEL_METHOD),
        (to("DELETE /a"), CHANNEL_METHOD),
        (to("PATCH /a"), CHANNEL_METHOD),
        (to("TRACE /a"), CHANNEL_METHOD),
        (to("get /a"), METHOD),
        (to("Post /a"), METHOD),
        (to("BREW /a"), METHOD),
        (to("BREW /nothing/here"), METHOD),
        (to("CONNECT localhost:80"), METHOD),
        (to("CONNECT [::1]:443"), METHOD),
        (to("CONNECT evil.example:443"), MISDIRECTED),
        (to(&format!("{} /a", "M".repeat(31))), METHOD),
        (to("GET /health").replace("localhost", "evil.example"), MISDIRECTED),
        (post("Origin: http://evil.example\r\n", ""), CROSS_SITE),
    ]
}

#[test]
fn a_refusal_that_breaks_the_framing_is_answered_and_ends_the_connection() {
    let server = Tincan::start(&[]);
    for (request, reject) in unframed() {
        let mut wire = server.connect();
        wire.send(&request);
        let response = wire.response();
        assert_eq!(response.text(), reject.line(), "{request:?}");
        response.refused(reject);
        assert_eq!(response.field("connection"), Some("close"), "{request:?}");
        assert_eq!(response.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(response.field("x-content-type-options"), Some("nosniff"));
        wire.shut();
        assert_eq!(wire.rest(), "", "{request:?}");
    }
    assert_eq!(server.metric("tincan_events_total"), Some(0), "nothing of a refused request is published");
}

#[test]
fn a_refusal_with_sound_framing_leaves_the_connection_open() {
    leaves_it_open(framed());
}

/// Asserts that these requests, one after the other on one connection, get these refusals.
pub fn leaves_it_open(rows: Vec<(String, Reject)>) {
    let server = Tincan::start(&[]);
    let mut wire = server.connect();
    for (request, reject) in rows {
        wire.send(&request);
        let response = wire.response();
        assert_eq!(response.text(), reject.line(), "{request:?}");
        response.refused(reject);
        assert_eq!(response.field("connection"), None, "{request:?}");
        let allow = match reject {
            reject::PAGE_METHOD => Some("GET, HEAD, OPTIONS"),
            reject::CHANNEL_METHOD => Some("GET, HEAD, POST, OPTIONS"),
            _ => None,
        };
        assert_eq!(response.field("allow"), allow, "{request:?}");
    }
    wire.send(get(""));
    assert_eq!(wire.response().text(), "ok\n");
    assert_eq!(server.metric("tincan_events_total"), Some(0), "nothing of a refused request is published");
}

#[test]
fn a_post_names_the_parameter_that_it_cannot_have() {
    let long = "x".repeat(2000);
    names_the_parameter(&[
        ("/a?evnt=b", "evnt"),
        ("/a?event=b&Event=c", "Event"),
        ("/a?since=all", "since"),
        ("/a?wait=0&event=b", "wait"),
        ("/a?lastEventId=5", "lastEventId"),
        ("/a?%65vent=b", "%65vent"),
        ("/a?=b&&x=%ff", "x"),
        (&format!("/a?{long}"), &long[..64]),
    ]);
}

/// Asserts that a POST to each of these targets is refused with a line that names the parameter.
pub fn names_the_parameter(rows: &[(&str, &str)]) {
    let server = Tincan::start(&[]);
    let mut wire = server.connect();
    for (target, name) in rows {
        for fields in ["", "Expect: 100-continue\r\n"] {
            wire.send(format!("POST {target} HTTP/1.1\r\n{HOST}{fields}Content-Length: 1\r\n\r\n"));
            if fields.is_empty() {
                wire.send("x");
            }
            let response = wire.response();
            let line = format!("{}: {name}\n", reject::PARAMETER.line().trim_end());
            assert_eq!((response.status, response.text()), (400, line), "{target}");
            if !fields.is_empty() {
                assert_eq!((response.field("connection"), wire.rest().as_str()), (Some("close"), ""), "{target}");
                wire = server.connect();
            }
        }
    }
    assert_eq!(server.metric("tincan_events_total"), Some(0));
}

#[test]
fn a_higher_minor_version_is_treated_as_1_1_and_empty_members_of_a_list_as_none() {
    let server = Tincan::start(&[]);
    let mut wire = server.connect();
    for version in ["1.1", "1.2", "1.9"] {
        wire.send(format!("GET /health HTTP/{version}\r\n{HOST}\r\n"));
        let response = wire.response();
        assert!(response.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", response.head);
        assert_eq!((response.text(), response.field("connection")), ("ok\n".into(), None));
        wire.send(format!("POST /a HTTP/{version}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"));
        assert_eq!(wire.response().status, 200);
        server.ask(format!("GET /health HTTP/{version}\r\n\r\n")).refused(reject::NO_HOST);
    }
    for fields in [
        "Transfer-Encoding: , chunked\r\n",
        "Transfer-Encoding: Chunked ,\t,\r\nTransfer-Encoding:\r\n",
        "Transfer-Encoding: chunked\r\nExpect: ,\r\nConnection: , x,\r\n",
    ] {
        wire.send(format!(
            "POST /a HTTP/1.1\r\n{HOST}{fields}\r\n1;a=\"\\\"b;c\" ; d = e\r\na\r\n0\r\nA: {}\r\n\r\n",
            "x".repeat(9000)
        ));
        assert_eq!(wire.response().status, 200, "{fields}");
    }
    wire.send(format!("POST /a HTTP/1.1\r\n{HOST}Expect: , 100-Continue,100-continue\r\nContent-Length: 1\r\n\r\n"));
    wire.expect("HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("a");
    assert_eq!(wire.response().status, 200);
    // A comma in a quoted string does not separate members of a list (RFC 9110 §5.6.1, §5.6.4).
    let page = |accept: &str| {
        let response = server
            .ask(get("").replace("/health", "/a?wait=0").replace("\r\n\r\n", &format!("\r\nAccept: {accept}\r\n\r\n")));
        response.field("content-type").unwrap().starts_with("text/html")
    };
    assert!(page("a/b;c=\"d, text/event-stream, e\", text/html, */*;q=0.1"));
    assert!(!page("a/b;c=\"d, text/html, e\\\"\", text/event-stream, */*;q=0.1"));
    assert!(page("text/html;x=\";q=0.1;\", text/event-stream;q=0.5"));
    assert!(!page("text/html;q=0.+9, text/event-stream;q=0.5") || page("text/html;q=x, text/event-stream;q=0.5"));
    wire.send(get("Connection: \"a, close, b\"\r\n"));
    assert_eq!(wire.response().field("connection"), None);
}

#[test]
fn every_answer_says_how_long_it_may_be_kept() {
    let live = ["/health", "/metrics", "/a?wait=0", "/a", "/nothing/here", "/a/"];
    let refused = unframed().into_iter().chain(framed()).collect();
    says_how_long_it_may_be_kept(&live, &["/", "/assets/chat.js", "/assets/icon.svg"], refused);
}

/// Requests live responses, files that a browser may keep, and refusals; checks their `Cache-Control`.
pub fn says_how_long_it_may_be_kept(live: &[&str], kept: &[&str], refused: Vec<(String, Reject)>) {
    let server = Tincan::start(&[]);
    server.post("/a", "x");
    let methods = ["GET", "HEAD", "POST", "OPTIONS", "BREW"];
    for path in live.iter().chain(kept) {
        for method in methods {
            let mut wire = server.connect();
            wire.send(format!("{method} {path} HTTP/1.1\r\n{HOST}\r\n"));
            let head = wire.until(b"\r\n\r\n").to_ascii_lowercase();
            let kept = kept.contains(path) && (method == "GET" || method == "HEAD");
            let control = if kept { "no-cache" } else { "no-store, no-transform" };
            assert!(head.contains(&format!("\r\ncache-control: {control}\r\n")), "{method} {path}: {head}");
            assert_eq!(head.matches("cache-control").count(), 1, "{head}");
        }
    }
    for (request, reject) in refused {
        let response = server.ask(&request);
        assert_eq!(response.field("cache-control"), Some("no-store, no-transform"), "{reject:?}");
    }
}

#[test]
fn every_line_of_the_table_is_tested() {
    let elsewhere = elsewhere!(BODY_UTF8 TIMEOUT MEMORY CHANNELS CONNECTIONS PUBLISH_TOKEN PUBLISH_UNKNOWN PUBLISH_RIGHT READ_TOKEN READ_UNKNOWN READ_RIGHT PARAMETER LOG_FAILED LOG_CLOSED LOG_UNREADABLE LOG_SICK OPEN_LOGS DISK_FULL NO_WING NO_WING_HERE);
    let tested_here: Vec<_> = unframed().into_iter().chain(framed()).map(|(_, reject)| reject).collect();
    covered(reject::TABLE, &tested_here, &elsewhere);
}

#[test]
fn the_manual_has_each_status_of_the_table_and_no_other() {
    const MANUAL: &str = "src/server/README.md";
    let text = document(MANUAL);
    let refusals = text.split("\n## ").find(|section| section.starts_with("Refusals\n")).unwrap();
    let status = |line: &str| line.strip_prefix("| ")?.split(" |").next()?.parse::<u16>().ok();
    let shown: BTreeSet<u16> = refusals.lines().filter_map(status).collect();
    assert_eq!(shown, reject::TABLE.iter().map(|reject| reject.status).collect());
    // The responses that the manual shows are those of the server.
    let blocks = blocks(MANUAL, "text").concat();
    let is_refusal = |line: &&str| line.get(..3).is_some_and(|start| start.bytes().all(|byte| byte.is_ascii_digit()));
    let lines: Vec<&str> = blocks.lines().filter(is_refusal).collect();
    for line in &lines {
        let is_said = reject::TABLE.iter().any(|reject| line.starts_with(reject.line().trim_end()));
        assert!(is_said, "{MANUAL}: no refusal says {line:?}");
    }
    assert!(lines.len() >= 3, "{lines:?}");
}

#[test]
fn what_is_just_within_the_limits_is_taken() {
    let server = Tincan::start(&[]);
    let name = "aZ09_-".repeat(11)[..64].to_string();
    assert_eq!(server.post(&format!("/{name}"), "x").len(), 1);
    let target = format!("/health?{}", "x".repeat(8192 - 8));
    assert_eq!(server.get(&target).text(), "ok\n");
    // Field lines of 16,384 bytes in all, and 100 field lines.
    let filler = 16384 - HOST.len() - "A: \r\n".len();
    assert_eq!(server.ask(get(&format!("A: {}\r\n", "x".repeat(filler)))).text(), "ok\n");
    server.ask(get(&format!("A: {}\r\n", "x".repeat(filler + 1)))).refused(reject::LARGE_SECTION);
    assert_eq!(server.ask(get(&"A: b\r\n".repeat(99))).text(), "ok\n");
    // The same limit holds for a trailer section.
    let trailer = |n: usize| server.ask(chunks(&format!("0\r\nA: {}\r\n\r\n", "x".repeat(n))));
    assert_eq!(trailer(16384 - 5).status, 200);
    trailer(16384 - 4).refused(reject::LARGE_SECTION);
}

#[test]
fn a_body_that_is_not_utf8_is_refused() {
    let server = Tincan::start(&[]);
    server.post_with("/a", "", b"caf\xe9").refused(reject::BODY_UTF8);
    server.post_with("/a", "Content-Type: text/event-stream\r\n", b"data: \xff\n\n").refused(reject::BODY_UTF8);
}

/// This test waits for the server's ten seconds together with others, in `hostile.rs`.
pub fn a_request_that_is_not_finished_in_ten_seconds_is_refused() {
    let server = Tincan::start(&[]);
    let began = Stopwatch::start();
    // Connections that send nothing, a part of a head, or a part of a body, and one that sends all the time, but too
    // slowly.
    let mut silent: Vec<Wire> = ["", "GET / HTT", &post("Content-Length: 5\r\n", "he"), &chunks("5\r\nhe")]
        .map(|start| {
            let mut wire = server.connect();
            wire.send(start);
            wire
        })
        .into();
    let mut slow = server.connect();
    let mut bytes = get("").into_bytes().into_iter();
    while began.elapsed() < Duration::from_millis(9500) {
        slow.send([bytes.next().unwrap()]);
        std::thread::sleep(Duration::from_millis(500));
    }
    for wire in silent.iter_mut().chain([&mut slow]) {
        wire.response().refused(reject::TIMEOUT);
        assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
        // Each byte of the slow one must not give it ten seconds more.
        began.within("a refusal", Duration::from_secs(13));
    }
}

/// Runs together with the test above. After the ten seconds a body has one more second for each KiB that has come.
pub fn a_body_may_come_slowly_but_not_slower_than_a_least_rate() {
    let server = Tincan::start(&["--max-body", "64M"]);
    let began = Stopwatch::start();
    let slowly = |request: String, body: Vec<u8>, a_second: usize| {
        let mut wire = server.connect();
        wire.send(request);
        for part in body.chunks(a_second / 4) {
            wire.send(part);
            std::thread::sleep(Duration::from_millis(250));
        }
        assert!(began.elapsed() > Duration::from_secs(12), "{:?}", began.elapsed());
        assert_eq!(wire.response().status, 200);
    };
    let sized = |n: usize| (post(&format!("Content-Length: {n}\r\n"), ""), vec![b'x'; n]);
    std::thread::scope(|scope| {
        scope.spawn(|| slowly(sized(60_000).0, sized(60_000).1, 4000));
        scope.spawn(|| slowly(sized(13 << 20).0, sized(13 << 20).1, 1 << 20));
        let chunk = format!("f\r\n{}\r\n", "x".repeat(15));
        scope.spawn(move || slowly(chunks(""), (chunk.repeat(1500) + "0\r\n\r\n").into(), 2000));
        // Nearly everything at once and then nothing; a byte now and then; extensions of chunks, which do not count
        // as body.
        for (start, byte, seconds) in [
            (post("Content-Length: 60000\r\n", &"x".repeat(50_000)), None, 10),
            (post("Content-Length: 3000\r\n", ""), Some("x".to_string()), 10),
            (chunks(""), Some(format!("1;{}\r\nx\r\n", "a".repeat(250))), 10),
        ] {
            let server = &server;
            let began = &began;
            scope.spawn(move || {
                let mut wire = server.connect();
                wire.send(start);
                while let Some(byte) = &byte
                    && began.elapsed() < Duration::from_millis(9500)
                {
                    wire.send(byte);
                    std::thread::sleep(Duration::from_millis(300));
                }
                wire.response().refused(reject::TIMEOUT);
                assert!(began.elapsed() >= Duration::from_secs(seconds), "{:?}", began.elapsed());
                began.within("a refusal", Duration::from_secs(seconds + 3));
            });
        }
    });
}

/// Runs together with the tests above.
pub fn a_client_that_does_not_read_its_answers_is_given_up() {
    let server = Tincan::start(&["--quiet"]);
    let wire = server.connect();
    // 27 MB of responses, which is more than the kernel buffers for a socket that is not read. The kernel may also
    // not accept all requests.
    let began = Instant::now();
    let mut sender = wire.stream.try_clone().unwrap();
    let requests = "GET /assets/chat.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3000);
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut sender, requests.as_bytes()).is_ok());
    eventually("its connection is open", || server.metric("tincan_connections") == Some(2));
    eventually("its connection is closed", || server.metric("tincan_connections") == Some(1));
    assert!(began.elapsed() > Duration::from_secs(9), "closed after {:?}: a client has ten seconds", began.elapsed());
    drop(wire);
    sender.join().unwrap();
}

#[test]
fn a_refusal_arrives_though_the_body_is_still_being_sent() {
    let server = Tincan::start(&[]);
    let mut wire = server.connect();
    wire.send(post("Content-Length: 10000000\r\n", ""));
    let body = vec![b'x'; 10_000_000];
    let sender = {
        let mut stream = wire.stream.try_clone().unwrap();
        std::thread::spawn(move || std::io::Write::write_all(&mut stream, &body).is_ok())
    };
    wire.response().refused(reject::TOO_LARGE);
    sender.join().unwrap();
}

#[test]
fn requests_may_arrive_one_byte_at_a_time() {
    let server = Tincan::start(&[]);
    let requests = [
        get(""),
        post("Content-Length: 5\r\n", "hello"),
        chunks("3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"),
        "\r\n\r\nGET http://localhost/health HTTP/1.1\r\nHost: ignored\r\n\r\n".into(),
    ];
    let together = server.ask("\r\n\r\n".to_string() + &get(""));
    assert_eq!(together.text(), "ok\n", "empty lines before a request, in one segment with it");
    let mut wire = server.connect();
    for request in requests {
        for byte in request.bytes() {
            wire.send([byte]);
        }
        assert_eq!(wire.response().status, 200, "{request:?}");
    }
    let kept = server.get("/a?wait=0&since=all").text();
    assert_eq!(kept.matches("data: hello\n").count(), 2, "{kept}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Tincan::start(&[]);
    let mut wire = server.connect();
    let mut all = String::new();
    for n in 0..50 {
        all += &post(&format!("Content-Length: {}\r\n", n.to_string().len()), &n.to_string());
        all += "GET /nothing/here HTTP/1.1\r\nHost: localhost\r\n\r\n";
    }
    wire.send(all + "GET /a?since=all&wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(wire.response().text());
        wire.response().refused(reject::NOT_FOUND);
    }
    let kept = wire.response().text();
    for (n, id) in ids.iter().enumerate() {
        assert!(kept.contains(&format!("\ndata: {n}\nid: {id}\n")), "{n}: {kept}");
    }
}

#[test]
fn a_body_may_come_in_chunks_or_behind_100_continue() {
    let server = Tincan::start(&[]);
    let (mut subscriber, _) = server.listen("/a", "");
    let mut wire = server.connect();
    wire.send(post("Transfer-Encoding: Chunked\r\n", "5\r\nhello\r\n00000006;a=\"b\"\r\n world\r\n0\r\nA: b\r\n\r\n"));
    let id = wire.response().text();
    subscriber.expect(format!("data: hello world\nid: {id}\n"));
    wire.send(post("Content-Length: 3\r\nExpect: 100-Continue\r\n", ""));
    wire.expect("HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("abc");
    let id = wire.response().text();
    subscriber.expect(format!("data: abc\nid: {id}\n"));
    // HTTP/1.0 has no 100 (RFC 9110 §10.1.1).
    let mut old = server.connect();
    old.send("POST /b HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    old.send("x");
    old.expect("HTTP/1.1 200 OK\r\n");
    // If the server does not want the body, it does not ask for it.
    wire.send("POST /nothing/here HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    wire.response().refused(reject::NOT_FOUND);
    let mut wire = server.connect();
    wire.send(post("Content-Length: 65537\r\nExpect: 100-continue\r\n", ""));
    wire.response().refused(reject::TOO_LARGE);
    // A body of exactly the limit is accepted, and so is a length that is given twice.
    assert_eq!(server.post("/b", "x".repeat(65536)).len(), 1);
    assert_eq!(server.ask(post("Content-Length: 1, 1\r\nContent-Length: 1\r\n", "x")).status, 200);
}

#[test]
fn connections_persist_as_asked() {
    let server = Tincan::start(&[]);
    let ask = |version: &str, fields: &str| {
        let mut wire = server.connect();
        wire.send(format!("GET /health HTTP/{version}\r\n{fields}\r\n"));
        let response = wire.response();
        assert_eq!(response.text(), "ok\n");
        let option = response.field("connection").map(String::from);
        if option.as_deref() == Some("close") {
            assert_eq!(wire.rest(), "");
        } else {
            wire.send(get(""));
            assert_eq!(wire.response().text(), "ok\n");
        }
        option
    };
    assert_eq!(ask("1.1", HOST), None);
    assert_eq!(ask("1.1", &format!("{HOST}Connection: foo, Close\r\n")).as_deref(), Some("close"));
    assert_eq!(ask("1.0", "").as_deref(), Some("close"));
    assert_eq!(ask("1.0", "Connection: Keep-Alive\r\n").as_deref(), Some("keep-alive"));
    let mut wire = server.connect();
    wire.send("GET /a HTTP/1.0\r\n\r\n");
    assert!(wire.until(b"\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
    let id = server.post("/a", "x");
    wire.block();
    wire.expect(format!("data: x\nid: {}\n\n", id[0]));
}

#[test]
fn head_is_get_without_the_body() {
    let server = Tincan::start(&[]);
    let fields = |head: &str| -> Vec<String> {
        head.lines().filter(|l| !l.starts_with("Date") && !l.starts_with("Connection")).map(String::from).collect()
    };
    for path in ["/", "/health", "/assets/chat.js", "/nothing/here"] {
        let mut wire = server.connect();
        wire.send(format!("HEAD {path} HTTP/1.1\r\n{HOST}\r\n"));
        let head = wire.until(b"\r\n\r\n");
        assert_eq!(fields(&head), fields(&server.get(path).head), "{path}");
        wire.send(get(""));
        assert_eq!(wire.response().text(), "ok\n", "the response to HEAD {path} has no body");
    }
    let mut wire = server.connect();
    wire.send(format!("HEAD /a HTTP/1.1\r\n{HOST}\r\n"));
    let head = wire.until(b"\r\n\r\n");
    let (stream, _) = server.listen("/a", "");
    drop(stream);
    assert!(head.contains("Content-Type: text/event-stream\r\n") && !head.contains("Content-Length"), "{head}");
    wire.send(get(""));
    assert_eq!(wire.response().text(), "ok\n");
}

#[test]
fn a_head_that_is_refused_has_no_body_either() {
    let server = Tincan::start(&[]);
    for (request, status) in [
        ("HEAD /health HTTP/1.1\r\n\r\n", 400),
        ("HEAD /health\n", 400),
        ("HEAD /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", 413),
        ("HEAD /nothing/here HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    ] {
        let mut wire = server.connect();
        wire.send(request);
        wire.shut();
        let all = wire.rest();
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")) && all.ends_with("\r\n\r\n"), "{request:?}: {all}");
    }
}

#[test]
fn answers_do_not_wait_for_each_other() {
    let server = Tincan::start(&["--quiet"]);
    let mut wire = server.connect();
    let mut round = |requests: usize| {
        let began = Instant::now();
        wire.send(get("").repeat(requests));
        for _ in 0..requests {
            assert_eq!(wire.response().text(), "ok\n");
        }
        began.elapsed()
    };
    // A single response has no response before it, so its time depends on this machine alone. Suppose each response
    // were held back until the one before is acknowledged. Then the second of three would take 40 ms longer, except
    // for the first few on a connection.
    let (mut ones, mut threes): (Vec<_>, Vec<_>) = (0..41).map(|_| (round(1), round(3))).unzip();
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (one, three) = (median(&mut ones), median(&mut threes));
    assert!(three < one + Duration::from_millis(30), "{three:?} for three, {one:?} for one");
}

#[test]
fn targets_are_taken_as_browsers_and_proxies_send_them() {
    let server = Tincan::start(&[]);
    let (mut subscriber, _) = server.listen("/a", "");
    let id = server.post("/%61?&event=a|b{c}^`\\&", "x");
    subscriber.expect(format!("event: a|b{{c}}^`\\\ndata: x\nid: {}\n\n", id[0]));
    for target in ["HTTP://localhost:1/health", "https://localhost/health"] {
        assert_eq!(server.get(target).text(), "ok\n", "{target}");
    }
    // A GET ignores unknown parameters.
    assert_eq!(server.get("/health?x=%ff&x&=").text(), "ok\n");
    for target in ["http://localhost", "http://localhost?x"] {
        assert_eq!(server.get(target).field("content-type"), Some("text/html; charset=utf-8"), "{target}");
    }
}

#[test]
fn options_tell_what_is_allowed() {
    let server = Tincan::start(&[]);
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/metrics", "GET, HEAD, OPTIONS"),
        ("/a", "GET, HEAD, POST, OPTIONS"),
        ("*", "GET, HEAD, POST, OPTIONS"),
    ] {
        let response = server.ask(format!("OPTIONS {path} HTTP/1.1\r\n{HOST}\r\n"));
        assert_eq!((response.status, response.field("allow")), (204, Some(allow)), "{path}");
        assert_eq!(response.field("content-length"), None, "a 204 has no length (RFC 9110 §8.6)");
    }
}

#[test]
fn the_page_goes_to_who_prefers_html() {
    let server = Tincan::start(&[]);
    let kind = |accept: &str| {
        let mut wire = server.connect();
        wire.send(format!("GET /a HTTP/1.1\r\n{HOST}{accept}\r\n"));
        let head = wire.until(b"\r\n\r\n");
        assert!(head.contains("\r\nVary: Accept\r\n"), "{head}");
        let line = head.lines().find(|l| l.starts_with("Content-Type: ")).unwrap();
        line["Content-Type: ".len()..].to_string()
    };
    let (page, stream) = ("text/html; charset=utf-8", "text/event-stream");
    assert_eq!(kind("Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"), page);
    assert_eq!(kind("Accept: text/HTML\r\n"), page);
    assert_eq!(kind("Accept: text/event-stream;q=0.1\r\nAccept: text/html; q=0.2\r\n"), page);
    assert_eq!(kind("Accept: text/*;q=0.9, text/event-stream;q=0.1\r\n"), page);
    assert_eq!(kind(""), stream);
    assert_eq!(kind("Accept: */*\r\n"), stream);
    assert_eq!(kind("Accept: text/event-stream\r\n"), stream);
    assert_eq!(kind("Accept: text/*\r\n"), stream);
    assert_eq!(kind("Accept: text/html;q=0.5, text/event-stream\r\n"), stream);
    assert_eq!(kind("Accept: text/html;q=0, */*\r\n"), stream);
}

#[test]
fn pages_come_with_their_policy_and_types() {
    policy_and_types(&[
        ("/", "text/html; charset=utf-8"),
        ("/assets/chat.css", "text/css; charset=utf-8"),
        ("/assets/chat.js", "text/javascript; charset=utf-8"),
        ("/assets/eventsource.js", "text/javascript; charset=utf-8"),
        ("/assets/fetch.js", "text/javascript; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/assets/shared.js", "text/javascript; charset=utf-8"),
        ("/assets/words.js", "text/javascript; charset=utf-8"),
    ]);
}

/// Gets these files, and checks their media types.
pub fn policy_and_types(files: &[(&str, &str)]) {
    let server = Tincan::start(&[]);
    for (path, kind) in files {
        let response = server.get(path);
        assert_eq!((response.status, response.field("content-type")), (200, Some(*kind)));
        assert_eq!(response.field("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.field("cache-control"), Some("no-cache"));
        assert_eq!(
            response.field("content-security-policy"),
            Some(
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                 base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
        );
    }
}

#[test]
fn health_and_metrics() {
    let server = Tincan::start(&[]);
    assert_eq!(server.get("/health").text(), "ok\n");
    let (mut subscriber, _) = server.listen("/b", "");
    server.post("/a", "x");
    let bytes = format!("data: hello\nid: {}\n\n", server.post("/b", "hello")[0]);
    subscriber.expect(&bytes);
    eventually("delivered bytes are counted", || {
        server.metric("tincan_delivered_bytes_total") == Some(bytes.len() as u64)
    });
    eventually("closed connections are no longer counted", || server.metric("tincan_connections") == Some(2));
    let response = server.get("/metrics");
    assert_eq!(response.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = response.text();
    let values: Vec<&str> =
        text.lines().filter(|l| !l.starts_with('#') && !l.starts_with("tincan_connections ")).collect();
    let published = bytes.len() * 2 - 4; // the data of the other event are four bytes shorter
    assert_eq!(
        values,
        [
            "tincan_channels 2",
            "tincan_events_total 2",
            &format!("tincan_published_bytes_total {published}"),
            &format!("tincan_delivered_bytes_total {}", bytes.len()),
            "tincan_dropped_subscribers_total 0",
            "tincan_subscribers{channel=\"a\"} 0",
            "tincan_subscribers{channel=\"b\"} 1",
        ]
    );
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split([' ', '{']).next().unwrap();
        assert!(text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    assert!(server.get("/metrics?channel=b").text().ends_with("gauge\ntincan_subscribers{channel=\"b\"} 1\n"));
}

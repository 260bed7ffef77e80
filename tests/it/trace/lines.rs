//! `--trace`: the note on each line, that no token is ever shown, and that nothing but text reaches a terminal.

use crate::core::tokens::encode;
use crate::support::harness::*;
use crate::support::wings::has;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use tincan::wings::trace::explain::{Explainer, MAX_LINE};
use tincan::wings::trace::secrets::{MarkedByte, Secrets, hide, unmarked as bytes, visible};

const TOKEN: &str = "ses%25me/Open+7"; // a token may look as if it was percent-encoded

pub fn traced(args: &[&str]) -> Tincan {
    Tincan::start(&[&["--trace", "--quiet"], args].concat())
}

/// Returns the lines of a connection once it has ended. Digits of epochs and reconnection times are replaced by 9,
/// and the date by D.
pub fn ended(server: &Tincan, number: usize) -> String {
    raw(server, number).lines().fold(String::new(), |out, line| out + &mask(line) + "\n")
}

fn raw(server: &Tincan, number: usize) -> String {
    let begin = format!("#{number} ");
    let end = format!("\n#{number} - ");
    eventually("the connection ends", || server.stderr().contains(&end));
    let stderr = server.stderr();
    stderr.lines().filter(|l| l.starts_with(&begin)).fold(String::new(), |out, l| out + l + "\n")
}

/// Replaces everything that differs each time, without changing its length.
pub fn mask(line: &str) -> String {
    if let Some((begin, rest)) = line.split_once("Date: ") {
        return format!("{begin}Date: {}{}", "D".repeat(29), &rest[29..]);
    }
    if let Some((begin, rest)) = line.split_once(": connected to /kitchen as ") {
        return format!("{begin}: connected to /kitchen as {}{}", "a".repeat(32), &rest[32..]);
    }
    let nines = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "9");
    match line.split_once("retry: ").or(line.split_once("User-Agent: ")) {
        Some((begin, _)) => format!("{begin}{}", nines(&line[begin.len()..])),
        None => line.split_inclusive(|c: char| !c.is_ascii_digit()).fold(String::new(), |out, word| {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit()).len();
            out + &if digits == 13 { nines(word) } else { word.into() }
        }),
    }
}

/// Formats text and notes of a connection like `--trace`, with the notes in their column.
pub fn shown(lines: &str) -> String {
    lines.lines().map(str::trim_start).filter(|l| !l.is_empty()).fold(String::new(), |out, line| {
        let (text, note) = line.split_once(" | ").unwrap();
        out + &format!("{}{:<40}  {note}\n", &text[..5], &text[5..].trim_end())
    })
}

/// Returns the lines of an explainer without colour for a connection: pieces of bytes, up (true) or down, and then
/// the end.
pub fn explained<'a>(secrets: &Arc<Secrets>, pieces: impl IntoIterator<Item = (bool, &'a [u8])>) -> String {
    explained_by(Explainer::new(1, false, secrets.clone()), pieces)
}

/// Returns the lines of this explainer for a connection.
pub fn explained_by<'a>(mut explainer: Explainer, pieces: impl IntoIterator<Item = (bool, &'a [u8])>) -> String {
    let mut out = String::new();
    for (up, bytes) in pieces {
        out += &if up { explainer.received(bytes) } else { explainer.sent(bytes) };
    }
    out + &explainer.end()
}

/// Checks several items at the same time.
fn side_by_side<T: Send>(all: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    let (mut shares, check) = ([(); 4].map(|()| Vec::new()), &check);
    all.into_iter().enumerate().for_each(|(n, one)| shares[n % 4].push(one));
    std::thread::scope(|s| {
        for share in shares {
            s.spawn(move || share.into_iter().for_each(check));
        }
    });
}

pub fn none() -> Arc<Secrets> {
    Arc::new(Secrets::default())
}

const HEAD_OF_200: &str = "
    #1 < HTTP/1.1 200 OK␍␊ | status line
    #1 < Date: DDDDDDDDDDDDDDDDDDDDDDDDDDDDD␍␊ | field line
    #1 < X-Content-Type-Options: nosniff␍␊ | field line
";
const HEAD_OF_400: &str = "
    #1 < HTTP/1.1 400 Bad Request␍␊ | status line
    #1 < Date: DDDDDDDDDDDDDDDDDDDDDDDDDDDDD␍␊ | field line
    #1 < X-Content-Type-Options: nosniff␍␊ | field line
    #1 < Content-Type: text/plain; charset=utf-8␍␊ | field line
    #1 < Cache-Control: no-store, no-transform␍␊ | field line
    #1 < Connection: close␍␊ | field line
";
const STREAM: &str = "
    #1 < Content-Type: text/event-stream␍␊ | field line
    #1 < X-Accel-Buffering: no␍␊ | field line
    #1 < Vary: Accept␍␊ | field line
    #1 < Cache-Control: no-store, no-transform␍␊ | field line
";

#[test]
fn a_stream_is_shown_line_by_line_with_what_each_line_is() {
    if !has("address") {
        return;
    }
    let server = Tincan::start(&["--trace", "--quiet", "--heartbeat", "1"]);
    let (mut wire, _) = server.listen("/kitchen", "");
    server.post("/kitchen?event=order", "two\nlines");
    wire.until(b"-1\n\n"); // on a slow machine a ping may come before it
    wire.expect(":ping\n\n");
    drop(wire);
    let got = ended(&server, 1);
    let expected = format!(
        "#1 > GET /kitchen HTTP/1.1␍␊ | request line
        #1 > Host: localhost␍␊ | field line
        #1 > ␍␊ | end of the head
        {HEAD_OF_200}{STREAM}
        #1 < Connection: close␍␊ | field line
        #1 < Transfer-Encoding: chunked␍␊ | field line
        #1 < ␍␊ | end of the head; chunks follow
        #1 < 5d␍␊ | chunk size: 93
        #1 < : connected to /kitchen as aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa␊ | comment
        #1 < retry: 9999␊ | retry: after 9999 ms
        #1 < id: 9999999999999-0␊ | id, from the blank line on
        #1 < ␊ | fires nothing; the id counts from here
        #1 < ␍␊ | end of the chunk
        #1 < 38␍␊ | chunk size: 56
        #1 < event: order␊ | event: the name of this event
        #1 < data: two␊ | data
        #1 < data: lines␊ | data
        #1 < id: 9999999999999-1␊ | id, from the blank line on
        #1 < ␊ | dispatch: order
        #1 < ␍␊ | end of the chunk"
    );
    let ping =
        shown("#1 < 7␍␊ | chunk size: 7\n#1 < :ping␊ | ping\n#1 < ␊ | fires nothing\n#1 < ␍␊ | end of the chunk");
    let dispatch = shown("#1 < ␊ | dispatch: order\n#1 < ␍␊ | end of the chunk");
    let (got, pings) = got.split_at(got.find(&dispatch).unwrap_or_else(|| panic!("{got}")) + dispatch.len());
    assert_eq!(got.replace(&ping, ""), shown(&expected));
    // The server finds a closed connection when it sends a ping.
    let end = shown("#1 -  | the connection ends, in the middle of a body");
    assert!(pings.replace(&ping, "") == end && pings.starts_with(&ping), "{pings}");
}

#[test]
fn requests_on_one_connection_are_told_apart_by_their_bodies() {
    let server = traced(&[]);
    let mut wire = server.connect();
    wire.send("\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nGET / \r\nsoup");
    assert_eq!(wire.response().status, 200);
    wire.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: Text/Event-Stream; x\r\nTransfer-Encoding: chunked\r\n");
    wire.send("Expect: 100-continue\r\n\r\n");
    wire.expect("HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("5;a=b\r\ndata:\r\n00009\r\n soup\n\nda\r\n6\r\nta: é\r\n1\r\n\r\r\n2\r\n\r:\r\n0\r\nA: b\r\n\r\n");
    assert_eq!(wire.response().status, 200);
    wire.send("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nHo st\r\n\r\nCookie: a\r\n");
    wire.until(b"\r\n\r\n");
    assert_eq!([wire.response().status, wire.response().status], [204, 400]);
    drop(wire);
    let why = tincan::wire::reject::REQUEST_LINE.line();
    let length = why.len();
    let text = "#1 < Content-Type: text/plain; charset=utf-8␍␊ | field line
        #1 < Cache-Control: no-store, no-transform␍␊ | field line";
    let expected = format!(
        "#1 > ␍␊ | empty line
        #1 > POST /a HTTP/1.1␍␊ | request line
        #1 > Host: a␍␊ | field line
        #1 > Content-Length: 12␍␊ | field line
        #1 > ␍␊ | end of the head; length of the body: 12
        #1 > GET / ␍␊ | body
        #1 > soup | body
        {HEAD_OF_200}{text}
        #1 < Content-Length: 16␍␊ | field line
        #1 < ␍␊ | end of the head; length of the body: 16
        #1 < 9999999999999-1␊ | body
        #1 > POST /a HTTP/1.1␍␊ | request line
        #1 > Host: a␍␊ | field line
        #1 > Content-Type: Text/Event-Stream; x␍␊ | field line
        #1 > Transfer-Encoding: chunked␍␊ | field line
        #1 > Expect: 100-continue␍␊ | field line
        #1 > ␍␊ | end of the head; chunks follow
        #1 < HTTP/1.1 100 Continue␍␊ | status line
        #1 < ␍␊ | end of the head
        #1 > 5;a=b␍␊ | chunk size: 5
        #1 > data: | not ended yet
        #1 > ␍␊ | end of the chunk
        #1 > 00009␍␊ | chunk size: 9
        #1 >  soup␊ | ... data
        #1 > ␊ | dispatch: message
        #1 > da | not ended yet
        #1 > ␍␊ | end of the chunk
        #1 > 6␍␊ | chunk size: 6
        #1 > ta: é | not ended yet
        #1 > ␍␊ | end of the chunk
        #1 > 1␍␊ | chunk size: 1
        #1 > ␍␊ | end of the chunk
        #1 > 2␍␊ | chunk size: 2
        #1 > ␍ | ... data
        #1 > ␍ | dispatch: message
        #1 > : | not ended yet
        #1 > ␍␊ | end of the chunk
        #1 > 0␍␊ | last chunk
        #1 > A: b␍␊ | trailer field
        #1 > ␍␊ | end of the body
        #1 >  | ... comment, without a line end
        {HEAD_OF_200}{text}
        #1 < Content-Length: 32␍␊ | field line
        #1 < ␍␊ | end of the head; length of the body: 32
        #1 < 9999999999999-2␊ | body
        #1 < 9999999999999-3␊ | body
        #1 > HEAD /a HTTP/1.1␍␊ | request line
        #1 > Host: a␍␊ | field line
        #1 > ␍␊ | end of the head
        #1 > OPTIONS * HTTP/1.1␍␊ | request line
        #1 > Host: a␍␊ | field line
        #1 > ␍␊ | end of the head
        #1 > Ho st␍␊ | request line
        #1 > ␍␊ | end of the head; refused by RFC 9112 §3
        #1 > Cookie: (not shown)␍␊ | not understood
        {HEAD_OF_200}{STREAM}
        #1 < ␍␊ | end of the head
        #1 < HTTP/1.1 204 No Content␍␊ | status line
        #1 < Date: DDDDDDDDDDDDDDDDDDDDDDDDDDDDD␍␊ | field line
        #1 < X-Content-Type-Options: nosniff␍␊ | field line
        #1 < Allow: GET, HEAD, POST, OPTIONS␍␊ | field line
        #1 < Cache-Control: no-store, no-transform␍␊ | field line
        #1 < ␍␊ | end of the head
        {HEAD_OF_400}
        #1 < Content-Length: {length}␍␊ | field line
        #1 < ␍␊ | end of the head; length of the body: {length}
        #1 < {}␊ | body
        #1 -  | the connection ends",
        why.trim_end()
    );
    let got = ended(&server, 1);
    for (got, expected) in got.lines().zip(shown(&expected).lines()) {
        assert_eq!(got, expected);
    }
    assert_eq!(got, shown(&expected));
}

#[test]
fn a_body_without_a_line_end_says_nothing_of_the_next() {
    let requests = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsoup\r\n0\r\n\r\n\
        POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nmore";
    let lines = explained(&none(), [(true, requests.as_bytes())]);
    let body: Vec<_> = lines.lines().filter(|l| l.ends_with("body") && !l.contains('␊')).collect();
    assert_eq!(body.join("\n") + "\n", shown("#1 > soup | body\n#1 > more | body"));
}

#[test]
fn what_cannot_be_understood_is_shown_and_said_to_be_refused() {
    for (request, last) in [
        ("HEAD /a HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", "end of the head; refused by RFC 9112 §5.1"),
        ("GET /a HTTP/1.1\nHost: a\n\n", "end of the head; refused by RFC 9112 §2.2"),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "no line end"),
        ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "chunk size, malformed"),
        ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "not understood"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nA: b\r", "no line end"),
    ] {
        let server = traced(&[]);
        let mut wire = server.connect();
        wire.send(request);
        wire.shut();
        // The response to a HEAD has no body, not even for a refusal.
        let response = wire.rest();
        let lines = ended(&server, 1);
        let up: Vec<_> = lines.lines().filter(|l| l.starts_with("#1 > ")).collect();
        assert!(up.last().unwrap().ends_with(last), "{request:?}: {lines}");
        assert!(!lines.contains("missing bytes"), "{request:?}: {lines}");
        assert_eq!(lines.ends_with("connection ends, in the middle of a head\n"), response.is_empty(), "{lines}");
        let bytes: usize = up.iter().map(|l| l.matches(['␍', '␊']).count()).sum();
        assert_eq!(bytes, request.matches(['\r', '\n']).count(), "{lines}");
    }
    // A refusal of a request that is not yet complete.
    let long = format!("HEAD /{}", "a".repeat(5000));
    let response = b"HTTP/1.1 414 URI Too Long\r\nContent-Length: 9\r\n\r\n";
    let lines = explained(&none(), [(true, long.as_bytes()), (false, response)]);
    assert!(lines.contains("  end of the head\n#1 > HEAD /aaa"), "{lines}");
    let lines = explained(&none(), [(false, &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"[..])]);
    assert!(lines.ends_with("the connection ends; missing bytes: 7\n"), "{lines}");
}

#[test]
fn a_request_cut_anywhere_is_explained_the_same() {
    for request in [
        "GET http://u:p@localhost/kitchen?a=b@c HTTP/1.1\r\nHost: localhost\r\nCookie: a\r\nX: é\u{1b}\r\n\r\n".as_bytes(),
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 23\r\n\r\none\r\ntwo\rthree\xff\n\xe6\xb1\xa4 four\r\n\r\nHEAD / HT",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
            9\r\ndata: \xe6\xb1\xa4\r\n3\r\n\r\n\n\r\n4\r\ndata\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\rB: c\r\n\r\nAuthorization: x\r\n y",
    ] {
        let whole = explained(&none(), [(true, request)]);
        let bytes = explained(&none(), request.chunks(1).map(|b| (true, b)));
        assert_eq!(whole, bytes);
        for at in 1..request.len() {
            let (a, b) = request.split_at(at);
            assert_eq!(whole, explained(&none(), [(true, a), (true, b)]), "cut at {at}");
        }
    }
    // The same over a socket.
    let server = traced(&[]);
    let mut wire = server.connect();
    for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" {
        wire.send([*byte]);
    }
    wire.rest();
    drop(wire); // otherwise the server waits for a while
    let up: String =
        ended(&server, 1).lines().filter(|l| l.starts_with("#1 > ")).map(|l| l.to_string() + "\n").collect();
    assert_eq!(
        up,
        shown(
            "#1 > GET /health HTTP/1.1␍␊ | request line\n#1 > Host: localhost␍␊ | field line\n\
        #1 > Connection: close␍␊ | field line\n#1 > ␍␊ | end of the head"
        )
    );
}

/// Returns the lines of a response without those of its chunks. Lines that were shown in pieces are joined.
fn without_chunks(lines: &str) -> Vec<String> {
    let framing = ["chunk size", "end of the chunk", "last chunk", "end of the body", "end of the head", "field line"];
    let mut out: Vec<(String, String)> = Vec::new();
    for line in lines.lines() {
        let (text, note) = line.split_once("  ").unwrap();
        let (text, note) = (text.strip_prefix("#1 < ").unwrap_or(text), note.trim_start());
        if framing.iter().any(|note_start| note.starts_with(note_start)) {
            continue;
        }
        match out.last_mut() {
            Some(last) if last.1 == "not ended yet" => {
                last.0 += text;
                last.1 = note.strip_prefix("... ").unwrap_or(note).into();
            }
            _ => out.push((text.into(), note.into())),
        }
    }
    out.into_iter().map(|(text, note)| format!("{text} | {note}")).collect()
}

#[test]
fn the_lines_of_a_stream_go_over_the_borders_of_its_chunks_unharmed() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    let body = "id:1\ndata:\u{6c64}\r\n\r\n:ping\n\nretry:9\r\revent:a\ndata\r\n\n".as_bytes();
    let chunk = |part: &[u8]| match part {
        [] => Vec::new(),
        _ => [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat(),
    };
    let plain = explained(&none(), [(false, format!("{head}\r\n").as_bytes()), (false, body)]);
    let plain = without_chunks(&plain);
    assert_eq!(plain.len(), 12, "{plain:?}");
    let head = format!("{head}Transfer-Encoding: Chunked\r\n\r\n");
    for first in 0..=body.len() {
        for second in first..=body.len() {
            let parts = [&body[..first], &body[first..second], &body[second..]];
            let chunks = [parts.map(chunk).concat(), b"0\r\n\r\n".to_vec()].concat();
            let whole = explained(&none(), [(false, head.as_bytes()), (false, &chunks[..])]);
            assert!(whole.ends_with("  the connection ends\n"), "{whole}");
            assert_eq!(without_chunks(&whole), plain, "{whole}");
            let count = |text: &str| whole.matches(text).count();
            let (sizes, borders) =
                (parts.iter().filter(|part| !part.is_empty()).count(), count("  end of the chunk\n"));
            assert_eq!((count("  chunk size: "), borders, count("  last chunk\n")), (sizes, sizes, 1), "{whole}");
        }
        let bytes = [&chunk(&body[..first])[..], &chunk(&body[first..])].concat();
        let bytes = bytes.chunks(1).map(|byte| (false, byte));
        let cut = explained(&none(), [(false, head.as_bytes())].into_iter().chain(bytes));
        assert!(cut.ends_with("  the connection ends, in the middle of a body\n"), "{cut}");
    }
}

#[test]
fn how_an_answer_in_chunks_ends_is_told() {
    let thrown = "; the client discards the lines after the last blank line";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, end, last) in [
        ("7\r\n:ping\n\n\r\n0\r\n\r\n", "end of the body", ""),
        ("7\r\n:ping\n\n\r\n", "end of the chunk", ", in the middle of a body"),
        ("7\r\n:ping\n\n\r\n0\r\n", "last chunk", ", in the middle of a body"),
        ("7\r\n:ping\n\n", "fires nothing", ", in the middle of a body"),
        ("6\r\ndata:a\r\n", "end of the chunk", &format!(", in the middle of a body{thrown}")),
        ("7\r\ndata:a\n\r\n0\r\n\r\n", &format!("end of the body{thrown}"), ""),
        ("9\r\ndata:a\n", "data", &format!("; missing bytes: 2{thrown}")),
        ("", "end of the head; chunks follow", ", in the middle of a body"),
    ] {
        let lines = explained(&none(), [(false, head.as_bytes()), (false, body.as_bytes())]);
        let mut lines = lines.lines().rev().map(|line| line.split_once("  ").unwrap().1.trim_start());
        assert_eq!(lines.next().unwrap(), format!("the connection ends{last}"), "{body:?}");
        assert_eq!(lines.next().unwrap(), end, "{body:?}");
    }
}

/// Returns the token with every byte as `%XX`. In the first form all hex digits are in upper case, in the second the
/// cases are mixed.
fn percent(token: &str) -> [String; 2] {
    let upper: String = token.bytes().map(|b| format!("%{b:02X}")).collect();
    let mixed = token.bytes().enumerate().map(|(n, b)| match (n % 3, b.is_ascii_alphanumeric()) {
        (0, _) | (_, false) => format!("%{b:02x}"),
        _ => char::from(b).to_string(),
    });
    [upper, mixed.collect()]
}

/// Returns all texts that reveal the token: itself, and the parts of its base64 that depend on it alone.
fn spellings() -> &'static [String] {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(spell);
    &ALL
}

fn spell() -> Vec<String> {
    let mut all = vec![TOKEN.to_string()];
    all.extend(percent(TOKEN));
    for before in ["", "u", "me"] {
        let code = encode(format!("{before}{TOKEN}").as_bytes());
        all.push(code.trim_end_matches('=')[before.len() * 4 / 3 + 1..].trim_end_matches('=')[..16].to_string());
    }
    all
}

fn shows_no_token(text: &str, source: &str) {
    for secret in spellings() {
        assert!(!text.contains(secret), "{secret} of {source} is in {text}");
    }
}

/// Returns requests that contain the token. Each `{}` is replaced by one of its spellings.
fn with_token() -> Vec<String> {
    let [upper, mixed] = percent(TOKEN);
    let basic = |user: &str| encode(format!("{user}:{TOKEN}").as_bytes());
    let codes = ["", "u", "me"].map(basic);
    let mut all = Vec::new();
    for token in [TOKEN.to_string(), upper, mixed].into_iter().chain(codes) {
        let n = token.len();
        all.extend([
            format!("GET /{token}?x={token}&{token}#{token} HTTP/1.1\r\nHost: a\r\nX-A: {token}, {token}\r\n\r\n"),
            format!("GET http://u:{token}@a/ HTTP/1.1\r\nHost: a:{token}@b\r\nReferer: http://{token}@c/\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\n{token}: b\r\nA:\r\n {token}\r\n\tb{token}{token}\r\n\r\n{token}\r\n"),
            format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\na{token}\r{token}b", n * 2 + 3),
            format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{n:x};{token}\r\n{token}\r\n0\r\nA: {token}\r\n\r\n"),
            format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\nevent: {token}\ndata: {token}\n\n", n * 2 + 16),
        ]);
    }
    all
}

/// Requests with a password that the server does not know. Such passwords must not be shown either.
const UNKNOWN: [&str; 12] = [
    "GET / HTTP/1.1\r\nAuthorization: Bearer pass-word\r\n\r\n",
    "GET / HTTP/1.1\r\nauthorization:pass-word\r\n\r\n",
    "GET / HTTP/1.1\r\nPROXY-Authorization \t: pass-word\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n  Cookie: pass-word\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\tCookie: pass-word\r\n\r\n",
    "GET / HTTP/1.1\r\nSet-Cookie:\r\n pass-word\r\n\tpass-word\r\n\r\n",
    "GET / HTTP/1.1\r\nAuthorization Bearer pass-word\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\rAuthorization: pass-word\r\n\r\n",
    "GET / HTTP/1.1\nCookie: pass-word\n pass-word\n\n",
    "GET http://u:pass-word@a/ HTTP/1.1\r\nHost: u:pass-word@b\r\nReferer: https://pass-word:p@pass-word@c/\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nCookie: pass-word\r\n\r\n",
    "nonsense\r\n\r\nAuthorization: pass-word\r\n pass-word\r\n\r\n",
];

#[test]
fn no_token_is_ever_shown_wherever_a_request_is_cut() {
    let secrets = Arc::new(Secrets::new([TOKEN]));
    side_by_side(with_token().into_iter().enumerate(), |(n, request)| {
        let bytes = request.as_bytes();
        shows_no_token(&explained(&secrets, [(true, bytes)]), &request);
        // Half of the spellings are cut: unencoded, partly percent-encoded, and in base64.
        for at in (0..=bytes.len()).filter(|_| n / 6 % 2 == 0) {
            let (a, b) = bytes.split_at(at);
            let ended = explained(&secrets, [(true, a)]);
            shows_no_token(&ended, &request);
            assert!(!ended.contains(&TOKEN[..6]), "not even the beginning of the token may be shown: {ended}");
            shows_no_token(&explained(&secrets, [(true, a), (true, b)]), &request);
            // The same bytes from the server: then each piece is shown at once.
            let body = b"HTTP/1.1 200 OK\r\n\r\n";
            shows_no_token(
                &explained(&secrets, [(false, &body[..]), (false, a), (false, b)]).replace("  body\n#1 < ", ""),
                &request,
            );
        }
    });
    for request in UNKNOWN {
        for at in 0..=request.len() {
            let (a, b) = request.as_bytes().split_at(at);
            for text in [explained(&none(), [(true, a)]), explained(&none(), [(true, a), (true, b)])] {
                assert!(!text.contains("word"), "{request:?}: {text}");
            }
        }
        assert!(explained(&none(), [(true, request.as_bytes())]).contains("(not shown)"));
    }
}

/// Shows a line outside a body by the letter of the rule: at each `@`, the word before it is hidden from its
/// beginning. If `cut`, the line may go on.
fn without_user_information(line: &str, cut: bool) -> String {
    let mut marked: Vec<MarkedByte> = bytes(line.as_bytes());
    for at in (0..=line.len()).filter(|at| line.as_bytes().get(*at).map_or(cut, |b| *b == b'@')) {
        let start = line[..at].rfind([' ', '\t', '/', '?', '#']).map_or(0, |n| n + 1);
        let (before, word) = line[..at].split_at(start);
        let uri = before.ends_with("//");
        if (uri || before.is_empty() || before.ends_with([' ', '\t'])) && (at < line.len() || uri || word.contains(':'))
        {
            hide(&mut marked[start..at]);
        }
    }
    visible(&marked)
}

#[test]
fn words_before_an_at_sign_are_hidden_and_no_others() {
    let mut random = Random(8);
    let mut hidden = 0;
    for _ in 0..50_000 {
        let length = random.index(12);
        let mut line: String = (0..length).map(|_| char::from(b"@@@://?# \ta"[random.index(11)])).collect();
        let cut = random.below(2) == 0;
        line += if cut { "" } else { "\r\n" };
        let expected = without_user_information(&line, cut);
        let lines = explained(&none(), [(true, line.as_bytes())]);
        if !line.is_empty() {
            assert!(lines.starts_with(&format!("#1 > {expected:<40}  ")), "{line:?}: {expected}\n{lines}");
        }
        hidden += usize::from(expected.contains("(not shown)"));
    }
    assert!(hidden > 10_000, "{hidden}");
}

#[test]
fn no_token_is_shown_that_a_chunk_or_the_limit_of_a_line_cuts() {
    let secrets = Arc::new(Secrets::new([TOKEN]));
    for at in 1..TOKEN.len() {
        let (a, b) = TOKEN.split_at(at);
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\nx{a}\r\n{:x}\r\n{b}y\r\n0\r\n\r\n",
            a.len() + 1,
            b.len() + 1
        );
        let lines = explained(&secrets, [(true, request.as_bytes())]);
        let body: Vec<_> = lines.lines().filter(|l| l.ends_with("  body")).collect();
        let trimmed = |line: &str| line.trim_start_matches("#1 > ").trim_end_matches("body").trim().to_string();
        let body: String = body.into_iter().map(trimmed).collect::<Vec<_>>().join("").replace("...", "");
        assert!(body.starts_with('x') && body.ends_with("(not shown)y"), "{lines}");
        shows_no_token(&body, &request);
    }
    let rooms = (MAX_LINE - 60..=MAX_LINE).step_by(2); // in steps of the bytes of a letter
    side_by_side(rooms, |room| {
        for (begin, token) in [
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", TOKEN),
            ("GET / HTTP/1.1\r\n", TOKEN),
            ("GET / HTTP/1.1\r\nCookie: ", "pass-word"),
            ("GET http://", "u:pass-word@a/"),
        ] {
            let request = format!("{begin}{}{token}{}{token}", "é".repeat(room / 2), "é".repeat(MAX_LINE / 2));
            let lines = explained(&secrets, [(true, request.as_bytes())]);
            shows_no_token(&lines, begin);
            assert!(!lines.contains("word") && !lines.contains("⟨"), "{lines}");
            assert!(lines.len() < request.len() + 2000 && lines.lines().count() < 15, "{lines}");
        }
    });
}

#[test]
fn the_tokens_of_the_file_are_never_on_standard_error() {
    let scratch = Scratch::new();
    let path = scratch.0.join("tokens");
    fs::write(&path, format!("publish {TOKEN}\nread pass-word\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let server = traced(&["--token-file", path.to_str().unwrap()]);
    let requests = with_token();
    for request in requests.iter().map(String::as_str).chain(UNKNOWN) {
        let mut wire = server.connect();
        wire.send(request);
        wire.shut();
        wire.rest();
    }
    let fields = format!("Authorization: Basic {}\r\n", encode(format!("me:{TOKEN}").as_bytes()));
    assert_eq!(server.post_with("/a", &fields, format!("a{TOKEN}")).status, 200);
    let (mut wire, _) = server.listen("/a?since=all", "Authorization: Bearer pass-word\r\n");
    wire.expect(format!("data: a{TOKEN}\n"));
    eventually("everything is shown", || server.stderr().contains("data: a(not shown)␊"));
    let stderr = server.stderr();
    assert!(stderr.contains("Authorization: (not shown)␍␊") && stderr.contains("\n  trace: "), "{stderr}");
    assert!(stderr.matches("> POST").count() >= 19, "{stderr}");
    shows_no_token(&stderr, "a request");
    assert!(!stderr.contains("pass-word"), "{stderr}");
}

#[test]
fn nothing_reaches_standard_error_but_text() {
    let server = traced(&[]);
    let evil = "\u{1b}[31m\u{9b}31m\u{202e}\u{2066}\u{7}\u{8}\u{7f}\u{0}\t\u{200b}\u{feff}\u{2028}";
    for request in [
        format!("GET /{evil} HTTP/1.1\r\nHost: a\r\n{evil}: {evil}\r\n\r\n{evil}\r\n"),
        format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{evil}", evil.len()),
        format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;{evil}\r\n{evil}"),
        format!(
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\nevent: {evil}\ndata\n\n",
            evil.len() + 14
        ),
    ] {
        let mut wire = server.connect();
        wire.send(&request);
        wire.send([0xff, 0xc2, 0x9b, 0xe2, 0x80]);
        wire.shut();
        wire.rest();
    }
    let lines = ended(&server, 4) + &ended(&server, 1);
    let pictures = "␛[31m⟨U+009B⟩31m⟨U+202E⟩⟨U+2066⟩␇␈␡␀␉⟨U+200B⟩⟨U+FEFF⟩⟨U+2028⟩";
    assert!(
        lines.contains(&format!("#1 > GET /{pictures} HTTP/1.1␍␊")) && lines.contains("⟨FF⟩⟨U+009B⟩⟨E2⟩⟨80⟩"),
        "{lines}"
    );
    let stderr = server.stderr();
    assert!(
        !stderr.contains(|c: char| c != '\n' && c.is_control() || "\u{202e}\u{2066}\u{feff}".contains(c)),
        "{stderr}"
    );
    assert!(
        explained(
            &none(),
            [(
                false,
                format!("HTTP/1.1 200\r\nContent-Type: text/event-stream\r\n\r\nevent: {evil}\ndata\n\n").as_bytes()
            )]
        )
        .contains(&format!("  dispatch: {pictures}\n"))
    );
}

#[test]
fn random_bytes_make_lines_and_nothing_else() {
    let words: [&[u8]; 40] = [
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\n\n",
        b" ",
        b":",
        b"%",
        b"@",
        b"//",
        b"/",
        b"\0",
        b"\x1b[31m",
        b"\xff",
        b"\xc2",
        b"\x9b",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xae",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n",
        b"Content-Length: 9\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Type: text/event-stream\r\n",
        b"Authorization: x\r\n",
        b"Cookie",
        b"5\r\n",
        b"0\r\n",
        b"ffffffffffffffff\r\n",
        b"data: ",
        b"event: ",
        b"id: ",
        b"retry: 5",
        b"ses%25me/",
        b"Open+7",
        b"%6F",
    ];
    let secrets = Arc::new(Secrets::new([TOKEN, "aaaa"]));
    side_by_side(0..100, |seed| {
        let mut random = Random(seed);
        let color = seed % 2 == 0;
        let mut explainer = Explainer::new(1, color, secrets.clone());
        let mut out = String::new();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            let mut bytes = Vec::new();
            for _ in 0..random.below(30) {
                bytes.extend_from_slice(words[random.index(words.len())]);
            }
            if random.below(20) == 0 {
                bytes.extend([b'a'].repeat(random.index(20_000)));
            }
            let (side, lines) = match random.below(2) {
                0 => (&mut up, explainer.received(&bytes)),
                _ => (&mut down, explainer.sent(&bytes)),
            };
            side.extend_from_slice(&bytes);
            out += &lines;
        }
        out += &explainer.end();
        if color {
            for code in ["\x1b[36m", "\x1b[32m", "\x1b[2m", "\x1b[0m"] {
                out = out.replace(code, "");
            }
        }
        assert!(!out.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "seed {seed}: {out}");
        assert!(
            out.lines().all(|l| ["#1 > ", "#1 < ", "#1 - "].iter().any(|b| l.starts_with(b))),
            "seed {seed}: {out}"
        );
        shows_no_token(&out, "random bytes");
        // Nothing is lost: each byte that has a sign of its own is there.
        for (sign, side) in [("#1 > ", &up), ("#1 < ", &down)] {
            let lines: String = out.lines().filter(|l| l.starts_with(sign)).collect();
            assert_eq!(lines.matches('␊').count(), side.iter().filter(|b| **b == b'\n').count(), "seed {seed}: {out}");
        }
    });
}

#[test]
fn lines_of_several_connections_do_not_mix() {
    let server = traced(&[]);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let server = &server;
            scope.spawn(move || (0..20).for_each(|_| drop(server.post(&format!("/c{n}"), "one\n".repeat(50)))));
        }
    });
    eventually("all connections are shown", || (1..=160).all(|n| server.stderr().contains(&format!("\n#{n} - "))));
    // Before the first of these lines comes the server's greeting. It is longer if the system's limits are low.
    for line in server.stderr().lines().skip_while(|line| !line.starts_with('#')) {
        let (number, rest) = line.strip_prefix('#').unwrap().split_once(' ').unwrap();
        assert!((1..=160).contains(&number.parse::<u32>().unwrap()), "{line}");
        assert!(["> ", "< ", "- "].iter().any(|sign| rest.starts_with(sign)) && rest.contains("  "), "{line}");
    }
}

#[test]
fn it_is_in_colour_on_a_terminal_alone_and_where_nobody_says_otherwise() {
    let server = traced(&[]);
    server.get("/health");
    ended(&server, 1);
    assert!(!server.stderr().contains('\u{1b}'), "{}", server.stderr());
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("left out: there is no script (util-linux) to make a terminal");
        return;
    }
    for (env, color) in [
        ("TERM=xterm", true),
        ("TERM=xterm NO_COLOR=", true),
        ("TERM=xterm NO_COLOR=1", false),
        ("TERM=xterm NO_COLOR=0", false),
        ("TERM=dumb", false),
    ] {
        let program = env!("CARGO_BIN_EXE_tincan");
        let line = format!("echo $$; exec env {env} {program} --listen 127.0.0.1:0 --trace --quiet");
        let mut command = Command::new("script");
        command.args(["-qefc", &line, "/dev/null"]).env_remove("NO_COLOR").env_remove("PORT");
        command.env("SHELL", "/bin/sh"); // the user `nobody` has no shell
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut child = Ended(child);
        let mut out = BufReader::new(child.0.stdout.take().unwrap());
        let mut next = || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line
        };
        let (pid, greeting) = (next(), next());
        let port = greeting.trim().trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
        let mut wire = Wire::to(port);
        wire.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        wire.response();
        let first = (0..10).map(|_| next()).find(|l| l.contains("#1")).unwrap();
        assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
        let mut rest = String::new();
        let _ = out.read_to_string(&mut rest); // reading from a closed terminal is an error
        let text = format!("{:<40}  ", "GET /health HTTP/1.1␍␊");
        let expected = match color {
            true => format!("\x1b[36m#1 >\x1b[0m {text}\x1b[2mrequest line\x1b[0m"),
            false => format!("#1 > {text}request line"),
        };
        assert_eq!(first.trim_end(), expected, "{env}");
    }
}

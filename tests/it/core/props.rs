//! Properties that hold for all bodies and all requests, tested with a seeded generator.

use crate::support::harness::*;
use std::sync::Arc;
use tincan::log::disk::Dir;
use tincan::log::positions::{Log, Since};
use tincan::log::writer::Writer;
use tincan::wire::chunked::Chunked;
use tincan::wire::event::{Event, parse};
use tincan::wire::http::{BodyLength, HeadEnd, MAX_FIELDS, MAX_SECTION, MAX_TARGET, Request, date, is_token};
use tincan::wire::id::Id;
use tincan::wire::reject::{CHUNK, LARGE_SECTION, LONE_CR, LONE_LF, LONG_TARGET, METHOD, REQUEST_LINE, Reject};

impl Random {
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.index(of.len())]
    }

    /// Returns a text of parts that an attacker would use.
    fn text(&mut self) -> String {
        let parts = [
            "\n", "\r", "\r\n", "\n\n", "data: ", "id: 9-9", "event: x", ":", "retry: 1", " ", "a", "\0", "\u{feff}",
            "é", "\u{2028}",
        ];
        let count = self.index(12);
        (0..count).map(|_| self.pick(&parts)).collect()
    }
}

/// The algorithm of WHATWG HTML, "Interpreting an event stream", written again to the letter. Returns (type, data,
/// id) of each event that a client fires.
pub fn interpret(stream: &str) -> Vec<(String, String, String)> {
    let (mut data, mut kind, mut id, mut fired) = (String::new(), String::new(), String::new(), Vec::new());
    let mut last_id = String::new();
    for line in stream.replace("\r\n", "\n").replace('\r', "\n").split_terminator('\n') {
        if line.is_empty() {
            last_id.clone_from(&id);
            if !data.is_empty() {
                data.pop();
                fired.push((kind.clone(), data.clone(), last_id.clone()));
            }
            data.clear();
            kind.clear();
            continue;
        }
        if line.starts_with(':') {
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = value.into(),
            "data" => data += &format!("{value}\n"),
            "id" if !value.contains('\0') => id = value.into(),
            _ => {}
        }
    }
    fired
}

#[test]
fn no_body_can_make_a_second_event_an_id_or_a_field() {
    let server = Tincan::start(&["--quiet", "--history", "16M"]);
    let (mut reader, _) = server.listen("/a", "");
    let mut publisher = server.connect();
    let mut random = Random(1);
    for _ in 0..2000 {
        let body = random.text();
        let length = body.len();
        publisher
            .send(format!("POST /a?event=named HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"));
        let id = publisher.response().text();
        let block = reader.until(format!("id: {id}\n").as_bytes());
        let data = body.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(interpret(&block), [("named".into(), data, id.trim_end().into())], "{body:?} became {block:?}");
    }
}

#[test]
fn what_is_published_as_a_stream_is_what_a_client_would_fire() {
    let mut random = Random(2);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let body = random.text() + &random.text() + "\n\n";
        let without_mark = body.strip_prefix('\u{feff}').unwrap_or(&body);
        let expected = interpret(without_mark);
        if let Ok(events) = parse(&body) {
            let mut out = Vec::new();
            events.iter().for_each(|e| e.write(Some("1-1"), &mut out));
            let fired = interpret(&String::from_utf8(out).unwrap());
            let without_id =
                |all: Vec<(String, String, String)>| all.into_iter().map(|e| (e.0, e.1)).collect::<Vec<_>>();
            assert_eq!(without_id(fired), without_id(expected), "{body:?}");
            accepted += 1;
        }
    }
    assert!(accepted > 1000, "{accepted}");
}

type Found = Result<Option<usize>, Reject>;

/// Finds the end of a head by the letter of the rules. Each rule looks at all bytes.
fn by_the_letter(buf: &[u8]) -> Found {
    let (mut at, mut count, mut section) = (0, 0, None);
    loop {
        let line = buf[at..].split(|b| *b == b'\n').next().unwrap();
        if let Some(section) = section {
            count += 1;
            if at + line.len() - section > MAX_SECTION + 1 || count > MAX_FIELDS + 1 {
                return Err(LARGE_SECTION);
            }
        } else {
            let parts: Vec<_> = line.splitn(3, |b| *b == b' ').map(<[u8]>::len).collect();
            if parts[0] >= 32 && line.len() > 32 && is_token(&line[..32]) {
                return Err(METHOD);
            }
            if parts[0] >= 32 && line.len() > 32 || parts.get(2).is_some_and(|version| *version >= 32) {
                return Err(REQUEST_LINE);
            }
            if parts.get(1).is_some_and(|target| *target > MAX_TARGET) {
                return Err(LONG_TARGET);
            }
        }
        if at + line.len() == buf.len() {
            return Ok(None);
        }
        let text = line.strip_suffix(b"\r").ok_or(LONE_LF)?;
        if text.contains(&b'\r') {
            return Err(LONE_CR);
        }
        at += line.len() + 1;
        section = section.or(Some(at));
        if text.is_empty() {
            return Ok(Some(at));
        }
    }
}

/// Feeds the bytes piece by piece, and returns the result and the number of bytes after which it was known.
fn found(bytes: &[u8], mut sizes: impl FnMut() -> usize) -> (usize, Found) {
    let mut end = HeadEnd::default();
    let mut n = 0;
    loop {
        let found = end.find(&bytes[..n]);
        if found != Ok(None) || n == bytes.len() {
            return (n, found);
        }
        n = bytes.len().min(n + sizes());
    }
}

/// Asserts that the same byte decides as by the rules, however the bytes arrive.
fn ends_by_the_letter(bytes: &[u8], random: &mut Random) {
    let (n, by_bytes) = found(bytes, || 1);
    let shown = String::from_utf8_lossy(bytes);
    assert_eq!(by_bytes, by_the_letter(&bytes[..n]), "{shown:?}");
    if n > 0 {
        assert_eq!(by_the_letter(&bytes[..n - 1]), Ok(None), "{shown:?}");
    }
    assert_eq!(found(bytes, || bytes.len()).1, by_bytes, "{shown:?}");
    assert_eq!(found(bytes, || 1 + random.index(bytes.len())).1, by_bytes, "{shown:?}");
}

#[test]
fn a_head_ends_or_is_refused_at_the_byte_that_decides() {
    let mut random = Random(6);
    let ends = ["", "\r", "\n", "\r\n", "\r\n\r\n", " ", "\r\r\n", "\n\r\n", " a\r\n\r\n"];
    for begin in ["", "\r\n", "\r", "\n", " ", "  ", "a", "a b", "a b c", "a b c d"] {
        for end in ends {
            ends_by_the_letter(format!("{begin}{end}").as_bytes(), &mut random);
        }
    }
    // Each part up to its limit and beyond it.
    for end in ends {
        for more in 0..4 {
            let a = |most: usize| "a".repeat(most - 2 + more);
            for head in [
                a(32),
                format!("a {}", a(MAX_TARGET)),
                format!("a b {}", a(32)),
                format!("a b {} {}", "c".repeat(9), a(22)),
                format!("a b c\r\n{}", a(MAX_SECTION)),
                format!("a b c\r\nb: {}\r\n{}", "c".repeat(100), a(MAX_SECTION - 105)),
                format!("a b c\r\n{}a: b", "a: b\r\n".repeat(MAX_FIELDS - 2 + more)),
            ] {
                ends_by_the_letter((head + end).as_bytes(), &mut random);
            }
        }
    }
}

#[test]
fn a_request_cut_at_any_byte_parses_the_same() {
    let whole = "POST /a?event=b%20c HTTP/1.1\r\nHost: localhost:80\r\nX-Empty:\r\nAccept: a/b,\r\n\tc\r\n\r\n"
        .replace(",\r\n\tc", "");
    let bytes = whole.as_bytes();
    for cut in 0..bytes.len() {
        assert_eq!(HeadEnd::default().find(&bytes[..cut]), Ok(None), "{cut}");
    }
    assert_eq!(found(bytes, || 1), (bytes.len(), Ok(Some(bytes.len()))));
    assert_eq!(found(&[bytes, b"body"].concat(), || 1000).1, Ok(Some(bytes.len())));
    assert!(Request::parse(bytes).is_ok());

    let body =
        "4\r\nWiki\r\n6 ;\tx= \"\\\";\" ;y\r\npedia \r\n0E\r\nin \r\n\r\nchunks.\r\n0\r\nA: b\r\n\r\nGET".as_bytes();
    for first in 0..body.len() {
        for second in first..body.len() {
            let (mut chunked, mut at, mut complete) = (Chunked::default(), 0, false);
            for end in [first, second, body.len()] {
                if !complete {
                    let (used, done) = chunked.feed(&body[at..end], 100).unwrap();
                    (at, complete) = (at + used, done);
                }
            }
            assert!(complete && &body[at..] == b"GET", "{first} {second}");
            assert_eq!(chunked.body, b"Wikipedia in \r\n\r\nchunks.");
        }
    }
    // The longest line before a chunk, with its CR and its LF in two pieces.
    let line = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(254));
    let mut chunked = Chunked::default();
    assert_eq!(chunked.feed(&line.as_bytes()[..257], 100), Ok((257, false)));
    assert_eq!(chunked.feed(&line.as_bytes()[257..], 100), Ok((line.len() - 257, true)));
    // A line that is too long is refused for that reason, wherever it is cut and however it ends.
    let line = format!("1;{}\n", "x".repeat(300));
    for size in [1, line.len()] {
        let mut chunked = Chunked::default();
        let mut fed = line.as_bytes().chunks(size).map(|part| chunked.feed(part, 100));
        assert_eq!(fed.find(|fed| *fed != Ok((size, false))), Some(Err(CHUNK)), "{size}");
    }
    // The same over a socket, with a pause at every byte.
    let server = Tincan::start(&["--quiet"]);
    let request = "POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let mut wire = server.connect();
    for cut in 1..request.len() {
        wire.send(&request[..cut]);
        std::thread::yield_now();
        wire.send(&request[cut..]);
        assert_eq!(wire.response().status, 200, "{cut}");
    }
    let kept = server.get("/a?wait=0&since=all").text();
    assert_eq!(kept.matches("data: ab\n").count(), request.len() - 1);
}

/// Random damage to valid requests. The parser decides the same however the bytes arrive. It accepts no request
/// without a host or a valid length, or with a control character. And the server always answers or closes.
#[test]
fn damaged_requests_are_answered_or_refused_and_never_more() {
    let server = Tincan::start(&["--quiet"]);
    let good = "POST /a?event=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nX: y\r\n\r\n";
    let mut random = Random(3);
    let mut pieces = Random(7);
    let mut damaged = || {
        let mut bytes = good.as_bytes().to_vec();
        for _ in 0..=random.index(3) {
            let (at, byte) = (random.index(bytes.len()), b"\r\n \t:;,\0\x7f\xffa0/%?"[random.index(15)]);
            match random.index(3) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    };
    for _ in 0..50_000 {
        let bytes = damaged();
        ends_by_the_letter(&bytes, &mut pieces);
        if let Ok(Some(end)) = HeadEnd::default().find(&bytes)
            && let Ok(req) = Request::parse(&bytes[..end])
        {
            let text = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let lines: Vec<&str> = text.split("\r\n").collect();
            let values = |name: &str| -> Vec<&str> {
                let fields = lines.iter().skip(1).filter_map(|l| l.split_once(':'));
                fields.filter(|(n, _)| *n == name).map(|(_, v)| v.trim_matches([' ', '\t'])).collect()
            };
            assert!(
                req.target.bytes().all(|b| b.is_ascii_graphic()),
                "a target in the request log has only graphic characters"
            );
            assert!(!text.contains(['\0', '\x7f']), "{text:?}");
            assert_eq!(values("host").len(), 1, "{text:?}");
            let length = match values("content-length")[..] {
                [] => 0,
                [one] => one.split(',').next().unwrap().trim().parse().unwrap(),
                _ => panic!("two lengths: {text:?}"),
            };
            assert_eq!(req.body_length, BodyLength::Known(length), "{text:?}");
        }
    }
    for _ in 0..300 {
        let mut wire = server.connect();
        wire.send([&damaged()[..], b"abc"].concat());
        wire.shut();
        let response = wire.rest();
        // A damaged request may be two requests now. Each response begins with a status line.
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 "), "{response:?}");
        let (heads, ends) = (response.matches("\r\nDate: ").count(), response.matches("\r\n\r\n").count());
        assert!(heads == ends && heads <= 2, "{response:?}");
    }
    assert_eq!(server.get("/health").text(), "ok\n");
}

#[test]
fn a_log_finds_every_place_in_any_part() {
    finds_every_place(4, (Log::new(7, 4096), Writer::default()), &mut |_| None);
}

#[test]
fn a_log_in_files_finds_every_place_in_any_part_and_epoch() {
    let scratch = Scratch::new();
    let dir = Arc::new(Dir::open(&scratch.0, false, false).unwrap());
    let open = |epoch| Log::open(&dir, "a", epoch, 4096, false, &mut |_| panic!("nothing is cut")).unwrap();
    let mut epochs = 7..;
    finds_every_place(5, open(6), &mut |random| (random.index(30) == 0).then(|| open(epochs.next().unwrap())));
    let bytes: u64 = ["a.sse", "a.old.sse"].iter().map(|f| scratch.0.join(f).metadata().unwrap().len()).sum();
    assert!(bytes <= 4096, "{bytes} bytes in files");
}

/// Appends an event as a channel does; returns its id.
fn append(log: &mut Log, writer: &mut Writer, event: &Event) -> Id {
    let end = log.tail();
    let id = end.written.id.plus(1);
    writer.unit.clear();
    event.write(Some(id), &mut writer.unit);
    let settle = writer.seal(1, end.newest_len);
    let begun = writer.write(&end, settle).unwrap();
    log.commit(&writer.unit, id, begun, true);
    log.set_heard(log.tail().written);
    id
}

type Opened = (Log, Writer);

/// Appends events of all sizes, and from time to time opens the log again.
fn finds_every_place(seed: u64, opened: Opened, reopen: &mut dyn FnMut(&mut Random) -> Option<Opened>) {
    let (mut log, mut writer) = opened;
    let mut random = Random(seed);
    let mut all: Vec<(Id, Vec<u8>)> = Vec::new();
    for n in 0..2000 {
        (log, writer) = reopen(&mut random).unwrap_or((log, writer));
        let event = Event::new("x".repeat(random.index(if n % 100 == 0 { 6000 } else { 90 })));
        let id = append(&mut log, &mut writer, &event);
        if random.index(2) == 0 {
            log.delivered_up_to(log.tail().written.pos); // from now on it is read from the file
        }
        let mut bytes = Vec::new();
        event.write(Some(id), &mut bytes);
        all.push((id, bytes));
        let kept_from = log.find_start(&Since::All).unwrap();
        let kept = all.iter().filter(|(id, _)| *id > kept_from.id).count();
        let (end, pos) = (log.heard.pos, kept_from.pos);
        assert!(end - pos <= 4096 || kept == 1, "{} bytes kept", end - pos);
        // From each kept position, exactly the later events follow.
        let first = all.len() - random.index(kept + 1);
        let asked = if first == all.len() - kept { kept_from.id } else { all[first - 1].0 };
        let found = log.find_start(&Since::After(asked.to_string())).unwrap();
        assert_eq!((found.id, found.gap), (asked, None));
        let (mut pos, mut received, mut piece) = (found.pos, Vec::new(), Vec::new());
        while pos < end {
            piece.clear();
            if let Some(stretch) = log.read(pos, &mut piece).unwrap() {
                stretch.read(&mut piece).unwrap();
            }
            pos += piece.len() as u64;
            received.extend_from_slice(&piece);
        }
        let expected: Vec<u8> = all[first..].iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert!(received == expected, "after {asked}");
        if kept_from.pos > 0 {
            assert!(log.read(kept_from.pos - 1, &mut piece).is_err(), "a trimmed position cannot be read");
            // A client that asks for trimmed events gets a gap with their number.
            if let Some(lost) = all.len().checked_sub(kept + 2) {
                let asked = all[lost].0;
                let gap = log.find_start(&Since::After(asked.to_string())).unwrap().gap.unwrap();
                assert_eq!(gap.from, Some(all[lost + 2].0));
                assert_eq!(gap.lost, (asked.epoch == all[lost + 1].0.epoch).then_some(1));
            }
        }
    }
}

#[test]
fn dates_are_those_of_the_calendar() {
    // From RFC 9110 §5.6.7, and from `date -u`.
    for (secs, text) in [
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
        (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
        (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (4_107_456_000, "Sun, 28 Feb 2100 00:00:00 GMT"),
    ] {
        assert_eq!(date(secs), text);
    }
}

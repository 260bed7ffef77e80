//! WebSocket by RFC 6455, without sockets: the opening handshake, and a table of a client's frames and the server's
//! reactions. Its groups and their numbers are those of the conformance suite that is commonly used.

use crate::support::harness::Random;
use crate::support::websocket::{SMALL, closing, fragments, frame, header, masked, ping, random_bytes, text};
use std::collections::BTreeMap;
use tincan::wings::websocket::frames::{self as ws, *};
use tincan::wings::websocket::handshake::*;
use tincan::wings::websocket::sha1;
use tincan::wire::http::Request;
use tincan::wire::reject::*;

/// The limit of a message in the table: the default of `--max-body`.
pub const MAX: usize = 64 << 10;

/// Returns the reason in the Close frame of a failure.
pub fn closing_reason(failure: Reject) -> String {
    format!("{} ({})", failure.why, failure.rule)
}

/// A reaction of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// It publishes the message, so this client receives it too.
    Echo(String),
    /// It answers a Ping frame.
    Pong(Vec<u8>),
    /// It answers a Close frame with one of the same status code, and ends the connection.
    Close(Option<u16>),
    /// It fails the connection: it sends a Close frame, and ends the connection.
    Fail(Reject),
}

use Reaction::{Echo, Pong};

/// A row of the table. If the last reaction is neither [`Reaction::Close`] nor [`Reaction::Fail`], the connection
/// stays open, and an unfinished message can go on.
pub struct Case {
    pub group: &'static str,
    pub name: String,
    pub client: Vec<u8>,
    pub server: Vec<Reaction>,
}

fn echo(text: impl Into<String>) -> Reaction {
    Echo(text.into())
}

struct Table {
    group: &'static str,
    cases: Vec<Case>,
}

impl Table {
    fn add(&mut self, name: impl Into<String>, client: &[Vec<u8>], server: &[Reaction]) {
        let (name, client) = (name.into(), client.concat());
        self.cases.push(Case { group: self.group, name, client, server: server.into() });
    }

    fn fails(&mut self, name: impl Into<String>, client: &[Vec<u8>], with: Reject) {
        self.add(name, client, &[Reaction::Fail(with)]);
    }
}

/// Returns the whole table.
pub fn cases() -> Vec<Case> {
    let mut table = Table { group: "", cases: Vec::new() };
    let groups = [framing, pings, reserved_bits, opcodes, fragmentation, utf8, closes, limits];
    groups.iter().for_each(|group| group(&mut table));
    table.cases
}

fn framing(t: &mut Table) {
    t.group = "1 framing";
    for n in [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 257, 65534, 65535, 65536] {
        let payload = "*".repeat(n);
        t.add(format!("a text of {n} bytes"), &[text(&payload)], &[Echo(payload)]);
    }
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    t.add("the standard's own example", &[hello.into()], &[echo("Hello")]);
    t.add("a masking key of zeros", &[b"\x81\x83\0\0\0\0abc".into()], &[echo("abc")]);
    t.add("three texts", &[text("a"), text(""), text("c")], &[echo("a"), echo(""), echo("c")]);
    for n in [0, 1, 125, 126, 65535, 65536] {
        t.fails(format!("binary, {n} bytes"), &[frame(0x82, "*".repeat(n))], BINARY_DATA);
    }
    t.fails("binary, its first byte", &[[0x82].into()], BINARY_DATA);
    t.fails("binary, its first byte, fragmented", &[[0x02].into()], BINARY_DATA);
    t.add("binary behind a text", &[text("a"), frame(0x82, "b")], &[echo("a"), Reaction::Fail(BINARY_DATA)]);
    for (form, length) in [(2, 0), (2, 1), (2, 124), (2, 125), (8, 0), (8, 125), (8, 126), (8, 65535)] {
        let name = format!("a length of {length} in {form} bytes");
        t.fails(&name, &[header(0x81, form, length), masked(&b"*".repeat(length as usize))], LONG_FORM);
        let mut begun = header(0x81, form, length);
        begun.truncate(2 + form);
        t.fails(name + ", and no more", &[begun], LONG_FORM);
    }
    for length in [1 << 63, 1 << 63 | 5, u64::MAX] {
        t.fails(format!("a length of {length:#x}"), &[header(0x81, 8, length)], HIGH_BIT);
    }
    for first in [0x81, 0x01, 0x88, 0x89, 0x8a] {
        t.fails(format!("{first:#x} without a mask"), &[[first, 0].into()], UNMASKED);
        t.fails(format!("{first:#x} without a mask, and payload"), &[[first, 2, 3, 0xe8].into()], UNMASKED);
        t.fails(format!("{first:#x} without a mask, longer"), &[[first, 126, 1, 0].into()], UNMASKED);
        t.fails(format!("{first:#x} without a mask, longest"), &[[first, 127].into()], UNMASKED);
    }
    t.fails("a continuation without a mask", &[frame(0x01, "a"), [0x80, 1, b'b'].into()], UNMASKED);
}

fn pings(t: &mut Table) {
    t.group = "2 pings and pongs";
    let all: Vec<u8> = (0..125).map(|n| n * 2 + 1).collect();
    for payload in [&b""[..], b"Hello", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xc3", &all, &b"*".repeat(124)] {
        t.add(format!("ping, {} bytes", payload.len()), &[ping(payload)], &[Pong(payload.into())]);
        t.add(format!("pong, {} bytes", payload.len()), &[frame(0x8a, payload), text("a")], &[echo("a")]);
    }
    for first in [0x89, 0x8a] {
        t.fails(format!("{first:#x} of 126 bytes"), &[frame(first, [0; 126])], CONTROL_LENGTH);
        t.fails(format!("{first:#x} of 126 bytes, its second byte"), &[[first, 0xfe].into()], CONTROL_LENGTH);
        t.fails(format!("{first:#x} of 65536 bytes, its second byte"), &[[first, 0xff].into()], CONTROL_LENGTH);
        t.fails(format!("{first:#x} of 5 bytes, told in 2"), &[header(first, 2, 5)], CONTROL_LENGTH);
    }
    let ten: Vec<u8> = (b'0'..=b'9').collect();
    let pongs: Vec<Reaction> = ten.iter().map(|n| Pong([*n].into())).collect();
    t.add("ten pings", &ten.iter().map(|n| ping([*n])).collect::<Vec<_>>(), &pongs);
    let mixed = [frame(0x8a, "x"), ping("y"), text("a"), frame(0x8a, ""), ping("")];
    t.add("a ping among pongs and a text", &mixed, &[Pong(b"y".into()), echo("a"), Pong(b"".into())]);
}

fn reserved_bits(t: &mut Table) {
    t.group = "3 reserved bits";
    for bits in 1..=7 {
        for first in [0x81, 0x01, 0x82, 0x80, 0x88, 0x89, 0x8a] {
            let (first, name) = (bits << 4 | first, format!("bits {bits:03b} on {first:#x}"));
            t.fails(&name, &[frame(first, "ab")], RESERVED_BITS);
            t.fails(name.clone() + ", its first byte", &[[first].into()], RESERVED_BITS);
            let frames = [text("a"), ping("b"), frame(first, "c")];
            let server = [echo("a"), Pong(b"b".into()), Reaction::Fail(RESERVED_BITS)];
            t.add(name.clone() + ", behind others", &frames, &server);
            t.fails(name + ", within a message", &[frame(1, "a"), frame(first, "c")], RESERVED_BITS);
        }
    }
}

fn opcodes(t: &mut Table) {
    t.group = "4 opcodes";
    for opcode in (3..=7).chain(11..=15) {
        for first in [0x80 | opcode, opcode] {
            let name = format!("{first:#x}");
            t.fails(name.clone() + ", its first byte", &[[first].into()], RESERVED_OPCODE);
            t.fails(name.clone() + ", empty", &[frame(first, "")], RESERVED_OPCODE);
            t.fails(name.clone() + ", with payload", &[frame(first, "ab")], RESERVED_OPCODE);
            let server = [echo("a"), Reaction::Fail(RESERVED_OPCODE)];
            t.add(name.clone() + ", behind a text", &[text("a"), frame(first, "b"), ping("")], &server);
            t.fails(name + ", within a message", &[frame(1, "a"), frame(first, "b")], RESERVED_OPCODE);
        }
    }
}

fn fragmentation(t: &mut Table) {
    t.group = "5 fragmentation";
    for (first, name) in [(0x08, "close"), (0x09, "ping"), (0x0a, "pong")] {
        t.fails(format!("a fragmented {name}, its first byte"), &[[first].into()], CONTROL_FRAGMENT);
        t.fails(format!("a fragmented {name}"), &[frame(first, "ab"), frame(0x80, "c")], CONTROL_FRAGMENT);
        t.fails(format!("a fragmented {name} in a message"), &[frame(1, "a"), frame(first, "ab")], CONTROL_FRAGMENT);
    }
    for parts in [&["a", "b"][..], &["", ""], &["", "", "a", ""], &["a", "", "", "b", "c"]] {
        let (frames, whole) = (fragments(parts), parts.concat());
        t.add(format!("a text in {parts:?}"), &frames, &[echo(&whole)]);
        t.add(
            format!("a text in {parts:?}, twice"),
            &[frames.clone(), frames.clone()].concat(),
            &[echo(&whole), Echo(whole)],
        );
        let between: Vec<Vec<u8>> = frames.iter().flat_map(|f| [ping("p"), f.clone(), frame(0x8a, "q")]).collect();
        let mut server = vec![Pong(b"p".into()); parts.len()];
        server.push(echo(parts.concat()));
        t.add(format!("a text in {parts:?}, pings and pongs in between"), &between, &server);
    }
    let long = "0123456789".repeat(30);
    let parts: Vec<&[u8]> = long.as_bytes().chunks(7).collect();
    t.add("a text in 43 frames", &fragments(&parts), &[Echo(long)]);
    t.add("no end yet", &fragments(&["a", "b", "c"])[..2], &[]);
    for (first, name) in [(0x80, "last"), (0x00, "another")] {
        t.fails(format!("a {name} fragment of nothing"), &[frame(first, "a"), text("b")], NO_BEGINNING);
        t.fails(format!("a {name} fragment of nothing, its first byte"), &[[first].into()], NO_BEGINNING);
        let before_it = |frames: Vec<Vec<u8>>| [frames, vec![frame(first, "x")]].concat();
        let server = |before: Reaction| [before, Reaction::Fail(NO_BEGINNING)];
        t.add(format!("a {name} fragment behind a text"), &before_it(vec![text("a")]), &server(echo("a")));
        t.add(format!("a {name} fragment too many"), &before_it(fragments(&["a", "b"])), &server(echo("ab")));
        t.add(format!("a {name} fragment of a ping"), &before_it(vec![ping("a")]), &server(Pong(b"a".into())));
    }
    for first in [0x81, 0x01, 0x82, 0x02] {
        t.fails(format!("{first:#x} within a message"), &[frame(1, "a"), frame(first, "b")], NO_END);
        t.fails(format!("{first:#x} within a message, its first byte"), &[frame(1, "a"), [first].into()], NO_END);
        let frames = [frame(1, "a"), frame(0, "b"), ping("c"), frame(first, "d")];
        let server = [Pong(b"c".into()), Reaction::Fail(NO_END)];
        t.add(format!("{first:#x} within a longer message"), &frames, &server);
    }
    t.fails("binary, then text", &[frame(0x02, "a"), frame(0x80, "b")], BINARY_DATA);
}

/// Texts at the edges of UTF-8 (RFC 3629 §3, §4): the first and the last character of each length, the neighbours of
/// the surrogates, code points that are noncharacters (Unicode §23.7) but valid in UTF-8, and a few words.
const TEXTS: &str = "\0 \u{7f} \u{80} \u{7ff} \u{800} \u{fff} \u{1000} \u{cfff} \u{d000} \u{d7ff} \u{e000} \u{fdd0} \u{feff} \
    \u{fffd} \u{fffe} \u{ffff} \u{10000} \u{1fffe} \u{3ffff} \u{40000} \u{fffff} \u{100000} \u{10fffe} \
    \u{10ffff} κόσμε Hello-µ@ßöäüàá-UTF-8!!";

/// Invalid UTF-8 in hexadecimal. A bar precedes the first byte that is not allowed at its place.
const NO_TEXTS: [&str; 6] = [
    // Unexpected continuation bytes.
    "|80, |bf, |80 bf, |80 bf 80, 61 |80, c3 a9 |80, e2 82 ac |80, f0 9f 98 80 |80",
    // A character that is not complete.
    "c3 |20, c3 |c3, e2 |20, e2 82 |20, e2 82 |c3, f0 9f |20, f0 9f 98 |20, f0 9f 98 |f0, df |7f, df |c0, \
        ef bf |7f, ef bf |c0, f4 8f bf |7f, f4 8f bf |c0",
    // Bytes that never occur in UTF-8.
    "|fe, |ff, |fe fe ff ff, |f5 80 80 80, |f7 bf bf bf, |f8 88 80 80 80, |fb bf bf bf bf, \
        |fc 84 80 80 80 80, |fd bf bf bf bf bf",
    // Longer encodings than necessary.
    "|c0 af, e0 |80 af, f0 |80 80 af, |f8 80 80 80 af, |fc 80 80 80 80 af, |c1 bf, e0 |9f bf, \
        f0 |8f bf bf, |f8 87 bf bf bf, |c0 80, e0 |80 80, f0 |80 80 80",
    // Surrogates, alone and in pairs.
    "ed |a0 80, ed |ad bf, ed |ae 80, ed |af bf, ed |b0 80, ed |bf bf, ed |a0 80 ed b0 80, \
        ed |af bf ed bf bf, ce ba e1 bd b9 cf 83 ce bc ce b5 ed |a0 80 65 64 69 74 65 64",
    // Beyond U+10FFFF.
    "f4 |90 80 80, f4 |bf bf bf",
];

/// Returns each of [`NO_TEXTS`] with the position of its bar.
fn no_texts() -> Vec<(Vec<u8>, usize)> {
    let byte = |hex: &str| u8::from_str_radix(hex.trim_start_matches('|'), 16).unwrap();
    let read = |text: &str| {
        let at = text.split(' ').position(|hex| hex.starts_with('|')).unwrap();
        (text.split(' ').map(byte).collect(), at)
    };
    NO_TEXTS.iter().flat_map(|row| row.split(", ")).map(read).collect()
}

fn utf8(t: &mut Table) {
    t.group = "6 UTF-8";
    for whole in TEXTS.split(' ') {
        let (bytes, server) = (whole.as_bytes(), [echo(whole)]);
        t.add(format!("{whole:?}"), &[text(bytes)], &server);
        for cut in 0..=bytes.len() {
            let (left, right) = bytes.split_at(cut);
            t.add(format!("{whole:?} in two at {cut}"), &fragments(&[left, right]), &server);
            if str::from_utf8(left).is_err() {
                t.fails(format!("{whole:?} ends at {cut}"), &[text(left), text("a")], TEXT_UTF8);
                t.fails(format!("{whole:?} in two ends at {cut}"), &fragments(&[left, &[]]), TEXT_UTF8);
                t.add(format!("{whole:?} stops at {cut}"), &[frame(1, left)], &[]);
            }
        }
        let frames = fragments(&bytes.chunks(1).collect::<Vec<_>>());
        t.add(format!("{whole:?} in single bytes"), &frames, &server);
        let between: Vec<Vec<u8>> = frames.iter().flat_map(|f| [f.clone(), ping("\u{80}")]).collect();
        let mut server: Vec<Reaction> = vec![Pong("\u{80}".into()); bytes.len()];
        server.insert(bytes.len() - 1, echo(whole));
        t.add(format!("{whole:?} in single bytes, pings in between"), &between, &server);
    }
    t.add("all of them in one", &[text(TEXTS)], &[echo(TEXTS)]);
    for (bytes, at) in no_texts() {
        let name = bytes.escape_ascii();
        t.fails(format!("{name}"), &[text(&bytes)], TEXT_UTF8);
        t.fails(format!("{name} behind a text"), &[text([b"a ", &bytes[..], b" b"].concat())], TEXT_UTF8);
        t.fails(format!("{name} in single bytes"), &fragments(&bytes.chunks(1).collect::<Vec<_>>()), TEXT_UTF8);
        // It fails at once: the server needs no further byte of a larger frame or of an unfinished message.
        let begun = |n: usize| [header(0x01, 2, 1000), masked(&bytes[..n])];
        t.add(format!("{name} up to the wrong byte"), &begun(at), &[]);
        t.fails(format!("{name} with the wrong byte"), &begun(at + 1), TEXT_UTF8);
    }
    t.add("a good text, then a bad one", &[text("a"), text(b"\xff")], &[echo("a"), Reaction::Fail(TEXT_UTF8)]);
    let begun = [header(0x01, 2, 1000), masked(b"\xff")].concat();
    t.add(
        "a good text, then the beginning of a bad one",
        &[text("abc"), begun],
        &[echo("abc"), Reaction::Fail(TEXT_UTF8)],
    );
}

/// Returns whether a client may send a status code (§7.4.1, §7.4.2; IANA, "WebSocket Close Code Number Registry").
fn may_be_sent(code: u16) -> bool {
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014].contains(&code)
        || (3000..5000).contains(&code)
}

fn closes(t: &mut Table) {
    t.group = "7 close";
    let normal = [Reaction::Close(Some(1000))];
    t.add("no status code", &[frame(0x88, "")], &[Reaction::Close(None)]);
    t.fails("half a status code", &[frame(0x88, [3])], CLOSE_LENGTH);
    for reason in ["", "a", "Auf Wiederhören", "κόσμε", &"*".repeat(122), &"*".repeat(123)] {
        t.add(format!("1000 and {} bytes", reason.len()), &[closing(1000, reason)], &normal);
    }
    t.fails("1000 and 124 bytes", &[closing(1000, "*".repeat(124))], CONTROL_LENGTH);
    t.fails("126 bytes, its second byte", &[[0x88, 0xfe].into()], CONTROL_LENGTH);
    for (bytes, _) in no_texts() {
        t.fails(format!("1000 and {}", bytes.escape_ascii()), &[closing(1000, &bytes)], REASON_UTF8);
    }
    t.fails("1000 and half a character", &[closing(1000, b"a\xc3")], REASON_UTF8);
    t.fails("a wrong code comes before a wrong reason", &[closing(1006, b"\xff")], CLOSE_CODE);
    let edges =
        [0, 1, 999, 1016, 1017, 1099, 1100, 1999, 2000, 2999, 3000, 3001, 3999, 4000, 4999, 5000, 5001, 9999, 65535];
    for code in (1000..=1015).chain(edges) {
        let server = if may_be_sent(code) { Reaction::Close(Some(code)) } else { Reaction::Fail(CLOSE_CODE) };
        t.add(format!("{code}"), &[closing(code, "")], std::slice::from_ref(&server));
        t.add(format!("{code} and a reason"), &[closing(code, "reason")], &[server]);
    }
    // Bytes after it are ignored, even if they break a rule.
    for (name, after_it) in [
        ("a text", text("a")),
        ("a ping", ping("a")),
        ("another close", closing(1001, "")),
        ("noise", vec![0xff; 50]),
        ("an unmasked frame", vec![0x81, 1, b'a']),
    ] {
        t.add(format!("close, then {name}"), &[closing(1000, ""), after_it], &normal);
    }
    t.add("a text, then close", &[text("a"), closing(1000, "")], &[echo("a"), normal[0].clone()]);
    t.add("a ping, then close", &[ping("a"), closing(1000, "")], &[Pong(b"a".into()), normal[0].clone()]);
    t.add("close within a message", &[frame(1, "a"), closing(1000, ""), frame(0x80, "b")], &normal);
    t.fails("close in 2 bytes of length", &[header(0x88, 2, 2), masked(&[3, 0xe8])], CONTROL_LENGTH);
}

fn limits(t: &mut Table) {
    t.group = "9 limits";
    let all = "x".repeat(MAX);
    let (first, last) = all.split_at(MAX - 1);
    t.add("the longest message, twice", &[text(&all), text(&all)], &[echo(&all), echo(&all)]);
    t.add("the longest message in two frames", &fragments(&[first, last]), &[echo(&all)]);
    t.add("the longest message, then an empty frame", &fragments(&[&all[..], ""]), &[echo(&all)]);
    let parts: Vec<&[u8]> = all.as_bytes().chunks(1 << 10).collect();
    t.add("the longest message in 64 frames", &fragments(&parts), &[echo(&all)]);
    let pings: Vec<Vec<u8>> = fragments(&parts).into_iter().flat_map(|f| [f, ping([7; 125])]).collect();
    let mut server = vec![Pong(vec![7; 125]); 64];
    server.insert(63, echo(&all));
    t.add("the longest message in 64 frames, pings in between", &pings, &server);
    // The length alone is enough: neither the masking key nor a byte of the payload is sent.
    let length_only = |first, length| {
        let mut header = header(first, if length > 65535 { 8 } else { 2 }, length);
        header.truncate(header.len() - 4);
        header
    };
    for length in [MAX as u64 + 1, 1 << 20, 1 << 32, 1 << 40, (1 << 63) - 1] {
        t.fails(format!("{length:#x} bytes"), &[length_only(0x81, length)], TOO_LONG);
        t.fails(format!("{length:#x} bytes, to be continued"), &[length_only(0x01, length)], TOO_LONG);
        t.fails(format!("{length:#x} bytes behind some"), &[frame(1, "a"), length_only(0x80, length)], TOO_LONG);
    }
    t.fails("one byte too many", &[frame(1, &all), [0x80, 0x81].into()], TOO_LONG);
    let mut open: Vec<Vec<u8>> = parts.iter().enumerate().map(|(n, part)| frame(u8::from(n == 0), part)).collect();
    open.push([0x80, 0x81].into());
    t.fails("one byte too many in 65 frames", &open, TOO_LONG);
    t.fails("the longest frame behind one byte", &[frame(1, "a"), length_only(0x80, MAX as u64)], TOO_LONG);
    t.add("a message that just fits behind one byte", &[frame(1, "a"), length_only(0x80, MAX as u64 - 1)], &[]);
    let small: Vec<Vec<u8>> = (0..500).map(|n: u32| text(n.to_string())).collect();
    t.add("500 messages", &small, &(0..500).map(|n: u32| echo(n.to_string())).collect::<Vec<_>>());
    let empty: Vec<Vec<u8>> = (0..500).map(|n| frame(u8::from(n == 0), "")).collect();
    t.add("500 empty fragments", &empty, &[]);
}

/// Returns the parser's reactions to bytes that arrive in pieces.
fn react<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, max: usize) -> Vec<Reaction> {
    let (mut parser, mut reactions) = (Parser::new(max), Vec::new());
    for mut piece in pieces {
        loop {
            reactions.push(match parser.next(&mut piece) {
                Ok(Some(Received::Message(text))) => Echo(text),
                Ok(Some(Received::Ping(payload))) => Pong(payload),
                Ok(Some(Received::Pong)) => continue,
                Ok(Some(Received::Close(code))) => Reaction::Close(code),
                Err(failure) => Reaction::Fail(failure),
                Ok(None) => break,
            });
            // After these reactions all bytes are ignored, and the server reads no further.
            if let Some(Reaction::Close(_) | Reaction::Fail(_)) = reactions.last() {
                return reactions;
            }
        }
        assert!(piece.is_empty(), "the parser leaves bytes");
    }
    reactions
}

/// Returns whether bytes are UTF-8, and whether more bytes can make them UTF-8, by the grammar of RFC 3629 §4, rule
/// by rule.
fn is_utf8(mut bytes: &[u8]) -> (bool, bool) {
    const TAIL: (u8, u8) = (0x80, 0xbf);
    let characters: [&[(u8, u8)]; 9] = [
        &[(0x00, 0x7f)],
        &[(0xc2, 0xdf), TAIL],
        &[(0xe0, 0xe0), (0xa0, 0xbf), TAIL],
        &[(0xe1, 0xec), TAIL, TAIL],
        &[(0xed, 0xed), (0x80, 0x9f), TAIL],
        &[(0xee, 0xef), TAIL, TAIL],
        &[(0xf0, 0xf0), (0x90, 0xbf), TAIL, TAIL],
        &[(0xf1, 0xf3), TAIL, TAIL, TAIL],
        &[(0xf4, 0xf4), (0x80, 0x8f), TAIL, TAIL],
    ];
    while !bytes.is_empty() {
        let fits = |ranges: &&&[(u8, u8)]| ranges.iter().zip(bytes).all(|((low, high), b)| (low..=high).contains(&b));
        match characters.iter().find(fits) {
            Some(ranges) if ranges.len() <= bytes.len() => bytes = &bytes[ranges.len()..],
            found => return (false, found.is_some()),
        }
    }
    (true, true)
}

/// The standard again, slow and all at once: returns the reactions to the bytes of a client that sends no more.
pub fn judge(mut rest: &[u8], max: usize) -> Vec<Reaction> {
    let (mut reactions, mut message) = (Vec::new(), None::<Vec<u8>>);
    let failed = |mut reactions: Vec<Reaction>, failure| {
        reactions.push(Reaction::Fail(failure));
        reactions
    };
    while let Some(first) = rest.first().map(|byte| format!("{byte:08b}")) {
        let (fin, opcode) = (&first[..1] == "1", u8::from_str_radix(&first[4..], 2).unwrap());
        let control = &first[4..5] == "1";
        let wrong = match (&first[1..4], opcode) {
            ("000", 0) if message.is_none() => Some(NO_BEGINNING),
            ("000", 1 | 2) if message.is_some() => Some(NO_END),
            ("000", 2) => Some(BINARY_DATA),
            ("000", 8..=10) if !fin => Some(CONTROL_FRAGMENT),
            ("000", 0 | 1 | 8..=10) => None,
            ("000", _) => Some(RESERVED_OPCODE),
            _ => Some(RESERVED_BITS),
        };
        if let Some(failure) = wrong {
            return failed(reactions, failure);
        }
        let Some(second) = rest.get(1) else { return reactions };
        let (seven, size) = (second % 128, [0, 2, 8][usize::from(second % 128).saturating_sub(125)]);
        if *second < 128 {
            return failed(reactions, UNMASKED);
        }
        if control && seven > 125 {
            return failed(reactions, CONTROL_LENGTH);
        }
        let Some(digits) = rest.get(2..2 + size) else { return reactions };
        let long_length = digits.iter().fold(0, |n: u128, digit| n * 256 + u128::from(*digit));
        let length = if size == 0 { seven.into() } else { long_length };
        let before = message.as_ref().map_or(0, Vec::len);
        match size {
            8 if length >= 1 << 63 => return failed(reactions, HIGH_BIT),
            8 if length < 65536 => return failed(reactions, LONG_FORM),
            2 if length < 126 => return failed(reactions, LONG_FORM),
            _ if !control && before as u128 + length > max as u128 => return failed(reactions, TOO_LONG),
            _ => {}
        }
        let Some(key) = rest.get(2 + size..6 + size) else { return reactions };
        let payload = rest[6 + size..].iter().zip(0..length).map(|(byte, i)| byte ^ key[(i % 4) as usize]);
        let payload: Vec<u8> = payload.collect();
        let whole = payload.len() as u128 == length;
        if !control {
            let mut all = message.take().unwrap_or_default();
            all.extend(&payload);
            let (valid, possible) = is_utf8(&all);
            match whole && fin {
                true if valid => reactions.push(Echo(String::from_utf8(all).unwrap())),
                false if possible => message = Some(all),
                _ => return failed(reactions, TEXT_UTF8),
            }
        }
        if !whole {
            return reactions;
        }
        match (opcode, &payload[..]) {
            (9, _) => reactions.push(Pong(payload.clone())),
            (8, []) => return [reactions, vec![Reaction::Close(None)]].concat(),
            (8, [_]) => return failed(reactions, CLOSE_LENGTH),
            (8, [high, low, reason @ ..]) => {
                let code = u16::from(*high) * 256 + u16::from(*low);
                reactions.push(match (may_be_sent(code), is_utf8(reason).0) {
                    (false, _) => Reaction::Fail(CLOSE_CODE),
                    (true, false) => Reaction::Fail(REASON_UTF8),
                    (true, true) => Reaction::Close(Some(code)),
                });
                return reactions;
            }
            _ => {}
        }
        rest = &rest[6 + size + payload.len()..];
    }
    reactions
}

#[test]
fn every_case_ends_as_the_standard_says_wherever_its_bytes_are_cut() {
    let (mut counts, mut names, mut met) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut random = Random(6455);
    for Case { group, name, client, server } in cases() {
        let name_of_case = format!("{group}: {name}");
        assert!(!names.contains(&name_of_case), "twice: {name_of_case}");
        let reacts = |pieces: &[&[u8]]| assert!(react(pieces.iter().copied(), MAX) == server, "{name_of_case}");
        reacts(&[&client]);
        reacts(&client.chunks(1).collect::<Vec<_>>());
        let cuts: Vec<usize> = match client.len() {
            n @ 0..=1000 => (0..=n).collect(),
            n => (0..20).chain(n - 10..=n).chain((0..10).map(|_| random.index(n))).collect(),
        };
        for cut in cuts {
            let (left, right) = client.split_at(cut);
            reacts(&[left, right]);
            // The failure comes at this byte, and not later.
            if client.len() <= 1000 {
                assert_eq!(react([left], MAX), judge(left, MAX), "{name_of_case}, cut at {cut}");
            }
        }
        // A channel returns the message unchanged, since its only line ends are LF.
        let echoes = server.iter().filter_map(|r| if let Echo(text) = r { Some(text) } else { None });
        assert!(echoes.into_iter().all(|text| !text.contains('\r')), "{name_of_case}");
        met.extend(server.iter().filter_map(|r| if let Reaction::Fail(failure) = r { Some(*failure) } else { None }));
        *counts.entry(group).or_insert(0) += 1;
        names.push(name_of_case);
    }
    for failure in ws::TABLE {
        assert!(met.contains(failure), "no case leads to {failure:?}");
    }
    println!("{} cases: {counts:#?}", names.len());
}

#[test]
fn every_status_code_is_judged() {
    for code in 0..=u16::MAX {
        let server = if may_be_sent(code) { Reaction::Close(Some(code)) } else { Reaction::Fail(CLOSE_CODE) };
        assert_eq!(react([&closing(code, "")[..]], MAX), [server], "{code}");
    }
}

#[test]
fn a_text_fails_at_the_first_byte_that_no_text_has_there() {
    let edges = [0, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xed, 0xff];
    let tails = [0x41, 0x7f, 0x80, 0xbf, 0xc0];
    let mut sequences: Vec<Vec<u8>> = (0..=255).map(|lead| vec![lead]).collect();
    for next in [&edges[..], &tails, &tails] {
        let longer = |bytes: &Vec<u8>| next.iter().map(|b| [&bytes[..], &[*b]].concat()).collect::<Vec<_>>();
        let length = sequences.last().unwrap().len();
        let longest: Vec<Vec<u8>> = sequences.iter().filter(|s| s.len() == length).cloned().collect();
        sequences.extend(longest.iter().flat_map(longer));
    }
    let mut valid = 0;
    for bytes in &sequences {
        let (whole, possible) = is_utf8(bytes);
        let failed = Reaction::Fail(TEXT_UTF8);
        let expected = if whole { Echo(String::from_utf8(bytes.clone()).unwrap()) } else { failed.clone() };
        assert_eq!(react([&text(bytes)[..]], MAX), [expected], "{}", bytes.escape_ascii());
        let begun = [header(0x01, 0, 9), masked(bytes)].concat();
        let expected = if possible { vec![] } else { vec![failed] };
        assert_eq!(react([&begun[..]], MAX), expected, "{} and more", bytes.escape_ascii());
        valid += usize::from(whole);
    }
    assert!(sequences.len() > 90_000 && valid > 2000, "{valid} of {}", sequences.len());
}

/// Parses the frame that a client sent.
fn receive(bytes: &[u8]) -> Option<Received> {
    Parser::new(MAX).next(&mut &bytes[..]).unwrap()
}

#[test]
fn a_client_is_heard_to_the_letter() {
    assert_eq!(receive(&closing(4321, "κόσμε")), Some(Received::Close(Some(4321))));
    assert_eq!(receive(&frame(0x88, "")), Some(Received::Close(None)));
    assert_eq!(receive(&frame(0x8a, b"\xff\0")), Some(Received::Pong));
    // One frame at a time: the bytes after it stay.
    let bytes = [text("a"), ping("b"), frame(0x81, "c")[..3].to_vec()].concat();
    let (mut parser, mut rest) = (Parser::new(1), &bytes[..]);
    assert_eq!((parser.next(&mut rest), rest.len()), (Ok(Some(Received::Message("a".into()))), 10));
    assert_eq!((parser.next(&mut rest), rest.len()), (Ok(Some(Received::Ping(b"b".into()))), 3));
    assert_eq!((parser.next(&mut rest), rest.len()), (Ok(None), 0));
}

#[test]
fn random_frames_and_damaged_ones_are_taken_just_as_the_slow_reading_of_the_standard_takes_them() {
    let (mut random, mut met) = (Random(6), BTreeMap::<&str, usize>::new());
    for round in 0..40_000 {
        let bytes = random_bytes(&mut random);
        let expected = judge(&bytes, SMALL);
        let mut cuts: Vec<usize> = (0..random.index(6)).map(|_| random.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort();
        let reactions = react(cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]), SMALL);
        assert_eq!(reactions, expected, "round {round}, cut at {cuts:?}: {}", bytes.escape_ascii());
        for reaction in expected {
            let kind = match reaction {
                Echo(_) => "echo",
                Pong(_) => "pong",
                Reaction::Close(_) => "close",
                Reaction::Fail(failure) => failure.why,
            };
            *met.entry(kind).or_default() += 1;
        }
    }
    assert!(met["echo"] > 20_000 && met["pong"] > 10_000 && met["close"] > 1000, "{met:#?}");
    for failure in ws::TABLE {
        assert!(met.get(failure.why).is_some_and(|n| *n > 10), "{failure:?} in {met:#?}");
    }
}

#[test]
fn the_frames_of_the_server_are_whole_and_not_masked_and_as_short_as_can_be() {
    // RFC 6455 §5.7.
    assert_eq!(ws::frame(TEXT, b"Hello"), b"\x81\x05Hello");
    assert_eq!(ws::frame(PING, b"Hello"), b"\x89\x05Hello");
    assert_eq!(ws::frame(PONG, b"Hello"), b"\x8a\x05Hello");
    for (n, header) in [
        (0, &b"\x81\0"[..]),
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\0\x7e"),
        (256, b"\x81\x7e\x01\0"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\0\0\0\0\0\x01\0\0"),
        (0x0102_0304, b"\x81\x7f\0\0\0\0\x01\x02\x03\x04"),
    ] {
        let payload = vec![b'*'; n];
        assert!(ws::frame(TEXT, &payload) == [header, &payload].concat(), "{n}");
    }
    for n in [0, 1, 124, 125] {
        let payload = vec![7; n];
        assert_eq!(ws::frame(PING, &payload), [&[0x89, n as u8], &payload[..]].concat());
        assert_eq!(ws::frame(PONG, &payload), [&[0x8a, n as u8], &payload[..]].concat());
    }
    assert_eq!(close(None, ""), b"\x88\0");
    assert_eq!(close(None, "a reason needs a code"), b"\x88\0");
    assert_eq!(close(Some(1000), ""), b"\x88\x02\x03\xe8");
    assert_eq!(close(Some(1013), "later"), b"\x88\x07\x03\xf5later");
    // A reason is cut at the end of a character.
    for (reason, kept) in [("*".repeat(123), 123), ("*".repeat(124), 123), ("é".repeat(70), 122), ("€".repeat(70), 123)]
    {
        let expected = [&[0x88, kept as u8 + 2, 3, 0xe8], &reason.as_bytes()[..kept]].concat();
        assert_eq!(close(Some(1000), &reason), expected, "{reason}");
    }
}

#[test]
fn every_failure_says_why_and_fits_into_a_close_frame() {
    for (n, failure) in ws::TABLE.iter().enumerate() {
        assert!([1002, 1003, 1007, 1009].contains(&failure.status), "{failure:?}");
        let known = ["RFC 6455 §", "tincan, --"].iter().any(|source| failure.rule.starts_with(source));
        assert!(known && failure.why.contains("; ") && failure.fields.is_empty(), "{failure:?}");
        let frame = ws::close_for(failure);
        let payload = [&failure.status.to_be_bytes(), closing_reason(failure).as_bytes()].concat();
        assert_eq!(frame, [&[0x88, payload.len() as u8], &payload[..]].concat(), "the reason of {failure:?} is cut");
        assert!(
            ws::TABLE[..n].iter().all(|other| other.why != failure.why),
            "the reason of {failure:?} is there twice"
        );
    }
}

const GOOD: [&str; 5] = [
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// Parses a handshake of these field lines, completed with good ones for the other names.
fn asked(line: &str, fields: &[&str]) -> Result<Option<Handshake>, Reject> {
    let name = |field: &str| field.split(':').next().unwrap().to_ascii_lowercase();
    let kept = GOOD.into_iter().filter(|good| !fields.iter().any(|field| name(field) == name(good)));
    let lines = [line].into_iter().chain(kept).chain(fields.iter().copied().filter(|field| field.contains(": ")));
    let head = lines.map(|line| format!("{line}\r\n")).collect::<String>() + "\r\n";
    handshake(&Request::parse(head.as_bytes()).unwrap())
}

#[test]
fn a_handshake_is_accepted_as_the_standard_has_it() {
    // RFC 6455 §1.3 and §4.2.2.
    let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let plain = Ok(Some(Handshake { fields: fields.into(), event_stream: false }));
    let with = Ok(Some(Handshake {
        fields: fields.to_owned() + "Sec-WebSocket-Protocol: event-stream\r\n",
        event_stream: true,
    }));
    let get = "GET /a HTTP/1.1";
    for more in [
        &[][..],
        &["Upgrade: WebSocket"],
        &["Upgrade: h2c, WEBSOCKET"],
        &["Upgrade: h2c", "Upgrade: websocket"],
        &["Connection: keep-alive, Upgrade"],
        &["Connection: keep-alive", "Connection: uPGRADE"],
        &["sec-websocket-version:   13  "],
        &["Origin: http://localhost"],
        // No extension is accepted, and only the known subprotocol.
        &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"],
        &["Sec-WebSocket-Protocol: chat, superchat"],
        &["Sec-WebSocket-Protocol: Event-Stream"],
        &["Sec-WebSocket-Protocol: event-stream2"],
        &["Sec-WebSocket-Protocol: ,"],
    ] {
        assert_eq!(asked(get, more), plain, "{more:?}");
    }
    for more in [
        &["Sec-WebSocket-Protocol: event-stream"][..],
        &["Sec-WebSocket-Protocol: chat,event-stream, , superchat"],
        &["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: event-stream"],
    ] {
        assert_eq!(asked(get, more), with, "{more:?}");
    }
    // The key in the example of §4.1 has unused bits in its last digit. It is hashed as it came.
    for (key, accept) in [
        ("AQIDBAUGBwgJCgsMDQ4PEC==", "OfS0wDaT5NoxF2gqm7Zj2YtetzM="),
        ("+/+/+/+/+/+/+/+/+/+/+w==", "M0DUs3om0SqzerhOhYSMM7WQuBQ="),
    ] {
        let accepted = asked(get, &[&format!("Sec-WebSocket-Key: {key}")]).unwrap().unwrap();
        assert!(
            accepted.fields.ends_with(&format!("Sec-WebSocket-Accept: {accept}\r\n")),
            "{key}: {}",
            accepted.fields
        );
    }
}

#[test]
fn a_request_that_asks_for_no_websocket_is_left_alone() {
    for (line, fields) in [
        ("GET /a HTTP/1.1", &["Upgrade", "Sec-WebSocket-Key"][..]),
        ("GET /a HTTP/1.1", &["Upgrade: h2c", "Sec-WebSocket-Key"]),
        ("GET /a HTTP/1.1", &["Upgrade: websocket2", "Sec-WebSocket-Key"]),
        ("POST /a HTTP/1.1", &["Upgrade: h2c", "Sec-WebSocket-Key"]),
        // In HTTP/1.0 the field has no meaning (RFC 9110 §7.8).
        ("GET /a HTTP/1.0", &["Sec-WebSocket-Key"]),
    ] {
        assert_eq!(asked(line, fields), Ok(None), "{line} {fields:?}");
    }
}

#[test]
fn a_handshake_that_breaks_a_rule_is_refused_by_its_name() {
    let get = "GET /a HTTP/1.1";
    let key = |key: &str| format!("Sec-WebSocket-Key: {key}");
    for (line, fields, reject) in [
        ("POST /a HTTP/1.1", &[][..], HANDSHAKE_METHOD),
        ("HEAD /a HTTP/1.1", &[], HANDSHAKE_METHOD),
        ("get /a HTTP/1.1", &[], HANDSHAKE_METHOD),
        ("POST /a HTTP/1.1", &["Sec-WebSocket-Key"], HANDSHAKE_METHOD),
        ("POST /a HTTP/1.1", &["Upgrade"], HANDSHAKE_METHOD),
        (get, &["Upgrade"], UPGRADE),
        (get, &["Upgrade: h2c"], UPGRADE),
        ("GET /a HTTP/1.0", &[], UPGRADE),
        (get, &["Connection"], UPGRADE_OPTION),
        (get, &["Connection: keep-alive"], UPGRADE_OPTION),
        (get, &["Connection: Upgrades"], UPGRADE_OPTION),
        (get, &["Sec-WebSocket-Version"], WS_VERSION),
        (get, &["Sec-WebSocket-Version: 8"], WS_VERSION),
        (get, &["Sec-WebSocket-Version: 14"], WS_VERSION),
        (get, &["Sec-WebSocket-Version: 013"], WS_VERSION),
        (get, &["Sec-WebSocket-Version: 13, 8"], WS_VERSION),
        (get, &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"], WS_VERSION),
        // The version comes first, since older versions have no such key.
        (get, &["Sec-WebSocket-Version: 8", "Sec-WebSocket-Key"], WS_VERSION),
        (get, &["Sec-WebSocket-Key"], WS_KEY),
        (get, &[GOOD[3], GOOD[3]], WS_KEY),
        (get, &["Sec-WebSocket-Protocol: event-stream, a b"], SUBPROTOCOL),
        (get, &["Sec-WebSocket-Protocol: \"event-stream\""], SUBPROTOCOL),
    ] {
        assert_eq!(asked(line, fields), Err(reject), "{line} {fields:?}");
    }
    for wrong in [
        "",
        "==",
        "a",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25jZS4=",
        "dGhlIHNhbXBsZSBub25jZS4u",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZSBzYW1wbGU=",
        "dGhlIHNhbXBsZSBub25jZSBzYQ==",
        "dGhlIHNhbXBsZSBub25j_Q==",
        "dGhlIHNhbXBs SBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        assert_eq!(asked(get, &[&key(wrong)]), Err(WS_KEY), "{wrong}");
    }
    // The statuses have the fields that they need (RFC 9110 §15.5.6, §15.5.22; RFC 6455 §4.4).
    for reject in [UPGRADE, WS_VERSION] {
        assert_eq!(reject.fields, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
        assert!(reject.line().starts_with("426 Upgrade Required: "));
    }
    assert_eq!(HANDSHAKE_METHOD.fields, "Allow: GET\r\n");
    assert_eq!(reason(101), "Switching Protocols");
}

#[test]
fn sha1_digests_as_its_standard_has_it() {
    let hex = |message: &[u8]| sha1::digest(message).iter().map(|b| format!("{b:02x}")).collect::<String>();
    // RFC 3174 §7.3, and an empty message.
    let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    for (message, digest) in [
        (b"".to_vec(), "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (b"abc".to_vec(), "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (two_blocks.to_vec(), "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
        (b"a".repeat(1_000_000), "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        (b"01234567".repeat(80), "dea356a2cddd90c7a7ecedc5ebb563934f460452"),
    ] {
        assert_eq!(hex(&message), digest);
    }
    // Every length over several blocks, so that the padding begins at each position. Computed with Python's hashlib.
    let digests: Vec<u8> = (0..300).flat_map(|n| sha1::digest(&(0..n).map(|i| i as u8).collect::<Vec<_>>())).collect();
    assert_eq!(hex(&digests), "7261d91c9ffd63ee8e68156d4d57e733d4ad7243");
}

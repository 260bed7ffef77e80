//! What recovery finds in a log's file after a crash: `src/log/recovery.rs`, with real files.
//!
//! The crash model: a page that was not yet on the disk is there, or reads as NULs, independently of other pages. And
//! the file may end anywhere.

use crate::support::harness::*;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use tincan::log::recovery::{Scan, head, recover};
use tincan::wire::event::{Event, parse, seal};
use tincan::wire::id::Id;

const PAGE: usize = 4096;
const SECTOR: usize = 512;
/// The last id before the file.
const BEFORE: Id = Id { epoch: 5, seq: 40 };
/// The beginning of a seal.
const SEAL: &str = ": one POST, ";

/// A file. Recovery can only read it.
struct OnDisk {
    writer: File,
    reader: File,
}

impl OnDisk {
    fn new() -> OnDisk {
        let scratch = Scratch::new();
        let path = scratch.0.join("a.sse");
        OnDisk { writer: File::create(&path).unwrap(), reader: File::open(&path).unwrap() }
    }

    /// Writes these bytes to the file, and runs recovery. Returns the result and the last id. The file's own cursor
    /// does not matter.
    fn recover(&self, bytes: &[u8]) -> (std::io::Result<Scan>, Id) {
        self.writer.write_all_at(bytes, 0).unwrap();
        self.writer.set_len(bytes.len() as u64).unwrap();
        let mut last = BEFORE;
        let found = recover(&self.reader, &mut last);
        (found, last)
    }
}

/// A file of a log, and a description of its content.
struct Written {
    bytes: Vec<u8>,
    /// The ends of its units, beginning with the head. Each has the last id up to there.
    ends: Vec<(usize, Id)>,
    last: Id,
    file: OnDisk,
}

impl Written {
    fn new() -> Written {
        let bytes = head(BEFORE).into_bytes();
        let last = Id { epoch: 7, seq: 0 };
        Written { ends: vec![(bytes.len(), BEFORE)], bytes, last, file: OnDisk::new() }
    }

    /// Appends the bytes that a POST of these events writes.
    fn post(&mut self, events: &[Event]) {
        let mut block = Vec::new();
        for event in events {
            self.last = self.last.plus(1);
            event.write(Some(self.last), &mut block);
        }
        seal(events.len(), &mut block);
        self.bytes.extend(block);
        self.ends.push((self.bytes.len(), self.last));
    }

    /// Appends an event with NULs that fill whole pages exactly.
    fn post_pages(&mut self, pages: usize) {
        let data = |pad: usize| Event::new("p".repeat(pad) + &"\0".repeat(pages * PAGE) + "p");
        let mut block = Vec::new();
        data(0).write(Some(self.last.plus(1)), &mut block);
        seal(1, &mut block);
        let first = self.bytes.len() + block.iter().position(|&byte| byte == 0).unwrap();
        self.post(&[data(PAGE - first % PAGE)]);
    }

    /// Begins a new epoch, like a server that starts again.
    fn restart(&mut self) {
        self.last = Id { epoch: self.last.epoch + 3, seq: 0 };
    }

    /// Asserts that the file, with these changed bytes, is cut at the beginning of the first unit that has changed.
    fn is_cut_before_the_change(&self, bytes: &[u8], what: &dyn std::fmt::Debug) {
        let (mut good, mut last, mut whole) = (0, BEFORE, 0);
        for (end, id) in &self.ends {
            if bytes.get(good..*end) != Some(&self.bytes[good..*end]) {
                break;
            }
            (good, last, whole) = (*end, *id, whole + 1);
        }
        // The end of the file may cut a unit. Then its NULs may be a hole or its data.
        let end = self.ends.get(whole).map_or(bytes.len(), |(end, _)| *end);
        let nuls = |bytes: &[u8]| bytes[good..end.min(bytes.len())].iter().filter(|&&byte| byte == 0).count();
        let (found, id) = self.file.recover(bytes);
        let found = found.unwrap_or_else(|e| panic!("{what:?}: {e}"));
        let hole = match nuls(bytes) {
            0 => false,
            n => n > nuls(&self.bytes) || found.hole,
        };
        let expected = Scan {
            head_len: if whole > 0 { self.ends[0].0 as u64 } else { 0 },
            whole_len: good as u64,
            len: bytes.len() as u64,
            hole,
            dropped: (whole > 0).then_some(BEFORE),
            first: (whole > 1).then_some(Id { epoch: 7, seq: 1 }),
        };
        assert_eq!((found, id), (expected, last), "{what:?}");
    }

    fn with_hole(&self, hole: Range<usize>) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        zero(&mut bytes, hole);
        bytes
    }
}

/// Fills a hole with NULs, as far as the file reaches.
fn zero(bytes: &mut [u8], hole: Range<usize>) {
    let end = hole.end.min(bytes.len());
    bytes[hole.start..end].fill(0);
}

fn text(random: &mut Random, len: usize) -> String {
    (0..len).map(|_| char::from(b'a' + (random.next() % 26) as u8)).collect()
}

/// Returns a log as many clients write it: several hundred units of all sizes.
fn a_life() -> Written {
    let mut random = Random(15);
    let mut log = Written::new();
    let stream = "retry: 5\ndata: x\n\n: no event\n\ndata:\n\nevent: z\ndata: y\ndata: z\n\n";
    for n in 0..400 {
        match n {
            60 | 300 => log.restart(),
            90 => log.post_pages(1),
            200 | 399 => log.post(&[Event::new(text(&mut random, 20_000))]),
            210 => log.post(&[Event::new(text(&mut random, 70_000))]),
            250 => log.post_pages(3),
            // If a page of the first event is a hole, it may have fewer NULs than the third event has by itself.
            270 => log.post(&[
                Event::new(text(&mut random, 6000)),
                Event::new(text(&mut random, 30) + "\r\n" + &text(&mut random, 6000)),
                Event::new("\0".repeat(9000)),
                Event::new(text(&mut random, 3000)).named("end").unwrap(),
            ]),
            _ => {}
        }
        let len = random.index(120);
        let some = Event::new(text(&mut random, len));
        match random.index(10) {
            0 => log.post(&parse(stream).unwrap()),
            1 => log.post(&[some.named("order").unwrap(), Event::new("")]),
            2 => log.post(&[Event::new(format!("\0{}\0\0\n\0", text(&mut random, len)))]),
            3 => log.post(&vec![some; 1 + random.index(30)]),
            4 => log.post(&[Event::new("")]),
            5 => log.post(&[some, Event::new("\0\n\n\0")]),
            6 => log.post(&[Event::new("a\nb\n\n").named("l").unwrap()]),
            _ => log.post(&[some]),
        }
    }
    log
}

#[test]
fn a_page_that_is_missing_cuts_the_log_before_what_it_was_part_of() {
    let log = a_life();
    let mut random = Random(16);
    log.is_cut_before_the_change(&log.bytes, &"nothing is missing");
    assert!(log.ends.len() > 400 && log.bytes.len() > 50 * PAGE, "{} bytes", log.bytes.len());
    for size in [PAGE, SECTOR] {
        for start in (0..log.bytes.len()).step_by(size) {
            let mut bytes = log.with_hole(start..start + size);
            log.is_cut_before_the_change(&bytes, &(start, size));
            if size == PAGE || random.index(4) == 0 {
                let rest = bytes.len() - start;
                bytes.truncate(start + random.index(rest));
                log.is_cut_before_the_change(&bytes, &(start, size, bytes.len()));
            }
        }
    }
}

#[test]
fn any_pages_that_are_missing_cut_the_log_before_the_first_change() {
    let log = a_life();
    let mut random = Random(17);
    for n in 0..300 {
        let size = [PAGE, SECTOR][n % 2];
        // Only the last part of a file is not yet on the disk. That can be all of it.
        let (from, one_in) = (random.index(log.bytes.len()) / size * size, 1 + random.below(30));
        let mut bytes = log.bytes.clone();
        for start in (from..bytes.len()).step_by(size) {
            if random.below(one_in) == 0 {
                zero(&mut bytes, start..start + size);
            }
        }
        log.is_cut_before_the_change(&bytes, &n);
        bytes.truncate(from + random.index(bytes.len() - from));
        log.is_cut_before_the_change(&bytes, &(n, bytes.len()));
    }
}

#[test]
fn a_hole_of_any_bytes_is_known_also_among_nuls_and_among_words_that_are_no_seal() {
    let mut log = Written::new();
    log.post(
        &parse("data: a\n\ndata: \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\n\nretry: 5\ndata: c\n\n").unwrap(),
    );
    log.post(&[Event::new("\0")]);
    log.post(&[Event::new(""), Event::new("d")]);
    log.post(&[Event::new("x\n: one POST, 1 events, 9 NULs\0")]);
    log.post(&[Event::new("e")]);
    for start in 0..log.bytes.len() {
        for end in start + 1..=log.bytes.len() {
            // Every hole of few bytes, every hole that ends with a line, and some others.
            if end - start < 6 || log.bytes[end - 1] == b'\n' || (start * 31 + end) % 17 == 0 {
                log.is_cut_before_the_change(&log.with_hole(start..end), &(start..end));
            }
        }
    }
}

#[test]
fn a_file_that_ends_anywhere_is_cut_behind_its_last_whole_unit() {
    let mut log = Written::new();
    let end = log.bytes.len();
    log.post(&[Event::new("one")]);
    log.post(&parse("event: n\nretry: 5\ndata: \0\ndata: \n\ndata: b\n\n").unwrap());
    log.post(&[Event::new("\0\0\0")]);
    log.post(&[Event::new("")]);
    for len in 0..=log.bytes.len() {
        log.is_cut_before_the_change(&log.bytes[..len], &len);
        let bytes = [&log.bytes[..len], &[0; 9]].concat();
        log.is_cut_before_the_change(&bytes, &(len, "and NULs behind"));
    }
    // A line that is no line of an event counts as unfinished too, if no blank line follows it.
    let bytes = [&log.bytes[..end], b"data: x\nso"].concat();
    assert_eq!(log.file.recover(&bytes).0.unwrap().whole_len, end as u64);
}

/// Asserts that a file is damaged from this byte on.
fn is_damaged(on_disk: &OnDisk, what: &str, bytes: &[u8], byte: usize) {
    let (found, last) = on_disk.recover(bytes);
    let error = found.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}");
    assert!(error.to_string().contains(&format!("from byte {byte} on ")), "{what}: {error}");
    assert_eq!(last == BEFORE, byte < 60, "{what}: {last}");
}

#[test]
fn damage_that_is_no_hole_is_told_at_its_byte() {
    let on_disk = OnDisk::new();
    let block = |seq: u64| format!("data: {seq}\nid: 7-{seq}\n\n");
    let file = head(BEFORE) + &block(1);
    let byte = file.len();
    let two = block(2);
    for (what, after_it) in [
        ("another number", block(3)),
        ("the same number again", block(1)),
        ("no number", "data: x\nid: 7-x\n\n".into()),
        ("an epoch that goes back", "data: x\nid: 6-1\n\n".into()),
        ("an epoch that begins late", "data: x\nid: 8-2\n\n".into()),
        ("an id that cannot grow", format!("data: x\nid: {}-1\n\n", u64::MAX)),
        ("a further blank line", format!("\n{two}")),
        ("no blank line", two.trim_end().to_string() + "\n" + &block(3)),
        ("no id", "data: x\n\n".into()),
        ("no field", "id: 7-2\n\n".into()),
        ("a field behind the id", "data: x\nid: 7-2\ndata: y\n\n".into()),
        ("a field of no event", "dat: x\nid: 7-2\n\n".into()),
        ("a comment", format!(": x\n{two}")),
        ("a head", head(BEFORE) + &two),
        ("lines that end with CR LF", two.replace('\n', "\r\n")),
        ("a NUL behind what is damage already", "x\n\0\n\n".into()),
    ] {
        is_damaged(&on_disk, what, (file.clone() + &after_it).as_bytes(), byte);
    }
    for (what, bytes) in [
        ("a text", "Dear diary,\n\ntoday\n"),
        ("a word", "diary"),
        ("a word with NULs", "diary\0\0\0\n\n"),
        ("another event stream", "data: x\nid: 7-1\n\n"),
        ("another comment", ": tin foil\n\n"),
        ("a head with CR LF", ": tincan log\r\n\r\n"),
        ("a head with something behind it", ": tincan log\ndata: x\n\n"),
        ("a head that is too short", ": tincan\n\n"),
        ("a blank line", "\n"),
    ] {
        is_damaged(&on_disk, what, bytes.as_bytes(), 0);
    }
    // An id that the older file has as well.
    let again = head(BEFORE) + &format!("data: x\nid: {BEFORE}\n\n");
    is_damaged(&on_disk, "an id from before", again.as_bytes(), head(BEFORE).len());
}

#[test]
fn a_seal_that_does_not_fit_is_damage() {
    let on_disk = OnDisk::new();
    let block = |seq: u64, data: &str| format!("data: {data}\nid: 7-{seq}\n\n");
    let file = head(BEFORE) + &block(1, "x");
    let byte = file.len();
    let two = block(2, "\0") + &block(3, "\0");
    let sealed = |events: &str, nuls: &str| format!("{SEAL}{events} events, {nuls} NULs\n");
    let next = sealed("2", "0") + &block(4, "x") + &block(5, "x");
    let right = [&file, &sealed("2", "2"), &two, &next].map(String::as_str).concat();
    let (found, last) = on_disk.recover(right.as_bytes());
    assert_eq!((found.unwrap().whole_len, last), (right.len() as u64, Id { epoch: 7, seq: 5 }));
    for (what, unit) in [
        ("more NULs than there are", sealed("2", "3") + &two),
        ("more events than there are", sealed("3", "2") + &two),
        ("a seal in a later block", sealed("2", "2") + &block(2, "\0") + &sealed("1", "1") + &block(3, "\0")),
        ("two seals", sealed("2", "2") + &sealed("2", "2") + &two),
        ("a seal behind a field", format!("data: x\n{}id: 7-2\n\n", sealed("2", "0"))),
        ("a seal and no event", sealed("1", "1") + "\n"),
        ("no events", sealed("0", "2") + &two),
        ("nothing to seal", sealed("1", "0") + &block(2, "x")),
        ("a leading zero", sealed("02", "2") + &two),
        ("another leading zero", sealed("2", "02") + &two),
        ("a sign", sealed("+2", "2") + &two),
        ("no number", sealed("two", "2") + &two),
        ("a number that is too large", sealed("2", "18446744073709551616") + &two),
        ("less space", sealed("2", "2").replace(", 2", ",2") + &two),
        ("something behind it", sealed("2", "2").replace("NULs", "NULs.") + &two),
        ("CR LF", sealed("2", "2").replace('\n', "\r\n") + &two),
        ("an id that is not the next", sealed("2", "2") + &block(2, "\0") + &block(4, "\0")),
    ] {
        is_damaged(&on_disk, what, (file.clone() + &unit + &next).as_bytes(), byte);
    }
    // Too few: with more NULs than the seal says there is a hole. One more event than the seal says is a unit by
    // itself.
    let (found, _) = on_disk.recover((file.clone() + &sealed("2", "1") + &two + &next).as_bytes());
    assert!(found.is_ok_and(|found| found.hole && found.whole_len == byte as u64));
    let (found, last) = on_disk.recover((file.clone() + &sealed("1", "1") + &two + &next).as_bytes());
    assert!(found.is_ok_and(|found| found.hole && found.whole_len > byte as u64));
    assert_eq!(last, Id { epoch: 7, seq: 2 });
}

#[test]
fn a_seal_is_one_line_in_front_of_what_needs_it() {
    let sealed = |events: usize, bytes: &str| {
        let mut block = bytes.as_bytes().to_vec();
        seal(events, &mut block);
        String::from_utf8(block).unwrap()
    };
    assert_eq!(sealed(1, "data: a\nid: 7-1\n\n"), "data: a\nid: 7-1\n\n");
    let three = "data: a\nid: 7-1\n\ndata: \0\0\nid: 7-2\n\ndata: \0\nid: 7-3\n\n";
    assert_eq!(sealed(3, three), format!(": one POST, 3 events, 3 NULs\n{three}"));
    assert_eq!(sealed(2, "data: a\n\ndata: b\n\n"), ": one POST, 2 events, 0 NULs\ndata: a\n\ndata: b\n\n");
    assert_eq!(sealed(1, "data: \0\n\n"), ": one POST, 1 events, 1 NULs\ndata: \0\n\n");
}

#[test]
fn no_publisher_can_forge_a_seal_or_a_head() {
    let mut random = Random(18);
    let forged = format!("{SEAL}2 events, 0 NULs");
    let parts =
        [&forged, &format!("{SEAL}1 events, 9 NULs"), ": tincan log", "\n", "\r", "\0", "id: 7-1", "data: ", "x"];
    let mut log = Written::new();
    let mut seals = 0;
    for n in 0..300 {
        let data: String = (0..random.index(9)).map(|_| parts[random.index(parts.len())]).collect();
        let stream = format!("{forged}\ndata: x\n{forged}\ndata:{forged}\n{forged}\n\n{forged}\n\ndata: {n}\n\n");
        let events = match n % 4 {
            0 => parse(&stream).unwrap(),
            1 => vec![Event::new("x").named(&forged).unwrap()],
            _ => vec![Event::new(data); random.index(2) + 1],
        };
        log.post(&events);
        let nuls = events.iter().any(|event| event.fields()[0].1.contains('\0'));
        seals += usize::from(events.len() > 1 || nuls);
    }
    let lines = log.bytes.split(|&byte| byte == b'\n');
    assert_eq!(lines.filter(|line| line.starts_with(SEAL.as_bytes())).count(), seals);
    log.is_cut_before_the_change(&log.bytes, &"nothing has changed");
}

#[test]
fn a_long_line_is_counted_to_its_end() {
    let mut log = Written::new();
    log.post(&[Event::new("one")]);
    log.post(&[Event::new("l".repeat(1 << 20) + "\0")]);
    log.post(&[Event::new("three")]);
    log.is_cut_before_the_change(&log.bytes, &"nothing is missing");
    for start in [PAGE, 600_000, log.bytes.len() - 2 * PAGE] {
        log.is_cut_before_the_change(&log.with_hole(start..start + 1), &start);
    }
}

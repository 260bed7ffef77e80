//! Redis's protocol, the address of a Redis, its entries as events, and a log that copies one of its streams. All
//! tests run without a Redis.

use crate::support::harness::*;
use std::collections::BTreeSet;
use std::io::{BufReader, ErrorKind, Read};
use tincan::log::positions::{Gap, Log, PIECE, Since};
use tincan::wings::redis::resp::{Address, ELEMENT, MAX_DEPTH, MAX_LINE, Reply, command, read};
use tincan::wings::redis::stream::{Entry, above, add_commands, below, key};
use tincan::wire::event::Event;
use tincan::wire::id::Id;

/// The most bytes of a reply that are kept.
const MOST: u64 = 1 << 20;

/// Returns one byte at each read, or SIZE bytes, and counts them.
struct Drops<R, const SIZE: usize = 1>(R, u64);

impl<R: Read, const SIZE: usize> Read for Drops<R, SIZE> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let most = SIZE.min(out.len());
        let n = self.0.read(&mut out[..most])?;
        self.1 += n as u64;
        Ok(n)
    }
}

fn whole(bytes: &[u8]) -> Result<Reply, ErrorKind> {
    read(&mut &*bytes, u64::MAX, MOST).map_err(|e| e.kind())
}

fn drops(bytes: &[u8]) -> Result<Reply, ErrorKind> {
    read(&mut BufReader::with_capacity(64, Drops::<_>(bytes, 0)), u64::MAX, MOST).map_err(|e| e.kind())
}

fn text(text: impl AsRef<[u8]>) -> Reply {
    Reply::Text(text.as_ref().into())
}

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

impl Random {
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.index(most + 1);
        (0..len).map(|_| if self.below(3) == 0 { b"\r\n+-:$*0"[self.index(8)] } else { self.next() as u8 }).collect()
    }

    /// Returns a random reply, and its bytes.
    fn reply(&mut self, depth: u8) -> (Reply, Vec<u8>) {
        let line = |bytes: Vec<u8>| -> Vec<u8> { bytes.into_iter().filter(|b| !b"\r\n".contains(b)).collect() };
        match self.below(if depth > 0 { 8 } else { 5 }) {
            0 => {
                let bytes = line(self.bytes(20));
                (Reply::Text(bytes.clone()), [b"+", &bytes[..], b"\r\n"].concat())
            }
            1 => {
                let bytes = line(self.bytes(20));
                (Reply::Error(String::from_utf8_lossy(&bytes).into()), [b"-", &bytes[..], b"\r\n"].concat())
            }
            2 => {
                let n = self.next() as i64 >> self.below(64);
                (Reply::Number(n), format!(":{n}\r\n").into())
            }
            3 => (Reply::Null, ["$-1\r\n", "*-1\r\n"][self.index(2)].into()),
            4 => {
                let bytes = self.bytes(40);
                (Reply::Text(bytes.clone()), [format!("${}\r\n", bytes.len()).as_bytes(), &bytes[..], b"\r\n"].concat())
            }
            _ => {
                let (list, bytes): (Vec<_>, Vec<_>) = (0..self.index(5)).map(|_| self.reply(depth - 1)).unzip();
                (Reply::List(list), [format!("*{}\r\n", bytes.len()).into(), bytes.concat()].concat())
            }
        }
    }
}

#[test]
fn a_command_is_an_array_of_words_with_their_lengths_in_bytes() {
    for (words, bytes) in [
        (&["PING"][..], "*1\r\n$4\r\nPING\r\n"),
        (&["AUTH", "", "geheim für alle"], "*3\r\n$4\r\nAUTH\r\n$0\r\n\r\n$16\r\ngeheim für alle\r\n"),
        (
            &["X", "a\r\n*1\r\n$4\r\nQUIT\r\n", "\0"],
            "*3\r\n$1\r\nX\r\n$17\r\na\r\n*1\r\n$4\r\nQUIT\r\n\r\n$1\r\n\0\r\n",
        ),
        (&[], "*0\r\n"),
    ] {
        assert_eq!(String::from_utf8(command(words)).unwrap(), bytes);
        let list = words.iter().map(text).collect();
        assert_eq!(whole(bytes.as_bytes()), Ok(Reply::List(list)), "the command reads back as the same words");
    }
}

#[test]
fn each_kind_of_reply_is_read() {
    for (bytes, reply) in [
        ("+OK\r\n", text("OK")),
        ("+\r\n", text("")),
        ("+a\rb\r\n", text("a\rb")),
        ("-ERR no such key\r\n", Reply::Error("ERR no such key".into())),
        ("-\r\n", Reply::Error(String::new())),
        (":0\r\n", Reply::Number(0)),
        (":-9223372036854775808\r\n", Reply::Number(i64::MIN)),
        (":9223372036854775807\r\n", Reply::Number(i64::MAX)),
        ("$0\r\n\r\n", text("")),
        ("$5\r\nhello\r\n", text("hello")),
        ("$4\r\n\r\n\r\n\r\n", text("\r\n\r\n")),
        ("$-1\r\n", Reply::Null),
        ("*-1\r\n", Reply::Null),
        ("*0\r\n", Reply::List(vec![])),
        ("*2\r\n:1\r\n*1\r\n$-1\r\n", Reply::List(vec![Reply::Number(1), Reply::List(vec![Reply::Null])])),
    ] {
        assert_eq!(whole(bytes.as_bytes()), Ok(reply), "{bytes:?}");
    }
    let mut two = &b"$-1\r\n:7\r\n"[..];
    assert_eq!(
        (read(&mut two, u64::MAX, MOST).unwrap(), read(&mut two, u64::MAX, MOST).unwrap()),
        (Reply::Null, Reply::Number(7))
    );
    for bytes in [
        "\r\n",
        "OK\r\n",
        "!\r\n",
        " :1\r\n",
        ":\r\n",
        ":x\r\n",
        ":1 \r\n",
        ":9223372036854775808\r\n",
        ":1\n",
        "+OK\n",
        "$x\r\n",
        "$\r\n",
        "$5\r\nhelloXY",
        "$4\r\nhello\r\n",
        "$5\r\nhello\n\n",
        "*\r\n",
        "*x\r\n",
        "*1\r\nx\r\n",
        "_\r\n",
        "#t\r\n",
        "%0\r\n",
        "*99999999999999999999\r\n",
    ] {
        assert_eq!(whole(bytes.as_bytes()), Err(ErrorKind::InvalidData), "{bytes:?}");
        assert_eq!(drops(bytes.as_bytes()), Err(ErrorKind::InvalidData), "{bytes:?}");
    }
}

#[test]
fn a_reply_in_single_bytes_is_the_same_and_cut_off_anywhere_it_is_unfinished() {
    let mut random = Random(70);
    for _ in 0..2000 {
        let (reply, bytes) = random.reply(4);
        assert_eq!(whole(&bytes).as_ref(), Ok(&reply), "{:?}", String::from_utf8_lossy(&bytes));
        assert_eq!(drops(&bytes).as_ref(), Ok(&reply), "{:?}", String::from_utf8_lossy(&bytes));
        let more = [&bytes[..], b"+and so on\r\n"].concat();
        let mut stream = &more[..];
        assert_eq!(
            (read(&mut stream, u64::MAX, MOST).unwrap(), stream),
            (reply, &b"+and so on\r\n"[..]),
            "later bytes are not taken"
        );
        for cut in 0..bytes.len() {
            let cut = &bytes[..cut];
            assert_eq!(whole(cut), Err(ErrorKind::UnexpectedEof), "{:?}", String::from_utf8_lossy(cut));
            assert_eq!(drops(cut), Err(ErrorKind::UnexpectedEof), "{:?}", String::from_utf8_lossy(cut));
        }
    }
}

#[test]
fn damaged_replies_and_noise_are_read_or_refused_and_the_same_in_single_bytes() {
    let (mut random, mut counts) = (Random(71), [0; 2]);
    for n in 0..60_000 {
        let mut bytes = if n % 2 == 0 { random.reply(4).1 } else { random.bytes(60) };
        for _ in 0..random.index(3) {
            let (at, byte) = (random.index(bytes.len() + 1), b"\r\n+-:$*019 \xff\0"[random.index(13)]);
            match random.index(3) {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        let read = whole(&bytes);
        assert_eq!(read, drops(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
        let known = [Ok(()), Err(ErrorKind::InvalidData), Err(ErrorKind::UnexpectedEof)];
        assert!(known.contains(&read.as_ref().map(|_| ()).map_err(|e| *e)), "{read:?}");
        counts[usize::from(read.is_ok())] += 1;
    }
    assert!(counts.iter().all(|n| *n > 10_000), "{counts:?}");
}

#[test]
fn a_line_arrays_within_arrays_and_a_reply_have_limits() {
    let line = |len: u64| format!("+{}\r\n", "x".repeat(len as usize - 3)).into_bytes();
    assert!(whole(&line(MAX_LINE)).is_ok());
    assert_eq!(whole(&line(MAX_LINE + 1)), Err(ErrorKind::InvalidData));
    // A line without an end is not read for ever.
    let mut stream = BufReader::new(Drops::<_>(std::io::repeat(b'+'), 0));
    assert_eq!(read(&mut stream, u64::MAX, MOST).map_err(|e| e.kind()), Err(ErrorKind::InvalidData));
    assert!(stream.get_ref().1 <= MAX_LINE, "{} bytes", stream.get_ref().1);

    let nested = |depth: u8| ["*1\r\n".repeat(depth.into()), ":1\r\n".into()].concat();
    assert!(whole(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(whole(nested(MAX_DEPTH + 1).as_bytes()), Err(ErrorKind::InvalidData));
    let arrays = b"*1\r\n".repeat(1000);
    let mut stream = BufReader::new(Drops::<_>(&arrays[..], 0));
    assert_eq!(read(&mut stream, u64::MAX, MOST).map_err(|e| e.kind()), Err(ErrorKind::InvalidData));
    assert!(stream.get_ref().1 < 100);

    // An impossible size is refused before the data come, and no memory is reserved for a claimed size.
    for (huge, kind) in [
        ("4611686018427387904", ErrorKind::InvalidData),
        ("9223372036854775807", ErrorKind::InvalidData),
        ("536870913", ErrorKind::InvalidData),
        ("50000000", ErrorKind::UnexpectedEof),
    ] {
        assert_eq!(whole(format!("*{huge}\r\n:1\r\n").as_bytes()), Err(kind), "an array of {huge}");
        assert_eq!(whole(format!("${huge}\r\nx").as_bytes()), Err(kind), "a string of {huge}");
        let arrays = format!("*{huge}\r\n").repeat(MAX_DEPTH.into());
        assert_eq!(whole(arrays.as_bytes()), Err(kind));
    }
    let string = whole(b"$-9223372036854775808\r\nx");
    assert_eq!(string, Ok(Reply::Null), "a negative length is null");
}

/// Reads two replies, the first with these limits. The second one must be `:7`. Returns the first.
fn then_seven(mut bytes: Vec<u8>, each: u64, most: u64) -> Reply {
    bytes.extend(b":7\r\n");
    let mut stream = BufReader::with_capacity(64, Drops::<_, 4096>(&bytes[..], 0));
    let reply = read(&mut stream, each, most).unwrap();
    assert_eq!(read(&mut stream, each, most).unwrap(), Reply::Number(7));
    reply
}

#[test]
fn what_is_too_large_is_dropped_and_what_follows_is_found() {
    // Each part counts: its line, and the bytes of its string.
    for (before, kept) in [
        ("", vec![]),
        ("*1\r\n", vec![]),
        ("*3\r\n:1\r\n$-1\r\n", vec![Reply::Number(1), Reply::Null]),
        ("*3\r\n+ok\r\n$5\r\nhello\r\n", vec![text("ok"), text("hello")]),
    ] {
        let lines = before.lines().filter(|line| *line != "hello").count() as u64 + 1;
        let bytes = before.bytes().filter(|b| !b"\r\n".contains(b)).count() as u64 + "$1048000".len() as u64;
        let left = MOST - ELEMENT * lines - bytes - 1;
        for (len, last) in [(left, text("x".repeat(left as usize))), (left + 1, Reply::Large)] {
            let bytes = format!("{before}${len}\r\n{}\r\n", "x".repeat(len as usize)).into_bytes();
            let reply = then_seven(bytes, u64::MAX, MOST);
            let all = [&kept[..], std::slice::from_ref(&last)].concat();
            assert!(reply == if before.is_empty() { last } else { Reply::List(all) }, "{before:?} and {len}");
        }
    }
    let most = 64 << 10;
    // An array is kept up to the first element that is too large. The same holds for inner arrays.
    let line = format!("+{}\r\n", "x".repeat(6000));
    let string = format!("$6000\r\n{}\r\n", "x".repeat(6000));
    for element in [":1\r\n", "$-1\r\n", "*0\r\n", "*1\r\n$0\r\n\r\n", &line, &line.replace('+', "-"), &string] {
        let count = 2 * most as usize / element.len() + 9;
        let array = [format!("*{count}\r\n").into_bytes(), element.repeat(count).into_bytes()].concat();
        let Reply::List(list) = then_seven(array.clone(), u64::MAX, most) else { panic!() };
        let cost = whole(element.as_bytes()).map(|_| element.len() as u64).unwrap() / 2;
        assert!(list.len() as u64 <= most / cost.max(ELEMENT) + 1 && list.len() > 10, "{element:.9}: {}", list.len());
        assert_eq!(list.last(), Some(&Reply::Large));
        let outer = [b"*2\r\n".to_vec(), array, b":2\r\n".to_vec()].concat();
        let Reply::List(outer) = then_seven(outer, most / 2, most) else { panic!() };
        assert!(outer[0].list().len() > 5 && outer[0].list().len() < list.len());
        assert_eq!(outer[1], Reply::Number(2), "each element has its own limit");
    }
    // Two entries always fit, whatever size they claim; further ones fit as long as there is room.
    let entry = |len: usize| format!("*2\r\n$3\r\n7-1\r\n*2\r\n$4\r\ndata\r\n${len}\r\n{}\r\n", "x".repeat(len));
    for (lens, kept) in [
        (&[9000, 5000, 5000][..], &[true, false][..]),
        (&[5000, 9000, 10], &[false, true, false]),
        (&[9000, 9000], &[true, true]),
        (&[5000, 4000, 4000, 1], &[false, false]),
        (&[10, 10, 9000], &[false, false, true]),
    ] {
        let all: String = lens.iter().map(|len| entry(*len)).collect();
        let page = then_seven(format!("*{}\r\n{all}", lens.len()).into_bytes(), 6000, 13_000);
        let entries: Vec<Entry> = page.list().iter().filter_map(Entry::read).collect();
        assert_eq!(entries.iter().map(|entry| entry.is_large).collect::<Vec<_>>(), kept, "{lens:?}");
        assert_eq!(page.list().last() == Some(&Reply::Large), kept.len() < lens.len(), "{lens:?}");
        let whole = entries.iter().zip(lens).filter(|(entry, _)| !entry.is_large);
        whole.for_each(|(entry, len)| assert!(entry.event == Event::new("x".repeat(*len))));
    }
}

#[test]
fn a_value_is_found_by_its_name_and_nothing_else_is() {
    let info = Reply::List(vec![text("length"), Reply::Number(3), text("groups"), text("length"), text("odd")]);
    assert_eq!(info.get("length"), Some(&Reply::Number(3)));
    assert_eq!(info.get("groups"), Some(&text("length")));
    for name in ["odd", "none", ""] {
        assert_eq!(info.get(name), None, "{name}");
    }
    let value = Reply::List(["kind", "length", "length", "3"].map(text).into());
    assert_eq!(value.get("length"), Some(&text("3")), "a value is not taken for a name");
    assert_eq!(text("length").get("length"), None);
    assert_eq!(Reply::Null.get("length"), None);
}

#[test]
fn an_address_is_host_and_port_or_a_url() {
    let parts = |a: Address| (a.host, a.port, a.user, a.password, a.database);
    for (address, host, port, user, password, database) in [
        ("localhost:6380", "localhost", 6380, "", "", 0),
        ("localhost", "localhost", 6379, "", "", 0),
        ("redis-1.example.org", "redis-1.example.org", 6379, "", "", 0),
        ("10.0.0.7:1", "10.0.0.7", 1, "", "", 0),
        ("h:65535", "h", 65535, "", "", 0),
        ("[::1]:6380", "::1", 6380, "", "", 0),
        ("[2001:db8::7]", "2001:db8::7", 6379, "", "", 0),
        ("redis://h", "h", 6379, "", "", 0),
        ("redis://h/", "h", 6379, "", "", 0),
        ("redis://h/3", "h", 6379, "", "", 3),
        ("redis://h:7000/15", "h", 7000, "", "", 15),
        ("redis://:secret@h", "h", 6379, "", "secret", 0),
        ("redis://ann:secret@h:7000/2", "h", 7000, "ann", "secret", 2),
        ("redis://ann:%40%3a%2F%25%20@h", "h", 6379, "ann", "@:/% ", 0),
        ("redis://a%3Ab:c@h", "h", 6379, "a:b", "c", 0),
        ("redis://ann:a+b@h", "h", 6379, "ann", "a+b", 0),
        ("redis://ann:a:b@h", "h", 6379, "ann", "a:b", 0),
        ("redis://ann:a@b@h", "h", 6379, "ann", "a@b", 0),
        ("redis://:%C3%BC@h", "h", 6379, "", "ü", 0),
        ("redis://ann:secret@[::1]:7000/2", "::1", 7000, "ann", "secret", 2),
        ("redis://ann:secret@[::1]/2", "::1", 6379, "ann", "secret", 2),
        ("redis://@h", "h", 6379, "", "", 0),
    ] {
        let expected = (host.into(), port, user.into(), password.into(), database);
        assert_eq!(Address::parse(address).map(parts), Some(expected), "{address}");
    }
    for address in [
        "",
        " ",
        ":",
        ":6379",
        "h:0",
        "h:99999",
        "h:65536",
        "h:-1",
        "h:+1",
        "h:1 ",
        " h:1",
        "h:x",
        "h:1:2",
        "h x",
        "::1",
        "::1:6379",
        "[::1",
        "[]:6379",
        "[::1]x",
        "[::1]:0",
        "h/0",
        "h:1/0",
        "ann:secret@h",
        "secret@h:1",
        "redis:h",
        "redis:/h",
        "redis://",
        "redis:///3",
        "redis://:7000",
        "redis://h/x",
        "redis://h/-1",
        "redis://h/+1",
        "redis://h/1/",
        "redis://h/4294967296",
        "redis://h/0?timeout=1",
        "redis://h?db=1",
        "redis://h#1",
        "redis://h:0",
        "redis://h:99999/1",
        "redis://ann@h",
        "redis://ann:@h",
        "redis://:secret@",
        "redis://:%@h",
        "redis://:%4@h",
        "redis://:%zz@h",
        "redis://:%ff@h",
        "redis://:a/b@h",
        "redis://h\r\n",
        "redis://h\0",
        "rediss://h",
        "rediss://ann:secret@h:7000/2",
        "REDIS+TLS://h",
        "unix:///run/redis.sock",
        "http://h",
        "redis://redis://h",
        "[::1]6379",
    ] {
        assert_eq!(Address::parse(address), None, "{address:?}");
    }
}

#[test]
fn any_password_can_be_given_and_none_is_ever_shown() {
    let mut random = Random(72);
    let encode = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
    let mut word = || {
        let chars: Vec<char> = "@:/%?#[] +\"'\\\r\n\0äß漢🦀".chars().collect();
        (0..8).map(|_| chars[random.index(chars.len())]).collect::<String>()
    };
    for _ in 0..1000 {
        let (user, password) = (word(), word());
        let url = format!("redis://{}:{}@[::1]:7000/9", encode(&user), encode(&password));
        let address = Address::parse(&url).unwrap();
        assert_eq!((&address.user, &address.password), (&user, &password));
        assert_eq!((address.to_string(), format!("{address:?}")), ("[::1]:7000".into(), "Address([::1]:7000)".into()));
    }
    let address = Address::parse("redis://ann:secret@example.org/7").unwrap();
    assert_eq!(address.to_string(), "example.org:6379");
    let mut config = tincan::Config::default();
    config.wing_options.set("redis", "redis://ann:secret@example.org/7");
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.contains("redis") && !shown.contains("secret") && !shown.contains("\"ann\""), "{shown}");
}

#[test]
fn the_ids_below_and_above_are_the_nearest() {
    const MAX: u64 = u64::MAX;
    for (lower, higher) in [
        ("0-0".into(), "0-1".into()),
        ("5-6".into(), "5-7".into()),
        (format!("4-{MAX}"), "5-0".into()),
        (format!("{MAX}-0"), format!("{MAX}-1")),
        (format!("{}-{MAX}", MAX - 1), format!("{MAX}-0")),
    ] {
        assert_eq!((above(id(&lower)), below(id(&higher))), (id(&higher), id(&lower)));
    }
    assert_eq!(below(id("0-0")), id("0-0"), "no id is below");
    above(Id { epoch: MAX, seq: MAX }); // no id is above: the same id is returned
}

#[test]
fn what_is_published_is_one_command_an_event_and_all_or_none() {
    let words = |words: &[&str]| command(words);
    let add = |events: &[Event], except, top, kept| {
        let posts: Vec<String> = (7..).take(events.len()).map(|n| format!("node-{n}")).collect();
        add_commands("kitchen", events, except, &posts, id(top), id(kept))
    };
    let (soup, named) = (Event::new("soup\r\nis ready"), Event::new("").named("bell").unwrap());
    assert_eq!(key("kitchen"), "tincan:kitchen");
    let expected = ["XADD", "tincan:kitchen", "MINID", "~", "0-1", "*", "data", "soup\r\nis ready", "post", "node-7"];
    assert_eq!(add(std::slice::from_ref(&soup), None, "0-0", "0-0"), (words(&expected), 1));
    let text = String::from_utf8(words(&expected)).unwrap();
    assert!(text.starts_with("*10\r\n$4\r\nXADD\r\n$14\r\ntincan:kitchen\r\n$5\r\nMINID\r\n$1\r\n~\r\n"), "{text}");
    // The command does not create a stream that is missing, and it drops the entries that this node has dropped.
    let fields = ["data", "", "event", "bell", "except", "me", "post", "node-7"];
    let start = ["XADD", "tincan:kitchen", "NOMKSTREAM", "MINID", "~", "6-0", "*"];
    let kept = format!("5-{}", u64::MAX);
    assert_eq!(
        add(std::slice::from_ref(&named), Some(("except", "me")), "9-9", &kept),
        (words(&[&start[..], &fields].concat()), 1)
    );
    let retry = tincan::wire::event::parse("event: e\nretry: 42\ndata: a\n\n").unwrap();
    let fields = ["data", "a", "event", "e", "retry", "42", "post", "node-7"];
    assert_eq!(add(&retry, None, "9-9", &kept), (words(&[&start[..], &fields].concat()), 1));
    let all = [
        words(&["MULTI"]),
        words(&[&start[..], &["data", "soup\r\nis ready", "post", "node-7"]].concat()),
        words(&[&start[..], &["data", "", "event", "bell", "post", "node-8"]].concat()),
        words(&["EXEC"]),
    ];
    assert_eq!(add(&[soup, named], None, "9-9", &kept), (all.concat(), 4));
}

/// Returns an entry in the form of Redis: its id and its fields.
fn entry(id: &str, fields: &[&[u8]]) -> Reply {
    Reply::List(vec![text(id), Reply::List(fields.iter().map(text).collect())])
}

#[test]
fn whatever_stands_in_an_entry_it_is_one_event() {
    let long = [b'n'; 257];
    for (fields, wire) in [
        (&[b"data", &b"soup"[..]][..], "data: soup\n"),
        (&[], "data: \n"),
        (&[b"temperature", b"21", b"DATA", b"x"], "data: \n"),
        (&[b"x", b"y", b"data", b"a"], "data: a\n"),
        (&[b"data", b"a\nb\r\nc\rd\n"], "data: a\ndata: b\ndata: c\ndata: d\ndata: \n"),
        (&[b"data", b"a\n\nid: 9-9\n\ndata: b"], "data: a\ndata: \ndata: id: 9-9\ndata: \ndata: data: b\n"),
        (&[b"data", b"a", b"event", b"bell"], "event: bell\ndata: a\n"),
        (&[b"event", b"a\nid: 9-9", b"data", b"a"], "data: a\n"),
        (&[b"event", b"a\r", b"data", b"a"], "data: a\n"),
        (&[b"event", b"a\0b", b"data", b"a"], "data: a\n"),
        (&[b"event", &long[..256], b"data", b"a"], &format!("event: {}\ndata: a\n", "n".repeat(256))),
        (&[b"event", &long, b"data", b"a"], "data: a\n"),
        (&[b"event", b"", b"data", b"a"], "data: a\n"),
        (&[b"event", b"gap", b"data", b"a"], "data: a\n"), // unless a node has written it
        (&[b"lost", b"5-5", b"data", b"a", b"event", b"gap"], "event: gap\ndata: a\n"),
        (&[b"data", b"a\xff\xc3", b"event", b"\xfe"], "event: \u{fffd}\ndata: a\u{fffd}\u{fffd}\n"),
        (&[b"data", b"a\0b\x1b[31m"], "data: a\0b\x1b[31m\n"),
        (&[b"data", b"a", b"retry", b"2000"], "retry: 2000\ndata: a\n"),
        (&[b"data", b"a", b"retry", b"soon"], "data: a\n"),
        (&[b"data", b"a", b"retry", b"-1"], "data: a\n"),
        (&[b"data", b"a", b"retry", b"1\nid: 9-9"], "data: a\n"),
        (&[b"data", b"a", b"retry", b"18446744073709551616"], "data: a\n"),
        (&[b"data", b"a", b"id", b"9-9", b"post", b"x\ny"], "data: a\n"),
        (&[b"data", b"a", b"odd"], "data: a\n"),
        (&[b"data", b"a", b"data"], "data: a\n"),
        (&[b"data"], "data: \n"),
        (&[b"", b"", b"data", b" a"], "data:  a\n"),
    ] {
        let read = Entry::read(&entry("5-6", fields)).unwrap();
        let mut out = Vec::new();
        read.event.write(Some(read.id), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{wire}id: 5-6\n\n"), "{fields:?}");
        assert!(read.other_fields.iter().all(|(name, _)| name != "except"));
    }
    let except = |address: &[u8]| Entry::read(&entry("5-6", &[b"except", address])).unwrap().other_fields;
    assert_eq!(except(b"0123"), [("except".into(), "0123".into())]);
    assert_eq!(except(b"\xff"), [("except".into(), "\u{fffd}".into())]);
    // The values of other fields are kept in order, up to the number that a node needs.
    let names: Vec<String> = (0..20).map(|n| format!("field {n}")).collect();
    let fields: Vec<&[u8]> =
        names.iter().flat_map(|name| [name.as_bytes(), b"x", b"data", b"a", b"post", b"p"]).collect();
    let read = Entry::read(&entry("5-6", &fields)).unwrap();
    assert_eq!((read.other_fields.len(), &*read.other_fields[7].0, &*read.post_id), (8, "field 7", "p"));
    // Fields that are not text are ignored. Other replies in place of the fields count as no fields.
    let fields = Reply::List(vec![text("data"), Reply::Number(1), Reply::Null, text("x"), text("data"), text("a")]);
    let strange =
        [Reply::Null, Reply::Number(5), text("data"), Reply::Error("data".into()), Reply::List(vec![]), fields];
    for (fields, data) in strange.into_iter().zip(["", "", "", "", "", "a"]) {
        let read = Entry::read(&Reply::List(vec![text("5-6"), fields.clone(), text("more")])).unwrap();
        assert_eq!((read.id, read.event), (id("5-6"), Event::new(data)), "{fields:?}");
    }
    assert_eq!(Entry::read(&Reply::List(vec![text("5-6")])).unwrap().event, Event::new(""));
}

#[test]
fn what_has_no_id_is_no_entry() {
    for id in
        ["", "5", "5-", "-6", "5-6-7", "+5-6", "05-6", "5-06", " 5-6", "5-6\n", "x-y", "*", "18446744073709551616-0"]
    {
        assert!(Entry::read(&entry(id, &[b"data", b"a"])).is_none(), "{id:?}");
    }
    let fields = || Reply::List(vec![text("data"), text("a")]);
    for reply in [
        Reply::Null,
        Reply::Number(5),
        text("5-6"),
        Reply::List(vec![]),
        Reply::List(vec![Reply::Null, fields()]),
        Reply::List(vec![Reply::Number(5), fields()]),
        Reply::List(vec![Reply::List(vec![text("5-6")]), fields()]),
        Reply::List(vec![text(b"\xff5-6"), fields()]),
    ] {
        assert!(Entry::read(&reply).is_none(), "{reply:?}");
    }
}

/// The expected content of a log that is a copy: its blocks, with their ids if they have one.
struct Model {
    start: Id,
    blocks: Vec<(Option<Id>, Vec<u8>)>,
}

impl Model {
    /// Compares the log's answers to all possible questions with the expected ones.
    fn compare(&self, log: &Log, limit: usize, random: &mut Random) {
        let (all, end) = (log.find_start(&Since::All).unwrap(), log.heard.pos);
        let ends: Vec<u64> =
            self.blocks.iter().scan(0, |pos, block| Some((*pos += block.1.len() as u64, *pos).1)).collect();
        assert_eq!(ends.last().copied().unwrap_or_default(), end);
        let begins = |n: usize| if n == 0 { 0 } else { ends[n - 1] };
        let first = (0..=self.blocks.len()).find(|n| begins(*n) == all.pos).expect("the log begins with a block");
        assert!(end - all.pos <= limit as u64 || first + 1 == self.blocks.len(), "{} bytes kept", end - all.pos);
        let (dropped, kept) = self.blocks.split_at(first);
        let last_of = |blocks: &[(Option<Id>, Vec<u8>)]| blocks.iter().rev().find_map(|block| block.0);
        let before = last_of(dropped).unwrap_or(self.start);
        let last = last_of(kept).unwrap_or(before);
        assert_eq!((log.kept_after(), log.heard.id, log.written.id), (before, last, last));
        assert_eq!((all.id, all.gap), (before, None));
        let next_id = |from: usize| self.blocks[from..].iter().find_map(|block| block.0);

        let ids: BTreeSet<Id> = kept.iter().filter_map(|block| block.0).chain([before]).collect();
        let dropped_ids = dropped.iter().filter_map(|block| block.0);
        let mut asked: BTreeSet<Id> =
            dropped_ids.chain([self.start, Id::default(), Id { epoch: u64::MAX, seq: 0 }]).collect();
        // A few ids with their neighbours, and always the first and the last ones.
        let some: Vec<Id> = ids.iter().copied().filter(|_| random.below(ids.len() as u64) < 3).collect();
        let edges = [before, last].into_iter().chain(ids.iter().nth(1).copied());
        asked.retain(|id| random.below(8) == 0 || *id > last);
        asked.extend(some.into_iter().chain(edges).flat_map(|id| [below(id), id, above(id)]));
        for asked in asked {
            let found = log.find_start(&Since::After(asked.to_string())).unwrap();
            let is_kept = before <= asked && asked <= last;
            // After the last event that the client has received, and before a gap that follows it.
            let at = match is_kept {
                true => (first..self.blocks.len())
                    .rev()
                    .find(|n| self.blocks[*n].0.is_some_and(|id| id <= asked))
                    .map_or(first, |n| n + 1),
                // An id above everything: the client has received it, and it is lost. No id goes back, so only new
                // events follow.
                false if asked > last => self.blocks.len(),
                false => first,
            };
            let gap = (!ids.contains(&asked)).then(|| Gap { from: next_id(at), lost: None });
            let place = (begins(at), if before <= asked { asked } else { before }, gap);
            assert_eq!((found.pos, found.id, found.gap), place, "after {asked}, of {before} to {last}");
        }
        let from = first + random.index(kept.len() + 1);
        let (mut pos, mut received, mut piece) = (begins(from), Vec::new(), Vec::new());
        while pos < end {
            log.read(pos, &mut piece).unwrap();
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            pos += piece.len() as u64;
            received.append(&mut piece);
        }
        assert!(received == self.blocks[from..].iter().map(|block| &*block.1).collect::<Vec<_>>().concat());
        if all.pos > 0 {
            assert!(log.read(all.pos - 1, &mut piece).is_err(), "a trimmed position cannot be read");
        }
    }
}

/// Compares a copy of a random log: ids with and without steps, events and gaps of all sizes.
fn a_copy_finds_every_place(seed: u64, limit: usize, rounds: usize, gaps: u64) {
    let mut random = Random(seed);
    let start = Id { epoch: random.below(3), seq: random.below(3) };
    let (mut log, mut model) = (Log::copy_of_remote(start, limit), Model { start, blocks: Vec::new() });
    model.compare(&log, limit, &mut random);
    for _ in 0..rounds {
        let (last, mut block) = (log.written.id, Vec::new());
        let size = match random.below(40) {
            0 => random.index(2 * limit / 16 + 3000),
            1..4 => random.index(3000),
            _ => random.index(90),
        };
        if random.below(100) < gaps {
            let event = match random.below(3) {
                0 => Gap { from: None, lost: None }.event(&"x".repeat(size)),
                _ => Gap { from: Some(above(last)), lost: None }.event(&last.to_string()),
            };
            event.write(None::<Id>, &mut block);
            log.commit(&block, last, None, true);
            log.set_heard(log.tail().written);
            model.blocks.push((None, block));
        } else {
            let id = match random.below(4) {
                0 => above(last),
                1 => last.plus(1 + random.below(3)),
                2 => Id { epoch: last.epoch + 1 + random.below(1000), seq: 0 },
                _ => Id { epoch: last.epoch + 1, seq: random.below(3) },
            };
            Event::new("x".repeat(size)).write(Some(id), &mut block);
            log.commit(&block, id, None, true);
            log.set_heard(log.tail().written);
            model.blocks.push((Some(id), block));
        }
        model.compare(&log, limit, &mut random);
    }
}

#[test]
fn a_copy_of_a_log_finds_every_place_with_gaps_anywhere() {
    let logs = [(32 << 10, 250, 0), (32 << 10, 250, 30), (4 << 10, 500, 30), (64 << 10, 250, 80), (1 << 10, 500, 50)];
    std::thread::scope(|scope| {
        for (seed, (limit, rounds, gaps)) in (80..).zip(logs) {
            scope.spawn(move || a_copy_finds_every_place(seed, limit, rounds, gaps));
        }
    });
}

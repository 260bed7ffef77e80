//! The lessons: their files, their bytes on the wire, and their reconnections in a real Chromium.

use crate::support::browser::{driver, url};
use crate::support::harness::*;
use crate::support::wings::has;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tincan::channel::framing::chunked;
use tincan::wings::lessons::script::{LESSONS, Lesson, Script, Step, comment, languages, parse};
use tincan::wings::lessons::{NO_LESSON, PLAYING};
use tincan::wire::http;
use tincan::wire::reject::{PAGE_METHOD, SINCE};

/// Plays a lesson, and closes it after `most` events. Each event is noted, and the time of it.
const PLAY: &str = "void (window.heard = {}, window.played = {}, window.play = (url, name, most) => {
    const es = played[name] = new EventSource(url), log = heard[name] = [];
    log.at = [];
    const hear = text => { log.at.push(Date.now()); if (log.push(text) === most) es.close(); };
    es.onopen = () => hear('open');
    es.onerror = () => hear('error|' + es.readyState);
    es.onmessage = e => hear(e.data + '|' + e.lastEventId);
})";

#[test]
fn chromium_obeys_since_at_its_first_connection_and_retry_before_the_next() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/health"));
    page.js(PLAY);
    page.js("play('/lessons/reconnection?since=2', 'since', 5)");
    page.js("play('/lessons/retry', 'retry', 4)");
    // `?since=` applies to the first connection. On the next, the browser sends its last event ID.
    let missed = "open\nthree, which you missed. You sent Last-Event-ID: 2|3\nerror|0";
    page.becomes("heard.since.join('\\n')", &format!("{missed}\nopen\nfour, and the stream stays|4"));
    // The pause follows `retry: 500`. It is neither Chromium's default of three seconds nor the value of the field
    // that is ignored.
    page.becomes("heard.retry", "open,see you in half a second|,error|0,open");
    let pause: u64 = page.js("heard.retry.at[3] - heard.retry.at[2]").parse().unwrap();
    assert!((400..3000).contains(&pause), "{pause} ms");
}

#[test]
fn the_seventh_stream_waits_for_one_of_six() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/health"));
    page.js(PLAY);
    for n in 1..=7 {
        page.js(&format!("play('/lessons/six-connections', {n}, 0)"));
    }
    let open = "Object.values(played).filter(es => es.readyState === 1).length";
    page.becomes(open, "6");
    // There is no condition to wait for. In this time a further stream would have opened.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(page.js(open), "6");
    page.js("Object.values(played).find(es => es.readyState === 1).close()");
    page.becomes(open, "6");
    page.becomes("Object.values(played).filter(es => es.readyState === 0).length", "0");
}

/// Sends a GET with these field lines; returns the head without its date, and the connection.
fn get(server: &Tincan, name: &str, fields: &str) -> (String, Wire) {
    let mut wire = server.connect();
    wire.send(format!("GET /lessons/{name} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    let head = wire.until(b"\r\n\r\n");
    let kept = head.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: "));
    (kept.collect(), wire)
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Returns the part of a lesson's file that is played.
fn file(name: &str) -> &'static str {
    languages(LESSONS.iter().find(|lesson| lesson.name == name).unwrap().text).0
}

/// Returns the last event IDs for which a lesson has a part of its own.
fn ids(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix(": when Last-Event-ID: "))
}

/// A lesson as it was played to one client.
pub struct Played {
    pub lesson: &'static Lesson,
    /// The last event ID that the client sent, and whether it was in a field or in the query.
    id: &'static str,
    in_field: bool,
    /// The head of the response without its date.
    head: String,
    body: String,
    /// The sizes of its chunks; the last one has 0.
    chunks: Vec<usize>,
    /// The lines of `--trace` about it, if this build has that wing. Each begins with `sign`.
    pub sign: String,
    pub trace: String,
}

/// Plays each lesson to its end: without an id, with each id that it knows, and some with further ids. This happens
/// once for all tests, and for all lessons at the same time, since each takes long.
pub fn played() -> &'static [Played] {
    static PLAYED: LazyLock<Vec<Played>> = LazyLock::new(play);
    &PLAYED
}

fn play() -> Vec<Played> {
    let mut asked: Vec<(&str, &str, bool)> = Vec::new();
    for lesson in LESSONS {
        asked.extend([""].into_iter().chain(ids(languages(lesson.text).0)).map(|id| (lesson.name, id, false)));
    }
    asked.extend([
        ("no-content", "1", true),
        ("cut-id", "none of its ids", true),
        ("reconnection", "2", true),
        ("fresh-start", "a {time} \u{e9}", true),
    ]);
    // One server plays 32 lessons for one client address.
    asked.chunks(32).map(open).collect::<Vec<_>>().into_iter().flat_map(hear).collect()
}

/// A server, and the lessons that have begun there: whether each repeats, and its connection.
type Begun = (Tincan, Vec<(bool, Wire, Played)>);

fn open(asked: &[(&'static str, &'static str, bool)]) -> Begun {
    let server = Tincan::start(if has("trace") { &["--trace", "--quiet"] } else { &["--quiet"] });
    let close = "Connection: close\r\n"; // only a 204 would leave the connection open
    let mut opened = Vec::new();
    for (n, &(name, id, in_field)) in asked.iter().enumerate() {
        let lesson = LESSONS.iter().find(|lesson| lesson.name == name).unwrap();
        let repeats = matches!(parse(lesson.text, id.as_bytes()).unwrap().steps.last(), Some(Step::Repeat(_)));
        let (head, wire) = match (id, in_field) {
            ("", _) => get(&server, name, close),
            (_, true) => get(&server, name, &format!("Last-Event-ID: {id}\r\n{close}")),
            (_, false) => get(&server, &format!("{name}?since={id}"), close),
        };
        let (body, chunks, trace) = (String::new(), Vec::new(), String::new());
        let played = Played { lesson, id, in_field, head, body, chunks, sign: format!("#{} ", n + 1), trace };
        opened.push((repeats, wire, played));
    }
    (server, opened)
}

/// Reads these lessons to their end.
fn hear((mut server, mut opened): Begun) -> Vec<Played> {
    opened.sort_by_key(|(repeats, ..)| *repeats); // first those that end by themselves
    let mut all = Vec::new();
    for (repeats, mut wire, mut played) in opened {
        if repeats {
            server.kill();
        }
        played.body = wire.rest();
        played.chunks = std::mem::take(&mut wire.chunks);
        all.push((repeats, played));
        if !repeats && has("trace") {
            drop(wire);
            let end = format!("\n{}- ", all.last().unwrap().1.sign);
            eventually("its connection ends", || server.stderr().contains(&end));
        }
    }
    let shown = server.stderr();
    for (_, played) in &mut all {
        played.trace.extend(shown.split_inclusive('\n').filter(|line| line.starts_with(&played.sign)));
    }
    all.into_iter().map(|(_, played)| played).collect()
}

#[test]
fn a_lesson_is_its_file_on_the_wire() {
    let head = |status: &str, kind: &str, more: &str| {
        let usual = "X-Accel-Buffering: no\r\nVary: Accept\r\nCache-Control: no-store, no-transform\r\n";
        let (first, last) = if more.is_empty() { (kind, "") } else { ("", kind) };
        format!(
            "HTTP/1.1 {status}\r\nX-Content-Type-Options: nosniff\r\n{first}{usual}{more}{last}Connection: close\r\n{CHUNKED}\r\n"
        )
    };
    let stream = "Content-Type: text/event-stream\r\n";
    let find = |name: &str, id: &str| {
        let mut all = played().iter();
        let is = |p: &&Played| p.lesson.name == name && p.id == id && p.in_field != id.is_empty();
        let Played { head, body, .. } = all.find(is).unwrap();
        (head.clone(), body.clone())
    };
    let asked = [
        ("first-event", ""),
        ("unavailable", ""),
        ("wrong-type", ""),
        ("no-content", "1"),
        ("line-ends", ""),
        ("nul-in-id", ""),
        ("byte-order-mark", ""),
        ("cut-id", "none of its ids"),
        ("reconnection", "2"),
        ("fresh-start", "a {time} \u{e9}"),
    ];
    let [first, unavailable, kind, none, ends, nul, mark, cut, part, echo] = asked.map(|(name, id)| find(name, id));
    assert_eq!(first, (head("200 OK", stream, ""), file("first-event").into()));
    let later = head("503 Service Unavailable", stream, "").replace("Connection", "Retry-After: 1\r\nConnection");
    assert_eq!(unavailable, (later, file("unavailable").into()));
    assert_eq!(kind, (head("200 OK", "", "Content-Type: text/plain\r\n"), file("wrong-type").into()));
    assert_eq!(none, (head("204 No Content", stream, "").replace(CHUNKED, ""), String::new()));
    assert_eq!(ends.1, file("line-ends").replace("{CR}", "\r").replace("{wait 1 s}", ""));
    assert_eq!(nul.1, file("nul-in-id").replace("{NUL}", "\0"));
    assert_eq!(mark.1, file("byte-order-mark").replace("{BOM}", "\u{feff}"));
    assert!(cut.1.ends_with("\n\nid: 2\ndata: tw"));
    let begin = file("reconnection").find(": when Last-Event-ID: 2").unwrap();
    let end = file("reconnection").find(": when Last-Event-ID: 3").unwrap();
    assert_eq!(part.1, file("reconnection")[begin..end].replace("{last-event-id}", "2"));
    assert!(echo.1.contains("(a {time} \u{e9})"), "the client's id is sent unchanged");
}

/// Returns how many bytes a client is sent up to each pause, and 0 for the end of the lesson.
fn sizes(lesson: &Lesson, id: &str) -> Vec<usize> {
    let (mut sizes, mut pending) = (Vec::new(), 0);
    for step in parse(lesson.text, id.as_bytes()).unwrap().steps {
        match step {
            Step::Send(ref bytes) => pending += bytes.len(),
            Step::Time => pending += http::now().len(),
            _ if pending > 0 => sizes.push(std::mem::take(&mut pending)),
            _ => {}
        }
        sizes.extend((step == Step::End).then_some(0));
    }
    sizes.extend((pending > 0).then_some(pending)); // the lesson is cut off here
    sizes
}

#[test]
fn each_chunk_of_a_lesson_is_what_it_says_up_to_a_pause_and_the_last_one_its_end() {
    for Played { lesson, id, head, chunks, .. } in played() {
        let name = lesson.name;
        if head.starts_with("HTTP/1.1 204 ") {
            assert!(!head.contains(CHUNKED) && chunks.is_empty(), "{name}: {head}");
            continue;
        }
        assert!(head.contains(CHUNKED), "{name}: {head}");
        let expected = sizes(lesson, id);
        let cut = matches!((name, *id), ("cut-id", "" | "none of its ids") | ("chunks", "1"));
        let repeats = matches!(parse(lesson.text, id.as_bytes()).unwrap().steps.last(), Some(Step::Repeat(_)));
        assert_eq!(!expected.contains(&0), cut || repeats, "{name} {id}");
        if repeats {
            assert!(chunks.starts_with(&expected) && !chunks.contains(&0), "{name}: {chunks:?}, {expected:?}");
        } else {
            assert_eq!(*chunks, expected, "{name} {id}");
        }
    }
    // The server sets these fields.
    let set_by_server =
        |line: &str| line.starts_with(": field: Transfer-Encoding") || line.starts_with(": field: Content-Length");
    assert!(LESSONS.iter().all(|lesson| !lesson.text.lines().any(set_by_server)));
}

#[test]
fn to_http_1_0_a_lesson_is_sent_without_chunks() {
    let server = Tincan::start(&[]);
    let whole = |name: &str, version: &str| {
        let mut wire = server.connect().raw();
        wire.send(format!("GET /lessons/{name} HTTP/{version}\r\nHost: localhost\r\n\r\n"));
        let head = wire.until(b"\r\n\r\n");
        (head.contains("Transfer-Encoding"), wire.rest())
    };
    let body = ": when Last-Event-ID: 1\nid: 2\ndata: and now without a last chunk\n\n";
    let end = ": The connection just ends.\n";
    let framed = format!("{:x}\r\n{body}\r\n{:x}\r\n{end}\r\n", body.len(), end.len());
    assert_eq!(whole("chunks?since=1", "1.1"), (true, framed));
    assert_eq!(whole("chunks?since=1", "1.0"), (false, format!("{body}{end}")));
    let (_, last) = whole("cut-id?since=2", "1.1");
    assert!(last.ends_with("\n\n\r\n0\r\n\r\n"), "{last}");
    let last = file("cut-id").rsplit_once(": when").unwrap().1;
    assert_eq!(whole("cut-id?since=2", "1.0"), (false, format!(": when{last}")));
}

#[test]
fn a_lesson_is_played_block_by_block() {
    let server = Tincan::start(&[]);
    // Blocks before a pause arrive before the pause is over. Blocks after it do not.
    let first_event = || {
        let (begin, (_, mut wire)) = (Stopwatch::start(), get(&server, "first-event", ""));
        assert!(wire.block().ends_with("\ndata: Hello\n\n"));
        begin.within("the first event", Duration::from_millis(900));
    };
    let clock = || {
        let (begin, (_, mut wire)) = (Stopwatch::start(), get(&server, "clock", ""));
        assert!(wire.block().contains("\nevent: connecttime\ndata: "));
        begin.within("the clock", Duration::from_millis(900));
        let times = [wire.block(), wire.block()];
        assert!(begin.elapsed() > Duration::from_millis(1900), "{:?}", begin.elapsed());
        assert!(times[0].starts_with("data: ") && times[0] != times[1], "{times:?}");
    };
    let buffering = || {
        let (begin, (_, mut wire)) = (Stopwatch::start(), get(&server, "buffering", ""));
        wire.until(b"data: The first half,");
        begin.within("the first half", Duration::from_millis(1900));
        wire.expect(" and the second half.\n\n");
        assert!(begin.elapsed() > Duration::from_millis(1900), "{:?}", begin.elapsed());
    };
    std::thread::scope(|s| {
        s.spawn(first_event);
        s.spawn(clock);
        s.spawn(buffering);
    });
}

/// The files beside the lessons and their data: the page, the examination for clients, and a text about the seed.
const OTHER_FILES: [&str; 8] = [
    "lessons.html",
    "lessons.css",
    "lessons.js",
    "lessons-words.js",
    "README.md",
    "examine.py",
    "examine.js",
    "seed.md",
];

#[test]
fn each_lesson_says_what_to_look_for_and_asks_a_question_in_two_languages() {
    let (server, mut list) = (Tincan::start(&[]), String::new());
    let chinese = |c: char| ('\u{4e00}'..='\u{9fff}').contains(&c);
    for lesson in LESSONS {
        let (played, not_sent) = languages(lesson.text);
        let headings = ["lesson", "look", "question", "answer"];
        for (language, text) in [("English", played), ("Chinese", not_sent)] {
            for heading in headings {
                let text_of_part =
                    comment(text, heading).unwrap_or_else(|| panic!("{} has no {heading} in {language}", lesson.name));
                assert!(
                    text_of_part.len() > 5 && text_of_part.contains(chinese) == (language == "Chinese"),
                    "{}: {text_of_part}",
                    lesson.name
                );
                assert_eq!(text.matches(&format!(": {heading}: ")).count(), 1, "{} {heading}", lesson.name);
            }
        }
        let lines: Vec<_> = not_sent.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
        assert_eq!(lines, headings, "{}", lesson.name);
        let [title, titel] = [played, not_sent].map(|text| comment(text, "lesson").unwrap());
        list += &format!("/lessons/{:<20} {title} · {titel}\n", lesson.name);
        for line in lesson.text.lines() {
            let wide = line.chars().filter(|c| *c >= '\u{2e80}').count(); // each takes two columns
            assert!(line.chars().count() + wide <= 120 && line.trim_end() == line, "{}: {line}", lesson.name);
        }
        for id in [""].into_iter().chain(ids(played)) {
            let script = parse(lesson.text, id.as_bytes()).unwrap_or_else(|line| panic!("{}: {line}", lesson.name));
            // Without a pause between, a repeated part would loop without rest.
            if let Some(Step::Repeat(from)) = script.steps.last() {
                assert!(script.steps[*from..].iter().any(|step| matches!(step, Step::Wait(_))), "{}", lesson.name);
            }
        }
    }
    let open = parse(file("six-connections"), b"").unwrap();
    assert!(matches!(open.steps.last(), Some(Step::Repeat(_))), "the stream stays open");
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/static/lessons")).unwrap();
    let mut found: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    found.retain(|file| !OTHER_FILES.contains(&file.as_str()));
    found.sort();
    let mut known: Vec<_> =
        LESSONS.iter().flat_map(|lesson| ["json", "txt"].map(|kind| format!("{}.{kind}", lesson.name))).collect();
    known.sort();
    assert_eq!(found, known);
    let response = server.get("/lessons");
    assert_eq!((response.status, response.text().split_once("\n\n").unwrap().1), (200, list.as_str()));
    assert_eq!(response.field("content-type"), Some("text/plain; charset=utf-8"));
    let head = server.ask("HEAD /lessons/unavailable HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((head.status, head.field("content-type"), head.body.len()), (503, Some("text/event-stream"), 0));
    assert_eq!(server.ask("OPTIONS /lessons/clock HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 204);
}

#[test]
fn a_lesson_and_its_data_can_be_read_without_being_played() {
    let server = Tincan::start(&[]);
    for lesson in LESSONS {
        for (extension, kind, text) in
            [("txt", "text/plain; charset=utf-8", lesson.text), ("json", "application/json", lesson.expected)]
        {
            let response = server.get(&format!("/lessons/{}.{extension}", lesson.name));
            assert_eq!((response.status, response.text()), (200, text.into()));
            assert_eq!(response.field("content-type"), Some(kind));
            assert_eq!(response.field("cache-control"), Some("no-cache"));
        }
    }
    let ask = |method: &str, path: &str| {
        let mut wire = server.connect();
        wire.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        wire.rest()
    };
    let head = ask("HEAD", "/lessons/no-content.txt");
    let length = LESSONS.iter().find(|lesson| lesson.name == "no-content").unwrap().text.len();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {length}\r\n")) && head.ends_with("\r\n\r\n"), "{head}");
    assert!(ask("OPTIONS", "/lessons/clock.txt").starts_with("HTTP/1.1 204 "));
    server.post_with("/lessons/clock.txt", "", "").refused(PAGE_METHOD);
    for file in
        ["nothing.txt", "nothing.json", ".txt", ".json", "clock.txt.txt", "clock.json.txt", "clock.TXT", "clock."]
    {
        server.get(&format!("/lessons/{file}")).refused(NO_LESSON);
    }
}

#[test]
fn since_is_the_last_event_id_of_a_lesson_where_there_is_no_field() {
    let server = Tincan::start(&[]);
    let first = |since: &str, fields: &str| get(&server, &format!("reconnection?since={since}"), fields).1.until(b"\n");
    assert_eq!(first("2", ""), ": when Last-Event-ID: 2\n");
    assert_eq!(first("2", "Last-Event-ID:\r\n"), ": when Last-Event-ID: 2\n");
    assert_eq!(first("2", "Last-Event-ID: 3\r\n"), ": when Last-Event-ID: 3\n");
    assert_eq!(first("2", "Last-Event-ID: none of its ids\r\n"), ": lesson: Reconnection with Last-Event-ID\n");
    assert_eq!(first("none+of+its+ids", ""), ": lesson: Reconnection with Last-Event-ID\n");
    for (since, sent) in [("%C3%A9", "\u{e9}"), ("all", ""), ("", "")] {
        let mut wire = get(&server, &format!("fresh-start?since={since}"), "").1;
        assert!(wire.block().ends_with(&format!("\ndata: first stream. You sent Last-Event-ID: ({sent})\n\n")));
    }
    for since in ["%0A", "1%0Ddata:+not+so", "1%00"] {
        server.get(&format!("/lessons/fresh-start?since={since}")).refused(SINCE);
    }
}

#[test]
fn the_chinese_part_is_never_sent() {
    assert!(played().len() > LESSONS.len() + 5);
    for Played { lesson, id, in_field, head, body: received, .. } in played() {
        let (text, not_sent) = languages(lesson.text);
        let known = ids(text).any(|known| known == *id);
        assert!(known || id.is_empty() || *in_field);
        let begin = if known { &format!(": when Last-Event-ID: {id}") } else { text.split('\n').next().unwrap() };
        if !head.starts_with("HTTP/1.1 204 ") {
            assert!(received.starts_with(&begin.replace("{BOM}", "\u{feff}")), "{} {id}: {received}", lesson.name);
        }
        for line in not_sent.lines().chain([": 中文 (not sent)"]) {
            assert!(!received.contains(line), "{} {id}: {received}", lesson.name);
        }
    }
}

#[test]
fn pulling_the_plug_ends_a_lesson() {
    if !has("lab") {
        return;
    }
    let server = Tincan::start(&[]);
    let [mut other, mut quick, mut slow] =
        ["clock?tap=other", "clock?tap=plug", "six-connections?tap=plug"].map(|name| get(&server, name, "").1);
    slow.block();
    slow.block();
    // Now it pauses for five seconds.
    slow.stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    assert_eq!(server.post_with("/lab/plug", "", "").text(), "connections cut: 2\n");
    assert_eq!(slow.rest(), "");
    quick.rest();
    // The lesson's thread finds out at its next write. But the tap already shows the end of both.
    let mut tap = server.listen("/lab/plug?since=all", "").0;
    tap.stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    tap.until(b"\nevent: end\n");
    tap.until(b"\nevent: end\n");
    other.block(); // the other connection goes on
}

#[test]
fn a_lesson_is_played_for_ten_minutes_at_most() {
    assert!(LESSONS.iter().all(|lesson| parse(lesson.text, b"").unwrap().time == Duration::from_secs(600)));
    let script = Script { time: Duration::from_millis(250), ..parse(": pace: 100 ms\n\n{repeat}", b"").unwrap() };
    // The lesson would fill this buffer after some seconds, which is an error. It ends regularly before, with the
    // last chunk.
    let (mut room, begin) = ([0; 500], Instant::now());
    script.play(chunked(true), &mut &mut room[..]).unwrap();
    let sent = str::from_utf8(&room).unwrap().trim_end_matches('\0');
    assert_eq!(sent.replace("10\r\n: pace: 100 ms\n\n\r\n", ""), "0\r\n\r\n");
    assert!(begin.elapsed() > Duration::from_millis(250), "{:?}", begin.elapsed());
}

#[test]
fn braces_are_words_or_an_error() {
    let send = |text: &str| Step::Send(text.into());
    let wait = |ms| Step::Wait(Duration::from_millis(ms));
    // Adjacent pieces are sent in one write, so their borders do not matter.
    let joined = |all: Vec<Step>| {
        let mut steps: Vec<Step> = Vec::new();
        for step in all {
            match (steps.last_mut(), step) {
                (_, Step::Send(bytes)) if bytes.is_empty() => {}
                (Some(Step::Send(last)), Step::Send(bytes)) => last.extend(bytes),
                (_, step) => steps.push(step),
            }
        }
        steps
    };
    let steps = |text| parse(text, b"9").map(|script| joined(script.steps));
    assert_eq!(steps("a{wait 500 ms}b\n"), Ok(vec![send("a"), wait(500), send("b\n"), Step::End]));
    assert_eq!(steps("a{CR}{NUL}{BOM}{last-event-id}"), Ok(vec![send("a\r\0\u{feff}9\n"), Step::End]));
    assert_eq!(steps("a\n{no pause}\nb"), Ok(vec![send("a\n\nb\n"), Step::End]));
    assert_eq!(steps("a{cut}b"), Ok(vec![send("a")]));
    assert_eq!(steps("a\n: 中文 (not sent)\nb {"), Ok(vec![send("a\n"), Step::End]));
    assert_eq!(
        steps("a\n\n: pace: 2 s\n{time}\n\n{repeat}"),
        Ok(vec![
            send("a\n\n"),
            wait(1000),
            send(": pace: 2 s\n"),
            Step::Time,
            send("\n\n"),
            wait(2000),
            Step::Repeat(5)
        ])
    );
    for wrong in [
        "{",
        "}",
        "a}b",
        "{}",
        "{cr}",
        "{wait}",
        "{wait 2}",
        "{wait 0 s}",
        "{wait -1 s}",
        "{wait 6 s}",
        "{wait 2 h}",
        "{wait 1.5 s}",
        "{repeat}",
    ] {
        assert_eq!(steps(wrong), Err(wrong));
    }
    for wrong in [": status: ok", ": pace: fast", ": field: no colon"] {
        assert_eq!(steps(wrong), Err(wrong));
    }
}

#[test]
fn more_players_than_there_are_places_are_told_so() {
    let server = Tincan::start(&["--quiet"]);
    let mut wires: Vec<_> = (0..32).map(|_| get(&server, "clock", "").1).collect(); // none of these ends by itself
    server.get("/lessons/clock").refused(PLAYING);
    let (head, mut wire) = get(&server, "clock", "Accept: text/event-stream\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "an EventSource is kept alive: {head}");
    wire.expect(format!(": {}\nretry: ", PLAYING.why));
    assert_eq!(server.get("/health").status, 200);
    // A client that leaves and a lesson that ends each free one place, and not more.
    let is_played = |name: &str| {
        let mut last = None;
        eventually("a place is free again", || {
            let (head, wire) = get(&server, name, "");
            last = Some(wire);
            head.starts_with("HTTP/1.1 200 OK\r\n")
        });
        last.unwrap()
    };
    wires.pop();
    assert!(is_played("cut-id").rest().ends_with("\ndata: tw"));
    wires.push(is_played("clock"));
    server.get("/lessons/clock").refused(PLAYING);
    // Another address has places of its own. So has a third one, as long as the total limit is not reached.
    let Some(mut other) = Elsewhere::get(&server, "127.0.0.2", "/lessons/clock") else { return };
    assert!(other.line().contains(" 200 "));
    let others: Vec<_> = (0..31).map(|_| Elsewhere::get(&server, "127.0.0.2", "/lessons/clock").unwrap()).collect();
    for address in ["127.0.0.2", "127.0.0.3"] {
        eventually("all places are taken", || {
            Elsewhere::get(&server, address, "/lessons/clock").unwrap().line().contains(" 503 ")
        });
    }
    drop((wires, others));
    eventually("a place is free for the third address", || {
        Elsewhere::get(&server, "127.0.0.3", "/lessons/clock").unwrap().line().contains(" 200 ")
    });
}

/// A client with another address of this machine. std cannot choose the address of a client.
struct Elsewhere {
    response: BufReader<ChildStdout>,
    _curl: Ended,
}

impl Elsewhere {
    fn get(server: &Tincan, address: &str, path: &str) -> Option<Elsewhere> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-N", "-i", "--interface", address, &format!("http://127.0.0.1:{}{path}", server.port)]);
        let Ok(mut child) = curl.stdout(Stdio::piped()).spawn() else {
            eprintln!("left out: there is no curl");
            return None;
        };
        let response = BufReader::new(child.stdout.take().unwrap());
        Some(Elsewhere { response, _curl: Ended(child) })
    }

    /// Returns the next line of the response.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.response.read_line(&mut line).unwrap();
        line
    }
}

#[test]
fn an_address_is_that_of_a_network_in_ipv6_and_the_same_in_both_forms_of_ipv4() {
    // One server for both protocols, if this machine has them.
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("left out: there is no IPv6");
        return;
    }
    let server = Tincan::spawn("[::]:0", &["--quiet"]);
    let _mapped: Vec<_> = (0..32).map(|_| get(&server, "clock", "").1).collect();
    server.get("/lessons/clock").refused(PLAYING);
    let mut wire = TcpStream::connect(("::1", server.port)).unwrap();
    wire.write_all(b"GET /lessons/clock HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut begin = [0; 12];
    wire.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
}

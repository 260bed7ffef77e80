//! What breaks in the seed (`src/seed.rs`): each row of the table in `static/lessons/seed.md` is a client that runs
//! against the seed and against tincan. It sees the fault at the seed, and does not see it at tincan.

use crate::core::props::interpret;
use crate::support::documents::{document, links, quoted};
use crate::support::harness::*;
use crate::support::process::{descriptors, example, shell, status};
use crate::support::wings::went_with_its_wing;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::Builder;
use std::time::{Duration, Instant};

const TABLE: &str = "static/lessons/seed.md";

/// A row of the table: its key, a client that returns what it has seen, and what it sees at the seed and at tincan.
struct Fault {
    key: &'static str,
    client: fn(&Tincan) -> String,
    seed: &'static str,
    tincan: &'static str,
}

const FAULTS: [Fault; 18] = [
    Fault {
        key: "lone-cr",
        client: lone_cr,
        seed: r#"["soup", "poison", "end"]"#,
        tincan: r#"["soup\n\ndata: poison", "end"]"#,
    },
    Fault { key: "one-channel", client: one_channel, seed: r#"["wine", "end"]"#, tincan: r#"["end"]"# },
    Fault { key: "lost-event", client: lost_event, seed: r#"["end"]"#, tincan: r#"["soup is ready", "end"]"# },
    Fault { key: "cut-event", client: cut_event, seed: r#"["end"]"#, tincan: r#"["soup is ready", "end"]"# },
    Fault { key: "bad-length", client: bad_length, seed: r#"200, then ["", "end"]"#, tincan: r#"400, then ["end"]"# },
    Fault { key: "two-lengths", client: two_lengths, seed: "200", tincan: "400" },
    Fault { key: "cut-head", client: cut_head, seed: r#"200, then ["", "end"]"#, tincan: r#"nothing, then ["end"]"# },
    Fault {
        key: "chunked-body",
        client: chunked_body,
        seed: r#"200, then ["", "end"]"#,
        tincan: r#"200, then ["soup", "end"]"#,
    },
    Fault { key: "no-continue", client: no_continue, seed: "nothing", tincan: "100" },
    Fault { key: "huge-length", client: huge_length, seed: "nothing, then the end", tincan: "413, then 200" },
    Fault { key: "endless-head", client: endless_head, seed: "it is kept in memory", tincan: "414" },
    Fault { key: "silent-client", client: silent_client, seed: "nothing", tincan: "408" },
    Fault { key: "stalled-subscriber", client: stalled_subscriber, seed: "nothing more", tincan: "everything" },
    Fault { key: "dead-socket", client: dead_socket, seed: "its socket is open", tincan: "its socket is closed" },
    Fault { key: "poisoned-lock", client: poisoned_lock, seed: "nothing, then nothing", tincan: "400, then 200" },
    Fault { key: "accept-error", client: accept_error, seed: "the end", tincan: "200" },
    Fault { key: "foreign-page", client: foreign_page, seed: "200", tincan: "403" },
    Fault { key: "rebound-host", client: rebound_host, seed: "200, then 200", tincan: "421, then 421" },
];

/// Starts the seed, with few descriptors.
fn seed() -> Tincan {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" 127.0.0.1:0"]).arg(example("seed", "src/seed.rs"));
    let mut server = Tincan::run(command);
    server.may_panic = true;
    server
}

/// Starts tincan, with as few.
fn tincan() -> Tincan {
    shell("ulimit -n 64 && exec", &[])
}

#[test]
fn each_fault_of_the_seed_is_there_and_not_in_tincan() {
    std::thread::scope(|scope| {
        for fault in &FAULTS {
            let runs: [(_, fn() -> Tincan, _); 2] = [("seed", seed, fault.seed), ("tincan", tincan, fault.tincan)];
            for (name, start, expected) in runs {
                let run = move || assert_eq!((fault.client)(&start()), expected, "{} at {name}", fault.key);
                Builder::new().name(format!("{} at {name}", fault.key)).spawn_scoped(scope, run).unwrap();
            }
        }
    });
}

#[test]
fn the_table_of_the_seed_has_exactly_these_faults_and_a_file_for_each() {
    if went_with_its_wing(TABLE) {
        return eprintln!("left out: {TABLE} went with its wing");
    }
    let table = document(TABLE);
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let keys: Vec<&str> = rows.iter().filter_map(|row| quoted(row).next()).collect();
    assert_eq!(keys, FAULTS.map(|fault| fault.key));
    for row in rows {
        let files = links(row);
        assert!(!files.is_empty(), "{row} names no file");
        for file in files {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("static/lessons").join(&file);
            assert!(file.starts_with("../../src/") && path.is_file(), "there is no {file}");
        }
    }
    let source = document("src/seed.rs");
    for key in keys {
        assert!(source.contains(key), "the seed does not admit {key}");
    }
}

/// Returns the status of a response, or `nothing` if none comes.
fn answer(mut stream: &TcpStream) -> String {
    let mut begin = [0; "HTTP/1.1 200".len()];
    stream.set_read_timeout(Some(SOON)).unwrap();
    match stream.read_exact(&mut begin) {
        Ok(()) => String::from_utf8_lossy(&begin[9..]).into_owned(),
        Err(_) => "nothing".into(),
    }
}

/// Sends bytes on a new connection; returns the status of the response, or `nothing`.
fn ask(server: &Tincan, request: impl AsRef<[u8]>) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", server.port)) else { return "nothing".into() };
    let _ = stream.write_all(request.as_ref()); // the server may have ended
    answer(&stream)
}

/// Publishes with the given field lines, which have the length too.
fn post(server: &Tincan, path: &str, fields: &str, body: &str) -> String {
    ask(server, format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}"))
}

/// Publishes on the channel.
fn say(server: &Tincan, body: &str) -> String {
    post(server, "/kitchen", &format!("Content-Length: {}\r\n", body.len()), body)
}

/// Subscribes to the channel, after a last event ID if there is one.
fn subscribe(server: &Tincan, last_id: &str) -> Wire {
    let mut wire = server.connect();
    let field = if last_id.is_empty() { String::new() } else { format!("Last-Event-ID: {last_id}\r\n") };
    wire.send(format!("GET /kitchen HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"));
    let head = wire.until(b"\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    wire
}

/// Publishes a last event. Returns the data of all events up to it, as a client fires them, and the last event ID.
fn hear(server: &Tincan, wire: &mut Wire) -> (String, String) {
    assert_eq!(say(server, "end"), "200");
    let mut text = wire.until(b"data: end\n");
    while !text.ends_with("\n\n") {
        text += &wire.until(b"\n");
    }
    let events = interpret(&text);
    let data: Vec<&String> = events.iter().map(|(_, data, _)| data).collect();
    (format!("{data:?}"), events.last().unwrap().2.clone())
}

/// Returns whether the process has ended: it is a zombie until the test takes notice (proc_pid_stat(5)).
fn has_ended(server: &Tincan) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    stat.rsplit(')').next().unwrap().starts_with(" Z")
}

/// Waits until the server responds or has ended; returns which.
fn is_alive(server: &Tincan) -> &'static str {
    let responds = || ask(server, "GET /kitchen?wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n") == "200";
    // The end first: then its port may be another server's.
    eventually("it responds, or has ended", || has_ended(server) || responds());
    if has_ended(server) { "the end" } else { "200" }
}

fn lone_cr(server: &Tincan) -> String {
    let mut wire = subscribe(server, "");
    say(server, "soup\r\rdata: poison");
    hear(server, &mut wire).0
}

fn one_channel(server: &Tincan) -> String {
    let mut wire = subscribe(server, "");
    post(server, "/cellar", "Content-Length: 4\r\n", "wine");
    hear(server, &mut wire).0
}

fn lost_event(server: &Tincan) -> String {
    let mut wire = subscribe(server, "");
    let (_, last_id) = hear(server, &mut wire);
    drop(wire);
    say(server, "soup is ready");
    hear(server, &mut subscribe(server, &last_id)).0
}

/// The connection breaks after the data, before the next line. Like several clients, this one takes over an id as soon
/// as its line comes.
fn cut_event(server: &Tincan) -> String {
    let mut wire = subscribe(server, "");
    let (_, last_id) = hear(server, &mut wire);
    say(server, "soup is ready");
    let text = wire.until(b"data: soup is ready\n");
    drop(wire);
    let id = text.lines().find_map(|line| line.strip_prefix("id: "));
    hear(server, &mut subscribe(server, id.unwrap_or(&last_id))).0
}

/// Returns the response to a request, and what a subscriber hears of it.
fn answered_and_heard(server: &Tincan, request: impl FnOnce() -> String) -> String {
    let mut wire = subscribe(server, "");
    let status = request();
    format!("{status}, then {}", hear(server, &mut wire).0)
}

fn bad_length(server: &Tincan) -> String {
    answered_and_heard(server, || post(server, "/kitchen", "Content-Length: five\r\n", ""))
}

fn two_lengths(server: &Tincan) -> String {
    post(server, "/kitchen", "Content-Length: 13\r\nContent-Length: 4\r\n", "soup")
}

/// The client ends its sending side in the request line.
fn cut_head(server: &Tincan) -> String {
    answered_and_heard(server, || {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.write_all(b"POST /kitchen HTT").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        answer(&stream)
    })
}

fn chunked_body(server: &Tincan) -> String {
    let body = "4\r\nsoup\r\n0\r\n\r\n";
    answered_and_heard(server, || post(server, "/kitchen", "Transfer-Encoding: chunked\r\n", body))
}

/// The client sends its body only after `100 Continue` (RFC 9110 §10.1.1).
fn no_continue(server: &Tincan) -> String {
    post(server, "/kitchen", "Content-Length: 4\r\nExpect: 100-continue\r\n", "")
}

/// The length is beyond the addresses of any processor. So no memory is taken.
fn huge_length(server: &Tincan) -> String {
    let status = post(server, "/kitchen", "Content-Length: 4611686018427387904\r\n", "");
    format!("{status}, then {}", is_alive(server))
}

fn endless_head(server: &Tincan) -> String {
    const ENOUGH: u64 = 8 << 10; // KiB
    const PIECE: u64 = 64; // KiB
    let piece = "a".repeat(PIECE as usize * 1024);
    let before = status(server, "VmRSS:");
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.write_all(b"GET /").unwrap();
    // Twice as much: the kernel may hold a part of it.
    for _ in 0..2 * ENOUGH / PIECE {
        if stream.write_all(piece.as_bytes()).is_err() {
            break; // refused
        }
    }
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let began = Instant::now();
    while stream.peek(&mut [0]).is_err() && began.elapsed() < SOON {
        if status(server, "VmRSS:") >= before + ENOUGH {
            return "it is kept in memory".into();
        }
    }
    answer(&stream)
}

fn silent_client(server: &Tincan) -> String {
    ask(server, "GET /kitchen HTTP/1.1\r\nHost: loc")
}

fn stalled_subscriber(server: &Tincan) -> String {
    let _stalled = subscribe(server, "");
    let mut wire = subscribe(server, "");
    let body = "x".repeat(60_000);
    // Its own socket and that of the server both hold something.
    for _ in 0..3 * more_than_a_socket_takes() / body.len() {
        if say(server, &body) == "nothing" {
            return "nothing more".into();
        }
        wire.until(b"x\n");
    }
    "everything".into()
}

fn dead_socket(server: &Tincan) -> String {
    server.rests();
    let before = descriptors(server);
    drop(subscribe(server, ""));
    say(server, "soup is ready"); // the first write to a socket that the client has closed succeeds
    let began = Instant::now();
    while descriptors(server) > before {
        if began.elapsed() > SOON / 2 {
            return "its socket is open".into();
        }
        look_again(began);
    }
    "its socket is closed".into()
}

fn poisoned_lock(server: &Tincan) -> String {
    let first = ask(server, b"POST /kitchen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n\xff");
    format!("{first}, then {}", say(server, "soup is ready"))
}

/// Each server has 64 descriptors here.
fn accept_error(server: &Tincan) -> String {
    let connect = || TcpStream::connect(("127.0.0.1", server.port));
    let silent: Vec<_> = (0..80).map(|_| connect()).collect();
    say(server, "soup is ready"); // it is accepted after all of these, or not at all
    drop(silent);
    is_alive(server).into()
}

fn foreign_page(server: &Tincan) -> String {
    let origin = "Origin: https://page.example\r\nSec-Fetch-Site: cross-site\r\n";
    post(server, "/kitchen", &format!("Content-Length: 4\r\n{origin}"), "soup")
}

fn rebound_host(server: &Tincan) -> String {
    let publish = "POST /kitchen HTTP/1.1\r\nHost: page.example\r\nContent-Length: 4\r\n\r\nsoup";
    let subscribe = "GET /kitchen HTTP/1.1\r\nHost: page.example\r\n\r\n";
    format!("{}, then {}", ask(server, publish), ask(server, subscribe))
}

//! The commands, the code and the limits in the manual of channels.

use crate::support::browser::{driver, url};
use crate::support::commands::{commands, run, shell};
use crate::support::documents::{blocks, document, quoted, text_block};
use crate::support::harness::*;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use tincan::Config;
use tincan::wings::DOORS;
use tincan::wire::event::MAX_NAME;
use tincan::wire::reject::{CONNECTIONS, EVENT_NAME, RESERVED, WAIT};

const MANUAL: &str = "src/channel/README.md";

/// Masks everything in the lines of a stream that differs each time.
fn mask(stream: &str) -> String {
    let masked = |line: &str| match line.split_once(": ") {
        Some(("retry", _)) => "retry: …".into(),
        Some(("id", id)) => format!("id: EPOCH-{}", id.split_once('-').unwrap().1),
        Some(("", text)) => format!(": {}", text.split(" as ").next().unwrap()),
        _ => line.into(),
    };
    stream.lines().map(|line| masked(line) + "\n").collect()
}

#[test]
fn its_commands_run() {
    run(&commands(MANUAL), &Tincan::start(&[]));
}

#[test]
fn the_stream_is_what_curl_shows_while_the_commands_run() {
    let server = Tincan::start(&[]);
    let here = |command: &str| command.replace("localhost:8000", &format!("localhost:{}", server.port));
    let commands = commands(MANUAL);
    let mut curl = shell(&format!("exec {}", here(&commands[0])));
    let mut curl = Ended(curl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(curl.0.stdout.take().unwrap()).lines().map(|line| line.unwrap() + "\n");
    let shown = text_block(MANUAL, ": connected");
    let mut got: String = lines.by_ref().take(4).collect();
    for command in &commands[1..3] {
        assert!(shell(&here(command)).output().unwrap().status.success(), "{command}");
    }
    got.extend(lines.take(shown.lines().count() - 4));
    assert_eq!(mask(&got), mask(&shown));
}

#[test]
fn its_eventsource_hears_what_is_published() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--retry", "0"]);
    let page = driver.page(&url(&server, "/"));
    let code = blocks(MANUAL, "js").remove(0);
    page.js(&format!(
        "(window.told = [], console.log = (...said) => told.push(said.join('|')), (() => {{ {code} }})())"
    ));
    eventually("the page listens", || server.readers("kitchen") > 0);
    let id = server.post("/kitchen", "soup is ready").remove(0);
    server.post("/kitchen?event=order", "two");
    page.becomes("told.join()", &format!("soup is ready|{id},order:|two"));
}

#[test]
fn a_gap_is_as_it_shows() {
    let server = Tincan::start(&["--history", "200"]);
    let ids: Vec<_> = (1..=10).map(|n| server.post("/kitchen", format!("event {n}")).remove(0)).collect();
    let stream = server.get(&format!("/kitchen?wait=0&since={}", ids[1])).text();
    let epoch = ids[0].split_once('-').unwrap().0;
    let shown = text_block(MANUAL, "event: gap").replace("1795202436407", epoch);
    assert_eq!(stream.split_inclusive("\n\n").nth(1).unwrap(), shown);
}

#[test]
fn its_request_with_nc_shows_the_stream_alone() {
    let line = text_block(MANUAL, "(printf 'GET /kitchen HTTP/1.0");
    let request = line.split('\'').nth(1).unwrap().replace(r"\r\n", "\r\n");
    assert!(line.ends_with("| nc localhost 8000\n"));
    let server = Tincan::start(&[]);
    let mut wire = server.connect().raw();
    wire.send(request);
    let head = wire.until(b"\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\nConnection: close\r\n\r\n"), "{head}");
    for line in text_block(MANUAL, "Content-Type: ").lines() {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
    }
    assert!(plain(&wire.block()).starts_with(": connected to /kitchen\n"));
    let id = server.post("/kitchen", "soup").remove(0);
    wire.expect(format!("data: soup\nid: {id}\n\n"));
}

#[test]
fn the_names_and_limits_are_those_that_it_gives() {
    let manual = document(MANUAL);
    let server = Tincan::start(&[]);
    let (_, names) = manual.split_once("Five names are reserved").unwrap();
    let names: Vec<_> = quoted(names.split('.').next().unwrap()).collect();
    let wings = DOORS.iter().flat_map(|door| door.paths).copied();
    for name in wings.chain(["assets", "metrics", "health"]) {
        assert!(names.contains(&name), "{name}");
        assert!([404, 405].contains(&server.post_with(&format!("/{name}"), "", "soup").status), "{name}");
    }
    assert_eq!(names.len(), 5);
    for (length, status) in [(64, 200), (65, 404)] {
        assert_eq!(server.post_with(&format!("/{}", "a".repeat(length)), "", "soup").status, status);
    }
    let named = |name: &str| server.post_with(&format!("/kitchen?event={name}"), "", "soup");
    assert_eq!(named(&"a".repeat(MAX_NAME)).status, 200);
    named(&"a".repeat(MAX_NAME + 1)).refused(EVENT_NAME);
    named("gap").refused(RESERVED);
    assert_eq!(server.get("/kitchen?since=all&wait=300").status, 200);
    server.get("/kitchen?since=all&wait=301").refused(WAIT);
    let Config { max_body, history, max_channels, forget, heartbeat, retry, max_age, .. } = Config::default();
    assert_eq!((forget.as_secs(), heartbeat.as_secs(), retry, max_age), (3600, 15, 2000, None));
    for row in [
        "| a channel's name | 64 characters |".into(),
        format!("| an event's name | {MAX_NAME} bytes |"),
        format!("| a POST's body | `--max-body`, {} KiB;", max_body >> 10),
        format!("| what is kept of a channel | `--history`, {} MiB;", history >> 20),
        format!("| channels at a time | `--max-channels`, {},000;", max_channels / 1000),
        "| how long an unused channel is remembered | 1 hour |".into(),
        "| `?wait=` | 300 seconds |".into(),
        "| `--heartbeat` | 15 seconds;".into(),
        "| `--retry` | 2,000 milliseconds,".into(),
        "| `--max-age` | no limit;".into(),
        format!("\n: {}\nretry: ", CONNECTIONS.why),
    ] {
        assert!(manual.contains(&row), "{row}");
    }
}

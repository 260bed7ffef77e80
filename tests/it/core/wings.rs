//! Requests and options of a wing that is not in this build are refused, and have no effect. These tests pass in any
//! build, and check the wings that are missing in this one.

use crate::core::cli::tincan;
use crate::support::harness::*;
use crate::support::wings::{ALL, has};
use std::process::{Command, Output};
use tincan::wings::DOORS;
use tincan::wire::reject::{NO_WING, NO_WING_HERE, Reject};
use tincan::{Config, Server};

/// A WebSocket's opening handshake (RFC 6455 §1.2).
const HANDSHAKE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A request: the wing that it needs, method and target, and field lines.
type Row = (&'static str, &'static str, &'static str);

const ASKED: [Row; 13] = [
    ("address", "POST /kitchen?to=0123456789abcdef0123456789abcdef", ""),
    ("address", "POST /kitchen?except=0123456789abcdef0123456789abcdef", ""),
    ("address", "POST /kitchen?event=soup&except=", ""),
    ("lab", "GET /kitchen?tap=key", ""),
    ("lab", "POST /kitchen?tap=key", ""),
    ("lab", "HEAD /health?tap=key", ""),
    ("lab", "GET /?since=all&tap=", ""),
    ("lab", "PUT /kitchen?tap=key", ""),
    ("websocket", "GET /kitchen", HANDSHAKE),
    ("websocket", "GET /health", HANDSHAKE),
    ("websocket", "POST /kitchen", HANDSHAKE),
    ("websocket", "POST /kitchen", "Upgrade: websocket\r\n"),
    ("websocket", "GET /kitchen", "Upgrade: h2c, WebSocket\r\nConnection: Upgrade\r\n"),
];
const PATHS: [Row; 11] = [
    ("lab", "GET /lab", ""),
    ("lab", "GET /lab/x", ""),
    ("lab", "POST /lab/x", ""),
    ("lab", "POST /lab", ""),
    ("lab", "HEAD /lab?tap=key", ""),
    ("lab", "OPTIONS /lab/x/y", ""),
    ("lessons", "GET /lessons", ""),
    ("lessons", "GET /lessons/x", ""),
    ("lessons", "GET /lessons/first-event.txt", ""),
    ("lessons", "POST /lessons", ""),
    ("lessons", "OPTIONS /lessons", ""),
];

/// Returns the body of a refusal that names a wing.
fn named(reject: Reject, wing: &str) -> String {
    format!("{}: {wing}\n", reject.line().trim_end())
}

#[test]
fn what_a_missing_wing_would_do_is_refused_by_its_name_and_reaches_nobody() {
    let server = Tincan::start(&[]);
    let (mut subscriber, _) = server.listen("/kitchen", "");
    let rows = ASKED.map(|row| (row, NO_WING)).into_iter().chain(PATHS.map(|row| (row, NO_WING_HERE)));
    for ((wing, line, fields), reject) in rows.filter(|((wing, ..), _)| !has(wing)) {
        let mut wire = server.connect();
        let length = if line.starts_with("POST ") { "Content-Length: 4\r\n" } else { "" };
        let body = if length.is_empty() { "" } else { "soup" };
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n{body}");
        wire.send(request + "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if line.starts_with("HEAD ") {
            let head = wire.until(b"\r\n\r\n");
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", reject.status)), "{line}: {head}");
        } else {
            let response = wire.response();
            assert_eq!((response.status, response.text()), (reject.status, named(reject, wing)), "{line}");
        }
        assert_eq!(wire.response().text(), "ok\n", "{line}: the connection goes on");
    }
    // A preflight is answered, whatever the request after it asks for.
    let asked = server.ask("OPTIONS /kitchen?to=x&tap=x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(asked.status, 204);
    let id = server.post("/kitchen", "for all").remove(0);
    subscriber.expect(block("for all", &id));
    assert_eq!(server.metric("tincan_events_total"), Some(1));
}

#[test]
fn a_channel_of_a_name_that_a_wing_may_have_is_none_in_any_build() {
    let server = Tincan::start(&[]);
    for wing in DOORS {
        for path in wing.paths {
            let response = server.post_with(&format!("/{path}"), "", "soup");
            assert!([404, 405].contains(&response.status), "/{path}: {}", response.text());
        }
    }
    assert_eq!(server.metric("tincan_channels"), Some(0));
}

#[test]
fn an_option_of_a_missing_wing_is_refused_wherever_it_is_given() {
    let says = |out: Output, option: &str| {
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), text.lines().count(), out.stdout.len()), (Some(2), 1, 0), "{text}");
        assert!(text.starts_with(&format!("tincan: {option}: this build does not have it")), "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
    };
    let options = [("redis", "redis://:s3cr3t@x:1"), ("trace", "1")];
    for (wing, value) in options.into_iter().filter(|(wing, _)| !has(wing)) {
        let flag = format!("--{wing}");
        says(tincan(&[&flag, value]), &flag);
        says(tincan(&[&format!("{flag}={value}")]), &flag);
        says(tincan(&["--quiet", &flag]), &flag);
        let variable = format!("TINCAN_{}", wing.to_uppercase());
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        bare(&mut command);
        says(command.env(&variable, value).output().unwrap(), &variable);
        // An empty variable counts as unset.
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        bare(&mut command);
        assert!(command.env(&variable, "").arg("--version").output().unwrap().status.success());
        // A program that embeds the server gets the same error.
        let mut config = Config { listen: "127.0.0.1:0".parse().ok(), ..Config::default() };
        config.wing_options.set(wing, value);
        let why = Server::bind(config).unwrap_err().to_string();
        assert_eq!(why, format!("{wing}: this build does not have it"));
        let help = String::from_utf8(tincan(&["--help"]).stdout).unwrap();
        assert!(!help.contains(&flag), "{help}");
    }
}

#[test]
fn the_version_names_the_wings_of_this_build() {
    let present: Vec<_> = ALL.into_iter().filter(|wing| has(wing)).collect();
    let wings = if present.is_empty() { "without wings".into() } else { format!("with {}", present.join(", ")) };
    let version = format!("tincan {} {wings}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(tincan(&["--version"]).stdout).unwrap(), version);
}

#[test]
fn the_chat_page_leads_to_the_lab_if_there_is_one() {
    let page = Tincan::start(&[]).get("/").text();
    assert_eq!(page.contains("href=\"/lab"), has("lab"), "{page}");
    assert!(page.contains("/assets/chat.js"), "{page}");
}

//! What its manual shows.

use crate::support::commands::{commands, run, shell};
use crate::support::documents::{document, text_block};
use crate::support::harness::*;
use crate::support::wings::has;
use crate::trace::lines::mask;
use std::process::Stdio;
use tincan::wings::trace::explain::MAX_LINE;

const MANUAL: &str = "src/wings/trace/README.md";

#[test]
fn its_commands_run() {
    run(&commands(MANUAL), &Tincan::start(&["--trace", "--quiet"]));
}

#[test]
fn the_transcript_is_what_trace_shows_while_the_commands_run() {
    if !has("address") {
        return;
    }
    let server = Tincan::start(&["--trace", "--quiet"]);
    let start = |command: &str| {
        let line = command.replace("localhost:8000", &format!("localhost:{}", server.port));
        shell(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let commands = commands(MANUAL);
    let _listens = Ended(start(&format!("exec {}", commands[0])));
    let shows = |text: &str| eventually(text, || server.stderr().contains(text));
    shows("  fires nothing; the id counts from here\n");
    for command in &commands[1..] {
        assert!(start(command).wait().unwrap().success(), "{command}");
    }
    shows("  dispatch: order\n");
    let stderr = server.stderr();
    let got: String = stderr.lines().filter(|l| l.starts_with("#1 ")).map(|l| same(l, server.port)).collect();
    let shown: String = text_block(MANUAL, "#1 >").lines().map(|l| same(l, server.port)).collect();
    assert_eq!(got, shown);
}

/// A line of a trace without what differs each time, the version of curl and how many digits a port has among it.
fn same(line: &str, port: u16) -> String {
    let line = mask(&line.replace(&format!("localhost:{port}"), "localhost:8000"));
    let words = line.split_whitespace().map(|word| if word.starts_with("curl/") { "curl␍␊" } else { word });
    words.collect::<Vec<_>>().join(" ") + "\n"
}

#[test]
fn it_says_how_long_a_line_may_be() {
    assert_eq!(MAX_LINE, (16 << 10) + 1);
    assert!(document(MANUAL).contains("| 16 KiB and a byte;"));
}

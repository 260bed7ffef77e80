//! What the README shows of it.

use crate::deploy::readme::shell;
use crate::support::documents::{blocks, text_block};
use crate::support::harness::*;
use crate::support::wings::has;
use crate::trace::lines::mask;
use std::process::Stdio;

#[test]
fn the_transcript_is_what_trace_shows_while_the_commands_run() {
    if !has("address") {
        return;
    }
    let server = Tincan::start(&["--trace", "--quiet"]);
    let commands = blocks("README.md", "sh").into_iter().find(|b| b.contains("order")).unwrap();
    let run = |command: &str| {
        let line = command.replace("localhost:8000", &format!("localhost:{}", server.port));
        shell(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut commands = commands.lines();
    let _listens = Ended(run(&format!("exec {}", commands.next().unwrap())));
    let shows = |text: &str| eventually(text, || server.stderr().contains(text));
    shows("  fires nothing; the id counts from here\n");
    for command in commands {
        assert!(run(command).wait().unwrap().success(), "{command}");
    }
    shows("  dispatch: order\n");
    let stderr = server.stderr();
    let got: String = stderr.lines().filter(|l| l.starts_with("#1 ")).map(|l| same(l, server.port)).collect();
    let shown: String = text_block("README.md", "#1 >").lines().map(|l| same(l, server.port)).collect();
    assert_eq!(got, shown);
}

/// A line of a trace without what differs each time, the version of curl and how many digits a port has among it.
fn same(line: &str, port: u16) -> String {
    let line = mask(&line.replace(&format!("localhost:{port}"), "localhost:8000"));
    let words = line.split_whitespace().map(|word| if word.starts_with("curl/") { "curl␍␊" } else { word });
    words.collect::<Vec<_>>().join(" ") + "\n"
}

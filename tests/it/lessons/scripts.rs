//! The examination for clients, as its manual has it: two scripts examine clients that many people use.
//!
//! `TINCAN_CLIENTS` is the path of a Python that has httpx-sse, and `TINCAN_EVENTSOURCE` that of a folder with the
//! package eventsource. Without them the scripts are left out.

use crate::support::commands::shell;
use crate::support::documents::{blocks, document};
use crate::support::harness::*;
use crate::support::reporting::python;
use tincan::wings::lessons::script::LESSONS;

const MANUAL: &str = "static/lessons/README.md";

/// A script, and what it needs.
struct Script {
    name: &'static str,
    program: String,
    /// The folder of the packages of node.
    modules: String,
    /// The text after its table of known faults.
    after_table: &'static str,
    /// Another table. It names a fault that its client does not have, and one that is not what it does instead.
    other_table: &'static str,
    /// The lessons in which its client has a fault, and what it does instead of the expected step.
    known: &'static [(&'static str, &'static str)],
}

impl Script {
    fn text(&self) -> String {
        document(&format!("static/lessons/{}", self.name))
    }

    /// Returns the version of the client, which is in the first line.
    fn version(&self) -> String {
        let text = self.text();
        let mut words = text.lines().next().unwrap().split([' ', ':']);
        words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap().into()
    }

    /// Runs a text of the script with all lessons; returns the lines that it prints, and whether it is content.
    fn run(&self, text: &str) -> (Vec<String>, bool) {
        let scratch = Scratch::new();
        let path = scratch.0.join(self.name);
        std::fs::write(&path, text).unwrap();
        let server = Tincan::start(&["--quiet"]);
        let mut command = shell("exec timeout 120 \"$0\" \"$@\"");
        command.arg(&self.program).arg(&path).arg(format!("http://127.0.0.1:{}", server.port));
        let out = command.env("NODE_PATH", &self.modules).output().unwrap();
        let lines: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(String::from).collect();
        assert_eq!(lines.len(), LESSONS.len(), "{lines:?} {}", String::from_utf8_lossy(&out.stderr));
        (lines, out.status.success())
    }

    /// The script finds the known faults and no other. With another table it reports the faults that this table does
    /// not name, and the one that is not there.
    fn finds_its_known_faults_and_no_other(&self) {
        let text = self.text();
        let (before, table) = text.split_once("KNOWN = ").unwrap();
        let (_, code) = table.split_once(self.after_table).unwrap();
        let edited = format!("{before}KNOWN = {}{}{code}", self.other_table, self.after_table);
        let (usual, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| self.run(&edited));
            (self.run(&text), other.join().unwrap())
        });
        assert_eq!((usual.1, other.1), (true, false), "{usual:#?} {other:#?}");
        for (lesson, (usual, other)) in LESSONS.iter().zip(usual.0.iter().zip(&other.0)) {
            let name = lesson.name;
            let fault = self.known.iter().find(|(lesson, _)| *lesson == name);
            match fault {
                Some((_, got)) => {
                    assert!(usual.starts_with(&format!("{name} known: ")), "{usual}");
                    assert!(other.starts_with(&format!("{name} FAULT: expected {{")), "{other}");
                    assert!(other.ends_with(&format!(" got {got}")), "{other}");
                }
                None => {
                    assert_eq!(*usual, format!("{name} ok"));
                    let gone = if name == "first-event" { "FAULT: the known one is gone" } else { "ok" };
                    assert_eq!(*other, format!("{name} {gone}"));
                }
            }
        }
    }
}

#[test]
fn httpx_sse_has_the_faults_that_its_script_names_and_no_other() {
    let Some(program) = python() else {
        eprintln!("left out: TINCAN_CLIENTS has no path of a Python with httpx-sse");
        return;
    };
    let script = Script {
        name: "examine.py",
        program,
        modules: String::new(),
        after_table: "\n\ndef play",
        other_table: "{\"first-event\": EMPTY, \"byte-order-mark\": EMPTY}",
        known: &[
            ("fields", "{'type': 'message', 'data': '', 'lastEventId': ''}"),
            ("byte-order-mark", "{'type': 'message', 'data': 'heard', 'lastEventId': ''}"),
            ("retry", "{'type': 'message', 'data': '', 'lastEventId': ''}"),
            ("cut-id", "{'type': 'message', 'data': '', 'lastEventId': '3'}"),
            ("chunks", "{'type': 'message', 'data': '', 'lastEventId': ''}"),
            (
                "wrong-charset",
                "{'type': 'message', 'data': 'crÃ¨me brÃ»lÃ©e; Chromium does not hear this', 'lastEventId': ''}",
            ),
            ("websocket", "{'type': 'message', 'data': '', 'lastEventId': '1'}"),
        ],
    };
    let version = format!("httpx-sse=={}\n", script.version());
    assert!(document("tests/it/deploy/clients.txt").contains(&version), "{version}");
    script.finds_its_known_faults_and_no_other();
}

#[test]
fn eventsource_has_the_faults_that_its_script_names_and_no_other() {
    let Ok(modules) = std::env::var("TINCAN_EVENTSOURCE") else {
        eprintln!("left out: TINCAN_EVENTSOURCE has no path of a folder with the package eventsource");
        return;
    };
    let package = std::fs::read_to_string(format!("{modules}/eventsource/package.json")).unwrap();
    let script = Script {
        name: "examine.js",
        program: "node".into(),
        modules,
        after_table: "\nconst get",
        other_table: "{ 'first-event': '}', 'cut-id': '{\"Last-Event-ID\":\"1\"}' };",
        known: &[
            ("fields", "{\"type\":\"message\",\"data\":\"{time}\",\"lastEventId\":\"\"}"),
            ("cut-id", "{\"Last-Event-ID\":\"2\"}"),
            ("nul-in-id", "{\"type\":\"message\",\"data\":\"its id is still 1\",\"lastEventId\":\"\"}"),
            ("pause", "{\"type\":\"pause\",\"data\":\"please close\",\"lastEventId\":\"\"}"),
            ("websocket", "{\"type\":\"message\",\"data\":\"the answer to a POST\",\"lastEventId\":\"\"}"),
        ],
    };
    let version = format!("\"version\": \"{}\"", script.version());
    assert!(package.contains(&version), "{version}");
    script.finds_its_known_faults_and_no_other();
}

#[test]
fn the_scripts_are_short_and_the_manual_runs_them() {
    let commands = blocks(MANUAL, "text").concat();
    for name in ["examine.py", "examine.js"] {
        let text = document(&format!("static/lessons/{name}"));
        assert!(text.lines().count() <= 40 && text.lines().all(|line| line.chars().count() <= 120), "{name}");
        assert!(commands.contains(&format!(" static/lessons/{name} http://localhost:8000\n")), "{name}");
    }
}

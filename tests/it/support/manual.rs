//! The manuals of the wings: the `README.md` of each folder in `src/wings`. These checks are common to all of them.

use crate::support::commands::{self, shell};
use crate::support::documents::{document, quoted};
use crate::support::harness::*;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use tincan::wire::reject::Reject;

/// Returns the path of a wing's manual.
pub fn path(wing: &str) -> String {
    format!("src/wings/{wing}/README.md")
}

/// Returns the commands of a manual, with other ports in place of those that it shows.
pub fn commands(wing: &str, ports: &[(&str, String)]) -> Vec<String> {
    let here = |line: &String| ports.iter().fold(line.clone(), |line, (shown, real)| line.replace(shown, real));
    commands::commands(&path(wing)).iter().map(here).collect()
}

/// Runs a command; returns its output.
pub fn run(command: &str) -> String {
    let out = shell(command).env_remove("REDISCLI_AUTH").output().unwrap();
    let output = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && !output.is_empty(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    output
}

/// A command that does not end by itself.
pub struct Listens {
    _command: Ended,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Listens {
    pub fn start(command: &str) -> Listens {
        let mut command: Command = shell(&format!("exec {command}"));
        let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut stdout = child.0.stdout.take().unwrap();
        let output: Arc<Mutex<Vec<u8>>> = Arc::default();
        let copy = output.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 1024];
            while let Ok(n @ 1..) = std::io::Read::read(&mut stdout, &mut piece) {
                copy.lock().unwrap().extend(&piece[..n]);
            }
        });
        Listens { _command: child, output }
    }

    /// Returns its output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until it has written this; returns its output.
    pub fn until(&self, text: &str) -> String {
        eventually(text, || self.output().contains(text));
        self.output()
    }
}

/// Asserts that a manual quotes each of these refusals with its status.
pub fn quotes(wing: &str, table: &[Reject]) {
    let text = document(&path(wing));
    for reject in table {
        let status = reject.status.to_string();
        let found = text.lines().any(|line| line.contains(reject.why) && line.contains(&status));
        assert!(found, "{} does not quote: {}", path(wing), reject.line());
    }
}

/// Asserts that each metric in a manual exists, and that each metric whose name begins with `begin` has a row with
/// its unit.
pub fn metrics(wing: &str, server: &Tincan, begin: &str) {
    let (text, present) = (document(&path(wing)), server.get("/metrics").text());
    let present: Vec<&str> =
        present.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let named: Vec<&str> = quoted(&text).filter(|word| word.starts_with("tincan_")).collect();
    for name in &named {
        assert!(present.contains(name), "the metric {name} does not exist");
    }
    for name in present.iter().filter(|name| name.starts_with(begin)) {
        assert!(text.contains(&format!("| `{name}` | ")), "{} has no row for {name}", path(wing));
    }
    assert!(!named.is_empty(), "{} names no metric", path(wing));
}

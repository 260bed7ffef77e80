//! What is known of a process, and how else one is started.

use crate::support::harness::*;
use std::process::Command;
use std::time::Duration;

/// A number in /proc/PID/status.
pub fn status(server: &Tincan, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

/// The processor time that it has used, of all its threads.
pub fn processor_time(server: &Tincan) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let user_and_system = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * user_and_system.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()) // proc(5)
}

pub fn descriptors(server: &Tincan) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// Tincan behind a line of shell.
pub fn shell(line: &str, args: &[&str]) -> Tincan {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{line} \"$0\" \"$@\""), env!("CARGO_BIN_EXE_tincan"), "--quiet"]);
    command.args(["--listen", "127.0.0.1:0"]).args(args);
    Tincan::run(command)
}

/// Whether a command works here; else its test is left out.
pub fn works(line: &str) -> bool {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    if !out.status.success() {
        eprintln!("left out: `{line}` fails: {}", String::from_utf8_lossy(&out.stderr));
    }
    out.status.success()
}

/// The release build, or a word that it is left out.
pub fn release() -> Option<String> {
    let program = std::env::var("TINCAN_RELEASE").ok();
    if program.is_none() {
        eprintln!("left out: TINCAN_RELEASE names no release build");
    }
    program
}

//! Facts about a process, and other ways to start one.

use crate::support::harness::*;
use std::process::Command;
use std::time::Duration;

/// Returns a number from /proc/PID/status.
pub fn status(server: &Tincan, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

/// Returns the processor time that all threads of the server have used.
pub fn processor_time(server: &Tincan) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let user_and_system = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * user_and_system.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()) // proc(5)
}

pub fn descriptors(server: &Tincan) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// Starts tincan through a line of shell.
pub fn shell(line: &str, args: &[&str]) -> Tincan {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{line} \"$0\" \"$@\""), env!("CARGO_BIN_EXE_tincan"), "--quiet"]);
    command.args(["--listen", "127.0.0.1:0"]).args(args);
    Tincan::run(command)
}

/// Returns whether a command works here. If not, the test that needs it is left out.
pub fn works(line: &str) -> bool {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    if !out.status.success() {
        eprintln!("left out: `{line}` fails: {}", String::from_utf8_lossy(&out.stderr));
    }
    out.status.success()
}

/// Returns the path of the release build, or prints that the test is left out.
pub fn release() -> Option<String> {
    let program = std::env::var("TINCAN_RELEASE").ok();
    if program.is_none() {
        eprintln!("left out: TINCAN_RELEASE names no release build");
    }
    program
}

//! Facts about a process, and other ways to start one.

use crate::support::harness::*;
use std::fs::metadata;
use std::path::{Path, PathBuf};
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

/// Returns the program of an example. Cargo puts it into a folder beside that of the tests.
pub fn example(name: &str, source: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().with_file_name("examples").join(name);
    let changed = |path: &Path| metadata(path).and_then(|metadata| metadata.modified()).ok();
    assert!(
        changed(&program) >= changed(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source)),
        "{} is missing, or older than its source: run `cargo build --examples` (with the same features and target)",
        program.display()
    );
    program
}

/// Returns the path of the release build, or prints that the test is left out.
pub fn release() -> Option<String> {
    let program = std::env::var("TINCAN_RELEASE").ok();
    if program.is_none() {
        eprintln!("left out: TINCAN_RELEASE names no release build");
    }
    program
}

/// Returns whether this process runs only one test, because of [`run_alone`].
pub fn is_alone() -> bool {
    std::env::var_os("TINCAN_ALONE").is_some()
}

/// Runs a test again, in a process of its own that the command `wrapper` starts. The test has to pass there.
/// `module` is the `module_path!()` of the test.
#[track_caller]
pub fn run_alone(wrapper: &[&str], module: &str, test: &str) {
    let (_, module) = module.split_once("::").unwrap();
    // As it was started itself. That may be a script, with the tests of another processor in an emulator.
    let program = std::env::args().next().unwrap();
    let mut words = wrapper.iter().copied().chain([&*program]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--exact", &format!("{module}::{test}"), "--nocapture"]).env("TINCAN_ALONE", "1");
    let out = command.output().unwrap();
    let [stdout, stderr] = [&out.stdout, &out.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(out.status.success() && stdout.contains("\ntest result: ok. 1 passed;"), "{test}: {stdout}{stderr}");
}

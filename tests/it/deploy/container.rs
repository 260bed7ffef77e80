//! The Dockerfile of `static/deploy`, as far as it can be tested without a container.

use crate::support::documents::document;
use crate::support::harness::*;
use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Returns the rest of each line that begins with this word.
fn lines(word: &str) -> Vec<String> {
    let recipe = document("static/deploy/Dockerfile");
    recipe.lines().filter_map(|line| line.strip_prefix(word)).map(String::from).collect()
}

/// The Dockerfile copies the same files of the tree as CI, and builds them with the same command. CI builds in
/// directories that have nothing else.
#[test]
fn the_dockerfile_builds_from_what_ci_builds_from() {
    let copies = lines("COPY ").into_iter().filter(|line| !line.starts_with("--from="));
    let sources: Vec<String> = copies.map(|line| line.rsplit_once(' ').unwrap().0.to_string()).collect();
    for source in sources.iter().flat_map(|line| line.split(' ')) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(), "{source} does not exist");
    }
    let ci = document(".ci/run");
    let copy = format!("cp -r {} \"$dir\" # as in static/deploy/Dockerfile\n  (cd \"$dir\" && ", sources.join(" "));
    let rest_of_ci = ci.split(&copy).nth(1).unwrap_or_else(|| panic!("CI does not build from {sources:?}"));
    let command = lines("RUN ")[0].split(" && ").next().unwrap().to_string();
    assert!(rest_of_ci.starts_with(&command), "CI does not run {command}");
    let program = "--from=build /build/target/release/tincan /tincan";
    assert!(lines("COPY ").contains(&program.to_string()) && lines("ENTRYPOINT ") == ["[\"/tincan\"]"]);
}

/// Runs tincan as process 1 of a PID namespace, with the Dockerfile's variables and signal.
#[test]
fn as_pid_1_it_needs_the_signal_of_the_dockerfile_and_loses_nothing() {
    let works =
        |args: &[&str]| Command::new("unshare").args(args).arg("true").output().is_ok_and(|o| o.status.success());
    let namespace = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let as_user = [&["-r"], &namespace[..]].concat(); // a user other than root needs a user namespace as well
    let Some(args) = [&namespace[..], &as_user].into_iter().find(|args| works(args)) else {
        return eprintln!("left out: PID namespaces are not available here");
    };
    let dir = Scratch::new();
    let variables = lines("ENV ").remove(0);
    assert!(variables.contains("0.0.0.0:8000") && variables.contains("/data"), "{variables}");
    let variables = variables.replace("0.0.0.0:8000", "127.0.0.1:0").replace("/data", dir.arg());
    let start = || {
        let mut command = Command::new("unshare");
        command.args(args).args([env!("CARGO_BIN_EXE_tincan"), "--quiet"]);
        command.envs(variables.split(' ').map(|v| v.split_once('=').unwrap()));
        let server = Tincan::run(command);
        let inside = read_to_string(format!("/proc/{0}/task/{0}/children", server.pid())).unwrap();
        (server, inside.trim().parse::<u32>().unwrap())
    };
    let stop = |pid| {
        assert!(signal(&lines("STOPSIGNAL SIG")[0], pid));
        eventually("the process has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    };
    let (server, pid) = start();
    let id = server.post("/kitchen", "soup is ready").remove(0);
    assert!(signal("TERM", pid) && signal("INT", pid));
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(500) {
        assert_eq!(server.get("/health").text(), "ok\n", "the signal must not end process 1");
    }
    stop(pid);
    let (server, pid) = start();
    let received = server.get("/kitchen?wait=0&since=all").text();
    assert!(received.ends_with(&block("soup is ready", &id)), "{received}");
    stop(pid);
}

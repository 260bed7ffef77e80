//! What `static/deploy/README.md` says about limits, messages, `/health` and `/metrics` is true, and what the manual of
//! the server says about limits.

use crate::support::documents::{blocks, document, text_block};
use crate::support::harness::*;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, read, read_to_string};
use std::process::{Command, Stdio};

const README: &str = "static/deploy/README.md";
const TINCAN: &str = env!("CARGO_BIN_EXE_tincan");

/// Returns the words of a text that name metrics.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tincan_")).collect()
}

/// The metrics of `--redis` are in the manual of that wing. Without `--redis` they are not in the response.
#[test]
fn each_metric_is_in_the_readme_and_each_metric_of_the_readme_is_there() {
    let server = Tincan::start(&[]);
    server.post("/kitchen", "soup is ready");
    let text = server.get("/metrics").text();
    let readme = document(README);
    let rows: String = readme.lines().filter(|line| line.starts_with("| `tincan_")).collect();
    assert_eq!(metrics(&rows), metrics(&text));
    assert!(metrics(&readme).is_subset(&metrics(&text)));
    assert!(text.contains("\ntincan_subscribers{channel=\"kitchen\"} 0\n"), "{text}");
}

/// Returns a line with all numbers replaced.
fn same(line: &str) -> String {
    line.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("N")
}

#[test]
fn the_lines_of_requests_are_as_the_readme_shows_them() {
    let server = Tincan::start(&[]);
    let shown = blocks(README, "text").into_iter().find(|block| block.contains(" GMT ")).unwrap();
    let request = |line: &str| line.split(" GMT ").nth(1).unwrap().split_once(' ').unwrap().1.to_string();
    for line in shown.lines() {
        let [method, target, status] =
            request(line).split(' ').map(String::from).collect::<Vec<_>>().try_into().unwrap();
        let response =
            server.ask(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(response.status.to_string(), status, "{line}");
    }
    let said = server.stderr();
    let logged: Vec<&str> = said.lines().filter(|line| line.contains(" GMT ")).collect();
    assert_eq!(logged.len(), shown.lines().count());
    for (logged, shown) in logged.iter().zip(shown.lines()) {
        assert_eq!(request(logged), request(shown));
        // The date has a fixed length. The client is an address with a port.
        let [logged, shown] = [logged, shown].map(|line| line.split_once(" GMT ").unwrap());
        assert_eq!(logged.0.len(), shown.0.len(), "{logged:?}");
        assert_eq!(same(logged.1.split(' ').next().unwrap()), same(shown.1.split(' ').next().unwrap()));
    }
}

#[test]
fn a_log_file_can_be_copied_and_cut() {
    let dir = Scratch::new();
    let (path, port) = (dir.0.join("tincan.log"), free_port());
    let log = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let mut command = Command::new(TINCAN);
    command.args(["--listen", &format!("127.0.0.1:{port}")]).stdout(Stdio::null()).stderr(log);
    let _server = Ended(command.spawn().unwrap());
    eventually("the server starts", || read_to_string(&path).unwrap().contains("limits: "));
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    let mut wire = Wire::to(port);
    wire.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(wire.response().text(), "ok\n");
    let log = read_to_string(&path).unwrap();
    assert!(log.ends_with(" GET /health 200\n") && !log.contains('\0') && log.lines().count() == 1, "{log}");
}

#[test]
fn the_lines_of_limits_are_as_the_manual_of_the_server_shows_them() {
    let dir = Scratch::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1024 && exec \"$@\"", "sh", TINCAN, "--listen", "127.0.0.1:0"]);
    command.args(["--data", dir.arg(), "--memory", "8M"]);
    let server = Tincan::run(command);
    let shown = text_block("src/server/README.md", "  limits: ");
    let shown = shown.trim_end();
    eventually(shown, || server.stderr().contains(shown));
}

#[test]
fn the_defaults_need_the_descriptors_that_the_readme_says() {
    let dir = Scratch::new();
    for (number, args) in [("10,072", &[][..]), ("12,072", &["--data", dir.arg()])] {
        assert!(document(README).contains(number));
        let number: usize = number.replace(',', "").parse().unwrap();
        for (descriptors, warns) in [(number, false), (number - 1, true)] {
            let mut command = Command::new("sh");
            command.args(["-c", "ulimit -n $0 && exec \"$@\"", &descriptors.to_string(), TINCAN]);
            command.args(["--listen", "127.0.0.1:0"]).args(args);
            if !Command::new("sh").args(["-c", &format!("ulimit -n {number}")]).status().unwrap().success() {
                return eprintln!("left out: {number} descriptors are not available here");
            }
            let server = Tincan::run(command);
            eventually("the greeting has the limits", || server.stderr().contains("limits: "));
            assert_eq!(server.stderr().contains("warning: "), warns, "{}", server.stderr());
        }
    }
}

#[test]
fn the_files_for_deployment_are_not_in_the_program() {
    let program = read(TINCAN).unwrap();
    let files = [
        ("nginx.conf", "tincan is away"),
        ("openwrt/tincan.init", "procd_open_instance"),
        ("openwrt/tincan.config", "option enabled"),
        ("busybox/inittab", "::respawn:"),
    ];
    for (file, words) in files {
        assert!(document(&format!("static/deploy/{file}")).contains(words), "{file}");
        let found = program.windows(words.len()).any(|bytes| bytes == words.as_bytes());
        assert!(!found, "the program contains static/deploy/{file}");
    }
}

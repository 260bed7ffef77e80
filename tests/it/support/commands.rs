//! Runs the commands in the `sh` blocks of documents.

use crate::support::documents::blocks;
use crate::support::harness::*;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::spawn;

/// Returns the commands of a document, without the remarks after them. A command that ends with a backslash goes on
/// in the next line.
pub fn commands(path: &str) -> Vec<String> {
    let text = blocks(path, "sh").concat().replace("\\\n ", "");
    text.lines().map(|line| line.split("  #").next().unwrap().trim().to_string()).collect()
}

/// Runs these commands one after the other, with the server in place of `localhost:8000`. Each must succeed and print
/// something. A command with `-N` listens: it must print something, and must not end before the last command.
pub fn run(commands: &[String], server: &Tincan) {
    let scratch = Scratch::new();
    let mut listening = Vec::new();
    for command in commands {
        let line =
            command.replace("localhost:8000", &format!("localhost:{}", server.port)).replace("curl ", "curl -f ");
        if command.contains("-N") {
            let mut shell = shell(&format!("exec {line}"));
            shell.current_dir(&scratch.0).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut listens = Ended(shell.spawn().unwrap());
            let (sender, receiver) = mpsc::channel();
            let mut stdout = listens.0.stdout.take().unwrap();
            spawn(move || {
                let _ = sender.send(stdout.read(&mut [0; 1024]));
                std::io::copy(&mut stdout, &mut std::io::sink()) // otherwise curl ends at its next output
            });
            let bytes = receiver.recv_timeout(SOON).unwrap_or_else(|_| panic!("{command} receives nothing")).unwrap();
            assert!(bytes > 0, "{command} ends");
            assert_eq!(listens.0.try_wait().unwrap(), None, "{command} ends");
            listening.push(listens);
        } else {
            let mut shell = shell(&format!("timeout {} sh -c \"$0\"", SOON.as_secs()));
            let out = shell.arg(&line).current_dir(&scratch.0).output().unwrap();
            assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
            assert!(!out.stdout.is_empty(), "{command}");
        }
    }
}

/// Returns a shell for a command line with curl. It uses no proxy and no files of the user.
pub fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("HOME", "/nonexistent").env("CURL_HOME", "/nonexistent");
    for name in ["http_proxy", "all_proxy", "ALL_PROXY", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    command
}

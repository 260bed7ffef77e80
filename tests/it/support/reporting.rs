//! Programs that report line by line what their clients receive. Among them are two browsers, with a page whose script
//! reports to `clients.py`. Both scripts are in `tests/it/deploy/`.

use crate::support::browser::FLAGS;
use crate::support::harness::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

/// The browsers that can be driven so.
pub const BROWSERS: [&str; 2] = ["chromium", "firefox"];
/// Settings of Firefox: it sends no requests of its own, and can reach nothing but this machine.
const FIREFOX: &str = r#"
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
user_pref("network.proxy.no_proxies_on", "127.0.0.1");
user_pref("app.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.reportingpolicy.firstRun", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("extensions.getAddons.cache.enabled", false);
"#;

/// Returns the path of a script of the clients.
pub fn file(name: &str) -> String {
    format!("{}/tests/it/deploy/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Returns the path of the Python that has the libraries.
pub fn python() -> Option<String> {
    std::env::var("TINCAN_CLIENTS").ok()
}

/// Returns whether a command can be run.
pub fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stderr(Stdio::null()).output().is_ok_and(|out| out.status.success())
}

/// Returns whether one of the browsers is installed, with everything that it needs here.
pub fn is_installed(browser: &str) -> bool {
    works(binary(browser), &["--version"]) && works("python3", &["--version"])
}

/// Returns the name by which Debian has a browser.
fn binary(browser: &str) -> &str {
    if browser == "firefox" { "firefox-esr" } else { browser }
}

/// Makes a receiver of lines that begin with the key of a client.
pub fn keyed(mut receive: impl FnMut(usize, Instant, &str) + Send + 'static) -> impl FnMut(Instant, &str) + Send {
    move |at, line| {
        if let Some((key, line)) = line.split_once(' ') {
            receive(key.parse().unwrap(), at, line);
        }
    }
}

/// A running program. A browser ends when its standard input is closed; other programs are killed.
pub struct Program {
    child: Child,
    dir: Scratch,
    browser: bool,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if !self.browser {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        // A browser that is ending may still write a file.
        let began = Instant::now();
        while std::fs::remove_dir_all(&self.dir.0).is_err() && self.dir.0.exists() && began.elapsed() < SOON {
            look_again(began);
        }
    }
}

impl Program {
    /// Runs a program. Each line that it prints is received with the time at which it came.
    pub fn start(command: Command, receive: impl FnMut(Instant, &str) + Send + 'static) -> Program {
        Program::run(command, Scratch::new(), false, receive)
    }

    /// Runs a browser with clients of `clients.js`. Each has three words: its key, its name and its URL.
    pub fn browser(
        name: &str, words: &[String], receive: impl FnMut(usize, Instant, &str) + Send + 'static,
    ) -> Program {
        let dir = Scratch::new();
        let mut command = Command::new("python3");
        command.arg(file("clients.py")).arg("--browser").args(words).args(["--", binary(name)]);
        if name == "firefox" {
            std::fs::write(dir.0.join("user.js"), FIREFOX).unwrap();
            command.args(["--headless", "--no-remote", "--profile", dir.arg()]);
        } else {
            command.args(FLAGS.split('"').skip(1).step_by(2));
            command.arg(format!("--user-data-dir={}", dir.0.join("profile").display()));
        }
        Program::run(command, dir, true, keyed(receive))
    }

    fn run(
        mut command: Command, dir: Scratch, browser: bool, mut receive: impl FnMut(Instant, &str) + Send + 'static,
    ) -> Program {
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().to_ascii_lowercase().ends_with("_proxy") {
                command.env_remove(variable);
            }
        }
        command.env("HOME", &dir.0).env("TMPDIR", &dir.0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n').map_while(Result::ok);
        thread::spawn(move || {
            for line in lines {
                receive(Instant::now(), &String::from_utf8_lossy(&line));
            }
        });
        Program { child, dir, browser }
    }
}

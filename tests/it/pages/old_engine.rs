//! The pages in browsers of 2021 and 2022. These are old Chromiums, driven through their own protocol (Chrome
//! DevTools Protocol, with a NUL after each message), since no current ChromeDriver supports them.
//!
//! `TINCAN_OLD_CHROMIUMS` has their paths, in the form of `PATH`. Without it these tests are left out.

use crate::support::browser::{FLAGS, message, string, url};
use crate::support::harness::*;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;
use tincan::wire::event::json;

const SHORT: &str = "const q = css => document.querySelector(css), all = css => [...document.querySelectorAll(css)]";
pub const STATE: &str = "q('#state').dataset.state";
pub const ERROR: &str = "q('#error').textContent";
pub const SAID: &str = "all('#messages li').map(li => li.textContent).join('|')";

/// A Chromium with one page.
pub struct Engine {
    child: Child,
    dir: Scratch,
    commands: ChildStdin,
    messages: Receiver<String>,
    count: usize,
    /// The page's session. It is empty at first.
    session: String,
    /// The errors of its scripts.
    errors: Vec<String>,
}

/// Returns the paths of the browsers.
pub fn engines() -> Vec<PathBuf> {
    let Some(paths) = std::env::var_os("TINCAN_OLD_CHROMIUMS") else {
        eprintln!("left out: TINCAN_OLD_CHROMIUMS has no path of an old Chromium");
        return Vec::new();
    };
    std::env::split_paths(&paths).collect()
}

impl Engine {
    /// Starts a browser whose user prefers these languages.
    pub fn start(path: &Path, languages: &str) -> Engine {
        let dir = Scratch::new();
        // It reads commands from descriptor 3, and writes to descriptor 4.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#]).arg(path);
        command.args(FLAGS.split('"').skip(1).step_by(2).filter(|flag| !flag.starts_with("--headless")));
        command.args(["--headless", "--remote-debugging-pipe"]);
        command.arg(format!("--user-data-dir={}", dir.0.join("profile").display()));
        command.env("HOME", &dir.0).env("TMPDIR", &dir.0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (sender, messages) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for bytes in stdout.split(0).map_while(Result::ok) {
                let _ = sender.send(String::from_utf8(bytes).unwrap());
            }
        });
        let commands = child.stdin.take().unwrap();
        let (session, errors) = (String::new(), Vec::new());
        let mut engine = Engine { child, dir, commands, messages, count: 0, session, errors };
        let version = engine.command("Browser.getVersion", "{}");
        eprintln!("{}", string(&version, "\"product\":"));
        let target = string(&engine.command("Target.createTarget", "{\"url\":\"about:blank\"}"), "\"targetId\":");
        let attach = format!("{{\"targetId\":{},\"flatten\":true}}", json(&target));
        engine.session = string(&engine.command("Target.attachToTarget", &attach), "\"result\":{\"sessionId\":");
        for domain in ["Runtime", "Log", "Page"] {
            engine.command(&format!("{domain}.enable"), "{}");
        }
        let agent = json(&string(&version, "\"userAgent\":"));
        let reads = format!("{{\"userAgent\":{agent},\"acceptLanguage\":{}}}", json(languages));
        engine.command("Network.setUserAgentOverride", &reads);
        engine
    }

    /// Sends a command; returns the response.
    fn command(&mut self, method: &str, params: &str) -> String {
        self.count += 1;
        let session =
            if self.session.is_empty() { String::new() } else { format!(",\"sessionId\":{}", json(&self.session)) };
        let id = format!("{{\"id\":{},", self.count);
        write!(self.commands, "{id}\"method\":{},\"params\":{params}{session}}}\0", json(method)).unwrap();
        loop {
            let message = self.messages.recv_timeout(3 * SOON).unwrap_or_else(|e| panic!("{method}: {e}"));
            if message.starts_with(&id) {
                assert!(!message.contains("\"error\":{\"code\":"), "{method} {params}: {message}");
                return message;
            }
            let complains =
                message.contains("\"method\":\"Log.entryAdded\"") && message.contains("\"level\":\"error\"");
            if complains || message.contains("\"method\":\"Runtime.exceptionThrown\"") {
                self.errors.push(message);
            }
        }
    }

    /// Opens a page, and returns when its scripts have run.
    pub fn open(&mut self, url: &str) {
        self.command("Page.navigate", &format!("{{\"url\":{}}}", json(url)));
        self.becomes(
            "location.href.split('#')[0] + document.readyState",
            &format!("{}complete", url.split('#').next().unwrap()),
        );
    }

    /// Returns the value of an expression as a string.
    pub fn js(&mut self, expression: &str) -> String {
        let expression = format!("String((() => {{ {SHORT}; {expression} }})())");
        let response = self
            .command("Runtime.evaluate", &format!("{{\"expression\":{},\"returnByValue\":true}}", json(&expression)));
        assert!(!response.contains("\"exceptionDetails\":"), "{expression}: {response}");
        string(&response, "\"value\":")
    }

    pub fn becomes(&mut self, expression: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let value = self.js(&format!("return {expression}"));
            if value == expected {
                return;
            }
            assert!(
                began.elapsed() < SOON,
                "{expression}\nis       {value:?}\ninstead of {expected:?}\n{:#?}",
                self.errors
            );
            look_again(began);
        }
    }

    /// Types a message, and presses Enter.
    pub fn say(&mut self, text: &str) {
        self.js("q('#msg').focus()");
        self.command("Input.insertText", &format!("{{\"text\":{}}}", json(text)));
        for kind in ["keyDown", "keyUp"] {
            let key = "\"key\":\"Enter\",\"code\":\"Enter\",\"windowsVirtualKeyCode\":13,\"text\":\"\\r\"";
            self.command("Input.dispatchKeyEvent", &format!("{{\"type\":\"{kind}\",{key}}}"));
        }
    }

    /// Fails if a script has failed. Errors that contain `but` are ignored.
    pub fn is_content(&mut self, but: &str) {
        self.errors.retain(|line| but.is_empty() || !line.contains(but));
        assert_eq!(self.errors, [""; 0]);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = write!(self.commands, "{{\"id\":0,\"method\":\"Browser.close\"}}\0");
        let _ = self.child.kill();
        let _ = self.child.wait();
        let began = Instant::now();
        while std::fs::remove_dir_all(&self.dir.0).is_err() && self.dir.0.exists() && began.elapsed() < SOON {
            look_again(began);
        }
    }
}

#[test]
fn old_browsers_chat() {
    for path in engines() {
        let server = Tincan::start(&["--max-body", "200"]);
        let mut page = Engine::start(&path, "en");
        page.open(&url(&server, "/kitchen"));
        page.becomes(STATE, "open");
        page.becomes("q('#listeners').textContent", "1 subscriber");
        page.say("soup is ready");
        page.becomes(SAID, "anonymoussoup is ready");
        server.post("/kitchen", message("Ada", "coming"));
        page.becomes(SAID, "anonymoussoup is ready|Adacoming");
        page.becomes("typeof ownLine + deaths", "object0"); // the worker has the connection
        page.is_content("");
        page.say(&"x".repeat(300));
        page.becomes(ERROR, tincan::wire::reject::TOO_LARGE.line().trim_end());
        page.becomes("q('#msg').value.length + ' ' + q('#send').disabled", "300 false");
        page.is_content("413");
        page.js("q('#msg').value = ''");
        page.say("bread");
        page.becomes(&format!("{ERROR} + {SAID}"), "anonymoussoup is ready|Adacoming|anonymousbread");
    }
}

#[test]
fn old_browsers_have_their_users_language() {
    for path in engines() {
        let mut server = Tincan::start(&["--retry", "200"]);
        let mut page = Engine::start(&path, "zh-CN");
        page.open(&url(&server, "/kitchen"));
        page.becomes(STATE, "open");
        page.becomes(
            "[document.documentElement.lang, q('#word').textContent, q('#send').textContent]",
            "zh-CN,已连接,发送",
        );
        page.becomes("q('#name').placeholder + q('#log').getAttribute('aria-label')", "匿名消息列表");
        server.kill();
        page.say("1");
        page.becomes(ERROR, "无法连接到服务器");
        page.is_content("net::ERR_CONNECTION_REFUSED");
    }
}

/// A page that is opened with a token uses `TincanEventSource`.
#[test]
fn old_browsers_listen_with_a_token() {
    for path in engines() {
        let server = crate::support::browser::guarded(&Scratch::new(), 0, "publish s3same\n");
        let mut page = Engine::start(&path, "en");
        page.open(&format!("{}#token=s3same", url(&server, "/kitchen")));
        page.becomes(STATE, "open");
        page.say("soup");
        page.becomes(SAID, "anonymoussoup");
        page.is_content("");
    }
}

/// Features that Chromium 92, Firefox 91 or Safari 15.4 lacks (by MDN's tables), if their lack would really harm the
/// page. (These do not harm: before `dvh` there is `vh`; without `oklch` the colour of names is inherited; `blocking`
/// is only a hint.)
#[test]
fn scripts_and_style_sheets_use_nothing_that_is_too_young() {
    nothing_is_too_young(&["common", "chat"]);
}

/// Searches the files of these folders for such features.
pub fn nothing_is_too_young(folders: &[&str]) {
    const YOUNG: [&str; 30] = [
        "AbortSignal.timeout",
        "AbortSignal.any",
        "Object.hasOwn",
        "Object.groupBy",
        "static {",
        ".role =",
        "(?<=",
        "(?<!",
        "structuredClone",
        ".toSorted(",
        ".toReversed(",
        ".toSpliced(",
        ".with(",
        ".findLast(",
        ".isWellFormed(",
        ".bytes()",
        "fromAsync",
        "withResolvers",
        "Promise.try",
        "randomUUID",
        "checkVisibility",
        "showPopover",
        "showModal",
        "requestIdleCallback",
        "color-mix(",
        ":has(",
        "@layer",
        "@container",
        "@scope",
        "text-wrap",
    ];
    let folders = folders.iter().map(|name| format!("{}/static/{name}", env!("CARGO_MANIFEST_DIR")));
    for file in folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = file.unwrap().path();
        // The texts of the lessons and the pictures are not code.
        if path.extension().is_some_and(|end| end == "txt" || end == "png") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (line, n) in text.lines().zip(1..) {
            let code = line.split("//").next().unwrap();
            let found: Vec<_> = YOUNG.iter().filter(|name| code.contains(**name)).collect();
            assert!(found.is_empty(), "{}:{n}: {found:?}", path.display());
            // Nested rules, and ranges in media queries.
            let sheet = path.extension().is_some_and(|end| end == "css");
            let young = line.trim_start().starts_with('&') || line.starts_with("@media") && line.contains(['<', '>']);
            assert!(!(sheet && young), "{}:{n}: {line}", path.display());
        }
    }
}

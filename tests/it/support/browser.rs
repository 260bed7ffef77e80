//! A real Chromium, driven through WebDriver (W3C, with ChromeDriver's additions under `goog/`). On one side are real
//! key presses and clicks, on the other the real server and raw sockets.
//!
//! If Chromium is missing, these tests are left out; with `TINCAN_BROWSER=1` they fail instead. With
//! `TINCAN_SHOTS=DIR` they write pictures of the page to that directory.

use crate::support::harness::*;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Instant;
use tincan::wire::event::json;

/// Loopback only: the last rule lets no other name or address resolve.
pub const FLAGS: &str = r#""--headless=new","--no-sandbox","--disable-gpu","--disable-quic","--no-first-run",
    "--disable-background-networking","--disable-component-update","--disable-sync","--disable-dev-shm-usage",
    "--no-proxy-server","--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1""#;
/// Definitions that come before every expression.
const SHORT: &str = "const q = css => document.querySelector(css), all = css => [...document.querySelectorAll(css)];
    const log = () => all('#messages li').map(li => [li.className, ...(li.children.length ?
    [...li.children].map(c => c.textContent) : [li.textContent])].join('|')).join('\\n');";
pub const STATE: &str = "q('#state').dataset.state";
pub const MISSED: &str = "gap|Some messages may be missing here";
pub const ENTER: &str = "\u{e007}"; // WebDriver, "Keyboard actions"
pub const TAB: &str = "\u{e004}";

/// Stops the page's timer: the test calls `everySecond()` itself. Otherwise the page takes a worker that is slow on a
/// busy machine for dead.
pub const STILL: &str = "window.setInterval = () => 0";

/// The paths of the programs. While a test holds a `Driver`, its browsers are kept for the next test.
pub struct Driver {
    chromium: PathBuf,
    chromedriver: PathBuf,
}

/// A ChromeDriver and the Chromium that it drives.
struct Browser {
    driver: Child,
    agent: ureq::Agent,
    base: String,
    session: String,
    home: String, // the handle of a tab that stays open, so that Chromium does not end
    dir: Scratch, // where the programs write
}

/// Browsers that wait for the next page. Starting one takes more processor time than most tests do. The next page
/// finds nothing from the page before: each server has its own port, and so its own origin.
static KEPT: Mutex<(usize, Vec<Browser>)> = Mutex::new((0, Vec::new()));

fn kept() -> MutexGuard<'static, (usize, Vec<Browser>)> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds the programs; returns None if one of them is missing.
pub fn driver() -> Option<Driver> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    let (Some(chromium), Some(chromedriver)) = (find("chromium"), find("chromedriver")) else {
        let why = "left out: chromium and chromium-driver are not installed";
        assert!(std::env::var("TINCAN_BROWSER").as_deref() != Ok("1"), "{why}");
        eprintln!("{why}");
        return None;
    };
    kept().0 += 1;
    Some(Driver { chromium, chromedriver })
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.0 -= 1;
        if kept.0 == 0 {
            let browsers = std::mem::take(&mut kept.1);
            drop(kept);
            drop(browsers);
        }
    }
}

impl Driver {
    /// Opens a URL in a Chromium with its own storage. No other page of this test uses it.
    pub fn page(&self, url: &str) -> Page<'_> {
        let page = self.chromium("en", "normal");
        page.open(url);
        page
    }

    /// Starts a Chromium whose user prefers these languages. With the strategy `none` it does not wait until a page
    /// is loaded (WebDriver, "Page load strategy").
    pub fn chromium(&self, languages: &str, strategy: &str) -> Page<'_> {
        let usual = (languages, strategy) == ("en", "normal");
        let waits = usual.then(|| kept().1.pop()).flatten();
        let browser = waits.unwrap_or_else(|| Browser::start(self, languages, strategy));
        let page = Page { browser: Some(browser), usual, _driver: self };
        page.tab();
        page.cdp("Page.bringToFront", "{}"); // otherwise a key press does not reach the page
        page.console();
        page
    }
}

impl Browser {
    fn start(programs: &Driver, languages: &str, strategy: &str) -> Browser {
        let dir = Scratch::new();
        let mut command = Command::new(&programs.chromedriver);
        command.arg("--port=0").env("HOME", &dir.0).env("TMPDIR", &dir.0).stdout(Stdio::piped()).stderr(Stdio::null());
        // ChromeDriver looks for a free port and then takes it. It ends if another program was faster.
        let start = || {
            let mut driver = command.spawn().unwrap();
            let stdout = BufReader::new(driver.stdout.take().unwrap());
            let (found, port) = mpsc::channel();
            thread::spawn(move || {
                for line in stdout.lines().map_while(Result::ok) {
                    if let Some((_, port)) = line.split_once("started successfully on port ") {
                        let _ = found.send(port.trim_end_matches('.').to_string());
                    }
                }
            });
            match port.recv_timeout(SOON) {
                Ok(port) => Some((port, driver)),
                Err(_) => {
                    let _ = driver.kill();
                    let _ = driver.wait();
                    None
                }
            }
        };
        let found = std::iter::repeat_with(start).take(5).flatten().next();
        let (port, driver) = found.expect("ChromeDriver does not start");
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(3 * SOON)).build().new_agent();
        let base = format!("http://127.0.0.1:{port}");
        let mut browser = Browser { driver, agent, base, session: String::new(), home: String::new(), dir };
        let response = browser.post("/session", &browser.wishes(&programs.chromium, languages, strategy));
        browser.session = format!("/session/{}", string(&response, "\"sessionId\":"));
        browser.home = string(&browser.get("/window"), "\"value\":");
        browser
    }

    /// Returns the capabilities of the session (WebDriver, "New Session").
    fn wishes(&self, chromium: &Path, languages: &str, strategy: &str) -> String {
        let profile = json(&format!("--user-data-dir={}", self.dir.0.join("profile").display()));
        // It starts with an empty page, since its own start page sends requests and writes to the console.
        let prefs = format!(
            "{{\"intl.accept_languages\":{},\"session\":{{\"restore_on_startup\":4,\"startup_urls\":[\"data:,\"]}}}}",
            json(languages)
        );
        let binary = json(&chromium.to_string_lossy());
        let options = format!("{{\"binary\":{binary},\"args\":[{FLAGS},{profile}],\"prefs\":{prefs}}}");
        let patience = (2 * SOON).as_millis(); // a busy machine runs a script slowly
        let wishes = [
            format!("\"goog:chromeOptions\":{options}"),
            "\"goog:loggingPrefs\":{\"browser\":\"ALL\"}".to_string(),
            format!("\"pageLoadStrategy\":{}", json(strategy)),
            format!("\"timeouts\":{{\"script\":{patience},\"pageLoad\":{patience}}}"),
        ];
        format!("{{\"capabilities\":{{\"alwaysMatch\":{{{}}}}}}}", wishes.join(","))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{}{path}", self.base, self.session)
    }

    fn post(&self, path: &str, body: &str) -> String {
        let request = self.agent.post(self.url(path)).content_type("application/json");
        answered(request.send(body), &format!("{path} {body}"))
    }

    fn get(&self, path: &str) -> String {
        answered(self.agent.get(self.url(path)).call(), path)
    }

    fn delete(&self, path: &str) -> String {
        answered(self.agent.delete(self.url(path)).call(), path)
    }

    /// Closes all tabs of a page.
    fn clear(&self) {
        let handles = self.get("/window/handles");
        let handles = handles.split_once('[').map_or("", |(_, list)| list).split('"').skip(1).step_by(2);
        for handle in handles.filter(|handle| *handle != self.home) {
            self.post("/window", &format!("{{\"handle\":{}}}", json(handle)));
            self.delete("/window");
        }
        self.post("/window", &format!("{{\"handle\":{}}}", json(&self.home)));
    }
}

/// Returns the body of a response, which must be a success.
fn answered(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>, request: &str) -> String {
    let mut response = response.unwrap_or_else(|e| panic!("{request}: {e}"));
    let text = response.body_mut().read_to_string().unwrap();
    assert_eq!(response.status(), 200, "{request}: {text}");
    text
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.agent.delete(self.url("")).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // A Chromium that is ending may still write a file.
        let began = Instant::now();
        while std::fs::remove_dir_all(&self.dir.0).is_err() && self.dir.0.exists() && began.elapsed() < SOON {
            look_again(began);
        }
    }
}

/// Returns the JSON string after the first `key`, unescaped (RFC 8259 §7).
pub fn string(text: &str, key: &str) -> String {
    let at = text.find(key).unwrap_or_else(|| panic!("no {key} in {text}")) + key.len();
    let mut chars = text[at..].strip_prefix('"').unwrap_or_else(|| panic!("no string: {text}")).chars();
    let mut out = Vec::new(); // UTF-16, since an escape may be half of a surrogate pair
    loop {
        match chars.next().expect("an unfinished string") {
            '"' => return String::from_utf16(&out).unwrap(),
            '\\' => out.push(match chars.next().unwrap() {
                'n' => 10,
                'r' => 13,
                't' => 9,
                'b' => 8,
                'f' => 12,
                'u' => u16::from_str_radix(&chars.by_ref().take(4).collect::<String>(), 16).unwrap(),
                c => c as u16,
            }),
            c => out.extend_from_slice(c.encode_utf16(&mut [0; 2])),
        }
    }
}

/// A window of a Chromium that has no other page.
pub struct Page<'a> {
    browser: Option<Browser>,
    usual: bool,
    _driver: &'a Driver,
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        // A browser is not used again after a test has failed in it, since its state is unknown.
        if let Some(browser) = self.browser.take().filter(|_| self.usual && !thread::panicking()) {
            browser.clear();
            kept().1.push(browser);
        }
    }
}

impl Page<'_> {
    fn browser(&self) -> &Browser {
        self.browser.as_ref().expect("a page has its browser until it is dropped")
    }

    pub fn post(&self, path: &str, body: &str) -> String {
        self.browser().post(path, body)
    }

    /// Opens a URL, and returns when the page and its script are loaded.
    pub fn open(&self, url: &str) {
        self.post("/url", &format!("{{\"url\":{}}}", json(url)));
    }

    /// Opens one more tab and switches to it; returns its handle.
    pub fn tab(&self) -> String {
        let handle = string(&self.post("/window/new", "{\"type\":\"tab\"}"), "\"handle\":");
        self.turn_to(&handle);
        handle
    }

    /// Returns the handle of the current tab.
    pub fn handle(&self) -> String {
        string(&self.browser().get("/window"), "\"value\":")
    }

    /// Switches to a tab.
    pub fn turn_to(&self, handle: &str) {
        self.post("/window", &format!("{{\"handle\":{}}}", json(handle)));
    }

    /// Closes the current tab. The test must then switch to another one.
    pub fn close_tab(&self) {
        self.browser().delete("/window");
    }

    /// Makes each page in this tab run a script before its own scripts.
    pub fn before(&self, script: &str) {
        self.cdp("Page.addScriptToEvaluateOnNewDocument", &format!("{{\"source\":{}}}", json(script)));
    }

    pub fn reload(&self) {
        self.post("/refresh", "{}");
    }

    /// Returns what the browser reports to assistive technology about an element: its `role` or its `label`.
    pub fn computed(&self, property: &str, css: &str) -> String {
        string(&self.browser().get(&format!("{}/computed{property}", self.element(css))), "\"value\":")
    }

    /// Returns the value of an expression as a string.
    pub fn js(&self, expression: &str) -> String {
        let script = json(&format!("{SHORT} return String({expression})"));
        string(&self.post("/execute/sync", &format!("{{\"script\":{script},\"args\":[]}}")), "\"value\":")
    }

    pub fn text(&self, css: &str) -> String {
        self.js(&format!("q({}).textContent", json(css)))
    }

    /// Waits until the value of an expression is exactly this.
    pub fn becomes(&self, expression: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let value = self.js(expression);
            if value == expected {
                return;
            }
            assert!(began.elapsed() < SOON, "{expression}\nis       {value:?}\ninstead of {expected:?}");
            look_again(began);
        }
    }

    pub fn is_open(&self) {
        self.becomes(STATE, "open");
    }

    /// Waits until the page's log shows exactly these messages, each `class|name|text` or `class|text`.
    pub fn shows(&self, log: &[impl AsRef<str>]) {
        self.becomes("log()", &log.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n"));
    }

    /// Presses the first Copy button. For a moment its text says that the line was copied or selected; then its old
    /// text is back. The moment may be over when the test looks, so a script in the page records the texts.
    pub fn copies(&self, done: [&str; 2], before: &str) {
        self.js("(window.said = [], new MutationObserver(() => said.push(q('.copy').textContent)) \
                 .observe(q('.copy'), { childList: true, characterData: true, subtree: true }))");
        self.keys(".copy", " ");
        self.becomes("said.length", "2");
        let said = self.js("said");
        assert!(done.iter().any(|done| said == format!("{done},{before}")), "{said}");
    }

    /// Returns WebDriver's path of an element.
    pub fn element(&self, css: &str) -> String {
        let body = format!("{{\"using\":\"css selector\",\"value\":{}}}", json(css));
        // The key is WebDriver's "web element identifier".
        format!("/element/{}", string(&self.post("/element", &body), "\"element-6066-11e4-a52e-4f735466cecf\":"))
    }

    /// Sends real key presses to an element, which gets the focus.
    pub fn keys(&self, css: &str, keys: &str) {
        self.post(&(self.element(css) + "/value"), &format!("{{\"text\":{}}}", json(keys)));
    }

    /// Sends a message, and waits until the page is ready for the next one.
    pub fn say(&self, text: &str) {
        self.keys("#msg", &format!("{text}{ENTER}"));
        self.becomes("q('#msg').value", "");
    }

    /// Returns what the server's pages have written to the browser's console since the last call. Lines of the
    /// browser's own pages are left out.
    pub fn console(&self) -> Vec<String> {
        let log = self.post("/se/log", "{\"type\":\"browser\"}");
        let lines = log.split("{\"level\":").skip(1).map(|entry| string(entry, "\"message\":"));
        lines.filter(|line| !line.starts_with("chrome:")).collect()
    }

    pub fn cdp(&self, command: &str, params: &str) -> String {
        self.post("/goog/cdp/execute", &format!("{{\"cmd\":\"{command}\",\"params\":{params}}}"))
    }

    pub fn size(&self, width: u32, height: u32, phone: bool) {
        let params = format!("{{\"width\":{width},\"height\":{height},\"deviceScaleFactor\":1,\"mobile\":{phone}}}");
        self.cdp("Emulation.setDeviceMetricsOverride", &params);
    }

    /// Takes a picture of this page for a document. With `TINCAN_PICTURES=1` the picture replaces the one in the
    /// tree. Otherwise the one in the tree must be there, have this size, and be small.
    pub fn picture(&self, path: &str, width: u32, height: u32) {
        self.size(width, height, false);
        let scratch = Scratch::new();
        let new = scratch.0.join("picture.png");
        self.shot(&new);
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("TINCAN_PICTURES").is_some() {
            std::fs::copy(&new, &kept).unwrap();
        }
        for file in [new, kept] {
            let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
            // First the signature, then the size in the first chunk (PNG §5.2, §11.2.1).
            assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n", "{path}");
            assert_eq!(bytes[16..24], [width.to_be_bytes(), height.to_be_bytes()].concat(), "{path}");
            assert!(bytes.len() < 100_000, "{path} has {} bytes", bytes.len());
        }
    }

    pub fn shot(&self, file: &Path) {
        const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"; // RFC 4648 §4
        let png = string(&self.cdp("Page.captureScreenshot", "{}"), "\"data\":");
        let digits: Vec<u32> = png.trim_end_matches('=').chars().map(|c| DIGITS.find(c).unwrap() as u32).collect();
        let mut bytes = Vec::new();
        for four in digits.chunks(4) {
            let bits = four.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
            bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
        }
        std::fs::write(file, bytes).unwrap();
    }
}

/// Answers every request on a port with 502, like a proxy whose server does not run. Returns a function that stops
/// it.
pub fn bad_gateway(port: u16) -> impl FnOnce() {
    let mut listener = None;
    eventually("the port is free", || {
        listener = TcpListener::bind(("127.0.0.1", port)).ok();
        listener.is_some()
    });
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        let mut streams = Vec::new();
        for stream in listener.unwrap().incoming().map_while(|s| s.ok().filter(|_| !stopped.load(SeqCst))) {
            // Chromium opens connections that it does not use yet. They must not delay the others.
            streams.push(stream.try_clone().unwrap());
            thread::spawn(move || refuse_one(stream));
        }
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    });
    move || {
        stop.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", port));
        thread.join().unwrap();
    }
}

/// Answers one request with 502.
fn refuse_one(mut stream: TcpStream) {
    if matches!(stream.read(&mut [0; 16 << 10]), Ok(1..)) {
        let response = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(response);
        // If the connection closed while a body is still coming, the response would be lost to a reset (RFC 9112
        // §9.6).
        let _ = stream.shutdown(Shutdown::Write);
        while matches!(stream.read(&mut [0; 16 << 10]), Ok(1..)) {}
    }
}

pub fn url(server: &Tincan, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", server.port)
}

/// Starts a new server on the port of one that has ended.
pub fn again(port: u16) -> Tincan {
    Tincan::spawn(&format!("127.0.0.1:{port}"), &["--retry", "200"])
}

/// Starts a server with these tokens, on a port, or on a free one if `port` is 0.
pub fn guarded(dir: &Scratch, port: u16, tokens: &str) -> Tincan {
    let path = dir.0.join("tokens");
    std::fs::write(&path, tokens).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let args = ["--retry", "200", "--token-file", path.to_str().unwrap()];
    Tincan::spawn(&format!("127.0.0.1:{port}"), &args)
}

/// Returns a URL with a token in it. No driver can type into the browser's own dialog. But the browser answers the
/// challenge with the credentials of the URL, and later uses them for the URL without them.
pub fn signed_url(server: &Tincan, token: &str) -> String {
    format!("http://any:{token}@127.0.0.1:{}/kitchen", server.port)
}

/// Returns a script that listens with an EventSource and notes its events.
pub fn listening(path: &str) -> String {
    format!(
        "void (window.told = [], window.es = new EventSource('{path}'),
        es.onopen = () => told.push('open'), es.onerror = () => told.push(`error ${{es.readyState}}`),
        es.onmessage = event => told.push(event.data))"
    )
}

/// Publishes a number to /kitchen once the EventSource has opened that many times. Returns everything that it has
/// noted.
pub fn heard(page: &Page, server: &Tincan, n: usize) -> String {
    page.becomes(&format!("told.filter(text => text === 'open').length >= {n}"), "true");
    server.post("/kitchen", n.to_string());
    page.becomes(&format!("told.includes('{n}')"), "true");
    page.js("told.filter(text => /^[0-9]/.test(text)).join()")
}

/// Returns the JSON that the page sends.
pub fn message(name: &str, msg: &str) -> String {
    format!("{{\"name\":{},\"msg\":{}}}", json(name), json(msg))
}

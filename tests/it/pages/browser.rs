//! The chat page in a real Chromium, through WebDriver (W3C, with ChromeDriver's additions under `goog/`): real key
//! presses and clicks on one side, the real server and raw sockets on the other.
//!
//! Where Chromium is missing these tests are left out, unless `TINCAN_BROWSER=1` says that it must be there.
//! `TINCAN_SHOTS=DIR` has pictures of the page written there.

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
/// What stands before every expression.
const SHORT: &str = "const q = css => document.querySelector(css), all = css => [...document.querySelectorAll(css)];
    const log = () => all('#messages li').map(li => [li.className, ...(li.children.length ?
    [...li.children].map(c => c.textContent) : [li.textContent])].join('|')).join('\\n');";
pub const STATE: &str = "q('#state').dataset.state";
pub const MISSED: &str = "gap|Some messages may have been missed here";
pub const ENTER: &str = "\u{e007}"; // WebDriver, "Keyboard actions"
pub const TAB: &str = "\u{e004}";

/// The machine has slept for a minute.
const WAKES_UP: &str = "(real => Date.now = () => real() + 60000)(Date.now), everySecond()";
/// The page's seconds do not pass by themselves: the test calls `everySecond()` when one is over. Otherwise a worker that
/// is slow on a busy machine is taken for dead.
pub const STILL: &str = "window.setInterval = () => 0";

/// The paths of the programs. While a test has it, browsers are kept for the next one.
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
    home: String, // the handle of a tab that stays, so that the Chromium does
    dir: Scratch, // what they write
}

/// Browsers that wait for the next page: to start one takes more of the processor than most tests do with it. Nothing is
/// left in them that the next page could see: each server has a port, and so an origin, of its own.
static KEPT: Mutex<(usize, Vec<Browser>)> = Mutex::new((0, Vec::new()));

fn kept() -> MutexGuard<'static, (usize, Vec<Browser>)> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds the programs; none where one of them is missing.
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
    /// Opens a URL in a Chromium that no other page of this test has, with its own storage.
    pub fn page(&self, url: &str) -> Page<'_> {
        let page = self.chromium("en", "normal");
        page.open(url);
        page
    }

    /// A Chromium whose user reads these languages. It waits for a page to be loaded, or with the strategy `none` for
    /// nothing (WebDriver, "Page load strategy").
    pub fn chromium(&self, languages: &str, strategy: &str) -> Page<'_> {
        let usual = (languages, strategy) == ("en", "normal");
        let waits = usual.then(|| kept().1.pop()).flatten();
        let browser = waits.unwrap_or_else(|| Browser::start(self, languages, strategy));
        let page = Page { browser: Some(browser), usual, _driver: self };
        page.tab();
        page.cdp("Page.bringToFront", "{}"); // else a key press does not go to the page
        page.console();
        page
    }
}

impl Browser {
    fn start(programs: &Driver, languages: &str, strategy: &str) -> Browser {
        let dir = Scratch::new();
        let mut command = Command::new(&programs.chromedriver);
        command.arg("--port=0").env("HOME", &dir.0).env("TMPDIR", &dir.0).stdout(Stdio::piped()).stderr(Stdio::null());
        // It looks for a free port and then takes it, and ends if another program was faster.
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
        let answer = browser.post("/session", &browser.wishes(&programs.chromium, languages, strategy));
        browser.session = format!("/session/{}", string(&answer, "\"sessionId\":"));
        browser.home = string(&browser.get("/window"), "\"value\":");
        browser
    }

    /// The session that is wanted (WebDriver, "New Session").
    fn wishes(&self, chromium: &Path, languages: &str, strategy: &str) -> String {
        let profile = json(&format!("--user-data-dir={}", self.dir.0.join("profile").display()));
        // It starts with an empty page: its own one asks the network for things, and writes into the console.
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

    /// Closes all tabs that a page had.
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

/// The body of a response that has to be a success.
fn answered(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>, what: &str) -> String {
    let mut response = response.unwrap_or_else(|e| panic!("{what}: {e}"));
    let text = response.body_mut().read_to_string().unwrap();
    assert_eq!(response.status(), 200, "{what}: {text}");
    text
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.agent.delete(self.url("")).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // A Chromium that is just ending may still write a file.
        let began = Instant::now();
        while std::fs::remove_dir_all(&self.dir.0).is_err() && self.dir.0.exists() && began.elapsed() < SOON {
            look_again(began);
        }
    }
}

/// The JSON string that stands behind the first `key`, unescaped (RFC 8259 §7).
pub fn string(text: &str, key: &str) -> String {
    let at = text.find(key).unwrap_or_else(|| panic!("no {key} in {text}")) + key.len();
    let mut chars = text[at..].strip_prefix('"').unwrap_or_else(|| panic!("no string: {text}")).chars();
    let mut out = Vec::new(); // UTF-16, for an escape may be half of a pair
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

/// A window of a Chromium, in which no other page is open.
pub struct Page<'a> {
    browser: Option<Browser>,
    usual: bool,
    _driver: &'a Driver,
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        // What a test has failed with may be in any state.
        if let Some(browser) = self.browser.take().filter(|_| self.usual && !thread::panicking()) {
            browser.clear();
            kept().1.push(browser);
        }
    }
}

impl Page<'_> {
    fn browser(&self) -> &Browser {
        self.browser.as_ref().expect("it is there as long as the page")
    }

    pub fn post(&self, path: &str, body: &str) -> String {
        self.browser().post(path, body)
    }

    /// Opens a URL, and is back when the page and its script are loaded.
    pub fn open(&self, url: &str) {
        self.post("/url", &format!("{{\"url\":{}}}", json(url)));
    }

    /// Opens one more tab and turns to it; returns its handle.
    pub fn tab(&self) -> String {
        let handle = string(&self.post("/window/new", "{\"type\":\"tab\"}"), "\"handle\":");
        self.turn_to(&handle);
        handle
    }

    /// The tab that was turned to last.
    pub fn handle(&self) -> String {
        string(&self.browser().get("/window"), "\"value\":")
    }

    /// What follows is done in this tab.
    pub fn turn_to(&self, handle: &str) {
        self.post("/window", &format!("{{\"handle\":{}}}", json(handle)));
    }

    /// Closes the tab; another one must be turned to.
    pub fn close_tab(&self) {
        self.browser().delete("/window");
    }

    /// Has each page in this tab run this before its own scripts.
    pub fn before(&self, script: &str) {
        self.cdp("Page.addScriptToEvaluateOnNewDocument", &format!("{{\"source\":{}}}", json(script)));
    }

    pub fn reload(&self) {
        self.post("/refresh", "{}");
    }

    /// The value of an expression, as a string.
    pub fn js(&self, expression: &str) -> String {
        let script = json(&format!("{SHORT} return String({expression})"));
        string(&self.post("/execute/sync", &format!("{{\"script\":{script},\"args\":[]}}")), "\"value\":")
    }

    pub fn text(&self, css: &str) -> String {
        self.js(&format!("q({}).textContent", json(css)))
    }

    /// Waits until an expression has exactly this value.
    pub fn becomes(&self, expression: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let value = self.js(expression);
            if value == expected {
                return;
            }
            assert!(began.elapsed() < SOON, "{expression}\nis      {value:?}\nand not {expected:?}");
            look_again(began);
        }
    }

    pub fn is_open(&self) {
        self.becomes(STATE, "open");
    }

    /// Waits until the log has exactly these messages, each `class|name|text` or `class|text`.
    pub fn shows(&self, log: &[impl AsRef<str>]) {
        self.becomes("log()", &log.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n"));
    }

    /// Presses the first Copy button: it says for a moment that it has copied or selected the line, and then what it said
    /// before. The moment may be over when the test looks, so the page notes it.
    pub fn copies(&self, done: [&str; 2], before: &str) {
        self.js("(window.said = [], new MutationObserver(() => said.push(q('.copy').textContent)) \
                 .observe(q('.copy'), { childList: true, characterData: true, subtree: true }))");
        self.keys(".copy", " ");
        self.becomes("said.length", "2");
        let said = self.js("said");
        assert!(done.iter().any(|done| said == format!("{done},{before}")), "{said}");
    }

    /// The path of an element.
    pub fn element(&self, css: &str) -> String {
        let body = format!("{{\"using\":\"css selector\",\"value\":{}}}", json(css));
        // The key is WebDriver's "web element identifier".
        format!("/element/{}", string(&self.post("/element", &body), "\"element-6066-11e4-a52e-4f735466cecf\":"))
    }

    /// Real key presses into an element, which gets the focus.
    pub fn keys(&self, css: &str, keys: &str) {
        self.post(&(self.element(css) + "/value"), &format!("{{\"text\":{}}}", json(keys)));
    }

    /// Sends a message; the page is then ready for the next.
    pub fn say(&self, text: &str) {
        self.keys("#msg", &format!("{text}{ENTER}"));
        self.becomes("q('#msg').value", "");
    }

    /// What a server's pages have newly written into the browser's console; not what pages of the browser's own write.
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

/// Answers every request with 502 on a port, as a proxy does whose server is gone; returns what ends that.
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
            // Chromium opens connections that it does not use yet: they must not hold up the others.
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
        let answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(answer);
        // A body that is still on its way would have the answer reset (RFC 9112 §9.6).
        let _ = stream.shutdown(Shutdown::Write);
        while matches!(stream.read(&mut [0; 16 << 10]), Ok(1..)) {}
    }
}

pub fn url(server: &Tincan, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", server.port)
}

/// Starts another server on the port of one that is gone.
pub fn again(port: u16) -> Tincan {
    Tincan::spawn(&format!("127.0.0.1:{port}"), &["--retry", "200"])
}

/// Starts a server with these tokens; on a port, or with 0 on a free one.
pub fn guarded(dir: &Scratch, port: u16, tokens: &str) -> Tincan {
    let path = dir.0.join("tokens");
    std::fs::write(&path, tokens).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let args = ["--retry", "200", "--token-file", path.to_str().unwrap()];
    Tincan::spawn(&format!("127.0.0.1:{port}"), &args)
}

/// The URL with a token in it. No driver can type into the browser's own dialog, but the browser answers the challenge
/// with what stands in the URL, and keeps it for the URL without.
pub fn signed_url(server: &Tincan, token: &str) -> String {
    format!("http://any:{token}@127.0.0.1:{}/kitchen", server.port)
}

/// What the page sends.
pub fn message(name: &str, msg: &str) -> String {
    format!("{{\"name\":{},\"msg\":{}}}", json(name), json(msg))
}

#[test]
fn two_people_and_curl_hear_the_same() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let (kitchen, listeners) = (url(&server, "/kitchen"), "q('#listeners').textContent");
    let ada = driver.page(&kitchen);
    ada.is_open();
    ada.becomes(listeners, "1 listener");
    // An empty channel teaches.
    assert_eq!((ada.text("#channel"), ada.js("document.title")), ("kitchen".into(), "kitchen · tincan".into()));
    assert_eq!(ada.js("q('#empty').checkVisibility()"), "true");
    assert_eq!(ada.text("#curl-listen"), format!("curl -N {kitchen}"));
    assert_eq!(ada.text("#curl-say"), format!("curl -d 'soup is ready' {kitchen}"));
    let bob = driver.page(&kitchen);
    bob.becomes(listeners, "2 listeners");
    let (mut curl, place) = server.listen("/kitchen", "");
    let epoch = place.strip_suffix("-0").unwrap();

    ada.keys("#name", "Ada");
    ada.say("who cooks?");
    curl.expect(format!("data: {{\"name\":\"Ada\",\"msg\":\"who cooks?\"}}\nid: {epoch}-1\n\n"));
    for page in [&ada, &bob] {
        page.shows(&["said|Ada|who cooks?"]);
        page.becomes("q('#terminal').open", "false");
        page.becomes(listeners, "3 listeners");
    }
    server.post("/kitchen", "soup is ready");
    curl.expect(format!("data: soup is ready\nid: {epoch}-2\n\n"));
    bob.keys("#name", "Bob");
    bob.say("\"thanks\" \\ été 🍲");
    curl.expect(format!("data: {}\nid: {epoch}-3\n\n", message("Bob", "\"thanks\" \\ été 🍲")));
    let log = ["said|Ada|who cooks?", "plain|soup is ready", "said|Bob|\"thanks\" \\ été 🍲"];
    ada.shows(&log);
    bob.shows(&log);

    // The name is remembered, and whoever comes later hears what was said.
    ada.reload();
    ada.shows(&log);
    assert_eq!(ada.js("q('#name').value"), "Ada");
    bob.open(&url(&server, "/"));
    assert_eq!((bob.text("#channel"), bob.js("q('#name').value")), ("chat".into(), "Bob".into()));
    assert_eq!(bob.text("#curl-listen"), format!("curl -N {}", url(&server, "/chat")));
    bob.say("at /");
    bob.shows(&["said|Bob|at /"]);
    assert!(
        server.get("/chat?since=all&wait=0").text().contains(&format!("\n\ndata: {}\nid: ", message("Bob", "at /")))
    );
    assert_eq!([ada.console(), bob.console()].concat(), [""; 0]);
}

#[test]
fn a_restart_heals_by_itself_and_is_told() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200"]);
    let pages = [driver.page(&url(&server, "/kitchen")), driver.page(&url(&server, "/kitchen"))];
    server.post("/kitchen", "before");
    pages.iter().for_each(|page| page.shows(&["plain|before"]));
    server.kill();
    for page in &pages {
        page.becomes(STATE, "connecting");
        assert_eq!((page.text("#word"), page.text("#listeners")), ("connecting…".into(), String::new()));
    }
    // Whoever sends now is told, and keeps what was typed.
    pages[0].keys("#msg", &format!("after{ENTER}"));
    pages[0].becomes("q('#error').textContent", "could not reach the server");
    server = again(server.port);
    for page in &pages {
        page.is_open();
        assert_eq!(page.text("#word"), "open");
        page.shows(&["plain|before", MISSED]);
    }
    let (mut curl, _) = server.listen("/kitchen", "");
    pages[0].say("");
    assert_eq!(pages[0].text("#error"), "");
    server.post("/kitchen", "end");
    for page in &pages {
        page.shows(&["plain|before", MISSED, "said|anonymous|after", "plain|end"]);
    }
    assert!(curl.block().starts_with("data: {\"name\":\"anonymous\",\"msg\":\"after\"}\n"));
    assert!(curl.block().starts_with("data: end\n"), "each is heard once");
}

#[test]
fn an_eventsource_comes_back_after_a_last_chunk_and_after_none() {
    let Some(driver) = driver() else { return };
    const LISTEN: &str = "void (window.told = [], window.es = new EventSource('/kitchen?tap=plug'),
        es.onopen = () => told.push('open'), es.onerror = () => told.push(`error ${es.readyState}`),
        es.onmessage = event => told.push(event.data))";
    let heard = |page: &Page, server: &Tincan, n: usize| {
        page.becomes(&format!("told.filter(text => text === 'open').length >= {n}"), "true");
        server.post("/kitchen", n.to_string());
        page.becomes(&format!("told.includes('{n}')"), "true");
        page.js("told.filter(text => /^[0-9]/.test(text)).join()")
    };
    // An end in order, each second: that is no failure.
    let server = Tincan::start(&["--retry", "100", "--max-age", "1"]);
    let page = driver.page(&url(&server, "/health"));
    page.js(LISTEN);
    let all = [1, 2, 3].map(|n| heard(&page, &server, n));
    assert_eq!(all, ["1", "1,2", "1,2,3"]);
    assert!(page.js("told.filter(text => text.startsWith('error')).join()").starts_with("error 0,error 0"));
    let complaints = |page: &Page| {
        let lines = page.console().into_iter().filter(|line| line.contains("/kitchen")); // not for want of an icon
        lines.collect::<Vec<_>>()
    };
    assert_eq!(complaints(&page), [""; 0]);
    // A pulled plug, and a server that is killed.
    let mut server = Tincan::start(&["--retry", "100"]);
    let page = driver.page(&url(&server, "/health"));
    page.js(LISTEN);
    assert_eq!(heard(&page, &server, 1), "1");
    assert_eq!(server.post("/lab/plug", ""), ["connections cut: 1"]);
    assert_eq!(heard(&page, &server, 2), "1,2");
    assert_eq!(page.js("told.filter(text => text.startsWith('error')).join()"), "error 0");
    let console = complaints(&page);
    assert!(console.len() == 1 && console[0].contains("ERR_INCOMPLETE_CHUNKED_ENCODING"), "{console:?}");
    server.kill();
    page.becomes("told.filter(text => text === 'error 0').length >= 2", "true");
    server = again(server.port);
    assert_eq!(heard(&page, &server, 3), "1,2,3");
}

#[test]
fn a_bad_gateway_does_not_end_it() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200"]);
    let (clicks, waits) = (driver.chromium("en", "normal"), driver.page(&url(&server, "/kitchen")));
    clicks.before("delete window.SharedWorker"); // so that the page holds the line, and the test can reach it
    clicks.open(&url(&server, "/kitchen"));
    server.post("/kitchen", "one");
    server.post("/kitchen", "two");
    let seen = "[q('#state').dataset.state, q('#word').textContent, q('#now').checkVisibility(), \
                q('#seconds').textContent.replace(/^[1-9]\\d* s$/, 'N s')]";
    for page in [&clicks, &waits] {
        page.shows(&["plain|one", "plain|two"]);
    }
    server.kill();
    let end_gateway = bad_gateway(server.port);
    for page in [&clicks, &waits] {
        page.becomes(seen, "waiting,waiting,true,N s");
    }
    // One page now draws a pause of hours, so that nothing but the click can end it.
    clicks.js("Math.random = () => -100000");
    clicks.becomes("parseInt(q('#seconds').textContent) > 10000", "true");
    end_gateway();
    server = again(server.port);
    assert_eq!(clicks.js(STATE), "waiting");
    clicks.post(&(clicks.element("#now") + "/click"), "{}");
    for page in [&clicks, &waits] {
        page.becomes(seen, "open,open,false,");
        page.shows(&["plain|one", "plain|two", MISSED]);
    }
    clicks.say("three");
    server.post("/kitchen", "four");
    for page in [&clicks, &waits] {
        page.shows(&["plain|one", "plain|two", MISSED, "said|anonymous|three", "plain|four"]);
    }
    eventually("no page holds a second stream", || server.readers("kitchen") == 2);
}

#[test]
fn markup_stays_text() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    let mut log = Vec::new();
    for text in ["<img src=x onerror=pwned=1>", "<script>pwned=1</script>", "<b onclick='pwned=1'>&lt;b&gt;"] {
        page.js("q('#name').value = ''");
        page.keys("#name", text);
        page.say(text);
        let said = format!("said|{text}|{text}");
        log.push(said.clone());
        page.shows(&log); // before others speak
        let (string, number) = (json(text), format!("{{\"name\":7,\"msg\":{}}}", json(text)));
        for body in [&message(text, text), text, &string, &number] {
            server.post("/kitchen", body);
        }
        log.extend([said, format!("plain|{text}")]);
        log.extend([format!("plain|{string}"), format!("plain|{number}")]);
        page.shows(&log);
    }
    for (body, text) in [("null", "null"), ("{\"name\":1}", "{\"name\":1}"), ("", ""), ("a\r\nb\rc\n", "a\nb\nc\n")] {
        server.post("/kitchen", body);
        log.push(format!("plain|{text}"));
    }
    page.shows(&log);
    page.reload();
    page.shows(&log);
    assert_eq!(page.js("[...new Set(all('#log *').map(e => e.localName))].sort()"), "b,li,ol,p");
    assert_eq!(page.js("all('#log img, #log script, #log [onclick]').length"), "0");
    assert_eq!(page.js("typeof pwned"), "undefined");
    assert_eq!(page.console(), [""; 0], "no violation of the policy, and no error");
    // The second line of defence, and proof that the console would have told: markup that does get in runs nothing.
    page.js("q('#log').insertAdjacentHTML('beforeend', '<img src=x onerror=pwned=1>')");
    eventually("the policy's complaint", || page.console().iter().any(|line| line.contains("Content Security Policy")));
    assert_eq!(page.js("typeof pwned"), "undefined");
}

#[test]
fn a_refusal_is_shown_in_the_servers_words() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--max-body", "100"]);
    let page = driver.page(&url(&server, "/kitchen"));
    let long = "x".repeat(200);
    page.keys("#msg", &format!("{long}{ENTER}"));
    page.becomes("q('#error').textContent", tincan::wire::reject::TOO_LARGE.line().trim_end());
    assert_eq!((page.js("q('#msg').value"), page.js("document.activeElement.id")), (long, "msg".into()));
    page.js("q('#msg').value = ''");
    page.say("short");
    page.shows(&["said|anonymous|short"]);
    assert_eq!(page.text("#error"), "");
}

#[test]
fn a_phone_that_slept_gets_a_new_connection() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    server.post("/kitchen", "message 1");
    page.shows(&["plain|message 1"]);
    let streams = || server.stderr().matches(" GET /kitchen?since=").count();
    eventually("its request is in the server's log", || streams() == 1);
    page.js("(real => Date.now = () => real() + 60000)(Date.now)");
    // Somebody goes on talking while the page changes over.
    let mut last = 1;
    eventually("a new stream", || {
        last += 1;
        server.post("/kitchen", format!("message {last}"));
        streams() == 2
    });
    last += 1;
    server.post("/kitchen", format!("message {last}"));
    page.shows(&(1..=last).map(|n| format!("plain|message {n}")).collect::<Vec<_>>());
    let asked = server.stderr().rsplit_once("?since=").unwrap().1.lines().next().unwrap().to_string();
    assert!(asked.contains('-') && asked.ends_with(" 200"), "it goes on from an id: {asked}");
    eventually("the old stream is gone", || server.readers("kitchen") == 1);
    assert_eq!((page.js(STATE).as_str(), streams()), ("open", 2));
}

#[test]
fn three_hundred_messages_are_kept() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--quiet"]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    (1..=400).for_each(|n| drop(server.post("/kitchen", format!("message {n}"))));
    let log: Vec<String> = (101..=400).map(|n| format!("plain|message {n}")).collect();
    let at_the_end = "(l => l.scrollTop > 0 && l.scrollHeight - l.scrollTop - l.clientHeight < 2)(q('#log'))";
    page.shows(&log);
    page.becomes(at_the_end, "true");
    page.reload();
    page.shows(&log);
    page.becomes(at_the_end, "true");
    // Whoever reads further up is left there.
    page.js("q('#log').addEventListener('scroll', () => scrolled = true), q('#log').scrollTop = 1000");
    page.becomes("typeof scrolled", "boolean");
    server.post("/kitchen", "the end");
    page.becomes("[q('#messages').lastElementChild.textContent, all('li').length]", "the end,300");
    assert_eq!(page.js(at_the_end), "false");
}

#[test]
fn it_works_with_the_keyboard_and_tells_what_things_are() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    let things = [
        ("#log", "log", "Messages"),
        ("#state", "status", ""),
        ("#name", "textbox", "Name"),
        ("#msg", "textbox", "Message"),
        ("#send", "button", "Send"),
        ("h1", "heading", "/kitchen"),
    ];
    for (css, role, label) in things {
        let computed =
            |what: &str| string(&page.browser().get(&format!("{}/computed{what}", page.element(css))), "\"value\":");
        assert_eq!((computed("role").as_str(), computed("label").as_str()), (role, label), "{css}");
    }
    let labels = "['#name', '#msg'].map(css => q(css).labels[0].textContent)";
    assert_eq!((page.js(labels), page.js("q('#error').role")), ("Name,Message".into(), "alert".into()));
    assert_eq!(page.js("document.activeElement.id"), "msg", "ready to type");
    page.js("q('summary').focus()");
    let mut order = Vec::new();
    while order.len() < 8 {
        order.push(page.js("document.activeElement.id || document.activeElement.textContent"));
        let keys = match order.last().unwrap().as_str() {
            "name" => &format!("Ada{TAB}"),
            "msg" => &format!("typed{TAB}"),
            "send" => " ",
            _ => TAB,
        };
        page.keys(":focus", keys);
    }
    assert_eq!(order, ["From a terminal", "Copy", "Copy", "lab", "log", "name", "msg", "send"]);
    page.shows(&["said|Ada|typed"]);
    page.becomes("document.activeElement.id", "msg");
    page.keys(":focus", &format!("entered{ENTER}"));
    page.shows(&["said|Ada|typed", "said|Ada|entered"]);
}

#[test]
fn it_fits_a_phone_and_the_dark_and_its_lines_can_be_copied() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    page.copies(["Copied", "Selected"], "Copy");
    server.post("/kitchen", message("A name of forty characters, all of them.", &"wide".repeat(200)));
    server.post("/kitchen", "W".repeat(300));
    page.becomes("all('#messages li').length", "2");
    for width in [1280, 375, 320] {
        page.size(width, 667, true);
        page.becomes("innerWidth", &width.to_string());
        page.becomes("document.documentElement.scrollWidth", &width.to_string()); // nothing sticks out
        page.becomes("q('#send').getBoundingClientRect().bottom <= innerHeight", "true");
    }
    const LIGHTNESS: &str = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 127";
    for (scheme, light) in [("light", "true"), ("dark", "false")] {
        let params = format!("{{\"features\":[{{\"name\":\"prefers-color-scheme\",\"value\":\"{scheme}\"}}]}}");
        page.cdp("Emulation.setEmulatedMedia", &params);
        page.becomes(LIGHTNESS, light);
    }
}

#[test]
fn a_page_does_not_claim_to_have_missed_what_it_could_not_hear() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--history", "4K"]);
    let page = driver.chromium("en", "normal");
    page.before(STILL); // else it looks now and then, and has heard of them
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    server.post("/kitchen", "heard");
    page.shows(&["plain|heard"]);
    for _ in 0..100 {
        server.post("/kitchen?event=tick", "a type that nobody listens for");
    }
    page.js(WAKES_UP);
    page.shows(&["plain|heard", MISSED]);
}

#[test]
fn a_browser_asks_for_the_token_and_the_page_then_comes_back_by_itself() {
    let Some(driver) = driver() else { return };
    let (scratch, tokens) = (Scratch::new(), "publish s3same\nread s3same\n");
    let mut server = guarded(&scratch, 0, tokens);
    let kitchen = url(&server, "/kitchen");
    let page = driver.page(&kitchen);
    eventually("the page is refused", || server.stderr().contains(" GET /kitchen 401\n"));
    // Its dialog is open: as long as that is so, a browser does not even show the refusal's line.
    assert_eq!(page.js("document.documentElement.textContent.trim()"), "");
    page.open(&signed_url(&server, "s3same"));
    page.open(&kitchen);
    page.is_open();
    page.becomes("/^\\d listener/.test(q('#listeners').textContent)", "true");
    page.say("open");
    page.shows(&["said|anonymous|open"]);
    if let Some(dir) = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from) {
        std::fs::create_dir_all(&dir).unwrap();
        page.shot(&dir.join("token.png"));
    }
    server.kill();
    page.becomes(STATE, "connecting");
    server = guarded(&scratch, server.port, tokens);
    page.is_open();
    page.say("again");
    page.shows(&["said|anonymous|open", MISSED, "said|anonymous|again"]);
    assert!(!server.stderr().contains(" 401\n"), "it brings its token unasked: {}", server.stderr());
}

#[test]
fn who_may_only_read_hears_and_is_told_when_sending() {
    let Some(driver) = driver() else { return };
    for (tokens, read) in [("publish s3same\nread r3ad\n", Some("r3ad")), ("publish s3same\n", None)] {
        let server = guarded(&Scratch::new(), 0, tokens);
        let kitchen = url(&server, "/kitchen");
        let page = driver.page(&read.map_or(kitchen.clone(), |token| signed_url(&server, token)));
        page.open(&kitchen);
        page.is_open();
        assert_eq!(server.stderr().contains(" 401\n"), read.is_some(), "only who must is asked: {}", server.stderr());
        server.post_with("/kitchen", "Authorization: Bearer s3same\r\n", "soup is ready");
        page.shows(&["plain|soup is ready"]);
        // The browser asks for a token. Where its user cancels that, the page gets the 401, as without credentials.
        page.js("window.fetch = (real => (url, o) => real(url, { ...o, credentials: 'omit' }))(fetch)");
        page.keys("#msg", &format!("thanks{ENTER}"));
        page.becomes("q('#error').textContent", tincan::wire::reject::PUBLISH_TOKEN.line().trim_end());
        assert_eq!(page.js("[q('#msg').value, q('#send').disabled, q('#state').dataset.state]"), "thanks,false,open");
        page.shows(&["plain|soup is ready"]);
    }
}

#[test]
fn a_token_for_publishing_does_not_push_out_the_one_for_reading() {
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish s3same\nread r3ad\n");
    let page = driver.page(&signed_url(&server, "r3ad"));
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    // What the browser's dialog does when somebody gives the other token there.
    page.js("(window.posted = new XMLHttpRequest()).open('POST', '/kitchen', true, 'any', 's3same')");
    page.js("posted.send('said')");
    page.becomes("posted.status", "200");
    page.shows(&["plain|said"]);
    // The first page may have had a stream as well, and the browser may try without a token first.
    let streams =
        || server.stderr().lines().filter(|l| l.contains(" GET /kitchen?since=") && l.ends_with(" 200")).count();
    let before = streams();
    page.js(WAKES_UP);
    eventually("a new stream", || streams() > before);
    page.is_open();
}

#[test]
fn a_page_that_was_opened_with_its_token_in_the_url_can_say_something() {
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish s3same\nread s3same\n");
    let page = driver.page(&signed_url(&server, "s3same"));
    page.is_open();
    page.keys("#msg", &format!("soup{ENTER}"));
    page.shows(&["said|anonymous|soup"]);
    assert_eq!(page.text("#curl-listen"), format!("curl -N {}", url(&server, "/kitchen")), "it shows no token");
}

#[test]
fn pictures() {
    let Some(dir) = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from) else { return };
    let Some(driver) = driver() else { return };
    std::fs::create_dir_all(&dir).unwrap();
    let mut server = Tincan::start(&["--retry", "200"]);
    let (page, other) = (driver.page(&url(&server, "/kitchen")), driver.page(&url(&server, "/kitchen")));
    let shot = |name: &str| page.shot(&dir.join(name));
    page.size(1280, 800, false);
    other.is_open();
    page.becomes("q('#listeners').textContent", "2 listeners");
    shot("empty.png");
    let recipe = "For whoever asks: sweat the leeks in butter, add the potatoes and the stock, wait for twenty minutes, \
                  blend, and be generous with the pepper. https://example.org/recipes/leek-and-potato-soup";
    for (name, msg) in [
        ("Ada", "Who is cooking tonight?"),
        ("Bob", "Me. Leek and potato soup, and there is bread left from yesterday."),
        ("Maximiliane von Hohenstein", "I bring cheese, and a long name."),
    ] {
        server.post("/kitchen", message(name, msg));
    }
    page.becomes("all('li').length", "3");
    server.kill();
    page.becomes(STATE, "connecting");
    server = again(server.port);
    page.becomes("all('li').pop().className", "gap");
    server.post("/kitchen", "soup is ready");
    for (name, msg) in [("Bob", recipe), ("Ada", "Coming!"), ("Zoë", "Two minutes, I am still on the stairs")] {
        server.post("/kitchen", message(name, msg));
    }
    page.keys("#name", "Ada");
    page.keys("#msg", "Save me a bowl");
    page.becomes("[all('li').length, q('#listeners').textContent]", "8,2 listeners");
    shot("wide.png");
    page.cdp("Emulation.setEmulatedMedia", "{\"features\":[{\"name\":\"prefers-color-scheme\",\"value\":\"dark\"}]}");
    shot("dark.png");
    page.cdp("Emulation.setEmulatedMedia", "{\"features\":[]}");
    page.size(375, 667, true);
    shot("phone.png");
    page.size(1280, 800, false);
    server.kill();
    let _gateway = bad_gateway(server.port);
    page.becomes("parseInt(q('#seconds').textContent) > 2", "true");
    page.keys("#msg", ENTER);
    page.becomes("q('#error').textContent", "the server answered 502 Bad Gateway");
    shot("waiting.png");
}

//! Many tabs of one Chromium: one connection serves all of them. Also what happens without a shared worker, and the
//! token that belongs to one tab alone.

use crate::support::browser::*;
use crate::support::harness::*;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tabs of one Chromium, in addition to an empty one.
struct Tabs<'a> {
    page: Page<'a>,
    handles: VecDeque<String>,
}

impl<'a> Tabs<'a> {
    fn new(driver: &'a Driver, strategy: &str) -> Tabs<'a> {
        Tabs { page: driver.chromium("en", strategy), handles: VecDeque::new() }
    }

    /// Opens one more tab, which runs `before` before its own scripts.
    fn open(&mut self, url: &str, before: &str) -> &Page<'a> {
        self.handles.push_back(self.page.tab());
        self.page.before(before);
        self.page.open(url);
        &self.page
    }

    fn at(&self, n: usize) -> &Page<'a> {
        self.page.turn_to(&self.handles[n]);
        &self.page
    }

    fn close_first(&mut self) {
        self.at(0).close_tab();
        self.handles.pop_front();
    }

    fn all(&self) -> impl Iterator<Item = &Page<'a>> {
        (0..self.handles.len()).map(|n| self.at(n))
    }
}

/// Makes a tab behind another one believe that it is visible, unless the test says otherwise. Its timer does not run.
const SEEN: &str = "window.setInterval = () => 0, window.unseen = false, \
    Object.defineProperty(document, 'hidden', { get: () => unseen })";

/// Returns how many times a stream was requested.
fn streams(server: &Tincan) -> usize {
    server.stderr().matches(" GET /kitchen?since=").count()
}

#[test]
fn nine_tabs_hear_and_speak_over_one_connection() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200"]);
    let mut tabs = Tabs::new(&driver, "normal");
    server.post("/kitchen", "early");
    let mut log = vec!["plain|early".to_string()];
    // A tab that is opened later shows the same messages as the others.
    for n in 0..9 {
        let page = tabs.open(&url(&server, "/kitchen"), STILL);
        page.shows(&log);
        page.is_open();
        server.post("/kitchen", format!("tab {n}"));
        log.push(format!("plain|tab {n}"));
        page.shows(&log);
    }
    for (page, n) in tabs.all().zip(0..) {
        page.say(&format!("here is {n}"));
        log.push(format!("said|anonymous|here is {n}"));
        page.shows(&log);
    }
    for page in tabs.all() {
        page.shows(&log);
        page.js("askListeners()");
        page.becomes("q('#listeners').textContent", "1 subscriber");
    }
    assert_eq!((server.readers("kitchen"), streams(&server)), (1, 1));

    // The tab that started the worker is closed, and then all but one.
    while tabs.handles.len() > 1 {
        tabs.close_first();
        if [8, 1].contains(&tabs.handles.len()) {
            server.post("/kitchen", "fewer");
            log.push("plain|fewer".into());
            tabs.all().for_each(|page| page.shows(&log));
            assert_eq!((server.readers("kitchen"), streams(&server)), (1, 1));
        }
    }
    for _ in 0..2 {
        tabs.open(&url(&server, "/kitchen"), STILL).shows(&log);
    }

    // Each of the tabs shows the restart, and so does a tab that is opened later.
    server.kill();
    tabs.all().for_each(|page| page.becomes(STATE, "connecting"));
    server = again(server.port);
    log.push(MISSED.into());
    for page in tabs.all() {
        page.is_open();
        page.shows(&log);
    }
    tabs.open(&url(&server, "/kitchen"), STILL).shows(&log);
    server.post("/kitchen", "back");
    log.push("plain|back".into());
    tabs.all().for_each(|page| page.shows(&log));
    assert_eq!((server.readers("kitchen"), streams(&server)), (1, 1));

    // Another channel has another connection.
    let chat = tabs.open(&url(&server, "/"), "");
    chat.is_open();
    chat.say("at /");
    chat.shows(&["said|anonymous|at /"]);
    assert_eq!((server.readers("kitchen"), server.readers("chat")), (1, 1));

    while !tabs.handles.is_empty() {
        tabs.close_first();
    }
    eventually("no subscriber is left", || server.readers("kitchen") + server.readers("chat") == 0);
}

#[test]
fn without_a_shared_worker_the_seventh_tab_waits() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    server.post("/kitchen", "soup");
    let mut tabs = Tabs::new(&driver, "none");
    for n in 1..=6 {
        tabs.open(&url(&server, "/kitchen"), "delete window.SharedWorker");
        eventually("one more connection", || server.readers("kitchen") == n);
    }
    tabs.all().for_each(|page| page.shows(&["plain|soup"]));
    // Chromium opens six connections to a host at most, so the seventh tab does not even get the page.
    let asked = |server: &Tincan| server.stderr().matches(" GET /kitchen 200\n").count();
    assert_eq!(asked(&server), 6);
    tabs.open(&url(&server, "/kitchen"), "delete window.SharedWorker");
    std::thread::sleep(std::time::Duration::from_secs(2)); // there is no condition to wait for: nothing must happen
    assert_eq!((asked(&server), server.readers("kitchen")), (6, 6));
    tabs.close_first();
    tabs.at(5).shows(&["plain|soup"]);
    eventually("the seventh tab listens", || (asked(&server), server.readers("kitchen")) == (7, 6));
}

#[test]
fn a_worker_that_fails_leaves_no_tab_behind() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    for (n, worker) in [
        "delete window.SharedWorker",
        "delete window.SharedWorker, delete window.EventSource",
        "window.SharedWorker = class { constructor() { throw new DOMException('', 'SecurityError'); } }",
        "window.SharedWorker = class extends SharedWorker { constructor(u, name) { super('/assets/none.js', name); } }",
        "window.SharedWorker = class { port = new MessageChannel().port1; }",
    ]
    .iter()
    .enumerate()
    {
        let channel = format!("kitchen-{n}");
        server.post(&format!("/{channel}"), "soup");
        let page = driver.chromium("en", "normal");
        page.before(&format!("{STILL}, {worker}"));
        page.open(&url(&server, &format!("/{channel}")));
        // The page notices all failures at once, except that of the silent worker. It notices that one by its
        // silence, and then also the silence of its replacement.
        let silent = worker.contains("MessageChannel");
        for deaths in [1, 2].into_iter().filter(|_| silent) {
            assert_eq!(page.js("[everySecond(), everySecond(), deaths][2]"), (deaths - 1).to_string());
            assert_eq!(page.js("[everySecond(), deaths][1]"), deaths.to_string());
        }
        page.shows(&["plain|soup"]);
        page.is_open();
        page.say("bread");
        page.shows(&["plain|soup", "said|anonymous|bread"]);
        assert_eq!(server.readers(&channel), 1, "{worker}");
        assert_eq!(page.js("deaths"), if silent { "2" } else { "0" }, "{worker}");
        drop(page);
        eventually("the stream has ended", || server.readers(&channel) == 0);
    }
}

#[test]
fn a_worker_that_dies_is_missed_and_replaced() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let mut tabs = Tabs::new(&driver, "normal");
    server.post("/kitchen", "soup");
    for _ in 0..3 {
        let page = tabs.open(&url(&server, "/kitchen"), SEEN);
        page.shows(&["plain|soup"]);
        page.becomes("unanswered", "0");
    }
    let targets = tabs.page.cdp("Target.getTargets", "{\"filter\":[{\"type\":\"shared_worker\"}]}");
    let ids: Vec<&str> = targets.split("\"targetId\":\"").skip(1).map(|t| t.split('"').next().unwrap()).collect();
    assert_eq!(ids.len(), 1, "{targets}");
    tabs.page.cdp("Target.closeTarget", &format!("{{\"targetId\":\"{}\"}}", ids[0]));
    // After three seconds without an answer a worker counts as slow, after four as dead.
    for page in tabs.all() {
        assert_eq!(page.js("[unanswered = 0, everySecond(), everySecond(), everySecond(), deaths][4]"), "0");
        assert_eq!(page.js("[everySecond(), deaths][1]"), "1");
        page.becomes("unanswered", "0");
        page.is_open();
    }
    eventually("a second stream", || streams(&server) == 2);
    eventually("the first stream has ended", || server.readers("kitchen") == 1);
    server.post("/kitchen", "bread");
    tabs.all().for_each(|page| page.shows(&["plain|soup", "plain|bread"]));
    assert_eq!(streams(&server), 2);
}

#[test]
fn a_tab_that_leaves_and_comes_back_has_one_line_and_each_message_once() {
    let Some(driver) = driver() else { return };
    for before in ["", ", delete window.SharedWorker"] {
        let server = Tincan::start(&[]);
        server.post("/kitchen", "soup");
        let page = driver.chromium("en", "normal");
        page.before(&format!("{STILL}{before}"));
        page.open(&url(&server, "/kitchen"));
        page.shows(&["plain|soup"]);
        // Simulates the back/forward cache, whether or not this browser would use it.
        page.js("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))");
        eventually("no subscriber is left", || server.readers("kitchen") == 0);
        page.js("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))");
        eventually("the tab listens again", || server.readers("kitchen") == 1);
        page.is_open();
        page.shows(&["plain|soup"]);
        // A first load, which changes nothing.
        page.js("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: false }))");
        server.post("/kitchen", "bread");
        page.shows(&["plain|soup", "plain|bread"]);
        assert_eq!((streams(&server), page.js("deaths").as_str()), (2, "0"));
    }
}

#[test]
fn tabs_that_take_turns_are_not_taken_for_asleep_but_all_hidden_are() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let mut tabs = Tabs::new(&driver, "normal");
    // The same time for both tabs, whenever they begin.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    for _ in 0..2 {
        let page = tabs.open(&url(&server, "/kitchen"), SEEN);
        page.becomes("unanswered", "0");
        page.js(&format!("window.now = {now}, Date.now = () => now, unanswered = 1, everySecond()"));
        page.becomes("unanswered", "0");
        page.is_open();
    }
    // Each step is 15 seconds. In each, the visible tab reports to the shared connection.
    let step = |n: usize, hidden: [bool; 2]| {
        for (page, hidden) in tabs.all().zip(hidden) {
            page.js(&format!("window.now += 15000, unseen = {hidden}, unanswered = 1, everySecond()"));
            page.becomes("unseen || unanswered === 0", "true");
        }
        assert_eq!(streams(&server), n);
    };
    step(1, [true, false]);
    step(1, [true, false]);
    step(1, [true, false]);
    step(1, [false, true]);
    step(1, [false, true]);
    step(1, [true, false]);
    step(1, [true, true]);
    tabs.at(0).js("unseen = false, now += 15000, everySecond()");
    eventually("a new stream", || streams(&server) == 2);
    tabs.at(0).is_open();
}

#[test]
fn what_all_tabs_ask_for_at_once_is_done_once() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.chromium("en", "normal");
    // Without a shared worker the page itself has the connection, and the test can stop its clock.
    page.before("delete window.SharedWorker");
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    let forward = "(now => performance.now = () => now)(performance.now() + 1001)";
    let online = "dispatchEvent(new Event('online'))";
    page.js(&format!("{forward}, [1, 2, 3, 4, 5].forEach(() => {online})"));
    eventually("a second stream", || streams(&server) == 2);
    page.is_open();
    // Some tabs send their request only after the new stream has opened.
    page.js(&format!("[6, 7, 8, 9].forEach(() => {online})"));
    server.post("/kitchen", "soup");
    page.shows(&["plain|soup"]);
    assert_eq!((streams(&server), page.js(STATE).as_str()), (2, "open"));
    // A second later the request counts as a new one.
    page.js(&format!("{forward}, {online}"));
    eventually("a third stream", || streams(&server) == 3);
    page.is_open();
    // A machine that wakes up triggers two requests: by the time that has passed, and by the event `online`.
    page.js(&format!("{forward}, (real => Date.now = () => real() + 60000)(Date.now), everySecond(), {online}"));
    eventually("a fourth stream", || streams(&server) == 4);
    page.is_open();
    server.post("/kitchen", "bread");
    page.shows(&["plain|soup", "plain|bread"]);
    assert_eq!(streams(&server), 4);
}

#[test]
fn a_wish_that_failed_is_followed_by_the_next_at_once() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&[]);
    let page = driver.chromium("en", "normal");
    page.before("delete window.SharedWorker");
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    server.kill();
    let end_gateway = bad_gateway(server.port);
    page.js("(Math.random = () => -100000, window.now = performance.now(), performance.now = () => now, connect())");
    page.becomes(STATE, "waiting");
    end_gateway();
    server = again(server.port);
    page.js("connect()"); // less than a second has passed
    page.is_open();
    assert_eq!(streams(&server), 1);
}

#[test]
fn a_token_in_the_fragment_is_taken_for_this_tab_alone() {
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish p0p+py/=\n");
    let kitchen = url(&server, "/kitchen");
    let mut tabs = Tabs::new(&driver, "normal");
    let page = tabs.open(
        &format!("{kitchen}#token=p0p+py/="),
        "window.asked = [], window.fetch = (real => (url, options) => {
            const authorization = new Headers(options.headers).get('Authorization');
            const query = `${url.split('?')[1]}`.replace(/since=\\d.*/, 'since=ID');
            asked.push(`${query} ${authorization} ${options.credentials}`);
            return real(url, options);
        })(fetch)",
    );
    page.is_open();
    assert_eq!(page.js("location.href"), kitchen);
    page.say("soup");
    page.shows(&["said|anonymous|soup"]);
    page.becomes("q('#listeners').textContent", "1 subscriber");
    page.reload();
    page.say("bread");
    let log = ["said|anonymous|soup", "said|anonymous|bread"];
    page.shows(&log);
    // The requests of the page and of its stream, which is a TincanEventSource here.
    let expected = ["channel=kitchen", "since=all", "undefined", "wait=0&since=ID"]
        .map(|query| format!("{query} Bearer p0p+py/= omit"));
    page.becomes("[...new Set(asked)].sort().join('\\n')", &expected.join("\n"));

    // A tab without the token has a connection without it.
    let other =
        tabs.open(&kitchen, "window.fetch = (real => (url, o) => real(url, { ...o, credentials: 'omit' }))(fetch)");
    other.shows(&log);
    eventually("two tabs listen", || server.readers("kitchen") == 2);
    other.keys("#msg", &format!("thanks{ENTER}"));
    let refused = tincan::wire::reject::PUBLISH_TOKEN.line();
    other.becomes("q('#error').textContent", refused.trim_end());
    // An open tab can be given a token, also percent-encoded. A wrong one leads to a message, an empty one removes
    // the token.
    other.js("location.hash = '#token=wrong'");
    other.becomes("[location.hash, q('#state').dataset.state, typeof headers]", ",open,object");
    other.keys("#msg", &format!("thanks{ENTER}"));
    other.becomes("q('#error').textContent", tincan::wire::reject::PUBLISH_UNKNOWN.line().trim_end());
    other.js("location.hash = '#token=p0p%2Bpy%2F%3D'");
    other.becomes("[location.hash, token, q('#state').dataset.state]", ",p0p+py/=,open");
    other.say("thanks");
    other.shows(&["said|anonymous|soup", "said|anonymous|bread", "said|anonymous|thanks"]);
    other.js("location.hash = '#token='");
    other.becomes("[location.hash, token, q('#state').dataset.state]", ",,open");
    assert!(!server.stderr().contains("p0p"), "the token is in no URL: {}", server.stderr());
}

#[test]
fn a_token_that_is_refused_for_reading_is_told_in_the_page() {
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish s3same\nread s3same\n");
    let page = driver.page(&signed_url(&server, "s3same")); // without a token the server refuses even the page
    for (token, state, error) in
        [("wr0ng", "waiting", tincan::wire::reject::READ_UNKNOWN.line()), ("s3same", "open", String::new())]
    {
        page.open(&format!("{}#token={token}", url(&server, "/kitchen")));
        page.becomes(STATE, state);
        page.becomes("[location.hash, q('#error').textContent]", &format!(",{}", error.trim_end()));
    }
    page.say("soup");
    page.shows(&["said|anonymous|soup"]);
}

#[test]
fn the_page_has_the_browser_ask_for_a_token_where_its_worker_cannot() {
    let Some(driver) = driver() else { return };
    let scratch = Scratch::new();
    let mut server = guarded(&scratch, 0, "publish s3same\nread s3same\n");
    let page = driver.page(&signed_url(&server, "s3same"));
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    server.kill();
    server = guarded(&scratch, server.port, "publish p0ppy\nread p0ppy\n");
    page.becomes(STATE, "waiting");
    // This request comes from the page, so its refusal opens the browser's dialog.
    eventually("the page sends a request", || server.stderr().contains(" GET /kitchen?wait=0 401\n"));
}

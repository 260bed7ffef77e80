//! Many tabs of one Chromium: one connection for all of them, and what there is without that. Also the token that
//! belongs to one tab alone.

use crate::browser::*;
use crate::harness::*;
use std::collections::VecDeque;

/// Tabs of one Chromium, beside an empty one.
struct Tabs<'a> {
    page: Page<'a>,
    handles: VecDeque<String>,
}

impl<'a> Tabs<'a> {
    fn new(driver: &'a Driver, strategy: &str) -> Tabs<'a> {
        Tabs { page: driver.chromium("en", strategy), handles: VecDeque::new() }
    }

    /// Opens one more, which runs `before` before its own scripts.
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

/// How often a stream was asked for.
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
    // Whoever comes later sees what the others see.
    for n in 0..9 {
        let page = tabs.open(&url(&server, "/kitchen"), "");
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
        page.becomes("q('#listeners').textContent", "1 listener");
    }
    assert_eq!((server.readers("kitchen"), streams(&server)), (1, 1));

    // The tab that started the worker goes, and then all but one.
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
        tabs.open(&url(&server, "/kitchen"), "").shows(&log);
    }

    // A restart is told to each of them, and to whoever comes behind it.
    server.kill();
    tabs.all().for_each(|page| page.becomes(STATE, "connecting"));
    server = again(server.port);
    log.push(MISSED.into());
    for page in tabs.all() {
        page.is_open();
        page.shows(&log);
    }
    tabs.open(&url(&server, "/kitchen"), "").shows(&log);
    server.post("/kitchen", "back");
    log.push("plain|back".into());
    tabs.all().for_each(|page| page.shows(&log));
    assert_eq!((server.readers("kitchen"), streams(&server)), (1, 1));

    // Another channel is another line.
    let chat = tabs.open(&url(&server, "/"), "");
    chat.is_open();
    chat.say("at /");
    chat.shows(&["said|anonymous|at /"]);
    assert_eq!((server.readers("kitchen"), server.readers("chat")), (1, 1));

    while !tabs.handles.is_empty() {
        tabs.close_first();
    }
    eventually("nobody listens", || server.readers("kitchen") + server.readers("chat") == 0);
}

#[test]
fn without_a_shared_worker_the_seventh_tab_waits() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    server.post("/kitchen", "soup");
    let mut tabs = Tabs::new(&driver, "none");
    for n in 1..=6 {
        tabs.open(&url(&server, "/kitchen"), "delete window.SharedWorker");
        eventually("one connection more", || server.readers("kitchen") == n);
    }
    tabs.all().for_each(|page| page.shows(&["plain|soup"]));
    // Six connections to a host are all that there are, so not even the page comes.
    let asked = |server: &Tincan| server.stderr().matches(" GET /kitchen 200\n").count();
    assert_eq!(asked(&server), 6);
    tabs.open(&url(&server, "/kitchen"), "delete window.SharedWorker");
    std::thread::sleep(std::time::Duration::from_secs(2)); // that nothing happens can only be waited for
    assert_eq!((asked(&server), server.readers("kitchen")), (6, 6));
    tabs.close_first();
    tabs.at(5).shows(&["plain|soup"]);
    eventually("the seventh is there", || (asked(&server), server.readers("kitchen")) == (7, 6));
}

#[test]
fn a_worker_that_fails_leaves_no_tab_behind() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    for (n, worker) in [
        "delete window.SharedWorker",
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
        page.before(worker);
        page.open(&url(&server, &format!("/{channel}")));
        page.shows(&["plain|soup"]);
        page.is_open();
        page.say("bread");
        page.shows(&["plain|soup", "said|anonymous|bread"]);
        assert_eq!(server.readers(&channel), 1, "{worker}");
        drop(page);
        eventually("it is gone", || server.readers(&channel) == 0);
    }
}

//! The examination for clients: real browsers are run through all lessons, and compared with the data beside them.
//!
//! A browser that is not installed is left out. But if `TINCAN_BROWSER` is set, Chromium must be there, and if
//! `TINCAN_CLIENTS` is set, Firefox.

use crate::lessons::expected::{Expected, Step};
use crate::support::browser::string;
use crate::support::harness::*;
use crate::support::reporting::{Program, is_installed};
use crate::support::wings::has;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tincan::wings::lessons::script::LESSONS;

/// What browsers do instead of what the standard says.
pub struct Deviation {
    pub browsers: &'static [&'static str],
    pub lesson: &'static str,
    /// The number of steps that are as the standard says.
    same: usize,
    /// The steps after these.
    steps: &'static [&'static str],
    ready_state: u64,
}

pub const DEVIATIONS: &[Deviation] = &[
    // Deviation: the last event ID buffer of each stream is empty at first. Both begin with the last event ID.
    Deviation {
        browsers: &["chromium", "firefox"],
        lesson: "fresh-start",
        same: 6,
        steps: &[
            "{\"type\": \"message\", \"data\": \"next stream. You sent Last-Event-ID: (5)\", \"lastEventId\": \"5\"}",
        ],
        ready_state: 1,
    },
    // Deviation: a charset parameter has no meaning. Chromium fails the connection if it is not utf-8.
    Deviation {
        browsers: &["chromium"],
        lesson: "wrong-charset",
        same: 1,
        steps: &["{\"type\": \"error\", \"readyState\": 2}"],
        ready_state: 2,
    },
    // Deviation: the ID of a block without data takes effect at the blank line. Firefox ignores it.
    Deviation {
        browsers: &["firefox"],
        lesson: "cut-id",
        same: 8,
        steps: &["{\"Last-Event-ID\": \"2\"}", "{\"type\": \"open\", \"readyState\": 1}"],
        ready_state: 1,
    },
    // Deviation: only the id field is ignored if it has a NUL. Firefox does not fire the event either. So it comes to
    // the first event of the next stream within the same number of steps.
    Deviation {
        browsers: &["firefox"],
        lesson: "nul-in-id",
        same: 3,
        steps: &[
            "{\"type\": \"message\", \"data\": \"its id is 3\", \"lastEventId\": \"3\"}",
            "{\"type\": \"error\", \"readyState\": 0}",
            "{\"Last-Event-ID\": \"3\"}",
            "{\"type\": \"open\", \"readyState\": 1}",
            "{\"type\": \"message\", \"data\": \"its id is 1\", \"lastEventId\": \"1\"}",
        ],
        ready_state: 1,
    },
];

/// The lines that the clients have reported, for each lesson.
type Lines = Arc<Mutex<Vec<Vec<String>>>>;

/// Browsers open six connections to a host and port. With a port for each six lessons, all lessons play at the same
/// time.
fn server_of(servers: &[Tincan], lesson: usize) -> &Tincan {
    &servers[lesson / 6]
}

/// Plays all lessons to a browser; returns the lines that it reports, once it has come to the end of each.
fn examine(browser: &str, servers: &[Tincan]) -> Vec<Vec<String>> {
    let mut words = Vec::new();
    for (n, lesson) in LESSONS.iter().enumerate() {
        let port = server_of(servers, n).port;
        let path = path(browser, lesson.name);
        words.extend([n.to_string(), "lesson".into(), format!("http://127.0.0.1:{port}{path}")]);
    }
    let lines: Lines = Arc::new(Mutex::new(vec![Vec::new(); LESSONS.len()]));
    let reported = lines.clone();
    let _program = Program::browser(browser, &words, move |key, _, line| {
        reported.lock().unwrap()[key].push(line.into());
    });
    let began = Instant::now();
    let is_done = |lines: &Vec<String>| lines.iter().any(|line| line.starts_with("= "));
    loop {
        let lines = lines.lock().unwrap().clone();
        if lines.iter().all(is_done) {
            return lines;
        }
        let open: Vec<_> = LESSONS.iter().map(|lesson| lesson.name).zip(&lines).filter(|of| !is_done(of.1)).collect();
        assert!(began.elapsed() < 3 * SOON, "{browser} does not come to the end of these: {open:#?}");
        look_again(began);
    }
}

/// Returns the path of a lesson, with its tap if this build has a lab.
fn path(browser: &str, lesson: &str) -> String {
    let tap = if has("lab") { format!("?tap={}", key(browser, lesson)) } else { String::new() };
    format!("/lessons/{lesson}{tap}")
}

/// The key of a tap. Each lesson has its own.
fn key(browser: &str, lesson: &str) -> String {
    format!("{browser}-{lesson}")
}

/// Returns the last event IDs of the requests for a lesson.
fn requests(server: &Tincan, key: &str) -> Vec<Option<String>> {
    let events = server.get(&format!("/lab/{key}?since=all&wait=0")).text();
    let received = events.split("\n\n").filter(|block| block.contains("event: in\n"));
    let bytes: String = received.map(|block| string(block, "\"bytes\":")).collect();
    let heads = bytes.split_inclusive("\r\n\r\n").filter(|head| head.starts_with("GET "));
    let id = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("Last-Event-ID").then(|| value.to_string())
    };
    heads.map(|head| head.lines().find_map(id)).collect()
}

/// Puts the requests between the steps of a client: one comes first, and one after each stream that ended.
fn with_requests(steps: Vec<Step>, requests: Vec<Option<String>>) -> Vec<Step> {
    let mut requests = requests.into_iter().map(Step::Request);
    let mut all: Vec<Step> = requests.next().into_iter().collect();
    for step in steps {
        let ended = step == Step::State("error", 0);
        all.push(step);
        all.extend(ended.then(|| requests.next()).flatten());
    }
    all.extend(requests);
    all
}

/// Returns the data of a lesson, with what this browser does instead.
fn expected(browser: &str, lesson: usize) -> Expected {
    let mut expected = Expected::of(&LESSONS[lesson]);
    let is = |of: &&Deviation| of.browsers.contains(&browser) && of.lesson == LESSONS[lesson].name;
    if let Some(deviation) = DEVIATIONS.iter().find(is) {
        let standard = expected.clone();
        expected.steps.truncate(deviation.same);
        expected.steps.extend(deviation.steps.iter().map(|step| Step::parse(step).unwrap()));
        expected.ready_state = deviation.ready_state;
        assert_ne!(expected, standard, "{browser} deviates");
    }
    expected
}

/// Returns what a browser made of a lesson.
fn found(browser: &str, lesson: usize, server: &Tincan, mut lines: Vec<String>) -> Expected {
    let data = Expected::of(&LESSONS[lesson]);
    let name = LESSONS[lesson].name;
    assert_eq!(lines.pop().as_deref(), Some("= end"), "{browser}, {name}: {lines:?}");
    let ready_state = lines.pop().and_then(|line| line.parse().ok());
    let steps: Option<Vec<Step>> = lines.iter().map(|line| Step::parse(line)).collect();
    let (Some(mut steps), Some(ready_state)) = (steps, ready_state) else { panic!("{browser}, {name}: {lines:?}") };
    if has("lab") {
        let is_response = |step: &&Step| matches!(step, Step::State("open", _) | Step::State("error", 2));
        let responses = steps.iter().filter(is_response).count();
        let key = key(browser, name);
        eventually("the tap shows the requests", || requests(server, &key).len() >= responses);
        steps = with_requests(steps, requests(server, &key));
    }
    Expected { steps, ready_state, ..data }
}

/// Examines a browser. If it is not installed, and this variable says that it must be there, the test fails.
fn makes_what_the_data_says(browser: &str, variable: &str) {
    if !is_installed(browser) {
        let why = format!("left out: {browser} or python3 is not installed");
        assert!(std::env::var_os(variable).is_none(), "{why}");
        eprintln!("{why}");
        return;
    }
    let servers: Vec<Tincan> = LESSONS.chunks(6).map(|_| Tincan::start(&["--allow-origin", "*"])).collect();
    let mut differ = Vec::new();
    for (lesson, lines) in examine(browser, &servers).into_iter().enumerate() {
        let name = LESSONS[lesson].name;
        let server = server_of(&servers, lesson);
        let mut expected = expected(browser, lesson);
        let is_request = |step: &Step| matches!(step, Step::Request(_));
        let requests = expected.steps.iter().filter(|step| is_request(step)).count();
        expected.steps.retain(|step| has("lab") || !is_request(step));
        let found = found(browser, lesson, server, lines);
        // Without a lab the request log still shows whether a client came back after the end.
        let logged = server.stderr().matches(&format!(" GET {} ", path(browser, name))).count();
        if found != expected || logged != requests {
            differ.push(format!("{browser}, {name}: expected {expected}but got {found}with {logged} requests"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn chromium_makes_of_each_lesson_what_its_data_says() {
    makes_what_the_data_says("chromium", "TINCAN_BROWSER");
}

#[test]
fn firefox_makes_of_each_lesson_what_its_data_says() {
    makes_what_the_data_says("firefox", "TINCAN_CLIENTS");
}

//! The chat page behind relays that hold back what they should pass on. The tests check what the page then shows
//! about itself: nothing that it could know to be false may stay for longer than some seconds.

use crate::support::browser::*;
use crate::support::harness::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const WORD: &str = "q('#word').textContent";
const ERROR: &str = "q('#error').textContent";
const DEAF: &str = "no data arrives; connecting again";
/// Makes the page note its states.
const NOTES: &str = "window.states = [], new MutationObserver(() => states.push(q('#state').dataset.state)) \
    .observe(q('#state'), { attributes: true })";

/// What the relay holds back of event streams. All other responses pass.
#[derive(Clone, Copy)]
enum Keeps {
    Nothing,
    /// The body, until the response ends.
    Bodies,
    /// The whole response, until it ends.
    Answers,
    /// The whole response, for ever.
    All,
    /// The body, and the connection ends; polls pass.
    Rest,
    /// Requests of any kind: none gets a response any more.
    Requests,
    /// Nothing, but responses to GET are limited to 4 KB a second.
    Haste,
}

/// A relay in front of a server.
struct Relay {
    port: u16,
    keeps: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
}

impl Relay {
    fn start(upstream: u16, keeps: Keeps) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Relay { port, keeps: Arc::new(AtomicU8::new(keeps as u8)), stop: Arc::default() };
        let (keeps, stop) = (relay.keeps.clone(), relay.stop.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (keeps, stop) = (keeps.clone(), stop.clone());
                if stop.load(SeqCst) {
                    return;
                }
                thread::spawn(move || pass(client, upstream, &keeps, &stop));
            }
        });
        relay
    }

    fn keep(&self, keeps: Keeps) {
        self.keeps.store(keeps as u8, SeqCst);
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/kitchen", self.port)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Passes on one request, and its response as far as the relay lets it. Chromium also opens connections that it does
/// not use.
fn pass(mut client: TcpStream, upstream: u16, keeps: &AtomicU8, stop: &AtomicBool) -> Option<()> {
    let mut request = Vec::new();
    let mut chunk = [0; 16 << 10];
    let (head, body) = loop {
        let n = client.read(&mut chunk).ok().filter(|n| *n > 0)?;
        request.extend_from_slice(&chunk[..n]);
        let Some(at) = request.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..at + 2]).into_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if request.len() >= at + 4 + length.map_or(0, |length| length.parse().unwrap()) {
            break (head, request[at + 4..].to_vec());
        }
    };
    let is = |which: Keeps| keeps.load(SeqCst) == which as u8;
    let stream = head.contains("\r\nAccept: text/event-stream\r\n");
    // The connection ends after the response.
    let head = head.replace("\r\nConnection: keep-alive\r\n", "\r\nConnection: close\r\n");
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).ok()?;
    if !is(Keeps::Requests) {
        server.write_all(&[head.as_bytes(), b"\r\n", &body].concat()).ok()?;
    }
    server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (mut kept, mut headed) = (Vec::new(), false);
    loop {
        let ended = match server.read(&mut chunk) {
            Ok(n) => {
                kept.extend_from_slice(&chunk[..n]);
                n == 0
            }
            Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
        };
        let client_closed = matches!(client.read(&mut chunk), Ok(0)) || stop.load(SeqCst);
        let at = kept.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
        let passes = match () {
            () if is(Keeps::Requests) || stream && is(Keeps::All) => 0,
            () if is(Keeps::Haste) && head.starts_with("GET ") => {
                thread::sleep(Duration::from_millis(100));
                kept.len().min(400)
            }
            () if !stream || ended || is(Keeps::Nothing) => kept.len(),
            () if is(Keeps::Rest) && head.contains("?wait=") => kept.len(),
            () if (is(Keeps::Bodies) || is(Keeps::Rest)) && !headed => at,
            () => 0,
        };
        headed |= passes > 0;
        let failed = client.write_all(&kept.drain(..passes).collect::<Vec<u8>>()).is_err();
        let cut = headed && stream && is(Keeps::Rest) && !head.contains("?wait=");
        if failed || client_closed || cut || ended && kept.is_empty() {
            let _ = client.shutdown(Shutdown::Both);
            return None;
        }
    }
}

#[test]
fn a_stream_that_dies_is_missed_by_who_speaks_and_replaced() {
    let Some(driver) = driver() else { return };
    for before in ["", "delete window.SharedWorker"] {
        let server = Tincan::start(&["--retry", "200"]);
        let relay = Relay::start(server.port, Keeps::Nothing);
        let page = driver.chromium("en", "normal");
        page.before(before);
        page.open(&relay.url());
        page.is_open();
        page.say("one");
        page.shows(&["said|anonymous|one"]);
        page.js(NOTES);
        relay.keep(Keeps::All);
        page.say("two");
        page.becomes(WORD, DEAF);
        assert_eq!(page.js("log()"), "said|anonymous|one");
        // Only that stream was dead. The next one brings the events that came meanwhile.
        relay.keep(Keeps::Nothing);
        page.shows(&["said|anonymous|one", "said|anonymous|two"]);
        page.is_open();
        assert_eq!(page.js("states"), "deaf,open");
        page.say("three");
        page.shows(&["said|anonymous|one", "said|anonymous|two", "said|anonymous|three"]);
    }
}

#[test]
fn where_streams_are_held_back_all_tabs_poll() {
    let Some(driver) = driver() else { return };
    for keeps in [Keeps::Bodies, Keeps::Answers] {
        let server = Tincan::start(&["--retry", "200"]);
        let relay = Relay::start(server.port, Keeps::Nothing);
        let page = driver.chromium("en", "normal");
        page.open(&relay.url());
        page.is_open();
        let first = page.handle();
        page.tab();
        page.open(&relay.url());
        page.is_open();
        relay.keep(keeps);
        page.say("one");
        page.shows(&["said|anonymous|one"]);
        page.becomes(WORD, "open, by polling");
        // The page goes on polling and sending, and shows the new tab's messages as well.
        for n in 2..5 {
            server.post("/kitchen", n.to_string());
        }
        page.shows(&["said|anonymous|one", "plain|2", "plain|3", "plain|4"]);
        assert_eq!(page.js(STATE), "polling");
        page.close_tab();
        page.turn_to(&first);
        page.shows(&["said|anonymous|one", "plain|2", "plain|3", "plain|4"]);
        assert_eq!(page.js(STATE), "polling");
        page.say("five");
        page.shows(&["said|anonymous|one", "plain|2", "plain|3", "plain|4", "said|anonymous|five"]);
        // On another network the page listens again.
        relay.keep(Keeps::Nothing);
        page.js("dispatchEvent(new Event('online'))");
        page.is_open();
        server.post("/kitchen", "six");
        page.becomes("all('#messages li').length", "6");
    }
}

#[test]
fn who_only_reads_finds_out_too() {
    let Some(driver) = driver() else { return };
    for (keeps, early) in [
        (Keeps::Bodies, true),
        (Keeps::Bodies, false),
        (Keeps::Answers, true),
        (Keeps::Answers, false),
        (Keeps::Rest, true),
    ] {
        let server = Tincan::start(&["--retry", "200"]);
        let relay = Relay::start(server.port, keeps);
        let mut log = Vec::new();
        let mut say = |text: &str| {
            server.post("/kitchen", text);
            log.push(format!("plain|{text}"));
            log.clone()
        };
        if early {
            say("soup");
        }
        let page = driver.page(&relay.url());
        page.js(NOTES);
        if !early && matches!(keeps, Keeps::Bodies) {
            page.is_open(); // nothing was published yet, and nothing is missing
        }
        page.shows(&say("bread"));
        page.becomes(STATE, "polling");
        page.shows(&say("cheese"));
        assert_eq!(page.js(STATE), "polling");
    }
}

#[test]
fn who_is_slow_but_honest_is_waited_for() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--retry", "200"]);
    let relay = Relay::start(server.port, Keeps::Nothing);
    let page = driver.page(&relay.url());
    page.is_open();
    page.js(NOTES);
    relay.keep(Keeps::Haste);
    let streams = || server.stderr().matches(" GET /kitchen?since=").count();
    let before = streams();
    // The event takes ten seconds, and the page polls meanwhile.
    server.post("/kitchen", "x".repeat(40_000));
    let looks = || server.stderr().matches(" GET /kitchen?wait=0&since=").count();
    let looked = looks();
    eventually("the page polls", || looks() > looked);
    page.becomes("log().length", "40006");
    assert_eq!((streams(), page.js("states.join()")), (before, String::new()));
    // For its own messages the page waits longer each time.
    page.js("(q('#msg').value = 'y'.repeat(12000), q('#form').requestSubmit())");
    page.becomes("log().length", "52022");
    page.is_open();
    assert!(streams() <= before + 1, "{}", server.stderr());
}

#[test]
fn where_nothing_comes_through_at_all_the_page_says_so() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--retry", "200"]);
    let relay = Relay::start(server.port, Keeps::Nothing);
    let page = driver.page(&relay.url());
    page.is_open();
    relay.keep(Keeps::All);
    page.say("one");
    page.becomes(WORD, DEAF);
    page.js(NOTES);
    eventually("the page polls in vain", || server.stderr().matches(" GET /kitchen?wait=0&since=").count() > 2);
    assert_eq!((page.js("states.join()"), page.js(STATE)), (String::new(), "deaf".into()));
    relay.keep(Keeps::Nothing);
    page.shows(&["said|anonymous|one"]);
    assert_eq!(page.js(STATE), "polling");
}

#[test]
fn a_server_that_falls_silent_is_not_called_open() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--retry", "200"]);
    let relay = Relay::start(server.port, Keeps::Nothing);
    let page = driver.page(&relay.url());
    page.becomes("q('#listeners').textContent", "1 subscriber");
    relay.keep(Keeps::Requests);
    page.becomes(STATE, "connecting");
    assert_eq!(page.text("#listeners"), "");
    relay.keep(Keeps::Nothing);
    page.is_open();
    // A machine that reports to be offline may still reach a server on itself, so the page polls.
    let looks = || server.stderr().matches(" GET /kitchen?wait=0&since=").count();
    let before = looks();
    page.js("dispatchEvent(new Event('offline'))");
    eventually("the page polls", || looks() > before);
    page.say("here");
    page.shows(&["said|anonymous|here"]);
    assert_eq!(page.js(STATE), "open");
}

#[test]
fn an_error_of_the_connection_goes_with_its_reason_and_a_refusal_stays() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200", "--max-body", "100"]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    // The error belongs to the stream, which ended.
    server.kill();
    page.keys("#msg", &format!("one{ENTER}"));
    page.becomes(ERROR, "could not reach the server");
    server = again(server.port);
    page.is_open();
    page.becomes(&format!("{ERROR} + q('#msg').value"), "one");
    // A gateway's response is an error of the same kind.
    server.kill();
    let end_gateway = bad_gateway(server.port);
    page.becomes(STATE, "waiting");
    page.keys("#msg", ENTER);
    page.becomes(ERROR, "the server responded with 502 Bad Gateway");
    end_gateway();
    server = Tincan::spawn(&format!("127.0.0.1:{}", server.port), &["--max-body", "100"]);
    page.is_open();
    page.becomes(&format!("{ERROR} + q('#msg').value"), "one");
    // Only the POST failed: the stream is open all the time.
    page.js("(window.real = fetch, window.fetch = () => Promise.reject(new TypeError('')))");
    page.keys("#msg", ENTER);
    page.becomes(ERROR, "could not reach the server");
    page.js("(window.fetch = real)");
    page.becomes(&format!("{ERROR} + q('#msg').value"), "one");
    page.js("q('#msg').value = ''");
    // The same while the page polls.
    page.js("(q('#state').dataset.state = 'polling', fail('away', true), askListeners())");
    page.becomes(ERROR, "");
    page.js("(q('#state').dataset.state = 'open')");
    // The text of a gateway's response is not shown as the server's.
    page.js("showRefusal({ status: 502, statusText: 'Bad Gateway', headers: new Headers({ 'Content-Type': 'text/plain' }), content: 'Bad Gateway' })");
    assert_eq!(page.js(&format!("[{ERROR}, passes]")), "the server responded with 502 Bad Gateway,true");
    // A refusal of the server stays as long as the message.
    page.keys("#msg", &format!("{}{ENTER}", "x".repeat(200)));
    let refused = tincan::wire::reject::TOO_LARGE.line();
    page.becomes(ERROR, refused.trim_end());
    eventually("abandoned streams have ended", || server.readers("kitchen") == 1);
    page.js("(q('#listeners').textContent = '', askListeners())");
    page.becomes("q('#listeners').textContent", "1 subscriber");
    page.js("(showState('connecting'), showState('open'))");
    assert_eq!(page.text("#error"), refused.trim_end());
    drop(server);
}

#[test]
fn a_refused_token_is_told_until_one_is_taken() {
    let Some(driver) = driver() else { return };
    let scratch = Scratch::new();
    let mut server = guarded(&scratch, 0, "publish s3same\nread s3same\n");
    let page = driver.page(&signed_url(&server, "s3same"));
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    // Without credentials, so that the browser shows no dialog.
    page.js("window.fetch = (real => (url, o) => real(url, { ...o, credentials: 'omit' }))(fetch)");
    server.kill();
    server = guarded(&scratch, server.port, "publish p0ppy\nread p0ppy\n");
    let refused = tincan::wire::reject::READ_TOKEN.line();
    page.becomes(&format!("[{STATE}, {ERROR}]"), &format!("waiting,{}", refused.trim_end()));
    // A user who gives the browser another token does so for all tabs.
    let first = page.handle();
    page.tab();
    page.open(&signed_url(&server, "p0ppy"));
    page.turn_to(&first);
    page.becomes(&format!("[{STATE}, {ERROR}]"), "open,");
}

#[test]
fn a_post_that_something_else_has_answered_is_not_taken_for_said() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    for kind in ["text/html", "text/plain"] {
        page.js(&format!(
            "(window.real ??= fetch, window.fetch = (url, o) => o.method !== 'POST' ? real(url, o) : \
             Promise.resolve(new Response('Welcome!', {{ headers: {{ 'Content-Type': '{kind}' }}, statusText: 'OK' }})))"
        ));
        page.js("q('#msg').value = ''");
        page.keys("#msg", &format!("soup{ENTER}"));
        page.becomes(&format!("[{ERROR}, q('#msg').value]"), "the server responded with 200 OK,soup");
    }
}

#[test]
fn pictures() {
    let Some(dir) = std::env::var_os("TINCAN_SHOTS").map(std::path::PathBuf::from) else { return };
    let Some(driver) = driver() else { return };
    std::fs::create_dir_all(&dir).unwrap();
    let server = Tincan::start(&["--retry", "200"]);
    let relay = Relay::start(server.port, Keeps::Nothing);
    for (languages, size) in [("en", (1280, 800)), ("zh-CN", (375, 667))] {
        relay.keep(Keeps::Nothing);
        let page = driver.chromium(languages, "normal");
        page.size(size.0, size.1, size.0 < 500);
        page.open(&relay.url());
        page.becomes("q('#listeners').textContent === ''", "false");
        page.shot(&dir.join(format!("{languages}-open.png")));
        relay.keep(Keeps::Answers);
        page.say("soup");
        for state in ["deaf", "polling"] {
            page.becomes(STATE, state);
            page.shot(&dir.join(format!("{languages}-{state}.png")));
        }
    }
}

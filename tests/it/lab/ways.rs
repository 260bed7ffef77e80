//! The lab's ways side by side, in a real Chromium. Between it and the server is a proxy that counts the bytes
//! itself.

use crate::support::browser::{Page, bad_gateway, driver, guarded, signed_url, url};
use crate::support::harness::*;
use crate::support::wings::has;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

const WAYS: [&str; 4] = ["poll", "long", "stream", "websocket"];
/// The ways that hold a connection.
const OPEN: &str = "['long', 'stream', 'websocket'].map(way => q(`#ways-${way}-open`).textContent)";
const STATE: &str = "q('#ways-state').textContent.trim()";
/// The channel on which the ways will run.
const CHANNEL: &str = "q('#ways-start').textContent.replace('Start in /', '')";
const SPACE: &str = " ";

/// The bytes of one connection.
#[derive(Default)]
struct Talk {
    sent: Vec<u8>,
    response: Vec<u8>,
    ended: bool,
}

/// One request of a connection: its target, the number of its bytes, and its response.
struct Exchange {
    target: String,
    sent: usize,
    response: Vec<u8>,
}

/// Returns the length of the head at the front, and that of the message if the head gives it. After a head that asks
/// for a WebSocket, all bytes are frames.
fn length(bytes: &[u8]) -> (usize, Option<usize>) {
    let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else { return (0, None) };
    let text = String::from_utf8_lossy(&bytes[..head]);
    let length = text.lines().find_map(|l| l.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
    let all = text.contains("\r\nUpgrade: websocket\r\n").then_some(bytes.len());
    (head, all.or(length.map(|length| head + length)))
}

/// Returns the text of the server's frames after the head, and the opcodes of its other frames. All frames must be
/// complete.
fn frames(response: &[u8]) -> (String, Vec<u8>) {
    let (mut rest, mut text, mut others) = (&response[length(response).0..], Vec::new(), Vec::new());
    while let [first, second, ..] = *rest {
        let (at, len) = match second {
            126 => (4, u16::from_be_bytes([rest[2], rest[3]]).into()),
            len => (2, usize::from(len)),
        };
        if first == 0x81 {
            text.extend(&rest[at..at + len])
        } else {
            others.push(first & 15)
        }
        rest = &rest[at + len..];
    }
    (String::from_utf8(text).unwrap(), others)
}

/// Returns the body of a response without the framing of chunks. The client may have left before the last chunk.
fn body(response: &[u8]) -> Vec<u8> {
    let (head, mut rest) = response.split_at(length(response).0);
    if !String::from_utf8_lossy(head).contains("\r\nTransfer-Encoding: chunked\r\n") {
        return rest.into();
    }
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        rest = &rest[at + 2..];
        body.extend(&rest[..size.min(rest.len())]);
        rest = rest.get(size..).unwrap_or_default();
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    }
    body
}

impl Talk {
    fn exchanges(&self) -> Vec<Exchange> {
        let (mut sent, mut response, mut out) = (&self.sent[..], &self.response[..], Vec::new());
        while let (head @ 1.., whole) = length(sent) {
            let target = String::from_utf8_lossy(sent).split(' ').nth(1).unwrap().to_string();
            let request = whole.unwrap_or(head);
            let response_length = length(response).1.unwrap_or(response.len());
            out.push(Exchange { target, sent: request, response: response[..response_length].to_vec() });
            (sent, response) = (&sent[request..], &response[response_length..]);
        }
        out
    }
}

/// A proxy that passes bytes on and keeps a copy.
struct Proxy {
    port: u16,
    talks: Arc<Mutex<Vec<Talk>>>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    fn to(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (talks, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let proxy = Proxy { port: listener.local_addr().unwrap().port(), talks: talks.clone(), stop: stop.clone() };
        thread::spawn(move || {
            for client in listener.incoming().map_while(|s| s.ok().filter(|_| !stop.load(SeqCst))) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let number = talks.lock().unwrap().len();
                talks.lock().unwrap().push(Talk::default());
                let ends = || (client.try_clone().unwrap(), server.try_clone().unwrap(), talks.clone());
                let ((client, server, talks), mut up) = (ends(), ends());
                thread::spawn(move || up_to_the_end(&mut up.0, &mut up.1, &up.2, number));
                thread::spawn(move || down_to_the_end(server, client, &talks, number));
            }
        });
        proxy
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Returns the requests of a way.
    fn of(&self, way: &str) -> Vec<Exchange> {
        let query = match way {
            "poll" => "wait=0&since=",
            "long" => "wait=25&since=",
            "websocket" => "ws&since=",
            _ => "since=",
        };
        let all = self.talks.lock().unwrap().iter().flat_map(Talk::exchanges).collect::<Vec<_>>();
        all.into_iter()
            .filter(|exchange| {
                let target = exchange.target.strip_prefix("/lab-side-by-side-");
                target.and_then(|t| t.split_once('?')).is_some_and(|(_, asked)| asked.starts_with(query))
            })
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn up_to_the_end(client: &mut TcpStream, server: &mut TcpStream, talks: &Mutex<Vec<Talk>>, number: usize) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n @ 1..) = client.read(&mut bytes) {
        talks.lock().unwrap()[number].sent.extend(&bytes[..n]);
        let _ = server.write_all(&bytes[..n]);
    }
    talks.lock().unwrap()[number].ended = true;
    let _ = server.shutdown(Shutdown::Write);
}

/// Once the client has closed, the server's bytes are left unread. So the server gets a reset, as it would without a
/// proxy.
fn down_to_the_end(mut server: TcpStream, mut client: TcpStream, talks: &Mutex<Vec<Talk>>, number: usize) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n @ 1..) = server.peek(&mut bytes) {
        let talk = &mut talks.lock().unwrap()[number];
        talk.response.extend(&bytes[..n]);
        if talk.ended {
            return;
        }
        server.read_exact(&mut bytes[..n]).unwrap();
        let _ = client.write_all(&bytes[..n]);
    }
    let _ = client.shutdown(Shutdown::Write);
}

/// Returns an expression for the number in a cell of the table. From 1,000 on numbers have a comma.
fn number(way: &str, row: &str) -> String {
    format!("Number(q('#ways-{way}-{row}').textContent.replaceAll(',', ''))")
}

impl Page<'_> {
    /// Returns the cells of a row, for each way.
    fn row(&self, row: &str) -> Vec<String> {
        WAYS.iter().map(|way| self.text(&format!("#ways-{way}-{row}"))).collect()
    }

    fn numbers(&self, row: &str) -> Vec<usize> {
        self.row(row).iter().map(|cell| cell.replace(',', "").parse().unwrap()).collect()
    }

    /// Returns the times of a row in milliseconds.
    fn times(&self, row: &str) -> Vec<f64> {
        let time = |cell: &String| match cell.split_once(' ').unwrap() {
            (n, "ms") => n.parse::<f64>().unwrap(),
            (n, "s") => 1000.0 * n.parse::<f64>().unwrap(),
            other => panic!("{other:?}"),
        };
        self.row(row).iter().map(time).collect()
    }

    fn all_become(&self, row: &str, expected: &str) {
        WAYS.iter().for_each(|way| self.becomes(&format!("q('#ways-{way}-{row}').textContent"), expected));
    }

    fn all_reach(&self, row: &str, least: usize) {
        WAYS.iter().for_each(|way| self.becomes(&format!("{} >= {least}", number(way, row)), "true"));
    }

    fn set(&self, id: &str, value: &str) {
        self.js(&format!("(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('change')) }})(q('#ways-{id}'))"));
    }

    fn click(&self, id: &str) {
        self.js(&format!("q('#ways-{id}').click()"));
    }

    /// Starts without publishing, and polls every half second. Returns the name of the channel.
    fn runs(&self) -> String {
        let channel = self.js(CHANNEL);
        self.set("rate", "none");
        self.set("every", "0.5");
        self.click("start");
        self.becomes(STATE, &format!("Running on /{channel}."));
        self.becomes(OPEN, "1,1,1");
        channel
    }
}

/// Waits until this tap has no subscriber.
fn untapped(server: &Tincan, key: &str) {
    let none = format!("\ntincan_subscribers{{channel=\"lab/{key}\"}} 0\n");
    eventually("the tap is closed", || server.get(&format!("/metrics?channel=lab/{key}")).text().ends_with(&none));
}

#[test]
fn each_way_hears_the_same_messages_and_each_of_its_bytes_is_counted() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--heartbeat", "1"]); // pings count as bytes too
    let proxy = Proxy::to(server.port);
    let page = driver.page(&proxy.url("/lab#/kitchen"));
    let path = &format!("/{}", page.js(CHANNEL));
    server.post(path, "nobody hears what was said before");
    page.runs();
    let (waiting, quiet) = (page.numbers("out")[1], page.numbers("out")[3]);
    page.becomes(&format!("{} > {quiet}", number("websocket", "out")), "true"); // a Ping frame
    page.becomes(&format!("{} > {waiting}", number("long", "out")), "true"); // a comment
    let mut ids = Vec::new();
    for body_text in ["soup", "two\nlines", "été 🍲\u{1}\"\\", &"long".repeat(2000), ""] {
        ids.extend(server.post(path, body_text));
        page.all_become("heard", &ids.len().to_string());
    }
    assert_eq!(page.row("median"), ["–"; 4], "the page cannot know when other clients began to publish");
    // The poll is the last to receive the event, so its next request is almost four seconds away.
    page.set("every", "4");
    for n in 6..=8 {
        page.click("one");
        page.all_become("heard", &n.to_string());
    }
    let (median, longest) = (page.times("median"), page.times("longest"));
    assert!(median[1..].iter().all(|m| median[0] > 2.0 * m), "{median:?}");
    assert!(median[0] >= 100.0 && longest.iter().zip(&median).all(|(l, m)| l >= m), "{longest:?} {median:?}");
    // Many events in one POST: long polling receives them in few responses.
    let blocks: String = (0..50).map(|n| format!("data: {n}\n\n")).collect();
    server.post_with(path, "Content-Type: text/event-stream\r\n", blocks);
    page.all_become("heard", "58");
    // No poll is on its way when the test ends: after this event the next poll is 15 seconds away.
    page.set("every", "15");
    server.post(path, "the end");
    page.all_become("heard", "59");
    page.all_become("last", "…-60");
    page.click("start");
    assert_eq!(page.js(STATE), "Stopped.");
    page.all_become("open", "0");

    for (n, way) in WAYS.iter().enumerate() {
        // The proxy may not have read the last bytes yet.
        let passed = || proxy.of(way).iter().map(|e| e.response.len()).sum::<usize>();
        eventually("the proxy has read what the server counted", || passed() >= page.numbers("out")[n]);
        let wire = proxy.of(way);
        let bytes: Vec<u8> = wire.iter().flat_map(|e| e.response.clone()).collect();
        let (text, pings) = match *way {
            "websocket" => {
                let (text, mut others) = frames(&bytes);
                assert_eq!(others.pop(), Some(8), "the connection ends with a Close frame");
                (text, !others.is_empty() && others.iter().all(|opcode| *opcode == 9))
            }
            _ => {
                let text = wire.iter().flat_map(|e| body(&e.response)).collect();
                (String::from_utf8(text).unwrap(), bytes.windows(10).any(|w| w == b"7\r\n:ping\n\n"))
            }
        };
        // The id of an event comes after a data line; the id of a prelude does not.
        let lines: Vec<&str> = text.lines().collect();
        let events = lines.windows(2).filter(|pair| pair[0].starts_with("data"));
        let received: Vec<&str> = events.filter_map(|pair| pair[1].strip_prefix("id: ")).collect();
        let epoch = ids[0].split('-').next().unwrap();
        assert_eq!(received, (2..=60).map(|n| format!("{epoch}-{n}")).collect::<Vec<_>>(), "{way}");
        assert_eq!(page.numbers("requests")[n], wire.len(), "{way}");
        assert_eq!(page.numbers("in")[n], wire.iter().map(|e| e.sent).sum::<usize>(), "{way}");
        assert_eq!(page.numbers("out")[n], bytes.len(), "{way}");
        assert_eq!(page.numbers("total")[n], page.numbers("in")[n] + page.numbers("out")[n], "{way}");
        assert_eq!(pings, *way != "poll", "{way}"); // only waiting clients get pings
    }
    // Nothing is left: neither the streams nor the tap.
    eventually("no subscribers", || server.readers(&path[1..]) == 0);
    let key = proxy.of("stream")[0].target.split("&tap=").nth(1).unwrap().to_string();
    untapped(&server, &key);
    let people = server.get("/kitchen?wait=0&since=all").text();
    assert!(!people.contains("\ndata: "), "nothing is published to a channel that people may use: {people}");
    assert_eq!(page.console(), [""; 0]);
}

#[test]
fn whoever_leaves_or_forgets_it_stops_it() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab"));
    let channel = page.runs();
    page.set("rate", "second");
    page.all_reach("heard", 2); // one event a second, so a quick way may already have more
    assert!(server.readers(&channel) >= 2);
    page.js("q('#ways').hidden = true");
    page.becomes(STATE, "Stopped.");
    eventually("no subscribers", || server.readers(&channel) == 0);
    page.js("q('#ways').hidden = false");
    page.runs();
    page.open(&url(&server, "/health"));
    eventually("no subscribers", || server.readers(&channel) == 0);
    let first = channel;
    page.js("history.back()");
    page.becomes("/^Start in \\/lab-side-by-side-[a-z]{4}$/.test(q('#ways-start')?.textContent)", "true");
    let channel = page.runs();
    page.js("(real => performance.now = () => real() + 700000)(performance.now.bind(performance))");
    page.becomes(STATE, "Stopped automatically after ten minutes.");
    eventually("no subscribers", || server.readers(&channel) == 0);
    let log = server.get(&format!("/{first}?wait=0&since=all")).text();
    assert!(log.contains("\ndata: soup 2 ("), "{log}");
}

#[test]
fn it_says_what_is_wrong_and_goes_on_by_itself() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200"]);
    let page = driver.page(&url(&server, "/lab"));
    let channel = page.runs();
    let path = &format!("/{channel}");
    page.becomes("q('#ways-poll-requests').textContent > 12", "true");
    server.post(path, "before");
    page.all_become("heard", "1");
    page.set("every", "5"); // so that the numbers with the next server do not soon reach the present ones
    server.kill();
    let says = |problem: &str| page.becomes(&format!("/{problem}/.test(q('#ways-state').textContent)"), "true");
    says(&format!("Running on \\/{channel}\\. .*Event stream: the connection has ended"));
    page.click("one");
    for name in ["Polling", "Long polling", "Publishing"] {
        says(&format!("\\b{name}[^:.]*: could not reach the server\\."));
    }
    let end_gateway = bad_gateway(server.port);
    says("Polling.*: the server responded with 502\\.");
    says("Event stream: the server refused");
    says("WebSocket: closed with 1006; a WebSocket does not reconnect by itself");
    end_gateway();
    server = Tincan::spawn(&format!("127.0.0.1:{}", server.port), &["--retry", "200"]);
    // The same for publishing: the error is gone as soon as another client can publish.
    page.becomes(
        "/(olling|stream|Socket|Publishing)[^.]*(responded|refused|reach|closed)/.test(q('#ways-state').textContent)",
        "false",
    );
    page.click("one");
    page.all_become("heard", "2");
    page.becomes(
        "q('#ways-state').textContent.match(/[A-Z][^.]*/g).sort().join('. ')",
        &format!("Bytes: some bytes were not counted. Channel: some messages may be missing. Running on {path}"),
    );
    server.post(path, "after");
    page.all_become("heard", "3");
    page.becomes(OPEN, "1,1,1");
}

#[test]
fn silence_costs_only_who_polls_and_a_token_is_not_counted() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish s3same\nread r3ad\n");
    let page = driver.page(&signed_url(&server, "r3ad"));
    page.before(
        "window.ahead = 0, (real => performance.now = () => real() + ahead)(performance.now.bind(performance))",
    );
    page.open(&url(&server, "/lab"));
    page.runs();
    page.becomes("q('#ways-masked').checkVisibility()", "true");
    // The last ten seconds begin when each way has its connection, and two polls before the clock is set forward.
    page.all_reach("in", 1);
    let polls = page.numbers("requests")[0];
    page.becomes(&format!("{} > {}", number("poll", "requests"), polls + 4), "true");
    page.js("ahead = 9000");
    let silence = "q('#ways-silence').textContent.replace(/Polling [1-9][\\d,]+,/, 'Polling N,')";
    page.becomes(silence, "Ten seconds of silence, in bytes: Polling N, Long polling 0, Event stream 0, WebSocket 0.");
    // The browser asks for a token. If its user cancels, the page gets the 401, and does not ask again each second.
    page.js("window.fetch = (real => (url, o) => real(url, { ...o, credentials: 'omit' }))(fetch)");
    page.set("rate", "second");
    let refusal = tincan::wire::reject::PUBLISH_TOKEN.line();
    page.becomes(
        &format!("q('#ways-state').textContent.includes({})", tincan::wire::event::json(refusal.trim_end())),
        "true",
    );
    assert_eq!(page.js("q('#ways-rate').value"), "none");
}

#[test]
fn it_works_with_the_keyboard_on_a_phone_and_in_chinese() {
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/lab#/kitchen"));
    assert_eq!(
        page.js("['rate', 'every'].map(id => q(`#ways-${id}`).labels[0].textContent)"),
        "Publish,Seconds between polls"
    );
    page.becomes("q('#state').dataset.state", "open");
    page.keys("#ways-start", SPACE);
    // The page's own stream must be closed, or there would be more than the browser's six connections.
    page.becomes("q('#state').dataset.state", "closed");
    page.becomes("q('#ways-poll-heard').textContent > 1", "true");
    page.keys("#ways-one", SPACE);
    assert_eq!(page.js("all('#ways-table [scope]').length"), "15", "each row and each way has a header");
    let says = "q('#ways-bytes').ariaLabel.replace(/[1-9][\\d,]*\\d/g, 'N')";
    page.becomes(
        says,
        "Bytes on the wire: Polling N, Long polling N, Event stream N, WebSocket N. The table has the numbers.",
    );
    page.keys("#ways-start", SPACE);
    page.becomes("[q('#ways-state').textContent, document.activeElement.id]", "Stopped.,ways-start");
    untapped(&server, server.stderr().rsplit(" GET /lab/").next().unwrap().split('?').next().unwrap());
    for width in [1280, 390, 320] {
        page.size(width, 800, false);
        page.becomes("innerWidth", &width.to_string());
        page.becomes("q('#ways-bytes').viewBox.baseVal.width <= innerWidth", "true"); // drawn again
        let right = "Math.max(...all('#ways *').map(e => e.getBoundingClientRect().right))";
        page.becomes(&format!("{right} <= document.documentElement.clientWidth"), "true"); // nothing overflows
        let edge = |css| format!("q('{css}').getBoundingClientRect().right");
        let edges = [edge("#ways-table thead th"), edge("#ways-poll-heard")];
        page.becomes(&edges.join(" === "), "true"); // numbers are aligned with their way
    }
    let page = driver.chromium("zh-CN", "normal");
    page.open(&url(&server, "/lab"));
    assert_eq!(page.text("#ways-title"), "并排比较：同样的消息，不同的接收方式");
    assert_eq!(
        page.js("all('#ways th').map(th => th.textContent.trim()).slice(0, 5)"),
        "轮询,长轮询,事件流,WebSocket,收到的消息"
    );
}

#[test]
fn pictures() {
    let Some(dir) = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from) else { return };
    if !has("websocket") {
        return;
    }
    let Some(driver) = driver() else { return };
    std::fs::create_dir_all(&dir).unwrap();
    let server = Tincan::start(&["--quiet"]);
    let page = driver.page(&url(&server, "/lab"));
    let shot = |page: &Page, name: &str, width, dark| {
        let scheme = if dark { "dark" } else { "light" };
        let params = format!("{{\"features\":[{{\"name\":\"prefers-color-scheme\",\"value\":\"{scheme}\"}}]}}");
        page.cdp("Emulation.setEmulatedMedia", &params);
        page.js("all('main > :not(#ways), footer').forEach(e => e.hidden = true)");
        page.size(width, 800, width < 500);
        let height = page.js("document.documentElement.scrollHeight").parse().unwrap();
        page.size(width, height, width < 500);
        page.becomes(&format!("q('#ways-bytes').getAttribute('viewBox')?.split(' ')[2] > {width}"), "false");
        page.shot(&dir.join(name));
    };
    shot(&page, "ways-before.png", 1280, false);
    page.click("start");
    page.becomes("q('#ways-stream-heard').textContent > 17", "true");
    for (name, width, dark) in
        [("wide", 1280, false), ("dark", 1280, true), ("phone", 390, false), ("night", 390, true)]
    {
        shot(&page, &format!("ways-{name}.png"), width, dark);
    }
    page.set("rate", "none");
    page.becomes("/Ten/.test(q('#ways-silence').textContent)", "true");
    shot(&page, "ways-silence.png", 1280, false);
    page.click("start");
    let page = driver.chromium("zh-CN", "normal");
    page.open(&url(&server, "/lab"));
    page.set("rate", "bursts");
    page.click("start");
    page.becomes("parseInt(q('#ways-stream-heard').textContent) > 4", "true");
    shot(&page, "ways-chinese.png", 1280, false);
    shot(&page, "ways-chinese-phone.png", 390, false);
}

//! A subscriber: a thread that reads an event stream, and comes back if it ends, as EventSource does. It keeps what has
//! come so far.
//!
//! Limits: [`MAX_STREAM`], [`MAX_CONNECTIONS`], [`MAX_OTHERS`], [`MAX_EVENTS`], [`MAX_KEPT`].

use crate::http::{Body, Closer, Connection, Head, PIECE, Url};
use crate::rules::{Level, RULES};
use crate::stream::{Event, Interpreter};
use std::collections::HashSet;
use std::io;
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tincan::system::threads::{lock, spawn};

/// Limit: the bytes that the judge reads of one stream. Then it closes the connection.
const MAX_STREAM: u64 = 24 << 20;
/// Limit: the connections of a subscriber, one after the other.
const MAX_CONNECTIONS: usize = 50;
/// Limit: the latest events of other publishers that are kept.
const MAX_OTHERS: usize = 64;
/// Limit: the events that are kept, and their bytes.
const MAX_EVENTS: usize = 500;
const MAX_KEPT: usize = 2 << 20;
/// A stream may be silent for as long as the judge works.
const SILENCE: Duration = Duration::from_secs(120);
/// Limit: how long a subscriber waits for a response if it comes back.
const RETURN: Duration = Duration::from_secs(5);
/// How long it waits before it comes back.
const RECONNECT: Duration = Duration::from_millis(100);

/// What has come of a stream.
pub struct Heard {
    pub interpreter: Interpreter,
    /// The events, the oldest first.
    pub events: Vec<Event>,
    nonce: String,
    kept: usize,   // the bytes of the events
    others: usize, // how many of them are of other publishers
    /// The bytes that have come of the body, as they were on the wire.
    pub bytes: u64,
    /// Whether there is a connection.
    pub is_connected: bool,
    /// Why the last connection has ended that did not last.
    pub last_end: Option<String>,
    /// Why the subscriber does not come back any more.
    pub end: Option<String>,
    /// What is wrong with the framing of the body.
    pub fault: Option<String>,
    closer: Option<Closer>,
    is_closed: bool,
}

impl Heard {
    fn new(nonce: &str, closer: Closer) -> Heard {
        Heard {
            interpreter: Interpreter::new(nonce),
            events: Vec::new(),
            nonce: nonce.into(),
            kept: 0,
            others: 0,
            bytes: 0,
            is_connected: true,
            last_end: None,
            end: None,
            fault: None,
            closer: Some(closer),
            is_closed: false,
        }
    }

    fn receive(&mut self, content: &[u8]) {
        self.interpreter.feed(content);
        for event in take(&mut self.interpreter.events) {
            let is_other = |event: &Event| !event.data.contains(&self.nonce);
            if self.others >= MAX_OTHERS
                && let Some(oldest) = self.events.iter().position(is_other)
            {
                self.others -= 1;
                self.kept -= self.events.remove(oldest).size();
            }
            if self.events.len() < MAX_EVENTS && self.kept + event.size() <= MAX_KEPT {
                self.others += usize::from(is_other(&event));
                self.kept += event.size();
                self.events.push(event);
            }
        }
    }

    /// Returns whether the stream sent more than the judge reads.
    pub fn is_flood(&self) -> bool {
        self.bytes > MAX_STREAM
    }

    /// Returns the events that have this text anywhere.
    pub fn with<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| event.data.contains(text) || event.name.contains(text))
    }

    /// Removes the events that have this text, so that they take no memory.
    pub fn remove(&mut self, text: &str) {
        self.events.retain(|event| !event.data.contains(text));
        self.kept = self.events.iter().map(Event::size).sum();
    }

    /// Returns how many different events of the judge have come, and one that has come again. The judge says nothing
    /// twice.
    pub fn repeated(&self) -> (usize, Option<&Event>) {
        let mut seen = HashSet::new();
        let ours = self.events.iter().filter(|event| event.data.contains(&self.nonce));
        let again = { ours }.find(|event| !seen.insert((&event.name, self.content(event))));
        (seen.len(), again)
    }

    /// Returns the plain text in an event, for what is around it may change. Other texts may have been split into
    /// several events, which is another rule: of these, and of several texts, all data counts.
    fn content<'a>(&self, event: &'a Event) -> &'a str {
        let mut parts = event.data.split(&self.nonce).skip(1);
        let text = parts.next().unwrap_or_default();
        let name = text.trim_start_matches('-').split('.').next().unwrap_or_default();
        let is_plain = parts.next().is_none() && !RULES.iter().any(|rule| rule.name == name);
        if is_plain { name } else { &event.data }
    }
}

type Shared = Arc<(Mutex<Heard>, Condvar)>;

/// A subscriber. Dropping it closes its connection.
pub struct Subscriber {
    /// The head of the first response.
    pub head: Head,
    shared: Shared,
}

impl Subscriber {
    /// Reads the body that follows this head. If the body is compressed, only its bytes are counted. `fields` are those
    /// of the request.
    ///
    /// # Errors
    /// If the system has no further thread.
    pub fn new(url: &Url, fields: &str, head: Head, connection: Connection, nonce: &str) -> io::Result<Subscriber> {
        let shared: Shared = Arc::new((Mutex::new(Heard::new(nonce, connection.closer())), Condvar::new()));
        let reader = Reader {
            url: url.clone(),
            fields: fields.into(),
            is_plain: head.codings().is_empty(),
            shared: shared.clone(),
        };
        let body = head.body("GET");
        spawn("subscriber", Box::new(move || reader.run(connection, body)))?;
        Ok(Subscriber { head, shared })
    }

    /// Waits until there is a result. Returns `None` if there is none by the deadline, or at the end of the stream.
    pub fn wait<T>(&self, deadline: Instant, mut result: impl FnMut(&mut Heard) -> Option<T>) -> Option<T> {
        let mut heard = lock(&self.shared.0);
        loop {
            let result = result(&mut heard);
            let left = deadline.saturating_duration_since(Instant::now());
            if result.is_some() || heard.end.is_some() || left.is_zero() {
                return result;
            }
            let waited = self.shared.1.wait_timeout(heard, left.min(Duration::from_millis(100)));
            heard = waited.map_or_else(|poisoned| poisoned.into_inner().0, |waited| waited.0);
        }
    }

    /// Returns what has come so far.
    pub fn now<T>(&self, result: impl FnOnce(&mut Heard) -> T) -> T {
        result(&mut lock(&self.shared.0))
    }

    /// Waits until an event with this text has come. Returns whether it has.
    pub fn hears(&self, text: &str, deadline: Instant) -> bool {
        self.wait(deadline, |heard| heard.with(text).next().map(drop)).is_some()
    }

    /// Returns whether the subscriber does not come back any more.
    pub fn has_ended(&self) -> bool {
        self.now(|heard| heard.end.is_some())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut heard = lock(&self.shared.0);
        heard.is_closed = true;
        heard.closer = None;
    }
}

/// What the thread of a subscriber needs.
struct Reader {
    url: Url,
    fields: String,
    is_plain: bool,
    shared: Shared,
}

impl Reader {
    fn run(self, connection: Connection, body: Result<Body, String>) {
        let mut next = Ok((connection, body));
        for _ in 0..MAX_CONNECTIONS {
            let (mut connection, body) = match next {
                Ok(next) => next,
                Err(why) => return self.end(why, None),
            };
            match body.and_then(|body| self.receive(&mut connection, body)) {
                Err(fault) => return self.end(fault.clone(), Some(fault)),
                Ok(why) if lock(&self.shared.0).is_flood() => return self.end(why, None),
                Ok(why) => {
                    let mut heard = lock(&self.shared.0);
                    heard.is_connected = false;
                    heard.last_end = Some(why);
                }
            }
            sleep(RECONNECT);
            if lock(&self.shared.0).is_closed {
                return; // the judge has left this stream, and does not come back to it
            }
            next = self.reconnect();
        }
        self.end(format!("the stream ended {MAX_CONNECTIONS} times"), None);
    }

    fn end(&self, why: String, fault: Option<String>) {
        let mut heard = lock(&self.shared.0);
        heard.end = Some(why);
        heard.fault = fault;
        heard.interpreter.reconnect(); // what has not ended cannot end any more
        self.shared.1.notify_all();
    }

    /// Comes back with the last event ID (WHATWG HTML, "Processing model").
    fn reconnect(&self) -> Result<(Connection, Result<Body, String>), String> {
        let id = lock(&self.shared.0).interpreter.last_id().to_string();
        let id = if id.is_empty() { String::new() } else { format!("Last-Event-ID: {id}\r\n") };
        let deadline = Instant::now() + RETURN;
        let fields = [&*self.fields, &id].concat();
        let connection = self.url.request(["GET", "HTTP/1.1"], &fields, &[], deadline);
        let mut connection = connection.map_err(|e| format!("no connection after a break: {e}"))?;
        let head = connection.head(deadline).map_err(|why| format!("after a break: {}", why.why()))?;
        if head.status != 200 {
            return Err(format!("after a break: {}", head.status_line));
        }
        let mut heard = lock(&self.shared.0);
        if heard.is_closed {
            return Err("the judge has left".into());
        }
        heard.interpreter.reconnect();
        heard.is_connected = true;
        heard.closer = Some(connection.closer());
        let body = head.body("GET");
        Ok((connection, body))
    }

    /// Reads a stream to its end. Returns why it has ended, or what is wrong with its framing.
    fn receive(&self, connection: &mut Connection, mut body: Body) -> Result<String, String> {
        while !body.is_over() {
            let Ok(bytes) = connection.bytes(Instant::now() + SILENCE) else {
                return Ok("the connection broke".into());
            };
            if bytes.is_empty() {
                self.end_stream(body.ends_with_connection());
                return Ok("the connection was closed".into());
            }
            let content = body.decode(&bytes);
            let mut heard = lock(&self.shared.0);
            heard.bytes += bytes.len() as u64;
            if self.is_plain
                && let Ok(content) = &content
            {
                heard.receive(content);
            }
            self.shared.1.notify_all();
            content?;
            if heard.is_flood() {
                return Ok(format!("it had sent {MAX_STREAM} bytes, and the judge left"));
            }
            drop(heard);
            if bytes.len() == PIECE {
                sleep(Duration::from_millis(1)); // the stream does not wait for anybody, but the test does
            }
        }
        self.end_stream(true);
        Ok("the body has ended".into())
    }

    /// Ends a stream that the server has ended, and not the judge.
    fn end_stream(&self, is_whole: bool) {
        let mut heard = lock(&self.shared.0);
        if !heard.is_closed {
            heard.interpreter.end();
            let finding = ("framing", Level::Advice, b"the stream is cut off before its last chunk".into());
            heard.interpreter.findings.extend((!is_whole).then_some(finding));
        }
    }
}

//! A subscriber: a connection whose event stream a thread reads, and what has come so far.
//!
//! Limits: [`MAX_STREAM`], [`MAX_OTHERS`], [`MAX_KEPT`].

use crate::http::{Body, Closer, Connection, Head, PIECE};
use crate::stream::{Event, Interpreter};
use std::io;
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tincan::system::threads::{lock, spawn};

/// Limit: the bytes that the judge reads of one stream. Then it closes the connection.
const MAX_STREAM: u64 = 24 << 20;
/// Limit: the latest events of other publishers that are kept.
const MAX_OTHERS: usize = 64;
/// Limit: the bytes of the judge's own events that are kept.
const MAX_KEPT: usize = 8 << 20;
/// A stream may be silent for as long as the judge works.
const SILENCE: Duration = Duration::from_secs(120);

/// What has come of a stream.
pub struct Heard {
    pub interpreter: Interpreter,
    /// The events, the oldest first.
    pub events: Vec<Event>,
    nonce: String,
    kept: usize,   // the bytes of their data
    others: usize, // how many of them are of other publishers
    /// The bytes that have come of the body, as they were on the wire.
    pub bytes: u64,
    /// Why the stream has ended.
    pub end: Option<String>,
    /// What is wrong with the framing of the body.
    pub fault: Option<String>,
}

impl Heard {
    fn receive(&mut self, content: &[u8]) {
        self.interpreter.feed(content);
        for event in take(&mut self.interpreter.events) {
            let is_other = |event: &Event| !event.data.contains(&self.nonce);
            if self.others >= MAX_OTHERS
                && let Some(oldest) = self.events.iter().position(is_other)
            {
                self.others -= 1;
                self.kept -= self.events.remove(oldest).data.len();
            }
            if self.kept + event.data.len() <= MAX_KEPT {
                self.others += usize::from(is_other(&event));
                self.kept += event.data.len();
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
        self.kept = self.events.iter().map(|event| event.data.len()).sum();
    }
}

type Shared = Arc<(Mutex<Heard>, Condvar)>;

/// A subscriber. Dropping it closes its connection.
pub struct Subscriber {
    pub head: Head,
    shared: Shared,
    _closer: Closer,
}

impl Subscriber {
    /// Reads the body that follows this head. If the body is compressed, only its bytes are counted.
    ///
    /// # Errors
    /// If the system has no further descriptor or thread.
    pub fn new(head: Head, mut connection: Connection, nonce: &str) -> io::Result<Subscriber> {
        let heard = Heard {
            interpreter: Interpreter::new(nonce),
            events: Vec::new(),
            nonce: nonce.into(),
            kept: 0,
            others: 0,
            bytes: 0,
            end: None,
            fault: None,
        };
        let shared: Shared = Arc::new((Mutex::new(heard), Condvar::new()));
        let closer = connection.closer()?;
        let (body, writer) = (head.body("GET"), shared.clone());
        let is_plain = head.codings().is_empty();
        let work = move || {
            let end = match body {
                Ok(body) => receive(&mut connection, body, is_plain, &writer),
                Err(fault) => Err(fault),
            };
            let mut heard = lock(&writer.0);
            heard.end = Some(end.clone().unwrap_or_else(|fault| fault));
            heard.fault = end.err();
            writer.1.notify_all();
        };
        spawn("subscriber", Box::new(work))?;
        Ok(Subscriber { head, shared, _closer: closer })
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

    /// Returns whether the stream has ended.
    pub fn has_ended(&self) -> bool {
        self.now(|heard| heard.end.is_some())
    }
}

/// Reads a stream to its end. Returns why it has ended, or what is wrong with its framing.
fn receive(connection: &mut Connection, mut body: Body, is_plain: bool, shared: &Shared) -> Result<String, String> {
    while !body.is_over() {
        let Ok(bytes) = connection.bytes(Instant::now() + SILENCE) else { return Ok("the connection broke".into()) };
        if bytes.is_empty() {
            let is_end = body.ends_with_connection();
            return Ok(
                if is_end { "the connection was closed" } else { "the connection was closed within the body" }.into()
            );
        }
        let content = body.decode(&bytes);
        let mut heard = lock(&shared.0);
        heard.bytes += bytes.len() as u64;
        if is_plain {
            heard.receive(&content.clone().unwrap_or_default());
        }
        shared.1.notify_all();
        content?;
        let is_flood = heard.is_flood();
        drop(heard);
        if bytes.len() == PIECE {
            sleep(Duration::from_millis(1)); // the stream does not wait for anybody, but the test does
        }
        if is_flood {
            return Ok(format!("it had sent {MAX_STREAM} bytes, and the judge left"));
        }
    }
    Ok("the body has ended".into())
}

//! The order in which the rules are tested, and what all tests share.
//!
//! The judge must not be fooled. So each text that it says is new in each run, must be heard soon after it was said,
//! and must be heard by others than its publisher. Nothing that the server sends is waited for without a deadline, and
//! everything ends before [`ALL`] is over.

use crate::http::{Connection, Head, NoHead, Url};
use crate::rules::{Level, RULES, Verdicts, WITHOUT_POST};
use crate::subscriber::Subscriber;
use crate::texts::Publisher;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Limit: the time for everything.
const ALL: Duration = Duration::from_secs(55);
/// Limit: how long the judge waits for a response.
pub const RESPONSE: Duration = Duration::from_secs(5);
/// Limit: how long it waits for an event after it was said.
pub const SAID: Duration = Duration::from_secs(3);
/// The same, after a server was too slow a few times.
const SAID_IN_VAIN: Duration = Duration::from_millis(300);
/// How long a server takes at most to read a request.
const SOON: Duration = Duration::from_millis(50);
/// How many times a server may be too slow.
pub const PATIENCE: usize = 2;
/// An event is stuck if its blank line has not come after this time.
pub const STUCK: Duration = Duration::from_secs(2);

/// The fields of a request for an event stream.
pub const STREAM: &str = "Accept: text/event-stream\r\nCache-Control: no-cache\r\nAccept-Encoding: identity\r\n";

/// Tests all rules. Returns what was found.
///
/// # Errors
/// If nobody answers, or if the server cannot be tested with these arguments.
pub fn examine(url: &Url, publisher: Option<&Publisher>) -> Result<Verdicts, String> {
    let random = RandomState::new().build_hasher().finish();
    let nonce = format!("j{:08x}", random & 0xffff_ffff);
    let (end, verdicts) = (Instant::now() + ALL, Verdicts::new());
    let mut judge = Judge { url, publisher, nonce, end, verdicts, has_late_heads: false, in_vain: 0 };
    match judge.first_subscriber()? {
        Some(mut first) if judge.examine_head(&first) => judge.examine_stream(&mut first)?,
        Some(_) => judge.not_tested("not tested: the response is no event stream"),
        None => judge.not_tested("not tested: there is no response"),
    }
    Ok(judge.verdicts)
}

/// A test of one server.
pub struct Judge<'a> {
    pub url: &'a Url,
    pub publisher: Option<&'a Publisher>,
    /// A word that occurs in all texts of this run, and nowhere else.
    pub nonce: String,
    /// When the time is over.
    pub end: Instant,
    pub verdicts: Verdicts,
    /// Whether a head comes only with the first event.
    pub has_late_heads: bool,
    /// How often a text was not heard in time.
    pub in_vain: usize,
}

/// What became of a text.
pub struct Said {
    /// The status of the response to the POST, or why there is none.
    pub status: Result<u16, String>,
    /// Whether the text was heard soon.
    pub in_time: bool,
}

impl Said {
    /// Returns whether the server says that it does not publish the text.
    pub fn is_refused(&self) -> bool {
        self.status.as_ref().is_ok_and(|status| *status >= 400)
    }
}

impl Judge<'_> {
    pub fn ok(&mut self, rule: &str, seen: impl AsRef<[u8]>) {
        self.verdicts.add(rule, Level::Ok, seen);
    }

    pub fn advice(&mut self, rule: &str, seen: impl AsRef<[u8]>) {
        self.verdicts.add(rule, Level::Advice, seen);
    }

    pub fn broken(&mut self, rule: &str, seen: impl AsRef<[u8]>) {
        self.verdicts.add(rule, Level::Broken, seen);
    }

    /// Returns the time after this one from now, or the end of all.
    pub fn within(&self, time: Duration) -> Instant {
        (Instant::now() + time).min(self.end)
    }

    /// Sends a request without a body.
    pub fn ask(&self, method: &str, version: &str, fields: &str) -> Result<Connection, String> {
        let connection = self.url.request([method, version], fields, &[], self.within(RESPONSE));
        connection.map_err(|e| format!("no connection: {e}"))
    }

    /// Reads the stream that follows a head.
    pub fn subscriber(&self, head: Head, connection: Connection) -> Result<Subscriber, String> {
        Subscriber::new(head, connection, &self.nonce)
            .map_err(|e| format!("this machine gives no further connection: {e}"))
    }

    /// Opens a further stream.
    pub fn subscribe(&self, fields: &str) -> Result<Subscriber, String> {
        let mut connection = self.ask("GET", "HTTP/1.1", fields)?;
        let head = match self.publisher {
            Some(publisher) if self.has_late_heads => self.late_head(publisher, &mut connection),
            _ => connection.head(self.within(RESPONSE)),
        };
        self.subscriber(head.map_err(NoHead::why)?, connection)
    }

    /// Waits for a head of a server that sends it only with the first event. So it says something.
    pub fn late_head(&self, publisher: &Publisher, connection: &mut Connection) -> Result<Head, NoHead> {
        sleep(SOON); // the server has read the request
        let _ = publisher.say(&self.plain("first"), self.within(RESPONSE));
        connection.head(self.within(RESPONSE))
    }

    /// Says a text. Waits until a subscriber hears it, but not long if that was often in vain.
    pub fn say(&mut self, publisher: &Publisher, text: &str, nonce: &str, subscriber: &Subscriber) -> Said {
        let patience = |time| if self.in_vain < PATIENCE { time } else { SAID_IN_VAIN };
        let status = publisher.say(text, self.within(patience(RESPONSE)));
        let mut said = Said { status, in_time: false };
        if !said.is_refused() && !nonce.is_empty() {
            said.in_time = subscriber.hears(nonce, self.within(patience(SAID)));
            self.in_vain += usize::from(!said.in_time || said.status.is_err());
            self.examine_blank_line(subscriber);
        }
        said
    }

    /// Says a plain text, with a word that is in no other text.
    pub fn say_plain(&mut self, publisher: &Publisher, name: &str, subscriber: &Subscriber) -> Said {
        let text = self.plain(name);
        self.say(publisher, &text, &text, subscriber)
    }

    /// Returns the plain text of this name.
    pub fn plain(&self, name: &str) -> String {
        format!("{}-{name}.", self.nonce)
    }

    fn examine_stream(&mut self, first: &mut Subscriber) -> Result<(), String> {
        self.examine_first_bytes(first);
        if let Some(publisher) = self.publisher {
            self.check_publisher(publisher, first)?;
        }
        let compressed = self.examine_compression();
        self.examine_head_method(first);
        self.examine_options();
        self.examine_http_1_0();
        self.examine_heartbeat(first);
        let is_flood = first.now(|heard| heard.is_flood());
        if first.has_ended() {
            self.findings(first);
            *first = self.subscribe(STREAM)?;
        }
        if !is_flood {
            self.examine_many(first);
        }
        if let Some(publisher) = self.publisher {
            self.examine_texts(publisher, first);
            self.examine_compressed(publisher, compressed);
            self.examine_resume(publisher, first);
            self.examine_repeat(first);
            self.examine_slow_reader(publisher, first);
        } else {
            self.examine_return(first);
        }
        self.findings(first);
        self.not_tested(if self.publisher.is_some() { "not tested" } else { "not tested: give --post" });
        Ok(())
    }

    /// Adds what is wrong with the lines and the framing of a stream.
    pub fn findings(&mut self, subscriber: &Subscriber) {
        let (findings, fault) = subscriber.now(|heard| (heard.interpreter.findings.clone(), heard.fault.clone()));
        for (rule, level, seen) in findings {
            self.verdicts.add(rule, level, seen);
        }
        if let Some(fault) = fault {
            self.broken("framing", fault);
        }
        self.examine_blank_line(subscriber);
        let ([lf, crlf, cr], retry, begin) = subscriber.now(|heard| {
            let interpreter = &heard.interpreter;
            (interpreter.line_ends, interpreter.retries.first().cloned(), interpreter.begin.clone())
        });
        let level = if (lf > 0 && crlf > 0) || cr > 0 { Level::Advice } else { Level::Ok };
        self.verdicts.add("line-ends", level, format!("{lf} lines end with LF, {crlf} with CR LF, {cr} with CR"));
        for rule in ["utf-8", "fields", "blank-line", "nul-in-id"] {
            self.ok(rule, &begin);
        }
        self.ok("retry", retry.map_or("none: each browser takes its own".into(), |ms| format!("retry: {ms}")));
    }

    pub fn examine_blank_line(&mut self, subscriber: &Subscriber) {
        if subscriber.now(|heard| heard.interpreter.is_stuck(STUCK)) {
            self.broken("blank-line", "an event has no blank line after 2 s");
        }
    }

    /// Says of the rules that were not reached that they were not tested.
    fn not_tested(&mut self, why: &str) {
        let rules = if self.publisher.is_some() { RULES.len() } else { WITHOUT_POST };
        for rule in RULES.iter().take(rules).filter(|rule| !self.verdicts.has(rule.name)).collect::<Vec<_>>() {
            self.advice(rule.name, why);
        }
    }
}

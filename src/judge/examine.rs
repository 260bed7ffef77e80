//! The order in which the rules are tested, and what all tests share.
//!
//! The judge must not be fooled. So each text that it says is new in each run, must be heard soon after it was said,
//! and must be heard by others than its publisher. Nothing that the server sends is waited for without a deadline, and
//! everything ends before [`ALL`] is over.

use crate::http::{Connection, Head, NoHead, Url};
use crate::rules::{Level, Verdicts, rules};
use crate::stream::Event;
use crate::subscriber::Subscriber;
use crate::texts::Publisher;
use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Limit: the time for everything.
const ALL: Duration = Duration::from_secs(55);
/// Limit: how long the judge waits for a response.
pub const RESPONSE: Duration = Duration::from_secs(5);
/// Limit: how long it waits for an event after it was said.
pub const SAID: Duration = Duration::from_secs(5);
/// The same, after a server was too slow a few times.
pub const IN_VAIN: Duration = Duration::from_millis(300);
/// How long a server usually takes to read a request.
const SOON: Duration = Duration::from_millis(50);
/// Limit: how often, and for how long each time, the judge waits for a head that needs an event.
const NUDGES: usize = 4;
const NUDGED: Duration = Duration::from_secs(2);
/// How many times a server may be too slow.
const PATIENCE: usize = 2;
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
    let mut judge = Judge {
        url,
        publisher,
        nonce,
        end: Instant::now() + ALL,
        verdicts: Verdicts::new(),
        form: None,
        has_late_heads: false,
        nudges: Cell::new(0),
        in_vain: 0,
        unanswered: 0,
        slowest: Duration::ZERO,
    };
    match judge.first_subscriber()? {
        Some(first) if judge.examine_head(&first) => judge.examine_stream(&first)?,
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
    /// The form of the first event: its name, and what is around the text.
    pub form: Option<Form>,
    /// Whether a head comes only with the first event, and how many texts were said because of that.
    pub has_late_heads: bool,
    nudges: Cell<usize>,
    /// How many texts were not heard in time, and how many were not answered.
    pub in_vain: usize,
    unanswered: usize,
    /// The longest time that a text took to be heard and answered.
    pub slowest: Duration,
}

/// The form of an event: what a server puts around a text.
#[derive(Clone, PartialEq)]
pub struct Form {
    pub name: String,
    pub before: String,
    pub after: String,
}

impl Form {
    /// Returns the form of an event that has this text.
    pub fn of(event: &Event, text: &str) -> Option<Form> {
        let (before, after) = event.data.split_once(text)?;
        Some(Form { name: event.name.clone(), before: before.into(), after: after.into() })
    }
}

/// What became of a text.
pub struct Said {
    /// The status of the response to the POST, or why there is none.
    pub status: Result<u16, String>,
    /// Whether the text was heard soon.
    pub in_time: bool,
    /// How long it took to be heard and answered.
    pub took: Duration,
    /// Whether there was no time left to say it.
    pub is_over: bool,
}

impl Said {
    /// Returns the status of a refusal: the server says that it does not publish the text.
    pub fn refusal(&self) -> Option<u16> {
        self.status.as_ref().ok().copied().filter(|status| *status >= 400)
    }
}

/// Returns whether a status asks to come back later (RFC 9110 §15.5.9, §15.6.4; RFC 6585 §4).
pub fn is_busy(status: u16) -> bool {
    [408, 429, 503].contains(&status)
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
    pub fn subscriber(&self, fields: &str, head: Head, connection: Connection) -> Result<Subscriber, String> {
        let subscriber = Subscriber::new(self.url, fields, head, connection, &self.nonce);
        subscriber.map_err(|e| format!("this machine has no further thread: {e}"))
    }

    /// Opens a further stream.
    pub fn subscribe(&self, fields: &str) -> Result<Subscriber, String> {
        let mut connection = self.ask("GET", "HTTP/1.1", fields)?;
        let head = match self.publisher {
            Some(publisher) if self.has_late_heads => self.late_head(publisher, &mut connection),
            _ => connection.head(self.within(RESPONSE)),
        };
        self.subscriber(fields, head.map_err(NoHead::why)?, connection)
    }

    /// Opens a further stream. If its head is not like that of the first one, or if there is none, judges a rule by that.
    pub fn subscribe_like(&mut self, first: &Subscriber, fields: &str, rule: &str, what: &str) -> Option<Subscriber> {
        match self.subscribe(fields) {
            Ok(other) if other.head.is_like(&first.head) => return Some(other),
            Ok(other) => {
                let seen = format!("{what}: {}, {}", other.head.status_line, other.head.media_type());
                match is_busy(other.head.status) {
                    true => self.advice(rule, format!("not tested: {seen}")),
                    false => self.broken(rule, seen),
                }
            }
            // EMFILE (errno(3)): this machine gives the judge no more descriptors.
            Err(why) if why.contains("os error 24") => {
                self.advice(rule, format!("not tested: {what}: {why}; raise `ulimit -n`"));
            }
            Err(why) => self.broken(rule, format!("{what}: {why}")),
        }
        None
    }

    /// Waits for a head of a server that sends it only with the first event. So it says something, and again if that was
    /// before the server had read the request.
    pub fn late_head(&self, publisher: &Publisher, connection: &mut Connection) -> Result<Head, NoHead> {
        let mut head = Err(NoHead::Silent("nothing was said".into()));
        for _ in 0..NUDGES {
            sleep(SOON);
            self.nudges.set(self.nudges.get() + 1);
            let _ = publisher.say(&self.plain(&format!("first-{}", self.nudges.get())), self.within(RESPONSE));
            head = connection.head(self.within(NUDGED));
            if !matches!(head, Err(NoHead::Silent(_))) {
                break;
            }
        }
        head
    }

    /// Says a text. Waits until a subscriber hears it, but not long if that was often in vain.
    pub fn say(&mut self, publisher: &Publisher, text: &str, nonce: &str, subscriber: &Subscriber) -> Said {
        if Instant::now() >= self.end {
            let status = Err("the time is over".into());
            return Said { status, in_time: false, took: Duration::ZERO, is_over: true };
        }
        subscriber.wait(self.within(SAID), |heard| heard.is_connected.then_some(()));
        let began = Instant::now();
        let in_vain = IN_VAIN.max(4 * self.slowest).min(SAID);
        let patience = if self.unanswered < PATIENCE { RESPONSE } else { in_vain };
        let status = publisher.say(text, self.within(patience));
        self.unanswered += usize::from(status.is_err());
        let mut said = Said { status, in_time: false, took: began.elapsed(), is_over: false };
        if said.refusal().is_none() && !nonce.is_empty() {
            let patience = if self.in_vain < PATIENCE { began + SAID } else { began };
            said.in_time = subscriber.hears(nonce, patience.max(self.within(in_vain)).min(self.end));
            said.took = began.elapsed();
            self.in_vain += usize::from(!said.in_time);
            self.examine_blank_line(subscriber);
        }
        said.is_over = !said.in_time && Instant::now() >= self.end;
        said
    }

    /// Returns why something was not tested: this, or the time was over.
    pub fn over_or(&self, why: &'static str) -> &'static str {
        if Instant::now() >= self.end { "the time is over" } else { why }
    }

    /// Says a plain text, with a word that is in no other text.
    pub fn say_plain(&mut self, publisher: &Publisher, name: &str, subscriber: &Subscriber) -> Said {
        let text = self.plain(name);
        let said = self.say(publisher, &text, &text, subscriber);
        if said.in_time && said.status.is_ok() {
            self.slowest = self.slowest.max(said.took);
        }
        said
    }

    /// Returns the plain text of this name.
    pub fn plain(&self, name: &str) -> String {
        format!("{}-{name}.", self.nonce)
    }

    fn examine_stream(&mut self, first: &Subscriber) -> Result<(), String> {
        self.examine_first_bytes(first);
        if let Some(publisher) = self.publisher {
            self.check_publisher(publisher, first)?;
        }
        let compressed = self.examine_compression(first);
        self.examine_head_method(first);
        self.examine_options();
        self.examine_http_1_0();
        self.examine_heartbeat(first);
        self.examine_length(first);
        if first.now(|heard| heard.is_flood()) {
            self.advice("many", "not tested: one stream alone sends too much");
        } else {
            self.examine_many(first);
        }
        match self.publisher {
            Some(_) if self.in_vain > 0 && self.slowest.is_zero() => {
                self.add_findings(first);
                self.judge_deaf();
            }
            Some(_) if first.has_ended() => {
                let why = first.now(|heard| heard.end.clone()).unwrap_or_default();
                self.not_tested(&format!("not tested: {why}"));
            }
            Some(publisher) => {
                self.examine_texts(publisher, first);
                self.examine_compressed(publisher, compressed);
                self.examine_resume(publisher, first);
                self.examine_slow_reader(publisher, first);
            }
            None => self.examine_return(first),
        }
        self.add_findings(first);
        self.not_tested(if self.publisher.is_some() { "not tested" } else { "not tested: give --post" });
        Ok(())
    }

    /// Judges a server of which no text was heard in time. If there is another reason, that is the fault.
    fn judge_deaf(&mut self) {
        let reasons = ["media-type", "compression", "framing", "utf-8", "fields", "blank-line"];
        match reasons.into_iter().find(|rule| self.verdicts.is_broken(rule)) {
            Some(rule) => self.not_tested(&format!("not tested: no text is heard in time, see {rule}")),
            None => {
                self.broken("lines", "not even a plain text is heard in time");
                self.not_tested("not tested: no text is heard in time, see lines");
            }
        }
    }

    /// Adds what is wrong with a stream: its lines, its framing, and events that come twice.
    pub fn add_findings(&mut self, subscriber: &Subscriber) {
        let (findings, fault) = subscriber.now(|heard| (heard.interpreter.findings.clone(), heard.fault.clone()));
        for (rule, level, seen) in findings {
            self.verdicts.add(rule, level, seen);
        }
        if let Some(fault) = fault {
            self.broken("framing", fault);
        }
        self.examine_blank_line(subscriber);
        let (count, again) = subscriber.now(|heard| {
            let (count, again) = heard.repeated();
            (count, again.map(|event| event.block.clone()))
        });
        match again {
            Some(block) => self.broken("repeat", [b"comes again: ", &block[..]].concat()),
            None if count > 0 => self.ok("repeat", "no text came twice"),
            None => {}
        }
        self.examine_lines(subscriber);
    }

    fn examine_lines(&mut self, subscriber: &Subscriber) {
        let ([lf, crlf, cr], retry, begin) = subscriber.now(|heard| {
            let interpreter = &heard.interpreter;
            (interpreter.line_ends, interpreter.retries.first().cloned(), interpreter.begin.clone())
        });
        if begin.is_empty() {
            return; // nothing can be said of these rules
        }
        let level = if (lf > 0 && crlf > 0) || cr > 0 { Level::Advice } else { Level::Ok };
        self.verdicts.add("line-ends", level, format!("{lf} lines end with LF, {crlf} with CR LF, {cr} with CR"));
        let has_blank = subscriber.now(|heard| heard.interpreter.blanks > 0);
        let has_id = subscriber.now(|heard| !heard.interpreter.last_id().is_empty());
        self.ok("fields", &begin);
        self.ok("nul-in-id", if has_id { &begin[..] } else { b"no id came" });
        if has_blank {
            self.ok("blank-line", &begin);
        }
        // With `--post` a text of several scripts shows it.
        if self.publisher.is_none() {
            self.ok("utf-8", &begin);
        }
        self.ok("retry", retry.map_or("none: each browser takes its own".into(), |ms| format!("retry: {ms}")));
    }

    /// An event fires at its blank line.
    pub fn examine_blank_line(&mut self, subscriber: &Subscriber) {
        if let Some(stuck) = subscriber.now(|heard| heard.interpreter.stuck(STUCK)) {
            self.broken("blank-line", stuck);
        }
    }

    /// Says of the rules that were not reached that they were not tested.
    fn not_tested(&mut self, why: &str) {
        for rule in rules(self.publisher.is_some()) {
            if !self.verdicts.has(rule.name) {
                self.advice(rule.name, why);
            }
        }
    }
}

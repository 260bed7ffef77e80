//! The rules that are tested with texts.

use crate::examine::{Judge, PATIENCE, RESPONSE, SAID, STREAM, Said};
use crate::rules::Level;
use crate::subscriber::{Heard, Subscriber};
use crate::texts::{Expected, Publisher, Text, forged_retry, has, texts};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The subscribers of the rule `many`.
const MANY: usize = 40;
/// For this long nothing may follow, after everything has come.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// The bytes that a subscriber leaves unread: more than systems keep for a connection (Linux: about 4 MB).
const UNREAD: usize = 8 << 20;
/// How many bytes are enough if the time is over.
const ENOUGH_UNREAD: usize = 6 << 20;
/// Limit: how long it takes to say them.
const UNREAD_TIME: Duration = Duration::from_secs(18);
/// The bytes of a text that is left unread. If it is refused, the texts are smaller.
const UNREAD_TEXT: usize = 60_000;
const SMALL_UNREAD_TEXT: usize = 6_000;
/// The plain texts that all subscribers of the rule `many` hear.
const TO_MANY: [&str; 3] = ["many-1", "many-2", "many-3"];

impl Judge<'_> {
    /// Says the first text. If that is refused, the arguments are wrong.
    pub fn check_publisher(&mut self, publisher: &Publisher, first: &Subscriber) -> Result<(), String> {
        let said = self.say_plain(publisher, "hello", first);
        match said.status {
            Err(why) if !said.in_time => return Err(format!("nobody answers a POST: {why}; check --post")),
            Err(why) => self.broken("lines", format!("a text is heard, but its POST gets no response: {why}")),
            Ok(status) if status >= 400 => {
                return Err(format!("the server refuses a plain text with {status}; check --post and --body"));
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// Opens many streams. With `--post`, all of them have to hear the same in the same order.
    pub fn examine_many(&mut self, first: &Subscriber) {
        let mut all = Vec::new();
        for n in 1..=MANY {
            match self.subscribe(STREAM) {
                Ok(subscriber) if subscriber.head.status == first.head.status => all.push(subscriber),
                Ok(other) => return self.broken("many", format!("subscriber {n}: {}", other.head.status_line)),
                Err(why) => return self.broken("many", format!("subscriber {n}: {why}")),
            }
        }
        match self.publisher {
            Some(publisher) => self.compare_many(publisher, first, &all),
            None => self.ok("many", format!("{MANY} streams at a time; give --post to test what they hear")),
        }
        all.iter().for_each(|subscriber| self.findings(subscriber));
    }

    fn compare_many(&mut self, publisher: &Publisher, first: &Subscriber, all: &[Subscriber]) {
        let in_time = TO_MANY.map(|name| self.say_plain(publisher, name, first).in_time);
        let texts = TO_MANY.map(|name| self.plain(name));
        let deadline = self.within(SAID);
        let hears_all = |subscriber: &&Subscriber| texts.iter().all(|text| subscriber.hears(text, deadline));
        let deaf = all.len() - all.iter().filter(hears_all).count();
        let order = |subscriber: &Subscriber| {
            subscriber.now(|heard| {
                let events =
                    heard.events.iter().filter_map(|event| texts.iter().find(|text| event.data.contains(*text)));
                let mut order: Vec<String> = events.cloned().collect();
                order.dedup(); // `repeat` is another rule
                order.join(" ")
            })
        };
        let expected = order(first);
        if in_time.contains(&false) {
            self.broken("many", "a text was not heard in time");
        } else if deaf > 0 {
            self.broken("many", format!("{deaf} of {MANY} subscribers did not hear a text"));
        } else if let Some(other) = all.iter().map(order).find(|order| *order != expected) {
            self.broken("many", format!("one hears {expected}, another {other}"));
        } else {
            self.ok("many", format!("{MANY} subscribers heard the same"));
        }
    }

    pub fn examine_texts(&mut self, publisher: &Publisher, first: &Subscriber) {
        let texts = texts(&self.nonce);
        let said: Vec<Said> = texts.iter().map(|text| self.say(publisher, &text.text, &text.nonce, first)).collect();
        self.examine_empty(publisher, first);
        sleep(AFTERWARDS);
        for (text, said) in texts.iter().zip(&said) {
            let (level, seen) = first.now(|heard| judge_text(text, said, heard));
            self.verdicts.add(text.rule, level, seen);
        }
        let retry = forged_retry(&self.nonce);
        if first.now(|heard| heard.interpreter.retries.contains(&retry)) {
            self.broken("forged-field", format!("retry: {retry}"));
        }
    }

    /// Says nothing, between two texts.
    fn examine_empty(&mut self, publisher: &Publisher, first: &Subscriber) {
        self.say_plain(publisher, "before-empty", first);
        let said = self.say(publisher, "", "", first);
        let after = self.say_plain(publisher, "after-empty", first);
        let (begin, end) = (self.plain("before-empty"), self.plain("after-empty"));
        let is_empty = |data: &str| if publisher.is_bare() { data.is_empty() } else { !data.contains(&self.nonce) };
        let block = first.now(|heard| {
            let events = heard.events.iter().skip_while(|event| !event.data.contains(&begin));
            let mut events = events.take_while(|event| !event.data.contains(&end));
            events.find(|event| after.in_time && is_empty(&event.data)).map(|event| event.block.clone())
        });
        match (said.status, block) {
            (Ok(status), None) if status >= 400 => self.ok("empty", format!("refused with {status}")),
            (Ok(status), Some(_)) if status >= 400 => self.broken("empty", format!("refused with {status}, but heard")),
            (_, Some(block)) => self.ok("empty", block),
            (Ok(status), None) => self.broken("empty", format!("response {status}, but no event")),
            (Err(why), None) => self.broken("empty", why),
        }
    }

    /// Says a text, and looks whether a compressed stream has it at once.
    pub fn examine_compressed(&mut self, publisher: &Publisher, compressed: Option<Subscriber>) {
        let Some(compressed) = compressed else { return };
        let before = compressed.now(|heard| heard.bytes);
        let _ = publisher.say(&self.plain("compressed"), self.within(RESPONSE));
        if compressed.wait(self.within(SAID), |heard| (heard.bytes > before).then_some(())).is_none() {
            self.broken("compression", "a compressed stream holds an event back for 3 s");
        }
    }

    /// Leaves, and comes back after two more texts.
    pub fn examine_resume(&mut self, publisher: &Publisher, first: &Subscriber) {
        let Some(last_id) = self.leave(publisher, first) else {
            return self.advice("resume", "not tested: a text was not heard");
        };
        let missed = ["missed-1", "missed-2"];
        for name in missed {
            self.say_plain(publisher, name, first);
        }
        let id = last_id.replace(|c: char| c.is_control(), "");
        let field = if id.is_empty() { String::new() } else { format!("Last-Event-ID: {id}") };
        let line = if id.is_empty() { String::new() } else { format!("{field}\r\n") };
        let again = match self.subscribe(&format!("{STREAM}{line}")) {
            Ok(again) if again.head.status == first.head.status => again,
            Ok(again) => return self.broken("resume", format!("{field}: {}", again.head.status_line)),
            Err(why) => return self.broken("resume", format!("{field}: {why}")),
        };
        again.hears(&self.plain("missed-2"), self.within(if id.is_empty() { AFTERWARDS } else { SAID }));
        self.say_plain(publisher, "after-return", first);
        again.hears(&self.plain("after-return"), self.within(SAID));
        let count = |name: &str| again.now(|heard| heard.with(&self.plain(name)).count());
        let came = missed.iter().filter(|name| count(name) > 0).count();
        let again_heard = ["before-leaving", "hello"].into_iter().find(|name| count(name) > 0);
        if let Some(name) = again_heard {
            self.broken("repeat", format!("{field}: {}, which was heard before, comes again", self.plain(name)));
        }
        match came {
            _ if id.is_empty() => self.advice("resume", "events have no id"),
            2 => self.ok("resume", format!("{field}: the two missed events came")),
            came => self.advice("resume", format!("{field}: {came} of two missed events came")),
        }
        self.findings(&again);
    }

    /// Hears a text on a stream of its own, and leaves. Returns the last event ID.
    fn leave(&mut self, publisher: &Publisher, first: &Subscriber) -> Option<String> {
        let subscriber = self.subscribe(STREAM).ok()?;
        self.say_plain(publisher, "before-leaving", first);
        let text = self.plain("before-leaving");
        subscriber.wait(self.within(SAID), |heard| heard.with(&text).next().map(|event| event.last_id.clone()))
    }

    /// Counts the plain texts of the first subscriber.
    pub fn examine_repeat(&mut self, first: &Subscriber) {
        let names = ["before-empty", "after-empty", "before-leaving", "missed-1", "missed-2", "after-return"];
        let mut once = 0;
        for name in TO_MANY.iter().chain(&names) {
            let text = self.plain(name);
            match first.now(|heard| heard.with(&text).count()) {
                0 => {}
                1 => once += 1,
                count => self.broken("repeat", format!("{text} comes {count} times")),
            }
        }
        match once {
            0 => self.advice("repeat", "not tested: no text was heard"),
            count => self.ok("repeat", format!("{count} texts came once each")),
        }
    }

    /// Says more than a connection can hold, while one subscriber does not read.
    pub fn examine_slow_reader(&mut self, publisher: &Publisher, first: &Subscriber) {
        if self.in_vain >= PATIENCE {
            return self.advice("slow-reader", "not tested: texts are not heard in time");
        }
        let Ok(_slow) = self.ask("GET", "HTTP/1.1", STREAM) else {
            return self.advice("slow-reader", "not tested: no connection");
        };
        sleep(AFTERWARDS); // the server writes its head
        let slow = format!("{}-slow-", self.nonce);
        let mut size = UNREAD_TEXT;
        let mut unread = 0;
        let deadline = self.within(UNREAD_TIME);
        for n in 0.. {
            if unread >= UNREAD || Instant::now() >= deadline {
                break;
            }
            let nonce = format!("{slow}{n}.");
            let said = self.say(publisher, &format!("{nonce} {}", "x".repeat(size)), &nonce, first);
            first.now(|heard| heard.remove(&slow));
            if said.is_refused() && size == UNREAD_TEXT {
                size = SMALL_UNREAD_TEXT;
            } else if said.is_refused() {
                return self.advice("slow-reader", "not tested: texts are refused");
            } else if said.in_time {
                unread += size;
            } else if Instant::now() < self.end {
                let why = "one subscriber does not read, and another hears nothing";
                return self.broken("slow-reader", format!("after {unread} bytes {why}"));
            }
        }
        let seen = format!("one left {unread} bytes unread, and another heard all at once");
        match unread {
            ENOUGH_UNREAD.. => self.ok("slow-reader", seen),
            _ => self.advice("slow-reader", format!("{seen}; too little to be sure")),
        }
    }
}

/// Judges what became of a text. Shows the blocks of its events.
fn judge_text(text: &Text, said: &Said, heard: &Heard) -> (Level, Vec<u8>) {
    let events: Vec<_> = heard.with(&text.nonce).collect();
    let blocks: Vec<u8> = events.iter().flat_map(|event| event.block.clone()).collect();
    let seen = |why: &str| [why.as_bytes(), &blocks[..]].concat();
    if events.is_empty() {
        return judge_silence(text, said);
    }
    let without_mark = text.text.trim_start_matches('\u{feff}');
    if said.is_refused() {
        (Level::Broken, seen("refused, but heard: "))
    } else if let Some(forged) = forged(text, heard) {
        (Level::Broken, forged)
    } else if !said.in_time {
        (Level::Broken, seen("heard only after something else was said: "))
    } else if text.expected == Expected::NotForged {
        (Level::Ok, seen(""))
    } else if !events.iter().all(|event| has(&event.data, without_mark)) {
        (Level::Broken, seen("changed: "))
    } else if !events.iter().any(|event| has(&event.data, &text.text)) {
        (Level::Advice, seen("without its byte order mark: "))
    } else {
        (Level::Ok, seen(""))
    }
}

/// Judges a text of which nothing is heard.
fn judge_silence(text: &Text, said: &Said) -> (Level, Vec<u8>) {
    match &said.status {
        Ok(status) if *status >= 400 => {
            let level = if text.may_refuse { Level::Ok } else { Level::Advice };
            (level, format!("refused with {status}").into())
        }
        Ok(status) => (Level::Broken, format!("response {status}, but not heard").into()),
        Err(why) => (Level::Broken, format!("not heard: {why}").into()),
    }
}

/// Returns what a text has set as if the server had: an id or a name, or a whole event.
fn forged(text: &Text, heard: &Heard) -> Option<Vec<u8>> {
    let has_nonce = |line: &&Vec<u8>| String::from_utf8_lossy(line).contains(&text.nonce);
    let data = format!("{} forged", text.nonce);
    let event = heard.events.iter().find(|event| event.data == data);
    heard.interpreter.forged.iter().find(has_nonce).cloned().or(event.map(|event| event.block.clone()))
}

//! The rules that are tested with texts.

use crate::examine::{Form, IN_VAIN, Judge, RESPONSE, SAID, STREAM, Said, is_busy};
use crate::http::{Connection, Head};
use crate::rules::Level;
use crate::stream::Event;
use crate::subscriber::{Heard, Subscriber};
use crate::texts::{Publisher, Text, forged_retry, has, texts};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The subscribers of the rule `many`.
const MANY: usize = 40;
/// For this long nothing may follow, after everything has come.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Limit: the bytes of the response to a POST.
const MAX_RESPONSE: usize = 1 << 20;
/// The plain texts that all subscribers of the rule `many` hear.
const TO_MANY: [&str; 3] = ["many-1", "many-2", "many-3"];

impl Judge<'_> {
    /// Says the first text. If that is refused, the arguments are wrong.
    pub fn check_publisher(&mut self, publisher: &Publisher, first: &Subscriber) -> Result<(), String> {
        let text = self.plain("hello");
        let began = Instant::now();
        let response = publisher.send(&text, self.within(RESPONSE));
        let in_time = first.hears(&text, (began + SAID).max(self.within(IN_VAIN)));
        let is_answered = response.is_ok();
        match response {
            Err(why) if !in_time => return Err(format!("no response to a POST: {why}; check --post")),
            Err(why) => self.broken("lines", format!("a text is heard, but its POST gets no response: {why}")),
            Ok((head, _)) if head.status >= 400 && in_time => {
                self.broken("lines", format!("refused with {}, but heard", head.status));
            }
            Ok((head, _)) if head.status >= 500 => {
                self.broken("lines", format!("the server fails with {}", head.status));
            }
            Ok((head, _)) if head.status >= 400 => {
                return Err(format!("the server refuses a plain text with {}; check --post and --body", head.status));
            }
            Ok((head, _))
                if head.status != 303
                    && let Some(location) = head.redirection() =>
            {
                return Err(format!("the POST is redirected ({}) to {location}; give that URL", head.status));
            }
            Ok((head, connection)) => self.examine_response(&head, connection),
        }
        self.in_vain += usize::from(!in_time);
        if in_time {
            self.slowest = if is_answered { began.elapsed() } else { IN_VAIN };
            self.form = first.now(|heard| heard.with(&text).next().and_then(|event| Form::of(event, &text)));
        } else if let Some(line) = first.now(|heard| heard.interpreter.ignored.clone()) {
            self.broken("fields", [b"a text is in a line that clients ignore: ", &line[..]].concat());
        }
        self.examine_blank_line(first);
        Ok(())
    }

    /// Reads a response to a POST to its end. Nothing may follow it.
    fn examine_response(&mut self, head: &Head, mut connection: Connection) {
        for fault in &head.faults {
            self.broken("framing", format!("response to a POST: {fault}"));
        }
        let rest = head.body("POST").and_then(|body| connection.rest(body, self.within(SAID), MAX_RESPONSE));
        if let Err(why) = rest {
            return self.broken("framing", format!("response to a POST: {why}"));
        }
        let more = connection.bytes(self.within(AFTERWARDS)).unwrap_or_default();
        if !more.is_empty() {
            self.broken("framing", [b"after the response to a POST: ", &more[..]].concat());
        }
    }

    /// Opens many streams. With `--post`, all of them have to hear the same in the same order.
    pub fn examine_many(&mut self, first: &Subscriber) {
        let mut all = Vec::new();
        for n in 1..=MANY {
            match self.subscribe_like(first, STREAM, "many", &format!("subscriber {n}")) {
                Some(subscriber) => all.push(subscriber),
                None => return,
            }
        }
        sleep(AFTERWARDS);
        let has_ended = |subscriber: &&Subscriber| subscriber.now(|heard| heard.last_end.is_some());
        let ended = all.iter().filter(has_ended).count();
        match self.publisher {
            Some(publisher) => self.compare_many(publisher, first, &all),
            None if ended > 0 => {
                self.advice("many", format!("{ended} of {MANY} streams ended; each client comes back"))
            }
            None => self.ok("many", format!("{MANY} streams at a time; give --post to test what they hear")),
        }
        sleep(AFTERWARDS);
        all.iter().for_each(|subscriber| self.add_findings(subscriber));
    }

    fn compare_many(&mut self, publisher: &Publisher, first: &Subscriber, all: &[Subscriber]) {
        let in_time = TO_MANY.map(|name| self.say_plain(publisher, name, first).in_time);
        let texts = TO_MANY.map(|name| self.plain(name));
        let deadline = self.within(SAID);
        let hears_all = |subscriber: &&Subscriber| texts.iter().all(|text| subscriber.hears(text, deadline));
        let deaf = all.len() - all.iter().filter(hears_all).count();
        let order = |subscriber: &Subscriber| subscriber.now(|heard| order(&texts, heard)).join(" ");
        let expected = order(first);
        if self.slowest.is_zero() {
            self.advice("many", "not tested: no text is heard in time");
        } else if in_time.contains(&false) {
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
            let (level, seen) = first.now(|heard| judge_text(text, said, self.form.as_ref(), heard));
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
        let form = self.form.clone();
        let block = first.now(|heard| {
            // If the form changes from event to event, any event of this name may be the empty one.
            let is_form = |event: &Event| Form::of(event, &begin) == form;
            let is_stable = heard.with(&begin).next().is_some_and(is_form);
            let is_empty = |event: &&Event| match &form {
                Some(form) if is_stable => {
                    event.name == form.name && event.data == [&*form.before, &form.after].concat()
                }
                Some(form) => event.name == form.name,
                None => event.data.is_empty(),
            };
            let events = heard.events.iter().skip_while(|event| !event.data.contains(&begin)).skip(1);
            let mut events = events.take_while(|event| !event.data.contains(&end));
            events.find(|event| after.in_time && is_empty(event)).map(|event| event.block.clone())
        });
        match (said.status, block) {
            (Ok(status), None) if is_busy(status) => self.advice("empty", format!("not tested: {status}")),
            (Ok(status), None) if status >= 500 => self.broken("empty", format!("the server fails with {status}")),
            (Ok(status), None) if status >= 400 => self.ok("empty", format!("refused with {status}")),
            (Ok(status), Some(_)) if status >= 400 => self.broken("empty", format!("refused with {status}, but heard")),
            (_, Some(block)) => self.ok("empty", block),
            _ if said.is_over || after.is_over => self.advice("empty", "not tested: the time is over"),
            (Ok(status), None) => self.broken("empty", format!("response {status}, but no event for it")),
            (Err(why), None) => self.broken("empty", why),
        }
    }

    /// Says a text, and looks whether a compressed stream has it at once.
    pub fn examine_compressed(&mut self, publisher: &Publisher, compressed: Option<Subscriber>) {
        let Some(compressed) = compressed else { return };
        let before = compressed.now(|heard| heard.bytes);
        let _ = publisher.say(&self.plain("compressed"), self.within(RESPONSE));
        if compressed.wait(self.within(SAID), |heard| (heard.bytes > before).then_some(())).is_none() {
            let time = SAID.as_secs();
            self.broken("compression", format!("a compressed stream holds an event back for {time} s"));
        } else {
            let why = "the judge does not decode, so it does not know whether events are held back";
            self.advice("compression", format!("Content-Encoding: {}; {why}", compressed.head.codings().join(", ")));
        }
    }

    /// Leaves, and comes back after two more texts.
    pub fn examine_resume(&mut self, publisher: &Publisher, first: &Subscriber) {
        let Some(last_id) = self.leave(publisher, first) else {
            let why = self.over_or("the stream that was to be left did not hear its text");
            return self.advice("resume", format!("not tested: {why}"));
        };
        let missed = ["missed-1", "missed-2"];
        for name in missed {
            self.say_plain(publisher, name, first);
        }
        let id = last_id.replace(|c: char| c.is_control(), "");
        let field = format!("Last-Event-ID: {id}");
        let line = if id.is_empty() { String::new() } else { format!("{field}\r\n") };
        let field = if id.is_empty() { "without Last-Event-ID".into() } else { field };
        let fields = format!("{STREAM}{line}");
        let Some(again) = self.subscribe_like(first, &fields, "resume", &field) else { return };
        again.hears(&self.plain("missed-2"), self.within(if id.is_empty() { AFTERWARDS } else { SAID }));
        let texts = missed.map(|name| self.plain(name));
        let came = again.now(|heard| order(&texts, heard));
        self.say_plain(publisher, "after-return", first);
        again.hears(&self.plain("after-return"), self.within(SAID));
        match came[..] == texts {
            _ if id.is_empty() => self.advice("resume", "the event had no id to come back with"),
            true => self.ok("resume", format!("{field}: the two missed events came")),
            false if came.is_empty() => self.advice("resume", format!("{field}: none of two missed events came")),
            false => self.advice("resume", format!("{field}: of two missed events came {}", came.join(" "))),
        }
        let is_heard = |name: &&str| again.now(|heard| heard.with(&self.plain(name)).next().is_some());
        if let Some(name) = ["before-leaving", "hello"].iter().find(|name| is_heard(name)) {
            self.broken("repeat", format!("{field}: {}, which was heard before, comes again", self.plain(name)));
        }
        sleep(AFTERWARDS);
        self.add_findings(&again);
    }

    /// Hears a text on a stream of its own, and leaves. Returns the last event ID.
    fn leave(&mut self, publisher: &Publisher, first: &Subscriber) -> Option<Arc<str>> {
        let subscriber = self.subscribe(STREAM).ok()?;
        sleep(AFTERWARDS);
        self.say_plain(publisher, "before-leaving", first);
        let text = self.plain("before-leaving");
        subscriber.wait(self.within(SAID), |heard| heard.with(&text).next().map(|event| event.last_id.clone()))
    }
}

/// Returns which of these texts came, in the order in which each came first.
fn order(texts: &[String], heard: &Heard) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for event in &heard.events {
        if let Some(text) = texts.iter().find(|text| event.data.contains(*text))
            && !order.contains(text)
        {
            order.push(text.clone());
        }
    }
    order
}

/// Judges what became of a text. Shows the blocks of its events.
fn judge_text(text: &Text, said: &Said, form: Option<&Form>, heard: &Heard) -> (Level, Vec<u8>) {
    let all: Vec<_> = heard.with(&text.nonce).collect();
    // A server may tell the same in events of other names besides.
    let is_same_name = |event: &&&Event| form.is_none_or(|form| event.name == form.name);
    let events: Vec<_> = all.iter().filter(is_same_name).collect();
    let blocks: Vec<u8> = events.iter().flat_map(|event| event.block.clone()).collect();
    let seen = |why: &str| [why.as_bytes(), &blocks[..]].concat();
    let without_mark = text.text.trim_start_matches('\u{feff}');
    let changed = events.iter().find(|event| !has(&event.data, without_mark));
    if let Some(forged) = forged(text, heard) {
        (Level::Broken, forged)
    } else if events.is_empty() {
        judge_silence(text, said, heard)
    } else if said.refusal().is_some() {
        (Level::Broken, seen("refused, but heard: "))
    } else if !said.in_time {
        (Level::Broken, seen("heard too late: "))
    } else if text.is_forgery {
        (Level::Ok, seen(""))
    } else if let Some(event) = changed {
        let bytes = text.text.len();
        let why = if event.data.len() < bytes { "changed, and shorter" } else { "changed" };
        (Level::Broken, seen(&format!("{bytes} bytes, {why}: ")))
    } else if !events.iter().any(|event| has(&event.data, &text.text)) {
        (Level::Advice, seen("without its byte order mark: "))
    } else {
        (Level::Ok, seen(""))
    }
}

/// Judges a text of which nothing is heard.
fn judge_silence(text: &Text, said: &Said, heard: &Heard) -> (Level, Vec<u8>) {
    let (level, seen) = match &said.status {
        _ if said.is_over => (Level::Advice, "not tested: the time is over".into()),
        _ if let Some(why) = &heard.end => (Level::Advice, format!("not tested: {why}")),
        Ok(status) if is_busy(*status) => (Level::Advice, format!("not tested: {status}")),
        Ok(status) if *status >= 500 => (Level::Broken, format!("the server fails with {status}")),
        Ok(status) if *status >= 400 && text.may_refuse => (Level::Ok, format!("refused with {status}")),
        Ok(status) if *status >= 400 => (Level::Advice, format!("refused with {status}")),
        Ok(status) => (Level::Broken, format!("response {status}, but not heard")),
        Err(why) => (Level::Broken, format!("not heard: {why}")),
    };
    (level, seen.into())
}

/// Returns what a text has set as if the server had: an id or a name, or a whole event.
fn forged(text: &Text, heard: &Heard) -> Option<Vec<u8>> {
    let has_nonce = |line: &&Vec<u8>| String::from_utf8_lossy(line).contains(&text.nonce);
    let data = format!("{} forged", text.nonce);
    let event = heard.events.iter().find(|event| event.data == data);
    heard.interpreter.forged.iter().find(has_nonce).cloned().or(event.map(|event| event.block.clone()))
}

//! What a client makes of an event stream (WHATWG HTML, "Parsing an event stream" and "Interpreting an event stream"),
//! and what is wrong with its lines. Pure.
//!
//! Limits: [`MAX_LINE`], [`MAX_DATA`], [`MAX_BLOCK`], [`MAX_FIELDS`].

use crate::rules::Level;
use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tincan::wire::event::Line;

/// Limit: the bytes of a line that are kept. The judge says nothing that is longer.
const MAX_LINE: usize = 256 << 10;
/// A line of this length is taken for one without an end.
const ENDLESS_LINE: usize = 16 << 20;
/// Limit: the bytes of an event's data that are kept.
const MAX_DATA: usize = 512 << 10;
/// Limit: the bytes of a block, of a line, and of the beginning of the stream that are kept to be shown.
const MAX_BLOCK: usize = 200;
/// U+FEFF, which a client removes from the beginning of a stream.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Limit: the reconnection times, and the forged lines, that are kept.
const MAX_FIELDS: usize = 1000;
/// Limit: the digits of a reconnection time.
const MAX_DIGITS: usize = 20;
/// An event that comes in pieces is complete after this time, unless the network is very slow.
const WAITED: Duration = Duration::from_millis(250);
/// A reconnection time over this many milliseconds is long.
const LONG_RETRY: u64 = 600_000;

/// An event as a client fires it.
#[derive(Clone)]
pub struct Event {
    pub name: String,
    pub data: String,
    /// The last event ID, which may come from an earlier block.
    pub last_id: Arc<str>,
    /// The first bytes of its block, as they came.
    pub block: Vec<u8>,
}

impl Event {
    /// Returns about how many bytes it takes.
    pub fn size(&self) -> usize {
        self.name.len() + self.data.len() + self.last_id.len() + self.block.len()
    }
}

/// What the judge finds in a stream: the rule, how bad it is, and the line.
pub type Finding = (&'static str, Level, Vec<u8>);

/// Reads an event stream. The bytes may come in any pieces.
pub struct Interpreter {
    /// What the judge's own texts have in each line. Their lines are judged by other rules than those of the stream.
    nonce: String,
    line: Vec<u8>,
    line_length: usize,
    after_cr: bool,
    is_cr_counted: bool,
    begun: bool,
    data: Option<String>,
    name: String,
    id: Option<String>,
    last_id: Arc<str>, // all events up to the next id share it
    block: Vec<u8>,
    block_began: Option<Instant>,
    line_began: Option<Instant>,
    comments: usize, // of this block
    /// The line ends so far: LF, CR LF, CR.
    pub line_ends: [usize; 3],
    /// How many comments and blocks have come that fire nothing, and the last of them.
    pub signs: usize,
    pub last_sign: Vec<u8>,
    /// How many blank lines have come.
    pub blanks: usize,
    /// The first bytes of the stream.
    pub begin: Vec<u8>,
    /// The reconnection times.
    pub retries: Vec<String>,
    /// The lines that set an id or a name to a text of the judge.
    pub forged: Vec<Vec<u8>>,
    /// A line with a text of the judge that clients ignore.
    pub ignored: Option<Vec<u8>>,
    pub events: Vec<Event>,
    pub findings: Vec<Finding>,
}

impl Interpreter {
    pub fn new(nonce: &str) -> Interpreter {
        Interpreter {
            nonce: nonce.into(),
            line: Vec::new(),
            line_length: 0,
            after_cr: false,
            is_cr_counted: false,
            begun: false,
            data: None,
            name: String::new(),
            id: None,
            last_id: "".into(),
            block: Vec::new(),
            block_began: None,
            line_began: None,
            comments: 0,
            line_ends: [0; 3],
            signs: 0,
            last_sign: Vec::new(),
            blanks: 0,
            begin: Vec::new(),
            retries: Vec::new(),
            forged: Vec::new(),
            ignored: None,
            events: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Reads the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let room = MAX_BLOCK.saturating_sub(self.begin.len());
        self.begin.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        for piece in bytes.split_inclusive(|byte| b"\r\n".contains(byte)) {
            let (end, text) = piece.split_last().unwrap_or((&0, &[]));
            match end {
                b'\n' if text.is_empty() && self.line.is_empty() && take(&mut self.after_cr) => {
                    self.end_crlf();
                    continue;
                }
                b'\n' | b'\r' => {
                    self.show_in_block(piece);
                    self.keep(text);
                    self.after_cr = *end == b'\r';
                    self.end_line(if self.after_cr { 2 } else { 0 });
                }
                _ => {
                    self.show_in_block(piece);
                    self.keep(piece);
                    self.after_cr = false;
                }
            }
        }
    }

    /// Reads the second half of CR LF. The first one has ended the line, and perhaps the event.
    fn end_crlf(&mut self) {
        if take(&mut self.is_cr_counted) {
            let [_, crlf, cr] = &mut self.line_ends;
            *cr -= 1;
            *crlf += 1;
        }
        match self.events.last_mut() {
            Some(event) if self.block.is_empty() => event.block.push(b'\n'),
            _ => self.show_in_block(b"\n"),
        }
    }

    fn show_in_block(&mut self, bytes: &[u8]) {
        let room = MAX_BLOCK.saturating_sub(self.block.len());
        self.block.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Ends the stream. An event without its blank line is lost.
    pub fn end(&mut self) {
        if self.data.is_some() {
            let seen = [b"the stream ended before the blank line: ", &self.block[..]].concat();
            self.find("blank-line", Level::Broken, &seen);
        }
    }

    /// Returns the last event ID, as a client sends it. A field value has no control characters (RFC 9110 §5.5).
    pub fn last_id(&self) -> &str {
        if self.last_id.contains(char::is_control) { "" } else { &self.last_id }
    }

    /// Begins the next stream of the same client.
    pub fn reconnect(&mut self) {
        self.line.clear();
        self.line_length = 0;
        self.block.clear();
        self.name.clear();
        self.begun = false;
        self.after_cr = false;
        self.data = None;
        self.id = None;
        self.block_began = None;
        self.line_began = None;
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.line_began.get_or_insert_with(Instant::now);
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.line_length = self.line_length.saturating_add(bytes.len());
        if self.line_length > MAX_LINE {
            let (level, why) = match self.line_length {
                ENDLESS_LINE.. => (Level::Broken, "a line of more than 16 MiB: "),
                _ => (Level::Advice, "a line of more than 256 KiB, of which the judge keeps the beginning: "),
            };
            let begin = [why.as_bytes(), self.line.get(..MAX_BLOCK).unwrap_or_default()].concat();
            self.find("blank-line", level, &begin);
        }
    }

    /// Adds a finding, unless there is one of this rule and level.
    fn find(&mut self, rule: &'static str, level: Level, seen: &[u8]) {
        if !self.findings.iter().any(|(other, of, _)| *other == rule && *of >= level) {
            self.findings.push((rule, level, shown(seen)));
        }
    }

    fn end_line(&mut self, end: usize) {
        let mut bytes = take(&mut self.line);
        self.line_began = None;
        self.line_length = 0;
        if !self.begun && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        self.begun = true;
        let line = String::from_utf8_lossy(&bytes).into_owned();
        if line.as_bytes() != bytes {
            self.find("utf-8", Level::Broken, &bytes);
        }
        let is_ours = line.contains(&self.nonce);
        self.is_cr_counted = !is_ours && end == 2;
        if !is_ours && let Some(count) = self.line_ends.get_mut(end) {
            *count += 1;
        }
        match Line::read(&line) {
            Line::Blank => return self.end_block(),
            Line::Comment(_) => self.add_comment(&bytes),
            Line::Data(value) => self.add_data(value),
            Line::Event(value) => self.name = self.add_value(value, &bytes),
            Line::Id(value) if value.contains('\0') => self.find("nul-in-id", Level::Broken, &bytes),
            Line::Id(value) => self.id = Some(self.add_value(value, &bytes)),
            Line::Retry(value) => self.add_retry(value, &bytes),
            Line::Ignored("retry") => self.find("retry", Level::Broken, &bytes),
            Line::Ignored(_) if is_ours => self.ignored = Some(shown(&bytes)),
            Line::Ignored(name) => {
                let meant = name.trim_matches(|c: char| !c.is_ascii_alphabetic()).to_ascii_lowercase();
                let known = ["data", "event", "id", "retry"].contains(&&*meant);
                self.find("fields", if known { Level::Broken } else { Level::Advice }, &bytes);
            }
        }
        if self.data.is_some() || self.id.is_some() || !self.name.is_empty() {
            self.block_began.get_or_insert_with(Instant::now);
        }
    }

    /// A comment shows that the server is there, unless it is a part of an event. If it comes long after the event, the
    /// event had to wait for it.
    fn add_comment(&mut self, line: &[u8]) {
        if self.block_began.is_some_and(|began| began.elapsed() > WAITED) {
            self.find("blank-line", Level::Broken, &[b"an event waited for the heartbeat: ", line].concat());
        }
        self.comments += 1;
        self.add_sign(line);
    }

    fn add_data(&mut self, value: &str) {
        self.signs -= take(&mut self.comments).min(self.signs);
        let data = match self.data.take() {
            None => value.into(),
            Some(data) if data.len() + value.len() > MAX_DATA => data,
            Some(data) => data + "\n" + value,
        };
        self.data = Some(data);
    }

    /// Returns the value of an id or a name. No text of the judge may be one.
    fn add_value(&mut self, value: &str, line: &[u8]) -> String {
        if value.contains(&self.nonce) && self.forged.len() < MAX_FIELDS {
            self.forged.push(shown(line));
        }
        value.into()
    }

    fn add_retry(&mut self, value: &str, line: &[u8]) {
        if self.retries.len() < MAX_FIELDS {
            self.retries.push(value.chars().take(MAX_DIGITS).collect());
        }
        if value.parse::<u64>().map_or(true, |ms| ms > LONG_RETRY || ms == 0) {
            self.find("retry", Level::Advice, line);
        }
    }

    fn end_block(&mut self) {
        self.block_began = None;
        self.blanks += 1;
        self.comments = 0;
        if let Some(id) = self.id.take() {
            self.last_id = id.into();
        }
        let name = take(&mut self.name);
        let block = take(&mut self.block);
        match self.data.take() {
            None => self.add_sign(&block),
            Some(data) => {
                let name = if name.is_empty() { "message".into() } else { name };
                self.events.push(Event { name, data, last_id: self.last_id.clone(), block });
            }
        }
    }

    fn add_sign(&mut self, bytes: &[u8]) {
        self.signs += 1;
        self.last_sign = shown(bytes);
    }

    /// Returns whether a line or an event has not ended.
    pub fn is_open(&self) -> bool {
        self.block_began.is_some() || self.line_began.is_some()
    }

    /// Returns what has not ended for longer than this.
    pub fn stuck(&self, time: Duration) -> Option<Vec<u8>> {
        let is_old = |began: Option<Instant>| began.is_some_and(|began| began.elapsed() >= time);
        if is_old(self.line_began) {
            Some([b"a line does not end: ", &shown(&self.line)[..]].concat())
        } else {
            is_old(self.block_began).then(|| [b"an event has no blank line: ", &self.block[..]].concat())
        }
    }
}

/// Returns as many bytes as are shown.
fn shown(bytes: &[u8]) -> Vec<u8> {
    bytes.get(..MAX_BLOCK).unwrap_or(bytes).into()
}

//! What a client makes of an event stream (WHATWG HTML, "Parsing an event stream" and "Interpreting an event stream"),
//! and what is wrong with its lines. Pure.
//!
//! Limits: [`MAX_LINE`], [`MAX_DATA`], [`MAX_BLOCK`], [`MAX_FIELDS`].

use crate::rules::Level;
use std::mem::take;
use std::time::{Duration, Instant};
use tincan::wire::event::Line;

/// Limit: the bytes of a line that are kept. The judge says nothing that is longer.
const MAX_LINE: usize = 256 << 10;
/// Limit: the bytes of an event's data that are kept.
const MAX_DATA: usize = 512 << 10;
/// Limit: the bytes of a block, and of the beginning of the stream, that are kept to be shown.
const MAX_BLOCK: usize = 200;
/// U+FEFF, which a client removes from the beginning of a stream.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Limit: the reconnection times, and the forged lines, that are kept.
const MAX_FIELDS: usize = 1000;
/// A reconnection time over this many milliseconds is long.
const LONG_RETRY: u64 = 600_000;

/// An event as a client fires it.
#[derive(Clone)]
pub struct Event {
    pub name: String,
    pub data: String,
    /// The last event ID, which may come from an earlier block.
    pub last_id: String,
    /// The first bytes of its block, as they came.
    pub block: Vec<u8>,
}

/// What the judge finds in a stream: the rule, how bad it is, and the line.
pub type Finding = (&'static str, Level, Vec<u8>);

/// Reads an event stream. The bytes may come in any pieces.
pub struct Interpreter {
    /// What the judge's own texts have in each line. Their lines are judged by other rules than those of the stream.
    nonce: String,
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    data: Option<String>,
    name: String,
    id: Option<String>,
    last_id: String,
    block: Vec<u8>,
    block_began: Option<Instant>,
    /// The line ends so far: LF, CR LF, CR.
    pub line_ends: [usize; 3],
    /// How many comments and blocks have come that fire nothing, and the last of them.
    pub signs: usize,
    pub last_sign: Vec<u8>,
    /// The first bytes of the stream.
    pub begin: Vec<u8>,
    /// The reconnection times.
    pub retries: Vec<String>,
    /// The lines that set an id or a name to a text of the judge.
    pub forged: Vec<Vec<u8>>,
    pub events: Vec<Event>,
    pub findings: Vec<Finding>,
}

impl Interpreter {
    pub fn new(nonce: &str) -> Interpreter {
        Interpreter {
            nonce: nonce.into(),
            line: Vec::new(),
            after_cr: false,
            begun: false,
            data: None,
            name: String::new(),
            id: None,
            last_id: String::new(),
            block: Vec::new(),
            block_began: None,
            line_ends: [0; 3],
            signs: 0,
            last_sign: Vec::new(),
            begin: Vec::new(),
            retries: Vec::new(),
            forged: Vec::new(),
            events: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Reads the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let room = MAX_BLOCK.saturating_sub(self.begin.len());
        self.begin.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        for piece in bytes.split_inclusive(|byte| b"\r\n".contains(byte)) {
            let room = MAX_BLOCK.saturating_sub(self.block.len());
            self.block.extend_from_slice(piece.get(..room).unwrap_or(piece));
            let (end, text) = piece.split_last().unwrap_or((&0, &[]));
            match end {
                b'\n' if text.is_empty() && self.line.is_empty() && take(&mut self.after_cr) => {
                    // The second half of CR LF.
                    let [_, crlf, cr] = &mut self.line_ends;
                    if *cr > 0 {
                        *cr -= 1;
                        *crlf += 1;
                    }
                }
                b'\n' | b'\r' => {
                    self.keep(text);
                    self.after_cr = *end == b'\r';
                    self.end_line(if self.after_cr { 2 } else { 0 });
                }
                _ => {
                    self.keep(piece);
                    self.after_cr = false;
                }
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if bytes.len() > room {
            let begin = self.line.get(..100).unwrap_or_default().to_vec();
            self.find("blank-line", Level::Broken, &[b"a line does not end: ", &begin[..]].concat());
        }
    }

    /// Adds a finding, unless there is one of this rule and level.
    fn find(&mut self, rule: &'static str, level: Level, seen: &[u8]) {
        if !self.findings.iter().any(|(other, of, _)| *other == rule && *of >= level) {
            self.findings.push((rule, level, seen.into()));
        }
    }

    fn end_line(&mut self, end: usize) {
        let mut bytes = take(&mut self.line);
        if !self.begun && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        self.begun = true;
        let line = String::from_utf8_lossy(&bytes).into_owned();
        if line.as_bytes() != bytes {
            self.find("utf-8", Level::Broken, &bytes);
        }
        let is_ours = line.contains(&self.nonce);
        if !is_ours && let Some(count) = self.line_ends.get_mut(end) {
            *count += 1;
        }
        match Line::read(&line) {
            Line::Blank => return self.end_block(),
            Line::Comment(_) => self.add_sign(&bytes),
            Line::Data(value) => self.add_data(value),
            Line::Event(value) => {
                self.name = value.into();
                self.add_forged(value, &bytes);
            }
            Line::Id(value) if value.contains('\0') => self.find("nul-in-id", Level::Broken, &bytes),
            Line::Id(value) => {
                self.id = Some(value.into());
                self.add_forged(value, &bytes);
            }
            Line::Retry(value) => self.add_retry(value, &bytes),
            Line::Ignored("retry") => self.find("retry", Level::Broken, &bytes),
            Line::Ignored(_) if is_ours => {}
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

    fn add_data(&mut self, value: &str) {
        let data = match self.data.take() {
            None => value.into(),
            Some(data) if data.len() + value.len() > MAX_DATA => data,
            Some(data) => data + "\n" + value,
        };
        self.data = Some(data);
    }

    fn add_forged(&mut self, value: &str, line: &[u8]) {
        if value.contains(&self.nonce) && self.forged.len() < MAX_FIELDS {
            self.forged.push(line.into());
        }
    }

    fn add_retry(&mut self, value: &str, line: &[u8]) {
        if self.retries.len() < MAX_FIELDS {
            self.retries.push(value.into());
        }
        if value.parse::<u64>().map_or(true, |ms| ms > LONG_RETRY) {
            self.find("retry", Level::Advice, line);
        }
    }

    fn end_block(&mut self) {
        self.block_began = None;
        if let Some(id) = self.id.take() {
            self.last_id = id;
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
        self.last_sign = bytes.get(..MAX_BLOCK).unwrap_or(bytes).into();
    }

    /// Returns whether there is an event without its blank line.
    pub fn is_open(&self) -> bool {
        self.block_began.is_some()
    }

    /// Returns whether there is one for longer than this.
    pub fn is_stuck(&self, time: Duration) -> bool {
        self.block_began.is_some_and(|began| began.elapsed() >= time)
    }
}

//! The lessons: text files in `static/lessons/`, played as event streams to whoever GETs them.
//!
//! A lesson's file is sent as it stands, comments included (WHATWG HTML, "Parsing an event stream": a line that begins
//! with a colon is ignored), block by block, with a pause after each blank line. Four comments, a line each, say what it
//! teaches: `: lesson:` (its title), `: look:`, `: question:` and `: answer:`. The line `: 中文 (not sent)` ends what is
//! sent: behind it stand the same four in Chinese, for the lab page and for who reads the file.
//!
//! Four more comments are obeyed:
//!
//! - `: status: 503` is the status of the answer;
//! - `: field: NAME: VALUE` is a field line of its head, in place of the usual one of that name;
//! - `: pace: 2 s` is the pause after each blank line from here on, otherwise a second;
//! - `: when Last-Event-ID: 3` begins the part that is played to a client that brings this id. What stands before the first
//!   such line is played to everyone else.
//!
//! And what stands in braces is not sent but done: `{CR}`, `{NUL}`, `{BOM}` send bytes that no editor shows, `{time}` the
//! time and `{last-event-id}` the id that the client brought; `{wait 2 s}` pauses there; a line `{no pause}` is a blank
//! line without a pause; `{cut}` ends the stream there, and `{repeat}` plays the block before it for ever. A brace has no
//! other use in a lesson, so none is ever data.
//!
//! To HTTP/1.1 what is sent between two pauses is a chunk (RFC 9112 §7.1). The last chunk says that the lesson is over, or its
//! time is: there is none at `{cut}`.
//!
//! Limits: `PLAY_TIME`; `connection.rs` bounds each write.

use crate::channel::framing::FramingRef;
use crate::wire::http;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Limit: how long a lesson is played. EventSource then comes back by itself.
const PLAY_TIME: Duration = Duration::from_secs(600);

/// A lesson.
pub struct Lesson {
    /// Its name below `/lessons/`.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! lessons {
    ($($name:literal)*) => {
        &[$(Lesson { name: $name, text: include_str!(concat!("../../../static/lessons/", $name, ".txt")) }),*]
    };
}

/// All lessons, in the order in which one learns.
pub const LESSONS: &[Lesson] = lessons! {
    "first-event" "fields" "lines" "one-space" "missing-blank-line" "named" "ignored" "line-ends" "byte-order-mark"
    "greeting" "clock" "heartbeat" "buffering" "retry" "reconnection" "cut-id" "chunks" "empty-id" "nul-in-id"
    "fresh-start" "pause" "no-content" "unavailable" "wrong-type" "charset" "wrong-charset" "six-connections"
    "websocket"
};

/// What a player does next; after the last step the stream ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send the time.
    Time,
    /// Pause.
    Wait(Duration),
    /// Go on at the step of this number.
    Repeat(usize),
    /// It is over: send the last chunk.
    End,
}

/// A lesson for one client.
pub struct Script {
    /// The status code.
    pub status: u16,
    /// Field lines of its own, each with its CRLF.
    pub fields: String,
    /// What is played behind the head.
    pub steps: Vec<Step>,
    /// How long it is played at most.
    pub time: Duration,
}

impl Script {
    /// Plays it; returns when it ends, or at the first step after its time.
    ///
    /// # Errors
    /// Where the client is gone, or does not read.
    pub fn play(&self, framing: FramingRef, out: &mut impl Write) -> io::Result<()> {
        let end = Instant::now() + self.time;
        let mut at = 0;
        let mut said = Vec::new(); // up to a pause all is one write, and one chunk
        while let Some(step) = self.steps.get(at).filter(|_| Instant::now() < end) {
            match step {
                Step::Send(bytes) => said.extend_from_slice(bytes),
                Step::Time => said.extend_from_slice(http::now().as_bytes()),
                Step::Wait(pause) => {
                    out.write_all(&framing.wrap_all(&said))?;
                    said.clear();
                    sleep(*pause);
                }
                Step::Repeat(step) => {
                    at = *step;
                    continue;
                }
                Step::End => break,
            }
            at += 1;
        }
        let last = if at < self.steps.len() { (framing.last)() } else { Vec::new() }; // else it is cut
        out.write_all(&[framing.wrap_all(&said), last].concat())
    }

    /// Obeys a line, if it is a comment of that kind. None: it is wrong.
    fn apply_directive(&mut self, line: &str, pace: &mut Duration) -> Option<()> {
        let comment = line.strip_prefix(": ").and_then(|comment| comment.split_once(": "));
        let (what, value) = comment.unwrap_or_default();
        match what {
            "status" => self.status = value.parse().ok()?,
            "field" => {
                value.split_once(": ")?;
                self.fields.extend([value, "\r\n"]);
            }
            "pace" => *pace = duration(value)?,
            _ => {}
        }
        Some(())
    }
}

/// Reads a lesson for a client that brings this last event ID, which is empty where it brings none. Returns the script,
/// or the line that is wrong.
pub fn parse<'a>(text: &'a str, last_id: &[u8]) -> Result<Script, &'a str> {
    let mut script = Script { status: 200, fields: String::new(), steps: Vec::new(), time: PLAY_TIME };
    let text = languages(text).0;
    let for_this = |line| comment(line, "when Last-Event-ID").map(|id| id.as_bytes() == last_id);
    let mut here = !text.lines().any(|line| for_this(line) == Some(true));
    let mut pace = Duration::from_secs(1);
    let mut block = 0;
    let mut before = 0;
    for line in text.lines() {
        here = for_this(line).unwrap_or(here);
        if !here {
            continue;
        }
        script.apply_directive(line, &mut pace).ok_or(line)?;
        let mut in_braces = true;
        for word in line.split(['{', '}']) {
            in_braces = !in_braces;
            script.steps.push(match word {
                sent if !in_braces => Step::Send(sent.into()),
                "cut" => return Ok(script),
                "repeat" if block > before => {
                    script.steps.push(Step::Repeat(before));
                    return Ok(script);
                }
                _ => step_in_braces(word, last_id).ok_or(line)?,
            });
        }
        if in_braces {
            return Err(line);
        }
        script.steps.push(Step::Send("\n".into()));
        if line.is_empty() {
            script.steps.push(Step::Wait(pace));
            before = block;
            block = script.steps.len();
        }
    }
    script.steps.push(Step::End);
    Ok(script)
}

/// The step that stands in braces.
fn step_in_braces(word: &str, last_id: &[u8]) -> Option<Step> {
    let bytes: &[u8] = match word {
        "CR" => b"\r",
        "NUL" => b"\0",
        "BOM" => "\u{feff}".as_bytes(),
        "last-event-id" => last_id,
        "no pause" => b"",
        "time" => return Some(Step::Time),
        _ => return word.strip_prefix("wait ").and_then(duration).map(Step::Wait),
    };
    Some(Step::Send(bytes.into()))
}

/// Limit: a single pause, such as `2 s` or `500 ms`. Who has left is found by the writes that follow; and it is more than
/// nothing, so that what repeats never spins.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_once(' ')?;
    let times = match unit {
        "s" => 1000,
        "ms" => 1,
        _ => return None,
    };
    let pause = number.parse::<u64>().ok()?.checked_mul(times)?;
    (100..=5000).contains(&pause).then(|| Duration::from_millis(pause))
}

/// The two parts of a lesson's file: what is played, and its Chinese.
pub fn languages(text: &str) -> (&str, &str) {
    text.split_once(": 中文 (not sent)\n").unwrap_or((text, ""))
}

/// What a part says: its first comment `: WHAT: …`.
pub fn comment<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(": ")?.strip_prefix(what)?.strip_prefix(": "))
}

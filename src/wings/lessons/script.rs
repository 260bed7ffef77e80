//! The files of the lessons (`static/lessons/`), and how they are played as event streams.
//!
//! A lesson is sent as its file says, block by block, with a pause after each blank line. Its comments are sent too:
//! a client ignores lines that begin with a colon (WHATWG HTML, "Parsing an event stream"). Four comments explain the
//! lesson, each in one line: `: lesson:` (its title), `: look:`, `: question:` and `: answer:`. The line
//! `: 中文 (not sent)` ends what is sent. After it the same four comments follow in Chinese. They are for the lab page
//! and for readers of the file.
//!
//! Four more comments control how the lesson is played:
//!
//! - `: status: 503` sets the status of the response.
//! - `: field: NAME: VALUE` sets a field line of the response's head. It replaces the usual one of that name.
//! - `: pace: 2 s` sets the pause after each blank line from here on. Without it the pause is a second.
//! - `: when Last-Event-ID: 3` begins the part for clients that send this id. All other clients get the part before
//!   the first such line.
//!
//! Words in braces are not sent. They are commands:
//!
//! - `{CR}`, `{NUL}` and `{BOM}` send bytes that no editor shows.
//! - `{time}` sends the time, and `{last-event-id}` the id that the client sent.
//! - `{wait 2 s}` pauses.
//! - A line `{no pause}` is a blank line without a pause.
//! - `{cut}` ends the stream there.
//! - `{repeat}` plays the block before it again and again.
//!
//! A brace has no other use in a lesson, so data never has one.
//!
//! To HTTP/1.1 all bytes between two pauses are one chunk (RFC 9112 §7.1). The last chunk comes when the lesson ends
//! or its time is over. After `{cut}` there is no last chunk.
//!
//! Limits: `PLAY_TIME`; `connection.rs` limits each write.

use crate::channel::framing::FramingRef;
use crate::wire::http;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Limit: how long a lesson is played. EventSource then reconnects by itself.
const PLAY_TIME: Duration = Duration::from_secs(600);

/// A lesson.
pub struct Lesson {
    /// Its name, which is also the end of its path `/lessons/NAME`.
    pub name: &'static str,
    /// The text of its file.
    pub text: &'static str,
    /// What a conforming client makes of it, as JSON (`static/lessons/README.md`).
    pub expected: &'static str,
}

macro_rules! lessons {
    ($($name:literal)*) => {
        &[$(Lesson {
            name: $name,
            text: include_str!(concat!("../../../static/lessons/", $name, ".txt")),
            expected: include_str!(concat!("../../../static/lessons/", $name, ".json")),
        }),*]
    };
}

/// All lessons, in the order in which a student reads them.
pub const LESSONS: &[Lesson] = lessons! {
    "first-event" "fields" "lines" "one-space" "missing-blank-line" "named" "ignored" "line-ends" "byte-order-mark"
    "greeting" "clock" "heartbeat" "buffering" "retry" "reconnection" "cut-id" "chunks" "empty-id" "nul-in-id"
    "fresh-start" "pause" "no-content" "unavailable" "wrong-type" "charset" "wrong-charset" "six-connections"
    "websocket"
};

/// A step of a lesson. The stream ends after the last one.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends the time.
    Time,
    /// Pauses.
    Wait(Duration),
    /// Goes back to the step with this index.
    Repeat(usize),
    /// Ends the stream, with the last chunk.
    End,
}

/// A lesson for one client.
pub struct Script {
    /// The status code.
    pub status: u16,
    /// Field lines that replace the usual ones, each with its CRLF.
    pub fields: String,
    /// The steps after the head.
    pub steps: Vec<Step>,
    /// The limit of its playing time.
    pub time: Duration,
}

impl Script {
    /// Plays the lesson. Returns when it ends, or at the first step after its time.
    ///
    /// # Errors
    /// If the client has closed the connection, or does not read.
    pub fn play(&self, framing: FramingRef, out: &mut impl Write) -> io::Result<()> {
        let deadline = Instant::now() + self.time;
        let mut index = 0;
        let mut unsent = Vec::new(); // all bytes up to a pause are one write, and one chunk
        while let Some(step) = self.steps.get(index).filter(|_| Instant::now() < deadline) {
            match step {
                Step::Send(bytes) => unsent.extend_from_slice(bytes),
                Step::Time => unsent.extend_from_slice(http::now().as_bytes()),
                Step::Wait(pause) => {
                    out.write_all(&framing.wrap_all(&unsent))?;
                    unsent.clear();
                    sleep(*pause);
                }
                Step::Repeat(step) => {
                    index = *step;
                    continue;
                }
                Step::End => break,
            }
            index += 1;
        }
        let last = if index < self.steps.len() { (framing.last)() } else { Vec::new() }; // after `{cut}` there is none
        out.write_all(&[framing.wrap_all(&unsent), last].concat())
    }

    /// Applies a line, if it is a comment that sets the status, a field line or the pace. None if it is malformed.
    fn apply_directive(&mut self, line: &str, pace: &mut Duration) -> Option<()> {
        let comment = line.strip_prefix(": ").and_then(|comment| comment.split_once(": "));
        let (name, value) = comment.unwrap_or_default();
        match name {
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

/// Reads a lesson for a client with this last event ID, which may be empty. Returns the script, or the first line
/// that is malformed.
pub fn parse<'a>(text: &'a str, last_id: &[u8]) -> Result<Script, &'a str> {
    let mut script = Script { status: 200, fields: String::new(), steps: Vec::new(), time: PLAY_TIME };
    let text = languages(text).0;
    let is_for_client = |line| comment(line, "when Last-Event-ID").map(|id| id.as_bytes() == last_id);
    let mut is_played = !text.lines().any(|line| is_for_client(line) == Some(true));
    let mut pace = Duration::from_secs(1);
    let mut block = 0;
    let mut previous_block = 0;
    for line in text.lines() {
        is_played = is_for_client(line).unwrap_or(is_played);
        if !is_played {
            continue;
        }
        script.apply_directive(line, &mut pace).ok_or(line)?;
        let mut in_braces = true;
        for word in line.split(['{', '}']) {
            in_braces = !in_braces;
            script.steps.push(match word {
                sent if !in_braces => Step::Send(sent.into()),
                "cut" => return Ok(script),
                "repeat" if block > previous_block => {
                    script.steps.push(Step::Repeat(previous_block));
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
            previous_block = block;
            block = script.steps.len();
        }
    }
    script.steps.push(Step::End);
    Ok(script)
}

/// Returns the step for a word in braces.
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

/// Limit: a pause, such as `2 s` or `500 ms`, has 100 ms to 5 s. So the next write soon finds out that the client has
/// left, and a lesson that repeats does not spin. Returns None if the text is malformed or over a limit.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_once(' ')?;
    let factor = match unit {
        "s" => 1000,
        "ms" => 1,
        _ => return None,
    };
    let pause = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (100..=5000).contains(&pause).then(|| Duration::from_millis(pause))
}

/// Splits a lesson's file into its two parts: the part that is played, and the Chinese one.
pub fn languages(text: &str) -> (&str, &str) {
    text.split_once(": 中文 (not sent)\n").unwrap_or((text, ""))
}

/// Returns the text of a part's first comment with this name.
pub fn comment<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(": ")?.strip_prefix(name)?.strip_prefix(": "))
}

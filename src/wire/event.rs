//! Events and their bytes on the wire, in both directions. Pure.
//!
//! An event on the wire (WHATWG HTML, "Server-sent events"):
//!
//! ```text
//! event: NAME            only if the publisher gave a name
//! retry: 2000            only if the publisher gave a reconnection time
//! data: first line
//! data: second line
//! id: 1763654400123-57
//!                        the blank line, at which the client fires the event
//! ```
//!
//! Wire facts:
//! - A line ends with LF, CR or CRLF (WHATWG HTML, "Parsing an event stream"). We write only LF, and split data at all
//!   three. So a body cannot end its `data` line and begin another field.
//! - A parser removes one space after the colon. We always write one, so a value may begin with a space.
//! - `id` comes last. Several clients store the id of an event that was cut off before its blank line, and would then
//!   skip that event.
//! - A client fires no event without a `data` line. So an empty body becomes one empty `data` line.
//!
//! Limits: [`MAX_NAME`] for a name; the caller limits the data.
//! Deliberately absent: comments and ids from publishers. Only the log gives ids.

use crate::wire::reject::{BLOCK_ID, BLOCK_RETRY, EVENT_NAME, NO_DATA, RESERVED, Reject, UNFINISHED};
use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write as _;

/// Limit: the bytes of an event's name (in the standard: its event type).
pub const MAX_NAME: usize = 256;
/// The name of the event that reports missed events. It is reserved for the server.
const GAP: &str = "gap";

/// An event as a publisher sends it: data, an optional name, and an optional reconnection time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    name: String,
    retry: Option<u64>,
    data: String,
}

impl Event {
    /// Returns an event without a name. EventSource passes it to `onmessage`.
    pub fn new(data: impl Into<String>) -> Event {
        Event::default().with_data(data)
    }

    /// Returns this event with a name. An empty name means no name, as in the standard: the event's type is then
    /// `message`.
    ///
    /// # Errors
    /// [`EVENT_NAME`] if the name contains CR, LF or NUL, or is longer than [`MAX_NAME`] bytes. [`RESERVED`] if the
    /// name is `gap`.
    pub fn named(self, name: impl Into<String>) -> Result<Event, Reject> {
        let name = name.into();
        if name.len() > MAX_NAME || name.contains(['\r', '\n', '\0']) {
            return Err(EVENT_NAME);
        }
        if name == GAP {
            return Err(RESERVED);
        }
        Ok(Event { name, ..self })
    }

    /// Returns this event with other data.
    pub fn with_data(self, data: impl Into<String>) -> Event {
        Event { data: data.into(), ..self }
    }
}

#[doc(hidden)]
impl Event {
    /// Returns the event that reports to a subscriber which events it missed.
    pub fn gap(data: String) -> Event {
        Event { name: GAP.into(), retry: None, data }
    }

    /// Returns this event with a reconnection time in milliseconds.
    pub fn with_retry(self, retry: Option<u64>) -> Event {
        Event { retry, ..self }
    }

    /// Returns the parts of the event, each with the name of its field.
    pub fn fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut fields = vec![("data", Cow::from(&self.data))];
        if !self.name.is_empty() {
            fields.push(("event", Cow::from(&self.name)));
        }
        fields.extend(self.retry.map(|ms| ("retry", ms.to_string().into())));
        fields
    }

    /// Writes the block, with its blank line. A gap event, and an event that no log keeps, have no id.
    pub fn write(&self, id: Option<impl Display>, out: &mut Vec<u8>) {
        let mut fields = self.fields();
        fields.rotate_left(1); // the data comes last
        // Writing to a Vec cannot fail.
        for (field, value) in &fields {
            lines(value).for_each(|line| drop(writeln!(out, "{field}: {line}")));
        }
        if let Some(id) = id {
            let _ = writeln!(out, "id: {id}");
        }
        out.push(b'\n');
    }
}

/// Seals the `events` blocks that one POST appends to a log file. If there are several events, or if there is a NUL, a
/// comment line with both numbers goes before them.
///
/// After a power cut, pages that did not reach the disk read as NULs. So bytes can only turn into NULs. If the block
/// has as many NULs as its seal says, or none if it has no seal, every byte is as it was written (`recovery.rs`). A
/// publisher cannot forge a seal, because all its text comes after the name of a field.
pub fn seal(events: usize, block: &mut Vec<u8>) {
    let nuls = block.iter().filter(|&&byte| byte == 0).count();
    if let Some(line) = seal_line(events as u64, nuls as u64) {
        block.splice(..0, (line + "\n").into_bytes());
    }
}

/// Returns the comment line of a seal, or `None` if these numbers need none.
pub fn seal_line(events: u64, nuls: u64) -> Option<String> {
    (events > 1 || (events == 1 && nuls > 0)).then(|| format!(": one POST, {events} events, {nuls} NULs"))
}

/// Splits a text into lines, at CRLF, LF and lone CR. If the text ends with a line end, the last line is empty.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split("\r\n").flat_map(|text| text.split(['\r', '\n']))
}

/// A line of an event stream (WHATWG HTML, "Interpreting an event stream").
pub enum Line<'a> {
    /// The end of a block.
    Blank,
    /// A comment, with its text.
    Comment(&'a str),
    /// A line of data.
    Data(&'a str),
    /// The name of the event.
    Event(&'a str),
    /// The last event ID, which is valid from the end of the block on.
    Id(&'a str),
    /// The reconnection time in milliseconds, as its digits.
    Retry(&'a str),
    /// A line that clients ignore: an unknown field, or a retry that is not a number. Holds the name of the field.
    Ignored(&'a str),
}

impl<'a> Line<'a> {
    /// Parses a line, which comes without its line end.
    pub fn read(line: &'a str) -> Line<'a> {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => Line::Blank,
            "" => Line::Comment(value),
            "data" => Line::Data(value),
            "event" => Line::Event(value),
            "id" => Line::Id(value),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => Line::Retry(value),
            field => Line::Ignored(field),
        }
    }
}

/// Parses an event stream from a publisher. Each block with data becomes an event.
///
/// Source: WHATWG HTML, "Interpreting an event stream".
///
/// Deviation: a client silently ignores an unfinished block, and a stream without data. Here both are errors, because
/// the publisher would believe that subscribers got its events.
///
/// # Errors
/// The refusal for the first rule that the body breaks.
pub fn parse(body: &str) -> Result<Vec<Event>, Reject> {
    let mut events = Vec::new();
    let mut name = "";
    let mut retry = None;
    let mut data = Vec::new();
    let mut in_block = false; // there was a field line after the last blank line
    let mut lines = lines(body.strip_prefix('\u{feff}').unwrap_or(body)).peekable();
    while let Some(line) = lines.next() {
        match Line::read(line) {
            Line::Comment(_) => continue,
            Line::Blank if lines.peek().is_none() => continue, // the text ends here
            Line::Blank => {
                if !data.is_empty() {
                    events.push(Event { retry: retry.take(), ..Event::new(data.join("\n")).named(name)? });
                }
                name = "";
                data.clear();
                in_block = false;
                continue;
            }
            Line::Data(value) => data.push(value),
            Line::Event(value) => name = value,
            Line::Retry(value) => retry = Some(value.parse().map_err(|_| BLOCK_RETRY)?),
            Line::Id(_) => return Err(BLOCK_ID),
            Line::Ignored(_) => {}
        }
        in_block = true;
    }
    // A client obeys a retry even in a block without data. Here that retry moves to the next event. If there is no next
    // event, it moves to the last one.
    if let Some(last) = events.last_mut() {
        last.retry = retry.or(last.retry);
    }
    match events.is_empty() {
        _ if in_block => Err(UNFINISHED),
        true => Err(NO_DATA),
        false => Ok(events),
    }
}

/// Returns whether a media type is `text/event-stream`.
pub fn is_event_stream(media_type: &str) -> bool {
    media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

/// Returns a text as a JSON string, with its quotes (RFC 8259 §7).
pub fn json(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\r' => out += "\\r",
            '\n' => out += "\\n",
            c if c.is_control() => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

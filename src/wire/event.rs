//! An event and its bytes on the wire: both directions, pure.
//!
//! The wire, one event (WHATWG HTML, "Server-sent events"):
//!
//! ```text
//! event: NAME            only where the publisher named it
//! retry: 2000            only where the publisher gave one
//! data: first line
//! data: second line
//! id: 1763654400123-57
//!                        the blank line that makes the client fire it
//! ```
//!
//! Wire facts:
//! - A line ends with LF, CR or CRLF (WHATWG HTML, "Parsing an event stream"). We write LF alone, and split data at
//!   all three, so no byte of a body can end the line that it stands in: a body is never more than data.
//! - A parser takes one space off behind the colon. We always write one, so a value that begins with a space is safe.
//! - `id` comes last: several clients take over the id of an event that was cut off before its blank line.
//! - An event without a `data` line is never fired, so an empty body is one empty `data` line.
//!
//! Limits: the name has [`MAX_NAME`] bytes; the data is limited by whoever reads the body.
//! Deliberately absent: comments and ids of the publisher's. Ids are the log's alone.

use crate::wire::reject::{BLOCK_ID, BLOCK_RETRY, EVENT_NAME, NO_DATA, RESERVED, Reject, UNFINISHED};
use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write as _;

/// Limit: bytes in an event's name (the standard's "event type").
pub const MAX_NAME: usize = 256;
/// The name under which the server tells of missed events, and nobody else may tell anything.
const GAP: &str = "gap";

/// What a publisher says: data, and perhaps a name and a reconnection time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    name: String,
    retry: Option<u64>,
    data: String,
}

impl Event {
    /// An event that `onmessage` hears.
    pub fn new(data: impl Into<String>) -> Event {
        Event::default().with_data(data)
    }

    /// The same event under a name; an empty name is none (the standard's own rule: its type is then `message`).
    ///
    /// # Errors
    /// [`EVENT_NAME`] where the name has CR, LF or NUL, or more than [`MAX_NAME`] bytes; [`RESERVED`] if it is the server's.
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

    /// The same event with other data.
    pub fn with_data(self, data: impl Into<String>) -> Event {
        Event { data: data.into(), ..self }
    }
}

#[doc(hidden)]
impl Event {
    /// The event that tells a reader what it missed.
    pub fn gap(data: String) -> Event {
        Event { name: GAP.into(), retry: None, data }
    }

    /// The same event with a reconnection time in milliseconds.
    pub fn with_retry(self, retry: Option<u64>) -> Event {
        Event { retry, ..self }
    }

    /// What it is made of, each part under the name of its field.
    pub fn fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut fields = vec![("data", Cow::from(&self.data))];
        if !self.name.is_empty() {
            fields.push(("event", Cow::from(&self.name)));
        }
        fields.extend(self.retry.map(|ms| ("retry", ms.to_string().into())));
        fields
    }

    /// Writes the block, with its blank line. The gap event alone has no id.
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

/// Seals what one POST appends to a log in a file, `events` blocks: with several events, or with a NUL, it begins with a
/// comment line that says how many of both there are.
///
/// After a power cut, pages that did not reach the disk read as NULs. That only turns bytes into NULs: so if the number
/// of NULs is the one that the seal says, or none without a seal, every byte is as it was written (`recovery.rs`).
/// No publisher can forge a seal: what it says stands behind the name of a field.
pub fn seal(events: usize, block: &mut Vec<u8>) {
    let nuls = block.iter().filter(|&&byte| byte == 0).count();
    if let Some(line) = seal_line(events as u64, nuls as u64) {
        block.splice(..0, (line + "\n").into_bytes());
    }
}

/// The line of a seal, if there has to be one.
pub fn seal_line(events: u64, nuls: u64) -> Option<String> {
    (events > 1 || (events == 1 && nuls > 0)).then(|| format!(": one POST, {events} events, {nuls} NULs"))
}

/// The lines of a text, split at CRLF, LF and lone CR; an ending line end is followed by one more, empty line.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split("\r\n").flat_map(|text| text.split(['\r', '\n']))
}

/// What a line of an event stream says (WHATWG HTML, "Interpreting an event stream").
pub enum Line<'a> {
    /// The end of a block.
    Blank,
    /// A comment, with its text.
    Comment(&'a str),
    /// A line of data.
    Data(&'a str),
    /// The name of the event.
    Event(&'a str),
    /// The last event ID from the end of the block on.
    Id(&'a str),
    /// The reconnection time in milliseconds, as its digits.
    Retry(&'a str),
    /// What a client ignores: a field that does not exist, or the value of a retry that is no number.
    Ignored(&'a str),
}

impl<'a> Line<'a> {
    /// Reads a line without its end.
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

/// Parses a published event stream: each block that has data becomes one event.
///
/// Source: WHATWG HTML, "Interpreting an event stream". Deviation: where a client would silently drop something (an
/// unfinished block, a stream without any data), a publisher is told, for it would believe that it had been heard.
///
/// # Errors
/// The first rule that the body breaks.
pub fn parse(body: &str) -> Result<Vec<Event>, Reject> {
    let mut events = Vec::new();
    let mut name = "";
    let mut retry = None;
    let mut data = Vec::new();
    let mut open = false; // a field line stands since the last blank line
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let mut lines = lines(body).peekable();
    while let Some(line) = lines.next() {
        match Line::read(line) {
            Line::Comment(_) => continue,
            Line::Blank if lines.peek().is_none() => continue, // behind the last line end there is no further line
            Line::Blank => {
                if !data.is_empty() {
                    events.push(Event { retry: retry.take(), ..Event::new(data.join("\n")).named(name)? });
                }
                name = "";
                data.clear();
                open = false;
                continue;
            }
            Line::Data(value) => data.push(value),
            Line::Event(value) => name = value,
            Line::Retry(value) => retry = Some(value.parse().map_err(|_| BLOCK_RETRY)?),
            Line::Id(_) => return Err(BLOCK_ID),
            Line::Ignored(_) => {}
        }
        open = true;
    }
    // A client obeys a retry also in a block without data: it goes with the next event, or behind the last one with that.
    if let Some(last) = events.last_mut() {
        last.retry = retry.or(last.retry);
    }
    match events.is_empty() {
        _ if open => Err(UNFINISHED),
        true => Err(NO_DATA),
        false => Ok(events),
    }
}

/// Whether a media type is that of an event stream.
pub fn is_event_stream(media_type: &str) -> bool {
    media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

/// A text as a JSON string, quotes included (RFC 8259 §7).
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

//! Framings: how the transport of one subscriber wraps the bytes of a log. Pure.
//!
//! ```text
//! none      log bytes                                     HTTP/1.0, or a body with a length
//! chunks    size in hexadecimal CRLF log bytes CRLF       HTTP/1.1 (RFC 9112 §7.1)
//! blocks    header block                                  WebSocket: a text message for each block (RFC 6455 §5.2)
//! data      header data of the block                      the same, without the names of its fields
//! ```
//!
//! A frame is what is written before log bytes, these bytes, and what is written behind them. All of it follows from the
//! log, so nothing is kept of a frame but a place in it ([`At`]). Subscribers that stand at one place are sent the same
//! bytes, which are framed once ([`Wire`]).
//!
//! Wire facts: a chunk may end anywhere in the log, for a client joins them before it reads the stream. A message is not
//! fragmented (RFC 6455 §5.4). Its header has the length of all of it, so a block is whole at hand when its frame begins.
//!
//! Deliberately absent: sockets, and where the log is. It relies on `event.rs`: the lines of data in a block follow each
//! other, and a blank line ends it.

use crate::wings::websocket::frames as ws;
use std::borrow::Cow;

/// What a line of data begins with.
const DATA: &[u8] = b"data: ";
/// Limit: bytes that are framed at a time, and a header.
const ROOM: usize = 64 << 10;

/// How log bytes are wrapped.
#[derive(Clone, Copy, PartialEq)]
pub enum Framing {
    /// As they are.
    None,
    /// In chunks.
    Chunks,
    /// Each block is a text message.
    Blocks,
    /// The data of each block is a text message.
    Data,
}

/// A place in a log, and in the frame that is open there.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct At {
    /// The first byte of the log that was not written yet.
    pub pos: u64,
    /// How many bytes are still to come from the log, and where what the frame wraps ends. None: between two frames.
    pub frame: Option<(u64, u64)>,
}

impl At {
    /// Where what it is inside of ends.
    pub fn end(&self) -> u64 {
        self.frame.map_or(self.pos, |(_, end)| end)
    }
}

impl Framing {
    /// The field line that announces it in a response's head.
    pub fn field(self) -> &'static str {
        if self == Framing::Chunks { "Transfer-Encoding: chunked\r\n" } else { "" }
    }

    /// A heartbeat.
    pub fn ping(self) -> &'static [u8] {
        match self {
            Framing::None => b":ping\n\n",
            Framing::Chunks => b"7\r\n:ping\n\n\r\n",
            Framing::Blocks | Framing::Data => &[0x80 | ws::PING, 0],
        }
    }

    /// What ends a stream in good order: the last chunk, or a Close frame.
    pub fn last(self) -> Vec<u8> {
        let mut last = Vec::new();
        match self {
            Framing::None => {}
            Framing::Chunks => last.extend(b"0\r\n\r\n"),
            Framing::Blocks | Framing::Data => {
                let why = "you have fallen behind, or your time is over; come back with ?since=ID";
                ws::close(Some(1013), why, &mut last);
            }
        }
        last
    }

    /// Whether each frame is a message, which has to have a whole block.
    pub fn is_message(self) -> bool {
        matches!(self, Framing::Blocks | Framing::Data)
    }

    /// Frames log bytes that begin at a place, up to so many bytes of frames; the place is then behind these. Returns the
    /// rest of what was begun before or behind log bytes.
    pub fn wrap(self, at: &mut At, log: &[u8], mut room: usize, out: &mut Vec<u8>) -> Vec<u8> {
        let base = at.pos;
        loop {
            let before = *at;
            let rest = usize::try_from(at.pos - base).ok().and_then(|from| log.get(from..));
            let Some(step) = self.step(at, rest.unwrap_or_default()) else { return Vec::new() };
            let Some((taken, rest)) = step.split_at_checked(room).filter(|(_, rest)| !rest.is_empty()) else {
                room -= step.len();
                out.extend_from_slice(&step);
                continue;
            };
            out.extend_from_slice(taken);
            if let Cow::Owned(_) = step {
                return rest.into();
            }
            *at = before;
            self.pass(at, taken);
            return Vec::new();
        }
    }

    /// Frames whole blocks that are not of a log.
    pub fn alone(self, blocks: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.wrap(&mut At::default(), blocks, usize::MAX, &mut out);
        out
    }

    /// What is written next: log bytes, or what wraps them. None if that takes more of the log.
    fn step<'a>(self, at: &mut At, log: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let Some((left, _)) = at.frame else { return self.begin(at, log).map(Cow::from) };
        if left == 0 {
            at.frame = None;
            return Some(b"\r\n".to_vec().into());
        }
        let mut text = usize::try_from(left).ok().and_then(|left| log.get(..left)).unwrap_or(log);
        if self == Framing::Data {
            text = text.split_inclusive(|&b| b == b'\n').next()?;
        }
        self.pass(at, text);
        Some(text.into()).filter(|_| !text.is_empty())
    }

    /// So much of a frame's text was written. A message ends with its text.
    fn pass(self, at: &mut At, text: &[u8]) {
        let Some((left, end)) = at.frame else { return };
        let left = left - text.len() as u64;
        let line = if self == Framing::Data && text.ends_with(b"\n") { DATA.len() } else { 0 };
        *at = match left {
            0 if self != Framing::Chunks => At { pos: end, frame: None },
            _ => At { pos: at.pos + (text.len() + line) as u64, frame: Some((left, end)) },
        };
    }

    /// Opens a frame; returns what is written before its text.
    fn begin(self, at: &mut At, log: &[u8]) -> Option<Vec<u8>> {
        if !self.is_message() {
            let size = log.len() as u64;
            at.frame = Some((size, at.pos + size)).filter(|_| size > 0);
            let header = if self == Framing::Chunks { format!("{size:x}\r\n") } else { String::new() };
            return at.frame.map(|_| header.into());
        }
        let size = block_end(log)?;
        let block = log.get(..size)?;
        let end = at.pos + size as u64;
        let mut length = size;
        if self == Framing::Data {
            let lines = || block.split_inclusive(|&b| b == b'\n');
            let fields = lines().take_while(|line| !line.starts_with(DATA)).flatten().count();
            at.pos += (fields + DATA.len()) as u64;
            let data = lines().filter_map(|line| line.strip_prefix(DATA)).map(<[u8]>::len).sum::<usize>();
            length = data.saturating_sub(1); // the last line's end is none of the data
        }
        let length = length as u64;
        *at = if length > 0 { At { frame: Some((length, end)), ..*at } } else { At { pos: end, frame: None } };
        let mut header = Vec::new();
        ws::header(ws::TEXT, length, &mut header);
        Some(header)
    }
}

/// The length of the block at the front of log bytes, if all of it is there.
pub fn block_end(log: &[u8]) -> Option<usize> {
    log.windows(2).position(|pair| pair == b"\n\n").map(|n| n + 2)
}

/// What was framed last of a log, for all that stand at one place.
#[derive(Default)]
pub struct Wire {
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// The place behind them, and what is still to be written there.
    pub end: (At, Vec<u8>),
    of: Option<(At, usize)>, // where they begin, and how much of the log was at hand
}

impl Wire {
    /// Frames log bytes, unless that was done last.
    pub fn fill(&mut self, framing: Framing, mut at: At, log: &[u8]) {
        let of = Some((at, log.len()));
        if self.of != of {
            self.of = of;
            self.bytes.clear();
            let rest = framing.wrap(&mut at, log, ROOM, &mut self.bytes);
            self.end = (at, rest);
        }
    }
}

//! Framings: how the transport of one subscriber wraps the bytes of a log. Pure.
//!
//! ```text
//! none      log bytes                                     HTTP/1.0, or a body with a length
//! chunks    size in hexadecimal CRLF log bytes CRLF       HTTP/1.1 (RFC 9112 §7.1)
//! ```
//!
//! A frame is what is written before log bytes, these bytes, and what is written behind them. All of it follows from the
//! log, so nothing is kept of a frame but a place in it ([`Cursor`]). Subscribers that stand at one place are sent the same
//! bytes, which are framed once ([`FramedBytes`]).
//!
//! A chunk may end anywhere in the log, for a client joins them before it reads the stream. Another transport wraps each
//! block as a *message* instead: whole, and with its length in front, so that the block is at hand when it begins.
//!
//! Deliberately absent: sockets, and where the log is.

use std::borrow::Cow;
use std::ptr;

/// Limit: bytes that are framed at a time, and a header.
const MAX_FRAMED: usize = 64 << 10;

/// How log bytes are wrapped.
pub struct Framing {
    /// The field line that announces it in a response's head.
    pub field: &'static str,
    /// A heartbeat.
    pub ping: &'static [u8],
    /// What ends a stream in good order.
    pub last: fn() -> Vec<u8>,
    /// Opens a frame; returns what is written before its text. None if that takes more of the log.
    pub begin: fn(&mut Cursor, &[u8]) -> Option<Vec<u8>>,
    /// Of a frame's text in the log, what is written at a time, and how many bytes behind that are none of it.
    pub piece: fn(&[u8]) -> (&[u8], usize),
    /// What is written behind a frame's text.
    pub end: &'static [u8],
}

/// Log bytes as they are.
pub static UNFRAMED: Framing = Framing {
    field: "",
    ping: b":ping\n\n",
    last: Vec::new,
    begin: |at, log| one_frame(at, log).map(|_| Vec::new()),
    piece: |text| (text, 0),
    end: b"",
};
/// Log bytes in chunks.
static CHUNKS: Framing = Framing {
    field: "Transfer-Encoding: chunked\r\n",
    ping: b"7\r\n:ping\n\n\r\n",
    last: || b"0\r\n\r\n".into(),
    begin: |at, log| one_frame(at, log).map(|size| format!("{size:x}\r\n").into()),
    end: b"\r\n",
    ..UNFRAMED
};
/// A framing. Each is there once, and by that it is told from others.
pub type FramingRef = &'static Framing;

/// None, or chunks.
pub fn chunked(chunked: bool) -> FramingRef {
    if chunked { &CHUNKS } else { &UNFRAMED }
}

/// A frame of all that is at hand.
fn one_frame(at: &mut Cursor, log: &[u8]) -> Option<u64> {
    let size = log.len() as u64;
    at.frame = Some((size, at.pos + size)).filter(|_| size > 0);
    at.frame.map(|(size, _)| size)
}

/// A place in a log, and in the frame that is open there.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Cursor {
    /// The first byte of the log that was not written yet.
    pub pos: u64,
    /// How many bytes are still to come from the log, and where what the frame wraps ends. None: between two frames.
    pub frame: Option<(u64, u64)>,
}

impl Cursor {
    /// Where what it is inside of ends.
    pub fn end(&self) -> u64 {
        self.frame.map_or(self.pos, |(_, end)| end)
    }
}

impl Framing {
    /// Frames log bytes that begin at a place, up to so many bytes of frames; the place is then behind these. Returns the
    /// rest of what was begun before or behind log bytes.
    pub fn wrap(&self, at: &mut Cursor, log: &[u8], mut room: usize, out: &mut Vec<u8>) -> Vec<u8> {
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
            self.advance(at, taken, 0);
            return Vec::new();
        }
    }

    /// Frames whole blocks that are not of a log.
    pub fn wrap_all(&self, blocks: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.wrap(&mut Cursor::default(), blocks, usize::MAX, &mut out);
        out
    }

    /// What is written next: log bytes, or what wraps them. None if that takes more of the log.
    fn step<'a>(&self, at: &mut Cursor, log: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let Some((left, _)) = at.frame else { return (self.begin)(at, log).map(Cow::from) };
        if left == 0 {
            at.frame = None;
            return Some(self.end.to_vec().into());
        }
        let text = usize::try_from(left).ok().and_then(|left| log.get(..left)).unwrap_or(log);
        let (piece, passed) = (self.piece)(text);
        self.advance(at, piece, passed);
        Some(piece.into()).filter(|_| !piece.is_empty())
    }

    /// So much of a frame's text was written. If nothing is to be written behind the text, the frame ends with it.
    fn advance(&self, at: &mut Cursor, text: &[u8], passed: usize) {
        let Some((left, end)) = at.frame else { return };
        let left = left - text.len() as u64;
        *at = match left {
            0 if self.end.is_empty() => Cursor { pos: end, frame: None },
            _ => Cursor { pos: at.pos + (text.len() + passed) as u64, frame: Some((left, end)) },
        };
    }
}

/// The length of the block at the front of log bytes, if all of it is there.
pub fn block_end(log: &[u8]) -> Option<usize> {
    log.windows(2).position(|pair| pair == b"\n\n").map(|n| n + 2)
}

/// What was framed last of a log, for all that stand at one place.
pub struct FramedBytes {
    framing: FramingRef,
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// The place behind them, and what is still to be written there.
    pub end: (Cursor, Vec<u8>),
    of: Option<(Cursor, usize)>, // where they begin, and how much of the log was at hand
}

impl FramedBytes {
    /// Nothing yet.
    pub fn new(framing: FramingRef) -> FramedBytes {
        FramedBytes { framing, bytes: Vec::new(), end: Default::default(), of: None }
    }

    /// Whether it is of this framing.
    pub fn is_of(&self, framing: FramingRef) -> bool {
        ptr::eq(self.framing, framing)
    }

    /// Frames log bytes, unless that was done last.
    pub fn frame(&mut self, mut at: Cursor, log: &[u8]) {
        let of = Some((at, log.len()));
        if self.of != of {
            self.of = of;
            self.bytes.clear();
            let rest = self.framing.wrap(&mut at, log, MAX_FRAMED, &mut self.bytes);
            self.end = (at, rest);
        }
    }
}

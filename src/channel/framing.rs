//! Framings: how the bytes of a log are wrapped for one subscriber's transport. Pure.
//!
//! ```text
//! none      log bytes                                     HTTP/1.0, or a body with a length
//! chunks    size in hexadecimal CRLF log bytes CRLF       HTTP/1.1 (RFC 9112 §7.1)
//! ```
//!
//! A frame has three parts: bytes before its payload, the payload, and bytes after it. The payload is bytes of the log,
//! and the other parts follow from them. So a subscriber keeps nothing of a frame but its place in it ([`Cursor`]).
//! Subscribers at the same place are sent the same bytes, which are framed only once ([`FramedBytes`]).
//!
//! A chunk may end anywhere in the log, because a client joins all chunks before it parses the stream. Another
//! transport may wrap each block as one *message*, with its length first. Such a frame begins only when the whole block
//! is available.
//!
//! Deliberately absent: sockets, and where the bytes of the log come from.

use std::borrow::Cow;
use std::ptr;

/// Limit: bytes that are framed at a time. The rest of a header may follow them.
const MAX_FRAMED: usize = 64 << 10;

/// A way to wrap bytes of a log.
pub struct Framing {
    /// The field line in a response's head that announces the framing.
    pub field: &'static str,
    /// A heartbeat, in a frame.
    pub ping: &'static [u8],
    /// Returns the bytes that end a stream in good order.
    pub last: fn() -> Vec<u8>,
    /// Opens a frame, and returns the bytes before its payload. Returns None if it needs more of the log first.
    pub begin: fn(&mut Cursor, &[u8]) -> Option<Vec<u8>>,
    /// Returns the next bytes of a frame's payload, and how many bytes of the log after them are not payload.
    pub piece: fn(&[u8]) -> (&[u8], usize),
    /// The bytes after a frame's payload.
    pub end: &'static [u8],
}

/// Log bytes as they are.
pub static UNFRAMED: Framing = Framing {
    field: "",
    ping: b":ping\n\n",
    last: Vec::new,
    begin: |cursor, log| one_frame(cursor, log).map(|_| Vec::new()),
    piece: |payload| (payload, 0),
    end: b"",
};
/// Log bytes in chunks.
static CHUNKS: Framing = Framing {
    field: "Transfer-Encoding: chunked\r\n",
    ping: b"7\r\n:ping\n\n\r\n",
    last: || b"0\r\n\r\n".into(),
    begin: |cursor, log| one_frame(cursor, log).map(|size| format!("{size:x}\r\n").into()),
    end: b"\r\n",
    ..UNFRAMED
};
/// A reference to a framing. Each framing exists once, so framings are compared by their addresses.
pub type FramingRef = &'static Framing;

/// Returns the framing of HTTP, with or without chunks.
pub fn chunked(chunked: bool) -> FramingRef {
    if chunked { &CHUNKS } else { &UNFRAMED }
}

/// Opens a frame of all available bytes, and returns their number. Returns None if there are none.
fn one_frame(cursor: &mut Cursor, log: &[u8]) -> Option<u64> {
    let size = log.len() as u64;
    cursor.frame = Some((size, cursor.pos + size)).filter(|_| size > 0);
    cursor.frame.map(|(size, _)| size)
}

/// A place in a log, and in the frame that is open there.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Cursor {
    /// The position of the next byte to write.
    pub pos: u64,
    /// In a frame: how many bytes of payload are left, and the position at which the frame ends. None: between two
    /// frames.
    pub frame: Option<(u64, u64)>,
}

impl Cursor {
    /// Returns the position at which the open frame ends, or `pos` if none is open.
    pub fn end(&self) -> u64 {
        self.frame.map_or(self.pos, |(_, end)| end)
    }
}

impl Framing {
    /// Frames log bytes that begin at the cursor, until there are `room` bytes of frames. Moves the cursor over the
    /// bytes that were framed. If `room` ends within the bytes before or after a payload, it returns their rest.
    pub fn wrap(&self, cursor: &mut Cursor, log: &[u8], mut room: usize, out: &mut Vec<u8>) -> Vec<u8> {
        let base = cursor.pos;
        loop {
            let before = *cursor;
            let rest = usize::try_from(cursor.pos - base).ok().and_then(|from| log.get(from..));
            let Some(step) = self.step(cursor, rest.unwrap_or_default()) else { return Vec::new() };
            let Some((taken, rest)) = step.split_at_checked(room).filter(|(_, rest)| !rest.is_empty()) else {
                room -= step.len();
                out.extend_from_slice(&step);
                continue;
            };
            out.extend_from_slice(taken);
            if let Cow::Owned(_) = step {
                return rest.into();
            }
            *cursor = before;
            self.advance(cursor, taken, 0);
            return Vec::new();
        }
    }

    /// Frames whole blocks that are not in a log.
    pub fn wrap_all(&self, blocks: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.wrap(&mut Cursor::default(), blocks, usize::MAX, &mut out);
        out
    }

    /// Returns the bytes to write next: payload, or what is before or after it. Returns None if it needs more of the
    /// log first.
    fn step<'a>(&self, cursor: &mut Cursor, log: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let Some((left, _)) = cursor.frame else { return (self.begin)(cursor, log).map(Cow::from) };
        if left == 0 {
            cursor.frame = None;
            return Some(self.end.to_vec().into());
        }
        let payload = usize::try_from(left).ok().and_then(|left| log.get(..left)).unwrap_or(log);
        let (piece, skipped) = (self.piece)(payload);
        self.advance(cursor, piece, skipped);
        Some(piece.into()).filter(|_| !piece.is_empty())
    }

    /// Moves the cursor over payload that was written. If nothing is to be written after the payload, the frame ends
    /// with it.
    fn advance(&self, cursor: &mut Cursor, payload: &[u8], skipped: usize) {
        let Some((left, end)) = cursor.frame else { return };
        let left = left - payload.len() as u64;
        *cursor = match left {
            0 if self.end.is_empty() => Cursor { pos: end, frame: None },
            _ => Cursor { pos: cursor.pos + (payload.len() + skipped) as u64, frame: Some((left, end)) },
        };
    }
}

/// Returns the length of the first block of these bytes, if the whole block is there.
pub fn block_end(log: &[u8]) -> Option<usize> {
    log.windows(2).position(|pair| pair == b"\n\n").map(|n| n + 2)
}

/// The bytes that one framing has framed last, for all subscribers at the same place.
pub struct FramedBytes {
    framing: FramingRef,
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// The place after these bytes, and the bytes that have to be written first there.
    pub end: (Cursor, Vec<u8>),
    source: Option<(Cursor, usize)>, // where the bytes begin, and how many log bytes were available
}

impl FramedBytes {
    /// Returns a value without bytes.
    pub fn new(framing: FramingRef) -> FramedBytes {
        FramedBytes { framing, bytes: Vec::new(), end: Default::default(), source: None }
    }

    /// Returns whether the bytes are in this framing.
    pub fn is_of(&self, framing: FramingRef) -> bool {
        ptr::eq(self.framing, framing)
    }

    /// Frames log bytes that begin at the cursor, unless the same were framed last.
    pub fn frame(&mut self, mut cursor: Cursor, log: &[u8]) {
        let source = Some((cursor, log.len()));
        if self.source != source {
            self.source = source;
            self.bytes.clear();
            let rest = self.framing.wrap(&mut cursor, log, MAX_FRAMED, &mut self.bytes);
            self.end = (cursor, rest);
        }
    }
}

//! Framings: how the transport of one subscriber wraps the bytes of a log. Pure.
//!
//! ```text
//! none      log bytes                                     HTTP/1.0, or a body with a length
//! chunks    size in hexadecimal CRLF log bytes CRLF       HTTP/1.1 (RFC 9112 §7.1)
//! blocks    header block                                  WebSocket, a text message for each block (RFC 6455 §5.2)
//! data      header data of the block                      the same, without the names of its fields
//! ```
//!
//! A frame is what is written before log bytes, these bytes, and what is written behind them. Where it begins and how
//! much it wraps follows from the log alone, so nothing has to be kept of it but a place: [`At`]. Subscribers that
//! stand at one place are sent the same bytes, which are framed once: [`Wire`].
//!
//! Wire facts: a chunk may end anywhere in the log, for a client joins them before it reads the stream. A message is not
//! fragmented (RFC 6455 §5.4), so its header needs the length of all of it. If the block goes on behind the log bytes that
//! are at hand, its end is sought first, piece by piece ([`Frame::Sought`]), and no byte is read twice for that.
//!
//! Deliberately absent: sockets, and what the log is. It relies on `event.rs`: the lines of data in a block follow each
//! other, and a blank line ends it.

use crate::ws;

/// What a line of data begins with.
const DATA: &[u8] = b"data: ";
const CRLF: &[u8] = b"\r\n";

/// How log bytes are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// As they are.
    #[default]
    None,
    /// In chunks.
    Chunks,
    /// Each block is a text message.
    Blocks,
    /// The data of each block is a text message.
    Data,
}

/// A frame that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Nothing of it was written. In front of this position its end is not, but so many ends of lines of data.
    Sought(u64, u64),
    /// So many bytes of its payload are still to come; what it wraps ends at this position.
    Open(u64, u64),
}

/// A place in a log, and in the frame that is open there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The first byte of the log that was not written yet.
    pub pos: u64,
    /// None: between two frames.
    pub frame: Option<Frame>,
}

impl At {
    /// Between two frames.
    pub fn between(pos: u64) -> At {
        At { pos, frame: None }
    }

    /// The first byte of the log that has to be read.
    pub fn next(&self) -> u64 {
        if let Some(Frame::Sought(next, _)) = self.frame { next } else { self.pos }
    }

    /// Where what the open frame wraps ends.
    pub fn end(&self) -> u64 {
        if let Some(Frame::Open(_, end)) = self.frame { end } else { self.pos }
    }

    /// So many bytes of the payload were written. A message ends with them; a chunk has still an end of its own.
    fn pass(&mut self, count: u64, framing: Framing) {
        let Some(Frame::Open(left, end)) = self.frame else { return };
        self.pos += count;
        self.frame = Some(Frame::Open(left - count, end));
        if left == count && framing != Framing::Chunks {
            *self = At::between(end);
        }
    }
}

impl Framing {
    /// The field lines that announce it, in a response's head.
    pub fn fields(self) -> &'static str {
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

    /// What ends a body behind which the connection may be cut without harm: the last chunk.
    pub fn last(self) -> &'static [u8] {
        if self == Framing::Chunks { b"0\r\n\r\n" } else { b"" }
    }

    /// Whether each block is a frame.
    pub fn is_by_blocks(self) -> bool {
        matches!(self, Framing::Blocks | Framing::Data)
    }

    /// Frames log bytes that begin where a place reads; what [`Framing::is_by_blocks`] must begin there in their piece.
    /// Returns the place behind what was written.
    pub fn wrap(self, at: At, log: &[u8], out: &mut Vec<u8>) -> At {
        let mut steps = Steps::new(self, at, log);
        while let Some(step) = steps.next() {
            out.extend_from_slice(step.bytes());
        }
        steps.at
    }

    /// Frames whole blocks that are not of the log.
    pub fn alone(self, blocks: &[u8]) -> Vec<u8> {
        if self == Framing::None {
            return blocks.into();
        }
        let mut out = Vec::new();
        self.wrap(At::default(), blocks, &mut out);
        out
    }

    /// The place of a subscriber whose socket took so many bytes of what [`Framing::wrap`] made, and what it is owed
    /// before anything else: the rest of what stands before or behind log bytes.
    pub fn after(self, at: At, log: &[u8], mut taken: usize) -> (At, Vec<u8>) {
        let mut steps = Steps::new(self, at, log);
        loop {
            let mut before = steps.at;
            let Some(step) = steps.next() else { return (steps.at, Vec::new()) };
            let rest = step.bytes().get(taken..).unwrap_or_default();
            if rest.is_empty() {
                taken -= step.bytes().len();
                continue;
            }
            return match step {
                _ if taken == 0 => (before, Vec::new()),
                Step::Wrapping(_) => (steps.at, rest.into()),
                Step::Text(_) => {
                    before.pass(taken as u64, self);
                    (before, Vec::new())
                }
            };
        }
    }
}

/// What was framed last, for all that stand at one place.
#[derive(Default)]
pub struct Wire {
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// The place behind them.
    pub end: At,
    of: Option<(At, usize)>, // where they begin, and how much of the log was at hand
}

impl Wire {
    /// Frames log bytes, unless that was done last.
    pub fn fill(&mut self, framing: Framing, at: At, log: &[u8]) {
        if self.of.replace((at, log.len())) != Some((at, log.len())) {
            self.bytes.clear();
            self.end = framing.wrap(at, log, &mut self.bytes);
        }
    }

    /// Forgets them; the next log may be another one.
    pub fn forget(&mut self) {
        self.of = None;
    }
}

/// What is written next.
enum Step<'a> {
    /// What stands before or behind log bytes.
    Wrapping(Vec<u8>),
    /// Log bytes.
    Text(&'a [u8]),
}

impl Step<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Step::Wrapping(bytes) => bytes,
            Step::Text(bytes) => bytes,
        }
    }
}

/// The steps from a place on, over log bytes that begin where it reads.
struct Steps<'a> {
    framing: Framing,
    at: At, // behind the last step
    base: u64,
    log: &'a [u8],
}

impl<'a> Steps<'a> {
    fn new(framing: Framing, at: At, log: &'a [u8]) -> Steps<'a> {
        Steps { framing, at, base: at.next(), log }
    }

    /// What is at hand of the log from a position on.
    fn rest(&self, pos: u64) -> &'a [u8] {
        let from = pos.checked_sub(self.base).and_then(|from| usize::try_from(from).ok());
        from.and_then(|from| self.log.get(from..)).unwrap_or_default()
    }

    fn next(&mut self) -> Option<Step<'a>> {
        let Some(Frame::Open(left, end)) = self.at.frame else { return self.begin() };
        if left == 0 {
            self.at = At::between(end);
            return Some(Step::Wrapping(CRLF.into()));
        }
        let rest = self.rest(self.at.pos);
        let mut text = usize::try_from(left).ok().and_then(|left| rest.get(..left)).unwrap_or(rest);
        let line_end = text.iter().position(|&b| b == b'\n').filter(|_| self.framing == Framing::Data);
        if let Some(n) = line_end {
            text = text.get(..=n).unwrap_or_default();
        }
        self.at.pass(text.len() as u64, self.framing);
        if line_end.is_some() && self.at.frame.is_some() {
            self.at.pos += DATA.len() as u64;
        }
        (!text.is_empty()).then_some(Step::Text(text))
    }

    /// Opens the next frame; none if that takes more of the log.
    fn begin(&mut self) -> Option<Step<'a>> {
        let At { pos, frame } = self.at;
        let rest = self.rest(self.at.next());
        if rest.is_empty() {
            return None;
        }
        if self.framing == Framing::Chunks {
            let size = rest.len() as u64;
            self.at.frame = Some(Frame::Open(size, pos + size));
            return Some(Step::Wrapping(format!("{size:x}\r\n").into()));
        }
        let is_first = self.at.next() == self.base;
        let mut start = pos; // of what the message has: the block, or its data
        let mut lines = 0;
        match frame {
            Some(Frame::Sought(_, before)) => lines = before,
            _ if self.framing == Framing::Data => start += fields_before_data(rest) as u64,
            _ => {}
        }
        let from = start.max(self.at.next());
        let found = if self.framing == Framing::Data { data_end(self.rest(from), &mut lines) } else { block_end(rest) };
        let (data, end) = match found {
            Ok((data, end)) => (from + data as u64, from + end as u64),
            // A log that somebody has damaged.
            Err(0) if is_first => (from, from + self.rest(from).len() as u64),
            Err(_) if !is_first => return None, // the next piece begins with it
            Err(seen) => {
                self.at = At { pos: start, frame: Some(Frame::Sought(from + seen as u64, lines)) };
                return None;
            }
        };
        let names = DATA.len() as u64 * (lines + 1);
        let (pos, left) = match self.framing {
            Framing::Data => (start + DATA.len() as u64, data.saturating_sub(start + names)),
            _ => (start, end - start),
        };
        self.at = if left > 0 { At { pos, frame: Some(Frame::Open(left, end)) } } else { At::between(end) };
        let mut header = Vec::new();
        ws::header(ws::TEXT, left, &mut header);
        Some(Step::Wrapping(header))
    }
}

/// The length of what a block has before its first line of data.
fn fields_before_data(block: &[u8]) -> usize {
    let lines = block.split_inclusive(|&b| b == b'\n');
    lines.take_while(|line| !line.starts_with(DATA)).map(<[u8]>::len).sum()
}

/// Where a block ends; or, if that is not in sight, in front of what it does not end.
fn block_end(block: &[u8]) -> Result<(usize, usize), usize> {
    let end = block.windows(2).position(|pair| pair == b"\n\n");
    end.map(|n| (n, n + 2)).ok_or(block.len().saturating_sub(1))
}

/// The same, and before that where the last line of data ends; counts the others.
fn data_end(block: &[u8], lines: &mut u64) -> Result<(usize, usize), usize> {
    let mut at = 0;
    loop {
        let rest = block.get(at..).unwrap_or_default();
        at += rest.iter().position(|&b| b == b'\n').ok_or(block.len())?;
        match block.get(at + 1) {
            None => return Err(at),
            Some(b'd') => *lines += 1,
            Some(_) => {
                let tail = block.get(at..).unwrap_or_default();
                let (_, end) = block_end(tail).map_err(|_| at)?;
                return Ok((at, at + end));
            }
        }
        at += 1;
    }
}

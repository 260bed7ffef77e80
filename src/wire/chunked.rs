//! A body in chunks (RFC 9112 §7.1), as it arrives. Pure.
//!
//! ```text
//! chunked-body = *( size [ extensions ] CRLF data CRLF ) 1*"0" [ extensions ] CRLF *( field-line CRLF ) CRLF
//! ```
//!
//! Chunk extensions and trailer fields are read, limited and ignored, as §7.1.1 and §7.1.2 allow.
//!
//! Limits: [`MAX_CHUNK_LINE`], [`MAX_SECTION`] for the trailer; the body's is the caller's.

use crate::wire::http::{MAX_SECTION, field_line, has_control, is_token, split};
use crate::wire::reject::{CHUNK, LARGE_SECTION, LONE_LF, Reject, TOO_LARGE};
use std::mem::take;

/// Limit: bytes in the line before a chunk, with its extensions.
pub const MAX_CHUNK_LINE: usize = 256;

/// What comes next of a body in chunks.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum ChunkState {
    /// The line before a chunk.
    #[default]
    Size,
    /// So many bytes of its data.
    Data(usize),
    /// The CR LF behind it.
    End,
    /// A line of the trailer section, or the blank line.
    Trailer,
    /// Nothing: the body has ended.
    Over,
}

impl ChunkState {
    /// What comes behind this line, which is without its CR LF.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn after_line(self, line: &[u8]) -> Result<ChunkState, Reject> {
        match self {
            ChunkState::Size => match chunk_size(line).ok_or(CHUNK)? {
                0 => Ok(ChunkState::Trailer),
                size => Ok(ChunkState::Data(size)),
            },
            ChunkState::Trailer if line.is_empty() => Ok(ChunkState::Over),
            ChunkState::Trailer => field_line(line).map(|_| ChunkState::Trailer),
            _ if line.is_empty() => Ok(ChunkState::Size),
            _ => Err(CHUNK),
        }
    }
}

/// Reads a chunked body (RFC 9112 §7.1) as it arrives. Each byte is looked at once.
#[derive(Default)]
pub struct Chunked {
    /// The bytes of the chunks so far.
    pub body: Vec<u8>,
    state: ChunkState,
    line: Vec<u8>, // as far as it has come
    trailer: usize,
}

impl Chunked {
    /// Takes what it can from the front of `buf`: how many bytes, and whether the body is complete.
    ///
    /// # Errors
    /// A malformed chunk, a section over its limit, or a body of more than `max` bytes.
    pub fn feed(&mut self, buf: &[u8], max: usize) -> Result<(usize, bool), Reject> {
        let mut at = 0;
        while let Some(rest @ [_, ..]) = buf.get(at..) {
            if let ChunkState::Data(left) = self.state {
                let data = rest.get(..left).unwrap_or(rest);
                self.body.extend_from_slice(data);
                at += data.len();
                self.state = if data.len() == left { ChunkState::End } else { ChunkState::Data(left - data.len()) };
                continue;
            }
            let part = rest.split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
            at += part.len();
            self.line.extend_from_slice(part);
            let (most, reject) = match self.state {
                ChunkState::Trailer => (MAX_SECTION + 2 - self.trailer, LARGE_SECTION), // with the blank line
                _ => (MAX_CHUNK_LINE + 2, CHUNK),
            };
            if self.line.len() > most || (self.state == ChunkState::End && !b"\r\n".starts_with(&self.line)) {
                return Err(reject);
            }
            if part.ends_with(b"\n") && self.end_line(max)? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// A line has ended. Returns whether the body has.
    fn end_line(&mut self, max: usize) -> Result<bool, Reject> {
        let line = take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").ok_or(LONE_LF)?;
        if self.state == ChunkState::Trailer {
            self.trailer += line.len() + 2;
        }
        self.state = self.state.after_line(line)?;
        match self.state {
            ChunkState::Data(size) if size > max.saturating_sub(self.body.len()) => Err(TOO_LARGE),
            next => Ok(next == ChunkState::Over),
        }
    }
}

/// The size in the line before a chunk, `chunk-size [ chunk-ext ]`: in hex, without sign or prefix. What extensions say is
/// ignored.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let parts = split(line, b';');
    let (size, extensions) = parts.split_first()?;
    let is_hex = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
    let is_clean = line.trim_ascii() == line && !has_control(line);
    let is_right = is_hex && is_clean && extensions.iter().all(|extension| is_extension(extension));
    is_right.then(|| usize::from_str_radix(&String::from_utf8_lossy(size), 16).unwrap_or(usize::MAX))
}

/// Whether this is an extension, `name [ "=" ( token / quoted-string ) ]` with white space between them (§7.1.1).
fn is_extension(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |&b| b == b'=').map(<[u8]>::trim_ascii);
    // Behind a closing quote there is nothing.
    let is_quoted = |value: &[u8]| value.starts_with(b"\"") && matches!(split(value, b'"')[..], [_, []]);
    parts.next().is_some_and(is_token) && parts.next().is_none_or(|value| is_token(value) || is_quoted(value))
}

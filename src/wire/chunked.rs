//! Reads a body in chunks (RFC 9112 §7.1) while it arrives. Pure.
//!
//! ```text
//! chunked-body = *( size [ extensions ] CRLF data CRLF ) 1*"0" [ extensions ] CRLF *( field-line CRLF ) CRLF
//! ```
//!
//! Chunk extensions and trailer fields are checked, limited and then ignored, as RFC 9112 §7.1.1 and §7.1.2 allow.
//!
//! Limits: [`MAX_CHUNK_LINE`]; [`MAX_SECTION`] for the trailer section; the caller limits the body.

use crate::wire::http::{MAX_SECTION, field_line, has_control, is_token, split};
use crate::wire::reject::{CHUNK, LARGE_SECTION, LONE_LF, Reject, TOO_LARGE};
use std::mem::take;

/// Limit: the bytes of the line before a chunk, extensions included.
pub const MAX_CHUNK_LINE: usize = 256;

/// What comes next in a body in chunks.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum ChunkState {
    /// The line with the size of a chunk.
    #[default]
    Size,
    /// The data of a chunk: this many bytes are left.
    Data(usize),
    /// The CR LF after the data.
    End,
    /// A line of the trailer section, or the blank line.
    Trailer,
    /// Nothing. The body has ended.
    Over,
}

impl ChunkState {
    /// Returns the state after this line, which comes without its CR LF.
    ///
    /// # Errors
    /// If the line is malformed.
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

/// Joins the chunks of a body. It looks at each byte once.
#[derive(Default)]
pub struct Chunked {
    /// The data of the chunks so far.
    pub body: Vec<u8>,
    state: ChunkState,
    line: Vec<u8>,  // what has come of the current line
    trailer: usize, // the bytes of the trailer section so far
}

impl Chunked {
    /// Reads bytes of the body from the front of `buf`. Returns how many, and whether the body is complete.
    ///
    /// # Errors
    /// If a chunk is malformed, if the trailer section is over its limit, or if the body is longer than `max` bytes.
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
            let (max_line, reject) = match self.state {
                ChunkState::Trailer => (MAX_SECTION + 2 - self.trailer, LARGE_SECTION), // with the blank line
                _ => (MAX_CHUNK_LINE + 2, CHUNK),
            };
            if self.line.len() > max_line || (self.state == ChunkState::End && !b"\r\n".starts_with(&self.line)) {
                return Err(reject);
            }
            if part.ends_with(b"\n") && self.end_line(max)? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Reads a line that is complete. Returns whether the body has ended with it.
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

/// Returns the size in the line before a chunk, `chunk-size [ chunk-ext ]`. The size is hexadecimal, without sign or
/// prefix. Extensions must be well formed, and are ignored.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let parts = split(line, b';');
    let (size, extensions) = parts.split_first()?;
    let is_hex = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
    let is_clean = line.trim_ascii() == line && !has_control(line);
    let is_valid = is_hex && is_clean && extensions.iter().all(|extension| is_extension(extension));
    is_valid.then(|| usize::from_str_radix(&String::from_utf8_lossy(size), 16).unwrap_or(usize::MAX))
}

/// Returns whether a text is a chunk extension, `token [ "=" ( token / quoted-string ) ]`. White space may be around
/// each of them (RFC 9112 §7.1.1).
fn is_extension(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |&b| b == b'=').map(<[u8]>::trim_ascii);
    // Nothing may come after the closing quote.
    let is_quoted = |value: &[u8]| value.starts_with(b"\"") && matches!(split(value, b'"')[..], [_, []]);
    parts.next().is_some_and(is_token) && parts.next().is_none_or(|value| is_token(value) || is_quoted(value))
}

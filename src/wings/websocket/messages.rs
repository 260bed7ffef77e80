//! The framings of a WebSocket: each block of the log is a text message. Pure.
//!
//! ```text
//! blocks    header block                 with the subprotocol
//! data      header data of the block     the same, without the names of its fields
//! ```
//!
//! A message is not fragmented (RFC 6455 §5.4). Its header has the length of all of it, so a block is whole at hand when its
//! frame begins. It relies on `event.rs`: the lines of data in a block follow each other, and a blank line ends it.

use crate::channel::framing::{At, Framing, block_end};
use crate::wings::websocket::frames::{PING, TEXT, close, header};

/// What a line of data begins with.
const DATA: &[u8] = b"data: ";

/// Each block is a text message, or with `data` what its lines of data say.
pub struct Messages {
    /// Without the names of its fields.
    pub data: bool,
}

impl Framing for Messages {
    fn name(&self) -> &'static str {
        if self.data { "data" } else { "blocks" }
    }

    fn ping(&self) -> &'static [u8] {
        &[0x80 | PING, 0]
    }

    fn last(&self) -> Vec<u8> {
        close(Some(1013), "you have fallen behind, or your time is over; come back with ?since=ID")
    }

    fn begin(&self, at: &mut At, log: &[u8]) -> Option<Vec<u8>> {
        let block = log.get(..block_end(log)?)?;
        let end = at.pos + block.len() as u64;
        let mut length = block.len();
        if self.data {
            let lines = || block.split_inclusive(|&b| b == b'\n');
            let fields = lines().take_while(|line| !line.starts_with(DATA)).flatten().count();
            at.pos += (fields + DATA.len()) as u64;
            let data = lines().filter_map(|line| line.strip_prefix(DATA)).map(<[u8]>::len).sum::<usize>();
            length = data.saturating_sub(1); // the last line's end is none of the data
        }
        let length = length as u64;
        *at = if length > 0 { At { frame: Some((length, end)), ..*at } } else { At { pos: end, frame: None } };
        Some(header(TEXT, length))
    }

    fn piece<'a>(&self, text: &'a [u8]) -> (&'a [u8], usize) {
        let line = text.split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
        match line {
            _ if !self.data => (text, 0),
            [.., b'\n'] => (line, DATA.len()),
            _ => (line, 0),
        }
    }
}

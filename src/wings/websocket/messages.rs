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

/// Each block is a text message.
pub struct Blocks;
/// The data of each block is a text message.
pub struct Data;

/// Opens a frame for a text of this length, in a block that ends there.
fn open(at: &mut At, length: usize, end: u64) -> Vec<u8> {
    let length = length as u64;
    *at = if length > 0 { At { frame: Some((length, end)), ..*at } } else { At { pos: end, frame: None } };
    let mut out = Vec::new();
    header(TEXT, length, &mut out);
    out
}

/// A Close frame.
fn last() -> Vec<u8> {
    let mut last = Vec::new();
    let why = "you have fallen behind, or your time is over; come back with ?since=ID";
    close(Some(1013), why, &mut last);
    last
}

impl Framing for Blocks {
    fn name(&self) -> &'static str {
        "blocks"
    }

    fn ping(&self) -> &'static [u8] {
        &[0x80 | PING, 0]
    }

    fn last(&self) -> Vec<u8> {
        last()
    }

    fn begin(&self, at: &mut At, log: &[u8]) -> Option<Vec<u8>> {
        let size = block_end(log)?;
        Some(open(at, size, at.pos + size as u64))
    }
}

impl Framing for Data {
    fn name(&self) -> &'static str {
        "data"
    }

    fn ping(&self) -> &'static [u8] {
        Blocks.ping()
    }

    fn last(&self) -> Vec<u8> {
        last()
    }

    fn begin(&self, at: &mut At, log: &[u8]) -> Option<Vec<u8>> {
        let size = block_end(log)?;
        let end = at.pos + size as u64;
        let lines = || log.get(..size).unwrap_or_default().split_inclusive(|&b| b == b'\n');
        let fields = lines().take_while(|line| !line.starts_with(DATA)).flatten().count();
        at.pos += (fields + DATA.len()) as u64;
        let data = lines().filter_map(|line| line.strip_prefix(DATA)).map(<[u8]>::len).sum::<usize>();
        Some(open(at, data.saturating_sub(1), end)) // the last line's end is none of the data
    }

    fn piece<'a>(&self, text: &'a [u8]) -> (&'a [u8], usize) {
        let line = text.split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
        (line, if line.ends_with(b"\n") { DATA.len() } else { 0 })
    }
}

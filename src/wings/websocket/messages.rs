//! The framings of a WebSocket: each block of the log is a text message. Pure.
//!
//! ```text
//! blocks    header block                 with the subprotocol
//! data      header data of the block     the same, without the names of its fields
//! ```
//!
//! A message is not fragmented (RFC 6455 §5.4). Its header has the length of all of it, so a block is whole at hand when its
//! frame begins. It relies on `event.rs`: the lines of data in a block follow each other, and a blank line ends it.

use crate::channel::framing::{Cursor, Framing, UNFRAMED, block_end};
use crate::wings::websocket::frames::{PING, TEXT, close, header};

/// What a line of data begins with.
const DATA_FIELD: &[u8] = b"data: ";

/// Each block is a text message.
pub static BLOCKS: Framing = Framing {
    ping: &[0x80 | PING, 0],
    last: close_frame,
    begin: |at, log| {
        let size = block_end(log)?;
        Some(open_frame(at, size, at.pos + size as u64))
    },
    ..UNFRAMED
};
/// The data of each block is a text message.
pub static DATA: Framing = Framing { begin: begin_data, piece: data_line, ..BLOCKS };

/// Opens a frame for a text of this length, in a block that ends there.
fn open_frame(at: &mut Cursor, length: usize, end: u64) -> Vec<u8> {
    let length = length as u64;
    *at = if length > 0 { Cursor { frame: Some((length, end)), ..*at } } else { Cursor { pos: end, frame: None } };
    header(TEXT, length)
}

/// A Close frame.
fn close_frame() -> Vec<u8> {
    close(Some(1013), "you have fallen behind, or your time is over; come back with ?since=ID")
}

/// Opens a frame for the data of the next block.
fn begin_data(at: &mut Cursor, log: &[u8]) -> Option<Vec<u8>> {
    let size = block_end(log)?;
    let end = at.pos + size as u64;
    let lines = || log.get(..size).unwrap_or_default().split_inclusive(|&b| b == b'\n');
    let fields = lines().take_while(|line| !line.starts_with(DATA_FIELD)).flatten().count();
    at.pos += (fields + DATA_FIELD.len()) as u64;
    let data = lines().filter_map(|line| line.strip_prefix(DATA_FIELD)).map(<[u8]>::len).sum::<usize>();
    Some(open_frame(at, data.saturating_sub(1), end)) // the last line's end is none of the data
}

/// A line of data, and how much of the next one's begin is none.
fn data_line(text: &[u8]) -> (&[u8], usize) {
    let line = text.split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
    (line, if line.ends_with(b"\n") { DATA_FIELD.len() } else { 0 })
}

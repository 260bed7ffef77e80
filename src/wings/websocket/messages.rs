//! The framings of a WebSocket: each block of the log is a text message. Pure.
//!
//! ```text
//! blocks    header, block                with the subprotocol
//! data      header, data of the block    otherwise: the data lines, without `data: `
//! ```
//!
//! A message is one frame (RFC 6455 §5.4). Its header has the whole length, so a frame begins only when its whole
//! block is there. The framings rely on two rules of `event.rs`: the data lines of a block follow each other, and a
//! blank line ends it.

use crate::channel::framing::{Cursor, Framing, UNFRAMED, block_end};
use crate::wings::websocket::frames::{PING, TEXT, close, header};

/// The beginning of a data line.
const DATA_FIELD: &[u8] = b"data: ";

/// The framing in which each block is a text message.
pub static BLOCKS: Framing = Framing {
    ping: &[0x80 | PING, 0],
    last: close_frame,
    begin: |at, log| {
        let size = block_end(log)?;
        Some(open_frame(at, size, at.pos + size as u64))
    },
    ..UNFRAMED
};
/// The framing in which the data of each block is a text message.
pub static DATA: Framing = Framing { begin: begin_data, piece: data_line, ..BLOCKS };

/// Opens a frame for a text of this length, in a block that ends at this position. Returns the frame's header.
fn open_frame(at: &mut Cursor, length: usize, end: u64) -> Vec<u8> {
    let length = length as u64;
    *at = if length > 0 { Cursor { frame: Some((length, end)), ..*at } } else { Cursor { pos: end, frame: None } };
    header(TEXT, length)
}

/// Returns the Close frame for a subscriber that the channel ends.
fn close_frame() -> Vec<u8> {
    close(Some(1013), "you have fallen behind, or your time is over; come back with ?since=ID")
}

/// Opens a frame for the data of the next block. Returns its header, or None if the block is not complete.
fn begin_data(at: &mut Cursor, log: &[u8]) -> Option<Vec<u8>> {
    let size = block_end(log)?;
    let end = at.pos + size as u64;
    let lines = || log.get(..size).unwrap_or_default().split_inclusive(|&b| b == b'\n');
    let fields = lines().take_while(|line| !line.starts_with(DATA_FIELD)).flatten().count();
    at.pos += (fields + DATA_FIELD.len()) as u64;
    let data = lines().filter_map(|line| line.strip_prefix(DATA_FIELD)).map(<[u8]>::len).sum::<usize>();
    Some(open_frame(at, data.saturating_sub(1), end)) // the last line end is not data
}

/// Returns the next data line, and how many bytes after it are not data: the beginning of the line after it.
fn data_line(text: &[u8]) -> (&[u8], usize) {
    let line = text.split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
    (line, if line.ends_with(b"\n") { DATA_FIELD.len() } else { 0 })
}

//! WebSocket frames (RFC 6455), from bytes and to bytes. Pure: no sockets.
//!
//! A frame (§5.2), with the bits of each part in brackets:
//!
//! ```text
//! FIN(1) RSV1(1) RSV2(1) RSV3(1) opcode(4) MASK(1) length(7)
//! longer length, if those 7 bits are 126 (16) or 127 (64)
//! masking key, if MASK is 1 (32)
//! payload
//! ```
//!
//! A message is one frame, or several frames of which the last has FIN (§5.4). Control frames may come between them
//! (§5.5). [`Parser`] checks each byte as it comes. It refuses a bad frame before it reads the payload, and a text
//! that is not UTF-8 at its first wrong byte. A client masks its frames, a server does not (§5.1).
//!
//! Limits: [`MAX_CONTROL`]; the caller limits a message. Memory is only taken for bytes that have arrived, never for
//! a claimed length.
//! Deliberately absent: extensions, and so compression; binary messages; fragmented messages to the client.

use crate::channel::watch::{FramePosition, Frames};
use crate::wire::reject::{Reject, table};
use std::mem::take;

/// Limit: bytes in the payload of a control frame (§5.5).
pub const MAX_CONTROL: usize = 125;

const CONTINUATION: u8 = 0;
/// The opcode of a text message (§5.6).
pub const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// The opcode of a Ping frame (§5.5.2).
pub const PING: u8 = 9;
/// The opcode of a Pong frame (§5.5.3).
pub const PONG: u8 = 10;

// The reasons for which a client's frames fail the connection (§7.1.7). The status is sent in a Close frame (§7.4.1),
// which must have room for the text and the rule as well.
table! {
    RESERVED_BITS 1002 "RFC 6455 §5.2" "a reserved bit is 1, but no extension is in use; set RSV1, RSV2 and RSV3 to 0"
    RESERVED_OPCODE 1002 "RFC 6455 §5.2" "an opcode is reserved; use 0, 1, 8, 9 or 10"
    UNMASKED 1002 "RFC 6455 §5.1" "a frame is not masked; set MASK, and mask the payload"
    LONG_FORM 1002 "RFC 6455 §5.2" "a length takes more bytes than it needs; use the shortest form"
    HIGH_BIT 1002 "RFC 6455 §5.2" "the first bit of a length of 64 bits is 1; set it to 0"
    CONTROL_LENGTH 1002 "RFC 6455 §5.5" "a control frame has more than 125 bytes; send fewer"
    CONTROL_FRAGMENT 1002 "RFC 6455 §5.5" "a control frame is fragmented; set FIN"
    NO_BEGINNING 1002 "RFC 6455 §5.4" "a continuation frame has no message to continue; begin one with opcode 1"
    NO_END 1002 "RFC 6455 §5.4" "a message begins inside another one; end the first one with FIN"
    CLOSE_LENGTH 1002 "RFC 6455 §5.5.1" "a Close frame has half a status code; send 2 bytes, or nothing"
    CLOSE_CODE 1002 "RFC 6455 §7.4" "a Close frame has a status code that must not be sent; send 1000, or no code"
    BINARY_DATA 1003 "RFC 6455 §7.4.1" "an event is text; send a text message"
    TEXT_UTF8 1007 "RFC 6455 §8.1" "a text message is not UTF-8; convert it"
    REASON_UTF8 1007 "RFC 6455 §8.1" "the reason in a Close frame is not UTF-8; convert it"
    TOO_LONG 1009 "tincan, --max-body" "the message is too large; send less, or raise --max-body"
}

/// A message or a control frame from a client.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// A whole text message.
    Message(String),
    /// A Ping frame. The response is a Pong frame with this payload (§5.5.2).
    Ping(Vec<u8>),
    /// A Pong frame.
    Pong,
    /// A Close frame. The response is a Close frame with the same status code.
    Close(Option<u16>),
}

/// Reads a client's frames as they arrive.
#[derive(Default)]
pub struct Parser {
    max: usize,
    frame: Frame,
    /// More frames of the message are to come.
    unfinished: bool,
    /// The message so far.
    pub message: Vec<u8>,
    /// The length of the part of the message that is checked as UTF-8.
    valid: usize,
    control: Vec<u8>,
}

impl Parser {
    /// Creates a parser for a client's first frame. `max` limits a message, in bytes.
    pub fn new(max: usize) -> Parser {
        Parser { max, ..Parser::default() }
    }

    /// Takes bytes from the front of `bytes`, up to the end of a message or a control frame. Returns `None` if all
    /// bytes are taken and nothing is complete. After a Close frame or an error the caller must not call it again
    /// (§5.5.1, §7.1.7).
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Received>, Reject> {
        loop {
            if self.frame.left.is_none() {
                let Some(byte) = bytes.split_off_first() else { return Ok(None) };
                self.header(*byte)?;
            }
            if self.frame.left.is_some() {
                let received = self.payload(bytes)?;
                if received.is_some() || self.frame.left.is_some() {
                    return Ok(received);
                }
            }
        }
    }

    /// Takes a byte of a frame's header (§5.2).
    fn header(&mut self, byte: u8) -> Result<(), Reject> {
        self.frame.header(byte);
        let opcode = self.frame.opcode();
        let fin = byte & 0x80 != 0;
        match (self.frame.header.len(), self.frame.length()) {
            (1, _) => match opcode {
                _ if byte & 0x70 != 0 => return Err(RESERVED_BITS),
                CONTINUATION if !self.unfinished => return Err(NO_BEGINNING),
                TEXT | BINARY if self.unfinished => return Err(NO_END),
                BINARY => return Err(BINARY_DATA),
                CONTINUATION | TEXT => self.unfinished = !fin,
                CLOSE..=PONG if fin => {}
                CLOSE..=PONG => return Err(CONTROL_FRAGMENT),
                _ => return Err(RESERVED_OPCODE),
            },
            (2, _) if !self.frame.is_masked() => return Err(UNMASKED),
            (2, _) if opcode >= CLOSE && byte & 0x7f > 125 => return Err(CONTROL_LENGTH),
            (10, Some((length, []))) if length >> 63 == 1 => return Err(HIGH_BIT),
            (10, Some((..0x1_0000, []))) | (4, Some((..126, []))) => return Err(LONG_FORM),
            // The limit counts the whole message (§10.4), so many frames do not get around it.
            (_, Some((length, [])))
                if opcode < CLOSE && length > self.max.saturating_sub(self.message.len()) as u64 =>
            {
                return Err(TOO_LONG);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes bytes of a payload, unmasks them (§5.3), and checks that a text is UTF-8 (§8.1). A character may
    /// continue in the next frame. Returns what the frame completes.
    fn payload(&mut self, bytes: &mut &[u8]) -> Result<Option<Received>, Reject> {
        let opcode = self.frame.opcode();
        let (payload, whole) = self.frame.payload(bytes);
        if opcode >= CLOSE {
            self.control.extend(payload);
        } else {
            self.message.extend(payload);
            match str::from_utf8(self.message.get(self.valid..).unwrap_or_default()) {
                Ok(text) => self.valid += text.len(),
                Err(e) if e.error_len().is_none() => self.valid += e.valid_up_to(),
                Err(_) => return Err(TEXT_UTF8),
            }
        }
        if !whole {
            return Ok(None);
        }
        let control = take(&mut self.control);
        Ok(Some(match opcode {
            PING => Received::Ping(control),
            PONG => Received::Pong,
            CLOSE => parse_close(&control)?,
            _ if self.unfinished => return Ok(None),
            _ => {
                self.valid = 0;
                Received::Message(String::from_utf8(take(&mut self.message)).map_err(|_| TEXT_UTF8)?)
            }
        }))
    }
}

/// Reads the payload of a Close frame (§5.5.1): it is empty, or a status code and a reason.
fn parse_close(payload: &[u8]) -> Result<Received, Reject> {
    if payload.is_empty() {
        return Ok(Received::Close(None));
    }
    let (code, reason) = payload.split_first_chunk().ok_or(CLOSE_LENGTH)?;
    let code = u16::from_be_bytes(*code);
    // §7.4.1, §7.4.2, and codes that were registered later (IANA, "WebSocket Close Code Number Registry": 1012 to
    // 1014). 1004, 1005, 1006 and 1015 must not be sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(CLOSE_CODE);
    }
    str::from_utf8(reason).map_err(|_| REASON_UTF8)?;
    Ok(Received::Close(Some(code)))
}

/// Returns the header of a frame to the client: FIN, not masked, the length in its shortest form. The payload of a
/// control frame has at most [`MAX_CONTROL`] bytes.
pub fn header(opcode: u8, length: u64) -> Vec<u8> {
    let (short_length, start) = match length {
        0..126 => (length as u8, 8),
        126..0x1_0000 => (126, 6),
        _ => (127, 0),
    };
    let long_length = length.to_be_bytes();
    [&[0x80 | opcode, short_length], long_length.get(start..).unwrap_or_default()].concat()
}

/// Returns a frame to the client. The payload of a text frame must be UTF-8.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [&header(opcode, payload.len() as u64), payload].concat()
}

/// Returns a Close frame with a status code, and with as much of the reason as fits. Without a code it is empty.
pub fn close(code: Option<u16>, reason: &str) -> Vec<u8> {
    let reason = reason.get(..reason.floor_char_boundary(MAX_CONTROL - 2)).unwrap_or_default();
    let body = code.map(|code| [&code.to_be_bytes(), reason.as_bytes()].concat());
    frame(CLOSE, &body.unwrap_or_default())
}

/// Returns the Close frame for a client that broke a rule.
pub fn close_for(reject: Reject) -> Vec<u8> {
    close(Some(reject.status), &format!("{} ({})", reject.why, reject.rule))
}

/// A frame from either side. Nothing is checked.
#[derive(Default)]
struct Frame {
    header: Vec<u8>, // the bytes of the header so far
    first: u8,       // FIN, RSV1 to RSV3, opcode
    second: u8,      // MASK, 7 bits of the length
    key: [u8; 4],
    left: Option<u64>, // missing bytes of the payload, once the header is complete
}

impl Frame {
    /// Takes a byte of the header. The last one returns the length of the payload.
    fn header(&mut self, byte: u8) -> Option<u64> {
        match self.header.len() {
            0 => self.first = byte,
            1 => self.second = byte,
            _ => {}
        }
        self.header.push(byte);
        let (length, key) = self.length()?;
        if self.is_masked() {
            self.key = key.try_into().ok()?;
        }
        self.left = Some(length);
        self.left
    }

    /// Returns the length of the payload, once that is known, and the part of the masking key that has come.
    fn length(&self) -> Option<(u64, &[u8])> {
        let rest = self.header.get(2..)?;
        let (length, key) = rest.split_at_checked(match self.second & 0x7f {
            126 => 2,
            127 => 8,
            length => return Some((length.into(), rest)),
        })?;
        Some((length.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)), key))
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_masked(&self) -> bool {
        self.second & 0x80 != 0
    }

    /// Takes bytes of the payload from the front of `bytes`. Returns them unmasked, and whether the frame is
    /// complete. If it is, `self` becomes the next frame.
    fn payload(&mut self, bytes: &mut &[u8]) -> (Vec<u8>, bool) {
        let left = self.left.unwrap_or_default();
        let size = left.min(bytes.len() as u64);
        let payload = bytes.split_off(..size as usize).unwrap_or_default();
        let plain = payload.iter().zip(self.key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        self.key.rotate_left(payload.len() % 4);
        self.left = Some(left - size);
        let whole = left == size;
        if whole {
            *self = Frame::default();
        }
        (plain, whole)
    }
}

/// Reads the frames of one direction, for watchers.
pub struct FrameReader {
    frame: Frame,
    blocks: bool,
}

impl FrameReader {
    /// Creates a reader. `blocks`: messages are whole blocks of an event stream.
    pub fn new(blocks: bool) -> FrameReader {
        FrameReader { frame: Frame::default(), blocks }
    }
}

impl Frames for FrameReader {
    fn header(&mut self, byte: u8) -> Option<(String, String)> {
        let length = self.frame.header(byte)?;
        let bits = [(0x80, "FIN, "), (0x40, "RSV1, "), (0x20, "RSV2, "), (0x10, "RSV3, ")];
        let bits: String = bits.iter().filter(|bit| self.frame.first & bit.0 != 0).map(|bit| bit.1).collect();
        let opcode = match self.frame.opcode() {
            CONTINUATION => "continuation",
            TEXT => "text",
            BINARY => "binary",
            CLOSE => "close",
            PING => "ping",
            PONG => "pong",
            _ => "reserved opcode",
        };
        let masked = if self.frame.is_masked() { ", masked" } else { "" };
        let hex: Vec<_> = self.frame.header.iter().map(|byte| format!("{byte:02x}")).collect();
        Some((hex.join(" "), format!("{bits}{opcode}{masked}, length of the payload: {length}")))
    }

    fn payload(&mut self, bytes: &mut &[u8]) -> (Vec<u8>, bool) {
        self.frame.payload(bytes)
    }

    fn position(&self) -> FramePosition {
        let Frame { header, first, second, left, .. } = &self.frame;
        match left {
            None => FramePosition::Header { begun: !header.is_empty() },
            Some(_) => FramePosition::Payload {
                control: self.frame.opcode() >= CLOSE && second & 0x7f < 126,
                last: first & 0x80 != 0,
                is_event_stream: self.blocks,
            },
        }
    }
}

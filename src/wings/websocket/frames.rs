//! Frames of WebSocket (RFC 6455), to and from bytes. Pure: no sockets.
//!
//! A frame (§5.2), and in brackets the bits of each part:
//!
//! ```text
//! FIN(1) RSV1(1) RSV2(1) RSV3(1) opcode(4) MASK(1) length(7)
//! the length itself, where those 7 bits are 126 (16) or 127 (64)
//! masking key, where MASK is 1 (32)
//! payload
//! ```
//!
//! A message is one frame, or several of which the last has FIN (§5.4); between them control frames may stand (§5.5).
//! [`Parser`] checks each byte as it comes: a frame is refused before its payload is read, and a text at the first byte
//! that no text can have there. A client's frames are masked, ours are not (§5.1).
//!
//! Limits: [`MAX_CONTROL`]; a message's is the caller's. Memory is taken for bytes that came, never for a length.
//! Deliberately absent: extensions, so no compression; binary messages; fragments of ours, which nobody needs.

use crate::channel::watch::{Frames, InFrame};
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

/// Why a connection fails (§7.1.7): a line of the table below.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status code of the Close frame (§7.4.1).
    pub code: u16,
    /// What is wrong, what to do, and where the rule stands; short enough for a Close frame.
    pub reason: &'static str,
}

/// A failure, as functions return it: one word.
pub type Fail = &'static Failure;

macro_rules! failures {
    ($($name:ident $code:literal $reason:literal)*) => {
        $(#[doc = concat!($code, ": ", $reason)] pub const $name: Fail = &Failure { code: $code, reason: $reason };)*
        /// Every way in which a connection can fail by its client's frames.
        pub const FAILURES: &[Fail] = &[$($name),*];
    };
}

failures! {
    RESERVED_BITS 1002 "a reserved bit is 1, but no extension is in use; set RSV1, RSV2 and RSV3 to 0 (RFC 6455 §5.2)"
    RESERVED_OPCODE 1002 "an opcode is reserved; use 0, 1, 8, 9 or 10 (RFC 6455 §5.2)"
    UNMASKED 1002 "a frame is not masked; set MASK, and mask the payload (RFC 6455 §5.1)"
    LONG_FORM 1002 "a length takes more bytes than it needs; use the shortest form (RFC 6455 §5.2)"
    HIGH_BIT 1002 "the first bit of a length of 64 bits is 1; set it to 0 (RFC 6455 §5.2)"
    CONTROL_LENGTH 1002 "a control frame has more than 125 bytes; send fewer (RFC 6455 §5.5)"
    CONTROL_FRAGMENT 1002 "a control frame is fragmented; set FIN (RFC 6455 §5.5)"
    NO_BEGINNING 1002 "a continuation frame has no message to continue; begin one with opcode 1 (RFC 6455 §5.4)"
    NO_END 1002 "a message begins within another one; end that first, with FIN (RFC 6455 §5.4)"
    CLOSE_LENGTH 1002 "a Close frame has half a status code; send 2 bytes, or nothing (RFC 6455 §5.5.1)"
    CLOSE_CODE 1002 "a Close frame has a status code that is not for sending; send 1000, or nothing (RFC 6455 §7.4)"
    BINARY_DATA 1003 "events are text; send it as a text message (RFC 6455 §7.4.1)"
    TEXT_UTF8 1007 "a text message is not UTF-8; convert it (RFC 6455 §8.1)"
    REASON_UTF8 1007 "the reason in a Close frame is not UTF-8; convert it (RFC 6455 §8.1)"
    TOO_LONG 1009 "the message is too large; send less, or raise --max-body (tincan, --max-body)"
}

/// What a client sent.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// A whole text message.
    Message(String),
    /// A Ping frame, to be answered with this payload (§5.5.2).
    Ping(Vec<u8>),
    /// A Pong frame.
    Pong,
    /// A Close frame, to be answered with its status code.
    Close(Option<u16>),
}

/// Reads a client's frames as they arrive.
#[derive(Default)]
pub struct Parser {
    max: usize,
    frame: Frame,
    /// The last frame of the message has not begun.
    unfinished: bool,
    message: Vec<u8>,
    /// So many bytes of the message are whole characters.
    valid: usize,
    control: Vec<u8>,
}

impl Parser {
    /// Before a client's first frame. `max` limits a message, in bytes.
    pub fn new(max: usize) -> Parser {
        Parser { max, ..Parser::default() }
    }

    /// Takes bytes from the front up to the end of a message or a control frame. `None` where all are taken and more
    /// must come. Behind a Close frame or a failure nothing counts any more (§5.5.1, §7.1.7), and its caller reads no further.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Received>, Fail> {
        loop {
            if self.frame.left == 0 {
                let Some(byte) = bytes.split_off_first() else { return Ok(None) };
                if !self.header(*byte)? {
                    continue;
                }
            }
            self.payload(bytes)?;
            if self.frame.left > 0 {
                return Ok(None);
            }
            let received = self.end()?;
            self.frame = Frame::default();
            if received.is_some() {
                return Ok(received);
            }
        }
    }

    /// Takes a byte of a frame's header (§5.2); true with the last one.
    fn header(&mut self, byte: u8) -> Result<bool, Fail> {
        let whole = self.frame.header(byte);
        let fin = byte & 0x80 != 0;
        match self.frame.header.len() {
            1 => match self.frame.opcode() {
                _ if byte & 0x70 != 0 => return Err(RESERVED_BITS),
                CONTINUATION if !self.unfinished => return Err(NO_BEGINNING),
                TEXT | BINARY if self.unfinished => return Err(NO_END),
                BINARY => return Err(BINARY_DATA),
                CONTINUATION | TEXT => self.unfinished = !fin,
                CLOSE..=PONG if fin => {}
                CLOSE..=PONG => return Err(CONTROL_FRAGMENT),
                _ => return Err(RESERVED_OPCODE),
            },
            2 if !self.frame.is_masked() => return Err(UNMASKED),
            2 if self.is_control() && byte & 0x7f > 125 => return Err(CONTROL_LENGTH),
            _ => {}
        }
        // The limit is the whole message's (§10.4), so that many frames do not get around it.
        let room = self.max.saturating_sub(self.message.len());
        match (self.frame.header.len(), self.frame.length()) {
            (10, Some((length, []))) if length >> 63 == 1 => Err(HIGH_BIT),
            (10, Some((..0x1_0000, []))) | (4, Some((..126, []))) => Err(LONG_FORM),
            (_, Some((length, []))) if !self.is_control() && length > room as u64 => Err(TOO_LONG),
            _ => Ok(whole),
        }
    }

    fn is_control(&self) -> bool {
        self.frame.opcode() >= CLOSE
    }

    /// Takes payload: unmasked (§5.3), and where it is text, checked (§8.1). A character may go over the end of a frame.
    fn payload(&mut self, bytes: &mut &[u8]) -> Result<(), Fail> {
        let payload = self.frame.payload(bytes);
        let of = if self.is_control() { &mut self.control } else { &mut self.message };
        of.extend(payload);
        match str::from_utf8(self.message.get(self.valid..).unwrap_or_default()) {
            Ok(text) => self.valid += text.len(),
            Err(e) if e.error_len().is_none() => self.valid += e.valid_up_to(),
            Err(_) => return Err(TEXT_UTF8),
        }
        Ok(())
    }

    /// A frame is whole: what it completes.
    fn end(&mut self) -> Result<Option<Received>, Fail> {
        let control = take(&mut self.control);
        Ok(Some(match self.frame.opcode() {
            PING => Received::Ping(control),
            PONG => Received::Pong,
            CLOSE => closing(&control)?,
            _ if self.unfinished => return Ok(None),
            _ => {
                self.valid = 0;
                Received::Message(String::from_utf8(take(&mut self.message)).map_err(|_| TEXT_UTF8)?)
            }
        }))
    }
}

/// The payload of a Close frame (§5.5.1): nothing, or a status code and a reason.
fn closing(payload: &[u8]) -> Result<Received, Fail> {
    if payload.is_empty() {
        return Ok(Received::Close(None));
    }
    let (code, reason) = payload.split_first_chunk().ok_or(CLOSE_LENGTH)?;
    let code = u16::from_be_bytes(*code);
    // §7.4.1, §7.4.2, and what was registered since (IANA, "WebSocket Close Code Number Registry": 1012 to 1014). 1004,
    // 1005, 1006 and 1015 are no codes to send.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(CLOSE_CODE);
    }
    str::from_utf8(reason).map_err(|_| REASON_UTF8)?;
    Ok(Received::Close(Some(code)))
}

/// Appends the header of a frame of ours: whole, not masked, its length in the shortest form. A control frame's payload has
/// at most [`MAX_CONTROL`] bytes.
pub fn header(opcode: u8, length: u64, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match length {
        0..126 => out.push(length as u8),
        126..0x1_0000 => {
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend(length.to_be_bytes());
        }
    }
}

/// Appends a frame of ours. A text must be UTF-8.
pub fn frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// Appends a Close frame with a status code, and of the reason as many characters as fit; an empty one without a code.
pub fn close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let reason = reason.get(..reason.floor_char_boundary(MAX_CONTROL - 2)).unwrap_or_default();
    let body = code.map(|code| [&code.to_be_bytes(), reason.as_bytes()].concat());
    frame(CLOSE, &body.unwrap_or_default(), out);
}

/// A frame as it comes from either side, whatever it says.
#[derive(Default)]
pub struct Frame {
    /// The bytes of its header so far.
    pub header: Vec<u8>,
    first: u8,  // FIN, RSV1 to RSV3, opcode
    second: u8, // MASK, 7 bits of the length
    key: [u8; 4],
    /// So many bytes of its payload are still to come.
    pub left: u64,
}

impl Frame {
    /// Takes a byte of the header; true with the last one.
    pub fn header(&mut self, byte: u8) -> bool {
        match self.header.len() {
            0 => self.first = byte,
            1 => self.second = byte,
            _ => {}
        }
        self.header.push(byte);
        let Some((length, key)) = self.length() else { return false };
        let key = key.try_into();
        if key.is_err() && self.is_masked() {
            return false;
        }
        self.key = key.unwrap_or_default();
        self.left = length;
        true
    }

    /// The length of its payload, once it is told, and what is there of the masking key.
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

    /// What the bytes of its header are, and what they mean.
    fn words(&self) -> (String, String) {
        let bits = [(0x80, "FIN, "), (0x40, "RSV1, "), (0x20, "RSV2, "), (0x10, "RSV3, ")];
        let bits: String = bits.iter().filter(|bit| self.first & bit.0 != 0).map(|bit| bit.1).collect();
        let opcode = match self.opcode() {
            CONTINUATION => "continuation",
            TEXT => "text",
            BINARY => "binary",
            CLOSE => "close",
            PING => "ping",
            PONG => "pong",
            _ => "reserved opcode",
        };
        let masked = if self.is_masked() { ", masked" } else { "" };
        let hex: Vec<_> = self.header.iter().map(|byte| format!("{byte:02x}")).collect();
        (hex.join(" "), format!("{bits}{opcode}{masked}, length of the payload: {}", self.left))
    }

    /// Takes payload from the front of `bytes`; returns it unmasked.
    pub fn payload(&mut self, bytes: &mut &[u8]) -> Vec<u8> {
        let payload = front(bytes, &mut self.left);
        let plain = payload.iter().zip(self.key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        self.key.rotate_left(payload.len() % 4);
        plain
    }

    /// Whether its header is whole.
    fn is_begun(&self) -> bool {
        let size = if self.is_masked() { self.key.len() } else { 0 };
        self.length().is_some_and(|(_, key)| key.len() == size)
    }

    /// Whether it is a control frame (§5.5), and whether it is the last one of its message.
    fn kind(&self) -> (bool, bool) {
        (self.opcode() >= CLOSE && self.second & 0x7f < 126, self.first & 0x80 != 0)
    }
}

/// Reads the frames of one direction for those who watch.
pub struct Reader {
    frame: Frame,
    blocks: bool,
}

impl Reader {
    /// For messages that are whole `blocks` of an event stream, or are not.
    pub fn new(blocks: bool) -> Reader {
        Reader { frame: Frame::default(), blocks }
    }
}

impl Frames for Reader {
    fn header(&mut self, byte: u8) -> Option<(String, String)> {
        self.frame.header(byte).then(|| self.frame.words())
    }

    fn payload(&mut self, bytes: &mut &[u8]) -> (Vec<u8>, bool) {
        let payload = self.frame.payload(bytes);
        let whole = self.frame.left == 0;
        if whole {
            self.frame = Frame::default();
        }
        (payload, whole)
    }

    fn place(&self) -> InFrame {
        if self.frame.is_begun() {
            let (control, last) = self.frame.kind();
            return InFrame::Payload { control, last, streams: self.blocks };
        }
        InFrame::Header { begun: !self.frame.header.is_empty() }
    }
}

/// Takes from the front of `bytes` what is there of the next `left`, and counts it off.
fn front<'a>(bytes: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let size = (*left).min(bytes.len() as u64);
    *left -= size;
    bytes.split_off(..size as usize).unwrap_or_default()
}

//! The client's side of a WebSocket (RFC 6455): its handshake, and frames of any form.

use crate::support::harness::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d]; // RFC 6455 §5.7

pub fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]).collect()
}

/// Returns a frame's header with this length, in the form that the caller chooses: in the 7 bits themselves, or in 2
/// or 8 further bytes.
pub fn header(first: u8, form: usize, length: u64) -> Vec<u8> {
    let seven = [length as u8, 126, 127][[0, 2, 8].iter().position(|f| *f == form).unwrap()];
    [&[first, 0x80 | seven], &length.to_be_bytes()[8 - form..], &KEY].concat()
}

/// Returns a whole masked frame with its length in the shortest form.
pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let form = match payload.len() {
        0..=125 => 0,
        126..=65535 => 2,
        _ => 8,
    };
    [header(first, form, payload.len() as u64), masked(payload)].concat()
}

/// Returns a text message that consists of these frames.
pub fn fragments<T: AsRef<[u8]>>(parts: &[T]) -> Vec<Vec<u8>> {
    let first = |n| u8::from(n == 0) | u8::from(n + 1 == parts.len()) << 7;
    parts.iter().enumerate().map(|(n, part)| frame(first(n), part)).collect()
}

pub fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x81, payload)
}

pub fn ping(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x89, payload)
}

pub fn closing(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x88, [&code.to_be_bytes(), reason.as_ref()].concat())
}

/// The limit of a message that [`random_bytes`] assume.
pub const SMALL: usize = 300;

/// Returns the bytes of a client that follows the rules most of the time.
pub fn random_bytes(random: &mut Random) -> Vec<u8> {
    let pieces = [&b"a"[..], "é".as_bytes(), "€".as_bytes(), "😀".as_bytes(), b"\xed\xa0", b"\xf4\x90", b"\xff", b""];
    let mut bytes = Vec::new();
    let mut open = false;
    for _ in 0..=random.index(8) {
        // Most frames follow the rules, so that the later checks are reached.
        let sound = random.index(30) > 0;
        let first = match random.index(if sound { 8 } else { 9 }) {
            0 => 0x89,
            1 => 0x8a,
            2 if random.index(5) == 0 => 0x88,
            8 => random.next() as u8,
            n => u8::from(!open) | if n > 4 { 0x80 } else { 0 },
        };
        let texts = if sound { 4 } else { pieces.len() as u64 };
        let most = if random.index(6) == 0 { 100 } else { 6 };
        let words = random.index(most);
        let mut payload: Vec<u8> = (0..words).flat_map(|_| pieces[random.below(texts) as usize]).copied().collect();
        match first & 0x0f {
            8 if sound => payload = [&[3, 0xe8][..], &payload[..payload.len().min(2)]].concat(),
            8.. if sound => payload.truncate(125),
            8.. => {}
            _ => open = first < 0x80,
        }
        if !sound && random.index(3) == 0 {
            let length = [payload.len() as u64, 1, random.next(), random.below(1000)][random.index(4)];
            bytes.extend(header(first, [0, 2, 8][random.index(3)], length));
            bytes.extend(masked(&payload));
            continue;
        }
        // The end of a frame may cut a character.
        if first < 0x80 && payload.len() > 3 && random.index(2) == 0 {
            let (left, right) = payload.split_at(payload.len() - 2);
            bytes.extend(frame(first, left));
            (payload, open) = (right.into(), true);
            bytes.extend(frame(0, payload));
            continue;
        }
        bytes.extend(frame(first, payload));
    }
    for _ in 0..[0, 0, 0, 1, 2][random.index(5)] {
        let at = random.index(bytes.len());
        match random.index(4) {
            0 => bytes[at] ^= 1 << random.index(8),
            1 => bytes.insert(at, random.next() as u8),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => bytes.truncate(at + 1),
        }
    }
    bytes
}

const ASK: &str = "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// Returns an opening handshake.
pub fn handshake(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{ASK}{fields}\r\n")
}

/// A WebSocket after its handshake.
pub struct Ws(pub Wire);

impl Ws {
    /// Reads the response, which must be exactly this one.
    pub fn accepted(mut wire: Wire, fields: &str) -> Ws {
        wire.expect("HTTP/1.1 101 Switching Protocols\r\nDate: ");
        assert_eq!(wire.until(b"\r\n").len(), "Sun, 06 Nov 1994 08:49:37 GMT\r\n".len());
        wire.expect(format!(
            "X-Content-Type-Options: nosniff\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{fields}\r\n"
        ));
        Ws(wire)
    }

    pub fn open(server: &Tincan, path: &str) -> Ws {
        let mut wire = server.connect();
        wire.send(handshake(path, ""));
        Ws::accepted(wire, "")
    }

    /// Opens a WebSocket with the subprotocol; returns the prelude as well.
    pub fn blocks(server: &Tincan, path: &str, fields: &str) -> (Ws, String) {
        let mut wire = server.connect();
        wire.send(handshake(path, &format!("Sec-WebSocket-Protocol: event-stream\r\n{fields}")));
        let mut ws = Ws::accepted(wire, "Sec-WebSocket-Protocol: event-stream\r\n");
        let prelude = ws.message();
        (ws, prelude)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes);
    }

    /// Reads the next frame. Returns its first byte and its payload, or None at the end. The frame must be complete,
    /// not masked, and have its length in the shortest form. So these two describe it exactly.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.0.bytes(2);
        let [first, length] = head[..] else {
            assert!(head.is_empty(), "half a frame: {head:?}");
            return None;
        };
        assert!([0x81, 0x88, 0x89, 0x8a].contains(&first), "first byte {first:#x}");
        let (form, least) = [(0, 0), (2, 126), (8, 1 << 16)][usize::from(length).saturating_sub(125).min(2)];
        assert!(
            length < 128 && (first == 0x81 || form == 0),
            "masked, or a control frame that is too long: second byte {length:#x}"
        );
        let long_length = self.0.bytes(form).iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let length = if form == 0 { length.into() } else { long_length };
        assert!(length >= least, "a length of {length} in {form} bytes");
        let payload = self.0.bytes(length);
        assert_eq!(payload.len(), length, "half a frame");
        Some((first, payload))
    }

    pub fn message(&mut self) -> String {
        let (first, payload) = self.frame().expect("ended before a message");
        assert_eq!(first, 0x81, "{}", payload.escape_ascii());
        String::from_utf8(payload).unwrap()
    }

    pub fn hears(&mut self, message: &str) {
        assert_eq!(self.message(), message);
    }

    /// Asserts that this is the next frame.
    pub fn gets(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref();
        let got = self.frame().map(|(first, payload)| format!("{first:#x} {}", payload.escape_ascii()));
        assert_eq!(got, Some(format!("{first:#x} {}", payload.escape_ascii())));
    }

    /// Asserts that a Close frame comes, and then the end of the connection.
    pub fn closes(&mut self, code: u16, reason: &str) {
        self.gets(0x88, [&code.to_be_bytes(), reason.as_bytes()].concat());
        assert_eq!(self.frame(), None, "the connection ends");
    }

    /// Closes the connection as a browser does.
    pub fn close(mut self) {
        self.send(closing(1000, ""));
        while let Some((first, payload)) = self.frame() {
            assert!(first != 0x88 || payload == [3, 0xe8]);
        }
    }
}

/// Returns bytes that a client may send many times, `n` times.
pub fn many(kind: &str, n: usize) -> Vec<u8> {
    match kind {
        "empty fragments" => fragments(&vec![""; n]).concat(),
        "fragments of one byte" => fragments(&vec!["a"; n]).concat(),
        "Pings within a message" => [frame(1, "a"), ping("b").repeat(n), frame(0x80, "c")].concat(),
        "messages" => frame(0x81, "a").repeat(n),
        "bytes of a message" => frame(0x81, "é".repeat(n)),
        _ => unreachable!(),
    }
}

pub const FRAMES: [&str; 5] =
    ["empty fragments", "fragments of one byte", "Pings within a message", "messages", "bytes of a message"];

/// Returns a whole frame of a server, which is not masked.
pub fn served(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = payload.len();
    let head = match length {
        0..=125 => vec![first, length as u8],
        126..=65535 => [&[first, 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, 127][..], &(length as u64).to_be_bytes()].concat(),
    };
    [&head, payload].concat()
}

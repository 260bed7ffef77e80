//! The bytes of one connection, cut anywhere, to lines for a person: a line of the wire a line, with what it is. Pure.
//!
//! ```text
//! #1 > GET /kitchen HTTP/1.1␍␊                   request line
//! #1 < : connected to /kitchen as 525e…␊         comment
//! #1 < ␊                                         fires nothing
//! ```
//!
//! `>` is what the client sent, `<` what it was sent. A line is shown when it has ended; only what is sent behind a head is
//! shown at once, so that one can see half an event. `http.rs` decides where a request's body begins; behind what it
//! refuses there are only lines, for nobody can tell what they are. What the lines of an event stream do is told after
//! WHATWG HTML, "Interpreting an event stream". Behind a 101 there are frames (RFC 6455 §5.2): of each the header, in
//! hexadecimal, then the payload, unmasked.
//!
//! No token is ever shown, wherever a line, a chunk or the connection is cut:
//! 1. outside bodies, the value of `Authorization`, `Cookie` and fields of similar names, and their folded lines;
//! 2. outside bodies, user information (RFC 3986 §3.2.1): the word before an `@`;
//! 3. anywhere, each secret that this server knows (`secrets.rs`).
//!
//! Limits: [`LINE`], `HEAD`, `REQUESTS`; behind a handshake what `connection.rs` read together with it.

use crate::event::Stream;
use crate::http::{self, Framing, MAX_SECTION, MAX_TARGET, Request};
use crate::secrets::{Byte, Secrets, hide, is_credential, visible};
use crate::ws::{SUBPROTOCOL_NAME, Seen};
use std::collections::VecDeque;
use std::fmt;
use std::mem::take;
use std::sync::Arc;

/// Limit: bytes of a line that are kept; a longer one is shown in pieces. No line that is obeyed is longer.
pub const LINE: usize = MAX_SECTION + 1;
/// Limit: bytes of a head that are kept. No head that is obeyed is longer.
const HEAD: usize = MAX_TARGET + MAX_SECTION + 1024;
/// Limit: requests that were read and not yet answered, of which it is known whether they were a HEAD.
const REQUESTS: usize = 4096;
/// Where the notes begin; behind a longer line they follow it.
const COLUMN: usize = 40;

/// Lines on their way out.
struct Pen<'a> {
    out: String,
    sign: String,
    color: bool,
    secrets: &'a Secrets,
}

impl Pen<'_> {
    fn write(&mut self, text: &[Byte], note: &str) {
        let mut note: Vec<Byte> = note.bytes().map(|b| (b, false)).collect();
        self.secrets.mark(&mut note); // an event's name is the peer's
        let (text, note) = (visible(text), visible(&note));
        let (dim, plain) = if self.color { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        self.out += &format!("{}{text:<COLUMN$}  {dim}{note}{plain}\n", self.sign);
    }
}

/// A line as far as it has come.
#[derive(Default)]
struct Line {
    begin: Vec<u8>,  // its first bytes, at most `LINE`
    rest: Vec<Byte>, // what was not yet shown
    cr: bool,        // its last byte is a CR: if no LF follows, it has ended
    parts: bool,     // some of it was shown
}

impl Line {
    /// Takes from the front of `bytes` what belongs to it; true where it ends. Otherwise there is no byte left, or it is
    /// time to show a piece.
    fn fill(&mut self, bytes: &mut &[u8]) -> bool {
        while let [b, rest @ ..] = *bytes {
            if self.cr && *b != b'\n' {
                return true;
            }
            *bytes = rest;
            self.rest.push((*b, false));
            self.begin.extend((self.begin.len() < LINE).then_some(*b));
            self.cr = *b == b'\r';
            if *b == b'\n' || self.is_full() {
                return *b == b'\n';
            }
        }
        false
    }

    fn is_full(&self) -> bool {
        self.rest.len() >= LINE
    }

    /// Its first bytes without its end.
    fn text(&self) -> &[u8] {
        let text = self.begin.strip_suffix(b"\n").unwrap_or(&self.begin);
        text.strip_suffix(b"\r").unwrap_or(text)
    }

    /// Shows all that is there, as its end.
    fn show(&mut self, pen: &mut Pen, note: &str) {
        pen.secrets.mark(&mut self.rest);
        let before = if self.parts { "... " } else { "" };
        pen.write(&self.rest, &format!("{before}{note}"));
        *self = Line::default();
    }

    /// Shows what can be shown before more comes: no half of a CR LF, of a character or of a secret.
    fn part(&mut self, pen: &mut Pen, note: &str) {
        let sure = pen.secrets.mark(&mut self.rest).min(self.rest.len() - usize::from(self.cr));
        let bytes: Vec<u8> = self.rest.iter().take(sure).map(|b| b.0).collect();
        let sure = sure - bytes.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
        if sure > 0 {
            pen.write(&self.rest.drain(..sure).collect::<Vec<_>>(), note);
            self.parts = true;
        }
    }
}

/// What comes next in one direction.
#[derive(Default)]
enum Next {
    #[default]
    Head,
    /// So many bytes; or all until the connection ends.
    Body(Option<u64>),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    /// Behind a handshake: that depends on the answer.
    Held,
    Frames,
    /// Nobody can tell.
    Lost,
}

/// One direction of a connection.
#[derive(Default)]
struct Way {
    client: bool,
    next: Next,
    line: Line,             // outside bodies
    secret: bool,           // the last field line has credentials
    head: Vec<u8>,          // its lines so far
    text: Line,             // of a body, over all its chunks
    stream: Option<Stream>, // the body is one
    held: Vec<u8>,          // it is not yet known what this is
    frame: Seen,
    blocks: bool, // each message is an event stream
}

impl Way {
    /// `heads`: for each request that is not answered yet, whether it is a HEAD.
    fn feed(&mut self, mut bytes: &[u8], heads: &mut VecDeque<bool>, pen: &mut Pen) {
        while !bytes.is_empty() {
            if let Next::Held = self.next {
                self.held.extend(take(&mut bytes));
            } else if let Next::Frames = self.next {
                self.frame(&mut bytes, pen);
            } else if let Next::Body(Some(left)) | Next::Chunk(left) = &mut self.next {
                let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX)));
                *left -= now.len() as u64;
                bytes = later;
                self.body(now, pen);
            } else if let Next::Body(None) = self.next {
                self.body(take(&mut bytes), pen);
            } else if self.line.fill(&mut bytes) {
                self.veil(false);
                let note = self.note(heads);
                self.line.show(pen, &note);
            } else if self.line.is_full() {
                self.veil(true);
                self.line.part(pen, "not ended yet");
            }
            match self.next {
                Next::Chunk(0) => {
                    self.part(pen);
                    self.next = Next::ChunkEnd;
                }
                Next::Body(Some(0)) => {
                    self.finish(pen);
                    self.next = Next::Head;
                }
                _ => {}
            }
        }
        if !self.client {
            self.part(pen);
        }
    }

    /// Takes some of a body.
    fn body(&mut self, mut bytes: &[u8], pen: &mut Pen) {
        while !bytes.is_empty() {
            if self.text.fill(&mut bytes) {
                let note = self.text_note();
                self.text.show(pen, &note);
            } else if self.text.is_full() {
                self.part(pen);
            }
        }
    }

    /// Takes the next byte of a frame's header, or what is there of its payload.
    fn frame(&mut self, bytes: &mut &[u8], pen: &mut Pen) {
        if self.frame.left == 0 {
            let byte = bytes.split_off_first();
            let Some((header, note)) = byte.and_then(|byte| self.frame.header(*byte)) else { return };
            pen.write(&header.bytes().map(|b| (b, false)).collect::<Vec<_>>(), &note);
        }
        let payload = self.frame.payload(bytes);
        let (control, last) = self.frame.kind();
        if control {
            self.line.rest.extend(payload.iter().map(|b| (*b, false)));
        } else {
            self.stream = self.stream.take().or(self.blocks.then(Stream::default));
            self.body(&payload, pen);
        }
        if self.frame.left == 0 {
            self.frame = Seen::default();
            match (control, last) {
                (true, _) if self.line.rest.is_empty() => {}
                (true, _) => self.line.show(pen, "payload"),
                (_, true) => self.finish(pen),
                _ => self.part(pen),
            }
        }
    }

    fn part(&mut self, pen: &mut Pen) {
        self.text.part(pen, if self.stream.is_some() { "not ended yet" } else { self.word() });
    }

    fn word(&self) -> &'static str {
        if let Next::Frames = self.next { "payload" } else { "body" }
    }

    fn text_note(&mut self) -> String {
        match &mut self.stream {
            None => self.word().into(),
            Some(_) if self.text.begin.len() >= LINE => "too long to be explained".into(),
            Some(stream) => stream.line(self.text.text()),
        }
    }

    /// A body ends, perhaps in the middle of a line.
    fn finish(&mut self, pen: &mut Pen) {
        if !self.text.rest.is_empty() || (self.stream.is_some() && !self.text.begin.is_empty()) {
            let none = if self.text.cr || self.stream.is_none() { "" } else { ", without a line end" };
            let note = self.text_note() + none;
            self.text.show(pen, &note);
        }
        (self.text, self.stream) = (Line::default(), None);
    }

    /// What a whole line is, outside a body; and what comes next.
    fn note(&mut self, heads: &mut VecDeque<bool>) -> String {
        let text = self.line.text();
        let empty = self.line.begin == b"\r\n";
        let (next, note) = match self.next {
            Next::Head => {
                if self.head.is_empty() && empty {
                    return "empty line".into();
                }
                let first = self.head.is_empty();
                let room = HEAD.saturating_sub(self.head.len());
                self.head.extend(self.line.begin.iter().take(room));
                match (text.is_empty(), first) {
                    (true, _) => return self.follows(heads),
                    (_, true) if self.client => (Next::Head, "request line"),
                    (_, true) => (Next::Head, "status line"),
                    _ => (Next::Head, "field line"),
                }
            }
            Next::Size => {
                let digits = text.split(|b| !b.is_ascii_hexdigit()).next().unwrap_or_default();
                match std::str::from_utf8(digits).ok().and_then(|d| u64::from_str_radix(d, 16).ok()) {
                    None => (Next::Lost, "chunk size, malformed"),
                    Some(0) => (Next::Trailer, "last chunk"),
                    Some(n) => (Next::Chunk(n), &*format!("chunk size: {n}")),
                }
            }
            Next::ChunkEnd if empty => (Next::Size, "end of the chunk"),
            Next::Trailer if empty => (Next::Body(Some(0)), "end of the body"),
            Next::Trailer => (Next::Trailer, "trailer field"),
            _ => (Next::Lost, "not understood"),
        };
        let note = note.into();
        self.next = next;
        note
    }

    /// What follows a head (RFC 9112 §6.3).
    fn follows(&mut self, heads: &mut VecDeque<bool>) -> String {
        let head = take(&mut self.head);
        let kind = |value: &str| value.split(';').next().unwrap_or_default().trim() == "text/event-stream";
        let (stream, next) = if self.client {
            heads.extend((heads.len() < REQUESTS).then_some(head.starts_with(b"HEAD ")));
            match http::head_end(&head).and_then(|_| Request::parse(&head)) {
                Err(reject) => {
                    self.next = Next::Lost;
                    return format!("end of the head; refused by {}", reject.rule);
                }
                Ok(req) => {
                    let next = match req.framing {
                        Framing::Chunked => Next::Size,
                        Framing::Length(0) if req.bytes("sec-websocket-key").is_some() => Next::Held,
                        Framing::Length(n) => Next::Body(Some(n)),
                    };
                    (kind(&req.field("content-type").unwrap_or_default().to_ascii_lowercase()), next)
                }
            }
        } else {
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let status = head.split_whitespace().nth(1).unwrap_or_default();
            if status == "101" {
                heads.pop_front();
                self.blocks = field("sec-websocket-protocol:") == Some(SUBPROTOCOL_NAME);
                self.next = Next::Frames;
                return "end of the head; frames follow".into();
            }
            let none =
                status.starts_with('1') || heads.pop_front().unwrap_or(false) || ["204", "304"].contains(&status);
            let length = if none { Some(0) } else { field("content-length:").and_then(|n| n.parse().ok()) };
            (status == "200" && field("content-type:").is_some_and(kind), Next::Body(length))
        };
        self.stream = stream.then(Stream::default);
        self.next = next;
        match self.next {
            Next::Size => "end of the head; chunks follow".into(),
            Next::Body(None) => "end of the head; the body ends with the connection".into(),
            Next::Body(Some(n @ 1..)) => format!("end of the head; length of the body: {n}"),
            _ => "end of the head".into(),
        }
    }

    /// Marks the credentials in a line outside a body. `cut`: what is there may go on.
    fn veil(&mut self, cut: bool) {
        let Line { begin, rest, parts, .. } = &mut self.line;
        let folded = matches!(begin.first(), Some(b' ' | b'\t'));
        let mut from = 0;
        if !(*parts || self.secret && folded) {
            let word = begin.trim_ascii_start().split(|b| b": \t".contains(b)).next().unwrap_or_default();
            self.secret = is_credential(word);
            from = begin.len() - begin.trim_ascii_start().len() + word.len();
            from += begin.iter().skip(from).take_while(|b| b": \t".contains(b)).count();
        }
        if self.secret {
            hide(rest.iter_mut().skip(from));
        }
        let bytes: Vec<u8> = rest.iter().map(|b| b.0).collect();
        for at in (0..=bytes.len()).filter(|at| bytes.get(*at).map_or(cut, |b| *b == b'@')) {
            let before = bytes.get(..at).unwrap_or_default();
            let start = before.iter().rposition(|b| b" \t/?#".contains(b)).map_or(0, |n| n + 1);
            let (before, word) = before.split_at(start);
            let begins = before.is_empty() || [&b"//"[..], b" ", b"\t"].iter().any(|end| before.ends_with(end));
            // Of a word that is cut off nobody knows yet: it is one that may be in a URI, or have a password.
            if begins && (at < bytes.len() || before.ends_with(b"//") || word.contains(&b':')) {
                hide(rest.iter_mut().take(at).skip(start));
            }
        }
    }

    /// The connection ends: shows what is left; says in the middle of what.
    fn end(&mut self, pen: &mut Pen) -> String {
        self.veil(true);
        for line in [&mut self.line, &mut self.text] {
            let sure = pen.secrets.mark(&mut line.rest);
            hide(line.rest.iter_mut().skip(sure)); // it may be a secret's beginning
            if !line.rest.is_empty() {
                pen.write(&line.rest, "no line end");
            }
        }
        let open = |s: &Stream| s.is_open() || !self.text.begin.is_empty();
        match self.next {
            Next::Body(Some(n)) | Next::Chunk(n) => format!("; length of what is missing: {n}"),
            Next::Body(None) if self.stream.as_ref().is_some_and(open) => {
                "; what stands behind the last blank line is thrown away".into()
            }
            Next::Head if !(self.head.is_empty() && self.line.begin.is_empty()) => ", in the middle of a head".into(),
            Next::Size | Next::ChunkEnd | Next::Trailer => ", in the middle of a body".into(),
            Next::Frames if !self.frame.is_empty() => ", in the middle of a frame".into(),
            _ => String::new(),
        }
    }
}

/// What is said on one connection, and what it means.
pub struct Explainer {
    number: u64,
    color: bool,
    secrets: Arc<Secrets>,
    client: Way,
    server: Way,
    heads: VecDeque<bool>,
}

/// Nothing of what was said.
impl fmt::Debug for Explainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Explainer({})", self.number)
    }
}

impl Explainer {
    /// For the connection of this number.
    pub fn new(number: u64, color: bool, secrets: Arc<Secrets>) -> Explainer {
        let client = Way { client: true, ..Way::default() };
        Explainer { number, color, secrets, client, server: Way::default(), heads: VecDeque::new() }
    }

    /// The client sent this: whole lines for a person.
    pub fn received(&mut self, bytes: &[u8]) -> String {
        let mut pen = pen(self.number, self.color, '>', &self.secrets);
        self.client.feed(bytes, &mut self.heads, &mut pen);
        pen.out
    }

    /// The client was sent this.
    pub fn sent(&mut self, bytes: &[u8]) -> String {
        let refused = [&self.client.head, &self.client.line.begin].iter().any(|head| head.starts_with(b"HEAD "));
        if refused && self.heads.is_empty() && matches!(self.server.next, Next::Head) {
            self.heads.push_back(true); // it is not yet whole
        }
        let mut pen = pen(self.number, self.color, '<', &self.secrets);
        self.server.feed(bytes, &mut self.heads, &mut pen);
        let out = pen.out;
        if matches!(self.client.next, Next::Held) && self.heads.is_empty() {
            self.client.next = if let Next::Frames = self.server.next { Next::Frames } else { Next::Head };
            let held = take(&mut self.client.held);
            return out + &self.received(&held);
        }
        out
    }

    /// The connection ends.
    pub fn end(&mut self) -> String {
        let pen = |sign| pen(self.number, self.color, sign, &self.secrets);
        let (mut up, mut down, mut end) = (pen('>'), pen('<'), pen('-'));
        let (request, answer) = (self.client.end(&mut up), self.server.end(&mut down));
        end.write(&[], &format!("the connection ends{}", if request.is_empty() { answer } else { request }));
        up.out + &down.out + &end.out
    }
}

/// Cyan for what came, green for what went.
fn pen(number: u64, color: bool, sign: char, secrets: &Secrets) -> Pen<'_> {
    let code = if sign == '>' { 36 } else { 32 };
    let sign = if color { format!("\x1b[{code}m#{number} {sign}\x1b[0m ") } else { format!("#{number} {sign} ") };
    Pen { out: String::new(), sign, color, secrets }
}

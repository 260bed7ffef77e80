//! Turns the bytes of one connection into lines for a person: one line for each line of the wire, with a note. The
//! bytes may come in any pieces. Pure.
//!
//! ```text
//! #1 > GET /kitchen HTTP/1.1␍␊                   request line
//! #1 < : connected to /kitchen as 525e…␊         comment
//! #1 < ␊                                         fires nothing
//! ```
//!
//! `>` marks what the client sent, `<` what the server sent. A line is shown when it has ended. Only bytes that the
//! server sends after a head are shown at once, so that a person can see half an event.
//!
//! `http.rs` decides where the body of a request begins. After a head that it refuses the meaning of the bytes is
//! unknown, so they are only shown as lines. The notes on an event stream follow WHATWG HTML, "Interpreting an event
//! stream". After a 101 there are frames: each is shown as its header, then its payload, unmasked
//! (`channel/watch.rs`).
//!
//! No token is ever shown, wherever a line, a chunk or the connection is cut:
//! 1. outside bodies, the values of `Authorization`, `Cookie` and fields of similar names, and their folded lines;
//! 2. outside bodies, user information (RFC 3986 §3.2.1): the word before an `@`;
//! 3. anywhere, each secret that this server knows (`secrets.rs`).
//!
//! Limits: [`MAX_LINE`], `MAX_HEAD`, `MAX_REQUESTS`; after a handshake, the bytes that `connection.rs` read together
//! with it.

use crate::channel::watch::{FramePosition, Frames};
use crate::wings::trace::secrets::{MarkedByte, Secrets, hide, is_credential, plain_bytes, unmarked, visible};
use crate::wings::trace::stream::StreamExplainer;
use crate::wire::chunked::ChunkState;
use crate::wire::event::is_event_stream;
use crate::wire::http::{BodyLength, HeadEnd, MAX_SECTION, MAX_TARGET, Request};
use crate::wire::reject::Reject;
use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;

/// Limit: bytes of a line that are kept. A longer line is shown in pieces; the server accepts none.
pub const MAX_LINE: usize = MAX_SECTION + 1;
/// Limit: bytes of a head after which no further line is kept. The server accepts no head that is longer.
const MAX_HEAD: usize = MAX_TARGET + MAX_SECTION + 1024;
/// Limit: requests without a response for which this remembers whether they are a HEAD.
const MAX_REQUESTS: usize = 4096;
/// The column in which the notes begin. After a longer line the note follows the line.
const COLUMN: usize = 40;

/// The lines that are ready to be shown.
#[derive(Default)]
struct Output {
    out: String,
    prefix: String,
    color: bool,
    secrets: Arc<Secrets>,
}

impl Output {
    fn write(&mut self, text: &[MarkedByte], note: &str) {
        let mut note = unmarked(note.as_bytes());
        self.secrets.mark(&mut note); // the note may have an event's name, which the client chose
        let text = visible(text);
        let note = visible(&note);
        let (dim, plain) = if self.color { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        self.out += &format!("{}{text:<COLUMN$}  {dim}{note}{plain}\n", self.prefix);
    }
}

/// A line of the wire, as far as it has come.
#[derive(Default)]
struct Line {
    beginning: Vec<u8>,       // its first bytes, at most `MAX_LINE`
    unshown: Vec<MarkedByte>, // its bytes that are not shown yet
    cr: bool,                 // its last byte is a CR; if no LF follows, the line has ended
    partly_shown: bool,       // a part of it was shown
}

impl Line {
    /// Takes the bytes of this line from the front of `bytes`. Returns true if the line ends, false if a piece of it
    /// is to be shown. None: all bytes are taken.
    fn fill(&mut self, bytes: &mut &[u8]) -> Option<bool> {
        while let &[b, ref rest @ ..] = *bytes {
            if self.cr && b != b'\n' {
                return Some(true);
            }
            *bytes = rest;
            self.unshown.push((b, false));
            self.beginning.extend((self.beginning.len() < MAX_LINE).then_some(b));
            self.cr = b == b'\r';
            if b == b'\n' || self.unshown.len() >= MAX_LINE {
                return Some(b == b'\n');
            }
        }
        None
    }

    /// Returns its first bytes, without its end.
    fn text(&self) -> &[u8] {
        self.beginning.split(|b| b"\r\n".contains(b)).next().unwrap_or_default()
    }

    /// Shows the rest of the line, and begins the next one.
    fn show(&mut self, output: &mut Output, note: &str) {
        output.secrets.mark(&mut self.unshown);
        let before = if self.partly_shown { "... " } else { "" };
        output.write(&self.unshown, &format!("{before}{note}"));
        *self = Line::default();
    }

    /// Shows a part of the line before the rest has come. It holds back half of a CR LF, of a character or of a
    /// secret.
    fn show_part(&mut self, output: &mut Output, note: &str) {
        let certain = output.secrets.mark(&mut self.unshown).min(self.unshown.len() - usize::from(self.cr));
        let bytes = plain_bytes(self.unshown.get(..certain).unwrap_or_default());
        let certain = certain - bytes.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
        if certain > 0 {
            output.write(&self.unshown.drain(..certain).collect::<Vec<_>>(), note);
            self.partly_shown = true;
        }
    }
}

/// The next part of one direction.
#[derive(Default, PartialEq)]
enum Next {
    #[default]
    Head,
    /// So many bytes of a body.
    Body(usize),
    /// A body that ends with the connection.
    Rest,
    /// A part of a body in chunks.
    Chunked(ChunkState),
    /// The bytes after a request for an upgrade. The response decides what they are.
    Undecided,
    Frames,
    /// Bytes whose meaning is unknown.
    Lost,
}

/// One direction of a connection.
#[derive(Default)]
struct Direction {
    client: bool,
    next: Next,
    line: Line,                      // the current line, outside bodies
    secret: bool,                    // the last field line has credentials
    head: Vec<u8>,                   // the lines of the current head
    text: Line,                      // the current line of a body; it may go over several chunks
    stream: Option<StreamExplainer>, // if the body is an event stream
    undecided: Vec<u8>,              // the bytes of `Next::Undecided`
    frames: Option<Box<dyn Frames>>, // explains the frames after a 101
    head_requests: VecDeque<bool>,   // for each request without a response, whether it is a HEAD
    output: Output,
}

impl Direction {
    /// Takes bytes; returns the lines to show.
    fn feed(&mut self, mut bytes: &[u8]) -> String {
        while !bytes.is_empty() {
            match &mut self.next {
                Next::Undecided => self.undecided.extend(take(&mut bytes)),
                Next::Frames => self.add_frame_bytes(&mut bytes),
                Next::Body(left) | Next::Chunked(ChunkState::Data(left)) => {
                    let size = bytes.len().min(*left);
                    *left -= size;
                    self.add_body_bytes(bytes.split_off(..size).unwrap_or_default());
                }
                Next::Rest => self.add_body_bytes(take(&mut bytes)),
                _ => self.add_line_bytes(&mut bytes),
            }
            match self.next {
                Next::Chunked(ChunkState::Data(0)) => {
                    self.show_part_of_body();
                    self.next = Next::Chunked(ChunkState::End);
                }
                Next::Body(0) => {
                    self.finish();
                    self.next = Next::Head;
                }
                _ => {}
            }
        }
        if !self.client {
            self.show_part_of_body();
        }
        take(&mut self.output.out)
    }

    /// Takes bytes of a line outside bodies.
    fn add_line_bytes(&mut self, bytes: &mut &[u8]) {
        let Some(ended) = self.line.fill(bytes) else { return };
        self.hide_credentials(!ended);
        if ended {
            let note = self.line_note();
            self.line.show(&mut self.output, &note);
        } else {
            self.line.show_part(&mut self.output, "not ended yet");
        }
    }

    /// Takes bytes of a body.
    fn add_body_bytes(&mut self, mut bytes: &[u8]) {
        while let Some(ended) = self.text.fill(&mut bytes) {
            if ended {
                let note = self.body_line_note();
                self.text.show(&mut self.output, &note);
            } else {
                self.show_part_of_body();
            }
        }
    }

    /// Takes the next byte of a frame's header, or bytes of its payload.
    fn add_frame_bytes(&mut self, bytes: &mut &[u8]) {
        let Some(frames) = &mut self.frames else { return self.add_body_bytes(take(bytes)) };
        if let FramePosition::Header { .. } = frames.position() {
            let Some((header, note)) = bytes.split_off_first().and_then(|byte| frames.header(*byte)) else { return };
            self.output.write(&unmarked(header.as_bytes()), &note);
        }
        let FramePosition::Payload { control, last, is_event_stream: streams } = frames.position() else { return };
        let (payload, whole) = frames.payload(bytes);
        if control {
            self.line.unshown.extend(unmarked(&payload));
            if whole && !self.line.unshown.is_empty() {
                self.line.show(&mut self.output, "payload");
            }
            return;
        }
        if streams {
            self.stream.get_or_insert_default();
        }
        self.add_body_bytes(&payload);
        if whole && last {
            self.finish();
        } else if whole {
            self.show_part_of_body();
        }
    }

    fn show_part_of_body(&mut self) {
        let note = if self.stream.is_some() { "not ended yet" } else { self.body_note() };
        self.text.show_part(&mut self.output, note);
    }

    fn body_note(&self) -> &'static str {
        if self.next == Next::Frames { "payload" } else { "body" }
    }

    fn body_line_note(&mut self) -> String {
        match &mut self.stream {
            None => self.body_note().into(),
            Some(_) if self.text.beginning.len() >= MAX_LINE => "too long to be explained".into(),
            Some(stream) => stream.explain_line(self.text.text()),
        }
    }

    /// Ends a body, perhaps in the middle of a line.
    fn finish(&mut self) {
        if !self.text.unshown.is_empty() || (self.stream.is_some() && !self.text.beginning.is_empty()) {
            let no_end = if self.text.cr || self.stream.is_none() { "" } else { ", without a line end" };
            let note = self.body_line_note() + no_end;
            self.text.show(&mut self.output, &note);
        }
        self.text = Line::default();
        self.stream = None;
    }

    /// Returns the note for a whole line outside a body, and decides what comes next.
    fn line_note(&mut self) -> String {
        let text = self.line.text();
        let empty = self.line.beginning == b"\r\n";
        let first = self.head.is_empty();
        let note = match self.next {
            Next::Head if first && empty => "empty line",
            Next::Head => {
                if self.head.len() < MAX_HEAD {
                    self.head.extend(&self.line.beginning);
                }
                match text {
                    [] => return self.end_head(),
                    _ if !first => "field line",
                    _ if self.client => "request line",
                    _ => "status line",
                }
            }
            Next::Chunked(chunk) => {
                let next = chunk.after_line(text).ok().filter(|next| *next != ChunkState::Size || empty);
                self.next = next.map_or(Next::Lost, Next::Chunked);
                match next {
                    Some(ChunkState::Data(size)) => &format!("chunk size: {size}"),
                    Some(ChunkState::Over) => {
                        self.next = Next::Body(0);
                        &format!("end of the body{}", self.loss_note())
                    }
                    Some(ChunkState::Size) => "end of the chunk",
                    Some(_) if chunk == ChunkState::Size => "last chunk",
                    Some(_) => "trailer field",
                    None if chunk == ChunkState::Size => "chunk size, malformed",
                    None => "not understood",
                }
            }
            _ => {
                self.next = Next::Lost;
                "not understood"
            }
        };
        note.into()
    }

    /// Ends a head: decides what follows (RFC 9112 §6.3) and returns the note.
    fn end_head(&mut self) -> String {
        let head = take(&mut self.head);
        let followed = if self.client { self.end_request_head(&head) } else { Ok(self.end_response_head(&head)) };
        self.stream = (followed == Ok(true)).then(StreamExplainer::default);
        let detail = match self.next {
            _ if let Err(reject) = followed => {
                self.next = Next::Lost;
                &format!("; refused by {}", reject.rule)
            }
            Next::Frames => "; frames follow",
            Next::Chunked(_) => "; chunks follow",
            Next::Rest => "; the body ends with the connection",
            Next::Body(n @ 1..) => &format!("; length of the body: {n}"),
            _ => "",
        };
        format!("end of the head{detail}")
    }

    /// Decides what follows a request's head. Returns whether the body is an event stream.
    fn end_request_head(&mut self, head: &[u8]) -> Result<bool, Reject> {
        self.head_requests.push_back(head.starts_with(b"HEAD "));
        HeadEnd::default().find(head)?;
        let req = Request::parse(head)?;
        self.next = match req.body_length {
            BodyLength::Chunked => Next::Chunked(ChunkState::Size),
            BodyLength::Known(0) if req.field_bytes("upgrade").is_some() => Next::Undecided,
            BodyLength::Known(n) => Next::Body(n),
        };
        Ok(req.field("content-type").is_some_and(is_event_stream))
    }

    /// Decides what follows a response's head. Returns whether the body is an event stream.
    fn end_response_head(&mut self, head: &[u8]) -> bool {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        // Each response belongs to the next request, but an interim one (100) does not.
        let bodiless = status == "100" || self.head_requests.pop_front() == Some(true) || status == "204";
        self.next = match status {
            "101" => Next::Frames,
            _ if bodiless => Next::Body(0),
            _ if field("transfer-encoding:") == Some("chunked") => Next::Chunked(ChunkState::Size),
            _ => field("content-length:").and_then(|n| n.parse().ok()).map_or(Next::Rest, Next::Body),
        };
        status == "200" && field("content-type:").is_some_and(is_event_stream)
    }

    /// Marks the credentials in a line outside a body. `cut`: the line may not be complete.
    fn hide_credentials(&mut self, cut: bool) {
        let Line { beginning, unshown, partly_shown, .. } = &mut self.line;
        let folded = matches!(beginning.first(), Some(b' ' | b'\t'));
        let mut start_of_value = 0;
        if !(*partly_shown || self.secret && folded) {
            let text = beginning.trim_ascii_start();
            let word = text.split(|b| b": \t".contains(b)).next().unwrap_or_default();
            self.secret = is_credential(word);
            start_of_value = beginning.len() - text.len() + word.len();
            start_of_value += beginning.iter().skip(start_of_value).take_while(|b| b": \t".contains(b)).count();
        }
        if self.secret {
            hide(unshown.iter_mut().skip(start_of_value));
        }
        let bytes = plain_bytes(unshown);
        let mut start = 0;
        for word in bytes.split(|b| b" \t/?#".contains(b)) {
            let before = bytes.get(..start).unwrap_or_default();
            let in_uri = matches!(before, [.., b'/', b'/']);
            if in_uri || matches!(before, [] | [.., b' ' | b'\t']) {
                // If the word is cut off, its end is not known: it may be user information of a URI, or have a
                // password.
                let may_go_on = cut && start + word.len() == bytes.len() && (in_uri || word.contains(&b':'));
                let last = word.iter().rposition(|b| *b == b'@').unwrap_or(0);
                hide(unshown.iter_mut().skip(start).take(if may_go_on { word.len() } else { last }));
            }
            start += word.len() + 1;
        }
    }

    /// Ends the connection: shows the remaining bytes. Returns what is incomplete, as a part of a note.
    fn end(&mut self) -> String {
        self.hide_credentials(true);
        for line in [&mut self.line, &mut self.text] {
            let certain = self.output.secrets.mark(&mut line.unshown);
            hide(line.unshown.iter_mut().skip(certain)); // it may be the beginning of a secret
            if !line.unshown.is_empty() {
                self.output.write(&line.unshown, "no line end");
            }
        }
        let incomplete = match self.next {
            Next::Body(n) | Next::Chunked(ChunkState::Data(n)) => &format!("; missing bytes: {n}"),
            Next::Head if !(self.head.is_empty() && self.line.beginning.is_empty()) => ", in the middle of a head",
            Next::Chunked(_) => ", in the middle of a body",
            Next::Frames
                if self
                    .frames
                    .as_ref()
                    .is_some_and(|frames| frames.position() != FramePosition::Header { begun: false }) =>
            {
                ", in the middle of a frame"
            }
            _ => "",
        };
        incomplete.to_string() + self.loss_note()
    }

    /// Returns a note if the stream of a response ends here with an incomplete event.
    fn loss_note(&self) -> &'static str {
        match &self.stream {
            Some(stream) if !self.client && (stream.is_open() || !self.text.beginning.is_empty()) => {
                "; the client discards the lines after the last blank line"
            }
            _ => "",
        }
    }
}

/// Explains both directions of one connection.
pub struct Explainer {
    client: Direction,
    server: Direction,
}

impl Explainer {
    /// Creates one for the connection of this number.
    pub fn new(number: u64, color: bool, secrets: Arc<Secrets>) -> Explainer {
        let direction = |client, prefix, code| {
            let prefix =
                if color { format!("\x1b[{code}m#{number} {prefix}\x1b[0m ") } else { format!("#{number} {prefix} ") };
            let output = Output { prefix, color, secrets: secrets.clone(), ..Output::default() };
            Direction { client, output, ..Direction::default() }
        };
        // Cyan for the client's bytes, green for the server's.
        Explainer { client: direction(true, '>', 36), server: direction(false, '<', 32) }
    }

    /// Sets the readers for the frames after a 101: those of the client, and those of the server.
    pub fn frames(&mut self, client: Box<dyn Frames>, server: Box<dyn Frames>) {
        self.client.frames = Some(client);
        self.server.frames = Some(server);
    }

    /// Takes bytes from the client. Returns the lines to show.
    pub fn received(&mut self, bytes: &[u8]) -> String {
        let out = self.client.feed(bytes);
        self.server.head_requests.append(&mut self.client.head_requests);
        self.server.head_requests.truncate(MAX_REQUESTS);
        out
    }

    /// Takes bytes to the client. Returns the lines to show.
    pub fn sent(&mut self, bytes: &[u8]) -> String {
        let refused = [&self.client.head, &self.client.line.beginning].iter().any(|head| head.starts_with(b"HEAD "));
        if refused && self.server.head_requests.is_empty() && self.server.next == Next::Head {
            self.server.head_requests.push_back(true); // this HEAD is refused before its head is whole
        }
        let out = self.server.feed(bytes);
        if self.client.next == Next::Undecided && self.server.head_requests.is_empty() {
            self.client.next = if self.server.next == Next::Frames { Next::Frames } else { Next::Head };
            let held = take(&mut self.client.undecided);
            return out + &self.received(&held);
        }
        out
    }

    /// Ends the connection. Returns the last lines to show.
    pub fn end(&mut self) -> String {
        let request = self.client.end();
        let response = self.server.end();
        let incomplete = if request.is_empty() { response } else { request };
        let last = &mut self.server.output;
        last.prefix = last.prefix.replace('<', "-");
        last.write(&[], &format!("the connection ends{incomplete}"));
        take(&mut self.client.output.out) + &last.out
    }
}

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
//! WHATWG HTML, "Interpreting an event stream". Behind a 101 there are frames: of each the header, then the payload, in plain
//! (`channel/watch.rs`).
//!
//! No token is ever shown, wherever a line, a chunk or the connection is cut:
//! 1. outside bodies, the value of `Authorization`, `Cookie` and fields of similar names, and their folded lines;
//! 2. outside bodies, user information (RFC 3986 §3.2.1): the word before an `@`;
//! 3. anywhere, each secret that this server knows (`secrets.rs`).
//!
//! Limits: [`MAX_LINE`], `MAX_HEAD`, `MAX_REQUESTS`; behind a handshake what `connection.rs` read together with it.

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

/// Limit: bytes of a line that are kept; a longer one is shown in pieces. No line that is obeyed is longer.
pub const MAX_LINE: usize = MAX_SECTION + 1;
/// Limit: behind so many bytes of a head no further line is kept. No head that is obeyed is longer.
const MAX_HEAD: usize = MAX_TARGET + MAX_SECTION + 1024;
/// Limit: requests that were read and not yet answered, of which it is known whether they were a HEAD.
const MAX_REQUESTS: usize = 4096;
/// Between two frames.
const BETWEEN: FramePosition = FramePosition::Header { begun: false };
/// Where the notes begin; behind a longer line they follow it.
const COLUMN: usize = 40;

/// Lines on their way out.
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
        self.secrets.mark(&mut note); // an event's name is the peer's
        let text = visible(text);
        let note = visible(&note);
        let (dim, plain) = if self.color { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        self.out += &format!("{}{text:<COLUMN$}  {dim}{note}{plain}\n", self.prefix);
    }
}

/// A line as far as it has come.
#[derive(Default)]
struct Line {
    beginning: Vec<u8>,       // its first bytes, at most `MAX_LINE`
    unshown: Vec<MarkedByte>, // what was not yet shown
    cr: bool,                 // its last byte is a CR: if no LF follows, it has ended
    partly_shown: bool,       // some of it was shown
}

impl Line {
    /// Takes from the front of `bytes` what belongs to it: whether it ends, or it is time to show a piece. None: there is no
    /// byte left.
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

    /// Its first bytes without its end.
    fn text(&self) -> &[u8] {
        self.beginning.split(|b| b"\r\n".contains(b)).next().unwrap_or_default()
    }

    /// Shows all that is there, as its end.
    fn show(&mut self, pen: &mut Output, note: &str) {
        pen.secrets.mark(&mut self.unshown);
        let before = if self.partly_shown { "... " } else { "" };
        pen.write(&self.unshown, &format!("{before}{note}"));
        *self = Line::default();
    }

    /// Shows what can be shown before more comes: no half of a CR LF, of a character or of a secret.
    fn show_part(&mut self, pen: &mut Output, note: &str) {
        let sure = pen.secrets.mark(&mut self.unshown).min(self.unshown.len() - usize::from(self.cr));
        let bytes = plain_bytes(self.unshown.get(..sure).unwrap_or_default());
        let sure = sure - bytes.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
        if sure > 0 {
            pen.write(&self.unshown.drain(..sure).collect::<Vec<_>>(), note);
            self.partly_shown = true;
        }
    }
}

/// What comes next in one direction.
#[derive(Default, PartialEq)]
enum Next {
    #[default]
    Head,
    /// So many bytes.
    Body(usize),
    /// All until the connection ends.
    Rest,
    /// Of a body in chunks.
    Chunked(ChunkState),
    /// Behind a handshake: that depends on the answer.
    Undecided,
    Frames,
    /// Nobody can tell.
    Lost,
}

/// One direction of a connection.
#[derive(Default)]
struct Direction {
    client: bool,
    next: Next,
    line: Line,                      // outside bodies
    secret: bool,                    // the last field line has credentials
    head: Vec<u8>,                   // its lines so far
    text: Line,                      // of a body, over all its chunks
    stream: Option<StreamExplainer>, // the body is one
    undecided: Vec<u8>,              // it is not yet known what this is
    frames: Option<Box<dyn Frames>>, // behind a 101
    head_requests: VecDeque<bool>,   // for each request that is not answered yet, whether it is a HEAD
    output: Output,
}

impl Direction {
    /// Takes what was said; returns the lines to show.
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

    /// Takes what belongs to a line outside bodies.
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

    /// Takes some of a body.
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

    /// Takes the next byte of a frame's header, or what is there of its payload.
    fn add_frame_bytes(&mut self, bytes: &mut &[u8]) {
        let Some(frames) = &mut self.frames else { return self.add_body_bytes(take(bytes)) };
        if let FramePosition::Header { .. } = frames.position() {
            let Some((header, note)) = bytes.split_off_first().and_then(|byte| frames.header(*byte)) else { return };
            self.output.write(&unmarked(header.as_bytes()), &note);
        }
        let FramePosition::Payload { control, last, streams } = frames.position() else { return };
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

    /// A body ends, perhaps in the middle of a line.
    fn finish(&mut self) {
        if !self.text.unshown.is_empty() || (self.stream.is_some() && !self.text.beginning.is_empty()) {
            let none = if self.text.cr || self.stream.is_none() { "" } else { ", without a line end" };
            let note = self.body_line_note() + none;
            self.text.show(&mut self.output, &note);
        }
        self.text = Line::default();
        self.stream = None;
    }

    /// What a whole line is, outside a body; and what comes next.
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

    /// What follows a head (RFC 9112 §6.3).
    fn end_head(&mut self) -> String {
        let head = take(&mut self.head);
        let followed = if self.client { self.end_request_head(&head) } else { Ok(self.end_response_head(&head)) };
        self.stream = (followed == Ok(true)).then(StreamExplainer::default);
        let what = match self.next {
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
        format!("end of the head{what}")
    }

    /// Whether the body of a request is an event stream.
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

    /// Whether the body of an answer is an event stream.
    fn end_response_head(&mut self, head: &[u8]) -> bool {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        // Each answer but an interim one is that to the next request.
        let bodiless = status == "100" || self.head_requests.pop_front() == Some(true) || status == "204";
        self.next = match status {
            "101" => Next::Frames,
            _ if bodiless => Next::Body(0),
            _ if field("transfer-encoding:") == Some("chunked") => Next::Chunked(ChunkState::Size),
            _ => field("content-length:").and_then(|n| n.parse().ok()).map_or(Next::Rest, Next::Body),
        };
        status == "200" && field("content-type:").is_some_and(is_event_stream)
    }

    /// Marks the credentials in a line outside a body. `cut`: what is there may go on.
    fn hide_credentials(&mut self, cut: bool) {
        let Line { beginning: begin, unshown: rest, partly_shown: parts, .. } = &mut self.line;
        let folded = matches!(begin.first(), Some(b' ' | b'\t'));
        let mut from = 0;
        if !(*parts || self.secret && folded) {
            let text = begin.trim_ascii_start();
            let word = text.split(|b| b": \t".contains(b)).next().unwrap_or_default();
            self.secret = is_credential(word);
            from = begin.len() - text.len() + word.len();
            from += begin.iter().skip(from).take_while(|b| b": \t".contains(b)).count();
        }
        if self.secret {
            hide(rest.iter_mut().skip(from));
        }
        let bytes = plain_bytes(rest);
        let mut start = 0;
        for word in bytes.split(|b| b" \t/?#".contains(b)) {
            let before = bytes.get(..start).unwrap_or_default();
            let uri = matches!(before, [.., b'/', b'/']);
            if uri || matches!(before, [] | [.., b' ' | b'\t']) {
                // Of a word that is cut off nobody knows yet: it is one that may be in a URI, or have a password.
                let open = cut && start + word.len() == bytes.len() && (uri || word.contains(&b':'));
                let last = word.iter().rposition(|b| *b == b'@').unwrap_or(0);
                hide(rest.iter_mut().skip(start).take(if open { word.len() } else { last }));
            }
            start += word.len() + 1;
        }
    }

    /// The connection ends: shows what is left; says in the middle of what.
    fn end(&mut self) -> String {
        self.hide_credentials(true);
        for line in [&mut self.line, &mut self.text] {
            let sure = self.output.secrets.mark(&mut line.unshown);
            hide(line.unshown.iter_mut().skip(sure)); // it may be a secret's beginning
            if !line.unshown.is_empty() {
                self.output.write(&line.unshown, "no line end");
            }
        }
        let why = match self.next {
            Next::Body(n) | Next::Chunked(ChunkState::Data(n)) => &format!("; length of what is missing: {n}"),
            Next::Head if !(self.head.is_empty() && self.line.beginning.is_empty()) => ", in the middle of a head",
            Next::Chunked(_) => ", in the middle of a body",
            Next::Frames if self.frames.as_ref().is_some_and(|frames| frames.position() != BETWEEN) => {
                ", in the middle of a frame"
            }
            _ => "",
        };
        why.to_string() + self.loss_note()
    }

    /// What becomes of an answer's stream that ends here.
    fn loss_note(&self) -> &'static str {
        match &self.stream {
            Some(stream) if !self.client && (stream.is_open() || !self.text.beginning.is_empty()) => {
                "; what stands behind the last blank line is thrown away"
            }
            _ => "",
        }
    }
}

/// What is said on one connection, and what it means.
pub struct Explainer {
    client: Direction,
    server: Direction,
}

impl Explainer {
    /// For the connection of this number.
    pub fn new(number: u64, color: bool, secrets: Arc<Secrets>) -> Explainer {
        let way = |client, sign, code| {
            let sign =
                if color { format!("\x1b[{code}m#{number} {sign}\x1b[0m ") } else { format!("#{number} {sign} ") };
            let pen = Output { prefix: sign, color, secrets: secrets.clone(), ..Output::default() };
            Direction { client, output: pen, ..Direction::default() }
        };
        // Cyan for what came, green for what went.
        Explainer { client: way(true, '>', 36), server: way(false, '<', 32) }
    }

    /// Behind a 101 this reads the frames of the client, and those of the server.
    pub fn frames(&mut self, client: Box<dyn Frames>, server: Box<dyn Frames>) {
        self.client.frames = Some(client);
        self.server.frames = Some(server);
    }

    /// The client sent this: whole lines for a person.
    pub fn received(&mut self, bytes: &[u8]) -> String {
        let out = self.client.feed(bytes);
        self.server.head_requests.append(&mut self.client.head_requests);
        self.server.head_requests.truncate(MAX_REQUESTS);
        out
    }

    /// The client was sent this.
    pub fn sent(&mut self, bytes: &[u8]) -> String {
        let refused = [&self.client.head, &self.client.line.beginning].iter().any(|head| head.starts_with(b"HEAD "));
        if refused && self.server.head_requests.is_empty() && self.server.next == Next::Head {
            self.server.head_requests.push_back(true); // it is not yet whole
        }
        let out = self.server.feed(bytes);
        if self.client.next == Next::Undecided && self.server.head_requests.is_empty() {
            self.client.next = if self.server.next == Next::Frames { Next::Frames } else { Next::Head };
            let held = take(&mut self.client.undecided);
            return out + &self.received(&held);
        }
        out
    }

    /// The connection ends.
    pub fn end(&mut self) -> String {
        let request = self.client.end();
        let answer = self.server.end();
        let why = if request.is_empty() { answer } else { request };
        let last = &mut self.server.output;
        last.prefix = last.prefix.replace('<', "-");
        last.write(&[], &format!("the connection ends{why}"));
        take(&mut self.client.output.out) + &last.out
    }
}

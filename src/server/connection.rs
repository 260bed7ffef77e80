//! One client's connection: requests in time, answers out. It knows deadlines and framing, and nothing of channels.
//!
//! What can go wrong with the framing ends the connection, for nobody can tell where the next request begins; it is
//! answered first ([`Stop::Refuse`]). Everything else is an ordinary answer, after which the next request is read.
//!
//! Limits: the constants below; `http.rs` has those of a head, and the caller gives that of a body.

use crate::channel::framing::chunked;
use crate::channel::watch::Watchers;
use crate::system::report::report;
use crate::wire::chunked::Chunked;
use crate::wire::http::{self, BodyLength, HeadEnd, Request};
use crate::wire::reject::{Reject, TIMEOUT, TOO_LARGE};
use std::borrow::Cow;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::{replace, take};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Limit: a request, from its first byte (on a new connection: from the accept) to its last; but see `LEAST_RATE`.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Limit: bytes a second of a body, behind that time: a body has a second more for so many bytes of it, up to its length,
/// and is never waited for longer than that time.
const LEAST_RATE: u64 = 1 << 10;
/// Limit: the same where others wait for this place, so that whoever says nothing does not keep it for long.
const BRIEF_TIME: Duration = Duration::from_secs(1);
/// Limit: an idle connection that has had an answer. Above the 60 s after which nginx gives up an idle upstream.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Limit: a response, and each write of it.
const RESPONSE_TIME: Duration = Duration::from_secs(10);
/// Limit: how long what comes behind the last answer is read and dropped.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Bytes for which a read makes room: enough for most requests, and little for a connection that is idle.
const FIRST_READ: usize = 512;
/// The same behind a read that filled its room. The buffer never holds more than a head and this.
const NEXT_READ: usize = 16 << 10;

/// Why a connection takes no further request.
pub enum Stop {
    /// The peer is gone, or everything is said.
    Close,
    /// The framing can no longer be trusted: answer, then close.
    Refuse(Reject),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Stop {
        Stop::Close
    }
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Stop {
        Stop::Refuse(reject)
    }
}

/// An answer whose body is known.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Whole field lines, each with its CRLF.
    pub fields: String,
    /// Empty where it has none, and for the HEAD of what has no length.
    pub body: Cow<'static, [u8]>,
    /// It is framed in chunks, and so it has no length.
    pub chunked: bool,
    /// The `Cache-Control` field line.
    pub cache: &'static str,
}

impl Response {
    /// A 200 of a media type.
    pub fn new(media_type: &str, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { body: body.into(), ..Response::empty(200, format!("Content-Type: {media_type}\r\n")) }
    }

    /// One without a body.
    pub fn empty(status: u16, fields: impl Into<String>) -> Response {
        Response { status, fields: fields.into(), body: Cow::default(), chunked: false, cache: http::NO_STORE }
    }

    /// A refusal, and what it is about if that is not empty.
    pub fn refusal(reject: Reject, about: &str) -> Response {
        let line = reject.line();
        let line = if about.is_empty() { line } else { format!("{}: {about}\n", line.trim_end()) };
        let mut response = Response { status: reject.status, ..Response::text(line) };
        response.fields += reject.fields;
        response
    }

    /// A 200 of plain text.
    pub fn text(body: impl Into<String>) -> Response {
        Response::new("text/plain; charset=utf-8", body.into().into_bytes())
    }
}

/// A connection with what it has received and not yet used.
pub struct Connection {
    /// The socket; it blocks, within limits.
    pub stream: TcpStream,
    buf: Vec<u8>,
    room: usize, // for which the next read makes room
    /// Others wait for its place: it gets one answer, and little time.
    pub brief: bool,
    head_only: bool, // the request is a HEAD, whose response has no body, not even a refusal (RFC 9110 §9.3.2)
    quiet: bool,
    peer: SocketAddr,
    /// Method and target of the request that is being answered, for the request log; empty if it was not understood,
    /// and before the first one.
    pub request_line: String,
    /// Field lines that go with every answer to it.
    pub cors: String,
    /// What a refusal of it is about, which its line then names; else empty.
    pub refusal_detail: String,
    /// What watches its bytes.
    pub watchers: Watchers,
}

impl Connection {
    /// Takes a socket that was just accepted; a `brief` one where others wait for its place.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn new(stream: TcpStream, peer: SocketAddr, quiet: bool, brief: bool) -> io::Result<Connection> {
        stream.set_nodelay(true)?; // an response, or an event, must not wait for the acknowledgement of the one before
        stream.set_write_timeout(Some(RESPONSE_TIME))?;
        Ok(Connection {
            stream,
            buf: Vec::new(),
            room: FIRST_READ,
            brief,
            head_only: false,
            quiet,
            peer,
            request_line: String::new(),
            cors: String::new(),
            refusal_detail: String::new(),
            watchers: Watchers::default(),
        })
    }

    /// Reads the next head; returns it with the time up to which its body may come as slowly as it likes.
    ///
    /// # Errors
    /// Where there is none, or it cannot be told where it ends.
    pub fn read_head(&mut self) -> Result<(Vec<u8>, Instant), Stop> {
        self.cors.clear();
        self.refusal_detail.clear();
        self.watchers.response_sent();
        if !self.request_line.is_empty() && self.buf.is_empty() && !self.read(KEEP_ALIVE)? {
            return Err(Stop::Close);
        }
        self.request_line.clear();
        let deadline = Instant::now() + if self.brief { BRIEF_TIME } else { REQUEST_TIME };
        let mut end = HeadEnd::default();
        loop {
            // Empty lines before the request line (RFC 9112 §2.2), all that are there at once.
            let empty = self.buf.chunks(2).take_while(|pair| *pair == b"\r\n").count();
            self.buf.drain(..2 * empty);
            self.head_only = self.buf.starts_with(b"HEAD ");
            // A CR alone may be half of one more.
            if self.buf != b"\r"
                && let Some(end) = end.find(&self.buf)?
            {
                return Ok((self.drain(end), deadline));
            }
            self.read_before(deadline)?;
        }
    }

    /// Reads the body of a request, of at most `max` bytes, and says first that it is wanted if that is asked.
    ///
    /// # Errors
    /// Where it is too large, malformed or late.
    pub fn read_body(&mut self, req: &Request, max: usize, deadline: Instant) -> Result<Vec<u8>, Stop> {
        let mut deadline = deadline;
        let mut received = Chunked::default();
        let mut expects = req.expects;
        loop {
            let before = received.body.len();
            let (used, complete) = match req.body_length {
                BodyLength::Chunked => received.feed(&self.buf, max)?,
                BodyLength::Known(n) if n > max => return Err(TOO_LARGE.into()),
                BodyLength::Known(n) => {
                    let left = n - received.body.len();
                    let data = self.buf.get(..left).unwrap_or(&self.buf);
                    received.body.extend_from_slice(data);
                    (data.len(), data.len() == left)
                }
            };
            let used = self.drain(used);
            self.watchers.each(|watcher| watcher.body(&used));
            if complete {
                return Ok(received.body);
            }
            if take(&mut expects) {
                self.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            if !self.brief {
                let earned = 1_000_000 * (received.body.len() - before) as u64 / LEAST_RATE;
                let most = Instant::now() + REQUEST_TIME; // what comes in a burst buys no longer silence
                deadline = (deadline + Duration::from_micros(earned)).min(most);
            }
            self.read_before(deadline)?;
        }
    }

    /// Takes up to `n` bytes from the front of the buffer.
    pub fn drain(&mut self, n: usize) -> Vec<u8> {
        let rest = self.buf.split_off(n.min(self.buf.len()));
        replace(&mut self.buf, rest)
    }

    fn read_before(&mut self, deadline: Instant) -> Result<(), Stop> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !self.read(left)? { Err(TIMEOUT.into()) } else { Ok(()) }
    }

    /// Reads what has come; false where nothing came in time.
    ///
    /// # Errors
    /// Where nothing comes any more.
    pub fn read(&mut self, within: Duration) -> Result<bool, Stop> {
        self.stream.set_read_timeout(Some(within))?;
        let before = self.buf.len();
        self.buf.resize(before + self.room, 0);
        let read = self.stream.read(self.buf.get_mut(before..).unwrap_or_default()).map_err(|e| e.kind());
        self.buf.truncate(before + read.unwrap_or(0));
        self.room = if read == Ok(self.room) { NEXT_READ } else { FIRST_READ };
        match read {
            Ok(1..) => {
                let new = self.buf.get(before..).unwrap_or_default();
                self.watchers.each(|watcher| watcher.received(new));
                Ok(true)
            }
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(ErrorKind::Interrupted) => Ok(true), // stopped and continued (signal(7))
            _ => Err(Stop::Close),
        }
    }

    /// Writes an answer, with a `Connection` field line or none.
    ///
    /// # Errors
    /// Where the socket fails, or the peer does not take the answer in time.
    pub fn send(&mut self, response: &Response, option: &str) -> io::Result<()> {
        self.log_request(response.status);
        let mut head = http::head(response.status, &[&response.fields, response.cache, &self.cors, option]);
        // 204 has no length (RFC 9110 §8.6), and of a stream no HEAD can tell it.
        let has_length = response.status != 204 && !(self.head_only && response.body.is_empty());
        let framing = chunked(response.chunked);
        if has_length && !response.chunked {
            head += &format!("Content-Length: {}\r\n", response.body.len());
        }
        head += framing.field;
        head += "\r\n";
        let mut bytes = head.into_bytes();
        if !self.head_only {
            bytes.extend(framing.wrap_all(&response.body));
            bytes.extend((framing.last)());
        }
        let deadline = Instant::now() + RESPONSE_TIME;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match self.write(rest) {
                Ok(n) if n > 0 && Instant::now() < deadline => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => return Err(ErrorKind::TimedOut.into()),
            }
        }
        Ok(())
    }

    /// Ends the connection, with a refusal where one is due. What still comes is read and dropped for a while: a socket
    /// that is closed with bytes unread is reset, and a reset can take the answer away before it is read (RFC 9112 §9.6).
    pub fn close(mut self, stop: Stop) {
        if let Stop::Refuse(reject) = stop
            && self.send(&Response::refusal(reject, ""), "Connection: close\r\n").is_err()
        {
            return;
        }
        let deadline = Instant::now() + if self.brief { BRIEF_TIME } else { CLOSE_TIME };
        self.watchers.response_sent(); // however long the client takes to see it
        if self.stream.shutdown(Shutdown::Write).is_ok() {
            while self.read_before(deadline).is_ok() {
                self.buf.clear();
            }
        }
    }

    /// One line per request on standard error. Method and target are printable ASCII (`Request::parse`), so nothing of
    /// a request reaches a terminal as a control character.
    /// Shortcut: a standard error that nobody reads holds up the connections that log to it, never the pump.
    pub fn log_request(&self, status: u16) {
        if !self.quiet {
            let line = if self.request_line.is_empty() { "-" } else { &self.request_line };
            report(format!("{} {} {line} {status}", http::now(), self.peer));
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.watchers.write(&self.stream, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

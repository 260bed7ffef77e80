//! One client's connection: it reads requests within their deadlines and sends responses. It knows framing, and it
//! knows nothing of channels.
//!
//! An error of the framing ends the connection, because the server cannot know where the next request begins. The
//! client first gets a refusal ([`Stop::Refuse`]). After every other response the next request is read.
//!
//! Limits: the constants below. `http.rs` has the limits of a head, and the caller gives the limit of a body.

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

/// Limit: the time for a whole request. It begins with the first byte (on a new connection: when it is accepted). A
/// long body may get more time, see `LEAST_RATE`.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Limit: the slowest rate of a body, in bytes a second. Each `LEAST_RATE` bytes of the body extend the deadline by
/// one second. But the server never waits more than `REQUEST_TIME` for the next byte.
const LEAST_RATE: u64 = 1 << 10;
/// Limit: the same time for a whole request, if other clients wait for this connection's place. A silent client must
/// not keep the place for long.
pub const BRIEF_TIME: Duration = Duration::from_secs(1);
/// Limit: the time between a response and the next request. It is above the 60 s after which nginx closes an idle
/// connection to a server.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Limit: the time for a response, and for each write of it.
const RESPONSE_TIME: Duration = Duration::from_secs(10);
/// Limit: after the last response, the time in which bytes from the client are read and dropped.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Bytes that a read can take. This is enough for most requests, and little for an idle connection.
const FIRST_READ: usize = 512;
/// Bytes that the next read can take if a read took all that it could. So the buffer never holds more than a head and
/// this.
const NEXT_READ: usize = 16 << 10;

/// Why the connection reads no further request.
pub enum Stop {
    /// The client has closed the connection, or everything was sent.
    Close,
    /// The framing can no longer be trusted. The client gets this refusal, then the connection is closed.
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

/// A response with its whole body.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Complete field lines, each with its CRLF.
    pub fields: String,
    /// The body. It is empty if there is none, and for a HEAD request if the length of the body is not known.
    pub body: Cow<'static, [u8]>,
    /// Whether the body is framed in chunks. Then the response has no `Content-Length`.
    pub chunked: bool,
    /// The `Cache-Control` field line.
    pub cache: &'static str,
}

impl Response {
    /// Creates a 200 with this media type and body.
    pub fn new(media_type: &str, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { body: body.into(), ..Response::empty(200, format!("Content-Type: {media_type}\r\n")) }
    }

    /// Creates a response without a body.
    pub fn empty(status: u16, fields: impl Into<String>) -> Response {
        Response { status, fields: fields.into(), body: Cow::default(), chunked: false, cache: http::NO_STORE }
    }

    /// Creates a refusal. If `detail` is not empty, it names the refused thing, such as a parameter.
    pub fn refusal(reject: Reject, detail: &str) -> Response {
        let line = reject.line();
        let line = if detail.is_empty() { line } else { format!("{}: {detail}\n", line.trim_end()) };
        let mut response = Response { status: reject.status, ..Response::text(line) };
        response.fields += reject.fields;
        response
    }

    /// Creates a 200 with plain text.
    pub fn text(body: impl Into<String>) -> Response {
        Response::new("text/plain; charset=utf-8", body.into().into_bytes())
    }
}

/// A connection, and the bytes that were received but not yet used.
pub struct Connection {
    /// The socket. It blocks, within time limits.
    pub stream: TcpStream,
    buf: Vec<u8>,
    read_size: usize, // bytes that the next read can take
    /// Whether other clients wait for its place. Then it gets one response, and little time.
    pub brief: bool,
    is_head_request: bool, // the request is a HEAD, so its response has no body, even if it is a refusal (RFC 9110 §9.3.2)
    quiet: bool,
    /// The client's address.
    pub peer: SocketAddr,
    /// The method and the request target of the current request, for the request log. Empty before the first request,
    /// and if the request is malformed.
    pub request_line: String,
    /// Field lines that every response to the current request has.
    pub cors: String,
    /// The refused thing, such as a parameter. If it is not empty, a refusal of the current request names it.
    pub refusal_detail: String,
    /// The watchers that see its bytes.
    pub watchers: Watchers,
}

impl Connection {
    /// Takes a socket that was just accepted. It is `brief` if other clients wait for its place.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn new(stream: TcpStream, peer: SocketAddr, quiet: bool, brief: bool) -> io::Result<Connection> {
        // TCP must not delay a response or an event until the one before is acknowledged.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(RESPONSE_TIME))?;
        Ok(Connection {
            stream,
            buf: Vec::new(),
            read_size: FIRST_READ,
            brief,
            is_head_request: false,
            quiet,
            peer,
            request_line: String::new(),
            cors: String::new(),
            refusal_detail: String::new(),
            watchers: Watchers::default(),
        })
    }

    /// Reads the next head. Returns it with the first deadline of its body, see `LEAST_RATE`.
    ///
    /// # Errors
    /// [`Stop::Close`] if there is no further request; a refusal if the head is malformed, too large or late.
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
            // Empty lines before the request line are skipped (RFC 9112 §2.2).
            let empty = self.buf.chunks(2).take_while(|pair| *pair == b"\r\n").count();
            self.buf.drain(..2 * empty);
            self.is_head_request = self.buf.starts_with(b"HEAD ");
            // A CR alone may be the first half of another empty line.
            if self.buf != b"\r"
                && let Some(end) = end.find(&self.buf)?
            {
                return Ok((self.drain(end), deadline));
            }
            self.read_before(deadline)?;
        }
    }

    /// Reads the body of a request, which has at most `max` bytes. Before that it sends `100 Continue`, if the client
    /// waits for it.
    ///
    /// # Errors
    /// A refusal if the body is too large, malformed or late, or if it is not admitted. `admit` gets the size of the
    /// buffer with the body so far, and whether the body is complete.
    pub fn read_body(
        &mut self, req: &Request, max: usize, deadline: Instant, admit: impl Fn(usize, bool) -> Result<(), Reject>,
    ) -> Result<Vec<u8>, Stop> {
        let mut deadline = deadline;
        let mut received = Chunked::default();
        let mut expects = req.expects;
        loop {
            let before = received.body.len();
            let (used, complete) = match req.body_length {
                BodyLength::Chunked => received.feed(&self.buf, max)?,
                BodyLength::Known(length) if length > max => return Err(TOO_LARGE.into()),
                BodyLength::Known(length) => {
                    let left = length - received.body.len();
                    let data = self.buf.get(..left).unwrap_or(&self.buf);
                    received.body.extend_from_slice(data);
                    (data.len(), data.len() == left)
                }
            };
            admit(received.body.capacity().min(max), complete)?;
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
                let latest = Instant::now() + REQUEST_TIME; // fast bytes earn no longer silence
                deadline = (deadline + Duration::from_micros(earned)).min(latest);
            }
            self.read_before(deadline)?;
        }
    }

    /// Removes up to `length` bytes from the front of the buffer and returns them.
    pub fn drain(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buf.split_off(length.min(self.buf.len()));
        replace(&mut self.buf, rest)
    }

    /// Reads what arrives before the deadline.
    ///
    /// # Errors
    /// [`TIMEOUT`] if nothing arrives; the errors of [`Connection::read`].
    fn read_before(&mut self, deadline: Instant) -> Result<(), Stop> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !self.read(left)? { Err(TIMEOUT.into()) } else { Ok(()) }
    }

    /// Reads what has arrived, into the buffer. Returns false if nothing arrives in time.
    ///
    /// # Errors
    /// [`Stop::Close`] if the client has closed the connection, or the socket fails.
    pub fn read(&mut self, timeout: Duration) -> Result<bool, Stop> {
        self.stream.set_read_timeout(Some(timeout))?;
        let before = self.buf.len();
        // Before it takes a large buffer, it waits without one.
        let waited = if self.read_size > FIRST_READ { self.stream.peek(&mut [0]) } else { Ok(0) };
        let read = waited.and_then(|_| {
            self.buf.resize(before + self.read_size, 0);
            self.stream.read(self.buf.get_mut(before..).unwrap_or_default())
        });
        let read = read.map_err(|e| e.kind());
        self.buf.truncate(before + read.unwrap_or(0));
        self.read_size = if read == Ok(self.read_size) { NEXT_READ } else { FIRST_READ };
        match read {
            Ok(1..) => {
                let new = self.buf.get(before..).unwrap_or_default();
                self.watchers.each(|watcher| watcher.received(new));
                Ok(true)
            }
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(ErrorKind::Interrupted) => Ok(true), // the process was stopped and continued (signal(7))
            _ => Err(Stop::Close),
        }
    }

    /// Writes a response. `option` is a `Connection` field line, or empty.
    ///
    /// # Errors
    /// If the socket fails, or the client does not take the response in time.
    pub fn send(&mut self, response: &Response, option: &str) -> io::Result<()> {
        self.log_request(response.status);
        let mut head = http::head(response.status, &[&response.fields, response.cache, &self.cors, option]);
        // A 204 has no Content-Length (RFC 9110 §8.6). Nor has the response to a HEAD if the GET would be a stream.
        let has_length = response.status != 204 && !(self.is_head_request && response.body.is_empty());
        let framing = chunked(response.chunked);
        if has_length && !response.chunked {
            head += &format!("Content-Length: {}\r\n", response.body.len());
        }
        head += framing.field;
        head += "\r\n";
        let mut bytes = head.into_bytes();
        if !self.is_head_request {
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

    /// Ends the connection. With [`Stop::Refuse`] it sends the refusal first. For a while it then reads and drops
    /// what the client still sends: if a socket is closed while bytes are unread, TCP resets the connection, and the
    /// client may lose the response before it has read it (RFC 9112 §9.6).
    pub fn close(mut self, stop: Stop) {
        if let Stop::Refuse(reject) = stop
            && self.send(&Response::refusal(reject, ""), "Connection: close\r\n").is_err()
        {
            return;
        }
        let deadline = Instant::now() + if self.brief { BRIEF_TIME } else { CLOSE_TIME };
        self.watchers.response_sent(); // now, however long the client takes to close
        if self.stream.shutdown(Shutdown::Write).is_ok() {
            while self.read_before(deadline).is_ok() {
                self.buf.clear();
            }
        }
    }

    /// Writes one line to standard error. The method and the request target are printable ASCII (`Request::parse`),
    /// so no control character of a request reaches a terminal.
    /// Shortcut: if nobody reads standard error, the connections that log to it wait. The pump never does.
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

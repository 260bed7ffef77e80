//! The client's half of HTTP/1.1: a URL, a request, the head of a response, and its body.
//!
//! The server is a stranger, and may be broken or hostile. So each read and each write has a deadline. (The lookup of
//! a name has none: std offers none.)
//!
//! Limits: [`MAX_HEAD`], [`MAX_INTERIM`], [`MAX_CHUNK`], [`CONNECT`].

use std::io::{self, ErrorKind, Read, Write};
use std::mem::take;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tincan::wire::base64;
use tincan::wire::chunked::Chunked;
use tincan::wire::http::{field_line, has_control, host_of, split, split_port};
use tincan::wire::percent;
use tincan::wire::reject::TOO_LARGE;

/// Limit: the bytes of the head of a response.
const MAX_HEAD: usize = 64 << 10;
/// Limit: interim responses before a response (RFC 9110 §15.2).
const MAX_INTERIM: usize = 10;
/// Limit: the bytes of a chunk.
const MAX_CHUNK: usize = 16 << 20;
/// Limit: how long the judge waits for a connection to one address.
const CONNECT: Duration = Duration::from_secs(5);
/// The least time to wait. A timeout of 0 would mean none.
const MOMENT: Duration = Duration::from_millis(1);
/// How many bytes are read at a time.
pub const PIECE: usize = 32 << 10;

/// Where to ask.
#[derive(Clone)]
pub struct Url {
    authority: String,
    target: String,
    credentials: String, // a field line, or empty
    addresses: Vec<SocketAddr>,
}

impl Url {
    /// Reads a URL, and looks up its host.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and what to do.
    pub fn parse(text: &str) -> Result<Url, String> {
        let rest = text.strip_prefix("http://").ok_or(format!("{text}: give a URL that begins with http://"))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
        host_of(authority.as_bytes()).ok_or(format!("{text}: the host is not valid"))?;
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{text}: percent-encode the characters of the path that are not ASCII"));
        }
        let (host, port) = split_port(authority);
        let port = if port.is_empty() { "80" } else { port };
        let port: u16 = port.parse().map_err(|_| format!("{text}: the port is no number from 1 to 65535"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = (host, port).to_socket_addrs().map_err(|e| format!("{text}: the host has no address: {e}"))?;
        let user = percent::decode(user, false).ok_or(format!("{text}: the user is not percent-encoded UTF-8"))?;
        let basic = || format!("Authorization: Basic {}\r\n", base64::encode(user.as_bytes()));
        Ok(Url {
            authority: authority.into(),
            target: if target.starts_with('/') { target.into() } else { format!("/{target}") },
            credentials: if user.is_empty() { String::new() } else { basic() },
            addresses: addresses.collect(),
        })
    }

    /// Sends a request on a new connection, until a deadline. `fields` are whole field lines.
    ///
    /// # Errors
    /// If no address accepts the connection.
    pub fn request(&self, line: [&str; 2], fields: &str, body: &[u8], deadline: Instant) -> io::Result<Connection> {
        let [method, version] = line;
        let left = || deadline.saturating_duration_since(Instant::now()).max(MOMENT);
        let mut stream = Err(ErrorKind::NotFound.into());
        for address in &self.addresses {
            stream = TcpStream::connect_timeout(address, left().min(CONNECT));
            if stream.is_ok() {
                break;
            }
        }
        let mut stream = stream?;
        let Url { authority, target, credentials, .. } = self;
        let head = format!(
            "{method} {target} {version}\r\nHost: {authority}\r\nUser-Agent: tincan-judge\r\n{credentials}{fields}\r\n"
        );
        stream.set_nodelay(true)?;
        let mut unsent = &[head.as_bytes(), body].concat()[..];
        // A server may refuse a body before it has read it. So even if this fails, there may be a response.
        while !unsent.is_empty() && Instant::now() < deadline {
            stream.set_write_timeout(Some(left()))?;
            let Ok(length) = stream.write(unsent) else { break };
            unsent = unsent.get(length..).unwrap_or_default();
        }
        Ok(Connection { stream: Arc::new(stream), unread: Vec::new() })
    }
}

/// Why there is no head.
pub enum NoHead {
    /// The connection was closed, or nothing came in time.
    Silent(String),
    /// Something came that is no head.
    Broken(String),
}

impl NoHead {
    /// Returns why, in words.
    pub fn why(self) -> String {
        let (NoHead::Silent(why) | NoHead::Broken(why)) = self;
        why
    }
}

/// A connection on which a response is read.
pub struct Connection {
    stream: Arc<TcpStream>,
    unread: Vec<u8>,
}

impl Connection {
    /// Reads the head of the response, until a deadline. It can be called again if nothing has come.
    ///
    /// # Errors
    /// If there is none.
    pub fn head(&mut self, deadline: Instant) -> Result<Head, NoHead> {
        for _ in 0..=MAX_INTERIM {
            let bytes = self.head_bytes(deadline)?;
            let head = Head::parse(&bytes).map_err(NoHead::Broken)?;
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
        }
        Err(NoHead::Broken(format!("more than {MAX_INTERIM} interim responses, and no final one")))
    }

    fn head_bytes(&mut self, deadline: Instant) -> Result<Vec<u8>, NoHead> {
        loop {
            if let Some(length) = head_length(&self.unread) {
                return Ok(self.unread.drain(..length).collect());
            }
            let length = self.unread.len();
            if length > MAX_HEAD {
                return Err(NoHead::Broken(format!("the head of the response does not end: {length} bytes")));
            }
            match self.more(deadline) {
                Ok(0) if length == 0 => return Err(NoHead::Silent("the server closes the connection".into())),
                Ok(0) => return Err(NoHead::Broken("the connection ends within the head".into())),
                Ok(_) => {}
                Err(_) if length == 0 => {
                    return Err(NoHead::Silent("the connection is open, but no head comes in time".into()));
                }
                Err(_) => return Err(NoHead::Broken(format!("the head does not end in time: {length} bytes"))),
            }
        }
    }

    /// Reads what comes next. Returns how many bytes, or 0 at the end of the connection.
    fn more(&mut self, deadline: Instant) -> io::Result<usize> {
        let bytes = read(&self.stream, deadline)?;
        self.unread.extend_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Returns the next bytes after the head as they are: those that were read with it, or else the next ones. No
    /// bytes: the connection has ended.
    ///
    /// # Errors
    /// If none come before the deadline.
    pub fn bytes(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.more(deadline)?;
        }
        Ok(take(&mut self.unread))
    }

    /// Reads a body to its end. Returns its length, or what keeps it from ending.
    pub fn rest(&mut self, mut body: Body, deadline: Instant, max: usize) -> Result<usize, String> {
        let mut length = 0;
        while !body.is_over() {
            let bytes = self.bytes(deadline).map_err(|_| "the response does not end")?;
            if bytes.is_empty() {
                return if body.ends_with_connection() { Ok(length) } else { Err("the response is cut off".into()) };
            }
            length += body.decode(&bytes)?.len();
            if length > max {
                return Err(format!("the response does not end: {length} bytes"));
            }
        }
        Ok(length)
    }

    /// Returns a handle that closes the connection, also while another thread reads it.
    pub fn closer(&self) -> Closer {
        Closer(self.stream.clone())
    }
}

/// Closes a connection when it is dropped.
pub struct Closer(Arc<TcpStream>);

impl Drop for Closer {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Reads once, until a deadline.
fn read(mut stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into()); // also if bytes are there: there may be no end of them
    }
    stream.set_read_timeout(Some(left.max(MOMENT)))?;
    let mut bytes = vec![0; PIECE];
    let length = match stream.read(&mut bytes) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => 0,
        read => read?,
    };
    bytes.truncate(length);
    Ok(bytes)
}

/// Returns the length of a head, with its blank line, if it has ended. A lone LF is taken for a line end, as RFC 9112
/// §2.2 allows; [`Head::faults`] tells of it.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let is_blank =
        |end: &usize| bytes.get(*end..).is_some_and(|rest| rest.starts_with(b"\n") || rest.starts_with(b"\r\n"));
    let end = { ends }.find(is_blank)?;
    Some(end + bytes.get(end..)?.iter().position(|byte| *byte == b'\n')? + 1)
}

/// The head of a response.
pub struct Head {
    /// The status line, without its end.
    pub status_line: String,
    pub status: u16,
    fields: Vec<(String, String)>,
    /// What breaks RFC 9112 in it.
    pub faults: Vec<String>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Head, String> {
        let mut faults = Vec::new();
        let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| {
            line.strip_suffix(b"\r").unwrap_or_else(|| {
                if !line.is_empty() {
                    faults.push(format!("a line of the head ends with a lone LF: {}", String::from_utf8_lossy(line)));
                }
                line
            })
        });
        let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        let words: Vec<&str> = status_line.splitn(3, ' ').collect();
        let status = match words[..] {
            ["HTTP/1.0" | "HTTP/1.1", status, ..] => status,
            _ => return Err(format!("no status line of HTTP/1: {status_line:.100}")),
        };
        if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("no status code: {status_line:.100}"));
        }
        let status = status.parse().map_err(|_| "no status code")?;
        if words.len() < 3 {
            faults.push(format!("no space after the status code: {status_line}"));
        }
        if has_control(status_line.as_bytes()) {
            faults.push(format!("a control character in the status line: {status_line}"));
        }
        let is_1_0 = words.first() == Some(&"HTTP/1.0");
        let fields = fields(&lines, &mut faults);
        if is_1_0 && fields.iter().any(|(name, _)| name == "transfer-encoding") {
            faults.push("Transfer-Encoding in a response of HTTP/1.0".into());
        }
        Ok(Head { status_line, status, fields, faults })
    }

    /// Returns the values of a field, whose name is in lower case, joined by commas.
    pub fn field(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self.fields.iter().filter(|field| field.0 == name).map(|field| &*field.1).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Returns the members of a list, in lower case.
    pub fn list(&self, name: &str) -> Vec<String> {
        let value = self.field(name).unwrap_or_default().to_ascii_lowercase();
        let members = split(value.as_bytes(), b',').into_iter().map(|member| String::from_utf8_lossy(member).into());
        members.filter(|member: &String| !member.is_empty()).collect()
    }

    /// Returns the media type. Of several, the last one counts (WHATWG Fetch, "extract a MIME type").
    pub fn media_type(&self) -> String {
        let values = self.field("content-type").unwrap_or_default();
        values.rsplit(", ").next().unwrap_or_default().into()
    }

    /// Returns where a response redirects (RFC 9110 §15.4).
    pub fn redirection(&self) -> Option<String> {
        self.field("location").filter(|_| [301, 302, 303, 307, 308].contains(&self.status))
    }

    /// Returns whether another response is of the same kind.
    pub fn is_like(&self, other: &Head) -> bool {
        self.status == other.status && self.media_type() == other.media_type()
    }

    /// Returns the content codings of the body, without `identity`.
    pub fn codings(&self) -> Vec<String> {
        let mut codings = self.list("content-encoding");
        codings.retain(|coding| coding != "identity");
        codings
    }

    /// Returns the body that follows (RFC 9112 §6.3).
    ///
    /// # Errors
    /// If its length cannot be known.
    pub fn body(&self, method: &str) -> Result<Body, String> {
        if method == "HEAD" || self.status == 204 || self.status == 304 {
            return Ok(Body::Length(0));
        }
        match (&self.list("transfer-encoding")[..], &self.list("content-length")[..]) {
            ([], []) => Ok(Body::Connection),
            ([coding], []) if coding == "chunked" => Ok(Body::Chunked(Box::default(), false)),
            ([], [length, others @ ..]) if others.iter().all(|other| other == length) => {
                let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
                let number = length.parse().ok().filter(|_| is_number);
                Ok(Body::Length(number.ok_or(format!("Content-Length: {length} is no number"))?))
            }
            ([], _) => Err("several Content-Lengths".into()),
            (_, [_, ..]) => Err("both Transfer-Encoding and Content-Length".into()),
            (codings, _) => Err(format!("Transfer-Encoding: {}", codings.join(", "))),
        }
    }
}

/// Parses field lines. Returns their names in lower case, and their values.
fn fields(lines: &[&[u8]], faults: &mut Vec<String>) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for line in lines {
        match field_line(line) {
            Ok(pair) => {
                let (name, value) = (String::from_utf8_lossy(pair.0), String::from_utf8_lossy(pair.1));
                fields.push((name.to_ascii_lowercase(), value.into_owned()));
            }
            Err(_) => faults.push(format!("a malformed field line: {}", String::from_utf8_lossy(line))),
        }
    }
    fields
}

/// A body, as far as it has not come.
pub enum Body {
    /// Chunks, and whether the last one has come.
    Chunked(Box<Chunked>, bool),
    /// This many bytes.
    Length(u64),
    /// Everything up to the end of the connection.
    Connection,
}

impl Body {
    /// Returns the content in these bytes of the body.
    ///
    /// # Errors
    /// If the framing is malformed.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Body::Chunked(chunked, is_over) => {
                let show = |reject| {
                    if reject == TOO_LARGE {
                        "a chunk of more than 16 MiB, which the judge does not read".into()
                    } else {
                        format!("a malformed chunk: {}", String::from_utf8_lossy(bytes))
                    }
                };
                (_, *is_over) = chunked.feed(bytes, MAX_CHUNK).map_err(show)?;
                Ok(take(&mut chunked.body))
            }
            Body::Length(left) => {
                let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                Ok(bytes.get(..length).unwrap_or_default().into())
            }
            Body::Connection => Ok(bytes.into()),
        }
    }

    /// Returns whether all of it has come.
    pub fn is_over(&self) -> bool {
        matches!(self, Body::Chunked(_, true) | Body::Length(0))
    }

    /// Returns whether the end of the connection is its end.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Body::Connection)
    }
}

//! A small server of event streams that holds all rules, but can be told to break one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::spawn;
use std::time::{Duration, Instant};

/// How often an idle subscriber gets a comment.
const HEARTBEAT: Duration = Duration::from_millis(300);
/// Which subscribers of a server hear nothing if it breaks the rule `many`.
const DEAF: Range<usize> = 20..30;

/// The server. It ends when this is dropped.
pub struct EventServer {
    pub port: u16,
    /// How many requests for a stream have come.
    pub gets: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

struct Shared {
    gets: Arc<AtomicUsize>,
    fault: &'static str,
    state: Mutex<State>,
    changed: Condvar,
    ended: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// The blocks; the id of each is its index, from 1 on.
    log: Vec<Vec<u8>>,
    /// The body before, if the server is late.
    before: Vec<u8>,
    /// How many blocks each subscriber has got.
    positions: BTreeMap<usize, usize>,
    subscribers: usize,
}

impl EventServer {
    /// Starts a server that breaks this rule, or none if it is empty.
    pub fn start(fault: &'static str) -> EventServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ended = Arc::new(AtomicBool::new(false));
        let gets = Arc::new(AtomicUsize::new(0));
        let shared = Shared {
            gets: gets.clone(),
            fault,
            state: Mutex::default(),
            changed: Condvar::new(),
            ended: ended.clone(),
        };
        let shared = Arc::new(shared);
        spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(SeqCst) {
                    return;
                }
                let (stream, shared) = (stream.unwrap(), shared.clone());
                // An error means that the client has gone.
                spawn(move || drop(shared.serve(stream)));
            }
        });
        EventServer { port, gets, ended }
    }
}

impl Drop for EventServer {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes the thread that accepts
    }
}

/// A request, as far as it matters.
struct Request {
    method: String,
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
    is_1_0: bool,
}

impl Request {
    fn is_lone_cr(&self) -> bool {
        self.body.contains(&b'\r') && !self.body.contains(&b'\n')
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_string());
    }
    let first = lines.first().cloned().unwrap_or_default();
    let fields = lines.iter().filter_map(|line| line.split_once(": "));
    let fields: BTreeMap<_, _> = fields.map(|(name, value)| (name.to_lowercase(), value.to_string())).collect();
    let length = fields.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let method = first.split(' ').next().unwrap().to_string();
    Ok(Request { method, fields, body, is_1_0: first.ends_with("HTTP/1.0") })
}

impl Shared {
    fn breaks(&self, rule: &str) -> bool {
        self.fault == rule
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&stream)?;
        match request.method.as_str() {
            "GET" => {
                self.gets.fetch_add(1, SeqCst);
                self.stream(&request, stream)
            }
            "OPTIONS" if self.breaks("options") => self.stream(&request, stream),
            "OPTIONS" => stream.write_all(b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, OPTIONS\r\n\r\n"),
            "HEAD" => {
                let body = if self.breaks("head") { "x" } else { "" };
                stream.write_all(format!("{}{body}", self.head(&request)).as_bytes())
            }
            "POST" if self.breaks("server-error") && request.is_lone_cr() => {
                stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
            }
            "POST" if self.breaks("too-many-requests") && request.is_lone_cr() => {
                stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
            }
            "POST" => {
                let echo = self.publish(&request.body);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", echo.len());
                let times = if self.breaks("second-response") { 2 } else { 1 };
                stream.write_all(&[head.as_bytes(), &echo].concat().repeat(times))
            }
            method => panic!("{method} was not expected"),
        }
    }

    /// Returns the head of a stream.
    fn head(&self, request: &Request) -> String {
        let or = |rule: &str, broken: &'static str, right: &'static str| {
            if self.breaks(rule) { broken } else { right }
        };
        let is_compressed = request.fields.get("accept-encoding").is_some_and(|codings| codings.contains("gzip"));
        let length = "Content-Length: 999999999\r\n";
        [
            or("status", "HTTP/1.1 201 Created\r\n", "HTTP/1.1 200 OK\r\n"),
            "Content-Type: ",
            or("media-type", "text/plain", "text/event-stream"),
            or("charset", "; charset=iso-8859-1\r\n", or("charset-utf8", "; charset=utf8\r\n", "; charset=UTF-8\r\n")),
            or("caching", "Cache-Control: public, max-age=60\r\n", "Cache-Control: no-cache, no-transform\r\n"),
            if is_compressed { or("compression", "Content-Encoding: gzip\r\n", "") } else { "" },
            if request.is_1_0 { "" } else { or("framing", length, "Transfer-Encoding: chunked\r\n") },
            "Connection: close\r\n\r\n",
        ]
        .concat()
    }

    /// Returns the first block of a stream.
    fn prelude(&self) -> Vec<u8> {
        let mut prelude = match self.fault {
            "first-bytes" => return Vec::new(),
            "utf-8" => b": \xe9\n".to_vec(),
            "line-ends" => b": one\r: two\r".to_vec(),
            "fields" => b"Data: hello\n".to_vec(),
            "nul-in-id" => b"id: a\0\n".to_vec(),
            "retry" => b"retry: 1s\n\n".to_vec(),
            "crlf-lines" => return b"retry: 1000\r\n\r\n".to_vec(),
            _ => b"retry: 1000\n".to_vec(),
        };
        prelude.extend(if self.breaks("blank-line") { &b"data: stuck\n"[..] } else { b"\n" });
        prelude
    }

    fn stream(&self, request: &Request, mut stream: TcpStream) -> std::io::Result<()> {
        let mut before = Vec::new();
        let is_deaf;
        let (number, mut position) = {
            let mut state = self.state.lock().unwrap();
            state.subscribers += 1;
            is_deaf = self.breaks("many") && DEAF.contains(&state.subscribers);
            let last = request.fields.get("last-event-id").map(|id| id.parse::<usize>().unwrap());
            let position = match (last, self.fault) {
                (Some(last), "repeat") => last - 1,
                (Some(last), "twice-at-return" | "reverse-at-return") => {
                    let mut missed = state.log[last..].to_vec();
                    if self.breaks("reverse-at-return") {
                        missed.reverse();
                    }
                    before = missed.concat();
                    if self.breaks("twice-at-return") { last } else { state.log.len() }
                }
                (Some(last), fault) if fault != "resume" => last,
                _ => state.log.len(),
            };
            let number = state.subscribers;
            state.positions.insert(number, position);
            (number, position)
        };
        let end = self.feed(request, &mut stream, &before, number, &mut position, is_deaf);
        self.state.lock().unwrap().positions.remove(&number);
        self.changed.notify_all();
        end
    }

    /// Writes what is new, until the client has gone.
    fn feed(
        &self, request: &Request, stream: &mut TcpStream, before: &[u8], number: usize, position: &mut usize,
        is_deaf: bool,
    ) -> std::io::Result<()> {
        let is_framed = !request.is_1_0 && !self.breaks("framing");
        let send = |stream: &mut TcpStream, bytes: &[u8]| {
            let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            if bytes.is_empty() { Ok(()) } else { stream.write_all(if is_framed { &chunk } else { bytes }) }
        };
        match self.fault {
            "endless-head" => loop {
                stream.write_all(b"X-More: of it\r\n")?;
            },
            "interim" => loop {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            },
            "slow-head" => loop {
                stream.write_all(b"X")?;
                std::thread::sleep(Duration::from_millis(100));
            },
            "late-head" => {
                let state = self.state.lock().unwrap();
                let is_waiting = |state: &mut State| state.log.len() == *position && !self.ended.load(SeqCst);
                drop(self.changed.wait_while(state, is_waiting));
            }
            _ => {}
        }
        stream.write_all(self.head(request).as_bytes())?;
        let began = Instant::now();
        send(stream, &self.prelude())?;
        send(stream, before)?;
        match self.fault {
            "endless-stream" => loop {
                send(stream, &b"data: more\n\n".repeat(1000))?;
            },
            "endless-line" => loop {
                send(stream, &b"data: more".repeat(1000))?;
            },
            _ => {}
        }
        loop {
            if self.breaks("ends-now-and-then") && began.elapsed() > Duration::from_millis(700) {
                return stream.write_all(if is_framed { b"0\r\n\r\n" } else { b"" });
            }
            let bytes = self.next(number, position);
            let is_early = self.breaks("first-bytes") && began.elapsed() < Duration::from_millis(4500);
            let is_silent = self.breaks("heartbeat") || is_early;
            match bytes {
                Some(_) if is_deaf || self.breaks("only-sender") => {}
                Some(block) => send(stream, &block)?,
                None if self.ended.load(SeqCst) => return Ok(()),
                None if is_silent => {}
                None if self.breaks("blank-line") => send(stream, b":\n")?,
                None if self.breaks("crlf-lines") => send(stream, b":\r\n\r\n")?,
                None => send(stream, b":\n\n")?,
            }
            if let Some(position_of) = self.state.lock().unwrap().positions.get_mut(&number) {
                *position_of = *position;
            }
            self.changed.notify_all();
        }
    }

    /// Waits for the next block, or for the time of a heartbeat.
    fn next(&self, number: usize, position: &mut usize) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let is_ready = |state: &State| {
            let waits =
                |other: usize| self.breaks("slow-reader") || (self.breaks("slow-before-others") && other < number);
            let others = state.positions.iter().all(|(other, at)| *at >= *position || !waits(*other));
            state.log.len() > *position && others
        };
        let (state, _) = self.changed.wait_timeout_while(state, HEARTBEAT, |state| !is_ready(state)).unwrap();
        if !is_ready(&state) {
            return None;
        }
        *position += 1;
        let mut block = state.log[*position - 1].clone();
        match self.fault {
            "blank-line-at-heartbeat" => drop(block.pop()),
            "crlf-lines" => block = String::from_utf8(block).unwrap().replace('\n', "\r\n").into(),
            _ => {}
        }
        Some(block)
    }

    /// Publishes a body. Returns what the publisher gets.
    fn publish(&self, body: &[u8]) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        let mut text = String::from_utf8(body.into()).unwrap();
        if self.breaks("late") {
            text = String::from_utf8(std::mem::replace(&mut state.before, body.into())).unwrap();
        }
        if self.breaks("empty") && text.is_empty() {
            return Vec::new();
        }
        let times = if self.breaks("twice") { 2 } else { 1 };
        let block = self.block(&text);
        for _ in 0..times {
            let id = format!("id: {}\n\n", state.log.len() + 1);
            state.log.push([block.as_bytes(), id.as_bytes()].concat());
        }
        self.changed.notify_all();
        if self.breaks("only-sender") { block.into_bytes() } else { Vec::new() }
    }

    /// Returns the lines of an event, without its id.
    fn block(&self, text: &str) -> String {
        let mut text = text.to_string();
        match self.fault {
            "lf" if text.matches('\n').count() == 1 && !text.contains('\r') => text = text.replace('\n', " "),
            "crlf" => text = text.replace("\r\n", "\n\n"),
            "leading-space" => text = text.trim_start_matches(' ').into(),
            "nul" => text = text.replace('\0', ""),
            "bom" => text = text.replace('\u{feff}', ""),
            "u2028" => text = text.replace('\u{2028}', "\n"),
            "large" => text.truncate(50_000),
            "bare-escapes" => text = text.replace('\r', "\\r").replace('\n', "\\n"),
            "json" => text = format!("{{\"text\":{}}}", tincan::wire::event::json(&text)),
            "decorated" => text = format!("Ada: {text}"),
            "colon" if text.starts_with(':') => return format!("{text}\n"),
            _ => {}
        }
        if !self.breaks("cr") {
            text = text.replace("\r\n", "\n").replace('\r', "\n");
        }
        let is_field = |line: &str| match self.fault {
            "forged-id" => line.starts_with("id: "),
            "forged-event" => line.starts_with("event: "),
            "forged-field" => line.starts_with("retry: "),
            _ => false,
        };
        let is_dropped = |line: &&str| self.breaks("lines") && line.is_empty() && !text.is_empty();
        let lines = text.split('\n').filter(|line| !is_dropped(line));
        lines.map(|line| if is_field(line) { format!("{line}\n") } else { format!("data: {line}\n") }).collect()
    }
}

//! A subscriber that checks the ids of what it receives. It reads all the time, and comes back after each end.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tincan::wire::id::Id;

/// What a follower has met. All of this is allowed.
#[derive(Default)]
pub struct Met {
    pub events: u64,
    pub bytes: u64,
    pub connections: u64,
    pub refusals: u64,
    pub gaps: u64,
    pub lost: u64,
}

/// A subscriber of one channel. It knows where it is, as a browser does.
pub struct Follower {
    port: u16,
    pub channel: String,
    /// The id of the last event that it has received, or of its first prelude.
    pub last: Option<Id>,
    pub met: Met,
    socket: Option<BufReader<TcpStream>>,
    /// The position that it asked for on this connection, until the first event or gap has come.
    asked: Option<Id>,
    /// What has come of the current line.
    line: Vec<u8>,
    block: Block,
}

/// The lines of a block that matter.
#[derive(Default)]
struct Block {
    is_prelude: bool,
    is_gap: bool,
    data: String,
    id: Option<Id>,
}

impl Follower {
    pub fn new(port: u16, channel: &str) -> Follower {
        Follower {
            port,
            channel: channel.into(),
            last: None,
            met: Met::default(),
            socket: None,
            asked: None,
            line: Vec::new(),
            block: Block::default(),
        }
    }

    /// Closes its connection. If it has not heard yet what the server has for its position, it comes back with that.
    pub fn leave(&mut self) {
        self.socket = None;
        self.last = self.asked.take().or(self.last);
    }

    /// Reads until a time, or until it has received the event with this id. Returns whether it has.
    ///
    /// # Errors
    /// If an event is missing without a gap, comes twice, or is not whole; or if a gap is wrong.
    pub fn follow(&mut self, until: Instant, target: Option<Id>) -> Result<bool, String> {
        while !self.has(target) && Instant::now() < until {
            if self.socket.is_none() && self.connect().is_err() {
                std::thread::sleep(Duration::from_millis(50)); // the server is full
                continue;
            }
            match self.read_line() {
                Ok(true) => self.accept_line().map_err(|why| format!("/{}: {why}", self.channel))?,
                Ok(false) => {}
                Err(_) => self.leave(),
            }
        }
        Ok(self.has(target))
    }

    /// Returns whether it has received everything up to this id. A position that only a prelude tells does not count.
    fn has(&self, target: Option<Id>) -> bool {
        target.is_some() && self.last >= target && self.asked.is_none_or(|asked| Some(asked) == self.last)
    }

    /// Connects as HTTP/1.0, whose body has no chunks.
    fn connect(&mut self) -> io::Result<()> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let field = self.last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        (&stream).write_all(format!("GET /{} HTTP/1.0\r\n{field}\r\n", self.channel).as_bytes())?;
        self.line.clear();
        self.block = Block::default();
        let mut socket = BufReader::with_capacity(16 << 10, stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if socket.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !head.starts_with("HTTP/1.1 200 ") {
            self.met.refusals += 1;
            return Err(io::Error::other(head));
        }
        self.met.connections += 1;
        self.asked = self.last;
        self.socket = Some(socket);
        Ok(())
    }

    /// Reads up to the end of a line. Returns false if it has not come yet.
    fn read_line(&mut self) -> io::Result<bool> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        match socket.read_until(b'\n', &mut self.line) {
            Ok(_) if self.line.ends_with(b"\n") => Ok(true),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&e.kind()) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn accept_line(&mut self) -> Result<(), String> {
        let line = std::mem::take(&mut self.line);
        self.met.bytes += line.len() as u64;
        let text = std::str::from_utf8(&line).map_err(|e| e.to_string())?.trim_end_matches('\n');
        match text.split_once(": ").unwrap_or((text, "")) {
            ("", "") => return self.end_block(),
            ("", comment) => self.block.is_prelude |= comment.starts_with("connected to "),
            ("event", name) => self.block.is_gap = name == "gap",
            ("data", data) => self.block.data = data.into(),
            ("id", id) => self.block.id = Id::parse(id),
            _ => {} // a retry, or a ping
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), String> {
        let block = std::mem::take(&mut self.block);
        match block.id {
            Some(id) if block.is_prelude => self.last = Some(id),
            None if block.is_gap => return self.check_gap(&block.data),
            Some(id) => return self.check_event(id, &block.data),
            None => {} // a ping
        }
        Ok(())
    }

    /// Checks a gap, which comes after the prelude: its events are those between the id that was asked for and the id
    /// of the prelude.
    fn check_gap(&mut self, data: &str) -> Result<(), String> {
        let (asked, start) = (self.asked.take(), self.last);
        let (Some(asked), Some(start)) = (asked, start) else { return Err(format!("nobody asked for the gap {data}")) };
        let lost = start.seq.wrapping_sub(asked.seq);
        let from = format!("\"{}\"", start.plus(1));
        let allowed = [&from, "null"].map(|from| format!("{{\"asked\":\"{asked}\",\"from\":{from},\"lost\":{lost}}}"));
        if start.epoch != asked.epoch || lost == 0 || !allowed.iter().any(|allowed| allowed == data) {
            return Err(format!("the gap after {asked}, before {start}, says {data}"));
        }
        self.met.gaps += 1;
        self.met.lost += lost;
        Ok(())
    }

    fn check_event(&mut self, id: Id, data: &str) -> Result<(), String> {
        if let Some(asked) = self.asked.take().filter(|asked| Some(*asked) != self.last) {
            return Err(format!("the client asked for {asked}, and got {:?} without a gap", self.last));
        }
        if self.last.is_none_or(|last| last.plus(1) != id) {
            return Err(format!("{id} comes after {:?}", self.last));
        }
        if data != body(&self.channel, data.len()) {
            return Err(format!("{id} has {} bytes: {:.100}", data.len(), data));
        }
        self.last = Some(id);
        self.met.events += 1;
        Ok(())
    }
}

/// Returns the body of an event for followers of this channel: its name, repeated up to this length.
pub fn body(channel: &str, length: usize) -> String {
    let mut text = format!("{channel} ").repeat(length / (channel.len() + 1) + 1);
    text.truncate(length);
    text
}

//! The benchmark. `cargo bench` runs all of it, in about seven minutes; `cargo bench -- flood` runs the rows whose name
//! has that word.
//!
//! Each row compares tincan with a *bare write loop*. That is this program again, as a server of its own. For each
//! subscriber and message it does one write and nothing else. So the ratio shows what tincan adds to the cost of the
//! kernel. The bare write loop sends the same bytes, an event in one chunk or frame. For each WebSocket it has a
//! thread that reads and writes the messages back. Both servers are started anew for each run, in alternation; the
//! table has the medians. If the machine allows it, the servers have one core to themselves and the client has
//! another.
//!
//! The client counts every event and checks its form. It has no readiness wait, since std has none: it reads its
//! blocking sockets one after another, in the order in which the server writes to them (`arrange`). Whenever the
//! client waits for a socket, the server pays for waking it up. It would not pay if its subscribers were on other
//! machines. So a steady rate is measured in two parts. *Forward* gives the latencies. *Backward* gives the processor
//! time: the client waits for the last subscriber only, and finds that all others have been served.
//!
//! Shortcut: if this program is killed with SIGKILL, the servers that it has started go on and must be ended by hand.
#![forbid(unsafe_code)]

#[path = "bench_redis.rs"]
mod redis;

use std::collections::{HashMap, VecDeque};
use std::fs::{read_dir, read_to_string};
use std::io::ErrorKind::WouldBlock;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio, exit};
use std::sync::{Arc, LazyLock, RwLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

const RUNS: usize = 5;
/// Bytes of data in each event.
const SIZE: usize = 128;
/// Subscribers, if the limit of descriptors allows.
const MANY: usize = 10_000;
/// Subscribers that join at a time: std's listen backlog of 128 must not overflow.
const HERD: usize = 64;
/// Events in a replay: 1 MB. The default `--history` keeps them all.
const REPLAY: usize = 6_296;
/// The longest time that a part of a run may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Timestamps are nanoseconds since this moment.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The head of the bare write loop's responses, as long as tincan's. It is followed by fields for an event stream or
/// a WebSocket.
const HEAD: &str = "HTTP/1.1 200 OK\r\nDate: Fri, 20 Nov 2026 19:20:36 GMT\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nVary: Accept\r\n\
    Connection: close\r\n";
const PRELUDE: &str = ": connected to /c0 as 525e11ee725930b439a7415d18ba425c\nretry: 2143\nid: 1795202436407-0\n\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nDate: Fri, 20 Nov 2026 19:20:36 GMT\r\n\
    X-Content-Type-Options: nosniff\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// The fields of a WebSocket's request, with the key of RFC 6455 §1.3. `SWITCH` is the response to it.
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// The key that masks a client's frames. Shortcut: each frame ought to have another one (§5.3).
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Opcodes (§5.2).
const TEXT: u8 = 1;
const PING: u8 = 9;
const PONG: u8 = 10;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words = args.iter().filter(|a| !a.starts_with("--")).cloned().collect();
    match args.first().map(String::as_str) {
        Some("--floor") => floor(),
        Some("--client") => exit(i32::from(std::panic::catch_unwind(|| client(words)).is_err())),
        _ if args.iter().any(|a| a == "--bench") => prepare(words),
        _ => println!("this is run by `cargo bench`"),
    }
}

/// Becomes the client. It runs on a core of its own and with as many descriptors as it needs, if the machine allows
/// that.
fn prepare(words: Vec<String>) {
    let (mut command, one, all) = match cores() {
        Some((server, client, all)) => (pinned(&client, "sh"), server, all),
        None => (Command::new("sh"), String::new(), String::new()),
    };
    let need = MANY + 500;
    let raise = format!("[ $(ulimit -n) -ge {need} ] || ulimit -S -n {need} || ulimit -S -n $(ulimit -H -n)");
    command.args(["-c", &format!("{{ {raise}; }} 2>/dev/null; exec \"$0\" --client \"$@\"")]);
    command.arg(std::env::current_exe().unwrap()).args(words);
    panic!("sh: {}", command.env("BENCH_CORE", one).env("BENCH_CORES", all).exec());
}

/// Returns the core of the servers, the core of the client, and the list of all cores. The first two are as far apart
/// as possible. Returns None if there is no choice.
fn cores() -> Option<(String, String, String)> {
    let status = read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?.trim();
    let (first, last) = (list.split(['-', ',']).next()?, list.rsplit(['-', ',']).next()?);
    let works = |cores| pinned(cores, "true").stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    (first != last && works(first) && works(last)).then(|| (first.into(), last.into(), list.into()))
}

fn pinned(cores: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores, program]);
    command
}

// ---- the bytes on the wire

/// How events are wrapped on their way to a subscriber.
#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Plain,  // HTTP/1.0
    Chunks, // HTTP/1.1
    Frames, // WebSocket
}
use Framing::{Chunks, Frames, Plain};

impl Framing {
    /// Returns the row's name for the subscribers of this framing.
    fn subscribers(self) -> &'static str {
        match self {
            Plain => "HTTP/1.0 readers",
            Chunks => "readers",
            Frames => "WebSockets",
        }
    }

    /// Returns the path of one of its channels. From the path the bare write loop learns the framing.
    fn channel(self, n: usize) -> String {
        let letter = match self {
            Plain => 'p',
            Chunks => 'c',
            Frames => 'w',
        };
        format!("/{letter}{n}")
    }

    /// Returns the framing of a channel's path.
    fn of(path: &str) -> Framing {
        match path {
            _ if path.starts_with("/p") => Plain,
            _ if path.starts_with("/w") => Frames,
            _ => Chunks,
        }
    }

    /// Returns a request for a path.
    fn request(self, path: &str) -> String {
        let minor = i32::from(self != Plain);
        let fields = if self == Frames { UPGRADE } else { "Accept: text/event-stream\r\n" };
        format!("GET {path} HTTP/1.{minor}\r\nHost: localhost\r\n{fields}\r\n")
    }

    /// Returns the beginning of a response.
    fn opening(self) -> Vec<u8> {
        match self {
            Plain => format!("{HEAD}\r\n{PRELUDE}").into(),
            Chunks => [format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").into(), chunk(PRELUDE.as_bytes())].concat(),
            Frames => SWITCH.into(),
        }
    }

    /// Returns an event; in a frame it is the data alone.
    fn event(self, data: &[u8], id: usize) -> Vec<u8> {
        let block = || [b"data: ", data, format!("\nid: 1795202436407-{id}\n\n").as_bytes()].concat();
        match self {
            Plain => block(),
            Chunks => chunk(&block()),
            Frames => frame(TEXT, None, data),
        }
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Returns a frame with a payload of less than 64 KiB. A client's frame has a key (§5.2).
fn frame(opcode: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let (masked, len) = (u8::from(key.is_some()) << 7, payload.len());
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(len).ok().filter(|len| *len < 126) {
        Some(len) => frame.push(masked | len),
        None => frame.extend([masked | 126, (len >> 8) as u8, len as u8]),
    }
    frame.extend(key.into_iter().flatten());
    frame.extend(masked_with(key.unwrap_or_default(), payload));
    frame
}

fn masked_with(key: [u8; 4], payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}

/// Takes a server's frame from the front of the bytes. Returns its opcode and its payload, or None if it is not
/// complete.
fn take_frame<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (header, len) = match **bytes {
        [_, len @ 0..126, ..] => (2, usize::from(len)),
        [_, 126, high, low, ..] => (4, u16::from_be_bytes([high, low]).into()),
        [] | [_] | [_, 126, ..] => return None,
        _ => panic!("a frame that is masked or has 64 KiB or more"),
    };
    let (frame, rest) = bytes.split_at_checked(header + len)?;
    assert!(frame[0] & 0xf0 == 0x80, "a fragment of a message, or a reserved bit: {:x}", frame[0]);
    *bytes = rest;
    Some((frame[0] & 0x0f, &frame[header..]))
}

/// Reads the bytes between the data of two chunks: the CRLF of the first and the size line of the second. Returns how
/// many bytes these are, and the size of the second chunk. Returns None if they are not complete.
fn between_chunks(bytes: &[u8]) -> Option<(usize, usize)> {
    let digits = bytes.get(2..)?.iter().position(|byte| *byte == b'\r')?;
    let line = bytes.get(..digits + 4)?;
    let form = line.starts_with(b"\r\n") && line.ends_with(b"\r\n") && line[2] != b'\r' && line[2] != b'0';
    assert!(form, "malformed bytes between two chunks: {:?}", String::from_utf8_lossy(line));
    let size = line[2..digits + 2].iter().fold(0, |size, digit| match digit {
        b'0'..=b'9' => size << 4 | usize::from(digit - b'0'),
        b'a'..=b'f' => size << 4 | usize::from(digit - b'a' + 10),
        _ => panic!("the size of a chunk has a {digit:x}"),
    });
    Some((line.len(), size))
}

// ---- the bare write loop

/// The subscribers of each path.
static SUBSCRIBERS: LazyLock<RwLock<HashMap<String, Vec<TcpStream>>>> = LazyLock::new(RwLock::default);
/// The WebSockets. A thread reads each of them. Shortcut: all have the same path.
static SOCKETS: RwLock<Vec<Arc<TcpStream>>> = RwLock::new(Vec::new());

/// Runs the bare write loop. It keeps the connections of all GETs, and writes to them each body that is POSTed. It
/// has a thread for each publisher and each WebSocket, and none for a subscriber of an event stream.
fn floor() {
    static LOG: LazyLock<Vec<u8>> =
        LazyLock::new(|| chunk(&(0..REPLAY).flat_map(|n| Plain.event(&[b'0'; SIZE], n)).collect::<Vec<_>>()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    eprintln!("http://{}", listener.local_addr().unwrap());
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = [0; 1024];
        let n = stream.read(&mut request).unwrap();
        if !request.starts_with(b"GET") {
            thread::spawn(move || publish_all(stream, request, n));
            continue;
        }
        let path = path(&request[..n]);
        let framing = Framing::of(path);
        stream.write_all(&framing.opening()).unwrap();
        if path.ends_with("?since=all") {
            stream.write_all(&LOG).unwrap();
        }
        if framing == Frames {
            let stream = Arc::new(stream);
            SOCKETS.write().unwrap().push(stream.clone());
            thread::spawn(move || echo_all(&stream));
        } else {
            SUBSCRIBERS.write().unwrap().entry(path.into()).or_default().push(stream);
        }
    }
}

/// Writes each body that is POSTed to a path to all subscribers of the path. The client sends each request at once,
/// and the next one after the response. So one read has a whole request.
fn publish_all(mut stream: TcpStream, mut request: [u8; 1024], mut n: usize) {
    while n > 0 {
        let path = path(&request[..n]);
        let framing = Framing::of(path);
        let event = framing.event(&request[n - SIZE..n], 1234);
        let write = |mut subscriber: &TcpStream| subscriber.write_all(&event).unwrap();
        if framing == Frames {
            SOCKETS.read().unwrap().iter().for_each(|socket| write(socket));
        } else {
            SUBSCRIBERS.read().unwrap().get(path).into_iter().flatten().for_each(write);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        n = stream.read(&mut request).unwrap_or(0);
    }
}

/// Writes each message of a WebSocket back to all of them. One read has a whole frame, with 8 bytes before its
/// payload.
fn echo_all(mut stream: &TcpStream) {
    let mut bytes = [0; 1024];
    while let Ok(n @ 9..) = stream.read(&mut bytes) {
        let key = bytes[4..8].try_into().unwrap();
        stream.write_all(&frame(TEXT, None, &masked_with(key, &bytes[8..n]))).unwrap();
    }
}

fn path(request: &[u8]) -> &str {
    std::str::from_utf8(request).unwrap().split(' ').nth(1).unwrap()
}

// ---- a server and its resources

/// A running server. It ends when it is dropped, even by a panic.
struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    port: u16,
    bare: bool,
}

impl Server {
    /// Starts tincan, or the bare write loop.
    fn start(bare: bool, cores: &str) -> Server {
        if !bare {
            return Server::tincan(&[], cores);
        }
        let mut server = Server::run(std::env::current_exe().unwrap().to_str().unwrap(), &["--floor"], cores);
        server.bare = true;
        server
    }

    fn tincan(more: &[&str], cores: &str) -> Server {
        let args = ["--quiet", "--listen", "127.0.0.1:0", "--max-connections", "20000", "--max-channels", "2000"];
        Server::run(env!("CARGO_BIN_EXE_tincan"), &[&args, more].concat(), cores)
    }

    /// Starts a program on the given cores. It prints a line with the address on which it listens.
    fn run(program: &str, args: &[&str], cores: &str) -> Server {
        let mut server = Server::spawn(program, args, cores);
        let line = server.stderr.by_ref().lines().map(Result::unwrap).find(|line| line.contains("http://")).unwrap();
        let port = line.trim_end_matches('/').rsplit(':').next().unwrap();
        server.port = port.parse().unwrap_or_else(|_| panic!("no port in {line:?}"));
        server
    }

    fn spawn(program: &str, args: &[&str], cores: &str) -> Server {
        let mut command = match std::env::var(cores).unwrap().as_str() {
            "" => Command::new(program),
            cores => pinned(cores, program),
        };
        command.args(args);
        for (name, _) in std::env::vars_os().filter(|v| v.0.to_string_lossy().starts_with("TINCAN_")) {
            command.env_remove(name);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Server { child, stderr, port: 0, bare: false } // from here on the child is ended in any case
    }

    /// Returns the processor time so far, in seconds. It is not a number if there is no /proc.
    fn time(&self) -> f64 {
        let proc = format!("/proc/{}", self.child.id());
        // In nanoseconds for each live thread; in ticks of 10 ms if ended threads are to be counted as well
        // (proc(5)).
        let tasks = read_dir(format!("{proc}/task")).into_iter().flatten().flatten();
        let first = |text: String| text.split(' ').next()?.parse::<f64>().ok();
        let threads = tasks.filter_map(|task| first(read_to_string(task.path().join("schedstat")).ok()?)).sum::<f64>();
        let stat = read_to_string(format!("{proc}/stat")).unwrap_or_default();
        let ticks = stat.rsplit(')').next().unwrap_or_default().split(' ').skip(12).take(2).map(|n| n.parse::<f64>());
        let ticks = ticks.sum::<Result<f64, _>>().unwrap_or_default();
        if ticks + threads > 0.0 { (threads / 1e9).max(ticks / 100.0) } else { f64::NAN }
    }

    /// Returns the process's share of memory in KiB: PSS.
    fn memory(&self) -> f64 {
        let rollup = read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap_or_default();
        let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
        pss.unwrap_or(f64::NAN)
    }

    /// Returns how many bytes, descriptors and threads it has.
    fn holds(&self) -> [f64; 3] {
        let count =
            |file| read_dir(format!("/proc/{}/{file}", self.child.id())).map_or(f64::NAN, |dir| dir.count() as f64);
        [self.memory() * 1024.0, count("fd"), count("task")]
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Opens streams, HERD at a time, each on the path that `path` returns for its number.
    fn join(&self, framing: Framing, count: usize, path: impl Fn(usize) -> String, mut joined: impl FnMut(Subscriber)) {
        let mut herd = VecDeque::new();
        let open = |stream| Subscriber::open(stream, framing);
        for n in 0..count {
            let mut stream = self.connect();
            stream.write_all(framing.request(&path(n)).as_bytes()).unwrap();
            herd.push_back(stream);
            if herd.len() == HERD {
                herd.pop_front().into_iter().map(open).for_each(&mut joined);
            }
        }
        herd.into_iter().map(open).for_each(joined);
    }

    fn subscribers(&self, framing: Framing, count: usize, path: &str) -> Vec<Subscriber> {
        let mut subscribers = Vec::new();
        self.join(framing, count, |_| path.into(), |subscriber| subscribers.push(subscriber));
        subscribers
    }

    /// Opens connections to publish on. Each has been used once, so that the server has a thread and buffers for it.
    fn publishers(&self, count: usize) -> Vec<Publisher> {
        let mut publishers: Vec<_> = (0..count).map(|_| Publisher(self.connect())).collect();
        publishers.iter_mut().for_each(|p| p.send("/nobody"));
        publishers
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut errors = String::new();
        let _ = self.stderr.read_to_string(&mut errors);
        if errors.contains("panicked") {
            eprintln!("{errors}");
            assert!(thread::panicking(), "the server panicked");
        }
    }
}

// ---- the client

/// Returns nanoseconds since START.
fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

struct Publisher(TcpStream);

impl Publisher {
    /// Publishes the current time, and waits for the response.
    fn send(&mut self, path: &str) {
        let fields = format!("Host: localhost\r\nContent-Type: text/plain\r\nContent-Length: {SIZE}\r\n");
        let request = format!("POST {path} HTTP/1.1\r\n{fields}\r\n{:0SIZE$}", now());
        self.0.write_all(request.as_bytes()).unwrap();
        // Both servers write a response at once, so one read has all of it.
        let mut response = [0; 1024];
        let n = self.0.read(&mut response).unwrap();
        assert!(response[..n].starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&response[..n]));
    }
}

/// The client's side of one subscriber.
struct Subscriber {
    stream: TcpStream,
    framing: Framing,
    rest: Vec<u8>,   // not yet complete: a block and then the line of a chunk, or a frame
    block: usize,    // how many of these bytes belong to the block
    chunk: usize,    // bytes of the chunk that are still to come
    received: usize, // events received
    bytes: usize,
}

impl Subscriber {
    /// Reads the head of the response. The prelude is a block like any other.
    fn open(mut stream: TcpStream, framing: Framing) -> Subscriber {
        let mut buf = [0; 4096];
        let n = stream.read(&mut buf).unwrap();
        let head = String::from_utf8_lossy(&buf[..n]);
        let end = head.find("\r\n\r\n").unwrap_or_else(|| panic!("a subscriber received {head:?}"));
        let (head, status) = (&head[..end + 2], if framing == Frames { "101 Switching Protocols" } else { "200 OK" });
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "a subscriber received {head:?}");
        let chunked = head.contains("\r\nTransfer-Encoding: chunked\r\n");
        assert!(chunked == (framing == Chunks), "a subscriber received {head:?}");
        // The CRLF of the blank line comes before the first chunk's line, just as the CRLF of a chunk comes before
        // the next line.
        let (begin, chunk) = if chunked { (end + 2, 0) } else { (end + 4, usize::MAX) };
        Subscriber { stream, framing, rest: buf[begin..n].into(), block: 0, chunk, received: 0, bytes: 0 }
    }

    /// Reads once, and passes the data of each complete event to `received`.
    fn read(&mut self, buf: &mut [u8], mut received: impl FnMut(&[u8])) {
        let before = self.rest.len();
        buf[..before].copy_from_slice(&self.rest);
        let n = self.stream.read(&mut buf[before..]).unwrap_or_else(|e| panic!("after {} events: {e}", self.received));
        assert!(n > 0, "a stream ended after {} events", self.received);
        self.bytes += n;
        let bytes = &mut buf[..before + n];
        let done = if self.framing == Frames { self.frames(bytes, received) } else { self.body(bytes, &mut received) };
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[done..]);
    }

    /// Reads a body, chunk by chunk. A body without framing is treated as one endless chunk. Returns the position of
    /// the first block that is not complete.
    fn body(&mut self, bytes: &mut [u8], received: &mut impl FnMut(&[u8])) -> usize {
        let (mut begin, mut at) = (0, self.block);
        loop {
            let available = self.chunk.min(bytes.len() - at);
            (self.chunk, at) = (self.chunk - available, at + available);
            begin += self.blocks(&bytes[begin..at], &mut *received);
            self.block = at - begin;
            if self.chunk > 0 {
                return begin;
            }
            let Some((line, size)) = between_chunks(&bytes[at..]) else { return begin };
            // A block that continues in the next chunk is moved up to it.
            bytes.copy_within(begin..at, begin + line);
            (self.chunk, begin, at) = (size, begin + line, at + line);
        }
    }

    /// Reads blocks. Returns how many bytes the complete ones have.
    fn blocks(&mut self, all: &[u8], mut received: impl FnMut(&[u8])) -> usize {
        let mut bytes = all;
        loop {
            let event = bytes.strip_prefix(b"data: ");
            let skip = if event.is_some() { 6 + SIZE } else { 0 };
            let end = bytes.get(skip..).and_then(|b| b.windows(2).position(|w| w == b"\n\n"));
            let Some(end) = end else { return all.len() - bytes.len() };
            if let Some(data) = event {
                assert!(data[SIZE..].starts_with(b"\nid: "), "{}", String::from_utf8_lossy(bytes));
                received(&data[..SIZE]);
                self.received += 1;
            } else {
                assert!(bytes.starts_with(b":"), "{}", String::from_utf8_lossy(bytes)); // the prelude, or a ping
            }
            bytes = &bytes[skip + end + 2..];
        }
    }

    /// Reads frames, and answers pings. Returns how many bytes the complete ones have.
    fn frames(&mut self, all: &[u8], mut received: impl FnMut(&[u8])) -> usize {
        let mut bytes = all;
        while let Some((opcode, payload)) = take_frame(&mut bytes) {
            match opcode {
                TEXT => {
                    assert!(payload.len() == SIZE, "{}", String::from_utf8_lossy(payload));
                    received(payload);
                    self.received += 1;
                }
                PING => self.stream.write_all(&frame(PONG, Some(KEY), payload)).unwrap(),
                _ => panic!("opcode {opcode}: {}", String::from_utf8_lossy(payload)),
            }
        }
        all.len() - bytes.len()
    }

    /// Sends the current time as a message of a WebSocket.
    fn send(&mut self) {
        self.stream.write_all(&frame(TEXT, Some(KEY), format!("{:0SIZE$}", now()).as_bytes())).unwrap();
    }
}

/// Returns the time at which the data were sent. A flood does not use it: to parse it takes longer than everything
/// else.
fn stamp(data: &[u8]) -> u64 {
    std::str::from_utf8(&data[SIZE - 20..]).unwrap().parse().unwrap()
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        let rest = !matches!(self.rest[..], [] | [b'\r', b'\n']); // a chunk's CRLF is read together with the next chunk
        let more = rest || !self.stream.peek(&mut [0]).is_err_and(|e| e.kind() == WouldBlock);
        assert!(thread::panicking() || !more, "more bytes came after the {} events that were due", self.received);
    }
}

/// Reads until each subscriber has received that many more events, one event of each at a time.
fn receive(subscribers: &mut [Subscriber], rounds: usize, mut received: impl FnMut(&[u8])) {
    let (mut buf, deadline, from) = (vec![0; 64 << 10], Instant::now() + PATIENCE, subscribers[0].received);
    for round in from..from + rounds {
        for subscriber in &mut *subscribers {
            while subscriber.received <= round {
                assert!(
                    Instant::now() < deadline,
                    "{} of {rounds} events after {PATIENCE:?}",
                    subscriber.received - from
                );
                subscriber.read(&mut buf, &mut received);
            }
        }
    }
    assert!(subscribers.iter().all(|r| r.received == from + rounds), "more events were received than published");
}

/// Sorts subscribers by the time at which they receive an event, which must be on its way. If a subscriber joins
/// while the server is busy, the server's list has another order than the client's. To wait for a late one first
/// would make all others appear late as well.
fn arrange(subscribers: &mut Vec<Subscriber>) {
    let deadline = Instant::now() + PATIENCE;
    let block =
        |subscribers: &[Subscriber], not| subscribers.iter().for_each(|r| r.stream.set_nonblocking(not).unwrap());
    block(subscribers, true);
    let mut waiting = std::mem::take(subscribers);
    while !waiting.is_empty() {
        assert!(Instant::now() < deadline, "{} subscribers received nothing in {PATIENCE:?}", waiting.len());
        let (served, rest): (Vec<_>, _) = waiting.into_iter().partition(|r| r.stream.peek(&mut [0]).is_ok());
        subscribers.extend(served);
        waiting = rest;
    }
    block(subscribers, false);
    receive(subscribers, 1, |_| ());
}

/// Publishes on all connections at once while `receive` runs. Each connection pauses between its messages.
fn publish(
    on: &mut [Publisher], messages: usize, pause: Duration, path: impl Fn(usize) -> String + Sync,
    receive: impl FnOnce(),
) {
    let (each, path) = (messages / on.len(), &path);
    thread::scope(|scope| {
        for publisher in on {
            scope.spawn(move || {
                let begin = Instant::now();
                for n in 0..each {
                    sleep((begin + pause * n as u32).saturating_duration_since(Instant::now()));
                    publisher.send(&path(n));
                }
            });
        }
        receive();
    });
}

// ---- the rows

/// The name of a measurement, and a value for each unit.
type Row = (String, Vec<(&'static str, f64)>);
type Rows = Vec<Row>;
type Scene = fn(&Server, usize) -> Rows;

/// Names for the filter, and functions. Each function gets a new server and the highest possible number of
/// subscribers.
const SCENES: [(&str, Scene); 10] = [
    ("steady fan-out to 1,000 readers, and to 1,000 HTTP/1.0 readers", |server, _| {
        [Chunks, Plain]
            .map(|framing| steady_fan_out(server, &mut server.subscribers(framing, 1000, &framing.channel(0))))
            .into()
    }),
    ("joins, idle memory, steady fan-out to 10,000 readers", many),
    ("flood, 8 publishers, 1,600 messages, 1,000 readers, and 1,000 HTTP/1.0 readers", |server, _| {
        [Chunks, Plain].map(|framing| flood(server, framing)).into()
    }),
    (ALL_CORES, all_cores),
    ("publishing", publishing),
    ("replay of 1 MB to 1,000 readers at once", replay),
    ("1,000 channels with 10 readers each", |server, many| {
        let each = many / 1000;
        let mut subscribers = Vec::new();
        server.join(Chunks, each * 1000, |n| format!("/c{}", n / each), |subscriber| subscribers.push(subscriber));
        vec![steady(server, &mut subscribers, &format!("1,000 channels with {each} readers each"), 1000, 1000, 2000)]
    }),
    ("idle memory, steady fan-out to 1,000 WebSockets", sockets),
    ("flood, 8 publishers, 1,600 messages, 1,000 WebSockets", |server, _| vec![flood(server, Frames)]),
    (ECHO, echo),
];

/// Measures work that consists of `count` things. Returns things per second, and the server's processor time for each
/// in microseconds.
fn timed(server: &Server, count: f64, work: impl FnOnce()) -> (f64, f64) {
    let (time, start) = (server.time(), Instant::now());
    work();
    (count / start.elapsed().as_secs_f64(), (server.time() - time) * 1e6 / count)
}

/// Measures a steady rate. It is spread over channels, and the subscribers are sorted by channel. The module's head
/// explains the two parts.
fn steady(
    server: &Server, subscribers: &mut Vec<Subscriber>, name: &str, channels: usize, rate: u32, messages: usize,
) -> Row {
    let mut publisher = server.publishers(1);
    let (rounds, pause) = (messages / channels, Duration::from_secs(1) / rate);
    let framing = subscribers[0].framing;
    let path = |n| framing.channel(n % channels);
    let late = latency(&mut publisher, subscribers, channels, rate, messages);
    subscribers.reverse();
    let (_, time) = timed(server, (subscribers.len() * rounds) as f64, || {
        publish(&mut publisher, messages, pause, path, || receive(subscribers, rounds, |_| ()));
    });
    let name = format!("{name}, {} messages/s", thousands(rate as usize));
    (name, [vec![("processor, µs per delivery", time)], late].concat())
}

/// Measures a steady rate to a thousand subscribers.
fn steady_fan_out(server: &Server, subscribers: &mut Vec<Subscriber>) -> Row {
    let name = format!("steady fan-out to 1,000 {}", subscribers[0].framing.subscribers());
    steady(server, subscribers, &name, 1, 20, 30)
}

/// Measures the latencies of a steady rate: the part called *forward*.
fn latency(
    publisher: &mut [Publisher], subscribers: &mut Vec<Subscriber>, channels: usize, rate: u32, messages: usize,
) -> Vec<(&'static str, f64)> {
    let (rounds, pause) = (messages / channels, Duration::from_secs(1) / rate);
    let framing = subscribers[0].framing;
    let path = |n| framing.channel(n % channels);
    publish(publisher, channels, Duration::ZERO, path, || arrange(subscribers));
    let mut late: Vec<u64> = Vec::with_capacity(subscribers.len() * rounds);
    publish(publisher, messages, pause, path, || receive(subscribers, rounds, |data| late.push(now() - stamp(data))));
    percentiles(late)
}

/// Returns the table's values for latencies.
fn percentiles(mut late: Vec<u64>) -> Vec<(&'static str, f64)> {
    late.sort_unstable();
    let [median, high] = [50, 99].map(|percent| late[late.len() * percent / 100] as f64 / 1e6);
    vec![("latency, median, ms", median), ("latency, 99 %, ms", high)]
}

/// Measures the highest possible number of subscribers: how fast they join, how much memory they need, and a steady
/// rate.
fn many(server: &Server, many: usize) -> Rows {
    // The first one is not counted, since the program's own code is loaded for it.
    let mut subscribers = server.subscribers(Chunks, 1, "/c0");
    let (memory, more) = (server.memory(), many - 1);
    let (rate, time) = timed(server, more as f64, || subscribers.append(&mut server.subscribers(Chunks, more, "/c0")));
    sleep(Duration::from_millis(300)); // the threads that opened the streams end
    let (all, many) = (server.memory(), thousands(many));
    let each = (all - memory) * 1024.0 / more as f64;
    vec![
        (format!("joins, {many} readers, {HERD} at a time"), vec![("joins/s", rate), ("processor, µs per join", time)]),
        (format!("idle memory, {many} readers"), vec![("bytes per reader", each), ("KiB in all", all)]),
        steady(server, &mut subscribers, &format!("steady fan-out to {many} readers"), 1, 5, 8),
    ]
}

/// Publishes at full speed to a thousand subscribers. The bare write loop gets a quarter of the messages, since it
/// takes ten times as long.
fn flood(server: &Server, framing: Framing) -> Row {
    let (path, messages) = (framing.channel(0), if server.bare { 400 } else { 1600 });
    let (mut subscribers, mut publishers) = (server.subscribers(framing, 1000, &path), server.publishers(8));
    let before = server.memory();
    let (rate, time) = timed(server, messages as f64 * 1e3, || {
        publish(
            &mut publishers,
            messages,
            Duration::ZERO,
            |_| path.clone(),
            || receive(&mut subscribers, messages, |_| ()),
        );
    });
    let values = vec![
        ("deliveries/s", rate),
        ("processor, µs per delivery", time),
        ("memory before, KiB", before),
        ("memory after, KiB", server.memory()),
    ];
    (format!("flood, 8 publishers, 1,600 messages, 1,000 {}", framing.subscribers()), values)
}

/// Measures the resources of each WebSocket, and a steady rate.
fn sockets(server: &Server, _: usize) -> Rows {
    let join = |count| server.subscribers(Frames, count, &Frames.channel(0));
    let mut subscribers = join(1); // not counted, as in `many`
    let before = server.holds();
    subscribers.append(&mut join(999));
    sleep(Duration::from_millis(300));
    let mut each = server.holds().into_iter().zip(before).map(|(after, before)| (after - before) / 999.0);
    let units = ["bytes per WebSocket", "descriptors per WebSocket", "threads per WebSocket"];
    let values = units.map(|unit| (unit, each.next().unwrap()));
    vec![("idle memory, 1,000 WebSockets".into(), values.into()), steady_fan_out(server, &mut subscribers)]
}

const ECHO: &str = "echo, a WebSocket that hears its own messages";

/// Sends the next message once the one before has come back.
fn echo(server: &Server, _: usize) -> Rows {
    let mut subscriber = server.subscribers(Frames, 1, &Frames.channel(0)).swap_remove(0);
    let (mut buf, mut late) = (vec![0; 64 << 10], Vec::with_capacity(5000));
    let (rate, time) = timed(server, 5e3, || {
        for round in 0..5000 {
            subscriber.send();
            while subscriber.received == round {
                subscriber.read(&mut buf, |data| late.push(now() - stamp(data)));
            }
        }
    });
    let values = vec![("round trips/s", rate), ("processor, µs per round trip", time)];
    vec![(ECHO.into(), [values, percentiles(late)].concat())]
}

const ALL_CORES: &str = "servers on all cores";

/// Publishes one event at a time, to more subscribers than one core can serve at once. The client sleeps meanwhile:
/// if it read, it would take a core from the server.
fn all_cores(server: &Server, many: usize) -> Rows {
    let count = many.min(5000);
    let (mut subscribers, mut publisher) = (server.subscribers(Chunks, count, "/c0"), server.publishers(1));
    publish(&mut publisher, 1, Duration::ZERO, |_| "/c0".into(), || arrange(&mut subscribers));
    // One subscriber in fifty stands for all. The last subscriber of each core's share is one of these, or is soon
    // followed by one.
    let (mut probes, mut others) = (Vec::new(), Vec::new());
    for (n, subscriber) in subscribers.into_iter().enumerate() {
        if n % 50 == 49 { probes.push(subscriber) } else { others.push(subscriber) }
    }
    probes.reverse();
    let mut times = sorted((0..20).map(|_| {
        sleep(Duration::from_millis(50));
        let start = Instant::now();
        publisher[0].send("/c0");
        receive(&mut probes, 1, |_| ());
        let time = start.elapsed().as_secs_f64() * 1e3;
        receive(&mut others, 1, |_| ());
        time
    }));
    let values = vec![("until all have it, median, ms", times.swap_remove(10))];
    vec![(format!("an event to {} readers, {ALL_CORES}", thousands(count)), values)]
}

/// Publishes at full speed to one subscriber.
fn publishing(server: &Server, _: usize) -> Rows {
    let (mut subscribers, mut publishers) = (server.subscribers(Chunks, 1, "/c0"), server.publishers(8));
    let (rate, time) = timed(server, 24e3, || {
        publish(
            &mut publishers,
            24_000,
            Duration::ZERO,
            |_| "/c0".into(),
            || receive(&mut subscribers, 24_000, |_| ()),
        );
    });
    let values = vec![("messages/s", rate), ("processor, µs per message", time)];
    vec![("publishing, 8 publishers, 1 reader".into(), values)]
}

/// Replays the whole log to a thousand subscribers at once. A thread reads each of them, and all stay until all have
/// everything.
fn replay(server: &Server, _: usize) -> Rows {
    let mut publishers = server.publishers(8); // these stay open too: the processor time of ended threads is less exact
    publish(&mut publishers, REPLAY, Duration::ZERO, |_| "/c0".into(), || ());
    let mut subscribers = Vec::new();
    let (rate, time) = timed(server, 1.0, || {
        subscribers = thread::scope(|scope| {
            let mut threads = Vec::new();
            let read = |mut subscriber: Subscriber| {
                receive(std::slice::from_mut(&mut subscriber), REPLAY, |_| ());
                subscriber
            };
            let start = |subscriber| {
                let thread = thread::Builder::new().stack_size(64 << 10);
                threads.push(thread.spawn_scoped(scope, move || read(subscriber)).unwrap());
            };
            server.join(Chunks, 1000, |_| "/c0?since=all".into(), start);
            threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
    });
    let (memory, megabytes) = (server.memory(), subscribers.iter().map(|r| r.bytes as f64 / 1e6).sum::<f64>());
    let values =
        vec![("MB/s", rate * megabytes), ("processor, µs per MB", time / megabytes), ("memory after, KiB", memory)];
    vec![("replay of 1 MB to 1,000 readers at once".into(), values)]
}

// ---- the table

/// The name of a measurement, its unit, and for each run a pair of values: of the server itself and of its counterpart.
type Line = (String, &'static str, Vec<[f64; 2]>);

fn client(words: Vec<String>) {
    let limits = read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    let many = soft.map_or(MANY, |n: usize| MANY.min(n.saturating_sub(300)));
    assert!(many >= 1000, "this needs 1,300 descriptors: raise `ulimit -n`");
    println!("{}", machine());
    let scenes = SCENES.map(|(name, scene)| {
        let cores = if name == ALL_CORES { "BENCH_CORES" } else { "BENCH_CORE" };
        (name, move |bare| scene(&Server::start(bare, cores), many))
    });
    let mut rows = measure(["tincan", "bare write loop"], &scenes, &words);
    if Command::new("redis-server").arg("-v").stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
        let scenes = redis::SCENES.map(|(name, scene)| (name, move |plain| scene(name, plain)));
        rows += measure(["through Redis", "plain tincan"], &scenes, &words);
    } else {
        println!("\nLeft out: the rows with Redis, because there is no redis-server.");
        rows += 1;
    }
    assert!(rows > 0, "no such row; there are {:?} {:?}", SCENES.map(|s| s.0), redis::SCENES.map(|s| s.0));
}

/// Runs the scenes whose name has one of the words. In each run the scene is called with false, for the first of the
/// two sides, and then with true. Prints a table of the rows, and returns how many there are.
fn measure(sides: [&str; 2], scenes: &[(&str, impl Fn(bool) -> Rows)], words: &[String]) -> usize {
    let wanted = |name: &str| words.is_empty() || words.iter().any(|w| name.to_lowercase().contains(w.as_str()));
    let mut table: Vec<Line> = Vec::new();
    for (name, scene) in scenes.iter().filter(|s| wanted(s.0)) {
        for run in 0..RUNS {
            let lines = |beside| {
                eprintln!("{name}: run {} of {RUNS}, {}", run + 1, sides[usize::from(beside)]);
                let rows = scene(beside).into_iter().filter(|r| wanted(&r.0));
                rows.flat_map(|(name, values)| values.into_iter().map(move |(unit, n)| (name.clone(), unit, n)))
            };
            for ((name, unit, value), (.., beside)) in lines(false).zip(lines(true)) {
                match table.iter_mut().find(|line| line.0 == name && line.1 == unit) {
                    Some(line) => line.2.push([value, beside]),
                    None => table.push((name, unit, vec![[value, beside]])),
                }
            }
        }
    }
    if table.is_empty() {
        return 0;
    }
    let [one, other] = sides;
    println!("\n| what | unit | {one} | {other} | ratio | in single runs |\n|---|---|--:|--:|--:|--:|");
    let (rows, mut above) = (table.len(), String::new());
    for (name, unit, runs) in table {
        let [value, beside] = [0, 1].map(|side| sorted(runs.iter().map(|r| r[side]))[RUNS / 2]);
        let ratios = sorted(runs.iter().map(|r| r[0] / r[1]));
        let [value, beside, ratio, low, high] =
            [value, beside, value / beside, ratios[0], ratios[RUNS - 1]].map(number);
        let shown = if name == above { "" } else { &name };
        println!("| {shown} | {unit} | {value} | {beside} | {ratio} | {low} to {high} |");
        above = name;
    }
    rows
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Formats a number with commas, as in 10,000.
fn thousands(n: usize) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", thousands(n / 1000), n % 1000) }
}

/// Formats a number with as many digits as are significant.
fn number(value: f64) -> String {
    match value {
        100.0.. => thousands(value.round() as usize),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ if value.is_nan() => "-".into(),
        _ => format!("{value:.3}"),
    }
}

/// Describes the machine and how the cores were used.
fn machine() -> String {
    let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("", |m| m.1);
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = Command::new("rustc").arg("-V").output().map_or(Vec::new(), |o| o.stdout);
    let rustc = String::from_utf8_lossy(&rustc).split(' ').take(2).collect::<Vec<_>>().join(" ");
    let shared = std::env::var("BENCH_CORE").unwrap().is_empty();
    let pinned = if shared { "All shared these cores." } else { "Servers had one core, the client another." };
    format!("{model}, {cores} cores, Linux {}, {rustc}; tincan {}. {pinned}", kernel.trim(), env!("CARGO_PKG_VERSION"))
}

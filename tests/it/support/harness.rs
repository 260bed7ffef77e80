//! A real tincan on a free port, and raw sockets to it. Every wait has a deadline.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// The longest time for anything that should happen at once. It is generous, since machines are shared.
pub const SOON: Duration = Duration::from_secs(20);

/// What an idle subscriber receives.
pub const PING: &str = ":ping\n\n";

/// A clock that accounts for a busy machine. If the server promises something within a time, it keeps the promise if
/// the thing happens within that time, plus the delay that the machine adds for everybody.
pub struct Stopwatch {
    began: Instant,
    late: usize,
}

/// How late a thread woke up that sleeps again and again: the sum, in microseconds.
static LATE: AtomicUsize = AtomicUsize::new(0);
/// How often that thread has slept.
static NAPS: AtomicUsize = AtomicUsize::new(0);

impl Stopwatch {
    pub fn start() -> Stopwatch {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            std::thread::spawn(|| {
                const NAP: Duration = Duration::from_millis(5);
                loop {
                    let began = Instant::now();
                    std::thread::sleep(NAP);
                    let late = began.elapsed().saturating_sub(NAP);
                    LATE.fetch_add(late.as_micros().try_into().unwrap(), SeqCst);
                    NAPS.fetch_add(1, SeqCst);
                }
            });
        });
        Stopwatch { began: Instant::now(), late: LATE.load(SeqCst) }
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Asserts that no more than this time has passed. Several threads are involved, one after the other, and each
    /// may have been woken late. But nothing may take five times as long as promised. This accounts for late wake-ups
    /// and not for slow work: work is measured in processor time.
    #[track_caller]
    pub fn within(&self, action: &str, promised: Duration) {
        let took = self.elapsed();
        let naps = NAPS.load(SeqCst);
        eventually("the present delay is counted", || NAPS.load(SeqCst) > naps);
        let late = Duration::from_micros(LATE.load(SeqCst).wrapping_sub(self.late) as u64);
        let allowed = promised + Duration::from_millis(300) + (4 * late).min(4 * promised);
        assert!(took < allowed, "{action} took {took:?} instead of {promised:?}; the machine was {late:?} late");
    }
}

/// A running server. It ends with the test, and must not have panicked.
pub struct Tincan {
    child: Child,
    pub port: u16,
    /// Whether it may panic: it is the seed, and not tincan.
    pub may_panic: bool,
    /// Its standard error. This is a file and not a pipe that a thread reads, so the test sees at once whatever is
    /// written.
    log: File,
}

impl Tincan {
    pub fn start(args: &[&str]) -> Tincan {
        Tincan::spawn("127.0.0.1:0", args)
    }

    /// Starts a server on an address. Port 0 means a free port, which belongs to this test even while no server uses
    /// it. There are no pings between the events that a test expects, unless the test asks for pings.
    pub fn spawn(listen: &str, args: &[&str]) -> Tincan {
        let quiet = if args.contains(&"--heartbeat") { &[][..] } else { &["--heartbeat", "3600"] };
        loop {
            let port = listen.strip_suffix(":0").map(|host| format!("{host}:{}", free_port()));
            let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
            command.args(["--listen", port.as_deref().unwrap_or(listen)]).args(quiet).args(args);
            match Tincan::launch(command) {
                Err(message) if port.is_some() && message.contains(" is taken; ") => {} // another program was faster
                server => return server.unwrap_or_else(|message| panic!("tincan does not start: {message}")),
            }
        }
    }

    /// Runs a command that starts tincan; returns once tincan reports that it listens.
    pub fn run(command: Command) -> Tincan {
        Tincan::launch(command).unwrap_or_else(|message| panic!("tincan does not start: {message}"))
    }

    /// Runs a command. If it ends at once, returns its message as the error.
    fn launch(mut command: Command) -> Result<Tincan, String> {
        bare(&mut command);
        let log = unnamed_file();
        let child = command.stdout(Stdio::null()).stderr(log.try_clone().unwrap()).spawn().unwrap();
        let mut server = Tincan { child, port: 0, may_panic: false, log }; // from here on the child is ended in any case
        let deadline = Instant::now() + SOON;
        while !server.stderr().contains('\n') {
            if server.child.try_wait().unwrap().is_some() && !server.stderr().contains('\n') {
                return Err(server.stderr());
            }
            assert!(Instant::now() < deadline, "tincan prints nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        let message = server.stderr();
        let first = message.lines().next().unwrap();
        match first.trim_end_matches('/').rsplit(':').next().unwrap().parse() {
            Ok(port) => server.port = port,
            Err(_) => return Err(message),
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns everything that it has written to standard error so far.
    pub fn stderr(&self) -> String {
        let mut bytes = vec![0; self.log.metadata().unwrap().len().try_into().unwrap()];
        self.log.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until each of its threads waits for something, or is stopped. Then it has read everything that was sent
    /// to it.
    pub fn rests(&self) {
        self.threads_are(&['S', 'T']);
    }

    /// Stops it, and waits until each of its threads is stopped: until then one could still read what is sent to it.
    pub fn stop(&self) {
        assert!(signal("STOP", self.pid()));
        self.threads_are(&['T']);
    }

    /// Waits until each of its threads is in one of these states (proc_pid_stat(5)).
    fn threads_are(&self, states: &[char]) {
        let tasks = format!("/proc/{}/task", self.pid());
        let is = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(states));
        let began = Instant::now();
        // A thread may end while this looks at it.
        while !std::fs::read_dir(&tasks)
            .unwrap()
            .all(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).map_or(true, is))
        {
            assert!(began.elapsed() < SOON, "its threads are never {states:?}");
            std::thread::yield_now();
        }
    }

    /// Sends SIGKILL, and waits until the process has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn connect(&self) -> Wire {
        Wire::to(self.port)
    }

    /// Sends bytes on a new connection, and returns the response.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        let mut wire = self.connect();
        wire.send(request);
        wire.response()
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Publishes with the given field lines; returns the response.
    pub fn post_with(&self, path: &str, fields: &str, body: impl AsRef<[u8]>) -> Response {
        let body = body.as_ref();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
        self.ask([head.as_bytes(), body].concat())
    }

    /// Publishes; returns the ids.
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Vec<String> {
        let response = self.post_with(path, "", body);
        assert_eq!(response.status, 200, "{}", response.text());
        response.text().lines().map(String::from).collect()
    }

    /// Opens a stream. Returns it after its head and its prelude, together with the prelude's id.
    pub fn listen(&self, path: &str, fields: &str) -> (Wire, String) {
        let mut wire = self.connect();
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        let head = wire.until(b"\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        // A poll may get its response at once.
        let at_once = path.contains("wait=") && head.contains("\r\nContent-Length: ");
        assert!(at_once || head.ends_with("\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"), "{head}");
        let prelude = wire.until(b"\n\n");
        (wire, id_of(&prelude))
    }

    /// Returns the value of a line of /metrics.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let text = self.get("/metrics").text();
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    pub fn readers(&self, channel: &str) -> u64 {
        self.metric(&format!("tincan_subscribers{{channel=\"{channel}\"}}")).unwrap_or(0)
    }
}

impl Drop for Tincan {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = self.stderr();
        if !self.may_panic && !std::thread::panicking() {
            assert!(!stderr.contains("panicked"), "{stderr}");
        }
    }
}

/// Removes the variables that tincan would take for options from the command's environment.
pub fn bare(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name == "PORT" || name.to_string_lossy().starts_with("TINCAN_") {
            command.env_remove(name);
        }
    }
}

/// A process that ends with the test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sets the flag when it is dropped, even by a panic. So a scope does not wait for ever for a thread that watches the
/// flag.
pub struct AtEnd<'a>(pub &'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Returns the process's share of memory in KiB.
pub fn pss(pid: u32) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Returns a number of bytes that is more than the kernel buffers for a socket that is not read.
pub fn more_than_a_socket_takes() -> usize {
    // The last number is the most that waits at the sender (tcp(7)). A receiver that does not read holds far less.
    let sizes = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap_or_default();
    sizes.split_whitespace().last().map_or(4 << 20, |most| most.parse().unwrap()) + (1 << 20)
}

/// Returns a size option that is large enough for that.
pub fn roomy() -> String {
    format!("{}M", (more_than_a_socket_takes() >> 20) + 48)
}

/// SplitMix64: small, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }
}

/// Creates a file to append to, whose name is removed at once.
fn unnamed_file() -> File {
    let scratch = Scratch::new();
    let options = OpenOptions::new().read(true).append(true).create(true).clone();
    options.open(scratch.0.join("log")).unwrap()
}

/// A directory that is removed with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        loop {
            let name = format!("tincan-test-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Scratch(path),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {} // left behind by a process that was killed
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
    }

    /// Returns the path as an argument.
    pub fn arg(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Reads a file in the directory.
    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the id in a block.
pub fn id_of(block: &str) -> String {
    let id = block.lines().find_map(|l| l.strip_prefix("id: "));
    id.unwrap_or_else(|| panic!("no id in {block:?}")).to_string()
}

/// Returns a stream's prelude without what wings add to its first line.
pub fn plain(prelude: &str) -> String {
    let (first, rest) = prelude.split_once('\n').unwrap();
    format!("{}\n{rest}", first.split(" as ").next().unwrap())
}

/// Returns the address in a stream's prelude.
pub fn address_of(prelude: &str) -> String {
    let address = prelude.lines().next().and_then(|l| l.split_once(" as "));
    address.unwrap_or_else(|| panic!("no address in {prelude:?}")).1.to_string()
}

/// Returns a free port below the range that the kernel uses for outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 50).unwrap() * 400;
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, SeqCst));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// Raises the soft limit of descriptors to 4096, if the user may. This holds for this process and for the servers
/// that it starts later.
pub fn many_descriptors() {
    if tincan::system::limits::soft_limit("Max open files").is_some_and(|most| most < 4096) {
        let taken = std::process::id().to_string();
        let _ = Command::new("prlimit").args(["--pid", &taken, "--nofile=4096:"]).status();
    }
}

/// Runs tests together that spend most of their time waiting. Each has a name, and all of them must pass.
pub fn side_by_side(tests: &[(&str, fn())]) {
    std::thread::scope(|scope| {
        for (name, test) in tests {
            Builder::new().name((*name).into()).spawn_scoped(scope, test).unwrap();
        }
    });
}

/// Sends a signal to a process; returns whether that was possible.
pub fn signal(name: &str, pid: u32) -> bool {
    Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success()
}

/// Waits until a condition holds.
pub fn eventually(condition: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {condition}");
        look_again(began);
    }
}

/// Sleeps for an eighth of the time that has passed since `began`. To check more often would take processor time from
/// the work that is waited for.
pub fn look_again(began: Instant) {
    std::thread::sleep((began.elapsed() / 8).clamp(Duration::from_millis(1), Duration::from_millis(100)));
}

/// The kind of bytes that come next on a connection.
enum Next {
    /// A head; the bytes that have come so far.
    Head(Vec<u8>),
    /// Bytes that end with the connection: a body without framing, a WebSocket, or everything, if a test wants the
    /// raw bytes.
    Bytes,
    /// The given number of bytes of a body with a length, and then a head.
    Body(usize),
    /// The line with a chunk's size; the bytes that have come so far.
    Size(Vec<u8>),
    /// The given number of bytes of a chunk.
    Chunk(usize),
    /// These bytes after a chunk.
    LineEnd(&'static [u8]),
    /// Nothing: the last chunk has come, and the connection closes.
    Nothing,
}

/// A client's side of a connection. It removes the framing of chunks (RFC 9112 §7.1). So tests see a stream's own
/// bytes, wherever chunks begin and end.
pub struct Wire {
    pub stream: TcpStream,
    /// Bytes that have come and were not taken yet.
    buf: Vec<u8>,
    next: Next,
    /// Whether the next response is to a HEAD request.
    bodiless: bool,
    /// Whether chunk sizes must have the form in which tincan writes them.
    strict: bool,
    /// The sizes of the chunks that have come; the last one has 0.
    pub chunks: Vec<usize>,
    /// The most bytes that it reads from its socket at a time, including the lines of chunks.
    pub gulp: usize,
    /// How many times it reads a single byte before that.
    pub sips: usize,
}

impl Wire {
    pub fn to(port: u16) -> Wire {
        Wire::over(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// Wraps a connection that exists already.
    pub fn over(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        let next = Next::Head(Vec::new());
        Wire {
            stream,
            buf: Vec::new(),
            next,
            bodiless: false,
            strict: true,
            chunks: Vec::new(),
            gulp: 64 << 10,
            sips: 0,
        }
    }

    /// Returns all bytes as they come, with the lines of chunks.
    pub fn raw(mut self) -> Wire {
        self.next = Next::Bytes;
        self
    }

    /// Accepts the chunks of a proxy: it may write sizes in upper case or with leading zeros, and the connection may
    /// go on.
    pub fn loose(mut self) -> Wire {
        self.strict = false;
        self
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.bodiless |= bytes.starts_with(b"HEAD ");
        self.stream.write_all(bytes).unwrap();
    }

    pub fn shut(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads more. Returns false at the end of the stream, or if the peer has reset it.
    fn more(&mut self) -> bool {
        match self.fill() {
            Ok(n) => n > 0,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => false,
            Err(e) if e.kind() == ErrorKind::Interrupted => true, // stopped and continued (signal(7))
            Err(e) => panic!("{e}, after {:?}", String::from_utf8_lossy(&self.buf)),
        }
    }

    /// Reads the bytes that have come, or waits for some; returns how many these are.
    fn fill(&mut self) -> std::io::Result<usize> {
        let sip = self.sips.checked_sub(1);
        self.sips = sip.unwrap_or(0);
        let mut bytes = vec![0; if sip.is_some() { 1 } else { self.gulp }];
        let n = self.stream.read(&mut bytes)?;
        let mut unread = &bytes[..n];
        while !unread.is_empty() {
            unread = self.accept_bytes(unread);
        }
        Ok(n)
    }

    /// Takes over some of the bytes that came, at least one; returns the others.
    fn accept_bytes<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let up_to = |n: usize| bytes.split_at(bytes.len().min(n));
        match &mut self.next {
            Next::Head(head) => {
                let begin = head.len();
                let ended = bytes.iter().any(|byte| {
                    head.push(*byte);
                    head.ends_with(b"\r\n\r\n")
                });
                let (taken, rest) = up_to(head.len() - begin);
                self.buf.extend_from_slice(taken);
                if ended {
                    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
                    self.next = self.after_head(&head);
                }
                rest
            }
            Next::Bytes => {
                self.buf.extend_from_slice(bytes);
                &[]
            }
            Next::Body(left) | Next::Chunk(left) => {
                let (taken, rest) = up_to(*left);
                self.buf.extend_from_slice(taken);
                *left -= taken.len();
                if *left == 0 {
                    let chunk = matches!(self.next, Next::Chunk(_));
                    self.next = if chunk { Next::LineEnd(b"\r\n") } else { Next::Head(Vec::new()) };
                }
                rest
            }
            Next::Size(line) => {
                line.push(bytes[0]);
                if bytes[0] == b'\n' || line.len() > 20 {
                    let size = size_in(line, self.strict);
                    self.chunks.push(size);
                    self.next = if size > 0 { Next::Chunk(size) } else { Next::LineEnd(b"\r\n") };
                }
                &bytes[1..]
            }
            Next::LineEnd(left) => {
                let (taken, rest) = up_to(left.len());
                let (due, others) = left.split_at(taken.len());
                assert_eq!(taken.escape_ascii().to_string(), due.escape_ascii().to_string(), "after a chunk");
                *left = others;
                if others.is_empty() {
                    self.next = match self.chunks.last() {
                        Some(1..) => Next::Size(Vec::new()),
                        _ if self.strict => Next::Nothing,
                        _ => Next::Head(Vec::new()),
                    };
                }
                rest
            }
            Next::Nothing => panic!("bytes after the last chunk: {:.300}", bytes.escape_ascii()),
        }
    }

    /// Returns what comes after a head, which is given in lower case.
    fn after_head(&mut self, head: &str) -> Next {
        let status = head.strip_prefix("http/1.").and_then(|rest| rest.get(2..5));
        let Some(status) = status.filter(|status| *status != "101") else { return Next::Bytes };
        if status.starts_with('1') {
            return Next::Head(Vec::new());
        }
        if std::mem::take(&mut self.bodiless) || ["204", "304"].contains(&status) {
            return Next::Head(Vec::new());
        }
        if head.contains("\r\ntransfer-encoding: chunked\r\n") {
            assert!(!head.contains("\r\ncontent-length:"), "Transfer-Encoding and Content-Length together: {head}");
            self.chunks.clear();
            return Next::Size(Vec::new());
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        match length.map(|length| length.parse().unwrap()) {
            None => Next::Bytes,
            Some(0) => Next::Head(Vec::new()),
            Some(n) => Next::Body(n),
        }
    }

    /// Returns whether the last chunk has come.
    pub fn is_whole(&self) -> bool {
        self.chunks.last() == Some(&0) && matches!(self.next, Next::Nothing | Next::Head(_))
    }

    /// Asserts that no more comes, and that a body in chunks is complete.
    #[track_caller]
    pub fn ends(&mut self) {
        assert_eq!(self.rest(), "");
        let chunked = matches!(self.next, Next::Size(_) | Next::Chunk(_) | Next::LineEnd(_));
        assert!(!chunked, "the connection ends without the last chunk");
    }

    /// Asserts that the connection ends without the last chunk; returns the bytes before the end.
    #[track_caller]
    pub fn breaks_off(&mut self) -> String {
        let rest = self.rest();
        assert!(!self.is_whole(), "the last chunk has come");
        rest
    }

    /// Takes everything up to `end`, including `end`.
    pub fn until(&mut self, end: &[u8]) -> String {
        let (mut at, last) = (0, *end.last().unwrap());
        loop {
            // Jumps from one such byte to the next with a search that std has compiled, because this is a debug
            // build.
            at += (&self.buf[at..]).skip_until(last).unwrap();
            if self.buf[..at].ends_with(end) {
                return self.take(at);
            }
            if at == self.buf.len() {
                assert!(self.more(), "ended before {end:?}: {:.500?}", String::from_utf8_lossy(&self.buf));
            }
        }
    }

    fn take(&mut self, n: usize) -> String {
        String::from_utf8(self.buf.drain(..n).collect()).unwrap()
    }

    /// Takes so many bytes, or fewer if the connection ends before.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.buf.len() < n && self.more() {}
        self.buf.drain(..n.min(self.buf.len())).collect()
    }

    /// Takes exactly these bytes.
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let (bytes, mut same) = (bytes.as_ref(), 0);
        loop {
            let n = bytes.len().min(self.buf.len());
            if self.buf[same..n] != bytes[same..n] || n < bytes.len() && !self.more() {
                assert_eq!(String::from_utf8_lossy(&self.buf[..n]), String::from_utf8_lossy(bytes));
                panic!("the bytes differ, but not as text");
            }
            same = n; // so that each byte is compared once
            if n == bytes.len() {
                break;
            }
        }
        self.buf.drain(..bytes.len());
    }

    /// Takes one block of an event stream, with its blank line.
    pub fn block(&mut self) -> String {
        self.until(b"\n\n")
    }

    /// Takes everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        while self.more() {}
        let n = self.buf.len();
        self.take(n)
    }

    /// Takes a response's head.
    pub fn head(&mut self) -> Response {
        let head = self.until(b"\r\n\r\n");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Response { status, head, body: Vec::new() }
    }

    /// Takes one response in chunks, with a length, or without a body.
    pub fn response(&mut self) -> Response {
        let head = self.head();
        self.body(head)
    }

    /// Takes the body after a response's head.
    pub fn body(&mut self, mut response: Response) -> Response {
        let chunked = response.field("transfer-encoding").is_some();
        let length = response.field("content-length").map_or(0, |l| l.parse().unwrap());
        while if chunked { !self.is_whole() } else { self.buf.len() < length } {
            assert!(self.more(), "the body is cut off: {:?}", String::from_utf8_lossy(&self.buf));
        }
        let length = if chunked { self.buf.len() } else { length };
        response.body = self.buf.drain(..length).collect();
        response
    }
}

/// Reads bytes without the framing of chunks.
impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        while self.buf.is_empty() && self.fill()? > 0 {}
        let n = bytes.len().min(self.buf.len());
        bytes[..n].copy_from_slice(&self.buf[..n]);
        self.buf.drain(..n);
        Ok(n)
    }
}

/// Returns the size in the line before a chunk. tincan writes it in lower case, with no leading zero and nothing
/// after it.
fn size_in(line: &[u8], strict: bool) -> usize {
    let digits = str::from_utf8(line).ok().and_then(|line| line.strip_suffix("\r\n"));
    let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    let size = size.unwrap_or_else(|| panic!("not the size of a chunk: {}", line.escape_ascii()));
    assert!(
        !strict || digits == Some(&format!("{size:x}")),
        "a size that tincan does not write in this form: {}",
        line.escape_ascii()
    );
    size
}

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Asserts that the response is exactly this refusal.
    pub fn refused(&self, reject: tincan::wire::reject::Reject) {
        assert_eq!((self.status, self.text()), (reject.status, reject.line()));
    }
}

/// Returns the body of a POST as each subscriber receives it: with LF for each line end.
pub fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Returns the block of an event.
pub fn block(data: &str, id: &str) -> String {
    lines(data).split('\n').fold(String::new(), |out, line| out + "data: " + line + "\n") + &format!("id: {id}\n\n")
}

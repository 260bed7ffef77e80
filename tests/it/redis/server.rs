//! A real redis-server on a free port, a small client for its protocol, and a proxy that causes failures between it
//! and a node.
//!
//! If redis-server is missing, the tests that need it are left out; with `TINCAN_REDIS_SERVER=1` they fail instead.

use crate::support::harness::*;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

/// A redis-server with a directory of its own. It ends with the test.
pub struct Redis {
    child: Ended,
    pub port: u16,
    dir: Scratch,
    args: Vec<String>,
}

impl Redis {
    /// Starts a redis-server with further options. Returns None if it is not installed.
    pub fn start(args: &[&str]) -> Option<Redis> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = |name| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
        if !installed("redis-server") || !installed("redis-cli") {
            let why = "left out: redis-server and redis-cli are not installed";
            assert!(std::env::var("TINCAN_REDIS_SERVER").as_deref() != Ok("1"), "{why}");
            eprintln!("{why}");
            return None;
        }
        let (dir, args): (_, Vec<String>) = (Scratch::new(), args.iter().map(|arg| arg.to_string()).collect());
        // A free port may be taken before it is used.
        let mut tries = (0..5).map(|_| free_port()).filter_map(|port| Some((run(port, &dir, &args)?, port)));
        let (child, port) = tries.next().expect("redis-server has ended");
        Some(Redis { child, port, dir, args })
    }

    /// Sends SIGKILL, and waits until it has ended.
    pub fn kill(&mut self) {
        let _ = self.child.0.kill();
        let _ = self.child.0.wait();
    }

    /// Starts it again on the same port, after [`Redis::kill`].
    pub fn again(&mut self) {
        self.child = run(self.port, &self.dir, &self.args).expect("redis-server has ended");
    }

    /// Deletes its saved data. Call this only while it is killed.
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.dir.0.join("appendonlydir")).unwrap();
    }

    /// Stops it, so that it replies to nothing, or lets it continue.
    pub fn hangs(&self, stopped: bool) {
        assert!(signal(if stopped { "STOP" } else { "CONT" }, self.child.0.id()));
    }

    pub fn client(&self) -> Client {
        Client(BufReader::new(Wire::to(self.port).stream))
    }

    /// Sends one command on a new connection. It must not be refused.
    pub fn ask(&self, words: &[&str]) -> Value {
        self.client().ask(words)
    }

    /// Returns the entries of a channel's stream.
    pub fn entries(&self, channel: &str) -> Vec<Entry> {
        entries(&mut self.client(), channel)
    }

    /// Adds an event as any client may; returns its id.
    pub fn add(&self, channel: &str, data: &str) -> String {
        self.ask(&["XADD", &format!("tincan:{channel}"), "*", "data", data]).text()
    }

    /// Starts a node; returns once it is connected.
    pub fn node(&self, args: &[&str]) -> Tincan {
        node(self.port, args)
    }
}

/// Runs redis-server; returns None if it has ended at once. It writes each command to its file before it replies, so
/// it keeps them even if it is killed. With the default, `everysec`, it may reply first if the disk is slow
/// (redis.conf, `appendfsync`).
fn run(port: u16, dir: &Scratch, args: &[String]) -> Option<Ended> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", dir.arg(), "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"]);
    command.args(["--repl-diskless-sync-delay", "0", "--loglevel", "warning"]).args(args);
    let mut child = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let password = args.iter().skip_while(|arg| *arg != "--requirepass").nth(1);
    let (id, mut has_ended) = (format!("process_id:{}\r\n", child.0.id()), false);
    eventually("redis-server is up", || {
        has_ended = child.0.try_wait().unwrap().is_some();
        let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return has_ended };
        stream.set_read_timeout(Some(SOON)).unwrap();
        // Another redis-server may have taken the port. This one may end at any time.
        let (mut client, mut replies) = (Client(BufReader::new(stream)), Vec::new());
        let mut words: Vec<Vec<&[u8]>> = vec![vec![b"PING"], vec![b"INFO", b"server"], vec![b"QUIT"]];
        password.iter().for_each(|password| words.insert(0, vec![b"AUTH", password.as_bytes()]));
        let asked = words.iter().try_for_each(|words| client.try_write(words));
        let read = asked.and_then(|()| client.0.read_to_end(&mut replies));
        let replies = String::from_utf8_lossy(&replies);
        has_ended || read.is_ok() && replies.contains("+PONG\r\n") && replies.contains(&id)
    });
    (!has_ended).then_some(child)
}

/// Starts a node with the Redis or the [`Between`] on this port.
pub fn node(port: u16, args: &[&str]) -> Tincan {
    let server = Tincan::start(&[&["--quiet", "--redis", &format!("127.0.0.1:{port}")], args].concat());
    is_well(&server);
    server
}

/// Waits until a node can publish.
pub fn is_well(node: &Tincan) {
    eventually("the node is healthy", || node.get("/health").status == 200);
}

/// A reply of Redis (RESP2).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Error(String),
    Number(i64),
    List(Vec<Value>),
    Nil,
}

impl Value {
    pub fn text(self) -> String {
        match self {
            Value::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }

    pub fn number(self) -> i64 {
        match self {
            Value::Number(number) => number,
            other => panic!("not a number: {other:?}"),
        }
    }

    pub fn list(self) -> Vec<Value> {
        match self {
            Value::List(list) => list,
            other => panic!("not a list: {other:?}"),
        }
    }
}

/// A connection to Redis.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Sends one command, which may be refused.
    pub fn send(&mut self, words: &[&str]) -> Value {
        self.write(words);
        self.read()
    }

    /// Sends one command, which must not be refused.
    pub fn ask(&mut self, words: &[&str]) -> Value {
        let value = self.send(words);
        assert!(!matches!(value, Value::Error(_)), "{words:.200?}: {value:?}");
        value
    }

    /// Sends a command. Its reply is read later.
    pub fn write(&mut self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.write_bytes(&words);
    }

    pub fn write_bytes(&mut self, words: &[&[u8]]) {
        self.try_write(words).unwrap();
    }

    fn try_write(&mut self, words: &[&[u8]]) -> io::Result<()> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&out)
    }

    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        let whole = matches!(self.0.read_line(&mut line), Ok(1..)) && line.ends_with("\r\n");
        assert!(whole, "Redis has closed the connection: {line:?}");
        let (kind, rest) = line.trim_end_matches("\r\n").split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        match kind {
            "+" => Value::Text(rest.into()),
            "-" => Value::Error(rest.into()),
            ":" => Value::Number(number()),
            "$" | "*" if number() < 0 => Value::Nil,
            "$" => {
                let mut text = vec![0; number() as usize + 2];
                self.0.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                Value::Text(String::from_utf8_lossy(&text).into())
            }
            "*" => Value::List((0..number()).map(|_| self.read()).collect()),
            _ => panic!("{line:?}"),
        }
    }
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: String,
    pub fields: Vec<(String, String)>,
}

impl Entry {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    pub fn data(&self) -> &str {
        self.field("data").unwrap_or_default()
    }

    pub fn is_gap(&self) -> bool {
        self.field("event") == Some("gap")
    }

    /// Returns the event as it goes over the wire (CONTRACT section 2).
    pub fn block(&self) -> String {
        let line = |name| self.field(name).map_or(String::new(), |value| format!("{name}: {value}\n"));
        let data = self.data().replace("\r\n", "\n").replace('\r', "\n");
        let data: String = data.split('\n').map(|line| format!("data: {line}\n")).collect();
        format!("{}{}{data}id: {}\n\n", line("event"), line("retry"), self.id)
    }
}

/// Returns all entries of a channel's stream, read page by page.
pub fn entries(client: &mut Client, channel: &str) -> Vec<Entry> {
    let (key, mut all, mut from) = (format!("tincan:{channel}"), Vec::new(), "-".to_string());
    loop {
        let page = client.ask(&["XRANGE", &key, &from, "+", "COUNT", "1000"]).list();
        let Some(last) = page.last().cloned() else { return all };
        all.extend(page.into_iter().map(|entry| {
            let [id, fields] = entry.list().try_into().unwrap();
            let words: Vec<String> = fields.list().into_iter().map(Value::text).collect();
            let fields = words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            Entry { id: id.text(), fields }
        }));
        from = format!("({}", last.list().remove(0).text());
    }
}

/// Returns the blocks of entries, one after another.
pub fn blocks(entries: &[Entry]) -> String {
    entries.iter().map(Entry::block).collect()
}

/// A subscriber of a channel, and the last id that it has received.
pub struct Reader {
    pub wire: Wire,
    pub place: String,
}

impl Reader {
    /// Subscribes to new events.
    pub fn of(node: &Tincan, channel: &str) -> Reader {
        let (wire, place) = node.listen(&format!("/{channel}"), "");
        Reader { wire, place }
    }

    /// Subscribes with this last event ID.
    pub fn back(node: &Tincan, channel: &str, last: &str) -> Reader {
        let (wire, place) = node.listen(&format!("/{channel}"), &format!("Last-Event-ID: {last}\r\n"));
        Reader { wire, place }
    }

    /// Returns the next block that is not a ping.
    pub fn next(&mut self) -> String {
        let until = Instant::now() + SOON;
        loop {
            let block = self.wire.block();
            if block != ":ping\n\n" {
                if let Some(id) = block.lines().find_map(|line| line.strip_prefix("id: ")) {
                    self.place = id.into();
                }
                return block;
            }
            assert!(Instant::now() < until, "nothing but pings");
        }
    }

    /// Asserts that these entries are the next blocks.
    pub fn hears(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert_eq!(self.next(), entry.block());
        }
    }

    /// Asserts that the next block is a gap after the last id; returns the block.
    pub fn hears_a_gap(&mut self) -> String {
        let block = self.next();
        assert!(block.starts_with("event: gap\ndata: {"), "{block:?}");
        block
    }

    /// Returns all blocks up to an event with these data, including this event.
    pub fn until(&mut self, data: &str) -> Vec<String> {
        let mut received = vec![self.next()];
        while !received.last().unwrap().contains(&format!("data: {data}\n")) {
            received.push(self.next());
        }
        received
    }
}

/// A way in which a command is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lost {
    /// Redis carries it out. Its reply is not passed on.
    Answer,
    /// The same, and then no connection gets through.
    Link,
    /// Redis never sees it.
    Command,
    /// Redis sees its first half.
    Half,
    /// Redis sees it only after [`Between::deliver`]. The node has given up the connection before.
    Late,
    /// Redis carries it out. Half of its reply is passed on.
    HalfAnswer,
    /// Redis carries it out. Nothing more is passed on, but the connection stays open.
    Silence,
    /// Redis never sees it. The node gets the error that Redis still loads its data, and its connection stays open.
    Loading,
}

#[derive(Default)]
struct Plan {
    down: bool,                // no connection gets through
    held: bool,                // replies are not passed on
    lose: Vec<(String, Lost)>, // the next command with this word; each is lost once, in this order
    losses: usize,
    late: Option<Option<bool>>, // a command waits for `deliver`; whether Redis has carried it out, once this is known
    deliver: bool,
    open: Vec<[TcpStream; 2]>,
}

/// The state of one connection.
#[derive(Default)]
struct Fate {
    lost: Mutex<Option<Lost>>, // how its last command was lost
    delivered: AtomicBool,     // the late command has been passed on
}

/// A proxy between a node and Redis. It passes everything on until the test says otherwise.
pub struct Between {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: AtomicU16,
    over: AtomicBool,
    plan: Mutex<Plan>,
    changed: Condvar,
}

impl Between {
    pub fn new(upstream: u16) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (plan, changed) = Default::default();
        let shared =
            Arc::new(Shared { upstream: AtomicU16::new(upstream), over: AtomicBool::new(false), plan, changed });
        let copy = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                if copy.over.load(SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", copy.upstream.load(SeqCst))) else { continue };
                let mut plan = copy.plan.lock().unwrap();
                if plan.down {
                    continue;
                }
                [&client, &server].iter().for_each(|stream| stream.set_nodelay(true).unwrap());
                plan.open.push([&client, &server].map(|stream| stream.try_clone().unwrap()));
                let fate = Arc::new(Fate::default());
                let (shared, ends, same) = (copy.clone(), (client.try_clone(), server.try_clone()), fate.clone());
                thread::spawn(move || shared.up(ends.0.unwrap(), ends.1.unwrap(), &same));
                let shared = copy.clone();
                thread::spawn(move || shared.down(server, client, &fate));
            }
        });
        Between { port, shared }
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.shared.plan.lock().unwrap());
        self.shared.changed.notify_all();
    }

    /// Cuts all connections and each new one, until [`Between::mend`].
    pub fn cut(&self) {
        self.change(|plan| {
            plan.down = true;
            plan.open.drain(..).flatten().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        });
    }

    pub fn mend(&self) {
        self.change(|plan| plan.down = false);
    }

    /// Connects to another Redis from now on, as after a failover.
    pub fn turn_to(&self, other: &Redis) {
        self.cut();
        self.shared.upstream.store(other.port, SeqCst);
        self.mend();
    }

    /// Holds back the replies of Redis, or passes them on again.
    pub fn hold(&self, held: bool) {
        self.change(|plan| plan.held = held);
    }

    /// Loses the next command with this word in it, and its connection.
    pub fn lose(&self, word: &str, loss: Lost) {
        self.change(|plan| plan.lose.push((word.into(), loss)));
    }

    /// Cancels the losses that have not happened yet.
    pub fn forgive(&self) {
        self.change(|plan| plan.lose.clear());
    }

    /// Returns how many commands have been lost.
    pub fn losses(&self) -> usize {
        self.shared.plan.lock().unwrap().losses
    }

    /// Passes on the late command. Returns whether Redis has carried it out. It does not if it has already closed
    /// that connection.
    pub fn deliver(&self) -> bool {
        self.change(|plan| plan.deliver = true);
        let mut done = None;
        eventually("Redis has carried out the late command, or closed the connection", || {
            done = self.shared.plan.lock().unwrap().late.expect("no command is late");
            done.is_some()
        });
        done.unwrap()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.change(|plan| (plan.held, plan.deliver) = (false, true));
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn end(streams: [&TcpStream; 2]) {
    streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
}

impl Shared {
    /// Passes on the commands of the node.
    fn up(&self, mut client: TcpStream, mut server: TcpStream, fate: &Fate) {
        let mut chunk = vec![0; 1 << 20];
        while let Ok(n @ 1..) = client.read(&mut chunk) {
            let sent = &chunk[..n];
            let is = |word: &str| sent.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
            let mut plan = self.plan.lock().unwrap();
            let lost = plan.lose.first().filter(|lost| is(&lost.0)).map(|lost| lost.1);
            if lost.is_some() {
                plan.lose.remove(0);
                plan.losses += 1;
            }
            match lost {
                None => drop(plan),
                Some(Lost::Command) => break,
                Some(Lost::Loading) => {
                    drop(plan);
                    let commands = sent.windows(3).filter(|part| matches!(part, [b'\r', b'\n', b'*'])).count();
                    let answer = "-LOADING Redis is loading the dataset in memory\r\n".repeat(1 + commands);
                    if client.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                    continue;
                }
                Some(loss @ (Lost::Answer | Lost::Link | Lost::HalfAnswer | Lost::Silence)) => {
                    plan.down |= loss == Lost::Link;
                    *fate.lost.lock().unwrap() = lost;
                    drop(plan);
                }
                Some(Lost::Half) => {
                    let _ = server.write_all(&sent[..n / 2]);
                    break;
                }
                Some(Lost::Late) => {
                    (plan.late, plan.deliver) = (Some(None), false);
                    *fate.lost.lock().unwrap() = lost;
                    let _ = client.shutdown(Shutdown::Both);
                    let plan = self.changed.wait_while(plan, |plan| !plan.deliver).unwrap();
                    fate.delivered.store(true, SeqCst);
                    drop(plan);
                    let _ = server.write_all(sent);
                    return; // `down` ends the connection
                }
            }
            if server.write_all(sent).is_err() {
                break;
            }
        }
        end([&client, &server]);
    }

    /// Passes on the replies of Redis.
    fn down(&self, mut server: TcpStream, mut client: TcpStream, fate: &Fate) {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let read = server.read(&mut chunk);
            let plan = self.plan.lock().unwrap();
            let mut plan = self.changed.wait_while(plan, |plan| plan.held).unwrap();
            let (lost, delivered) = (*fate.lost.lock().unwrap(), fate.delivered.load(SeqCst));
            let more = matches!(read, Ok(1..));
            if lost == Some(Lost::Late) && (delivered || !more) {
                plan.late = Some(Some(more));
            }
            drop(plan);
            self.changed.notify_all();
            let Ok(n @ 1..) = read else { break };
            let (pass, stay) = match lost {
                None => (n, true),
                Some(Lost::HalfAnswer) => (n / 2, false),
                Some(Lost::Silence) => (0, true),
                Some(loss) => (0, loss == Lost::Late && !delivered),
            };
            if client.write_all(&chunk[..pass]).is_err() || !stay {
                break;
            }
        }
        end([&client, &server]);
    }
}

/// Returns an address of this machine on which no program listens. No program can listen there while the first value
/// lives: the address is the client's end of a connection.
pub fn closed_address() -> ((TcpStream, TcpListener), SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = client.local_addr().unwrap();
    ((client, listener), address)
}

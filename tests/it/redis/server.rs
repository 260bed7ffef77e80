//! A real redis-server on a free port, its protocol in a few lines, and what can go wrong between it and a node.
//!
//! Where redis-server is missing the tests that need it are left out, unless `TINCAN_REDIS_SERVER=1` says that it must
//! be there.

use crate::support::harness::*;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

/// A redis-server with a directory of its own, ended with the test.
pub struct Redis {
    child: Ended,
    pub port: u16,
    dir: Scratch,
    args: Vec<String>,
}

impl Redis {
    /// Starts one with further options; none where it is not installed.
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
        // A port that was free may be taken before it is used.
        let mut tries = (0..5).map(|_| free_port()).filter_map(|port| Some((run(port, &dir, &args)?, port)));
        let (child, port) = tries.next().expect("redis-server has ended");
        Some(Redis { child, port, dir, args })
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.0.kill();
        let _ = self.child.0.wait();
    }

    /// Starts it again where it was, after [`Redis::kill`].
    pub fn again(&mut self) {
        self.child = run(self.port, &self.dir, &self.args).expect("redis-server has ended");
    }

    /// Forgets what it had kept; only while it is killed.
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.dir.0.join("appendonlydir")).unwrap();
    }

    /// Stops it, so that it answers nobody; or lets it go on.
    pub fn hangs(&self, stopped: bool) {
        assert!(signal(if stopped { "STOP" } else { "CONT" }, self.child.0.id()));
    }

    pub fn client(&self) -> Client {
        Client(BufReader::new(Wire::to(self.port).stream))
    }

    /// One command on a connection of its own; it must not be refused.
    pub fn ask(&self, words: &[&str]) -> Value {
        self.client().ask(words)
    }

    /// What a channel's stream holds.
    pub fn entries(&self, channel: &str) -> Vec<Entry> {
        entries(&mut self.client(), channel)
    }

    /// Adds an event as anyone may; returns its id.
    pub fn add(&self, channel: &str, data: &str) -> String {
        self.ask(&["XADD", &format!("tincan:{channel}"), "*", "data", data]).text()
    }

    /// Starts a node of it, which is connected when this returns.
    pub fn node(&self, args: &[&str]) -> Tincan {
        node(self.port, args)
    }
}

/// Runs redis-server; none if it has ended at once. It keeps what it has answered also when it is killed: with the
/// default, `everysec`, it answers before it writes where the disk is slow (redis.conf, `appendfsync`).
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
        // It may be another one, which has taken the port, and may end at any time.
        let (mut client, mut told) = (Client(BufReader::new(stream)), Vec::new());
        let mut words: Vec<Vec<&[u8]>> = vec![vec![b"PING"], vec![b"INFO", b"server"], vec![b"QUIT"]];
        password.iter().for_each(|password| words.insert(0, vec![b"AUTH", password.as_bytes()]));
        let asked = words.iter().try_for_each(|words| client.try_write(words));
        let read = asked.and_then(|()| client.0.read_to_end(&mut told));
        let told = String::from_utf8_lossy(&told);
        has_ended || read.is_ok() && told.contains("+PONG\r\n") && told.contains(&id)
    });
    (!has_ended).then_some(child)
}

/// Starts a node with the Redis, or the one in between, of this port.
pub fn node(port: u16, args: &[&str]) -> Tincan {
    let server = Tincan::start(&[&["--quiet", "--redis", &format!("127.0.0.1:{port}")], args].concat());
    is_well(&server);
    server
}

/// Waits until a node can publish.
pub fn is_well(node: &Tincan) {
    eventually("the node is well", || node.get("/health").status == 200);
}

/// What Redis says (RESP2).
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
            other => panic!("no text: {other:?}"),
        }
    }

    pub fn number(self) -> i64 {
        match self {
            Value::Number(number) => number,
            other => panic!("no number: {other:?}"),
        }
    }

    pub fn list(self) -> Vec<Value> {
        match self {
            Value::List(list) => list,
            other => panic!("no list: {other:?}"),
        }
    }
}

/// A connection to Redis.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// One command, which may be refused.
    pub fn send(&mut self, words: &[&str]) -> Value {
        self.write(words);
        self.read()
    }

    /// One command, which must not be refused.
    pub fn ask(&mut self, words: &[&str]) -> Value {
        let value = self.send(words);
        assert!(!matches!(value, Value::Error(_)), "{words:.200?}: {value:?}");
        value
    }

    /// Sends a command; its answer is read later.
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
        assert!(whole, "Redis has ended the connection: {line:?}");
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

/// One entry of a stream.
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

    /// The event as it goes over the wire (CONTRACT section 2).
    pub fn block(&self) -> String {
        let line = |name| self.field(name).map_or(String::new(), |value| format!("{name}: {value}\n"));
        let data = self.data().replace("\r\n", "\n").replace('\r', "\n");
        let data: String = data.split('\n').map(|line| format!("data: {line}\n")).collect();
        format!("{}{}{data}id: {}\n\n", line("event"), line("retry"), self.id)
    }
}

/// All entries of a channel's stream, a page at a time.
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

/// The blocks of entries, one after another.
pub fn blocks(entries: &[Entry]) -> String {
    entries.iter().map(Entry::block).collect()
}

/// A reader of a channel, who has its place in it.
pub struct Reader {
    pub wire: Wire,
    pub place: String,
}

impl Reader {
    /// From now on.
    pub fn of(node: &Tincan, channel: &str) -> Reader {
        let (wire, place) = node.listen(&format!("/{channel}"), "");
        Reader { wire, place }
    }

    /// Comes with this id.
    pub fn back(node: &Tincan, channel: &str, last: &str) -> Reader {
        let (wire, place) = node.listen(&format!("/{channel}"), &format!("Last-Event-ID: {last}\r\n"));
        Reader { wire, place }
    }

    /// The next block that is no ping.
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

    /// What it hears next is this and nothing else.
    pub fn hears(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert_eq!(self.next(), entry.block());
        }
    }

    /// What it hears next is a gap in line, behind the last that it has heard; returns the block.
    pub fn hears_a_gap(&mut self) -> String {
        let block = self.next();
        assert!(block.starts_with("event: gap\ndata: {"), "{block:?}");
        block
    }

    /// What it is given up to an event with these data, with it.
    pub fn until(&mut self, data: &str) -> Vec<String> {
        let mut heard = vec![self.next()];
        while !heard.last().unwrap().contains(&format!("data: {data}\n")) {
            heard.push(self.next());
        }
        heard
    }
}

/// How a command gets lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lost {
    /// Redis does it; its answer is not passed on.
    Answer,
    /// The same, and from then on nobody gets through.
    Link,
    /// Redis never sees it.
    Command,
    /// Redis sees its first half.
    Half,
    /// Redis sees it only when [`Between::deliver`] says so. The node's connection is at its end before.
    Late,
    /// Redis does it, and half of its answer is passed on.
    HalfAnswer,
    /// Redis does it. Nothing more is passed on, but the connection stays.
    Silence,
    /// Redis never sees it; the node is told that Redis still loads its data, and its connection stays.
    Loading,
}

#[derive(Default)]
struct Plan {
    down: bool,                // nobody gets through
    held: bool,                // what Redis says is not passed on
    lose: Vec<(String, Lost)>, // the command with this word, each once, in their order
    losses: usize,
    late: Option<Option<bool>>, // a command that waits for `deliver`; whether Redis has done it, once that is known
    deliver: bool,
    open: Vec<[TcpStream; 2]>,
}

/// What becomes of one connection.
#[derive(Default)]
struct Fate {
    lost: Mutex<Option<Lost>>, // what became of its last command
    delivered: AtomicBool,     // what was late has come
}

/// What stands between a node and Redis: a proxy that passes all on, until it is told otherwise.
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

    /// Cuts all connections, and each new one, until it is mended.
    pub fn cut(&self) {
        self.change(|plan| {
            plan.down = true;
            plan.open.drain(..).flatten().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        });
    }

    pub fn mend(&self) {
        self.change(|plan| plan.down = false);
    }

    /// From now on it is another Redis that stands behind it, as after a failover.
    pub fn turn_to(&self, other: &Redis) {
        self.cut();
        self.shared.upstream.store(other.port, SeqCst);
        self.mend();
    }

    /// Holds back what Redis says, or passes it on again.
    pub fn hold(&self, held: bool) {
        self.change(|plan| plan.held = held);
    }

    /// Loses the next command with this word in it, and the connection with it.
    pub fn lose(&self, word: &str, how: Lost) {
        self.change(|plan| plan.lose.push((word.into(), how)));
    }

    /// Loses no more.
    pub fn forgive(&self) {
        self.change(|plan| plan.lose.clear());
    }

    /// How many commands were lost so far.
    pub fn losses(&self) -> usize {
        self.shared.plan.lock().unwrap().losses
    }

    /// Gives Redis what is late; whether it has done it. It has not where it had ended that connection.
    pub fn deliver(&self) -> bool {
        self.change(|plan| plan.deliver = true);
        let mut done = None;
        eventually("Redis has done what was late, or ended the connection", || {
            done = self.shared.plan.lock().unwrap().late.expect("nothing is late");
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
    /// What the node says.
    fn up(&self, mut client: TcpStream, mut server: TcpStream, fate: &Fate) {
        let mut chunk = vec![0; 1 << 20];
        while let Ok(n @ 1..) = client.read(&mut chunk) {
            let said = &chunk[..n];
            let is = |word: &str| said.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
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
                    let commands = said.windows(3).filter(|part| matches!(part, [b'\r', b'\n', b'*'])).count();
                    let answer = "-LOADING Redis is loading the dataset in memory\r\n".repeat(1 + commands);
                    if client.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                    continue;
                }
                Some(how @ (Lost::Answer | Lost::Link | Lost::HalfAnswer | Lost::Silence)) => {
                    plan.down |= how == Lost::Link;
                    *fate.lost.lock().unwrap() = lost;
                    drop(plan);
                }
                Some(Lost::Half) => {
                    let _ = server.write_all(&said[..n / 2]);
                    break;
                }
                Some(Lost::Late) => {
                    (plan.late, plan.deliver) = (Some(None), false);
                    *fate.lost.lock().unwrap() = lost;
                    let _ = client.shutdown(Shutdown::Both);
                    let plan = self.changed.wait_while(plan, |plan| !plan.deliver).unwrap();
                    fate.delivered.store(true, SeqCst);
                    drop(plan);
                    let _ = server.write_all(said);
                    return; // `down` ends the connection
                }
            }
            if server.write_all(said).is_err() {
                break;
            }
        }
        end([&client, &server]);
    }

    /// What Redis says.
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
                Some(how) => (0, how == Lost::Late && !delivered),
            };
            if client.write_all(&chunk[..pass]).is_err() || !stay {
                break;
            }
        }
        end([&client, &server]);
    }
}

/// An address of this machine at which nobody listens, and nobody can for as long as the first value lives: it is the
/// client's end of a connection.
pub fn closed_address() -> ((TcpStream, TcpListener), SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = client.local_addr().unwrap();
    ((client, listener), address)
}

//! A board with 32 MiB of memory, and clients that together ask for far more. It takes a minute, so it runs only if
//! `TINCAN_BOARD` says for how many seconds. `TINCAN_STATIC` names the build that boards run, else `TINCAN_RELEASE`.
//! The test's own threads are outside of the control group.

use crate::support::follower::{Follower, Met, body};
use crate::support::harness::*;
use crate::support::memory_group::MemoryGroup;
use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};
use tincan::wire::id::Id;

const MEMORY: u64 = 32 << 20;
const CHANNELS: usize = 200;
const PUBLISHERS: u64 = 50;
const SUBSCRIBERS: usize = 500;
const BODIES: usize = 1000;
/// The length that each slow body announces.
const ANNOUNCED: usize = 64 << 10;
/// What a slow body sends in a second: a little more than the least rate.
const DRIP: usize = 1200;
/// How long the last subscriber may take to receive the last event.
const GRACE: Duration = Duration::from_secs(60);

fn channel(number: usize) -> String {
    format!("c{number}")
}

/// What all threads share.
struct Board {
    port: u16,
    over: AtomicBool,
    /// Whether the server was killed.
    killed: AtomicBool,
    /// The ids of the events that were answered with 200, by channel.
    answered: Vec<Mutex<Vec<Id>>>,
    /// How often each thing has happened.
    counts: Mutex<BTreeMap<String, u64>>,
    events: AtomicUsize,
}

impl Board {
    fn count(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Publishes as fast as answers come, and connects again if the connection ends.
    fn publish(&self, seed: u64) {
        let mut random = Random(seed);
        while !self.is_over() {
            let mut answers = 0;
            if let Err(e) = self.publish_on_one_connection(&mut random, &mut answers) {
                // A server that is full closes further connections at once. It ends no connection but with an answer.
                let when = if answers == 0 { "at once" } else { "later" };
                self.count(format!("publishers' connections that end {when}: {:?}", e.kind()));
                sleep(Duration::from_millis(20));
            }
        }
    }

    fn publish_on_one_connection(&self, random: &mut Random, answers: &mut u64) -> io::Result<()> {
        let mut wire = BufReader::new(TcpStream::connect(("127.0.0.1", self.port))?);
        wire.get_ref().set_read_timeout(Some(SOON))?;
        wire.get_ref().set_nodelay(true)?;
        while !self.is_over() {
            let number = random.index(CHANNELS);
            let name = channel(number);
            let most = (8 << 10) >> random.index(10);
            let text = body(&name, 10 + random.index(most - 7));
            let head = format!("POST /{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", text.len());
            wire.get_ref().write_all((head + &text).as_bytes())?;
            let (status, text) = response(&mut wire)?;
            self.count(format!("publishers: {status}"));
            *answers += 1;
            if status != 200 {
                return Ok(()); // the server may close the connection after a refusal
            }
            if let Some(id) = Id::parse(text.trim_end()) {
                self.answered[number].lock().unwrap().push(id);
                self.events.fetch_add(1, SeqCst);
            }
        }
        Ok(())
    }

    /// Holds bodies that do not end for a long time, and begins each of them again if it is refused.
    fn hold_bodies(&self, seed: u64, count: usize) {
        let mut random = Random(seed);
        let mut held: Vec<Option<SlowBody>> = (0..count).map(|_| None).collect();
        while !self.is_over() {
            for slow in &mut held {
                let end = match slow {
                    None => SlowBody::begin(self.port, &mut random).map(|begun| *slow = Some(begun)).err(),
                    Some(slow) => slow.step().err(),
                };
                if let Some(end) = end {
                    self.count(format!("slow bodies: {end}"));
                    *slow = None;
                }
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Follows a channel to its end. Returns what it has met.
    fn follow(&self, number: usize) -> Result<Met, String> {
        let mut follower = Follower::new(self.port, &channel(number));
        while !self.is_over() {
            follower.follow(Instant::now() + Duration::from_millis(500), None)?;
        }
        let last = self.answered[number].lock().unwrap().iter().max().copied();
        if self.killed.load(SeqCst) {
            return Ok(follower.met);
        }
        let has_all = last.is_none() || follower.follow(Instant::now() + GRACE, last)?;
        let follower_last = follower.last;
        has_all
            .then_some(follower.met)
            .ok_or(format!("/{}: {last:?} never comes after {follower_last:?}", channel(number)))
    }

    /// Notes every second what the server takes, until it is over. Ends everything if the server has ended.
    fn watch(&self, group: &MemoryGroup, pid: u32, until: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let began = Instant::now();
        let mut before = 0;
        while Instant::now() < until && !self.is_over() {
            sleep(Duration::from_secs(1));
            let status = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
            let events = self.events.load(SeqCst);
            lines.push(format!(
                "{:3} s: group {:5} KiB (kernel {:5}, written {:5}, peak {:5}), RSS {}, {} threads, {} events/s",
                began.elapsed().as_secs(),
                group.usage() >> 10,
                group.kernel().unwrap_or(0) >> 10,
                group.written() >> 10,
                group.peak() >> 10,
                field("VmRSS:"),
                field("Threads:"),
                events - before
            ));
            before = events;
            if field("VmRSS:") == "?" {
                self.killed.store(true, SeqCst);
                break;
            }
        }
        self.over.store(true, SeqCst);
        lines
    }
}

/// Reads a response; returns its status and its body.
fn response(wire: &mut BufReader<TcpStream>) -> io::Result<(u16, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if wire.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    let mut text = vec![0; length];
    wire.read_exact(&mut text)?;
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

/// A body that comes slowly.
struct SlowBody {
    stream: TcpStream,
    left: usize,
    next: Instant,
}

impl SlowBody {
    /// Connects, announces the body, and sends some of it.
    fn begin(port: u16, random: &mut Random) -> Result<SlowBody, String> {
        let address = ([127, 0, 0, 1], port).into();
        let stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).map_err(|e| kind(&e))?;
        let sent = 1000 + random.index(5000);
        let channel = random.index(10);
        let head = format!("POST /slow{channel} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {ANNOUNCED}\r\n\r\n");
        stream.set_nonblocking(true).map_err(|e| kind(&e))?;
        (&stream).write_all((head + &"x".repeat(sent)).as_bytes()).map_err(|e| kind(&e))?;
        Ok(SlowBody { stream, left: ANNOUNCED - sent, next: Instant::now() + Duration::from_secs(1) })
    }

    /// Sends some more, if it is time.
    ///
    /// # Errors
    /// The status, if there is a response; else why the connection has ended.
    fn step(&mut self) -> Result<(), String> {
        let mut head = [0; 12];
        match self.stream.read(&mut head) {
            Ok(0) => return Err("closed".into()),
            Ok(n) => return Err(String::from_utf8_lossy(&head[9.min(n)..n]).into_owned()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(kind(&e)),
        }
        if Instant::now() >= self.next {
            let size = DRIP.min(self.left);
            self.stream.write_all(&b"x".repeat(size)).map_err(|e| kind(&e))?;
            self.left -= size;
            self.next += Duration::from_secs(1);
        }
        Ok(())
    }
}

fn kind(error: &io::Error) -> String {
    format!("{:?}", error.kind())
}

/// Starts a thread with a small stack: there are hundreds.
fn begin<'s, T: Send + 's>(scope: &'s Scope<'s, '_>, work: impl FnOnce() -> T + Send + 's) -> ScopedJoinHandle<'s, T> {
    Builder::new().stack_size(256 << 10).spawn_scoped(scope, work).unwrap()
}

#[test]
fn a_board_of_32_mib_stays_up_however_much_is_published_and_held() {
    let Ok(seconds) = std::env::var("TINCAN_BOARD") else {
        return eprintln!("left out: TINCAN_BOARD does not say for how many seconds");
    };
    let named = std::env::var("TINCAN_STATIC").or(std::env::var("TINCAN_RELEASE"));
    let program = named.expect("TINCAN_BOARD needs TINCAN_STATIC or TINCAN_RELEASE");
    let Some(group) = MemoryGroup::new(MEMORY) else { return };
    many_descriptors();
    let mut command = group.command(&program);
    command.args(["--quiet", "--listen", "127.0.0.1:0", "--memory", "12M"]);
    let server = Tincan::run(command);
    let until = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
    let board = Board {
        port: server.port,
        over: AtomicBool::new(false),
        killed: AtomicBool::new(false),
        answered: (0..CHANNELS).map(|_| Mutex::default()).collect(),
        counts: Mutex::default(),
        events: AtomicUsize::new(0),
    };
    let (lines, met) = scope(|scope| {
        let board = &board;
        let _end = AtEnd(&board.over);
        let subscribers: Vec<_> = (0..SUBSCRIBERS).map(|n| begin(scope, move || board.follow(n % CHANNELS))).collect();
        for n in 0..PUBLISHERS {
            begin(scope, move || board.publish(n));
        }
        for n in 0..8 {
            begin(scope, move || board.hold_bodies(100 + n, BODIES / 8));
        }
        let lines = board.watch(&group, server.pid(), until);
        let met: Vec<_> = subscribers.into_iter().map(|subscriber| subscriber.join().unwrap()).collect();
        (lines, met)
    });
    lines.iter().for_each(|line| println!("{line}"));
    let counts = board.counts.into_inner().unwrap();
    counts.iter().for_each(|(what, count)| println!("{what}: {count}"));
    let sum = |count: fn(&Met) -> u64| met.iter().flatten().map(count).sum::<u64>();
    println!(
        "subscribers: {} events, {} MiB, {} connections, {} refused, {} gaps with {} events",
        sum(|met| met.events),
        sum(|met| met.bytes) >> 20,
        sum(|met| met.connections),
        sum(|met| met.refusals),
        sum(|met| met.gaps),
        sum(|met| met.lost)
    );
    println!("peak {} KiB of {} KiB", group.peak() >> 10, MEMORY >> 10);
    let wrong: Vec<_> = met.iter().filter_map(|met| met.as_ref().err()).collect();
    assert!(!board.killed.into_inner(), "the server was killed");
    assert!(wrong.is_empty(), "{} subscribers: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    println!("dropped subscribers: {:?}", server.metric("tincan_dropped_subscribers_total"));
    assert!(group.peak() < MEMORY, "{} bytes", group.peak());
    judge(&board.answered, &counts);
}

/// Checks what publishers were told: each id once, and mostly 200.
fn judge(answered: &[Mutex<Vec<Id>>], counts: &BTreeMap<String, u64>) {
    for (number, ids) in answered.iter().enumerate() {
        let mut ids = ids.lock().unwrap().clone();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "/{}: an id was given twice", channel(number));
    }
    let of = |what: &str| counts.get(&format!("publishers: {what}")).copied().unwrap_or(0);
    let (all, later): (Vec<_>, Vec<_>) = counts.iter().partition(|(what, _)| !what.contains(" later: "));
    assert!(later.is_empty(), "{later:?}");
    let answers: u64 = all.iter().filter(|(what, _)| what.starts_with("publishers: ")).map(|(_, count)| **count).sum();
    assert_eq!(answers, of("200") + of("503"), "{counts:#?}");
    assert!(of("200") > 10 * of("503"), "{counts:#?}");
}

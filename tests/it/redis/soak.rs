//! Three nodes, one Redis, and all kinds of failures. `SOAK_SECONDS=300 cargo test --release -- --ignored --nocapture
//! redis_soak` runs it for long. Some seconds of it run with all tests.
//!
//! Redis is killed and started again, or hangs. Nodes are killed and replaced. Connections between them are cut;
//! commands and replies are lost. Publishers use any node, and never publish the same event twice. Subscribers move
//! between the nodes with their last event ID. At the end each subscriber must have received what the stream holds:
//! every event, once, in order. And the stream must hold what the responses to the publishers say.

use crate::redis::outage::{Outcome, outcome};
use crate::redis::server::*;
use crate::support::harness::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use tincan::wire::id::Id;

const NODES: usize = 3;
const CHANNELS: usize = 3;
const PUBLISHERS: u64 = 6;
const READERS: u64 = 15;
const ARGS: [&str; 4] = ["--history", "64M", "--heartbeat", "1"];
/// How much longer the last subscriber may take.
const GRACE: Duration = Duration::from_secs(60);

/// Returns the data of an event: its number, and for some events a few more lines.
fn data(number: u64) -> String {
    format!("{number}{}", "\na further line".repeat((number % 4) as usize))
}

fn number(data: &str) -> Option<u64> {
    let number = data.lines().next()?.parse().ok()?;
    (self::data(number) == data).then_some(number)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends one POST of events on a new connection. Returns None if the response is not complete.
fn post(stream: &mut TcpStream, channel: usize, numbers: &[u64]) -> Option<Outcome> {
    let block = |number: &u64| format!("data: {}\n\n", data(*number).replace('\n', "\ndata: "));
    let (kind, body) = match numbers {
        [number] => ("text/plain", data(*number)),
        _ => ("text/event-stream", numbers.iter().map(block).collect()),
    };
    let length = body.len();
    let head = format!(
        "POST /{channel} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, text) = answer.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    (text.len() == length).then(|| outcome(status, text, head.contains("\r\nRetry-After: ")))
}

/// The channel and the events of one POST, and the response to it.
type Posted = (usize, Vec<u64>, Option<Outcome>);

/// The events that a subscriber has received.
type Received = Vec<(Id, u64)>;

#[derive(Default)]
struct Soak {
    ports: [AtomicU16; NODES],
    over: AtomicBool,
    end: OnceLock<[Id; CHANNELS]>,
    posted: Mutex<Vec<Posted>>,
    received: Mutex<Vec<(usize, Received)>>,
    table: Mutex<Table>,
    wrong: Mutex<Vec<String>>,
}

impl Soak {
    fn count(&self, row: &'static str, n: usize) {
        *self.table.lock().unwrap().entry(row).or_default() += n as u64;
    }

    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }

    fn port(&self, random: &mut Random) -> u16 {
        self.ports[random.index(NODES)].load(SeqCst)
    }

    fn publish(&self, n: u64) {
        let (mut random, mut number) = (Random(n), n << 32);
        while !self.over.load(SeqCst) {
            sleep(Duration::from_millis(random.below(40)));
            let channel = random.index(CHANNELS);
            let count = if random.below(3) == 0 { 2 + random.below(5) } else { 1 };
            let numbers: Vec<u64> = (number..number + count).collect();
            number += count;
            let Ok(mut stream) = connect(self.port(&mut random)) else { continue }; // the event was not published
            let outcome = post(&mut stream, channel, &numbers);
            let row = match &outcome {
                Some(Outcome::Kept(_)) => "POSTs answered with 200",
                Some(Outcome::Nothing | Outcome::Refused) => "POSTs refused: nothing was kept",
                Some(Outcome::Unknown) => "POSTs refused: it is not known",
                None => "POSTs without an answer",
            };
            self.count(row, 1);
            self.posted.lock().unwrap().push((channel, numbers, outcome));
        }
    }

    /// The life of a subscriber: connections to any node, each of which continues where the one before ended.
    fn read(&self, n: u64, until: &dyn Fn() -> bool) {
        let (mut random, channel, mut received) = (Random(n << 40), n as usize % CHANNELS, Vec::new());
        let complete = |received: &Received| {
            self.end.get().is_some_and(|end| received.last().map_or(Id::default(), |last| last.0) >= end[channel])
        };
        while !complete(&received) && until() {
            let _ = self.read_one(channel, &mut received, &mut random, &|received| complete(received));
            sleep(Duration::from_millis(random.below(200)));
        }
        if !complete(&received) {
            self.wrong(format!("subscriber {n} of /{channel} came to {:?} and not to the end", received.last()));
        }
        self.received.lock().unwrap().push((channel, received));
    }

    /// Opens one connection, and reads it until either side ends it.
    fn read_one(
        &self, channel: usize, received: &mut Received, random: &mut Random, done: &dyn Fn(&Received) -> bool,
    ) -> io::Result<()> {
        let (place, leaves) =
            (received.last().map(|last| last.0), Instant::now() + Duration::from_millis(random.below(6000)));
        let wait = if random.below(4) == 0 { "wait=2&" } else { "" };
        let (since, last) = match place {
            None => ("since=all".into(), String::new()),
            Some(id) if random.below(2) == 0 => (format!("since={id}"), String::new()),
            Some(id) => (String::new(), format!("Last-Event-ID: {id}\r\n")),
        };
        let mut stream = connect(self.port(random))?;
        let accept = "Accept: text/event-stream\r\n";
        let head = format!("GET /{channel}?{wait}{since} HTTP/1.1\r\nHost: localhost\r\n{accept}{last}\r\n");
        stream.write_all(head.as_bytes())?;
        self.count("subscribers' connections", 1);
        let mut wire = BufReader::new(Wire::over(stream));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if wire.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        if !head.starts_with(b"HTTP/1.1 200 ") {
            self.wrong(format!("a subscriber received {:?}", String::from_utf8_lossy(&head)));
        }
        let mut block = String::new();
        while Instant::now() < leaves && !done(received) {
            if wire.read_line(&mut block)? == 0 {
                break; // an incomplete block does not count
            }
            if !block.ends_with("\n\n") {
                continue;
            }
            if let Some(text) = block.strip_suffix("\n\n").filter(|text| text.starts_with("data: ")) {
                let (data, id) = text.rsplit_once("\nid: ").unwrap_or((text, ""));
                let data = data.replace("\ndata: ", "\n");
                match (Id::parse(id), number(&data["data: ".len()..])) {
                    (Some(id), Some(number)) => received.push((id, number)),
                    _ => self.wrong(format!("a subscriber of /{channel} received {block:?}")),
                }
            } else if block.starts_with("event: gap\n") {
                self.count("gaps sent", 1);
                self.wrong(format!("a subscriber of /{channel} that came with {place:?} received {block:?}"));
            } else if !(block == ":ping\n\n" || block.starts_with(": ")) {
                self.wrong(format!("a subscriber of /{channel} received {block:?}"));
            }
            block.clear();
        }
        Ok(())
    }

    /// Compares the received events and the responses with the entries of the stream.
    fn judge(&self, channel: usize, entries: &[Entry]) {
        let numbered = |entry: &Entry| Some((Id::parse(&entry.id)?, number(entry.data())?));
        let stream: Received = entries.iter().filter_map(numbered).collect();
        self.count("entries in the stream that are none of ours", entries.len() - stream.len());
        let mut at: BTreeMap<u64, usize> = BTreeMap::new();
        for (n, (_, number)) in stream.iter().enumerate() {
            self.count("events in the stream", 1);
            self.count("events doubled in the stream", at.insert(*number, n).is_some().into());
        }
        for (_, numbers, outcome) in self.posted.lock().unwrap().iter().filter(|posted| posted.0 == channel) {
            let places: Vec<usize> = numbers.iter().filter_map(|number| at.get(number).copied()).collect();
            let together = places.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            if !together || !(places.is_empty() || places.len() == numbers.len()) {
                self.wrong(format!("of {numbers:?} in /{channel} the stream has {places:?}"));
            }
            match outcome {
                Some(Outcome::Kept(ids)) => {
                    self.count("events acknowledged", ids.len());
                    let kept = places.iter().map(|at| stream[*at].0.to_string()).collect::<Vec<_>>();
                    self.count("events acknowledged and lost", if kept == *ids { 0 } else { numbers.len() });
                }
                Some(Outcome::Nothing | Outcome::Refused) => self.count("events refused, and kept", places.len()),
                Some(Outcome::Unknown) => self.count("events not known of, and kept", places.len()),
                None => self.count("events without an answer, and kept", places.len()),
            }
        }
        let all: BTreeSet<_> = stream.iter().copied().collect();
        for (_, received) in self.received.lock().unwrap().iter().filter(|received| received.0 == channel) {
            let distinct: BTreeSet<_> = received.iter().copied().collect();
            self.count("events received", received.len());
            self.count("events received twice", received.len() - distinct.len());
            self.count(
                "events received out of order",
                received.windows(2).filter(|pair| pair[0].0 > pair[1].0).count(),
            );
            self.count("events not received", all.difference(&distinct).count());
            self.count("events received that the stream has not", distinct.difference(&all).count());
        }
    }
}

/// The rows of counts.
type Table = BTreeMap<&'static str, u64>;

/// Runs for this time, and until each failure has happened once; prints the table. Each seed makes another run.
fn soak(length: Duration, seed: u64) -> Option<Table> {
    let mut redis = Redis::start(&[])?;
    let links = [(); NODES].map(|()| Between::new(redis.port));
    let mut nodes = links.each_ref().map(|link| node(link.port, &ARGS));
    let soak = &Soak::default();
    (0..NODES).for_each(|n| soak.ports[n].store(nodes[n].port, SeqCst));
    let given_up = &AtomicBool::new(false);
    scope(|scope| {
        let _end = AtEnd(given_up);
        let _over = AtEnd(&soak.over);
        let publishers: Vec<_> = (1..=PUBLISHERS).map(|n| scope.spawn(move || soak.publish(n))).collect();
        (0..READERS).for_each(|n| drop(scope.spawn(move || soak.read(n, &|| !given_up.load(SeqCst)))));
        let (mut random, until, mut turn) = (Random(seed), Instant::now() + length, 0);
        while turn < 7 || Instant::now() < until {
            sleep(Duration::from_millis(300 + random.below(700)));
            let n = random.index(NODES);
            turn += 1;
            match turn % 7 {
                1 | 5 => {
                    soak.count("failures: Redis killed and started again", 1);
                    redis.kill();
                    sleep(Duration::from_millis(random.below(1000)));
                    redis.again();
                }
                2 | 6 => {
                    soak.count("failures: a node killed and replaced", 1);
                    soak.ports[n].store(0, SeqCst); // another server may get the port before this one is back
                    nodes[n].kill();
                    let redis = format!("127.0.0.1:{}", links[n].port);
                    let args = [&["--quiet", "--redis", &redis], &ARGS[..]].concat();
                    nodes[n] = Tincan::start(&args); // publishers use it at once, whether it is connected or not
                    soak.ports[n].store(nodes[n].port, SeqCst);
                }
                3 => {
                    soak.count("failures: a node's connections cut", 1);
                    links[n].cut();
                    sleep(Duration::from_millis(random.below(500)));
                    links[n].mend();
                }
                4 => {
                    let (word, loss) = [
                        ("XADD", Lost::Answer),
                        ("EXEC", Lost::Answer),
                        ("XADD", Lost::Command),
                        ("EXEC", Lost::Half),
                        ("XREAD", Lost::Answer),
                    ][random.index(5)];
                    soak.count("failures: a command or its answer lost", 1);
                    links[n].lose(word, loss);
                }
                _ => {
                    soak.count("failures: Redis hangs", 1);
                    redis.hangs(true);
                    sleep(Duration::from_millis(random.below(2500)));
                    redis.hangs(false);
                }
            }
        }
        links.iter().for_each(Between::forgive);
        soak.over.store(true, SeqCst);
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        nodes.iter().for_each(is_well);
        let end = |channel: usize| redis.entries(&channel.to_string()).last().and_then(|last| Id::parse(&last.id));
        soak.end.set(std::array::from_fn(|channel| end(channel).unwrap())).unwrap();
        let until = Instant::now() + GRACE;
        while soak.received.lock().unwrap().len() < READERS as usize && Instant::now() < until {
            sleep(Duration::from_millis(10));
        }
    });
    (0..CHANNELS).for_each(|channel| soak.judge(channel, &redis.entries(&channel.to_string())));
    let table = soak.table.lock().unwrap();
    table.iter().for_each(|(row, n)| println!("{row:45}{n:>10}"));
    let wrong = soak.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for row in [
        "events acknowledged and lost",
        "events doubled in the stream",
        "events received out of order",
        "events received that the stream has not",
        "events received twice",
        "events not received",
        "events refused, and kept",
        "entries in the stream that are none of ours",
    ] {
        assert_eq!(table.get(row).copied().unwrap_or_default(), 0, "{row}");
    }
    Some(table.clone())
}

/// Asserts that the counts are large enough to be meaningful.
fn says_something(tables: &[Table]) {
    let sum = |row| tables.iter().map(|table| table[row]).sum::<u64>();
    assert!(sum("events acknowledged") > 100 && sum("events received") > 500, "too little has happened");
}

/// Two runs of ten seconds at the same time.
#[test]
fn twenty_seconds_of_failures_lose_and_double_nothing() {
    let tables = scope(|scope| {
        let soaks = [0, 1].map(|seed| scope.spawn(move || soak(Duration::from_secs(10), seed)));
        soaks.map(|soak| soak.join().unwrap())
    });
    if let [Some(one), Some(other)] = tables {
        says_something(&[one, other]);
    }
}

#[test]
#[ignore = "five minutes"]
fn five_minutes_of_failures_lose_and_double_nothing() {
    let table = soak(Duration::from_secs(std::env::var("SOAK_SECONDS").map_or(300, |s| s.parse().unwrap())), 0);
    table.iter().for_each(|table| says_something(std::slice::from_ref(table)));
}

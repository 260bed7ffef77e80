//! Some minutes of real life, started by hand: `cargo test --release -- --ignored --nocapture soak`; `SOAK_SECONDS`
//! sets the duration.
//!
//! Subscribers come, leave, stall and resume. Publishers never publish the same event twice. The server is killed
//! three times. An event's bytes follow from its number and its channel, so a subscriber can check all of them. It
//! checks on the way everything that concerns one epoch. The rest is checked at the end, when it is known which
//! events each epoch had.

use crate::support::harness::*;
use std::collections::BTreeMap;
use std::fs::read_dir;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use tincan::wire::id::Id;

const CHANNELS: usize = 5;
/// `--max-age` less a tenth of it: no stream of a subscriber that keeps up ends earlier.
const YOUNGEST: Duration = Duration::from_secs(18);
/// How much longer the last subscriber may take.
const GRACE: Duration = Duration::from_secs(120);

// Rows of the table that are counted in one place and checked in another.
const ACKNOWLEDGED: &str = "events acknowledged";
const DISORDERED: &str = "events out of order";
const DOUBLED: &str = "events doubled";
const NO_GAP: &str = "events lost without a gap";
const CUT_OFF: &str = "streams cut off";
const EARLY: &str = "streams that ended early";
const GAPS: &str = "gaps sent";

/// Returns the fields of an event, without its id. Some events have a name, some have many lines.
fn fields(channel: usize, number: u32) -> String {
    let name = if number.is_multiple_of(5) { format!("event: of-{channel}\n") } else { String::new() };
    let lines = if number.is_multiple_of(4) { number % 60 } else { 0 };
    let lines: String = (0..lines).map(|n| format!("data: {n:-<100}\n")).collect();
    format!("{name}data: {number} in {channel}\n{lines}")
}

/// Reads on until the buffer ends with `end`. Returns false at the end of the connection.
fn next(wire: &mut BufReader<Wire>, buf: &mut Vec<u8>, end: &[u8]) -> io::Result<bool> {
    while !buf.ends_with(end) {
        if wire.read_until(b'\n', buf)? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a head, which must be a 200. Returns the length that it gives, or None if the body is in chunks.
fn head(wire: &mut BufReader<Wire>) -> io::Result<Option<usize>> {
    let mut head = Vec::new();
    let whole = next(wire, &mut head, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&head);
    if !whole || !text.starts_with("HTTP/1.1 200 OK\r\n") {
        return Err(io::Error::other(format!("the answer is {text:?}")));
    }
    Ok(text.lines().find_map(|l| l.strip_prefix("Content-Length: ")).map(|n| n.parse().unwrap()))
}

/// Sends one POST on a connection that stays open; returns the ids.
fn say(wire: &mut BufReader<Wire>, channel: usize, numbers: &[u32]) -> io::Result<Vec<Id>> {
    let mut body: String = numbers.iter().map(|n| fields(channel, *n) + "\n").collect();
    let (mut name, mut kind) = (String::new(), "text/event-stream");
    if numbers.len() == 1 {
        kind = "text/plain";
        name = body.lines().find_map(|l| l.strip_prefix("event: ")).map_or(name, |name| format!("?event={name}"));
        body = body.lines().filter_map(|l| l.strip_prefix("data: ")).collect::<Vec<_>>().join("\r\n");
    }
    let fields = format!("Host: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    wire.get_mut().stream.write_all(format!("POST /{channel}{name} HTTP/1.1\r\n{fields}\r\n{body}").as_bytes())?;
    let mut text = vec![0; head(wire)?.unwrap()];
    wire.read_exact(&mut text)?;
    let ids: Vec<Id> = String::from_utf8_lossy(&text).lines().filter_map(Id::parse).collect();
    let rising = ids.len() == numbers.len() && ids.windows(2).all(|pair| pair[1] == pair[0].plus(1));
    if rising { Ok(ids) } else { Err(io::Error::other(format!("{} events, {ids:?}", numbers.len()))) }
}

/// Two ids that a subscriber of the channel received one after the other, although they are not neighbours in one
/// epoch. If there was a gap event in between, its `lost`.
type Step = (usize, Id, Id, Option<Option<u64>>);

/// The state that all threads share.
#[derive(Default)]
struct Soak {
    port: u16,
    run: AtomicUsize, // a number for each server, odd while there is none
    /// For each epoch, the numbers of its events by id; 0 is unknown.
    published: [Mutex<BTreeMap<u64, Vec<u32>>>; CHANNELS],
    end: OnceLock<[Id; CHANNELS]>, // the last ids, once all publishers have ended
    steps: Mutex<Vec<Step>>,
    wrong: Mutex<Vec<String>>,
    table: Mutex<BTreeMap<&'static str, u64>>,
}

impl Soak {
    /// Adds to a count; returns the sum.
    fn count(&self, row: &'static str, n: u64) -> u64 {
        *self.table.lock().unwrap().entry(row).and_modify(|count| *count += n).or_insert(n)
    }

    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }

    /// Waits for the server; returns its number.
    fn up(&self, until: Instant) -> Option<usize> {
        while Instant::now() < until {
            match self.run.load(SeqCst) {
                run if run.is_multiple_of(2) => return Some(run),
                _ => sleep(Duration::from_millis(10)),
            }
        }
        None
    }

    fn connect(&self) -> io::Result<BufReader<Wire>> {
        // There is a ping every second, and a poll waits for at most five seconds.
        Ok(BufReader::new(Wire::over(TcpStream::connect(("127.0.0.1", self.port))?)))
    }

    /// Handles the end of a connection. An error is a fault if the same server still runs.
    fn ended(&self, run: usize, label: &str, end: io::Result<()>) {
        if let Err(e) = end
            && self.run.load(SeqCst) == run
        {
            self.wrong(format!("{label}: {e}"));
        }
    }

    /// Notes which event an id belongs to. This may never change.
    fn note(&self, channel: usize, id: Id, number: u32) {
        assert!((1..100_000_000).contains(&id.seq), "{id}");
        let at = id.seq as usize;
        let mut epochs = self.published[channel].lock().unwrap();
        let published = epochs.entry(id.epoch).or_default();
        published.resize(published.len().max(at), 0);
        let known = std::mem::replace(&mut published[at - 1], number);
        if known != 0 && known != number {
            self.wrong(format!("{id} of /{channel} means {known} and {number}"));
        }
    }

    /// Publishes on one connection. Events without a response are not published again.
    fn publish(&self, random: &mut Random, number: &mut u32, until: Instant) -> io::Result<()> {
        let mut wire = self.connect()?;
        while Instant::now() < until {
            sleep(Duration::from_millis(random.below(40)));
            // Half of the events go to one channel, whose subscribers are the first to be dropped.
            let channel = (random.below(10) as usize).saturating_sub(5);
            let count = if random.below(5) == 0 { 2 + random.below(6) as u32 } else { 1 };
            let numbers: Vec<u32> = (*number..*number + count).collect();
            *number += count;
            let ids = say(&mut wire, channel, &numbers).inspect_err(|_| {
                self.count("events unanswered", count.into());
            })?;
            ids.iter().zip(numbers).for_each(|(id, number)| self.note(channel, *id, number));
            self.count(ACKNOWLEDGED, count.into());
        }
        Ok(())
    }

    /// The life of subscribers: chains of connections, each of which continues where the one before ended.
    fn read(&self, mut random: Random, until: Instant) {
        let mut chain = Chain::new(self, &mut random);
        while let Some(run) = self.up(until) {
            let end = chain.connect(&mut random, run);
            self.ended(run, &format!("a subscriber of /{} that came with {:?}", chain.channel, chain.asked), end);
            if chain.complete() {
                return;
            }
            if random.below(20) == 0 {
                chain = Chain::new(self, &mut random);
            }
            let longest = if random.below(20) == 0 { 15_000 } else { 300 };
            sleep(Duration::from_millis(random.below(longest)));
        }
        self.wrong(format!("a subscriber of /{} came to {:?} and not to the end", chain.channel, chain.last_id));
    }

    /// Checks everything that can only be checked at the end.
    fn judge(&self) {
        for (channel, from, to, gap) in &*self.steps.lock().unwrap() {
            let epochs = from.epoch.min(to.epoch)..to.epoch;
            let before: usize =
                self.published[*channel].lock().unwrap().range(epochs).map(|(_, published)| published.len()).sum();
            let lost = (before as u64 + to.seq).saturating_sub(from.seq + 1);
            self.count(if gap.is_some() { "events lost in gaps" } else { NO_GAP }, lost);
            self.count(GAPS, gap.is_some().into());
            // `lost` may be null only across epochs. And events are only missing here because the log was trimmed.
            if gap.is_some_and(|gap| lost == 0 || gap.map_or(from.epoch == to.epoch, |n| n != lost)) {
                self.wrong(format!("from {from} to {to} {lost} are missing; the gap says {gap:?}"));
            }
        }
        let published =
            self.published.iter().flat_map(|s| s.lock().unwrap().values().flatten().copied().collect::<Vec<_>>());
        let mut numbers: Vec<u32> = published.filter(|n| *n != 0).collect();
        numbers.sort_unstable();
        self.count(DOUBLED, numbers.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64);
        self.count("events unanswered, and received", numbers.len() as u64 - self.count(ACKNOWLEDGED, 0));
    }
}

/// A subscriber, from its first connection to its last.
struct Chain<'a> {
    soak: &'a Soak,
    channel: usize,
    last_id: Option<Id>, // the last id that it knows
    asked: Option<Id>,   // the last event ID that it sent on this connection
    owed: Option<Id>,    // the server has skipped events after this id, and must send a gap
}

impl Chain<'_> {
    fn new<'a>(soak: &'a Soak, random: &mut Random) -> Chain<'a> {
        let channel = random.below(CHANNELS as u64) as usize;
        Chain { soak, channel, last_id: None, asked: None, owed: None }
    }

    /// Returns whether it has received every event up to the end.
    fn complete(&self) -> bool {
        self.soak.end.get().is_some_and(|end| self.last_id >= Some(end[self.channel]))
    }

    fn step(&self, from: Id, to: Id, gap: Option<Option<u64>>) {
        self.soak.steps.lock().unwrap().push((self.channel, from, to, gap));
    }

    /// Opens one connection, and reads it until either side ends it.
    fn connect(&mut self, random: &mut Random, run: usize) -> io::Result<()> {
        let (soak, channel, began) = (self.soak, self.channel, Instant::now());
        let poll = random.below(3) == 0;
        let wait = if poll { format!("wait={}&", random.below(6)) } else { String::new() };
        let (since, last) = match (self.last_id, random.below(2)) {
            (None, 0) => ("since=all".into(), String::new()),
            (None, _) => Default::default(),
            (Some(id), 0) => (format!("since={id}"), String::new()),
            (Some(id), _) => (String::new(), format!("Last-Event-ID: {id}\r\n")),
        };
        self.asked = self.last_id;
        let (leaves, mut stalls) = (
            began + Duration::from_millis(random.below(30_000)),
            Some(began + Duration::from_millis(random.below(40_000))),
        );
        let mut wire = soak.connect()?;
        let request = format!("GET /{channel}?{wait}{since} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n");
        wire.get_mut().stream.write_all(request.as_bytes())?;
        soak.count(if poll { "polls" } else { "streams" }, 1);
        let length = head(&mut wire)?;
        let (mut buf, mut body) = (Vec::new(), 0);
        while next(&mut wire, &mut buf, b"\n\n")? {
            self.take_block(std::str::from_utf8(&buf).unwrap(), body == 0);
            body += buf.len();
            buf.clear();
            if self.complete() || Instant::now() > leaves {
                return Ok(());
            }
            if stalls.take_if(|at| Instant::now() > *at).is_some() {
                sleep(Duration::from_millis(random.below(15_000)));
            }
        }
        // A poll is cut short only if its subscriber is dropped.
        let whole = length.map_or(wire.get_ref().is_whole(), |length| length == body);
        if poll && stalls.is_some() && !(whole && buf.is_empty()) {
            return Err(io::Error::other(format!("a poll ended after {body} of {length:?} bytes and {buf:?}")));
        }
        let early = !poll && began.elapsed() < YOUNGEST && soak.run.load(SeqCst) == run;
        soak.count(EARLY, early.into());
        Ok(())
    }

    /// Takes one block of the stream.
    fn take_block(&mut self, block: &str, first: bool) {
        let good = if first {
            let settled = self.owed.is_none();
            self.last_id = Id::parse(&id_of(block));
            self.owed = self.asked.filter(|asked| Some(*asked) != self.last_id);
            let name = block.lines().next().and_then(|line| line.strip_prefix(": connected to /"));
            let name = name.and_then(|name| name.split(' ').next()); // the address of the stream may follow
            settled && name == Some(&self.channel.to_string())
        } else if let Some(data) = block.strip_prefix("event: gap\ndata: ") {
            self.gap(data).is_some()
        } else {
            self.owed.take().is_none() && (block == ":ping\n\n" || self.event(block).is_some())
        };
        if !good {
            let start = &block[..block.len().min(200)];
            self.soak
                .wrong(format!("a subscriber of /{} that came with {:?} received {start:?}", self.channel, self.asked));
        }
    }

    /// Takes a gap. It must name the id that was asked for, and the id of the next event.
    fn gap(&mut self, data: &str) -> Option<()> {
        let (asked, last_id, parts) = (self.owed.take()?, self.last_id?, data.split('"').collect::<Vec<_>>());
        let from = Id::parse(parts.get(7)?).filter(|from| last_id.precedes(*from))?;
        let lost: Option<u64> = parts.last()?.strip_prefix(':')?.strip_suffix("}\n\n")?.parse().ok();
        self.step(asked, from, Some(lost));
        self.last_id = Some(Id { seq: from.seq - 1, ..from });
        let lost = lost.map_or("null".into(), |n| n.to_string());
        (data == format!("{{\"asked\":\"{asked}\",\"from\":\"{from}\",\"lost\":{lost}}}\n\n")).then_some(())
    }

    /// Takes an event. It checks its bytes, and its place after the event before.
    fn event(&mut self, block: &str) -> Option<()> {
        // A unit of one POST may begin with a seal.
        let block = if block.starts_with(": one POST, ") { block.split_once('\n')?.1 } else { block };
        let (text, line) = block.strip_suffix("\n\n")?.rsplit_once('\n')?;
        let (id, last_id, soak) = (Id::from_line(line.as_bytes())?, self.last_id?, self.soak);
        let number = text.lines().find_map(|l| l.strip_prefix("data: "))?.split(' ').next()?.parse().ok()?;
        soak.note(self.channel, id, number);
        soak.count("events received", 1);
        if id <= last_id {
            let again = id == last_id || Some(id) <= self.asked;
            soak.count(if again { DOUBLED } else { DISORDERED }, 1);
        } else if id != last_id.plus(1) {
            self.step(last_id, id, None);
        }
        self.last_id = Some(id);
        (fields(self.channel, number).strip_suffix('\n') == Some(text)).then_some(())
    }
}

/// Returns a process's memory in KiB, its descriptors and its threads.
fn size(pid: u32) -> [usize; 3] {
    let entries = |what| read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    [pss(pid), entries("fd"), entries("task")]
}

#[test]
#[ignore = "five minutes"]
fn five_minutes_of_readers_that_come_stall_and_resume() {
    let length = Duration::from_secs(std::env::var("SOAK_SECONDS").map_or(300, |s| s.parse().unwrap()));
    let dir = Scratch::new();
    let args = ["--quiet", "--data", dir.arg(), "--history", "1M", "--max-age", "20", "--heartbeat", "1"];
    // Not a port that the system gives to outgoing connections: while there is no server, a subscriber might get that
    // port.
    let mut server = Tincan::spawn(&format!("127.0.0.1:{}", free_port()), &args);
    let (mut start, began) = (size(server.pid()), Instant::now());
    let soak = &Soak { port: server.port, ..Soak::default() };
    let dropped = |server: &Tincan| server.metric("tincan_dropped_subscribers_total").unwrap();
    scope(|scope| {
        for n in 0..200 {
            scope.spawn(move || soak.read(Random(n << 32), began + length + GRACE));
        }
        let publish = |n: u32| {
            let (mut random, mut number, until) = (Random(n.into()), n << 24 | 1, began + length);
            while let Some(run) = soak.up(until) {
                soak.ended(run, "a publisher", soak.publish(&mut random, &mut number, until));
            }
        };
        let publishers: Vec<_> = (0..20).map(|n| scope.spawn(move || publish(n))).collect();
        for quarter in 1..=3 {
            sleep((began + length * quarter / 4).saturating_duration_since(Instant::now()));
            soak.run.fetch_add(1, SeqCst);
            soak.count(CUT_OFF, dropped(&server));
            server.kill();
            server = Tincan::spawn(&format!("127.0.0.1:{}", soak.port), &args);
            start = size(server.pid()); // no client can connect before the next line
            soak.run.fetch_add(1, SeqCst);
        }
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        let end = std::array::from_fn(|channel| {
            let epochs = soak.published[channel].lock().unwrap();
            epochs.last_key_value().map(|(epoch, published)| Id { epoch: *epoch, seq: published.len() as u64 }).unwrap()
        });
        soak.end.set(end).unwrap();
    });
    soak.count(CUT_OFF, dropped(&server));
    // Two files for each channel, and four threads that wait for the next connection.
    eventually("the subscribers' descriptors and threads are released", || {
        let [_, descriptors, threads] = size(server.pid());
        descriptors <= start[1] + 2 * CHANNELS && threads <= start[2] + 4
    });
    let end = size(server.pid());
    soak.judge();
    let must_be_0 = [NO_GAP, DOUBLED, DISORDERED].map(|row| soak.count(row, 0));

    soak.table.lock().unwrap().iter().for_each(|(row, n)| println!("{row:30}{n:>10}"));
    for (n, what) in ["memory (KiB)", "descriptors", "threads"].iter().enumerate() {
        println!("{what:30}{:>10}  at the start {}", end[n], start[n]);
    }
    let wrong = soak.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(must_be_0, [0; 3]);
    assert!(soak.count(EARLY, 0) <= soak.count(CUT_OFF, 0), "streams were ended without a reason");
    assert!(soak.count("events received", 0) > 0 && soak.count(GAPS, 0) > 0, "too little has happened");
    assert!(end[0] <= start[0] + 4096, "memory grew");
}

//! Real faults: kill -9, power cuts, full disks, no descriptors, no threads: CONTRACT 2, 3, 5 and 9.

use crate::support::harness::*;
use crate::support::process::processor_time;
use crate::support::process::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tincan::wire::id::Id;
use tincan::wire::reject::{CONNECTIONS, DISK_FULL, LOG_FAILED};

const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// Returns the events of a stream or a file whose blocks are complete. A gap event has no id. The data of each event
/// is one line.
fn events(text: &str) -> Vec<(Option<Id>, String)> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let event = |block: &str| {
        let data = block.lines().find_map(|l| l.strip_prefix("data: "))?;
        Some((block.lines().find_map(|l| Id::parse(l.strip_prefix("id: ")?)), data.to_string()))
    };
    whole.split("\n\n").filter_map(event).collect()
}

/// Returns everything after the first block, which is the head of a file or the prelude of a stream.
fn rest(text: &str) -> &str {
    text.split_once("\n\n").map_or("", |(_, rest)| rest)
}

/// Returns a channel's older file and its newest; a missing file is empty.
fn files(dir: &Path, name: &str) -> [String; 2] {
    [".old.sse", ".sse"].map(|end| fs::read_to_string(dir.join(format!("{name}{end}"))).unwrap_or_default())
}

/// Asserts that a replay sends exactly the content of the files.
fn replays(server: &Tincan, dir: &Path, name: &str) {
    let all = server.get(&format!("/{name}?since=all&wait=0")).text();
    assert!(rest(&all) == files(dir, name).map(|file| rest(&file).to_string()).concat(), "/{name}: {all:.500}");
}

/// Publishes on a connection that stays open. Returns None once the server has ended.
fn publish(wire: &mut BufReader<TcpStream>, channel: &str, body: &str) -> Option<String> {
    let head = format!("POST /{channel} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    wire.get_mut().write_all((head + body).as_bytes()).ok()?;
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        wire.read_line(&mut line).ok().filter(|&n| n > 0)?;
        assert!(!line.starts_with("HTTP/1.1 ") || line.contains(" 200 "), "{line}");
        length = line.strip_prefix("Content-Length: ").map_or(length, |l| l.trim_end().parse().unwrap());
    }
    let mut response = vec![0; length];
    wire.read_exact(&mut response).ok()?;
    Some(String::from_utf8(response).unwrap().trim_end().into())
}

/// The observations of one directory over many lives of its server.
struct Story {
    random: Random,
    lives: u64,
    bodies: [usize; 2], // the size of most bodies, and of one in 16
    published: BTreeMap<(usize, Id), String>,
    acked: BTreeSet<(usize, Id)>,
    received: [Vec<Id>; 3],
    faults: BTreeMap<&'static str, usize>,
}

impl Story {
    fn new(seed: u64, bodies: [usize; 2]) -> Story {
        let faults =
            ["lost", "doubled", "out of order", "lost without a gap", "of two meanings"].map(|fault| (fault, 0)).into();
        let (published, acked, received) = Default::default();
        Story { random: Random(seed), lives: 0, bodies, published, acked, received, faults }
    }

    fn fault(&mut self, kind: &'static str, count: usize) {
        *self.faults.get_mut(kind).unwrap() += count;
    }

    fn published(&mut self, channel: usize, id: Id, data: String) {
        let old = self.published.insert((channel, id), data.clone());
        self.fault("of two meanings", usize::from(old.is_some_and(|old| old != data)));
    }

    /// Runs one life of the server. Subscribers of all channels but the last continue where they were. In the last
    /// channel no subscriber makes publishers wait. Publishers flood. After the first response the server runs for
    /// `millis` to four times `millis`, and is then killed with SIGKILL.
    fn life(&mut self, mut server: Tincan, publishers: usize, millis: u64) {
        self.lives += 1;
        let (port, life, bodies) = (server.port, self.lives, self.bodies);
        let time = Duration::from_micros(1000 * millis + self.random.below(3000 * millis));
        let (sender, acked) = mpsc::channel();
        let received: Vec<String> = thread::scope(|scope| {
            let subscriber = |(name, received): (&&str, &Vec<Id>)| {
                let last = received.last().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
                let mut wire = Wire::to(port);
                wire.send(format!("GET /{name}?since=all HTTP/1.1\r\nHost: localhost\r\n{last}\r\n"));
                let mut bytes = Vec::new();
                scope.spawn(move || {
                    let _ = wire.read_to_end(&mut bytes); // the connection may be reset
                    assert!(!wire.is_whole(), "a server that is killed does not send the last chunk");
                    String::from_utf8_lossy(&bytes).into_owned()
                })
            };
            let subscribers: Vec<_> = CHANNELS.iter().zip(&self.received).take(2).map(subscriber).collect();
            for p in 0..publishers {
                let (mut wire, sender) = (BufReader::new(Wire::to(port).stream), sender.clone());
                scope.spawn(move || {
                    for n in 0.. {
                        let data = format!("{life} {p} {n} {}", "x".repeat(bodies[usize::from(n % 16 == 15)]));
                        let channel = p % 3;
                        let Some(id) = publish(&mut wire, CHANNELS[channel], &data) else { return };
                        sender.send((channel, Id::parse(&id).unwrap(), data)).unwrap();
                    }
                });
            }
            sender.send(acked.recv_timeout(SOON).unwrap()).unwrap();
            drop(sender);
            thread::sleep(time); // there is no condition to wait for: the moment is random
            server.kill();
            subscribers.into_iter().map(|r| r.join().unwrap()).collect()
        });
        assert!(!server.stderr().contains("cannot"), "{}", server.stderr());
        for (channel, id, data) in acked {
            self.acked.insert((channel, id));
            self.published(channel, id, data);
        }
        for (channel, text) in received.iter().enumerate() {
            let mut after_gap = false;
            for (id, data) in events(text) {
                let Some(id) = id else {
                    after_gap = true;
                    continue;
                };
                if let Some(&last) = self.received[channel].last() {
                    self.fault("out of order", usize::from(id <= last));
                    self.fault("lost without a gap", usize::from(!after_gap && !last.precedes(id)));
                }
                after_gap = false;
                self.received[channel].push(id);
                self.published(channel, id, data);
            }
        }
    }

    /// Compares the observations with the files. If `cut`, a power cut may have taken the end of the older file.
    fn compare(&mut self, dir: &Path, cut: bool) {
        for (channel, name) in CHANNELS.iter().enumerate() {
            let [older, newest] = files(dir, name);
            let (old, new) = (events(&older), events(&newest));
            let (ids, data): (Vec<Id>, Vec<String>) =
                old.iter().chain(&new).cloned().map(|(id, d)| (id.unwrap(), d)).unzip();
            // The id up to which events are no longer kept. The newest file says it. If it does not, it is the id
            // before the first event.
            let says = newest.split_once("\n\n").map(|(head, _)| Id::parse(head.rsplit(' ').next().unwrap()));
            let sees = || ids.first().map_or(Id::default(), |id| Id { seq: id.seq - 1, ..*id });
            let dropped = says.map_or_else(sees, Option::unwrap_or_default);
            let distinct: BTreeSet<_> = ids.iter().collect();
            let acked = self.acked.iter().filter(|(c, _)| *c == channel).map(|(_, id)| id);
            let known: BTreeSet<_> = acked.chain(&self.received[channel]).collect();
            // Events are only dropped for newer ones.
            let all_missing = ids.is_empty() && known.last().is_some_and(|id| **id <= dropped);
            let lost = known.iter().filter(|id| ***id > dropped && !distinct.contains(**id)).count();
            let doubled = 2 * ids.len() - distinct.len() - data.iter().collect::<BTreeSet<_>>().len();
            let follows = |n: &usize| ids[n - 1].precedes(ids[*n]) || cut && *n == old.len() && ids[n - 1] < ids[*n];
            let broken = (1..ids.len()).filter(|n| !follows(n)).count();
            self.fault("lost", lost + usize::from(all_missing));
            self.fault("doubled", doubled);
            self.fault("out of order", broken);
            ids.into_iter().zip(data).for_each(|(id, data)| self.published(channel, id, data));
        }
    }

    /// Ends the story: prints the result, and lets one more server replay everything.
    fn end(self, name: &str, server: &Tincan, dir: &Path) {
        let Story { lives, acked, received, faults, .. } = &self;
        let received: usize = received.iter().map(Vec::len).sum();
        println!("{lives} x {name}: {} acknowledged, {received} received, {faults:?}", acked.len());
        assert!(faults.values().all(|&count| count == 0), "{faults:?}");
        CHANNELS.iter().for_each(|name| replays(server, dir, name));
    }
}

/// Changes a limit of this running server only.
fn limit(user: &str, server: &Tincan, limit: &str) {
    assert!(works(&format!("exec {user} prlimit --pid {} {limit}", server.pid())));
}

fn killed(seed: u64, lives: u64, history: &str, rolls: bool, bodies: [usize; 2]) {
    let (mut story, scratch) = (Story::new(seed, bodies), Scratch::new());
    let start = || Tincan::start(&["--quiet", "--data", scratch.arg(), "--history", history]);
    for life in 1..=lives {
        story.life(start(), 4, 20);
        if life == lives || rolls {
            story.compare(&scratch.0, false);
        }
    }
    story.end(&format!("kill -9, --history {history}"), &start(), &scratch.0);
}

#[test]
fn a_hundred_kills_in_the_middle_of_a_flood_lose_and_double_nothing() {
    // Four directories at a time: the longer a log, the longer each start takes.
    thread::scope(|scope| (1..=4).for_each(|seed| drop(scope.spawn(move || killed(seed, 25, "1G", false, [40, 400])))));
}

#[test]
fn kills_while_the_files_roll_lose_and_double_nothing_that_is_kept() {
    killed(20, 20, "256K", true, [200, 60_000]);
}

/// A directory on a disk that forgets everything that was not synced, see `disk.c`.
struct Disk(Scratch);

impl Disk {
    fn new() -> Option<Disk> {
        let disk = Disk(Scratch::new());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/core/disk.c");
        let library = disk.at("disk.so");
        fs::create_dir(disk.at("data")).unwrap();
        fs::create_dir(disk.at("side")).unwrap();
        works(&format!("cc -shared -fPIC -pthread -o {} {source}", library.display())).then_some(disk)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    fn start(&self, data: &str, args: &[&str], env: &[(&str, &str)]) -> Tincan {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        command.args(["--listen", "127.0.0.1:0", "--quiet", "--data"]).arg(self.at(data)).args(args);
        command.env("LD_PRELOAD", self.at("disk.so")).env("DISK_SIDE", self.at("side"));
        command.env("DISK_FAIL", self.at("fail")).env("DISK_BUSY", self.at("busy")).envs(env.iter().copied());
        Tincan::run(command)
    }

    /// Cuts the power: every write that was not synced is lost, or only the last part of it. The names of files that
    /// were not synced are lost as well, or they are the only thing that is on the disk.
    fn cut(&self, random: &mut Random) {
        let (data, side) = (self.at("data"), self.at("side"));
        let mut names = fs::read_to_string(side.join("names")).unwrap_or_default();
        let list = || fs::read_dir(&data).unwrap().map(|entry| entry.unwrap());
        let now = || -> String {
            list().map(|e| format!("{} {}\n", e.file_name().display(), e.metadata().unwrap().ino())).collect()
        };
        if random.below(2) == 0 {
            names = now();
        }
        list().for_each(|entry| fs::remove_file(entry.path()).unwrap());
        for (name, inode) in names.lines().map(|line| line.split_once(' ').unwrap()) {
            // A file that was created at the very last moment has no link yet, or no note.
            let Ok(file) = fs::File::options().write(true).open(side.join(inode)) else { continue };
            let note = fs::read_to_string(side.join(format!("{inode}.len"))).unwrap_or_default();
            let synced = note.parse().unwrap_or(0);
            let more = (random.below(2) * file.metadata().unwrap().len()).saturating_sub(synced);
            file.set_len(synced + random.below(more + 1)).unwrap();
            fs::hard_link(side.join(inode), data.join(name)).unwrap();
        }
        fs::remove_dir_all(&side).unwrap();
        fs::create_dir(&side).unwrap();
        fs::write(side.join("names"), now()).unwrap();
    }
}

/// Runs lives that end in power cuts. If `lossy`, events may be lost in them.
fn unplugged(name: &str, flood: (usize, [usize; 2]), args: &[&str], env: &[(&str, &str)], lossy: bool) {
    let Some(disk) = Disk::new() else { return };
    let (mut story, dir) = (Story::new(flood.0 as u64, flood.1), disk.at("data"));
    let start = || disk.start("data", &[args, &["--history", "64K"]].concat(), env);
    for _ in 0..20 {
        story.life(start(), flood.0, 15);
        disk.cut(&mut story.random);
        story.compare(&dir, true);
    }
    if lossy {
        assert!(
            story.faults.insert("lost", 0) > Some(0),
            "a disk under disk.c must forget writes that were not synced"
        );
    }
    story.end(name, &start(), &dir);
}

const CALM: (usize, [usize; 2]) = (8, [500, 4000]);
/// So many bytes at a time that files roll more than once during one sync.
const WILD: (usize, [usize; 2]) = (24, [9000, 30_000]);

#[test]
fn power_cuts_take_nothing_that_was_answered_or_heard_with_sync() {
    unplugged("power cut with --sync", CALM, &["--sync"], &[("DISK_SLOW", "1")], false);
}

#[test]
fn power_cuts_take_nothing_even_where_files_roll_while_the_disk_is_busy() {
    unplugged("power cut with --sync and large events", WILD, &["--sync"], &[("DISK_SLOW", "1")], false);
}

#[test]
fn without_sync_power_cuts_never_give_an_id_two_meanings() {
    unplugged("power cut", CALM, &[], &[], true);
    unplugged("power cut with large events", WILD, &[], &[("DISK_SLOW", "1")], true);
}

#[test]
fn without_sync_power_cuts_never_give_an_id_two_meanings_even_while_the_clock_stands_still() {
    unplugged("power cut while the clock stands still", CALM, &[], &[("DISK_CLOCK", "1763654400")], true);
}

#[test]
fn a_hole_that_a_power_cut_left_between_two_files_is_told() {
    // The newer file is on the disk, and the end of the older one is not.
    let scratch = Scratch::new();
    let event = |n: u64| format!("data: {n}\nid: 1763654400123-{n}\n\n");
    fs::write(scratch.0.join("a.old.sse"), format!(": tincan log\n\n{}{}", event(1), event(2))).unwrap();
    fs::write(scratch.0.join("a.sse"), format!(": tincan log\n\n{}", event(5))).unwrap();
    let server = Tincan::start(&["--quiet", "--data", scratch.arg()]);
    let received = server.get("/a?since=1763654400123-1&wait=0").text();
    assert!(received.contains("event: gap") || !received.contains(&event(5)), "{received}");
}

#[test]
fn what_the_disk_does_not_take_is_answered_with_500_and_heard_by_nobody() {
    // Several at a time, since each waits until its own polls have ended.
    thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(the_disk_fails))));
}

fn the_disk_fails() {
    let Some(disk) = Disk::new() else { return };
    let start = || disk.start("data", &["--sync", "--history", "4K"], &[("DISK_SLOW", "5")]);
    let (mut server, body) = (start(), "x".repeat(300));
    let (mut subscriber, start_id) = server.listen("/a", "");
    let start_id = Id::parse(&start_id).unwrap();
    let mut wires: Vec<Wire> = (0..16).map(|_| server.connect()).collect();
    for round in 1..=8 {
        let id = server.post("/a", &body).remove(0);
        assert_eq!(id, start_id.plus(round).to_string());
        match round {
            1..=4 => subscriber.expect(format!("data: {body}\nid: {id}\n\n")),
            // From now on no subscriber makes publishers wait.
            5 => subscriber.stream.shutdown(std::net::Shutdown::Both).unwrap(),
            _ => eventually("the subscriber is dropped", || server.readers("a") == 0),
        }
        fs::write(disk.at("fail"), "").unwrap();
        // A few at a time, or so many that files roll meanwhile.
        let refused = if round % 2 == 0 { &mut wires[..] } else { &mut wires[..3] };
        let post = format!("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300\r\n\r\n{}", "y".repeat(300));
        refused.iter_mut().for_each(|wire| wire.send(&post));
        refused.iter_mut().for_each(|wire| wire.response().refused(LOG_FAILED));
        fs::remove_file(disk.at("fail")).unwrap();
        let files = files(&disk.at("data"), "a").concat();
        assert!(!files.contains("yy") && files.contains(&format!("\nid: {id}\n")), "round {round}: {files}");
        let poll = server.get(&format!("/a?since={id}&wait=0")).text();
        assert!(rest(&poll).is_empty(), "nothing follows: {poll}");
    }
    server.kill();
    let kept = || files(&disk.at("data"), "a").map(|file| rest(&file).to_string()).concat();
    let before = kept();
    disk.cut(&mut Random(4));
    assert_eq!(kept(), before);
    replays(&start(), &disk.at("data"), "a");
}

#[test]
fn what_is_refused_with_500_was_heard_by_nobody_whoever_else_fails() {
    let Some(disk) = Disk::new() else { return };
    let server = disk.start("data", &["--sync", "--history", "64M"], &[("DISK_FLAKY", "10")]);
    let mut wire = server.connect();
    wire.send("GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.until(b"\n\n");
    let publisher = |p: usize| {
        let (mut acked, mut refused, mut wire) = (BTreeSet::new(), BTreeSet::new(), server.connect());
        for n in 0..60 {
            let data = format!("{p}-{n}");
            let length = data.len();
            wire.send(format!("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{data}"));
            match wire.response().status {
                200 => acked.insert(data),
                _ => refused.insert(data),
            };
        }
        (acked, refused)
    };
    let (mut acked, mut refused) = (BTreeSet::new(), BTreeSet::new());
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..32).map(|p| scope.spawn(move || publisher(p))).collect();
        for publisher in publishers {
            let (took, failed) = publisher.join().unwrap();
            acked.extend(took);
            refused.extend(failed);
        }
    });
    while server.post_with("/a", "", "end").status != 200 {}
    let received = wire.until(b"data: end\n");
    let received: Vec<String> = received.lines().filter_map(|l| l.strip_prefix("data: ")).map(String::from).collect();
    let once: BTreeSet<String> = received.iter().filter(|data| *data != "end").cloned().collect();
    println!("{} acknowledged, {} refused", acked.len(), refused.len());
    assert!(refused.len() > 20, "the disk must fail often");
    assert!(refused.is_disjoint(&once), "{:?}", refused.intersection(&once).collect::<Vec<_>>());
    assert_eq!((received.len() - 1, &once), (acked.len(), &acked));
}

#[test]
fn many_publishers_share_one_fsync_and_their_readers_hear_all() {
    let Some(disk) = Disk::new() else { return };
    let server = disk.start("data", &["--sync", "--history", "64K"], &[]);
    let (mut subscriber, _) = server.listen("/a", "");
    let mut wires: Vec<Wire> = (0..32).map(|_| server.connect()).collect();
    server.post("/a", "the file and its name are on the disk");
    let syncs = || fs::metadata(disk.at("side/count")).unwrap().len();
    let written = || files(&disk.at("data"), "a").concat().matches("\nid: ").count();
    let before = syncs();
    let post = format!("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{}", "x".repeat(9));
    for round in 1..=10 {
        // The disk is busy with the first event until all others wait.
        fs::write(disk.at("busy"), "").unwrap();
        wires.iter_mut().for_each(|wire| wire.send(&post));
        eventually("all publishers wait for the disk", || written() == 1 + 32 * round);
        fs::remove_file(disk.at("busy")).unwrap();
        wires.iter_mut().for_each(|wire| assert_eq!(wire.response().status, 200));
    }
    let count = syncs() - before;
    println!("320 events of 32 publishers: {count} fsyncs");
    assert_eq!(count, 20, "in each round one fsync for the first event and one for all others");
    (0..=320).for_each(|n| assert!(subscriber.block().ends_with(&format!("-{}\n\n", n + 1))));
}

#[test]
fn with_sync_the_directory_itself_is_put_on_the_disk() {
    let Some(disk) = Disk::new() else { return };
    let server = disk.start("data/new/logs", &["--sync"], &[]);
    server.post("/a", "x");
    let synced = disk.0.read("side/dirs");
    for dir in ["data/new/logs", "data/new", "data"] {
        // A name is on the disk once its directory is synced.
        assert!(synced.lines().any(|line| Path::new(line) == disk.at(dir)), "{dir} is not synced:\n{synced}");
    }
}

#[test]
fn a_file_that_reaches_its_limit_is_a_full_disk_and_nothing_worse() {
    if !works("prlimit") {
        return;
    }
    let scratch = Scratch::new();
    let server = shell("ulimit -S -f 64; exec", &["--data", scratch.arg()]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let most = limits.lines().find_map(|l| l.strip_prefix("Max file size")?.split_whitespace().next()).unwrap();
    let most = most.parse().unwrap();
    // If the file had exactly this size, the next write would be a signal that ends the server, and not an error.
    let start_id = server.listen("/first", "").1;
    let rest = ": tincan log\n\ndata: \nid: \n\n".len() + start_id.len();
    server.post_with("/first", "", "x".repeat(most - rest)).refused(DISK_FULL);
    fills_up(&server, &scratch.0, most, || limit("", &server, "--fsize=unlimited:"));
}

#[test]
fn a_full_disk_refuses_with_507_until_there_is_room() {
    if !works("unshare -rm mount -t tmpfs -o size=1M none /mnt") {
        return;
    }
    let scratch = Scratch::new();
    let mount = format!("mount -t tmpfs -o size=256k none {} && exec \"$0\" \"$@\"", scratch.arg());
    let server = shell(&format!("exec unshare -rm sh -c '{mount}'"), &["--data", scratch.arg()]);
    // Only the server sees the mounted file system, which ends with the server.
    let dir = PathBuf::from(format!("/proc/{}/root{}", server.pid(), scratch.arg()));
    server.post("/first", "this file is there");
    assert!(fs::write(dir.join("hog"), [0; 256 << 10]).is_err());
    fills_up(&server, &dir, 256 << 10, || fs::remove_file(dir.join("hog")).unwrap());
}

/// Publishes until there is no room, makes room, and publishes again.
fn fills_up(server: &Tincan, dir: &Path, most: usize, make_room: impl Fn()) {
    let (mut subscriber, start_id) = server.listen("/first", "");
    let (id, body, mut taken) = (Id::parse(&start_id).unwrap(), "x".repeat(5000), 0);
    let refusal = loop {
        let response = server.post_with("/first", "", &body);
        if response.status != 200 {
            break response;
        }
        taken += 1;
        assert!(taken * 5000 < most as u64, "more was accepted than there is room for");
    };
    refusal.refused(DISK_FULL);
    let full = files(dir, "first");
    assert_eq!(full[1].matches("\nid: ").count() as u64, id.plus(taken).seq);
    for _ in 0..5 {
        server.post_with("/first", "", &body).refused(DISK_FULL);
        assert_eq!(files(dir, "first"), full, "nothing of it is kept");
        replays(server, dir, "first");
    }
    make_room();
    for n in 1..=3 {
        assert_eq!(server.post("/first", &body), [id.plus(taken + n).to_string()]);
    }
    for n in 1..=taken + 3 {
        subscriber.expect(format!("data: {body}\nid: {}\n\n", id.plus(n)));
    }
    replays(server, dir, "first");
}

/// Returns the first bytes that a listener receives: a prelude, a refusal, or nothing, and then the end.
fn greeting(wire: &mut Wire) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\n\n") {
        match wire.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("no response within {SOON:?}"),
            _ => break,
        }
    }
    String::from_utf8(text).unwrap()
}

fn listener(server: &Tincan, fields: &str) -> Wire {
    let mut wire = server.connect();
    wire.send(format!("GET /a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    wire
}

const CONNECTED: &str = ": connected to /a";

/// These tests wait for timeouts of the server, so they run at the same time.
#[test]
fn what_the_system_does_not_give() {
    side_by_side(&[
        ("descriptors", with_few_descriptors_those_who_are_there_hear_all_and_others_come_when_some_leave),
        ("threads", where_no_thread_can_be_had_requests_are_answered_one_after_another),
    ]);
}

fn with_few_descriptors_those_who_are_there_hear_all_and_others_come_when_some_leave() {
    let server = shell("ulimit -n 64; exec", &[]);
    eventually("the server warns", || {
        server.stderr().contains("(64 descriptors)") && server.stderr().contains("warning")
    });
    let mut publisher = BufReader::new(server.connect().stream);
    publish(&mut publisher, "a", "first").unwrap();
    let fields = |n| if n % 2 == 0 { "" } else { "Accept: text/event-stream\r\n" };
    let mut wires: Vec<Wire> = (0..100).map(|n| listener(&server, fields(n))).collect();
    let greetings: Vec<String> = wires.iter_mut().map(greeting).collect();
    let (mut inside, outside): (Vec<_>, Vec<_>) =
        wires.into_iter().zip(greetings).partition(|(_, greeting)| greeting.contains(CONNECTED));
    assert!((40..60).contains(&inside.len()), "{} subscribers are connected", inside.len());
    assert!(outside.iter().all(|(_, text)| text.is_empty() || text.contains(CONNECTIONS.why)));
    let waiting: Vec<Wire> = (0..20).map(|_| server.connect()).collect();
    let (before, began) = (processor_time(&server), Instant::now());
    thread::sleep(Duration::from_secs(1)); // the measured time is a second or longer
    let (used, time) = (processor_time(&server) - before, began.elapsed());
    assert!(used < time / 10, "{used:?} of {time:?}");
    let mut all_hear = |inside: &mut Vec<(Wire, String)>| {
        let id = publish(&mut publisher, "a", "to all").unwrap();
        inside.iter_mut().for_each(|(wire, _)| wire.expect(format!("data: to all\nid: {id}\n\n")));
    };
    all_hear(&mut inside);
    drop((outside, waiting));
    inside.truncate(inside.len() - 10);
    for _ in 0..5 {
        eventually("a new subscriber is accepted", || {
            let mut wire = listener(&server, "");
            let greeting = greeting(&mut wire);
            let inside_now = greeting.contains(CONNECTED);
            if inside_now {
                inside.push((wire, greeting));
            }
            inside_now
        });
    }
    all_hear(&mut inside);
}

#[test]
fn with_few_descriptors_many_channels_take_turns() {
    let scratch = Scratch::new();
    let mut server = shell("ulimit -n 64; exec", &["--data", scratch.arg(), "--sync"]);
    let published: Vec<_> =
        (0..80).map(|n| (n, server.post(&format!("/c{}", n % 40), format!("{n}")).remove(0))).collect();
    server.kill();
    let server = Tincan::start(&["--quiet", "--data", scratch.arg()]);
    for (n, id) in published {
        let all = server.get(&format!("/c{}?since=all&wait=0", n % 40)).text();
        assert!(all.contains(&format!("data: {n}\nid: {id}\n\n")), "{n}, {id}: {all}");
    }
}

fn where_no_thread_can_be_had_requests_are_answered_one_after_another() {
    // The kernel counts threads by user, but not those of root. So root becomes a user that runs only this server.
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = format!("setpriv --reuid={0} --regid={0} --clear-groups", 200_000 + std::process::id());
    let user = if root { &user } else { "" };
    if !works(&format!("exec {user} {} --version", env!("CARGO_BIN_EXE_tincan"))) || !works("prlimit") {
        return;
    }
    let server = shell(&format!("exec {user}"), &["--heartbeat", "1"]);
    let proc = format!("/proc/{}", server.pid());
    let threads = || fs::read_dir(format!("{proc}/task")).unwrap().count();
    let (mut subscriber, _) = server.listen("/a", "");
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let most = limits.lines().find_map(|l| l.strip_prefix("Max processes")?.split_whitespace().nth(1)).unwrap();
    limit(user, &server, "--nproc=1:");
    let before = threads();
    for n in 0..20 {
        let id = server.post("/a", format!("{n}")).remove(0);
        hears(&mut subscriber, &format!("data: {n}\nid: {id}\n\n"));
    }
    // Silent clients hold all threads that wait for connections, of which there are at most two. But they hold them
    // only for a moment. A client with a request waits in the backlog, and subscribers go on.
    let began = Stopwatch::start();
    let silent: Vec<Wire> = (0..2).map(|_| server.connect()).collect();
    let mut honest = server.connect();
    honest.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = honest.response();
    assert_eq!(
        (response.text(), response.field("connection")),
        ("ok\n".into(), Some("close")),
        "the connection is closed, since others may wait for its thread"
    );
    // Each silent client gets a second to send something, and a second to read the refusal; not ten.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    began.within("the response after two silent clients", Duration::from_secs(4));
    subscriber.expect(PING);
    drop(silent);
    assert!(threads() <= before, "{} threads, {before} before", threads());
    // Threads start again as soon as the system allows it. Otherwise the silent clients would delay a response by ten
    // seconds.
    limit(user, &server, &format!("--nproc={most}:"));
    let began = Stopwatch::start();
    let silent: Vec<Wire> = (0..2 * before).map(|_| server.connect()).collect();
    let id = server.post("/a", "again").remove(0);
    began.within("the response beside silent clients", Duration::from_secs(8));
    assert!(threads() > before + silent.len() / 2, "{} threads", threads());
    hears(&mut subscriber, &format!("data: again\nid: {id}\n\n"));
}

/// Asserts that the subscriber receives this event, and before it only pings, since its heartbeat is one second.
fn hears(subscriber: &mut Wire, event: &str) {
    while let block = subscriber.block()
        && block != event
    {
        assert_eq!(block, PING);
    }
}

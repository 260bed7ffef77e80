//! Every crash point of a log, one after the other: CONTRACT 2, 5 and 9. To run all of it: `cargo test --release --
//! --ignored --nocapture every_crash_point`. `CRASH_SEED` is the first seed. New lives begin for `CRASH_SECONDS`.
//!
//! A *life* is a script for a server under `disk.c`. Events are published to it, its disk fails, its disk is full,
//! and it is killed. It also loses its power and starts again from the files that are left, so recoveries are part of
//! the script. The *journal* of the life holds each operation on a file or a name, and each id that a client
//! received. From the journal alone, for each point between two operations, the test makes the files that a power cut
//! at this point may leave. It starts a server with hundreds of such states at once, each as a channel of its own.
//! The clock of this server is far behind, so only the files keep it from using an id again.
//!
//! The model of a power cut:
//! - Everything that was synced stays. A sync covers the operations that ended before it began.
//! - Each page (4,096 bytes) is as it was synced, or as any later write left it, independently of other pages. A page
//!   that was never written reads as NULs.
//! - The lengths of a file are in order: the file has the synced length, or a later one with all before it. Shortening
//!   a file drops the pages behind its end, even if they were on the disk. A page that is written after that is there
//!   again.
//! - Each operation on a name (create, link, rename, unlink) happens completely or not at all, independently of the
//!   others: of two renames, the second can be there without the first. Syncing a file does not sync its name.
//! - A sync that fails forgets pages. They may be there or not, even if a later sync succeeds, until they are written
//!   again. Lengths and names are not forgotten.
//!
//! Left out: sectors smaller than a page, old bytes of other files, synced bytes that turn bad, and combinations of
//! channels (each state is of one channel).

use crate::support::harness::*;
use crate::support::process::works;
use crate::support::wings::has;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tincan::wire::id::Id;

const PAGE: usize = 4096;
const CHANNELS: [&str; 2] = ["a", "b"];
const HISTORY: usize = 32 << 10;
/// The number of states for one server.
const BATCH: usize = 150;

// The disk.

/// The content of a file.
#[derive(Clone, Default)]
struct Image {
    pages: BTreeMap<usize, Arc<Vec<u8>>>,
    len: usize,
}

impl Image {
    fn of(bytes: &[u8]) -> Image {
        let mut image = Image::default();
        image.write(0, bytes);
        image
    }

    /// Returns the numbers of the pages that change.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Vec<usize> {
        let end = at + bytes.len();
        let changed: Vec<usize> = (at / PAGE..end.div_ceil(PAGE)).collect();
        for &no in &changed {
            let page = Arc::make_mut(self.pages.entry(no).or_insert_with(|| Arc::new(vec![0; PAGE])));
            let (from, to) = (at.max(no * PAGE), end.min((no + 1) * PAGE));
            page[from - no * PAGE..to - no * PAGE].copy_from_slice(&bytes[from - at..to - at]);
        }
        self.len = self.len.max(end);
        changed
    }

    fn resize(&mut self, len: usize) {
        if len < self.len {
            self.pages.retain(|no, _| no * PAGE < len);
            if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
                Arc::make_mut(page)[len % PAGE..].fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, item: &Item) {
        match item {
            Item::Page(no, page) => drop(self.pages.insert(*no, page.clone())),
            Item::Length(len) => self.resize(*len),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len.div_ceil(PAGE) * PAGE];
        for (no, page) in self.pages.iter().filter(|(no, _)| *no * PAGE < self.len) {
            bytes[no * PAGE..(no + 1) * PAGE].copy_from_slice(page);
        }
        bytes.truncate(self.len);
        bytes
    }
}

enum Item {
    Page(usize, Arc<Vec<u8>>),
    Length(usize),
}

/// A change that a sync can put on the disk: a page, or a length.
struct Change {
    at: usize, // the number of the operation
    item: Item,
    forgotten: bool, // a sync failed, and no later one covers this change
}

impl Change {
    /// Returns whether an earlier change can no longer take effect once this one is on the disk.
    fn ends(&self, earlier: &Change) -> bool {
        match (&self.item, &earlier.item) {
            (Item::Page(no, _), Item::Page(other, _)) => no == other,
            (Item::Length(len), Item::Page(no, _)) => no * PAGE >= *len,
            _ => false,
        }
    }
}

/// A file: the content that is on the disk for certain, the content that programs see, and the changes between the
/// two.
#[derive(Default)]
struct File {
    disk: Image,
    now: Image,
    unsynced: Vec<Change>,
}

impl File {
    fn change(&mut self, at: usize, pages: Vec<usize>) {
        let now = &self.now;
        // The part of a shortened file behind its end is not in memory.
        let pages = pages.into_iter().filter_map(|no| Some(Item::Page(no, now.pages.get(&no)?.clone())));
        let changes = pages.chain([Item::Length(now.len)]).map(|item| Change { at, item, forgotten: false });
        self.unsynced.extend(changes);
    }

    fn write(&mut self, at: usize, offset: usize, bytes: &[u8]) {
        let before = self.now.len;
        let pages = self.now.write(offset, bytes);
        self.change(at, pages);
        if self.now.len == before {
            self.unsynced.pop();
        }
    }

    fn resize(&mut self, at: usize, len: usize) {
        self.now.resize(len);
        self.change(at, vec![len / PAGE]);
    }

    /// Handles the end of a sync that began with this operation.
    fn synced(&mut self, begin: usize, done: bool) {
        let mut rest = Vec::new();
        for mut change in std::mem::take(&mut self.unsynced) {
            if change.at >= begin || change.forgotten || !done {
                change.forgotten |= change.at < begin && !done && matches!(change.item, Item::Page(..));
                rest.push(change);
            } else {
                rest.retain(|earlier| !change.ends(earlier));
                self.disk.apply(&change.item);
            }
        }
        self.unsynced = rest;
    }
}

type Names = BTreeMap<String, usize>;

/// A change of names: a file gets a name, loses one, or both.
struct Naming {
    at: usize,
    file: usize,
    from: Option<String>,
    to: Option<String>,
}

impl Naming {
    fn apply(&self, names: &mut Names) {
        if let Some(from) = self.from.as_ref().filter(|&from| names.get(from) == Some(&self.file)) {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.file);
        }
    }

    fn is_of(&self, channel: &str) -> bool {
        [&self.from, &self.to].into_iter().flatten().any(|name| owner(name) == channel)
    }
}

/// Returns the channel that a file of this name belongs to.
fn owner(name: &str) -> &str {
    name.trim_start_matches('.').split('.').next().unwrap()
}

/// A decision of a power cut: which version is on the disk. 0 is the synced one, greater numbers are later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Page(usize, usize),
    Length(usize),
    Name(usize),
}

type Choice = BTreeMap<Doubt, usize>;
/// Files by their names.
type State = BTreeMap<String, Vec<u8>>;

/// A directory.
#[derive(Default)]
struct Disk {
    files: Vec<File>,
    inodes: BTreeMap<String, usize>,
    synced: Names,
    now: Names,
    unsynced: Vec<Naming>,
    /// The file (None for names), and the operation with which the sync began.
    syncs: BTreeMap<String, (Option<usize>, usize)>,
}

impl Disk {
    fn add(&mut self, inode: &str, file: File) -> usize {
        self.files.push(file);
        self.inodes.insert(inode.into(), self.files.len() - 1);
        self.files.len() - 1
    }

    fn name(&mut self, at: usize, file: usize, from: Option<&str>, to: Option<&str>) {
        let naming = Naming { at, file, from: from.map(String::from), to: to.map(String::from) };
        naming.apply(&mut self.now);
        self.unsynced.push(naming);
    }

    /// Applies a record of the journal.
    fn apply(&mut self, at: usize, record: &Record) {
        let number = |text: &str| text.parse::<usize>().unwrap();
        let words: Vec<&str> = record.line.split(' ').collect();
        let known = words.get(1).and_then(|inode| self.inodes.get(*inode)).copied();
        match (&words[..], known) {
            (["create", inode, name], _) => {
                let file = self.add(inode, File::default());
                self.name(at, file, None, Some(name));
            }
            (["link", _, name], Some(file)) => self.name(at, file, None, Some(name)),
            (["rename", _, from, to], Some(file)) => self.name(at, file, Some(from), Some(to)),
            (["unlink", _, name], Some(file)) => self.name(at, file, Some(name), None),
            (["write", _, offset, _], Some(file)) => self.files[file].write(at, number(offset), &record.bytes),
            (["length", _, len], Some(file)) => self.files[file].resize(at, number(len)),
            (["begin", sync, inode], _) => {
                let file = self.inodes.get(*inode).copied();
                if file.is_some() || *inode == "dir" {
                    self.syncs.insert(sync.to_string(), (file, at));
                }
            }
            (["end", sync, result], _) => match self.syncs.remove(*sync) {
                Some((Some(file), begin)) => self.files[file].synced(begin, *result == "ok"),
                Some((None, begin)) if *result == "ok" => {
                    let done = self.unsynced.iter().take_while(|naming| naming.at < begin).count();
                    self.unsynced.drain(..done).for_each(|naming| naming.apply(&mut self.synced));
                }
                _ => {}
            },
            (["power"], _) => *self = Disk::default(),
            (["disk", inode, name, _], _) => {
                let image = Image::of(&record.bytes);
                let file = self.add(inode, File { disk: image.clone(), now: image, unsynced: Vec::new() });
                self.synced.insert(name.to_string(), file);
                self.now.insert(name.to_string(), file);
            }
            (["received", ..], _) => {}
            _ => panic!("a record of an unknown file: {}", record.line),
        }
    }

    /// Returns everything about this channel that is not certain, with the number of versions that are not synced.
    fn doubts(&self, channel: &str) -> Choice {
        let mut doubts = Choice::new();
        let synced = self.synced.iter().filter(|(name, _)| owner(name) == channel).map(|(_, file)| *file);
        let mut files: BTreeSet<usize> = synced.collect();
        for (n, naming) in self.unsynced.iter().enumerate().filter(|(_, naming)| naming.is_of(channel)) {
            files.insert(naming.file);
            doubts.insert(Doubt::Name(n), 1);
        }
        for file in files {
            for change in &self.files[file].unsynced {
                *doubts.entry(doubt(file, &change.item)).or_default() += 1;
            }
        }
        doubts
    }

    /// Returns the files of a channel that a power cut leaves if it decides like this.
    fn state(&self, channel: &str, choice: &Choice) -> State {
        let kept = |doubt: Doubt| choice.get(&doubt).copied().unwrap_or(0);
        let mut names = self.synced.clone();
        names.retain(|name, _| owner(name) == channel);
        for (n, naming) in self.unsynced.iter().enumerate() {
            if kept(Doubt::Name(n)) > 0 {
                naming.apply(&mut names);
            }
        }
        let content = |index: usize| {
            let file = &self.files[index];
            let mut image = file.disk.clone();
            let mut versions = Choice::new();
            for change in &file.unsynced {
                let doubt = doubt(index, &change.item);
                let version = versions.entry(doubt).or_default();
                *version += 1;
                // An earlier version of a page is overwritten; an earlier length comes before a later one.
                let on_disk = match doubt {
                    Doubt::Page(..) => *version == kept(doubt),
                    _ => *version <= kept(doubt),
                };
                if on_disk {
                    image.apply(&change.item);
                }
            }
            image.bytes()
        };
        names.into_iter().map(|(name, file)| (name, content(file))).collect()
    }

    /// Returns the files of a channel as programs see them.
    fn seen(&self, channel: &str) -> State {
        let names = self.now.iter().filter(|(name, _)| owner(name) == channel);
        names.map(|(name, file)| (name.clone(), self.files[*file].now.bytes())).collect()
    }

    /// Describes a choice for a person.
    fn explain(&self, all: &Choice, choice: &Choice) -> String {
        let name = |file: usize| {
            let last =
                self.unsynced.iter().rev().find(|naming| naming.file == file).and_then(|naming| naming.to.clone());
            let now = || self.now.iter().find(|(_, other)| **other == file).map(|(name, _)| name.clone());
            last.or_else(now).unwrap_or_else(|| format!("file {file}"))
        };
        let part = |(doubt, versions): (&Doubt, &usize)| {
            let kept = choice.get(doubt).unwrap_or(&0);
            match doubt {
                Doubt::Page(file, no) => format!("{} page {no} {kept}/{versions}", name(*file)),
                Doubt::Length(file) => format!("{} length {kept}/{versions}", name(*file)),
                Doubt::Name(n) => {
                    let Naming { from, to, .. } = &self.unsynced[*n];
                    let text = |name: &Option<String>| name.clone().unwrap_or_default();
                    format!("{}->{} {kept}/{versions}", text(from), text(to))
                }
            }
        };
        all.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

fn doubt(file: usize, item: &Item) -> Doubt {
    match item {
        Item::Page(no, _) => Doubt::Page(file, *no),
        Item::Length(_) => Doubt::Length(file),
    }
}

/// Returns ways in which a power cut may decide. If there are few, it returns all of them. Else it returns: nothing
/// is there, everything is there, each alone is missing or at an earlier version, each alone is there, and some at
/// random. It returns at most `most`; the first two are always there.
fn choices(doubts: &Choice, most: usize, random: &mut Random) -> Vec<Choice> {
    let few = doubts
        .values()
        .try_fold(1usize, |product, versions| Some(product * (versions + 1)).filter(|&n| n <= most.clamp(16, 128)));
    let (none, all) = (doubts.keys().map(|doubt| (*doubt, 0)).collect::<Choice>(), doubts.clone());
    let mut list = Vec::new();
    if let Some(count) = few {
        for mut rest in 1..count - usize::from(count > 1) {
            let digit = |(doubt, versions): (&Doubt, &usize)| {
                let kept = rest % (versions + 1);
                rest /= versions + 1;
                (*doubt, kept)
            };
            list.push(doubts.iter().map(digit).collect());
        }
    } else {
        for (doubt, versions) in doubts {
            let set =
                |choice: &Choice, kept| choice.iter().map(|(d, k)| (*d, if d == doubt { kept } else { *k })).collect();
            list.push(set(&all, 0));
            list.extend((1..*versions).map(|kept| set(&all, kept)));
            list.push(set(&none, *versions));
        }
        for _ in 0..16 {
            // An old length would hide the content of the pages.
            let mut draw = |(doubt, versions): (&Doubt, &usize)| match (doubt, random.below(4)) {
                (Doubt::Length(_), 1..) => (*doubt, *versions),
                (_, 0) => (*doubt, random.index(versions + 1)),
                _ => (*doubt, random.index(2) * versions),
            };
            list.push(doubts.iter().map(&mut draw).collect());
        }
    }
    while list.len().saturating_add(2) > most {
        list.swap_remove(random.index(list.len()));
    }
    [none, all].into_iter().chain(list).collect()
}

// The journal.

struct Record {
    line: String,
    bytes: Vec<u8>,
}

fn records(mut journal: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while !journal.is_empty() {
        let mut line = String::new();
        journal.read_line(&mut line).unwrap();
        line.pop();
        let bytes = match line.split(' ').next() {
            Some("write" | "disk") => line.rsplit(' ').next().unwrap().parse().unwrap(),
            _ => 0,
        };
        let (now, rest) = journal.split_at(bytes);
        records.push(Record { line, bytes: now.into() });
        journal = rest;
    }
    records
}

/// Adds a record in one write, since the server writes to the journal as well.
fn note(journal: &Path, line: &str, bytes: &[u8]) {
    let mut file = fs::File::options().append(true).create(true).open(journal).unwrap();
    file.write_all(&[line.as_bytes(), b"\n", bytes].concat()).unwrap();
}

// Published events, and how a test recognizes them.

struct Event {
    id: Id,
    name: String,
    data: String,
}

/// Returns the events of a stream or a file. An incomplete last one and blocks without an id are left out.
fn events(text: &str) -> Vec<Event> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let event = |block: &str| {
        let (mut id, mut name, mut data) = (None, String::new(), Vec::new());
        for line in block.lines().filter(|line| !line.starts_with(':')) {
            match line.split_once(": ") {
                Some(("id", text)) => id = Id::parse(text),
                Some(("event", text)) => name = text.into(),
                Some(("data", text)) => data.push(text),
                Some(("retry", _)) => {}
                _ => data.push(line), // nothing that this test knows
            }
        }
        if data.is_empty() { None } else { Some(Event { id: id?, name, data: data.join("\n") }) }
    };
    whole.split("\n\n").filter_map(event).collect()
}

/// Identifies an event: the number of its POST, its number in the POST, and the number of events in the POST.
type Meaning = (u64, u64, u64);
const UNKNOWN: Meaning = (0, 0, 0);

/// Returns the data of an event. The data itself says what it has to be.
fn data((post, n, of): Meaning, size: usize, kind: &str) -> String {
    let word = match kind {
        "nuls" => format!("{post}\0{n} "),
        "lines" => format!("{post} {n}\n"),
        _ => format!("{post}.{n} "),
    };
    let mut text = word.repeat(size / word.len() + 1);
    text.truncate(size);
    if kind == "hole" {
        text.replace_range(size / 8..size - size / 8, &"\0".repeat(size - 2 * (size / 8)));
    }
    format!("post {post} event {n} of {of} size {size} kind {kind}\n{text}")
}

/// Identifies an event, if every byte of it is as it was published.
fn meaning(event: &Event) -> Meaning {
    let words: Vec<&str> = event.data.lines().next().unwrap_or("").split(' ').collect();
    let ["post", post, "event", n, "of", of, "size", size, "kind", kind] = words[..] else { return UNKNOWN };
    let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n < 1 << 20);
    let (Some(post), Some(n), Some(of), Some(size)) = (number(post), number(n), number(of), number(size)) else {
        return UNKNOWN;
    };
    let name = if kind == "named" { "soup" } else { "" };
    let same = event.name == name && event.data == data((post, n, of), size as usize, kind);
    if same { (post, n, of) } else { UNKNOWN }
}

// A life.

#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    sync: bool,
    still: bool,
}

const KINDS: [Kind; 3] = [
    Kind { name: "with --sync", sync: true, still: false },
    Kind { name: "without --sync", sync: false, still: false },
    Kind { name: "while the clock stands still", sync: false, still: true },
];

impl Kind {
    fn command(self, library: &Path, data: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        command.args(["--listen", "127.0.0.1:0", "--quiet", "--heartbeat", "3600", "--max-channels", "2000"]);
        command.args(["--history", &HISTORY.to_string(), "--data"]).arg(data).args(self.sync.then_some("--sync"));
        command.env("LD_PRELOAD", library);
        command
    }
}

struct Life {
    kind: Kind,
    library: PathBuf,
    scratch: Scratch,
    random: Random,
    posts: u64,
    server: Option<Tincan>,
    subscribers: Vec<JoinHandle<()>>,
    address: String, // of the first channel's subscriber
}

impl Life {
    fn at(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    /// Starts the server, and a subscriber for each channel.
    fn start(&mut self) -> Result<(), String> {
        let mut command = self.kind.command(&self.library, &self.at("data"));
        command.env("DISK_JOURNAL", self.at("journal")).env("DISK_SLOW", "1");
        for (name, file) in [("DISK_FAIL", "fail"), ("DISK_FULL", "full"), ("DISK_KILL", "kill")] {
            command.env(name, self.at(file));
        }
        if self.kind.still {
            command.env("DISK_CLOCK", "1763654400");
        }
        let server = run(command)?;
        for channel in CHANNELS {
            let (prelude_sender, prelude) = mpsc::channel();
            let (port, journal) = (server.port, self.at("journal"));
            self.subscribers.push(thread::spawn(move || read(port, channel, &journal, &prelude_sender)));
            let prelude = prelude.recv_timeout(SOON).map_err(|_| format!("/{channel} cannot be read"))?;
            if channel == CHANNELS[0] && has("address") {
                self.address = address_of(&prelude);
            }
        }
        self.server = Some(server);
        Ok(())
    }

    /// Sends SIGKILL, unless the server has ended already.
    fn end(&mut self) {
        self.server = None;
        self.subscribers.drain(..).for_each(|subscriber| subscriber.join().unwrap());
    }

    /// Publishes events of these sizes in one POST. Returns the status, or None if the server has ended.
    fn post(&mut self, channel: &str, kind: &str, sizes: &[usize]) -> Option<u16> {
        self.posts += 1;
        let meanings = (1..).map(|n| (self.posts, n, sizes.len() as u64));
        let events: Vec<(Meaning, String)> =
            meanings.zip(sizes).map(|(meaning, size)| (meaning, data(meaning, *size, kind))).collect();
        let block = |(_, data): &(Meaning, String)| {
            data.split('\n').map(|line| format!("data: {line}\n")).collect::<String>() + "\n"
        };
        let (body, fields) = match &events[..] {
            [(_, data)] => (data.clone(), ""),
            _ => (events.iter().map(block).collect(), "Content-Type: text/event-stream\r\n"),
        };
        let query = match kind {
            "named" => "?event=soup".into(),
            "except" if has("address") => format!("?except={}", self.address),
            _ => String::new(),
        };
        let head = format!("POST /{channel}{query} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
        let mut wire = Wire::to(self.server.as_ref().unwrap().port).stream;
        wire.write_all(format!("{head}{fields}\r\n{body}").as_bytes()).ok()?;
        let mut response = String::new();
        let _ = wire.read_to_string(&mut response); // the connection may be reset
        let (head, ids) = response.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 200 {
            assert_eq!(ids.lines().count(), events.len());
            let record = |(id, ((post, n, of), _)): (&str, &(Meaning, String))| {
                format!("received {channel} {id} {post} {n} {of}")
            };
            note(&self.at("journal"), &ids.lines().zip(&events).map(record).collect::<Vec<_>>().join("\n"), b"");
        }
        Some(status)
    }

    /// Publishes events of about this size, one after the other.
    fn say(&mut self, count: usize, size: usize) {
        for n in 0..count {
            let size = size / 2 + self.random.index(size);
            let kind = ["", "lines", "nuls", "named", "except", "hole"][n % 6];
            match self.post("a", kind, &[size]) {
                // The subscriber was dropped: it was far behind when the log rolled over.
                Some(404) if kind == "except" => {}
                response => assert_eq!(response, Some(200)),
            }
        }
    }

    /// Publishes while this file exists, until the status is not 200. It must then be the expected one.
    fn until(&mut self, file: &str, text: &str, sizes: &[usize], expected: Option<u16>) {
        fs::write(self.at(file), text).unwrap();
        let responses =
            |life: &mut Life| (0..100).map(|_| life.post("a", "", sizes)).find(|response| *response != Some(200));
        assert_eq!(responses(self), Some(expected), "{file} {text}");
        fs::remove_file(self.at(file)).unwrap();
    }

    /// Publishes until the server is killed in the middle of a POST, at the first operation of the kind `when`.
    fn killed(&mut self, when: &str, sizes: &[usize]) {
        self.until("kill", when, sizes, None);
        self.end();
    }

    /// Cuts the power. At times only a single page is missing.
    fn cut(&mut self) {
        let mut disk = Disk::default();
        let records = records(&fs::read(self.at("journal")).unwrap());
        records.iter().enumerate().for_each(|(at, record)| disk.apply(at, record));
        let mut files = State::new();
        for channel in CHANNELS {
            let mut choice = disk.doubts(channel);
            let pages: Vec<Doubt> = choice.keys().filter(|doubt| matches!(doubt, Doubt::Page(..))).copied().collect();
            if self.random.below(2) == 0 {
                let mut list = choices(&choice, usize::MAX, &mut self.random);
                choice = list.swap_remove(self.random.index(list.len()));
            } else if !pages.is_empty() {
                choice.insert(pages[self.random.index(pages.len())], 0);
            }
            files.extend(disk.state(channel, &choice));
        }
        let data = self.at("data");
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        note(&self.at("journal"), "power", b"");
        for (name, bytes) in &files {
            fs::write(data.join(name), bytes).unwrap();
            let inode = fs::metadata(data.join(name)).unwrap().ino();
            note(&self.at("journal"), &format!("disk {inode} {name} {}", bytes.len()), bytes);
        }
    }

    /// Runs through everything that can happen to a log, including recoveries.
    fn live(&mut self) -> Result<(), String> {
        self.start()?;
        self.say(6, 300);
        self.post("a", "lines", &[200, 700, 1500, 100]);
        self.post("b", "", &[100]);
        self.say(6, 2000);
        self.post("a", "", &[20_000]);
        self.until("fail", "", &[900], Some(500));
        self.say(4, 500);
        // After each of these, another POST of the same size takes its place in the file.
        self.until("fail", "", &[5000], Some(500));
        self.post("a", "", &[5000]);
        self.until("full", "", &[7000], Some(507));
        self.post("a", "", &[7000]);
        self.post("a", "hole", &[3000, 9000, 3000]);
        self.say(2, 5000);
        self.killed("write", &[9000]);
        self.start()?;
        self.until("fail", "", &[300, 300], Some(500));
        self.say(3, 300);
        self.killed("rename", &[2500, 500]);
        self.start()?;
        self.say(2, 3000);
        self.post("b", "nuls", &[100, 6000]);
        self.killed("write", &[5000, 6000]);
        self.cut();
        self.start()?;
        self.say(3, 400);
        self.killed("begin", &[20_000]);
        self.cut();
        self.start()?;
        self.say(7, 3000);
        self.until("fail", "", &[13_000], Some(500));
        self.post("b", "", &[40]);
        self.say(3, 400);
        self.until("full", "", &[15_000], Some(507));
        self.say(1, 5000);
        Ok(())
    }
}

/// Runs a command that starts tincan. If it ends at once, returns its message.
fn run(command: Command) -> Result<Tincan, String> {
    catch_unwind(AssertUnwindSafe(|| Tincan::run(command)))
        .map_err(|message| message.downcast_ref::<String>().cloned().unwrap_or_default())
}

/// Reads a channel until the server ends, and notes each event as soon as it is received.
fn read(port: u16, channel: &str, journal: &Path, prelude: &mpsc::Sender<String>) {
    let mut wire = Wire::to(port).stream;
    wire.set_read_timeout(None).unwrap();
    wire.write_all(format!("GET /{channel}?since=all HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let (mut wire, mut block, mut began) = (BufReader::new(wire), Vec::new(), false);
    while wire.read_until(b'\n', &mut block).is_ok_and(|n| n > 0) {
        if block == b"\r\n" || block.ends_with(b"\n\r\n") {
            block.clear(); // the head of the response
        }
        if !block.ends_with(b"\n\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&block).into_owned();
        for event in events(&text) {
            let (post, n, of) = meaning(&event);
            note(journal, &format!("received {channel} {} {post} {n} {of}", event.id), b"");
        }
        if !std::mem::replace(&mut began, true) {
            let _ = prelude.send(text);
        }
        block.clear();
    }
}

// The trial.

/// The state of knowledge when the power was cut.
struct Known {
    received: BTreeMap<Id, Meaning>,
    kept: BTreeSet<Id>, // the ids that `--history` had left in the log
}

/// A state that a power cut may leave.
struct Case {
    channel: &'static str,
    files: State,
    known: Arc<Known>,
    description: String,
}

impl Case {
    /// Returns the name of a file as if the channel had the given name.
    fn file(&self, file: &str, name: &str) -> String {
        let dot = if file.starts_with('.') { "." } else { "" };
        format!("{dot}{name}{}", &file[dot.len() + self.channel.len()..])
    }
}

#[derive(Default)]
struct Tally {
    counts: BTreeMap<&'static str, usize>,
    examples: BTreeMap<&'static str, Vec<String>>,
}

const FAULTS: [&str; 11] = [
    "starts that failed",
    "channels that do not work",
    "lost",
    "of two meanings",
    "doubled",
    "out of order",
    "not as published",
    "POSTs in part",
    "dropped out of turn",
    "cut and not kept",
    "other after a second start",
];

impl Tally {
    fn count(&mut self, row: &'static str, n: usize) {
        *self.counts.entry(row).or_default() += n;
    }

    fn fault(&mut self, row: &'static str, example: impl FnOnce() -> String) {
        self.count(row, 1);
        let examples = self.examples.entry(row).or_default();
        if examples.len() < 3 {
            examples.push(example());
        }
    }

    fn add(&mut self, other: Tally) {
        other.counts.into_iter().for_each(|(row, n)| self.count(row, n));
        other.examples.into_iter().for_each(|(row, list)| self.examples.entry(row).or_default().extend(list));
    }

    fn get(&self, row: &str) -> usize {
        self.counts.get(row).copied().unwrap_or(0)
    }

    fn faults(&self) -> usize {
        FAULTS.iter().map(|fault| self.get(fault)).sum()
    }
}

struct Trial {
    kind: Kind,
    library: PathBuf,
    clock: String, // long before the life, so that only the files show which ids were used
    tally: Tally,
    batch: Vec<Case>,
    tried: HashSet<u64>,
}

impl Trial {
    /// Tries all states of a life that belong to the sample.
    fn all(&mut self, records: &[Record], most: usize, random: &mut Random) {
        let mut disk = Disk::default();
        let mut received: [BTreeMap<Id, Meaning>; 2] = Default::default();
        for at in 0..=records.len() {
            let next = records.get(at).map_or("the end", |record| &record.line);
            if let Some(text) = next.strip_prefix("received ") {
                self.received(&mut received, text);
            } else if !next.starts_with("disk ") {
                // The test itself has written these files.
                self.tally.count("crash points", 1);
                for (channel, received) in CHANNELS.into_iter().zip(&received) {
                    self.point(&disk, channel, received, most, random, &format!("before operation {at}, {next}"));
                }
            }
            if let Some(record) = records.get(at) {
                disk.apply(at, record);
            }
        }
        self.flush();
    }

    /// Handles a record of an id that a client has received.
    fn received(&mut self, received: &mut [BTreeMap<Id, Meaning>], text: &str) {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |n: usize| words[n].parse().unwrap();
        let channel = CHANNELS.iter().position(|channel| *channel == words[0]).unwrap();
        let (id, meaning) = (Id::parse(words[1]).unwrap(), (number(2), number(3), number(4)));
        if meaning == UNKNOWN {
            self.tally.fault("not as published", || format!("in the life: {text}"));
        }
        match received[channel].insert(id, meaning) {
            None => self.tally.count("received", 1),
            Some(other) if other != meaning => self.tally.fault("of two meanings", || format!("in the life: {text}")),
            _ => {}
        }
    }

    fn point(
        &mut self, disk: &Disk, channel: &'static str, received: &BTreeMap<Id, Meaning>, most: usize,
        random: &mut Random, moment: &str,
    ) {
        let doubts = disk.doubts(channel);
        let mut known = None;
        for choice in choices(&doubts, most, random) {
            let files = disk.state(channel, &choice);
            let mut hash = DefaultHasher::new();
            (channel, &files, received.len()).hash(&mut hash);
            if !self.tried.insert(hash.finish()) {
                continue;
            }
            let known =
                known.get_or_insert_with(|| Arc::new(self.known(&disk.seen(channel), received, moment))).clone();
            let description = format!("/{channel} {moment}: {}", disk.explain(&doubts, &choice));
            self.batch.push(Case { channel, files, known, description });
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Returns the known ids, with those that `--history` has left in the log.
    fn known(&mut self, seen: &State, received: &BTreeMap<Id, Meaning>, moment: &str) -> Known {
        let files = seen.iter().filter(|(name, _)| !name.starts_with('.') && name.ends_with(".sse"));
        let texts = files.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned());
        let kept: BTreeSet<Id> = texts.flat_map(|text| events(&text)).map(|event| event.id).collect();
        let dropped: Vec<&Id> = received.keys().filter(|id| !kept.contains(id)).collect();
        // `--history` drops the oldest events first, and never all of them.
        if self.kind.sync && !dropped.is_empty() && dropped.last() >= kept.first().as_ref() {
            self.tally.fault("dropped out of turn", || format!("{moment}: {} and not {}", span(&dropped), span(&kept)));
        }
        Known { received: received.clone(), kept }
    }

    /// Starts a server with all states that are left, each as a channel. If the server refuses to start because of a
    /// log, this log is removed.
    fn start(&mut self, dir: &Path, cases: &mut BTreeMap<String, Case>) -> Tincan {
        loop {
            let mut command = self.kind.command(&self.library, dir);
            command.env("DISK_CLOCK", &self.clock);
            let message = match run(command) {
                Ok(server) => return server,
                Err(message) => message,
            };
            let name = cases.keys().find(|name| message.contains(*name)).unwrap_or_else(|| panic!("{message}")).clone();
            let case = cases.remove(&name).unwrap();
            self.tally.fault("starts that failed", || format!("{}; {message}", case.description));
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if owner(path.file_name().unwrap().to_str().unwrap()) == name {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }

    fn flush(&mut self) {
        let scratch = Scratch::new();
        let named = |(n, case)| (format!("s{n:04}"), case);
        let mut cases: BTreeMap<String, Case> = self.batch.drain(..).enumerate().map(named).collect();
        for (name, case) in &cases {
            case.files
                .iter()
                .for_each(|(file, bytes)| fs::write(scratch.0.join(case.file(file, name)), bytes).unwrap());
        }
        self.tally.count("states", cases.len());
        let server = self.start(&scratch.0, &mut cases);
        self.cuts(&scratch.0, &cases);
        let after: Vec<(String, String)> = cases
            .iter()
            .filter_map(|(name, case)| match self.judge(&server, name, case) {
                Ok(text) => Some((name.clone(), text)),
                Err(why) => {
                    self.tally.fault("channels that do not work", || format!("{}; {why}", case.description));
                    None
                }
            })
            .collect();
        drop(server);
        let server = self.start(&scratch.0, &mut cases);
        for (name, text) in after {
            let again = all(&server, &name);
            if let Some(case) = cases.get(&name).filter(|_| again.as_ref() != Ok(&text)) {
                self.tally.fault("other after a second start", || format!("{}; {again:.200?}", case.description));
            }
        }
    }

    /// Checks that the bytes which a start has cut off a log are kept in a file beside it.
    fn cuts(&mut self, dir: &Path, cases: &BTreeMap<String, Case>) {
        let mut kept = BTreeMap::<String, Vec<Vec<u8>>>::new();
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.contains(".cut-") {
                kept.entry(owner(name).into()).or_default().push(fs::read(&path).unwrap());
            }
        }
        for (name, case) in cases {
            for (file, bytes) in case.files.iter().filter(|(file, _)| !file.starts_with('.') && file.ends_with(".sse"))
            {
                let left = fs::read(dir.join(case.file(file, name))).unwrap_or_default();
                let cut = bytes.strip_prefix(&left[..]).unwrap_or(bytes);
                if !cut.is_empty() && !kept.get(name).is_some_and(|list| list.iter().any(|bytes| bytes == cut)) {
                    self.tally
                        .fault("cut and not kept", || format!("{}; {} bytes of {file}", case.description, cut.len()));
                }
            }
        }
    }

    /// Checks that a channel has all events that it must have, and accepts a new one. Returns all events after that.
    fn judge(&mut self, server: &Tincan, name: &str, case: &Case) -> Result<String, String> {
        let before = all(server, name)?;
        let found = events(&before);
        let ids: BTreeSet<Id> = found.iter().map(|event| event.id).collect();
        let (mut meanings, mut posts) = (BTreeSet::new(), BTreeMap::<(u64, u64), u64>::new());
        let mut fault = |description, which: &dyn Display| {
            self.tally.fault(description, || format!("{}; {which}", case.description))
        };
        for event in &found {
            let meaning = meaning(event);
            if meaning == UNKNOWN {
                fault("not as published", &event.id);
                continue;
            }
            if case.known.received.get(&event.id).is_some_and(|received| *received != meaning) {
                fault("of two meanings", &event.id);
            }
            if !meanings.insert(meaning) {
                fault("doubled", &event.id);
            }
            *posts.entry((meaning.0, meaning.2)).or_default() += 1;
        }
        if !found.is_sorted_by(|a, b| a.id < b.id) {
            fault("out of order", &span(&ids));
        }
        for ((post, of), count) in posts.iter().filter(|((_, of), count)| of != *count) {
            fault("POSTs in part", &format!("{count} of {of} events of POST {post}"));
        }
        let lost: Vec<&Id> =
            case.known.received.keys().filter(|id| case.known.kept.contains(id) && !ids.contains(id)).collect();
        if self.kind.sync && !lost.is_empty() {
            fault("lost", &span(&lost));
        } else {
            self.tally.count("taken without --sync", lost.len());
        }
        let response = server.post_with(&format!("/{name}"), "", "after the power cut");
        let id =
            Id::parse(response.text().trim_end()).ok_or_else(|| format!("{} {}", response.status, response.text()))?;
        if case.known.received.keys().chain(&ids).any(|received| *received >= id) {
            self.tally.fault("of two meanings", || format!("{}; the next id is {id}", case.description));
        }
        let after = all(server, name)?;
        let (old, new) = after.rsplit_once("data: after").unwrap_or_default();
        if !before.ends_with(old) || new != format!(" the power cut\nid: {id}\n\n") {
            return Err(format!("a POST makes {before:?} {after:?}"));
        }
        Ok(after)
    }
}

/// Describes ids for a person.
fn span<'a>(ids: impl IntoIterator<Item = &'a (impl Display + 'a)>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    match &ids[..] {
        [] => "nothing".into(),
        [id] => id.clone(),
        [first, .., last] => format!("{} ids from {first} to {last}", ids.len()),
    }
}

/// Returns all events of a channel, without the prelude.
fn all(server: &Tincan, name: &str) -> Result<String, String> {
    let response = server.get(&format!("/{name}?since=all&wait=0"));
    let text = String::from_utf8_lossy(&response.body).into_owned();
    match text.split_once("\n\n") {
        Some((_, rest)) if response.status == 200 => Ok(rest.into()),
        _ => Err(format!("{} {text}", response.status)),
    }
}

/// Runs one life, and tries its states: at most `most` of them at each crash point.
fn try_life(kind: Kind, library: &Path, seed: u64, most: usize) -> Tally {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let clock = if kind.still { 1_763_654_400 } else { now } - 1000;
    let mut trial = Trial {
        kind,
        library: library.into(),
        clock: clock.to_string(),
        tally: Tally::default(),
        batch: Vec::new(),
        tried: HashSet::new(),
    };
    let mut life = Life {
        kind,
        library: library.into(),
        scratch: Scratch::new(),
        random: Random(seed),
        posts: 0,
        server: None,
        subscribers: Vec::new(),
        address: String::new(),
    };
    fs::create_dir(life.at("data")).unwrap();
    if let Err(message) = life.live() {
        trial.tally.fault("starts that failed", || format!("in the life, which ends here: {message}"));
    }
    life.end();
    let records = records(&fs::read(life.at("journal")).unwrap());
    same(&records, &life.at("data"));
    trial.all(&records, most, &mut life.random);
    trial.tally
}

/// Checks that the journal is complete: the files that it describes are the files in the directory.
fn same(records: &[Record], dir: &Path) {
    let mut disk = Disk::default();
    records.iter().enumerate().for_each(|(at, record)| disk.apply(at, record));
    let in_journal: State = disk.now.iter().map(|(name, file)| (name.clone(), disk.files[*file].now.bytes())).collect();
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let in_directory: State =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect();
    assert!(in_journal == in_directory, "{:?} and {:?}", in_journal.keys(), in_directory.keys());
}

/// Runs a life of each kind at the same time, and prints the results.
fn try_all(seed: u64, most: usize) -> Tally {
    let scratch = Scratch::new();
    let library = scratch.0.join("disk.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/core/disk.c");
    let mut sum = Tally::default();
    if !works(&format!("cc -shared -fPIC -pthread -o {} {source}", library.display())) {
        return sum;
    }
    let library = &library;
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let lives: Vec<_> =
            KINDS.iter().map(|kind| scope.spawn(move || try_life(*kind, library, seed, most))).collect();
        lives.into_iter().map(|life| life.join().unwrap()).collect()
    });
    for (kind, tally) in KINDS.iter().zip(tallies) {
        println!("{}, seed {seed}: {:?}", kind.name, tally.counts);
        assert!(
            kind.sync || tally.get("taken without --sync") > 0,
            "a disk under disk.c must forget writes that were not synced"
        );
        sum.add(tally);
    }
    sum
}

/// Prints the sum, and asserts that there is no fault.
fn judged(sum: &Tally) {
    let figures = ["crash points", "states", "received"].map(|row| format!("{} {row}", sum.get(row)));
    let faults = FAULTS.map(|fault| format!("{} {fault}", sum.get(fault)));
    println!("{}: {}", figures.join(", "), faults.join(", "));
    let examples: Vec<String> =
        sum.examples.iter().flat_map(|(fault, list)| list.iter().map(move |text| format!("{fault}: {text}"))).collect();
    assert!(sum.faults() == 0, "\n{}", examples.join("\n"));
}

#[test]
fn a_sample_of_the_crash_points() {
    judged(&try_all(1, 6));
}

#[test]
#[ignore = "takes minutes"]
fn every_crash_point() {
    let number = |name: &str, other: u64| std::env::var(name).map_or(other, |text| text.parse().unwrap());
    let (mut seed, time) = (number("CRASH_SEED", 1), Duration::from_secs(number("CRASH_SECONDS", 60)));
    let (mut sum, began) = (Tally::default(), Instant::now());
    while seed == number("CRASH_SEED", 1) || began.elapsed() < time {
        println!("seed {seed}");
        sum.add(try_all(seed, 100));
        seed += 1;
    }
    judged(&sum);
}

#[test]
fn the_model_keeps_what_was_synced_and_any_part_of_the_rest() {
    let lines = [
        ("create 1 .a.new", 0),
        ("write 1 0 5000", 5000),
        ("rename 1 .a.new a.sse", 0),
        ("begin x 1", 0),
        ("write 1 5000 4000", 4000),
        ("end x ok", 0),
    ];
    let mut disk = Disk::default();
    for (at, (line, len)) in lines.into_iter().enumerate() {
        disk.apply(at, &Record { line: line.into(), bytes: vec![b'0' + at as u8; len] });
    }
    let doubts = disk.doubts("a");
    let expected = [(Doubt::Page(0, 1), 1), (Doubt::Page(0, 2), 1), (Doubt::Length(0), 1)];
    assert_eq!(doubts, expected.into_iter().chain([(Doubt::Name(0), 1), (Doubt::Name(1), 1)]).collect());
    assert_eq!(disk.state("a", &Choice::new()), State::new(), "no name is on the disk");
    let named = |more: &[Doubt]| -> Vec<u8> {
        let choice = more.iter().chain(&[Doubt::Name(1)]).map(|doubt| (*doubt, 1)).collect();
        disk.state("a", &choice).remove("a.sse").unwrap()
    };
    let bytes = |parts: &[(u8, usize)]| parts.iter().flat_map(|(byte, n)| vec![*byte; *n]).collect::<Vec<u8>>();
    assert!(named(&[]) == bytes(&[(b'1', 5000)]));
    assert!(named(&[Doubt::Page(0, 1)]) == bytes(&[(b'1', 5000)]), "a page ends where the file does");
    assert!(named(&[Doubt::Length(0)]) == bytes(&[(b'1', 5000), (0, 4000)]));
    let hole = named(&[Doubt::Length(0), Doubt::Page(0, 2)]);
    assert!(hole == bytes(&[(b'1', 5000), (0, 3192), (b'4', 808)]));
    let tried = |most| choices(&doubts, most, &mut Random(1));
    assert_eq!(tried(99).into_iter().collect::<BTreeSet<Choice>>().len(), 32, "all choices");
    assert_eq!(tried(10).len(), 10, "a sample of the choices");

    // A failed sync forgets pages until they are written again, even if a later sync succeeds.
    let more = ["begin y 1", "end y failed", "begin z 1", "end z ok", "write 1 8990 10", "begin w 1", "end w ok"];
    for (at, line) in (lines.len()..).zip(more) {
        let len = if line.starts_with("write") { 10 } else { 0 };
        disk.apply(at, &Record { line: line.into(), bytes: vec![b'+'; len] });
        let left: Vec<Doubt> = disk.doubts("a").into_keys().filter(|doubt| !matches!(doubt, Doubt::Name(_))).collect();
        match line {
            "end z ok" => assert_eq!(left, [Doubt::Page(0, 1), Doubt::Page(0, 2)]),
            "end w ok" => assert_eq!(left, [Doubt::Page(0, 1)]),
            _ => {}
        }
    }
}

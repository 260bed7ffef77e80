//! Channels whose logs are Redis streams, which many nodes share: publish there, and follow what is published.
//!
//! A channel of this node holds a copy of the stream's last `--history` bytes, and its readers read that: the log is the
//! same, only somebody else numbers it. Two connections serve all channels. One sends commands (`Pipe`). On the other a
//! thread *follows*: an `XREAD BLOCK` of all streams in use, over and over; a new channel interrupts it (`CLIENT UNBLOCK`).
//!
//! *Nothing doubled.* An `XADD` whose reply was lost is not sent again before it is known that it was not, and will not be,
//! carried out: `Pipe` ends the lost connection, and then the stream has an entry with this `post`, or it has not.
//!
//! *A gap is told whenever in doubt.* What this node goes on from, it looks for again: after each new connection, where it
//! fell far behind, and once a second while there is news. Where that entry is gone, its readers hear of a gap. Where what
//! is gone was acknowledged here, or the stream's ids fell back, other nodes cannot know; then a `gap` event is added to the
//! stream for all, with an id above all that were seen, so that no id is given out twice.
//!
//! Limits: `PAGE`, `BLOCK`, `PATIENCE`. Shortcut: all nodes should have the same `--history`; the smallest one counts.

use crate::channel::{Channel, lock};
use crate::event::Event;
use crate::id::Id;
use crate::log::{From, Gap, Log};
use crate::redis::{ANSWER, Failed, Link, Pipe, pause};
use crate::reject::{REDIS_AWAY, REDIS_LOST, REDIS_REFUSES, Reject};
use crate::resp::{Address, Reply, command};
use crate::stream::{self, Entry, PREFIX, above, below, field, id, id_of, key};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Limit: entries of one stream in one reply.
const PAGE: usize = 1000;
/// Limit: how long an `XREAD` waits for news.
const BLOCK: Duration = Duration::from_secs(1);
/// Limit: how long a publisher or a reader waits while Redis is away, and one round trip more.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often what we go on from is looked for while there is news.
const CHECK: Duration = Duration::from_secs(1);
/// The pause before the same is asked again.
const AGAIN: Duration = Duration::from_millis(20);

/// Tells the pump that a channel has news.
pub type Wake = Box<dyn Fn(&Arc<Channel>) + Send + Sync>;

/// A channel that is followed.
#[derive(Debug)]
struct Followed {
    channel: Weak<Channel>,
    acked: Id, // the last that a publisher here was told of
    checked: Instant,
    told: Id, // a gap was told behind this one
}

/// What the channels of this node have in common.
pub struct Cluster {
    pipe: Pipe,
    history: usize,
    node: String,
    posts: AtomicU64,
    followed: Mutex<BTreeMap<String, Followed>>,
    changes: AtomicU64,  // of `followed`
    seen: AtomicU64,     // how many of them are in the XREAD under way
    follower: AtomicI64, // its connection's number
    thread: OnceLock<Thread>,
    connected: AtomicBool,
    connections: AtomicU64,
    current: Mutex<Instant>, // when this node last had everything
    state: Mutex<String>,    // as it was last told on standard error
    wake: Wake,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.pipe.address())
    }
}

impl Cluster {
    /// A node of the Redis at this address, whose channels keep so many bytes; `wake` tells the pump of news. It connects
    /// when something is asked for, or followed.
    pub fn new(address: Address, history: usize, wake: Wake) -> Cluster {
        Cluster {
            pipe: Pipe::new(address),
            history,
            node: format!("{:016x}", RandomState::new().hash_one(())),
            posts: AtomicU64::new(1),
            followed: Mutex::default(),
            changes: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            follower: AtomicI64::new(0),
            thread: OnceLock::new(),
            connected: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            current: Mutex::new(Instant::now()),
            state: Mutex::default(),
            wake,
        }
    }

    /// Tells a person, where it is news.
    fn say(&self, news: String) {
        let mut state = lock(&self.state);
        if *state != news {
            let _ = writeln!(io::stderr(), "tincan: redis: {}: {news}", self.pipe.address());
            *state = news;
        }
    }

    /// What a publisher is told of an error of Redis's.
    fn refused(&self, why: &str) -> Reject {
        self.say(format!("refuses events: {why}"));
        REDIS_REFUSES
    }

    /// The channel of this name, with what Redis has of it. It is followed until it is dropped.
    ///
    /// # Errors
    /// [`REDIS_AWAY`], [`REDIS_REFUSES`].
    pub fn open(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let (key, page) = (key(name), PAGE.to_string());
        let mut commands = Vec::new();
        command(&["XRANGE", &key, "-", "+", "COUNT", &page], &mut commands);
        command(&["XINFO", "STREAM", &key], &mut commands);
        let replies = self.pipe.call(commands, 2).map_err(|_| REDIS_AWAY)?;
        let [range, info] = &replies[..] else { return Err(REDIS_AWAY) };
        if let Reply::Error(why) = range {
            return Err(self.refused(why));
        }
        // Redis 7 counts what was ever added. Where nothing was taken away, what is there is all.
        let whole = info.get("entries-added").is_some_and(|added| Some(added) == info.get("length"));
        let first = range.list().first().and_then(id_of).or_else(|| info.get("first-entry").and_then(id_of));
        let last = info.get("last-generated-id").and_then(id).unwrap_or_default();
        let start = if whole { Id::default() } else { first.map_or(last, below) };
        let channel = Arc::new(Channel::new(name, Log::copy(start, self.history)));
        let (mut page, mut first) = (range.list().to_vec(), true);
        loop {
            self.take(name, &channel, &page, !first).map_err(|_| REDIS_AWAY)?;
            if page.len() < PAGE {
                break;
            }
            (page, first) = (self.range(&key, &format!("({}", channel.last()))?, false);
        }
        let (now, acked) = (Instant::now(), Id::default());
        let followed = Followed { channel: Arc::downgrade(&channel), acked, checked: now, told: start };
        lock(&self.followed).insert(name.into(), followed);
        self.interrupt(self.changes.fetch_add(1, SeqCst) + 1);
        Ok(channel)
    }

    /// A page of a stream's entries.
    fn range(&self, key: &str, from: &str) -> Result<Vec<Reply>, Reject> {
        let page = PAGE.to_string();
        match self.pipe.ask(&["XRANGE", key, from, "+", "COUNT", &page]) {
            Ok(Reply::List(entries)) => Ok(entries),
            Ok(Reply::Error(why)) => Err(self.refused(&why)),
            _ => Err(REDIS_AWAY),
        }
    }

    /// Has the follower begin its `XREAD` again, so that it knows of this change.
    fn interrupt(&self, change: u64) {
        let until = Instant::now() + PATIENCE;
        while self.connected.load(SeqCst) && self.seen.load(SeqCst) < change && Instant::now() < until {
            let follower = self.follower.load(SeqCst).to_string();
            match self.pipe.ask(&["CLIENT", "UNBLOCK", &follower]) {
                Ok(Reply::Number(0)) => thread::sleep(Duration::from_millis(1)), // it is about to begin
                _ => return, // where it may not be interrupted, it begins again when BLOCK is over
            }
        }
    }

    /// Waits until this node has what its reader was told elsewhere, or here.
    ///
    /// # Errors
    /// [`REDIS_AWAY`] where that cannot be known.
    pub fn catch_up(&self, name: &str, channel: &Channel, from: &From) -> Result<(), Reject> {
        let asked = if let From::After(text) = from { Id::parse(text) } else { None };
        if let Some(asked) = asked.filter(|asked| *asked > channel.last()) {
            let info = self.info(name).map_err(|_| REDIS_AWAY)?;
            let last = info.get("last-entry").and_then(id_of).unwrap_or_default();
            return if channel.wait_for(asked.min(last), PATIENCE) { Ok(()) } else { Err(REDIS_AWAY) };
        }
        channel.wait_for(self.acked(name), PATIENCE);
        Ok(())
    }

    fn info(&self, name: &str) -> Result<Reply, Failed> {
        self.pipe.ask(&["XINFO", "STREAM", &key(name)])
    }

    fn acked(&self, name: &str) -> Id {
        lock(&self.followed).get(name).map_or(Id::default(), |f| f.acked)
    }

    /// Has the follower connect at once, for Redis is there.
    fn wake_follower(&self) {
        if !self.connected.load(SeqCst) {
            self.thread.get().inspect(|thread| thread.unpark());
        }
    }

    /// What marks so many events as published here.
    fn posts(&self, count: usize) -> Vec<String> {
        let first = self.posts.fetch_add(count as u64, Relaxed);
        (first..).take(count).map(|number| format!("{}-{number}", self.node)).collect()
    }

    /// Adds events to the stream, all or none; where an address is given, they are for all `but` that reader. Returns
    /// their ids.
    ///
    /// # Errors
    /// [`REDIS_AWAY`], [`REDIS_REFUSES`], [`REDIS_LOST`].
    pub fn publish(
        &self, name: &str, channel: &Channel, events: &[Event], but: Option<&str>,
    ) -> Result<Vec<Id>, Reject> {
        let until = Instant::now() + PATIENCE;
        let acked = self.acked(name);
        if self.connected.load(SeqCst) {
            channel.wait_for(acked, PATIENCE); // else a flood could drop what this node has not read yet
        }
        let posts = self.posts(events.len());
        loop {
            let last = channel.last();
            let (commands, replies) = stream::add_all(name, events, but, &posts, last.max(acked), channel.kept());
            let ids = match self.pipe.call(commands, replies) {
                Err(Failed::Unsent) => return Err(REDIS_AWAY),
                Err(Failed::Lost) => self.look_for(name, last, &posts, !channel.is_empty(), until)?,
                Ok(mut replies) => {
                    let reply = replies.pop().unwrap_or(Reply::Null);
                    let several = matches!(reply, Reply::List(_));
                    let added = if several { reply.list() } else { std::slice::from_ref(&reply) };
                    if let Some(Reply::Error(why)) = added.iter().find(|r| matches!(r, Reply::Error(_))) {
                        return Err(self.refused(why));
                    }
                    added.iter().map(id).collect()
                }
            };
            if let Some(ids) = ids.filter(|ids: &Vec<Id>| ids.len() == events.len()) {
                if let (Some(f), Some(last)) = (lock(&self.followed).get_mut(name), ids.last()) {
                    f.acked = f.acked.max(*last);
                }
                if lock(&self.state).starts_with("refuses") {
                    self.say("takes events again".into());
                }
                self.wake_follower();
                return Ok(ids);
            }
            if Instant::now() >= until {
                return Err(REDIS_AWAY);
            }
            // The stream is gone: whoever takes its name next begins above all that was said.
            if self.info(name).is_ok_and(|info| matches!(info, Reply::Error(_))) {
                let _ = self.announce(name, channel.last().max(acked), true);
            }
        }
    }

    /// Looks for events whose reply was lost, behind the last one that was there before. Returns their ids; nothing where
    /// they were not added, and will not be.
    fn look_for(
        &self, name: &str, last: Id, posts: &[String], was_there: bool, until: Instant,
    ) -> Result<Option<Vec<Id>>, Reject> {
        let key = key(name);
        let ours = |entry: &&Reply| field(entry, "post").is_some_and(|post| posts.iter().any(|p| p.as_bytes() == post));
        while Instant::now() < until {
            let (mut found, mut from, mut sure) = (Vec::new(), last.to_string(), !was_there);
            while let Ok(page) = self.range(&key, &from) {
                // Where that one is gone, so may be what came behind it.
                sure |= page.first().and_then(id_of) == Some(last);
                found.extend(page.iter().filter(ours).filter_map(id_of));
                from = format!("({}", page.last().and_then(id_of).unwrap_or_default());
                if found.len() == posts.len() {
                    return Ok(Some(found));
                }
                if page.len() < PAGE {
                    return if sure && self.pipe.is_settled() { Ok(None) } else { Err(REDIS_LOST) };
                }
            }
            thread::sleep(AGAIN);
        }
        Err(REDIS_LOST)
    }

    /// Adds a `gap` behind this id to the stream, for the readers of all nodes; `raise`: with an id above it, unless the
    /// stream has such ids already.
    fn announce(&self, name: &str, top: Id, raise: bool) -> Result<(), Failed> {
        let gap = Gap { from: None, lost: None }.event(&top.to_string());
        let (id, mut commands) = (if raise { above(top).to_string() } else { "*".into() }, Vec::new());
        self.posts(1).iter().for_each(|post| stream::add(name, &[&id], &gap, None, post, &mut commands));
        self.pipe.call(commands, 1)?;
        self.told(name, |f| f.acked = Id::default());
        Ok(())
    }

    /// Notes that a gap is told behind what this node has.
    fn told(&self, name: &str, also: impl Fn(&mut Followed)) {
        if let Some(f) = lock(&self.followed).get_mut(name)
            && let Some(channel) = f.channel.upgrade()
        {
            (f.told, f.checked) = (channel.last(), Instant::now());
            also(f);
        }
    }

    /// Whether a stream still has this entry, or nothing came behind it.
    fn has(&self, name: &str, id: Id) -> Result<bool, Failed> {
        let (key, at) = (key(name), id.to_string());
        let there = self.pipe.ask(&["XRANGE", &key, &at, &at])?;
        Ok(!there.list().is_empty())
    }

    /// Takes over a page of entries; with `doubt`, only after a look whether they do follow what is there.
    fn take(&self, name: &str, channel: &Arc<Channel>, page: &[Reply], doubt: bool) -> Result<(), Failed> {
        let last = channel.last();
        let entries: Vec<Entry> = page.iter().filter_map(Entry::read).filter(|entry| entry.id > last).collect();
        let [first, ..] = &entries[..] else { return Ok(()) };
        let pump = || (self.wake)(channel);
        // What was acknowledged here must come by.
        let acked = self.acked(name);
        let passed = last < acked && entries.last().is_some_and(|e| acked <= e.id);
        let lost = passed && !entries.iter().any(|e| e.id == acked);
        let told = page.first().and_then(|entry| field(entry, "event")) == Some(b"gap");
        if lost || (doubt && !told && !self.has(name, last)?) {
            channel.gap(&Gap { from: Some(first.id), lost: None }.event(&last.to_string()), pump);
            self.told(name, |_| ());
        }
        if lost {
            self.announce(name, acked, false)?;
        }
        channel.take(&entries, pump);
        pump();
        Ok(())
    }

    /// After a new connection: looks whether Redis still has what each channel goes on from.
    fn check(&self) -> Result<(), Failed> {
        let mut tops = Vec::new();
        let mut commands = Vec::new();
        for (name, f) in lock(&self.followed).iter() {
            let Some(channel) = f.channel.upgrade() else { continue };
            let (last, acked) = (channel.last(), f.acked);
            let top = last.max(acked);
            if top > f.told {
                let (key, at) = (key(name), top.to_string());
                command(&["XRANGE", &key, &at, &at], &mut commands);
                tops.push((name.clone(), channel, last, acked, top));
            }
        }
        let there = if tops.is_empty() { Vec::new() } else { self.pipe.call(commands, tops.len())? };
        for ((name, channel, last, acked, top), there) in tops.into_iter().zip(there) {
            if !there.list().is_empty() {
                continue;
            }
            let info = self.info(&name)?;
            let newest = info.get("last-generated-id").and_then(id).unwrap_or_default();
            let first = info.get("first-entry").and_then(id_of).unwrap_or_default();
            if newest < top {
                self.announce(&name, top, true)?;
            } else if newest > top {
                let from = Some(first).filter(|first| *first > last);
                channel.gap(&Gap { from, lost: None }.event(&last.to_string()), || (self.wake)(&channel));
                (self.wake)(&channel);
                self.told(&name, |_| ());
                if acked > last || (acked == top && first <= top) {
                    self.announce(&name, acked, false)?;
                }
            }
        }
        Ok(())
    }

    /// The life of the thread that follows.
    pub fn follow(&self) -> ! {
        let _ = self.thread.set(thread::current());
        let mut failures = 0;
        loop {
            // A panic is a bug; it must not end what all channels live from.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow_on(&mut failures)));
            self.connected.store(false, SeqCst);
            let why = followed.map_or("a bug".into(), |end| end.map_or_else(|e| e.to_string(), |()| "it ended".into()));
            self.say(format!("away: {why}"));
            thread::sleep(AGAIN);
            thread::park_timeout(pause(failures)); // or until somebody has an answer
            failures = failures.saturating_add(1);
        }
    }

    /// Follows on a new connection, until that fails.
    fn follow_on(&self, failures: &mut u32) -> io::Result<()> {
        let mut link = Link::connect(self.pipe.address())?;
        self.pipe.retry();
        self.check().map_err(|_| io::Error::other("it is lost again"))?;
        self.follower.store(link.id.unwrap_or_default(), SeqCst);
        self.connected.store(true, SeqCst);
        self.connections.fetch_add(1, Relaxed);
        self.say("connected".into());
        *failures = 0;
        loop {
            self.read(&mut link)?;
        }
    }

    /// Waits for news of the channels in use, and takes them over.
    fn read(&self, link: &mut Link) -> io::Result<()> {
        let change = self.changes.load(SeqCst);
        let (mut keys, mut lasts) = (vec![PREFIX.to_string()], vec!["$".to_string()]);
        lock(&self.followed).retain(|name, f| {
            let channel = f.channel.upgrade();
            keys.extend(channel.iter().map(|_| key(name)));
            lasts.extend(channel.iter().map(|channel| channel.last().to_string()));
            channel.is_some()
        });
        self.seen.store(change, SeqCst);
        let count = (4 * PAGE / keys.len()).clamp(16, PAGE);
        let (page, block) = (count.to_string(), BLOCK.as_millis().to_string());
        let mut words = vec!["XREAD", "COUNT", &page, "BLOCK", &block, "STREAMS"];
        words.extend(keys.iter().chain(&lasts).map(String::as_str));
        let mut commands = Vec::new();
        command(&words, &mut commands);
        link.send(&commands, BLOCK + ANSWER)?;
        let reply = link.reply()?;
        if let Reply::Error(why) = reply {
            return Err(io::Error::other(why));
        }
        let mut behind = false;
        for stream in reply.list() {
            let [name, Reply::List(entries)] = stream.list() else { continue };
            let name = name.text().and_then(|key| std::str::from_utf8(key).ok()?.strip_prefix(PREFIX));
            let followed = |name| {
                let mut followed = lock(&self.followed);
                let f = followed.get_mut(name)?;
                let channel = f.channel.upgrade()?;
                let doubt = f.told < channel.last() && (entries.len() >= count || f.checked.elapsed() >= CHECK);
                f.checked = if doubt { Instant::now() } else { f.checked };
                Some((channel, doubt))
            };
            let Some((name, (channel, doubt))) = name.and_then(|name| Some((name, followed(name)?))) else { continue };
            behind |= entries.len() >= count;
            self.take(name, &channel, entries, doubt).map_err(|_| io::Error::other("it is lost again"))?;
        }
        if !behind {
            *lock(&self.current) = Instant::now();
        }
        Ok(())
    }

    /// Whether events could be published: asks for one to be added to a stream that is not there.
    ///
    /// # Errors
    /// [`REDIS_AWAY`], [`REDIS_REFUSES`].
    pub fn health(&self) -> Result<(), Reject> {
        match self.pipe.ask(&["XADD", PREFIX, "NOMKSTREAM", "*", "data", ""]) {
            Ok(Reply::Error(why)) => Err(self.refused(&why)),
            Ok(_) => Ok(()),
            Err(_) => Err(REDIS_AWAY),
        }
    }

    /// Name, type, help and value of each metric.
    pub fn metrics(&self) -> [(&'static str, &'static str, &'static str, String); 3] {
        let (connected, connections) = (self.connected.load(SeqCst), self.connections.load(Relaxed));
        let lag = lock(&self.current).elapsed().as_secs_f64();
        let again = connections.saturating_sub(1).to_string();
        [
            ("redis_connected", "gauge", "Whether this node follows Redis.", u8::from(connected).to_string()),
            (
                "redis_lag_seconds",
                "gauge",
                "Since when this node may lack something; up to 1 is usual.",
                format!("{lag:.3}"),
            ),
            ("redis_reconnections_total", "counter", "Connections to Redis after the first.", again),
        ]
    }
}

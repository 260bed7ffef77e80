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
//! Limits: `PAGE`, `REPLY`, `PATIENCE`. Shortcut: all nodes should have the same `--history`; the smallest one counts.

use crate::channel::{Channel, lock};
use crate::event::Event;
use crate::flags::Config;
use crate::id::Id;
use crate::log::{From, Gap, Log};
use crate::redis::{Failed, Pipe};
use crate::reject::{REDIS_AWAY, REDIS_LOST, REDIS_REFUSES, Reject};
use crate::resp::{Address, Reply, command};
use crate::secrets::{Byte, visible};
use crate::stream::{self, Entry, PREFIX, above, below, field, id, id_of, key};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Limit: entries of one stream in one reply.
pub(crate) const PAGE: usize = 256;
/// Limit: bytes of a reply, and one event and a whole stream more.
const REPLY: usize = 32 << 20;
/// Limit: how long a publisher or a reader waits while Redis is away, and one round trip more.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before the same is asked again.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

const REFUSES: &str = "refuses events";

/// Tells the pump that a channel has news.
pub type Wake = Box<dyn Fn(&Arc<Channel>) + Send + Sync>;

/// A channel that is followed.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) channel: Weak<Channel>,
    pub(crate) acked: Id,                // the last that a publisher here was told of
    pub(crate) checked: Option<Instant>, // when it was last known to go on from what Redis has
    pub(crate) told: Id,                 // a gap was told behind this one
    pub(crate) barred: bool,             // Redis does not let us read it, for it is no stream or not ours to read
}

/// What the channels of this node have in common.
pub struct Cluster {
    pub(crate) pipe: Pipe,
    history: usize,
    node: String,
    posts: AtomicU64,
    pub(crate) followed: Mutex<BTreeMap<String, Followed>>,
    pub(crate) changes: AtomicU64,  // of `followed`
    pub(crate) seen: AtomicU64,     // how many of them are in the XREAD under way
    pub(crate) follower: AtomicI64, // its connection's number
    pub(crate) thread: OnceLock<Thread>,
    pub(crate) connected: AtomicBool,
    pub(crate) connections: AtomicU64,
    pub(crate) current: Mutex<Instant>, // when this node last had everything
    state: Mutex<String>,               // as it was last told on standard error
    pub(crate) wake: Wake,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.pipe.address)
    }
}

/// Whether nothing was ever taken from a stream, as far as it is known: Redis 7 counts what was added.
fn is_whole(info: &Reply) -> bool {
    info.get("entries-added").is_some_and(|added| Some(added) == info.get("length"))
}

/// Whether a stream may just have dropped this entry as one of its oldest.
pub(crate) fn is_trimmed(info: &Reply, id: Id) -> bool {
    !is_whole(info) && info.get("first-entry").and_then(id_of).is_some_and(|first| first > id)
}

impl Cluster {
    /// A node of the Redis at this address; `wake` tells the pump of news. It connects when something is asked for, or
    /// followed.
    pub fn new(address: Address, config: &Config, wake: Wake) -> Cluster {
        let most = REPLY.saturating_add(config.history).saturating_add(config.max_body) as u64;
        Cluster {
            pipe: Pipe::new(address, most),
            history: config.history,
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
    pub(crate) fn say(&self, news: String) {
        let mut state = lock(&self.state);
        if *state != news {
            let text: Vec<Byte> = news.bytes().map(|b| (b, false)).collect(); // in part what Redis says
            let _ = writeln!(io::stderr(), "tincan: redis: {}: {}", self.pipe.address, visible(&text));
            *state = news;
        }
    }

    /// What a publisher is told of an error of Redis's.
    fn refused(&self, why: &str) -> Reject {
        self.say(format!("{REFUSES}: {why}"));
        REDIS_REFUSES
    }

    fn reject(&self, failed: Failed) -> Reject {
        if let Failed::Refused(why) = failed { self.refused(&why) } else { REDIS_AWAY }
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
        let first = range.list().first().and_then(id_of).or_else(|| info.get("first-entry").and_then(id_of));
        let last = info.get("last-generated-id").and_then(id).unwrap_or_default();
        let start = if is_whole(info) { Id::default() } else { first.map_or(last, below) };
        let channel = Arc::new(Channel::new(name, Log::copy(start, self.history)));
        self.load(name, &channel, range.list().to_vec(), false).map_err(|failed| self.reject(failed))?;
        let (checked, acked) = (Some(Instant::now()), Id::default());
        let followed = Followed { channel: Arc::downgrade(&channel), acked, checked, told: start, barred: false };
        lock(&self.followed).insert(name.into(), followed);
        self.interrupt(self.changes.fetch_add(1, SeqCst) + 1);
        Ok(channel)
    }

    /// A page of a stream's entries.
    pub(crate) fn range(&self, name: &str, from: &str) -> Result<Vec<Reply>, Failed> {
        match self.pipe.ask(&["XRANGE", &key(name), from, "+", "COUNT", &PAGE.to_string()])? {
            Reply::List(entries) => Ok(entries),
            _ => Err(Failed::Refused("it answers without entries".into())),
        }
    }

    /// Takes over a page, and all that follow it; with `doubt` as [`Cluster::take`].
    pub(crate) fn load(
        &self, name: &str, channel: &Arc<Channel>, mut page: Vec<Reply>, mut doubt: bool,
    ) -> Result<(), Failed> {
        loop {
            let last = channel.last();
            self.take(name, channel, &page, doubt)?;
            if page.len() < PAGE || channel.last() == last {
                return Ok(());
            }
            (page, doubt) = (self.range(name, &format!("({}", channel.last()))?, true);
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
            let info = self.info(name).map_err(|failed| self.reject(failed))?;
            let last = info.get("last-entry").and_then(id_of).unwrap_or_default();
            return if channel.wait_for(asked.min(last), PATIENCE) { Ok(()) } else { Err(REDIS_AWAY) };
        }
        channel.wait_for(self.acked(name), PATIENCE);
        Ok(())
    }

    /// What Redis knows of a stream; nothing where there is none.
    pub(crate) fn info(&self, name: &str) -> Result<Reply, Failed> {
        match self.pipe.ask(&["XINFO", "STREAM", &key(name)]) {
            Err(Failed::Refused(why)) if why == "ERR no such key" => Ok(Reply::Null),
            info => info,
        }
    }

    fn acked(&self, name: &str) -> Id {
        lock(&self.followed).get(name).map_or(Id::default(), |f| f.acked)
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
        let acked = self.acked(name);
        if self.connected.load(SeqCst) {
            channel.wait_for(acked, PATIENCE); // else a flood could drop what this node has not read yet
        }
        let (posts, until, mut told) = (self.posts(events.len()), Instant::now() + PATIENCE, false);
        while Instant::now() < until {
            let last = channel.last();
            let (commands, replies) = stream::add_all(name, events, but, &posts, last.max(acked), channel.kept());
            let added = match self.pipe.call(commands, replies) {
                Err(failed @ (Failed::Unsent | Failed::Refused(_))) => return Err(self.reject(failed)),
                Err(Failed::Lost) => self.look_for(name, last, &posts, !channel.is_empty(), until)?,
                Ok(mut replies) => match replies.pop() {
                    Some(Reply::List(replies)) => Some(replies),
                    reply => reply.map(|reply| vec![reply]),
                },
            };
            match added {
                Some(ids) if ids.len() == events.len() && ids.iter().all(|reply| id(reply).is_some()) => {
                    let ids: Vec<Id> = ids.iter().filter_map(id).collect();
                    self.added(name, &ids);
                    return Ok(ids);
                }
                Some(gone) if gone.iter().all(|reply| *reply == Reply::Null) && !told => {
                    // Whoever takes the stream's name next begins above all that was said.
                    told = self.announce(name, channel.last().max(acked), true).is_ok();
                }
                Some(other) => {
                    let error =
                        other.iter().find_map(|reply| if let Reply::Error(why) = reply { Some(&**why) } else { None });
                    return Err(self.refused(error.unwrap_or("it answers without an id")));
                }
                None => thread::sleep(AGAIN), // it was not sent, or in vain
            }
        }
        Err(REDIS_AWAY)
    }

    /// Notes what was published.
    fn added(&self, name: &str, ids: &[Id]) {
        if let (Some(f), Some(last)) = (lock(&self.followed).get_mut(name), ids.last()) {
            f.acked = f.acked.max(*last);
        }
        if lock(&self.state).starts_with(REFUSES) {
            self.say("takes events again".into());
        }
        if !self.connected.load(SeqCst) && self.pipe.is_fresh() {
            self.thread.get().inspect(|thread| thread.unpark()); // the follower connects at once
        }
    }

    /// Looks for events whose reply was lost, behind the last one that was there before. Returns their ids; none where
    /// they were not added, and will not be.
    fn look_for(
        &self, name: &str, last: Id, posts: &[String], was_there: bool, until: Instant,
    ) -> Result<Option<Vec<Reply>>, Reject> {
        let ours = |entry: &&Reply| field(entry, "post").is_some_and(|post| posts.iter().any(|p| p.as_bytes() == post));
        while Instant::now() < until {
            let (mut found, mut from, mut sure) = (Vec::new(), last.to_string(), !was_there);
            while let Ok(page) = self.range(name, &from) {
                // Where that one is gone, so may be what came behind it.
                sure |= page.first().and_then(id_of) == Some(last);
                found.extend(page.iter().filter(ours).filter_map(|entry| entry.list().first().cloned()));
                from = format!("({}", page.last().and_then(id_of).unwrap_or_default());
                if found.len() == posts.len() {
                    return Ok(Some(found));
                }
                if page.len() < PAGE || Instant::now() >= until {
                    sure &= page.len() < PAGE;
                    return if sure && self.pipe.is_settled() { Ok(None) } else { Err(REDIS_LOST) };
                }
            }
            thread::sleep(AGAIN);
        }
        Err(REDIS_LOST)
    }

    /// Adds a `gap` behind this id to the stream, for the readers of all nodes; `raise`: with an id above it, unless the
    /// stream has such ids already.
    pub(crate) fn announce(&self, name: &str, top: Id, raise: bool) -> Result<(), Failed> {
        let gap = Gap { from: None, lost: None }.event(&top.to_string());
        let (id, mut commands) = (if raise { above(top).to_string() } else { "*".into() }, Vec::new());
        self.posts(1).iter().for_each(|post| stream::add(name, &[&id], &gap, None, post, &mut commands));
        match self.pipe.call(commands, 1)?.pop() {
            Some(Reply::Error(why)) if !why.starts_with("ERR The ID") => return Err(Failed::Refused(why)),
            _ => {} // it is there, or the stream has greater ids
        }
        self.told(name, |f| f.acked = Id::default());
        Ok(())
    }

    /// Notes that a gap is told behind what this node has.
    pub(crate) fn told(&self, name: &str, also: impl Fn(&mut Followed)) {
        if let Some(f) = lock(&self.followed).get_mut(name)
            && let Some(channel) = f.channel.upgrade()
        {
            (f.told, f.checked) = (channel.last(), Some(Instant::now()));
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
    pub(crate) fn take(&self, name: &str, channel: &Arc<Channel>, page: &[Reply], doubt: bool) -> Result<(), Failed> {
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
        if lost && !is_trimmed(&self.info(name)?, acked) {
            self.announce(name, acked, false)?;
        }
        channel.take(&entries, pump);
        pump();
        Ok(())
    }

    /// Whether events could be published: asks for one to be added to a stream that is not there.
    ///
    /// # Errors
    /// [`REDIS_AWAY`], [`REDIS_REFUSES`].
    pub fn health(&self) -> Result<(), Reject> {
        let added = self.pipe.ask(&["XADD", PREFIX, "NOMKSTREAM", "*", "data", ""]);
        added.map(|_| ()).map_err(|failed| self.reject(failed))
    }

    /// Name, type, help and value of each metric.
    pub fn metrics(&self) -> [(&'static str, &'static str, &'static str, String); 3] {
        let (connected, connections) = (self.connected.load(SeqCst), self.connections.load(Relaxed));
        let lag = lock(&self.current).elapsed();
        let lag = format!("{}.{:03}", lag.as_secs(), lag.subsec_millis());
        let again = connections.saturating_sub(1).to_string();
        [
            ("redis_connected", "gauge", "Whether this node follows Redis.", u8::from(connected).to_string()),
            ("redis_lag_seconds", "gauge", "Since when this node may lack something; up to 1 is usual.", lag),
            ("redis_reconnections_total", "counter", "Connections to Redis after the first.", again),
        ]
    }
}

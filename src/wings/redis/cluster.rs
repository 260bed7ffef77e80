//! Channels whose logs are Redis streams, which many nodes share: publish there, and follow what is published.
//!
//! A channel of this node holds a copy of the stream's last `--history` bytes, and its readers read that: the log is the
//! same, only somebody else numbers it. Two connections serve all channels. One sends commands (`Pipe`). On the other a
//! thread *follows*: an `XREAD BLOCK` of all streams in use, over and over; a new channel interrupts it (`CLIENT UNBLOCK`).
//!
//! *Nothing doubled.* An `XADD` whose reply was lost is not sent again before it is known that it was not, and will not be,
//! carried out: `Pipe` ends the lost connection, and then the stream has an entry with this `post`, or it has not.
//!
//! *A gap is told whenever in doubt.* What is new is read together with the last entry that is there already (`take`): the
//! page begins with that one, or something is missing, and so it is where an entry that was acknowledged here does not come
//! by. Then readers hear of a gap. Where ids fell back, or others cannot know of it, a `gap` event is added to the stream
//! for all, with an id above all that were seen, so that no id is given out twice.
//!
//! *No stream harms another.* What anybody adds to one is taken over a page at a time, by turns with the others. An entry that
//! is too large is left out, and a `gap` with its id stands in its place. A key that cannot be read is left alone.
//!
//! Limits: `PAGE`, `ENTRY`, `UNHEARD`, `COMPLAINTS`, `LINES`, `PATIENCE`. Shortcut: all nodes should have the same `--history`; the
//! smallest one counts, and nobody waits for a node that is slower than the publishers of the others. Nobody is told of an
//! entry that was deleted (`XDEL`) before a node had read it.

use crate::channel::publish::{For, Numbers};
use crate::channel::state::Channel;
use crate::config::Config;
use crate::log::positions::{From, Gap, Log};
use crate::log::writer::Writer;
use crate::server::doors::Desk;
use crate::system::report::{report, visible};
use crate::system::threads::{STACK, lock};
use crate::wings::redis::pipe::{Failed, Pipe};
use crate::wings::redis::resp::{Address, Reply, command};
use crate::wings::redis::stream::{self, Entry, above, below, field, id, id_of, is_whole, key, removed};

use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::reject::{LATER, Reject, table};
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

table! {
    REDIS_AWAY 503 "tincan, --redis" "Redis does not answer, so nothing can be kept, and what was said elsewhere is not known; come back later" => LATER
    REDIS_REFUSES 503 "tincan, --redis" "Redis refuses this, and nothing of it was kept; the server's standard error says why" => LATER
    REDIS_LOST 503 "tincan, --redis" "Redis went away before it answered, and it is not known whether this was kept; read the channel before you send it again" => LATER
}

/// Limit: entries of one stream in one reply.
const PAGE: usize = 32;
/// Limit: bytes of an entry, and `--max-body` more. A page has at most twice as much.
const ENTRY: usize = 32 << 20;
/// Limit: events that were acknowledged, and have not come by yet.
const UNHEARD: usize = 256;
/// Limit: how long a publisher or a reader waits while Redis is away, and one round trip more.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before the same is asked again.
pub const AGAIN: Duration = Duration::from_millis(20);

/// Limit: lines on standard error about single streams.
const COMPLAINTS: usize = 100;
/// Limit: lines that wait for standard error; further ones are dropped.
const LINES: usize = 100;
const REFUSES: &str = "refuses events";

/// Channels in use.
pub type Channels = Vec<Arc<Channel>>;

/// A channel that is followed.
#[derive(Default)]
pub struct Followed {
    /// It, as long as it is in use.
    pub channel: Weak<Channel>,
    /// What publishers here were told of, and has not come by.
    pub acked: BTreeSet<Id>,
    told: Id,             // nothing is missing up to here, or that was told
    removed: Option<i64>, // from the stream, when the copy began, where there was nothing to go on from
    /// Entries that are asked for at a time: more and more, as long as they are not too large.
    pub page: usize,
    /// It was read to the end once.
    pub ready: bool,
    /// Redis does not let us read it, for it is no stream or not ours.
    pub barred: bool,
}

/// What was asked for, and what it goes on from.
pub struct Asked {
    /// The channel.
    pub channel: Arc<Channel>,
    last: Id,
    newest: Id, // of what publishers here had been told of by then, or `last`
    page: usize,
}

/// What the channels of this node have in common.
pub struct Cluster {
    /// What sends commands.
    pub pipe: Pipe,
    history: usize,
    node: String,
    posts: AtomicU64,
    /// The channels that are followed, by their names.
    pub followed: Mutex<BTreeMap<String, Followed>>,
    /// Changes of `followed`, and entries that were heard.
    pub changes: AtomicU64,
    /// The changes that the `XREAD` under way knows of.
    pub seen: AtomicU64,
    /// The number of the follower's connection.
    pub follower: AtomicI64,
    /// Whether it follows.
    pub connected: AtomicBool,
    /// Whether it tries to connect, and has not failed yet.
    pub trying: AtomicBool,
    /// How often it has connected.
    pub connections: AtomicU64,
    /// When this node last had everything.
    pub current: Mutex<Instant>,
    complaints: Mutex<BTreeSet<String>>, // about single streams, as they were told
    state: Mutex<String>,                // as it was last told on standard error
    news: SyncSender<String>,            // to the thread that tells it, so that nobody else waits for a terminal
    desk: Arc<Desk>,                     // of this server
}

/// The last event that publishers here were told of, and has not come by.
fn newest(followed: &mut Followed) -> Id {
    followed.acked.last().copied().unwrap_or_default()
}

/// Whether an error is one of a single stream, which is no stream, or not ours.
fn is_of_key(why: &str) -> bool {
    ["WRONGTYPE", "NOPERM", "ERR The stream has exhausted"].iter().any(|code| why.starts_with(code))
}

impl Cluster {
    /// A node of the Redis at this address. It connects when something is asked for, or
    /// followed.
    pub fn new(address: Address, config: &Config, desk: Arc<Desk>) -> Cluster {
        let (news, lines) = sync_channel(LINES);
        let tell = move || lines.into_iter().for_each(report);
        let _ = thread::Builder::new().name("news".into()).stack_size(STACK).spawn(tell); // without it nothing is told
        Cluster {
            pipe: Pipe::new(address, ENTRY as u64 + config.max_body as u64),
            history: config.history,
            node: format!("{:016x}", RandomState::new().hash_one(())),
            posts: AtomicU64::new(1),
            followed: Mutex::default(),
            changes: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            follower: AtomicI64::new(0),
            connected: AtomicBool::new(false),
            trying: AtomicBool::new(true),
            connections: AtomicU64::new(0),
            current: Mutex::new(Instant::now()),
            state: Mutex::default(),
            complaints: Mutex::default(),
            news,
            desk,
        }
    }

    /// Tells a person, if it is news.
    pub fn say(&self, news: String) {
        let mut state = lock(&self.state);
        if *state != news {
            let text = visible(&news); // in part what Redis says
            let _ = self.news.try_send(format!("tincan: redis: {}: {text}", self.pipe.address));
            *state = news;
        }
    }

    /// Tells a person once what is wrong with a single stream: it may come by turns with others, as often as a client likes.
    fn complain(&self, complaint: String) {
        let mut told = lock(&self.complaints);
        if told.len() < COMPLAINTS && told.insert(complaint.clone()) {
            self.say(complaint);
        }
    }

    /// Whether this node follows: what it could not hear it does not publish. Where a connection was lost just now, this waits
    /// for the next one.
    fn is_followed(&self) -> Result<(), Reject> {
        let until = Instant::now() + PATIENCE;
        while !self.connected.load(SeqCst) && self.trying.load(SeqCst) && Instant::now() < until {
            thread::sleep(AGAIN);
        }
        if self.connected.load(SeqCst) { Ok(()) } else { Err(REDIS_AWAY) }
    }

    /// What a client is told of a failure, and a person of what Redis refuses.
    fn reject(&self, name: &str, failed: Failed) -> Reject {
        let Failed::Refused(why) = failed else { return REDIS_AWAY };
        if is_of_key(&why) {
            self.complain(format!(
                "refuses {}: {why}; allow, rename or delete that key, and if its ids were used up, start the nodes again",
                key(name)
            ));
        } else {
            self.say(format!("{REFUSES}: {why}"));
        }
        REDIS_REFUSES
    }

    /// The channel of this name, with what Redis has of it. It is followed until it is dropped.
    ///
    /// # Errors
    /// [`REDIS_AWAY`], [`REDIS_REFUSES`].
    pub fn open(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let reject = |failed| self.reject(name, failed);
        self.is_followed()?;
        let info = self.info(name).map_err(reject)?;
        let first = info.get("first-entry").and_then(id_of);
        let last = info.get("last-generated-id").and_then(id).unwrap_or_default();
        let start = if is_whole(&info) { Id::default() } else { first.map_or(last, below) };
        let removed = removed(&info).filter(|_| start == Id::default() || first.is_none());
        let channel = Arc::new(Channel::new(name, Log::copy(start, self.history), Writer::default()));
        let followed =
            Followed { channel: Arc::downgrade(&channel), told: start, removed, page: 1, ..Followed::default() };
        lock(&self.followed).insert(name.into(), followed);
        // Up to what was there when it began: what comes meanwhile may have no end, and the follower hears of it.
        let mut more = true;
        while more && channel.last() < last {
            let mut command = Vec::new();
            let asked = self.ask_for(&channel, &mut command);
            let page = self.pipe.call(command, 1).map_err(reject)?.pop().unwrap_or(Reply::Null);
            more = self.take(&asked, page).map_err(reject)?;
        }
        self.note(name, |f| f.ready = true);
        self.interrupt();
        Ok(channel)
    }

    /// Notes something of a channel that is in use, or looks it up.
    fn note<T>(&self, name: &str, what: impl FnOnce(&mut Followed) -> T) -> T {
        what(lock(&self.followed).entry(name.into()).or_default())
    }

    /// The channels for which this holds, as long as they are in use.
    pub fn channels(&self, which: impl Fn(&Followed) -> bool) -> Channels {
        lock(&self.followed).values().filter(|f| which(f)).filter_map(|f| f.channel.upgrade()).collect()
    }

    /// Writes the command that asks for what is new in a channel.
    pub fn ask_for(&self, channel: &Arc<Channel>, commands: &mut Vec<u8>) -> Asked {
        let name = &channel.name;
        let last = channel.last();
        let (page, newest) = self.note(name, |f| (f.page, newest(f).max(last)));
        command(&["XRANGE", &key(name), &last.to_string(), "+", "COUNT", &(page + 1).to_string()], commands);
        Asked { channel: channel.clone(), last, newest, page }
    }

    /// Takes over a page of a stream. Returns whether there is more.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub fn take(&self, asked: &Asked, page: Reply) -> Result<bool, Failed> {
        let Asked { channel, last, newest, .. } = asked;
        let name = &channel.name;
        let mut page = match page {
            Reply::List(page) => page,
            Reply::Error(why) => return self.bar(name, why),
            _ => return Err(Failed::Refused("it answers without entries".into())),
        };
        let large = page.pop_if(|entry| *entry == Reply::Large).is_some();
        let whole = page.len() <= asked.page && !large;
        let ids: Vec<Id> = page.iter().filter_map(id_of).collect();
        let end = ids.last().copied().unwrap_or_default();
        // Of what was acknowledged only since it was asked for, it may know nothing.
        let due = if whole { *newest } else { end.min(*newest) }.max(*last);
        let is_gone = |id: &Id| id > last && !ids.contains(id);
        let (told, lost) = self.note(name, |f| (f.told, f.acked.range(..=due).copied().find(is_gone)));
        let entries = self.read(asked, &page);
        let gone = *last > told && ids.first() != Some(last) || self.has_missed(asked, &entries)?;
        if (gone || lost.is_some()) && !page.iter().any(|entry| stream::lost(entry) >= Some(lost.unwrap_or(*last))) {
            self.doubt(asked, lost, entries.first().map(|entry| entry.id))?;
        }
        self.changes.fetch_add(entries.len() as u64, SeqCst);
        entries.iter().for_each(|entry| self.take_over(channel, entry));
        channel.notify();
        let more = !whole && !entries.is_empty();
        self.note(name, |f| {
            f.barred = false;
            f.acked.retain(|id| *id > due);
            f.page = if large { entries.len().max(1) } else { (2 * asked.page).min(PAGE) };
        });
        Ok(more)
    }

    /// Takes over an entry of the stream of which a channel is a copy.
    fn take_over(&self, channel: &Arc<Channel>, entry: &Entry) {
        let event = from_ref(&entry.event);
        let whom = entry.except.as_deref().and_then(|except| self.desk.audience("except", except));
        // Whom nobody here knows is a reader of another node. Memory alone takes an event, which does not fail.
        if channel.publish(event, Numbers::Given(entry.id), whom.as_deref()).is_err() {
            let _ = channel.publish(event, Numbers::Given(entry.id), None);
        }
        self.desk.hub.wake(channel);
    }

    /// The events of a page that are new.
    fn read(&self, asked: &Asked, page: &[Reply]) -> Vec<Entry> {
        let mut before = asked.last; // a Redis that is none may say one twice
        let mut entries = Vec::new();
        for mut entry in page.iter().filter_map(Entry::read) {
            if entry.id <= before {
                continue;
            }
            if entry.is_large {
                let key = key(&asked.channel.name);
                self.complain(format!(
                    "{key} has entries of more than 32 MiB and --max-body; in their place readers hear a gap; XDEL removes them"
                ));
                entry.event = Gap { from: None, lost: None }.event(&before.to_string());
            }
            before = entry.id;
            entries.push(entry);
        }
        entries
    }

    /// Leaves a stream alone that Redis does not let us read any more. Any other error ends the reading, such as that it is
    /// loading its file.
    fn bar(&self, name: &str, why: String) -> Result<bool, Failed> {
        let barred = is_of_key(&why) && self.note(name, |f| f.ready);
        let failed = Failed::Refused(why);
        if !barred {
            return Err(failed);
        }
        self.note(name, |f| f.barred = true);
        self.reject(name, failed);
        Ok(false)
    }

    /// Whether something was taken from a stream before the first entry that its copy is to have.
    fn has_missed(&self, asked: &Asked, entries: &[Entry]) -> Result<bool, Failed> {
        let Asked { channel, last, .. } = asked;
        let name = &channel.name;
        let Some(first) = entries.first().filter(|_| channel.is_empty()) else { return Ok(false) };
        let Some(before) = self.note(name, |f| f.removed) else { return Ok(first.id != above(*last)) };
        Ok(removed(&self.info(name)?).is_some_and(|now| now != before))
    }

    /// Tells of what is gone: what a channel goes on from, or what was acknowledged.
    fn doubt(&self, asked: &Asked, lost: Option<Id>, from: Option<Id>) -> Result<(), Failed> {
        let Asked { channel, last, newest: top, .. } = asked;
        let name = &channel.name;
        let info = self.info(name)?;
        let newest = info.get("last-generated-id").and_then(id).unwrap_or_default();
        if newest == *top && lost.is_none() || newest < *top && self.announce(name, *top, true)? {
            return Ok(()); // nothing came behind it; or all hear of it
        }
        let _ = channel.publish(&[Gap { from, lost: None }.event(&last.to_string())], Numbers::None, None);
        self.desk.hub.wake(channel);
        self.note(name, |f| f.told = *last);
        // Others may lack what they have not heard, and cannot know; unless the stream has just dropped its oldest.
        if is_whole(&info) || info.get("first-entry").and_then(id_of) <= lost.or(Some(*last)) {
            self.announce(name, *top, false)?;
        }
        Ok(())
    }

    /// Has the follower begin its `XREAD` again, so that it knows of a change.
    fn interrupt(&self) {
        let before = self.changes.fetch_add(1, SeqCst);
        let until = Instant::now() + PATIENCE;
        let unblock = || self.pipe.ask(&["CLIENT", "UNBLOCK", &self.follower.load(SeqCst).to_string()]);
        // Where it may not be interrupted, it begins again when BLOCK is over.
        while self.connected.load(SeqCst)
            && self.seen.load(SeqCst) <= before
            && Instant::now() < until
            && unblock() == Ok(Reply::Number(0))
        {
            thread::sleep(Duration::from_millis(1)); // it is about to begin
        }
    }

    /// Waits until this node has what its reader was told elsewhere, or here.
    ///
    /// # Errors
    /// [`REDIS_AWAY`] where that cannot be known.
    pub fn catch_up(&self, channel: &Channel, from: &From) -> Result<(), Reject> {
        let name = &channel.name;
        if let From::After(text) = from
            && let Some(asked) = Id::parse(text)
            && asked > channel.last()
        {
            self.is_followed()?;
            let info = self.info(name).map_err(|failed| self.reject(name, failed))?;
            let last = info.get("last-entry").and_then(id_of).unwrap_or_default();
            return if channel.wait_for(asked.min(last), PATIENCE) { Ok(()) } else { Err(REDIS_AWAY) };
        }
        channel.wait_for(self.note(name, newest), PATIENCE);
        Ok(())
    }

    /// What Redis knows of a stream; nothing where there is none.
    fn info(&self, name: &str) -> Result<Reply, Failed> {
        match self.pipe.ask(&["XINFO", "STREAM", &key(name)]) {
            Err(Failed::Refused(why)) if why == "ERR no such key" => Ok(Reply::Null),
            info => info,
        }
    }

    /// What marks so many events as published here.
    fn posts(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| format!("{}-{}", self.node, self.posts.fetch_add(1, Relaxed))).collect()
    }

    /// Adds events to the stream, all or none; where an address is given, they are for all `but` that reader. Returns
    /// their ids.
    ///
    /// # Errors
    /// [`REDIS_AWAY`], [`REDIS_REFUSES`], [`REDIS_LOST`].
    pub fn publish(&self, channel: &Channel, events: &[Event], whom: For) -> Result<Vec<Id>, Reject> {
        let name = &channel.name;
        let but = whom.map(|audience| audience.field().1);
        self.is_followed()?;
        let (acked, unheard) = self.note(name, |f| (newest(f), f.acked.len()));
        if unheard >= UNHEARD && !channel.wait_for(acked, PATIENCE) {
            return Err(REDIS_AWAY);
        }
        let posts = self.posts(events.len());
        let until = Instant::now() + PATIENCE;
        let mut told = false;
        let mut again = AGAIN;
        while Instant::now() < until {
            let was_there = !channel.is_empty(); // before `last`: what comes between the two is found behind it
            let last = channel.last();
            let (commands, replies) = stream::add_all(name, events, but, &posts, last.max(acked), channel.kept());
            let added = match self.pipe.call(commands, replies) {
                Err(Failed::Unsent) => return Err(REDIS_AWAY),
                Err(_) => self.look_for(name, last, &posts, was_there, until)?,
                Ok(mut replies) => match replies.pop() {
                    Some(Reply::List(replies)) => Some(replies),
                    reply => Some(Vec::from_iter(reply)),
                },
            };
            let Some(replies) = added else {
                thread::sleep(again); // it was not sent, or in vain
                again *= 2;
                continue;
            };
            let ids: Vec<Id> = replies.iter().filter_map(id).collect();
            if ids.len() == events.len() && ids.len() == replies.len() {
                self.added(name, &ids);
                if ids.first().is_some_and(|id| *id <= last) {
                    let _ = self.announce(name, last.max(acked), true); // its ids fell back
                }
                return Ok(ids);
            }
            if told || replies.iter().any(|reply| *reply != Reply::Null) {
                let error = |reply| if let Reply::Error(why) = reply { Some(why) } else { None };
                let why = replies.into_iter().find_map(error).unwrap_or("it answers without an id".into());
                return Err(self.reject(name, Failed::Refused(why)));
            }
            // Whoever takes the stream's name next begins above all that was said.
            told = self.announce(name, channel.last().max(acked), true).is_ok(); // or somebody else has begun it
        }
        Err(REDIS_AWAY)
    }

    /// Notes what was published.
    fn added(&self, name: &str, ids: &[Id]) {
        self.note(name, |f| f.acked.extend(ids));
        if lock(&self.state).starts_with(REFUSES) {
            self.say("takes events again".into());
        }
    }

    /// Looks for events whose reply was lost, behind the last one that was there before. Returns their ids; none where
    /// they were not added, and will not be.
    fn look_for(
        &self, name: &str, last: Id, posts: &[String], was_there: bool, until: Instant,
    ) -> Result<Option<Vec<Reply>>, Reject> {
        let posts: BTreeSet<&[u8]> = posts.iter().map(String::as_bytes).collect();
        let ours = |entry: &&Reply| field(entry, "post").and_then(Reply::text).is_some_and(|post| posts.contains(post));
        let mut again = AGAIN;
        while Instant::now() < until {
            let mut found = Vec::new();
            let mut at = last;
            // What a page goes on from must be there: where it is gone, so may be what came behind it.
            let mut empty = !was_there && self.info(name).is_ok_and(|info| is_whole(&info));
            let mut sure = true;
            while let Ok(Reply::List(page)) =
                self.pipe.ask(&["XRANGE", &key(name), &at.to_string(), "+", "COUNT", &PAGE.to_string()])
            {
                sure &= std::mem::take(&mut empty) || page.first().and_then(id_of) == Some(at);
                let new = page.iter().filter(|entry| id_of(entry) > Some(at)).filter(ours);
                found.extend(new.filter_map(|entry| entry.list().first().cloned()));
                at = page.iter().rev().find_map(id_of).unwrap_or_default();
                let end = page.len() < PAGE && page.last() != Some(&Reply::Large);
                if found.len() == posts.len() {
                    return Ok(Some(found));
                }
                if end || Instant::now() >= until {
                    sure &= end;
                    return if sure && self.pipe.is_settled() { Ok(None) } else { Err(REDIS_LOST) };
                }
            }
            thread::sleep(again);
            again *= 2;
        }
        Err(REDIS_LOST)
    }

    /// Adds a `gap` behind this id to the stream, for the readers of all nodes; `raise`: with an id just above it. Returns
    /// whether that could be done.
    fn announce(&self, name: &str, top: Id, raise: bool) -> Result<bool, Failed> {
        if raise && above(top) == top {
            return Ok(false); // there is none, and the stream must not be used up anew
        }
        let gap = Gap { from: None, lost: None }.event(&top.to_string());
        let at = if raise { above(top).to_string() } else { "*".into() };
        let how = [&at, "lost", &top.to_string()];
        let added = stream::add(name, &how, &gap, None, &self.posts(1).concat());
        Ok(self.pipe.call(added, 1)?.first().and_then(id).is_some())
    }

    /// The name of a stream that is not there, and that nobody could know of.
    pub fn nobody(&self) -> String {
        key(&self.node)
    }

    /// Whether events could be published: asks for one to be added to a stream that is not there.
    ///
    /// # Errors
    /// [`REDIS_AWAY`], [`REDIS_REFUSES`].
    pub fn health(&self) -> Result<(), Reject> {
        self.is_followed()?;
        let added = self.pipe.ask(&["XADD", &self.nobody(), "NOMKSTREAM", "*", "data", ""]);
        added.map(drop).map_err(|failed| self.reject("", failed))
    }

    /// Name, type, help and value of each metric.
    pub fn metrics(&self) -> [(&'static str, &'static str, &'static str, String); 3] {
        let connected = u8::from(self.connected.load(SeqCst)).to_string();
        let lag = lock(&self.current).elapsed();
        let lag = format!("{}.{:03}", lag.as_secs(), lag.subsec_millis());
        let again = self.connections.load(Relaxed).saturating_sub(1).to_string();
        [
            ("redis_connected", "gauge", "Whether this node follows Redis.", connected),
            ("redis_lag_seconds", "gauge", "Since when this node may lack something; up to 1 is usual.", lag),
            ("redis_reconnections_total", "counter", "Connections to Redis after the first.", again),
        ]
    }
}

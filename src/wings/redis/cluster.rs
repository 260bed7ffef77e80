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
//! page begins with that one, or something is missing, and so it is if an entry that was acknowledged here does not come
//! by. Then readers hear of a gap. If ids fell back, or others cannot know of it, a `gap` event is added to the stream
//! for all, with an id above all that were seen, so that no id is given out twice.
//!
//! *No stream harms another.* What anybody adds to one is taken over a page at a time, by turns with the others. An entry that
//! is too large is left out, and a `gap` with its id stands in its place. A key that cannot be read is left alone.
//!
//! Limits: `PAGE`, `MAX_ENTRY`, `MAX_UNREAD`, `MAX_REPORTS`, `MAX_WAITING_LINES`, `PATIENCE`. Shortcut: all nodes should have the same `--history`; the
//! smallest one counts, and nobody waits for a node that is slower than the publishers of the others. Nobody is told of an
//! entry that was deleted (`XDEL`) before a node had read it.

use crate::channel::hub::{Metric, RemoteLog};
use crate::channel::publish::{NewIds, Recipients};
use crate::channel::state::Channel;
use crate::config::Config;
use crate::log::positions::{Gap, Log, Since};
use crate::server::doors::App;
use crate::system::report::{report, visible};
use crate::system::threads::{STACK, lock};
use crate::wings::redis::pipe::{Pipe, REFUSED, UNSENT};
use crate::wings::redis::resp::{Address, Reply, command};
use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::reject::{LATER, Reject, table};

use crate::log::writer::Writer;
use crate::wings::redis::stream::{self, Entry, above, below, entry_id, key, parse_id, removed_count};
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
const MAX_ENTRY: usize = 32 << 20;
/// Limit: events that were acknowledged, and have not come by yet.
const MAX_UNREAD: usize = 256;
/// Limit: how long a publisher or a reader waits while Redis is away, and one round trip more.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before the same is asked again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Limit: lines on standard error about single streams.
const MAX_REPORTS: usize = 100;
/// Limit: lines that wait for standard error; further ones are dropped.
const MAX_WAITING_LINES: usize = 100;
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
    complete_up_to: Id,   // nothing is missing up to here, or that was told
    removed: Option<i64>, // from the stream, when the copy began, if there was nothing to go on from
    /// Entries that are asked for at a time: more and more, as long as they are not too large.
    pub page: usize,
    /// It was read to the end once.
    pub ready: bool,
    /// Redis does not let us read it, for it is no stream or not ours.
    pub unreadable: bool,
}

/// What was asked for, and what it goes on from.
pub struct PageRequest {
    /// The channel.
    pub channel: Arc<Channel>,
    last: Id,
    newest: Id, // of what publishers here had been told of by then, or `last`
    page: usize,
}

/// What the thread that follows is about: from `Following` on it hears of all that is new.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub enum FollowerState {
    /// It tries to connect, and has not failed yet.
    Connecting,
    /// It has failed, and tries again and again.
    Away,
    /// It takes over what is new.
    Following,
    /// Its `XREAD` is under way: the number of its connection, and since when.
    Waiting(i64, Instant),
}

/// What the channels of this node have in common.
pub struct Node {
    /// What sends commands.
    pub pipe: Pipe,
    history: usize,
    name: String,
    next_post: AtomicU64,
    /// The channels that are followed, by their names.
    pub followed: Mutex<BTreeMap<String, Followed>>,
    /// What the thread that follows is about.
    pub follower: Mutex<FollowerState>,
    /// How often it has connected.
    pub connections: AtomicU64,
    /// When this node last had everything.
    pub current: Mutex<Instant>,
    reported: Mutex<BTreeSet<String>>, // about single streams, as they were told
    state: Mutex<String>,              // as it was last told on standard error
    reports: SyncSender<String>,       // to the thread that tells it, so that nobody else waits for a terminal
    app: Arc<App>,                     // of this server
}

/// The last event that publishers here were told of, and has not come by.
fn newest_acked(followed: &mut Followed) -> Id {
    followed.acked.last().copied().unwrap_or_default()
}

/// The event that tells of what is gone behind this id, up to the event `from`.
fn gap_event(last: Id, from: Option<Id>) -> Event {
    Gap { from, lost: None }.event(&last.to_string())
}

/// Whether an error is one of a single stream, which is no stream, or not ours.
fn is_of_key(why: &str) -> bool {
    ["WRONGTYPE", "NOPERM", "ERR The stream has exhausted"].iter().any(|code| why.starts_with(code))
}

impl Node {
    /// A node of the Redis at this address. It connects when something is asked for, or
    /// followed.
    pub fn new(address: Address, config: &Config, app: Arc<App>) -> Node {
        let (news, lines) = sync_channel(MAX_WAITING_LINES);
        let tell = move || lines.into_iter().for_each(report);
        let _ = thread::Builder::new().name("news".into()).stack_size(STACK).spawn(tell); // without it nothing is told
        Node {
            pipe: Pipe::new(address, MAX_ENTRY as u64 + config.max_body as u64),
            history: config.history,
            name: format!("{:016x}", RandomState::new().hash_one(())),
            next_post: AtomicU64::new(1),
            followed: Mutex::default(),
            follower: Mutex::new(FollowerState::Connecting),
            connections: AtomicU64::new(0),
            current: Mutex::new(Instant::now()),
            state: Mutex::default(),
            reported: Mutex::default(),
            reports: news,
            app,
        }
    }

    /// Tells a person, if it is news.
    pub fn report_state(&self, news: String) {
        let mut state = lock(&self.state);
        if *state != news {
            let text = visible(&news); // in part what Redis says
            let _ = self.reports.try_send(format!("tincan: redis: {}: {text}", self.pipe.address));
            *state = news;
        }
    }

    /// Tells a person once what is wrong with a single stream: it may come by turns with others, as often as a client likes.
    fn report_once(&self, complaint: String) {
        let mut told = lock(&self.reported);
        if told.len() < MAX_REPORTS && told.insert(complaint.clone()) {
            self.report_state(complaint);
        }
    }

    /// Whether this node follows: what it could not hear it does not publish. If a connection was lost just now, this waits
    /// for the next one.
    fn is_followed(&self) -> Result<(), Reject> {
        let until = Instant::now() + PATIENCE;
        while *lock(&self.follower) == FollowerState::Connecting && Instant::now() < until {
            thread::sleep(RETRY_PAUSE);
        }
        if *lock(&self.follower) >= FollowerState::Following { Ok(()) } else { Err(REDIS_AWAY) }
    }

    /// What a client is told of a failure, and a person of what Redis refuses.
    fn reject(&self, name: &str, failed: &io::Error) -> Reject {
        if failed.kind() != REFUSED {
            return REDIS_AWAY;
        }
        let why = failed.to_string();
        if is_of_key(&why) {
            self.report_once(format!(
                "refuses {}: {why}; allow, rename or delete that key, and if its ids were used up, start the nodes again",
                key(name)
            ));
        } else {
            self.report_state(format!("{REFUSES}: {why}"));
        }
        REDIS_REFUSES
    }

    /// Copies a stream, up to what is there now: what comes meanwhile may have no end, and the follower hears of it.
    fn copy_stream(&self, name: &str) -> io::Result<Arc<Channel>> {
        let info = self.stream_info(name)?;
        let first = info.get("first-entry").and_then(entry_id);
        let last = info.get("last-generated-id").and_then(parse_id).unwrap_or_default();
        let removed = removed_count(&info).filter(|removed| *removed == 0 || first.is_none());
        let start = if removed == Some(0) { Id::default() } else { first.map_or(last, below) };
        let channel = Arc::new(Channel::new(name, Log::copy(start, self.history), Writer::default()));
        let followed = Followed {
            channel: Arc::downgrade(&channel),
            complete_up_to: start,
            removed,
            page: 1,
            ..Followed::default()
        };
        lock(&self.followed).insert(name.into(), followed);
        while channel.last_id() < last {
            let mut command = Vec::new();
            let asked = self.request_page(&channel, &mut command);
            let page = self.pipe.call(command, 1)?;
            if self.apply_page(&asked, page)? != Some(true) {
                break;
            }
        }
        Ok(channel)
    }

    /// Notes something of a channel that is in use, or looks it up.
    fn with_followed<T>(&self, name: &str, what: impl FnOnce(&mut Followed) -> T) -> T {
        what(lock(&self.followed).entry(name.into()).or_default())
    }

    /// The channels for which this holds, as long as they are in use.
    pub fn channels(&self, which: impl Fn(&Followed) -> bool) -> Channels {
        lock(&self.followed).values().filter(|f| which(f)).filter_map(|f| f.channel.upgrade()).collect()
    }

    /// Writes the command that asks for what is new in a channel.
    pub fn request_page(&self, channel: &Arc<Channel>, commands: &mut Vec<u8>) -> PageRequest {
        let name = &channel.name;
        let last = channel.last_id();
        let (page, newest) = self.with_followed(name, |f| (f.page, newest_acked(f).max(last)));
        commands.extend(command(&["XRANGE", &key(name), &last.to_string(), "+", "COUNT", &(page + 1).to_string()]));
        PageRequest { channel: channel.clone(), last, newest, page }
    }

    /// Takes over a page of a stream. Returns whether there is more; nothing if nothing was new.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub fn apply_page(&self, asked: &PageRequest, page: Reply) -> io::Result<Option<bool>> {
        let PageRequest { channel, last, newest, .. } = asked;
        let name = &channel.name;
        let Reply::List(page) = page else { return self.mark_unreadable(name, page) };
        let large = page.last() == Some(&Reply::Large);
        let whole = page.len() <= asked.page && !large;
        let entries: Vec<Entry> = page.into_iter().filter_map(|entry| Entry::read(&entry)).collect();
        let ids: Vec<Id> = entries.iter().map(|entry| entry.id).collect();
        // Of what was acknowledged only since it was asked for, it may know nothing.
        let due = if whole { *newest } else { ids.last().map_or(*last, |end| *end.min(newest)) };
        let is_gone = |id: &&Id| *id > last && !ids.contains(id);
        let (told, lost) =
            self.with_followed(name, |f| (f.complete_up_to, f.acked.range(..=due).find(is_gone).copied()));
        let first = ids.iter().copied().find(|id| id > last);
        let gone = match first {
            Some(first) if channel.is_empty() => first != above(*last),
            _ => *last > told && ids.first() != Some(last),
        };
        if (gone || lost.is_some()) && !entries.iter().any(|entry| entry.lost_up_to >= Some(lost.unwrap_or(*last))) {
            self.handle_missing(asked, lost, first)?;
        }
        let given = self.publish_entries(asked, entries);
        self.with_followed(name, |f| {
            f.unreadable = false;
            f.acked.retain(|id| *id > due);
            f.page = if large { given.max(1) } else { (2 * asked.page).min(PAGE) };
        });
        Ok(first.map(|_| !whole))
    }

    /// Gives the entries of a page that are new to those who read here. Returns how many they are.
    fn publish_entries(&self, asked: &PageRequest, entries: Vec<Entry>) -> usize {
        let PageRequest { channel, last, .. } = asked;
        let mut before = *last;
        let mut given = 0;
        for Entry { id, event, other_fields: further, is_large, .. } in entries {
            if id <= before {
                continue; // a Redis that is none may say one twice
            }
            if is_large {
                self.report_once(format!(
                    "{} has entries of more than 32 MiB and --max-body; in their place readers hear a gap; XDEL removes them",
                    key(&channel.name)
                ));
            }
            let event = [if is_large { gap_event(before, None) } else { event }];
            let recipients = further.iter().find_map(|(name, value)| self.app.audience(name, value));
            let publish = |recipients: Recipients| channel.publish(&event, NewIds::Given(id), recipients);
            // Memory alone takes an event, which does not fail; but this node may not know the subscriber that is left out.
            let _ = publish(recipients.as_deref()).or_else(|_| publish(None));
            self.app.hub.wake(channel);
            before = id;
            given += 1;
        }
        channel.notify();
        given
    }

    /// Leaves a stream alone that Redis does not let us read any more. Any other error ends the reading, such as that it is
    /// loading its file.
    fn mark_unreadable(&self, name: &str, page: Reply) -> io::Result<Option<bool>> {
        let Reply::Error(why) = page else { return Err(io::Error::other("it answers without entries")) };
        let barred = self.with_followed(name, |f| {
            f.unreadable = f.ready && is_of_key(&why);
            f.unreadable
        });
        let failed = io::Error::other(why);
        if !barred {
            return Err(failed);
        }
        self.reject(name, &failed);
        Ok(None)
    }

    /// Tells of what is gone, if something is: what a channel goes on from, what came before its first event, or what was
    /// acknowledged.
    fn handle_missing(&self, asked: &PageRequest, lost: Option<Id>, from: Option<Id>) -> io::Result<()> {
        let PageRequest { channel, last, newest: top, .. } = asked;
        let name = &channel.name;
        let info = self.stream_info(name)?;
        let newest = info.get("last-generated-id").and_then(parse_id).unwrap_or_default();
        let removed = removed_count(&info);
        let is_as_before = |before| removed.is_none_or(|now| now == before);
        let is_first = channel.is_empty() && self.with_followed(name, |f| f.removed).is_some_and(is_as_before);
        if (newest == *top || is_first) && lost.is_none() || newest < *top && self.add_gap(name, *top, true)? {
            return Ok(()); // nothing came behind it, or before it; or all hear of it
        }
        let _ = channel.publish(&[gap_event(*last, from)], NewIds::None, None);
        self.app.hub.wake(channel);
        self.with_followed(name, |f| f.complete_up_to = *last);
        // Others may lack what they have not heard, and cannot know; unless the stream has just dropped its oldest.
        if removed == Some(0) || info.get("first-entry").and_then(entry_id) <= lost.or(Some(*last)) {
            self.add_gap(name, *top, false)?;
        }
        Ok(())
    }

    /// Has the follower begin its `XREAD` again, so that it knows of a change.
    fn interrupt_follower(&self) {
        let until = Instant::now() + PATIENCE;
        let under_way = *lock(&self.follower);
        let FollowerState::Waiting(link, _) = under_way else { return };
        // If it may not be interrupted, it begins again when BLOCK is over.
        while *lock(&self.follower) == under_way
            && Instant::now() < until
            && matches!(self.pipe.ask(&["CLIENT", "UNBLOCK", &link.to_string()]), Ok(Reply::Number(0)))
        {
            thread::sleep(Duration::from_millis(1)); // it is about to begin
        }
        let mut follower = lock(&self.follower);
        if *follower == under_way {
            *follower = FollowerState::Following; // it is about to see that
        }
    }

    /// What Redis knows of a stream; nothing if there is none.
    fn stream_info(&self, name: &str) -> io::Result<Reply> {
        match self.pipe.ask(&["XINFO", "STREAM", &key(name)]) {
            Err(failed) if failed.to_string() == "ERR no such key" => Ok(Reply::Null),
            info => info,
        }
    }

    /// What marks so many events as published here.
    fn new_posts(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| format!("{}-{}", self.name, self.next_post.fetch_add(1, Relaxed))).collect()
    }

    /// Makes out what came of events that were to be added behind the last one. Returns their ids; none if they were not
    /// added, and will not be.
    fn added_ids(
        &self, channel: &Channel, posts: &[String], last: Id, answer: io::Result<Reply>, until: Instant,
    ) -> Result<Option<Vec<Id>>, Reject> {
        let name = &channel.name;
        let replies = match answer {
            Ok(Reply::List(replies)) => replies,
            Ok(reply) => vec![reply],
            Err(failed) if failed.kind() == UNSENT => return Err(REDIS_AWAY),
            Err(_) => return self.find_posts(name, posts, last, until),
        };
        let ids: Vec<Id> = replies.iter().filter_map(parse_id).collect();
        if ids.len() == posts.len() {
            return Ok(Some(ids));
        }
        let Some(refused) = replies.into_iter().find(|reply| *reply != Reply::Null) else {
            // The stream is gone. Whoever takes its name next begins above all that was said.
            let top = self.with_followed(name, newest_acked).max(channel.last_id());
            let _ = self.add_gap(name, top, true); // or somebody else has begun it
            return Ok(None);
        };
        let why = if let Reply::Error(why) = refused { why } else { "it answers without an id".into() };
        Err(self.reject(name, &io::Error::other(why)))
    }

    /// Looks for events whose reply was lost, behind the last one that was there before. Returns their ids; none if they
    /// were not added, and will not be.
    fn find_posts(&self, name: &str, posts: &[String], last: Id, until: Instant) -> Result<Option<Vec<Id>>, Reject> {
        let mut found = Vec::new();
        let mut at = last;
        let mut sure = true;
        let mut again = RETRY_PAUSE;
        while Instant::now() < until {
            let words = ["XRANGE", &key(name), &at.to_string(), "+", "COUNT", &PAGE.to_string()];
            let Ok(Reply::List(page)) = self.pipe.ask(&words) else {
                thread::sleep(again);
                again *= 2;
                continue;
            };
            let end = page.len() < PAGE && page.last() != Some(&Reply::Large);
            let entries: Vec<Entry> = page.iter().filter_map(Entry::read).collect();
            for entry in entries.iter().filter(|entry| entry.id > at) {
                if posts.get(found.len()) == Some(&entry.post_id) {
                    found.push(entry.id); // they stand in their order
                }
            }
            if found.len() == posts.len() {
                return Ok(Some(found));
            }
            // What a page goes on from must be there: if it is gone, so may be what came behind it.
            sure &= entries.first().is_some_and(|first| first.id == at)
                || at == Id::default() && self.stream_info(name).is_ok_and(|info| removed_count(&info) == Some(0));
            if end {
                return if sure && self.pipe.is_settled() { Ok(None) } else { Err(REDIS_LOST) };
            }
            at = entries.last().map_or(at, |last| last.id);
        }
        Err(REDIS_LOST)
    }

    /// Adds a `gap` behind this id to the stream, for the readers of all nodes; `raise`: with an id just above it. Returns
    /// whether that could be done.
    fn add_gap(&self, name: &str, top: Id, raise: bool) -> io::Result<bool> {
        if raise && above(top) == top {
            return Ok(false); // there is none, and the stream must not be used up anew
        }
        let at = if raise { above(top).to_string() } else { "*".into() };
        let how = [&at, "lost", &top.to_string()];
        let added = stream::add_command(name, &how, &gap_event(top, None), None, &self.new_posts(1).concat());
        Ok(parse_id(&self.pipe.call(added, 1)?).is_some())
    }

    /// The name of a stream that is not there, and that nobody could know of.
    pub fn absent_key(&self) -> String {
        key(&self.name)
    }
}

impl RemoteLog for Node {
    fn open(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        self.is_followed()?;
        let channel = self.copy_stream(name).map_err(|failed| self.reject(name, &failed))?;
        self.with_followed(name, |f| f.ready = true);
        self.interrupt_follower();
        Ok(channel)
    }

    fn publish(&self, channel: &Channel, events: &[Event], recipients: Recipients) -> Result<Vec<Id>, Reject> {
        let name = &channel.name;
        self.is_followed()?;
        let (acked, unheard) = self.with_followed(name, |f| (newest_acked(f), f.acked.len()));
        if unheard >= MAX_UNREAD && !channel.wait_for(acked, PATIENCE) {
            return Err(REDIS_AWAY);
        }
        let posts = self.new_posts(events.len());
        let further = recipients.map(|audience| audience.field());
        let until = Instant::now() + PATIENCE;
        let mut again = RETRY_PAUSE;
        while Instant::now() < until {
            let last = channel.last_id();
            let top = last.max(acked);
            let (commands, replies) = stream::add_commands(name, events, further, &posts, top, channel.kept_after());
            let answer = self.pipe.call(commands, replies);
            if let Some(ids) = self.added_ids(channel, &posts, last, answer, until)? {
                if ids.first() <= Some(&last) {
                    let _ = self.add_gap(name, top, true); // its ids fell back
                }
                self.with_followed(name, |f| f.acked.extend(&ids));
                if lock(&self.state).starts_with(REFUSES) {
                    self.report_state("takes events again".into());
                }
                return Ok(ids);
            }
            thread::sleep(again); // it was not sent, or in vain
            again *= 2;
        }
        Err(REDIS_AWAY)
    }

    fn catch_up(&self, channel: &Channel, since: &Since) -> Result<(), Reject> {
        let name = &channel.name;
        if let Since::After(text) = since
            && let Some(asked) = Id::parse(text)
            && asked > channel.last_id()
        {
            self.is_followed()?;
            let info = self.stream_info(name).map_err(|failed| self.reject(name, &failed))?;
            let last = info.get("last-entry").and_then(entry_id).unwrap_or_default();
            return if channel.wait_for(asked.min(last), PATIENCE) { Ok(()) } else { Err(REDIS_AWAY) };
        }
        channel.wait_for(self.with_followed(name, newest_acked), PATIENCE);
        Ok(())
    }

    fn health(&self) -> Result<(), Reject> {
        self.is_followed()?;
        let added = self.pipe.ask(&["XADD", &self.absent_key(), "NOMKSTREAM", "*", "data", ""]);
        added.map(drop).map_err(|failed| self.reject("", &failed))
    }

    fn metrics(&self) -> Vec<Metric> {
        let connected = u8::from(*lock(&self.follower) >= FollowerState::Following).to_string();
        let lag = lock(&self.current).elapsed();
        // Without the code for floating point numbers, which is 15 KB.
        let lag = format!("{}.{:03}", lag.as_secs(), lag.subsec_millis());
        let again = self.connections.load(Relaxed).saturating_sub(1);
        vec![
            ("redis_connected", "gauge", "Whether this node follows Redis.", connected),
            ("redis_lag_seconds", "gauge", "Since when this node may lack something; up to 1 is usual.", lag),
            ("redis_reconnections_total", "counter", "Connections to Redis after the first.", again.to_string()),
        ]
    }
}

//! The hub: all channels of a server by their names, and the metrics.
//!
//! A log is opened without a lock, so that nobody waits for it who does not ask for that channel.
//!
//! Work for one request does not grow with the number of channels, but for their logarithm; `/health` and `/metrics` alone
//! look at all of them. Who looks for room does so as well, but if that was in vain, nobody does again for `SEARCH_PAUSE`, and
//! ten times as long as it took.
//!
//! Limits: `--max-channels`; for each channel a thread that replays.
//! Deliberately absent: HTTP.

use crate::channel::publish::{NewIds, Recipients};
use crate::channel::state::{Channel, Counters};
use crate::channel::subscriber::Slot;
use crate::config::Config;
use crate::log::disk::Dir;
use crate::log::positions::{Log, Since};
use crate::log::writer::Writer;
use crate::system::limits::{self, Shares};
use crate::system::report::report;
use crate::system::threads::lock;
use crate::system::time::millis;
use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::percent::is_made_of;
use crate::wire::reject::{CHANNELS, LOG_CLOSED, OPEN_LOGS, Reject};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Limit: cores that write to the subscribers of one channel.
const MAX_CORES: usize = 8;
/// Pause, in milliseconds, after a search for room that was in vain.
const SEARCH_PAUSE: u64 = 100;

/// A channel's name, and what is known of it: nothing, if only files remember it.
#[derive(Default)]
struct Entry {
    channel: Option<Arc<Channel>>,
    opening: bool,
    error: Option<String>, // its log cannot be used
}

/// Channels by their names.
#[derive(Default)]
struct Names {
    all: BTreeMap<Box<str>, Entry>,
    open: usize, // or being opened
    next_purge: u64,
    next_search: u64,
}

impl Names {
    fn open(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.all.values().filter_map(|entry| entry.channel.as_ref())
    }

    /// Forgets those that nobody uses and that are `useless`. If files remember one, its name stays.
    fn forget_unused(&mut self, gone: &mut Vec<Arc<Channel>>, useless: &dyn Fn(&Channel) -> bool) {
        // Only the list holds a channel that nobody is in the middle of using.
        let unused = |c: &Arc<Channel>| Arc::strong_count(c) == 1 && c.subscriber_count() == 0;
        self.all.retain(|_, entry| {
            let Some(channel) = entry.channel.take_if(|c| unused(c) && useless(c)) else { return true };
            let remembered = channel.state().log.unsynced().1.is_some();
            self.open -= 1;
            gone.push(channel);
            remembered
        });
    }
}

/// Channels that share limits.
struct ChannelGroup {
    names: Mutex<Names>,
    opened: Condvar, // a channel was, or it failed
    limits: GroupLimits,
}

/// Channels beside the others, with limits of their own. The door for all who need some for themselves. They are in memory, and
/// one that nobody uses gives way to a new one, whatever was said in it.
pub struct GroupLimits {
    /// What their names begin with.
    pub prefix: &'static str,
    /// Limit: how many there are at a time.
    pub channels: usize,
    /// Limit: bytes kept of each.
    pub history: usize,
    /// How long one that nobody uses is remembered.
    pub forget: Duration,
}

impl GroupLimits {
    fn group(self) -> ChannelGroup {
        ChannelGroup { names: Mutex::default(), opened: Condvar::new(), limits: self }
    }
}

/// A metric: its name, type, help and value.
pub type Metric = (&'static str, &'static str, &'static str, String);

/// A log elsewhere. The door for all who keep events in another place than this process and its disk.
pub trait RemoteLog: Send + Sync {
    /// The channel of this name, with what is kept of it.
    ///
    /// # Errors
    /// If that is not known.
    fn open(&self, name: &str) -> Result<Arc<Channel>, Reject>;

    /// Adds events to the log, all or none. Returns their ids.
    ///
    /// # Errors
    /// If they were not added, or that is not known.
    fn publish(&self, channel: &Channel, events: &[Event], recipients: Recipients) -> Result<Vec<Id>, Reject>;

    /// Waits until a channel has what its reader was told of.
    ///
    /// # Errors
    /// If that cannot be known.
    fn catch_up(&self, channel: &Channel, since: &Since) -> Result<(), Reject>;

    /// Whether events can be published.
    ///
    /// # Errors
    /// Why not.
    fn health(&self) -> Result<(), Reject>;

    /// What it tells of itself.
    fn metrics(&self) -> Vec<Metric>;
}

/// All channels of one server.
pub struct Hub {
    config: Config,
    began: Instant,
    dir: Option<Arc<Dir>>,
    remote_log: OnceLock<Arc<dyn RemoteLog>>,
    /// What was found in `--data` that its owner may not expect.
    pub notes: Vec<String>,
    reserved: Vec<&'static str>,
    /// How the descriptors are shared out.
    pub shares: Shares,
    pub(super) cores: usize,
    channels: ChannelGroup,
    extra_group: OnceLock<ChannelGroup>,
    pub(super) queue: Mutex<VecDeque<Arc<Channel>>>, // each at most once, see `Channel::queued`
    pub(super) pump: OnceLock<Thread>,
    pub(super) heartbeat: OnceLock<Thread>,
    epoch: AtomicU64,
    connections: Arc<AtomicUsize>,
    pub(super) counters: Counters,
}

/// Tells what it was told, and nothing that was said.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Hub({:?})", self.config)
    }
}

impl Hub {
    /// Appends events to a channel's log and wakes the pump. Returns their ids; they are in the log then, all or none.
    ///
    /// # Errors
    /// As [`Hub::channel`] and [`Channel::publish`].
    pub fn publish(&self, name: &str, events: &[Event]) -> Result<Vec<Id>, Reject> {
        self.publish_for(name, events, None)
    }
}

#[doc(hidden)]
impl Hub {
    /// A hub with the channels that `--data` holds, each of which is checked; starts the pump and the heartbeat. `private`: the
    /// files are for their owner alone. No channel has a `reserved` name.
    ///
    /// # Errors
    /// If the directory cannot be had, or the threads cannot be started.
    pub fn new(config: Config, private: bool, reserved: Vec<&'static str>) -> io::Result<Arc<Hub>> {
        let logs = if config.data.is_some() { config.max_channels } else { 0 };
        let all =
            GroupLimits { prefix: "", channels: config.max_channels, history: config.history, forget: config.forget };
        let mut hub = Hub {
            shares: limits::shares(config.max_connections, logs),
            config,
            began: Instant::now(),
            dir: None,
            remote_log: OnceLock::new(),
            notes: Vec::new(),
            reserved,
            cores: limits::cores().min(MAX_CORES),
            channels: all.group(),
            extra_group: OnceLock::new(),
            queue: Mutex::default(),
            pump: OnceLock::new(),
            heartbeat: OnceLock::new(),
            epoch: AtomicU64::new(0),
            connections: Arc::default(),
            counters: Counters::default(),
        };
        hub.scan_data(private)?;
        let hub = Arc::new(hub);
        hub.start()?;
        Ok(hub)
    }

    /// Looks through `--data`, and notes what its owner may not expect.
    fn scan_data(&mut self, private: bool) -> io::Result<()> {
        let Config { data, sync, history, .. } = &self.config;
        let Some(path) = data else { return Ok(()) };
        let dir = Arc::new(Dir::open(path, private, *sync)?);
        let (mut names, others) = dir.list::<Entry>(|name| self.is_channel(name))?;
        let mut notes = Vec::new();
        for (name, entry) in &mut names {
            let mut note = |what: String| notes.push(format!("--data: /{name}: {what}"));
            let opened = Log::open(&dir, name, 0, *history, false, &mut note);
            entry.error = opened.err().map(|e| e.to_string());
            entry.error.iter().for_each(|why| note(format!("it cannot be opened: {why}")));
        }
        notes.extend(others.iter().map(|file| format!("--data: {file:?} is no channel's log; it is left alone")));
        self.dir = Some(dir);
        self.notes = notes;
        lock(&self.channels.names).all = names;
        Ok(())
    }

    /// Has another place keep the logs of all channels, from now on.
    pub fn set_remote_log(&self, elsewhere: Arc<dyn RemoteLog>) {
        let _ = self.remote_log.set(elsewhere); // there is one at most
    }

    /// Has channels in an annex, from now on.
    pub fn add_group(&self, annex: GroupLimits) {
        let _ = self.extra_group.set(annex.group()); // there is one at most
    }

    /// Where the channel of this name stands, if that is in the annex.
    fn extra_group(&self, name: &str) -> Option<&ChannelGroup> {
        self.extra_group.get().filter(|shelf| name.starts_with(shelf.limits.prefix))
    }

    /// Where the channel of this name stands.
    fn group(&self, name: &str) -> &ChannelGroup {
        self.extra_group(name).unwrap_or(&self.channels)
    }

    /// What keeps the log of the channel of this name, if that is elsewhere.
    fn remote_log(&self, name: &str) -> Option<&dyn RemoteLog> {
        self.remote_log.get().filter(|_| self.extra_group(name).is_none()).map(|elsewhere| &**elsewhere)
    }

    /// The directory that keeps it, if one does.
    fn dir(&self, name: &str) -> Option<&Arc<Dir>> {
        self.dir.as_ref().filter(|_| self.extra_group(name).is_none())
    }

    /// Whether this can be a channel's name: 1 to 64 of `A-Z a-z 0-9 _ -`, but none that is taken.
    pub fn is_channel(&self, name: &str) -> bool {
        name.len() <= 64 && is_made_of(name, b"_-") && !self.reserved.contains(&name)
    }

    /// What this hub was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Milliseconds since the hub began.
    pub fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Counts a connection for as long as the slot lives; returns how many there are with it.
    pub fn connect(&self) -> (Slot, usize) {
        Slot::claim(&self.connections)
    }

    /// The channel of this name, which exists from now on.
    ///
    /// # Errors
    /// [`CHANNELS`] if it would be one more than `--max-channels`, [`OPEN_LOGS`] if its files would be too many, [`LOG_CLOSED`]
    /// if they cannot be used.
    pub fn channel(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let mut gone = Vec::new(); // their files are closed without a lock
        let known = self.find_or_claim(name, &mut gone).or_else(|_| {
            // There may be none to be found, and then it is not looked for again at once.
            self.make_room(name, &mut gone);
            self.find_or_claim(name, &mut gone)
        })?;
        let channel = known.map_or_else(|| self.open_claimed(name), Ok)?;
        channel.touch(self.now());
        Ok(channel)
    }

    /// Opens a channel for all who wait for it, and notes what came of that.
    fn open_claimed(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        // Without the lock on the channels: it may take long. A panic is a bug; others must not wait for ever.
        let mut notes = Vec::new();
        let mut why = None;
        let open = AssertUnwindSafe(|| self.open_log(name, &mut notes, &mut why));
        let opened = catch_unwind(open).unwrap_or(Err(LOG_CLOSED));
        let shelf = self.group(name);
        let mut names = lock(&shelf.names);
        let before = names.all.remove(name).and_then(|entry| entry.error);
        let channel = opened.clone().ok();
        if channel.is_none() {
            names.open -= 1;
        }
        if before != why
            && let Some(why) = &why
        {
            notes.push(format!("tincan: /{name} cannot be opened: {why}"));
        }
        if channel.is_some() || why.is_some() {
            names.all.insert(name.into(), Entry { channel, error: why, opening: false });
        }
        drop(names);
        shelf.opened.notify_all();
        notes.into_iter().for_each(report); // a terminal that nobody reads holds up this request alone
        opened
    }

    /// Opens a log, and notes what its owner is to be told, and why it cannot be used.
    fn open_log(&self, name: &str, notes: &mut Vec<String>, why: &mut Option<String>) -> Result<Arc<Channel>, Reject> {
        if let Some(elsewhere) = self.remote_log(name) {
            return elsewhere.open(name);
        }
        let epoch = self.new_epoch();
        let history = self.group(name).limits.history;
        let sync = self.config.sync;
        let mut note = |what: String| notes.push(format!("tincan: --data: /{name}: {what}"));
        let (log, writer) = match self.dir(name) {
            None => (Log::new(epoch, history), Writer::default()),
            Some(dir) => Log::open(dir, name, epoch, history, sync, &mut note).map_err(|e| {
                *why = Some(e.to_string());
                LOG_CLOSED
            })?,
        };
        Ok(Arc::new(Channel::new(name, log, writer)))
    }

    /// The channel of this name, for a reader that begins there: with all that it has been told of.
    ///
    /// # Errors
    /// As [`Hub::channel`] and [`RemoteLog::catch_up`].
    pub fn channel_from(&self, name: &str, since: &Since) -> Result<Arc<Channel>, Reject> {
        let channel = self.channel(name)?;
        self.remote_log(name).map_or(Ok(()), |remote| remote.catch_up(&channel, since))?;
        Ok(channel)
    }

    /// Whether events can be published. Returns the names of those channels whose logs are damaged or cannot be read.
    ///
    /// # Errors
    /// As [`RemoteLog::health`].
    pub fn health(&self) -> Result<Vec<String>, Reject> {
        self.remote_log.get().map_or(Ok(()), |elsewhere| elsewhere.health())?;
        let names = lock(&self.channels.names);
        let is_bad = |entry: &Entry| {
            entry.error.is_some() || entry.channel.as_ref().is_some_and(|c| c.state().log.is_unreadable())
        };
        Ok(names.all.iter().filter(|(_, entry)| is_bad(entry)).map(|(name, _)| name.to_string()).collect())
    }

    /// The channels that have readers.
    pub(super) fn channels_with_subscribers(&self) -> Vec<Arc<Channel>> {
        let mut heard = Vec::new();
        for shelf in self.extra_group.get().into_iter().chain([&self.channels]) {
            heard.extend(lock(&shelf.names).open().filter(|channel| channel.subscriber_count() > 0).cloned());
        }
        heard
    }

    /// The channel of this name if it is open; else it is the caller's to open it, and others wait for that.
    fn find_or_claim(&self, name: &str, gone: &mut Vec<Arc<Channel>>) -> Result<Option<Arc<Channel>>, Reject> {
        let busy = |names: &mut Names| names.all.get(name).is_some_and(|entry| entry.opening);
        let shelf = self.group(name);
        let forget = millis(shelf.limits.forget);
        let names = shelf.opened.wait_while(lock(&shelf.names), busy);
        let names = &mut *names.unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if now >= names.next_purge {
            names.next_purge = now + forget / 60;
            names.forget_unused(gone, &|c| c.idle(now) >= forget);
        }
        if let Some(Entry { channel: Some(channel), .. }) = names.all.get(name) {
            return Ok(Some(channel.clone()));
        }
        self.check_room(names, name)?;
        names.all.entry(name.into()).or_default().opening = true;
        names.open += 1;
        Ok(None)
    }

    /// Whether there is room to open a channel of this name.
    fn check_room(&self, names: &Names, name: &str) -> Result<(), Reject> {
        if names.all.len() >= self.group(name).limits.channels && !names.all.contains_key(name) {
            return Err(CHANNELS);
        }
        if self.is_full(names, name) { Err(OPEN_LOGS) } else { Ok(()) }
    }

    /// Whether as many logs are open as there are descriptors for.
    fn is_full(&self, names: &Names, name: &str) -> bool {
        self.dir(name).is_some() && names.open >= self.shares.logs
    }

    /// Looks for room for a channel of this name.
    fn make_room(&self, name: &str, gone: &mut Vec<Arc<Channel>>) {
        let now = self.now();
        let shelf = self.group(name);
        let mut names = lock(&shelf.names);
        if now < names.next_search {
            return;
        }
        let all = self.is_full(&names, name) || self.extra_group(name).is_some() || self.remote_log(name).is_some();
        // Those in which nothing was ever said, or can be: else whoever only asks for names could use them all up.
        names.forget_unused(gone, &|c| all || c.is_empty());
        if self.check_room(&names, name).is_ok() {
            return;
        }
        names.next_search = u64::MAX; // one search at a time
        drop(names);
        // Those whose files its owner has removed. It may take long, so nobody else waits for it.
        let there = self.dir(name).and_then(|dir| dir.list::<Entry>(|name| self.is_channel(name)).ok());
        let has_file = |name: &str| there.as_ref().map(|(names, _)| names.contains_key(name));
        let mut names = lock(&shelf.names);
        // One that was used meanwhile may have got its first file.
        names.forget_unused(gone, &|c| has_file(&c.name) == Some(false) && c.idle(now) > 0);
        names.all.retain(|name, entry| {
            has_file(name).unwrap_or(entry.error.is_none()) || entry.channel.is_some() || entry.opening
        });
        let end = self.now();
        names.next_search = end;
        if self.check_room(&names, name).is_err() {
            names.next_search += SEARCH_PAUSE.max(10 * (end - now));
        }
        for channel in gone {
            // Its epoch may be ahead of the clock, and the next one of this name must be greater.
            self.epoch.fetch_max(channel.last_id().epoch, SeqCst);
        }
    }

    /// The clock in milliseconds, but greater than every epoch of this process, also where the clock was set back.
    fn new_epoch(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_millis() as u64);
        self.epoch.fetch_max(now.saturating_sub(1), SeqCst);
        self.epoch.fetch_add(1, SeqCst) + 1
    }

    /// Appends events to a log as [`Hub::publish`] does, for an audience.
    ///
    /// # Errors
    /// As [`Hub::channel`] and [`Channel::publish`].
    pub fn publish_for(&self, name: &str, events: &[Event], recipients: Recipients) -> Result<Vec<Id>, Reject> {
        let channel = self.channel(name)?;
        let (ids, bytes) = match self.remote_log(name) {
            Some(elsewhere) => {
                let ids = elsewhere.publish(&channel, events, recipients)?;
                let mut blocks = Vec::new();
                events.iter().zip(&ids).for_each(|(event, id)| event.write(Some(id), &mut blocks));
                (ids, blocks.len() as u64)
            }
            None => channel.publish(events, NewIds::Next, recipients)?,
        };
        self.counters.events.fetch_add(events.len() as u64, Relaxed);
        self.counters.published.fetch_add(bytes, Relaxed);
        self.wake(&channel);
        Ok(ids)
    }

    /// The metrics, in Prometheus's text format; of the channels, only one where `only` names it.
    pub fn metrics(&self, only: Option<&str>) -> String {
        let further = self.remote_log.get().map(|elsewhere| elsewhere.metrics()).unwrap_or_default();
        let names = lock(&self.group(only.unwrap_or_default()).names);
        let mut out = String::new();
        let mut tell = |name: &str, kind: &str, help: &str, value: &dyn fmt::Debug| {
            let _ = writeln!(out, "# HELP tincan_{name} {help}\n# TYPE tincan_{name} {kind}\ntincan_{name} {value:?}");
        };
        tell("connections", "gauge", "Open connections, readers included.", &self.connections.load(Relaxed));
        tell("channels", "gauge", "Channels in use.", &names.open);
        tell("events_total", "counter", "Events published.", &self.counters.events);
        tell("published_bytes_total", "counter", "Bytes of events published.", &self.counters.published);
        tell("delivered_bytes_total", "counter", "Bytes of events given to readers.", &self.counters.delivered);
        tell("dropped_subscribers_total", "counter", "Readers that fell off the log.", &self.counters.dropped);
        for (name, kind, help, value) in further {
            tell(name, kind, help, &format_args!("{value}"));
        }
        out.push_str("# HELP tincan_subscribers Readers of a channel.\n# TYPE tincan_subscribers gauge\n");
        for channel in names.open().filter(|channel| only.is_none_or(|only| channel.name == only)) {
            let _ = writeln!(out, "tincan_subscribers{{channel=\"{}\"}} {}", channel.name, channel.active_count());
        }
        out
    }
}

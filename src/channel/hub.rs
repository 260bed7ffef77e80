//! The hub: all channels of a server by their names, and the metrics.
//!
//! A log is opened without a lock, so that only requests for that channel wait for it.
//!
//! The work for one request grows only with the logarithm of the number of channels. There are four exceptions.
//! `/health` and `/metrics` look at all channels. So does a search for the largest log, each time that logs are over
//! the memory budget. A search for room does too, if a limit of channels is reached. After a search that found no room,
//! there is no further one for `SEARCH_PAUSE`, or for ten times the time of the search, if that is longer.
//!
//! Limits: `--max-channels`; for each channel one thread that replays.
//! Deliberately absent: HTTP.

use crate::channel::publish::{NewIds, Recipients};
use crate::channel::state::{Channel, Counters};
use crate::config::Config;
use crate::log::disk::Dir;
use crate::log::positions::{Log, Since};
use crate::log::writer::Writer;
use crate::system::limits::{self, Places, Shares, Slot};
use crate::system::memory::{Budget, Counted};
use crate::system::report::report;
use crate::system::threads::lock;
use crate::system::time::{millis, random, set_clock};
use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::percent::is_made_of;
use crate::wire::reject::{CHANNELS, LOG_CLOSED, MEMORY, OPEN_LOGS, Reject};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Limit: threads that send to the subscribers of one channel at a time.
const MAX_CORES: usize = 8;
/// The pause after a search that found no room, in milliseconds.
const SEARCH_PAUSE: u64 = 100;

/// What is known of a channel. It is empty if the channel is only in files.
#[derive(Default)]
struct Entry {
    channel: Option<Arc<Channel>>,
    is_opening: bool,
    error: Option<String>, // why its log cannot be used
}

/// Channels by their names.
#[derive(Default)]
struct ChannelTable {
    all: BTreeMap<Box<str>, Entry>,
    open_count: usize, // channels that are open, or being opened
    next_forget: u64,  // when to forget unused channels again
    next_search: u64,  // when to search for room again
}

impl ChannelTable {
    fn open_channels(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.all.values().filter_map(|entry| entry.channel.as_ref())
    }

    /// Forgets channels that are not in use and for which `may_forget` is true. The name of a channel that has files
    /// stays.
    fn forget_unused(&mut self, forgotten: &mut Vec<Arc<Channel>>, may_forget: &dyn Fn(&Channel) -> bool) {
        // If only this list refers to a channel, no thread is using it.
        let unused = |c: &Arc<Channel>| Arc::strong_count(c) == 1 && c.subscriber_count() == 0;
        self.all.retain(|_, entry| {
            let Some(channel) = entry.channel.take_if(|c| unused(c) && may_forget(c)) else { return true };
            let remembered = channel.state().log.unsynced().1.is_some();
            self.open_count -= 1;
            forgotten.push(channel);
            remembered
        });
    }
}

/// Channels that share their limits.
struct ChannelGroup {
    names: Mutex<ChannelTable>,
    opened: Condvar, // a channel was opened, or failed to open
    limits: GroupLimits,
}

/// The limits of a group of channels. A hub has one group, and with [`Hub::add_group`] an extra one. Door: for
/// everything that needs channels of its own. The channels of the extra group are in memory. If a new one needs room,
/// unused ones are forgotten, even with events.
pub struct GroupLimits {
    /// The prefix of the channels' names.
    pub prefix: &'static str,
    /// Limit: channels at a time.
    pub channels: usize,
    /// Limit: bytes that each channel keeps.
    pub history: usize,
    /// How long a channel that is not in use is remembered.
    pub forget: Duration,
}

impl GroupLimits {
    fn group(self) -> ChannelGroup {
        ChannelGroup { names: Mutex::default(), opened: Condvar::new(), limits: self }
    }
}

/// A metric: its name, type, help text and value.
pub type Metric = (&'static str, &'static str, &'static str, String);

/// A remote log. Door: for everything that keeps events outside this process and its disk.
pub trait RemoteLog: Send + Sync {
    /// Opens the channel of this name, with the events that are kept of it.
    ///
    /// # Errors
    /// If it is not known what is kept.
    fn open(&self, name: &str) -> Result<Arc<Channel>, Reject>;

    /// Appends events to the log, all or none. Returns their ids.
    ///
    /// # Errors
    /// If the events were not appended, or if it is not known whether they were.
    fn publish(&self, channel: &Channel, events: &[Event], recipients: Recipients) -> Result<Vec<Id>, Reject>;

    /// Waits until the channel has the events up to `since`: the client may have received them from another server.
    ///
    /// # Errors
    /// If that cannot be known.
    fn catch_up(&self, channel: &Channel, since: &Since) -> Result<(), Reject>;

    /// Checks that events can be published.
    ///
    /// # Errors
    /// The reason why they cannot.
    fn health(&self) -> Result<(), Reject>;

    /// Returns its metrics.
    fn metrics(&self) -> Vec<Metric>;
}

/// All channels of one server.
pub struct Hub {
    config: Config,
    started: Instant,
    dir: Option<Arc<Dir>>,
    remote_log: OnceLock<Arc<dyn RemoteLog>>,
    /// Notes for the operator about what was found in `--data`.
    pub notes: Vec<String>,
    reserved: Vec<&'static str>,
    /// How many descriptors there are for each purpose.
    pub shares: Shares,
    /// The memory for logs and bodies.
    pub budget: Budget,
    pub(super) cores: usize,
    channels: ChannelGroup,
    extra_group: OnceLock<ChannelGroup>,
    pub(super) queue: Mutex<VecDeque<Arc<Channel>>>, // each at most once, see `Channel::queued`
    pub(super) pump: OnceLock<Thread>,
    pub(super) heartbeat: OnceLock<Thread>,
    epoch: Mutex<u64>, // the greatest one that was given
    /// The open connections, without the refused ones.
    pub connections: Arc<Places>,
    /// The open connections that are refused.
    pub refused: Arc<Places>,
    /// The open connections that have a thread.
    pub threads: Arc<Places>,
    pub(super) counters: Mutex<Counters>,
}

/// Shows the options, but no event.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Hub({:?})", self.config)
    }
}

impl Hub {
    /// Appends events to a channel's log, all or none, and wakes the pump. Returns their ids.
    ///
    /// # Errors
    /// Those of [`Hub::channel`] and [`Channel::publish`].
    pub fn publish(&self, name: &str, events: &[Event]) -> Result<Vec<Id>, Reject> {
        self.publish_for(name, events, None)
    }
}

#[doc(hidden)]
impl Hub {
    /// Returns a hub with the channels in `--data`, each of which is checked. Starts the pump and the heartbeat.
    /// `private`: only the files' owner may read them. No channel has a `reserved` name.
    ///
    /// # Errors
    /// If the directory cannot be used, or if the threads cannot be started.
    pub fn new(mut config: Config, private: bool, reserved: Vec<&'static str>) -> io::Result<Arc<Hub>> {
        let logs = if config.data.is_some() { config.max_channels } else { 0 };
        let shares = limits::shares(config.max_connections, logs);
        let memory = config.memory.unwrap_or(shares.memory);
        config.max_body = config.max_body.min(memory / 4);
        let all =
            GroupLimits { prefix: "", channels: config.max_channels, history: config.history, forget: config.forget };
        let mut hub = Hub {
            shares,
            budget: Budget { max: memory, ..Budget::default() },
            config,
            started: Instant::now(),
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
            epoch: Mutex::new(random() >> 24),
            connections: Arc::default(),
            refused: Arc::default(),
            threads: Arc::default(),
            counters: Mutex::default(),
        };
        hub.scan_data(private)?;
        let hub = Arc::new(hub);
        hub.start()?;
        Ok(hub)
    }

    /// Reads `--data`, and makes notes for the operator about what is unexpected there.
    fn scan_data(&mut self, private: bool) -> io::Result<()> {
        let Config { data, sync, history, .. } = &self.config;
        let Some(path) = data else { return Ok(()) };
        let dir = Arc::new(Dir::open(path, private, *sync)?);
        let (mut names, others) = dir.list::<Entry>(|name| self.is_channel(name))?;
        let mut notes = Vec::new();
        for (name, entry) in &mut names {
            let mut note = |text: String| notes.push(format!("--data: /{name}: {text}"));
            let opened = Log::open(&dir, name, 0, *history, false, &mut note);
            entry.error = opened.err().map(|e| e.to_string());
            entry.error.iter().for_each(|error| note(format!("it cannot be opened: {error}")));
        }
        notes.extend(others.iter().map(|file| format!("--data: {file:?} is no channel's log; it is left alone")));
        self.dir = Some(dir);
        self.notes = notes;
        lock(&self.channels.names).all = names;
        Ok(())
    }

    /// Sets the remote log. From now on it keeps the events of all channels, except those of the extra group.
    pub fn set_remote_log(&self, remote: Arc<dyn RemoteLog>) {
        let _ = self.remote_log.set(remote); // there is one at most
    }

    /// Adds an extra group of channels with these limits.
    pub fn add_group(&self, limits: GroupLimits) {
        let _ = self.extra_group.set(limits.group()); // there is one at most
    }

    /// Returns the extra group, if a channel of this name belongs to it.
    fn extra_group(&self, name: &str) -> Option<&ChannelGroup> {
        self.extra_group.get().filter(|group| name.starts_with(group.limits.prefix))
    }

    /// Returns the group to which a channel of this name belongs.
    fn group(&self, name: &str) -> &ChannelGroup {
        self.extra_group(name).unwrap_or(&self.channels)
    }

    /// Returns the remote log, if it keeps the channel of this name.
    fn remote_log(&self, name: &str) -> Option<&dyn RemoteLog> {
        self.remote_log.get().filter(|_| self.extra_group(name).is_none()).map(|remote| &**remote)
    }

    /// Returns the directory, if it keeps the channel of this name.
    fn dir(&self, name: &str) -> Option<&Arc<Dir>> {
        self.dir.as_ref().filter(|_| self.extra_group(name).is_none())
    }

    /// Returns whether this can be a channel's name. Limit: 1 to 64 of `A-Z a-z 0-9 _ -`, and not reserved.
    pub fn is_channel(&self, name: &str) -> bool {
        name.len() <= 64 && is_made_of(name, b"_-") && !self.reserved.contains(&name)
    }

    /// Returns the options.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the milliseconds since the hub was made.
    pub fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Takes a place for a connection of this client. Returns its slot, and whether there was room for it.
    pub fn connect(&self, client: IpAddr) -> (Slot, bool) {
        let max = self.shares.connections;
        self.connections.claim_within(client, max, self.config.max_per_address.unwrap_or(max.div_ceil(2)))
    }

    /// Returns the channel of this name. Opens it if needed.
    ///
    /// # Errors
    /// [`CHANNELS`] if there are `--max-channels` already, [`OPEN_LOGS`] if too many logs are open, [`LOG_CLOSED`] if
    /// the channel's log cannot be used.
    pub fn channel(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let mut forgotten = Vec::new(); // dropped after the locks are released, because that may take long
        let known = self.find_or_claim(name, &mut forgotten).or_else(|_| {
            // This may find no room. Soon after such a search it does not search again.
            self.make_room(name, &mut forgotten);
            self.find_or_claim(name, &mut forgotten)
        })?;
        let channel = known.map_or_else(|| self.open_claimed(name), Ok)?;
        channel.touch(self.now());
        Ok(channel)
    }

    /// Opens a channel for all threads that wait for it, and notes the result.
    fn open_claimed(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        // Without a lock on the names, because it may take long. A panic is a bug; the threads that wait must still go
        // on.
        let mut notes = Vec::new();
        let mut error = None;
        let open = AssertUnwindSafe(|| self.open_log(name, &mut notes, &mut error));
        let opened = catch_unwind(open).unwrap_or(Err(LOG_CLOSED));
        let group = self.group(name);
        let mut names = lock(&group.names);
        let old_error = names.all.remove(name).and_then(|entry| entry.error);
        let channel = opened.clone().ok();
        if channel.is_none() {
            names.open_count -= 1;
        }
        if old_error != error
            && let Some(error) = &error
        {
            notes.push(format!("tincan: /{name} cannot be opened: {error}"));
        }
        if channel.is_some() || error.is_some() {
            names.all.insert(name.into(), Entry { channel, error, is_opening: false });
        }
        drop(names);
        group.opened.notify_all();
        notes.into_iter().for_each(report); // if standard error is blocked, only this request waits
        opened
    }

    /// Opens a log. Adds notes for the operator, and sets `error` if the log cannot be used.
    fn open_log(
        &self, name: &str, notes: &mut Vec<String>, error: &mut Option<String>,
    ) -> Result<Arc<Channel>, Reject> {
        if let Some(remote) = self.remote_log(name) {
            return remote.open(name);
        }
        let epoch = self.new_epoch();
        let history = self.group(name).limits.history;
        let sync = self.config.sync;
        let mut note = |text: String| notes.push(format!("tincan: --data: /{name}: {text}"));
        let (log, writer) = match self.dir(name) {
            None => (Log::new(epoch, history).within(self.budget.max), Writer::default()),
            Some(dir) => Log::open(dir, name, epoch, history, sync, &mut note).map_err(|e| {
                *error = Some(e.to_string());
                LOG_CLOSED
            })?,
        };
        Ok(Arc::new(Channel::new(name, log, writer, &self.budget)))
    }

    /// Returns the channel of this name for a client that wants to start at `since`. The channel then has all events
    /// that the client may have received.
    ///
    /// # Errors
    /// Those of [`Hub::channel`] and [`RemoteLog::catch_up`].
    pub fn channel_from(&self, name: &str, since: &Since) -> Result<Arc<Channel>, Reject> {
        let channel = self.channel(name)?;
        if let Some(remote) = self.remote_log(name) {
            remote.catch_up(&channel, since)?;
        }
        Ok(channel)
    }

    /// Checks that events can be published. Returns the names of the channels whose logs are damaged or cannot be read
    /// back.
    ///
    /// # Errors
    /// Those of [`RemoteLog::health`].
    pub fn health(&self) -> Result<Vec<String>, Reject> {
        if let Some(remote) = self.remote_log.get() {
            remote.health()?;
        }
        let names = lock(&self.channels.names);
        let is_bad = |entry: &Entry| {
            entry.error.is_some() || entry.channel.as_ref().is_some_and(|c| c.state().log.is_unreadable())
        };
        Ok(names.all.iter().filter(|(_, entry)| is_bad(entry)).map(|(name, _)| name.to_string()).collect())
    }

    /// Returns the open channels for which a condition is true.
    pub(super) fn open_channels(&self, condition: impl Fn(&Channel) -> bool) -> Vec<Arc<Channel>> {
        let mut channels = Vec::new();
        for group in self.extra_group.get().into_iter().chain([&self.channels]) {
            channels.extend(lock(&group.names).open_channels().filter(|channel| condition(channel)).cloned());
        }
        channels
    }

    /// Returns the channel of this name if it is open. Otherwise it returns None, and the caller must open the channel:
    /// other threads wait for that.
    fn find_or_claim(&self, name: &str, forgotten: &mut Vec<Arc<Channel>>) -> Result<Option<Arc<Channel>>, Reject> {
        let busy = |names: &mut ChannelTable| names.all.get(name).is_some_and(|entry| entry.is_opening);
        let group = self.group(name);
        let forget = millis(group.limits.forget);
        let names = group.opened.wait_while(lock(&group.names), busy);
        let names = &mut *names.unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if now >= names.next_forget {
            names.next_forget = now + forget / 60;
            names.forget_unused(forgotten, &|c| c.idle(now) >= forget);
        }
        if let Some(Entry { channel: Some(channel), .. }) = names.all.get(name) {
            return Ok(Some(channel.clone()));
        }
        self.check_room(names, name)?;
        names.all.entry(name.into()).or_default().is_opening = true;
        names.open_count += 1;
        Ok(None)
    }

    /// Checks that there is room for a channel of this name.
    fn check_room(&self, names: &ChannelTable, name: &str) -> Result<(), Reject> {
        if names.all.len() >= self.group(name).limits.channels && !names.all.contains_key(name) {
            return Err(CHANNELS);
        }
        if self.is_full(names, name) { Err(OPEN_LOGS) } else { Ok(()) }
    }

    /// Returns whether as many logs are open as there are descriptors for.
    fn is_full(&self, names: &ChannelTable, name: &str) -> bool {
        self.dir(name).is_some() && names.open_count >= self.shares.logs
    }

    /// Tries to make room for a channel of this name: forgets channels that are not in use.
    fn make_room(&self, name: &str, forgotten: &mut Vec<Arc<Channel>>) {
        let now = self.now();
        let group = self.group(name);
        let mut names = lock(&group.names);
        if now < names.next_search {
            return;
        }
        let all = self.is_full(&names, name) || self.extra_group(name).is_some() || self.remote_log(name).is_some();
        // Unused channels without events are forgotten. Otherwise a client could use up all channels by asking for many
        // names. Unused channels with events are forgotten too, if files or a remote log keep the events, or if the
        // channels are of the extra group.
        names.forget_unused(forgotten, &|c| all || c.is_empty());
        if self.check_room(&names, name).is_ok() {
            return;
        }
        names.next_search = u64::MAX; // one search at a time
        drop(names);
        // Channels whose files the operator has removed. To list the directory may take long, so no lock is held.
        let listed = self.dir(name).and_then(|dir| dir.list::<Entry>(|name| self.is_channel(name)).ok());
        let has_file = |name: &str| listed.as_ref().map(|(names, _)| names.contains_key(name));
        let mut names = lock(&group.names);
        // A channel that was used meanwhile may have got its first file, so it stays.
        names.forget_unused(forgotten, &|c| has_file(&c.name) == Some(false) && c.idle(now) > 0);
        names.all.retain(|name, entry| {
            has_file(name).unwrap_or(entry.error.is_none()) || entry.channel.is_some() || entry.is_opening
        });
        let end = self.now();
        names.next_search = end;
        if self.check_room(&names, name).is_err() {
            names.next_search += SEARCH_PAUSE.max(10 * (end - now));
        }
        for channel in forgotten {
            // Its epoch may be ahead of the clock. The next epoch of a channel of this name must be greater.
            let last = channel.last_id().epoch;
            let mut epoch = lock(&self.epoch);
            *epoch = epoch.max(last);
        }
    }

    /// Returns the clock in milliseconds, or more: it is greater than every epoch of this process, even if the clock
    /// was set back. If the clock is not set, it is greater than a random number that is below all times since 2004. So
    /// two starts give the same epoch as seldom as two random numbers of 40 bits are close. A clock that is wrong, but
    /// shows a time after 2025, is not noticed.
    fn new_epoch(&self) -> u64 {
        let now = set_clock().map_or(0, millis);
        let mut epoch = lock(&self.epoch);
        *epoch = now.max(*epoch + 1);
        *epoch
    }

    /// Appends events to a log as [`Hub::publish`] does, for these recipients.
    ///
    /// # Errors
    /// Those of [`Hub::channel`] and [`Channel::publish`].
    pub fn publish_for(&self, name: &str, events: &[Event], recipients: Recipients) -> Result<Vec<Id>, Reject> {
        let channel = self.channel(name)?;
        let (ids, bytes) = match self.remote_log(name) {
            Some(remote) => {
                let ids = remote.publish(&channel, events, recipients)?;
                let mut blocks = Vec::new();
                events.iter().zip(&ids).for_each(|(event, id)| event.write(Some(id), &mut blocks));
                (ids, blocks.len() as u64)
            }
            None => channel.publish(events, NewIds::Next, recipients)?,
        };
        let mut counters = lock(&self.counters);
        counters.events += events.len() as u64;
        counters.published += bytes;
        drop(counters);
        self.wake(&channel);
        Ok(ids)
    }

    /// Drops the oldest part of the largest log, until logs and bodies are within the budget. If several threads do
    /// this at a time, each may drop one part more.
    pub(super) fn free_memory(&self) {
        while self.budget.is_over()
            && let Some(largest) = self.open_channels(|c| c.memory.bytes() > 0).iter().max_by_key(|c| c.memory.bytes())
        {
            largest.give_way();
        }
    }

    /// Counts what has come of a body, and makes room for it.
    ///
    /// # Errors
    /// [`MEMORY`] if there is no room for it.
    pub fn admit(&self, body: &Counted, bytes: usize) -> Result<(), Reject> {
        body.set(bytes);
        self.budget.has_room(bytes).then(|| self.free_memory()).ok_or(MEMORY)
    }

    /// Returns the metrics in Prometheus's text format. `only`: of all channels, only this one is listed.
    pub fn metrics(&self, only: Option<&str>) -> String {
        let remote_metrics = self.remote_log.get().map(|remote| remote.metrics()).unwrap_or_default();
        let names = lock(&self.group(only.unwrap_or_default()).names);
        let counters = lock(&self.counters);
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, value: &dyn fmt::Debug| {
            let _ = writeln!(out, "# HELP tincan_{name} {help}\n# TYPE tincan_{name} {kind}\ntincan_{name} {value:?}");
        };
        metric(
            "connections",
            "gauge",
            "Open connections, including those of subscribers.",
            &self.connections.count.load(Relaxed),
        );
        metric("channels", "gauge", "Channels in use.", &names.open_count);
        metric("events_total", "counter", "Events published.", &counters.events);
        metric("published_bytes_total", "counter", "Bytes of events published.", &counters.published);
        metric("delivered_bytes_total", "counter", "Bytes of events sent to subscribers.", &counters.delivered);
        metric(
            "dropped_subscribers_total",
            "counter",
            "Subscribers dropped because the log could not give them their next bytes.",
            &counters.dropped,
        );
        for (name, kind, help, value) in remote_metrics {
            metric(name, kind, help, &format_args!("{value}"));
        }
        out.push_str("# HELP tincan_subscribers Subscribers of a channel.\n# TYPE tincan_subscribers gauge\n");
        for channel in names.open_channels().filter(|channel| only.is_none_or(|only| channel.name == only)) {
            let _ = writeln!(out, "tincan_subscribers{{channel=\"{}\"}} {}", channel.name, channel.active_count());
        }
        out
    }
}

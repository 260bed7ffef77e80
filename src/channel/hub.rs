//! The hub: all channels of a server, the pump and the heartbeat, the metrics.
//!
//! Two threads write to subscribers, and a turn with many of them borrows more for its length:
//!
//! - the *pump* takes a channel that has news and gives every subscriber what lies between its position and the log's
//!   end, a piece at a time (`Channel::turn`). Broadcast, replay, the rest of a slow reader's event and the answer to a
//!   long poll are all this one loop. It never waits for a disk: what stands in a file alone is read by a thread that
//!   *replays* that channel, for as long as somebody wants it, and has turns of its own with it;
//! - the *heartbeat* looks twice a second for sockets that were closed and for readers that have heard nothing for
//!   `--heartbeat` (`Channel::sweep`). Without a reader it does not wake up at all.
//!
//! A log is opened without a lock, so that nobody waits for it who does not ask for that channel.
//!
//! Work for one request does not grow with the number of channels, but for their logarithm; `/health` and `/metrics` alone
//! look at all of them. Who looks for room does so as well, but if that was in vain, nobody does again for `SEARCH_PAUSE`, and
//! ten times as long as it took.
//!
//! Limits: `--max-channels`; `KEYS` and `LAB_HISTORY` for the wire lab; for each channel a thread that replays.
//! Deliberately absent: HTTP.

use crate::channel::duplex::lock;
use crate::channel::state::{Channel, Numbers, Opening, Piece, STACK, millis};
use crate::channel::subscriber::{LOOK, Slot};
use crate::flags::Config;
use crate::log::disk::Dir;
use crate::log::positions::{From, Log};
use crate::log::writer::Writer;
use crate::system::limits;
use crate::system::report::report;
use crate::wings::redis::cluster::Cluster;
use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::percent::is_made_of;
use crate::wire::reject::{CHANNELS, LOG_CLOSED, OPEN_LOGS, Reject, TAPS};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::io;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Limit: cores that write to the subscribers of one channel.
const CORES: usize = 8;
/// Limit: channels of the wire lab. One that nobody reads, and into which nothing is told, gives way to a new one.
const KEYS: usize = 64;
/// Limit: bytes kept of each, in place of `--history`.
const LAB_HISTORY: usize = 64 << 10;
/// Pause, in milliseconds, after a search for room that was in vain.
const SEARCH_PAUSE: u64 = 100;
/// Pause, in milliseconds, before it is tried again to replay a channel for which there was no thread.
const REPLAY_PAUSE: u64 = 20;

/// Starts a thread.
///
/// # Errors
/// Where the system gives none.
pub fn start(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
    Ok(thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work)?.thread().clone())
}

/// A channel's name, and what is known of it: nothing, if only files remember it.
#[derive(Default)]
struct Entry {
    channel: Option<Arc<Channel>>,
    opening: bool,
    why: Option<String>, // its log cannot be used
}

/// Channels by their names.
#[derive(Default)]
struct Names {
    all: BTreeMap<Box<str>, Entry>,
    open: usize, // or being opened
    next_purge: u64,
    next_search: u64,
}

/// The same, for many threads.
#[derive(Default)]
struct Shelf {
    names: Mutex<Names>,
    opened: Condvar, // one was, or it failed
}

impl Names {
    fn open(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.all.values().filter_map(|entry| entry.channel.as_ref())
    }

    /// Forgets those that nobody uses and that are `useless`. If files remember one, its name stays.
    fn forget(&mut self, gone: &mut Vec<Arc<Channel>>, useless: &dyn Fn(&Channel) -> bool) {
        // Only the list holds a channel that nobody is in the middle of using.
        let unused = |c: &Arc<Channel>| Arc::strong_count(c) == 1 && c.readers() == 0;
        self.all.retain(|_, entry| {
            let Some(channel) = entry.channel.take_if(|c| unused(c) && useless(c)) else { return true };
            let remembered = channel.has_file();
            self.open -= 1;
            gone.push(channel);
            remembered
        });
    }
}

/// All channels of one server.
pub struct Hub {
    config: Config,
    began: Instant,
    dir: Option<Arc<Dir>>,
    cluster: OnceLock<Cluster>,
    notes: Vec<String>,
    open_logs: usize,
    cores: usize,
    channels: Shelf,
    lab: Shelf,                          // the wire lab's
    news: Mutex<VecDeque<Arc<Channel>>>, // each at most once, see `Channel::queued`
    pump: OnceLock<Thread>,
    heart: OnceLock<Thread>,
    epoch: AtomicU64,
    connections: Arc<AtomicUsize>,
    counted: Counters,
}

#[derive(Default)]
struct Counters {
    events: AtomicU64,
    published: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

/// Tells what it was told, and nothing that was said.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Hub({:?})", self.config)
    }
}

/// Whether this can be a channel's name: 1 to 64 of `A-Z a-z 0-9 _ -`, but none that is taken.
pub fn is_channel(name: &str) -> bool {
    name.len() <= 64 && is_made_of(name, b"_-") && !["lab", "lessons", "assets", "metrics", "health"].contains(&name)
}

/// Whether it is a channel of the wire lab: in memory, and only for as long as it is used.
pub fn is_lab(name: &str) -> bool {
    name.strip_prefix("lab/").is_some_and(is_channel)
}

impl Hub {
    /// A hub with the channels that `--data` holds, each of which is checked; starts the pump and the heartbeat. At
    /// most `open_logs` of them are open at a time. `private`: their files are for their owner alone.
    ///
    /// # Errors
    /// If the directory cannot be had, or the threads cannot be started.
    pub fn new(config: Config, open_logs: usize, private: bool) -> io::Result<Arc<Hub>> {
        let dir = config.data.as_deref().map(|path| Dir::open(path, private, config.sync)).transpose()?.map(Arc::new);
        let mut names = Names::default();
        let mut notes = Vec::new();
        if let Some(dir) = &dir {
            let (found, others) = dir.list(is_channel)?;
            names.all = found;
            for (name, Entry { why, .. }) in &mut names.all {
                let mut note = |what: String| notes.push(format!("--data: /{name}: {what}"));
                let opened = Log::open(dir, name, 0, config.history, false, &mut note);
                *why = opened.err().map(|e| e.to_string());
                why.iter().for_each(|why| note(format!("it cannot be opened: {why}")));
            }
            notes.extend(others.iter().map(|file| format!("--data: {file:?} is no channel's log; it is left alone")));
        }
        let hub = Arc::new(Hub {
            config,
            began: Instant::now(),
            dir,
            cluster: OnceLock::new(),
            notes,
            open_logs,
            cores: limits::cores().min(CORES),
            channels: Shelf { names: Mutex::new(names), ..Shelf::default() },
            lab: Shelf::default(),
            news: Mutex::default(),
            pump: OnceLock::new(),
            heart: OnceLock::new(),
            epoch: AtomicU64::new(0),
            connections: Arc::default(),
            counted: Counters::default(),
        });
        let (pump, heart) = (hub.clone(), hub.clone());
        let _ = hub.pump.set(start("pump", Box::new(move || pump.pump()))?);
        let _ = hub.heart.set(start("heartbeat", Box::new(move || heart.beat()))?);
        if let Some(address) = &hub.config.redis {
            let waking = hub.clone();
            let wake = move |channel: &Arc<Channel>| waking.wake(channel);
            let _ = hub.cluster.set(Cluster::new(address.clone(), &hub.config, Box::new(wake)));
        }
        Ok(hub)
    }

    /// Starts to follow Redis, where it keeps the logs.
    pub fn follow(self: &Arc<Hub>) {
        let hub = self.clone();
        let follow = move || hub.cluster.get().map_or((), |cluster| cluster.follow());
        if self.cluster.get().is_some() && start("follower", Box::new(follow)).is_err() {
            report("tincan: no thread can be had to follow Redis with; start the server again".into());
        }
    }

    /// What this hub was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What was found in `--data` that its owner may not expect.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Milliseconds since the hub began.
    pub fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Counts a connection for as long as the slot lives; returns how many there are with it.
    pub fn connect(&self) -> (Slot, usize) {
        Slot::take(&self.connections)
    }

    /// The channel of this name, which exists from now on.
    ///
    /// # Errors
    /// [`CHANNELS`] if it would be one more than `--max-channels`, [`TAPS`] if it is the lab's and one too many,
    /// [`OPEN_LOGS`] if its files would be too many, [`LOG_CLOSED`] if they cannot be used.
    pub fn channel(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let mut gone = Vec::new(); // their files are closed without a lock
        let known = self.known(name, &mut gone).or_else(|_| {
            // There may be none to be found, and then it is not looked for again at once.
            self.search(name, &mut gone);
            self.known(name, &mut gone)
        })?;
        if let Some(channel) = known {
            channel.touch();
            return Ok(channel);
        }
        // Without the lock on the channels: it may take long. A panic is a bug; others must not wait for ever.
        let mut notes = Vec::new();
        let mut why = None;
        let open = AssertUnwindSafe(|| self.open(name, &mut notes, &mut why));
        let opened = catch_unwind(open).unwrap_or(Err(LOG_CLOSED));
        let shelf = self.shelf(name);
        let mut names = lock(&shelf.names);
        let before = names.all.remove(name).and_then(|entry| entry.why);
        let channel = opened.as_ref().ok().cloned();
        if channel.is_none() {
            names.open -= 1;
        }
        if before != why
            && let Some(why) = &why
        {
            notes.push(format!("tincan: /{name} cannot be opened: {why}"));
        }
        if channel.is_some() || why.is_some() {
            names.all.insert(name.into(), Entry { channel, why, opening: false });
        }
        drop(names);
        shelf.opened.notify_all();
        notes.into_iter().for_each(report); // a terminal that nobody reads holds up this request alone
        opened
    }

    /// Where this name has its place.
    fn shelf(&self, name: &str) -> &Shelf {
        if is_lab(name) { &self.lab } else { &self.channels }
    }

    /// Opens a log, and notes what its owner is to be told, and why it cannot be used.
    fn open(&self, name: &str, notes: &mut Vec<String>, why: &mut Option<String>) -> Result<Arc<Channel>, Reject> {
        if let Some(cluster) = self.cluster(name) {
            return cluster.open(name);
        }
        let epoch = self.new_epoch();
        let history = if is_lab(name) { LAB_HISTORY } else { self.config.history };
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

    /// The directory that keeps the log of the channel of this name, where one does.
    fn dir(&self, name: &str) -> Option<&Arc<Dir>> {
        self.dir.as_ref().filter(|_| !is_lab(name))
    }

    /// The Redis that keeps the log of the channel of this name, where one does.
    fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.cluster.get().filter(|_| !is_lab(name))
    }

    /// The channel of this name, for a reader who begins there: with all that he has been told of.
    ///
    /// # Errors
    /// As [`Hub::channel`] and [`Cluster::catch_up`].
    pub fn channel_from(&self, name: &str, from: &From) -> Result<Arc<Channel>, Reject> {
        let channel = self.channel(name)?;
        self.cluster(name).map_or(Ok(()), |cluster| cluster.catch_up(name, &channel, from))?;
        Ok(channel)
    }

    /// Whether events can be published. Returns the names of those channels whose logs are damaged or cannot be read.
    ///
    /// # Errors
    /// As [`Cluster::health`].
    pub fn health(&self) -> Result<Vec<String>, Reject> {
        self.cluster.get().map_or(Ok(()), Cluster::health)?;
        let names = lock(&self.channels.names);
        let is_bad = |entry: &Entry| entry.why.is_some() || entry.channel.as_ref().is_some_and(|c| c.is_bad());
        Ok(names.all.iter().filter(|(_, entry)| is_bad(entry)).map(|(name, _)| name.to_string()).collect())
    }

    /// The channel of this name if it is open; else it is the caller's to open it, and others wait for that.
    fn known(&self, name: &str, gone: &mut Vec<Arc<Channel>>) -> Result<Option<Arc<Channel>>, Reject> {
        let busy = |names: &mut Names| names.all.get(name).is_some_and(|entry| entry.opening);
        let forget = self.config.forget;
        let idle = if is_lab(name) { forget / 60 } else { forget };
        let shelf = self.shelf(name);
        let names = shelf.opened.wait_while(lock(&shelf.names), busy);
        let names = &mut *names.unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let now = self.now();
        if now >= names.next_purge {
            names.next_purge = now + millis(idle / 60);
            names.forget(gone, &|c| c.idle(began) >= idle);
        }
        if let Some(Entry { channel: Some(channel), .. }) = names.all.get(name) {
            return Ok(Some(channel.clone()));
        }
        self.room(names, name)?;
        names.all.entry(name.into()).or_default().opening = true;
        names.open += 1;
        Ok(None)
    }

    /// Whether there is room to open a channel of this name.
    fn room(&self, names: &Names, name: &str) -> Result<(), Reject> {
        let all = names.all.len();
        match is_lab(name) {
            true if all >= KEYS => Err(TAPS),
            false if all >= self.config.max_channels && !names.all.contains_key(name) => Err(CHANNELS),
            false if self.dir.is_some() && names.open >= self.open_logs => Err(OPEN_LOGS),
            _ => Ok(()),
        }
    }

    /// Looks for room for a channel of this name.
    fn search(&self, name: &str, gone: &mut Vec<Arc<Channel>>) {
        let began = Instant::now();
        let now = self.now();
        let shelf = self.shelf(name);
        let mut names = lock(&shelf.names);
        if now < names.next_search {
            return;
        }
        let many = self.dir.is_some() && names.open >= self.open_logs;
        let all = many || is_lab(name) || self.cluster(name).is_some();
        // Those in which nothing was ever said, or can be: else whoever only asks for names could use them all up.
        names.forget(gone, &|c| all || c.is_empty());
        if self.room(&names, name).is_ok() {
            return;
        }
        names.next_search = u64::MAX; // one search at a time
        drop(names);
        // Those whose files its owner has removed. It may take long, so nobody else waits for it.
        let there = self.dir(name).and_then(|dir| dir.list::<Entry>(is_channel).ok());
        let has_file = |name: &str| there.as_ref().map(|(names, _)| names.contains_key(name));
        let mut names = lock(&shelf.names);
        // One that was used meanwhile may have got its first file.
        names.forget(gone, &|c| has_file(&c.name) == Some(false) && !c.idle(began).is_zero());
        names.all.retain(|name, entry| {
            has_file(name).unwrap_or(entry.why.is_none()) || entry.channel.is_some() || entry.opening
        });
        let end = self.now();
        names.next_search = end;
        if self.room(&names, name).is_err() {
            names.next_search += SEARCH_PAUSE.max(10 * (end - now));
        }
        for channel in gone {
            // Its epoch may be ahead of the clock, and the next one of this name must be greater.
            self.epoch.fetch_max(channel.last().epoch, SeqCst);
        }
    }

    /// The clock in milliseconds, but greater than every epoch of this process, also where the clock was set back.
    fn new_epoch(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_millis() as u64);
        self.epoch.fetch_max(now.saturating_sub(1), SeqCst);
        self.epoch.fetch_add(1, SeqCst) + 1
    }

    /// Appends events to a channel's log and wakes the pump. Returns their ids; they are in the log then, all or none.
    ///
    /// # Errors
    /// As [`Hub::channel`] and [`Channel::publish`].
    pub fn publish(&self, name: &str, events: &[Event]) -> Result<Vec<Id>, Reject> {
        self.publish_but(name, events, None)
    }

    /// The same, but for the subscriber of an address.
    ///
    /// # Errors
    /// As [`Hub::channel`] and [`Channel::publish`].
    pub fn publish_but(&self, name: &str, events: &[Event], but: Option<&str>) -> Result<Vec<Id>, Reject> {
        let channel = self.channel(name)?;
        let (ids, bytes) = match self.cluster(name) {
            Some(cluster) => {
                let (ids, mut blocks) = (cluster.publish(name, &channel, events, but)?, Vec::new());
                events.iter().zip(&ids).for_each(|(event, id)| event.write(Some(id), &mut blocks));
                (ids, blocks.len() as u64)
            }
            None => channel.publish(events, Numbers::Own, but)?,
        };
        self.counted.events.fetch_add(events.len() as u64, Relaxed);
        self.counted.published.fetch_add(bytes, Relaxed);
        self.wake(&channel);
        Ok(ids)
    }

    /// Gives events to the subscriber of an address alone.
    ///
    /// # Errors
    /// As [`Hub::channel`] and [`Channel::send_to`].
    pub fn send_to(&self, name: &str, events: &[Event], address: &str) -> Result<(), Reject> {
        let channel = self.channel(name)?;
        channel.send_to(address, events, self.now())?;
        self.wake(&channel); // its socket may not have taken all of it
        Ok(())
    }

    /// Tells the pump that a channel has news, once for any number of them.
    pub fn wake(&self, channel: &Arc<Channel>) {
        if channel.readers() > 0 && !channel.queued.swap(true, SeqCst) {
            lock(&self.news).push_back(channel.clone());
            self.pump.get().inspect(|pump| pump.unpark());
        }
    }

    /// Makes a connection a subscriber. Returns its key.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn subscribe(
        &self, channel: &Arc<Channel>, stream: TcpStream, slot: Slot, opening: Opening,
    ) -> io::Result<u64> {
        let waits = opening.wait.is_some(); // the pump has to know when a poll ends
        let (key, has_more) = channel.open(&self.config, self.now(), stream, slot, opening)?;
        if has_more || waits {
            self.wake(channel);
        }
        self.heart.get().inspect(|heart| heart.unpark()); // without a reader it sleeps for good
        Ok(key)
    }

    /// Has a thread replay a channel. Returns when to try it again, if there is none.
    fn start_replay(self: &Arc<Hub>, channel: &Arc<Channel>) -> Option<u64> {
        let (hub, own) = (self.clone(), channel.clone());
        let work = move || {
            if catch_unwind(AssertUnwindSafe(|| hub.replay(&own))).is_err() {
                own.replayed(); // a panic is a bug
            }
        };
        if start("replay", Box::new(work)).is_ok() {
            return None;
        }
        channel.replayed();
        Some(self.now() + REPLAY_PAUSE)
    }

    fn replay(self: &Arc<Hub>, channel: &Arc<Channel>) {
        while let Some(read) = channel.replay() {
            if self.turn(channel, &read).is_some() {
                self.wake(channel);
            }
        }
    }

    fn pump(self: &Arc<Hub>) {
        // Channels with stalled readers or polls, each once, and when the first of them is to be tried again.
        let mut later: Vec<Arc<Channel>> = Vec::new();
        let mut first = u64::MAX;
        loop {
            let next = lock(&self.news).pop_front();
            if let Some(channel) = next {
                channel.queued.store(false, SeqCst); // before the log is read: whoever appends after that queues it again
                let turn = AssertUnwindSafe(|| self.turn(&channel, &Piece::default()));
                // A panic is a bug; it must not end the pump for everybody.
                if let Ok(Some(retry)) = catch_unwind(turn) {
                    first = first.min(retry);
                    if channel.retry.swap(retry, Relaxed) == 0 {
                        later.push(channel);
                    }
                }
            } else {
                thread::park_timeout(Duration::from_millis(first.saturating_sub(self.now())));
            }
            let now = self.now();
            if first <= now {
                first = u64::MAX;
                later.retain(|channel| {
                    let retry = channel.retry.load(Relaxed);
                    if retry > now {
                        first = first.min(retry);
                        return true;
                    }
                    channel.retry.store(0, Relaxed);
                    self.wake(channel);
                    false
                });
            }
        }
    }

    /// One turn of a channel. Returns when the first stalled subscriber is to be tried again, or the first poll ends.
    fn turn(self: &Arc<Hub>, channel: &Arc<Channel>, read: &Piece) -> Option<u64> {
        let turn = channel.turn(read, self.cores, self.now());
        self.counted.delivered.fetch_add(turn.delivered, Relaxed);
        self.counted.dropped.fetch_add(turn.cut_off, Relaxed);
        if turn.more {
            self.wake(channel); // behind the other channels that have news
        }
        let again = if turn.disk { self.start_replay(channel) } else { None };
        turn.retry.into_iter().chain(again).min()
    }

    fn beat(&self) {
        loop {
            let now = self.now();
            let mut channels: Vec<Arc<Channel>> = Vec::new();
            for Shelf { names, .. } in [&self.channels, &self.lab] {
                channels.extend(lock(names).open().filter(|c| c.readers() > 0).cloned());
            }
            if channels.is_empty() {
                thread::park(); // until somebody joins, or at once if somebody has since the last time
                continue;
            }
            for channel in channels {
                if let Ok(true) = catch_unwind(AssertUnwindSafe(|| channel.sweep(now, self.config.heartbeat))) {
                    self.wake(&channel);
                }
            }
            thread::sleep(Duration::from_millis(LOOK));
        }
    }

    /// The metrics, in Prometheus's text format; of the channels, only one where `only` names it.
    pub fn metrics(&self, only: Option<&str>) -> String {
        let names = lock(&self.shelf(only.unwrap_or_default()).names);
        let mut out = String::new();
        let mut tell = |name: &str, kind: &str, help: &str, value: &dyn fmt::Debug| {
            let _ = writeln!(out, "# HELP tincan_{name} {help}\n# TYPE tincan_{name} {kind}\ntincan_{name} {value:?}");
        };
        tell("connections", "gauge", "Open connections, readers included.", &self.connections.load(Relaxed));
        tell("channels", "gauge", "Channels in use.", &names.open);
        tell("events_total", "counter", "Events published.", &self.counted.events);
        tell("published_bytes_total", "counter", "Bytes of events published.", &self.counted.published);
        tell("delivered_bytes_total", "counter", "Bytes of events given to readers.", &self.counted.delivered);
        tell("dropped_subscribers_total", "counter", "Readers that fell off the log.", &self.counted.dropped);
        for (name, kind, help, value) in self.cluster.get().map(Cluster::metrics).into_iter().flatten() {
            tell(name, kind, help, &format_args!("{value}"));
        }
        out.push_str("# HELP tincan_subscribers Readers of a channel.\n# TYPE tincan_subscribers gauge\n");
        for channel in names.open().filter(|channel| only.is_none_or(|only| channel.name == only)) {
            let _ = writeln!(out, "tincan_subscribers{{channel=\"{}\"}} {}", channel.name, channel.hearing());
        }
        out
    }
}

//! The hub: all channels of a server, the pump and the heartbeat, the metrics.
//!
//! Two threads write to subscribers, and a turn with many of them borrows more for its length:
//!
//! - the *pump* takes a channel that has news and gives every subscriber what lies between its position and the log's
//!   end, a piece at a time (`Channel::turn`). Broadcast, replay, the rest of a slow reader's event and the answer to a
//!   long poll are all this one loop. It never waits for a disk: what stands in a file alone is read by a thread that
//!   *replays* that channel, for as long as somebody wants it, and has turns of its own with it;
//! - the *heartbeat* looks twice a second for sockets that were closed, for polls whose time is over and for readers
//!   that have heard nothing for `--heartbeat` (`Channel::sweep`). Without a reader it does not wake up at all.
//!
//! A log is opened without a lock, so that nobody waits for it who does not ask for that channel.
//!
//! Limits: `--max-channels`, and for each channel a thread that replays. Deliberately absent: HTTP.

use crate::channel::{Channel, Opening, Piece, STACK, Turn, lock, millis};
use crate::cluster::Cluster;
use crate::disk::Dir;
use crate::event::Event;
use crate::flags::Config;
use crate::id::Id;
use crate::limits;
use crate::log::{From, Log};
use crate::percent::is_made_of;
use crate::reject::{CHANNELS, LOG_CLOSED, OPEN_LOGS, Reject};
use crate::report::report;
use crate::subscriber::{LOOK, Slot};
use crate::writer::Writer;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Limit: cores that write to the subscribers of one channel.
const CORES: usize = 8;
/// Pause, in milliseconds, before it is tried again to replay a channel for which there was no thread.
const REPLAY_PAUSE: u64 = 20;

/// Starts a thread.
///
/// # Errors
/// Where the system gives none.
pub fn start(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
    Ok(thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work)?.thread().clone())
}

/// A channel by its name; none if only its files remember it.
struct Entry {
    name: Box<str>,
    channel: Option<Arc<Channel>>,
    closed: Option<String>, // why its log cannot be used
}

/// In the order of their names. Shortcut: a new one moves those behind it, which takes a moment from 100,000 on.
struct Channels {
    entries: Vec<Entry>,
    next_purge: Instant,
}

impl Channels {
    /// Where the name stands, or would.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|e| (*e.name).cmp(name))
    }

    /// Puts an entry in its place; returns the one that was there.
    fn put(&mut self, name: &str, channel: Option<Arc<Channel>>, closed: Option<String>) -> Option<Entry> {
        let entry = Entry { name: name.into(), channel, closed };
        match self.find(name) {
            Ok(at) => self.entries.get_mut(at).map(|old| std::mem::replace(old, entry)),
            Err(at) => {
                self.entries.insert(at, entry);
                None
            }
        }
    }

    fn open(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.entries.iter().filter_map(|e| e.channel.as_ref())
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
    channels: Mutex<Channels>,
    opening: Mutex<Vec<String>>, // logs that are being opened
    opened: Condvar,
    news: Mutex<VecDeque<Arc<Channel>>>, // each at most once, see `Channel::queued`
    pump: OnceLock<Thread>,
    heart: OnceLock<Thread>,
    heart_sleeps: AtomicBool,
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

/// Lets the next one open a log of this name.
struct Turnstile<'a> {
    hub: &'a Hub,
    key: &'a str,
}

impl Drop for Turnstile<'_> {
    fn drop(&mut self) {
        lock(&self.hub.opening).retain(|other| other != self.key);
        self.hub.opened.notify_all();
    }
}

/// What further cores have for a turn.
fn helpers() -> Vec<Piece> {
    (1..limits::cores().min(CORES)).map(|_| Piece::default()).collect()
}

impl Hub {
    /// A hub with the channels that `--data` holds, each of which is checked; starts the pump and the heartbeat. At
    /// most `open_logs` of them are open at a time. `private`: their files are for their owner alone.
    ///
    /// # Errors
    /// If the directory cannot be had, or the threads cannot be started.
    pub fn new(config: Config, open_logs: usize, private: bool) -> io::Result<Arc<Hub>> {
        let dir = config.data.as_deref().map(|path| Dir::open(path, private, config.sync)).transpose()?.map(Arc::new);
        let (mut channels, mut notes) = (Channels { entries: Vec::new(), next_purge: Instant::now() }, Vec::new());
        if let Some(dir) = &dir {
            let (names, others) = dir.list(is_channel)?;
            for name in names {
                if channels.find(&name).is_ok() {
                    continue; // it has an older part as well
                }
                let mut note = |what: String| notes.push(format!("--data: /{name}: {what}"));
                let opened = Log::open(dir, &name, 0, config.history, false, &mut note);
                let closed = opened.err().map(|e| e.to_string());
                closed.iter().for_each(|why| note(format!("it cannot be opened: {why}")));
                channels.put(&name, None, closed);
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
            channels: Mutex::new(channels),
            opening: Mutex::default(),
            opened: Condvar::new(),
            news: Mutex::default(),
            pump: OnceLock::new(),
            heart: OnceLock::new(),
            heart_sleeps: AtomicBool::new(false),
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
    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Counts a connection for as long as the slot lives; returns how many there are with it.
    pub fn connect(&self) -> (Slot, usize) {
        Slot::take(&self.connections)
    }

    /// The channel of this name, which exists from now on.
    ///
    /// # Errors
    /// [`CHANNELS`] if it would be one more than `--max-channels`, [`OPEN_LOGS`] if its files would be too many,
    /// [`LOG_CLOSED`] if they cannot be used.
    pub fn channel(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let mut gone = Vec::new(); // their files are closed without a lock
        if let Some(channel) = self.known(name, 0, &mut gone)? {
            channel.touch();
            return Ok(channel);
        }
        // One at a time of each name, or through Redis, and without the lock on the channels: it may take long.
        let key = if self.cluster(name).is_some() { "" } else { name };
        let busy = |opening: &mut Vec<String>| opening.iter().any(|other| other == key);
        let opening = self.opened.wait_while(lock(&self.opening), busy);
        let mut opening = opening.unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = self.known(name, opening.len(), &mut gone)? {
            return Ok(channel);
        }
        opening.push(key.into());
        drop(opening);
        let _turn = Turnstile { hub: self, key };
        let channel = match self.cluster(name) {
            Some(cluster) => cluster.open(name)?,
            None => self.open(name)?,
        };
        lock(&self.channels).put(name, Some(channel.clone()), None);
        Ok(channel)
    }

    /// Opens a log.
    fn open(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let epoch = self.new_epoch();
        let Some(dir) = self.dir.as_ref().filter(|_| !is_lab(name)) else {
            return Ok(Arc::new(Channel::new(name, Log::new(epoch, self.config.history), Writer::default())));
        };
        let mut note = |what: String| report(format!("tincan: --data: /{name}: {what}"));
        match Log::open(dir, name, epoch, self.config.history, self.config.sync, &mut note) {
            Ok((log, writer)) => Ok(Arc::new(Channel::new(name, log, writer))),
            Err(e) => {
                let why = Some(e.to_string());
                let before = lock(&self.channels).put(name, None, why.clone());
                if before.is_none_or(|before| before.closed != why) {
                    report(format!("tincan: /{name} cannot be opened: {e}"));
                }
                Err(LOG_CLOSED)
            }
        }
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
        let sick = |e: &&Entry| e.closed.is_some() || e.channel.as_ref().is_some_and(|channel| channel.is_bad());
        Ok(lock(&self.channels).entries.iter().filter(sick).map(|e| e.name.to_string()).collect())
    }

    /// The channel of this name if it is open; else makes sure that there is room to open it, beside others that are being
    /// opened. What it forgets for that is `gone`.
    fn known(&self, name: &str, others: usize, gone: &mut Vec<Arc<Channel>>) -> Result<Option<Arc<Channel>>, Reject> {
        let now = Instant::now();
        let mut channels = lock(&self.channels);
        // Only the list holds a channel that nobody is in the middle of using.
        let unused = |c: &Arc<Channel>| Arc::strong_count(c) == 1 && c.readers() == 0;
        let files = self.dir.is_some();
        let mut forget = |channels: &mut Channels, idle: Duration| {
            channels.entries.retain_mut(|e| {
                let idle = if is_lab(&e.name) { idle / 60 } else { idle };
                let Some(channel) = e.channel.take_if(|c| unused(c) && c.idle(now) >= idle) else { return true };
                let keeps = files && !channel.is_empty() && !is_lab(&e.name);
                gone.push(channel);
                keeps
            });
        };
        if now >= channels.next_purge {
            channels.next_purge = now + self.config.forget / 60;
            forget(&mut channels, self.config.forget);
        }
        let at = channels.find(name);
        if let Some(entry) = at.ok().and_then(|at| channels.entries.get(at))
            && let Some(channel) = &entry.channel
        {
            return Ok(Some(channel.clone()));
        }
        let many = |channels: &Channels| files && channels.open().count() + others >= self.open_logs;
        if many(&channels) {
            forget(&mut channels, Duration::ZERO);
        }
        let full = |channels: &Channels| channels.entries.len() + others >= self.config.max_channels && at.is_err();
        if full(&channels) {
            // Those in which nothing was ever said, or can be: else whoever only asks for names could use them all up.
            let useless = |c: &Arc<Channel>, name: &str| {
                unused(c) && (c.is_empty() || is_lab(name) || self.cluster(name).is_some())
            };
            channels.entries.retain(|e| !e.channel.as_ref().map_or(e.closed.is_some(), |c| useless(c, &e.name)));
        }
        match (full(&channels), many(&channels)) {
            (true, _) => Err(CHANNELS),
            (_, true) => Err(OPEN_LOGS),
            _ => Ok(None),
        }
    }

    /// The clock in milliseconds, but greater than every epoch of this process, also where the clock was set back.
    fn new_epoch(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let last = self.epoch.fetch_update(SeqCst, SeqCst, |last| Some(now.max(last + 1)));
        now.max(last.unwrap_or(0) + 1)
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
            None => channel.publish(events, but, || self.wake(&channel))?,
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
        channel.send_to(address, events, self.now(), self.config.heartbeat)?;
        self.wake(&channel); // its socket may not have taken all of it
        Ok(())
    }

    /// Appends an event without waiting for anybody.
    pub fn tell(&self, channel: &Arc<Channel>, event: &Event) {
        if channel.tell(event).is_ok() {
            self.wake(channel);
        }
    }

    /// Tells the pump that a channel has news, once for any number of them.
    fn wake(&self, channel: &Arc<Channel>) {
        if channel.readers() > 0 && !channel.queued.swap(true, SeqCst) {
            lock(&self.news).push_back(channel.clone());
            self.pump.get().inspect(|pump| pump.unpark());
        }
    }

    /// Makes a connection a subscriber.
    ///
    /// # Errors
    /// Where the socket fails, or the disk.
    pub fn subscribe(&self, channel: &Arc<Channel>, stream: TcpStream, slot: Slot, opening: Opening) -> io::Result<()> {
        let waits = opening.wait.is_some();
        if channel.open(&self.config, self.now(), stream, slot, opening)? {
            self.wake(channel);
        }
        // Without a reader the heartbeat sleeps for good, and it knows no poll's end but those it has seen.
        if let Some(heart) = self.heart.get().filter(|_| self.heart_sleeps.swap(false, SeqCst) || waits) {
            heart.unpark();
        }
        Ok(())
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

    fn replay(&self, channel: &Arc<Channel>) {
        let (mut piece, mut helpers) = (Piece::default(), helpers());
        while let Some(turn) = channel.replay(&mut piece, &mut helpers, self.now(), self.config.heartbeat) {
            self.count(&turn);
            if turn.more || turn.retry.is_some() {
                self.wake(channel);
            }
        }
    }

    fn count(&self, turn: &Turn) {
        self.counted.delivered.fetch_add(turn.delivered, Relaxed);
        self.counted.dropped.fetch_add(turn.cut_off, Relaxed);
    }

    fn pump(self: &Arc<Hub>) {
        let (mut piece, mut helpers) = (Piece::default(), helpers());
        let mut later: Vec<(u64, Arc<Channel>)> = Vec::new(); // channels with stalled readers, each once
        loop {
            let channel = lock(&self.news).pop_front();
            if channel.is_none() {
                match later.iter().map(|l| l.0).min() {
                    None => thread::park(),
                    Some(at) => thread::park_timeout(Duration::from_millis(at.saturating_sub(self.now()))),
                }
            }
            // A panic is a bug; it must not end the pump for everybody.
            if let Some(channel) = channel
                && let Ok(Some(retry)) =
                    catch_unwind(AssertUnwindSafe(|| self.turn(&channel, &mut piece, &mut helpers)))
            {
                later.retain(|l| !Arc::ptr_eq(&l.1, &channel));
                later.push((retry, channel));
            }
            let now = self.now();
            for (_, channel) in later.extract_if(.., |l| l.0 <= now) {
                self.wake(&channel);
            }
        }
    }

    /// One turn of a channel. Returns when the first stalled subscriber is to be tried again.
    fn turn(self: &Arc<Hub>, channel: &Arc<Channel>, piece: &mut Piece, helpers: &mut [Piece]) -> Option<u64> {
        channel.queued.store(false, SeqCst); // before the log is read: whoever appends after that queues it again
        let turn = channel.turn(&Piece::default(), piece, helpers, self.now(), self.config.heartbeat);
        self.count(&turn);
        if turn.more {
            self.wake(channel); // behind the other channels that have news
        }
        let again = if turn.disk { self.start_replay(channel) } else { None };
        turn.retry.into_iter().chain(again).min()
    }

    fn beat(&self) {
        let mut next_look = 0;
        loop {
            let now = self.now();
            let look = now >= next_look;
            if look {
                next_look = now + LOOK;
            }
            let channels: Vec<_> = lock(&self.channels).open().filter(|c| c.readers() > 0).cloned().collect();
            if channels.is_empty() {
                // Once this is set, whoever joins wakes us up; so look once more, then sleep for as long as it takes.
                if self.heart_sleeps.swap(true, SeqCst) {
                    thread::park();
                }
                continue;
            }
            self.heart_sleeps.store(false, SeqCst);
            let sweep = |c: &Arc<Channel>| {
                let swept = || c.sweep(now, self.config.heartbeat, look);
                catch_unwind(AssertUnwindSafe(swept)).unwrap_or(u64::MAX)
            };
            let next = channels.iter().map(sweep).min().unwrap_or(u64::MAX).min(next_look);
            drop(channels);
            thread::park_timeout(Duration::from_millis(next.saturating_sub(self.now())));
        }
    }

    /// The metrics, in Prometheus's text format; of the channels, only one where `only` names it.
    pub fn metrics(&self, only: Option<&str>) -> String {
        let channels = lock(&self.channels);
        let numbers = [
            ("connections", "gauge", "Open connections, readers included.", self.connections.load(Relaxed).to_string()),
            ("channels", "gauge", "Channels in use.", channels.open().count().to_string()),
            ("events_total", "counter", "Events published.", self.counted.events.load(Relaxed).to_string()),
            (
                "published_bytes_total",
                "counter",
                "Bytes of events published.",
                self.counted.published.load(Relaxed).to_string(),
            ),
            (
                "delivered_bytes_total",
                "counter",
                "Bytes of events given to readers.",
                self.counted.delivered.load(Relaxed).to_string(),
            ),
            (
                "dropped_subscribers_total",
                "counter",
                "Readers that fell off the log.",
                self.counted.dropped.load(Relaxed).to_string(),
            ),
        ];
        let mut out = String::new();
        let shared = self.cluster.get().map(Cluster::metrics);
        for (name, kind, help, value) in numbers.into_iter().chain(shared.into_iter().flatten()) {
            let _ = writeln!(out, "# HELP tincan_{name} {help}\n# TYPE tincan_{name} {kind}\ntincan_{name} {value}");
        }
        out.push_str("# HELP tincan_subscribers Readers of a channel.\n# TYPE tincan_subscribers gauge\n");
        let named = |e: &&Entry| only.map_or(!is_lab(&e.name), |only| *only == *e.name);
        for Entry { name, channel, .. } in channels.entries.iter().filter(named) {
            if let Some(channel) = channel {
                let _ = writeln!(out, "tincan_subscribers{{channel=\"{name}\"}} {}", channel.readers());
            }
        }
        out
    }
}

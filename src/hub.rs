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
//! Work for one request does not grow with the number of channels, but for their logarithm. What looks at all of them is
//! done seldom, or not again for `SEARCH_PAUSE` if it was in vain.
//!
//! Limits: `--max-channels`; `KEYS` and `LAB_HISTORY` for the wire lab; for each channel a thread that replays.
//! Deliberately absent: HTTP.

use crate::channel::{Channel, Opening, Piece, STACK, Turn, lock, millis};
use crate::cluster::Cluster;
use crate::disk::Dir;
use crate::event::Event;
use crate::flags::Config;
use crate::id::Id;
use crate::limits;
use crate::log::{From, Log};
use crate::percent::is_made_of;
use crate::reject::{CHANNELS, LOG_CLOSED, OPEN_LOGS, Reject, TAPS};
use crate::report::report;
use crate::subscriber::{LOOK, Slot};
use crate::writer::Writer;
use std::collections::{BTreeMap, VecDeque};
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

type Open = BTreeMap<Box<str>, Arc<Channel>>;
/// Those that only files remember, and why a log cannot be used.
type Shut = BTreeMap<Box<str>, Option<String>>;

/// Channels by their names.
#[derive(Default)]
struct Names {
    open: Open,
    shut: Shut,
    next_purge: u64,
    next_search: u64,
}

impl Names {
    /// Forgets those that nobody uses and that are `useless`. If files remember one, its name stays.
    fn forget(&mut self, gone: &mut Open, useless: &dyn Fn(&str, &Channel) -> bool) {
        // Only the list holds a channel that nobody is in the middle of using.
        let unused = |c: &Arc<Channel>| Arc::strong_count(c) == 1 && c.readers() == 0;
        for (name, channel) in self.open.extract_if(.., |name, c| unused(c) && useless(name, c)) {
            if channel.has_file() {
                self.shut.insert(name.clone(), None);
            }
            gone.insert(name, channel);
        }
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
    channels: Mutex<Names>,
    lab: Mutex<Names>,           // the wire lab's
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
    name: &'a str,
}

impl Drop for Turnstile<'_> {
    fn drop(&mut self) {
        lock(&self.hub.opening).retain(|other| other != self.name);
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
        let mut channels = Names::default();
        let mut notes = Vec::new();
        if let Some(dir) = &dir {
            let (names, others) = dir.list(is_channel)?;
            for name in names {
                if channels.shut.contains_key(&*name) {
                    continue; // it has an older part as well
                }
                let mut note = |what: String| notes.push(format!("--data: /{name}: {what}"));
                let opened = Log::open(dir, &name, 0, config.history, false, &mut note);
                let closed = opened.err().map(|e| e.to_string());
                closed.iter().for_each(|why| note(format!("it cannot be opened: {why}")));
                channels.shut.insert(name.into(), closed);
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
            lab: Mutex::default(),
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
    /// [`CHANNELS`] if it would be one more than `--max-channels`, [`TAPS`] if it is the lab's and one too many,
    /// [`OPEN_LOGS`] if its files would be too many, [`LOG_CLOSED`] if they cannot be used.
    pub fn channel(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        let mut gone = Open::new(); // their files are closed without a lock
        let mut known = self.known(name, 0, &mut gone);
        if known.is_err() {
            // There may be none to be found, and then it is not looked for again at once.
            self.search(name, &mut gone);
            known = self.known(name, 0, &mut gone);
        }
        if let Some(channel) = known? {
            channel.touch();
            return Ok(channel);
        }
        // One at a time of each name, and without the lock on the channels: it may take long.
        let busy = |opening: &mut Vec<String>| opening.iter().any(|other| other == name);
        let opening = self.opened.wait_while(lock(&self.opening), busy);
        let mut opening = opening.unwrap_or_else(PoisonError::into_inner);
        let others = opening.iter().filter(|other| is_lab(other) == is_lab(name)).count();
        if let Some(channel) = self.known(name, others, &mut gone)? {
            return Ok(channel);
        }
        opening.push(name.into());
        drop(opening);
        let turn = Turnstile { hub: self, name };
        let mut notes = Vec::new();
        let opened = match self.cluster(name) {
            Some(cluster) => cluster.open(name),
            None => self.open(name, &mut notes),
        };
        if let Ok(channel) = &opened {
            let mut names = lock(self.names(name));
            names.shut.remove(name);
            names.open.insert(name.into(), channel.clone());
        }
        drop(turn); // a terminal that nobody reads holds up this request alone
        notes.into_iter().for_each(report);
        opened
    }

    /// The list that has this name, or would.
    fn names(&self, name: &str) -> &Mutex<Names> {
        if is_lab(name) { &self.lab } else { &self.channels }
    }

    /// Opens a log, and notes what its owner is to be told.
    fn open(&self, name: &str, notes: &mut Vec<String>) -> Result<Arc<Channel>, Reject> {
        let epoch = self.new_epoch();
        let lab = is_lab(name);
        let Some(dir) = self.dir.as_ref().filter(|_| !lab) else {
            let history = if lab { LAB_HISTORY } else { self.config.history };
            return Ok(Arc::new(Channel::new(name, Log::new(epoch, history), Writer::default())));
        };
        let mut note = |what: String| notes.push(format!("tincan: --data: /{name}: {what}"));
        match Log::open(dir, name, epoch, self.config.history, self.config.sync, &mut note) {
            Ok((log, writer)) => Ok(Arc::new(Channel::new(name, log, writer))),
            Err(e) => {
                let why = Some(e.to_string());
                let before = lock(&self.channels).shut.insert(name.into(), why.clone());
                if before != Some(why) {
                    notes.push(format!("tincan: /{name} cannot be opened: {e}"));
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
        let names = lock(&self.channels);
        let shut = names.shut.iter().filter(|(_, why)| why.is_some()).map(|(name, _)| name);
        let bad = names.open.iter().filter(|(_, channel)| channel.is_bad()).map(|(name, _)| name);
        Ok(shut.chain(bad).map(|name| name.to_string()).collect())
    }

    /// The channel of this name if it is open; else there is room to open it, beside others that are being opened.
    fn known(&self, name: &str, others: usize, gone: &mut Open) -> Result<Option<Arc<Channel>>, Reject> {
        let forget = self.config.forget;
        let idle = if is_lab(name) { forget / 60 } else { forget };
        let began = Instant::now();
        let now = self.now();
        let mut names = lock(self.names(name));
        if now >= names.next_purge {
            names.next_purge = now + millis(idle / 60);
            names.forget(gone, &|_, c| c.idle(began) >= idle);
        }
        match names.open.get(name) {
            Some(channel) => Ok(Some(channel.clone())),
            None => self.room(&names, name, others).map(|()| None),
        }
    }

    /// Whether there is room for a channel of this name.
    fn room(&self, names: &Names, name: &str, others: usize) -> Result<(), Reject> {
        let open = names.open.len() + others;
        let all = open + names.shut.len();
        match is_lab(name) {
            true if all >= KEYS => Err(TAPS),
            false if all >= self.config.max_channels && !names.shut.contains_key(name) => Err(CHANNELS),
            false if self.dir.is_some() && open >= self.open_logs => Err(OPEN_LOGS),
            _ => Ok(()),
        }
    }

    /// Looks for room for a channel of this name.
    fn search(&self, name: &str, gone: &mut Open) {
        let began = Instant::now();
        let now = self.now();
        let mut names = lock(self.names(name));
        if now < names.next_search {
            return;
        }
        let lab = is_lab(name);
        let many = self.dir.is_some() && names.open.len() >= self.open_logs;
        // Those in which nothing was ever said, or can be: else whoever only asks for names could use them all up.
        let useless = |c: &Channel| c.is_empty() || lab || self.cluster(name).is_some();
        names.forget(gone, &|_, c| many || useless(c));
        if self.room(&names, name, 0) == Err(CHANNELS) {
            names.shut.retain(|_, why| why.is_none());
        }
        if self.room(&names, name, 0).is_ok() {
            return;
        }
        names.next_search = now + SEARCH_PAUSE;
        drop(names);
        // Those whose files its owner has removed. It may take long, so nobody else waits for it.
        let Some(dir) = self.dir.as_ref().filter(|_| !lab) else { return };
        let Ok((files, _)) = dir.list(is_channel) else { return };
        let mut there = Shut::new();
        for name in files {
            there.insert(name.into(), None);
        }
        let mut names = lock(&self.channels);
        // One that was used meanwhile may have got its first file.
        names.forget(gone, &|name, c| !there.contains_key(name) && !c.idle(began).is_zero());
        names.shut.retain(|name, _| there.contains_key(name));
        for channel in gone.values() {
            // Its epoch may be ahead of the clock, and the next one of this name must be greater.
            self.epoch.fetch_max(channel.last().epoch, SeqCst);
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

    /// Appends an event to a channel that is in memory; it may wait for the pump.
    pub fn tell(&self, channel: &Arc<Channel>, event: Event) {
        let wake = || self.wake(channel);
        let _ = channel.publish(&[event], None, wake); // nothing there can fail
        wake();
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
        let waits = opening.wait.is_some(); // the pump has to know when a poll ends
        if channel.open(&self.config, self.now(), stream, slot, opening)? || waits {
            self.wake(channel);
        }
        // Without a reader the heartbeat sleeps for good.
        if let Some(heart) = self.heart.get().filter(|_| self.heart_sleeps.swap(false, SeqCst)) {
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
        // Channels with stalled readers or polls, each once: by when they are to be tried again, and their address.
        let mut later: BTreeMap<(u64, usize), Arc<Channel>> = BTreeMap::new();
        loop {
            let channel = lock(&self.news).pop_front();
            if channel.is_none() {
                match later.first_key_value() {
                    None => thread::park(),
                    Some(((at, _), _)) => thread::park_timeout(Duration::from_millis(at.saturating_sub(self.now()))),
                }
            }
            // A panic is a bug; it must not end the pump for everybody.
            if let Some(channel) = channel
                && let Ok(Some(retry)) =
                    catch_unwind(AssertUnwindSafe(|| self.turn(&channel, &mut piece, &mut helpers)))
            {
                let address = Arc::as_ptr(&channel).addr();
                later.remove(&(channel.retry.swap(retry, Relaxed), address));
                later.insert((retry, address), channel);
            }
            let now = self.now();
            while let Some(first) = later.first_entry().filter(|first| first.key().0 <= now) {
                self.wake(&first.remove());
            }
        }
    }

    /// One turn of a channel. Returns when the first stalled subscriber is to be tried again, or the first poll ends.
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
        loop {
            let now = self.now();
            let mut channels: Vec<Arc<Channel>> = Vec::new();
            for names in [&self.channels, &self.lab] {
                channels.extend(lock(names).open.values().filter(|c| c.readers() > 0).cloned());
            }
            if channels.is_empty() {
                // Once this is set, whoever joins wakes us up; so look once more, then sleep for as long as it takes.
                if self.heart_sleeps.swap(true, SeqCst) {
                    thread::park();
                }
                continue;
            }
            self.heart_sleeps.store(false, SeqCst);
            for channel in channels {
                let _ = catch_unwind(AssertUnwindSafe(|| channel.sweep(now, self.config.heartbeat)));
            }
            thread::park_timeout(Duration::from_millis(LOOK));
        }
    }

    /// The metrics, in Prometheus's text format; of the channels, only one where `only` names it.
    pub fn metrics(&self, only: Option<&str>) -> String {
        let open = lock(&self.channels).open.len();
        let numbers = [
            ("connections", "gauge", "Open connections, readers included.", self.connections.load(Relaxed).to_string()),
            ("channels", "gauge", "Channels in use.", open.to_string()),
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
        let names = lock(self.names(only.unwrap_or_default()));
        let named: Vec<_> = match only {
            Some(only) => names.open.get_key_value(only).into_iter().collect(),
            None => names.open.iter().collect(),
        };
        for (name, channel) in named {
            let _ = writeln!(out, "tincan_subscribers{{channel=\"{name}\"}} {}", channel.readers());
        }
        out
    }
}

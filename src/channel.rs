//! A channel: one log, and the subscribers that read it. The hub: all channels, the pump and the heartbeat.
//!
//! Two threads write to subscribers, and only while they hold the channel's list of them:
//!
//! - the *pump* takes a channel that has news and gives every subscriber what lies between its position and the log's
//!   end, a piece at a time. Broadcast, replay, the rest of a slow reader's event and the answer to a long poll are
//!   all this one loop, `Hub::turn`;
//! - the *heartbeat* looks twice a second for sockets that were closed, for polls whose time is over and for readers
//!   that have heard nothing for `--heartbeat`, in `Hub::sweep`. Without a reader it does not wake up at all.
//!
//! Nobody waits for a reader: sockets do not block, and one that is full is tried again after a growing pause. A
//! publisher waits, for a bounded time, for the *pump*: else a flood could drop events from the log before the pump
//! had offered them to readers that keep up.
//!
//! Limits: `--max-channels`, `--history` for each log, `PUBLISH_PATIENCE`.
//! Deliberately absent: HTTP. Heads come from `server.rs`, ready to be sent.

use crate::event::{self, Event};
use crate::flags::Config;
use crate::log::{From, Id, Log, Place, Trimmed};
use crate::subscriber::{Gone, LOOK, Poll, Slot, Subscriber};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Limit: how long a publisher waits for the pump.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(2);
/// Limit: stack of the pump and the heartbeat.
const STACK: usize = 64 << 10;

/// Takes a lock, also one that a panicking thread has left: its data are plain counts, bytes and sockets, each valid
/// at every step, so one thread's bug does not end the server.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `middle`, give or take a share of it, so that clients do not come back in step. The keys of std's hash maps are
/// the randomness that std has.
pub fn jitter(middle: u64, percent: u64) -> u64 {
    let spread = middle.saturating_mul(percent) / 100;
    let random = RandomState::new().hash_one(middle);
    middle - spread + random % (2 * spread + 1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Too many channels.
#[derive(Debug)]
pub struct Full;

#[derive(Debug)]
struct State {
    log: Log,
    pumped: u64,   // the lowest position of a subscriber that keeps up, at the end of the last turn
    used: Instant, // when somebody last came, left or published
}

/// A log and its subscribers.
#[derive(Debug)]
pub struct Channel {
    name: String,
    state: Mutex<State>,
    pumped: Condvar,
    subscribers: Mutex<Vec<Subscriber>>,
    joining: Mutex<Vec<Subscriber>>, // so that nobody who joins waits for a turn to end
    readers: AtomicUsize,            // in both lists
    queued: AtomicBool,              // for the pump
}

#[derive(Debug)]
struct Channels {
    by_name: BTreeMap<String, Arc<Channel>>,
    next_purge: Instant,
}

type Served = Result<(), Gone>;

/// All channels of one server.
#[derive(Debug)]
pub struct Hub {
    config: Config,
    began: Instant,
    channels: Mutex<Channels>,
    news: Sender<Arc<Channel>>,
    heart: OnceLock<Thread>,
    heart_sleeps: AtomicBool,
    epoch: AtomicU64,
    connections: Arc<AtomicUsize>,
    events: AtomicU64,
    published: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

/// The bytes that most subscribers of a turn are sent: copied from the log once, for all that stand at one place.
#[derive(Default)]
struct Piece {
    from: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn at(&mut self, channel: &Channel, pos: u64) -> Result<&[u8], Trimmed> {
        let ahead = |p: &Piece| pos.checked_sub(p.from).map(|n| n as usize).filter(|&n| n < p.bytes.len());
        if ahead(self).is_none() {
            lock(&channel.state).log.read(pos, &mut self.bytes)?;
            self.from = pos;
        }
        Ok(ahead(self).and_then(|n| self.bytes.get(n..)).unwrap_or_default())
    }
}

impl Hub {
    /// A hub without channels; starts the pump and the heartbeat.
    ///
    /// # Errors
    /// Where the two threads cannot be started.
    pub fn new(config: Config) -> io::Result<Arc<Hub>> {
        let (news, queue) = channel();
        let channels = Channels { by_name: BTreeMap::new(), next_purge: Instant::now() };
        let hub = Arc::new(Hub {
            config,
            began: Instant::now(),
            channels: Mutex::new(channels),
            news,
            heart: OnceLock::new(),
            heart_sleeps: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            connections: Arc::default(),
            events: AtomicU64::new(0),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let (pump, heart) = (hub.clone(), hub.clone());
        thread::Builder::new().name("pump".into()).stack_size(STACK).spawn(move || pump.pump(&queue))?;
        let thread = thread::Builder::new().name("heartbeat".into()).stack_size(STACK).spawn(move || heart.beat())?;
        let _ = hub.heart.set(thread.thread().clone());
        Ok(hub)
    }

    /// What this hub was told.
    pub fn config(&self) -> &Config {
        &self.config
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
    /// [`Full`] where it would be one more than `--max-channels`.
    pub fn channel(&self, name: &str) -> Result<Arc<Channel>, Full> {
        let now = Instant::now();
        let mut channels = lock(&self.channels);
        // Only the map holds a channel that nobody is in the middle of using.
        let unused = |c: &Arc<Channel>| Arc::strong_count(c) == 1 && c.readers.load(SeqCst) == 0;
        if now >= channels.next_purge {
            channels.next_purge = now + self.config.forget / 60;
            let old = |c: &Channel| now.saturating_duration_since(lock(&c.state).used) >= self.config.forget;
            channels.by_name.retain(|_, c| !(unused(c) && old(c)));
        }
        if let Some(channel) = channels.by_name.get(name) {
            lock(&channel.state).used = now;
            return Ok(channel.clone());
        }
        if channels.by_name.len() >= self.config.max_channels {
            // Those in which nothing was ever said: else whoever only asks for names could use them all up.
            channels.by_name.retain(|_, c| !(unused(c) && lock(&c.state).log.end() == 0));
        }
        if channels.by_name.len() >= self.config.max_channels {
            return Err(Full);
        }
        let log = Log::new(self.new_epoch(), self.config.history);
        let channel = Arc::new(Channel {
            name: name.into(),
            state: Mutex::new(State { log, pumped: 0, used: now }),
            pumped: Condvar::new(),
            subscribers: Mutex::default(),
            joining: Mutex::default(),
            readers: AtomicUsize::new(0),
            queued: AtomicBool::new(false),
        });
        channels.by_name.insert(name.into(), channel.clone());
        Ok(channel)
    }

    /// The clock in milliseconds, but greater than every epoch of this process, also where the clock was set back.
    fn new_epoch(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let last = self.epoch.fetch_update(SeqCst, SeqCst, |last| Some(now.max(last + 1)));
        now.max(last.unwrap_or(0) + 1)
    }

    /// Appends events to a channel's log and wakes the pump. Returns their ids; they are in the log then.
    ///
    /// # Errors
    /// [`Full`], see [`Hub::channel`].
    pub fn publish(&self, name: &str, events: &[Event]) -> Result<Vec<Id>, Full> {
        let channel = self.channel(name)?;
        let mut state = lock(&channel.state);
        let behind = |state: &mut State| {
            let readers = channel.readers.load(SeqCst) > 0;
            readers && state.log.end().saturating_sub(state.pumped) > self.config.history as u64 / 2
        };
        let patience = Instant::now() + PUBLISH_PATIENCE;
        let (mut ids, mut bytes) = (Vec::new(), 0);
        for event in events {
            if behind(&mut state) {
                self.wake(&channel);
                let left = patience.saturating_duration_since(Instant::now());
                let waited = channel.pumped.wait_timeout_while(state, left, behind);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let start = state.log.end();
            ids.push(state.log.append(|id, out| event.write(Some(id), out)));
            bytes += state.log.end() - start;
        }
        if channel.readers.load(SeqCst) == 0 {
            state.pumped = state.log.end();
        }
        drop(state);
        self.events.fetch_add(events.len() as u64, Relaxed);
        self.published.fetch_add(bytes, Relaxed);
        self.wake(&channel);
        Ok(ids)
    }

    /// Tells the pump that a channel has news, once for any number of them.
    fn wake(&self, channel: &Arc<Channel>) {
        if channel.readers.load(SeqCst) > 0 && !channel.queued.swap(true, SeqCst) {
            let _ = self.news.send(channel.clone()); // the pump lives as long as the process
        }
    }

    /// Makes a connection a subscriber. `head` is its response head without the blank line; with `wait` it gets a
    /// `Content-Length` and ends at the first events, or after this time; else it goes on for ever.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn subscribe(
        &self, channel: &Arc<Channel>, stream: TcpStream, slot: Slot, head: String, from: &From, wait: Option<Duration>,
    ) -> io::Result<()> {
        // The count comes first: whoever publishes from here on wakes the pump, and whoever did before is seen below.
        channel.readers.fetch_add(1, SeqCst);
        let opened = self.open(channel, stream, slot, head, from, wait);
        let subscriber = opened.inspect_err(|_| {
            channel.readers.fetch_sub(1, SeqCst);
        })?;
        let pos = subscriber.pos;
        channel.join(subscriber);
        let news = {
            let mut state = lock(&channel.state);
            state.pumped = state.pumped.min(pos);
            state.log.end() > pos
        };
        if news {
            self.wake(channel);
        }
        // Without a reader the heartbeat sleeps for good, and it knows no poll's end but those it has seen.
        if let Some(heart) = self.heart.get().filter(|_| self.heart_sleeps.swap(false, SeqCst) || wait.is_some()) {
            heart.unpark();
        }
        Ok(())
    }

    /// Sends head and prelude, unless they have to wait.
    fn open(
        &self, channel: &Channel, stream: TcpStream, slot: Slot, mut head: String, from: &From, wait: Option<Duration>,
    ) -> io::Result<Subscriber> {
        let (Place { pos, id, gap }, end) = {
            let state = lock(&channel.state);
            (state.log.find(from), state.log.end())
        };
        let retry = jitter(self.config.retry, 50);
        let mut prelude = format!(": connected to /{}\nretry: {retry}\nid: {id}\n\n", channel.name).into_bytes();
        if let (From::After(asked), Some(gap)) = (from, &gap) {
            let from = gap.from.map_or("null".into(), |id| format!("\"{id}\""));
            let lost = gap.lost.map_or("null".into(), |n| n.to_string());
            let data = format!("{{\"asked\":{},\"from\":{from},\"lost\":{lost}}}", event::json(asked));
            Event::new(data).named("gap").unwrap_or_default().write(None::<Id>, &mut prelude);
        }
        let now = self.now();
        let age = self.config.max_age.filter(|_| wait.is_none());
        let expires = age.map_or(u64::MAX, |age| now + jitter(millis(age), 10));
        let mut sub = Subscriber { stream, pos, poll: None, due: 0, expires, stalls: 0, shut: false, slot };
        if let Some(wait) = wait {
            sub.poll = Some(Box::new(Poll::Wait(head, prelude)));
            sub.due = now + millis(wait);
            if pos < end || gap.is_some() || wait.is_zero() {
                sub.begin(end).map_err(|_| io::ErrorKind::BrokenPipe)?;
                sub.finish(now);
            }
        } else {
            head.push_str("\r\n");
            let mut opening = head.into_bytes();
            opening.append(&mut prelude);
            sub.stream.write_all(&opening)?;
            sub.due = now + millis(self.config.heartbeat);
        }
        sub.stream.set_nonblocking(true)?;
        Ok(sub)
    }

    fn pump(&self, queue: &Receiver<Arc<Channel>>) {
        let mut piece = Piece::default();
        let mut later: Vec<(u64, Arc<Channel>)> = Vec::new(); // channels with stalled readers, each once
        loop {
            let pause = later.iter().map(|l| l.0).min().map(|at| Duration::from_millis(at.saturating_sub(self.now())));
            let channel = match pause {
                None => queue.recv().ok(),
                Some(pause) => queue.recv_timeout(pause).ok(),
            };
            // A panic is a bug; it must not end the pump for everybody.
            if let Some(channel) = channel
                && let Ok(Some(retry)) = catch_unwind(AssertUnwindSafe(|| self.turn(&channel, &mut piece)))
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

    /// Gives each subscriber of a channel its next piece. Returns when the first stalled one is to be tried again.
    fn turn(&self, channel: &Arc<Channel>, piece: &mut Piece) -> Option<u64> {
        channel.queued.store(false, SeqCst); // before the log is read: whoever appends after that queues it again
        piece.bytes.clear();
        let (now, heartbeat) = (self.now(), millis(self.config.heartbeat));
        let mut subscribers = channel.subscribers();
        let end = lock(&channel.state).log.end();
        let (mut lowest, mut retry, mut delivered) = (end, u64::MAX, 0);
        self.keep(channel, &mut subscribers, |sub| {
            if sub.wants(end, now) {
                sub.begin(end)?;
                let bytes = piece.at(channel, sub.pos).map_err(|Trimmed| Gone::CutOff)?;
                delivered += sub.give(bytes, now, heartbeat)?;
            }
            match sub.stalls {
                0 if sub.wants(end, now) => lowest = lowest.min(sub.pos),
                0 => {}
                _ => retry = retry.min(sub.due),
            }
            Ok(())
        });
        drop(subscribers);
        self.delivered.fetch_add(delivered, Relaxed);
        lock(&channel.state).pumped = lowest;
        channel.pumped.notify_all();
        if lowest < end {
            self.wake(channel); // behind the other channels that have news
        }
        Some(retry).filter(|at| *at < u64::MAX)
    }

    /// Serves each subscriber, and drops those that are gone.
    fn keep(&self, channel: &Channel, subs: &mut Vec<Subscriber>, mut serve: impl FnMut(&mut Subscriber) -> Served) {
        let before = subs.len();
        subs.retain_mut(|sub| match serve(sub) {
            Ok(()) => true,
            Err(gone) => {
                self.dropped.fetch_add(u64::from(matches!(gone, Gone::CutOff)), Relaxed);
                false
            }
        });
        if subs.len() < before {
            channel.readers.fetch_sub(before - subs.len(), SeqCst);
            lock(&channel.state).used = Instant::now();
            if subs.capacity() / 4 > subs.len() {
                subs.shrink_to(2 * subs.len());
            }
        }
    }

    fn beat(&self) {
        let mut next_look = 0;
        loop {
            let now = self.now();
            let look = now >= next_look;
            if look {
                next_look = now + LOOK;
            }
            let read = |c: &&Arc<Channel>| c.readers.load(SeqCst) > 0;
            let channels: Vec<_> = lock(&self.channels).by_name.values().filter(read).cloned().collect();
            if channels.is_empty() {
                // Once this is set, whoever joins wakes us up; so look once more, then sleep for as long as it takes.
                if self.heart_sleeps.swap(true, SeqCst) {
                    thread::park();
                }
                continue;
            }
            self.heart_sleeps.store(false, SeqCst);
            let sweep =
                |c: &Arc<Channel>| catch_unwind(AssertUnwindSafe(|| self.sweep(c, now, look))).unwrap_or(u64::MAX);
            let next = channels.iter().map(sweep).min().unwrap_or(u64::MAX).min(next_look);
            drop(channels);
            thread::park_timeout(Duration::from_millis(next.saturating_sub(self.now())));
        }
    }

    /// Checks each subscriber. Returns when the next poll is over.
    fn sweep(&self, channel: &Channel, now: u64, look: bool) -> u64 {
        let mut subscribers = channel.subscribers();
        let end = lock(&channel.state).log.end();
        let (mut next, heartbeat) = (u64::MAX, millis(self.config.heartbeat));
        self.keep(channel, &mut subscribers, |sub| {
            sub.check(end, now, heartbeat, look)?;
            if sub.waits() && sub.pos >= end {
                next = next.min(sub.due);
            }
            Ok(())
        });
        next
    }

    /// The metrics, in Prometheus's text format; of the channels, only one where `only` names it.
    pub fn metrics(&self, only: Option<&str>) -> String {
        let channels = lock(&self.channels);
        let numbers = [
            ("connections", "gauge", "Open connections, readers included.", self.connections.load(Relaxed) as u64),
            ("channels", "gauge", "Channels in use.", channels.by_name.len() as u64),
            ("events_total", "counter", "Events published.", self.events.load(Relaxed)),
            ("published_bytes_total", "counter", "Bytes of events published.", self.published.load(Relaxed)),
            ("delivered_bytes_total", "counter", "Bytes of events given to readers.", self.delivered.load(Relaxed)),
            ("dropped_subscribers_total", "counter", "Readers that fell off the log.", self.dropped.load(Relaxed)),
        ];
        let mut out = String::new();
        for (name, kind, help, value) in numbers {
            let _ = writeln!(out, "# HELP tincan_{name} {help}\n# TYPE tincan_{name} {kind}\ntincan_{name} {value}");
        }
        out.push_str("# HELP tincan_subscribers Readers of a channel.\n# TYPE tincan_subscribers gauge\n");
        for (name, channel) in channels.by_name.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
            let _ = writeln!(out, "tincan_subscribers{{channel=\"{name}\"}} {}", channel.readers.load(SeqCst));
        }
        out
    }
}

impl Channel {
    /// The subscribers, with those that joined since.
    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        let mut subscribers = lock(&self.subscribers);
        subscribers.append(&mut std::mem::take(&mut *lock(&self.joining)));
        subscribers
    }

    /// Takes one more in, without waiting where a turn is under way.
    fn join(&self, subscriber: Subscriber) {
        match self.subscribers.try_lock() {
            Ok(mut subscribers) => subscribers.push(subscriber),
            Err(_) => lock(&self.joining).push(subscriber),
        }
    }
}

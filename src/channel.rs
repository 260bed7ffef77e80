//! A channel: one log, and the subscribers that read it.
//!
//! Whoever writes to subscribers holds the channel's list of them. Nobody waits for a reader: sockets do not block, and
//! one that is full is tried again after a growing pause. A publisher waits, for a bounded time, for the *pump*: else a
//! flood could drop events from the log before the pump had offered them to readers that keep up. With `--sync` it also
//! waits for the disk: one of those who wait writes for all of them, and without the lock, so that others can append.
//!
//! Shortcut: what is for all but one (`?except=`) is written with the list held, with `--sync` to the disk as well.
//!
//! Limits: `--history` for the log, `PUBLISH_PATIENCE`.
//! Deliberately absent: HTTP. Heads come from `server.rs`, ready to be sent.

use crate::disk;
use crate::event::Event;
use crate::flags::Config;
use crate::id::Id;
use crate::log::{From, Log, Place, Trimmed};
use crate::reject::{BEHIND, DISK_FULL, LOG_FAILED, NOBODY, Reject};
use crate::report::report;
use crate::stream::Entry;
use crate::subscriber::{Gone, More, Poll, Slot, Subscriber};
use crate::trace::Trace;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long a publisher waits for the pump.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(2);

/// Subscribers of a channel that are worth a core of their own.
const SHARE: usize = 512;
/// Limit: a thread's stack.
pub const STACK: usize = 64 << 10;

/// Takes a lock, also one that a panicking thread has left: its data are plain counts, bytes and sockets, each valid
/// at every step, so one thread's bug does not end the server.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `middle`, give or take a share of it, so that clients do not come back in step. The keys of std's hash maps are
/// the randomness that std has.
pub fn jitter(middle: u64, percent: u64) -> u64 {
    let spread = middle.saturating_mul(percent) / 100;
    let random = RandomState::new().hash_one(middle);
    middle - spread + random % (2 * spread + 1)
}

/// A duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct State {
    log: Log,
    pumped: u64,   // the lowest position of a subscriber that keeps up, at the end of the last turn
    used: Instant, // when somebody last came, left or published
    syncing: bool, // a publisher is writing to the disk for all
    failing: bool, // the last append failed
}

/// Which ids events get.
#[derive(Clone, Copy)]
enum Numbers {
    /// The log's next ones.
    Own,
    /// This one.
    Given(Id),
    /// None.
    None,
}

/// A log and its subscribers.
#[derive(Debug)]
pub struct Channel {
    name: String,
    secret: RandomState, // makes addresses of keys
    state: Mutex<State>,
    changed: Condvar, // `pumped`, or what is on the disk
    subscribers: Mutex<Vec<Subscriber>>,
    joining: Mutex<Vec<Subscriber>>, // so that nobody who joins waits for a turn to end
    readers: AtomicUsize,            // in both lists
    /// Whether it waits for the pump.
    pub queued: AtomicBool,
}

type Served = Result<(), Gone>;

/// The bytes that most subscribers of a turn are sent: copied from the log once, for all that stand at one place.
#[derive(Debug, Default)]
pub struct Piece {
    from: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn at(&mut self, channel: &Channel, pos: u64) -> Result<&[u8], Trimmed> {
        let ahead = |p: &Piece| pos.checked_sub(p.from).map(|n| n as usize).filter(|&n| n < p.bytes.len());
        if ahead(self).is_none() {
            // Shortcut: with files the pump waits for the disk here, so a slow one slows the replay of all channels.
            lock(&channel.state).log.read(pos, &mut self.bytes)?;
            self.from = pos;
        }
        Ok(ahead(self).and_then(|n| self.bytes.get(n..)).unwrap_or_default())
    }
}

/// How a subscriber's stream begins.
#[derive(Debug)]
pub struct Opening {
    /// Its response head; a poll's without `Content-Length` and the blank line.
    pub head: String,
    /// Where it starts.
    pub from: From,
    /// With this it gets a `Content-Length`, and ends at the first events, or after this time; else it goes on for ever.
    pub wait: Option<Duration>,
    /// What watches its bytes.
    pub trace: Option<Box<Trace>>,
}

/// What a turn did.
#[derive(Debug)]
pub struct Turn {
    /// Bytes of events given to readers.
    pub delivered: u64,
    /// Readers that fell off the log.
    pub cut_off: u64,
    /// Somebody who keeps up has not yet got everything.
    pub more: bool,
    /// When the first stalled reader is to be tried again.
    pub retry: Option<u64>,
}

impl Channel {
    /// A channel without subscribers.
    pub fn new(name: &str, log: Log) -> Channel {
        let pumped = log.heard().pos;
        Channel {
            name: name.into(),
            secret: RandomState::new(),
            state: Mutex::new(State { log, pumped, used: Instant::now(), syncing: false, failing: false }),
            changed: Condvar::new(),
            subscribers: Mutex::default(),
            joining: Mutex::default(),
            readers: AtomicUsize::new(0),
            queued: AtomicBool::new(false),
        }
    }

    /// How many subscribers it has.
    pub fn readers(&self) -> usize {
        self.readers.load(SeqCst)
    }

    /// Notes that somebody has come.
    pub fn touch(&self) {
        lock(&self.state).used = Instant::now();
    }

    /// For how long nobody has come, left or published.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(lock(&self.state).used)
    }

    /// Whether nothing was ever said in it.
    pub fn is_empty(&self) -> bool {
        lock(&self.state).log.is_empty()
    }

    /// Appends events to the log, all or none; where an address is given, they are for all `but` that subscriber.
    /// Returns their ids and their bytes, once they may be heard; `pump` wakes the pump.
    ///
    /// # Errors
    /// [`DISK_FULL`], or [`LOG_FAILED`] where the disk fails otherwise; [`NOBODY`], or [`BEHIND`] where that subscriber has
    /// too much to pass over. Nothing of these events was kept then.
    pub fn publish(&self, events: &[Event], but: Option<&str>, pump: impl Fn()) -> Result<(Vec<Id>, u64), Reject> {
        self.put(events, Numbers::Own, but, pump)
    }

    /// Takes over events of the log of which this is a copy.
    pub fn take(&self, entries: &[Entry], pump: impl Fn()) {
        for Entry { id, event, except } in entries {
            let (event, except) = (std::slice::from_ref(event), except.as_deref());
            // Whom nobody here knows is a reader of another node. Memory alone takes an event, which does not fail.
            if except.is_none() || self.put(event, Numbers::Given(*id), except, &pump).is_err() {
                let _ = self.put(event, Numbers::Given(*id), None, &pump);
            }
        }
        self.changed.notify_all();
    }

    /// Tells all readers that something is missing here.
    pub fn gap(&self, gap: &Event, pump: impl Fn()) {
        let _ = self.put(std::slice::from_ref(gap), Numbers::None, None, pump);
    }

    /// The id of the last event.
    pub fn last(&self) -> Id {
        lock(&self.state).log.written().id
    }

    /// All events after this id are kept.
    pub fn kept(&self) -> Id {
        lock(&self.state).log.kept()
    }

    /// Waits until the event of this id is there, or a later one. Returns whether it is.
    pub fn wait_for(&self, id: Id, time: Duration) -> bool {
        let state = lock(&self.state);
        let waits = |state: &mut State| state.log.heard().id < id;
        !self.changed.wait_timeout_while(state, time, waits).unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn put(
        &self, events: &[Event], numbers: Numbers, but: Option<&str>, pump: impl Fn(),
    ) -> Result<(Vec<Id>, u64), Reject> {
        let mut state = lock(&self.state);
        let behind = |state: &mut State| {
            self.readers() > 0 && state.log.written().pos.saturating_sub(state.pumped) > state.log.slack()
        };
        let until = Instant::now() + PUBLISH_PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() && behind(&mut state) {
                pump();
                state = self.changed.wait_timeout_while(state, left, behind).unwrap_or_else(PoisonError::into_inner).0;
            }
            let Some(address) = but else {
                return self.append(state, events, numbers).map(|(ids, at, end)| (ids, end - at));
            };
            drop(state);
            let mut subscribers = self.subscribers(); // held, so that nobody is given it before we know who is not
            let sub = self.find(&mut subscribers, address)?;
            state = lock(&self.state);
            if !sub.can_skip(state.log.written().pos) {
                return Err(BEHIND);
            }
            if behind(&mut state) && Instant::now() < until {
                continue; // others have published since, and the pump cannot have its turn while we hold the list
            }
            let (ids, at, end) = self.append(state, events, numbers)?;
            sub.skip(at, end);
            return Ok((ids, end - at));
        }
    }

    /// Gives events to one subscriber alone; they are not kept. It first gets what was said before.
    ///
    /// # Errors
    /// [`NOBODY`] where nobody has this address; [`BEHIND`] where it does not take them now.
    pub fn send_to(&self, address: &str, events: &[Event], now: u64, heartbeat: Duration) -> Result<(), Reject> {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| event.write(None::<Id>, &mut bytes));
        let mut subscribers = self.subscribers();
        let sub = self.find(&mut subscribers, address)?;
        let (end, mut piece) = (lock(&self.state).log.heard().pos, Piece::default());
        while sub.wants(end, now) {
            let next = piece.at(self, sub.pos).map_err(|Trimmed| BEHIND)?;
            sub.give(next, now, millis(heartbeat)).map_err(|_| NOBODY)?;
        }
        if sub.stalls > 0 || sub.pos < end {
            return Err(BEHIND);
        }
        sub.give_alone(&bytes, now, millis(heartbeat)).map_err(|_| NOBODY)
    }

    /// The subscriber of this address.
    fn find<'a>(&self, subscribers: &'a mut [Subscriber], address: &str) -> Result<&'a mut Subscriber, Reject> {
        let key = address.get(..16).and_then(|key| u64::from_str_radix(key, 16).ok());
        let key = key.filter(|key| self.address(*key) == address).ok_or(NOBODY)?;
        subscribers.iter_mut().find(|sub| sub.key == key && !sub.is_poll()).ok_or(NOBODY)
    }

    /// The address of the subscriber that has this key: a name that nobody can guess, for its other half is made with
    /// what only this process knows.
    fn address(&self, key: u64) -> String {
        format!("{key:016x}{:016x}", self.secret.hash_one(key))
    }

    /// Appends an event where nobody may wait for the pump, such as in the pump.
    ///
    /// # Errors
    /// As [`Channel::publish`].
    pub fn tell(&self, event: &Event) -> Result<(), Reject> {
        self.append(lock(&self.state), std::slice::from_ref(event), Numbers::Own).map(|_| ())
    }

    /// Returns the ids, and from where to where they stand in the log.
    fn append<'a>(
        &'a self, mut state: MutexGuard<'a, State>, events: &[Event], numbers: Numbers,
    ) -> Result<(Vec<Id>, u64, u64), Reject> {
        while state.log.is_unsettled() {
            let end = state.log.written().pos;
            state = self.settle(state, end).0;
        }
        let start = state.log.written().pos;
        let write = |id: Option<Id>, out: &mut Vec<u8>| {
            events.iter().zip(0..).for_each(|(event, n)| event.write(id.map(|first| first.plus(n)), out));
        };
        let appended = match numbers {
            Numbers::Own => state.log.append(events.len() as u64, |first, out| write(Some(first), out)),
            Numbers::Given(id) => state.log.push(id, |out| write(Some(id), out)).map(|()| id),
            Numbers::None => {
                let last = state.log.written().id;
                state.log.push(last, |out| write(None, out)).map(|()| last)
            }
        };
        let end = state.log.written().pos;
        let (mut state, settled) = self.settle(state, end);
        if self.readers() == 0 {
            state.pumped = state.log.heard().pos;
        }
        let done = appended.and_then(|first| settled.map(|()| first));
        let news = std::mem::replace(&mut state.failing, done.is_err()) != done.is_err();
        drop(state);
        if news {
            let what = done.as_ref().err().map_or("takes events again".into(), |e| format!("takes no event: {e}"));
            report(format!("tincan: /{} {what}", self.name));
        }
        match done {
            Ok(first) => Ok(((0..events.len() as u64).map(|n| first.plus(n)).collect(), start, end)),
            Err(e) if disk::is_full(&e) => Err(DISK_FULL),
            Err(_) => Err(LOG_FAILED),
        }
    }

    /// Waits until what was appended up to `end` may be heard. Where that takes the disk, one of those who wait has it
    /// write for all of them.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>, end: u64) -> (MutexGuard<'a, State>, io::Result<()>) {
        let failed = state.log.failed();
        while state.log.heard().pos < end {
            if state.syncing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state.syncing = true;
                let unsynced = state.log.unsynced();
                drop(state);
                let done = unsynced.sync();
                state = lock(&self.state);
                state.syncing = false;
                self.changed.notify_all();
                if let Err(e) = state.log.synced(&unsynced, done) {
                    return (state, Err(e));
                }
            }
            if state.log.failed() != failed {
                let kind = state.log.failed().1;
                return (state, Err(kind.into()));
            }
        }
        (state, Ok(()))
    }

    /// Makes a connection a subscriber, see `Hub::subscribe`. Returns whether there is something for it already.
    ///
    /// # Errors
    /// Where the socket fails, or the disk.
    pub fn open(&self, config: &Config, now: u64, stream: TcpStream, slot: Slot, opening: Opening) -> io::Result<bool> {
        // The count comes first: whoever publishes from here on wakes the pump, and whoever did before is seen below.
        self.readers.fetch_add(1, SeqCst);
        let opened = self.greet(config, now, stream, slot, opening).and_then(|(sub, prelude)| self.join(sub, &prelude));
        let pos = opened.inspect_err(|_| {
            self.readers.fetch_sub(1, SeqCst);
        })?;
        let mut state = lock(&self.state);
        state.pumped = state.pumped.min(pos);
        Ok(state.log.heard().pos > pos)
    }

    /// Makes a subscriber, and what it is sent first; nothing where it is a poll.
    fn greet(
        &self, config: &Config, now: u64, stream: TcpStream, slot: Slot, opening: Opening,
    ) -> io::Result<(Subscriber, Vec<u8>)> {
        let Opening { head, from, wait, trace } = opening;
        let (Place { pos, id, gap }, end) = {
            let state = lock(&self.state);
            (state.log.find(&from)?, state.log.heard().pos)
        };
        let retry = jitter(config.retry, 50);
        let key = RandomState::new().hash_one(());
        let address = if wait.is_none() { format!(" as {}", self.address(key)) } else { String::new() };
        let prelude = format!(": connected to /{}{address}\nretry: {retry}\nid: {id}\n\n", self.name);
        let mut prelude = prelude.into_bytes();
        if let (From::After(asked), Some(gap)) = (&from, &gap) {
            gap.event(asked).write(None::<Id>, &mut prelude);
        }
        let age = config.max_age.filter(|_| wait.is_none());
        let expires = age.map(|age| now + jitter(millis(age), 10));
        let more = (trace.is_some() || expires.is_some()).then(|| Box::new(More { trace, expires, ..More::default() }));
        let mut sub = Subscriber { stream, pos, more, due: 0, key, stalls: 0, gone: None, shut: false, slot };
        let Some(wait) = wait else {
            sub.due = now + millis(config.heartbeat);
            sub.stream.set_nonblocking(true)?;
            return Ok((sub, [head.into_bytes(), prelude].concat()));
        };
        sub.more.get_or_insert_default().poll = Some(Poll::Wait(head, prelude));
        sub.due = now + millis(wait);
        if pos < end || gap.is_some() || wait.is_zero() {
            sub.begin(end).map_err(|_| io::ErrorKind::BrokenPipe)?;
            sub.finish(now);
        }
        sub.stream.set_nonblocking(true)?;
        Ok((sub, Vec::new()))
    }

    /// Gives each subscriber its next piece; where there are many, `helpers` stand for further cores.
    pub fn turn(&self, piece: &mut Piece, helpers: &mut [Piece], now: u64, heartbeat: Duration) -> Turn {
        self.queued.store(false, SeqCst); // before the log is read: whoever appends after that queues it again
        piece.bytes.clear();
        helpers.iter_mut().for_each(|piece| piece.bytes.clear());
        let mut subscribers = self.subscribers();
        let end = lock(&self.state).log.heard().pos;
        let (mut lowest, mut retry, delivered) = (end, u64::MAX, AtomicU64::new(0));
        let give = |sub: &mut Subscriber, piece: &mut Piece| -> Result<u64, Gone> {
            sub.begin(end)?;
            let bytes = piece.at(self, sub.pos).map_err(|Trimmed| Gone::CutOff)?;
            sub.give(bytes, now, millis(heartbeat))
        };
        let all = |subs: &mut [Subscriber], piece: &mut Piece| {
            let mut sum = 0;
            for sub in subs.iter_mut().filter(|sub| sub.wants(end, now)) {
                match give(sub, piece) {
                    Ok(bytes) => sum += bytes,
                    Err(gone) => sub.gone = Some(gone),
                }
            }
            delivered.fetch_add(sum, Relaxed);
        };
        // Where there are many, each core takes a share; if no thread can be had for one, all are looked at again.
        let share = subscribers.len().div_ceil(helpers.len() + 1).max(SHARE);
        let mut missed = false;
        thread::scope(|scope| {
            let mut shares = subscribers.chunks_mut(share);
            let own = shares.next().unwrap_or_default();
            for (subs, piece) in shares.zip(helpers) {
                let work: Box<dyn FnOnce() + Send> = Box::new(move || all(subs, piece));
                missed |= thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).is_err();
            }
            all(own, piece);
        });
        if missed {
            all(&mut subscribers, piece);
        }
        let cut_off = self.keep(&mut subscribers, |sub| {
            if let Some(gone) = sub.gone.take() {
                return Err(gone);
            }
            match sub.stalls {
                0 if sub.wants(end, now) => lowest = lowest.min(sub.pos),
                0 => {}
                _ => retry = retry.min(sub.due),
            }
            Ok(())
        });
        drop(subscribers);
        lock(&self.state).pumped = lowest;
        self.changed.notify_all();
        let (more, retry) = (lowest < end, Some(retry).filter(|at| *at < u64::MAX));
        Turn { delivered: delivered.into_inner(), cut_off, more, retry }
    }

    /// Checks each subscriber. Returns when the next poll is over.
    pub fn sweep(&self, now: u64, heartbeat: Duration, look: bool) -> u64 {
        let mut subscribers = self.subscribers();
        let end = lock(&self.state).log.heard().pos;
        let mut next = u64::MAX;
        self.keep(&mut subscribers, |sub| {
            sub.check(end, now, millis(heartbeat), look)?;
            if sub.waits() && sub.pos >= end {
                next = next.min(sub.due);
            }
            Ok(())
        });
        next
    }

    /// Serves each subscriber, and drops those that are gone. Returns how many of them fell off the log.
    fn keep(&self, subs: &mut Vec<Subscriber>, mut serve: impl FnMut(&mut Subscriber) -> Served) -> u64 {
        let (before, mut cut_off) = (subs.len(), 0);
        subs.retain_mut(|sub| match serve(sub) {
            Ok(()) => true,
            Err(gone) => {
                cut_off += u64::from(matches!(gone, Gone::CutOff));
                false
            }
        });
        if subs.len() < before {
            self.readers.fetch_sub(before - subs.len(), SeqCst);
            self.touch();
            if subs.capacity() / 4 > subs.len() {
                subs.shrink_to(2 * subs.len());
            }
        }
        cut_off
    }

    /// The subscribers, with those that joined since.
    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        let mut subscribers = lock(&self.subscribers);
        subscribers.append(&mut std::mem::take(&mut *lock(&self.joining)));
        subscribers
    }

    /// Takes one more in, without waiting where a turn is under way. Returns its position.
    fn join(&self, mut sub: Subscriber, prelude: &[u8]) -> io::Result<u64> {
        let mut list = self.subscribers.try_lock().unwrap_or_else(|_| lock(&self.joining));
        if !prelude.is_empty() {
            // With the lock: who is told its address can be found by it at once.
            sub.say(prelude).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        let pos = sub.pos;
        list.push(sub);
        Ok(pos)
    }
}

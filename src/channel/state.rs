//! A channel: one log, and the subscribers that read it.
//!
//! Whoever writes to subscribers holds the channel's list of them. Nobody waits for a reader: sockets do not block, and
//! one that is full is tried again after a growing pause. A publisher waits, for a bounded time, for the *pump*: else a
//! flood could drop events from the log before the pump had offered them to readers that keep up.
//!
//! Locks, in the order in which they are taken:
//!
//! 1. `writer`: the one publisher that appends. It may wait for the disk, and for the pump.
//! 2. `subscribers`: the thread that writes to them.
//! 3. `joining`, `state`: any thread, for a few steps in memory.
//!
//! So nobody waits for the disk but publishers of the same log. With `--sync` one of those that wait syncs for all of
//! them, without a lock. What stands in a file alone is read by the thread that asked for it, or by one that replays
//! (`hub.rs`), without a lock as well.
//!
//! What an event has behind it: *written*, it is in the file; *heard*, readers may be given it, and its POST is answered;
//! *pumped*, all readers that keep up were given it.
//!
//! Limits: `--history` for the log, `PUBLISH_PATIENCE`.
//! Deliberately absent: HTTP. Heads come from `server.rs`, ready to be sent.

use crate::channel::duplex::{Duplex, lock};
use crate::channel::framing::{Framing, Wire, block_end};
use crate::channel::subscriber::{Gone, More, Poll, Slot, Subscriber};
use crate::flags::Config;
use crate::log::disk;
use crate::log::positions::{From, Log, PIECE, Place, Trimmed};
use crate::log::writer::{Begun, End, Writer};
use crate::system::report::report;
use crate::wings::redis::stream::Entry;
use crate::wings::trace::watch::Trace;
use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::reject::{BEHIND, DISK_FULL, LOG_FAILED, LOG_UNREADABLE, NOBODY, Reject};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::mem::{replace, take};
use std::net::{Shutdown, TcpStream};
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long a publisher waits for the pump.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(2);

/// Pause before a subscriber is looked at again that stands in something, unless a turn ends before.
const TURN_PAUSE: Duration = Duration::from_millis(20);
/// Limit: how long a subscriber may take to hear the end that its client asked for.
const LEAVE_TIME: Duration = Duration::from_secs(2);

/// Subscribers of a channel that are worth a core of their own.
const SHARE: usize = 512;
/// Limit: a thread's stack.
pub const STACK: usize = 64 << 10;

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

struct State {
    log: Log,
    turned: u64,                 // where the log ended in the last turn
    pumped: u64,                 // the lowest position of a subscriber that keeps up, at the end of the last turn
    used: Instant,               // when somebody last came, left or published
    syncing: bool,               // a publisher is writing to the disk for all
    failing: bool,               // the last append failed
    wanted: Option<(u64, bool)>, // somebody has to be given what stands in a file from here on
    replaying: bool,             // a thread reads from files
    replayed: u64,               // the end of what was last read from a file
}

/// Which ids events get.
#[derive(Clone, Copy)]
pub enum Numbers {
    /// The log's next ones.
    Own,
    /// This one.
    Given(Id),
    /// None.
    None,
}

/// A log and its subscribers.
pub struct Channel {
    /// Its name.
    pub name: String,
    secret: RandomState, // makes addresses of keys
    writer: Mutex<Writer>,
    state: Mutex<State>,
    changed: Condvar, // `pumped`, or what is on the disk
    subscribers: Mutex<Vec<Subscriber>>,
    joining: Mutex<Vec<Subscriber>>, // so that nobody who joins waits for a turn to end
    readers: AtomicUsize,            // in both lists
    leaving: AtomicUsize,            // of these: they hear nothing new
    /// Whether it waits for the pump.
    pub queued: AtomicBool,
    /// When the pump tries its stalled readers again, or ends a poll; 0 if it need not.
    pub retry: AtomicU64,
}

/// The bytes that most subscribers of a turn are sent: copied from the log once, for all that stand at one place.
#[derive(Default)]
pub struct Piece {
    from: u64,
    whole: bool, // it begins with a whole block
    bytes: Vec<u8>,
    bad: bool, // nothing could be read there
}

impl Piece {
    /// What it has from this position on; if that has to be a `whole` block, it must begin with it.
    fn get(&self, (pos, whole): (u64, bool)) -> Option<&[u8]> {
        let from = usize::try_from(pos.checked_sub(self.from)?).ok();
        let from = from.filter(|from| !whole || (*from == 0 && self.whole))?;
        self.bytes.get(from..).filter(|rest| !rest.is_empty())
    }

    /// What the log has in memory from this position on; none if that is in a file.
    fn at(&mut self, channel: &Channel, place: (u64, bool)) -> Result<Option<&[u8]>, Trimmed> {
        if self.get(place).is_none() && !self.read(channel, place, false)? {
            return Ok(None);
        }
        Ok(Some(self.get(place).unwrap_or_default()))
    }

    /// Reads what the log has from this position on, up to the end of a block if it has to be `whole`. Returns whether it is
    /// there: what stands in a file is read by those who may `wait` for the disk.
    fn read(&mut self, channel: &Channel, (pos, whole): (u64, bool), wait: bool) -> Result<bool, Trimmed> {
        self.from = pos;
        self.whole = false;
        self.bytes.clear();
        loop {
            let before = self.bytes.len();
            let stretch = channel.state().log.read(pos + before as u64, &mut self.bytes)?;
            if let Some(stretch) = stretch {
                if !wait {
                    return Ok(false);
                }
                if let Err(e) = stretch.read(&mut self.bytes) {
                    self.bad = true;
                    channel.unreadable(pos, &e);
                }
            }
            let new = self.bytes.get(before.saturating_sub(1)..).unwrap_or_default();
            if !whole || self.bytes.len() == before || block_end(new).is_some() {
                self.whole = whole;
                return Ok(true);
            }
        }
    }
}

/// What a core has for a turn: a piece, and how each framing wraps what was sent last.
#[derive(Default)]
struct Batch {
    piece: Piece,
    wires: [Wire; 4],
}

/// How a subscriber's stream begins.
pub struct Opening {
    /// Its response head, but for the field that announces the framing, and the blank line.
    pub head: String,
    /// How it is wrapped what it is given; a poll that is answered at once has a `Content-Length` in its place.
    pub framing: Framing,
    /// A WebSocket's half.
    pub half: Option<Arc<Mutex<Duplex>>>,
    /// Where it wants to start.
    pub from: From,
    /// Where that is, see [`Channel::place`].
    pub place: Place,
    /// With this it ends at the first events, or after this time; else it goes on for ever.
    pub wait: Option<Duration>,
    /// What watches its bytes.
    pub trace: Trace,
}

/// What a turn did.
#[derive(Default)]
pub struct Turn {
    /// Bytes of events given to readers.
    pub delivered: u64,
    /// Readers that fell off the log.
    pub cut_off: u64,
    /// Somebody who keeps up has not yet got everything that is in memory.
    pub more: bool,
    /// Somebody wants what is in a file, and no thread reads it yet.
    pub disk: bool,
    /// When the first stalled reader is to be tried again, or the first poll ends.
    pub retry: Option<u64>,
}

impl Channel {
    /// A channel without subscribers.
    pub fn new(name: &str, log: Log, writer: Writer) -> Channel {
        let state = State {
            turned: 0,
            pumped: log.heard.pos,
            log,
            used: Instant::now(),
            syncing: false,
            failing: false,
            wanted: None,
            replaying: false,
            replayed: 0,
        };
        Channel {
            name: name.into(),
            secret: RandomState::new(),
            writer: Mutex::new(writer),
            state: Mutex::new(state),
            changed: Condvar::new(),
            subscribers: Mutex::default(),
            joining: Mutex::default(),
            readers: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            queued: AtomicBool::new(false),
            retry: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How many subscribers it has, with those that are on their way out.
    pub fn readers(&self) -> usize {
        self.readers.load(SeqCst)
    }

    /// How many subscribers hear what is said.
    pub fn hearing(&self) -> usize {
        self.readers().saturating_sub(self.leaving.load(SeqCst))
    }

    /// Where what may be heard ends.
    fn end(&self) -> u64 {
        self.state().log.heard.pos
    }

    /// Notes that somebody has come.
    pub fn touch(&self) {
        self.state().used = Instant::now();
    }

    /// For how long nobody has come, left or published.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state().used)
    }

    /// Whether nothing was ever said in it.
    pub fn is_empty(&self) -> bool {
        self.state().log.is_empty()
    }

    /// Whether what was said stands in a file.
    pub fn has_file(&self) -> bool {
        self.state().log.unsynced().1.is_some()
    }

    /// Takes over events of the log of which this is a copy; `pump` wakes the pump.
    pub fn take(&self, entries: &[Entry], pump: impl Fn()) {
        for Entry { id, event, except, .. } in entries {
            let event = from_ref(event);
            // Whom nobody here knows is a reader of another node. Memory alone takes an event, which does not fail.
            if self.publish(event, Numbers::Given(*id), except.as_deref()).is_err() {
                let _ = self.publish(event, Numbers::Given(*id), None);
            }
            pump();
        }
        self.changed.notify_all();
    }

    /// Tells all readers that something is missing here; `pump` wakes the pump.
    pub fn gap(&self, gap: &Event, pump: impl Fn()) {
        let _ = self.publish(from_ref(gap), Numbers::None, None);
        pump();
    }

    /// The id of the last event.
    pub fn last(&self) -> Id {
        self.state().log.written.id
    }

    /// All events after this id are kept.
    pub fn kept(&self) -> Id {
        self.state().log.kept()
    }

    /// Waits until the event of this id is there, or a later one. Returns whether it is.
    pub fn wait_for(&self, id: Id, time: Duration) -> bool {
        let waits = |state: &mut State| state.log.heard.id < id;
        !self
            .changed
            .wait_timeout_while(self.state(), time, waits)
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .timed_out()
    }

    /// Waits until this is so at the end of a turn, or the time is over.
    pub fn wait_until(&self, time: Duration, is_so: impl Fn() -> bool) {
        drop(self.changed.wait_timeout_while(self.state(), time, |_| !is_so()));
    }

    /// Appends events to the log, all or none; where an address is given, they are for all `but` that subscriber.
    /// Returns their ids and their bytes, once they may be heard. It may wait for the pump.
    ///
    /// # Errors
    /// [`DISK_FULL`], or [`LOG_FAILED`] where the disk fails otherwise; [`NOBODY`], or [`BEHIND`] where that subscriber has
    /// too much to pass over. Nothing of these events was kept then.
    pub fn publish(&self, events: &[Event], numbers: Numbers, but: Option<&str>) -> Result<(Vec<Id>, u64), Reject> {
        let until = Instant::now() + PUBLISH_PATIENCE;
        let mut writer = lock(&self.writer);
        let behind = |state: &mut State| {
            self.readers() > 0 && state.log.written.pos.saturating_sub(state.pumped) > state.log.slack()
        };
        let left = until.saturating_duration_since(Instant::now());
        drop(self.changed.wait_timeout_while(self.state(), left, behind));
        if let Some(address) = but
            && !self.find(&mut self.subscribers(), address)?.can_skip(self.state().log.written.pos)
        {
            return Err(BEHIND);
        }
        let written = self.write(&mut writer, events, numbers, but);
        let len = writer.block.len() as u64;
        writer.block.clear();
        writer.block.shrink_to(PIECE);
        drop(writer);
        let done = written.and_then(|(first, end)| self.settle(end.written.pos + len, end.failed).map(|()| first));
        if done.is_err()
            && let Ok(mut writer) = self.writer.try_lock()
        {
            // What was taken back is not to be there after a crash. If others write, they do this, or the last that fails.
            let newest = self.state().log.end().newest;
            let _ = writer.mend(newest); // else before the next append
        }
        if replace(&mut self.state().failing, done.is_err()) != done.is_err() {
            let what = done.as_ref().err().map_or("takes events again".into(), |e| format!("takes no event: {e}"));
            report(format!("tincan: /{} {what}", self.name));
        }
        match done {
            Ok(first) => Ok(((0..events.len() as u64).map(|n| first.plus(n)).collect(), len)),
            Err(e) if disk::is_full(&e) => Err(DISK_FULL),
            Err(_) => Err(LOG_FAILED),
        }
    }

    /// Gives events to one subscriber alone; they are not kept. It first gets what was said before, from the pump.
    ///
    /// # Errors
    /// [`NOBODY`] where nobody has this address; [`BEHIND`] where it does not take them now.
    pub fn send_to(&self, address: &str, events: &[Event], now: u64) -> Result<(), Reject> {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| event.write(None::<Id>, &mut bytes));
        let said = self.end();
        let until = Instant::now() + PUBLISH_PATIENCE;
        loop {
            let mut subscribers = self.subscribers();
            let sub = self.find(&mut subscribers, address)?;
            let state = self.state();
            // There an event has ended, for it is where a turn did, or the log does.
            let between = sub.pos == state.turned || sub.pos == state.log.heard.pos;
            if between && sub.pos >= said && !sub.is_busy() {
                return sub.give_alone(sub.framing.alone(&bytes).into_iter(), now).map_err(|_| NOBODY);
            }
            if sub.stalls > 0 || Instant::now() >= until {
                return Err(BEHIND);
            }
            drop(subscribers);
            let _ = self.changed.wait_timeout(state, TURN_PAUSE);
        }
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

    /// Writes events behind the log's end. Returns the id of the first, and where that end was.
    ///
    /// # Errors
    /// If the disk fails.
    fn write(
        &self, writer: &mut Writer, events: &[Event], numbers: Numbers, but: Option<&str>,
    ) -> io::Result<(Id, End)> {
        loop {
            let end = self.state().log.end();
            writer.mend(end.newest)?;
            let before = end.written.id;
            let (first, last) = match numbers {
                Numbers::Own => (before.plus(1), before.plus(events.len() as u64)),
                Numbers::Given(id) => (id, id),
                Numbers::None => (before, before),
            };
            writer.block.clear();
            for (event, n) in events.iter().zip(0..) {
                let id = if let Numbers::None = numbers { None } else { Some(first.plus(n)) };
                event.write(id, &mut writer.block);
            }
            let alone = writer.seal(events.len(), end.newest) || (writer.syncs() && but.is_some());
            if alone && self.settle(end.written.pos, end.failed).is_err() {
                continue; // others have had to take back what they had written
            }
            let done = writer.write(&end, alone).and_then(|begun| {
                let heard = alone || !writer.syncs();
                self.commit(&end, last, &writer.block, begun, but, heard)
            });
            return done.map(|()| (first, end));
        }
    }

    /// Tells the log, and so all readers, what was written behind its end.
    fn commit(
        &self, end: &End, last: Id, block: &[u8], begun: Option<Begun>, but: Option<&str>, heard: bool,
    ) -> io::Result<()> {
        let _dropped; // behind the locks, which come later: to close a file may take long
        // Nobody is given anything before we know who is not to be given this.
        let mut held = but.map(|address| (self.subscribers(), address));
        if let Some((subscribers, address)) = &mut held
            && let Ok(sub) = self.find(subscribers, address)
        {
            sub.skip(end.written.pos, end.written.pos + block.len() as u64);
        }
        let listened = self.readers() > 0;
        let mut state = self.state();
        state.log.still(end.failed, u64::MAX)?;
        _dropped = state.log.commit(block, last, begun, listened);
        let written = state.log.written;
        if heard {
            state.log.hear(written);
        }
        if !listened {
            state.pumped = written.pos;
        }
        Ok(())
    }

    /// Waits until what was appended up to `end` may be heard. If that takes the disk, one of those who wait has it write
    /// for all of them.
    fn settle(&self, end: u64, failed: u64) -> io::Result<()> {
        let mut state = self.state();
        loop {
            state.log.still(failed, end)?;
            if state.log.heard.pos >= end {
                return Ok(());
            }
            if state.syncing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            let (mark, file) = state.log.unsynced();
            drop(state);
            let done = file.map_or(Ok(()), |file| file.sync());
            state = self.state();
            state.syncing = false;
            self.changed.notify_all();
            if let Err(e) = done {
                state.log.take_back(e.kind());
                return Err(e);
            }
            state.log.hear(mark);
        }
    }

    /// Tells the owner, once, that the log cannot be read back.
    fn unreadable(&self, pos: u64, error: &io::Error) {
        if self.state().log.note_bad(pos) {
            report(format!(
                "tincan: /{} cannot be read back: {error}; put the file right and start the server again",
                self.name
            ));
        }
    }

    /// Whether the log could not be read back.
    pub fn is_bad(&self) -> bool {
        self.state().log.is_bad()
    }

    /// The place for a reader. It may wait for the disk.
    ///
    /// # Errors
    /// [`LOG_UNREADABLE`] if the disk fails, or has less than was written.
    pub fn place(&self, from: &From) -> Result<Place, Reject> {
        let state = self.state();
        let found = match state.log.on_disk().filter(|_| *from != From::Now) {
            None => state.log.find(from),
            Some(log) => {
                drop(state);
                log.find(from)
            }
        };
        found.map_err(|e| {
            self.unreadable(self.end(), &e);
            LOG_UNREADABLE
        })
    }

    /// Makes a connection a subscriber, see `Hub::subscribe`. Returns its key, and whether there is something for it already.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn open(
        &self, config: &Config, now: u64, stream: TcpStream, slot: Slot, opening: Opening,
    ) -> io::Result<(u64, bool)> {
        let (mut sub, beginning) = self.begin(config, now, stream, slot, opening);
        sub.stream.set_nonblocking(!sub.framing.is_message())?;
        let pos = sub.pos;
        let key = sub.key;
        // Without waiting where a turn is under way.
        let mut list = self.subscribers.try_lock().unwrap_or_else(|_| lock(&self.joining));
        // Whoever publishes from here on wakes the pump, and whoever did before is seen below.
        self.readers.fetch_add(1, SeqCst);
        // With the lock: who is told its address can be found by it at once.
        if sub.give_alone(beginning.into_iter(), now).and_then(|()| sub.finish(now)).is_err() {
            self.readers.fetch_sub(1, SeqCst);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        list.push(sub);
        drop(list);
        let mut state = self.state();
        state.pumped = state.pumped.min(pos);
        Ok((key, state.log.heard.pos > pos))
    }

    /// Makes a subscriber, and what it is sent first.
    fn begin(
        &self, config: &Config, now: u64, stream: TcpStream, slot: Slot, opening: Opening,
    ) -> (Subscriber, Vec<u8>) {
        let Opening { head, from, place, wait, trace, mut framing, half } = opening;
        let Place { pos, id, gap } = place;
        let end = self.end();
        let retry = jitter(config.retry, 50);
        let key = RandomState::new().hash_one(());
        let address = if wait.is_none() { format!(" as {}", self.address(key)) } else { String::new() };
        let mut prelude = match framing {
            Framing::Data => Vec::new(), // it has no data
            _ => format!(": connected to /{}{address}\nretry: {retry}\nid: {id}\n\n", self.name).into(),
        };
        if let (From::After(asked), Some(gap)) = (&from, &gap) {
            gap.event(asked).write(None::<Id>, &mut prelude);
        }
        let at_once = wait.is_some_and(|wait| wait.is_zero() || pos < end || gap.is_some());
        let until = |time| Poll::Wait(now + millis(time));
        let poll = wait.map(|time| if at_once { Poll::Until(end, Vec::new()) } else { until(time) });
        let mut field = framing.field().to_string();
        if at_once {
            framing = Framing::None;
            field = format!("Content-Length: {}\r\n", prelude.len() as u64 + end - pos);
        }
        let expires = config.max_age.filter(|_| wait.is_none()).map(|age| now + jitter(millis(age), 10));
        let beginning = [head.as_bytes(), field.as_bytes(), b"\r\n", &framing.alone(&prelude)].concat();
        let more = poll.is_some() || expires.is_some() || half.is_some() || trace.watches();
        let more = more.then(|| Box::new(More { poll, trace, expires, half, ..More::default() }));
        (Subscriber { stream, pos, more, due: now, key, stalls: 0, framing, gone: None, shut: false, slot }, beginning)
    }

    /// Ends a subscriber with these bytes, behind the frame that is open, and takes it out of the list. If its socket does
    /// not take that in time, or there are none, it is just taken out.
    pub fn leave(&self, key: u64, last: &[u8], now: u64) {
        let until = Instant::now() + LEAVE_TIME;
        loop {
            let mut subscribers = self.subscribers();
            let Some(sub) = subscribers.iter_mut().find(|sub| sub.key == key) else { return };
            if !sub.is_poll() {
                sub.end_at(sub.at().end(), last.into());
            }
            let gone = sub.finish(now).is_err() || sub.is_ended() || last.is_empty();
            if gone || Instant::now() >= until {
                return self.keep(&mut subscribers, |sub| sub.key != key);
            }
            drop(subscribers);
            let _ = self.changed.wait_timeout(self.state(), TURN_PAUSE);
        }
    }

    /// Reads from a file what somebody waits for; none if nobody does.
    pub fn replay(&self) -> Option<Piece> {
        let mut state = self.state();
        let wanted = state.wanted.take();
        state.replaying = wanted.is_some();
        drop(state);
        let mut read = Piece::default();
        let _ = read.read(self, wanted?, true);
        self.state().replayed = read.from + read.bytes.len() as u64;
        Some(read)
    }

    /// Nobody reads from its files any more, whatever is wanted.
    pub fn replayed(&self) {
        self.state().replaying = false;
    }

    /// Gives each subscriber its next piece, of those that were `read` from a file or are in memory; if there are many,
    /// on so many cores.
    pub fn turn(&self, read: &Piece, cores: usize, now: u64) -> Turn {
        let mut batches: Vec<_> = (0..cores).map(|_| Batch::default()).collect();
        let mut subscribers = self.subscribers();
        let end = self.end();
        let delivered = AtomicU64::new(0);
        let give = |sub: &mut Subscriber, Batch { piece, wires }: &mut Batch| -> Result<u64, Gone> {
            sub.begin(end, now);
            let next = match sub.reads() {
                None => Some(&[][..]),
                Some((pos, _)) if read.bad && read.from == pos => return Err(Gone::CutOff),
                Some(place) => match read.get(place) {
                    None => piece.at(self, place).map_err(|Trimmed| Gone::CutOff)?,
                    read => read,
                },
            };
            next.map_or(Ok(0), |next| sub.give(next, wires, now))
        };
        let all = |subs: &mut [Subscriber], batch: &mut Batch| {
            let mut sum = 0;
            // Those whose sockets were full come last: they may take nothing again.
            for stalled in [false, true] {
                for sub in subs.iter_mut().filter(|sub| (sub.stalls > 0) == stalled && sub.wants(end, now)) {
                    match give(sub, batch) {
                        Ok(bytes) => sum += bytes,
                        Err(gone) => sub.gone = Some(gone),
                    }
                }
            }
            delivered.fetch_add(sum, Relaxed);
        };
        // If there are many, each core takes a share; if no thread can be had for one, all are looked at again.
        let share = subscribers.len().div_ceil(cores).max(SHARE);
        let mut missed = false;
        thread::scope(|scope| {
            let mut shares = subscribers.chunks_mut(share).zip(batches.iter_mut());
            let own = shares.next();
            for (subs, batch) in shares {
                let work: Box<dyn FnOnce() + Send> = Box::new(move || all(subs, batch));
                missed |= thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).is_err();
            }
            own.map(|(subs, batch)| all(subs, batch))
        });
        if missed {
            all(&mut subscribers, &mut Batch::default());
        }
        let turn = self.end_turn(subscribers, end, now);
        self.changed.notify_all();
        Turn { delivered: delivered.into_inner(), ..turn }
    }

    /// Drops those that are gone, and finds out who wants more.
    fn end_turn(&self, mut subscribers: MutexGuard<'_, Vec<Subscriber>>, end: u64, now: u64) -> Turn {
        let (mut turn, mut lowest, mut wanted) = (Turn::default(), end, None);
        let mut held = Vec::new();
        let mut state = self.state();
        let (memory, start, replayed) = (state.log.memory(), state.log.start(), state.replayed);
        drop(state);
        self.keep(&mut subscribers, |sub| {
            turn.cut_off += u64::from(sub.falls(start, now));
            if let Some(gone) = sub.gone {
                turn.cut_off += u64::from(gone == Gone::CutOff && !sub.is_leaving());
                return false;
            }
            let wants = sub.wants(end, now);
            // In the order of their places, round and round: so those who are near each other share a piece.
            let ahead = |(pos, whole): (u64, bool)| (pos.wrapping_sub(replayed), !whole);
            if let Some(place) = sub.reads().filter(|place| wants && place.0 < memory) {
                if wanted.is_none_or(|other| ahead(place) < ahead(other)) {
                    wanted = Some(place);
                }
            } else if let Some(retry) = sub.retry() {
                turn.retry = Some(turn.retry.map_or(retry, |at| at.min(retry)));
            } else {
                turn.more |= wants;
            }
            if sub.framing.is_message() && sub.at().frame.is_some() {
                held.push(sub.pos);
            }
            if wants && sub.stalls == 0 && !sub.is_leaving() {
                lowest = lowest.min(sub.pos);
            }
            true
        });
        let joining = !lock(&self.joining).is_empty();
        state = self.state(); // with the list: what a turn finds out counts until the next one ends
        state.turned = end;
        state.pumped = lowest;
        state.wanted = wanted;
        let dropped = state.log.hold(held);
        if !joining {
            state.log.given(lowest);
        }
        turn.disk = wanted.is_some() && !replace(&mut state.replaying, true);
        drop(state);
        drop(subscribers);
        drop(dropped); // without a lock: to close a file may take long
        turn
    }

    /// Checks each subscriber. Returns whether the pump is to try one again.
    pub fn sweep(&self, now: u64, heartbeat: Duration) -> bool {
        let mut subscribers = self.subscribers();
        let end = self.end();
        let mut again = false;
        self.keep(&mut subscribers, |sub| {
            sub.gone = sub.check(end, now, millis(heartbeat)).err();
            again |= sub.is_busy();
            sub.gone.is_none()
        });
        again
    }

    /// Serves each subscriber, and drops those that do not stay.
    fn keep(&self, subs: &mut Vec<Subscriber>, mut stays: impl FnMut(&mut Subscriber) -> bool) {
        let before = subs.len();
        let mut leaving = 0;
        subs.retain_mut(|sub| {
            let stays = stays(sub);
            if sub.gone.is_some() && sub.framing.is_message() {
                let _ = sub.stream.shutdown(Shutdown::Both); // the thread that reads from it is told
            }
            leaving += usize::from(stays && sub.is_leaving());
            stays
        });
        self.leaving.store(leaving, SeqCst);
        if subs.len() < before {
            self.readers.fetch_sub(before - subs.len(), SeqCst);
            self.touch();
            if subs.capacity() / 4 > subs.len() {
                subs.shrink_to(2 * subs.len());
            }
        }
    }

    /// The subscribers, with those that joined since.
    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        let mut subscribers = lock(&self.subscribers);
        subscribers.append(&mut take(&mut *lock(&self.joining)));
        subscribers
    }
}

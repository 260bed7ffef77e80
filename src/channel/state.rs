//! A channel: one log, the subscribers that read it, and how a subscriber joins and leaves.
//!
//! Limits: `--history` for the log.
//! Deliberately absent: HTTP. The server supplies response heads that are ready to be sent.

use crate::channel::subscriber::{Client, Ending, Extras, Subscriber};
use crate::config::Config;
use crate::log::positions::{Log, Since, Start};
use crate::log::writer::Writer;
use crate::system::limits::Slot;
use crate::system::memory::{Budget, Counted};
use crate::system::report::report;
use crate::system::threads::lock;
use crate::system::time::{jitter, millis};
use crate::wire::id::Id;
use crate::wire::reject::{LOG_UNREADABLE, Reject};
use std::io;
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a visit waits for the end of a turn before it tries again.
const TURN_PAUSE: Duration = Duration::from_millis(20);

/// What a channel knows, besides its subscribers.
#[derive(Default)]
pub(super) struct State {
    pub log: Log,
    pub turns: u64,                         // how many turns have ended
    pub turn_end: u64,                      // the end of the log in the last turn
    pub pumped: u64,    // the lowest position of a subscriber that keeps up, at the end of the last turn
    pub last_used: u64, // when a subscriber last left, or the channel was last looked up for a request
    pub syncing: bool,  // a publisher is syncing for all that wait
    pub failing: bool,  // the last append failed
    pub replay_wanted: Option<(u64, bool)>, // what has to be read from a file next; see `Subscriber::next_read`
    pub replaying: bool, // a thread reads from files for this channel
    pub replay_end: u64, // the end of what was last read from a file
    pub next_try: u64,  // when the pump tries full sockets again, or ends a poll; 0 if there is none of these
}

/// A log and its subscribers. Times are milliseconds on the hub's clock.
#[derive(Default)]
pub struct Channel {
    /// Its name.
    pub name: String,
    pub(super) writer: Mutex<Writer>,
    state: Mutex<State>,
    pub(super) changed: Condvar, // a turn has ended, or more may be heard
    subscribers: Mutex<Vec<Subscriber>>,
    pub(super) joining: Mutex<Vec<Subscriber>>, // so that a join does not wait for the end of a turn
    pub(super) memory: Counted,                 // what the log takes
    count: AtomicUsize,                         // the subscribers in both lists
    leaving: AtomicUsize,                       // those of them with a transport whose stream is ending
    /// Whether it is in the pump's queue.
    pub queued: AtomicBool,
}

/// What the metrics count. It is under a lock, because some 32-bit processors have no atomic numbers of 64 bits.
#[derive(Default)]
pub(super) struct Counters {
    pub events: u64,    // events published
    pub published: u64, // bytes of these
    pub delivered: u64, // bytes of the log sent to subscribers
    pub dropped: u64,   // subscribers whose next bytes were no longer kept or not readable
}

/// How a subscriber's stream begins.
pub struct StreamStart {
    /// Its response head, without the field line of the framing and without the blank line.
    pub head: String,
    /// Whether HTTP frames its body in chunks. A poll that ends at once has a `Content-Length` instead.
    pub chunked: bool,
    /// What the prelude's comment says after the channel's name. None: there is no prelude.
    pub prelude_suffix: Option<String>,
    /// The subscriber's key.
    pub key: u64,
    /// Where the client wants to start.
    pub since: Since,
    /// Where the stream starts, from [`Channel::find_start`].
    pub start: Start,
    /// For a poll: how long it waits for its first event. None: a stream.
    pub wait: Option<Duration>,
    /// The transport, if it is not HTTP, and the watchers. The channel fills in the rest.
    pub extras: Extras,
}

impl Channel {
    /// Returns a channel without subscribers. Its log counts against this budget.
    pub fn new(name: &str, log: Log, writer: Writer, budget: &Budget) -> Channel {
        let state = State { pumped: log.heard.pos, log, ..State::default() };
        Channel {
            name: name.into(),
            writer: Mutex::new(writer),
            state: Mutex::new(state),
            memory: Counted::new(&budget.logs),
            ..Channel::default()
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Drops the oldest part of its log in memory. Subscribers that needed it hear a gap when they come back.
    pub(super) fn give_way(&self) {
        let mut state = self.state();
        state.log.give_way();
        self.memory.set(state.log.memory());
    }

    /// Returns how many subscribers it has, including those that are leaving.
    pub fn subscriber_count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Returns how many subscribers it has, without those with a transport whose stream is ending.
    pub fn active_count(&self) -> usize {
        self.subscriber_count().saturating_sub(self.leaving.load(SeqCst))
    }

    /// Returns the end of what may be heard.
    pub fn heard_end(&self) -> u64 {
        self.state().log.heard.pos
    }

    /// Notes that the channel is used now.
    pub fn touch(&self, now: u64) {
        self.state().last_used = now;
    }

    /// Returns for how long the channel was not used.
    pub fn idle(&self, now: u64) -> u64 {
        now.saturating_sub(self.state().last_used)
    }

    /// Returns whether its log has no event.
    pub fn is_empty(&self) -> bool {
        self.state().log.is_empty()
    }

    /// Returns the id of the last event.
    pub fn last_id(&self) -> Id {
        self.state().log.written.id
    }

    /// Returns the id after which all events are kept.
    pub fn kept_after(&self) -> Id {
        self.state().log.kept_after()
    }

    /// Waits until the event with this id, or a later one, may be heard. Returns false if that takes longer than
    /// `timeout`.
    pub fn wait_for(&self, id: Id, timeout: Duration) -> bool {
        let is_missing = |state: &mut State| state.log.heard.id < id;
        !self
            .changed
            .wait_timeout_while(self.state(), timeout, is_missing)
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .timed_out()
    }

    /// Waits until the condition is true at the end of a turn, for at most this time.
    pub fn wait_until(&self, timeout: Duration, condition: impl Fn() -> bool) {
        drop(self.changed.wait_timeout_while(self.state(), timeout, |_| !condition()));
    }

    /// Lets all threads that wait for `changed` check their conditions again.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Reports to the operator, once, that the log cannot be read back.
    pub(super) fn report_unreadable(&self, pos: u64, error: &io::Error) {
        if self.state().log.mark_unreadable(pos) {
            report(format!(
                "tincan: /{} cannot be read back: {error}; put the file right and start the server again",
                self.name
            ));
        }
    }

    /// Returns where a client starts. It may wait for the disk.
    ///
    /// # Errors
    /// [`LOG_UNREADABLE`] if the disk fails, or if a file is shorter than what was written to it.
    pub fn find_start(&self, since: &Since) -> Result<Start, Reject> {
        let state = self.state();
        let found = match state.log.disk_view().filter(|_| *since != Since::Now) {
            None => state.log.find_start(since),
            Some(log) => {
                drop(state);
                log.find_start(since)
            }
        };
        found.map_err(|e| {
            self.report_unreadable(self.heard_end(), &e);
            LOG_UNREADABLE
        })
    }

    /// Makes a connection a subscriber, for `Hub::subscribe`. Returns whether the log already has events for it.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn join(
        &self, config: &Config, now: u64, stream: TcpStream, slot: Slot, stream_start: StreamStart,
    ) -> io::Result<bool> {
        let (mut subscriber, beginning) = self.new_subscriber(config, now, stream, slot, stream_start);
        subscriber.stream.set_nonblocking(subscriber.is_http())?;
        let pos = subscriber.pos;
        // If a turn holds the subscribers, this does not wait for its end.
        let mut list = self.subscribers.try_lock().unwrap_or_else(|_| lock(&self.joining));
        // An event that is published from here on wakes the pump. An earlier one is found below.
        self.count.fetch_add(1, SeqCst);
        // Under the lock: the prelude may contain a name for the subscriber, by which others must find it at once.
        if subscriber.write_direct(beginning.into_iter(), now).and_then(|()| subscriber.finish(now)).is_err() {
            self.count.fetch_sub(1, SeqCst);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        list.push(subscriber);
        drop(list);
        let mut state = self.state();
        state.pumped = state.pumped.min(pos);
        Ok(state.log.heard.pos > pos)
    }

    /// Returns the subscriber, and the bytes that it is sent first: its response head, and the prelude.
    fn new_subscriber(
        &self, config: &Config, now: u64, stream: TcpStream, slot: Slot, stream_start: StreamStart,
    ) -> (Subscriber, Vec<u8>) {
        let prelude = self.prelude(config.retry, &stream_start);
        let StreamStart { head, key, start: Start { pos, gap, .. }, wait, mut extras, .. } = stream_start;
        let end = self.heard_end();
        let at_once = wait.is_some_and(|wait| wait.is_zero() || pos < end || gap.is_some());
        let ending =
            |time| if at_once { Ending::Position(end, Vec::new()) } else { Ending::FirstEvent(now + millis(time)) };
        extras.ending = wait.map(ending);
        extras.expires = config.max_age.filter(|_| wait.is_none()).map(|age| now + jitter(millis(age), 10));
        let is_plain = extras.ending.is_none()
            && extras.expires.is_none()
            && extras.transport.is_none()
            && extras.watchers.0.is_empty();
        let subscriber = Subscriber {
            stream,
            pos,
            extras: (!is_plain).then(|| Box::new(extras)),
            last_write: now,
            key,
            stalls: 0,
            chunked: stream_start.chunked && !at_once,
            drop_reason: None,
            client: Client::Quiet,
            slot,
        };
        let framing = subscriber.framing();
        let length = format!("Content-Length: {}\r\n", prelude.len() as u64 + end - pos);
        let field = if at_once { &length } else { framing.field };
        let beginning = [head.as_bytes(), field.as_bytes(), b"\r\n", &framing.wrap_all(&prelude)].concat();
        (subscriber, beginning)
    }

    /// Returns the prelude of a stream: a comment, the reconnection time and the id after which the stream starts. If
    /// the client may have missed events, the gap follows.
    fn prelude(&self, retry: u64, stream_start: &StreamStart) -> Vec<u8> {
        let Start { id, gap, .. } = &stream_start.start;
        let mut prelude = Vec::new();
        if let Some(suffix) = &stream_start.prelude_suffix {
            prelude =
                format!(": connected to /{}{suffix}\nretry: {}\nid: {id}\n\n", self.name, jitter(retry, 50)).into();
        }
        if let (Since::After(asked), Some(gap)) = (&stream_start.since, gap) {
            gap.event(asked).write(None::<Id>, &mut prelude);
        }
        prelude
    }

    /// Visits the subscriber with this key: calls `action` now, and again after each turn, until it returns a value or
    /// the deadline has passed. `action` gets the subscriber, if there is one, and whether it is free: it is between
    /// two events, and has received all that could be heard when the visit began.
    pub fn with_subscriber<T>(
        &self, key: u64, deadline: Instant, mut action: impl FnMut(Option<(&mut Subscriber, bool)>) -> Option<T>,
    ) -> Option<T> {
        let end = self.heard_end();
        loop {
            let mut subscribers = self.subscribers();
            let state = self.state();
            let turns = state.turns; // no turn ends while this thread holds the subscribers
            let found = subscribers.iter_mut().find(|subscriber| subscriber.key == key).map(|subscriber| {
                // These two positions are between two events.
                let at_boundary = subscriber.pos == state.turn_end || subscriber.pos == state.log.heard.pos;
                let is_free = at_boundary && subscriber.pos >= end && !subscriber.is_busy();
                (subscriber, is_free)
            });
            drop(state);
            let result = action(found);
            if result.is_some() || Instant::now() >= deadline {
                return result;
            }
            drop(subscribers);
            let no_turn_ended = |state: &mut State| state.turns == turns;
            drop(self.changed.wait_timeout_while(self.state(), TURN_PAUSE, no_turn_ended));
        }
    }

    /// Removes the subscriber with this key.
    pub fn remove(&self, key: u64, now: u64) {
        self.retain(&mut self.subscribers(), now, |subscriber| subscriber.key != key);
    }

    /// Does the heartbeat's work for each subscriber, see [`Subscriber::heartbeat`]. Returns whether the pump has to
    /// try one of them again.
    pub fn sweep(&self, now: u64, heartbeat: Duration, looks_at_all: bool) -> bool {
        let mut subscribers = self.subscribers();
        let end = self.heard_end();
        let mut again = false;
        self.retain(&mut subscribers, now, |subscriber| {
            subscriber.drop_reason = subscriber.heartbeat(end, now, millis(heartbeat), looks_at_all).err();
            again |= subscriber.is_busy();
            subscriber.drop_reason.is_none()
        });
        again
    }

    /// Calls `stays` for each subscriber, and drops those for which it returns false.
    pub(super) fn retain(
        &self, subscribers: &mut Vec<Subscriber>, now: u64, mut stays: impl FnMut(&mut Subscriber) -> bool,
    ) {
        let before = subscribers.len();
        let mut leaving = 0;
        subscribers.retain_mut(|subscriber| {
            let stays = stays(subscriber);
            if subscriber.drop_reason.is_some() && !subscriber.is_http() {
                let _ = subscriber.stream.shutdown(Shutdown::Both); // ends the read of its other thread
            }
            leaving += usize::from(stays && subscriber.is_leaving());
            stays
        });
        self.leaving.store(leaving, SeqCst);
        if subscribers.len() < before {
            self.count.fetch_sub(before - subscribers.len(), SeqCst);
            self.touch(now);
            if subscribers.capacity() / 4 > subscribers.len() {
                subscribers.shrink_to(2 * subscribers.len());
            }
        }
    }

    /// Locks the subscribers. First adds those that joined during a turn.
    pub(super) fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        let mut subscribers = lock(&self.subscribers);
        subscribers.append(&mut take(&mut *lock(&self.joining)));
        subscribers
    }
}

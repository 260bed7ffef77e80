//! A channel: one log, the subscribers that read it, and how one joins and leaves.
//!
//! Limits: `--history` for the log.
//! Deliberately absent: HTTP. Heads come from the server, ready to be sent.

use crate::channel::subscriber::{Ending, Extras, Slot, Subscriber};
use crate::config::Config;
use crate::log::positions::{Log, Since, Start};
use crate::log::writer::Writer;
use crate::system::report::report;
use crate::system::threads::lock;
use crate::system::time::{jitter, millis};
use crate::wire::id::Id;
use crate::wire::reject::{LOG_UNREADABLE, Reject};
use std::io;
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pause before a subscriber is looked at again that stands in something, unless a turn ends before.
const TURN_PAUSE: Duration = Duration::from_millis(20);

/// What a channel knows beside its subscribers.
#[derive(Default)]
pub(super) struct State {
    pub log: Log,
    pub turns: u64,                         // that have ended
    pub turn_end: u64,                      // where the log ended in the last turn
    pub pumped: u64,    // the lowest position of a subscriber that keeps up, at the end of the last turn
    pub last_used: u64, // when somebody last came, left or published
    pub syncing: bool,  // a publisher is writing to the disk for all
    pub failing: bool,  // the last append failed
    pub replay_wanted: Option<(u64, bool)>, // somebody has to be given what stands in a file from here on
    pub replaying: bool, // a thread reads from files
    pub replay_end: u64, // the end of what was last read from a file
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
    pub(super) joining: Mutex<Vec<Subscriber>>, // so that nobody who joins waits for a turn to end
    count: AtomicUsize,                         // in both lists
    leaving: AtomicUsize,                       // of these: they hear nothing new
    /// Whether it waits for the pump.
    pub queued: AtomicBool,
    /// When the pump tries its stalled readers again, or ends a poll; 0 if it need not.
    pub retry: AtomicU64,
}

/// What the metrics count.
#[derive(Default)]
pub(super) struct Counters {
    pub events: AtomicU64,    // published
    pub published: AtomicU64, // their bytes
    pub delivered: AtomicU64, // bytes given to readers
    pub dropped: AtomicU64,   // readers that fell off the log
}

/// How a subscriber's stream begins.
pub struct Opening {
    /// Its response head, but for the field that announces the framing, and the blank line.
    pub head: String,
    /// HTTP frames its body in chunks; a poll that is answered at once has a `Content-Length` in their place.
    pub chunked: bool,
    /// What the prelude says behind the channel's name. None: there is no prelude.
    pub prelude_suffix: Option<String>,
    /// By this it is found.
    pub key: u64,
    /// Where it wants to start.
    pub since: Since,
    /// Where that is, see [`Channel::find_start`].
    pub start: Start,
    /// With this it ends at the first events, or after this time; else it goes on for ever.
    pub wait: Option<Duration>,
    /// A transport in place of HTTP, or what watches its bytes; the rest is up to the channel.
    pub extras: Extras,
}

impl Channel {
    /// A channel without subscribers.
    pub fn new(name: &str, log: Log, writer: Writer) -> Channel {
        let state = State { pumped: log.heard.pos, log, ..State::default() };
        Channel { name: name.into(), writer: Mutex::new(writer), state: Mutex::new(state), ..Channel::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How many subscribers it has, with those that are on their way out.
    pub fn subscriber_count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// How many subscribers hear what is said.
    pub fn active_count(&self) -> usize {
        self.subscriber_count().saturating_sub(self.leaving.load(SeqCst))
    }

    /// Where what may be heard ends.
    pub fn heard_end(&self) -> u64 {
        self.state().log.heard.pos
    }

    /// Notes that somebody has come.
    pub fn touch(&self, now: u64) {
        self.state().last_used = now;
    }

    /// For how long nobody has come, left or published.
    pub fn idle(&self, now: u64) -> u64 {
        now.saturating_sub(self.state().last_used)
    }

    /// Whether nothing was ever said in it.
    pub fn is_empty(&self) -> bool {
        self.state().log.is_empty()
    }

    /// The id of the last event.
    pub fn last_id(&self) -> Id {
        self.state().log.written.id
    }

    /// All events after this id are kept.
    pub fn kept_after(&self) -> Id {
        self.state().log.kept_after()
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

    /// Those who wait for this look again.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Tells the owner, once, that the log cannot be read back.
    pub(super) fn report_unreadable(&self, pos: u64, error: &io::Error) {
        if self.state().log.mark_unreadable(pos) {
            report(format!(
                "tincan: /{} cannot be read back: {error}; put the file right and start the server again",
                self.name
            ));
        }
    }

    /// The place for a reader. It may wait for the disk.
    ///
    /// # Errors
    /// [`LOG_UNREADABLE`] if the disk fails, or has less than was written.
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

    /// Makes a connection a subscriber, see `Hub::subscribe`. Returns whether there is something for it already.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn join(&self, config: &Config, now: u64, stream: TcpStream, slot: Slot, opening: Opening) -> io::Result<bool> {
        let (mut subscriber, beginning) = self.new_subscriber(config, now, stream, slot, opening);
        subscriber.stream.set_nonblocking(subscriber.is_http())?;
        let pos = subscriber.pos;
        // Without waiting where a turn is under way.
        let mut list = self.subscribers.try_lock().unwrap_or_else(|_| lock(&self.joining));
        // Whoever publishes from here on wakes the pump, and whoever did before is seen below.
        self.count.fetch_add(1, SeqCst);
        // With the lock: by what it is told here it can be found at once.
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

    /// Makes a subscriber, and what it is sent first.
    fn new_subscriber(
        &self, config: &Config, now: u64, stream: TcpStream, slot: Slot, opening: Opening,
    ) -> (Subscriber, Vec<u8>) {
        let Opening {
            head, prelude_suffix: introduction, key, since: from, start: place, wait, extras: mut more, ..
        } = opening;
        let Start { pos, id, gap } = place;
        let end = self.heard_end();
        let mut prelude = Vec::new();
        if let Some(further) = introduction {
            let retry = jitter(config.retry, 50);
            prelude = format!(": connected to /{}{further}\nretry: {retry}\nid: {id}\n\n", self.name).into();
        }
        if let (Since::After(asked), Some(gap)) = (&from, &gap) {
            gap.event(asked).write(None::<Id>, &mut prelude);
        }
        let at_once = wait.is_some_and(|wait| wait.is_zero() || pos < end || gap.is_some());
        let poll =
            |time| if at_once { Ending::Position(end, Vec::new()) } else { Ending::FirstEvent(now + millis(time)) };
        more.ending = wait.map(poll);
        more.expires = config.max_age.filter(|_| wait.is_none()).map(|age| now + jitter(millis(age), 10));
        let is_plain =
            more.ending.is_none() && more.expires.is_none() && more.transport.is_none() && more.watchers.0.is_empty();
        let chunked = opening.chunked && !at_once;
        let more = (!is_plain).then(|| Box::new(more));
        let subscriber = Subscriber {
            stream,
            pos,
            extras: more,
            last_write: now,
            key,
            stalls: 0,
            chunked,
            drop_reason: None,
            peer_shut: false,
            slot,
        };
        let framing = subscriber.framing();
        let length = format!("Content-Length: {}\r\n", prelude.len() as u64 + end - pos);
        let field = if at_once { &length } else { framing.field };
        let beginning = [head.as_bytes(), field.as_bytes(), b"\r\n", &framing.wrap_all(&prelude)].concat();
        (subscriber, beginning)
    }

    /// Has somebody deal with the subscriber of this key, again at the end of each turn until that is done or the time is
    /// over. It is told whether the subscriber stands between two events, behind all that was said before.
    pub fn with_subscriber<T>(
        &self, key: u64, until: Instant, mut deal: impl FnMut(Option<(&mut Subscriber, bool)>) -> Option<T>,
    ) -> Option<T> {
        let said = self.heard_end();
        loop {
            let mut subscribers = self.subscribers();
            let state = self.state();
            let turns = state.turns; // none ends while we have the subscribers
            let found = subscribers.iter_mut().find(|subscriber| subscriber.key == key).map(|subscriber| {
                // There an event has ended, for it is where a turn did, or the log does.
                let between = subscriber.pos == state.turn_end || subscriber.pos == state.log.heard.pos;
                let free = between && subscriber.pos >= said && !subscriber.is_busy();
                (subscriber, free)
            });
            drop(state);
            let done = deal(found);
            if done.is_some() || Instant::now() >= until {
                return done;
            }
            drop(subscribers);
            let same = |state: &mut State| state.turns == turns;
            drop(self.changed.wait_timeout_while(self.state(), TURN_PAUSE, same));
        }
    }

    /// Drops the subscriber of this key.
    pub fn remove(&self, key: u64, now: u64) {
        self.retain(&mut self.subscribers(), now, |subscriber| subscriber.key != key);
    }

    /// Checks each subscriber. Returns whether the pump is to try one again.
    pub fn sweep(&self, now: u64, heartbeat: Duration) -> bool {
        let mut subscribers = self.subscribers();
        let end = self.heard_end();
        let mut again = false;
        self.retain(&mut subscribers, now, |subscriber| {
            subscriber.drop_reason = subscriber.heartbeat(end, now, millis(heartbeat)).err();
            again |= subscriber.is_busy();
            subscriber.drop_reason.is_none()
        });
        again
    }

    /// Serves each subscriber, and drops those that do not stay.
    pub(super) fn retain(
        &self, subscribers: &mut Vec<Subscriber>, now: u64, mut stays: impl FnMut(&mut Subscriber) -> bool,
    ) {
        let before = subscribers.len();
        let mut leaving = 0;
        subscribers.retain_mut(|subscriber| {
            let stays = stays(subscriber);
            if subscriber.drop_reason.is_some() && !subscriber.is_http() {
                let _ = subscriber.stream.shutdown(Shutdown::Both); // the thread that reads from it is told
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

    /// The subscribers, with those that joined since.
    pub(super) fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        let mut subscribers = lock(&self.subscribers);
        subscribers.append(&mut take(&mut *lock(&self.joining)));
        subscribers
    }
}

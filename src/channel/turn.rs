//! A turn: each subscriber of a channel is sent its next piece.
//!
//! Limits: a turn has at most `MAX_CORES` threads (`hub.rs`), and a second one only for more than `MIN_SHARE`
//! subscribers.

use crate::channel::framing::{FramedBytes, block_end};
use crate::channel::state::{Channel, Counters};
use crate::channel::subscriber::{DropReason, Subscriber};
use crate::log::positions::Trimmed;
use crate::system::threads::{STACK, lock};
use std::mem::{replace, take};
use std::sync::{Mutex, MutexGuard};
use std::thread;

/// The least number of subscribers in the share of a thread. Only the last share may have fewer.
const MIN_SHARE: usize = 512;

/// A piece of the log, for all subscribers of a turn whose positions are in it. It is copied from the log only once.
#[derive(Default)]
pub struct Piece {
    from: u64,
    whole: bool, // the bytes begin with a whole block
    bytes: Vec<u8>,
    bad: bool, // the bytes at `from` could not be read
}

impl Piece {
    /// Returns its bytes from this position on, if it has them. If a `whole` block is needed, the bytes must begin with
    /// it.
    fn get(&self, (pos, whole): (u64, bool)) -> Option<&[u8]> {
        let from = usize::try_from(pos.checked_sub(self.from)?).ok();
        let from = from.filter(|from| !whole || (*from == 0 && self.whole))?;
        self.bytes.get(from..).filter(|rest| !rest.is_empty())
    }

    /// Reads bytes of the log from this position on; if a `whole` block is needed, up to the end of a block. Returns
    /// false if they are only in a file and this thread must not `wait` for the disk.
    fn read(&mut self, channel: &Channel, (pos, whole): (u64, bool), wait: bool) -> Result<bool, DropReason> {
        self.from = pos;
        self.whole = false;
        self.bytes.clear();
        loop {
            let before = self.bytes.len();
            let range =
                channel.state().log.read(pos + before as u64, &mut self.bytes).map_err(|Trimmed| DropReason::CutOff)?;
            if let Some(range) = range {
                if !wait {
                    return Ok(false);
                }
                if let Err(e) = range.read(&mut self.bytes) {
                    self.bad = true;
                    channel.report_unreadable(pos, &e);
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

/// What one thread of a turn has: the piece that it read last, and what each framing has framed last.
type Batch = (Piece, Vec<FramedBytes>);

/// The results of a turn.
#[derive(Default)]
pub struct Turn {
    /// Whether a subscriber that keeps up has more to receive from memory.
    pub more: bool,
    /// Whether a subscriber needs bytes from a file, and no thread reads them yet.
    pub needs_replay: bool,
    /// When to try the first full socket again, or to end the first poll.
    pub next_try: Option<u64>,
    lowest: u64,                 // the lowest position of a subscriber that keeps up
    wanted: Option<(u64, bool)>, // what to read from a file next
    held: Vec<u64>,              // positions of subscribers within a message, whose bytes must stay readable
}

impl Channel {
    /// Reads from a file what subscribers need next. Returns None if they need nothing from a file.
    pub fn replay(&self) -> Option<Piece> {
        let mut state = self.state();
        let wanted = state.replay_wanted.take();
        state.replaying = wanted.is_some();
        drop(state);
        let mut replayed = Piece::default();
        let _ = replayed.read(self, wanted?, true);
        self.state().replay_end = replayed.from + replayed.bytes.len() as u64;
        Some(replayed)
    }

    /// Sends each subscriber its next piece, from those bytes that were `replayed` from a file, or from memory. It uses
    /// up to `cores` threads.
    pub(super) fn turn(&self, replayed: &Piece, cores: usize, counters: &Mutex<Counters>, now: u64) -> Turn {
        let mut batches: Vec<_> = (0..cores).map(|_| Batch::default()).collect();
        let mut subscribers = self.subscribers();
        let end = self.heard_end();
        let deliver_all = |subscribers: &mut [Subscriber], batch: &mut Batch| {
            let mut delivered = 0;
            // Subscribers with a full socket come last, because it may still be full.
            for stalled in [false, true] {
                for subscriber in subscribers
                    .iter_mut()
                    .filter(|subscriber| (subscriber.stalls > 0) == stalled && subscriber.is_due(end, now))
                {
                    match self.deliver(subscriber, replayed, batch, end, now) {
                        Ok(bytes) => delivered += bytes,
                        Err(reason) => subscriber.drop_reason = Some(reason),
                    }
                }
            }
            lock(counters).delivered += delivered;
        };
        // Each thread takes a share. If a thread cannot be started, all subscribers are served once more by this one.
        let share = subscribers.len().div_ceil(cores).max(MIN_SHARE);
        let mut missed = false;
        thread::scope(|scope| {
            let mut shares = subscribers.chunks_mut(share).zip(batches.iter_mut());
            let own_share = shares.next();
            for (subscribers, batch) in shares {
                let work: Box<dyn FnOnce() + Send> = Box::new(move || deliver_all(subscribers, batch));
                missed |= thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).is_err();
            }
            own_share.map(|(subscribers, batch)| deliver_all(subscribers, batch))
        });
        if missed {
            deliver_all(&mut subscribers, &mut Batch::default());
        }
        let turn = self.end_turn(subscribers, end, counters, now);
        self.notify();
        turn
    }

    /// Sends a subscriber its next piece. Returns by how many bytes of the log it has moved on.
    fn deliver(
        &self, subscriber: &mut Subscriber, replayed: &Piece, batch: &mut Batch, end: u64, now: u64,
    ) -> Result<u64, DropReason> {
        subscriber.begin_ending(end, now);
        let (piece, framed) = batch;
        let next = match subscriber.next_read() {
            None => &[],
            Some((pos, _)) if replayed.bad && replayed.from == pos => return Err(DropReason::CutOff),
            Some(read_place) if let Some(next) = replayed.get(read_place) => next,
            Some(read_place) => {
                if piece.get(read_place).is_none() && !piece.read(self, read_place, false)? {
                    return Ok(0); // the bytes are only in a file, and a replay reads them
                }
                piece.get(read_place).unwrap_or_default()
            }
        };
        subscriber.deliver(next, framed, now)
    }

    /// Ends a turn: drops subscribers, and collects what the others need next.
    fn end_turn(
        &self, mut subscribers: MutexGuard<'_, Vec<Subscriber>>, end: u64, counters: &Mutex<Counters>, now: u64,
    ) -> Turn {
        let state = self.state();
        let memory = state.log.memory_start();
        let start = state.log.start();
        let replay_end = state.replay_end;
        drop(state);
        let mut turn = Turn { lowest: end, ..Turn::default() };
        self.retain(&mut subscribers, now, |subscriber| {
            let falls = subscriber.fall_behind(start, now);
            if falls || (subscriber.drop_reason == Some(DropReason::CutOff) && !subscriber.is_leaving()) {
                lock(counters).dropped += 1;
            }
            if subscriber.drop_reason.is_none() {
                turn.note_subscriber(subscriber, subscriber.is_due(end, now), memory, replay_end);
            }
            subscriber.drop_reason.is_none()
        });
        let joining = !lock(&self.joining).is_empty();
        let mut state = self.state(); // the subscribers are still locked, so no other turn has ended meanwhile
        state.turns += 1;
        state.turn_end = end;
        state.pumped = turn.lowest;
        state.replay_wanted = turn.wanted;
        let dropped = state.log.hold_parts(take(&mut turn.held));
        if !dropped.is_empty() {
            self.memory.set(state.log.memory());
        }
        if !joining {
            state.log.delivered_up_to(turn.lowest);
        }
        turn.needs_replay = turn.wanted.is_some() && !replace(&mut state.replaying, true);
        drop(state);
        drop(subscribers);
        drop(dropped); // after the locks are released: to close a file may take long
        turn
    }
}

impl Turn {
    /// Notes what a subscriber needs next. The log has in memory what is after the position `memory`. What is before
    /// that is read from files, in the order of the positions: from `replay_end` on, where the last read ended, and
    /// then again from the lowest position. So subscribers that are near each other share a piece.
    fn note_subscriber(&mut self, subscriber: &Subscriber, is_due: bool, memory: u64, replay_end: u64) {
        let ahead = |(pos, whole): &(u64, bool)| (pos.wrapping_sub(replay_end), !whole);
        let in_file = subscriber.next_read().filter(|read_place| is_due && read_place.0 < memory);
        if in_file.is_some() {
            self.wanted = self.wanted.into_iter().chain(in_file).min_by_key(ahead);
        } else {
            let retry = subscriber.next_try();
            self.next_try = self.next_try.into_iter().chain(retry).min();
            self.more |= is_due && retry.is_none();
        }
        if !subscriber.is_http() && subscriber.cursor().frame.is_some() {
            self.held.push(subscriber.pos);
        }
        if is_due && subscriber.stalls == 0 && !subscriber.is_leaving() {
            self.lowest = self.lowest.min(subscriber.pos);
        }
    }
}

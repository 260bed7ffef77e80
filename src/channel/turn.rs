//! A turn: each subscriber of a channel is given its next piece.
//!
//! Limits: `MIN_SHARE` subscribers for each core.

use crate::channel::framing::{FramedBytes, block_end};
use crate::channel::state::{Channel, Counters};
use crate::channel::subscriber::{DropReason, Subscriber};
use crate::log::positions::Trimmed;
use crate::system::threads::{STACK, lock};
use std::mem::{replace, take};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

/// Subscribers of a channel that are worth a core of their own.
const MIN_SHARE: usize = 512;

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

    /// Reads what the log has from this position on, up to the end of a block if it has to be `whole`. Returns whether it is
    /// there: what stands in a file is read by those who may `wait` for the disk.
    fn read(&mut self, channel: &Channel, (pos, whole): (u64, bool), wait: bool) -> Result<bool, DropReason> {
        self.from = pos;
        self.whole = false;
        self.bytes.clear();
        loop {
            let before = self.bytes.len();
            let stretch =
                channel.state().log.read(pos + before as u64, &mut self.bytes).map_err(|Trimmed| DropReason::CutOff)?;
            if let Some(stretch) = stretch {
                if !wait {
                    return Ok(false);
                }
                if let Err(e) = stretch.read(&mut self.bytes) {
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

/// What a core has for a turn: a piece, and how each framing wraps what was sent last.
type Batch = (Piece, Vec<FramedBytes>);

/// What a turn has found out.
#[derive(Default)]
pub struct Turn {
    /// Somebody who keeps up has not yet got everything that is in memory.
    pub more: bool,
    /// Somebody wants what is in a file, and no thread reads it yet.
    pub needs_replay: bool,
    /// When the first stalled reader is to be tried again, or the first poll ends.
    pub retry: Option<u64>,
    lowest: u64,                 // where the last one stands that keeps up
    wanted: Option<(u64, bool)>, // what is read from a file next
    held: Vec<u64>,              // where messages are not whole yet
}

impl Channel {
    /// Reads from a file what somebody waits for; none if nobody does.
    pub fn replay(&self) -> Option<Piece> {
        let mut state = self.state();
        let wanted = state.replay_wanted.take();
        state.replaying = wanted.is_some();
        drop(state);
        let mut read = Piece::default();
        let _ = read.read(self, wanted?, true);
        self.state().replay_end = read.from + read.bytes.len() as u64;
        Some(read)
    }

    /// Gives each subscriber its next piece, of those that were `read` from a file or are in memory; if there are many,
    /// on so many cores.
    pub(super) fn turn(&self, read: &Piece, cores: usize, counted: &Counters, now: u64) -> Turn {
        let mut batches: Vec<_> = (0..cores).map(|_| Batch::default()).collect();
        let mut subscribers = self.subscribers();
        let end = self.heard_end();
        let all = |subscribers: &mut [Subscriber], batch: &mut Batch| {
            let mut sum = 0;
            // Those whose sockets were full come last: they may take nothing again.
            for stalled in [false, true] {
                for subscriber in subscribers
                    .iter_mut()
                    .filter(|subscriber| (subscriber.stalls > 0) == stalled && subscriber.is_due(end, now))
                {
                    match self.deliver(subscriber, read, batch, end, now) {
                        Ok(bytes) => sum += bytes,
                        Err(gone) => subscriber.drop_reason = Some(gone),
                    }
                }
            }
            counted.delivered.fetch_add(sum, Relaxed);
        };
        // If there are many, each core takes a share; if no thread can be had for one, all are looked at again.
        let share = subscribers.len().div_ceil(cores).max(MIN_SHARE);
        let mut missed = false;
        thread::scope(|scope| {
            let mut shares = subscribers.chunks_mut(share).zip(batches.iter_mut());
            let own = shares.next();
            for (subscribers, batch) in shares {
                let work: Box<dyn FnOnce() + Send> = Box::new(move || all(subscribers, batch));
                missed |= thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).is_err();
            }
            own.map(|(subscribers, batch)| all(subscribers, batch))
        });
        if missed {
            all(&mut subscribers, &mut Batch::default());
        }
        let turn = self.end_turn(subscribers, end, counted, now);
        self.notify();
        turn
    }

    /// Gives a subscriber its next piece. Returns how far it came in the log.
    fn deliver(
        &self, subscriber: &mut Subscriber, read: &Piece, batch: &mut Batch, end: u64, now: u64,
    ) -> Result<u64, DropReason> {
        subscriber.begin_ending(end, now);
        let (piece, wires) = batch;
        let next = match subscriber.next_read() {
            None => &[],
            Some((pos, _)) if read.bad && read.from == pos => return Err(DropReason::CutOff),
            Some(place) if let Some(next) = read.get(place) => next,
            Some(place) => {
                let is_there = piece.get(place).is_some() || piece.read(self, place, false)?;
                if !is_there {
                    return Ok(0); // it is read for it
                }
                piece.get(place).unwrap_or_default()
            }
        };
        subscriber.deliver(next, wires, now)
    }

    /// Drops those that are gone, and finds out who wants more.
    fn end_turn(
        &self, mut subscribers: MutexGuard<'_, Vec<Subscriber>>, end: u64, counted: &Counters, now: u64,
    ) -> Turn {
        let state = self.state();
        let memory = state.log.memory_start();
        let start = state.log.start();
        let replayed = state.replay_end;
        drop(state);
        let mut turn = Turn { lowest: end, ..Turn::default() };
        self.retain(&mut subscribers, now, |subscriber| {
            let falls = subscriber.fall_behind(start, now);
            if falls || (subscriber.drop_reason == Some(DropReason::CutOff) && !subscriber.is_leaving()) {
                counted.dropped.fetch_add(1, Relaxed);
            }
            if subscriber.drop_reason.is_none() {
                turn.note_subscriber(subscriber, subscriber.is_due(end, now), memory, replayed);
            }
            subscriber.drop_reason.is_none()
        });
        let joining = !lock(&self.joining).is_empty();
        let mut state = self.state(); // with the list: what a turn finds out counts until the next one ends
        state.turns += 1;
        state.turn_end = end;
        state.pumped = turn.lowest;
        state.replay_wanted = turn.wanted;
        let dropped = state.log.hold_parts(take(&mut turn.held));
        if !joining {
            state.log.delivered_up_to(turn.lowest);
        }
        turn.needs_replay = turn.wanted.is_some() && !replace(&mut state.replaying, true);
        drop(state);
        drop(subscribers);
        drop(dropped); // without a lock: to close a file may take long
        turn
    }
}

impl Turn {
    /// Notes what a subscriber needs. The log has in memory what stands behind the position `memory`. The rest is read from
    /// files in the order of the positions, round and round from `replayed` on, where the last reading ended: so subscribers
    /// that are near each other share a piece.
    fn note_subscriber(&mut self, subscriber: &Subscriber, wants: bool, memory: u64, replayed: u64) {
        let ahead = |(pos, whole): &(u64, bool)| (pos.wrapping_sub(replayed), !whole);
        let in_file = subscriber.next_read().filter(|place| wants && place.0 < memory);
        if in_file.is_some() {
            self.wanted = self.wanted.into_iter().chain(in_file).min_by_key(ahead);
        } else {
            let retry = subscriber.retry_at();
            self.retry = self.retry.into_iter().chain(retry).min();
            self.more |= wants && retry.is_none();
        }
        if !subscriber.is_http() && subscriber.cursor().frame.is_some() {
            self.held.push(subscriber.pos);
        }
        if wants && subscriber.stalls == 0 && !subscriber.is_leaving() {
            self.lowest = self.lowest.min(subscriber.pos);
        }
    }
}

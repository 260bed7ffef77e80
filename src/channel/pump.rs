//! The pump and the heartbeat: the two threads that always run, and write to the subscribers of all channels.
//!
//! - The *pump* takes a channel with news from its queue, and sends each subscriber the next piece of what is between
//!   its position and the end of the log (`Channel::turn`). Broadcast, replay, the rest of an event for a slow
//!   subscriber and the response to a long poll are all done by this one loop. It never waits for a disk: bytes that
//!   are only in a file are read by a thread that *replays* that channel. This thread has turns of its own, and ends
//!   when no subscriber needs bytes from a file.
//! - The *heartbeat* looks for closed sockets, and for subscribers that have received nothing for the time of
//!   `--heartbeat` (`Channel::sweep`). Without subscribers it does not wake up at all.
//!
//! A turn with many subscribers uses further threads until it ends.

use crate::channel::hub::Hub;
use crate::channel::state::{Channel, StreamStart};
use crate::channel::turn::Piece;
use crate::system::limits::Slot;
use crate::system::threads::{lock, spawn};
use std::io;
use std::mem::replace;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// The pauses between the sweeps of the heartbeat, in milliseconds. Before the first pause it looks at all clients. The
/// second sweep drops those that have closed, if a round trip takes less than the first pause. So a client that closes
/// is dropped within two seconds.
const SWEEP_PAUSES: [u64; 4] = [200, 500, 500, 500];
/// The pause before a replay is tried again if no thread could be started for it, in milliseconds.
const REPLAY_PAUSE: u64 = 20;

#[doc(hidden)]
impl Hub {
    /// Starts both threads.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn start(self: &Arc<Hub>) -> io::Result<()> {
        let pump = self.clone();
        let heart = self.clone();
        let _ = self.pump.set(spawn("pump", Box::new(move || pump.pump()))?);
        let _ = self.heartbeat.set(spawn("heartbeat", Box::new(move || heart.heartbeat()))?);
        Ok(())
    }

    /// Puts a channel with news in the pump's queue, unless it is there already, and wakes the pump. Each append to a
    /// log is followed by this. So this also checks whether logs have to give way.
    pub fn wake(&self, channel: &Arc<Channel>) {
        if channel.subscriber_count() > 0 && !channel.queued.swap(true, SeqCst) {
            lock(&self.queue).push_back(channel.clone());
            self.pump.get().inspect(|pump| pump.unpark());
        }
        self.free_memory();
    }

    /// Makes a connection a subscriber.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn subscribe(
        &self, channel: &Arc<Channel>, stream: TcpStream, slot: Slot, stream_start: StreamStart,
    ) -> io::Result<()> {
        let waits = stream_start.wait.is_some(); // the pump has to know when a poll ends
        let has_more = channel.join(self.config(), self.now(), stream, slot, stream_start)?;
        if has_more || waits {
            self.wake(channel);
        }
        self.heartbeat.get().inspect(|heart| heart.unpark()); // without subscribers it sleeps
        Ok(())
    }

    /// Starts a thread that replays a channel. If the system has no thread, it returns when to try again.
    fn start_replay(self: &Arc<Hub>, channel: &Arc<Channel>) -> Option<u64> {
        let hub = self.clone();
        let target = channel.clone();
        let work = move || {
            if catch_unwind(AssertUnwindSafe(|| hub.replay(&target))).is_err() {
                target.state().replaying = false; // a panic is a bug
            }
        };
        if spawn("replay", Box::new(work)).is_ok() {
            return None;
        }
        channel.state().replaying = false;
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
        // The channels with a full socket or a poll, each once, and when to look at the first of them again.
        let mut stalled: Vec<Arc<Channel>> = Vec::new();
        let mut next_retry = u64::MAX;
        loop {
            let next = lock(&self.queue).pop_front();
            if let Some(channel) = next {
                channel.queued.store(false, SeqCst); // before the log is read, so that a later append queues it again
                let turn = AssertUnwindSafe(|| self.turn(&channel, &Piece::default()));
                // A panic is a bug. It must not end the pump for all channels.
                if let Ok(Some(retry)) = catch_unwind(turn) {
                    next_retry = next_retry.min(retry);
                    if replace(&mut channel.state().next_try, retry) == 0 {
                        stalled.push(channel);
                    }
                }
            } else {
                thread::park_timeout(Duration::from_millis(next_retry.saturating_sub(self.now())));
            }
            let now = self.now();
            if next_retry <= now {
                next_retry = u64::MAX;
                stalled.retain(|channel| {
                    let retry = channel.state().next_try;
                    if retry > now {
                        next_retry = next_retry.min(retry);
                        return true;
                    }
                    channel.state().next_try = 0;
                    self.wake(channel);
                    false
                });
            }
        }
    }

    /// Does one turn of a channel. Returns when to try the first full socket again, or to end the first poll.
    fn turn(self: &Arc<Hub>, channel: &Arc<Channel>, read: &Piece) -> Option<u64> {
        let turn = channel.turn(read, self.cores, &self.counters, self.now());
        if turn.more {
            self.wake(channel); // after the other channels with news
        }
        let again = if turn.needs_replay { self.start_replay(channel) } else { None };
        turn.next_try.into_iter().chain(again).min()
    }

    fn heartbeat(&self) {
        for (number, pause) in SWEEP_PAUSES.into_iter().enumerate().cycle() {
            let now = self.now();
            let channels = self.open_channels(|channel| channel.subscriber_count() > 0);
            if channels.is_empty() {
                thread::park(); // until a subscriber joins; returns at once if one has joined since the last park
                continue;
            }
            for channel in channels {
                let sweep = AssertUnwindSafe(|| channel.sweep(now, self.config().heartbeat, number == 0));
                if let Ok(true) = catch_unwind(sweep) {
                    self.wake(&channel);
                }
            }
            thread::sleep(Duration::from_millis(pause));
        }
    }
}

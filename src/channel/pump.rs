//! The pump and the heartbeat: the two threads that write to the subscribers of all channels.
//!
//! - The *pump* takes a channel that has news and gives every subscriber what lies between its position and the log's
//!   end, a piece at a time (`Channel::turn`). Broadcast, replay, the rest of a slow reader's event and the answer to a
//!   long poll are all this one loop. It never waits for a disk: what stands in a file alone is read by a thread that
//!   *replays* that channel, for as long as somebody wants it, and has turns of its own with it.
//! - The *heartbeat* looks twice a second for sockets that were closed and for readers that have heard nothing for
//!   `--heartbeat` (`Channel::sweep`). Without a reader it does not wake up at all.
//!
//! A turn with many subscribers borrows more threads for its length.

use crate::channel::hub::Hub;
use crate::channel::state::{Channel, Opening};
use crate::channel::subscriber::{LOOK_INTERVAL, Slot};
use crate::channel::turn::Piece;
use crate::system::threads::{lock, spawn};
use std::io;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::Duration;

/// Pause, in milliseconds, before it is tried again to replay a channel for which there was no thread.
const REPLAY_PAUSE: u64 = 20;

#[doc(hidden)]
impl Hub {
    /// Starts the two.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(self: &Arc<Hub>) -> io::Result<()> {
        let pump = self.clone();
        let heart = self.clone();
        let _ = self.pump.set(spawn("pump", Box::new(move || pump.pump()))?);
        let _ = self.heartbeat.set(spawn("heartbeat", Box::new(move || heart.heartbeat()))?);
        Ok(())
    }

    /// Tells the pump that a channel has news, once for any number of them.
    pub fn wake(&self, channel: &Arc<Channel>) {
        if channel.subscriber_count() > 0 && !channel.queued.swap(true, SeqCst) {
            lock(&self.queue).push_back(channel.clone());
            self.pump.get().inspect(|pump| pump.unpark());
        }
    }

    /// Makes a connection a subscriber.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn subscribe(&self, channel: &Arc<Channel>, stream: TcpStream, slot: Slot, opening: Opening) -> io::Result<()> {
        let waits = opening.wait.is_some(); // the pump has to know when a poll ends
        let has_more = channel.join(self.config(), self.now(), stream, slot, opening)?;
        if has_more || waits {
            self.wake(channel);
        }
        self.heartbeat.get().inspect(|heart| heart.unpark()); // without a reader it sleeps for good
        Ok(())
    }

    /// Has a thread replay a channel. Returns when to try it again, if there is none.
    fn start_replay(self: &Arc<Hub>, channel: &Arc<Channel>) -> Option<u64> {
        let hub = self.clone();
        let own = channel.clone();
        let work = move || {
            if catch_unwind(AssertUnwindSafe(|| hub.replay(&own))).is_err() {
                own.state().replaying = false; // a panic is a bug
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
        // Channels with stalled readers or polls, each once, and when the first of them is to be tried again.
        let mut later: Vec<Arc<Channel>> = Vec::new();
        let mut first = u64::MAX;
        loop {
            let next = lock(&self.queue).pop_front();
            if let Some(channel) = next {
                channel.queued.store(false, SeqCst); // before the log is read: whoever appends after that queues it again
                let turn = AssertUnwindSafe(|| self.turn(&channel, &Piece::default()));
                // A panic is a bug; it must not end the pump for everybody.
                if let Ok(Some(retry)) = catch_unwind(turn) {
                    first = first.min(retry);
                    if channel.retry.swap(retry, Relaxed) == 0 {
                        later.push(channel);
                    }
                }
            } else {
                thread::park_timeout(Duration::from_millis(first.saturating_sub(self.now())));
            }
            let now = self.now();
            if first <= now {
                first = u64::MAX;
                later.retain(|channel| {
                    let retry = channel.retry.load(Relaxed);
                    if retry > now {
                        first = first.min(retry);
                        return true;
                    }
                    channel.retry.store(0, Relaxed);
                    self.wake(channel);
                    false
                });
            }
        }
    }

    /// One turn of a channel. Returns when the first stalled subscriber is to be tried again, or the first poll ends.
    fn turn(self: &Arc<Hub>, channel: &Arc<Channel>, read: &Piece) -> Option<u64> {
        let turn = channel.turn(read, self.cores, &self.counters, self.now());
        if turn.more {
            self.wake(channel); // behind the other channels that have news
        }
        let again = if turn.needs_replay { self.start_replay(channel) } else { None };
        turn.retry.into_iter().chain(again).min()
    }

    fn heartbeat(&self) {
        loop {
            let now = self.now();
            let channels = self.channels_with_subscribers();
            if channels.is_empty() {
                thread::park(); // until somebody joins, or at once if somebody has since the last time
                continue;
            }
            for channel in channels {
                if let Ok(true) = catch_unwind(AssertUnwindSafe(|| channel.sweep(now, self.config().heartbeat))) {
                    self.wake(&channel);
                }
            }
            thread::sleep(Duration::from_millis(LOOK_INTERVAL));
        }
    }
}

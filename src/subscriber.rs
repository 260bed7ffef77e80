//! A subscriber: a socket and a position in a log. No thread, no queue, no buffer but for the rest of what is for it alone.
//!
//! It is handed bytes of the log and takes what its socket takes; the rest is asked for again from its new position,
//! in the middle of an event if need be. Times are milliseconds on its caller's clock.
//!
//! Limits: `LONGEST_STALL`; 48 bytes each. Deliberately absent: where the bytes come from.

use crate::trace::Trace;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::vec::IntoIter;

/// Limit: the pause before a full socket is tried again, as a power of two: 2 ms, doubled up to 512 ms.
const LONGEST_STALL: u8 = 9;
/// Limit, in milliseconds: how long a finished poll may take to close, so that nothing is lost (RFC 9112 §9.6).
const LINGER: u64 = 2000;
/// Limit: what a subscriber that is behind has still to pass over.
const SKIPS: usize = 64;
/// In milliseconds: how often the heartbeat looks for closed sockets. A closed one is gone after two looks.
pub const LOOK: u64 = 500;
/// In milliseconds: who was written to since then is not looked at.
const QUIET: u64 = LOOK * 3 / 2;
const PING: &[u8] = b":ping\n\n";

/// One open connection, counted until it is dropped; a subscriber keeps the one it came with.
pub struct Slot(Arc<AtomicUsize>);

impl Slot {
    /// Counts one more; returns how many there are with it.
    pub fn take(count: &Arc<AtomicUsize>) -> (Slot, usize) {
        (Slot(count.clone()), count.fetch_add(1, Relaxed) + 1)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A subscriber that wants an end.
pub enum Poll {
    /// Nothing was sent yet: at the first event, or when it is due, comes this head with a length, and this prelude.
    Wait(String, Vec<u8>),
    /// It gets the log up to this position.
    Until(u64),
}

/// What few subscribers have.
#[derive(Default)]
pub struct More {
    /// None: a stream without an end.
    pub poll: Option<Poll>,
    /// What watches its bytes.
    pub trace: Trace,
    /// When to end it (`--max-age`).
    pub expires: Option<u64>,
    /// What is not for it, by the positions in the log: in their order, and all of it still to come.
    pub skips: VecDeque<(u64, u64)>,
    /// What is left of something that is for it alone. Limit: it gets nothing further before that.
    pub own: IntoIter<u8>,
}

/// Why a subscriber is to be dropped.
pub enum Gone {
    /// It closed, failed, or has all that it asked for.
    Done,
    /// Its place is no longer kept.
    CutOff,
}

/// A socket and a position.
pub struct Subscriber {
    /// Does not block.
    pub stream: TcpStream,
    /// The first byte of the log that it was not given.
    pub pos: u64,
    /// None: a plain stream.
    pub more: Option<Box<More>>,
    /// A stalled one's next try; else a waiting poll's end; else the next ping.
    pub due: u64,
    /// Drawn at random: the first half of its address.
    pub key: u64,
    /// Tries in a row for which the socket was full.
    pub stalls: u8,
    /// Why it is to be dropped at the end of this turn.
    pub gone: Option<Gone>,
    /// The peer sends no more: it closed, or it only shut down that direction.
    pub shut: bool,
    /// Its connection, counted.
    pub slot: Slot,
}

impl Subscriber {
    /// Whether nothing was sent yet.
    pub fn waits(&self) -> bool {
        matches!(self.poll(), Some(Poll::Wait(..)))
    }

    /// Whether it can remember to pass over something more, which begins here.
    pub fn can_skip(&self, from: u64) -> bool {
        self.more.as_ref().is_none_or(|more| more.skips.len() < SKIPS || more.skips.back().is_some_and(|s| s.1 == from))
    }

    /// What the log has from one position to another is not for it.
    pub fn skip(&mut self, from: u64, to: u64) {
        if self.pos == from {
            self.pos = to;
            return;
        }
        let skips = &mut self.more.get_or_insert_default().skips;
        match skips.back_mut().filter(|last| last.1 == from) {
            Some(last) => last.1 = to,
            None => skips.push_back((from, to)),
        }
    }

    /// Whether it has an end.
    pub fn is_poll(&self) -> bool {
        self.poll().is_some()
    }

    fn poll(&self) -> Option<&Poll> {
        self.more.as_ref()?.poll.as_ref()
    }

    /// Writes; returns how many bytes the socket took.
    ///
    /// # Errors
    /// As the socket has them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.more {
            None => self.stream.write(bytes),
            Some(more) => more.trace.write(&self.stream, bytes),
        }
    }

    /// Where it ends.
    fn stop(&self) -> u64 {
        if let Some(&Poll::Until(stop)) = self.poll() { stop } else { u64::MAX }
    }

    /// Whether it wants bytes of a log that ends here, or what is left of its own, now; or to be told that there are none.
    pub fn wants(&self, end: u64, now: u64) -> bool {
        let own = self.more.as_ref().is_some_and(|more| !more.own.as_slice().is_empty());
        let over = self.waits() && now >= self.due;
        (own || over || self.pos < end.min(self.stop())) && (self.stalls == 0 || now >= self.due)
    }

    /// A poll that has everything is closed in steps: we say that no more comes, and the peer closes.
    pub fn finish(&mut self, now: u64) {
        if self.pos == self.stop() && self.stream.shutdown(Shutdown::Write).is_ok() {
            self.more.get_or_insert_default().expires = Some(now + LINGER);
        }
    }

    /// Where this is a waiting poll, its answer begins: its body reaches up to `end`.
    ///
    /// # Errors
    /// Where the socket does not take it.
    pub fn begin(&mut self, end: u64) -> Result<(), Gone> {
        if self.waits()
            && let Some(more) = &mut self.more
            && let Some(Poll::Wait(head, prelude)) = more.poll.replace(Poll::Until(end))
        {
            let length = prelude.len() as u64 + end - self.pos;
            self.say(&[format!("{head}Content-Length: {length}\r\n\r\n").as_bytes(), &prelude].concat())?;
        }
        Ok(())
    }

    /// Writes what begins an answer, a few hundred bytes: a socket without room for them is not being read at all.
    pub fn say(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        match self.write(bytes) {
            Ok(n) if n == bytes.len() => Ok(()),
            _ => Err(Gone::Done),
        }
    }

    /// Writes what the log has from its position on, at least one byte. Returns how many bytes it took.
    ///
    /// # Errors
    /// Where it is to be dropped.
    pub fn give(&mut self, bytes: &[u8], now: u64, heartbeat: u64) -> Result<u64, Gone> {
        let own = self.more.as_mut().map(|more| std::mem::take(&mut more.own)).unwrap_or_default();
        if !own.as_slice().is_empty() {
            return self.give_alone(own, now, heartbeat).map(|()| 0);
        }
        let skip = self.more.as_ref().and_then(|more| more.skips.front());
        let limit = skip.map_or(u64::MAX, |skip| skip.0).min(self.stop());
        let bytes = bytes.get(..usize::try_from(limit - self.pos).unwrap_or(usize::MAX)).unwrap_or(bytes);
        let taken = self.offer(bytes, now, heartbeat)?;
        self.pos += taken as u64;
        while let Some(more) = &mut self.more
            && let Some((_, to)) = more.skips.pop_front_if(|skip| skip.0 == self.pos)
        {
            self.pos = to;
        }
        self.finish(now);
        Ok(taken as u64)
    }

    /// Writes what is for it alone; what the socket does not take follows before anything else.
    ///
    /// # Errors
    /// Where it is to be dropped.
    pub fn give_alone(&mut self, mut bytes: IntoIter<u8>, now: u64, heartbeat: u64) -> Result<(), Gone> {
        let taken = self.offer(bytes.as_slice(), now, heartbeat)?;
        bytes.by_ref().take(taken).for_each(drop);
        if !bytes.as_slice().is_empty() {
            self.more.get_or_insert_default().own = bytes;
        }
        Ok(())
    }

    /// Writes what the socket takes, and notes when it is to be tried again. Returns how many bytes it took.
    fn offer(&mut self, bytes: &[u8], now: u64, heartbeat: u64) -> Result<usize, Gone> {
        let taken = match self.write(bytes) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => return Err(Gone::Done),
        };
        if taken == bytes.len() {
            self.stalls = 0;
            self.due = now + heartbeat;
        } else {
            self.stalls = if taken > 0 { 1 } else { (self.stalls + 1).min(LONGEST_STALL) };
            self.due = now + (1 << self.stalls);
        }
        Ok(taken)
    }

    /// What the heartbeat does: ends what is over, asks with a `:ping` who is idle, and drops who closed.
    ///
    /// # Errors
    /// Where it is to be dropped.
    pub fn check(&mut self, end: u64, now: u64, heartbeat: u64) -> Result<(), Gone> {
        // A write tells more than a look.
        let quiet = self.shut || self.stalls > 0 || self.is_poll() || now + heartbeat >= self.due + QUIET;
        let ended = quiet && self.look()?;
        let finished = self.pos == self.stop();
        let expires = self.more.as_ref().and_then(|more| more.expires);
        if expires.is_some_and(|at| now >= at) || (finished && self.shut) {
            return Err(Gone::Done);
        }
        if ended
            && now < self.due
            && let Some(more) = &mut self.more
            && let Some(Poll::Wait(head, _)) = &mut more.poll
        {
            // A ping would be out of place; the first part of its head asks as well, and is what comes next anyway.
            let head = std::mem::take(head);
            return self.say(head.as_bytes());
        }
        if finished || self.stalls > 0 || self.pos < end || !(ended || now >= self.due) {
            return Ok(()); // there are bytes on their way to it, or it is not yet time
        }
        if self.waits() {
            self.begin(end)?;
            self.finish(now);
            return Ok(());
        }
        self.due = now + heartbeat;
        match self.write(PING) {
            Ok(n) if n == PING.len() => Ok(()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()), // it has bytes to read before a ping would matter
            // Shortcut: a socket with room for 1 to 6 bytes is dropped, rather than the rest of a ping remembered.
            _ => Err(Gone::Done),
        }
    }

    /// Looks whether the peer is there: drops what it sends, and says whether it has just stopped sending.
    ///
    /// That may be a close, or `shutdown` by a client that still reads (`nc -N`). The next byte that is sent to a
    /// closed socket is answered with a reset, and so the ping that follows tells which (RFC 9293 §3.5.2, §3.6).
    fn look(&mut self) -> Result<bool, Gone> {
        match self.stream.read(&mut [0; 1024]) {
            Ok(0) if !self.shut => {
                self.shut = true;
                Ok(true)
            }
            Ok(0) if !matches!(self.stream.take_error(), Ok(None)) => Err(Gone::Done),
            Ok(_) => Ok(false),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(_) => Err(Gone::Done),
        }
    }
}

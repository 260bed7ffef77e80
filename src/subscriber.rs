//! A subscriber: a socket and a position in a log. No thread, no queue, no buffer but for the rest of what is for it alone.
//!
//! It is handed bytes of the log and takes what its socket takes, as its [`Framing`] wraps them; the rest is asked for
//! again from its new position, in the middle of an event or of a frame if need be. Between two frames it can be written
//! what is not of the log: a heartbeat, a word to it alone, the end. Times are milliseconds on its caller's clock.
//!
//! Limits: `LONGEST_STALL`; 48 bytes each. Deliberately absent: where the bytes come from.

use crate::duplex::{Duplex, lock};
use crate::framing::{At, Frame, Framing, Wire};
use crate::log::Part;
use crate::trace::Trace;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::vec::IntoIter;

/// Limit: the pause before a full socket is tried again, as a power of two: 2 ms, doubled up to 512 ms.
const LONGEST_STALL: u16 = 9;
/// Limit, in milliseconds: how long a stream may take to end, so that nothing is lost (RFC 9112 §9.6).
const LINGER: u64 = 2000;
/// Limit: Ping frames that go unanswered, and heartbeats in which a WebSocket that has bytes to read takes none.
pub const UNANSWERED: u32 = 2;
/// Limit: what a subscriber that is behind has still to pass over.
const SKIPS: usize = 64;
/// In milliseconds: how often the heartbeat looks for closed sockets. A closed one is gone after two looks.
pub const LOOK: u64 = 500;
/// In milliseconds: who was written to since then is not looked at.
const QUIET: u64 = LOOK * 3 / 2;
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

/// A subscriber that has an end.
pub enum Poll {
    /// At the first event, or when it expires.
    Wait,
    /// At this position of the log.
    Until(u64),
    /// It was written the end. What its socket did not take is still to come.
    Ended,
}

/// What a socket needs that is not the subscriber's alone.
pub struct Socket {
    /// Its writing half.
    pub half: Arc<Mutex<Duplex>>,
    /// Takes the subscriber over when it has to leave.
    pub leave: Leave,
}

/// Where a subscriber goes that has to leave; with the part that it stood in, if the log has just dropped that.
pub type Leave = Box<dyn FnOnce(Subscriber, Option<Arc<Part>>) + Send>;

/// What few subscribers have.
#[derive(Default)]
pub struct More {
    /// None: a stream without an end.
    pub poll: Option<Poll>,
    /// What watches its bytes.
    pub trace: Trace,
    /// When to end it (`--max-age`, `?wait=`).
    pub expires: Option<u64>,
    /// What is not for it, by the positions in the log: in their order, and all of it still to come.
    pub skips: VecDeque<(u64, u64)>,
    /// What is left of something that is for it alone. Limit: it gets nothing further before that.
    pub own: IntoIter<u8>,
    /// The frame that it stands in.
    pub frame: Option<Frame>,
    /// A WebSocket's.
    pub socket: Option<Socket>,
}

impl More {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        let streams = self.poll.is_none() && self.expires.is_none() && self.socket.is_none() && !self.trace.watches();
        streams && self.skips.is_empty() && self.own.as_slice().is_empty() && self.frame.is_none()
    }
}

/// Why a subscriber is to be dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It closed, failed, or has all that it asked for.
    Done,
    /// Its place is no longer kept.
    CutOff,
    /// A WebSocket's time is over.
    Over,
}

/// A socket and a position.
pub struct Subscriber {
    /// Does not block; a WebSocket's does, between two writes.
    pub stream: TcpStream,
    /// The first byte of the log that it was not given.
    pub pos: u64,
    /// None: a plain stream.
    pub more: Option<Box<More>>,
    /// A stalled one's next try; else the next heartbeat.
    pub due: u64,
    /// Drawn at random: the first half of its address.
    pub key: u64,
    /// Tries in a row for which the socket was full.
    pub stalls: u16,
    /// How it is wrapped what it is given.
    pub framing: Framing,
    /// Why it is to be dropped at the end of this turn.
    pub gone: Option<Gone>,
    /// The peer sends no more: it closed, or it only shut down that direction.
    pub shut: bool,
    /// Its connection, counted.
    pub slot: Slot,
}

impl Subscriber {
    /// Whether it is a poll to which nothing was said yet.
    pub fn waits(&self) -> bool {
        matches!(self.poll(), Some(Poll::Wait))
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

    fn socket(&self) -> Option<&Socket> {
        self.more.as_ref()?.socket.as_ref()
    }

    /// Where it stands.
    pub fn at(&self) -> At {
        At { pos: self.pos, frame: self.more.as_ref().and_then(|more| more.frame) }
    }

    /// Whether nothing can be written to it now that is not of the log: a frame is open, or something is owed.
    pub fn is_busy(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.frame.is_some() || !more.own.as_slice().is_empty())
    }

    /// It stands there now, and is owed this before anything else.
    fn stand(&mut self, at: At, own: IntoIter<u8>) {
        self.pos = at.pos;
        if at.frame.is_some() || !own.as_slice().is_empty() || self.more.is_some() {
            let more = self.more.get_or_insert_default();
            more.frame = at.frame;
            more.own = own;
        }
        self.more.take_if(|more| more.is_empty());
    }

    /// Writes; returns how many bytes the socket took. `whole`: no frame is open behind them.
    ///
    /// # Errors
    /// As the socket has them.
    fn write(&mut self, bytes: &[u8], whole: bool) -> io::Result<usize> {
        match self.more.as_deref_mut() {
            None => self.stream.write(bytes),
            Some(More { socket: Some(socket), .. }) => lock(&socket.half).write(&self.stream, bytes, whole),
            Some(more) => more.trace.write(&self.stream, bytes),
        }
    }

    /// Where it ends.
    fn stop(&self) -> u64 {
        match self.poll() {
            Some(Poll::Until(stop)) => *stop,
            Some(Poll::Ended) => self.pos,
            _ => u64::MAX,
        }
    }

    /// Whether it wants bytes of a log that ends here, or something that it is owed, now; or to be told that there are none.
    pub fn wants(&self, end: u64, now: u64) -> bool {
        let Some(more) = self.more.as_ref() else { return self.pos < end && (self.stalls == 0 || now >= self.due) };
        let over = self.waits() && more.expires.is_some_and(|at| now >= at);
        let owed = more.socket.as_ref().is_some_and(|socket| lock(&socket.half).owes());
        let wants = self.is_busy() || over || owed || self.pos < end.min(self.stop());
        wants && (self.stalls == 0 || now >= self.due)
    }

    /// When it is to be tried again, or told that its time is over.
    pub fn retry(&self) -> Option<u64> {
        match self.stalls {
            0 if self.waits() => self.more.as_ref()?.expires,
            0 => None,
            _ => Some(self.due),
        }
    }

    /// It is given nothing further, but for the rest of the frame that it stands in.
    pub fn stop_here(&mut self) {
        let stop = self.at().end();
        let more = self.more.get_or_insert_default();
        more.poll = Some(Poll::Until(stop));
        more.frame.take_if(|frame| matches!(frame, Frame::Sought(..)));
    }

    /// Ends a stream that has everything, in steps: we say that no more comes, and the peer closes.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn finish(&mut self, now: u64, heartbeat: u64) -> Result<(), Gone> {
        if self.is_busy() || self.pos != self.stop() || self.framing.is_by_blocks() {
            return Ok(());
        }
        if let Some(Poll::Until(_)) = self.poll() {
            self.more.get_or_insert_default().poll = Some(Poll::Ended);
            self.give_alone(Vec::from(self.framing.last()).into_iter(), now, heartbeat)?;
        }
        if !self.is_busy() && self.stream.shutdown(Shutdown::Write).is_ok() {
            self.more.get_or_insert_default().expires = Some(now + LINGER);
        }
        Ok(())
    }

    /// If it waits, its end is known now: where the log ends.
    pub fn begin(&mut self, end: u64) {
        if self.waits() {
            let more = self.more.get_or_insert_default();
            more.poll = Some(Poll::Until(end));
            more.expires = None;
        }
    }

    /// Writes what begins an answer, a few hundred bytes: a socket without room for them is not being read at all.
    ///
    /// # Errors
    /// If it does not take them.
    pub fn say(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        match self.write(bytes, true) {
            Ok(n) if n == bytes.len() => Ok(()),
            _ => Err(Gone::Done),
        }
    }

    /// Writes what it is owed, or else what the log has from where it reads on. Returns how far it came in the log.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn give(&mut self, bytes: &[u8], wires: &mut [Wire; 4], now: u64, heartbeat: u64) -> Result<u64, Gone> {
        let mut own = self.more.as_mut().map(|more| take(&mut more.own)).unwrap_or_default();
        if own.as_slice().is_empty()
            && self.at().frame.is_none()
            && let Some(socket) = self.socket()
        {
            own = lock(&socket.half).owed().into_iter();
        }
        if !own.as_slice().is_empty() {
            self.give_alone(own, now, heartbeat)?;
            self.finish(now, heartbeat)?;
            return Ok(0);
        }
        let skip = self.more.as_ref().and_then(|more| more.skips.front());
        let at = self.at();
        let limit = skip.map_or(u64::MAX, |skip| skip.0).min(self.stop());
        let bytes = bytes.get(..usize::try_from(limit - at.next()).unwrap_or(usize::MAX)).unwrap_or(bytes);
        self.frame(at, bytes, wires, now, heartbeat)?;
        let given = self.pos - at.pos;
        while let Some(more) = &mut self.more
            && let Some((_, to)) = more.skips.pop_front_if(|skip| skip.0 == self.pos)
        {
            self.pos = to;
        }
        self.finish(now, heartbeat)?;
        Ok(given)
    }

    /// Writes bytes of the log, in its framing.
    fn frame(&mut self, at: At, bytes: &[u8], wires: &mut [Wire; 4], now: u64, heartbeat: u64) -> Result<(), Gone> {
        let framing = self.framing;
        let wire = match wires.get_mut(framing as usize) {
            Some(wire) if framing != Framing::None => wire,
            _ => {
                self.pos += self.offer(bytes, true, now, heartbeat)? as u64;
                return Ok(());
            }
        };
        wire.fill(framing, at, bytes);
        let taken = self.offer(&wire.bytes, wire.end.frame.is_none(), now, heartbeat)?;
        if taken == wire.bytes.len() {
            self.stand(wire.end, IntoIter::default());
        } else {
            let (at, own) = framing.after(at, bytes, taken);
            self.stand(at, own.into_iter());
        }
        Ok(())
    }

    /// Writes what is for it alone; what the socket does not take follows before anything else.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn give_alone(&mut self, mut bytes: IntoIter<u8>, now: u64, heartbeat: u64) -> Result<(), Gone> {
        let at = self.at();
        let taken = self.offer(bytes.as_slice(), at.frame.is_none(), now, heartbeat)?;
        bytes.by_ref().take(taken).for_each(drop);
        self.stand(at, bytes);
        Ok(())
    }

    /// Writes what the socket takes, and notes when it is to be tried again. Returns how many bytes it took.
    fn offer(&mut self, bytes: &[u8], whole: bool, now: u64, heartbeat: u64) -> Result<usize, Gone> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let taken = match self.write(bytes, whole) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => return Err(Gone::Done),
        };
        if taken == bytes.len() {
            self.stalls = 0;
            self.due = now + heartbeat;
        } else {
            self.stalls = if taken > 0 { 1 } else { self.stalls.saturating_add(1) };
            self.due = now + (1 << self.stalls.min(LONGEST_STALL));
        }
        Ok(taken)
    }

    /// What the heartbeat does: ends what is over, asks with a ping who is idle, and drops who closed.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn check(&mut self, end: u64, now: u64, heartbeat: u64) -> Result<(), Gone> {
        // A write tells more than a look. A WebSocket's own thread looks all the time.
        let quiet = self.shut || self.stalls > 0 || self.is_poll() || now + heartbeat >= self.due + QUIET;
        let ended = quiet && self.socket().is_none() && self.look()?;
        if self.shut && matches!(self.poll(), Some(Poll::Ended)) {
            return Err(Gone::Done);
        }
        let expires = self.more.as_ref().and_then(|more| more.expires);
        if !self.waits() && expires.is_some_and(|at| now >= at) {
            self.expire(now, heartbeat)?;
        }
        let silent = u64::from(self.stalls.saturating_sub(LONGEST_STALL)) << LONGEST_STALL;
        if self.socket().is_some() && silent >= heartbeat * u64::from(UNANSWERED + 1) {
            return Err(Gone::Done);
        }
        let has_more = self.stalls > 0 || self.is_busy() || self.pos < end || self.pos == self.stop();
        if has_more || !(ended || now >= self.due) {
            return Ok(()); // there are bytes on their way to it, or it is not yet time
        }
        if let Some(socket) = self.socket() {
            let mut half = lock(&socket.half);
            half.unanswered += 1;
            if half.unanswered > UNANSWERED {
                return Err(Gone::Done);
            }
        }
        self.give_alone(Vec::from(self.framing.ping()).into_iter(), now, heartbeat)
    }

    /// Its time is over.
    fn expire(&mut self, now: u64, heartbeat: u64) -> Result<(), Gone> {
        if self.socket().is_some() && !self.is_busy() {
            return Err(Gone::Over);
        }
        if self.is_poll() && self.socket().is_none() {
            return Err(Gone::Done); // it had time to end
        }
        self.stop_here();
        if self.socket().is_none() {
            self.more.get_or_insert_default().expires = Some(now + LINGER);
        }
        self.finish(now, heartbeat)
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

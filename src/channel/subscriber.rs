//! A subscriber: a socket and a position in a log. No thread, no queue, no buffer but for the rest of what is for it alone.
//!
//! It is handed bytes of the log and takes what its socket takes, as its framing wraps them; the rest is asked for
//! again from its new position, in the middle of an event or of a frame if need be. Between two frames it can be given
//! what is not of the log: a heartbeat, a word to it alone, the end. Times are milliseconds on its caller's clock.
//!
//! Limits: `LONGEST_STALL`; 48 bytes each. Deliberately absent: where the bytes come from.

use crate::channel::framing::{At, Framed, Wire, chunked};
use crate::channel::watch::Watchers;
use std::io::{self, ErrorKind, Read, Write, copy, sink};
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::vec::IntoIter;

/// Limit: the pause before a full socket is tried again, as a power of two: 2 ms, doubled up to 512 ms.
const LONGEST_STALL: u8 = 9;
/// Limit, in milliseconds: how long a stream may take to end, so that nothing is lost (RFC 9112 §9.6).
const LINGER: u64 = 2000;
/// Limit, in milliseconds: how long a subscriber that has lost its place may take to hear the rest of a message.
const FALL_TIME: u64 = 10_000;
/// Limit: heartbeats for which a transport that can be asked may take nothing.
const UNANSWERED: u64 = 3;
/// Limit, in milliseconds: the same, if three heartbeats are more: what `stalls` can count.
const LONGEST_SILENCE: u64 = 120_000;
/// In milliseconds: how often the heartbeat looks for closed sockets. A closed one is gone after two looks.
pub const LOOK: u64 = 500;
/// Limit: bytes that a look drops of what a subscriber sends. They stand before the end of what it sends.
const DROPPED: u64 = 256 << 10;
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
    /// It ends with the first event, or at this time.
    Wait(u64),
    /// It ends at this position of the log, with these bytes.
    Until(u64, Vec<u8>),
    /// It was given the end; what its socket did not take is still to come.
    Ended,
}

/// The transport of a subscriber whose client also speaks: a thread of its own reads from the same socket. The door for
/// framings that are not HTTP's. Its socket blocks between two writes.
pub trait Transport: Send {
    /// How it wraps log bytes.
    fn framing(&self) -> Framed;

    /// Writes what the socket takes, and does not wait.
    ///
    /// # Errors
    /// As the socket has them.
    fn write(&self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize>;

    /// Whether it has something to say between two frames.
    fn has_word(&self) -> bool;

    /// Takes that.
    fn take_word(&self) -> Vec<u8>;

    /// A heartbeat is due. Returns whether the peer has answered those before.
    fn beat(&self) -> bool;
}

/// What few subscribers have.
#[derive(Default)]
pub struct More {
    /// None: a stream without an end.
    pub poll: Option<Poll>,
    /// What watches its bytes; a transport has its own.
    pub watchers: Watchers,
    /// When to end it (`--max-age`), or to drop it.
    pub expires: Option<u64>,
    /// What in the log is not for it, from one position to another: in their order, and all of it still to come. The door for
    /// all who choose whom an event is for.
    pub apart: Vec<(u64, u64)>,
    /// What is left of something that is for it alone. Limit: it gets nothing further before that.
    pub own: IntoIter<u8>,
    /// Its place in the frame that is open.
    pub frame: Option<(u64, u64)>,
    /// None: a stream of HTTP.
    pub transport: Option<Box<dyn Transport>>,
}

/// Why a subscriber is to be dropped.
#[derive(Clone, Copy, PartialEq)]
pub enum Gone {
    /// It closed, failed, or has all that it asked for.
    Done,
    /// Its place is no longer kept.
    CutOff,
}

/// A socket and a position.
pub struct Subscriber {
    /// Does not block, unless a transport needs it to.
    pub stream: TcpStream,
    /// The first byte of the log that it was not given.
    pub pos: u64,
    /// None: a plain stream.
    pub more: Option<Box<More>>,
    /// When it was last written to, or that was tried.
    pub tried: u64,
    /// Drawn at random: by this it is found.
    pub key: u64,
    /// Tries in a row for which the socket was full.
    pub stalls: u8,
    /// The log's bytes are wrapped in chunks for it, unless a transport wraps them.
    pub chunked: bool,
    /// Why it is to be dropped at the end of this turn.
    pub gone: Option<Gone>,
    /// The peer sends no more: it closed, or it only shut down that direction.
    pub shut: bool,
    /// Its connection, counted.
    pub slot: Slot,
}

impl Subscriber {
    fn poll(&self) -> Option<&Poll> {
        self.more.as_ref()?.poll.as_ref()
    }

    /// Whether it has an end.
    pub fn is_poll(&self) -> bool {
        self.poll().is_some()
    }

    /// Whether it was given the end.
    pub fn is_ended(&self) -> bool {
        matches!(self.poll(), Some(Poll::Ended)) && !self.is_busy()
    }

    /// How the log's bytes are wrapped for it.
    pub fn framing(&self) -> Framed {
        self.transport().map_or(chunked(self.chunked), Transport::framing)
    }

    fn transport(&self) -> Option<&dyn Transport> {
        self.more.as_ref()?.transport.as_deref()
    }

    /// Whether HTTP is its transport.
    pub fn is_http(&self) -> bool {
        self.transport().is_none()
    }

    /// Whether it is on its way out behind whole messages, and hears nothing new.
    pub fn is_leaving(&self) -> bool {
        !self.is_http() && self.is_poll()
    }

    /// What its transport has to say, if it may say it now.
    fn word(&self) -> Option<&dyn Transport> {
        self.transport().filter(|transport| !self.is_poll() && transport.has_word())
    }

    fn has_own(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.own.as_slice().is_empty())
    }

    /// Where it stands.
    pub fn at(&self) -> At {
        At { pos: self.pos, frame: self.more.as_ref().and_then(|more| more.frame) }
    }

    /// It stands there now, and is to be given this first.
    fn stand(&mut self, at: At, own: IntoIter<u8>) {
        self.pos = at.pos;
        if self.more.is_some() || at.frame.is_some() || !own.as_slice().is_empty() {
            let more = self.more.get_or_insert_default();
            more.frame = at.frame;
            more.own = own;
        }
    }

    /// Whether nothing can be written to it but what it is in the middle of.
    pub fn is_busy(&self) -> bool {
        self.has_own() || self.at().frame.is_some()
    }

    /// Until when it waits for its first event.
    fn waits(&self) -> Option<u64> {
        match self.poll() {
            Some(Poll::Wait(until)) => Some(*until),
            _ => None,
        }
    }

    /// Where it ends.
    fn stop(&self) -> u64 {
        match self.poll() {
            Some(Poll::Until(stop, _)) => *stop,
            Some(Poll::Ended) => self.pos,
            _ => u64::MAX,
        }
    }

    /// The place from which it reads on in the log, and whether it needs a whole block; none if it is to be given something
    /// else first.
    pub fn reads(&self) -> Option<(u64, bool)> {
        let whole = !self.is_http() && !self.is_busy();
        Some((self.pos, whole)).filter(|_| !self.has_own() && self.pos != self.stop())
    }

    /// Whether it is to be given something now: of a log that ends here, or of its own.
    pub fn wants(&self, end: u64, now: u64) -> bool {
        let over = self.waits().map_or(self.pos == self.stop() && !self.is_ended(), |until| now >= until);
        let wants = self.pos < end.min(self.stop()) || self.is_busy() || over || self.word().is_some();
        wants && self.stalled_until().is_none_or(|time| now >= time)
    }

    /// When a full socket is to be tried again.
    fn stalled_until(&self) -> Option<u64> {
        (self.stalls > 0).then(|| self.tried + (1 << self.stalls.min(LONGEST_STALL)))
    }

    /// When it is to be tried again, or its time is over.
    pub fn retry(&self) -> Option<u64> {
        self.stalled_until().or(self.waits())
    }

    /// If it waits, and there is something for it or its time is over, it ends where the log does.
    pub fn begin(&mut self, end: u64, now: u64) {
        if self.waits().is_some_and(|until| self.pos < end || now >= until) {
            self.end_at(end, (self.framing().last)());
        }
    }

    /// It ends at this position of the log, with these bytes.
    pub fn end_at(&mut self, pos: u64, last: Vec<u8>) {
        let more = self.more.get_or_insert_default();
        more.poll = Some(Poll::Until(pos, last));
        more.apart.clear();
    }

    /// It ends as soon as messages are whole, and is dropped then if it has not.
    fn leave(&mut self, time: u64) {
        self.end_at(self.at().end(), (self.framing().last)());
        self.more.iter_mut().for_each(|more| more.expires = Some(time));
    }

    /// Looks whether its place is lost in a log that begins here. If messages are whole, it then hears the rest of
    /// one, and that it is to come back; returns whether that begins now.
    pub fn falls(&mut self, start: u64, now: u64) -> bool {
        let lost = self.at().end() < start;
        let between = self.gone == Some(Gone::CutOff) && !self.is_busy();
        if self.is_poll() || !(lost || between) {
            return false;
        }
        if !self.is_http() {
            self.gone = None;
            self.leave(now + FALL_TIME);
            return true;
        }
        if self.stalls > 0 {
            self.gone = Some(Gone::CutOff);
        }
        false
    }

    /// Ends it if that is due, in steps: we say that no more comes, and the peer closes. The client of a transport has
    /// the last word.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn finish(&mut self, now: u64) -> Result<(), Gone> {
        let due = self.pos == self.stop() && !self.is_busy();
        if let Some(more) = self.more.as_mut().filter(|_| due)
            && let Some(Poll::Until(_, last)) = more.poll.replace(Poll::Ended)
        {
            more.expires = Some(now + LINGER);
            let word = self.transport().map(Transport::take_word).unwrap_or_default();
            self.give_alone([word, last].concat().into_iter(), now)?;
        }
        if self.is_ended() && self.is_http() {
            self.more.iter_mut().for_each(|more| more.watchers.answered());
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Gives it what it is to be given first, or else what the log has from its position on. Returns how far it came there.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn give(&mut self, bytes: &[u8], wires: &mut Vec<Wire>, now: u64) -> Result<u64, Gone> {
        let at = self.at();
        let mut own = self.more.as_mut().map(|more| take(&mut more.own)).unwrap_or_default();
        if let Some(transport) = self.word().filter(|_| own.as_slice().is_empty() && at.frame.is_none()) {
            own = transport.take_word().into_iter();
        }
        let apart = self.more.as_ref().and_then(|more| more.apart.first());
        let limit = apart.map_or(u64::MAX, |apart| apart.0).min(self.stop());
        let bytes = bytes.get(..usize::try_from(limit - self.pos).unwrap_or(usize::MAX)).unwrap_or(bytes);
        if !own.as_slice().is_empty() {
            self.give_alone(own, now)?;
        }
        if !self.has_own() && !bytes.is_empty() {
            self.frame(at, bytes, wires, now)?;
        }
        let given = self.pos - at.pos;
        if let Some(more) = &mut self.more {
            while more.apart.first().is_some_and(|apart| apart.0 == self.pos) {
                self.pos = more.apart.remove(0).1;
            }
        }
        self.finish(now)?;
        Ok(given)
    }

    /// Writes bytes of the log in its framing.
    fn frame(&mut self, mut at: At, bytes: &[u8], wires: &mut Vec<Wire>, now: u64) -> Result<(), Gone> {
        let framing = self.framing();
        if !wires.iter().any(|wire| wire.is_of(framing)) {
            wires.push(Wire::new(framing));
        }
        let Some(wire) = wires.iter_mut().find(|wire| wire.is_of(framing)) else { return Ok(()) };
        wire.fill(at, bytes);
        if wire.bytes.is_empty() {
            return Err(Gone::CutOff); // somebody has damaged the log
        }
        let (end, rest) = &wire.end;
        let taken = self.offer(&wire.bytes, now)?;
        if taken == wire.bytes.len() {
            self.stand(*end, rest.clone().into_iter());
        } else {
            let rest = framing.wrap(&mut at, bytes, taken, &mut Vec::new());
            self.stand(at, rest.into_iter());
        }
        Ok(())
    }

    /// Writes what is for it alone; what the socket does not take follows before anything else.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn give_alone(&mut self, mut bytes: IntoIter<u8>, now: u64) -> Result<(), Gone> {
        let taken = self.offer(bytes.as_slice(), now)?;
        bytes.by_ref().take(taken).for_each(drop);
        self.stand(self.at(), bytes);
        Ok(())
    }

    /// Writes what the socket takes, and notes when it is to be tried again. Returns how many bytes it took.
    fn offer(&mut self, bytes: &[u8], now: u64) -> Result<usize, Gone> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let taken = match self.more.as_deref_mut() {
            None => self.stream.write(bytes),
            Some(More { transport: Some(transport), .. }) => transport.write(&self.stream, bytes),
            Some(more) => more.watchers.write(&self.stream, bytes),
        };
        let taken = match taken {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => return Err(Gone::Done),
        };
        self.tried = now;
        self.stalls = match taken {
            _ if taken == bytes.len() => 0,
            0 => self.stalls.saturating_add(1),
            _ => 1,
        };
        Ok(taken)
    }

    /// What the heartbeat does: ends what is over, asks with a ping who is idle, and drops who closed.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn check(&mut self, end: u64, now: u64, heartbeat: u64) -> Result<(), Gone> {
        // A write tells more than a look.
        let quiet = self.shut || self.stalls > 0 || self.is_poll() || now >= self.tried + QUIET;
        let ended = quiet && self.look()?;
        let over = self.more.as_ref().and_then(|more| more.expires).is_some_and(|at| now >= at);
        if over && !self.is_poll() {
            self.leave(now + LINGER);
            return self.finish(now);
        }
        let stalled = u64::from(self.stalls.saturating_sub(LONGEST_STALL)) << LONGEST_STALL;
        let silent = !self.is_http() && stalled >= (heartbeat * UNANSWERED).min(LONGEST_SILENCE);
        if over || silent || (self.shut && self.is_ended()) {
            return Err(Gone::Done);
        }
        let has_more = self.stalls > 0 || self.is_busy() || self.pos < end || self.pos == self.stop();
        if has_more || !(ended || now >= self.tried + heartbeat) {
            return Ok(()); // there are bytes on their way to it, or it is not yet time
        }
        if self.transport().is_some_and(|transport| !transport.beat()) {
            return Err(Gone::Done);
        }
        self.give_alone(Vec::from(self.framing().ping).into_iter(), now)
    }

    /// Looks whether the peer is there: drops what it sends, and says whether it has just stopped sending.
    ///
    /// That may be a close, or `shutdown` by a client that still reads (`nc -N`). The next byte that is sent to a
    /// closed socket is answered with a reset, and so the ping that follows tells which (RFC 9293 §3.5.2, §3.6).
    fn look(&mut self) -> Result<bool, Gone> {
        if !self.is_http() {
            return Ok(false); // its own thread looks all the time
        }
        match copy(&mut (&self.stream).take(DROPPED), &mut sink()) {
            Ok(DROPPED) => Ok(false), // there may be more
            Ok(_) if !self.shut => {
                self.shut = true;
                Ok(true)
            }
            Ok(_) if !matches!(self.stream.take_error(), Ok(None)) => Err(Gone::Done),
            Ok(_) => Ok(false),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(Gone::Done),
        }
    }
}

//! A subscriber: a socket and a position in a log. No thread, no queue, no buffer but for the rest of what is for it alone.
//!
//! It is handed bytes of the log and takes what its socket takes, as its framing wraps them; the rest is asked for
//! again from its new position, in the middle of an event or of a frame if need be. Between two frames it can be given
//! what is not of the log: a heartbeat, a word to it alone, the end. Times are milliseconds on its caller's clock.
//!
//! Limits: `MAX_STALL`; 48 bytes each. Deliberately absent: where the bytes come from.

use crate::channel::framing::{Cursor, FramedBytes, FramingRef, chunked};
use crate::channel::watch::Watchers;
use std::io::{self, ErrorKind, Read, Write, copy, sink};
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::vec::IntoIter;

/// Limit: the pause before a full socket is tried again, as a power of two: 2 ms, doubled up to 512 ms.
const MAX_STALL: u8 = 9;
/// Limit, in milliseconds: how long a stream may take to end, so that nothing is lost (RFC 9112 §9.6).
const MAX_END_TIME: u64 = 2000;
/// Limit, in milliseconds: how long a subscriber that has lost its place may take to hear the rest of a message.
const MAX_LEAVE_TIME: u64 = 10_000;
/// Limit: heartbeats for which a transport that can be asked may take nothing.
const MAX_SILENT_HEARTBEATS: u64 = 3;
/// Limit, in milliseconds: the same, if three heartbeats are more: what `stalls` can count.
const MAX_SILENCE: u64 = 120_000;
/// In milliseconds: how often the heartbeat looks for closed sockets. A closed one is gone after two looks.
pub const LOOK_INTERVAL: u64 = 500;
/// Limit: bytes that a look drops of what a subscriber sends. They stand before the end of what it sends.
const MAX_DROPPED: u64 = 256 << 10;
/// In milliseconds: who was written to since then is not looked at.
const QUIET_TIME: u64 = LOOK_INTERVAL * 3 / 2;
/// One open connection, counted until it is dropped; a subscriber keeps the one it came with.
pub struct Slot(Arc<AtomicUsize>);

impl Slot {
    /// Counts one more; returns how many there are with it.
    pub fn claim(count: &Arc<AtomicUsize>) -> (Slot, usize) {
        (Slot(count.clone()), count.fetch_add(1, Relaxed) + 1)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A subscriber that has an end.
pub enum Ending {
    /// It ends with the first event, or at this time.
    FirstEvent(u64),
    /// It ends at this position of the log, with these bytes.
    Position(u64, Vec<u8>),
    /// It was given the end; what its socket did not take is still to come.
    Reached,
}

/// The transport of a subscriber whose client also speaks: a thread of its own reads from the same socket. The door for
/// framings that are not HTTP's. Its socket blocks between two writes.
pub trait Transport: Send {
    /// How it wraps log bytes.
    fn framing(&self) -> FramingRef;

    /// Writes what the socket takes, and does not wait.
    ///
    /// # Errors
    /// As the socket has them.
    fn write(&self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize>;

    /// Whether it has something to say between two frames.
    fn has_pending(&self) -> bool;

    /// Takes that.
    fn take_pending(&self) -> Vec<u8>;

    /// A heartbeat is due. Returns whether the peer has answered those before.
    fn heartbeat(&self) -> bool;
}

/// What few subscribers have.
#[derive(Default)]
pub struct Extras {
    /// None: a stream without an end.
    pub ending: Option<Ending>,
    /// What watches its bytes; a transport has its own.
    pub watchers: Watchers,
    /// When to end it (`--max-age`), or to drop it.
    pub expires: Option<u64>,
    /// What in the log is not for it, from one position to another: in their order, and all of it still to come. The door for
    /// all who choose whom an event is for.
    pub skip_ranges: Vec<(u64, u64)>,
    /// What is left of something that is for it alone. Limit: it gets nothing further before that.
    pub direct: IntoIter<u8>,
    /// Its place in the frame that is open.
    pub frame: Option<(u64, u64)>,
    /// None: a stream of HTTP.
    pub transport: Option<Box<dyn Transport>>,
}

/// Why a subscriber is to be dropped.
#[derive(Clone, Copy, PartialEq)]
pub enum DropReason {
    /// It closed, failed, or has all that it asked for.
    Finished,
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
    pub extras: Option<Box<Extras>>,
    /// When it was last written to, or that was tried.
    pub last_write: u64,
    /// Drawn at random: by this it is found.
    pub key: u64,
    /// Tries in a row for which the socket was full.
    pub stalls: u8,
    /// The log's bytes are wrapped in chunks for it, unless a transport wraps them.
    pub chunked: bool,
    /// Why it is to be dropped at the end of this turn.
    pub drop_reason: Option<DropReason>,
    /// The peer sends no more: it closed, or it only shut down that direction.
    pub peer_shut: bool,
    /// Its connection, counted.
    pub slot: Slot,
}

impl Subscriber {
    fn ending(&self) -> Option<&Ending> {
        self.extras.as_ref()?.ending.as_ref()
    }

    /// Whether it has an end.
    pub fn has_ending(&self) -> bool {
        self.ending().is_some()
    }

    /// Whether it was given the end.
    pub fn is_ended(&self) -> bool {
        matches!(self.ending(), Some(Ending::Reached)) && !self.is_busy()
    }

    /// How the log's bytes are wrapped for it.
    pub fn framing(&self) -> FramingRef {
        self.transport().map_or(chunked(self.chunked), Transport::framing)
    }

    fn transport(&self) -> Option<&dyn Transport> {
        self.extras.as_ref()?.transport.as_deref()
    }

    /// Whether HTTP is its transport.
    pub fn is_http(&self) -> bool {
        self.transport().is_none()
    }

    /// Whether it is on its way out behind whole messages, and hears nothing new.
    pub fn is_leaving(&self) -> bool {
        !self.is_http() && self.has_ending()
    }

    /// What its transport has to say, if it may say it now.
    fn pending(&self) -> Option<&dyn Transport> {
        self.transport().filter(|transport| !self.has_ending() && transport.has_pending())
    }

    fn has_direct(&self) -> bool {
        self.extras.as_ref().is_some_and(|more| !more.direct.as_slice().is_empty())
    }

    /// Where it stands.
    pub fn cursor(&self) -> Cursor {
        Cursor { pos: self.pos, frame: self.extras.as_ref().and_then(|more| more.frame) }
    }

    /// It stands there now, and is to be given this first.
    fn move_to(&mut self, at: Cursor, own: IntoIter<u8>) {
        self.pos = at.pos;
        if self.extras.is_some() || at.frame.is_some() || !own.as_slice().is_empty() {
            let more = self.extras.get_or_insert_default();
            more.frame = at.frame;
            more.direct = own;
        }
    }

    /// Whether nothing can be written to it but what it is in the middle of.
    pub fn is_busy(&self) -> bool {
        self.has_direct() || self.cursor().frame.is_some()
    }

    /// Until when it waits for its first event.
    fn poll_deadline(&self) -> Option<u64> {
        match self.ending() {
            Some(Ending::FirstEvent(until)) => Some(*until),
            _ => None,
        }
    }

    /// Where it ends.
    fn end_position(&self) -> u64 {
        match self.ending() {
            Some(Ending::Position(stop, _)) => *stop,
            Some(Ending::Reached) => self.pos,
            _ => u64::MAX,
        }
    }

    /// The place from which it reads on in the log, and whether it needs a whole block; none if it is to be given something
    /// else first.
    pub fn next_read(&self) -> Option<(u64, bool)> {
        let whole = !self.is_http() && !self.is_busy();
        Some((self.pos, whole)).filter(|_| !self.has_direct() && self.pos != self.end_position())
    }

    /// Whether it is to be given something now: of a log that ends here, or of its own.
    pub fn is_due(&self, end: u64, now: u64) -> bool {
        let over =
            self.poll_deadline().map_or(self.pos == self.end_position() && !self.is_ended(), |until| now >= until);
        let wants = self.pos < end.min(self.end_position()) || self.is_busy() || over || self.pending().is_some();
        wants && self.stalled_until().is_none_or(|time| now >= time)
    }

    /// When a full socket is to be tried again.
    fn stalled_until(&self) -> Option<u64> {
        (self.stalls > 0).then(|| self.last_write + (1 << self.stalls.min(MAX_STALL)))
    }

    /// When it is to be tried again, or its time is over.
    pub fn retry_at(&self) -> Option<u64> {
        self.stalled_until().or(self.poll_deadline())
    }

    /// If it waits, and there is something for it or its time is over, it ends where the log does.
    pub fn begin_ending(&mut self, end: u64, now: u64) {
        if self.poll_deadline().is_some_and(|until| self.pos < end || now >= until) {
            self.end_at(end, (self.framing().last)());
        }
    }

    /// It ends at this position of the log, with these bytes.
    pub fn end_at(&mut self, pos: u64, last: Vec<u8>) {
        let more = self.extras.get_or_insert_default();
        more.ending = Some(Ending::Position(pos, last));
        more.skip_ranges.clear();
    }

    /// It ends as soon as messages are whole, and is dropped then if it has not.
    fn begin_leaving(&mut self, time: u64) {
        self.end_at(self.cursor().end(), (self.framing().last)());
        self.extras.iter_mut().for_each(|more| more.expires = Some(time));
    }

    /// Looks whether its place is lost in a log that begins here. If messages are whole, it then hears the rest of
    /// one, and that it is to come back; returns whether that begins now.
    pub fn fall_behind(&mut self, start: u64, now: u64) -> bool {
        let lost = self.cursor().end() < start;
        let between = self.drop_reason == Some(DropReason::CutOff) && !self.is_busy();
        if self.has_ending() || !(lost || between) {
            return false;
        }
        if !self.is_http() {
            self.drop_reason = None;
            self.begin_leaving(now + MAX_LEAVE_TIME);
            return true;
        }
        if self.stalls > 0 {
            self.drop_reason = Some(DropReason::CutOff);
        }
        false
    }

    /// Ends it if that is due, in steps: we say that no more comes, and the peer closes. The client of a transport has
    /// the last word.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn finish(&mut self, now: u64) -> Result<(), DropReason> {
        let due = self.pos == self.end_position() && !self.is_busy();
        if let Some(more) = self.extras.as_mut().filter(|_| due)
            && let Some(Ending::Position(_, last)) = more.ending.replace(Ending::Reached)
        {
            more.expires = Some(now + MAX_END_TIME);
            let word = self.transport().map(Transport::take_pending).unwrap_or_default();
            self.write_direct([word, last].concat().into_iter(), now)?;
        }
        if self.is_ended() && self.is_http() {
            self.extras.iter_mut().for_each(|more| more.watchers.response_sent());
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Gives it what it is to be given first, or else what the log has from its position on. Returns how far it came there.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn deliver(&mut self, bytes: &[u8], wires: &mut Vec<FramedBytes>, now: u64) -> Result<u64, DropReason> {
        let at = self.cursor();
        let mut own = self.extras.as_mut().map(|more| take(&mut more.direct)).unwrap_or_default();
        if let Some(transport) = self.pending().filter(|_| own.as_slice().is_empty() && at.frame.is_none()) {
            own = transport.take_pending().into_iter();
        }
        let apart = self.extras.as_ref().and_then(|more| more.skip_ranges.first());
        let limit = apart.map_or(u64::MAX, |apart| apart.0).min(self.end_position());
        let bytes = bytes.get(..usize::try_from(limit - self.pos).unwrap_or(usize::MAX)).unwrap_or(bytes);
        if !own.as_slice().is_empty() {
            self.write_direct(own, now)?;
        }
        if !self.has_direct() && !bytes.is_empty() {
            self.write_framed(at, bytes, wires, now)?;
        }
        let given = self.pos - at.pos;
        if let Some(more) = &mut self.extras {
            while more.skip_ranges.first().is_some_and(|apart| apart.0 == self.pos) {
                self.pos = more.skip_ranges.remove(0).1;
            }
        }
        self.finish(now)?;
        Ok(given)
    }

    /// Writes bytes of the log in its framing.
    fn write_framed(
        &mut self, mut at: Cursor, bytes: &[u8], wires: &mut Vec<FramedBytes>, now: u64,
    ) -> Result<(), DropReason> {
        let framing = self.framing();
        if !wires.iter().any(|wire| wire.is_of(framing)) {
            wires.push(FramedBytes::new(framing));
        }
        let Some(wire) = wires.iter_mut().find(|wire| wire.is_of(framing)) else { return Ok(()) };
        wire.frame(at, bytes);
        if wire.bytes.is_empty() {
            return Err(DropReason::CutOff); // somebody has damaged the log
        }
        let (end, rest) = &wire.end;
        let taken = self.write(&wire.bytes, now)?;
        if taken == wire.bytes.len() {
            self.move_to(*end, rest.clone().into_iter());
        } else {
            let rest = framing.wrap(&mut at, bytes, taken, &mut Vec::new());
            self.move_to(at, rest.into_iter());
        }
        Ok(())
    }

    /// Writes what is for it alone; what the socket does not take follows before anything else.
    ///
    /// # Errors
    /// If it is to be dropped.
    pub fn write_direct(&mut self, mut bytes: IntoIter<u8>, now: u64) -> Result<(), DropReason> {
        let taken = self.write(bytes.as_slice(), now)?;
        bytes.by_ref().take(taken).for_each(drop);
        self.move_to(self.cursor(), bytes);
        Ok(())
    }

    /// Writes what the socket takes, and notes when it is to be tried again. Returns how many bytes it took.
    fn write(&mut self, bytes: &[u8], now: u64) -> Result<usize, DropReason> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let taken = match self.extras.as_deref_mut() {
            None => self.stream.write(bytes),
            Some(Extras { transport: Some(transport), .. }) => transport.write(&self.stream, bytes),
            Some(more) => more.watchers.write(&self.stream, bytes),
        };
        let taken = match taken {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => return Err(DropReason::Finished),
        };
        self.last_write = now;
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
    pub fn heartbeat(&mut self, end: u64, now: u64, heartbeat: u64) -> Result<(), DropReason> {
        // A write tells more than a look.
        let quiet = self.peer_shut || self.stalls > 0 || self.has_ending() || now >= self.last_write + QUIET_TIME;
        let ended = quiet && self.look_at_peer()?;
        let over = self.extras.as_ref().and_then(|more| more.expires).is_some_and(|at| now >= at);
        if over && !self.has_ending() {
            self.begin_leaving(now + MAX_END_TIME);
            return self.finish(now);
        }
        let stalled = u64::from(self.stalls.saturating_sub(MAX_STALL)) << MAX_STALL;
        let silent = !self.is_http() && stalled >= (heartbeat * MAX_SILENT_HEARTBEATS).min(MAX_SILENCE);
        if over || silent || (self.peer_shut && self.is_ended()) {
            return Err(DropReason::Finished);
        }
        let has_more = self.stalls > 0 || self.is_busy() || self.pos < end || self.pos == self.end_position();
        if has_more || !(ended || now >= self.last_write + heartbeat) {
            return Ok(()); // there are bytes on their way to it, or it is not yet time
        }
        if self.transport().is_some_and(|transport| !transport.heartbeat()) {
            return Err(DropReason::Finished);
        }
        self.write_direct(Vec::from(self.framing().ping).into_iter(), now)
    }

    /// Looks whether the peer is there: drops what it sends, and says whether it has just stopped sending.
    ///
    /// That may be a close, or `shutdown` by a client that still reads (`nc -N`). The next byte that is sent to a
    /// closed socket is answered with a reset, and so the ping that follows tells which (RFC 9293 §3.5.2, §3.6).
    fn look_at_peer(&mut self) -> Result<bool, DropReason> {
        if !self.is_http() {
            return Ok(false); // its own thread looks all the time
        }
        match copy(&mut (&self.stream).take(MAX_DROPPED), &mut sink()) {
            Ok(MAX_DROPPED) => Ok(false), // there may be more
            Ok(_) if !self.peer_shut => {
                self.peer_shut = true;
                Ok(true)
            }
            Ok(_) if !matches!(self.stream.take_error(), Ok(None)) => Err(DropReason::Finished),
            Ok(_) => Ok(false),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(DropReason::Finished),
        }
    }
}

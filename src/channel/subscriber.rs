//! A subscriber: a socket and a position in a log. It has no thread and no queue. It has no buffer, except for the rest
//! of something that only this subscriber receives.
//!
//! A subscriber is given bytes of the log, and writes as many as its socket takes, wrapped in its framing. The rest is
//! read from the log again later, from its new position, which can be in the middle of an event or of a frame. Between
//! two frames it can receive bytes that are not in the log: a heartbeat, an event for it alone, the end of the stream.
//! Times are milliseconds on the caller's clock.
//!
//! Limits: `MAX_STALL`; 48 bytes for each subscriber, without its [`Extras`]. Deliberately absent: where the bytes of
//! the log come from.

use crate::channel::framing::{Cursor, FramedBytes, FramingRef, chunked};
use crate::channel::watch::Watchers;
use crate::system::limits::Slot;
use std::io::{self, ErrorKind, Read, Write, copy, sink};
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::vec::IntoIter;

/// Limit: after the nth write in a row that finds the socket full, there is a pause of 2^n ms. n is at most this, so
/// the pause grows from 2 ms to 512 ms.
const MAX_STALL: u8 = 9;
/// Limit, in milliseconds: the time that a client has to receive the end of its stream before the connection is closed
/// (RFC 9112 §9.6).
const MAX_END_TIME: u64 = 2000;
/// Limit, in milliseconds: how long a subscriber may take to receive the rest of a message if its position is no longer
/// kept.
const MAX_LEAVE_TIME: u64 = 10_000;
/// Limit: heartbeats during which the socket of a transport may take no bytes.
const MAX_SILENT_HEARTBEATS: u64 = 3;
/// Limit, in milliseconds: the same limit, if three heartbeats take longer. `stalls` cannot count a longer time.
const MAX_SILENCE: u64 = 120_000;
/// Limit: bytes from a client that one look discards. It sees that a client has stopped sending only after these.
const MAX_DISCARDED: u64 = 256 << 10;

/// How a subscriber's stream ends.
pub enum Ending {
    /// It ends with the first event, or at this time.
    FirstEvent(u64),
    /// It ends at this position of the log, with these bytes.
    Position(u64, Vec<u8>),
    /// It has ended: the last bytes were sent, except for those that the socket has not taken yet.
    Reached,
}

/// The transport of a subscriber whose client also sends: another thread reads from the same socket. Door: for
/// framings that are not HTTP's. The socket blocks, except during a write.
pub trait Transport: Send {
    /// Returns how it wraps log bytes.
    fn framing(&self) -> FramingRef;

    /// Writes what the socket takes, without waiting. Returns how many bytes that is.
    ///
    /// # Errors
    /// Those of the socket.
    fn write(&self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize>;

    /// Returns whether it has bytes of its own to send between two frames.
    fn has_pending(&self) -> bool;

    /// Removes these bytes, and returns them.
    fn take_pending(&self) -> Vec<u8>;

    /// Notes that a heartbeat is due. Returns whether the client has responded to earlier ones.
    fn heartbeat(&self) -> bool;
}

/// What only few subscribers need.
#[derive(Default)]
pub struct Extras {
    /// How the stream ends. None: it has no end.
    pub ending: Option<Ending>,
    /// The watchers of its bytes. A transport has its own.
    pub watchers: Watchers,
    /// When to end the stream (`--max-age`). If the stream is ending: when to drop the subscriber.
    pub expires: Option<u64>,
    /// Ranges of the log that the subscriber must not receive: from one position to another, in order, all ahead of it.
    /// Door: for everything that chooses the recipients of an event.
    pub skip_ranges: Vec<(u64, u64)>,
    /// The rest of bytes that only this subscriber receives. Limit: until they are sent, it receives nothing else.
    pub direct: IntoIter<u8>,
    /// Its place in the open frame; see [`Cursor`].
    pub frame: Option<(u64, u64)>,
    /// Its transport. None: HTTP.
    pub transport: Option<Box<dyn Transport>>,
}

/// What a look at a client finds.
#[derive(PartialEq)]
pub enum Client {
    /// It sends little or nothing, as a subscriber does.
    Quiet,
    /// It has sent so much that there may be more to read.
    Talks,
    /// It sends no more: it has closed the connection, or only its own direction of it.
    Shut,
}

/// Why a subscriber is to be dropped.
#[derive(Clone, Copy, PartialEq)]
pub enum DropReason {
    /// It has closed or failed, or it has received all that it asked for.
    Finished,
    /// The bytes at its position are no longer kept, or cannot be read.
    CutOff,
}

/// A socket and a position.
pub struct Subscriber {
    /// The socket. With HTTP it does not block. With a transport it blocks, except during a write.
    pub stream: TcpStream,
    /// The position of the next byte of the log to send.
    pub pos: u64,
    /// None if the subscriber needs no [`Extras`].
    pub extras: Option<Box<Extras>>,
    /// The time of the last write, even if the socket took no bytes.
    pub last_write: u64,
    /// A random number by which the subscriber is found.
    pub key: u64,
    /// How many writes in a row found the socket full.
    pub stalls: u8,
    /// Whether log bytes are wrapped in chunks. It is ignored if there is a transport.
    pub chunked: bool,
    /// Why to drop it at the end of this turn.
    pub drop_reason: Option<DropReason>,
    /// What the last look at the client found.
    pub client: Client,
    /// Counts its connection.
    pub slot: Slot,
}

impl Subscriber {
    fn ending(&self) -> Option<&Ending> {
        self.extras.as_ref()?.ending.as_ref()
    }

    /// Returns whether its stream has an end.
    pub fn has_ending(&self) -> bool {
        self.ending().is_some()
    }

    /// Returns whether everything was sent, including the end.
    pub fn is_ended(&self) -> bool {
        matches!(self.ending(), Some(Ending::Reached)) && !self.is_busy()
    }

    /// Returns how log bytes are wrapped for it.
    pub fn framing(&self) -> FramingRef {
        self.transport().map_or(chunked(self.chunked), Transport::framing)
    }

    fn transport(&self) -> Option<&dyn Transport> {
        self.extras.as_ref()?.transport.as_deref()
    }

    /// Returns whether HTTP is its transport.
    pub fn is_http(&self) -> bool {
        self.transport().is_none()
    }

    /// Returns whether it has a transport and its stream is ending: it receives the rest of its open message, and the
    /// end.
    pub fn is_leaving(&self) -> bool {
        !self.is_http() && self.has_ending()
    }

    /// Returns its transport, if that has bytes to send and the stream is not ending.
    fn pending(&self) -> Option<&dyn Transport> {
        self.transport().filter(|transport| !self.has_ending() && transport.has_pending())
    }

    fn has_direct(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| !extras.direct.as_slice().is_empty())
    }

    /// Returns its place in the log and in the open frame.
    pub fn cursor(&self) -> Cursor {
        Cursor { pos: self.pos, frame: self.extras.as_ref().and_then(|extras| extras.frame) }
    }

    /// Moves it to this place. The bytes in `direct` have to be sent first.
    fn move_to(&mut self, cursor: Cursor, direct: IntoIter<u8>) {
        self.pos = cursor.pos;
        if self.extras.is_some() || cursor.frame.is_some() || !direct.as_slice().is_empty() {
            let extras = self.extras.get_or_insert_default();
            extras.frame = cursor.frame;
            extras.direct = direct;
        }
    }

    /// Returns whether something was sent to it only in part. The rest has to be written before anything else.
    pub fn is_busy(&self) -> bool {
        self.has_direct() || self.cursor().frame.is_some()
    }

    /// Returns the time until which a poll waits for its first event.
    fn poll_deadline(&self) -> Option<u64> {
        match self.ending() {
            Some(Ending::FirstEvent(deadline)) => Some(*deadline),
            _ => None,
        }
    }

    /// Returns the position at which its stream ends, or the greatest possible one if it is unknown.
    fn end_position(&self) -> u64 {
        match self.ending() {
            Some(Ending::Position(pos, _)) => *pos,
            Some(Ending::Reached) => self.pos,
            _ => u64::MAX,
        }
    }

    /// Returns the position from which it needs bytes of the log, and whether it needs a whole block. Returns None if
    /// it is at its end, or if it has to be sent other bytes first.
    pub fn next_read(&self) -> Option<(u64, bool)> {
        let whole = !self.is_http() && !self.is_busy();
        Some((self.pos, whole)).filter(|_| !self.has_direct() && self.pos != self.end_position())
    }

    /// Returns whether it can be sent something now. `end` is where the log ends.
    pub fn is_due(&self, end: u64, now: u64) -> bool {
        let time_is_up = self
            .poll_deadline()
            .map_or(self.pos == self.end_position() && !self.is_ended(), |deadline| now >= deadline);
        let has_something =
            self.pos < end.min(self.end_position()) || self.is_busy() || time_is_up || self.pending().is_some();
        has_something && self.stalled_until().is_none_or(|time| now >= time)
    }

    /// Returns when to try a full socket again.
    fn stalled_until(&self) -> Option<u64> {
        (self.stalls > 0).then(|| self.last_write + (1 << self.stalls.min(MAX_STALL)))
    }

    /// Returns when to try a full socket again, or when a poll ends.
    pub fn next_try(&self) -> Option<u64> {
        self.stalled_until().or(self.poll_deadline())
    }

    /// Ends a poll where the log ends, if there are events for it, or if its time is up.
    pub fn begin_ending(&mut self, end: u64, now: u64) {
        if self.poll_deadline().is_some_and(|deadline| self.pos < end || now >= deadline) {
            self.end_at(end, (self.framing().last)());
        }
    }

    /// Ends its stream at this position of the log, with these bytes.
    pub fn end_at(&mut self, pos: u64, last: Vec<u8>) {
        let extras = self.extras.get_or_insert_default();
        extras.ending = Some(Ending::Position(pos, last));
        extras.skip_ranges.clear();
    }

    /// Ends its stream after the open frame. If it has not ended at the time `until`, it is dropped.
    fn begin_leaving(&mut self, until: u64) {
        self.end_at(self.cursor().end(), (self.framing().last)());
        self.extras.get_or_insert_default().expires = Some(until);
    }

    /// Ends its stream if its position is lost, in a log that now begins at `start`. With a transport, the client still
    /// receives the rest of its open message, and a message that it should come back; returns whether that begins now.
    /// With HTTP, the subscriber is dropped: here if its socket is full, otherwise when it next reads from the log.
    pub fn fall_behind(&mut self, start: u64, now: u64) -> bool {
        let lost = self.cursor().end() < start;
        let cut_between_frames = self.drop_reason == Some(DropReason::CutOff) && !self.is_busy();
        if self.has_ending() || !(lost || cut_between_frames) {
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

    /// Ends its stream, if that is due. First the last bytes are sent. With HTTP, this direction of the connection is
    /// then shut down, and the client closes the other one. With a transport, the thread that reads from the client
    /// does the rest.
    ///
    /// # Errors
    /// If the subscriber is to be dropped.
    pub fn finish(&mut self, now: u64) -> Result<(), DropReason> {
        let due = self.pos == self.end_position() && !self.is_busy();
        if let Some(extras) = self.extras.as_mut().filter(|_| due)
            && let Some(Ending::Position(_, last)) = extras.ending.replace(Ending::Reached)
        {
            extras.expires = Some(now + MAX_END_TIME);
            let pending = self.transport().map(Transport::take_pending).unwrap_or_default();
            self.write_direct([pending, last].concat().into_iter(), now)?;
        }
        if self.is_ended() && self.is_http() {
            self.extras.iter_mut().for_each(|extras| extras.watchers.response_sent());
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Sends it what only it receives, and then `bytes`: those of the log from its position on. Returns by how many
    /// bytes its position has moved.
    ///
    /// # Errors
    /// If the subscriber is to be dropped.
    pub fn deliver(&mut self, bytes: &[u8], framed: &mut Vec<FramedBytes>, now: u64) -> Result<u64, DropReason> {
        let cursor = self.cursor();
        let mut direct = self.extras.as_mut().map(|extras| take(&mut extras.direct)).unwrap_or_default();
        if let Some(transport) = self.pending().filter(|_| direct.as_slice().is_empty() && cursor.frame.is_none()) {
            direct = transport.take_pending().into_iter();
        }
        let limit = self
            .extras
            .as_ref()
            .and_then(|extras| extras.skip_ranges.first())
            .map_or(u64::MAX, |range| range.0)
            .min(self.end_position());
        let bytes = bytes.get(..usize::try_from(limit - self.pos).unwrap_or(usize::MAX)).unwrap_or(bytes);
        if !direct.as_slice().is_empty() {
            self.write_direct(direct, now)?;
        }
        if !self.has_direct() && !bytes.is_empty() {
            self.write_framed(cursor, bytes, framed, now)?;
        }
        let advance = self.pos - cursor.pos;
        if let Some(extras) = &mut self.extras {
            while extras.skip_ranges.first().is_some_and(|range| range.0 == self.pos) {
                self.pos = extras.skip_ranges.remove(0).1;
            }
        }
        self.finish(now)?;
        Ok(advance)
    }

    /// Writes bytes of the log in its framing.
    fn write_framed(
        &mut self, mut cursor: Cursor, bytes: &[u8], framed: &mut Vec<FramedBytes>, now: u64,
    ) -> Result<(), DropReason> {
        let framing = self.framing();
        if !framed.iter().any(|entry| entry.is_of(framing)) {
            framed.push(FramedBytes::new(framing));
        }
        let Some(entry) = framed.iter_mut().find(|entry| entry.is_of(framing)) else { return Ok(()) };
        entry.frame(cursor, bytes);
        if entry.bytes.is_empty() {
            return Err(DropReason::CutOff); // the log has no whole block where one should be: it was damaged
        }
        let (end, rest) = &entry.end;
        let taken = self.write(&entry.bytes, now)?;
        if taken == entry.bytes.len() {
            self.move_to(*end, rest.clone().into_iter());
        } else {
            let rest = framing.wrap(&mut cursor, bytes, taken, &mut Vec::new());
            self.move_to(cursor, rest.into_iter());
        }
        Ok(())
    }

    /// Writes bytes that only this subscriber receives. What the socket does not take is sent before anything else.
    ///
    /// # Errors
    /// If the subscriber is to be dropped.
    pub fn write_direct(&mut self, mut bytes: IntoIter<u8>, now: u64) -> Result<(), DropReason> {
        let taken = self.write(bytes.as_slice(), now)?;
        bytes.by_ref().take(taken).for_each(drop);
        self.move_to(self.cursor(), bytes);
        Ok(())
    }

    /// Writes what the socket takes, and notes whether it was full. Returns how many bytes it took.
    fn write(&mut self, bytes: &[u8], now: u64) -> Result<usize, DropReason> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let taken = match self.extras.as_deref_mut() {
            None => self.stream.write(bytes),
            Some(Extras { transport: Some(transport), .. }) => transport.write(&self.stream, bytes),
            Some(extras) => extras.watchers.write(&self.stream, bytes),
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

    /// Does the heartbeat's work: ends the stream if its time is up, sends a ping if the subscriber is idle, and drops
    /// it if the client has closed. `looks_at_all`: the client of a subscriber that is just idle is looked at, too.
    ///
    /// # Errors
    /// If the subscriber is to be dropped.
    pub fn heartbeat(&mut self, end: u64, now: u64, heartbeat: u64, looks_at_all: bool) -> Result<(), DropReason> {
        let looks = looks_at_all || self.client != Client::Quiet || self.stalls > 0 || self.has_ending();
        let just_shut = looks && self.look_at_client()?;
        let time_is_up = self.extras.as_ref().and_then(|extras| extras.expires).is_some_and(|time| now >= time);
        if time_is_up && !self.has_ending() {
            self.begin_leaving(now + MAX_END_TIME);
            return self.finish(now);
        }
        let stalled = u64::from(self.stalls.saturating_sub(MAX_STALL)) << MAX_STALL;
        let silent = !self.is_http() && stalled >= (heartbeat * MAX_SILENT_HEARTBEATS).min(MAX_SILENCE);
        if time_is_up || silent || (self.client == Client::Shut && self.is_ended()) {
            return Err(DropReason::Finished);
        }
        let has_more = self.stalls > 0 || self.is_busy() || self.pos < end || self.pos == self.end_position();
        if has_more || !(just_shut || now >= self.last_write + heartbeat) {
            return Ok(()); // there are bytes on their way to it, or it is not yet time for a ping
        }
        if self.transport().is_some_and(|transport| !transport.heartbeat()) {
            return Err(DropReason::Finished);
        }
        self.write_direct(Vec::from(self.framing().ping).into_iter(), now)
    }

    /// Looks whether the client is still there. Discards what it has sent, and returns whether it has just stopped
    /// sending.
    ///
    /// Then it has closed the connection, or only its own direction with `shutdown` (`nc -N`), and still reads. The
    /// ping that follows shows which: a closed socket responds with a reset to the next byte (RFC 9293 §3.5.2, §3.6).
    fn look_at_client(&mut self) -> Result<bool, DropReason> {
        if !self.is_http() {
            return Ok(false); // its own thread reads all the time
        }
        match copy(&mut (&self.stream).take(MAX_DISCARDED), &mut sink()) {
            Ok(MAX_DISCARDED) => {
                self.client = Client::Talks;
                Ok(false)
            }
            Ok(_) if self.client != Client::Shut => {
                self.client = Client::Shut;
                Ok(true)
            }
            Ok(_) if !matches!(self.stream.take_error(), Ok(None)) => Err(DropReason::Finished),
            Ok(_) => Ok(false),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.client = Client::Quiet;
                Ok(false)
            }
            Err(_) => Err(DropReason::Finished),
        }
    }
}

//! A socket that one thread reads while others write to it: a WebSocket's.
//!
//! The thread that reads waits in `read`, so the socket blocks; those that write never wait. A write makes the socket
//! non-blocking for its own length: the flag counts when a call begins, so who waits in a read goes on waiting. A read that
//! begins just then is told `WouldBlock`, and is tried again.
//!
//! The channel writes its frames, and the thread that reads its Pong frames. Neither may land inside the other (RFC 6455
//! §5.4), so each frame is written with the lock, and one that is not whole is noted.
//!
//! Limits: one Pong frame that waits, the newest (RFC 6455 §5.5.3).

use crate::trace::Trace;
use std::io;
use std::mem::take;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also one that a panicking thread has left: its data are plain counts, bytes and sockets, each valid
/// at every step, so one thread's bug does not end the server.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What those who write to one socket share.
#[derive(Default)]
pub struct Duplex {
    /// What watches its bytes.
    pub trace: Trace,
    busy: bool,   // a frame of the channel's is not whole yet
    closed: bool, // nothing comes behind a Close frame (RFC 6455 §5.5.1)
    /// Ping frames that the client has not answered.
    pub unanswered: u32,
    rest: Vec<u8>, // of a Pong frame
    pong: Vec<u8>, // one that waits
}

impl Duplex {
    /// Writes what the socket takes, and does not wait. `whole`: no frame is open behind these bytes.
    ///
    /// # Errors
    /// As the socket has them.
    pub fn write(&mut self, stream: &TcpStream, bytes: &[u8], whole: bool) -> io::Result<usize> {
        stream.set_nonblocking(true)?;
        let taken = self.trace.write(stream, bytes);
        stream.set_nonblocking(false)?;
        self.busy = !whole || !matches!(taken, Ok(n) if n == bytes.len());
        taken
    }

    /// Writes a Pong frame, or has it wait for its turn. Returns whether the channel is to be told that one waits.
    pub fn pong(&mut self, stream: &TcpStream, mut frame: Vec<u8>) -> bool {
        if self.closed {
            return false;
        }
        if self.busy || self.owes() {
            return std::mem::replace(&mut self.pong, frame).is_empty();
        }
        let taken = self.write(stream, &frame, true).unwrap_or(0); // if this fails no more is to be read soon
        self.busy = false;
        self.rest = frame.split_off(taken);
        self.owes()
    }

    /// The client sent this. `early`: with its request, and so it is explained already.
    pub fn heard(&mut self, bytes: &[u8], early: bool) {
        if !early {
            self.trace.received(bytes);
        }
        self.trace.heard(bytes);
    }

    /// What has to stand before a Close frame, which is written next.
    pub fn close(&mut self) -> Vec<u8> {
        self.closed = true;
        self.owed()
    }

    /// A Ping frame follows. Returns how many are unanswered with it.
    pub fn asked(&mut self) -> u32 {
        self.unanswered += 1;
        self.unanswered
    }

    /// Whether something waits.
    pub fn owes(&self) -> bool {
        !(self.rest.is_empty() && self.pong.is_empty())
    }

    /// What waits.
    pub fn owed(&mut self) -> Vec<u8> {
        [take(&mut self.rest), take(&mut self.pong)].concat()
    }
}

//! A socket that one thread reads while others write to it: a WebSocket's.
//!
//! The thread that reads waits in `read`, so the socket blocks; those that write never wait. A write makes the socket
//! non-blocking for its own length: the flag counts when a call begins, so who waits in a read goes on waiting. A read that
//! begins just then is told `WouldBlock`, and is tried again.
//!
//! The channel alone writes, so no frame lands inside another. What the thread that reads has to say waits here until the
//! channel stands between two frames. Limit: one Pong frame, the newest (RFC 6455 §5.5.3).

use crate::wings::trace::watch::Trace;
use std::io;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also one that a panicking thread has left: its data are plain counts, bytes and sockets, each valid
/// at every step, so one thread's bug does not end the server.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What those share that use one socket.
#[derive(Default)]
pub struct Duplex {
    /// What watches its bytes.
    pub trace: Trace,
    /// A Pong frame that waits; else nothing.
    pub pong: Vec<u8>,
    /// Ping frames that the client has not answered.
    pub unanswered: u32,
}

impl Duplex {
    /// Writes what the socket takes, and does not wait.
    ///
    /// # Errors
    /// As the socket has them.
    pub fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        stream.set_nonblocking(true)?;
        let taken = self.trace.write(stream, bytes);
        stream.set_nonblocking(false)?;
        taken
    }

    /// The client sent this. `early`: with its request, and so it is explained already.
    pub fn heard(&mut self, bytes: &[u8], early: bool) {
        if !early {
            self.trace.received(bytes);
        }
        self.trace.heard(bytes);
    }
}

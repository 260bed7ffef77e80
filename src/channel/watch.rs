//! Door: for everything that shows or explains the bytes of a connection, in both directions.
//!
//! Deliberately absent: watchers. Without one, a write to a connection is a plain write to its socket.

use std::io::{self, Write};
use std::net::TcpStream;

/// Watches one connection. A watcher that may wait says so: the threads that write to the connection wait with it.
pub trait Watch: Send {
    /// Receives all bytes that the client has sent.
    fn received(&mut self, _bytes: &[u8]) {}

    /// Receives the bytes of a request's body, or those after a handshake. `received` had them before.
    fn body(&mut self, _bytes: &[u8]) {}

    /// Calls `write` once, which writes these bytes to the socket. Returns what `write` returns: how many bytes the
    /// socket took.
    ///
    /// # Errors
    /// Those of the socket.
    fn send(&mut self, bytes: &[u8], write: &mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize>;

    /// Notes that a response was sent as a whole. Returns whether to watch what follows.
    fn response_sent(&mut self) -> bool {
        true
    }

    /// Notes that both sides send frames from now on (after a 101). `reader(true)` reads the
    /// frames of the client, `reader(false)` those of the server.
    fn frames(&mut self, _reader: &dyn Fn(bool) -> Box<dyn Frames>) {}
}

/// Reads the frames of one direction, to explain them to a person.
pub trait Frames: Send {
    /// Reads the next byte of a frame's header. After the last one it returns the header as text, and its meaning.
    fn header(&mut self, byte: u8) -> Option<(String, String)>;

    /// Reads payload from the front of `bytes`, and moves `bytes` behind it. Returns the payload without its mask, and
    /// whether the frame is complete.
    fn payload(&mut self, bytes: &mut &[u8]) -> (Vec<u8>, bool);

    /// Returns its position among the frames.
    fn position(&self) -> FramePosition;
}

/// A position among the frames of one direction.
#[derive(PartialEq)]
pub enum FramePosition {
    /// Between two frames, or in a header.
    Header {
        /// Whether a part of the header was read.
        begun: bool,
    },
    /// In a payload.
    Payload {
        /// Whether it is of a control frame, which belongs to no message.
        control: bool,
        /// Whether it is of the last frame of a message.
        last: bool,
        /// Whether the message is an event stream.
        is_event_stream: bool,
    },
}

/// All watchers of a connection.
#[derive(Default)]
pub struct Watchers(pub Vec<Box<dyn Watch>>);

impl Watchers {
    /// Calls `action` for each watcher.
    pub fn each(&mut self, action: impl FnMut(&mut Box<dyn Watch>)) {
        self.0.iter_mut().for_each(action);
    }

    /// Writes what the socket takes. Returns how many bytes that is.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        write(&mut self.0, stream, bytes)
    }

    /// Reports to each watcher that a response was sent as a whole. Keeps those that go on.
    pub fn response_sent(&mut self) {
        self.0.retain_mut(|watcher| watcher.response_sent());
    }
}

fn write(watchers: &mut [Box<dyn Watch>], mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match watchers {
        [] => stream.write(bytes),
        [first, others @ ..] => first.send(bytes, &mut || write(others, stream, bytes)),
    }
}

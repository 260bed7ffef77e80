//! What watches a connection's bytes, in and out: the door for all who show or explain them.
//!
//! Deliberately absent: any watcher. Without one, a write is a write.

use std::io::{self, Write};
use std::net::TcpStream;

/// Watches one connection. If it waits for anything, it says so, for whoever writes to the connection waits with it.
pub trait Watch: Send {
    /// The client sent this.
    fn received(&mut self, _bytes: &[u8]) {}

    /// It was of a request's body, or of what follows a handshake.
    fn body(&mut self, _bytes: &[u8]) {}

    /// Has this sent by `write`, which returns how many bytes the socket took.
    ///
    /// # Errors
    /// As the socket has them.
    fn send(&mut self, bytes: &[u8], write: &mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize>;

    /// All of an answer was sent. Returns whether it goes on watching what follows.
    fn response_sent(&mut self) -> bool {
        true
    }

    /// Behind a 101 both sides speak in frames, and such a reader is made for those of the client, or of the server.
    fn frames(&mut self, _reader: &dyn Fn(bool) -> Box<dyn Frames>) {}
}

/// Reads the frames of one direction, for a person.
pub trait Frames: Send {
    /// Takes the next byte of a frame's header; with the last one, the header's text and what it means.
    fn header(&mut self, byte: u8) -> Option<(String, String)>;

    /// Takes payload from the front of `bytes`; returns it in plain, and whether the frame is whole.
    fn payload(&mut self, bytes: &mut &[u8]) -> (Vec<u8>, bool);

    /// Where it stands.
    fn position(&self) -> FramePosition;
}

/// A place among frames.
#[derive(PartialEq)]
pub enum FramePosition {
    /// Between two, or in a header.
    Header {
        /// Some of it has come.
        begun: bool,
    },
    /// In the payload.
    Payload {
        /// Of a frame that belongs to no message.
        control: bool,
        /// Of the last frame of a message.
        last: bool,
        /// Of a message that is an event stream.
        streams: bool,
    },
}

/// All that watch a connection.
#[derive(Default)]
pub struct Watchers(pub Vec<Box<dyn Watch>>);

impl Watchers {
    /// Tells each of them.
    pub fn each(&mut self, tell: impl FnMut(&mut Box<dyn Watch>)) {
        self.0.iter_mut().for_each(tell);
    }

    /// Writes what the socket takes; returns how many bytes that are.
    ///
    /// # Errors
    /// As the socket has them.
    pub fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        write(&mut self.0, stream, bytes)
    }

    /// All of an answer was sent.
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

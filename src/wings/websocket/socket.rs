//! A WebSocket's connection: a channel heard and fed with frames.
//!
//! Its subscriber is one like any other, with framings of its own (`messages.rs`): the pump writes to the socket. The
//! connection's thread reads the client's frames, and publishes; a Pong frame waits for the channel.
//!
//! - a block of the log is a text message: its data, or with the subprotocol `event-stream` the whole block;
//! - a heartbeat is a Ping frame (RFC 6455 §5.5.2);
//! - the end is a Close frame behind whole messages: 1013, come back with `?since=`, or what the client's frames ask for.
//!
//! The thread that reads waits in `read`, so the socket blocks; those that write never wait. A write makes the socket
//! non-blocking for its own length. The flag counts when a call begins, so a read that waits goes on waiting. A read that
//! begins just then gets `WouldBlock`, and is tried again.
//!
//! The channel alone writes, so no frame lands inside another. What the thread that reads has to say waits here until the
//! channel stands between two frames. One Pong frame, the newest (RFC 6455 §5.5.3).
//!
//! Limits: `MAX_CLOSE_TIME` and `subscriber.rs` have those of its end; `--max-body` for a message. A WebSocket holds two
//! descriptors, and so it counts as two connections.

use crate::channel::framing::FramingRef;
use crate::channel::hub::Hub;
use crate::channel::state::{Channel, Opening};
use crate::channel::subscriber::{Slot, Transport};
use crate::channel::watch::Watchers;
use crate::server::connection::{Connection, Stop};
use crate::system::threads::lock;
use crate::wings::websocket::frames::{self, FrameReader, Parser, Received};
use crate::wings::websocket::messages::{BLOCKS, DATA};
use crate::wire::event::Event;
use crate::wire::reject::Reject;
use std::io;
use std::mem::take;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Limit: how long a Pong frame waits before more is read.
const MAX_PONG_WAIT: Duration = Duration::from_secs(1);
/// Limit: how long it may take to send the end that its client asked for.
const MAX_CLOSE_TIME: Duration = Duration::from_secs(2);
/// Limit: Ping frames that go unanswered.
const MAX_UNANSWERED: u32 = 2;

/// What the threads share that use one socket.
#[derive(Default)]
struct Shared {
    watchers: Watchers,
    pong: Vec<u8>,   // a frame that waits; else nothing
    unanswered: u32, // Ping frames
}

/// The half of a WebSocket that its channel writes to.
struct SocketTransport {
    shared: Arc<Mutex<Shared>>,
    framing: FramingRef,
}

impl Transport for SocketTransport {
    fn framing(&self) -> FramingRef {
        self.framing
    }

    fn write(&self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut shared = lock(&self.shared);
        stream.set_nonblocking(true)?;
        let taken = shared.watchers.write(stream, bytes);
        stream.set_nonblocking(false)?;
        taken
    }

    fn has_pending(&self) -> bool {
        !lock(&self.shared).pong.is_empty()
    }

    fn take_pending(&self) -> Vec<u8> {
        take(&mut lock(&self.shared).pong)
    }

    fn heartbeat(&self) -> bool {
        let mut shared = lock(&self.shared);
        shared.unanswered += 1;
        shared.unanswered <= MAX_UNANSWERED
    }
}

/// A WebSocket that is accepted.
pub struct Accepted {
    /// Where its channel is.
    pub hub: Arc<Hub>,
    /// Its channel.
    pub channel: Arc<Channel>,
    /// Each message is a whole block.
    pub blocks: bool,
    /// Whether its client may publish.
    pub may_publish: Result<(), Reject>,
    /// What it publishes, but for the data.
    pub template: Event,
}

/// What comes next, however long it takes; and whether it was read with what was before, and so is explained already.
fn receive(connection: &mut Connection, shared: &Mutex<Shared>) -> Result<(Vec<u8>, bool), Stop> {
    let mut bytes = connection.drain(usize::MAX);
    let early = !bytes.is_empty();
    while bytes.is_empty() {
        if !connection.read(Duration::MAX)? {
            drop(lock(shared)); // the socket did not block, for another thread is just writing to it
        }
        bytes = connection.drain(usize::MAX);
    }
    Ok((bytes, early))
}

impl Accepted {
    /// Reads and obeys the client's frames, until there are no more. Returns the Close frame with which
    /// it ends, if one is due.
    fn serve_frames(&self, connection: &mut Connection, shared: &Mutex<Shared>) -> Result<(), Vec<u8>> {
        let mut parser = Parser::new(self.hub.config().max_body);
        while let Ok((bytes, early)) = receive(connection, shared) {
            let mut watched = lock(shared);
            if !early {
                watched.watchers.each(|watcher| watcher.received(&bytes)); // else it came with the request
            }
            watched.watchers.each(|watcher| watcher.body(&bytes));
            drop(watched);
            let mut rest = &bytes[..];
            while let Some(received) = parser.next(&mut rest).map_err(frames::close_for)? {
                match received {
                    Received::Message(text) => {
                        self.may_publish.map_err(|reject| frames::close(Some(1008), reject.why))?;
                        let event = self.template.clone().with_data(text);
                        self.hub
                            .publish(&self.channel.name, &[event])
                            .map_err(|r| frames::close(Some(if r.status == 500 { 1011 } else { 1013 }), r.why))?;
                    }
                    Received::Ping(payload) => {
                        lock(shared).pong = frames::frame(frames::PONG, &payload);
                        self.hub.wake(&self.channel);
                        // Else a newer one takes its place.
                        self.channel.wait_until(MAX_PONG_WAIT, || lock(shared).pong.is_empty());
                    }
                    Received::Pong => lock(shared).unanswered = 0,
                    Received::Close(code) => return Err(frames::close(code, "")),
                }
            }
        }
        Ok(())
    }

    /// Serves it to its end, with the client's slot and a further one.
    pub fn serve(self, mut connection: Connection, _slot: Slot, further: Slot, mut opening: Opening) {
        let mut watchers = take(&mut connection.watchers);
        watchers.each(|watcher| watcher.frames(&|client| Box::new(FrameReader::new(self.blocks && !client))));
        let shared = Arc::new(Mutex::new(Shared { watchers, ..Shared::default() }));
        let framing: FramingRef = if self.blocks { &BLOCKS } else { &DATA };
        opening.extras.transport = Some(Box::new(SocketTransport { shared: shared.clone(), framing }));
        let key = opening.key;
        // If this fails the client is gone.
        if let Ok(stream) = connection.stream.try_clone()
            && self.hub.subscribe(&self.channel, stream, further, opening).is_ok()
        {
            connection.log_request(101);
            let last = self.serve_frames(&mut connection, &shared).err().unwrap_or_default();
            let now = self.hub.now();
            // Behind the frame that is open. If its socket does not take that in time, or there is nothing, it is just dropped.
            self.channel.with_subscriber(key, Instant::now() + MAX_CLOSE_TIME, |found| {
                let Some((subscriber, _)) = found else { return Some(()) };
                if !subscriber.has_ending() {
                    subscriber.end_at(subscriber.cursor().end(), last.clone());
                }
                let gone = subscriber.finish(now).is_err() || subscriber.is_ended() || last.is_empty();
                gone.then_some(())
            });
            self.channel.remove(key, now);
            connection.close(Stop::Close);
        }
    }
}

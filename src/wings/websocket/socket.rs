//! The connection of a WebSocket: its client receives a channel's events and publishes, in frames.
//!
//! It is a subscriber like any other, with its own framings (`messages.rs`), and the pump writes to its socket. The
//! connection's thread reads the client's frames and publishes.
//!
//! - A block of the log is a text message: its data, or the whole block with the subprotocol `event-stream`.
//! - A heartbeat is a Ping frame (RFC 6455 §5.5.2).
//! - The end is a Close frame after a complete message. Its code is 1013 (come back with `?since=`), or the one that
//!   the client's frames ask for.
//!
//! The connection's thread waits in `read`, so the socket is blocking. The threads that write must not wait, so they
//! make it non-blocking during each write. A `read` that is already waiting goes on waiting, because the flag only
//! counts when a call begins. A `read` that begins during a write may get `WouldBlock`, and is then tried again.
//!
//! Only the channel writes, so no frame lands inside another. A Pong frame of the reading thread waits here until the
//! channel is between two frames. Only the newest Pong frame waits (RFC 6455 §5.5.3).
//!
//! Limits: `MAX_PONG_WAIT`, `MAX_CLOSE_TIME`, `MAX_UNANSWERED`; `--max-body` for a message. `subscriber.rs` has the
//! limits of an end. A WebSocket holds two descriptors, so it counts as two connections.

use crate::channel::framing::FramingRef;
use crate::channel::hub::Hub;
use crate::channel::state::{Channel, StreamStart};
use crate::channel::subscriber::Transport;
use crate::channel::watch::Watchers;
use crate::server::connection::{Connection, Stop};
use crate::system::limits::Slot;
use crate::system::memory::Counted;
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

/// Limit: how long the reading thread waits until a Pong frame is sent.
const MAX_PONG_WAIT: Duration = Duration::from_secs(1);
/// Limit: how long it may take to send the Close frame that the client's frames ask for.
const MAX_CLOSE_TIME: Duration = Duration::from_secs(2);
/// Limit: Ping frames in a row that the client may leave without a Pong frame.
const MAX_UNANSWERED: u32 = 2;

/// The state that the threads of one socket share.
#[derive(Default)]
struct Shared {
    watchers: Watchers,
    pong: Vec<u8>,   // a Pong frame that waits, or empty
    unanswered: u32, // Ping frames since the last Pong frame
}

/// The side of a WebSocket to which its channel writes.
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

/// An accepted WebSocket.
pub struct Accepted {
    /// The hub of its channel.
    pub hub: Arc<Hub>,
    /// Its channel.
    pub channel: Arc<Channel>,
    /// Whether each message is a whole block.
    pub blocks: bool,
    /// Whether its client may publish, or why not.
    pub may_publish: Result<(), Reject>,
    /// The name of the events that its client publishes; they have no data yet.
    pub template: Event,
}

/// Waits for bytes. Returns them, and whether they came together with the request: then watchers have already
/// received them.
fn receive(connection: &mut Connection, shared: &Mutex<Shared>) -> Result<(Vec<u8>, bool), Stop> {
    let mut bytes = connection.drain(usize::MAX);
    let early = !bytes.is_empty();
    while bytes.is_empty() {
        if !connection.read(Duration::MAX)? {
            drop(lock(shared)); // the socket did not block, because a write is under way; this waits for its end
        }
        bytes = connection.drain(usize::MAX);
    }
    Ok((bytes, early))
}

impl Accepted {
    /// Reads the client's frames and serves them, until the client closes the connection or breaks a rule.
    ///
    /// # Errors
    /// The Close frame with which the WebSocket is to end, if one is due.
    fn serve_frames(&self, connection: &mut Connection, shared: &Mutex<Shared>) -> Result<(), Vec<u8>> {
        let close = |reject: Reject| frames::close(Some(if reject.status == 500 { 1011 } else { 1013 }), reject.why);
        let max = self.hub.config().max_body;
        let mut parser = Parser::new(max);
        let message = Counted::new(&self.hub.budget.bodies); // what has come of it
        while let Ok((bytes, early)) = receive(connection, shared) {
            let mut watched = lock(shared);
            if !early {
                watched.watchers.each(|watcher| watcher.received(&bytes)); // early bytes were received with the request
            }
            watched.watchers.each(|watcher| watcher.body(&bytes));
            drop(watched);
            let mut rest = &bytes[..];
            while let Some(received) = parser.next(&mut rest).map_err(frames::close_for)? {
                match received {
                    Received::Message(text) => {
                        self.may_publish.map_err(|reject| frames::close(Some(1008), reject.why))?;
                        let event = self.template.clone().with_data(text);
                        self.hub.publish(&self.channel.name, &[event]).map_err(close)?;
                    }
                    Received::Ping(payload) => {
                        lock(shared).pong = frames::frame(frames::PONG, &payload);
                        self.hub.wake(&self.channel);
                        // If it takes longer, a newer Pong frame may replace this one.
                        self.channel.wait_until(MAX_PONG_WAIT, || lock(shared).pong.is_empty());
                    }
                    Received::Pong => lock(shared).unanswered = 0,
                    Received::Close(code) => return Err(frames::close(code, "")),
                }
            }
            self.hub.admit(&message, parser.message.capacity().min(max)).map_err(close)?;
        }
        Ok(())
    }

    /// Serves the WebSocket to its end. It holds the client's slot and a slot for the second descriptor.
    pub fn serve(self, mut connection: Connection, _slot: Slot, extra_slot: Slot, mut stream_start: StreamStart) {
        let mut watchers = take(&mut connection.watchers);
        watchers.each(|watcher| watcher.frames(&|client| Box::new(FrameReader::new(self.blocks && !client))));
        let shared = Arc::new(Mutex::new(Shared { watchers, ..Shared::default() }));
        let framing: FramingRef = if self.blocks { &BLOCKS } else { &DATA };
        stream_start.extras.transport = Some(Box::new(SocketTransport { shared: shared.clone(), framing }));
        let key = stream_start.key;
        // If this fails, the client has closed the connection.
        if let Ok(stream) = connection.stream.try_clone()
            && self.hub.subscribe(&self.channel, stream, extra_slot, stream_start).is_ok()
        {
            connection.log_request(101);
            let close_frame = self.serve_frames(&mut connection, &shared).err().unwrap_or_default();
            let now = self.hub.now();
            // The Close frame follows the frame that is open. If the socket does not take it in time, or none is due,
            // the subscriber is dropped without it.
            self.channel.with_subscriber(key, Instant::now() + MAX_CLOSE_TIME, |found| {
                let Some((subscriber, _)) = found else { return Some(()) };
                if !subscriber.has_ending() {
                    subscriber.end_at(subscriber.cursor().end(), close_frame.clone());
                }
                let is_done = subscriber.finish(now).is_err() || subscriber.is_ended() || close_frame.is_empty();
                is_done.then_some(())
            });
            self.channel.remove(key, now);
            connection.close(Stop::Close);
        }
    }
}

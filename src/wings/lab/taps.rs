//! Taps: a tap publishes the bytes of one connection as events of a channel.
//!
//! Threads that write to a tapped connection, above all the pump, only copy the bytes into a queue. Another thread
//! makes events of them. It waits a few milliseconds first, so that a busy connection seldom has to wake it.
//!
//! The channel is kept in memory, and forgotten soon after the page is closed. Any client that knows the key can
//! subscribe to it. The page draws the key at random, and no list shows it.
//!
//! Limits: `MAX_TAPS`, `MAX_PIECE`, `MAX_QUEUE`, `MAX_CHANNELS`, `HISTORY`. A tap holds a second descriptor for its
//! socket, so it counts as a second connection.

use crate::channel::hub::{GroupLimits, Hub};
use crate::channel::publish::NewIds;
use crate::channel::state::Channel;
use crate::channel::watch::Watch;
use crate::server::doors::App;
use crate::system::limits::{Places, Slot};
use crate::system::threads::{count_one, lock, spawn};
use crate::system::time::clock;
use crate::wire::event::{Event, json};
use crate::wire::reject::{CONNECTIONS, LATER, Reject, table};
use std::io;
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{Thread, park, sleep};
use std::time::Duration;

/// Limit: channels of the lab. A new channel replaces one without subscribers and without new events.
const MAX_CHANNELS: usize = 64;
/// Limit: bytes that are kept of each channel, instead of `--history`.
const HISTORY: usize = 64 << 10;
/// Limit: tapped connections at the same time, and half of that for one client's address.
const MAX_TAPS: usize = 256;
/// Limit: bytes of the connection in one event.
const MAX_PIECE: usize = 8192;
/// Limit: bytes in the queue of all taps. Each piece counts with `PIECE_OVERHEAD`. As many bytes may be in
/// publication.
const MAX_QUEUE: usize = 512 << 10;
const PIECE_OVERHEAD: usize = size_of::<Piece>() + 16;
/// How long the publishing thread lets pieces gather, so that a busy connection seldom has to wake it.
const GATHER_TIME: Duration = Duration::from_millis(5);

table! {
    TAP 400 "tincan, /lab" "a tap's key is 1 to 64 of A-Z a-z 0-9 _ -, and a channel of the lab cannot be tapped; correct the key, or leave it out"
    TAPS 503 "tincan, ?tap=" "there are too many taps, in all or of this address; close the lab pages that you do not need, or come back later" => LATER
}

/// A part of a connection's bytes, which becomes an event.
struct Piece {
    connection: u64,
    channel: Arc<Channel>,
    name: &'static str,
    at: Duration, // time since 1970
    bytes: Box<[u8]>,
    lost: u64, // bytes before these that are missing
}

impl Piece {
    /// Publishes the piece, after an event `lost` if bytes are missing.
    fn publish(&self, hub: &Hub) {
        let at = self.at.as_micros() as u64;
        let publish_event = |name: &str, bytes: String| {
            let connection = self.connection;
            let data = format!("{{\"connection\":{connection},\"at\":{}.{:03}{bytes}}}", at / 1000, at % 1000);
            let event = Event::new(data).named(name).unwrap_or_default();
            let _ = self.channel.publish(&[event], NewIds::Next, None); // this cannot fail in memory
            hub.wake(&self.channel);
        };
        if self.lost > 0 {
            publish_event("lost", format!(",\"bytes\":{}", self.lost));
        }
        let bytes: String = self.bytes.iter().map(|byte| char::from(*byte)).collect();
        publish_event(self.name, if bytes.is_empty() { bytes } else { format!(",\"bytes\":{}", json(&bytes)) });
    }
}

/// The pieces that wait for publication, and their size.
#[derive(Default)]
struct Queue {
    pieces: Vec<Piece>,
    bytes: usize,
}

/// Puts the bytes of one connection into the queue.
struct Recorder {
    connection: u64,
    channel: Arc<Channel>,
    taps: Arc<Taps>,
    lost: u64, // missing bytes that no event `lost` has counted yet
}

impl Recorder {
    /// Puts bytes into the queue, or counts them as lost if it is full.
    fn record(&mut self, name: &'static str, bytes: &[u8]) {
        let size = PIECE_OVERHEAD + bytes.len();
        let mut queue = lock(&self.taps.queue);
        // The end goes into the queue even if that is full: it comes once for each tap.
        if queue.bytes + size > MAX_QUEUE && !bytes.is_empty() {
            self.lost += bytes.len() as u64;
            return;
        }
        queue.bytes += size;
        queue.pieces.push(Piece {
            connection: self.connection,
            channel: self.channel.clone(),
            name,
            at: clock(),
            bytes: bytes.into(),
            lost: take(&mut self.lost),
        });
        self.taps.publisher.unpark();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.record("end", b"");
    }
}

/// A tapped connection.
struct TappedConnection {
    key: Box<str>, // of its tap
    stream: TcpStream,
    _slots: (Slot, Slot),              // for the second descriptor, and of the tap
    recorder: Mutex<Option<Recorder>>, // none after the end
}

/// Records bytes in pieces, if the connection is not cut.
fn record(recorder: &mut Option<Recorder>, name: &'static str, bytes: &[u8]) {
    recorder.iter_mut().for_each(|recorder| bytes.chunks(MAX_PIECE).for_each(|piece| recorder.record(name, piece)));
}

impl Watch for Arc<TappedConnection> {
    fn body(&mut self, bytes: &[u8]) {
        record(&mut lock(&self.recorder), "in", bytes);
    }

    fn send(&mut self, bytes: &[u8], write: &mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize> {
        let mut recorder = lock(&self.recorder); // held: the end must not come between the write and its bytes
        let taken = write()?;
        record(&mut recorder, "out", bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn response_sent(&mut self) -> bool {
        false
    }
}

/// All tapped connections, the queue, and the thread that publishes.
pub struct Taps {
    hub: Arc<Hub>,
    connection_count: Mutex<u64>,
    places: Arc<Places>,
    connections: Mutex<Vec<Weak<TappedConnection>>>,
    queue: Arc<Mutex<Queue>>,
    publisher: Thread,
}

impl Taps {
    /// Creates it without taps. It adds the channels of the lab to the hub, and starts the thread that publishes.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(hub: Arc<Hub>) -> io::Result<Arc<Taps>> {
        hub.add_group(GroupLimits {
            prefix: "lab/",
            channels: MAX_CHANNELS,
            history: HISTORY,
            forget: hub.config().forget / 60,
        });
        let queue = Arc::<Mutex<Queue>>::default();
        let publishing_hub = hub.clone();
        let publishing_queue = queue.clone();
        let publish = move || loop {
            park();
            sleep(GATHER_TIME);
            let pieces = take(&mut *lock(&publishing_queue)).pieces;
            pieces.into_iter().for_each(|piece| piece.publish(&publishing_hub)); // frees each at once
        };
        let publisher = spawn("taps", Box::new(publish))?;
        Ok(Arc::new(Taps {
            hub,
            connection_count: Mutex::default(),
            places: Arc::default(),
            connections: Mutex::default(),
            queue,
            publisher,
        }))
    }

    /// Taps this connection, for the channel with this key.
    ///
    /// # Errors
    /// [`CONNECTIONS`] or [`TAPS`] if there is no room for it.
    pub fn tap(self: &Arc<Taps>, app: &App, key: &str, stream: &TcpStream) -> Result<Box<dyn Watch>, Reject> {
        let client = stream.peer_addr().map_err(|_| CONNECTIONS)?.ip();
        let (slot, all, same) = self.places.claim(client);
        if all > MAX_TAPS || same > MAX_TAPS / 2 {
            return Err(TAPS);
        }
        let tapped = Arc::new(TappedConnection {
            key: key.into(),
            _slots: (app.extra_connection(client)?, slot),
            stream: stream.try_clone().map_err(|_| CONNECTIONS)?,
            recorder: Mutex::default(),
        });
        let mut connections = lock(&self.connections);
        connections.retain(|tapped| tapped.strong_count() > 0);
        connections.push(Arc::downgrade(&tapped));
        drop(connections);
        if lock(&self.queue).bytes > MAX_QUEUE {
            return Err(TAPS); // the queue is full of ends of earlier taps
        }
        *lock(&tapped.recorder) = Some(Recorder {
            connection: count_one(&self.connection_count),
            channel: self.hub.channel(&format!("lab/{key}")).map_err(|_| TAPS)?,
            taps: self.clone(),
            lost: 0,
        });
        Ok(Box::new(tapped))
    }

    /// Cuts the connections with this key. For their taps this is the end at once, even if the threads that use them
    /// notice it later. Returns the number of the connections.
    pub fn cut(&self, key: &str) -> usize {
        let connections = lock(&self.connections); // held, so that no tap begins before the ends are recorded
        let of_key = connections.iter().filter_map(Weak::upgrade).filter(|tapped| *tapped.key == *key);
        of_key
            .filter(|tapped| {
                // This ends a write that waits while it holds the recorder's lock.
                tapped.stream.shutdown(Shutdown::Both).is_ok() & lock(&tapped.recorder).take().is_some()
            })
            .count()
    }
}

//! Taps: what is said on a connection becomes events of a channel.
//!
//! Whoever writes to a tapped connection, the pump above all, copies the bytes into a queue and goes on. One thread
//! makes events of them, a few milliseconds later, so that a busy connection seldom has to wake it.
//!
//! Such a channel is kept in memory, and forgotten soon after the page has gone. Whoever knows the key can read along;
//! the page draws it at random, and it stands in no list.
//!
//! Limits: `MAX_TAPS`, `PIECE`, `MAX_QUEUE`, `MAX_CHANNELS`, `HISTORY`. A tap holds a second descriptor for its socket,
//! and so it counts as a second connection.

use crate::channel::hub::{GroupLimits, Hub};
use crate::channel::publish::NewIds;
use crate::channel::state::Channel;
use crate::channel::subscriber::Slot;
use crate::channel::watch::Watch;
use crate::server::doors::App;
use crate::system::limits::Quota;
use crate::system::threads::{lock, spawn};
use crate::wire::event::{Event, json};
use crate::wire::reject::{CONNECTIONS, LATER, Reject, table};
use std::io;
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{Thread, park, sleep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Limit: channels of the lab. One that nobody reads, and into which nothing is told, gives way to a new one.
const MAX_CHANNELS: usize = 64;
/// Limit: bytes kept of each, in place of `--history`.
const HISTORY: usize = 64 << 10;
/// Limit: connections with a tap, at a time; half of them for one client's address.
const MAX_TAPS: usize = 256;
/// Limit: bytes that are told at a time.
const PIECE: usize = 8192;
/// Limit: bytes of all taps that wait to be told, each piece with those that it takes beside. As many are being told.
const MAX_QUEUE: usize = 512 << 10;
const PIECE_OVERHEAD: usize = size_of::<Piece>() + 16;
/// How long pieces gather that are told together, so that a busy connection seldom has to wake who tells them.
const GATHER: Duration = Duration::from_millis(5);

table! {
    TAP 400 "tincan, /lab" "a tap's name is 1 to 64 of A-Z a-z 0-9 _ -, and a tap is not tapped itself; mend it"
    TAPS 503 "tincan, ?tap=" "there is no room for a further tap, or for a further one of this address; close lab pages that nobody needs, or come back later" => LATER
}

/// What is to be told.
struct Piece {
    connection: u64,
    channel: Arc<Channel>,
    name: &'static str,
    at: Duration, // since 1970
    bytes: Box<[u8]>,
    lost: usize, // bytes before these
}

impl Piece {
    fn publish(&self, hub: &Hub) {
        let at = self.at.as_micros() as u64;
        let tell = |name: &str, bytes: String| {
            let connection = self.connection;
            let data = format!("{{\"connection\":{connection},\"at\":{}.{:03}{bytes}}}", at / 1000, at % 1000);
            let event = Event::new(data).named(name).unwrap_or_default();
            let _ = self.channel.publish(&[event], NewIds::Next, None); // it is in memory, and nothing there can fail
            hub.wake(&self.channel);
        };
        if self.lost > 0 {
            tell("lost", format!(",\"bytes\":{}", self.lost));
        }
        let bytes: String = self.bytes.iter().map(|byte| char::from(*byte)).collect();
        tell(self.name, if bytes.is_empty() { bytes } else { format!(",\"bytes\":{}", json(&bytes)) });
    }
}

/// What waits to be told, and its bytes.
#[derive(Default)]
struct Queue {
    pieces: Vec<Piece>,
    bytes: usize,
}

/// The tap of a connection.
struct Recorder {
    connection: u64,
    channel: Arc<Channel>,
    taps: Arc<Taps>,
    lost: usize, // bytes that were not told, and that nobody was told of
}

impl Recorder {
    fn record(&mut self, name: &'static str, bytes: &[u8]) {
        let size = PIECE_OVERHEAD + bytes.len();
        let mut queue = lock(&self.taps.queue);
        // The end is told in any case: it comes once for each tap.
        if queue.bytes + size > MAX_QUEUE && !bytes.is_empty() {
            self.lost += bytes.len();
            return;
        }
        queue.bytes += size;
        queue.pieces.push(Piece {
            connection: self.connection,
            channel: self.channel.clone(),
            name,
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
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

/// A tapped connection: the key of its tap, its socket, which counts, and its line until the end is told.
struct TappedConnection {
    key: Box<str>,
    stream: TcpStream,
    _slot: Slot,
    recorder: Mutex<Option<Recorder>>,
}

fn record(line: &mut Option<Recorder>, name: &'static str, bytes: &[u8]) {
    line.iter_mut().for_each(|line| bytes.chunks(PIECE).for_each(|piece| line.record(name, piece)));
}

impl Watch for Arc<TappedConnection> {
    fn body(&mut self, bytes: &[u8]) {
        record(&mut lock(&self.recorder), "in", bytes);
    }

    fn send(&mut self, bytes: &[u8], write: &mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize> {
        let mut line = lock(&self.recorder); // so that the end is not told between the two
        let taken = write()?;
        record(&mut line, "out", bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn response_sent(&mut self) -> bool {
        false
    }
}

/// The tapped connections.
pub struct Taps {
    hub: Arc<Hub>,
    next_connection: AtomicU64,
    connections: Quota<TappedConnection>,
    queue: Arc<Mutex<Queue>>,
    publisher: Thread,
}

impl Taps {
    /// No taps yet, but the channels, and the thread that tells what taps hear.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(hub: Arc<Hub>) -> io::Result<Arc<Taps>> {
        hub.add_group(GroupLimits {
            prefix: "lab/",
            channels: MAX_CHANNELS,
            history: HISTORY,
            forget: hub.config().forget / 60,
        });
        let queue = Arc::<Mutex<Queue>>::default();
        let told = hub.clone();
        let waiting = queue.clone();
        let tell = move || loop {
            park();
            sleep(GATHER);
            let pieces = take(&mut *lock(&waiting)).pieces;
            pieces.into_iter().for_each(|piece| piece.publish(&told)); // each is free then
        };
        let teller = spawn("taps", Box::new(tell))?;
        Ok(Arc::new(Taps {
            hub,
            next_connection: AtomicU64::new(1),
            connections: Quota(Mutex::default()),
            queue,
            publisher: teller,
        }))
    }

    /// A tap on this connection, for the channel of this key.
    ///
    /// # Errors
    /// [`CONNECTIONS`] or [`TAPS`] if it is one too many.
    pub fn tap(self: &Arc<Taps>, app: &App, key: &str, stream: &TcpStream) -> Result<Box<dyn Watch>, Reject> {
        let plug = TappedConnection {
            key: key.into(),
            _slot: app.extra_connection()?,
            stream: stream.try_clone().map_err(|_| CONNECTIONS)?,
            recorder: Mutex::default(),
        };
        let plug = self.connections.claim(MAX_TAPS, stream, plug).ok_or(TAPS)?;
        if lock(&self.queue).bytes > MAX_QUEUE {
            return Err(TAPS); // the ends of those that there were are still to be told
        }
        *lock(&plug.recorder) = Some(Recorder {
            connection: self.next_connection.fetch_add(1, Relaxed),
            channel: self.hub.channel(&format!("lab/{key}")).map_err(|_| TAPS)?,
            taps: self.clone(),
            lost: 0,
        });
        Ok(Box::new(plug))
    }

    /// Pulls the plug of the connections of this key: for their taps this is the end, whenever those that use them notice.
    /// Returns how many there were.
    pub fn cut(&self, key: &str) -> usize {
        let plugs = lock(&self.connections.0); // no other tap begins before the ends are told
        let own = plugs.iter().filter_map(|place| place.1.upgrade()).filter(|plug| *plug.key == *key);
        own.filter(|plug| {
            // A write that waits, and has us wait, is over then.
            plug.stream.shutdown(Shutdown::Both).is_ok() & lock(&plug.recorder).take().is_some()
        })
        .count()
    }
}

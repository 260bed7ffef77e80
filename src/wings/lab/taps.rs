//! Taps: what is said on a connection becomes events of a channel.
//!
//! Whoever writes to a tapped connection, the pump above all, copies the bytes into a queue and goes on. One thread
//! makes events of them, a few milliseconds later, so that a busy connection seldom has to wake it.
//!
//! Such a channel is kept in memory, and forgotten soon after the page has gone. Whoever knows the key can read along;
//! the page draws it at random, and it stands in no list.
//!
//! Limits: `MOST`, `PIECE`, `QUEUE`, `KEYS`, `HISTORY`. A tap holds a second descriptor for its socket,
//! and so it counts as a second connection.

use crate::channel::hub::{Annex, Hub};
use crate::channel::publish::Numbers;
use crate::channel::state::Channel;
use crate::channel::subscriber::Slot;
use crate::channel::watch::Watch;
use crate::server::doors::Desk;
use crate::system::limits::Places;
use crate::system::threads::{lock, start};
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
const KEYS: usize = 64;
/// Limit: bytes kept of each, in place of `--history`.
const HISTORY: usize = 64 << 10;
/// Limit: connections with a tap, at a time; half of them for one client's address.
const MOST: usize = 256;
/// Limit: bytes that are told at a time.
const PIECE: usize = 8192;
/// Limit: bytes of all taps that wait to be told, each piece with those that it takes beside. As many are being told.
const QUEUE: usize = 512 << 10;
const BESIDE: usize = size_of::<Piece>() + 16;
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
    fn tell(&self, hub: &Hub) {
        let at = self.at.as_micros() as u64;
        let tell = |name: &str, bytes: String| {
            let connection = self.connection;
            let data = format!("{{\"connection\":{connection},\"at\":{}.{:03}{bytes}}}", at / 1000, at % 1000);
            let event = Event::new(data).named(name).unwrap_or_default();
            let _ = self.channel.publish(&[event], Numbers::Own, None); // it is in memory, and nothing there can fail
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
struct Line {
    connection: u64,
    channel: Arc<Channel>,
    taps: Arc<Taps>,
    lost: usize, // bytes that were not told, and that nobody was told of
}

impl Line {
    fn tell(&mut self, name: &'static str, bytes: &[u8]) {
        let size = BESIDE + bytes.len();
        let mut queue = lock(&self.taps.queue);
        // The end is told in any case: it comes once for each tap.
        if queue.bytes + size > QUEUE && !bytes.is_empty() {
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
        self.taps.teller.unpark();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tell("end", b"");
    }
}

/// A tapped connection: the key of its tap, its socket, which counts, and its line until the end is told.
struct Plug {
    key: Box<str>,
    stream: TcpStream,
    _slot: Slot,
    line: Mutex<Option<Line>>,
}

fn tell(line: &mut Option<Line>, name: &'static str, bytes: &[u8]) {
    line.iter_mut().for_each(|line| bytes.chunks(PIECE).for_each(|piece| line.tell(name, piece)));
}

impl Watch for Arc<Plug> {
    fn body(&mut self, bytes: &[u8]) {
        tell(&mut lock(&self.line), "in", bytes);
    }

    fn send(&mut self, bytes: &[u8], write: &mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize> {
        let mut line = lock(&self.line); // so that the end is not told between the two
        let taken = write()?;
        tell(&mut line, "out", bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn answered(&mut self) -> bool {
        false
    }
}

/// The tapped connections.
pub struct Taps {
    hub: Arc<Hub>,
    count: AtomicU64,
    plugs: Places<Plug>,
    queue: Arc<Mutex<Queue>>,
    teller: Thread,
}

impl Taps {
    /// No taps yet, but the channels, and the thread that tells what taps hear.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(hub: Arc<Hub>) -> io::Result<Arc<Taps>> {
        hub.build(Annex { prefix: "lab/", channels: KEYS, history: HISTORY, forget: hub.config().forget / 60 });
        let queue = Arc::<Mutex<Queue>>::default();
        let told = hub.clone();
        let waiting = queue.clone();
        let tell = move || loop {
            park();
            sleep(GATHER);
            let pieces = take(&mut *lock(&waiting)).pieces;
            pieces.into_iter().for_each(|piece| piece.tell(&told)); // each is free then
        };
        let teller = start("taps", Box::new(tell))?;
        Ok(Arc::new(Taps { hub, count: AtomicU64::new(1), plugs: Places(Mutex::default()), queue, teller }))
    }

    /// A tap on this connection, for the channel of this key.
    ///
    /// # Errors
    /// [`CONNECTIONS`] or [`TAPS`] if it is one too many.
    pub fn tap(self: &Arc<Taps>, desk: &Desk, key: &str, stream: &TcpStream) -> Result<Box<dyn Watch>, Reject> {
        let plug = Plug {
            key: key.into(),
            _slot: desk.further()?,
            stream: stream.try_clone().map_err(|_| CONNECTIONS)?,
            line: Mutex::default(),
        };
        let plug = self.plugs.take(MOST, stream, plug).ok_or(TAPS)?;
        if lock(&self.queue).bytes > QUEUE {
            return Err(TAPS); // the ends of those that there were are still to be told
        }
        *lock(&plug.line) = Some(Line {
            connection: self.count.fetch_add(1, Relaxed),
            channel: self.hub.channel(&format!("lab/{key}")).map_err(|_| TAPS)?,
            taps: self.clone(),
            lost: 0,
        });
        Ok(Box::new(plug))
    }

    /// Pulls the plug of the connections of this key: for their taps this is the end, whenever those that use them notice.
    /// Returns how many there were.
    pub fn cut(&self, key: &str) -> usize {
        let plugs = lock(&self.plugs.0); // no other tap begins before the ends are told
        let own = plugs.iter().filter_map(|place| place.1.upgrade()).filter(|plug| *plug.key == *key);
        own.filter(|plug| {
            // A write that waits, and has us wait, is over then.
            plug.stream.shutdown(Shutdown::Both).is_ok() & lock(&plug.line).take().is_some()
        })
        .count()
    }
}

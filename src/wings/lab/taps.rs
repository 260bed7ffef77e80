//! The wire lab's server side: a channel of its own for what is said on a connection.
//!
//! `GET /kitchen?tap=KEY` is answered as ever, and each byte of that exchange is also an event in the channel `/lab/KEY`
//! (`trace.rs`): the page listens to both. `POST /lab/KEY` pulls the plug: the connections of that tap end at once, in the
//! middle of whatever they were saying.
//!
//! ```text
//! event: in
//! data: {"connection":7,"at":1763654400123.456,"bytes":"GET /kitchen?tap=x HTTP/1.1\r\nHost: …"}
//! ```
//!
//! `in` is what the client sent, `out` what it was sent, each as it was read or written; at last comes `end`, as soon as
//! the server has said all or the plug is pulled. `at` is in milliseconds since 1970. In `bytes` each character stands for
//! one byte, so that all of them survive JSON. If more is said than can be told, `lost` says how many bytes of that
//! connection are missing here: in `bytes`, as a number.
//!
//! Whoever writes to a tapped connection, the pump above all, copies the bytes into a queue and goes on. One thread
//! makes events of them, a few milliseconds later, so that a busy connection seldom has to wake it.
//!
//! Such a channel is kept in memory, and forgotten soon after the page has gone. Whoever knows the key can read along;
//! the page draws it at random, and it stands in no list.
//!
//! Limits: `MOST`, `PIECE`, `QUEUE`; `hub.rs` has those of the channels. A tap holds a second descriptor for its socket,
//! and so it counts as a second connection.

use crate::channel::duplex::lock;
use crate::channel::hub::{Hub, start};
use crate::channel::state::{Channel, Numbers};
use crate::channel::subscriber::Slot;
use crate::system::limits::Places;
use crate::wings::trace::watch::Tap;
use crate::wire::event::{Event, json};
use crate::wire::reject::{CONNECTIONS, Reject, TAPS};
use std::io::{self, Write};
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{Thread, park, sleep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Limit: connections with a tap, at a time; half of them for one client's address.
const MOST: usize = 256;
/// Limit: bytes that are told at a time.
const PIECE: usize = 8192;
/// Limit: bytes of all taps that wait to be told, each piece with those that it takes beside. As many are being told.
const QUEUE: usize = 512 << 10;
const BESIDE: usize = size_of::<Piece>() + 16;
/// How long pieces gather that are told together, so that a busy connection seldom has to wake who tells them.
const GATHER: Duration = Duration::from_millis(5);

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
    lab: Arc<Lab>,
    lost: usize, // bytes that were not told, and that nobody was told of
}

impl Line {
    fn tell(&mut self, name: &'static str, bytes: &[u8]) {
        let size = BESIDE + bytes.len();
        let mut queue = lock(&self.lab.queue);
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
        drop(queue);
        self.lab.teller.unpark();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tell("end", b"");
    }
}

/// A tap's key, and the socket of its connection, which counts; its tap, until the end is told.
type Plug = (Box<str>, TcpStream, Slot, Mutex<Option<Line>>);

fn tell(line: &mut Option<Line>, name: &'static str, bytes: &[u8]) {
    line.iter_mut().for_each(|line| bytes.chunks(PIECE).for_each(|piece| line.tell(name, piece)));
}

impl Tap for Arc<Plug> {
    fn heard(&self, bytes: &[u8]) {
        tell(&mut lock(&self.3), "in", bytes);
    }

    fn write(&self, mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut line = lock(&self.3); // so that the end is not told between the two
        let taken = stream.write(bytes)?;
        tell(&mut line, "out", bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }
}

/// The tapped connections.
pub struct Lab {
    hub: Arc<Hub>,
    count: AtomicU64,
    plugs: Places<Plug>,
    queue: Arc<Mutex<Queue>>,
    teller: Thread,
}

impl Lab {
    /// No taps yet, but the thread that tells what they hear.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn new(hub: Arc<Hub>) -> io::Result<Arc<Lab>> {
        let queue = Arc::<Mutex<Queue>>::default();
        let (told, waiting) = (hub.clone(), queue.clone());
        let tell = move || {
            loop {
                park();
                sleep(GATHER);
                let pieces = take(&mut *lock(&waiting)).pieces;
                pieces.into_iter().for_each(|piece| piece.tell(&told)); // each is free then
            }
        };
        let teller = start("taps", Box::new(tell))?;
        Ok(Arc::new(Lab { hub, count: AtomicU64::new(1), plugs: Places(Mutex::default()), queue, teller }))
    }

    /// A tap on this connection, for the channel of this key. `most`: connections at a time.
    ///
    /// # Errors
    /// [`CONNECTIONS`] or [`TAPS`] if it is one too many.
    pub fn tap(self: &Arc<Lab>, most: usize, key: &str, stream: &TcpStream) -> Result<Box<dyn Tap>, Reject> {
        let (slot, number) = self.hub.connect();
        let plug = stream.try_clone().ok().filter(|_| number <= most).ok_or(CONNECTIONS)?;
        let plug = self.plugs.take(MOST, stream, (key.into(), plug, slot, Mutex::default())).ok_or(TAPS)?;
        if lock(&self.queue).bytes > QUEUE {
            return Err(TAPS); // the ends of those that there were are still to be told
        }
        let connection = self.count.fetch_add(1, Relaxed);
        let channel = self.hub.channel(&format!("lab/{key}"))?;
        *lock(&plug.3) = Some(Line { connection, channel, lab: self.clone(), lost: 0 });
        Ok(Box::new(plug))
    }

    /// Pulls the plug of the connections of this key: for their taps this is the end, whenever those that use them notice.
    /// Returns how many there were.
    pub fn cut(&self, key: &str) -> usize {
        let plugs = lock(&self.plugs.0); // no other tap begins before the ends are told
        let own = plugs.iter().filter_map(|place| place.1.upgrade()).filter(|plug| *plug.0 == *key);
        own.filter(|plug| {
            let cut = plug.1.shutdown(Shutdown::Both); // a write that waits, and has us wait, is over then
            lock(&plug.3).take().is_some() && cut.is_ok()
        })
        .count()
    }
}

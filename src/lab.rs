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
//! `in` is what the client sent, `out` what it was sent, each as it was read or written; at last comes `end`. `at` is in
//! milliseconds since 1970. In `bytes` each character stands for one byte, so that all of them survive JSON.
//!
//! Such a channel is kept in memory, and forgotten soon after the page has gone. Whoever knows the key can read along;
//! the page draws it at random, and it stands in no list.
//!
//! Limits: a tap holds a second descriptor for its socket, and so it counts as a second connection.

use crate::channel::{Channel, lock};
use crate::event::Event;
use crate::hub::Hub;
use crate::reject::{CONNECTIONS, Reject};
use crate::subscriber::Slot;
use crate::trace::Tap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// A tap: the number of its connection, where its events go, and what ends with it.
struct Line {
    connection: u64,
    hub: Arc<Hub>,
    channel: Arc<Channel>,
    _plug: Arc<TcpStream>,
    _slot: Slot,
}

impl Tap for Line {
    fn tell(&self, name: &str, bytes: &[u8]) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let mut data = format!("{{\"connection\":{},\"at\":{}.{:03}", self.connection, at / 1000, at % 1000);
        if !bytes.is_empty() {
            data += ",\"bytes\":\"";
            for &byte in bytes {
                match byte {
                    b'\r' => data += "\\r",
                    b'\n' => data += "\\n",
                    b'"' | b'\\' => data.extend(['\\', byte.into()]),
                    b' '..=b'~' => data.push(byte.into()),
                    _ => data += &format!("\\u{byte:04x}"),
                }
            }
            data.push('"');
        }
        data.push('}');
        if let Ok(event) = Event::new(data).named(name) {
            self.hub.tell(&self.channel, &event);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tell("end", b"");
    }
}

/// The tapped connections.
#[derive(Default)]
pub struct Lab(Mutex<Taps>);

#[derive(Default)]
struct Taps {
    count: u64,
    plugs: Vec<(String, Weak<TcpStream>)>,
}

impl Lab {
    /// A tap on this connection, for the channel of this key.
    ///
    /// # Errors
    /// Where there are too many connections or channels.
    pub fn tap(&self, hub: &Arc<Hub>, most: usize, key: &str, stream: &TcpStream) -> Result<Box<dyn Tap>, Reject> {
        let (slot, number) = hub.connect();
        let plug = stream.try_clone().ok().filter(|_| number <= most).map(Arc::new).ok_or(CONNECTIONS)?;
        let channel = hub.channel(&format!("lab/{key}"))?;
        let mut taps = lock(&self.0);
        taps.count += 1;
        taps.plugs.retain(|(_, plug)| plug.strong_count() > 0);
        taps.plugs.push((key.into(), Arc::downgrade(&plug)));
        Ok(Box::new(Line { connection: taps.count, hub: hub.clone(), channel, _plug: plug, _slot: slot }))
    }

    /// Pulls the plug of the connections of this key. Returns how many there were.
    pub fn cut(&self, key: &str) -> usize {
        let pulled = |plug: Arc<TcpStream>| plug.shutdown(Shutdown::Both).is_ok();
        let plugs = &lock(&self.0).plugs;
        plugs.iter().filter(|(k, plug)| k == key && plug.upgrade().is_some_and(pulled)).count()
    }
}

//! The wire lab's server side: a channel of its own for what is said on a connection.
//!
//! `GET /kitchen?tap=KEY` is answered as ever, and each byte of that exchange is also an event in the channel `/lab/KEY`
//! (`trace.rs`): the page listens to both. `POST /lab/KEY` pulls the plug: the connections of that tap end at once, in the
//! middle of whatever they were saying.
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
use crate::trace::{Hear, Tap};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, Weak};

/// The channels of a tap: where its events go, and what ends with it.
#[derive(Debug)]
struct Line {
    hub: Arc<Hub>,
    channel: Arc<Channel>,
    _plug: Arc<TcpStream>,
    _slot: Slot,
}

impl Hear for Line {
    fn hear(&self, name: &str, data: String) {
        if let Ok(event) = Event::new(data).named(name) {
            self.hub.tell(&self.channel, &event);
        }
    }
}

/// The tapped connections.
#[derive(Debug, Default)]
pub struct Lab(Mutex<Taps>);

#[derive(Debug, Default)]
struct Taps {
    count: u64,
    plugs: Vec<(String, Weak<TcpStream>)>,
}

impl Lab {
    /// A tap on this connection, for the channel of this key.
    ///
    /// # Errors
    /// Where there are too many connections or channels.
    pub fn tap(&self, hub: &Arc<Hub>, most: usize, key: &str, stream: &TcpStream) -> Result<Tap, Reject> {
        let (slot, number) = hub.connect();
        let plug = stream.try_clone().ok().filter(|_| number <= most).map(Arc::new).ok_or(CONNECTIONS)?;
        let channel = hub.channel(&format!("lab/{key}"))?;
        let mut taps = lock(&self.0);
        taps.count += 1;
        taps.plugs.retain(|(_, plug)| plug.strong_count() > 0);
        taps.plugs.push((key.into(), Arc::downgrade(&plug)));
        let line = Line { hub: hub.clone(), channel, _plug: plug, _slot: slot };
        Ok(Tap { connection: taps.count, to: Box::new(line) })
    }

    /// Pulls the plug of the connections of this key. Returns how many there were.
    pub fn cut(&self, key: &str) -> usize {
        let pulled = |plug: Arc<TcpStream>| plug.shutdown(Shutdown::Both).is_ok();
        let plugs = &lock(&self.0).plugs;
        plugs.iter().filter(|(k, plug)| k == key && plug.upgrade().is_some_and(pulled)).count()
    }
}

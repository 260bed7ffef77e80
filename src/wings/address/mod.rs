#![doc = include_str!("README.md")]
//!
//! Addresses: the prelude of each stream has an address. Any client that knows the address can publish to that
//! subscriber alone, or to all others.
//!
//! ```text
//! : connected to /kitchen as 525e11ee725930b439a7415d18ba425c
//! POST /kitchen?to=525e11ee725930b439a7415d18ba425c         not in the log, and without an id
//! POST /kitchen?except=525e11ee725930b439a7415d18ba425c     in the log; in Redis as a field `except`
//! ```
//!
//! An address is the subscriber's key, and a hash of the key and of a secret of this process. So nobody can guess it.
//!
//! Limits: `MAX_SKIP_RANGES`.

use crate::channel::publish::{Audience, MAX_PUBLISH_WAIT};
use crate::channel::subscriber::Subscriber;
use crate::server::connection::{Connection, Response};
use crate::server::doors::{App, Route, Wing, WingTables};
use crate::server::route::ids_response;
use crate::wire::event::Event;
use crate::wire::http::Request;
use crate::wire::id::Id;
use crate::wire::reject::{LATER, Reject, table};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

/// Limit: ranges of the log that a subscriber behind has still to skip.
const MAX_SKIP_RANGES: usize = 64;

table! {
    TO_EXCEPT 400 "tincan, ?to= and ?except=" "both ?to= and ?except= are given; leave one out"
    NOBODY 404 "tincan, ?to= and ?except=" "no subscriber of this channel has this address; an address is in the first line of a stream, and is valid until the stream ends"
    BEHIND 503 "tincan, ?to= and ?except=" "the subscriber with this address does not keep up; come back later" => LATER
}

/// The rows that this wing adds to the tables of the core.
pub const TABLES: WingTables =
    WingTables { refusals: TABLE, ..WingTables::new(|_| Ok(Box::new(Addresses(RandomState::new())))) };

/// The secret of the addresses of this server.
struct Addresses(RandomState);

impl Addresses {
    /// Returns the address of the subscriber with this key.
    fn address(&self, key: u64) -> String {
        format!("{key:016x}{:016x}", self.0.hash_one(key))
    }

    /// Returns the subscriber with this address, which may not exist.
    fn find(&self, address: String) -> Addressee {
        let key = address.get(..16).and_then(|key| u64::from_str_radix(key, 16).ok());
        Addressee { key: key.filter(|key| self.address(*key) == address), address }
    }
}

impl Wing for Addresses {
    fn prelude_suffix(&self, key: u64) -> String {
        format!(" as {}", self.address(key))
    }

    fn audience(&self, name: &str, value: &str) -> Option<Box<dyn Audience>> {
        (name == "except").then(|| Box::new(self.find(value.into())) as _)
    }

    fn request(
        &self, app: &Arc<App>, req: &Request, _head: &[u8], connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        let name = req.path.strip_prefix('/').filter(|name| req.method == "POST" && app.hub.is_channel(name));
        let Some(name) = name else { return Ok(None) };
        let to = req.param("to")?;
        let is_private = to.is_some();
        let address = match (to, req.param("except")?) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(TO_EXCEPT),
            (Some(address), None) | (None, Some(address)) => address,
        };
        let addressee = self.find(address);
        let publishing_app = app.clone();
        let publish = move |name: &str, events: &[Event]| {
            if !is_private {
                return publishing_app.hub.publish_for(name, events, Some(&addressee)).map(ids_response);
            }
            send(&publishing_app, name, addressee.key.ok_or(NOBODY)?, events)?;
            Ok(Response::text("given to that subscriber; not kept\n"))
        };
        app.publish_route(req, name, connection, publish).map(Some)
    }
}

/// Gives events to one subscriber alone, without the log. The pump first gives it all events that were published
/// before.
fn send(app: &App, name: &str, key: u64, events: &[Event]) -> Result<(), Reject> {
    let channel = app.hub.channel(name)?;
    let mut bytes = Vec::new();
    events.iter().for_each(|event| event.write(None::<Id>, &mut bytes));
    let now = app.hub.now();
    let given = channel.with_subscriber(key, Instant::now() + MAX_PUBLISH_WAIT, |found| match found {
        Some((subscriber, free)) if !subscriber.has_ending() => {
            if !free {
                return (subscriber.stalls > 0).then_some(Err(BEHIND));
            }
            let frame = subscriber.framing().wrap_all(&bytes);
            Some(subscriber.write_direct(frame.into_iter(), now).map_err(|_| NOBODY))
        }
        _ => Some(Err(NOBODY)),
    });
    app.hub.wake(&channel); // its socket may not have taken all bytes
    given.unwrap_or(Err(BEHIND))
}

/// The subscriber of an address. It has no key if the address is not of this process. As an audience it means all
/// others.
struct Addressee {
    address: String,
    key: Option<u64>,
}

impl Addressee {
    /// Returns the subscriber, if it is still connected.
    fn find<'a>(&self, subscribers: &'a mut [Subscriber]) -> Result<&'a mut Subscriber, Reject> {
        subscribers
            .iter_mut()
            .find(|subscriber| Some(subscriber.key) == self.key && !subscriber.has_ending())
            .ok_or(NOBODY)
    }
}

impl Audience for Addressee {
    fn field(&self) -> (&'static str, &str) {
        ("except", &self.address)
    }

    fn check(&self, subscribers: &mut [Subscriber], from: u64) -> Result<(), Reject> {
        let subscriber = self.find(subscribers)?;
        let skips = subscriber.extras.as_ref().map_or(&[][..], |extras| &extras.skip_ranges);
        let has_room = skips.len() < MAX_SKIP_RANGES || skips.last().is_some_and(|last| last.1 == from);
        if has_room { Ok(()) } else { Err(BEHIND) }
    }

    fn exclude(&self, subscribers: &mut [Subscriber], from: u64, to: u64) {
        match self.find(subscribers) {
            Ok(subscriber) if subscriber.pos == from => subscriber.pos = to,
            Ok(subscriber) => {
                let skips = &mut subscriber.extras.get_or_insert_default().skip_ranges;
                match skips.last_mut().filter(|last| last.1 == from) {
                    Some(last) => last.1 = to,
                    None => skips.push((from, to)),
                }
            }
            Err(_) => {} // it has left meanwhile
        }
    }
}

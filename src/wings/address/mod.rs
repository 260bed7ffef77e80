#![doc = include_str!("README.md")]

//! Addresses: each stream is told its own in the prelude, and whoever is given it can speak to that subscriber alone, or to all
//! others.
//!
//! ```text
//! : connected to /kitchen as 525e11ee725930b439a7415d18ba425c
//! POST /kitchen?to=525e11ee725930b439a7415d18ba425c         past the log, without an id
//! POST /kitchen?except=525e11ee725930b439a7415d18ba425c     a field `except` if the log is elsewhere
//! ```
//!
//! An address is the subscriber's key, and what a secret of this process makes of it: a name that nobody can guess.
//!
//! Limits: `SKIPS`.

use crate::channel::publish::{Audience, PUBLISH_PATIENCE};
use crate::channel::subscriber::Subscriber;
use crate::server::connection::{Answer, Connection};
use crate::server::doors::{Desk, Route, Tables, Wing};
use crate::server::route::told;
use crate::wire::event::Event;
use crate::wire::http::Request;
use crate::wire::id::Id;
use crate::wire::reject::{LATER, Reject, table};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

/// Limit: what a subscriber that is behind has still to pass over.
const SKIPS: usize = 64;

table! {
    TO_EXCEPT 400 "tincan, ?to= and ?except=" "both ?to= and ?except= are given; leave one out"
    NOBODY 404 "tincan, ?to= and ?except=" "no reader of this channel has this address; a reader's first line tells its own, and it ends with the connection"
    BEHIND 503 "tincan, ?to= and ?except=" "the reader of this address does not keep up; come back later" => LATER
}

/// What it adds to the tables.
pub const TABLES: Tables = Tables { refusals: TABLE, ..Tables::new(|_| Ok(Box::new(Addresses(RandomState::new())))) };

/// The addresses of a server, by its secret.
struct Addresses(RandomState);

impl Addresses {
    /// The address of the subscriber with this key.
    fn of(&self, key: u64) -> String {
        format!("{key:016x}{:016x}", self.0.hash_one(key))
    }

    /// The subscriber with this address.
    fn find(&self, address: String) -> One {
        let key = address.get(..16).and_then(|key| u64::from_str_radix(key, 16).ok());
        One { key: key.filter(|key| self.of(*key) == address), address }
    }
}

impl Wing for Addresses {
    fn introduce(&self, key: u64) -> String {
        format!(" as {}", self.of(key))
    }

    fn audience(&self, name: &str, value: &str) -> Option<Box<dyn Audience>> {
        (name == "except").then(|| Box::new(self.find(value.into())) as _)
    }

    fn request(
        &self, desk: &Arc<Desk>, req: &Request, _head: &[u8], connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        let name = req.path.strip_prefix('/').filter(|name| req.method == "POST" && desk.hub.is_channel(name));
        let Some(name) = name else { return Ok(None) };
        let to = req.param("to")?;
        let alone = to.is_some();
        let address = match (to, req.param("except")?) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(TO_EXCEPT),
            (Some(address), None) | (None, Some(address)) => address,
        };
        let one = self.find(address);
        let at = desk.clone();
        let publish = move |name: &str, events: &[Event]| {
            if !alone {
                return at.hub.publish_for(name, events, Some(&one)).map(told);
            }
            send(&at, name, one.key.ok_or(NOBODY)?, events)?;
            Ok(Answer::text("given to that reader; not kept\n"))
        };
        desk.to_publish(req, name, connection, publish).map(Some)
    }
}

/// Gives events to one subscriber alone; they are not kept. It first gets what was said before, from the pump.
fn send(desk: &Desk, name: &str, key: u64, events: &[Event]) -> Result<(), Reject> {
    let channel = desk.hub.channel(name)?;
    let mut bytes = Vec::new();
    events.iter().for_each(|event| event.write(None::<Id>, &mut bytes));
    let now = desk.hub.now();
    let given = channel.visit(key, Instant::now() + PUBLISH_PATIENCE, |found| match found {
        Some((sub, free)) if !sub.is_poll() => {
            if !free {
                return (sub.stalls > 0).then_some(Err(BEHIND));
            }
            let frame = sub.framing().alone(&bytes);
            Some(sub.give_alone(frame.into_iter(), now).map_err(|_| NOBODY))
        }
        _ => Some(Err(NOBODY)),
    });
    desk.hub.wake(&channel); // its socket may not have taken all of it
    given.unwrap_or(Err(BEHIND))
}

/// One subscriber, which is there if it has a key. As an audience: all others.
struct One {
    address: String,
    key: Option<u64>,
}

impl One {
    fn find<'a>(&self, subscribers: &'a mut [Subscriber]) -> Result<&'a mut Subscriber, Reject> {
        subscribers.iter_mut().find(|sub| Some(sub.key) == self.key && !sub.is_poll()).ok_or(NOBODY)
    }
}

impl Audience for One {
    fn field(&self) -> (&'static str, &str) {
        ("except", &self.address)
    }

    fn check(&self, subscribers: &mut [Subscriber], from: u64) -> Result<(), Reject> {
        let sub = self.find(subscribers)?;
        let skips = sub.more.as_ref().map_or(&[][..], |more| &more.apart);
        let has_room = skips.len() < SKIPS || skips.last().is_some_and(|last| last.1 == from);
        if has_room { Ok(()) } else { Err(BEHIND) }
    }

    fn mark(&self, subscribers: &mut [Subscriber], from: u64, to: u64) {
        match self.find(subscribers) {
            Ok(sub) if sub.pos == from => sub.pos = to,
            Ok(sub) => {
                let skips = &mut sub.more.get_or_insert_default().apart;
                match skips.last_mut().filter(|last| last.1 == from) {
                    Some(last) => last.1 = to,
                    None => skips.push((from, to)),
                }
            }
            Err(_) => {} // it has gone meanwhile
        }
    }
}

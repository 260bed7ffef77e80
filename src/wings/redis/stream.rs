//! The entries of a Redis stream, and the events that they are. Pure.
//!
//! The channel NAME is the stream `tincan:NAME`. An entry has the stream's own id, and these fields:
//!
//! ```text
//! data    soup is ready          what is said
//! event   NAME                   where the publisher named it
//! retry   2000                   where the publisher gave one
//! except  ADDRESS                whom it is not for (`?except=`)
//! post    5f3a9c0d12b7e864-57    which node published it, and its number there
//! lost    1763654400123-5        in a node's own `gap`: of what was said up to here, something is gone
//! ```
//!
//! Whoever may write to the Redis can add entries as well; `data` alone is enough. Nothing that stands in one can be more
//! than an event, for its bytes are written by `event.rs`.

use crate::wings::redis::resp::{Reply, alone};
use crate::wire::event::Event;
use crate::wire::id::Id;

/// What the names of all streams begin with. Itself it is never one, for a channel's name is not empty.
pub const PREFIX: &str = "tincan:";

/// An entry, read.
pub struct Entry {
    /// Its id.
    pub id: Id,
    /// What is said.
    pub event: Event,
    /// The address of whom it is not for.
    pub except: Option<String>,
    /// It was too large to be read whole.
    pub is_large: bool,
}

impl Entry {
    /// Reads an entry; none where it is not one.
    pub fn read(entry: &Reply) -> Option<Entry> {
        let except = field(entry, "except").and_then(Reply::text).map(|text| String::from_utf8_lossy(text).into());
        let all = entry.list().get(1);
        let is_large = all.is_some_and(|all| *all == Reply::Large || all.list().last() == Some(&Reply::Large));
        let fields = all.map_or(&[][..], Reply::list).as_chunks().0;
        let fields = fields.iter().filter_map(|[name, value]| name.text().zip(value.text()));
        Some(Entry { id: id_of(entry)?, event: event(fields), except, is_large })
    }
}

/// An event of such fields, which may be anybody's: what cannot be in an event is left out.
fn event<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Event {
    let mut event = Event::default();
    let mut is_gap = false;
    for (name, value) in fields {
        let value = String::from_utf8_lossy(value);
        event = match name {
            b"data" => event.with_data(value),
            b"event" => event.clone().named(value).unwrap_or(event),
            b"retry" => event.with_retry(value.parse().ok()),
            b"lost" => {
                is_gap = true; // a node's own word
                event
            }
            _ => event,
        };
    }
    if is_gap { Event::gap(event.data().into()) } else { event }
}

/// The stream of a channel.
pub fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The greatest id below this one.
pub fn below(id: Id) -> Id {
    from_number(number(id).saturating_sub(1))
}

/// The least id above this one.
pub fn above(id: Id) -> Id {
    from_number(number(id).saturating_add(1))
}

/// Ids as numbers: in the same order, with none between two.
fn number(id: Id) -> u128 {
    u128::from(id.epoch) << 64 | u128::from(id.seq)
}

fn from_number(number: u128) -> Id {
    Id { epoch: (number >> 64) as u64, seq: number as u64 }
}

/// An id.
pub fn id(reply: &Reply) -> Option<Id> {
    Id::parse(str::from_utf8(reply.text()?).ok()?)
}

/// The id of an entry.
pub fn id_of(entry: &Reply) -> Option<Id> {
    id(entry.list().first()?)
}

/// The value of an entry's field.
pub fn field<'a>(entry: &'a Reply, name: &str) -> Option<&'a Reply> {
    entry.list().get(1)?.get(name)
}

/// Up to which id something is gone, where an entry tells that.
pub fn lost(entry: &Reply) -> Option<Id> {
    id(field(entry, "lost")?)
}

/// How many entries were ever taken from a stream, by what `XINFO STREAM` says of it, where that is known: Redis 7 counts what was added.
pub fn removed(info: &Reply) -> Option<i64> {
    match (info.get("entries-added"), info.get("length")) {
        (Some(Reply::Number(added)), Some(Reply::Number(length))) => added.checked_sub(*length),
        _ => Some(0).filter(|_| *info == Reply::Null), // there is no such stream
    }
}

/// Whether nothing was ever taken from a stream, as far as it is known.
pub fn is_whole(info: &Reply) -> bool {
    removed(info) == Some(0)
}

/// The command that adds an event to a stream, with these words before its fields.
pub fn add(name: &str, how: &[&str], event: &Event, except: Option<&str>, post: &str) -> Vec<u8> {
    let key = key(name);
    let fields = event.fields();
    let mut words = vec!["XADD", &key];
    words.extend(how);
    words.extend(fields.iter().flat_map(|(name, value)| [*name, value]));
    words.extend(except.iter().flat_map(|address| ["except", address]));
    words.extend(["post", post]);
    alone(&words)
}

/// The commands that add events, all or none, and how many replies they have; the last one has the ids. Nothing is added
/// where a stream is gone that had entries up to `top`. What is not `kept` is dropped.
pub fn add_all(
    name: &str, events: &[Event], except: Option<&str>, posts: &[String], top: Id, kept: Id,
) -> (Vec<u8>, usize) {
    let least = above(kept).to_string();
    // In whole nodes of its tree, which costs next to nothing (`~`).
    let how = ["NOMKSTREAM", "MINID", "~", &least, "*"];
    let how = if top > Id::default() { &how[..] } else { &how[1..] };
    let added = events.iter().zip(posts).flat_map(|(event, post)| add(name, how, event, except, post));
    match events.len() {
        several @ 2.. => {
            let all = [alone(&["MULTI"]), added.collect(), alone(&["EXEC"])];
            (all.concat(), several + 2)
        }
        _ => (added.collect(), 1),
    }
}

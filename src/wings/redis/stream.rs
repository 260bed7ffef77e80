//! The entries of a Redis stream, and the events in them. Pure.
//!
//! The channel NAME is the stream `tincan:NAME`. An entry has the id that Redis gave it, and these fields:
//!
//! ```text
//! data    soup is ready          the event's data
//! event   NAME                   if the publisher named it
//! retry   2000                   if the publisher gave one
//! except  ADDRESS                the subscriber that does not receive it (`?except=`)
//! post    5f3a9c0d12b7e864-57    the node that published it, and the number that the node gave it
//! lost    1763654400123-5        in a node's own `gap`: events up to this id are missing
//! ```
//!
//! Any program that may write to the Redis can add entries too. A `data` field is enough. Fields of other names are
//! kept for the wings (`Wing::audience`). An entry can never be more than one event, whatever its fields are, because
//! `event.rs` writes its bytes.

use crate::wings::redis::resp::{Reply, command};
use crate::wire::event::Event;
use crate::wire::id::Id;

/// Limit: other fields of an entry that are kept. Any program may write entries.
const MAX_OTHER_FIELDS: usize = 8;

/// An entry of a stream.
#[derive(Default)]
pub struct Entry {
    /// Its id.
    pub id: Id,
    /// Its event.
    pub event: Event,
    /// Its other fields, names and values, in their order.
    pub other_fields: Vec<(String, String)>,
    /// The node that published it, and the number that the node gave it.
    pub post_id: String,
    /// If it is a gap of a node: events up to this id are missing.
    pub lost_up_to: Option<Id>,
    /// Whether it was too large to be read completely.
    pub is_large: bool,
}

impl Entry {
    /// Reads an entry, which may come from any program. None if it has no id. Fields that an event cannot have are
    /// left out.
    pub fn read(reply: &Reply) -> Option<Entry> {
        let fields = reply.list().get(1).unwrap_or(&Reply::Null);
        let is_large = [Some(fields), fields.list().last()].contains(&Some(&Reply::Large));
        let mut entry = Entry { id: entry_id(reply)?, is_large, ..Entry::default() };
        let mut data = String::new();
        let mut event = Event::default();
        let mut retry = None;
        for [name, value] in fields.list().as_chunks().0 {
            let Some((name, value)) = name.text().zip(value.text()) else { continue };
            let value: String = String::from_utf8_lossy(value).into();
            match name {
                b"data" => data = value,
                b"event" => event = Event::default().named(value).unwrap_or_default(),
                b"retry" => retry = value.parse().ok(),
                b"post" => entry.post_id = value,
                b"lost" => entry.lost_up_to = Id::parse(&value),
                _ if entry.other_fields.len() == MAX_OTHER_FIELDS => {}
                _ => entry.other_fields.push((String::from_utf8_lossy(name).into(), value)),
            }
        }
        let is_gap = entry.lost_up_to.is_some(); // only a node may name an event so
        entry.event = if is_gap { Event::gap(data) } else { event.with_data(data) }.with_retry(retry);
        Some(entry)
    }
}

/// Returns the key of a channel's stream. The key of a channel is never `tincan:` alone, because its name is not
/// empty.
pub fn key(name: &str) -> String {
    format!("tincan:{name}")
}

/// Returns the greatest id below this one.
pub fn below(id: Id) -> Id {
    step_id(id, |number| number.saturating_sub(1))
}

/// Returns the least id above this one.
pub fn above(id: Id) -> Id {
    step_id(id, |number| number.saturating_add(1))
}

/// Returns an id that is a step away. As one number, ids have the same order, and there is none between two
/// neighbours.
fn step_id(id: Id, step: impl Fn(u128) -> u128) -> Id {
    let number = step(u128::from(id.epoch) << 64 | u128::from(id.seq));
    Id { epoch: (number >> 64) as u64, seq: number as u64 }
}

/// Returns the id that a reply has.
pub fn parse_id(reply: &Reply) -> Option<Id> {
    Id::parse(str::from_utf8(reply.text()?).ok()?)
}

/// Returns the id of an entry.
pub fn entry_id(entry: &Reply) -> Option<Id> {
    parse_id(entry.list().first()?)
}

/// Returns how many entries were ever removed from a stream, by the reply to `XINFO STREAM`. None if that is not
/// known: Redis before version 7 does not count the entries that were added.
pub fn removed_count(info: &Reply) -> Option<i64> {
    match (info.get("entries-added"), info.get("length")) {
        (Some(Reply::Number(added)), Some(Reply::Number(length))) => added.checked_sub(*length),
        _ => Some(0).filter(|_| *info == Reply::Null), // there is no such stream
    }
}

/// Returns the command that adds an event to a stream. `options` come before the fields; `extra_field` is one more
/// field.
pub fn add_command(
    name: &str, options: &[&str], event: &Event, extra_field: Option<(&str, &str)>, post_id: &str,
) -> Vec<u8> {
    let key = key(name);
    let fields = event.fields();
    let fields = fields.iter().map(|(name, value)| (*name, &**value));
    let fields = fields.chain(extra_field).chain([("post", post_id)]);
    let mut words = [&["XADD", &*key], options].concat();
    words.extend(fields.flat_map(|(name, value)| [name, value]));
    command(&words)
}

/// Returns the commands that add all events or none, and the number of their replies. The last reply has the ids. If
/// the stream had entries up to `top` and is gone, nothing is added. Entries up to `kept_after` are dropped.
pub fn add_commands(
    name: &str, events: &[Event], extra_field: Option<(&str, &str)>, post_ids: &[String], top: Id, kept_after: Id,
) -> (Vec<u8>, usize) {
    let least = above(kept_after).to_string();
    // `~` drops entries in whole nodes of the stream's tree, which costs next to nothing.
    let options = ["NOMKSTREAM", "MINID", "~", &least, "*"];
    let options = if top > Id::default() { &options[..] } else { &options[1..] };
    let added = events
        .iter()
        .zip(post_ids)
        .flat_map(|(event, post_id)| add_command(name, options, event, extra_field, post_id))
        .collect();
    match events.len() {
        count @ 2.. => ([command(&["MULTI"]), added, command(&["EXEC"])].concat(), count + 2),
        _ => (added, 1),
    }
}

//! The entries of a Redis stream, and the events that they are. Pure.
//!
//! The channel NAME is the stream `tincan:NAME`. An entry has the stream's own id, and these fields:
//!
//! ```text
//! data    soup is ready          what is said
//! event   NAME                   if the publisher named it
//! retry   2000                   if the publisher gave one
//! except  ADDRESS                whom it is not for (`?except=`)
//! post    5f3a9c0d12b7e864-57    which node published it, and its number there
//! lost    1763654400123-5        in a node's own `gap`: of what was said up to here, something is gone
//! ```
//!
//! Whoever may write to the Redis can add entries as well; `data` alone is enough. Fields of other names are kept for those
//! who know them (`Wing::audience`). Nothing that stands in one can be more than an event, for its bytes are written by
//! `event.rs`.

use crate::wings::redis::resp::{Reply, command};
use crate::wire::event::Event;
use crate::wire::id::Id;

/// Limit: further fields that are kept of an entry, for anybody may write one.
const MAX_OTHER_FIELDS: usize = 8;

/// An entry, read.
#[derive(Default)]
pub struct Entry {
    /// Its id.
    pub id: Id,
    /// What is said.
    pub event: Event,
    /// Its other fields, names and values, in the order in which they stand.
    pub other_fields: Vec<(String, String)>,
    /// Which node published it, and its number there.
    pub post: String,
    /// Up to which id something is gone, if the entry tells that.
    pub lost: Option<Id>,
    /// It was too large to be read whole.
    pub is_large: bool,
}

impl Entry {
    /// Reads an entry, which may be anybody's; none if it is not one. What cannot be in an event is left out.
    pub fn read(entry: &Reply) -> Option<Entry> {
        let fields = entry.list().get(1).unwrap_or(&Reply::Null);
        let is_large = [Some(fields), fields.list().last()].contains(&Some(&Reply::Large));
        let mut read = Entry { id: entry_id(entry)?, is_large, ..Entry::default() };
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
                b"post" => read.post = value,
                b"lost" => read.lost = Id::parse(&value),
                _ if read.other_fields.len() == MAX_OTHER_FIELDS => {}
                _ => read.other_fields.push((String::from_utf8_lossy(name).into(), value)),
            }
        }
        let is_gap = read.lost.is_some(); // a node's own word; nobody else can name an event so
        read.event = if is_gap { Event::gap(data) } else { event.with_data(data) }.with_retry(retry);
        Some(read)
    }
}

/// The stream of a channel. `tincan:` itself never is one, for a channel's name is not empty.
pub fn key(name: &str) -> String {
    format!("tincan:{name}")
}

/// The greatest id below this one.
pub fn below(id: Id) -> Id {
    step_id(id, |number| number.saturating_sub(1))
}

/// The least id above this one.
pub fn above(id: Id) -> Id {
    step_id(id, |number| number.saturating_add(1))
}

/// An id a step away. Ids are stepped through as numbers: these are in the same order, with none between two.
fn step_id(id: Id, step: impl Fn(u128) -> u128) -> Id {
    let number = step(u128::from(id.epoch) << 64 | u128::from(id.seq));
    Id { epoch: (number >> 64) as u64, seq: number as u64 }
}

/// An id.
pub fn parse_id(reply: &Reply) -> Option<Id> {
    Id::parse(str::from_utf8(reply.text()?).ok()?)
}

/// The id of an entry.
pub fn entry_id(entry: &Reply) -> Option<Id> {
    parse_id(entry.list().first()?)
}

/// How many entries were ever taken from a stream, by what `XINFO STREAM` says of it, if that is known: Redis 7 counts
/// what was added.
pub fn removed_count(info: &Reply) -> Option<i64> {
    match (info.get("entries-added"), info.get("length")) {
        (Some(Reply::Number(added)), Some(Reply::Number(length))) => added.checked_sub(*length),
        _ => Some(0).filter(|_| *info == Reply::Null), // there is no such stream
    }
}

/// The command that adds an event to a stream, with these words before its fields, and perhaps a further field.
pub fn add_command(name: &str, how: &[&str], event: &Event, further: Option<(&str, &str)>, post: &str) -> Vec<u8> {
    let key = key(name);
    let fields = event.fields();
    let fields = fields.iter().map(|(name, value)| (*name, &**value));
    let fields = fields.chain(further).chain([("post", post)]);
    let mut words = [&["XADD", &*key], how].concat();
    words.extend(fields.flat_map(|(name, value)| [name, value]));
    command(&words)
}

/// The commands that add events, all or none, and how many replies they have; the last one has the ids. Nothing is added
/// if a stream is gone that had entries up to `top`. What is not `kept` is dropped.
pub fn add_commands(
    name: &str, events: &[Event], further: Option<(&str, &str)>, posts: &[String], top: Id, kept: Id,
) -> (Vec<u8>, usize) {
    let least = above(kept).to_string();
    // In whole nodes of its tree, which costs next to nothing (`~`).
    let how = ["NOMKSTREAM", "MINID", "~", &least, "*"];
    let how = if top > Id::default() { &how[..] } else { &how[1..] };
    let added =
        events.iter().zip(posts).flat_map(|(event, post)| add_command(name, how, event, further, post)).collect();
    match events.len() {
        several @ 2.. => ([command(&["MULTI"]), added, command(&["EXEC"])].concat(), several + 2),
        _ => (added, 1),
    }
}

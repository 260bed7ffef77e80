//! A node: its channels are copies of Redis streams, which many nodes share. It publishes to the streams, and follows
//! them.
//!
//! A channel of a node holds a copy of the last `--history` bytes of its stream, and its subscribers receive this
//! copy. The copy is a log like any other, but Redis gives the ids. Two connections serve all channels. One sends
//! commands (`Pipe`). On the other a thread *follows* the streams (`follower.rs`): it waits for new entries with
//! `XREAD BLOCK`, again and again. A new channel interrupts that wait (`CLIENT UNBLOCK`).
//!
//! *No event is added twice.* If the reply to an `XADD` is lost, the node does not send it again at once. First
//! `Pipe` closes the lost connection, so that Redis cannot execute the command later. Then the node looks for an
//! entry with the same `post` in the stream. Only if there is none, it sends the command again.
//!
//! *In doubt, subscribers get a gap.* New entries are read in pages. A page is read from the last entry that the copy
//! already has (`apply_page`). Something is missing if the page does not begin with that entry, or if an event that
//! was acknowledged to this node is not in it. Then subscribers get a `gap` event. If the stream's ids have fallen
//! back, or if other nodes cannot notice the loss, the node adds the `gap` event to the stream for all nodes. Its id
//! is above all ids that this node knows, so that no id is given twice.
//!
//! *No stream harms another.* Streams take turns: in each turn a node reads one page of a stream, whatever was added
//! to it. An entry that is too large is left out, and a `gap` with its id replaces it. A key that cannot be read is
//! left alone.
//!
//! Limits: `MAX_PAGE`, `MAX_ENTRY`, `MAX_UNREAD`, `MAX_REPORTS`, `MAX_WAITING_LINES`, `MAX_WAIT`.
//! Shortcut: all nodes should have the same `--history`. The smallest one counts.
//! Shortcut: a publisher does not wait for other nodes, even if one of them is too slow to follow.
//! Shortcut: if an entry is deleted (`XDEL`) before a node has read it, the node does not notice.

use crate::channel::hub::{Metric, RemoteLog};
use crate::channel::publish::{NewIds, Recipients};
use crate::channel::state::Channel;
use crate::config::Config;
use crate::log::positions::{Gap, Log, Since};
use crate::log::writer::Writer;
use crate::server::doors::App;
use crate::system::report::{report, visible};
use crate::system::threads::{STACK, count_one, lock};
use crate::wings::redis::pipe::{Pipe, REFUSED, UNSENT};
use crate::wings::redis::resp::{Address, Reply, command};
use crate::wings::redis::stream::{self, Entry, above, below, entry_id, key, parse_id, removed_count};
use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::reject::{LATER, Reject, table};
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

table! {
    REDIS_AWAY 503 "tincan, --redis" "Redis does not reply, so nothing can be published, and what other nodes publish is not known; come back later" => LATER
    REDIS_REFUSES 503 "tincan, --redis" "Redis refuses this, and nothing of it was kept; the server's standard error says why" => LATER
    REDIS_LOST 503 "tincan, --redis" "the connection to Redis was lost before the reply, so it is not known whether this was kept; read the channel before you send it again" => LATER
}

/// Limit: entries of one stream in one page.
const MAX_PAGE: usize = 32;
/// Limit: bytes of an entry, not counting `--max-body`. An entry may have this and `--max-body`, and a page twice as
/// much.
const MAX_ENTRY: usize = 32 << 20;
/// Limit: events of one channel that were acknowledged, and that this node has not read back yet.
const MAX_UNREAD: usize = 256;
/// Limit: how long a publisher or a subscriber waits while Redis is away. One round trip more is possible.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// The pause before a command is tried again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Limit: lines on standard error about single streams, since the start.
const MAX_REPORTS: usize = 100;
/// Limit: lines that wait for standard error. Further lines are dropped.
const MAX_WAITING_LINES: usize = 100;
/// The beginning of a report that Redis does not take events.
const REFUSES_EVENTS: &str = "refuses events";

/// A list of channels. While it exists, none of them is forgotten.
pub type ChannelList = Vec<Arc<Channel>>;

/// A channel, and how far this node has read its stream.
#[derive(Default)]
pub struct FollowedChannel {
    /// The channel, if it is still in use.
    pub channel: Weak<Channel>,
    /// Ids of events that were acknowledged to publishers on this node, and that it has not read back yet.
    pub unread: BTreeSet<Id>,
    complete_up_to: Id, // up to here nothing is missing, or a gap event says so
    /// How many entries had been removed from the stream when the copy began. Only set if the copy began with the first
    /// entry ever, or with an empty stream.
    removed_before: Option<i64>,
    /// How many new entries the next page may have. It doubles from page to page, and shrinks after a page that was too
    /// large.
    pub page_size: usize,
    /// Whether it was read to the stream's end once.
    pub ready: bool,
    /// Whether Redis refuses to read it: the key is no stream, or this node has no right to it.
    pub unreadable: bool,
}

/// A request for a page. The page begins with the entry `last`.
pub struct PageRequest {
    /// The channel that is to get the page.
    pub channel: Arc<Channel>,
    last: Id,
    newest_known: Id, // the last id of the copy, or a later one that was acknowledged before the request
    size: usize,
}

/// The state of the thread that follows. From `Following` on, the node learns of all new entries.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub enum FollowerState {
    /// It tries to connect, and has not failed yet.
    Connecting,
    /// It has failed to connect, and tries again and again.
    Away,
    /// It reads pages.
    Following,
    /// It waits for the reply to an `XREAD`. The values are the number of its connection, and when it began to wait.
    Waiting(i64, Instant),
}

/// A node: the state that its channels share.
pub struct Node {
    /// The connection for commands.
    pub pipe: Pipe,
    history: usize,    // bytes
    name: String,      // drawn at random, so nobody can guess it
    posts: Mutex<u64>, // published by this node so far
    /// The channels in use, by their names.
    pub followed: Mutex<BTreeMap<String, FollowedChannel>>,
    /// The state of the thread that follows.
    pub follower: Mutex<FollowerState>,
    /// How often that thread has connected.
    pub connections: Mutex<u64>,
    /// When this node last had all events.
    pub last_complete: Mutex<Instant>,
    stream_reports: Mutex<BTreeSet<String>>, // about single streams; each is reported once
    last_report: Mutex<String>,              // on standard error
    report_queue: SyncSender<String>, // to a thread that writes them, so that no other thread waits for a terminal
    app: Arc<App>,
}

/// Returns the newest id that was acknowledged and not yet read back.
fn newest_unread(followed: &mut FollowedChannel) -> Id {
    followed.unread.last().copied().unwrap_or_default()
}

/// Returns a gap event: events after `last` are missing, up to the event `next` if that is known.
fn gap_event(last: Id, next: Option<Id>) -> Event {
    Gap { from: next, lost: None }.event(&last.to_string())
}

/// Returns whether an error concerns one stream only: it is no stream, this node has no right to it, or its ids are
/// used up.
fn is_of_key(why: &str) -> bool {
    ["WRONGTYPE", "NOPERM", "ERR The stream has exhausted"].iter().any(|code| why.starts_with(code))
}

impl Node {
    /// Creates a node for the Redis at this address. It connects when it has a command, or follows.
    pub fn new(address: Address, config: &Config, app: Arc<App>) -> Node {
        let (report_queue, lines) = sync_channel(MAX_WAITING_LINES);
        let write = move || lines.into_iter().for_each(report);
        // If this thread cannot be started, nothing is reported.
        let _ = thread::Builder::new().name("news".into()).stack_size(STACK).spawn(write);
        Node {
            pipe: Pipe::new(address, MAX_ENTRY as u64 + config.max_body as u64),
            history: config.history,
            name: format!("{:016x}", RandomState::new().hash_one(())),
            posts: Mutex::default(),
            followed: Mutex::default(),
            follower: Mutex::new(FollowerState::Connecting),
            connections: Mutex::default(),
            last_complete: Mutex::new(Instant::now()),
            last_report: Mutex::default(),
            stream_reports: Mutex::default(),
            report_queue,
            app,
        }
    }

    /// Reports the state of this node to the operator, if it has changed.
    pub fn report_state(&self, message: String) {
        let mut last_report = lock(&self.last_report);
        if *last_report != message {
            let text = visible(&message); // a part of it may be the text of Redis
            let _ = self.report_queue.try_send(format!("tincan: redis: {}: {text}", self.pipe.address));
            *last_report = message;
        }
    }

    /// Reports an error of a single stream, but only once. Errors of several streams may alternate, as often as
    /// clients like.
    fn report_once(&self, message: String) {
        let mut reports = lock(&self.stream_reports);
        if reports.len() < MAX_REPORTS && reports.insert(message.clone()) {
            self.report_state(message);
        }
    }

    /// Checks that this node follows. It does not publish events that it could not read back. If the connection was
    /// lost just now, this waits for the next one.
    fn check_following(&self) -> Result<(), Reject> {
        let deadline = Instant::now() + MAX_WAIT;
        while *lock(&self.follower) == FollowerState::Connecting && Instant::now() < deadline {
            thread::sleep(RETRY_PAUSE);
        }
        if *lock(&self.follower) >= FollowerState::Following { Ok(()) } else { Err(REDIS_AWAY) }
    }

    /// Returns the refusal for a command that failed. If Redis refused the command, it reports that to the operator.
    fn reject(&self, name: &str, error: &io::Error) -> Reject {
        if error.kind() != REFUSED {
            return REDIS_AWAY;
        }
        let why = error.to_string();
        if is_of_key(&why) {
            self.report_once(format!(
                "refuses {}: {why}; allow, rename or delete that key, and if its ids were used up, start the nodes again",
                key(name)
            ));
        } else {
            self.report_state(format!("{REFUSES_EVENTS}: {why}"));
        }
        REDIS_REFUSES
    }

    /// Creates a channel with a copy of a stream, up to the stream's present end. Later entries may have no end; the
    /// follower reads them.
    fn copy_stream(&self, name: &str) -> io::Result<Arc<Channel>> {
        let info = self.stream_info(name)?;
        let first = info.get("first-entry").and_then(entry_id);
        let last = info.get("last-generated-id").and_then(parse_id).unwrap_or_default();
        let removed_before = removed_count(&info).filter(|removed| *removed == 0 || first.is_none());
        let start = if removed_before == Some(0) { Id::default() } else { first.map_or(last, below) };
        let channel = Arc::new(Channel::new(
            name,
            Log::copy_of_remote(start, self.history).within(self.app.hub.budget.max),
            Writer::default(),
            &self.app.hub.budget,
        ));
        let followed = FollowedChannel {
            channel: Arc::downgrade(&channel),
            complete_up_to: start,
            removed_before,
            page_size: 1,
            ..FollowedChannel::default()
        };
        lock(&self.followed).insert(name.into(), followed);
        while channel.last_id() < last {
            let mut command = Vec::new();
            let request = self.request_page(&channel, &mut command);
            let page = self.pipe.call(command, 1)?;
            if self.apply_page(&request, page)? != Some(true) {
                break;
            }
        }
        Ok(channel)
    }

    /// Gives `action` the state of a channel, which is created if there is none.
    fn with_followed<T>(&self, name: &str, action: impl FnOnce(&mut FollowedChannel) -> T) -> T {
        action(lock(&self.followed).entry(name.into()).or_default())
    }

    /// Returns the channels in use that fulfil a condition.
    pub fn channels(&self, condition: impl Fn(&FollowedChannel) -> bool) -> ChannelList {
        lock(&self.followed)
            .values()
            .filter(|followed| condition(followed))
            .filter_map(|followed| followed.channel.upgrade())
            .collect()
    }

    /// Adds the command for the next page of a channel to `commands`. Returns the request.
    pub fn request_page(&self, channel: &Arc<Channel>, commands: &mut Vec<u8>) -> PageRequest {
        let name = &channel.name;
        let last = channel.last_id();
        let (size, newest_known) =
            self.with_followed(name, |followed| (followed.page_size, newest_unread(followed).max(last)));
        commands.extend(command(&["XRANGE", &key(name), &last.to_string(), "+", "COUNT", &(size + 1).to_string()]));
        PageRequest { channel: channel.clone(), last, newest_known, size }
    }

    /// Adds the new entries of a page to its channel. Returns whether the stream has more, or None if the page has
    /// nothing new.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub fn apply_page(&self, request: &PageRequest, page: Reply) -> io::Result<Option<bool>> {
        let PageRequest { channel, last, newest_known, .. } = request;
        let name = &channel.name;
        let Reply::List(page) = page else { return self.mark_unreadable(name, page) };
        let is_cut = page.last() == Some(&Reply::Large);
        let is_complete = page.len() <= request.size && !is_cut;
        let entries: Vec<Entry> = page.into_iter().filter_map(|entry| Entry::read(&entry)).collect();
        let ids: Vec<Id> = entries.iter().map(|entry| entry.id).collect();
        // The page must have each acknowledged event up to this id. It need not have an event that was acknowledged
        // after the request.
        let expected_up_to = if is_complete {
            *newest_known
        } else {
            ids.last().map_or(*last, |last_in_page| *last_in_page.min(newest_known))
        };
        let is_lost = |id: &&Id| *id > last && !ids.contains(id);
        let (complete_up_to, lost) = self.with_followed(name, |followed| {
            (followed.complete_up_to, followed.unread.range(..=expected_up_to).find(is_lost).copied())
        });
        let first_new = ids.iter().copied().find(|id| id > last);
        // The page must begin with the copy's last entry. In an empty copy the first entry must follow its start.
        let has_gap = match first_new {
            Some(first_new) if channel.is_empty() => first_new != above(*last),
            _ => *last > complete_up_to && ids.first() != Some(last),
        };
        // A gap event of another node in the page may report the loss already.
        if (has_gap || lost.is_some()) && !entries.iter().any(|entry| entry.lost_up_to >= Some(lost.unwrap_or(*last))) {
            self.handle_loss(request, lost, first_new)?;
        }
        let count = self.publish_entries(request, entries);
        self.with_followed(name, |followed| {
            followed.unreadable = false;
            followed.unread.retain(|id| *id > expected_up_to);
            followed.page_size = if is_cut { count.max(1) } else { (2 * request.size).min(MAX_PAGE) };
        });
        Ok(first_new.map(|_| !is_complete))
    }

    /// Adds the new entries of a page to its channel's log. Returns their number.
    fn publish_entries(&self, request: &PageRequest, entries: Vec<Entry>) -> usize {
        let PageRequest { channel, last, .. } = request;
        let mut previous = *last;
        let mut count = 0;
        for Entry { id, event, other_fields, is_large, .. } in entries {
            if id <= previous {
                continue; // only a server that is not a real Redis sends an entry twice
            }
            if is_large {
                self.report_once(format!(
                    "{} has entries of more than 32 MiB + --max-body; subscribers get a gap in their place; remove them with XDEL",
                    key(&channel.name)
                ));
            }
            let event = [if is_large { gap_event(previous, None) } else { event }];
            let recipients = other_fields.iter().find_map(|(name, value)| self.app.audience(name, value));
            let publish = |recipients: Recipients| channel.publish(&event, NewIds::Given(id), recipients);
            // A log in memory does not fail. But the subscriber to leave out may not be on this node.
            let _ = publish(recipients.as_deref()).or_else(|_| publish(None));
            self.app.hub.wake(channel);
            previous = id;
            count += 1;
        }
        channel.notify();
        count
    }

    /// Marks a stream as unreadable, if Redis refuses this one alone. Any other error ends the connection: Redis may
    /// be loading its file, for example.
    fn mark_unreadable(&self, name: &str, reply: Reply) -> io::Result<Option<bool>> {
        let Reply::Error(why) = reply else { return Err(io::Error::other("its reply has no entries")) };
        let is_unreadable = self.with_followed(name, |followed| {
            followed.unreadable = followed.ready && is_of_key(&why);
            followed.unreadable
        });
        let error = io::Error::other(why);
        if !is_unreadable {
            return Err(error);
        }
        self.reject(name, &error);
        Ok(None)
    }

    /// Handles a page in which something is missing: the entry `last`, the first entries of an empty copy, or the
    /// acknowledged event `lost`. If events may be missing, subscribers get a gap event. `next` is the first new event.
    fn handle_loss(&self, request: &PageRequest, lost: Option<Id>, next: Option<Id>) -> io::Result<()> {
        let PageRequest { channel, last, newest_known, .. } = request;
        let name = &channel.name;
        let info = self.stream_info(name)?;
        let last_generated = info.get("last-generated-id").and_then(parse_id).unwrap_or_default();
        let removed = removed_count(&info);
        let is_unchanged = |count_before| removed.is_none_or(|count| count == count_before);
        let is_beginning = channel.is_empty()
            && self.with_followed(name, |followed| followed.removed_before).is_some_and(is_unchanged);
        if (last_generated == *newest_known || is_beginning) && lost.is_none()
            || last_generated < *newest_known && self.add_gap(name, *newest_known, true)?
        {
            // Nothing was added after the last known entry, or nothing was removed before the copy's first one. Or all
            // nodes get the gap event that was added.
            return Ok(());
        }
        let _ = channel.publish(&[gap_event(*last, next)], NewIds::None, None);
        self.app.hub.wake(channel);
        self.with_followed(name, |followed| followed.complete_up_to = *last);
        // Other nodes may lack these events too, and cannot notice. But if the stream only dropped its oldest
        // entries, they can.
        if removed == Some(0) || info.get("first-entry").and_then(entry_id) <= lost.or(Some(*last)) {
            self.add_gap(name, *newest_known, false)?;
        }
        Ok(())
    }

    /// Interrupts the follower's `XREAD`, so that the follower begins again and reads a new channel too.
    fn interrupt_follower(&self) {
        let deadline = Instant::now() + MAX_WAIT;
        let waiting = *lock(&self.follower);
        let FollowerState::Waiting(connection, _) = waiting else { return };
        // If this node has no right to CLIENT UNBLOCK, the follower begins again when its BLOCK time is over.
        while *lock(&self.follower) == waiting
            && Instant::now() < deadline
            && matches!(self.pipe.ask(&["CLIENT", "UNBLOCK", &connection.to_string()]), Ok(Reply::Number(0)))
        {
            thread::sleep(Duration::from_millis(1)); // the follower is about to send its XREAD
        }
        let mut follower = lock(&self.follower);
        if *follower == waiting {
            *follower = FollowerState::Following; // the follower is about to notice the reply
        }
    }

    /// Returns the reply to `XINFO STREAM`, or null if there is no such stream.
    fn stream_info(&self, name: &str) -> io::Result<Reply> {
        match self.pipe.ask(&["XINFO", "STREAM", &key(name)]) {
            Err(error) if error.to_string() == "ERR no such key" => Ok(Reply::Null),
            info => info,
        }
    }

    /// Returns new values for the field `post`.
    fn new_post_ids(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| format!("{}-{}", self.name, count_one(&self.posts))).collect()
    }

    /// Finds out whether events were added after the entry `last`. Returns their ids. None if they
    /// were not added, and never will be.
    ///
    /// # Errors
    /// If Redis refuses the events, or if it is not known whether they were added.
    fn added_ids(
        &self, channel: &Channel, post_ids: &[String], last: Id, result: io::Result<Reply>, deadline: Instant,
    ) -> Result<Option<Vec<Id>>, Reject> {
        let name = &channel.name;
        let replies = match result {
            Ok(Reply::List(replies)) => replies,
            Ok(reply) => vec![reply],
            Err(error) if error.kind() == UNSENT => return Err(REDIS_AWAY),
            Err(_) => return self.find_posts(name, post_ids, last, deadline),
        };
        let ids: Vec<Id> = replies.iter().filter_map(parse_id).collect();
        if ids.len() == post_ids.len() {
            return Ok(Some(ids));
        }
        let Some(refusal) = replies.into_iter().find(|reply| *reply != Reply::Null) else {
            // The stream is gone. The gap event begins a new one, and its id is above all ids of the old one.
            let top = self.with_followed(name, newest_unread).max(channel.last_id());
            let _ = self.add_gap(name, top, true); // this fails if another node has begun it
            return Ok(None);
        };
        let why = if let Reply::Error(why) = refusal { why } else { "its reply has no id".into() };
        Err(self.reject(name, &io::Error::other(why)))
    }

    /// Looks for events whose reply was lost. They can only be after the entry `last`, which was there before.
    /// Returns their ids. None if they were not added, and never will be.
    ///
    /// # Errors
    /// [`REDIS_LOST`] if it cannot be known.
    fn find_posts(
        &self, name: &str, post_ids: &[String], last: Id, deadline: Instant,
    ) -> Result<Option<Vec<Id>>, Reject> {
        let mut found = Vec::new();
        let mut after = last;
        let mut nothing_removed = true;
        let mut pause = RETRY_PAUSE;
        while Instant::now() < deadline {
            let words = ["XRANGE", &key(name), &after.to_string(), "+", "COUNT", &MAX_PAGE.to_string()];
            let Ok(Reply::List(page)) = self.pipe.ask(&words) else {
                thread::sleep(pause);
                pause *= 2;
                continue;
            };
            let is_last_page = page.len() < MAX_PAGE && page.last() != Some(&Reply::Large);
            let entries: Vec<Entry> = page.iter().filter_map(Entry::read).collect();
            for entry in entries.iter().filter(|entry| entry.id > after) {
                if post_ids.get(found.len()) == Some(&entry.post_id) {
                    found.push(entry.id); // they are in the order in which they were sent
                }
            }
            if found.len() == post_ids.len() {
                return Ok(Some(found));
            }
            // Each page must begin with the entry `after`. If that was removed, later entries may have been removed
            // too.
            nothing_removed &= entries.first().is_some_and(|first| first.id == after)
                || after == Id::default() && self.stream_info(name).is_ok_and(|info| removed_count(&info) == Some(0));
            if is_last_page {
                return if nothing_removed && self.pipe.is_settled() { Ok(None) } else { Err(REDIS_LOST) };
            }
            after = entries.last().map_or(after, |last| last.id);
        }
        Err(REDIS_LOST)
    }

    /// Adds a `gap` event to the stream, for the subscribers of all nodes: events up to `top` may be missing. With
    /// `raise` its id is the one after `top`, else Redis chooses it. Returns whether Redis has added it.
    fn add_gap(&self, name: &str, top: Id, raise: bool) -> io::Result<bool> {
        if raise && above(top) == top {
            return Ok(false); // there is no greater id, and this one would use up the new stream's ids
        }
        let id = if raise { above(top).to_string() } else { "*".into() };
        let options = [&id, "lost", &top.to_string()];
        let command = stream::add_command(name, &options, &gap_event(top, None), None, &self.new_post_ids(1).concat());
        Ok(parse_id(&self.pipe.call(command, 1)?).is_some())
    }

    /// Returns the key of a stream that does not exist, and that nobody can guess.
    pub fn absent_key(&self) -> String {
        key(&self.name)
    }
}

impl RemoteLog for Node {
    fn open(&self, name: &str) -> Result<Arc<Channel>, Reject> {
        self.check_following()?;
        let channel = self.copy_stream(name).map_err(|error| self.reject(name, &error))?;
        self.with_followed(name, |followed| followed.ready = true);
        self.interrupt_follower();
        Ok(channel)
    }

    fn publish(&self, channel: &Channel, events: &[Event], recipients: Recipients) -> Result<Vec<Id>, Reject> {
        let name = &channel.name;
        self.check_following()?;
        let (newest, unread) = self.with_followed(name, |followed| (newest_unread(followed), followed.unread.len()));
        if unread >= MAX_UNREAD && !channel.wait_for(newest, MAX_WAIT) {
            return Err(REDIS_AWAY);
        }
        let post_ids = self.new_post_ids(events.len());
        let extra_field = recipients.map(|audience| audience.field());
        let deadline = Instant::now() + MAX_WAIT;
        let mut pause = RETRY_PAUSE;
        while Instant::now() < deadline {
            let last = channel.last_id();
            let top = last.max(newest);
            let (commands, replies) =
                stream::add_commands(name, events, extra_field, &post_ids, top, channel.kept_after());
            let result = self.pipe.call(commands, replies);
            if let Some(ids) = self.added_ids(channel, &post_ids, last, result, deadline)? {
                if ids.first() <= Some(&last) {
                    let _ = self.add_gap(name, top, true); // the ids of the stream have fallen back
                }
                self.with_followed(name, |followed| followed.unread.extend(&ids));
                if lock(&self.last_report).starts_with(REFUSES_EVENTS) {
                    self.report_state("takes events again".into());
                }
                return Ok(ids);
            }
            thread::sleep(pause); // the events were not added
            pause *= 2;
        }
        Err(REDIS_AWAY)
    }

    fn catch_up(&self, channel: &Channel, since: &Since) -> Result<(), Reject> {
        let name = &channel.name;
        if let Since::After(text) = since
            && let Some(wanted) = Id::parse(text)
            && wanted > channel.last_id()
        {
            self.check_following()?;
            let info = self.stream_info(name).map_err(|error| self.reject(name, &error))?;
            let last = info.get("last-entry").and_then(entry_id).unwrap_or_default();
            return if channel.wait_for(wanted.min(last), MAX_WAIT) { Ok(()) } else { Err(REDIS_AWAY) };
        }
        channel.wait_for(self.with_followed(name, newest_unread), MAX_WAIT);
        Ok(())
    }

    fn health(&self) -> Result<(), Reject> {
        self.check_following()?;
        let added = self.pipe.ask(&["XADD", &self.absent_key(), "NOMKSTREAM", "*", "data", ""]);
        added.map(drop).map_err(|error| self.reject("", &error))
    }

    fn metrics(&self) -> Vec<Metric> {
        let connected = u8::from(*lock(&self.follower) >= FollowerState::Following).to_string();
        let lag = lock(&self.last_complete).elapsed();
        // Formatting a floating point number would add 15 KB of code.
        let lag = format!("{}.{:03}", lag.as_secs(), lag.subsec_millis());
        let reconnections = lock(&self.connections).saturating_sub(1).to_string();
        vec![
            ("redis_connected", "gauge", "Whether this node follows Redis.", connected),
            ("redis_lag_seconds", "gauge", "Seconds since this node last had all events; up to 1 is usual.", lag),
            ("redis_reconnections_total", "counter", "Connections to Redis after the first.", reconnections),
        ]
    }
}

//! The thread that follows: one connection on which a node reads all streams in use.
//!
//! The thread repeats three steps. It has Redis wait until a stream in use has new entries (`XREAD BLOCK`). Then it
//! asks for one page of each stream that has some. Then it adds the pages to the channels. If a stream has more
//! entries, it takes its turn again, together with all other streams. So no stream holds up the others, however many
//! entries it gets.
//!
//! The last streams that had new entries probably get more. So their pages are asked for together with the next
//! `XREAD`, and Redis replies to both at once.
//!
//! A new channel interrupts the wait (`CLIENT UNBLOCK`). If the connection is lost, the thread makes another one,
//! after a pause that grows, and reads a page of every channel.
//!
//! Limits: `BLOCK`, `MAX_RECENT`, `MAX_PAGES`.

use crate::channel::state::Channel;
use crate::system::threads::{count_one, lock};
use crate::wings::redis::node::{ChannelList, FollowerState, Node, PageRequest, RETRY_PAUSE};
use crate::wings::redis::pipe::{REPLY_TIME, RedisConnection, pause};
use crate::wings::redis::resp::{Reply, command};
use crate::wings::redis::stream::key;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long an `XREAD` waits. It is also the time between two tries to read the streams that cannot be read.
const BLOCK: Duration = Duration::from_secs(1);

/// Limit: streams whose pages are asked for together with an `XREAD`.
const MAX_RECENT: usize = 4;

/// Limit: pages that are asked for together.
const MAX_PAGES: usize = 16;

/// With more streams than this, the thread pauses between two `XREAD`s, for `PAUSE_PER_STREAM` times their number. Each
/// `XREAD` names all streams, and each name takes Redis half a microsecond.
const MANY_STREAMS: u32 = 50;
const PAUSE_PER_STREAM: Duration = Duration::from_micros(5);

impl Node {
    /// Runs the thread.
    pub fn follow(&self) -> ! {
        let mut failures = 0;
        loop {
            // A panic is a bug. It must not end this thread, on which all channels depend.
            let result = catch_unwind(AssertUnwindSafe(|| self.follow_connection(&mut failures)));
            *lock(&self.follower) = if failures == 0 { FollowerState::Connecting } else { FollowerState::Away };
            // The connection may have failed because a page was too large, or too slow.
            lock(&self.followed).values_mut().for_each(|followed| followed.page_size = 1);
            let Err(why) = result.unwrap_or_else(|_| Err(io::Error::other("its thread panicked, which is a bug")));
            self.report_state(format!("away: {why}"));
            thread::sleep(pause(failures));
            failures = failures.saturating_add(1);
        }
    }

    /// Follows on a new connection, until it fails.
    fn follow_connection(&self, failures: &mut u32) -> io::Result<Infallible> {
        let mut connection = RedisConnection::connect(&self.pipe)?;
        self.read_pages(&mut connection, &self.channels(|f| f.ready))?;
        *lock(&self.follower) = FollowerState::Following;
        count_one(&self.connections);
        self.report_state("connected".into());
        let mut last_retry = Instant::now();
        let mut recent = Vec::new();
        loop {
            let begin = Instant::now();
            let (progress, stream_count) = self.wait_for_news(&mut connection, &mut recent)?;
            if progress.is_none() && begin.elapsed() < RETRY_PAUSE {
                thread::sleep(RETRY_PAUSE); // an XREAD that ends at once without new entries must not make us spin
            }
            if progress != Some(true) {
                *lock(&self.last_complete) = Instant::now();
            }
            if stream_count > MANY_STREAMS {
                // Meanwhile several streams get new entries.
                thread::sleep((PAUSE_PER_STREAM * stream_count).min(BLOCK / 10));
            }
            if self.pipe.leads_elsewhere(&connection) {
                return Err(io::Error::other("its name leads to another server now"));
            }
            *failures = 0;
            if last_retry.elapsed() >= BLOCK {
                self.read_pages(&mut connection, &self.channels(|f| f.unreadable))?;
                last_retry = Instant::now();
            }
        }
    }

    /// Waits until streams have new entries, and reads a page of each of these. A page of each `recent` channel is
    /// asked for together with the `XREAD`. Returns the progress and the number of the streams. The progress is the
    /// greatest result of [`Node::apply_page`]: `None` if there was nothing new, `Some(true)` if there is more. An
    /// interruption counts as `Some(false)`.
    fn wait_for_news(
        &self, connection: &mut RedisConnection, recent: &mut ChannelList,
    ) -> io::Result<(Option<bool>, u32)> {
        *lock(&self.follower) = FollowerState::Waiting(connection.id, Instant::now());
        let (mut commands, stream_count) = self.xread_command();
        recent.truncate(MAX_RECENT);
        let requests: Vec<PageRequest> =
            recent.iter().map(|channel| self.request_page(channel, &mut commands)).collect();
        connection.send(&commands, BLOCK + REPLY_TIME)?;
        let news = connection.read_news(stream_count)?;
        // A change from here on, such as a new channel, is in the next XREAD. If the state is no longer `Waiting`, a
        // change has interrupted this one.
        let interrupted = replace(&mut *lock(&self.follower), FollowerState::Following) == FollowerState::Following;
        let progress = interrupted.then_some(false).max(self.apply_pages(connection, &requests)?);
        *recent = self.channels_with_news(&news);
        let mut others = recent.clone();
        others.retain(|channel| !requests.iter().any(|request| Arc::ptr_eq(&request.channel, channel)));
        let progress = progress.max(self.read_pages(connection, &others)?);
        match news {
            Reply::Error(why) if self.channels(|f| f.unreadable).is_empty() => Err(io::Error::other(why)),
            _ => Ok((progress, stream_count)),
        }
    }

    /// Returns the channels whose streams have new entries, or may have some, by the reply to an `XREAD`.
    fn channels_with_news(&self, news: &Reply) -> ChannelList {
        // An error concerns one stream, but does not name it: then all channels are read. Without new entries, the
        // channels with unread acknowledged events are read, because those events may be lost.
        let mut channels =
            self.channels(|followed| followed.ready && (*news != Reply::Null || !followed.unread.is_empty()));
        if let Reply::List(streams) = news {
            let named: BTreeSet<_> = streams.iter().filter_map(|stream| stream.list().first()?.text()).collect();
            channels.retain(|channel| named.contains(key(&channel.name).as_bytes()));
        }
        channels
    }

    /// Reads a page of each of these channels. Returns the progress, as [`Node::wait_for_news`].
    fn read_pages(&self, connection: &mut RedisConnection, channels: &[Arc<Channel>]) -> io::Result<Option<bool>> {
        let mut progress = None;
        for channels in channels.chunks(MAX_PAGES) {
            let mut commands = Vec::new();
            let requests: Vec<PageRequest> =
                channels.iter().map(|channel| self.request_page(channel, &mut commands)).collect();
            connection.send(&commands, REPLY_TIME)?;
            progress = progress.max(self.apply_pages(connection, &requests)?);
        }
        Ok(progress)
    }

    /// Adds the pages of these requests to their channels. It reads one page after the other, so that only one is in
    /// memory.
    fn apply_pages(&self, connection: &mut RedisConnection, requests: &[PageRequest]) -> io::Result<Option<bool>> {
        requests
            .iter()
            .try_fold(None, |progress, request| Ok(self.apply_page(request, connection.reply(0)?)?.max(progress)))
    }

    /// Returns the `XREAD` for all streams in use, and their number. It forgets the channels that are no longer in
    /// use.
    fn xread_command(&self) -> (Vec<u8>, u32) {
        lock(&self.followed).retain(|_, followed| followed.channel.strong_count() > 0);
        // These references end before the wait. A channel that is referenced would never be forgotten.
        let channels = self.channels(|followed| followed.ready && !followed.unreadable);
        let block = BLOCK.as_millis().to_string();
        let mut words = ["XREAD", "COUNT", "1", "BLOCK", &block, "STREAMS"].map(String::from).to_vec();
        words.push(self.absent_key()); // so that the command names a stream in any case
        words.extend(channels.iter().map(|channel| key(&channel.name)));
        words.push("$".into());
        words.extend(channels.iter().map(|channel| channel.last_id().to_string()));
        (command(&words), channels.len() as u32)
    }
}

//! The thread that follows: one connection for all channels of a node.
//!
//! It has Redis wait for news of all streams in use (`XREAD BLOCK`), and then asks for a page of each that has some. A stream
//! that has more has news again, with all others that have some by then: so none keeps it from the others, however much
//! comes. What had news before is asked for in the same breath, and Redis answers both at once. Whoever brings a new
//! channel interrupts it (`CLIENT UNBLOCK`). When the connection is lost it makes another, after a pause that grows, and
//! takes over what is new in all.
//!
//! Limits: `BLOCK`, `MAX_RECENT`, `MAX_PAGES`.

use crate::channel::state::Channel;
use crate::system::threads::lock;
use crate::wings::redis::cluster::{Channels, FollowerState, Node, PageRequest, RETRY_PAUSE};
use crate::wings::redis::pipe::{REPLY_TIME, RedisConnection, pause};
use crate::wings::redis::resp::{Reply, command};
use crate::wings::redis::stream::key;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long an `XREAD` waits for news; and how often a stream that we may not read is tried again.
const BLOCK: Duration = Duration::from_secs(1);

/// Limit: streams that are asked for before it is known whether they have news.
const MAX_RECENT: usize = 4;

/// Limit: streams of which pages are asked for together.
const MAX_PAGES: usize = 16;

/// If more streams than this are waited for, there is a pause between two `XREAD`s, so much for each: each names all of
/// them again, and takes Redis half a microsecond for each.
const MANY_STREAMS: u32 = 50;
const PAUSE_PER_STREAM: Duration = Duration::from_micros(5);

impl Node {
    /// The life of the thread that follows.
    pub fn follow(&self) -> ! {
        let mut failures = 0;
        loop {
            // A panic is a bug; it must not end what all channels live from.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow_connection(&mut failures)));
            *lock(&self.follower) = if failures == 0 { FollowerState::Connecting } else { FollowerState::Away };
            // A page may have been too large to be read, or to come in time.
            lock(&self.followed).values_mut().for_each(|f| f.page = 1);
            let Err(why) = followed.unwrap_or_else(|_| Err(io::Error::other("a bug")));
            self.report_state(format!("away: {why}"));
            thread::sleep(pause(failures));
            failures = failures.saturating_add(1);
        }
    }

    /// Follows on a new connection, until that fails.
    fn follow_connection(&self, failures: &mut u32) -> io::Result<Infallible> {
        let mut link = RedisConnection::connect(&self.pipe)?;
        self.read_pages(&mut link, &self.channels(|f| f.ready))?;
        *lock(&self.follower) = FollowerState::Following;
        self.connections.fetch_add(1, Relaxed);
        self.report_state("connected".into());
        let mut tried = Instant::now();
        let mut hot = Vec::new();
        loop {
            let began = Instant::now();
            let (heard, streams) = self.wait_for_news(&mut link, &mut hot)?;
            if heard.is_none() && began.elapsed() < RETRY_PAUSE {
                thread::sleep(RETRY_PAUSE); // news that are none must not make us spin
            }
            if heard != Some(true) {
                *lock(&self.current) = Instant::now();
            }
            if streams > MANY_STREAMS {
                thread::sleep((PAUSE_PER_STREAM * streams).min(BLOCK / 10)); // news come together meanwhile
            }
            if self.pipe.leads_elsewhere(&link) {
                return Err(io::Error::other("its name leads to another server now"));
            }
            *failures = 0;
            if tried.elapsed() >= BLOCK {
                self.read_pages(&mut link, &self.channels(|f| f.unreadable))?;
                tried = Instant::now();
            }
        }
    }

    /// Waits for news, and takes over a page of each channel that has some; of those that had some before, with the same
    /// reply. Returns what [`Node::apply_page`] does, of all together and of an interruption, and how many channels are waited for.
    fn wait_for_news(&self, link: &mut RedisConnection, hot: &mut Channels) -> io::Result<(Option<bool>, u32)> {
        *lock(&self.follower) = FollowerState::Waiting(link.id, Instant::now());
        let (mut commands, streams) = self.xread_command();
        hot.truncate(MAX_RECENT);
        let asked: Vec<PageRequest> = hot.iter().map(|channel| self.request_page(channel, &mut commands)).collect();
        link.send(&commands, BLOCK + REPLY_TIME)?;
        let news = link.read_news(streams)?;
        // Whatever changes from here on is seen before it waits again; what has interrupted it is a change.
        let interrupted = replace(&mut *lock(&self.follower), FollowerState::Following) == FollowerState::Following;
        let heard = interrupted.then_some(false).max(self.apply_pages(link, &asked)?);
        *hot = self.channels_with_news(&news);
        let mut others = hot.clone();
        others.retain(|channel| !asked.iter().any(|asked| Arc::ptr_eq(&asked.channel, channel)));
        let heard = heard.max(self.read_pages(link, &others)?);
        match news {
            Reply::Error(why) if self.channels(|f| f.unreadable).is_empty() => Err(io::Error::other(why)),
            _ => Ok((heard, streams)),
        }
    }

    /// The channels that have news by the reply to an `XREAD`, or may have some.
    fn channels_with_news(&self, news: &Reply) -> Channels {
        // One that we may not read must not keep us from all others. If none has news, some may have been acknowledged.
        let mut channels = self.channels(|f| f.ready && (*news != Reply::Null || !f.acked.is_empty()));
        if let Reply::List(streams) = news {
            let named: BTreeSet<_> = streams.iter().filter_map(|stream| stream.list().first()?.text()).collect();
            channels.retain(|channel| named.contains(key(&channel.name).as_bytes()));
        }
        channels
    }

    /// Takes over a page of what is new in each of these channels. Returns what [`Node::apply_page`] does, of all together.
    fn read_pages(&self, link: &mut RedisConnection, channels: &[Arc<Channel>]) -> io::Result<Option<bool>> {
        let mut heard = None;
        for channels in channels.chunks(MAX_PAGES) {
            let mut commands = Vec::new();
            let asked: Vec<PageRequest> =
                channels.iter().map(|channel| self.request_page(channel, &mut commands)).collect();
            link.send(&commands, REPLY_TIME)?;
            heard = heard.max(self.apply_pages(link, &asked)?);
        }
        Ok(heard)
    }

    /// Takes over one page after another, so that one at a time is held.
    fn apply_pages(&self, link: &mut RedisConnection, asked: &[PageRequest]) -> io::Result<Option<bool>> {
        asked.iter().try_fold(None, |heard, asked| Ok(self.apply_page(asked, link.reply(0)?)?.max(heard)))
    }

    /// The command that waits for news of the channels in use, and how many these are.
    fn xread_command(&self) -> (Vec<u8>, u32) {
        lock(&self.followed).retain(|_, f| f.channel.strong_count() > 0);
        // Not one of them is held while it waits: else it would never be forgotten.
        let channels = self.channels(|f| f.ready && !f.unreadable);
        let block = BLOCK.as_millis().to_string();
        let mut words = ["XREAD", "COUNT", "1", "BLOCK", &block, "STREAMS"].map(String::from).to_vec();
        words.push(self.absent_key()); // so that there is one
        words.extend(channels.iter().map(|channel| key(&channel.name)));
        words.push("$".into());
        words.extend(channels.iter().map(|channel| channel.last_id().to_string()));
        (command(&words), channels.len() as u32)
    }
}

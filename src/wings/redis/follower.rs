//! The thread that follows: one connection for all channels of a node.
//!
//! It has Redis wait for news of all streams in use (`XREAD BLOCK`), and then asks for a page of each that has some. A stream
//! that has more has news again, with all others that have some by then: so none keeps it from the others, however much
//! comes. What had news before is asked for in the same breath, and Redis answers both at once. Whoever brings a new
//! channel interrupts it (`CLIENT UNBLOCK`). When the connection is lost it makes another, after a pause that grows, and
//! takes over what is new in all.
//!
//! Limits: `BLOCK`, `HOT`, `TOGETHER`.

use crate::channel::state::Channel;
use crate::system::threads::lock;
use crate::wings::redis::cluster::{AGAIN, Asked, Channels, Cluster};
use crate::wings::redis::pipe::{ANSWER, Failed, Link, pause};
use crate::wings::redis::resp::{Reply, alone};
use crate::wings::redis::stream::{PREFIX, key};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long an `XREAD` waits for news; and how often a stream that we may not read is tried again.
const BLOCK: Duration = Duration::from_secs(1);

/// Limit: streams that are asked for before it is known whether they have news.
const HOT: usize = 4;

/// Limit: streams of which pages are asked for together.
const TOGETHER: usize = 16;

/// Where more streams than this are waited for, there is a pause between two `XREAD`s, so much for each: each names all of
/// them again, and takes Redis half a microsecond for each.
const MANY: u32 = 50;
const EACH: Duration = Duration::from_micros(5);

fn told(failed: Failed) -> io::Error {
    io::Error::other(match failed {
        Failed::Refused(why) => why,
        Failed::Unsent | Failed::Lost => "it is lost again".into(),
    })
}

impl Cluster {
    /// The life of the thread that follows.
    pub fn follow(&self) -> ! {
        let mut failures = 0;
        loop {
            // A panic is a bug; it must not end what all channels live from.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow_on(&mut failures)));
            self.trying.store(failures == 0, SeqCst);
            self.connected.store(false, SeqCst);
            // A page may have been too large to be read, or to come in time.
            lock(&self.followed).values_mut().for_each(|f| f.page = 1);
            let why = if let Ok(Err(why)) = followed { why } else { io::Error::other("a bug") };
            self.say(format!("away: {why}"));
            thread::sleep(pause(failures));
            failures = failures.saturating_add(1);
        }
    }

    /// Follows on a new connection, until that fails.
    fn follow_on(&self, failures: &mut u32) -> io::Result<()> {
        let mut link = Link::connect(&self.pipe)?;
        self.hear(&mut link, &self.channels(|f| f.ready))?;
        self.follower.store(link.id.unwrap_or_default(), SeqCst);
        self.connected.store(true, SeqCst);
        self.connections.fetch_add(1, Relaxed);
        self.say("connected".into());
        let mut tried = Instant::now();
        let mut hot = Vec::new();
        loop {
            let before = self.changes.load(SeqCst);
            let began = Instant::now();
            let (mut commands, streams) = self.wait();
            hot.truncate(HOT);
            let asked = self.ask_for_all(&hot, &mut commands);
            link.send(&commands, BLOCK + ANSWER)?;
            let news = link.news(streams)?;
            self.seen.store(u64::MAX, SeqCst); // whatever changes from here on is seen before it waits again
            let more = self.take_all(&mut link, &asked)?;
            let (others, with_news) = self.hear_news(&mut link, news, &asked)?;
            hot = with_news;
            if self.changes.load(SeqCst) == before && began.elapsed() < AGAIN {
                thread::sleep(AGAIN); // news that are none must not make us spin
            }
            if !(more || others) {
                *lock(&self.current) = Instant::now();
            }
            if streams > MANY {
                thread::sleep((EACH * streams).min(BLOCK / 10)); // news come together meanwhile
            }
            if self.pipe.leads_elsewhere(&link) {
                return Err(io::Error::other("its name leads to another server now"));
            }
            *failures = 0;
            if tried.elapsed() >= BLOCK {
                self.hear(&mut link, &self.channels(|f| f.barred))?;
                tried = Instant::now();
            }
        }
    }

    /// Takes over what an `XREAD` tells of, beside what was asked for with it. Returns whether there is more, and the channels
    /// that had news.
    fn hear_news(&self, link: &mut Link, news: Reply, asked: &[Asked]) -> io::Result<(bool, Channels)> {
        let channels = match &news {
            Reply::Error(_) => self.channels(|f| f.ready), // one that we may not read must not keep us from all others
            Reply::Null => self.channels(|f| f.ready && !f.acked.is_empty()),
            news => self.named(news),
        };
        let known = |channel| asked.iter().any(|asked| Arc::ptr_eq(&asked.channel, channel));
        let others: Channels = channels.iter().filter(|channel| !known(channel)).cloned().collect();
        let more = self.hear(link, &others)?;
        match news {
            Reply::Error(why) if self.channels(|f| f.barred).is_empty() => Err(io::Error::other(why)),
            _ => Ok((more, channels)),
        }
    }

    /// Takes over a page of what is new in each of these channels. Returns whether there is more.
    fn hear(&self, link: &mut Link, channels: &Channels) -> io::Result<bool> {
        let mut more = false;
        for channels in channels.chunks(TOGETHER) {
            let mut commands = Vec::new();
            let asked = self.ask_for_all(channels, &mut commands);
            link.send(&commands, ANSWER)?;
            more |= self.take_all(link, &asked)?;
        }
        Ok(more)
    }

    fn ask_for_all(&self, channels: &[Arc<Channel>], commands: &mut Vec<u8>) -> Vec<Asked> {
        channels.iter().map(|channel| self.ask_for(channel, commands)).collect()
    }

    /// Takes over one page after another, so that one at a time is held. Returns whether there is more.
    fn take_all(&self, link: &mut Link, asked: &[Asked]) -> io::Result<bool> {
        let mut more = false;
        for asked in asked {
            more |= self.take(asked, link.reply(0)?).map_err(told)?;
        }
        Ok(more)
    }

    /// The command that waits for news of the channels in use, and how many these are.
    fn wait(&self) -> (Vec<u8>, u32) {
        let change = self.changes.load(SeqCst);
        lock(&self.followed).retain(|_, f| f.channel.strong_count() > 0);
        // Not one of them is held while it waits: else it would never be forgotten.
        let channels = self.channels(|f| f.ready && !f.barred).into_iter();
        let (mut keys, mut lasts): (Vec<_>, Vec<_>) =
            channels.map(|channel| (key(&channel.name), channel.last().to_string())).unzip();
        if keys.is_empty() {
            // So that the connection stays, and is known to.
            keys.push(self.nobody());
            lasts.push("$".into());
        }
        self.seen.store(change, SeqCst);
        let block = BLOCK.as_millis().to_string();
        let mut words = vec!["XREAD", "COUNT", "1", "BLOCK", &block, "STREAMS"];
        words.extend(keys.iter().chain(&lasts).map(String::as_str));
        (alone(&words), u32::try_from(keys.len()).unwrap_or(u32::MAX))
    }

    /// The channels whose streams such a reply names.
    fn named(&self, reply: &Reply) -> Channels {
        let followed = lock(&self.followed);
        let named = reply.list().iter().filter_map(|stream| {
            let key = str::from_utf8(stream.list().first()?.text()?).ok()?;
            followed.get(key.strip_prefix(PREFIX)?)?.channel.upgrade()
        });
        named.collect()
    }
}

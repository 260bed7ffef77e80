//! The thread that follows: one connection for all channels of a node.
//!
//! It has Redis wait for news of all streams in use (`XREAD BLOCK`), and then takes over what is new in those that have
//! some. Whoever brings a new channel interrupts it (`CLIENT UNBLOCK`). When the connection is lost it makes another, after a
//! pause that grows, and takes over what is new in all.
//!
//! Limit: `BLOCK`. Shortcut: each `XREAD` names all streams again, which Redis looks up each time.

use crate::channel::lock;
use crate::cluster::{AGAIN, Channels, Cluster};
use crate::redis::{ANSWER, Failed, Link, pause};
use crate::resp::{Reply, command};
use crate::stream::{PREFIX, key};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long an `XREAD` waits for news; and how often a stream that we may not read is tried again.
const BLOCK: Duration = Duration::from_secs(1);

impl Cluster {
    /// The life of the thread that follows.
    pub fn follow(&self) -> ! {
        let _ = self.thread.set(thread::current());
        let mut failures = 0;
        loop {
            // A panic is a bug; it must not end what all channels live from.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow_on(&mut failures)));
            self.connected.store(false, SeqCst);
            let why = followed.unwrap_or(Ok(())).err().unwrap_or_else(|| io::Error::other("a bug"));
            self.say(format!("away: {why}"));
            thread::sleep(AGAIN);
            thread::park_timeout(pause(failures)); // or until somebody has an answer
            failures = failures.saturating_add(1);
        }
    }

    /// Follows on a new connection, until that fails.
    fn follow_on(&self, failures: &mut u32) -> io::Result<()> {
        let mut link = Link::connect(&self.pipe.address, self.pipe.most)?;
        self.pipe.retry();
        self.hear(&mut link, self.channels(|f| f.ready))?;
        self.follower.store(link.id.unwrap_or_default(), SeqCst);
        self.connected.store(true, SeqCst);
        self.connections.fetch_add(1, Relaxed);
        self.say("connected".into());
        let mut tried = Instant::now();
        loop {
            let (news, why) = match self.wait(&mut link)? {
                Reply::Error(why) => (self.channels(|f| f.ready), Some(why)),
                reply => (self.named(&reply), None),
            };
            self.hear(&mut link, news)?;
            *lock(&self.current) = Instant::now();
            match why {
                // One that we may not read must not keep us from all others.
                Some(why) if self.channels(|f| f.barred).is_empty() => return Err(io::Error::other(why)),
                Some(_) => {}
                None => *failures = 0,
            }
            if self.pipe.leads_elsewhere(&link) {
                return Err(io::Error::other("its name leads to another server now"));
            }
            if tried.elapsed() >= BLOCK {
                self.hear(&mut link, self.channels(|f| f.barred))?;
                tried = Instant::now();
            }
        }
    }

    /// Takes over what is new in these channels.
    fn hear(&self, link: &mut Link, channels: Channels) -> io::Result<()> {
        let ask = |commands: Vec<u8>, replies| link.ask_all(&commands, replies).map_err(|_| Failed::Lost);
        let why = |failed| if let Failed::Refused(why) = failed { why } else { "it is lost again".into() };
        self.refresh(channels, ask).map_err(|failed| io::Error::other(why(failed)))
    }

    /// Waits for news of the channels in use.
    fn wait(&self, link: &mut Link) -> io::Result<Reply> {
        let change = self.changes.load(SeqCst);
        lock(&self.followed).retain(|_, f| f.channel.strong_count() > 0);
        let channels = self.channels(|f| f.ready && !f.barred);
        let (mut keys, mut lasts): (Vec<_>, Vec<_>) =
            channels.iter().map(|(name, channel)| (key(name), channel.last().to_string())).unzip();
        drop(channels); // else none of them would ever be forgotten
        if keys.is_empty() {
            (keys, lasts) = (vec![PREFIX.into()], vec!["$".into()]); // so that the connection stays, and is known to
        }
        self.seen.store(change, SeqCst);
        let block = BLOCK.as_millis().to_string();
        let mut words = vec!["XREAD", "COUNT", "1", "BLOCK", &block, "STREAMS"];
        words.extend(keys.iter().chain(&lasts).map(String::as_str));
        let mut commands = Vec::new();
        command(&words, &mut commands);
        link.send(&commands, BLOCK + ANSWER)?;
        link.reply()
    }

    /// The channels whose streams such a reply names.
    fn named(&self, reply: &Reply) -> Channels {
        let followed = lock(&self.followed);
        let named = |stream: &Reply| {
            let key = std::str::from_utf8(stream.list().first()?.text()?).ok()?;
            let name = key.strip_prefix(PREFIX)?;
            Some((name.into(), followed.get(name)?.channel.upgrade()?))
        };
        reply.list().iter().filter_map(named).collect()
    }
}

//! The thread that follows: one connection for all channels of a node.
//!
//! It has Redis wait for news of all streams in use (`XREAD BLOCK`), takes over what comes, and asks again behind that.
//! Whoever brings a new channel interrupts it (`CLIENT UNBLOCK`). When the connection is lost it makes another, after a
//! pause that grows; before it goes on it looks for what it goes on from.
//!
//! Limits: `BLOCK`, `IN_ALL`. Shortcut: each `XREAD` names all streams again, which Redis looks up each time.

use crate::channel::lock;
use crate::cluster::{AGAIN, Cluster, Followed, PAGE, is_trimmed};
use crate::log::Gap;
use crate::redis::{ANSWER, Failed, Link, pause};
use crate::resp::{Reply, command};
use crate::stream::{PREFIX, id, id_of, key};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long an `XREAD` waits for news.
const BLOCK: Duration = Duration::from_secs(1);
/// Limit: entries of all streams in one reply, where there are few streams; 16 of each where there are many.
const IN_ALL: usize = 4 * PAGE;
/// How often what we go on from is looked for while there is news.
const CHECK: Duration = Duration::from_secs(1);

fn lost_again(failed: Failed) -> io::Error {
    io::Error::other(if let Failed::Refused(why) = failed { why } else { "it is lost again".into() })
}

/// Whether these replies say that one key is no stream, or not ours.
///
/// # Errors
/// Any other error among them, such as that Redis is loading its file: what it has is not known then.
fn is_barred(replies: &[Reply]) -> Result<bool, Failed> {
    match replies.iter().find_map(|reply| if let Reply::Error(why) = reply { Some(why) } else { None }) {
        Some(why) if ["WRONGTYPE", "NOPERM"].iter().any(|code| why.starts_with(code)) => Ok(true),
        Some(why) => Err(Failed::Refused(why.clone())),
        None => Ok(false),
    }
}

impl Cluster {
    /// After a new connection: looks whether Redis still has what each channel goes on from, and what was acknowledged.
    fn check(&self) -> Result<(), Failed> {
        let (mut doubts, mut commands) = (Vec::new(), Vec::new());
        for (name, f) in lock(&self.followed).iter() {
            let Some(channel) = f.channel.upgrade() else { continue };
            let last = channel.last();
            for id in [last, last.max(f.acked)] {
                command(&["XRANGE", &key(name), &id.to_string(), &id.to_string()], &mut commands);
            }
            doubts.push((name.clone(), channel, last, f.acked, f.told));
        }
        let there = if doubts.is_empty() { Vec::new() } else { self.pipe.call(commands, 2 * doubts.len())? };
        for ((name, channel, last, acked, told), there) in doubts.into_iter().zip(there.chunks(2)) {
            if is_barred(there)? {
                continue;
            }
            let [has_last, has_top] = [0, 1].map(|n| there.get(n).is_some_and(|reply| !reply.list().is_empty()));
            let (top, has_last) = (last.max(acked), has_last || last <= told);
            if has_last && (has_top || top == last) {
                continue;
            }
            let info = self.info(&name)?;
            let newest = info.get("last-generated-id").and_then(id).unwrap_or_default();
            if newest < top {
                self.announce(&name, top, true)?;
                continue;
            }
            if !has_last && newest > last {
                let from = info.get("first-entry").and_then(id_of).filter(|first| *first > last);
                channel.gap(&Gap { from, lost: None }.event(&last.to_string()), || (self.wake)(&channel));
                (self.wake)(&channel);
                self.told(&name, |_| ());
            }
            // Others may lack what they have not heard, and cannot know.
            if !has_top && acked > last || !has_last && newest > last && !is_trimmed(&info, last) {
                self.announce(&name, top, false)?;
            }
        }
        Ok(())
    }

    /// Bars what Redis does not let us read, so that it does not keep us from all other channels. Returns whether there
    /// is any.
    fn bar(&self) -> Result<bool, Failed> {
        let names: Vec<String> = lock(&self.followed).keys().cloned().collect();
        let mut commands = Vec::new();
        names.iter().for_each(|name| command(&["XLEN", &key(name)], &mut commands));
        let replies = if names.is_empty() { Vec::new() } else { self.pipe.call(commands, names.len())? };
        let mut some = false;
        for (name, reply) in names.iter().zip(&replies) {
            let barred = is_barred(std::slice::from_ref(reply))?;
            if let Some(f) = lock(&self.followed).get_mut(name) {
                f.checked = f.checked.filter(|_| !barred);
                f.barred = barred;
            }
            if barred {
                self.say(format!("does not let us read {}", key(name)));
            }
            some |= barred;
        }
        Ok(some)
    }

    /// The life of the thread that follows.
    pub fn follow(&self) -> ! {
        let _ = self.thread.set(thread::current());
        let (mut failures, mut too_large) = (0, false);
        loop {
            // A panic is a bug; it must not end what all channels live from.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow_on(&mut failures, too_large)));
            self.connected.store(false, SeqCst);
            let why = followed.unwrap_or(Ok(())).err().unwrap_or_else(|| io::Error::other("a bug"));
            too_large = why.kind() == ErrorKind::InvalidData;
            self.say(format!("away: {why}"));
            thread::sleep(AGAIN);
            thread::park_timeout(pause(failures)); // or until somebody has an answer
            failures = failures.saturating_add(1);
        }
    }

    /// Takes over what is new, one channel after another.
    fn take_each(&self) -> Result<(), Failed> {
        let open = |(name, f): (&String, &Followed)| Some((name.clone(), f.channel.upgrade().filter(|_| !f.barred)?));
        let channels: Vec<_> = lock(&self.followed).iter().filter_map(open).collect();
        channels.iter().try_for_each(|(name, channel)| {
            let page = self.range(name, &format!("({}", channel.last()))?;
            self.load(name, channel, page, !channel.is_empty())
        })
    }

    /// Follows on a new connection, until that fails. `too_large`: together the news may be too much for one reply.
    fn follow_on(&self, failures: &mut u32, too_large: bool) -> io::Result<()> {
        let mut link = Link::connect(&self.pipe.address, self.pipe.most)?;
        self.pipe.retry();
        self.check().map_err(lost_again)?;
        if too_large {
            self.take_each().map_err(lost_again)?;
        }
        self.follower.store(link.id.unwrap_or_default(), SeqCst);
        self.connected.store(true, SeqCst);
        self.connections.fetch_add(1, Relaxed);
        self.say("connected".into());
        let (mut barred, mut looked) = (false, Instant::now());
        loop {
            if barred && looked.elapsed() >= CHECK {
                (barred, looked) = (self.bar().map_err(lost_again)?, Instant::now());
            }
            match self.read(&mut link)? {
                Ok(()) => *failures = 0,
                Err(why) => {
                    (barred, looked) = (self.bar().map_err(lost_again)?, Instant::now());
                    if !barred {
                        return Err(io::Error::other(why));
                    }
                }
            }
        }
    }

    /// Waits for news of the channels in use, and takes them over; or returns what Redis has against it.
    fn read(&self, link: &mut Link) -> io::Result<Result<(), String>> {
        let change = self.changes.load(SeqCst);
        let (mut keys, mut lasts) = (Vec::new(), Vec::new());
        lock(&self.followed).retain(|name, f| {
            let channel = f.channel.upgrade();
            for channel in channel.iter().filter(|_| !f.barred) {
                keys.push(key(name));
                lasts.push(channel.last().to_string());
            }
            channel.is_some()
        });
        self.seen.store(change, SeqCst);
        if keys.is_empty() {
            (keys, lasts) = (vec![PREFIX.into()], vec!["$".into()]); // so that the connection stays, and is known to
        }
        let count = (IN_ALL / keys.len()).clamp(16, PAGE);
        let (page, block) = (count.to_string(), BLOCK.as_millis().to_string());
        let mut words = vec!["XREAD", "COUNT", &page, "BLOCK", &block, "STREAMS"];
        words.extend(keys.iter().chain(&lasts).map(String::as_str));
        let mut commands = Vec::new();
        command(&words, &mut commands);
        link.send(&commands, BLOCK + ANSWER)?;
        let reply = link.reply()?;
        if let Reply::Error(why) = reply {
            return Ok(Err(why));
        }
        let mut behind = false;
        for stream in reply.list() {
            let [name, Reply::List(entries)] = stream.list() else { continue };
            let name = name.text().and_then(|key| std::str::from_utf8(key).ok()?.strip_prefix(PREFIX));
            let followed = |name| {
                let mut followed = lock(&self.followed);
                let f = followed.get_mut(name)?;
                let channel = f.channel.upgrade()?;
                let due = f.checked.is_none_or(|at| at.elapsed() >= CHECK) || entries.len() >= count;
                let doubt = f.told < channel.last() && due;
                f.checked = if doubt { Some(Instant::now()) } else { f.checked };
                Some((channel, doubt))
            };
            let Some((name, (channel, doubt))) = name.and_then(|name| Some((name, followed(name)?))) else { continue };
            behind |= entries.len() >= count;
            self.take(name, &channel, entries, doubt).map_err(lost_again)?;
        }
        if !behind {
            *lock(&self.current) = Instant::now();
        }
        Ok(Ok(()))
    }
}

//! Connections to a Redis server: one command after another, or those of many threads in one round trip.
//!
//! [`Pipe`] is one connection for all who have something to ask. Whoever comes while a round trip is under way leaves its
//! commands; one of those who wait then sends them all in one write, and reads all replies (as `Channel::wait_heard` has one
//! publisher write to the disk for all).
//!
//! *Lost* is a command that was sent, and whose reply did not come: it may have been carried out, or it still will be, as
//! long as the old connection has bytes that the server has not read. So with each new connection the server is told to
//! end the one before (`CLIENT KILL ID`); only what one finds from then on is final.
//!
//! Limits: `CONNECT_TIME`, `MAX_ADDRESSES`, [`REPLY_TIME`], `MAX_PAUSE`; `resp.rs` has those of a reply. Shortcut: the system looks up the
//! name of the server, in a time of its own. Deliberately absent: what the commands mean.

use crate::system::threads::lock;
use crate::system::time::jitter;
use crate::wings::redis::resp::{self, Address, Reply, command};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::mem::take;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long a connection to one address may take.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// Limit: addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Limit: the stack of a thread that looks up a name.
const RESOLVER_STACK: usize = 1 << 20;
/// Limit: how long a round trip may take, and how much longer for each byte of the replies (100 KB a second).
pub const REPLY_TIME: Duration = Duration::from_secs(2);
const TIME_PER_BYTE: Duration = Duration::from_micros(10);
/// Limit: bytes that are kept of what an `XREAD` says of one stream: its name, and the id of an entry.
const NEWS: u64 = 1 << 10;
/// Limit: bytes that are kept of a reply beside two entries.
const REPLY_OVERHEAD: u64 = 8 << 10;
/// Limit: the pause before the server is tried again: 100 ms, doubled up to this many, give or take half.
const MAX_PAUSE: u64 = 3000;

/// The pause after so many failures in a row.
pub fn pause(failures: u32) -> Duration {
    let middle = 100 << failures.min(16);
    Duration::from_millis(jitter(middle.min(MAX_PAUSE), 50))
}

/// The addresses of the server's name. The system's resolver needs a larger stack than our threads have.
fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let address = (address.host.clone(), address.port);
    // No scoped one: the end of a scope unparks who began it, and the follower's next pause would be over at once.
    let resolver = thread::Builder::new().stack_size(RESOLVER_STACK);
    let resolver = resolver.spawn(move || address.to_socket_addrs().map(Iterator::collect))?;
    resolver.join().unwrap_or_else(|_| Err(io::Error::other("its name could not be looked up")))
}

/// A socket whose reads end in time.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let len = match self.stream.read(out) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            read => read?,
        };
        self.until += TIME_PER_BYTE * len as u32; // no read has 2 GiB (read(2))
        Ok(len)
    }
}

/// One connection.
pub struct RedisConnection {
    stream: BufReader<Timed>,
    max_entry: u64, // bytes of an entry that are kept
    /// Its number (`CLIENT ID`), if the server tells it; else 0, which no connection has.
    pub id: i64,
    run_id: Option<Vec<u8>>, // the server's process
}

impl RedisConnection {
    /// Connects to where a pipe leads, and says who we are. Its replies have the pipe's limit.
    ///
    /// # Errors
    /// If the server is not there, or does not take us. The password is in none of them.
    pub fn connect(pipe: &Pipe) -> io::Result<RedisConnection> {
        let Pipe { address, each, .. } = pipe;
        let none = Err(io::Error::other("its name has no address"));
        let addresses = resolve(address)?.into_iter().take(MAX_ADDRESSES);
        let stream =
            addresses.fold(none, |tried, ip| tried.or_else(|_| TcpStream::connect_timeout(&ip, CONNECT_TIME)))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(REPLY_TIME))?;
        let timed = Timed { stream, until: Instant::now() };
        let mut link = RedisConnection { stream: BufReader::new(timed), max_entry: *each, id: 0, run_id: None };
        let Address { user, password, .. } = address;
        let auth: &[&str] = if user.is_empty() { &["AUTH", password] } else { &["AUTH", user, password] };
        if !password.is_empty()
            && let Reply::Error(why) = link.ask(auth)?
        {
            // Not its whole text: a server without this command shows what it was given.
            let code = why.split(' ').next().unwrap_or_default();
            return Err(io::Error::other(format!("it does not take the user and the password ({code})")));
        }
        let database = address.database.to_string();
        if address.database > 0
            && let Reply::Error(why) = link.ask(&["SELECT", &database])?
        {
            return Err(io::Error::other(format!("it has no database {database} for us: {why}")));
        }
        match link.ask(&["CLIENT", "ID"])? {
            Reply::Number(id) => link.id = id,
            // Who may not ask this may still do all else; anything more is said of the connection.
            Reply::Error(why) if !["NOPERM", "ERR unknown"].iter().any(|code| why.starts_with(code)) => {
                return Err(io::Error::other(why));
            }
            _ => {}
        }
        if let Reply::Text(info) = link.ask(&["INFO", "server"])? {
            link.run_id =
                info.split(|&b| b == b'\n').find_map(|line| Some(line.strip_prefix(b"run_id:")?.trim_ascii().into()));
        }
        Ok(link)
    }

    /// Sends commands whose replies are to begin in this time.
    ///
    /// # Errors
    /// As the socket has them.
    pub fn send(&mut self, commands: &[u8], time: Duration) -> io::Result<()> {
        let timed = self.stream.get_mut();
        timed.until = Instant::now() + time + TIME_PER_BYTE * u32::try_from(commands.len()).unwrap_or(u32::MAX);
        timed.stream.write_all(commands)
    }

    /// Reads one reply to commands of so many bytes. Two entries are kept, as far as they are not over the limit, and the id of
    /// each event that was published: it is shorter than the command.
    ///
    /// # Errors
    /// As [`resp::read`].
    pub fn reply(&mut self, commands: usize) -> io::Result<Reply> {
        resp::read(&mut self.stream, self.max_entry, 2 * self.max_entry + REPLY_OVERHEAD + commands as u64)
    }

    /// Reads the reply to an `XREAD` of so many streams, and keeps only which of them have news.
    ///
    /// # Errors
    /// As [`resp::read`].
    pub fn read_news(&mut self, streams: u32) -> io::Result<Reply> {
        resp::read(&mut self.stream, NEWS, NEWS * u64::from(streams) + NEWS)
    }

    fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        self.send(&command(words), REPLY_TIME)?;
        self.reply(0)
    }

    /// Whether the server has not closed it, as far as can be seen.
    fn is_open(&self) -> bool {
        let stream = &self.stream.get_ref().stream;
        let seen = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        // What is there already is the answer to nothing: all that follow would be taken for others' answers.
        self.stream.buffer().is_empty()
            && seen.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
            && stream.set_nonblocking(false).is_ok()
    }
}

/// The kind of error if commands were not sent.
pub const UNSENT: ErrorKind = ErrorKind::NotConnected;
/// The kind of error if commands were sent, at least in part, and have no replies.
const LOST: ErrorKind = ErrorKind::ConnectionAborted;
/// The kind of error if the one that was sent has an error for a reply.
pub const REFUSED: ErrorKind = ErrorKind::Other;

struct Call {
    commands: Vec<u8>,
    replies: usize,
    answer: SyncSender<io::Result<Reply>>, // the first one counts
}

#[derive(Default)]
struct State {
    waiting: Vec<Call>,
    busy: bool,
    link: Option<RedisConnection>,
    before: Option<(Option<Vec<u8>>, i64)>, // the last connection: the server's process, its number
    settled: bool,                          // nothing more comes of those before this one
}

/// One connection for the commands of many threads.
pub struct Pipe {
    /// Where it leads.
    pub address: Address,
    each: u64, // bytes of an entry that are kept
    state: Mutex<State>,
    changed: Condvar,
}

impl Pipe {
    /// A pipe to a server, which is connected to when something is to be sent. Limit: of an entry `each` bytes are kept.
    pub fn new(address: Address, each: u64) -> Pipe {
        Pipe { address, each, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Sends commands that have so many replies, in one piece; returns the last one.
    ///
    /// # Errors
    /// [`UNSENT`], or that they are lost.
    pub fn call(&self, commands: Vec<u8>, replies: usize) -> io::Result<Reply> {
        let mut state = lock(&self.state);
        let (answer, answered) = sync_channel(1);
        state.waiting.push(Call { commands, replies, answer });
        loop {
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
            if state.busy {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.busy = true;
            let calls = take(&mut state.waiting);
            let link = state.link.take();
            drop(state);
            let mut failed = UNSENT;
            // A panic is a bug; even then each call is answered, and the next round trip can begin.
            let trip = catch_unwind(AssertUnwindSafe(|| self.round_trip(link, &calls, &mut failed)));
            for call in calls {
                let _ = call.answer.try_send(Err(failed.into())); // if it has none
            }
            state = lock(&self.state);
            state.link = trip.ok().and_then(Result::ok);
            state.busy = false;
            self.changed.notify_all();
        }
    }

    /// A round trip for all of these calls. Returns the connection.
    ///
    /// # Errors
    /// If it cannot serve the next one; whoever has no answer by then gets `failed`.
    fn round_trip(
        &self, link: Option<RedisConnection>, calls: &[Call], failed: &mut ErrorKind,
    ) -> io::Result<RedisConnection> {
        let mut link = match link.filter(RedisConnection::is_open) {
            Some(link) => link,
            None => self.connect()?,
        };
        *failed = LOST;
        let commands: Vec<&[u8]> = calls.iter().map(|call| &*call.commands).collect();
        link.send(&commands.concat(), REPLY_TIME)?;
        let mut turned_away = false;
        for call in calls {
            let mut last = Reply::Null;
            for _ in 0..call.replies {
                last = link.reply(call.commands.len())?;
                // It has become a replica: its name may by now lead to the one that took its place.
                turned_away |= matches!(&last, Reply::Error(why) if why.starts_with("READONLY"));
            }
            let _ = call.answer.try_send(Ok(last));
        }
        if turned_away { Err(LOST.into()) } else { Ok(link) }
    }

    /// Sends one command; returns its reply.
    ///
    /// # Errors
    /// As [`Pipe::call`]; [`REFUSED`], with what Redis says.
    pub fn ask(&self, words: &[&str]) -> io::Result<Reply> {
        match self.call(command(words), 1)? {
            Reply::Error(why) => Err(io::Error::other(why)),
            reply => Ok(reply),
        }
    }

    /// Whether nothing more can come of what was lost, now that there is an answer to something later.
    pub fn is_settled(&self) -> bool {
        lock(&self.state).settled
    }

    /// Whether it leads to another process than this link does; then it connects again as well.
    pub fn leads_elsewhere(&self, link: &RedisConnection) -> bool {
        let mut state = lock(&self.state);
        let other =
            |ours: &mut RedisConnection| ours.run_id.is_some() && link.run_id.is_some() && ours.run_id != link.run_id;
        state.link.take_if(other).is_some_and(|ours| ours.is_open()) // else it is only what is left of the one before
    }

    fn connect(&self) -> io::Result<RedisConnection> {
        let mut link = RedisConnection::connect(self)?;
        let before = lock(&self.state).before.clone();
        let settled = match (before, &link.run_id) {
            (None, _) => true,
            (_, None) => false,
            (Some((Some(run), _)), Some(now)) if run != *now => true, // another process has no part of ours
            (Some((_, id)), _) => {
                let killed = link.ask(&["CLIENT", "KILL", "ID", &id.to_string()])?;
                matches!(killed, Reply::Number(_)) && self.is_settled()
            }
        };
        let mut state = lock(&self.state);
        state.settled = settled;
        state.before = Some((link.run_id.clone(), link.id));
        Ok(link)
    }
}

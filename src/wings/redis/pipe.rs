//! Connections to a Redis server. A connection carries the commands of one thread, or of many in one round trip.
//!
//! A [`Pipe`] is one connection for all threads. While a round trip is under way, further threads leave their
//! commands and wait. Then one of them sends all commands in one write, and reads all replies. (In the same way
//! `Channel::wait_heard` has one publisher sync the disk for all.)
//!
//! A command is *lost* if it was sent and its reply did not come. Redis may have executed it. It may even execute it
//! later, as long as the old connection has bytes that Redis has not read. So each new connection first has Redis
//! close the old one (`CLIENT KILL ID`). Only after that a look at the stream is final: the pipe is then *settled*.
//!
//! Limits: `CONNECT_TIME`, `MAX_ADDRESSES`, [`REPLY_TIME`], `MAX_PAUSE`; `resp.rs` has the limits of a reply.
//! Shortcut: the system looks up the server's name, in its own time.
//! Deliberately absent: the meaning of the commands.

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

/// Limit: the time for a connection to one address.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// Limit: addresses of the server's name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Limit: the stack of a thread that looks up a name.
const RESOLVER_STACK: usize = 1 << 20;
/// Limit: the time for a round trip. Each byte of the replies adds `TIME_PER_BYTE`, so the slowest rate is 100 KB a
/// second.
pub const REPLY_TIME: Duration = Duration::from_secs(2);
const TIME_PER_BYTE: Duration = Duration::from_micros(10);
/// Limit: bytes of the reply to an `XREAD` that are kept for one stream: its name, and the id of an entry.
const NEWS_SIZE: u64 = 1 << 10;
/// Limit: bytes of a reply that are kept beside two entries.
const REPLY_OVERHEAD: u64 = 8 << 10;
/// Limit, in milliseconds: the pause before the node connects again. It begins with 100, doubles up to this, and
/// varies by half.
const MAX_PAUSE: u64 = 3000;

/// Returns the pause after so many failures in a row.
pub fn pause(failures: u32) -> Duration {
    let middle = 100 << failures.min(16);
    Duration::from_millis(jitter(middle.min(MAX_PAUSE), 50))
}

/// Looks up the addresses of the server's name. The system's resolver needs a larger stack than our threads have.
fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let address = (address.host.clone(), address.port);
    // It is no scoped thread: the end of a scope unparks this thread, and the follower's next pause would end at
    // once.
    let resolver = thread::Builder::new().stack_size(RESOLVER_STACK);
    let resolver = resolver.spawn(move || address.to_socket_addrs().map(Iterator::collect))?;
    resolver.join().unwrap_or_else(|_| Err(io::Error::other("its name could not be looked up")))
}

/// A socket whose reads have a deadline. Each byte that is read moves the deadline.
struct TimedStream {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for TimedStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(remaining))?;
        let len = match self.stream.read(out) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            read => read?,
        };
        self.deadline += TIME_PER_BYTE * len as u32; // no read has 2 GiB (read(2))
        Ok(len)
    }
}

/// One connection to Redis.
pub struct RedisConnection {
    stream: BufReader<TimedStream>,
    max_entry: u64, // bytes of an entry that are kept
    /// Its number on the server (`CLIENT ID`). If the server does not give it, this is 0, which no connection has.
    pub id: i64,
    run_id: Option<Vec<u8>>, // identifies the server's process
}

impl RedisConnection {
    /// Connects to the server of a pipe, authenticates, and selects the database. Replies have the pipe's limit.
    ///
    /// # Errors
    /// If the server is not reachable, or refuses the user, the password or the database. No error shows the
    /// password.
    pub fn connect(pipe: &Pipe) -> io::Result<RedisConnection> {
        let Pipe { address, max_entry, .. } = pipe;
        let error = Err(io::Error::other("its name has no address"));
        let addresses = resolve(address)?.into_iter().take(MAX_ADDRESSES);
        let stream =
            addresses.fold(error, |result, ip| result.or_else(|_| TcpStream::connect_timeout(&ip, CONNECT_TIME)))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(REPLY_TIME))?;
        let timed = TimedStream { stream, deadline: Instant::now() };
        let mut connection =
            RedisConnection { stream: BufReader::new(timed), max_entry: *max_entry, id: 0, run_id: None };
        let Address { user, password, .. } = address;
        let auth: &[&str] = if user.is_empty() { &["AUTH", password] } else { &["AUTH", user, password] };
        if !password.is_empty()
            && let Reply::Error(why) = connection.ask(auth)?
        {
            // Only the first word of the error is shown: a server without AUTH repeats the password in its error.
            let code = why.split(' ').next().unwrap_or_default();
            return Err(io::Error::other(format!("it refuses the user and the password ({code})")));
        }
        let database = address.database.to_string();
        if address.database > 0
            && let Reply::Error(why) = connection.ask(&["SELECT", &database])?
        {
            return Err(io::Error::other(format!("it refuses database {database}: {why}")));
        }
        match connection.ask(&["CLIENT", "ID"])? {
            Reply::Number(id) => connection.id = id,
            // Without the right to CLIENT ID the node still works. Any other error is an error of the connection.
            Reply::Error(why) if !["NOPERM", "ERR unknown"].iter().any(|code| why.starts_with(code)) => {
                return Err(io::Error::other(why));
            }
            _ => {}
        }
        if let Reply::Text(info) = connection.ask(&["INFO", "server"])? {
            connection.run_id =
                info.split(|&b| b == b'\n').find_map(|line| Some(line.strip_prefix(b"run_id:")?.trim_ascii().into()));
        }
        Ok(connection)
    }

    /// Sends commands. The first reply must begin within `time`.
    ///
    /// # Errors
    /// The errors of the socket.
    pub fn send(&mut self, commands: &[u8], time: Duration) -> io::Result<()> {
        let timed = self.stream.get_mut();
        timed.deadline = Instant::now() + time + TIME_PER_BYTE * u32::try_from(commands.len()).unwrap_or(u32::MAX);
        timed.stream.write_all(commands)
    }

    /// Reads one reply to commands of `commands` bytes. It keeps at most two entries of the largest size, and one id
    /// for each published event. An id is shorter than the command that published the event.
    ///
    /// # Errors
    /// The errors of [`resp::read`].
    pub fn reply(&mut self, commands: usize) -> io::Result<Reply> {
        resp::read(&mut self.stream, self.max_entry, 2 * self.max_entry + REPLY_OVERHEAD + commands as u64)
    }

    /// Reads the reply to an `XREAD` of so many streams. It keeps only the names of the streams that have news.
    ///
    /// # Errors
    /// The errors of [`resp::read`].
    pub fn read_news(&mut self, streams: u32) -> io::Result<Reply> {
        resp::read(&mut self.stream, NEWS_SIZE, NEWS_SIZE * u64::from(streams) + NEWS_SIZE)
    }

    fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        self.send(&command(words), REPLY_TIME)?;
        self.reply(0)
    }

    /// Returns whether the connection can be used: the server has not closed it, as far as can be seen, and no bytes
    /// wait.
    fn is_open(&self) -> bool {
        let stream = &self.stream.get_ref().stream;
        let seen = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        // Bytes that wait belong to no command. They would shift all later replies.
        self.stream.buffer().is_empty()
            && seen.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
            && stream.set_nonblocking(false).is_ok()
    }
}

/// The kind of error if the commands were not sent.
pub const UNSENT: ErrorKind = ErrorKind::NotConnected;
/// The kind of error if the commands are lost: at least a part was sent, and a reply is missing.
const LOST: ErrorKind = ErrorKind::ConnectionAborted;
/// The kind of error if Redis replied with an error.
pub const REFUSED: ErrorKind = ErrorKind::Other;

/// The commands of one thread.
struct Call {
    commands: Vec<u8>,
    replies: usize,
    result: SyncSender<io::Result<Reply>>, // only the first one counts
}

/// The state that the threads of a pipe share.
#[derive(Default)]
struct State {
    waiting: Vec<Call>,
    busy: bool,
    connection: Option<RedisConnection>,
    previous: Option<(Option<Vec<u8>>, i64)>, // the connection before: its `run_id` and `id`
    settled: bool,                            // no lost command of earlier connections can be executed any more
}

/// One connection for the commands of many threads.
pub struct Pipe {
    /// The address of the server.
    pub address: Address,
    max_entry: u64, // bytes of an entry that are kept
    state: Mutex<State>,
    changed: Condvar,
}

impl Pipe {
    /// Creates a pipe. It connects when something is to be sent. Limit: it keeps `max_entry` bytes of an entry.
    pub fn new(address: Address, max_entry: u64) -> Pipe {
        Pipe { address, max_entry, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Sends commands in one piece. Returns the last of their `replies`.
    ///
    /// # Errors
    /// [`UNSENT`] or `LOST`.
    pub fn call(&self, commands: Vec<u8>, replies: usize) -> io::Result<Reply> {
        let mut state = lock(&self.state);
        let (result, receiver) = sync_channel(1);
        state.waiting.push(Call { commands, replies, result });
        loop {
            if let Ok(result) = receiver.try_recv() {
                return result;
            }
            if state.busy {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.busy = true;
            let calls = take(&mut state.waiting);
            let connection = state.connection.take();
            drop(state);
            let mut error_kind = UNSENT;
            // A panic is a bug. Even then each call gets a result, and the next round trip can begin.
            let finished = catch_unwind(AssertUnwindSafe(|| self.round_trip(connection, &calls, &mut error_kind)));
            for call in calls {
                let _ = call.result.try_send(Err(error_kind.into())); // if it has no result yet
            }
            state = lock(&self.state);
            state.connection = finished.ok().and_then(Result::ok);
            state.busy = false;
            self.changed.notify_all();
        }
    }

    /// Makes a round trip for all of these calls. Returns the connection.
    ///
    /// # Errors
    /// If the connection cannot be used again. Each call that has no result by then gets `error_kind`.
    fn round_trip(
        &self, connection: Option<RedisConnection>, calls: &[Call], error_kind: &mut ErrorKind,
    ) -> io::Result<RedisConnection> {
        let mut connection = match connection.filter(RedisConnection::is_open) {
            Some(connection) => connection,
            None => self.connect()?,
        };
        *error_kind = LOST;
        let commands: Vec<&[u8]> = calls.iter().map(|call| &*call.commands).collect();
        connection.send(&commands.concat(), REPLY_TIME)?;
        let mut is_replica = false;
        for call in calls {
            let mut last = Reply::Null;
            for _ in 0..call.replies {
                last = connection.reply(call.commands.len())?;
                // The server has become a replica. Its name may by now lead to the new master.
                is_replica |= matches!(&last, Reply::Error(why) if why.starts_with("READONLY"));
            }
            let _ = call.result.try_send(Ok(last));
        }
        if is_replica { Err(LOST.into()) } else { Ok(connection) }
    }

    /// Sends one command. Returns its reply.
    ///
    /// # Errors
    /// The errors of [`Pipe::call`]; [`REFUSED`] with the text of Redis, if the reply is an error.
    pub fn ask(&self, words: &[&str]) -> io::Result<Reply> {
        match self.call(command(words), 1)? {
            Reply::Error(why) => Err(io::Error::other(why)),
            reply => Ok(reply),
        }
    }

    /// Returns whether no lost command can be executed any more. Ask this after a reply to a later command.
    pub fn is_settled(&self) -> bool {
        lock(&self.state).settled
    }

    /// Returns whether the pipe is connected to another server process than this connection. If so, the pipe connects
    /// again.
    pub fn leads_elsewhere(&self, connection: &RedisConnection) -> bool {
        let mut state = lock(&self.state);
        let differs = |own: &mut RedisConnection| {
            own.run_id.is_some() && connection.run_id.is_some() && own.run_id != connection.run_id
        };
        // A closed one is left from an earlier server process. It says nothing about where the name leads now.
        state.connection.take_if(differs).is_some_and(|own| own.is_open())
    }

    /// Connects, and has Redis close the connection before.
    fn connect(&self) -> io::Result<RedisConnection> {
        let mut connection = RedisConnection::connect(self)?;
        let previous = lock(&self.state).previous.clone();
        let settled = match (previous, &connection.run_id) {
            (None, _) => true,
            (_, None) => false,
            (Some((Some(run), _)), Some(now)) if run != *now => true, // a new process has no commands of ours
            (Some((_, previous_id)), _) => {
                let killed = connection.ask(&["CLIENT", "KILL", "ID", &previous_id.to_string()])?;
                matches!(killed, Reply::Number(_)) && self.is_settled()
            }
        };
        let mut state = lock(&self.state);
        state.settled = settled;
        state.previous = Some((connection.run_id.clone(), connection.id));
        Ok(connection)
    }
}

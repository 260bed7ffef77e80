//! The server: its sockets and its threads.
//!
//! Threads: one leads, which waits in `accept()`. When it gets a connection it starts the next leader, and then serves, so
//! no client waits for a thread to start, and a slow one holds up only its own. The first thread is one more that waits there
//! whenever it is free, so that not each connection takes a new one. (A leader first waits up to `FIRST_BYTE_TIME` for a first byte,
//! so that a burst does not take a thread for each client.) A request for a stream hands its socket over to the channel, and
//! its thread is free again. In a burst the kernel keeps 128 connections waiting (std's backlog; `--listen -` takes a longer
//! one), and has further ones try again after a second.
//!
//! Limits: the constants below; `--max-body`, `--max-connections`; `connection.rs` has the deadlines, `limits.rs` the
//! descriptors.
//! Deliberately absent: TLS, compression, a shutdown. The process can be killed at any time.

use crate::channel::hub::Hub;
use crate::config::Config;
use crate::server::connection::{Connection, Response, Stop};
use crate::server::doors::{App, Door, Outcome, Route, Takeover};
use crate::server::gate::{self, Tokens};
use crate::server::route::{CLOSE, STREAM_FIELDS, is_chunked};
use crate::system::limits::{self, Shares};
use crate::system::listener::{accept_waiting, cannot_listen, listen_on};
use crate::system::threads::spawn;
use crate::system::time::jitter;
use crate::wire::http::Request;
use crate::wire::reject::{CONNECTIONS, LOG_UNREADABLE, Reject};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long the thread that leads waits for the first byte of a request before it starts the next one.
/// Nobody is accepted meanwhile, so it waits half of the time at most, over each [`FIRST_BYTE_WINDOW`], and only once there in vain.
const FIRST_BYTE_TIME: Duration = Duration::from_millis(4);
const FIRST_BYTE_WINDOW: Duration = Duration::from_millis(100);
/// Pause after an accept error, such as too many open files: the loop goes on, and does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The middle of the reconnection times given out by a full server, in milliseconds.
const FULL_RETRY: u64 = 5000;

/// Paths of the core's own. No channel has such a name.
const RESERVED: [&str; 3] = ["assets", "metrics", "health"];

/// A bound server.
pub struct Server {
    listener: TcpListener,
    early: Option<(TcpStream, SocketAddr)>, // who was there before it
    app: Arc<App>,
}

/// Tells what it was told, and nothing that was said.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Server({:?})", self.hub())
    }
}

impl Server {
    /// Binds the listening socket, opens the logs and the wings, and starts the hub's threads. Nothing is answered before
    /// [`Server::run`].
    ///
    /// # Errors
    /// If the address cannot be had; if `-` is given and standard input is no listening socket; if `--data` or
    /// `--token-file` cannot be used. Each in words for a person.
    #[doc(hidden)]
    pub fn bind_with(config: Config, doors: &'static [Door]) -> io::Result<Server> {
        check_wing_options(&config, doors)?;
        let tokens = config.token_file.as_deref().map_or(Ok(Tokens::default()), Tokens::load)?;
        let listen = config.listen;
        let told = |e: io::Error| io::Error::new(e.kind(), cannot_listen(listen, &e));
        let listener = listen_on(listen).map_err(told)?;
        let reserved = RESERVED.iter().chain(doors.iter().flat_map(|door| door.paths)).copied().collect();
        let hub = Hub::new(config, tokens.guards_reading(), reserved)?;
        let app = App::new(hub, tokens, doors)?;
        let early = accept_waiting(&listener).map_err(told)?; // last, so that a start that fails takes no client with it
        Ok(Server { listener, early, app })
    }

    /// What this process can hold, on one line; and, a line each, what its owner may not expect.
    #[doc(hidden)]
    pub fn start_notes(&self) -> Vec<String> {
        let config = self.hub().config();
        let Shares { connections, descriptors, logs, .. } = self.hub().shares;
        let of = descriptors.map_or(String::new(), |n| format!(" ({n} descriptors)"));
        let wish = config.max_connections;
        let channels = config.max_channels;
        let history = config.history as u64;
        let (place, name, option, need) = match config.data {
            Some(_) => ("on the disk", "Max file size", "-f", history / 2),
            None => ("in memory", "Max address space", "-v", history.saturating_mul(channels as u64)),
        };
        let each = bytes(history);
        let mut notes =
            vec![format!("limits: {connections} connections{of}; {channels} channels of up to {each}, {place}")];
        if connections < wish {
            notes.push(format!(
                "warning: --max-connections {wish} needs more descriptors; raise `ulimit -n`, or give --max-connections {connections}"
            ));
        }
        if config.data.is_some() && logs < channels {
            notes.push(format!(
                "warning: there are descriptors for {logs} channels in use at a time; raise `ulimit -n`"
            ));
        }
        if let Some(limit) = limits::soft_limit(name).filter(|limit| *limit <= need) {
            let limit = bytes(limit);
            let need = bytes(need);
            notes.push(format!("warning: --history may come to need {need}, and `ulimit {option}` allows {limit}"));
        }
        if let Some(what) = self.app.tokens.open_to_all()
            && !self.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
        {
            notes.push(format!("warning: everyone who reaches this address may {what}; --token-file says who may"));
        }
        notes.extend(self.app.wings().filter_map(|wing| wing.start_note()).map(String::from));
        notes.extend_from_slice(&self.hub().notes);
        notes
    }

    /// The address, with the port that was chosen where it was given as 0.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The channels, to publish from within the process.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.app.hub
    }

    /// Serves for ever.
    pub fn run(mut self) -> ! {
        self.app.wings().for_each(|wing| wing.run());
        let mut early = self.early.take();
        let server = Arc::new(self);
        loop {
            server.accept_loop(early.take(), Instant::now(), true);
        }
    }
}

/// Looks whether the options of wings are right, also if no command line has set them.
fn check_wing_options(config: &Config, doors: &[Door]) -> io::Result<()> {
    for door in doors {
        let given = door.options.iter().find(|option| config.wing_options.get(option).is_some());
        let checked = match (door.wing, given) {
            (Some(tables), _) => (tables.check)(config),
            (None, Some(option)) => Err(format!("{option}: this build does not have it")),
            (None, None) => Ok(()),
        };
        checked.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    }
    Ok(())
}

/// A number of bytes, for a person.
fn bytes(n: u64) -> String {
    if n.is_multiple_of(1 << 20) { format!("{} MiB", n >> 20) } else { format!("{} KiB", n.div_ceil(1 << 10)) }
}

impl Server {
    /// The life of a thread: wait in `accept()`, start one that waits there from now on, serve. `first`: it then goes on as
    /// one more. For `paid` see [`wait_for_first_byte`].
    fn accept_loop(self: &Arc<Self>, mut early: Option<(TcpStream, SocketAddr)>, mut paid: Instant, first: bool) {
        let mut alone = true;
        while alone || first {
            let Ok((stream, peer)) = early.take().map_or_else(|| self.listener.accept(), Ok) else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if alone {
                paid = wait_for_first_byte(&stream, paid);
                let next = self.clone();
                // Where no thread can be had, the next connection waits in the backlog until this one is served.
                alone = spawn("connection", Box::new(move || next.accept_loop(None, paid, false))).is_err();
            }
            // A panic is a bug, and the end of this connection alone; its slot is given back as the stack unwinds.
            drop(catch_unwind(AssertUnwindSafe(|| self.serve(stream, peer, alone))));
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, alone: bool) {
        let app = &self.app;
        let (slot, number) = app.hub.connect();
        let most = app.hub.shares.connections;
        if number > most + app.hub.shares.turned_away {
            return;
        }
        let full = number > most;
        let Ok(mut connection) = Connection::new(stream, peer, app.hub.config().quiet, full || alone) else { return };
        connection.watchers.0.extend(app.wings().filter_map(|wing| wing.watch()));
        match self.serve_requests(&mut connection, full) {
            Err(stop) => connection.close(stop),
            Ok(take) => take(connection, slot),
        }
    }

    /// Reads requests and answers them, up to the one whose answer is a stream.
    fn serve_requests(&self, connection: &mut Connection, full: bool) -> Result<Takeover, Stop> {
        let config = self.hub().config();
        loop {
            let (head, deadline) = connection.read_head()?;
            let req = Request::parse(&head)?;
            connection.request_line = format!("{} {}", req.method, req.target);
            connection.cors = gate::cors(config, &req);
            let route = if full { Err(CONNECTIONS) } else { self.app.route(&req, &head, connection) };
            // A client that waits for 100 Continue keeps its body to itself if it is not wanted.
            let kept = req.expects && route.is_err();
            let body = if kept { Vec::new() } else { connection.read_body(&req, config.max_body, deadline)? };
            let reply = route.and_then(|route| match route {
                Route::Response(response) => Ok(Outcome::Response(response)),
                Route::Handler(work) => work(&req, body, connection),
            });
            let response = match reply {
                Ok(Outcome::Response(response)) => response,
                Ok(Outcome::TakenOver(take)) => return Ok(take),
                Ok(Outcome::Sent) => return Err(Stop::Close),
                Err(reject) => refusal_response(&req, reject, connection),
            };
            if connection.brief || kept || !req.keep_alive() {
                connection.send(&response, CLOSE)?;
                return Err(Stop::Close);
            }
            connection.send(&response, if req.minor == 0 { "Connection: keep-alive\r\n" } else { "" })?;
        }
    }
}

/// The answer to a request that is refused.
fn refusal_response(req: &Request, reject: Reject, connection: &mut Connection) -> Response {
    // A status other than 200 makes EventSource give up for ever (WHATWG HTML, "Processing model").
    if (reject.status == 503 || reject == LOG_UNREADABLE) && req.method == "GET" && req.is_event_source() {
        // No blank line: without an id before it, it would take the reader's place from it (WHATWG HTML, "Interpreting an
        // event stream": each stream begins with an empty last event ID buffer).
        connection.brief = true; // this is the end of the stream, also for who does not count its bytes
        let body = format!(": {}\nretry: {}\n", reject.why, jitter(FULL_RETRY, 50));
        return Response { fields: STREAM_FIELDS.into(), chunked: is_chunked(req), ..Response::text(body) };
    }
    Response::refusal(reject, &connection.refusal_detail)
}

/// Waits a moment for a connection's first byte. In a burst each client's thread would wait for its request, and the
/// memory of each thread stays; most requests come at once, and then a few threads do for all. Up to `paid` such waiting is
/// paid for, with as much time without; returns what it is then.
fn wait_for_first_byte(stream: &TcpStream, paid: Instant) -> Instant {
    let now = Instant::now();
    if paid >= now + FIRST_BYTE_WINDOW || stream.set_read_timeout(Some(FIRST_BYTE_TIME)).is_err() {
        return paid;
    }
    let in_vain = stream.peek(&mut [0]).is_err();
    paid.max(now) + 2 * if in_vain { FIRST_BYTE_WINDOW } else { now.elapsed() }
}

//! The server: its listening socket and the threads of its connections.
//!
//! One thread at a time, the *leader*, waits in `accept()`. When it gets a connection, it first waits up to
//! `FIRST_BYTE_TIME` for the first byte. Then it starts the next leader, and serves the connection itself. So no
//! client waits until a thread has started, and a slow client holds up only its own thread. The wait for a first byte
//! saves threads: in a burst, one thread can serve many clients one after another.
//!
//! The first thread never ends. After its connection it waits in `accept()` again, beside the leader. So not every
//! connection needs a new thread.
//!
//! A request for a stream hands its socket over to the channel, and its thread is free again.
//!
//! In a burst the kernel keeps 128 connections waiting (std's backlog; `--listen -` can bring a longer one). Further
//! clients try again after a second.
//!
//! Limits: the constants below; `--max-body`, `--max-connections`, `--max-per-address`. `connection.rs` has the
//! deadlines, `limits.rs` the descriptors, `memory.rs` the memory.
//! Deliberately absent: TLS, compression, a shutdown. The process can be killed at any time.

use crate::channel::hub::Hub;
use crate::config::Config;
use crate::server::connection::{BRIEF_TIME, Connection, Response, Stop};
use crate::server::doors::{App, Door, Outcome, Route, Takeover};
use crate::server::gate::{self, Tokens};
use crate::server::route::{CLOSE, STREAM_FIELDS, is_chunked};
use crate::system::limits::{self, Shares};
use crate::system::listener::{accept_waiting, cannot_listen, listen_on};
use crate::system::memory::Counted;
use crate::system::threads::{STACK, spawn};
use crate::system::time::jitter;
use crate::wire::http::Request;
use crate::wire::reject::{CONNECTIONS, LOG_UNREADABLE, Reject};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long the leader waits for the first byte of a request before it starts the next leader. Meanwhile no
/// connection is accepted. So it waits for at most half of the time, measured over each [`FIRST_BYTE_WINDOW`], and
/// after one wait in vain it does not wait again in that window.
const FIRST_BYTE_TIME: Duration = Duration::from_millis(4);
const FIRST_BYTE_WINDOW: Duration = Duration::from_millis(100);
/// The pause after an accept error, such as too many open files. The loop goes on, but does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The middle of the reconnection times that a full server gives, in milliseconds.
const FULL_RETRY: u64 = 5000;

/// The first segments of the core's own paths. No channel has such a name.
const RESERVED: [&str; 3] = ["assets", "metrics", "health"];

/// A bound server.
pub struct Server {
    listener: TcpListener,
    early: Option<(TcpStream, SocketAddr)>, // a client that had connected before the server started
    app: Arc<App>,
}

/// Shows the configuration, and nothing of what is published.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Server({:?})", self.hub())
    }
}

impl Server {
    /// Binds the listening socket, opens the logs and the wings, and starts the hub's threads. No connection is
    /// served before [`Server::run`].
    ///
    /// # Errors
    /// If the address is not available; if `-` is given and standard input is not a listening socket; if `--data` or
    /// `--token-file` cannot be used. Each error is a message for the operator.
    #[doc(hidden)]
    pub fn bind_with(config: Config, doors: &'static [Door]) -> io::Result<Server> {
        check_wing_options(&config, doors)?;
        let tokens = config.token_file.as_deref().map_or(Ok(Tokens::default()), Tokens::load)?;
        let listen = config.listen;
        let failure = |e: io::Error| io::Error::new(e.kind(), cannot_listen(listen, &e));
        let listener = listen_on(listen).map_err(failure)?;
        let reserved = RESERVED.iter().chain(doors.iter().flat_map(|door| door.paths)).copied().collect();
        let hub = Hub::new(config, tokens.guards_reading(), reserved)?;
        let app = App::new(hub, tokens, doors)?;
        // This comes last, so that no client is lost if the start fails.
        let early = accept_waiting(&listener).map_err(failure)?;
        Ok(Server { listener, early, app })
    }

    /// Returns lines for the operator: first the limits of this process, then warnings and notes.
    #[doc(hidden)]
    pub fn start_notes(&self) -> Vec<String> {
        let config = self.hub().config();
        let Shares { connections, descriptors, logs, .. } = self.hub().shares;
        let of_descriptors = descriptors.map_or(String::new(), |number| format!(" ({number} descriptors)"));
        let wanted = config.max_connections;
        let channels = config.max_channels;
        let history = config.history as u64;
        let on_disk = config.data.is_some();
        let place = if on_disk { "on the disk" } else { "in memory" };
        let each = bytes(history);
        let memory = bytes(self.hub().budget.max as u64);
        let mut notes = vec![format!(
            "limits: {connections} connections{of_descriptors}; {channels} channels of up to {each}, {place}; {memory} for logs in memory and bodies"
        )];
        if connections < wanted {
            notes.push(format!(
                "warning: --max-connections {wanted} needs more descriptors; raise `ulimit -n`, or give --max-connections {connections}"
            ));
        }
        if on_disk && logs < channels {
            notes.push(format!(
                "warning: there are descriptors for {logs} channels in use at a time; raise `ulimit -n`"
            ));
        }
        let limit = limits::soft_limit("Max file size").filter(|limit| on_disk && *limit <= history / 2);
        if let Some(limit) = limit.map(bytes) {
            let need = bytes(history / 2);
            notes.push(format!("warning: --history may need {need}, but `ulimit -f` allows {limit}"));
        }
        if let Some(rights) = self.app.tokens.open_to_all()
            && !self.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
        {
            notes.push(format!("warning: everyone who reaches this address may {rights}; --token-file says who may"));
        }
        notes.extend(self.app.wings().filter_map(|wing| wing.start_note()).map(String::from));
        notes.extend_from_slice(&self.hub().notes);
        notes
    }

    /// Returns the address. If the port was given as 0, it is the port that the system chose.
    ///
    /// # Errors
    /// If the system does not know it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns the channels, so that the process itself can publish.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.app.hub
    }

    /// Serves clients, and never returns.
    pub fn run(mut self) -> ! {
        self.app.wings().for_each(|wing| wing.run());
        let mut early = self.early.take();
        let server = Arc::new(self);
        loop {
            server.accept_loop(early.take(), Instant::now(), true);
        }
    }
}

/// Checks the options of all wings. Options need not come from a command line.
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

/// Writes a number of bytes for a person.
fn bytes(number: u64) -> String {
    if number.is_multiple_of(1 << 20) {
        format!("{} MiB", number >> 20)
    } else {
        format!("{} KiB", number.div_ceil(1 << 10))
    }
}

impl Server {
    /// Runs a thread: it waits in `accept()`, starts the next leader, serves the connection. A thread that `stays`
    /// then begins again. For `debt_end` see [`wait_for_first_byte`].
    fn accept_loop(self: &Arc<Self>, mut early: Option<(TcpStream, SocketAddr)>, mut debt_end: Instant, stays: bool) {
        let mut leads = true;
        while leads || stays {
            let Ok((stream, peer)) = early.take().map_or_else(|| self.listener.accept(), Ok) else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if self.is_crowded(self.hub().shares.turned_away) {
                continue; // the connection is closed at once, without a further thread
            }
            if leads {
                debt_end = wait_for_first_byte(&stream, debt_end);
                let next = self.clone();
                // If no thread can be started, this one still leads: the next connection waits in the backlog
                // meanwhile.
                leads = spawn("connection", Box::new(move || next.accept_loop(None, debt_end, false))).is_err();
            }
            // A panic is a bug. It ends this connection alone, and its slot is free as the stack unwinds.
            drop(catch_unwind(AssertUnwindSafe(|| self.serve(stream, peer, leads))));
        }
    }

    /// Returns how many connections may have a thread at a time. Their stacks take a quarter of the memory at most.
    fn max_threads(&self) -> usize {
        self.hub().shares.memory / STACK
    }

    /// Returns whether more connections have a thread than may have one, by more than this number.
    fn is_crowded(&self, excess: usize) -> bool {
        self.hub().threads.count.load(Relaxed) > self.max_threads() + excess
    }

    /// Serves a connection. It gets little time if the server is full, or if this thread still `leads`.
    fn serve(&self, stream: TcpStream, peer: SocketAddr, leads: bool) {
        let hub = self.hub();
        let (mut slot, has_room) = hub.connect(peer.ip());
        let max = self.max_threads();
        let (_thread, has_thread) = hub.threads.claim_within(peer.ip(), max, max.div_ceil(2));
        let full = !has_room || !has_thread;
        if full {
            // Connections that are refused have other places. Otherwise those of one client would keep out all others.
            let number;
            (slot, number, _) = hub.refused.claim(peer.ip());
            if number > hub.shares.turned_away {
                return;
            }
        }
        let Ok(mut connection) = Connection::new(stream, peer, hub.config().quiet, full || leads) else { return };
        connection.watchers.0.extend(self.app.wings().filter_map(|wing| wing.watch()));
        match self.serve_requests(&mut connection, full) {
            Err(stop) => connection.close(stop),
            Ok(take_over) => take_over(connection, slot),
        }
    }

    /// Reads requests and sends responses, until a request takes the connection over.
    fn serve_requests(&self, connection: &mut Connection, full: bool) -> Result<Takeover, Stop> {
        let hub = self.hub();
        loop {
            let (head, deadline) = connection.read_head()?;
            let req = Request::parse(&head)?;
            connection.request_line = format!("{} {}", req.method, req.target);
            connection.cors = gate::cors(hub.config(), &req);
            let route = if full { Err(CONNECTIONS) } else { self.app.route(&req, &head, connection) };
            // A client that waits for `100 Continue` does not send the body of a request that is refused.
            let withheld = req.expects && route.is_err();
            let in_flight = Counted::new(&hub.budget.bodies);
            let begin = Instant::now();
            let admit = |bytes, complete: bool| {
                // If there are too many threads, a slow client gives its own to another.
                let is_late = !complete && self.is_crowded(0) && begin.elapsed() > BRIEF_TIME;
                if is_late { Err(CONNECTIONS) } else { hub.admit(&in_flight, bytes) }
            };
            let body = if withheld {
                Vec::new()
            } else {
                connection.read_body(&req, hub.config().max_body, deadline, admit)?
            };
            let outcome = route.and_then(|route| match route {
                Route::Response(response) => Ok(Outcome::Response(response)),
                Route::Handler(handler) => handler(&req, body, connection),
            });
            drop(in_flight); // before the client can send the next body
            let response = match outcome {
                Ok(Outcome::Response(response)) => response,
                Ok(Outcome::TakenOver(take_over)) => return Ok(take_over),
                Ok(Outcome::Sent) => return Err(Stop::Close),
                Err(reject) => refusal_response(&req, reject, connection),
            };
            if connection.brief || withheld || !req.keep_alive() {
                connection.send(&response, CLOSE)?;
                return Err(Stop::Close);
            }
            connection.send(&response, if req.minor == 0 { "Connection: keep-alive\r\n" } else { "" })?;
        }
    }
}

/// Returns the response to a request that is refused.
fn refusal_response(req: &Request, reject: Reject, connection: &mut Connection) -> Response {
    // A status other than 200 makes EventSource give up for good (WHATWG HTML, "Processing model").
    if (reject.status == 503 || reject == LOG_UNREADABLE) && req.method == "GET" && req.is_event_source() {
        // An EventSource gets a stream that ends. It has no blank line: that would set the client's last event ID to
        // an empty one (WHATWG HTML, "Interpreting an event stream": each stream begins with an empty last event ID
        // buffer).
        connection.brief = true; // closing the connection ends the stream, even for a client that does not read chunks
        let body = format!(": {}\nretry: {}\n", reject.why, jitter(FULL_RETRY, 50));
        return Response { fields: STREAM_FIELDS.into(), chunked: is_chunked(req), ..Response::text(body) };
    }
    Response::refusal(reject, &connection.refusal_detail)
}

/// Waits a moment for a connection's first byte. Otherwise each client of a burst would take a thread that waits for
/// its request, and the memory of a thread stays in use. Most requests come at once, and then a few threads serve
/// all.
///
/// A debt limits these waits. A wait adds twice its own time to it, and a wait in vain twice the window. The debt
/// shrinks with time, and is gone at `debt_end`. If it is larger than a window, this does not wait. Returns the new
/// `debt_end`.
fn wait_for_first_byte(stream: &TcpStream, debt_end: Instant) -> Instant {
    let now = Instant::now();
    if debt_end >= now + FIRST_BYTE_WINDOW || stream.set_read_timeout(Some(FIRST_BYTE_TIME)).is_err() {
        return debt_end;
    }
    let in_vain = stream.peek(&mut [0]).is_err();
    debt_end.max(now) + 2 * if in_vain { FIRST_BYTE_WINDOW } else { now.elapsed() }
}

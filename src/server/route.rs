//! The server: accepting, and which handler.
//!
//! Threads: one leads, which waits in `accept()`. When it gets a connection it starts the next leader, and then serves, so
//! no client waits for a thread to start, and a slow one holds up only its own. The first thread is one more that waits there
//! whenever it is free, so that not each connection takes a new one. (A leader first waits up to `PROMPT` for a first byte,
//! so that a burst does not take a thread for each client.) A request for a stream hands its socket over to the channel, and
//! its thread is free again. In a burst the kernel keeps 128 connections waiting (std's backlog; `--listen -` takes a longer
//! one), and has further ones try again after a second.
//!
//! Limits: the constants below; `--max-body`, `--max-connections`; `connection.rs` has the deadlines, `limits.rs` the
//! descriptors.
//! Deliberately absent: TLS, compression, a shutdown. The process can be killed at any time.

use crate::channel::framing::Framing;
use crate::channel::hub::{Hub, is_channel, is_lab, start};
use crate::channel::state::{Channel, Opening, jitter};
use crate::flags::Config;
use crate::log::positions::From;
use crate::server::connection::{Answer, Connection, Stop};
use crate::server::gate::{self, Tokens};
use crate::server::pages::{self, File};
use crate::system::limits::{self, Places, Shares};
use crate::system::listener::{cannot_listen, first, listen_on};
use crate::wings::lab::taps::Lab;
use crate::wings::lessons::script::{self as lessons, PLAYERS, Script};
use crate::wings::trace::watch::{Trace, Tracer};
use crate::wings::websocket::frames::{self as ws, Handshake};
use crate::wings::websocket::socket::{self as websocket, Accepted};
use crate::wire::event::{self, Event};
use crate::wire::http::{self, Request};
use crate::wire::id::Id;
use crate::wire::reject::*;
use std::fmt;
use std::io::{self, Write};
use std::mem::take;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Limit: how long the thread that leads waits for the first byte of a request before it starts the next one.
/// Nobody is accepted meanwhile, so it waits half of the time at most, over each [`WINDOW`], and only once there in vain.
const PROMPT: Duration = Duration::from_millis(4);
const WINDOW: Duration = Duration::from_millis(100);
/// Limit: `?wait=`, in seconds.
const MAX_WAIT: u64 = 300;
/// Pause after an accept error, such as too many open files: the loop goes on, and does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The middle of the reconnection times given out by a full server, in milliseconds.
const FULL_RETRY: u64 = 5000;

const CLOSE: &str = "Connection: close\r\n";
const STREAM_FIELDS: &str = "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nVary: Accept\r\n";

/// A bound server.
pub struct Server {
    listener: TcpListener,
    early: Option<(TcpStream, SocketAddr)>, // who was there before it
    hub: Arc<Hub>,
    tokens: Tokens,
    tracer: Option<Tracer>,
    shares: Shares,
    lab: Arc<Lab>,
    players: Places<()>, // lessons that are being played
}

/// Tells what it was told, and nothing that was said.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Server({:?})", self.hub())
    }
}

impl Server {
    /// Binds the listening socket, opens the logs and starts the hub's threads. Nothing is answered before
    /// [`Server::run`].
    ///
    /// # Errors
    /// Where the address cannot be had; where `-` is given and standard input is no listening socket; where `--data` or
    /// `--token-file` cannot be used. Each in words for a person.
    pub fn bind(config: Config) -> io::Result<Server> {
        let tokens = config.token_file.as_deref().map_or(Ok(Tokens::default()), Tokens::load)?;
        let tracer = config.trace.then(|| Tracer::new(tokens.secrets()));
        let listen = config.listen;
        let told = |e: io::Error| io::Error::new(e.kind(), cannot_listen(listen, &e));
        let listener = listen_on(listen).map_err(told)?;
        let shares =
            limits::shares(config.max_connections, if config.data.is_some() { config.max_channels } else { 0 });
        let hub = Hub::new(config, shares.logs, tokens.guard_reading())?;
        let lab = Lab::new(hub.clone())?;
        let early = first(&listener).map_err(told)?; // last, so that a start that fails takes no client with it
        Ok(Server { listener, early, hub, tokens, tracer, shares, lab, players: Places(Mutex::default()) })
    }

    /// What this process can hold, on one line; and, a line each, what its owner may not expect.
    pub fn notes(&self) -> Vec<String> {
        let config = self.hub().config();
        let Shares { connections, descriptors, logs, .. } = self.shares;
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
        if let Some(limit) = limits::soft(name).filter(|limit| *limit <= need) {
            let limit = bytes(limit);
            let need = bytes(need);
            notes.push(format!("warning: --history may come to need {need}, and `ulimit {option}` allows {limit}"));
        }
        if let Some(what) = self.tokens.open_to_all()
            && !self.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
        {
            notes.push(format!("warning: everyone who reaches this address may {what}; --token-file says who may"));
        }
        if config.trace {
            notes.push("trace: from here on this shows what is asked for and what is published, but no token".into());
        }
        notes.extend_from_slice(self.hub().notes());
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
        &self.hub
    }

    /// Serves for ever.
    pub fn run(mut self) -> ! {
        self.hub.follow();
        let mut early = self.early.take();
        let server = Arc::new(self);
        loop {
            server.work(early.take(), Instant::now(), true);
        }
    }
}

/// A number of bytes, for a person.
fn bytes(n: u64) -> String {
    if n.is_multiple_of(1 << 20) { format!("{} MiB", n >> 20) } else { format!("{} KiB", n.div_ceil(1 << 10)) }
}

/// What a request asks for.
enum Route {
    /// It is told from the head alone.
    Page(Answer),
    Health,
    /// A lesson for this client.
    Lesson(Script),
    /// The channel, where to begin, `?wait=`, and the handshake of a WebSocket.
    Listen(String, From, Option<Duration>, Option<Handshake>),
    /// The channel, what the events are called, and the addresses of `?to=` and `?except=`.
    Publish(String, Event, Option<String>, Option<String>),
    /// Pull the plug of a tap's connections.
    Cut(String),
}

/// What a channel takes over; and what its client may do, if it is a WebSocket.
type Taken = (Arc<Channel>, Opening, Option<Accepted>);

/// What a request gets.
enum Reply {
    Answer(Answer),
    /// The channel gives it.
    Taken(Taken),
    /// It was given all, to the end of its connection.
    Given,
}

/// The answer to an OPTIONS.
fn allow(fields: &str) -> Result<Route, Reject> {
    Ok(Route::Page(Answer::empty(204, fields)))
}

/// A file of the pages; and further field lines.
fn page(mut answer: Answer, fields: &str) -> Route {
    answer.fields += fields;
    answer.cache = http::CHECKED;
    Route::Page(answer)
}

/// A file of a page; and the `Vary` field line that its path asks for.
fn file(file: &File, vary: &str) -> Route {
    page(Answer::new(file.kind, file.bytes), &[pages::POLICY, vary].concat())
}

impl Server {
    /// The life of a thread: wait in `accept()`, start one that waits there from now on, serve. `first`: it then goes on as
    /// one more. For `paid` see [`wait_for`].
    fn work(self: &Arc<Self>, mut early: Option<(TcpStream, SocketAddr)>, mut paid: Instant, first: bool) {
        let mut alone = true;
        while alone || first {
            let Ok((stream, peer)) = early.take().map_or_else(|| self.listener.accept(), Ok) else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if alone {
                paid = wait_for(&stream, paid);
                let next = self.clone();
                // Where no thread can be had, the next connection waits in the backlog until this one is served.
                alone = start("connection", Box::new(move || next.work(None, paid, false))).is_err();
            }
            // A panic is a bug, and the end of this connection alone; its slot is given back as the stack unwinds.
            drop(catch_unwind(AssertUnwindSafe(|| self.serve(stream, peer, alone))));
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, alone: bool) {
        let (slot, number) = self.hub.connect();
        let most = self.shares.connections;
        if number > most + self.shares.spill {
            return;
        }
        let full = number > most;
        let Ok(mut connection) = Connection::new(stream, peer, self.hub.config().quiet, full || alone) else { return };
        connection.trace = self.tracer.as_ref().map(Tracer::trace).unwrap_or_default();
        match self.requests(&mut connection, full) {
            Err(stop) => connection.end(stop),
            Ok((channel, mut opening, accepted)) => {
                opening.trace = take(&mut connection.trace);
                let Some(accepted) = accepted else {
                    // Where this fails the reader is gone.
                    return drop(self.hub.subscribe(&channel, connection.stream, slot, opening));
                };
                let hub = self.hub.clone();
                let work = move || websocket::serve(connection, slot, &hub, &channel, opening, accepted);
                // A thread of its own, which has not yet used much of its stack. If there is none, the client is sent away.
                let _ = start("websocket", Box::new(work));
            }
        }
    }

    /// Reads requests and answers them, up to the one whose answer is a stream.
    fn requests(&self, connection: &mut Connection, full: bool) -> Result<Taken, Stop> {
        loop {
            let (head, deadline) = connection.head()?;
            let req = Request::parse(&head)?;
            connection.line = format!("{} {}", req.method, req.target);
            connection.cors = gate::cors(self.hub.config(), &req);
            let route = if full { Err(CONNECTIONS) } else { self.route(&req, &head, connection) };
            // Whoever waits for 100 Continue keeps its body to itself if it is not wanted.
            let kept = req.expects && route.is_err();
            let body = if kept { Vec::new() } else { connection.body(&req, self.hub.config().max_body, deadline)? };
            let answer = match route.and_then(|route| self.answer(&req, route, body, connection)) {
                Ok(Reply::Answer(answer)) => answer,
                Ok(Reply::Taken(taken)) => return Ok(taken),
                Ok(Reply::Given) => return Err(Stop::Close),
                // A status other than 200 makes EventSource give up for ever (WHATWG HTML, "Processing model").
                Err(r) if (r.status == 503 || r == LOG_UNREADABLE) && req.method == "GET" && req.is_event_source() => {
                    // No blank line: without an id before it, it would take the reader's place from it (WHATWG HTML,
                    // "Interpreting an event stream": each stream begins with an empty last event ID buffer).
                    connection.brief = true; // this is the end of the stream, also for who does not count its bytes
                    let body = format!(": {}\nretry: {}\n", r.why, jitter(FULL_RETRY, 50));
                    Answer { fields: STREAM_FIELDS.into(), framing: framing(&req), ..Answer::text(body) }
                }
                Err(PARAMETER) => {
                    let name = unknown_parameter(&req).unwrap_or_default();
                    refusal_of(PARAMETER, name.get(..64).unwrap_or(name))
                }
                Err(r) => r.into(),
            };
            if connection.brief || kept || !req.keep_alive() {
                connection.send(&answer, CLOSE)?;
                return Err(Stop::Close);
            }
            connection.send(&answer, if req.minor == 0 { "Connection: keep-alive\r\n" } else { "" })?;
        }
    }

    /// Who may.
    fn admit(&self, req: &Request) -> Result<(), Reject> {
        if req.authority.is_some_and(|a| gate::misdirected(self.hub.config(), a)) {
            return Err(MISDIRECTED);
        }
        // Methods that are known to all, but for CONNECT (RFC 9110 §9.3, RFC 5789).
        if !["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"].contains(&req.method) {
            return Err(METHOD);
        }
        if (req.method == "POST" || ws::handshake(req) != Ok(None)) && gate::cross_site(self.hub.config(), req) {
            return Err(CROSS_SITE);
        }
        self.tokens.check(req, req.method)
    }

    /// What is asked for. Needs the head alone, so that a refusal comes before the body.
    fn route(&self, req: &Request, head: &[u8], connection: &mut Connection) -> Result<Route, Reject> {
        self.admit(req)?;
        if let Some(key) = req.param("tap")? {
            if !is_channel(&key) || req.path.starts_with("/lab/") {
                return Err(TAP);
            }
            let tap = self.lab.tap(self.shares.connections, &key, &connection.stream)?;
            connection.trace.tap(tap, head);
        }
        let route = match req.path.as_str() {
            "*" => return allow(ALLOW_CHANNEL), // an OPTIONS
            "/" => file(&pages::CHAT, ""),
            "/lab" => file(&pages::LAB, ""),
            "/health" => Route::Health,
            "/metrics" => {
                let metrics = self.hub.metrics(req.param("channel")?.as_deref());
                Route::Page(Answer::new("text/plain; version=0.0.4; charset=utf-8", metrics.into_bytes()))
            }
            path if path.ends_with('/') => return Err(SLASH),
            "/lessons" if req.quality("text", "html") > req.quality("text", "plain") => {
                file(&pages::LESSONS, "Vary: Accept\r\n")
            }
            "/lessons" => page(Answer::text(lessons::list()), "Vary: Accept\r\n"),
            path if let Some(name) = path.strip_prefix("/lessons/") => to_lesson(req, name)?,
            path if let Some(name) = path.strip_prefix("/assets/") => {
                file(pages::ASSETS.iter().find(|file| file.name == name).ok_or(NO_FILE)?, "")
            }
            _ => return self.to_channel(req),
        };
        match req.method {
            "OPTIONS" => allow(ALLOW_PAGE),
            "GET" | "HEAD" if ws::handshake(req) != Ok(None) => Err(NO_SOCKET),
            "GET" | "HEAD" => Ok(route),
            _ => Err(PAGE_METHOD),
        }
    }

    /// What is asked of a channel.
    fn to_channel(&self, req: &Request) -> Result<Route, Reject> {
        let name = req.path.strip_prefix('/').filter(|name| is_channel(name) || is_lab(name)).ok_or(NOT_FOUND)?;
        let handshake = ws::handshake(req)?;
        if is_lab(name) && handshake.is_some() {
            return Err(NO_SOCKET);
        }
        match req.method {
            "OPTIONS" => allow(ALLOW_CHANNEL),
            "GET" | "HEAD"
                if handshake.is_none()
                    && !is_lab(name)
                    && req.quality("text", "html") > req.quality("text", "event-stream") =>
            {
                Ok(file(&pages::CHAT, "Vary: Accept\r\n")) // for who prefers it
            }
            "GET" | "HEAD" => {
                let seconds = |s: String| s.parse().ok().filter(|n| *n <= MAX_WAIT && !s.starts_with('+')).ok_or(WAIT);
                let wait = req.param("wait")?.filter(|_| handshake.is_none()).map(seconds).transpose()?;
                Ok(Route::Listen(name.into(), place(req, false)?, wait.map(Duration::from_secs), handshake))
            }
            "POST" if unknown_parameter(req).is_some() => Err(PARAMETER),
            "POST" if let Some(key) = name.strip_prefix("lab/") => Ok(Route::Cut(key.into())),
            "POST" => {
                check_media(req)?;
                let to = req.param("to")?;
                let except = req.param("except")?;
                if to.is_some() && except.is_some() {
                    return Err(TO_EXCEPT);
                }
                Ok(Route::Publish(name.into(), named(req)?, to, except))
            }
            _ => Err(CHANNEL_METHOD),
        }
    }

    /// What the channel takes over of a request for it.
    fn listen(
        &self, req: &Request, name: &str, from: From, wait: Option<Duration>, handshake: Option<Handshake>,
        connection: &Connection,
    ) -> Result<Reply, Reject> {
        let channel = self.hub.channel_from(name, &from)?;
        let place = channel.place(&from)?;
        let mut head = http::head(200, &[STREAM_FIELDS, http::LIVE, &connection.cors, CLOSE]);
        let mut framing = framing(req);
        let mut accepted = None;
        if let Some(handshake) = handshake {
            let (slot, number) = self.hub.connect();
            let may_publish = self.tokens.check(req, "POST");
            accepted = Some(Accepted { slot, may_publish, template: named(req)? });
            if number > self.shares.connections {
                return Err(CONNECTIONS);
            }
            head = http::head(101, &[&handshake.fields]);
            framing = if handshake.event_stream { Framing::Blocks } else { Framing::Data };
        } else {
            connection.note(200);
        }
        let opening = Opening { head, framing, from, place, wait, trace: Trace::default(), half: None };
        Ok(Reply::Taken((channel, opening, accepted)))
    }

    /// A lesson, to its end.
    fn play(&self, req: &Request, script: &Script, connection: &mut Connection) -> Result<Reply, Reject> {
        let usual = |line: &&str| !line.split(':').take(1).any(|name| script.fields.contains(name));
        let all = [STREAM_FIELDS, http::LIVE].concat();
        let fields = all.split_inclusive('\n').filter(usual).collect::<String>() + &script.fields;
        // RFC 9110 §15.3.5: a 204 has no content.
        if req.method == "HEAD" || script.status == 204 {
            return Ok(Reply::Answer(Answer { cache: "", ..Answer::empty(script.status, fields) }));
        }
        let place = self.players.take(PLAYERS, &connection.stream, ());
        let _place = place.filter(|_| !connection.brief).ok_or(PLAYING)?; // others wait if it is brief
        connection.note(script.status);
        let framing = framing(req);
        let head = http::head(script.status, &[&fields, &connection.cors, CLOSE, framing.field(), "\r\n"]);
        // If a write fails the client is gone.
        if connection.write_all(head.as_bytes()).is_ok() {
            let _ = script.play(framing, connection);
        }
        Ok(Reply::Given)
    }

    fn answer(&self, req: &Request, route: Route, body: Vec<u8>, connection: &mut Connection) -> Result<Reply, Reject> {
        Ok(Reply::Answer(match route {
            Route::Page(answer) => answer,
            Route::Health => match self.hub.health()?.join(", ") {
                sick if sick.is_empty() => Answer::text("ok\n"),
                sick => refusal_of(LOG_SICK, &sick),
            },
            Route::Lesson(script) => return self.play(req, &script, connection),
            Route::Cut(key) => Answer::text(format!("connections cut: {}\n", self.lab.cut(&key))),
            Route::Listen(..) if req.method == "HEAD" => Answer::empty(200, STREAM_FIELDS),
            Route::Listen(.., Some(_)) if connection.brief => return Err(CONNECTIONS), // others wait for this thread
            Route::Listen(name, from, wait, handshake) => {
                return self.listen(req, &name, from, wait, handshake, connection);
            }
            Route::Publish(name, template, to, except) => {
                let events = events(req, template, body)?;
                if let Some(address) = to {
                    self.hub.send_to(&name, &events, &address)?;
                    Answer::text("given to that reader; not kept\n")
                } else {
                    let ids = self.hub.publish_but(&name, &events, except.as_deref())?;
                    Answer::text(ids.iter().map(|id| format!("{id}\n")).collect::<String>())
                }
            }
        }))
    }
}

/// Waits a moment for a connection's first byte. In a burst each client's thread would wait for its request, and the
/// memory of each thread stays; most requests come at once, and then a few threads do for all. Up to `paid` such waiting is
/// paid for, with as much time without; returns what it is then.
fn wait_for(stream: &TcpStream, paid: Instant) -> Instant {
    let now = Instant::now();
    if paid >= now + WINDOW || stream.set_read_timeout(Some(PROMPT)).is_err() {
        return paid;
    }
    let in_vain = stream.peek(&mut [0]).is_err();
    paid.max(now) + 2 * if in_vain { WINDOW } else { now.elapsed() }
}

/// How a body without a length is framed: HTTP/1.0 knows no chunks (RFC 9112 §6.1).
fn framing(req: &Request) -> Framing {
    if req.minor == 0 { Framing::None } else { Framing::Chunks }
}

/// What is asked for below `/lessons/`: a lesson for this client, or its file.
fn to_lesson(req: &Request, name: &str) -> Result<Route, Reject> {
    let file = name.strip_suffix(".txt");
    let text = lessons::find(file.unwrap_or(name)).ok_or(NO_LESSON)?.text;
    if file.is_some() {
        return Ok(page(Answer::text(text), ""));
    }
    let id = if let From::After(id) = place(req, true)? { id } else { String::new() };
    // A test parses them all.
    Ok(Route::Lesson(lessons::parse(text, id.as_bytes()).map_err(|_| NO_LESSON)?))
}

/// A refusal that names what it is about.
fn refusal_of(reject: Reject, what: &str) -> Answer {
    let line = format!("{}: {what}\n", reject.line().trim_end());
    Answer { body: line.into_bytes().into(), ..Answer::from(reject) }
}

/// The first parameter that a POST cannot have.
fn unknown_parameter<'a>(req: &Request<'a>) -> Option<&'a str> {
    let known = if req.path.starts_with("/lab/") { &[][..] } else { &["event", "to", "except", "tap"] };
    req.params().map(|pair| pair.0).find(|name| !name.is_empty() && !known.contains(name))
}

/// Looks whether a body can be text as it is sent (RFC 9110 §8.3, §8.4).
fn check_media(req: &Request) -> Result<(), Reject> {
    if req.list("content-encoding").iter().any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(CONTENT_CODING);
    }
    for kind in req.all("content-type").map(<[u8]>::to_ascii_lowercase) {
        if kind.starts_with(b"multipart/") {
            return Err(MULTIPART);
        }
        for parameter in http::split(&kind, b';').into_iter().skip(1).map(String::from_utf8_lossy) {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim() == "charset"
                && !["utf-8", "utf8", ""].contains(&value.trim().trim_matches('"'))
            {
                return Err(CHARSET);
            }
        }
    }
    Ok(())
}

/// What a request's events are called, but for the data.
fn named(req: &Request) -> Result<Event, Reject> {
    Event::default().named(req.param("event")?.unwrap_or_default())
}

/// Where a reader starts: at an id, or in a `lesson`, which has ids of its own, at any text.
fn place(req: &Request, lesson: bool) -> Result<From, Reject> {
    // A lesson may say it again, and it must not become a line of its own.
    let is_id = |id: &str| if lesson { !id.contains(char::is_control) } else { Id::parse(id).is_some() };
    let since = match req.param("since")? {
        None => From::Now,
        Some(all) if all == "all" => From::All,
        Some(id) if is_id(&id) => From::After(id),
        Some(_) => return Err(SINCE),
    };
    // It wins, for it is newer than the URL; a malformed one is told as a gap, for no client could mend it.
    Ok(req.last_event_id().filter(|id| !lesson || is_id(id)).map_or(since, From::After))
}

/// The events that a POST publishes: the body as one, whatever its media type, unless it is an event stream itself.
fn events(req: &Request, template: Event, body: Vec<u8>) -> Result<Vec<Event>, Reject> {
    let text = String::from_utf8(body).map_err(|_| BODY_UTF8)?;
    match req.field("content-type").is_some_and(event::is_stream) {
        false => Ok(vec![template.with_data(text)]),
        true if template != Event::default() => Err(TWO_NAMES),
        true => event::parse(&text),
    }
}

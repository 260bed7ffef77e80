//! Routing: from a request to its response.
//!
//! The head of a request decides whether it is refused. If the client waits for `100 Continue`, it need not send the
//! body of a refused request. Otherwise the body is read and dropped. The work is done when the body is there
//! ([`Route::Handler`]).
//!
//! Limits: `MAX_WAIT`; `--max-body` for a body.

use crate::channel::hub::Hub;
use crate::channel::state::{Channel, StreamStart};
use crate::log::positions::Since;
use crate::server::connection::{Connection, Response};
use crate::server::doors::{App, Handler, Outcome, Route};
use crate::server::gate;
use crate::server::pages::{self, File};
use crate::system::memory::Counted;
use crate::system::time::random;
use crate::wire::event::{self, Event};
use crate::wire::http::{self, Request};
use crate::wire::id::Id;
use crate::wire::reject::*;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Limit: the seconds of `?wait=`.
const MAX_WAIT: u64 = 300;

/// Memory that an event takes while it is published, besides its data: itself, its lines, its id and its line in the
/// response.
const EVENT_SIZE: usize = 200;

/// The field line that says that the connection ends.
pub const CLOSE: &str = "Connection: close\r\n";
/// The field lines of a response that is an event stream.
pub const STREAM_FIELDS: &str = "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nVary: Accept\r\n";

/// Returns the response to an OPTIONS, with these field lines.
pub fn options_response(fields: &str) -> Route {
    Route::Response(Response::empty(204, fields))
}

/// Makes a response that may be cached, if the cache asks again before each use, and adds field lines to it.
pub fn page_file(mut response: Response, fields: &str) -> Response {
    response.fields += fields;
    response.cache = http::NO_CACHE;
    response
}

/// Returns the response for a file of a page.
fn asset(&(name, bytes): &File) -> Response {
    page_file(Response::new(pages::media_type(name), bytes), pages::POLICY)
}

/// Returns the response for a page. `vary` is a `Vary` field line, or empty.
pub fn page(text: impl Into<Cow<'static, [u8]>>, vary: &str) -> Response {
    page_file(Response::new(pages::media_type("html"), text), &[pages::POLICY, vary].concat())
}

impl App {
    /// Checks the Host, the method, the origin and the token, and whether the wing that is asked for is in the build.
    fn check_access(&self, req: &Request, connection: &mut Connection) -> Result<(), Reject> {
        if req.authority.is_some_and(|a| gate::is_misdirected(self.hub.config(), a)) {
            return Err(MISDIRECTED);
        }
        // The methods that HTTP knows, but for CONNECT (RFC 9110 §9.3, RFC 5789). A method that is not served is
        // refused later, with 405.
        if !["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"].contains(&req.method) {
            return Err(METHOD);
        }
        if (req.method == "POST" || self.more_than_read(req).is_some()) && gate::is_cross_site(self.hub.config(), req) {
            return Err(CROSS_SITE);
        }
        self.tokens.check(req, req.method)?;
        self.check_wings(req, connection)
    }

    /// Asks the wings whether a request does more than read, see `Wing::more_than_read`.
    pub fn more_than_read(&self, req: &Request) -> Option<Reject> {
        self.wings().find_map(|wing| wing.more_than_read(req))
    }

    /// Decides how a request is served, from its head alone.
    ///
    /// # Errors
    /// The refusal, if the request is refused.
    pub fn route(self: &Arc<App>, req: &Request, head: &[u8], connection: &mut Connection) -> Result<Route, Reject> {
        self.check_access(req, connection)?;
        for wing in self.wings() {
            if let Some(route) = wing.request(self, req, head, connection)? {
                return Ok(route);
            }
        }
        let response = match req.path.as_str() {
            "*" => return Ok(options_response(ALLOW_CHANNEL)), // only an OPTIONS can have this target
            "/" => self.chat(""),
            "/health" => {
                let app = self.clone();
                return self
                    .read_only(req, Route::Handler(Box::new(move |_, _, _| app.health().map(Outcome::Response))));
            }
            "/metrics" => metrics_response(&self.hub, req.param("channel")?.as_deref()),
            path if path.ends_with('/') => return Err(SLASH),
            path if let Some(name) = path.strip_prefix("/assets/") => {
                let files = self.tables().flat_map(|tables| tables.files);
                asset(pages::FILES.iter().chain(files).find(|file| file.0 == name).ok_or(NO_FILE)?)
            }
            path => {
                let name = path.strip_prefix('/').filter(|name| self.hub.is_channel(name)).ok_or(NOT_FOUND)?;
                return self.channel_route(req, name, connection);
            }
        };
        self.read_only(req, Route::Response(response))
    }

    /// Restricts a route to the methods that read.
    ///
    /// # Errors
    /// If the request does more than read.
    pub fn read_only(&self, req: &Request, route: Route) -> Result<Route, Reject> {
        match req.method {
            "OPTIONS" => Ok(options_response(ALLOW_PAGE)),
            "GET" | "HEAD" => self.more_than_read(req).map_or(Ok(route), Err),
            _ => Err(PAGE_METHOD),
        }
    }

    /// Returns the chat page.
    fn chat(&self, vary: &str) -> Response {
        let links: String = self.tables().map(|tables| tables.link).collect();
        page(pages::chat(&links), vary)
    }

    /// Decides how a request for a channel is served.
    fn channel_route(self: &Arc<App>, req: &Request, name: &str, connection: &mut Connection) -> Result<Route, Reject> {
        match req.method {
            "OPTIONS" => Ok(options_response(ALLOW_CHANNEL)),
            "GET" | "HEAD" if req.type_weight("text", "html") > req.type_weight("text", "event-stream") => {
                Ok(Route::Response(self.chat("Vary: Accept\r\n"))) // for clients that prefer HTML
            }
            "GET" | "HEAD" => self.subscribe_route(req, name).map(Route::Handler),
            "POST" => {
                let app = self.clone();
                self.publish_route(req, name, connection, move |name, events| {
                    app.hub.publish(name, events).map(ids_response)
                })
            }
            _ => Err(CHANNEL_METHOD),
        }
    }

    /// Returns a handler that subscribes the client to a channel.
    ///
    /// # Errors
    /// If the query is malformed.
    pub fn subscribe_route(self: &Arc<App>, req: &Request, name: &str) -> Result<Handler, Reject> {
        let seconds = |s: String| s.parse().ok().filter(|n| *n <= MAX_WAIT && !s.starts_with('+')).ok_or(WAIT);
        let wait = req.param("wait")?.map(seconds).transpose()?.map(Duration::from_secs);
        let since = since(req)?;
        let app = self.clone();
        let name = name.to_string();
        Ok(Box::new(move |req, _, connection| {
            if req.method == "HEAD" {
                return Ok(Outcome::Response(Response::empty(200, STREAM_FIELDS)));
            }
            let head = http::head(200, &[STREAM_FIELDS, http::NO_STORE, &connection.cors, CLOSE]);
            let (channel, mut stream_start) = app.prepare_stream(req, &name, since, head)?;
            connection.log_request(200);
            stream_start.wait = wait;
            if wait.is_some() {
                stream_start.prelude_suffix = Some(String::new()); // no address: the stream ends before anybody can use it
            }
            // If this fails, the client has closed the connection.
            Ok(Outcome::TakenOver(Box::new(move |connection, slot| {
                stream_start.extras.watchers = connection.watchers;
                drop(app.hub.subscribe(&channel, connection.stream, slot, stream_start));
            })))
        }))
    }

    /// Opens a channel, and prepares how the stream of a subscriber begins.
    ///
    /// # Errors
    /// If the channel cannot be opened or read.
    pub fn prepare_stream(
        &self, req: &Request, name: &str, since: Since, head: String,
    ) -> Result<(Arc<Channel>, StreamStart), Reject> {
        let channel = self.hub.channel_from(name, &since)?;
        let start = channel.find_start(&since)?;
        let key = random();
        let prelude_suffix = Some(self.wings().map(|wing| wing.prelude_suffix(key)).collect());
        let stream_start = StreamStart {
            head,
            chunked: is_chunked(req),
            prelude_suffix,
            key,
            since,
            start,
            wait: None,
            extras: Default::default(),
        };
        Ok((channel, stream_start))
    }

    /// Returns a route that reads the events from the body and gives them to `publish`.
    ///
    /// # Errors
    /// If the query is malformed or has an unknown parameter; if the body is not text.
    pub fn publish_route(
        &self, req: &Request, name: &str, connection: &mut Connection,
        publish: impl FnOnce(&str, &[Event]) -> Result<Response, Reject> + 'static,
    ) -> Result<Route, Reject> {
        let is_unknown = |name: &&str| !name.is_empty() && *name != "event" && !self.knows_parameter(name);
        if let Some(name) = req.params().map(|pair| pair.0).find(is_unknown) {
            return Err(unknown_parameter(name, connection));
        }
        check_media(req)?;
        let template = event_template(req)?;
        let name = name.to_string();
        let hub = self.hub.clone();
        Ok(Route::Handler(Box::new(move |req, body, _| {
            let events = parse_events(req, template, body)?;
            // The body counts already. Its further events take more than their bytes.
            let counted = Counted::new(&hub.budget.bodies);
            hub.admit(&counted, events.len().saturating_sub(1) * EVENT_SIZE)?;
            publish(&name, &events).map(Outcome::Response)
        })))
    }

    fn health(&self) -> Result<Response, Reject> {
        let damaged = self.hub.health()?.join(", ");
        Ok(if damaged.is_empty() { Response::text("ok\n") } else { Response::refusal(LOG_SICK, &damaged) })
    }
}

/// Returns the metrics of a hub. If `only` is given, it is the only channel that they name.
pub fn metrics_response(hub: &Hub, only: Option<&str>) -> Response {
    Response::new("text/plain; version=0.0.4; charset=utf-8", hub.metrics(only).into_bytes())
}

/// Returns the response to a POST: one id a line.
pub fn ids_response(ids: Vec<Id>) -> Response {
    Response::text(ids.iter().map(|id| format!("{id}\n")).collect::<String>())
}

/// Returns the refusal of a query parameter. It names the parameter.
pub fn unknown_parameter(name: &str, connection: &mut Connection) -> Reject {
    connection.refusal_detail = name.get(..64).unwrap_or(name).into();
    PARAMETER
}

/// Returns whether a body without a known length is framed in chunks. HTTP/1.0 has no chunks (RFC 9112 §6.1).
pub fn is_chunked(req: &Request) -> bool {
    req.minor > 0
}

/// Checks that a body can be text, without a content coding and in UTF-8 (RFC 9110 §8.3, §8.4).
fn check_media(req: &Request) -> Result<(), Reject> {
    if req.list("content-encoding").iter().any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(CONTENT_CODING);
    }
    for media_type in req.field_values("content-type").map(<[u8]>::to_ascii_lowercase) {
        if media_type.starts_with(b"multipart/") {
            return Err(MULTIPART);
        }
        for parameter in http::split(&media_type, b';').into_iter().skip(1).map(String::from_utf8_lossy) {
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

/// Returns an event that has the name given in the query, and no data yet.
///
/// # Errors
/// The errors of [`Event::named`].
pub fn event_template(req: &Request) -> Result<Event, Reject> {
    Event::default().named(req.param("event")?.unwrap_or_default())
}

/// Returns where a subscriber starts.
///
/// # Errors
/// [`SINCE`] if the query is malformed.
pub fn since(req: &Request) -> Result<Since, Reject> {
    let since = match req.param("since")? {
        None => Since::Now,
        Some(all) if all == "all" => Since::All,
        Some(id) if Id::parse(&id).is_some() => Since::After(id),
        Some(_) => return Err(SINCE),
    };
    // The last event ID wins, because it is newer than the URL. If it is malformed the subscriber gets a gap event,
    // because no client could correct it.
    Ok(req.last_event_id().map_or(since, Since::After))
}

/// Returns the events of a POST. The body is one event whatever its media type, unless that is `text/event-stream`.
fn parse_events(req: &Request, template: Event, body: Vec<u8>) -> Result<Vec<Event>, Reject> {
    let text = String::from_utf8(body).map_err(|_| BODY_UTF8)?;
    match req.field("content-type").is_some_and(event::is_event_stream) {
        false => Ok(vec![template.with_data(text)]),
        true if template != Event::default() => Err(TWO_NAMES),
        true => event::parse(&text),
    }
}

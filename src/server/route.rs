//! What a request asks for, and what it gets.
//!
//! A request is refused from its head alone, if it has to be: then its body need not be sent. What it asks for is done once
//! the body is there ([`Route::Handler`]).
//!
//! Limits: `MAX_WAIT`; `--max-body` for a body.

use crate::channel::hub::Hub;
use crate::channel::state::{Channel, Opening};
use crate::log::positions::Since;
use crate::server::connection::{Connection, Response};
use crate::server::doors::{App, Handler, Outcome, Route};
use crate::server::gate;
use crate::server::pages::{self, File};
use crate::system::time::random;
use crate::wire::event::{self, Event};
use crate::wire::http::{self, Request};
use crate::wire::id::Id;
use crate::wire::reject::*;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Limit: `?wait=`, in seconds.
const MAX_WAIT: u64 = 300;

/// The field line that ends a connection.
pub const CLOSE: &str = "Connection: close\r\n";
/// The field lines of an event stream.
pub const STREAM_FIELDS: &str = "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nVary: Accept\r\n";

/// The answer to an OPTIONS.
pub fn options_response(fields: &str) -> Route {
    Route::Response(Response::empty(204, fields))
}

/// A file of the pages; and further field lines.
pub fn page_file(mut response: Response, fields: &str) -> Response {
    response.fields += fields;
    response.cache = http::NO_CACHE;
    response
}

/// A file that a page loads, by its name.
fn asset(&(name, bytes): &File) -> Response {
    page_file(Response::new(pages::media_type(name), bytes), pages::POLICY)
}

/// A page; and the `Vary` field line that its path asks for.
pub fn page(text: impl Into<Cow<'static, [u8]>>, vary: &str) -> Response {
    page_file(Response::new(pages::media_type("html"), text), &[pages::POLICY, vary].concat())
}

impl App {
    /// Who may.
    fn check_access(&self, req: &Request, connection: &mut Connection) -> Result<(), Reject> {
        if req.authority.is_some_and(|a| gate::is_misdirected(self.hub.config(), a)) {
            return Err(MISDIRECTED);
        }
        // Methods that are known to all, but for CONNECT (RFC 9110 §9.3, RFC 5789).
        if !["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"].contains(&req.method) {
            return Err(METHOD);
        }
        if (req.method == "POST" || self.more_than_read(req).is_some()) && gate::is_cross_site(self.hub.config(), req) {
            return Err(CROSS_SITE);
        }
        self.tokens.check(req, req.method)?;
        self.check_wings(req, connection)
    }

    /// Asks the wings whether a request asks for more than to read, see `Wing::more_than_read`.
    pub fn more_than_read(&self, req: &Request) -> Option<Reject> {
        self.wings().find_map(|wing| wing.more_than_read(req))
    }

    /// What is asked for. Needs the head alone, so that a refusal comes before the body.
    ///
    /// # Errors
    /// How it is refused.
    pub fn route(self: &Arc<App>, req: &Request, head: &[u8], connection: &mut Connection) -> Result<Route, Reject> {
        self.check_access(req, connection)?;
        for wing in self.wings() {
            if let Some(route) = wing.request(self, req, head, connection)? {
                return Ok(route);
            }
        }
        let response = match req.path.as_str() {
            "*" => return Ok(options_response(ALLOW_CHANNEL)), // an OPTIONS
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

    /// What is asked of something that can only be read.
    ///
    /// # Errors
    /// If more is asked.
    pub fn read_only(&self, req: &Request, route: Route) -> Result<Route, Reject> {
        match req.method {
            "OPTIONS" => Ok(options_response(ALLOW_PAGE)),
            "GET" | "HEAD" => self.more_than_read(req).map_or(Ok(route), Err),
            _ => Err(PAGE_METHOD),
        }
    }

    /// The chat page.
    fn chat(&self, vary: &str) -> Response {
        let links: String = self.tables().map(|tables| tables.link).collect();
        page(pages::chat(&links), vary)
    }

    /// What is asked of a channel.
    fn channel_route(self: &Arc<App>, req: &Request, name: &str, connection: &mut Connection) -> Result<Route, Reject> {
        match req.method {
            "OPTIONS" => Ok(options_response(ALLOW_CHANNEL)),
            "GET" | "HEAD" if req.quality("text", "html") > req.quality("text", "event-stream") => {
                Ok(Route::Response(self.chat("Vary: Accept\r\n"))) // for clients that prefer it
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

    /// A channel is listened to.
    ///
    /// # Errors
    /// If the query is malformed.
    pub fn subscribe_route(self: &Arc<App>, req: &Request, name: &str) -> Result<Handler, Reject> {
        let seconds = |s: String| s.parse().ok().filter(|n| *n <= MAX_WAIT && !s.starts_with('+')).ok_or(WAIT);
        let wait = req.param("wait")?.map(seconds).transpose()?.map(Duration::from_secs);
        let from = since(req)?;
        let app = self.clone();
        let name = name.to_string();
        Ok(Box::new(move |req, _, connection| {
            if req.method == "HEAD" {
                return Ok(Outcome::Response(Response::empty(200, STREAM_FIELDS)));
            }
            let head = http::head(200, &[STREAM_FIELDS, http::NO_STORE, &connection.cors, CLOSE]);
            let (channel, mut opening) = app.opening(req, &name, from, head)?;
            connection.log_request(200);
            opening.wait = wait;
            if wait.is_some() {
                opening.prelude_suffix = Some(String::new()); // it ends before anybody could speak to it
            }
            // If this fails the client is gone.
            Ok(Outcome::TakenOver(Box::new(move |connection, slot| {
                opening.extras.watchers = connection.watchers;
                drop(app.hub.subscribe(&channel, connection.stream, slot, opening));
            })))
        }))
    }

    /// A channel, and how a stream of it begins.
    ///
    /// # Errors
    /// If the channel cannot be had.
    pub fn opening(
        &self, req: &Request, name: &str, since: Since, head: String,
    ) -> Result<(Arc<Channel>, Opening), Reject> {
        let channel = self.hub.channel_from(name, &since)?;
        let start = channel.find_start(&since)?;
        let key = random();
        let prelude_suffix = Some(self.wings().map(|wing| wing.prelude_suffix(key)).collect());
        let opening = Opening {
            head,
            chunked: is_chunked(req),
            prelude_suffix,
            key,
            since,
            start,
            wait: None,
            extras: Default::default(),
        };
        Ok((channel, opening))
    }

    /// Events are published to a channel, by `publish`.
    ///
    /// # Errors
    /// If the head tells that they cannot be.
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
        Ok(Route::Handler(Box::new(move |req, body, _| {
            let events = parse_events(req, template, body)?;
            publish(&name, &events).map(Outcome::Response)
        })))
    }

    fn health(&self) -> Result<Response, Reject> {
        let sick = self.hub.health()?.join(", ");
        Ok(if sick.is_empty() { Response::text("ok\n") } else { Response::refusal(LOG_SICK, &sick) })
    }
}

/// The metrics of a hub; of its channels, only one if `only` names it.
pub fn metrics_response(hub: &Hub, only: Option<&str>) -> Response {
    Response::new("text/plain; version=0.0.4; charset=utf-8", hub.metrics(only).into_bytes())
}

/// The answer to a POST: an id a line.
pub fn ids_response(ids: Vec<Id>) -> Response {
    Response::text(ids.iter().map(|id| format!("{id}\n")).collect::<String>())
}

/// The refusal of a parameter, which it names.
pub fn unknown_parameter(name: &str, connection: &mut Connection) -> Reject {
    connection.refusal_detail = name.get(..64).unwrap_or(name).into();
    PARAMETER
}

/// Whether a body without a length is framed in chunks: HTTP/1.0 knows none (RFC 9112 §6.1).
pub fn is_chunked(req: &Request) -> bool {
    req.minor > 0
}

/// Looks whether a body can be text as it is sent (RFC 9110 §8.3, §8.4).
fn check_media(req: &Request) -> Result<(), Reject> {
    if req.list("content-encoding").iter().any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(CONTENT_CODING);
    }
    for kind in req.field_values("content-type").map(<[u8]>::to_ascii_lowercase) {
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
///
/// # Errors
/// As [`Event::named`].
pub fn event_template(req: &Request) -> Result<Event, Reject> {
    Event::default().named(req.param("event")?.unwrap_or_default())
}

/// Where a reader starts.
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
    // It wins, for it is newer than the URL; a malformed one is told as a gap, for no client could mend it.
    Ok(req.last_event_id().map_or(since, Since::After))
}

/// The events that a POST publishes: the body as one, whatever its media type, unless it is an event stream itself.
fn parse_events(req: &Request, template: Event, body: Vec<u8>) -> Result<Vec<Event>, Reject> {
    let text = String::from_utf8(body).map_err(|_| BODY_UTF8)?;
    match req.field("content-type").is_some_and(event::is_event_stream) {
        false => Ok(vec![template.with_data(text)]),
        true if template != Event::default() => Err(TWO_NAMES),
        true => event::parse(&text),
    }
}

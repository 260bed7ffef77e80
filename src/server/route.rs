//! What a request asks for, and what it gets.
//!
//! A request is refused from its head alone, if it has to be: then its body need not be sent. What it asks for is done once
//! the body is there ([`Route::Work`]).
//!
//! Limits: `MAX_WAIT`; `--max-body` for a body.

use crate::channel::hub::Hub;
use crate::channel::state::{Channel, Opening};
use crate::log::positions::From;
use crate::server::connection::{Answer, Connection};
use crate::server::doors::{Desk, Reply, Route, Work};
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
pub fn allow(fields: &str) -> Route {
    Route::Page(Answer::empty(204, fields))
}

/// A file of the pages; and further field lines.
pub fn page(mut answer: Answer, fields: &str) -> Answer {
    answer.fields += fields;
    answer.cache = http::CHECKED;
    answer
}

/// A file that a page loads, by its name.
fn asset(&(name, bytes): &File) -> Answer {
    page(Answer::new(pages::kind(name), bytes), pages::POLICY)
}

/// A page; and the `Vary` field line that its path asks for.
pub fn html(text: impl Into<Cow<'static, [u8]>>, vary: &str) -> Answer {
    page(Answer::new(pages::kind("html"), text), &[pages::POLICY, vary].concat())
}

impl Desk {
    /// Who may.
    fn admit(&self, req: &Request, connection: &mut Connection) -> Result<(), Reject> {
        if req.authority.is_some_and(|a| gate::misdirected(self.hub.config(), a)) {
            return Err(MISDIRECTED);
        }
        // Methods that are known to all, but for CONNECT (RFC 9110 §9.3, RFC 5789).
        if !["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"].contains(&req.method) {
            return Err(METHOD);
        }
        if (req.method == "POST" || self.acts(req).is_some()) && gate::cross_site(self.hub.config(), req) {
            return Err(CROSS_SITE);
        }
        self.tokens.check(req, req.method)?;
        self.check(req, connection)
    }

    /// Asks the wings whether a request asks for more than to read, see [`Wing::acts`].
    pub fn acts(&self, req: &Request) -> Option<Reject> {
        self.wings().find_map(|wing| wing.acts(req))
    }

    /// What is asked for. Needs the head alone, so that a refusal comes before the body.
    ///
    /// # Errors
    /// How it is refused.
    pub fn route(self: &Arc<Desk>, req: &Request, head: &[u8], connection: &mut Connection) -> Result<Route, Reject> {
        self.admit(req, connection)?;
        for wing in self.wings() {
            if let Some(route) = wing.request(self, req, head, connection)? {
                return Ok(route);
            }
        }
        let answer = match req.path.as_str() {
            "*" => return Ok(allow(ALLOW_CHANNEL)), // an OPTIONS
            "/" => self.chat(""),
            "/health" => {
                let desk = self.clone();
                return self.to_read(req, Route::Work(Box::new(move |_, _, _| desk.health().map(Reply::Answer))));
            }
            "/metrics" => metrics(&self.hub, req.param("channel")?.as_deref()),
            path if path.ends_with('/') => return Err(SLASH),
            path if let Some(name) = path.strip_prefix("/assets/") => {
                let files = self.tables().flat_map(|tables| tables.files);
                asset(pages::FILES.iter().chain(files).find(|file| file.0 == name).ok_or(NO_FILE)?)
            }
            path => {
                let name = path.strip_prefix('/').filter(|name| self.hub.is_channel(name)).ok_or(NOT_FOUND)?;
                return self.to_channel(req, name, connection);
            }
        };
        self.to_read(req, Route::Page(answer))
    }

    /// What is asked of something that can only be read.
    ///
    /// # Errors
    /// If more is asked.
    pub fn to_read(&self, req: &Request, route: Route) -> Result<Route, Reject> {
        match req.method {
            "OPTIONS" => Ok(allow(ALLOW_PAGE)),
            "GET" | "HEAD" => self.acts(req).map_or(Ok(route), Err),
            _ => Err(PAGE_METHOD),
        }
    }

    /// The chat page.
    fn chat(&self, vary: &str) -> Answer {
        let links: String = self.tables().map(|tables| tables.link).collect();
        html(pages::chat(&links), vary)
    }

    /// What is asked of a channel.
    fn to_channel(self: &Arc<Desk>, req: &Request, name: &str, connection: &mut Connection) -> Result<Route, Reject> {
        match req.method {
            "OPTIONS" => Ok(allow(ALLOW_CHANNEL)),
            "GET" | "HEAD" if req.quality("text", "html") > req.quality("text", "event-stream") => {
                Ok(Route::Page(self.chat("Vary: Accept\r\n"))) // for clients that prefer it
            }
            "GET" | "HEAD" => self.to_listen(req, name).map(Route::Work),
            "POST" => {
                let desk = self.clone();
                self.to_publish(req, name, connection, move |name, events| desk.hub.publish(name, events).map(told))
            }
            _ => Err(CHANNEL_METHOD),
        }
    }

    /// A channel is listened to.
    ///
    /// # Errors
    /// If the query is malformed.
    pub fn to_listen(self: &Arc<Desk>, req: &Request, name: &str) -> Result<Work, Reject> {
        let seconds = |s: String| s.parse().ok().filter(|n| *n <= MAX_WAIT && !s.starts_with('+')).ok_or(WAIT);
        let wait = req.param("wait")?.map(seconds).transpose()?.map(Duration::from_secs);
        let from = place(req)?;
        let desk = self.clone();
        let name = name.to_string();
        Ok(Box::new(move |req, _, connection| {
            if req.method == "HEAD" {
                return Ok(Reply::Answer(Answer::empty(200, STREAM_FIELDS)));
            }
            let head = http::head(200, &[STREAM_FIELDS, http::LIVE, &connection.cors, CLOSE]);
            let (channel, mut opening) = desk.opening(req, &name, from, head)?;
            connection.note(200);
            opening.wait = wait;
            if wait.is_some() {
                opening.introduction = Some(String::new()); // it ends before anybody could speak to it
            }
            // If this fails the client is gone.
            Ok(Reply::Taken(Box::new(move |connection, slot| {
                opening.more.watchers = connection.watchers;
                drop(desk.hub.subscribe(&channel, connection.stream, slot, opening));
            })))
        }))
    }

    /// A channel, and how a stream of it begins.
    ///
    /// # Errors
    /// If the channel cannot be had.
    pub fn opening(
        &self, req: &Request, name: &str, from: From, head: String,
    ) -> Result<(Arc<Channel>, Opening), Reject> {
        let channel = self.hub.channel_from(name, &from)?;
        let place = channel.place(&from)?;
        let key = random();
        let introduction = Some(self.wings().map(|wing| wing.introduce(key)).collect());
        let opening = Opening {
            head,
            chunked: is_chunked(req),
            introduction,
            key,
            from,
            place,
            wait: None,
            more: Default::default(),
        };
        Ok((channel, opening))
    }

    /// Events are published to a channel, by `publish`.
    ///
    /// # Errors
    /// If the head tells that they cannot be.
    pub fn to_publish(
        &self, req: &Request, name: &str, connection: &mut Connection,
        publish: impl FnOnce(&str, &[Event]) -> Result<Answer, Reject> + 'static,
    ) -> Result<Route, Reject> {
        let is_unknown = |name: &&str| !name.is_empty() && *name != "event" && !self.knows(name);
        if let Some(name) = req.params().map(|pair| pair.0).find(is_unknown) {
            return Err(unknown(name, connection));
        }
        check_media(req)?;
        let template = named(req)?;
        let name = name.to_string();
        Ok(Route::Work(Box::new(move |req, body, _| {
            let events = events(req, template, body)?;
            publish(&name, &events).map(Reply::Answer)
        })))
    }

    fn health(&self) -> Result<Answer, Reject> {
        let sick = self.hub.health()?.join(", ");
        Ok(if sick.is_empty() { Answer::text("ok\n") } else { Answer::refusal(LOG_SICK, &sick) })
    }
}

/// The metrics of a hub; of its channels, only one if `only` names it.
pub fn metrics(hub: &Hub, only: Option<&str>) -> Answer {
    Answer::new("text/plain; version=0.0.4; charset=utf-8", hub.metrics(only).into_bytes())
}

/// The answer to a POST: an id a line.
pub fn told(ids: Vec<Id>) -> Answer {
    Answer::text(ids.iter().map(|id| format!("{id}\n")).collect::<String>())
}

/// The refusal of a parameter, which it names.
pub fn unknown(name: &str, connection: &mut Connection) -> Reject {
    connection.about = name.get(..64).unwrap_or(name).into();
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
///
/// # Errors
/// As [`Event::named`].
pub fn named(req: &Request) -> Result<Event, Reject> {
    Event::default().named(req.param("event")?.unwrap_or_default())
}

/// Where a reader starts.
///
/// # Errors
/// [`SINCE`] if the query is malformed.
pub fn place(req: &Request) -> Result<From, Reject> {
    let since = match req.param("since")? {
        None => From::Now,
        Some(all) if all == "all" => From::All,
        Some(id) if Id::parse(&id).is_some() => From::After(id),
        Some(_) => return Err(SINCE),
    };
    // It wins, for it is newer than the URL; a malformed one is told as a gap, for no client could mend it.
    Ok(req.last_event_id().map_or(since, From::After))
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

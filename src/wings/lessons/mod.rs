#![doc = include_str!("README.md")]
//!
//! Lessons: event streams that explain themselves. The server plays them at a readable pace (`script.rs`).
//!
//! Limits: `MAX_PLAYERS`.

pub mod script;

use crate::channel::framing::chunked;
use crate::server::connection::{Connection, Response};
use crate::server::doors::{App, Outcome, Route, Wing, WingTables};
use crate::server::pages::files;
use crate::server::route::{CLOSE, STREAM_FIELDS, is_chunked, page, page_file};
use crate::system::limits::Places;
use crate::wings::lessons::script::{LESSONS, Lesson, Script, comment, languages, parse};
use crate::wire::http::{self, Request};
use crate::wire::reject::{LATER, Reject, SINCE, table};
use std::io::Write;
use std::sync::Arc;

/// Limit: lessons that are played at the same time, and half of that for one client's address. Each takes its
/// connection's thread.
const MAX_PLAYERS: usize = 64;

table! {
    NO_LESSON 404 "tincan, URLs" "there is no lesson of this name; GET /lessons for the list"
    PLAYING 503 "tincan, 64 lessons at a time, 32 for one address" "too many lessons are being played, in all or to this address; come back later" => LATER
}

/// The rows that this wing adds to the tables of the core.
pub const TABLES: WingTables = WingTables {
    refusals: TABLE,
    files: files! { "../../../static/lessons/": "lessons.css" "lessons.js" "lessons-words.js"; },
    ..WingTables::new(|_| Ok(Box::new(Lessons(Arc::default()))))
};

/// The page that lists the lessons.
const PAGE: &[u8] = include_bytes!("../../../static/lessons/lessons.html");

/// The lessons that are being played, counted.
struct Lessons(Arc<Places>);

impl Wing for Lessons {
    fn request(
        &self, app: &Arc<App>, req: &Request, _head: &[u8], _connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        let vary = "Vary: Accept\r\n";
        let route = match req.path.strip_prefix("/lessons") {
            Some("") if req.type_weight("text", "html") > req.type_weight("text", "plain") => {
                Route::Response(page(PAGE, vary))
            }
            Some("") => Route::Response(page_file(Response::text(list()), vary)),
            Some(path)
                if !path.ends_with('/')
                    && let Some(name) = path.strip_prefix('/') =>
            {
                self.lesson_route(req, name)?
            }
            _ => return Ok(None),
        };
        app.read_only(req, route).map(Some)
    }
}

impl Lessons {
    /// Decides how a request for a lesson, or for one of its two files, is served.
    fn lesson_route(&self, req: &Request, path: &str) -> Result<Route, Reject> {
        let name = path.split('.').next().unwrap_or(path);
        let lesson = LESSONS.iter().find(|lesson| lesson.name == name).ok_or(NO_LESSON)?;
        let file = match path.strip_prefix(name) {
            Some(".txt") => Response::text(lesson.text),
            Some(".json") => Response::new("application/json", lesson.expected.as_bytes()),
            Some("") => {
                // A test parses all lessons, so this error does not happen.
                let script = parse(lesson.text, last_event_id(req)?.as_bytes()).map_err(|_| NO_LESSON)?;
                let players = self.0.clone();
                return Ok(Route::Handler(Box::new(move |req, _, connection| {
                    play(req, &script, &players, connection)
                })));
            }
            _ => return Err(NO_LESSON),
        };
        Ok(Route::Response(page_file(file, "")))
    }
}

/// Returns the last event ID of a client, or an empty text. The ids of a lesson may be any text. But a lesson may
/// send the client's id back, so it must not contain a line end.
fn last_event_id(req: &Request) -> Result<String, Reject> {
    let is_id = |id: &String| !id.contains(char::is_control);
    let since = req.param("since")?.filter(|since| since != "all").unwrap_or_default();
    if !is_id(&since) {
        return Err(SINCE);
    }
    Ok(req.last_event_id().filter(is_id).unwrap_or(since))
}

/// Plays a lesson to its end.
fn play(req: &Request, script: &Script, players: &Arc<Places>, connection: &mut Connection) -> Result<Outcome, Reject> {
    let is_kept = |line: &&str| !line.split(':').take(1).any(|name| script.fields.contains(name));
    let usual = [STREAM_FIELDS, http::NO_STORE].concat();
    let fields = usual.split_inclusive('\n').filter(is_kept).collect::<String>() + &script.fields;
    // RFC 9110 §15.3.5: a 204 has no content.
    if req.method == "HEAD" || script.status == 204 {
        return Ok(Outcome::Response(Response { cache: "", ..Response::empty(script.status, fields) }));
    }
    let (_slot, all, same) = players.claim(connection.peer.ip());
    if all > MAX_PLAYERS || same > MAX_PLAYERS / 2 || connection.brief {
        return Err(PLAYING); // if brief, others wait for its thread
    }
    connection.log_request(script.status);
    let framing = chunked(is_chunked(req));
    let head = http::head(script.status, &[&fields, &connection.cors, CLOSE, framing.field, "\r\n"]);
    // If a write fails, the client has closed the connection.
    if connection.write_all(head.as_bytes()).is_ok() {
        let _ = script.play(framing, connection);
    }
    Ok(Outcome::Sent)
}

/// Returns the list of the lessons, as text.
pub fn list() -> String {
    let mut out = String::from(
        "Play a lesson to `curl -N` or an EventSource. NAME.txt is its file, NAME.json what a client makes of it.\n\n",
    );
    for Lesson { name, text, .. } in LESSONS {
        let (english, chinese) = languages(text);
        let title = |part| comment(part, "lesson").unwrap_or_default();
        out += &format!("/lessons/{name:<20} {} · {}\n", title(english), title(chinese));
    }
    out
}

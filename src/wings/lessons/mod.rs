#![doc = include_str!("README.md")]
//!
//! The lessons: event streams that explain themselves, played to whoever GETs them (`script.rs`).
//!
//! Limits: `PLAYERS`.

pub mod script;

use crate::channel::framing::chunked;
use crate::server::connection::{Answer, Connection};
use crate::server::doors::{Desk, Reply, Route, Tables, Wing};
use crate::server::pages::files;
use crate::server::route::{CLOSE, STREAM_FIELDS, html, is_chunked, page};
use crate::system::limits::Places;
use crate::wings::lessons::script::{LESSONS, Lesson, Script, parse, parts, says};
use crate::wire::http::{self, Request};
use crate::wire::reject::{LATER, Reject, SINCE, table};
use std::io::Write;
use std::sync::{Arc, Mutex};

/// Limit: lessons that are played at a time, each by its connection's own thread; half of them for one client's address.
const PLAYERS: usize = 64;

table! {
    NO_LESSON 404 "tincan, URLs" "there is no lesson of this name; GET /lessons for the list"
    PLAYING 503 "tincan, 64 lessons at a time, 32 for one address" "no further lesson can be played now, or none for this address; come back later" => LATER
}

/// What it adds to the tables.
pub const TABLES: Tables = Tables {
    refusals: TABLE,
    files: files! { "../../../static/lessons/": "lessons.css" "lessons.js" "lessons-words.js"; },
    ..Tables::new(|_| Ok(Box::new(Lessons(Arc::new(Places(Mutex::default()))))))
};

/// The page that lists them.
const PAGE: &[u8] = include_bytes!("../../../static/lessons/lessons.html");

/// The lessons that are being played.
struct Lessons(Arc<Places<()>>);

impl Wing for Lessons {
    fn request(
        &self, desk: &Arc<Desk>, req: &Request, _head: &[u8], _connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        let vary = "Vary: Accept\r\n";
        let route = match req.path.strip_prefix("/lessons") {
            Some("") if req.quality("text", "html") > req.quality("text", "plain") => Route::Page(html(PAGE, vary)),
            Some("") => Route::Page(page(Answer::text(list()), vary)),
            Some(path)
                if !path.ends_with('/')
                    && let Some(name) = path.strip_prefix('/') =>
            {
                self.to_lesson(req, name)?
            }
            _ => return Ok(None),
        };
        desk.to_read(req, route).map(Some)
    }
}

impl Lessons {
    /// A lesson for this client, or its file.
    fn to_lesson(&self, req: &Request, name: &str) -> Result<Route, Reject> {
        let file = name.strip_suffix(".txt");
        let text = LESSONS.iter().find(|lesson| lesson.name == file.unwrap_or(name)).ok_or(NO_LESSON)?.text;
        if file.is_some() {
            return Ok(Route::Page(page(Answer::text(text), "")));
        }
        let script = parse(text, begin(req)?.as_bytes()).map_err(|_| NO_LESSON)?; // a test parses them all
        let players = self.0.clone();
        Ok(Route::Work(Box::new(move |req, _, connection| play(req, &script, &players, connection))))
    }
}

/// The id after which a client begins, or nothing. A lesson has ids of its own, so it may be any text; but a lesson may say it
/// again, and it must not become a line of its own.
fn begin(req: &Request) -> Result<String, Reject> {
    let is_id = |id: &String| !id.contains(char::is_control);
    let since = req.param("since")?.filter(|since| since != "all").unwrap_or_default();
    if !is_id(&since) {
        return Err(SINCE);
    }
    Ok(req.last_event_id().filter(is_id).unwrap_or(since))
}

/// A lesson, to its end.
fn play(req: &Request, script: &Script, players: &Places<()>, connection: &mut Connection) -> Result<Reply, Reject> {
    let usual = |line: &&str| !line.split(':').take(1).any(|name| script.fields.contains(name));
    let all = [STREAM_FIELDS, http::LIVE].concat();
    let fields = all.split_inclusive('\n').filter(usual).collect::<String>() + &script.fields;
    // RFC 9110 §15.3.5: a 204 has no content.
    if req.method == "HEAD" || script.status == 204 {
        return Ok(Reply::Answer(Answer { cache: "", ..Answer::empty(script.status, fields) }));
    }
    let place = players.take(PLAYERS, &connection.stream, ());
    let _place = place.filter(|_| !connection.brief).ok_or(PLAYING)?; // others wait if it is brief
    connection.note(script.status);
    let framing = chunked(is_chunked(req));
    let head = http::head(script.status, &[&fields, &connection.cors, CLOSE, framing.field, "\r\n"]);
    // If a write fails the client is gone.
    if connection.write_all(head.as_bytes()).is_ok() {
        let _ = script.play(framing, connection);
    }
    Ok(Reply::Given)
}

/// The list of the lessons, as a text.
pub fn list() -> String {
    let mut out = String::from(
        "Lessons: play one to `curl -N` or to an EventSource. With .txt behind its name it is a file, not played.\n\n",
    );
    for Lesson { name, text } in LESSONS {
        let (english, chinese) = parts(text);
        let title = |part| says(part, "lesson").unwrap_or_default();
        out += &format!("/lessons/{name:<20} {} · {}\n", title(english), title(chinese));
    }
    out
}

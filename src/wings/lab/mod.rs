#![doc = include_str!("README.md")]
//!
//! The wire lab's server side: a channel of its own for what is said on a connection.
//!
//! `GET /kitchen?tap=KEY` is answered as ever, and each byte of that exchange is also an event in the channel `/lab/KEY`
//! (`taps.rs`): the page listens to both. `POST /lab/KEY` pulls the plug: the connections of that tap end at once, in the
//! middle of whatever they were saying.
//!
//! ```text
//! event: in
//! data: {"connection":7,"at":1763654400123.456,"bytes":"GET /kitchen?tap=x HTTP/1.1\r\nHost: …"}
//! ```
//!
//! `in` is what the client sent, `out` what it was sent, each as it was read or written; at last comes `end`, as soon as
//! the server has said all or the plug is pulled. `at` is in milliseconds since 1970. In `bytes` each character stands for
//! one byte, so that all of them survive JSON. If more is said than can be told, an event `lost` comes in its place. Its
//! `bytes` is a number: how many bytes of that connection are missing here.

pub mod taps;

use crate::server::connection::{Connection, Response};
use crate::server::doors::{App, Outcome, Route, Wing, WingTables};
use crate::server::pages::files;
use crate::server::route::{options_response, page, unknown_parameter};
use crate::wings::lab::taps::{TABLE, TAP, TAPS, Taps};
use crate::wings::trace::without_credentials;
use crate::wire::http::Request;
use crate::wire::reject::{ALLOW_CHANNEL, CHANNEL_METHOD, Reject};
use std::sync::Arc;

/// What it adds to the tables.
pub const TABLES: WingTables = WingTables {
    refusals: TABLE,
    files: files! { "../../../static/lab/": "lab.css" "lab.js" "lab-words.js" "ways.css" "ways.js"; },
    link: include_str!("../../../static/lab/chat-link.html"),
    ..WingTables::new(|app| Ok(Box::new(Lab(Taps::new(app.hub.clone())?))))
};

/// The page.
const PAGE: &[u8] = include_bytes!("../../../static/lab/lab.html");

/// The lab, with its taps.
struct Lab(Arc<Taps>);

impl Lab {
    /// What is asked of a channel of the lab.
    fn tap_channel_route(
        &self, app: &Arc<App>, req: &Request, key: &str, connection: &mut Connection,
    ) -> Result<Route, Reject> {
        if let Some(reject) = app.more_than_read(req) {
            return Err(reject);
        }
        match req.method {
            "OPTIONS" => Ok(options_response(ALLOW_CHANNEL)),
            "GET" | "HEAD" => {
                let listen = app.subscribe_route(req, &format!("lab/{key}"))?;
                Ok(Route::Handler(Box::new(|req, body, connection| listen(req, body, connection).map_err(|_| TAPS))))
            }
            "POST" if let Some((name, _)) = req.params().find(|pair| !pair.0.is_empty()) => {
                Err(unknown_parameter(name, connection))
            }
            "POST" => {
                let key = key.to_string();
                let taps = self.0.clone();
                Ok(Route::Handler(Box::new(move |_, _, _| {
                    let cut = taps.cut(&key);
                    Ok(Outcome::Response(Response::text(format!("connections cut: {cut}\n"))))
                })))
            }
            _ => Err(CHANNEL_METHOD),
        }
    }
}

impl Wing for Lab {
    fn request(
        &self, app: &Arc<App>, req: &Request, head: &[u8], connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        let key = req.path.strip_prefix("/lab/");
        if let Some(tapped) = req.param("tap")? {
            if !app.hub.is_channel(&tapped) || key.is_some() {
                return Err(TAP);
            }
            let mut tap = self.0.tap(app, &tapped, &connection.stream)?;
            tap.body(&without_credentials(head));
            connection.watchers.0.push(tap);
        }
        if let Some(key) = key.filter(|key| app.hub.is_channel(key)) {
            return self.tap_channel_route(app, req, key, connection).map(Some);
        }
        if req.path != "/lab" {
            return Ok(None);
        }
        app.read_only(req, Route::Response(page(PAGE, ""))).map(Some)
    }
}

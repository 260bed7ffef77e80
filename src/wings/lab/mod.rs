#![doc = include_str!("README.md")]
//!
//! The server's side of the wire lab: the exact bytes of a connection become events of a channel.
//!
//! `GET /kitchen?tap=KEY` is served like any other request. In addition, each byte of the request and of the response
//! is published in the channel `/lab/KEY` (`taps.rs`). The page of the lab subscribes to both. `POST /lab/KEY` cuts
//! the connections with that key at once, even in the middle of a response.
//!
//! ```text
//! event: in
//! data: {"connection":7,"at":1763654400123.456,"bytes":"GET /kitchen?tap=x HTTP/1.1\r\nHost: …"}
//! ```
//!
//! `in` has bytes from the client, as they were read. `out` has bytes to the client, as they were written. The last
//! event is `end`. It comes when the server has sent everything, or when the connection is cut. `at` is in
//! milliseconds since 1970. Each character of `bytes` means one byte, so that JSON can hold any byte. If a connection
//! is too fast for the tap, an event `lost` replaces events. Its `bytes` is a number: how many bytes of that
//! connection are missing here.

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

/// The rows that this wing adds to the tables of the core.
pub const TABLES: WingTables = WingTables {
    refusals: TABLE,
    files: files! { "../../../static/lab/": "lab.css" "lab.js" "lab-words.js" "ways.css" "ways.js"; },
    link: include_str!("../../../static/lab/chat-link.html"),
    ..WingTables::new(|app| Ok(Box::new(Lab(Taps::new(app.hub.clone())?))))
};

/// The page of the lab.
const PAGE: &[u8] = include_bytes!("../../../static/lab/lab.html");

/// The lab: its taps.
struct Lab(Arc<Taps>);

impl Lab {
    /// Decides how a request for a channel of the lab is served.
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

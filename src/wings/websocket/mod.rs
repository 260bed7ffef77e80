#![doc = include_str!("README.md")]
//!
//! WebSocket (RFC 6455): a channel as messages, at the channel's URL.

pub mod sha1;
pub mod handshake;
pub mod frames;
pub mod messages;
pub mod socket;

use crate::server::connection::Connection;
use crate::server::doors::{App, Outcome, Route, Wing, WingTables};
use crate::server::route::{event_template, since};
use crate::system::threads::spawn;
use crate::wings::websocket::handshake::{NO_SOCKET, TABLE, handshake};
use crate::wings::websocket::socket::Accepted;
use crate::wire::http::{self, Request};
use crate::wire::reject::{CONNECTIONS, Reject};
use std::sync::Arc;

/// The rows that this wing adds to the tables of the core.
pub const TABLES: WingTables = WingTables { refusals: TABLE, ..WingTables::new(|_| Ok(Box::new(WebSockets))) };

struct WebSockets;

impl Wing for WebSockets {
    fn more_than_read(&self, req: &Request) -> Option<Reject> {
        (handshake(req) != Ok(None)).then_some(NO_SOCKET)
    }

    fn request(
        &self, app: &Arc<App>, req: &Request, _head: &[u8], _connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        let Some(name) = req.path.strip_prefix('/').filter(|name| app.hub.is_channel(name)) else { return Ok(None) };
        let Some(handshake) = handshake(req)? else { return Ok(None) };
        let since = since(req)?;
        let template = event_template(req)?;
        let name = name.to_string();
        let app = app.clone();
        Ok(Some(Route::Handler(Box::new(move |req, _, connection| {
            if connection.brief {
                return Err(CONNECTIONS); // other clients wait for this thread
            }
            let head = http::head(101, &[&handshake.fields]);
            let (channel, mut stream_start) = app.prepare_stream(req, &name, since, head)?;
            let extra_slot = app.extra_connection(connection.peer.ip())?;
            let blocks = handshake.event_stream;
            if !blocks {
                stream_start.prelude_suffix = None; // the prelude has no data, so it would be no message
            }
            let accepted = Accepted {
                hub: app.hub.clone(),
                channel,
                blocks,
                may_publish: app.tokens.check(req, "POST"),
                template,
            };
            Ok(Outcome::TakenOver(Box::new(|connection, slot| {
                // It runs on a new thread, which has not yet used much of its stack. If none can be started, the
                // connection is closed.
                let _ =
                    spawn("websocket", Box::new(move || accepted.serve(connection, slot, extra_slot, stream_start)));
            })))
        }))))
    }
}

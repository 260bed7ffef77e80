#![doc = include_str!("README.md")]

//! WebSocket (RFC 6455): the same channel, at the same URL.

pub mod sha1;
pub mod handshake;
pub mod frames;
pub mod messages;
pub mod socket;

use crate::server::connection::Connection;
use crate::server::doors::{Desk, Reply, Route, Tables, Wing};
use crate::server::route::{named, place};
use crate::system::threads::start;
use crate::wings::websocket::handshake::{NO_SOCKET, TABLE, handshake};
use crate::wings::websocket::socket::Accepted;
use crate::wire::http::{self, Request};
use crate::wire::reject::{CONNECTIONS, Reject};
use std::sync::Arc;

/// What it adds to the tables.
pub const TABLES: Tables = Tables { refusals: TABLE, ..Tables::new(|_| Ok(Box::new(WebSockets))) };

struct WebSockets;

impl Wing for WebSockets {
    fn acts(&self, req: &Request) -> Option<Reject> {
        (handshake(req) != Ok(None)).then_some(NO_SOCKET)
    }

    fn request(
        &self, desk: &Arc<Desk>, req: &Request, _head: &[u8], _connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        let Some(name) = req.path.strip_prefix('/').filter(|name| desk.hub.is_channel(name)) else { return Ok(None) };
        let Some(handshake) = handshake(req)? else { return Ok(None) };
        let from = place(req)?;
        let template = named(req)?;
        let name = name.to_string();
        let desk = desk.clone();
        Ok(Some(Route::Work(Box::new(move |req, _, connection| {
            if connection.brief {
                return Err(CONNECTIONS); // others wait for this thread
            }
            let head = http::head(101, &[&handshake.fields]);
            let (channel, mut opening) = desk.opening(req, &name, from, head)?;
            let further = desk.further()?;
            let blocks = handshake.event_stream;
            if !blocks {
                opening.introduction = None; // it has no data
            }
            let accepted = Accepted {
                hub: desk.hub.clone(),
                channel,
                blocks,
                may_publish: desk.tokens.check(req, "POST"),
                template,
            };
            Ok(Reply::Taken(Box::new(|connection, slot| {
                // A thread of its own, which has not yet used much of its stack. If there is none, the client is sent away.
                let _ = start("websocket", Box::new(move || accepted.serve(connection, slot, further, opening)));
            })))
        }))))
    }
}

//! A WebSocket's connection: a channel heard and fed with frames.
//!
//! Its subscriber is one like any other, with a framing of its own (`framing.rs`): the pump writes to the socket. The
//! connection's thread reads the client's frames, and publishes; a Pong frame waits for the channel (`duplex.rs`).
//!
//! - a block of the log is a text message: its data, or with the subprotocol `event-stream` the whole block;
//! - a heartbeat is a Ping frame (RFC 6455 §5.5.2);
//! - the end is a Close frame behind whole messages: 1013, come back with `?since=`, or what the client's frames ask for.
//!
//! Limits: `subscriber.rs` and `channel.rs` have those of its end; `--max-body` for a message. A WebSocket holds two
//! descriptors, and so it counts as two connections.

use crate::channel::duplex::{Duplex, lock};
use crate::channel::hub::Hub;
use crate::channel::state::{Channel, Opening};
use crate::channel::subscriber::Slot;
use crate::server::connection::{Connection, Stop};
use crate::wings::trace::watch::Trace;
use crate::wings::websocket::frames::{self as ws, Parser, Received};
use crate::wire::event::Event;
use crate::wire::reject::Reject;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Limit: how long a Pong frame waits before more is read.
const PONG_TIME: Duration = Duration::from_secs(1);

/// A handshake that is accepted.
pub struct Accepted {
    /// A connection more than the client's own.
    pub slot: Slot,
    /// Whether its client may publish.
    pub may_publish: Result<(), Reject>,
    /// What it publishes, but for the data.
    pub template: Event,
}

/// With what a WebSocket is closed: a status code, if there is one, and a reason.
type End = (Option<u16>, &'static str);

/// Reads and obeys the client's frames, until there are no more. Returns with what it is to be closed.
fn obey(
    connection: &mut Connection, half: &Mutex<Duplex>, hub: &Hub, channel: &Arc<Channel>,
    may_publish: Result<(), Reject>, template: &Event,
) -> Result<(), End> {
    let mut parser = Parser::new(hub.config().max_body);
    while let Ok((bytes, early)) = connection.receive(|| drop(lock(half))) {
        lock(half).heard(&bytes, early);
        let mut rest = &bytes[..];
        while let Some(received) = parser.next(&mut rest).map_err(|fail| (Some(fail.code), fail.reason))? {
            match received {
                Received::Message(text) => {
                    may_publish.map_err(|reject| (Some(1008), reject.why))?;
                    let event = template.clone().with_data(text);
                    let code = |r: Reject| (Some(if r.status == 500 { 1011 } else { 1013 }), r.why);
                    hub.publish(&channel.name, &[event]).map_err(code)?;
                }
                Received::Ping(payload) => {
                    let mut pong = Vec::new();
                    ws::frame(ws::PONG, &payload, &mut pong);
                    lock(half).pong = pong;
                    hub.wake(channel);
                    // Else a newer one takes its place.
                    channel.wait_until(PONG_TIME, || lock(half).pong.is_empty());
                }
                Received::Pong => lock(half).unanswered = 0,
                Received::Close(code) => return Err((code, "")),
            }
        }
    }
    Ok(())
}

/// Serves a WebSocket to its end.
pub fn serve(
    mut connection: Connection, _slot: Slot, hub: &Hub, channel: &Arc<Channel>, mut opening: Opening,
    accepted: Accepted,
) {
    let Accepted { slot, may_publish, template } = accepted;
    let half = Arc::<Mutex<Duplex>>::default();
    lock(&half).trace = opening.trace;
    opening.trace = Trace::default();
    opening.half = Some(half.clone());
    // If this fails the client is gone.
    if let Ok(stream) = connection.stream.try_clone()
        && let Ok(key) = hub.subscribe(channel, stream, slot, opening)
    {
        connection.note(101);
        let mut last = Vec::new();
        if let Err((code, reason)) = obey(&mut connection, &half, hub, channel, may_publish, &template) {
            ws::close(code, reason, &mut last);
        }
        channel.leave(key, &last, hub.now());
        connection.end(Stop::Close);
    }
}

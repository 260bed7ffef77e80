//! The opening handshake of a WebSocket (RFC 6455 §4.2). Pure.
//!
//! Deviation: §9.1 wants a malformed `Sec-WebSocket-Extensions` refused. We take no extension, and so do not read it.

use crate::wings::websocket::sha1;
use crate::wire::base64;
use crate::wire::http::{Request, is_token};
use crate::wire::percent::is_made_of;
use crate::wire::reject::{Reject, table};

/// What a server does that is sent another handshake (RFC 9110 §7.8, §15.5.22; RFC 6455 §4.4).
const UPGRADE_FIELDS: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";

table! {
    UPGRADE_OPTION 400 "RFC 6455 §4.2.1" "the handshake's Connection field does not list `Upgrade`; send it, and let each proxy in between pass it on"
    WS_KEY 400 "RFC 6455 §4.2.1" "Sec-WebSocket-Key is missing, there twice, or not 16 bytes in base64; send one, drawn at random"
    SUBPROTOCOL 400 "RFC 6455 §4.3" "Sec-WebSocket-Protocol has a name that is no token; send `event-stream`, or leave the field out"
    HANDSHAKE_METHOD 405 "RFC 6455 §4.2.1" "a WebSocket begins with a GET; send one, and publish with messages" => "Allow: GET\r\n"
    UPGRADE 426 "RFC 6455 §4.2.1" "the handshake has no `Upgrade: websocket` in HTTP/1.1; send it, and let each proxy in between pass it on" => UPGRADE_FIELDS
    WS_VERSION 426 "RFC 6455 §4.2.2" "only version 13 of WebSocket is spoken here; send one field line `Sec-WebSocket-Version: 13`" => UPGRADE_FIELDS
    NO_SOCKET 404 "RFC 6455 §4.2.2" "a WebSocket is only to be had at a channel's URL; connect to one, such as /chat"
}

/// The subprotocol in which a message is a whole block of an event stream.
pub const SUBPROTOCOL_NAME: &str = "event-stream";

/// An opening handshake that is accepted.
#[derive(Debug, PartialEq)]
pub struct Handshake {
    /// The field lines of the answer, a 101.
    pub fields: String,
    /// Each message is a whole block: the client offered [`SUBPROTOCOL_NAME`].
    pub event_stream: bool,
}

/// Reads a client's opening handshake (§4.2.1); `None` where the request is not meant to be one.
///
/// # Errors
/// The first rule that it breaks.
pub fn handshake(req: &Request) -> Result<Option<Handshake>, Reject> {
    // In HTTP/1.0 the field means nothing (RFC 9110 §7.8).
    let upgrade = req.minor == 1 && req.list_has("upgrade", "websocket");
    if !upgrade && req.field_bytes("sec-websocket-key").is_none() {
        return Ok(None);
    }
    if req.method != "GET" {
        return Err(HANDSHAKE_METHOD);
    }
    if !upgrade {
        return Err(UPGRADE);
    }
    if !req.list_has("connection", "upgrade") {
        return Err(UPGRADE_OPTION);
    }
    // One line each (§11.3.1, §11.3.5). The version comes first, for older ones have other keys.
    let [b"13"] = req.field_values("sec-websocket-version").collect::<Vec<_>>()[..] else { return Err(WS_VERSION) };
    let [key] = req.field_values("sec-websocket-key").collect::<Vec<_>>()[..] else { return Err(WS_KEY) };
    // 16 bytes by the grammar of §4.3, which leaves the last digit's four spare bits free: §4.1 has them set in its example.
    if key.len() != 24 || !key.strip_suffix(b"==").is_some_and(|digits| is_made_of(digits, b"+/")) {
        return Err(WS_KEY);
    }
    let protocols = req.list("sec-websocket-protocol");
    if !protocols.iter().all(|name| is_token(name)) {
        return Err(SUBPROTOCOL);
    }
    let event_stream = protocols.contains(&SUBPROTOCOL_NAME.as_bytes());
    let accept = base64::encode(&sha1::digest(&[key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat()));
    let mut fields = format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n");
    if event_stream {
        fields.extend(["Sec-WebSocket-Protocol: ", SUBPROTOCOL_NAME, "\r\n"]);
    }
    Ok(Some(Handshake { fields, event_stream }))
}

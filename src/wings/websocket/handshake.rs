//! The opening handshake of a WebSocket (RFC 6455 §4.2). Pure.
//!
//! Deviation: §9.1 asks a server to refuse a malformed `Sec-WebSocket-Extensions`. We accept no extension, so we do
//! not read that field.

use crate::wings::websocket::sha1;
use crate::wire::base64;
use crate::wire::http::{Request, is_token};
use crate::wire::percent::is_made_of;
use crate::wire::reject::{Reject, table};

/// The field lines of a refusal: which handshake this server accepts (RFC 9110 §7.8, §15.5.22; RFC 6455 §4.4).
const UPGRADE_FIELDS: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";

table! {
    UPGRADE_OPTION 400 "RFC 6455 §4.2.1" "the handshake's Connection field does not list `Upgrade`; send it, and let each proxy in between pass it on"
    WS_KEY 400 "RFC 6455 §4.2.1" "Sec-WebSocket-Key is missing, given twice, or not 16 bytes in base64; send one, drawn at random"
    SUBPROTOCOL 400 "RFC 6455 §4.3" "Sec-WebSocket-Protocol has a name that is not a token; send `event-stream`, or leave the field out"
    HANDSHAKE_METHOD 405 "RFC 6455 §4.2.1" "a WebSocket begins with a GET; send one, and publish with messages" => "Allow: GET\r\n"
    UPGRADE 426 "RFC 6455 §4.2.1" "the handshake has no `Upgrade: websocket` in HTTP/1.1; send it, and let each proxy in between pass it on" => UPGRADE_FIELDS
    WS_VERSION 426 "RFC 6455 §4.2.2" "this server knows only version 13 of WebSocket; send one field line `Sec-WebSocket-Version: 13`" => UPGRADE_FIELDS
    NO_SOCKET 404 "RFC 6455 §4.2.2" "only a channel's URL accepts a WebSocket; connect to one, such as /chat"
}

/// The name of the subprotocol in which a message is a whole block of the event stream.
pub const SUBPROTOCOL_NAME: &str = "event-stream";

/// An accepted opening handshake.
#[derive(Debug, PartialEq)]
pub struct Handshake {
    /// The field lines of the response, a 101.
    pub fields: String,
    /// Whether each message is a whole block, because the client offered [`SUBPROTOCOL_NAME`].
    pub event_stream: bool,
}

/// Reads a client's opening handshake (§4.2.1). Returns `None` if the request is not a handshake.
///
/// # Errors
/// The first rule that the handshake breaks.
pub fn handshake(req: &Request) -> Result<Option<Handshake>, Reject> {
    // In HTTP/1.0 the Upgrade field has no meaning (RFC 9110 §7.8).
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
    // Each has one field line (§11.3.1, §11.3.5). The version is checked first, because older versions have other
    // keys.
    let [b"13"] = req.field_values("sec-websocket-version").collect::<Vec<_>>()[..] else { return Err(WS_VERSION) };
    let [key] = req.field_values("sec-websocket-key").collect::<Vec<_>>()[..] else { return Err(WS_KEY) };
    // 16 bytes in base64 have 22 digits and `==` (§4.3). The last digit has four spare bits, which may be set: they
    // are in the example of §4.1. So the key is not decoded.
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

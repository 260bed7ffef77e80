//! Taps of WebSockets.

use crate::lab::taps::{TapEvent, tap_event};
use crate::support::harness::*;
use crate::support::websocket::*;
use crate::support::wings::has;
use std::time::Duration;

/// Returns bytes in the form of a tap: a character for each.
fn characters(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().copied().map(char::from).collect()
}

#[test]
fn a_tap_tells_each_byte_of_a_websocket_once_and_its_plug_ends_it() {
    if !has("websocket") {
        return;
    }
    let server = Tincan::start(&["--retry", "0"]);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    // The first message comes in one packet with the handshake.
    let (asked, first) = (handshake("/a?tap=k", ""), text("one"));
    let mut wire = server.connect();
    wire.send([asked.as_bytes(), &first].concat());
    let response = wire.until(b"\r\n\r\n");
    wire.send(ping("two"));
    let mut ws = Ws(wire);
    let got = [ws.frame().unwrap(), ws.frame().unwrap()];
    assert!(got.contains(&(0x81, b"one".into())) && got.contains(&(0x8a, b"two".into())), "{got:?}");
    ws.send(frame(0x88, ""));
    assert_eq!([ws.frame(), ws.frame()], [Some((0x88, vec![])), None]);
    drop(ws);
    let (mut up, mut down) = (String::new(), String::new());
    loop {
        let TapEvent(way, 1, bytes) = tap_event(&tap.block()) else { panic!() };
        match way.as_str() {
            "in" => up += &bytes,
            "out" => down += &bytes,
            _ => break,
        }
    }
    assert_eq!(up, asked + &characters([first, ping("two"), frame(0x88, "")].concat()));
    let frames = got.map(|(first, payload)| [vec![first, payload.len() as u8], payload].concat()).concat();
    assert_eq!(down, response + &characters([&frames[..], &[0x88, 0]].concat()));
    // A pulled plug: no Close frame, only the end.
    let mut ws = Ws::open(&server, "/a?tap=k");
    ws.send(text("three"));
    ws.hears("three");
    let began = Stopwatch::start();
    assert_eq!(server.post("/lab/k", ""), ["connections cut: 1"]);
    assert_eq!(ws.frame(), None);
    while tap_event(&tap.block()).0 != "end" {}
    eventually("the WebSocket is no longer counted", || server.readers("a") == 0);
    began.within("the end", Duration::from_secs(2));
    // The tap's subscriber, and this request.
    eventually("only two connections are left", || server.metric("tincan_connections") == Some(2));
}

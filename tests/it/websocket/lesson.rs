//! The lesson about WebSocket.

use crate::support::harness::*;
use crate::support::wings::has;
use tincan::wings::websocket::frames as ws;

#[test]
fn the_frames_in_the_lesson_are_frames() {
    if !has("lessons") {
        return;
    }
    let lesson = Tincan::start(&[]).get("/lessons/websocket.txt").text();
    let mut frames = lesson.lines().filter_map(|line| {
        let bytes = line.rsplit_once(": ")?.1.split('.').next()?.split(' ');
        let bytes: Option<Vec<u8>> =
            bytes.map(|hex| u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)).collect();
        bytes.filter(|bytes| bytes.len() > 1)
    });
    assert_eq!(frames.next(), Some(ws::frame(ws::TEXT, b"soup")));
    let masked = frames.next().unwrap();
    assert_eq!(ws::Parser::new(9).next(&mut &masked[..]), Ok(Some(ws::Received::Message("soup".into()))));
    assert_eq!(frames.next(), Some(ws::frame(ws::PING, b"")));
    assert_eq!(frames.next(), Some(ws::close(Some(1000), "")));
    assert_eq!(frames.next(), None);
}

//! The output of `--trace` for WebSockets.

use crate::support::growth::*;
use crate::support::harness::*;
use crate::support::websocket::*;
use crate::support::wings::has;
use crate::trace::lines::{ended, explained_by, none, shown, traced};
use std::sync::Arc;
use tincan::wings::trace::explain::Explainer;
use tincan::wings::trace::secrets::Secrets;
use tincan::wings::websocket::frames::FrameReader;

/// Returns the lines of `--trace` about a session, without the lines of the heads.
fn frames_of(lines: &str) -> String {
    let head = |line: &&str| {
        ["field line", "request line", "status line", "end of the head"].iter().any(|n| line.ends_with(n))
    };
    lines.lines().filter(|line| !head(line)).fold(String::new(), |out, line| out + line + "\n")
}

#[test]
fn trace_shows_each_frame_with_its_header_and_its_payload_unmasked() {
    if !has("address") {
        return;
    }
    let server = traced(&["--retry", "0"]);
    let (mut ws, _) = Ws::blocks(&server, "/kitchen?event=soup", "");
    ws.send([frame(0x01, "two\nli"), ping("p"), frame(0x80, "nes")].concat());
    ws.gets(0x8a, "p");
    ws.message();
    ws.send([frame(0x8a, ""), frame(0x82, "b")].concat());
    let (first, payload) = ws.frame().unwrap();
    assert_eq!((first, &payload[..2], ws.frame()), (0x88, &1003_u16.to_be_bytes()[..], None));
    let reason = str::from_utf8(&payload[2..]).unwrap();
    drop(ws);
    let got = ended(&server, 1);
    let expected = format!(
        "#1 < ␍␊ | end of the head; frames follow
        #1 < 81 5a | FIN, text, length of the payload: 90
        #1 < : connected to /kitchen as aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa␊ | comment
        #1 < retry: 9␊ | retry: after 9 ms
        #1 < id: 9999999999999-0␊ | id, from the blank line on
        #1 < ␊ | fires nothing; the id counts from here
        #1 > 01 86 37 fa 21 3d | text, masked, length of the payload: 6
        #1 > two␊ | payload
        #1 > li | payload
        #1 > 89 81 37 fa 21 3d | FIN, ping, masked, length of the payload: 1
        #1 > p | payload
        #1 > 80 83 37 fa 21 3d | FIN, continuation, masked, length of the payload: 3
        #1 > nes | ... payload
        #1 < 8a 01 | FIN, pong, length of the payload: 1
        #1 < p | payload
        #1 < 81 37 | FIN, text, length of the payload: 55
        #1 < event: soup␊ | event: the name of this event
        #1 < data: two␊ | data
        #1 < data: lines␊ | data
        #1 < id: 9999999999999-1␊ | id, from the blank line on
        #1 < ␊ | dispatch: soup
        #1 > 8a 80 37 fa 21 3d | FIN, pong, masked, length of the payload: 0
        #1 > 82 81 37 fa 21 3d | FIN, binary, masked, length of the payload: 1
        #1 > b | payload
        #1 < 88 {:02x} | FIN, close, length of the payload: {}
        #1 < ␃⟨EB⟩{reason} | payload
        #1 -  | the connection ends",
        reason.len() + 2,
        reason.len() + 2,
    );
    assert_eq!(frames_of(&got), shown(&expected));
    // In one packet with the handshake: each frame is shown once.
    let mut wire = server.connect();
    wire.send([handshake("/kitchen", "").into_bytes(), text("soup"), frame(0x88, "")].concat());
    let mut ws = Ws::accepted(wire, "");
    while ws.frame().is_some() {}
    drop(ws);
    let got = frames_of(&ended(&server, 2));
    let up = got.lines().filter(|line| line.starts_with("#2 > "));
    assert_eq!(up.count(), 3, "two headers, one payload: {got}");
}

/// Explains a connection with frames. The server's messages are parsed as event streams if its response has this
/// subprotocol.
fn explained<'a>(secrets: &Arc<Secrets>, pieces: impl IntoIterator<Item = (bool, &'a [u8])>) -> String {
    let pieces: Vec<_> = pieces.into_iter().collect();
    let blocks = pieces.iter().any(|(up, bytes)| !up && bytes.windows(12).any(|part| part == b"event-stream"));
    explained_by(explainer(secrets, blocks), pieces)
}

fn explainer(secrets: &Arc<Secrets>, blocks: bool) -> Explainer {
    let mut explainer = Explainer::new(1, false, secrets.clone());
    explainer.frames(Box::new(FrameReader::new(false)), Box::new(FrameReader::new(blocks)));
    explainer
}

#[test]
fn trace_holds_what_came_with_a_handshake_until_its_answer() {
    let asked = handshake("/a", "");
    let (yes, no) = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
    );
    let more = [text("soup"), frame(0x88, [3, 0xe8])].concat();
    let frames = "#1 > 81 84 37 fa 21 3d | FIN, text, masked, length of the payload: 4
        #1 > soup | payload
        #1 > 88 82 37 fa 21 3d | FIN, close, masked, length of the payload: 2
        #1 > ␃⟨E8⟩ | payload
        #1 -  | the connection ends";
    let up = [asked.as_bytes(), &more].concat();
    for cut in 0..=more.len() {
        // Cut anywhere, before the response or after it.
        let (before, after) = up.split_at(asked.len() + cut);
        let got = explained(&none(), [(true, before), (false, yes.as_bytes()), (true, after)]);
        let got = frames_of(&got).replace(&shown("#1 < ␍␊ | end of the head; frames follow"), "");
        assert_eq!(got, shown(frames), "cut at {cut}");
    }
    // A refused handshake is a request, even after another request that was not yet answered.
    let first = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let up = [first, &asked, "GET /b HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let got = explained(&none(), [(true, up.as_bytes()), (false, no.as_bytes()), (false, no.as_bytes())]);
    assert!(got.contains(&shown("#1 > GET /b HTTP/1.1␍␊ | request line")), "{got}");
    assert!(!got.contains("frames"), "{got}");
    let got = explained(
        &none(),
        [
            (true, [first.as_bytes(), asked.as_bytes(), &more].concat().as_slice()),
            (false, no.as_bytes()),
            (false, yes.as_bytes()),
        ],
    );
    assert!(frames_of(&got).ends_with(&shown(frames)), "{got}");
    let got = explained(&none(), [(true, asked.as_bytes()), (false, yes.as_bytes()), (true, &more[..9])]);
    assert!(got.ends_with("the connection ends, in the middle of a frame\n"), "{got}");
    // No token is shown in any frame, wherever the bytes are cut. And nothing but text reaches the terminal.
    let secrets = Arc::new(Secrets::new(["s3same"]));
    let up_bytes =
        [text("open s3same"), frame(1, "s3s"), ping("s3same"), frame(0x80, "ame"), closing(1000, "s3same")].concat();
    for cut in 0..=up_bytes.len() {
        let (left, right) = up_bytes.split_at(cut);
        let pieces = [(true, asked.as_bytes()), (false, yes.as_bytes()), (true, left), (true, right)];
        let got = explained(&secrets, pieces);
        assert!(
            !got.contains("s3s") && !got.contains("ame\n") && got.matches("(not shown)").count() == 4,
            "cut at {cut}: {got}"
        );
    }
    let mut random = Random(101);
    for _ in 0..3000 {
        let (up, down) = (random_bytes(&mut random), random_bytes(&mut random));
        let got = explained(&none(), [(true, asked.as_bytes()), (false, yes.as_bytes()), (true, &up), (false, &down)]);
        assert!(
            got.lines().all(|line| line.starts_with("#1 ")) && !got.contains(|c: char| c.is_control() && c != '\n'),
            "{got:?}"
        );
    }
}

#[test]
fn traced_frames() {
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: a\r\n\r\n";
    for kind in FRAMES {
        linear(&format!("{kind}, shown to a person"), 500, |n| {
            let bytes = many(kind, n);
            thread_time(|| {
                let mut explainer = explainer(&none(), false);
                explainer.received(ask.as_bytes());
                explainer.sent(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
                bytes.chunks(512).map(|piece| explainer.received(piece).len()).sum::<usize>()
            })
        });
    }
}

//! The memory for messages (`--memory`): which are in flight, and what happens if they take too much.

use crate::support::harness::*;
use crate::support::websocket::*;
use tincan::wings::websocket::frames::TOO_LONG;
use tincan::wire::reject::MEMORY;

/// Publishes a large event over HTTP; returns the status.
fn post_large(server: &Tincan) -> u16 {
    server.post_with("/large", "", "l".repeat(60_000)).status
}

#[test]
fn a_message_in_fragments_counts_until_it_is_complete_and_may_be_refused() {
    let server = Tincan::start(&["--quiet", "--memory", "1M"]);
    let mut held = Vec::new();
    eventually("a large body is refused", || {
        let mut ws = Ws::open(&server, "/held");
        for part in [frame(1, "a".repeat(30_000)), frame(0, "a".repeat(30_000))] {
            let _ = std::io::Write::write_all(&mut ws.0.stream, &part); // it may be refused meanwhile
        }
        held.push(ws);
        post_large(&server) == 503
    });
    // A small message is published all the same.
    let mut small = Ws::open(&server, "/small");
    for _ in 0..5 {
        small.send(text("soup"));
        small.hears("soup");
    }
    // A large one is refused as soon as it finds no room. The client may come back.
    let mut refused = Ws::open(&server, "/refused");
    let _ = std::io::Write::write_all(&mut refused.0.stream, &frame(1, "a".repeat(60_000)));
    refused.closes(1013, MEMORY.why);
    small.send(ping("still there"));
    small.gets(0x8a, "still there");
    // Those that found room are published when they are complete.
    let mut published = 0;
    for ws in &mut held {
        let _ = std::io::Write::write_all(&mut ws.0.stream, &frame(0x80, "b"));
    }
    for mut ws in held {
        while let Some((first, payload)) = ws.frame() {
            if first == 0x81 {
                assert_eq!(payload.len(), 60_001);
                published += 1;
                break;
            }
            assert_eq!(payload, [&1013u16.to_be_bytes()[..], MEMORY.why.as_bytes()].concat());
        }
    }
    assert!(published > 0);
    eventually("a large body is taken", || post_large(&server) == 200);
}

#[test]
fn a_message_that_is_published_does_not_count_any_more() {
    let server = Tincan::start(&["--quiet", "--memory", "1M"]);
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut ws = Ws::open(&server, "/a");
        ws.send(text("a".repeat(60_000)));
        ws.hears(&"a".repeat(60_000));
        open.push(ws);
    }
    eventually("a large body is taken", || post_large(&server) == 200);
    let mut ws = Ws::open(&server, "/a");
    ws.send(text("b".repeat(60_000)));
    ws.hears(&"b".repeat(60_000));
}

#[test]
fn a_message_may_be_a_quarter_of_the_budget_in_one_frame_or_in_many() {
    let server = Tincan::start(&["--quiet", "--memory", "128K"]);
    let mut ws = Ws::open(&server, "/a");
    for length in [32 << 10, (32 << 10) - 1, 24 << 10, 17_000] {
        let message = "a".repeat(length);
        ws.send(text(&message));
        ws.hears(&message);
        let parts: Vec<&str> =
            [&message[..5000], &message[5000..5001], &message[5001..16_000], &message[16_000..]].into();
        for fragment in fragments(&parts) {
            ws.send(fragment);
            server.rests();
        }
        ws.hears(&message);
    }
    ws.send(text("a".repeat((32 << 10) + 1)));
    ws.closes(1009, &format!("{} ({})", TOO_LONG.why, TOO_LONG.rule));
}

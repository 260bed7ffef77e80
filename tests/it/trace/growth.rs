//! The cost of showing bytes to a person.

use crate::core::growth::events_with;
use crate::support::growth::*;
use crate::trace::lines::none;
use tincan::wings::trace::explain::Explainer;

#[test]
fn events_in_one_request_while_they_are_shown() {
    events_with(&["--trace"]);
}

#[test]
fn traced_lines() {
    let explained = |pieces: &[(bool, &str)], size: usize| {
        let mut explainer = Explainer::new(1, false, none());
        let mut out = 0;
        for (up, text) in pieces {
            for piece in text.as_bytes().chunks(size) {
                out += if *up { explainer.received(piece).len() } else { explainer.sent(piece).len() };
            }
        }
        out + explainer.end().len()
    };
    for (name, n, text) in [
        ("at signs", 1000, "@"),
        ("words with an at sign", 1000, " a@"),
        ("at signs in URIs", 1000, "//@"),
        ("colons", 1000, ":"),
        ("empty lines", 500, "\r\n"),
        ("field lines", 250, "A: b\r\n"),
        ("lone line ends", 500, "\r"),
        ("characters of four bytes", 500, "😀"),
        ("credentials", 100, "Cookie: a\r\n b\r\n"),
    ] {
        for (up, size) in [(true, 1), (true, 4096), (false, 1), (false, 4096)] {
            let body = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
            linear(&format!("{name}, shown to a person"), n, |n| {
                let text = text.repeat(n);
                thread_time(|| explained(&[(up, if up { "" } else { body }), (up, &text)], size))
            });
        }
    }
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: a\r\n\r\n";
    linear("handshakes that are refused, shown to a person", 50, |n| {
        let (asked, response) = (ask.repeat(n), "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        thread_time(|| explained(&[&[(true, &*asked)], &vec![(false, response); n][..]].concat(), 16 << 10))
    });
}

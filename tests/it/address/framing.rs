//! How events for one subscriber, or for all but one, are framed.

use crate::core::framing::{chunk, opened, raw};
use crate::support::harness::*;
use crate::support::slow_readers::slow_readers_in_memory_and_on_disk;

#[test]
fn a_word_to_one_is_in_a_chunk_of_its_own() {
    let dir = Scratch::new();
    for args in [&["--retry", "0"][..], &["--retry", "0", "--data", dir.arg()]] {
        let server = Tincan::start(args);
        let (mut new, mut old) = (raw(&server, "1.1", "/a", ""), raw(&server, "1.0", "/a", ""));
        let address = address_of(&opened(&mut new, "a", true));
        let old_address = address_of(&opened(&mut old, "a", false));
        // Events for this subscriber alone, and an event for all others.
        for (address, wire, chunked) in [(&address, &mut new, true), (&old_address, &mut old, false)] {
            let given = server.post_with(&format!("/a?to={address}"), "", "hush");
            assert_eq!(given.status, 200);
            wire.expect(if chunked { chunk("data: hush\n\n") } else { "data: hush\n\n".into() });
        }
        let hidden = server.post(&format!("/a?except={address}"), "hidden").remove(0);
        old.expect(block("hidden", &hidden));
        let seen = block("seen", &server.post("/a", "seen")[0]);
        new.expect(chunk(&seen));
        old.expect(seen);
    }
}

/// More is published to all, to one, and to all but one, while pings are due.
#[test]
fn slow_readers_hear_exactly_what_is_for_each_of_them_wherever_they_stopped() {
    slow_readers_in_memory_and_on_disk(true);
}

#[test]
fn the_prelude_has_the_address_behind_the_name() {
    let server = Tincan::start(&["--retry", "0"]);
    let prelude = opened(&mut raw(&server, "1.1", "/kitchen", ""), "kitchen", true);
    let address = address_of(&prelude);
    assert!(address.len() == 32 && address.bytes().all(|b| b.is_ascii_hexdigit()), "{address}");
    assert_eq!(prelude, format!(": connected to /kitchen as {address}\nretry: 0\nid: {}\n\n", id_of(&prelude)));
}

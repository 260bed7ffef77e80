//! What idle subscribers cost, and how soon the server knows that one has left. The server looks at its sockets
//! seldom, and yet keeps its promise of two seconds.

use crate::support::harness::*;
use std::thread::{scope, sleep};
use std::time::Duration;

/// The longest time after which a subscriber that has closed is gone.
const PROMISED: Duration = Duration::from_secs(2);

#[test]
fn whenever_a_reader_leaves_it_is_gone_within_two_seconds_and_who_only_stops_sending_stays() {
    let server = Tincan::start(&["--quiet"]); // its first ping comes after an hour
    let leave = |thread: u64| {
        let mut random = Random(thread);
        for round in 0..4 {
            let name = format!("reader-{thread}-{round}");
            let (mut wire, _) = server.listen(&format!("/{name}"), "");
            let unread = random.below(2) == 0;
            if unread {
                server.post(&format!("/{name}"), "never read"); // a close while bytes are unread is a reset
            }
            sleep(Duration::from_millis(random.below(2000)));
            if random.below(4) == 0 {
                wire.shut(); // it may have stopped sending before
                sleep(Duration::from_millis(random.below(500)));
            }
            let left = Stopwatch::start();
            drop(wire);
            eventually("the subscriber is gone", || server.readers(&name) == 0);
            left.within("a subscriber that has left is gone", PROMISED);
        }
    };
    let stay = |thread: u64| {
        let (mut wire, _) = server.listen("/stays", "");
        sleep(Duration::from_millis(137 * thread));
        wire.shut();
        sleep(2 * PROMISED);
        wire
    };
    let stays: Vec<Wire> = scope(|scope| {
        let stays: Vec<_> = (0..8).map(|thread| scope.spawn(move || stay(thread))).collect();
        (0..16).for_each(|thread| drop(scope.spawn(move || leave(thread))));
        stays.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(server.readers("stays"), stays.len() as u64);
    let ids = server.post("/stays", "x");
    for mut wire in stays {
        wire.expect(PING); // with it the server found out that the client is still there
        wire.expect(format!("data: x\nid: {}\n\n", ids[0]));
    }
}

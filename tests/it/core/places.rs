//! Places: how many connections the address of one client may have (`--max-per-address`).

use crate::support::growth::{linear, thread_time};
use crate::support::harness::*;
use crate::support::network::*;
use crate::support::process::{descriptors, is_alone, run_alone};
use std::collections::HashMap;
use std::fs::read_to_string;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier};
use std::thread::scope;
use tincan::system::limits::{Places, Slot};
use tincan::wire::reject::{CONNECTIONS, TIMEOUT};

/// The connections over a limit that still get a refusal.
const TURNED_AWAY: usize = 64;

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn an_address_has_its_places_and_others_are_served() {
    if !has_network(module_path!(), "an_address_has_its_places_and_others_are_served") {
        return;
    }
    let server = everywhere(&["--max-per-address", "3"]);
    for (one, same, other) in [(ONE, ONE, OTHER), (ONE_V6, SAME_V6, OTHER_V6)] {
        let mut subscribers: Vec<_> =
            [one, same, one].iter().map(|from| subscribe(&server, from).ok().expect("a place")).collect();
        for from in [one, same, one] {
            ask(&server, from, HEALTH).refused(CONNECTIONS);
        }
        assert_eq!(ask(&server, other, HEALTH).text(), "ok\n");
        // The server may see a little later that a client has closed. The last connection is that of the question.
        eventually("only subscribers are left", || server.metric("tincan_connections") == Some(3 + 1));
        let mut others = subscribe_to_the_limit(&server, other);
        assert_eq!(others.len(), 3, "{other}");
        // A place comes back when its connection closes, and it is only one.
        drop(subscribers.pop());
        eventually("a place comes back", || {
            subscribers.extend(subscribe(&server, same).ok());
            subscribers.len() == 3
        });
        ask(&server, one, HEALTH).refused(CONNECTIONS);
        eventually("all are counted", || server.readers("a") == 6);
        let ids = server.post("/a", "x");
        for subscriber in subscribers.iter_mut().chain(&mut others) {
            subscriber.expect(format!("data: x\nid: {}\n\n", ids[0]));
        }
        drop((subscribers, others));
        eventually("all have left", || server.metric("tincan_connections") == Some(1));
    }
}

#[test]
fn who_has_no_place_is_told_so_and_an_eventsource_comes_back() {
    if !has_network(module_path!(), "who_has_no_place_is_told_so_and_an_eventsource_comes_back") {
        return;
    }
    let server = everywhere(&["--max-per-address", "1"]);
    for from in [ONE, ONE_V6] {
        let subscriber = subscribe(&server, from).ok().expect("a place");
        let mut refused = connect(&server, from);
        refused.send("GET /a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        let response = refused.response();
        assert_eq!((response.status, response.field("content-type")), (200, Some("text/event-stream")));
        let text = response.text();
        let told = format!(": {}\nretry: ", CONNECTIONS.why);
        // There is only one line end at the end. A blank line would commit an empty last event ID.
        let retry =
            text.strip_prefix(&told).and_then(|rest| rest.strip_suffix('\n')).unwrap_or_else(|| panic!("{text}"));
        assert!((2500..=7500).contains(&retry.parse::<u64>().unwrap()), "{retry}");
        refused.ends();
        for request in [
            "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
            "GET /a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ] {
            let mut refused = connect(&server, from);
            refused.send(request);
            let response = refused.response();
            response.refused(CONNECTIONS);
            assert_eq!((response.status, response.field("retry-after")), (503, Some("5")));
            refused.ends();
        }
        // Nothing of this was published.
        drop(subscriber);
        eventually("the place comes back", || ask(&server, from, HEALTH).status == 200);
        assert_eq!(server.metric("tincan_events_total"), Some(0));
    }
}

#[test]
fn loopback_is_not_counted() {
    if !has_network(module_path!(), "loopback_is_not_counted") {
        return;
    }
    let server = everywhere(&["--max-per-address", "2"]);
    let addresses = ["127.0.0.1", "::1"];
    let subscribers: Vec<Wire> =
        addresses.iter().cycle().take(30).map(|from| subscribe(&server, from).ok().expect("a place")).collect();
    assert_eq!(server.readers("a"), subscribers.len() as u64);
    assert_eq!(subscribe_to_the_limit(&server, ONE).len(), 2);
}

#[test]
fn an_address_has_half_of_all_places_unless_told_otherwise() {
    if !has_network(module_path!(), "an_address_has_half_of_all_places_unless_told_otherwise") {
        return;
    }
    let server = everywhere(&["--max-connections", "9"]);
    let subscribers = subscribe_to_the_limit(&server, ONE);
    assert_eq!(subscribers.len(), 5);
    drop(subscribers);
    eventually("the places come back", || server.metric("tincan_connections") == Some(1));
    // A single place is for anybody.
    let server = everywhere(&["--max-connections", "1"]);
    assert_eq!(ask(&server, ONE, HEALTH).text(), "ok\n");
    // All that descriptors allow is less than `--max-connections`.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 100; exec \"$0\" --listen '[::]:0' --heartbeat 3600", env!("CARGO_BIN_EXE_tincan")]);
    let server = Tincan::run(command);
    let note = server.stderr();
    let all = note.split_once("limits: ").unwrap().1.split(' ').next().unwrap();
    let all: usize = all.parse().unwrap();
    assert!((50..100).contains(&all), "{note}");
    assert_eq!(subscribe_to_the_limit(&server, ONE_V6).len(), all.div_ceil(2));
    assert_eq!(ask(&server, OTHER_V6, HEALTH).text(), "ok\n");
}

#[test]
fn far_over_its_limit_an_address_gets_no_refusal_and_takes_no_place_of_others() {
    if !has_network(module_path!(), "far_over_its_limit_an_address_gets_no_refusal_and_takes_no_place_of_others") {
        return;
    }
    // Those that are refused are more than the places of all others.
    let server = everywhere(&["--max-connections", "20"]);
    let at_rest = descriptors(&server);
    let subscribers = subscribe_to_the_limit(&server, ONE);
    assert_eq!(subscribers.len(), 10);
    // A connection that sends nothing is refused after a second. A busy machine may take longer to open them all.
    eventually("16 of 80 are closed at once", || {
        eventually("the earlier ones are closed", || descriptors(&server) == at_rest + subscribers.len());
        let silent: Vec<Wire> = (0..TURNED_AWAY + 16).map(|_| connect(&server, ONE)).collect();
        let others: Vec<_> = (0..10).filter_map(|_| subscribe(&server, OTHER_V6).ok()).collect();
        assert_eq!(others.len(), 10, "the others have their places");
        let closed_at_once = |mut wire: Wire| match wire.rest() {
            rest if rest.is_empty() => true,
            rest => {
                assert!(rest.ends_with(&TIMEOUT.line()), "{rest}");
                false
            }
        };
        let closed = silent.into_iter().map(closed_at_once).filter(|closed| *closed).count();
        assert!(closed <= 16, "{closed} are closed at once");
        closed == 16
    });
}

/// Returns the address of the nth client.
fn nth(n: usize) -> IpAddr {
    Ipv6Addr::from_bits((0x2001_0db8 << 96) | (n as u128) << 64 | 1).into()
}

fn claim(places: &Arc<Places>, address: impl Into<IpAddr>) -> (Slot, usize, usize) {
    places.claim(address.into())
}

#[test]
fn places_are_counted_by_client() {
    let places = Arc::default();
    let counts = |text: &str| {
        let (slot, all, same) = claim(&places, text.parse::<IpAddr>().unwrap());
        (slot, (all, same))
    };
    let mut slots = Vec::new();
    let mut counted = Vec::new();
    for address in [
        "192.0.2.1",
        "::ffff:192.0.2.1", // the same
        "192.0.2.2",
        "::ffff:192.0.2.3",
        "2001:db8::1",
        "2001:db8::ffff:1:2:3", // the same network
        "2001:db8:0:1::1",
        "2001:db8::1",
        "::192.0.2.1", // no mapped address, but one in ::/64
        "127.0.0.1",
        "127.255.255.254",
        "::ffff:127.0.0.1",
        "::1", // in ::/64 as well
        "192.0.2.1",
    ] {
        let (slot, count) = counts(address);
        slots.push(slot);
        counted.push(count);
    }
    let same = [1, 2, 1, 1, 1, 2, 1, 3, 1, 1, 1, 2, 2, 3];
    let expected: Vec<_> = same.into_iter().enumerate().map(|(n, same)| (n + 1, same)).collect();
    assert_eq!(counted, expected);
    drop(slots);
    assert_eq!(places.count.load(SeqCst), 0);
    assert_eq!(counts("192.0.2.1").1, (1, 1));
}

#[test]
fn places_are_counted_exactly_by_many_threads() {
    const THREADS: usize = 8;
    const KEPT: usize = 50;
    let places: Arc<Places> = Arc::default();
    let barrier = Barrier::new(THREADS);
    // Each thread claims for clients of its own, and for clients that all threads share.
    let work = |thread: usize| {
        let mut random = Random(thread as u64);
        let mut own: HashMap<usize, Vec<Slot>> = HashMap::new();
        let mut shared = Vec::new();
        for _ in 0..5_000 {
            let client = random.index(20);
            let slots = own.entry(client).or_default();
            if random.below(2) == 0 {
                let (slot, all, same) = claim(&places, nth(1000 * (thread + 1) + client));
                slots.push(slot);
                assert!(all >= same && same == slots.len(), "{same} instead of {}", slots.len());
            } else {
                slots.pop();
            }
            let (slot, _, same) = claim(&places, nth(client));
            assert!((1..=THREADS * (KEPT + 1)).contains(&same), "{same}");
            shared.push(slot);
            shared.truncate(KEPT);
        }
        own.clear();
        shared.clear();
        barrier.wait();
        shared.extend((0..KEPT).map(|_| claim(&places, nth(0)).0));
        barrier.wait();
        shared
    };
    let kept: Vec<Slot> = scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let all = THREADS * KEPT;
    assert_eq!(kept.len(), all);
    let (slot, counted, same) = claim(&places, nth(0));
    assert_eq!((counted, same), (all + 1, all + 1));
    drop((slot, kept));
    let (_slot, counted, same) = claim(&places, nth(0));
    assert_eq!((counted, same), (1, 1));
}

#[test]
fn clients_that_have_left_take_no_memory() {
    if !is_alone() {
        return run_alone(&[], module_path!(), "clients_that_have_left_take_no_memory");
    }
    let resident = || -> usize {
        let status = read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let places = Arc::default();
    let _kept: Vec<_> = (0..1_000).map(|n| claim(&places, nth(n))).collect();
    let come_and_go = |clients: std::ops::Range<usize>| clients.for_each(|n| drop(claim(&places, nth(n))));
    come_and_go(1_000..10_000);
    let before = resident();
    come_and_go(10_000..400_000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB more"); // an entry of each would be 20 MiB
}

#[test]
fn a_client_that_comes_costs_the_same_however_many_there_are() {
    linear("clients that come and go while as many stay", 2_000, |n| {
        let places = Arc::default();
        let _kept: Vec<_> = (0..n).map(|n| claim(&places, nth(n))).collect();
        thread_time(|| (n..2 * n).for_each(|n| drop(claim(&places, nth(n)))))
    });
    // All others stay at one address.
    linear("clients that come and go while as many stay at one address", 2_000, |n| {
        let places = Arc::default();
        let _kept: Vec<_> = (0..n).map(|_| claim(&places, Ipv4Addr::BROADCAST)).collect();
        thread_time(|| (0..n).for_each(|n| drop(claim(&places, nth(n)))))
    });
}

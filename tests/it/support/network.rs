//! Clients with addresses of their own. They need a network of their own: a network namespace, with the addresses on
//! its loopback interface. A client that connects to such an address has that address itself.

use crate::support::harness::*;
use crate::support::process::{is_alone, run_alone};
use std::net::{IpAddr, TcpStream};
use std::process::Command;
use tincan::wire::reject::CONNECTIONS;

/// An address of each kind.
pub const ONE: &str = "10.9.0.1";
pub const OTHER: &str = "10.9.0.2";
/// These two are in one /64 network.
pub const ONE_V6: &str = "fd00:9:0:1::1";
pub const SAME_V6: &str = "fd00:9:0:1:ffff::2";
pub const OTHER_V6: &str = "fd00:9:0:2::1";

/// Gives these addresses to the loopback interface.
const SETUP: &str = "PATH=$PATH:/usr/sbin:/sbin && ip link set lo up && \
    for a in 10.9.0.1 10.9.0.2 fd00:9:0:1::1 fd00:9:0:1:ffff::2 fd00:9:0:2::1; do ip addr add $a dev lo || exit; done";

/// Returns whether this process has a network of its own, with the addresses. If it has none, the test runs again in a
/// process that has one. `module` is the `module_path!()` of the test.
///
/// If there can be no such network, the test is left out, unless `TINCAN_NAMESPACES` is set.
#[track_caller]
pub fn has_network(module: &str, test: &str) -> bool {
    if is_alone() {
        return true;
    }
    let works = |way: &&str| Command::new("sh").args(["-c", &format!("{way} sh -c '{SETUP}'")]).output();
    let works = |way: &&str| works(way).is_ok_and(|out| out.status.success());
    // A user who is not root makes a user namespace as well.
    let Some(way) = ["unshare --net", "unshare --net --map-root-user"].into_iter().find(works) else {
        let why = "there can be no network namespace, or no addresses in it (unshare, ip)";
        assert!(std::env::var_os("TINCAN_NAMESPACES").is_none(), "{why}");
        eprintln!("left out: {why}");
        return false;
    };
    let line = format!("{SETUP} && exec \"$0\" \"$@\"");
    let wrapper: Vec<&str> = way.split(' ').chain(["sh", "-c", &line]).collect();
    run_alone(&wrapper, module, test);
    false
}

/// Starts a server that listens on all addresses. It sees IPv4 clients at mapped addresses (`::ffff:10.9.0.1`).
pub fn everywhere(args: &[&str]) -> Tincan {
    Tincan::spawn("[::]:0", args)
}

/// Connects as the client with this address.
pub fn connect(server: &Tincan, address: &str) -> Wire {
    let stream = TcpStream::connect((address, server.port)).unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), address.parse::<IpAddr>().unwrap());
    Wire::over(stream)
}

/// Sends a request as the client with this address; returns the response.
pub fn ask(server: &Tincan, address: &str, request: &str) -> Response {
    let mut wire = connect(server, address);
    wire.send(request);
    wire.response()
}

/// Subscribes as the client with this address.
pub fn subscribe(server: &Tincan, address: &str) -> Result<Wire, Response> {
    let mut wire = connect(server, address);
    wire.send("GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = wire.head();
    if head.status != 200 {
        return Err(wire.body(head));
    }
    wire.block();
    Ok(wire)
}

/// Subscribes as the client with this address as often as it can; returns the subscribers.
pub fn subscribe_to_the_limit(server: &Tincan, address: &str) -> Vec<Wire> {
    let mut subscribers = Vec::new();
    loop {
        match subscribe(server, address) {
            Ok(subscriber) => subscribers.push(subscriber),
            Err(response) => {
                response.refused(CONNECTIONS);
                return subscribers;
            }
        }
    }
}

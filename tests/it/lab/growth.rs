//! The cost of taps.

use crate::support::growth::*;
use crate::support::harness::*;

#[test]
fn taps() {
    let server = Tincan::start(&["--quiet", "--max-channels", "100000"]);
    let mut count = 0;
    let mut requests = |n, request: &dyn Fn(usize) -> String| {
        count += n;
        (count - n..count).map(request).collect::<String>()
    };
    let health = |key: &str| format!("GET /health?tap={key} HTTP/1.1\r\nHost: a\r\n\r\n");
    linear("requests with one tap", 100, |n| {
        let requests = requests(n, &|_| health("one"));
        let mut wire = server.connect();
        spent(&server, || assert_eq!(pipelined(&mut wire, &requests, n).status, 200))
    });
    linear("taps", 100, |n| {
        let requests = requests(n, &|key| health(&key.to_string()));
        let mut wire = server.connect();
        spent(&server, || pipelined(&mut wire, &requests, n))
    });
}

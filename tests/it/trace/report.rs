//! How `--trace` writes its lines.

use crate::core::report::{greeting, start, write};
use crate::support::harness::*;

#[test]
fn the_lines_of_a_trace_come_a_piece_of_the_wire_in_one_write() {
    let (_server, writes) = start(0, &["--trace", "--quiet"]);
    let (port, greeting) = greeting(&writes);
    assert!(greeting.contains("trace: from here on"), "{greeting}");
    Wire::to(port).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let request = write(&writes);
    assert!(request.contains("GET /health HTTP/1.1") && request.contains("Host: localhost"), "{request}");
    let response = write(&writes);
    assert!(response.contains("HTTP/1.1 200 OK") && response.contains("X-Content-Type-Options: nosniff"), "{response}");
}

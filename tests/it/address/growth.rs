//! The cost of leaving out a subscriber.

use crate::core::growth::stalled;
use crate::support::growth::*;
use crate::support::harness::*;

#[test]
fn what_a_stalled_reader_is_to_pass_over() {
    let server = Tincan::start(&["--quiet", "--history", &roomy(), "--max-body", &roomy()]);
    let mut channels = 0;
    linear("events that leave out a stalled subscriber", 16, |n| {
        channels += 1;
        let channel = format!("/{channels}");
        let (_reader, prelude) = stalled(&server, &channel);
        let pair = post(&format!("{channel}?except={}", address_of(&prelude)), "b") + &post(&channel, "c");
        let mut wire = server.connect();
        spent(&server, || assert_eq!(pipelined(&mut wire, &pair.repeat(n), 2 * n).status, 200))
    });
}

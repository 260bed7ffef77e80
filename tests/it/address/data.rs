//! Events for one subscriber while the disk fails.

use crate::core::data::fails_while_nobody_reads;
use crate::support::harness::*;

#[test]
fn a_disk_that_fails_while_nobody_reads_the_terminal_does_not_hold_up_a_word_to_one() {
    let except = |prelude: &str| format!("?except={}", address_of(prelude));
    let to = |prelude: &str| Some(format!("?to={}", address_of(prelude)));
    fails_while_nobody_reads(except, to);
}

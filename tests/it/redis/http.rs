//! Refusals of this wing; see also `outage.rs`.

use crate::support::refusals::{covered, elsewhere};
use tincan::wings::redis::TABLES;
use tincan::wings::redis::node::{REDIS_AWAY, REDIS_LOST, REDIS_REFUSES};

#[test]
fn every_line_of_its_table_is_tested() {
    let tested_here: Vec<_> = Vec::new();
    covered(TABLES.refusals, &tested_here, &elsewhere!(REDIS_AWAY REDIS_REFUSES REDIS_LOST));
}

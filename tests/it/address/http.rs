//! Refusals of this wing.

use crate::core::http::*;
use crate::support::refusals::{covered, elsewhere};
use tincan::wings::address::{BEHIND, NOBODY, TABLES, TO_EXCEPT};
use tincan::wire::reject::{Reject, TARGET};

fn rows() -> Vec<(String, Reject)> {
    let to = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    vec![
        (to("POST /a?to=x"), NOBODY),
        (to("POST /a?except=x"), NOBODY),
        (to("POST /a?to="), NOBODY),
        (to(&format!("POST /a?to={}", "0".repeat(32))), NOBODY),
        (to(&format!("POST /a?to=%2B{}", "0".repeat(31))), NOBODY),
        (to("POST /a?to=0123456789abcde%C3%A9"), NOBODY),
        (to("POST /a?to=x&except=y"), TO_EXCEPT),
        (to("POST /a?to=%zz"), TARGET),
    ]
}

#[test]
fn what_is_refused_leaves_the_connection_open() {
    leaves_it_open(rows());
}

#[test]
fn its_answers_say_how_long_they_may_be_kept() {
    says_how_long_it_may_be_kept(&[], &[], rows());
}

#[test]
fn every_line_of_its_table_is_tested() {
    let tested_here: Vec<_> = rows().into_iter().map(|(_, reject)| reject).collect();
    covered(TABLES.refusals, &tested_here, &elsewhere!(BEHIND));
}

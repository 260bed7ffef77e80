//! Refusals of this wing, and the files of its pages.

use crate::core::http::*;
use crate::support::refusals::{covered, elsewhere};
use tincan::wings::lab::TABLES;
use tincan::wings::lab::taps::{TAP, TAPS};
use tincan::wire::reject::{NOT_FOUND, Reject};

fn rows() -> Vec<(String, Reject)> {
    let to = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    vec![(to("GET /lab/a%2Fb"), NOT_FOUND), (to("GET /a?tap=a+b"), TAP), (to("GET /a?tap="), TAP)]
}

#[test]
fn what_is_refused_leaves_the_connection_open() {
    leaves_it_open(rows());
}

#[test]
fn its_answers_say_how_long_they_may_be_kept() {
    says_how_long_it_may_be_kept(&["/lab/key?wait=0"], &["/lab"], rows());
}

#[test]
fn a_post_names_the_parameter_that_it_cannot_have() {
    names_the_parameter(&[("/lab/key?event=b", "event")]);
}

#[test]
fn its_pages_come_with_their_policy_and_types() {
    policy_and_types(&[
        ("/lab", "text/html; charset=utf-8"),
        ("/assets/lab.css", "text/css; charset=utf-8"),
        ("/assets/lab-words.js", "text/javascript; charset=utf-8"),
    ]);
}

#[test]
fn every_line_of_its_table_is_tested() {
    let tested_here: Vec<_> = rows().into_iter().map(|(_, reject)| reject).collect();
    covered(TABLES.refusals, &tested_here, &elsewhere!(TAPS));
}

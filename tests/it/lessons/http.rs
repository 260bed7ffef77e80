//! Refusals of this wing, and the files of its page.

use crate::core::http::*;
use crate::support::refusals::{covered, elsewhere};
use tincan::wings::lessons::{NO_LESSON, PLAYING, TABLES};
use tincan::wire::reject::{PAGE_METHOD, Reject, SLASH};

fn rows() -> Vec<(String, Reject)> {
    let to = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    vec![
        (to("GET /lessons/"), SLASH),
        (to("GET /lessons/nothing"), NO_LESSON),
        (to("GET /lessons/nothing.txt"), NO_LESSON),
        (to("GET /lessons/nothing.json"), NO_LESSON),
        (to("POST /lessons/nothing"), NO_LESSON),
        (to("POST /lessons"), PAGE_METHOD),
        (to("DELETE /lessons/fields"), PAGE_METHOD),
    ]
}

#[test]
fn what_is_refused_leaves_the_connection_open() {
    leaves_it_open(rows());
}

#[test]
fn its_answers_say_how_long_they_may_be_kept() {
    says_how_long_it_may_be_kept(
        &["/lessons/no-content"],
        &["/lessons", "/lessons/fields.txt", "/lessons/fields.json"],
        rows(),
    );
}

#[test]
fn its_pages_come_with_their_policy_and_types() {
    policy_and_types(&[
        ("/assets/lessons.css", "text/css; charset=utf-8"),
        ("/assets/lessons-words.js", "text/javascript; charset=utf-8"),
    ]);
}

#[test]
fn every_line_of_its_table_is_tested() {
    let tested_here: Vec<_> = rows().into_iter().map(|(_, reject)| reject).collect();
    covered(TABLES.refusals, &tested_here, &elsewhere!(PLAYING));
}

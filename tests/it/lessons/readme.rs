//! The manual of the lessons.

use crate::lessons::examined::DEVIATIONS;
use crate::support::commands::{commands, run};
use crate::support::documents::{document, text_block};
use crate::support::harness::*;
use std::time::Duration;
use tincan::wings::lessons::PLAYING;
use tincan::wings::lessons::script::{LESSONS, parse};

const MANUAL: &str = "src/wings/lessons/README.md";

/// Returns the texts in backticks in the part of the manual between two texts.
fn quoted(from: &str, to: &str) -> Vec<String> {
    let manual = document(MANUAL);
    let part = manual.split_once(from).unwrap().1.split_once(to).unwrap().0;
    part.split('`').skip(1).step_by(2).map(String::from).collect()
}

#[test]
fn its_commands_run() {
    run(&commands(MANUAL), &Tincan::start(&[]));
}

#[test]
fn it_names_each_lesson_in_its_order() {
    let names: Vec<_> = LESSONS.iter().map(|lesson| lesson.name).collect();
    assert_eq!(quoted("can be learned:", "Some lessons are"), names);
    assert_eq!(names.len(), 28);
    assert!(document(MANUAL).contains("\nTwenty-eight lessons "));
}

#[test]
fn what_it_says_of_a_lessons_file_is_so() {
    let retry = LESSONS.iter().find(|lesson| lesson.name == "retry").unwrap();
    assert_eq!(text_block(MANUAL, ": lesson: "), retry.text);
    let comments = quoted("| comment | effect |", "A word in braces");
    let words = quoted("| word | what is done |", "A pause is");
    assert_eq!((comments.len(), words.len()), (5, 9)); // one comment appears twice
    for line in comments.iter().filter(|line| !line.ends_with("ID:")).chain(&words) {
        assert!(parse(&format!("data: x\n\n{line}\n"), b"").is_ok(), "{line}");
    }
    for (pause, fits) in [("500 ms", true), ("100 ms", true), ("99 ms", false), ("5 s", true), ("5001 ms", false)] {
        assert_eq!(parse(&format!(": pace: {pause}\n"), b"").is_ok(), fits, "{pause}");
    }
}

#[test]
fn its_limits_are_those_of_the_program() {
    let manual = document(MANUAL);
    assert_eq!(PLAYING.rule, "tincan, 64 lessons at a time, 32 for one address");
    assert!(manual.contains("| 64, of which 32 to one address "));
    assert_eq!(parse("data: x\n", b"").unwrap().time, Duration::from_secs(10 * 60));
    assert!(manual.contains("| 10 minutes;"));
}

#[test]
fn it_names_each_deviation_of_a_browser() {
    let lessons: Vec<_> = DEVIATIONS.iter().map(|deviation| deviation.lesson).collect();
    assert_eq!(quoted("There are four deviations.", "## Limits"), lessons);
    assert_eq!(lessons.len(), 4);
}

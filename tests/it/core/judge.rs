//! The judge (`src/judge`): tincan holds every rule, a server that breaks one is told so, and none fools it.

use crate::support::documents::{document, quoted};
use crate::support::event_server::EventServer;
use crate::support::harness::*;
use crate::support::process::example;
use crate::support::wings::went_with_its_wing;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::scope;

/// The rules in the order in which they are printed.
const RULES: [&str; 34] = [
    "status",
    "media-type",
    "charset",
    "caching",
    "compression",
    "framing",
    "first-bytes",
    "utf-8",
    "line-ends",
    "fields",
    "blank-line",
    "nul-in-id",
    "retry",
    "heartbeat",
    "resume",
    "repeat",
    "slow-reader",
    "many",
    "head",
    "options",
    "lines",
    "lf",
    "crlf",
    "cr",
    "empty",
    "leading-space",
    "colon",
    "nul",
    "bom",
    "u2028",
    "large",
    "forged-id",
    "forged-event",
    "forged-field",
];
/// The first of these rules need no `--post`.
const WITHOUT_POST: usize = 20;
/// The rules that are advice if a server breaks them, for the standard leaves them open.
const ADVICE: [&str; 6] = ["compression", "first-bytes", "line-ends", "heartbeat", "resume", "bom"];

/// What the judge has printed.
struct Verdict {
    exit: i32,
    /// Of each line: the level, the rule, and the rest.
    lines: Vec<(String, String, String)>,
    summary: String,
    all: String,
}

impl Verdict {
    /// Returns the rules that are not ok, with their level.
    fn faults(&self) -> Vec<(&str, &str)> {
        let faults = self.lines.iter().filter(|line| line.0 != "ok");
        faults.map(|(level, rule, _)| (&**level, &**rule)).collect()
    }
}

fn judge(args: &[&str]) -> Output {
    Command::new(example("judge", "src/judge/main.rs")).args(args).output().unwrap()
}

/// Judges the event stream and the POST at a port. Checks the form of what is printed.
#[track_caller]
fn verdict(port: u16, args: &[&str]) -> Verdict {
    let url = format!("http://127.0.0.1:{port}/kitchen");
    let began = Stopwatch::start();
    let out = judge(&[&[&*url], args].concat());
    began.within("the judge", std::time::Duration::from_secs(60));
    let all = String::from_utf8(out.stdout).unwrap();
    let mut lines: Vec<&str> = all.lines().collect();
    let summary = lines.pop().unwrap_or_default().to_string();
    let lines: Vec<_> = lines
        .into_iter()
        .map(|line| {
            let (level, rest) = line.split_once(' ').unwrap();
            let (rule, rest) = rest.trim_start().split_once(' ').unwrap();
            assert!(["ok", "advice", "broken"].contains(&level) && rest.ends_with('.'), "{line}");
            assert!(
                rest.contains("  (WHATWG HTML, \"") || rest.contains("  (RFC 9") || rest.contains("  (no standard "),
                "{line}"
            );
            (level.to_string(), rule.to_string(), rest.trim_start().to_string())
        })
        .collect();
    let expected = if args.is_empty() { &RULES[..WITHOUT_POST] } else { &RULES };
    assert!(
        lines.iter().map(|line| &*line.1).eq(expected.iter().copied()),
        "{all}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let count = |level: &str| lines.iter().filter(|line| line.0 == level).count();
    let [ok, advice, broken] = ["ok", "advice", "broken"].map(count);
    assert_eq!(summary, format!("{} rules: {ok} ok, {advice} advice, {broken} broken", lines.len()));
    let exit = out.status.code().unwrap();
    assert_eq!(exit, i32::from(broken > 0), "{all}");
    Verdict { exit, lines, summary, all }
}

/// Judges with `--post` at the same URL.
#[track_caller]
fn verdict_with_post(port: u16) -> Verdict {
    verdict(port, &["--post", &format!("http://127.0.0.1:{port}/kitchen")])
}

/// Runs this for each of these, several at a time, since each run mostly waits.
fn for_each(faults: &[&'static str], run: impl Fn(&'static str) + Sync) {
    let rest = Mutex::new(faults.iter());
    scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(fault) = { rest.lock().unwrap().next() } {
                    run(fault);
                }
            });
        }
    });
}

#[test]
fn every_rule_is_held_by_tincan() {
    let server = Tincan::start(&["--heartbeat", "2"]);
    let verdict = verdict_with_post(server.port);
    assert_eq!((verdict.exit, verdict.faults()), (0, vec![]), "{}", verdict.all);
    assert_eq!(verdict.summary, "34 rules: 34 ok, 0 advice, 0 broken");
}

#[test]
fn the_seed_breaks_what_its_page_says() {
    if went_with_its_wing("static/lessons/seed.md") {
        return;
    }
    let mut command = Command::new(example("seed", "src/seed.rs"));
    command.arg("127.0.0.1:0");
    let seed = Tincan::run(command);
    let page = document("static/lessons/seed.md");
    let (_, said) = page.split_once("Of the seed it says:").unwrap();
    let (broken, advice) = said.split_once("- advice:").unwrap();
    let mut expected: Vec<_> = rules_in(broken, "broken").chain(rules_in(advice, "advice")).collect();
    expected.sort_by_key(|(_, name)| RULES.iter().position(|rule| rule == name));
    let verdict = verdict_with_post(seed.port);
    assert_eq!(verdict.faults(), expected, "{}", verdict.all);
}

/// Returns the rules that a text names in backticks, each with this level.
fn rules_in<'a>(text: &'a str, level: &'static str) -> impl Iterator<Item = (&'static str, &'a str)> {
    quoted(text).filter(|word| RULES.contains(word)).map(move |name| (level, name))
}

#[test]
fn its_manual_has_each_rule() {
    let manual = document("src/judge/README.md");
    let (_, table) = manual.split_once("| rule | a server holds it if | otherwise |").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let names = rows.iter().flat_map(|row| quoted(row.split(" | ").next().unwrap()));
    let mut names: Vec<&str> = names.collect();
    names.sort();
    let mut rules = RULES.to_vec();
    rules.sort();
    assert_eq!(names, rules);
    for row in rows {
        let otherwise = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let rule = quoted(row).next().unwrap();
        assert!(!ADVICE.contains(&rule) || otherwise.starts_with("advice"), "{row}");
        assert!(otherwise.starts_with("advice") || otherwise.starts_with("broken"), "{row}");
    }
}

#[test]
fn a_server_that_breaks_a_rule_is_told_so_and_of_no_other_rule() {
    for_each(&[&[""], &RULES[..]].concat(), |rule| {
        let server = EventServer::start(rule);
        let verdict = verdict_with_post(server.port);
        let level = if ADVICE.contains(&rule) { "advice" } else { "broken" };
        let expected = if rule.is_empty() { vec![] } else { vec![(level, rule)] };
        assert_eq!(verdict.faults(), expected, "{}", verdict.all);
    });
}

#[test]
fn no_server_fools_it() {
    let fools = ["only-sender", "late", "endless-head", "slow-head", "interim", "endless-stream", "endless-line"];
    for_each(&fools, |fault| {
        let server = EventServer::start(fault);
        let verdict = verdict_with_post(server.port);
        let faults = verdict.faults();
        let reason = match fault {
            "endless-head" | "slow-head" | "interim" => "framing",
            "endless-line" => "blank-line",
            _ => "lines",
        };
        assert!(faults.contains(&("broken", reason)), "{fault}: {}", verdict.all);
        // No rule of the texts is said to hold.
        let is_judged = |rule: &&'static str| faults.iter().any(|(_, name)| name == rule);
        assert!(RULES[WITHOUT_POST..].iter().all(is_judged), "{fault}: {}", verdict.all);
    });
}

#[test]
fn what_servers_do_wrong_in_other_ways_and_what_is_right_but_unusual() {
    let cases: [(&str, &[(&str, &str)]); 14] = [
        ("twice", &[("broken", "repeat")]),
        ("twice-at-return", &[("broken", "repeat")]),
        ("reverse-at-return", &[("advice", "resume")]),
        ("late-head", &[("broken", "first-bytes")]),
        ("second-response", &[("broken", "framing")]),
        ("charset-utf8", &[("broken", "charset")]),
        ("slow-before-others", &[("broken", "slow-reader")]),
        ("server-error", &[("broken", "cr")]),
        ("too-many-requests", &[("advice", "cr")]),
        ("bare-escapes", &[("broken", "lines"), ("broken", "lf"), ("broken", "crlf"), ("broken", "cr")]),
        ("json", &[]),
        ("decorated", &[]),
        ("crlf-lines", &[]),
        ("ends-now-and-then", &[]),
    ];
    for_each(&cases.map(|case| case.0), |fault| {
        let server = EventServer::start(fault);
        let verdict = verdict_with_post(server.port);
        let expected = cases.iter().find(|case| case.0 == fault).unwrap().1;
        assert_eq!(verdict.faults(), expected, "{fault}: {}", verdict.all);
    });
}

#[test]
fn an_event_that_waits_for_the_heartbeat_has_no_blank_line_of_its_own() {
    let server = EventServer::start("blank-line-at-heartbeat");
    let verdict = verdict_with_post(server.port);
    // Then several texts are one event, so that other rules are broken too.
    assert!(verdict.faults().contains(&("broken", "blank-line")), "{}", verdict.all);
}

#[test]
fn without_post_it_tests_what_the_stream_shows() {
    let server = Tincan::start(&["--heartbeat", "2"]);
    let verdict = verdict(server.port, &[]);
    let untested = ["resume", "repeat", "slow-reader"].map(|rule| ("advice", rule));
    assert_eq!((verdict.exit, verdict.faults()), (0, untested.to_vec()), "{}", verdict.all);
}

#[test]
fn it_does_not_come_back_to_a_stream_that_it_has_left() {
    let server = EventServer::start("");
    let verdict = verdict(server.port, &[]);
    assert_eq!(verdict.exit, 0, "{}", verdict.all);
    // The first stream, one that may be compressed, one to HTTP/1.0, and those of the rule `many`.
    assert_eq!(server.gets.load(SeqCst), 1 + 1 + 1 + 40);
}

#[test]
fn its_manual_says_its_limits() {
    let manual = document("src/judge/README.md");
    for (file, code, words) in [
        ("examine", "const SAID: Duration = Duration::from_secs(5);", "heard within five seconds"),
        ("examine", "const STUCK: Duration = Duration::from_secs(2);", "its blank line within 2 seconds"),
        ("responses", "const HEARTBEAT: Duration = Duration::from_secs(20);", "within 20 seconds"),
        ("stream", "const MAX_LINE: usize = 256 << 10;", "over 256 KiB"),
        ("stream", "const LONG_RETRY: u64 = 600_000;", "at most ten minutes"),
        ("publishing", "const MANY: usize = 40;", "40 more subscribers"),
        ("slow", "const UNREAD: usize = 8 << 20;", "publishes\nabout 8 MB"),
        ("slow", "const ENOUGH_UNREAD: usize = 6 << 20;", "less than 6 MB"),
        ("slow", "const MAX_LATE: usize = 2;", "three texts in a row"),
        ("slow", "const MAX_LATE_TIME: Duration = Duration::from_secs(6);", "6 seconds are lost"),
    ] {
        assert!(document(&format!("src/judge/{file}.rs")).contains(code), "{code}");
        assert!(manual.contains(words), "{words}");
    }
}

#[test]
fn wrong_usage_or_nobody_there_ends_it_with_2() {
    let free = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let nobody = format!("http://{free}/");
    let server = Tincan::start(&[]);
    let url = format!("http://127.0.0.1:{}/kitchen", server.port);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/", silent.local_addr().unwrap());
    for (args, why) in [
        (&[][..], "give the URL of an event stream"),
        (&["https://localhost/"], "begins with http://"),
        (&["http://local host/"], "the host is not valid"),
        (&["http://localhost:99999/"], "the port is no number"),
        (&[&url, &url], "give one URL"),
        (&[&url, "--past", &url], "there is no option --past"),
        (&[&url, "--post"], "--post needs a value"),
        (&[&url, "--body", "{}"], "--body needs --post"),
        (&[&url, "--post", &url, "--body", "text"], "{} must stand for the text"),
        (&[&url, "--post", &format!("http://127.0.0.1:{}/lessons", server.port)], "refuses a plain text with 4"),
        (&[&url, "--post", &nobody], "no response to a POST"),
        (&[&nobody], "nobody answers"),
        (&[&silent], "nobody answers"),
    ] {
        let out = judge(args);
        let message = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "{args:?}: {message}");
        let last = message.lines().last().unwrap();
        assert!(last.starts_with("judge: ") && last.contains(why), "{args:?}: {message}");
    }
    let help = judge(&["--help"]);
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("usage: judge URL"));
}

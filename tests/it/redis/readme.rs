//! The commands and the messages in this wing's manual.

use crate::core::cli::tincan;
use crate::redis::server::*;
use crate::support::documents::{blocks, document};
use crate::support::harness::*;
use crate::support::manual::{self, Listens};
use std::collections::BTreeSet;
use tincan::flags::parse;
use tincan::wings::redis::TABLES;

#[test]
fn the_commands_of_its_manual_do_what_it_shows() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&[]), redis.node(&[])];
    let at = |node: &Tincan| format!("localhost:{}", node.port);
    let ports = [
        ("localhost:8000", at(&nodes[0])),
        ("localhost:8001", at(&nodes[1])),
        ("-p 6379", format!("-p {}", redis.port)),
    ];
    let commands = manual::commands("redis", &ports);
    let mut listens = None;
    for command in &commands {
        let words: Vec<String> = command.split(' ').map(String::from).collect();
        match &*words[0] {
            "redis-server" => {} // it runs
            "tincan" => drop(parse(&words[1..], |_| None).unwrap_or_else(|why| panic!("{command}: {why}"))),
            "curl" if command.contains("-N") => {
                let started = Listens::start(command);
                started.until("\n\n");
                listens = Some(started);
            }
            _ => {
                let said = manual::run(command);
                assert!(!said.contains("ERR"), "{command}: {said}");
            }
        }
    }
    listens.unwrap().until("data: soup is still ready\n");
    assert_eq!(
        redis.entries("kitchen").iter().map(Entry::data).collect::<Vec<_>>(),
        ["soup is ready", "soup is still ready"]
    );
    // The last command creates a user. It is the user in the URL that the manual shows.
    let url = document(&manual::path("redis"));
    let url = url.split("TINCAN_REDIS=").nth(1).unwrap().split(' ').next().unwrap();
    is_well(&Tincan::start(&["--redis", &url.replace("10.0.0.5:6379", &format!("127.0.0.1:{}", redis.port))]));
}

/// Returns a node's messages about Redis, without the parts that differ each time.
fn news(node: &Tincan, key: &str) -> Vec<String> {
    let stderr = node.stderr();
    let lines = stderr.lines().filter_map(|line| line.strip_prefix("tincan: redis: ")?.split_once(": "));
    let general = |line: &str| match line.split_once(&format!("refuses {key}: ")) {
        Some((_, rest)) => format!("refuses tincan:NAME: …;{}", rest.split_once(';').unwrap().1),
        None => line.to_string(),
    };
    lines.map(|(_, line)| general(line)).collect()
}

#[test]
fn its_manual_has_the_lines_that_a_node_says() {
    let Some(mut redis) = Redis::start(&["--requirepass", "right"]) else { return };
    let at = format!("127.0.0.1:{}", redis.port);
    let urls = ["", ":wrong@", ":right@"].map(|login| format!("redis://{login}{at}"));
    let nodes = [&urls[0], &urls[1], &urls[2], &format!("{}/99", urls[2])].map(|url| Tincan::start(&["--redis", url]));
    is_well(&nodes[2]);
    let mut client = redis.client();
    client.ask(&["AUTH", "right"]);
    client.ask(&["SET", "tincan:bell", "x"]);
    assert_eq!(nodes[2].post_with("/bell", "", "x").status, 503);
    client.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    client.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(nodes[2].post_with("/kitchen", "", "x").status, 503);
    client.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    nodes[2].post("/kitchen", "x");
    eventually("the node reports it", || news(&nodes[2], "").last().unwrap() == "takes events again");
    for node in [&nodes[0], &nodes[1], &nodes[3]] {
        eventually("the reason is printed", || !news(node, "").is_empty());
    }
    let all: Vec<String> = nodes.iter().flat_map(|node| news(node, "tincan:bell")).collect();
    let manual = document(&manual::path("redis"));
    for line in &all {
        assert!(manual.contains(&format!("`{line}`")), "the manual does not have: {line}");
    }
    for word in ["connected", "(WRONGPASS)", "NOAUTH", "refuses database", "tincan:NAME", "OOM", "takes events again"] {
        assert!(all.iter().any(|line| line.contains(word)), "{word}: {all:?}");
    }
    redis.kill();
    eventually("Redis is away", || news(&nodes[2], "").last().unwrap().starts_with("away: "));
}

#[test]
fn its_manual_has_the_lines_that_refuse_a_start() {
    let shown = blocks(&manual::path("redis"), "text").into_iter().find(|block| block.starts_with("tincan: --redis: "));
    let refused: [&[&str]; 3] =
        [&["--redis", "rediss://h"], &["--redis", "h", "--data", "d"], &["--redis", "h", "--max-body", "513M"]];
    let refused = refused.map(|args| String::from_utf8(tincan(args).stderr).unwrap());
    assert_eq!(refused.concat(), shown.unwrap());
}

#[test]
fn its_manual_quotes_what_it_refuses_and_its_metrics() {
    manual::quotes("redis", TABLES.refusals);
    let (_held, nobody) = closed_address();
    manual::metrics("redis", &Tincan::start(&["--redis", &nobody.to_string()]), "tincan_redis");
}

/// The manual has each field of an entry that a node writes.
#[test]
fn its_manual_has_each_field_of_an_entry() {
    let Some(redis) = Redis::start(&[]) else { return };
    let node = redis.node(&[]);
    let except = if crate::support::wings::has("address") { "?except=0123456789abcdef0123456789abcdef" } else { "" };
    let fields = "Content-Type: text/event-stream\r\n";
    let body = "event: bell\nretry: 9\ndata: x\n\n";
    assert_eq!(node.post_with(&format!("/kitchen{except}"), fields, body).status, 200);
    let mut entries = redis.entries("kitchen");
    let mut reader = Reader::of(&node, "kitchen");
    redis.ask(&["DEL", "tincan:kitchen"]);
    node.post("/kitchen", "y");
    reader.hears_a_gap();
    eventually("the gap is an entry", || redis.entries("kitchen").iter().any(Entry::is_gap));
    let manual = document(&manual::path("redis"));
    let rows = manual.split("\n| field | ").nth(1).unwrap().split("\n\n").next().unwrap();
    entries.extend(redis.entries("kitchen"));
    let written: BTreeSet<&str> =
        entries.iter().flat_map(|entry| &entry.fields).map(|field| field.0.as_str()).collect();
    for name in &written {
        assert!(rows.contains(&format!("\n| `{name}` | ")), "no row for {name}");
    }
    let rows = rows.lines().skip(2).count();
    assert_eq!(rows, written.len() + usize::from(except.is_empty()), "{written:?}");
}

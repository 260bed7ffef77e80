//! The cost of Redis's replies, and of events through Redis.

use crate::redis::server::{Redis, Value};
use crate::support::growth::*;
use std::io::BufReader;
use tincan::wings::redis::resp;
use tincan::wings::redis::stream::Entry;

#[test]
fn replies_of_redis() {
    for (what, begin, element) in [
        ("numbers", "", ":1\r\n"),
        ("small strings", "", "$1\r\na\r\n"),
        ("empty arrays", "", "*0\r\n"),
        ("arrays within arrays", "*1\r\n*1\r\n*1\r\n", "*1\r\n*1\r\n*1\r\n:1\r\n"),
        ("errors", "", "-ERR\r\n"),
    ] {
        linear(what, 1000, |n| {
            let reply = format!("{begin}*{n}\r\n{}", element.repeat(n));
            thread_time(|| resp::read(&mut reply.as_bytes(), u64::MAX, 1 << 24).unwrap())
        });
    }
    linear("bytes of a string", 1 << 20, |n| {
        let reply = format!("${n}\r\n{}\r\n", "a".repeat(n));
        thread_time(|| resp::read(&mut BufReader::with_capacity(64, reply.as_bytes()), u64::MAX, 1 << 24).unwrap())
    });
    for field in ["$1\r\na\r\n$1\r\nb\r\n", "$4\r\ndata\r\n$1\r\nb\r\n", "$5\r\nevent\r\n$1\r\nb\r\n", ":1\r\n:1\r\n"] {
        linear("fields of an entry", 1000, |n| {
            let reply = format!("*2\r\n$3\r\n1-1\r\n*{}\r\n{}", 2 * n, field.repeat(n));
            let reply = resp::read(&mut reply.as_bytes(), u64::MAX, 1 << 24).unwrap();
            thread_time(|| assert!(Entry::read(&reply).is_some()))
        });
    }
}

#[test]
fn parts_of_a_reply_for_which_there_is_no_room() {
    for element in [":1\r\n", "$1\r\na\r\n", "*1\r\n$1\r\na\r\n"] {
        linear("parts that are dropped", 1000, |n| {
            let reply = format!("*1\r\n*{n}\r\n{}", element.repeat(n));
            thread_time(|| resp::read(&mut reply.as_bytes(), 1000, 2000).unwrap())
        });
    }
}

#[test]
fn events_through_redis() {
    let Some(redis) = Redis::start(&[]) else { return };
    let server = redis.node(&["--max-body", "1M", "--history", "16M"]);
    let (mut reader, _) = server.listen("/a", "");
    let mut hears = |id: &str| drop(reader.until(format!("id: {id}\n\n").as_bytes()));
    linear("events in one request through Redis", 2000, |n| {
        let request = stream("/a", &"data:\n\n".repeat(n));
        let mut wire = server.connect();
        spent(&server, || {
            wire.send(&request);
            let answer = wire.response();
            assert_eq!(answer.status, 200);
            hears(answer.text().lines().last().unwrap());
        })
    });
    let mut client = redis.client();
    linear("entries of another program", 2000, |n| {
        let add = ["XADD", "tincan:a", "*", "data", "b"];
        spent(&server, || {
            (0..n).for_each(|_| client.write(&add));
            let ids: Vec<Value> = (0..n).map(|_| client.read()).collect();
            hears(&ids.last().unwrap().clone().text());
        })
    });
}

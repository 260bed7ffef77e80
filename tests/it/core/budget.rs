//! The memory for logs and bodies (`--memory`): what gives way, what is refused, and what every client still learns.

use crate::support::follower::{Follower, body};
use crate::support::harness::*;
use crate::support::memory_group::MemoryGroup;
use crate::support::process::{shell, works};
use std::fs::read_to_string;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::scope;
use std::time::{Duration, Instant};
use tincan::log::positions::{Log, Since};
use tincan::system::memory::{Budget, Counted};
use tincan::wire::event::Event;
use tincan::wire::id::Id;
use tincan::wire::reject::{MEMORY, TOO_LARGE};

/// Returns the memory for logs and bodies that the server reports at its start.
fn reported(server: &Tincan) -> String {
    let stderr = server.stderr();
    let line = stderr.lines().find(|line| line.contains(" limits: ")).unwrap_or_else(|| panic!("{stderr}"));
    line.rsplit("; ").next().unwrap().into()
}

#[test]
fn the_start_says_how_much_memory_logs_and_bodies_may_take() {
    for (option, shown) in [("2M", "2 MiB"), ("1500K", "1500 KiB"), ("1", "1 KiB"), ("1G", "1024 MiB")] {
        let server = Tincan::start(&["--memory", option]);
        assert_eq!(reported(&server), format!("{shown} for logs in memory and bodies"));
    }
    // A quarter of the lowest limit.
    let server = shell("ulimit -v 131072; exec", &[]);
    assert_eq!(reported(&server), "32 MiB for logs in memory and bodies");
    let server = shell("ulimit -v 131072; exec", &["--memory", "48M"]);
    assert_eq!(reported(&server), "48 MiB for logs in memory and bodies");
    // All of the machine is the highest limit that there can be.
    let server = Tincan::start(&[]);
    let meminfo = read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()).unwrap();
    let shown = reported(&server);
    let number: u64 = shown.split(' ').next().unwrap().parse().unwrap();
    let unit = if shown.contains(" MiB ") { 1024 } else { 1 };
    assert!(number > 0 && number * unit <= total.parse::<u64>().unwrap() / 4, "{shown} of {total} KiB");
}

#[test]
fn a_quarter_of_the_memory_of_a_control_group_is_the_default() {
    let Some(group) = MemoryGroup::new(64 << 20) else { return };
    let serve = |args: &[&str]| {
        let mut command = group.command(env!("CARGO_BIN_EXE_tincan"));
        command.args(["--quiet", "--listen", "127.0.0.1:0"]).args(args);
        Tincan::run(command)
    };
    assert_eq!(reported(&serve(&[])), "16 MiB for logs in memory and bodies");
    assert_eq!(reported(&serve(&["--memory", "3M"])), "3 MiB for logs in memory and bodies");
}

/// Both versions of control groups (cgroups(7)), as files of the test: few machines let a test make groups of both.
#[test]
fn the_limits_of_all_groups_above_count_in_both_versions() {
    const MOUNT: &str = "mount -t tmpfs none /sys/fs/cgroup && mount --bind /proc/self/status /proc/$$/cgroup";
    if !works(&format!("unshare -rm sh -c '{MOUNT}'")) {
        return;
    }
    let scratch = Scratch::new();
    let own = scratch.0.join("cgroup");
    let start = |groups: &str, files: &[(&str, &str)]| {
        std::fs::write(&own, groups).unwrap();
        let mut script = MOUNT.replace("/proc/self/status", own.to_str().unwrap());
        for (file, limit) in files {
            script += &format!(" && F=/sys/fs/cgroup/{file} && mkdir -p \"${{F%/*}}\" && echo {limit} >\"$F\"");
        }
        reported(&shell(&format!("exec unshare -rm sh -c '{script} && exec \"$0\" \"$@\"'"), &[]))
    };
    let service = "0::/system.slice/tincan.service\n";
    let v1 = "5:devices:/\n4:memory:/docker/0123\n1:name=systemd:/docker/0123\n0::/docker/0123\n";
    for (groups, files, expected) in [
        (service, &[("system.slice/tincan.service/memory.max", "41943040")][..], "10 MiB"),
        (
            service,
            &[("system.slice/tincan.service/memory.max", "max"), ("system.slice/memory.max", "20971520")],
            "5 MiB",
        ),
        (
            service,
            &[("system.slice/tincan.service/memory.max", "4194304"), ("system.slice/memory.max", "max")],
            "1 MiB",
        ),
        ("0::/\n", &[("memory.max", "41943040")], "10 MiB"), // in a container with a namespace for groups
        (v1, &[("memory/docker/0123/memory.limit_in_bytes", "41943040")], "10 MiB"),
        (v1, &[("memory/docker/memory.limit_in_bytes", "8388608")], "2 MiB"),
        (v1, &[("memory/memory.limit_in_bytes", "41943040")], "10 MiB"), // in a container without one
        ("3:cpu,memory:/a\n", &[("cpu,memory/a/memory.limit_in_bytes", "41943040")], "10 MiB"),
    ] {
        assert_eq!(start(groups, files), format!("{expected} for logs in memory and bodies"), "{groups} {files:?}");
    }
}

/// Publishes an event of this size on a connection that stays open; returns its id.
fn say(wire: &mut Wire, channel: &str, size: usize) -> Id {
    let head = format!("POST /{channel} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n");
    wire.send(head + &body(channel, size));
    let response = wire.response();
    assert_eq!(response.status, 200, "{}", response.text());
    Id::parse(response.text().trim_end()).unwrap()
}

/// What a poll returns.
struct Poll {
    /// The id of the prelude.
    start: Id,
    /// The fields `asked`, `from` and `lost` of the gap, as they are.
    gap: Option<String>,
    /// The ids of the events.
    ids: Vec<Id>,
    /// The bytes of the events.
    size: usize,
}

/// Polls with a query, or with a field line.
fn poll(server: &Tincan, channel: &str, query: &str, field: &str) -> Poll {
    let response = server.ask(format!("GET /{channel}?wait=0{query} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"));
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    let (prelude, rest) = text.split_once("\n\n").unwrap();
    let rest = format!("{rest}\n\n");
    let (gap, events) = match rest.strip_prefix("event: gap\ndata: ").and_then(|rest| rest.split_once("\n\n")) {
        Some((gap, events)) => (Some(gap.into()), events.to_string()),
        None => (None, rest),
    };
    let ids = events.lines().filter_map(|line| Id::parse(line.strip_prefix("id: ")?)).collect();
    Poll { start: Id::parse(&id_of(prelude)).unwrap(), gap, ids, size: events.len() - 2 }
}

/// Asserts what a client hears that comes with this id, by each of the ways in which it can say so.
#[track_caller]
fn resumes(server: &Tincan, channel: &str, asked: Id, lost: u64, expected: &[Id]) {
    let ways = [
        (format!("&since={asked}"), String::new()),
        (format!("&lastEventId={asked}"), String::new()),
        (String::new(), format!("Last-Event-ID: {asked}\r\n")),
    ];
    for (query, field) in ways {
        let got = poll(server, channel, &query, &field);
        let from = expected.first().map_or("null".into(), |id| format!("\"{id}\""));
        let gap = (lost > 0).then(|| format!("{{\"asked\":\"{asked}\",\"from\":{from},\"lost\":{lost}}}"));
        assert_eq!((got.gap, &got.ids[..]), (gap, expected), "/{channel} after {asked}, {query} {field}");
        assert_eq!(got.start, asked.plus(lost), "/{channel} after {asked}, {query} {field}");
    }
}

#[test]
fn the_oldest_part_of_the_largest_log_gives_way_and_small_logs_stay_whole() {
    let server = Tincan::start(&["--quiet", "--memory", "2M"]);
    let mut wire = server.connect();
    let small: Vec<(String, Vec<Id>)> = (0..20)
        .map(|n| (format!("small{n}"), (0..10).map(|_| say(&mut wire, &format!("small{n}"), 1000)).collect()))
        .collect();
    let large: Vec<String> = (0..6).map(|n| format!("large{n}")).collect();
    let mut ids = vec![Vec::new(); large.len()];
    let mut random = Random(21);
    for _ in 0..150 {
        for (channel, ids) in large.iter().zip(&mut ids) {
            ids.push(say(&mut wire, channel, 1 + random.index(8000)));
        }
    }
    let mut sum = 0;
    for (channel, ids) in &small {
        let kept = poll(&server, channel, "&since=all", "");
        assert_eq!((&kept.ids, kept.gap), (ids, None), "/{channel} is whole");
        sum += kept.size;
    }
    let mut sizes = Vec::new();
    for (channel, ids) in large.iter().zip(&ids) {
        let kept = poll(&server, channel, "&since=all", "");
        assert!(!kept.ids.is_empty() && ids.ends_with(&kept.ids) && kept.gap.is_none(), "/{channel}: the newest stay");
        sizes.push(kept.size);
        // Each position: before the first event, among those that are lost, at the edge, and among those that are kept.
        let lost = ids.len() - kept.ids.len();
        assert!(lost > 0, "/{channel} has given way");
        let before = Id { seq: 0, ..ids[0] };
        for n in [0, 1, lost / 2, lost - 1, lost, lost + 1, ids.len() - 1, ids.len()] {
            let first = n.max(lost);
            resumes(&server, channel, before.plus(n as u64), (first - n) as u64, &ids[first..]);
        }
    }
    sum += sizes.iter().sum::<usize>();
    assert!(sum <= 2 << 20, "{sum} bytes are kept");
    assert!(sum > 3 << 19, "only {sum} bytes are kept");
    let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
    assert!(most - least < 64 << 10, "they are about equal: {sizes:?}");
}

#[test]
fn many_publishers_at_a_time_stay_within_the_budget() {
    let server = Tincan::start(&["--quiet", "--memory", "1M", "--max-channels", "100"]);
    let last: Vec<Vec<(String, Id)>> = scope(|scope| {
        let publishers: Vec<_> = (0..8)
            .map(|publisher| {
                let server = &server;
                scope.spawn(move || {
                    let mut random = Random(publisher);
                    let mut wire = server.connect();
                    let channel = |n: u64| format!("c{}", publisher * 12 + n % 12);
                    (0..600).map(|n| (channel(n), say(&mut wire, &channel(n), 1 + random.index(4000)))).collect()
                })
            })
            .collect();
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    });
    let mut sum = 0;
    for publisher in &last {
        for (channel, last) in &publisher[publisher.len() - 12..] {
            let kept = poll(&server, channel, "&since=all", "");
            assert_eq!(kept.start.plus(kept.ids.len() as u64), *last, "/{channel} ends with what was published last");
            sum += kept.size;
        }
    }
    assert!(sum <= 1 << 20, "{sum} bytes are kept");
    assert!(sum > 1 << 18, "only {sum} bytes are kept"); // publishers that find the logs over the budget may each drop a part
}

#[test]
fn a_log_that_has_given_way_as_a_whole_still_tells_exactly_what_is_lost() {
    let server = Tincan::start(&["--quiet", "--memory", "64K"]);
    let mut wire = server.connect();
    // Each event is a part of its log. The first one alone is the largest log, so nothing of it stays.
    let first = say(&mut wire, "a", 16_000);
    for n in 0..4 {
        say(&mut wire, &format!("b{n}"), 15_000);
    }
    let before = Id { seq: 0, ..first };
    let kept = poll(&server, "a", "&since=all", "");
    assert_eq!((kept.ids, kept.gap, kept.start), (vec![], None, first));
    resumes(&server, "a", before, 1, &[]);
    resumes(&server, "a", first, 0, &[]);
    let beyond = poll(&server, "a", &format!("&since={}", first.plus(1)), "");
    assert_eq!(beyond.ids, []);
    let text = format!("{{\"asked\":\"{}\",\"from\":null,\"lost\":null}}", first.plus(1));
    assert_eq!(beyond.gap, Some(text), "it asks for an id that was never given");

    // A subscriber that waits there hears the next event, whose id is new.
    let (mut reader, start) = server.listen("/a", &format!("Last-Event-ID: {first}\r\n"));
    assert_eq!(start, first.to_string());
    let second = say(&mut wire, "a", 10);
    assert_eq!(second, first.plus(1));
    reader.expect(format!("data: {}\nid: {second}\n\n", body("a", 10)));
    resumes(&server, "a", before, 1, &[second]);
    resumes(&server, "a", first, 0, &[second]);
    resumes(&server, "a", second, 0, &[]);
}

#[test]
fn subscribers_hear_everything_or_a_gap_while_logs_give_way() {
    let server = Tincan::start(&["--quiet", "--memory", "128K"]);
    let channels: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    let over = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let met = scope(|scope| {
        let _end = AtEnd(&over);
        let followers: Vec<_> = (0..18)
            .map(|n| {
                let (server, channels, over, count) = (&server, &channels, &over, &count);
                scope.spawn(move || {
                    let mut follower = Follower::new(server.port, &channels[n % channels.len()]);
                    // A third of them stays. The others leave, and come back when much was published.
                    while !over.load(SeqCst) {
                        follower.follow(Instant::now() + Duration::from_millis(100), None).unwrap();
                        let left = count.load(SeqCst);
                        while n >= channels.len() && count.load(SeqCst) < left + 500 && !over.load(SeqCst) {
                            follower.leave();
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    follower
                })
            })
            .collect();
        eventually("all are there", || channels.iter().all(|channel| server.readers(channel) > 0));
        let publishers: Vec<_> = (0..6)
            .map(|n| {
                let (server, channels, count) = (&server, &channels, &count);
                scope.spawn(move || {
                    let mut random = Random(n);
                    let mut wire = server.connect();
                    for _ in 0..500 {
                        count.fetch_add(1, SeqCst);
                        let channel = &channels[random.index(channels.len())];
                        let most = if random.index(4) == 0 { 8000 } else { 200 };
                        say(&mut wire, channel, 1 + random.index(most));
                    }
                })
            })
            .collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        over.store(true, SeqCst);
        let mut followers: Vec<Follower> = followers.into_iter().map(|follower| follower.join().unwrap()).collect();
        for follower in &mut followers {
            let last = poll(&server, &follower.channel, "", "").start;
            assert!(follower.follow(Instant::now() + SOON, Some(last)).unwrap(), "it never comes to {last}");
        }
        followers.into_iter().map(|follower| follower.met).collect::<Vec<_>>()
    });
    let gaps: u64 = met.iter().map(|met| met.gaps).sum();
    let events: u64 = met.iter().map(|met| met.events).sum();
    assert!(events > 3000 && gaps >= 12, "{events} events and {gaps} gaps");
}

/// Begins a POST with a body of this length, and sends a part of it.
fn unfinished(server: &Tincan, channel: &str, framing: &str, sent: &[u8]) -> Wire {
    let mut wire = server.connect();
    wire.send(format!("POST /{channel} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"));
    let _ = wire.stream.write_all(sent); // it may be refused at once
    wire
}

/// Asserts that a response is the refusal of a body for which there is no memory now.
#[track_caller]
fn is_refused(response: &Response) {
    assert_eq!((response.status, response.text()), (503, MEMORY.line()));
    assert!(response.field("retry-after").is_some(), "{}", response.head);
}

/// Begins bodies until a large one finds no room. Returns them.
fn fill(server: &Tincan, framing: &str, sent: &[u8]) -> Vec<Wire> {
    let refuses = || {
        let response = server.post_with("/large", "", body("large", 60_000));
        if response.status == 503 {
            is_refused(&response);
        }
        response.status == 503
    };
    let mut held = Vec::new();
    eventually("a large body is refused", || {
        held.push(unfinished(server, "held", framing, sent));
        // While it is being read, the last one may take the room, and be refused itself.
        refuses() && {
            server.rests();
            refuses()
        }
    });
    held
}

#[test]
fn unfinished_bodies_refuse_large_ones_and_let_small_ones_and_gets_through() {
    let server = Tincan::start(&["--quiet", "--memory", "1M"]);
    let chunk = [b"f000\r\n", body("held", 0xf000).as_bytes()].concat();
    let half_a_chunk = [b"ffff\r\n", body("held", 0xf000).as_bytes()].concat();
    let (reader, _) = server.listen("/small", "");
    let mut reader = reader;
    for (framing, sent) in [
        ("Content-Length: 65000", body("held", 60_000).into_bytes()),
        ("Transfer-Encoding: chunked", chunk),
        ("Transfer-Encoding: chunked", half_a_chunk),
    ] {
        let held = fill(&server, framing, &sent);
        for n in 0..20 {
            let text = format!("{n} {framing}");
            let id = server.post("/small", &text);
            reader.expect(format!("data: {text}\nid: {}\n\n", id[0]));
        }
        let kept = server.get("/small?wait=0&since=all");
        assert_eq!(kept.status, 200);
        assert_eq!(server.get("/health").text(), "ok\n");
        assert!(server.get("/").text().contains("<html"));
        assert!(server.metric("tincan_connections").unwrap() > 0);
        // A GET with a body is a GET.
        let fields = "Content-Length: 3\r\n\r\nabc";
        assert_eq!(server.ask(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{fields}")).status, 200);
        drop(server.listen("/small", ""));
        // A client that waits for 100 Continue gets the refusal before its body, or after it.
        let mut wire = unfinished(&server, "large", "Content-Length: 60000\r\nExpect: 100-continue", b"");
        let mut response = wire.head();
        if response.status == 100 {
            wire.send(body("large", 60_000));
            response = wire.head();
        }
        is_refused(&wire.body(response));

        drop(held);
        eventually("a large body is taken", || server.post_with("/large", "", body("large", 60_000)).status == 200);
        let mut wire = unfinished(&server, "large", "Content-Length: 60000\r\nExpect: 100-continue", b"");
        wire.expect("HTTP/1.1 100 Continue\r\n\r\n");
        wire.send(body("large", 60_000));
        assert_eq!(wire.response().status, 200);
    }
}

#[test]
fn bodies_that_found_room_are_published_however_many_are_refused() {
    let server = Tincan::start(&["--quiet", "--memory", "1M"]);
    let text = body("held", 60_000);
    let mut held: Vec<Wire> =
        (0..24).map(|_| unfinished(&server, "held", "Content-Length: 60000", &text.as_bytes()[..50_000])).collect();
    server.rests(); // it has read all of them before one ends
    let mut answered = Vec::new();
    for wire in &mut held {
        let _ = wire.stream.write_all(&text.as_bytes()[50_000..]);
        let response = wire.response();
        match response.status {
            200 => answered.push(Id::parse(response.text().trim_end()).unwrap()),
            _ => is_refused(&response),
        }
    }
    assert!(!answered.is_empty() && answered.len() < held.len(), "{} of {}", answered.len(), held.len());
    answered.sort();
    let kept = poll(&server, "held", "&since=all", "");
    let first = Id { seq: 1, ..answered[0] };
    let all: Vec<Id> = (0..answered.len() as u64).map(|n| first.plus(n)).collect();
    assert_eq!(answered, all, "those that are answered are published, and no others");
    assert!(all.ends_with(&kept.ids), "{:?}", kept.ids);
}

#[test]
fn a_body_may_be_a_quarter_of_the_budget_and_no_more() {
    let server = Tincan::start(&["--quiet", "--memory", "128K"]);
    let most = 32 << 10;
    let mut random = Random(4);
    // Each body is alone, so there is room for it, however its bytes arrive.
    for length in [most, most - 1, most - 100, 3 * most / 4, most / 2 + 1, 20_000, 17_000, 9000] {
        let text = body("a", length);
        let mut pieces = Vec::new();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(1 + random.index(9000)));
            pieces.push(piece);
            rest = more;
        }
        let whole = server.post_with("/a", "", &text);
        assert_eq!(whole.status, 200, "{length} bytes: {}", whole.text());
        let mut wire = unfinished(&server, "a", &format!("Content-Length: {length}"), b"");
        for piece in &pieces {
            wire.send(piece);
            server.rests();
        }
        let response = wire.response();
        assert_eq!(response.status, 200, "{length} bytes in {} pieces: {}", pieces.len(), response.text());
        let mut wire = unfinished(&server, "a", "Transfer-Encoding: chunked", b"");
        for piece in &pieces {
            wire.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        }
        wire.send("0\r\n\r\n");
        let response = wire.response();
        assert_eq!(response.status, 200, "{length} bytes in {} chunks: {}", pieces.len(), response.text());
        let kept = server.get("/a?wait=0&since=all").text();
        assert!(kept.contains(&format!("data: {text}\n")), "{length} bytes are kept");
    }
    let too_large = [
        format!("Content-Length: {}", most + 1),
        "Content-Length: 65536".into(),
        format!("Content-Length: {}\r\nExpect: 100-continue", most + 1),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}", most + 1),
    ];
    for framing in too_large {
        let response = unfinished(&server, "a", &framing, b"").response();
        assert_eq!((response.status, response.text()), (413, TOO_LARGE.line()), "{framing}");
    }
    // With memory enough, --max-body is the limit.
    let server = Tincan::start(&["--quiet", "--memory", "128K", "--max-body", "1000"]);
    assert_eq!(server.post_with("/a", "", body("a", 1001)).status, 413);
    assert_eq!(server.post_with("/a", "", body("a", 1000)).status, 200);
}

#[test]
fn logs_in_files_do_not_count() {
    let scratch = Scratch::new();
    let server = Tincan::start(&["--quiet", "--memory", "256K", "--data", scratch.arg()]);
    let mut wire = server.connect();
    let channels: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
    let (mut reader, _) = server.listen("/c0", "");
    let mut first = String::new();
    for n in 0..10 {
        for channel in &channels {
            let id = say(&mut wire, channel, 8000);
            assert_eq!(id.seq, n + 1);
            if channel == "c0" {
                first += &format!("data: {}\nid: {id}\n\n", body(channel, 8000));
            }
        }
    }
    reader.expect(&first);
    for channel in &channels {
        let kept = poll(&server, channel, "&since=all", "");
        assert_eq!((kept.ids.len(), kept.size), (10, kept.size.max(80_000)), "/{channel}");
        resumes(&server, channel, kept.start, 0, &kept.ids);
    }
    // Bodies do count.
    assert_eq!(server.post_with("/c0", "", body("c0", (64 << 10) + 1)).status, 413);
}

#[test]
fn a_counter_is_part_of_the_sum_until_it_is_dropped() {
    let budget = Budget { max: 1000, ..Budget::default() };
    let sum = || (budget.logs.load(SeqCst), budget.bodies.load(SeqCst));
    let log = Counted::new(&budget.logs);
    let other = Counted::new(&budget.logs);
    let small = Counted::new(&budget.bodies);
    assert!(!budget.is_over() && budget.has_room(small.bytes()));
    log.set(600);
    other.set(100);
    log.set(500);
    assert_eq!((log.bytes(), other.bytes(), sum()), (500, 100, (600, 0)));
    // The budget is full, not over.
    small.set(400);
    assert!(!budget.is_over());
    small.set(401);
    assert!(budget.is_over());
    drop(other);
    assert!(!budget.is_over());
    assert_eq!(sum(), (500, 401));

    // A body has to leave as much of half of the budget as it takes.
    small.set(250);
    assert!(budget.has_room(small.bytes()));
    small.set(251);
    assert!(!budget.has_room(small.bytes()));
    small.set(300);
    let tiny = Counted::new(&budget.bodies);
    for (bytes, has_room) in [(0, true), (1, true), (100, true), (101, false), (500, false)] {
        tiny.set(bytes);
        assert_eq!(budget.has_room(tiny.bytes()), has_room, "{bytes}");
    }
    // One that takes nothing has room even if all is taken.
    small.set(5000);
    tiny.set(0);
    assert!(budget.has_room(tiny.bytes()));
    drop((log, small, tiny));
    assert_eq!(sum(), (0, 0));
}

#[test]
fn counters_of_many_threads_add_up() {
    let budget = Budget { max: 1000, ..Budget::default() };
    scope(|scope| {
        for thread in 0..8 {
            let sum = &budget.bodies;
            scope.spawn(move || {
                let mut random = Random(thread);
                for _ in 0..200 {
                    let counter = Counted::new(sum);
                    for _ in 0..10 {
                        let bytes = random.index(5000);
                        counter.set(bytes);
                        assert!(sum.load(SeqCst) >= bytes, "the sum is never less than one of its parts");
                    }
                }
            });
        }
    });
    assert_eq!(budget.bodies.load(SeqCst), 0);
}

/// The events that were ever appended to a log: id, position, length.
type Model = Vec<(Id, u64, u64)>;

/// Appends an event with data of this size as a channel does.
fn append(log: &mut Log, model: &mut Model, size: usize, has_subscribers: bool) {
    let tail = log.tail();
    let id = tail.written.id.plus(1);
    let mut unit = Vec::new();
    Event::new("x".repeat(size)).write(Some(id), &mut unit);
    log.commit(&unit, id, None, has_subscribers);
    log.set_heard(log.tail().written);
    model.push((id, tail.written.pos, unit.len() as u64));
}

/// Asserts that a log keeps the newest events of the model, and knows exactly which those are.
fn keeps_the_newest(log: &Log, model: &Model, random: &mut Random) {
    let first = model.iter().position(|(_, pos, _)| *pos >= log.start()).unwrap_or(model.len());
    let kept = &model[first..];
    let before = |n: usize| n.checked_sub(1).map_or(Id { epoch: 7, seq: 0 }, |n| model[n].0);
    assert_eq!(log.kept_after(), before(first));
    assert_eq!(log.start(), kept.first().map_or(log.written.pos, |event| event.1));
    let all = log.find_start(&Since::All).unwrap();
    assert_eq!((all.pos, all.id, all.gap), (log.start(), before(first), None));
    // Every byte that can be read is counted, also of dropped parts that stay readable.
    let mut piece = Vec::new();
    let readable: u64 = model.iter().filter(|event| log.read(event.1, &mut piece).is_ok()).map(|event| event.2).sum();
    let bytes: u64 = kept.iter().map(|event| event.2).sum();
    assert!(readable >= bytes && log.memory() as u64 >= readable, "{} for {readable} of {bytes}", log.memory());
    for n in [0, random.index(model.len() + 1), first, model.len()] {
        let asked = before(n);
        let found = log.find_start(&Since::After(asked.to_string())).unwrap();
        let next = n.max(first);
        assert_eq!(found.pos, model.get(next).map_or(log.written.pos, |event| event.1), "after {asked}");
        assert_eq!(found.id, before(next));
        let gap = found.gap.map(|gap| (gap.from, gap.lost));
        let expected = (n < first).then(|| (model.get(first).map(|event| event.0), Some((first - n) as u64)));
        assert_eq!(gap, expected, "after {asked}");
    }
}

#[test]
fn a_log_that_gives_way_at_any_time_keeps_its_positions_and_knows_its_gaps() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut log = Log::new(7, 4096 << random.index(5));
        log = log.within([usize::MAX, 1 << 20, 64 << 10, 1000, 0][random.index(5)]);
        assert_eq!(log.memory(), 0);
        let mut model = Model::new();
        let mut whole = 0;
        for _ in 0..400 {
            match random.index(12) {
                0 | 1 => {
                    let (memory, start) = (log.memory(), log.start());
                    log.give_way();
                    if log.start() == start {
                        log.give_way(); // its oldest part was empty
                    }
                    assert!(log.start() > start || start == log.written.pos, "something gives way");
                    assert!(log.memory() < memory || memory == 0, "{} after {memory}", log.memory());
                }
                2 if random.index(6) == 0 => {
                    // It gives way as a whole within a limited number of steps.
                    let mut steps = 0;
                    while log.memory() > 0 {
                        log.give_way();
                        steps += 1;
                    }
                    assert!(steps <= model.len(), "{steps}");
                    assert_eq!(log.start(), log.written.pos);
                    whole += 1;
                }
                3 => {
                    let positions = (0..random.index(4)).map(|_| random.below(log.written.pos + 1)).collect();
                    log.hold_parts(positions);
                }
                _ => {
                    let most = if random.index(20) == 0 { 6000 } else { 90 };
                    let size = random.index(most);
                    let has_subscribers = random.index(3) > 0;
                    append(&mut log, &mut model, size, has_subscribers);
                }
            }
            keeps_the_newest(&log, &model, &mut random);
        }
        assert!(whole > 0 || seed > 0);
    }
}

#[test]
fn many_events_in_one_body_count_more_than_its_bytes() {
    let server = Tincan::start(&["--quiet", "--memory", "2M"]);
    // 5,000 events of 6 bytes would take a megabyte while they are published.
    let events = |number: usize| "data\n\n".repeat(number);
    let stream = "Content-Type: text/event-stream\r\n";
    assert_eq!(server.post_with("/a", stream, events(2000)).status, 200);
    server.post_with("/a", stream, events(5000)).refused(MEMORY);
    assert_eq!(server.post("/a", events(5000)).len(), 1, "text is one event");
}

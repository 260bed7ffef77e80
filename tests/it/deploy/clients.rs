//! Clients that people use: libraries of Python, Perl and node, curl and two browsers. Each is tested directly and
//! behind each proxy.
//!
//! Clients that are not installed are left out. `TINCAN_CLIENTS` is the path of a Python that has the packages of
//! `clients.txt`. If it is set, all clients must be there; without it no library of Python is tested.

use crate::deploy::proxies::Proxy;
use crate::support::harness::*;
use crate::support::reporting::{BROWSERS, Program, file, is_installed, keyed, python, works};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The longest time until an event is received, on a machine that has nothing else to do.
const AT_ONCE: Duration = Duration::from_millis(50);
/// The number of rounds in which a client may succeed.
const ROUNDS: usize = 5;
const EVENTS: usize = 20;
type Clients = &'static [&'static str];

/// The programs, and the clients in each of them.
const PROGRAMS: [(&str, Clients); 6] = [
    ("python", &["requests.iter_lines", "requests.iter_content", "requests-sse", "sseclient-py", "urllib3.stream"]),
    ("perl", &["HTTP::Tiny"]),
    ("node", &["fetch", "http"]),
    ("curl", &["--http1.1", "--http1.0"]),
    ("chromium", &["EventSource", "fetch"]),
    ("firefox", &["EventSource", "fetch"]),
];

/// Returns the programs that are installed, with everything that their clients need.
fn programs() -> Vec<(&'static str, Clients)> {
    let is_there = |program: &str| match program {
        "python" => python().is_some_and(|python| works(&python, &["-c", "import requests_sse, sseclient"])),
        "perl" => works("perl", &["-MHTTP::Tiny", "-e", "1"]),
        browser if BROWSERS.contains(&browser) => is_installed(browser),
        _ => works(program, &["--version"]),
    };
    let kept = PROGRAMS.into_iter().filter(|(program, _)| {
        let is_there = is_there(program);
        if !is_there {
            let why = format!("left out: {program}, or what its clients need, is not installed");
            assert!(python().is_none(), "{why}");
            eprintln!("{why}");
        }
        is_there
    });
    kept.collect()
}

/// A way to a server.
struct Way {
    name: &'static str,
    port: u16,
}

type Edits = &'static [(&'static str, &'static str)];

/// The proxies, with the edits of their configuration.
const PROXIES: [(&str, &str, Edits); 4] = [
    ("behind nginx", "nginx", &[]),
    // nginx speaks HTTP/1.0 to the server if its configuration lacks this line.
    ("behind nginx with HTTP/1.0", "nginx", &[("proxy_http_version 1.1;", "proxy_http_version 1.0;")]),
    ("behind haproxy", "haproxy", &[]),
    // Caddy only serves the names of its sites.
    ("behind caddy", "caddy", &[("http://chat.example.org:", "http://127.0.0.1:")]),
];

/// Returns the ways to a server: direct, and through each proxy that is installed.
fn ways(server: &Tincan) -> (Vec<Way>, Vec<Proxy>) {
    let mut ways = vec![Way { name: "direct", port: server.port }];
    let mut proxies = Vec::new();
    for (name, proxy, edits) in PROXIES {
        if let Some(started) = Proxy::start(proxy, server.port, edits) {
            ways.push(Way { name, port: started.port });
            proxies.push(started);
        }
    }
    (ways, proxies)
}

/// The task of a client.
struct Task {
    program: &'static str,
    client: &'static str,
    way: &'static str,
    channel: String,
    url: String,
}

/// Returns a task for each installed client on each way. Each task has a channel of its own, whose name begins with
/// `prefix`.
fn tasks(programs: &[(&'static str, Clients)], ways: &[Way], prefix: &str, query: &str) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (program, clients) in programs {
        for client in *clients {
            for way in ways {
                let channel = format!("/{prefix}{program}{}", tasks.len());
                let url = format!("http://127.0.0.1:{}{channel}{query}", way.port);
                tasks.push(Task { program, client, way: way.name, channel, url });
            }
        }
    }
    tasks
}

/// A client that listens.
struct Client {
    task: Task,
    lines: Receiver<(Instant, String)>,
}

impl Client {
    fn name(&self) -> String {
        format!("{} {} {}", self.task.program, self.task.client, self.task.way)
    }

    /// Returns whether the client reconnects by itself, as an EventSource does.
    fn comes_back(&self) -> bool {
        ["EventSource", "requests-sse"].contains(&self.task.client)
    }

    /// Returns whether this line reports a regular end. An EventSource makes no difference between ends.
    fn ended(&self, line: &str) -> bool {
        line == if self.comes_back() { "= gone" } else { "= end" } || line.starts_with("= 0 ")
    }

    /// Waits for the next line about an event or about the connection.
    fn next_line(&self, deadline: Instant) -> Option<(Instant, String)> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, _)) if at > deadline => return None, // it prints much, but not this
                Ok((at, line)) if line.starts_with("data: ") || line.starts_with("= ") => return Some((at, line)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("{} has ended", self.name()),
            }
        }
    }

    /// Waits for such a line, and fails if there is none.
    fn must_print(&self) -> String {
        let line = self.next_line(Instant::now() + 2 * SOON);
        line.unwrap_or_else(|| panic!("{} prints nothing", self.name())).1
    }

    /// Publishes an event; returns how long it takes until the client receives it.
    fn receives(&self, server: &Tincan, data: &str) -> Duration {
        let stopwatch = Stopwatch::start();
        let began = Instant::now();
        server.post(&self.task.channel, data);
        let (at, line) =
            self.next_line(began + SOON).unwrap_or_else(|| panic!("{} does not receive the event", self.name()));
        assert_eq!(line, format!("data: {data}"), "{}", self.name());
        let took = at - began;
        if took > AT_ONCE {
            stopwatch.within(&self.name(), 20 * AT_ONCE);
        }
        took
    }
}

/// Runs a program for the clients with these keys. Their lines go to the senders.
fn run(name: &str, tasks: &[(usize, &Task)], senders: &[Sender<(Instant, String)>]) -> Program {
    let words = tasks.iter().flat_map(|(key, task)| [key.to_string(), task.client.into(), task.url.clone()]);
    let words: Vec<String> = words.collect();
    let url = &tasks[0].1.url;
    let (senders, key) = (senders.to_vec(), tasks[0].0);
    let send = move |key: usize, at, line: &str| drop(senders[key].send((at, line.into())));
    if BROWSERS.contains(&name) {
        return Program::browser(name, &words, send);
    }
    let mut command = Command::new(if name == "python" { python().unwrap() } else { name.into() });
    match name {
        "python" => command.arg(file("clients.py")).args(words),
        "perl" => command.arg(file("clients.pl")).arg(url),
        "node" => command.arg(file("clients.js")).args(words),
        _ => command.args(["-sN", tasks[0].1.client, "--write-out", "\n= %{exitcode} %{errormsg}\n", url]),
    };
    match name {
        "perl" | "curl" => Program::start(command, move |at, line| send(key, at, line)),
        _ => Program::start(command, keyed(send)),
    }
}

/// Starts the clients. Perl and curl have one process for each client.
fn start(tasks: Vec<Task>) -> (Vec<Client>, Vec<Program>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = tasks.iter().map(|_| channel()).unzip();
    let mut programs = Vec::new();
    for (name, _) in PROGRAMS {
        let tasks_of_program: Vec<(usize, &Task)> =
            tasks.iter().enumerate().filter(|(_, task)| task.program == name).collect();
        let size = if name == "perl" || name == "curl" { 1 } else { tasks_of_program.len().max(1) };
        programs.extend(tasks_of_program.chunks(size).map(|part| run(name, part, &senders)));
    }
    (tasks.into_iter().zip(receivers).map(|(task, lines)| Client { task, lines }).collect(), programs)
}

/// Waits until each client has its connection. Browsers take long to start.
fn all_listen(server: &Tincan, clients: &[&Client]) {
    let began = Instant::now();
    loop {
        let metrics = server.get("/metrics").text();
        let listens = |client: &&&Client| {
            metrics.contains(&format!("tincan_subscribers{{channel=\"{}\"}} 1\n", &client.task.channel[1..]))
        };
        let missing: Vec<String> = clients.iter().filter(|client| !listens(client)).map(|c| c.name()).collect();
        if missing.is_empty() {
            return;
        }
        assert!(began.elapsed() < 3 * SOON, "these clients do not listen: {missing:#?}");
        look_again(began);
    }
}

/// How long a client takes to receive each event of a round.
struct Try<'a> {
    client: &'a Client,
    delays: [Duration; EVENTS],
    /// The shortest delay of each event in all rounds.
    best: [Duration; EVENTS],
    median: Duration,
    report: String,
}

impl Try<'_> {
    fn new(client: &Client) -> Try<'_> {
        let never = [Duration::MAX; EVENTS];
        Try { client, delays: never, best: never, median: Duration::MAX, report: String::new() }
    }

    /// Evaluates a round.
    fn count(&mut self) {
        self.best.iter_mut().zip(self.delays).for_each(|(best, delay)| *best = delay.min(*best));
        self.delays.sort();
        self.median = self.median.min(self.delays[EVENTS / 2]);
        let (median, most) = (self.delays[EVENTS / 2], self.delays[EVENTS - 1]);
        self.report = format!("{}: median {median:.1?}, at most {most:.1?}", self.client.name());
        eprintln!("{}", self.report);
    }

    /// Returns whether it was in time: the median of its best round, and each event in some round.
    fn is_good(&self) -> bool {
        self.median < AT_ONCE && self.best.iter().all(|delay| *delay < AT_ONCE)
    }
}

/// Each event is published once the one before was received, and no ping comes that fast. So nothing pushes an event
/// out of a buffer that waits until it is full.
#[test]
fn each_client_hears_each_event_at_once_direct_and_behind_each_proxy() {
    let server = Tincan::start(&["--quiet", "--heartbeat", "15", "--allow-origin", "*"]);
    let (ways, _proxies) = ways(&server);
    let (clients, _programs) = start(tasks(&programs(), &ways, "", ""));
    let clients: Vec<&Client> = clients.iter().collect();
    all_listen(&server, &clients);
    clients.iter().for_each(|client| drop(server.post(&client.task.channel, "the first")));
    let deadline = Instant::now() + SOON;
    let receives = |client: &Client| client.next_line(deadline).is_some_and(|(_, line)| line == "data: the first");
    let deaf: Vec<String> = clients.iter().filter(|client| !receives(client)).map(|client| client.name()).collect();
    assert!(deaf.is_empty(), "{} of {} clients receive nothing: {deaf:#?}", deaf.len(), clients.len());
    // A machine that is busy for a moment must not make the test fail. But a client that is always late fails, even
    // if it is late only with events of one size.
    let mut tries: Vec<Try> = clients.into_iter().map(Try::new).collect();
    for _ in 0..ROUNDS {
        for n in 0..EVENTS {
            let size = [0, 0, 490, 600, 8150, 9000][n % 6]; // some are near the sizes of buffers
            for of in &mut tries {
                of.delays[n] = of.client.receives(&server, &format!("{n} {}", "x".repeat(size)));
            }
        }
        tries.iter_mut().for_each(Try::count);
        tries.retain(|of| !of.is_good());
    }
    let slow: Vec<&str> = tries.iter().map(|of| of.report.as_str()).collect();
    assert!(slow.is_empty(), "not at once: {slow:#?}");
}

/// A poll and `--max-age` end a stream regularly, a kill does not. Clients that reconnect by themselves do so after
/// each.
#[test]
fn each_client_knows_how_its_stream_has_ended() {
    let args = ["--quiet", "--retry", "100", "--heartbeat", "15", "--allow-origin", "*"];
    let aging = Tincan::start(&[&args[..], &["--max-age", "1"]].concat());
    // The test keeps the socket, so no connection is refused between two servers. Once a site has refused a
    // connection, Firefox does not reconnect to it.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let start_server = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        command.args(["--listen", "-"]).args(args).stdin(OwnedFd::from(socket.try_clone().unwrap()));
        Tincan::run(command)
    };
    let mut server = start_server();
    let ((old, _aging_proxies), (ways, _proxies)) = (ways(&aging), ways(&server));
    let programs = programs();
    let mut all = tasks(&programs, &old, "aging-", "");
    all.extend(tasks(&programs, &ways, "poll-", "?wait=2"));
    all.extend(tasks(&programs, &ways, "killed-", ""));
    let (clients, _programs) = start(all);
    let of = |prefix: &str| clients.iter().filter(|c| c.task.channel[1..].starts_with(prefix)).collect::<Vec<_>>();
    for (server, prefix) in [(&aging, "aging-"), (&server, "poll-")] {
        for client in of(prefix) {
            let line = client.must_print();
            assert!(client.ended(&line), "{} reports {line:?}: {prefix}", client.name());
        }
        let back: Vec<&Client> = of(prefix).into_iter().filter(|client| client.comes_back()).collect();
        make_heard(server, &back);
        come_back(server, &back);
    }
    let killed = of("killed-");
    all_listen(&server, &killed);
    for client in &killed {
        client.receives(&server, "before");
    }
    server.kill();
    server = start_server();
    let mut back = Vec::new();
    for client in killed {
        let line = client.must_print();
        eprintln!("{}: {line}", client.name());
        assert!(line.starts_with("= "), "{}: {line}", client.name());
        // With HTTP/1.0 both ends look the same, and a proxy may turn each end into a regular one.
        let distinguishes = client.task.way == "direct" && !client.comes_back() && client.task.client != "--http1.0";
        if distinguishes && (client.task.program, client.task.client) != ("node", "fetch") {
            assert!(!client.ended(&line), "{}: {line}", client.name());
        }
        if client.comes_back() {
            assert_eq!(line, "= gone", "{}", client.name());
            back.push(client);
        }
    }
    come_back(&server, &back);
}

/// Publishes for each client again and again until it has received something. Firefox does not remember an id that
/// came without data. So a client that has received no event yet misses those that are published while it is away.
fn make_heard(server: &Tincan, clients: &[&Client]) {
    for client in clients {
        eventually(&client.name(), || {
            server.post(&client.task.channel, "here");
            let soon = Instant::now() + Duration::from_millis(200);
            std::iter::from_fn(|| client.next_line(soon)).any(|(_, line)| line == "data: here")
        });
    }
}

/// Checks that the clients receive new events once they have reconnected, and each event once.
fn come_back(server: &Tincan, clients: &[&Client]) {
    for data in ["back", "end"] {
        clients.iter().for_each(|client| drop(server.post(&client.task.channel, data)));
    }
    let deadline = Instant::now() + 2 * SOON;
    for client in clients {
        for data in ["data: back", "data: end"] {
            let mut lines = std::iter::from_fn(|| client.next_line(deadline)).map(|(_, line)| line);
            let received = lines.find(|line| line != "= gone" && line != "data: here");
            assert_eq!(received.as_deref(), Some(data), "{}", client.name());
        }
    }
}

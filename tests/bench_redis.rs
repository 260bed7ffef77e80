//! What Redis costs: the benchmark's rows with `--redis`, each compared with a server or a Redis on its own.
//!
//! Each run has a redis-server of its own, on a free port, with an empty directory and an append-only file. Redis and
//! the nodes share the servers' core. In the rows for publishing they have all cores.

use super::*;
use std::path::PathBuf;

/// Publishers on each node.
const PUBLISHERS: usize = 32;
/// Commands that are sent to Redis at a time, in the rows in which Redis is alone.
const AT_ONCE: usize = 32;

/// Measures a row of this name: through Redis, or without it if the flag is true.
type Measured = fn(&str, bool) -> Rows;

pub const SCENES: [(&str, Measured); 8] = [
    ("through Redis, 100 readers on the same node, 100 messages/s", |name, plain| latencies(name, plain, 1)),
    ("through Redis, 100 readers on another node, 100 messages/s", |name, plain| latencies(name, plain, 2)),
    ("through Redis, publishing on 1 node, 32 publishers", |name, plain| publishing(name, plain, 1)),
    ("through Redis, publishing on 3 nodes, 96 publishers", |name, plain| publishing(name, plain, 3)),
    ("through Redis, publishing on 1 node, beside XADD alone", |name, bare| {
        if bare { redis_alone(name) } else { publishing(name, false, 1) }
    }),
    ("through Redis, steady fan-out and flood", fan_out),
    ("through Redis, memory of 4 channels of 1 MB", memory),
    ("through Redis, 1,000 channels with a reader and a message/s each", channels),
];
const ONE: &str = "BENCH_CORE";
const ALL: &str = "BENCH_CORES";

/// Nodes and the Redis that they share, or one node that keeps its channels in memory.
struct Cluster {
    nodes: Vec<Server>, // dropped first, so that they end before Redis
    redis: Option<Redis>,
}

impl Cluster {
    fn start(nodes: usize, plain: bool, cores: &str) -> Cluster {
        if plain {
            return Cluster { nodes: vec![Server::tincan(&[], cores)], redis: None };
        }
        let redis = Redis::start(cores);
        let at = format!("127.0.0.1:{}", redis.server.port);
        let nodes = (0..nodes).map(|_| Server::tincan(&["--redis", &at], cores)).collect();
        Cluster { nodes, redis: Some(redis) }
    }

    /// Measures work that consists of `count` things. Returns things per second, and the processor time of nodes and
    /// of Redis for each in microseconds.
    fn timed(&self, count: f64, work: impl FnOnce()) -> [f64; 3] {
        let redis = || self.redis.as_ref().map_or(f64::NAN, |redis| redis.server.time());
        let nodes = || self.nodes.iter().map(Server::time).sum::<f64>();
        let (nodes_before, redis_before, start) = (nodes(), redis(), Instant::now());
        work();
        let rate = count / start.elapsed().as_secs_f64();
        [rate, (nodes() - nodes_before) * 1e6 / count, (redis() - redis_before) * 1e6 / count]
    }
}

struct Redis {
    server: Server,
    dir: PathBuf,
}

impl Redis {
    fn start(cores: &str) -> Redis {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let dir = std::env::temp_dir().join(format!("tincan-bench-{}-{port}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (port, path) = (port.to_string(), dir.to_str().unwrap());
        let args = ["--port", &port, "--bind", "127.0.0.1", "--dir", path, "--save", "", "--appendonly", "yes"];
        let mut server = Server::spawn("redis-server", &args, cores);
        server.port = port.parse().unwrap();
        let (redis, deadline) = (Redis { server, dir }, Instant::now() + PATIENCE);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, redis.server.port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen on {port}");
            sleep(Duration::from_millis(10));
        }
        redis
    }

    /// Sends a command whose reply is a number.
    fn number(&self, command: &str) -> f64 {
        let (mut stream, mut line) = (self.server.connect(), String::new());
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_start_matches(':').trim_end().parse().unwrap_or_else(|_| panic!("{command}: {line:?}"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.child.kill();
        let _ = self.server.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Publishes on the first node, and receives on the last.
fn latencies(name: &str, plain: bool, nodes: usize) -> Rows {
    let cluster = Cluster::start(nodes, plain, ONE);
    let mut subscribers = cluster.nodes[cluster.nodes.len() - 1].subscribers(Chunks, 100, "/c0");
    vec![(name.into(), latency(&mut cluster.nodes[0].publishers(1), &mut subscribers, 1, 100, 300))]
}

/// Publishes at full speed to one subscriber on each node.
fn publishing(name: &str, plain: bool, nodes: usize) -> Rows {
    let cluster = Cluster::start(nodes, plain, ALL);
    let (mut subscribers, mut publishers) = (Vec::new(), Vec::new());
    for node in &cluster.nodes {
        subscribers.append(&mut node.subscribers(Chunks, 1, "/c0"));
        publishers.append(&mut node.publishers(PUBLISHERS));
    }
    let count = publishers.len() * 500;
    let cost = cluster.timed(count as f64, || {
        publish(&mut publishers, count, Duration::ZERO, |_| "/c0".into(), || receive(&mut subscribers, count, |_| ()));
    });
    published(name, cost)
}

fn published(name: &str, [rate, nodes, redis]: [f64; 3]) -> Rows {
    let values = vec![
        ("messages/s", rate),
        ("processor of all nodes, µs per message", nodes),
        ("processor of Redis, µs per message", redis),
    ];
    vec![(name.into(), values)]
}

/// Measures Redis alone, with the commands that a node sends. The one connection always has the next commands queued.
fn redis_alone(name: &str) -> Rows {
    let redis = Redis::start(ALL);
    let mut stream = redis.server.connect();
    let data = format!("{:0SIZE$}", now());
    let words = ["XADD", "tincan:c0", "MAXLEN", "~", "6000", "*", "data", &data, "post", "0123456789abcdef-12345"];
    let command: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let batch = format!("*{}\r\n{command}", words.len()).repeat(AT_ONCE);
    let cluster = Cluster { nodes: Vec::new(), redis: Some(redis) };
    let (batches, mut lines, mut buf) = (2000, 0, vec![0; 64 << 10]);
    let cost = cluster.timed((batches * AT_ONCE) as f64, || {
        for sent in 1..=batches {
            stream.write_all(batch.as_bytes()).unwrap();
            let due = if sent == batches { batches } else { sent - 1 };
            while lines < 2 * AT_ONCE * due {
                let n = stream.read(&mut buf).unwrap();
                assert!(n > 0 && buf[0] != b'-', "{}", String::from_utf8_lossy(&buf[..n]));
                lines += buf[..n].iter().filter(|b| **b == b'\n').count();
            }
        }
    });
    published(name, [cost[0], f64::NAN, cost[2]])
}

fn fan_out(_: &str, plain: bool) -> Rows {
    let steadily = Cluster::start(1, plain, ONE);
    let mut subscribers = steadily.nodes[0].subscribers(Chunks, 1000, "/c0");
    let mut rows = vec![steady_fan_out(&steadily.nodes[0], &mut subscribers)];
    drop((subscribers, steadily));
    rows.push(flood(&Cluster::start(1, plain, ONE).nodes[0], Chunks));
    rows.into_iter().map(|(name, values)| (format!("through Redis, {name}"), values)).collect()
}

/// Fills four channels to their limit.
fn memory(name: &str, plain: bool) -> Rows {
    let cluster = Cluster::start(1, plain, ONE);
    let (node, mut publishers) = (&cluster.nodes[0], cluster.nodes[0].publishers(8));
    let before = node.memory();
    publish(&mut publishers, 5 * REPLAY, Duration::ZERO, |n| format!("/c{}", n % 4), || ());
    sleep(Duration::from_millis(300)); // until the node has received all of it
    let all = (node.memory() - before) * 1024.0;
    let (mut stream, mut kept) = (node.connect(), String::new());
    stream.write_all(b"GET /c0?wait=0&since=all HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_string(&mut kept).unwrap();
    let in_redis = cluster
        .redis
        .as_ref()
        .map_or(f64::NAN, |redis| redis.number("MEMORY USAGE tincan:c0 SAMPLES 0") / redis.number("XLEN tincan:c0"));
    let events = 4.0 * kept.matches("\ndata: ").count() as f64;
    let values = vec![("node, bytes per event", all / events), ("Redis, bytes per event", in_redis)];
    vec![(name.into(), values)]
}

/// Measures the cost of following many channels.
fn channels(name: &str, plain: bool) -> Rows {
    let (cluster, mut subscribers) = (Cluster::start(1, plain, ONE), Vec::new());
    cluster.nodes[0].join(Chunks, 1000, |n| format!("/c{n}"), |subscriber| subscribers.push(subscriber));
    let mut publisher = cluster.nodes[0].publishers(1);
    let path = |n| format!("/c{}", n % 1000);
    let mut values = latency(&mut publisher, &mut subscribers, 1000, 1000, 1000);
    subscribers.reverse();
    // A thousand messages a second.
    let [_, node, redis] = cluster.timed(2000.0, || {
        publish(&mut publisher, 2000, Duration::from_millis(1), path, || receive(&mut subscribers, 2, |_| ()));
    });
    values.append(&mut vec![
        ("processor of the node, ms per second", node),
        ("processor of Redis, ms per second", redis),
    ]);
    vec![(name.into(), values)]
}

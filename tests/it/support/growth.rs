//! How processor time grows with the amount of work. The time is that of this thread or of the server's threads. Each
//! amount is measured several times, and the least counts, since other programs use the machine as well.

use crate::support::harness::*;
use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::thread::{scope, sleep};
use std::time::Duration;

/// How often each amount is measured at most. It is more than twice only if something disturbs.
const RUNS: usize = 24;

/// Asserts that four times the work costs about four times as much, and by no means sixteen times.
#[track_caller]
pub fn linear(things: &str, n: usize, mut cost: impl FnMut(usize) -> Duration) {
    if fs::read_to_string("/proc/self/schedstat").map_or(true, |line| line.starts_with("0 ")) {
        return eprintln!("left out: this kernel does not count the time of a thread in nanoseconds");
    }
    let mut least = [Duration::MAX; 3];
    for run in 1..=RUNS {
        for (times, least) in [1, 2, 4].iter().zip(&mut least) {
            *least = cost(n * times).min(*least);
        }
        if run > 1 && least[2] <= 8 * least[0] {
            return eprintln!("{things}, {n} of them and twice and four times as many: {least:?}");
        }
    }
    panic!("{things}, {n} of them and twice and four times as many: {least:?}");
}

/// Returns the processor times of a process's threads, by their numbers. The kernel updates a running thread's time
/// at clock ticks; a sleeping thread's time is exact.
fn times(tasks: &str) -> HashMap<String, u64> {
    let tasks = fs::read_dir(tasks).unwrap().filter_map(|task| {
        let task = task.unwrap();
        let line = fs::read_to_string(task.path().join("schedstat")).ok()?; // a thread may have ended
        Some((task.file_name().into_string().unwrap(), line.split(' ').next()?.parse().ok()?))
    });
    tasks.collect()
}

/// Returns the processor time that this thread spends on the work.
pub fn thread_time<T>(work: impl FnOnce() -> T) -> Duration {
    let time = || {
        sleep(Duration::from_nanos(1));
        let line = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(line.split(' ').next().unwrap().parse().unwrap())
    };
    let before = time();
    black_box(work());
    time() - before
}

/// Returns the processor time that a server's threads spend on the work. The time of a thread that ends meanwhile is
/// lost, so no connection may close.
pub fn spent<T>(server: &Tincan, work: impl FnOnce() -> T) -> Duration {
    let tasks = format!("/proc/{}/task", server.pid());
    server.rests();
    let before = times(&tasks);
    work();
    server.rests();
    let more = times(&tasks).into_iter().map(|(task, time)| time.saturating_sub(*before.get(&task).unwrap_or(&0)));
    Duration::from_nanos(more.sum())
}

/// Sends bytes in pieces of this size. Before each next piece the server has read the one before.
pub fn in_pieces(server: &Tincan, wire: &mut Wire, bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size) {
        wire.send(piece);
        server.rests();
    }
}

pub fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub fn stream(path: &str, body: &str) -> String {
    post(path, body).replacen("Content-L", "Content-Type: text/event-stream\r\nContent-L", 1)
}

/// Sends many requests at once, and takes a response to each; returns the last one.
pub fn pipelined(wire: &mut Wire, requests: &str, count: usize) -> Response {
    let mut writer = wire.stream.try_clone().unwrap();
    scope(|scope| {
        scope.spawn(move || writer.write_all(requests.as_bytes()).unwrap());
        (0..count).map(|_| wire.response()).last().unwrap()
    })
}

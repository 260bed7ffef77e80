//! The system's limits for this process (setrlimit(2)), how the server divides its descriptors, and quotas for clients.
//!
//! The limits are read from `/proc/self`, because std has no call for most of them. If `/proc` is missing, the limits
//! are unknown, and the server acts as if there were none.

use crate::system::threads::lock;
use std::fs::read_to_string;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, Weak};

/// Limit: connections over `--max-connections` that still get a refusal. Any further connection is closed at once.
const MAX_TURNED_AWAY: usize = 64;
/// Descriptors for other purposes: standard streams, the listening socket, the directory, and a few for short moments.
const OTHER_DESCRIPTORS: usize = 8;

/// Returns the rest of the first line in a file that begins with `name`.
fn proc_value(file: &str, name: &str) -> Option<String> {
    read_to_string(file).ok()?.lines().find_map(|line| line.strip_prefix(name)).map(String::from)
}

/// Returns a soft limit by its name in `/proc/self/limits`, or `None` if it is unlimited or unknown.
pub fn soft_limit(name: &str) -> Option<u64> {
    proc_value("/proc/self/limits", name)?.split_whitespace().next()?.parse().ok()
}

/// Returns the number of cores that this process may run on, or 1 if that is unknown. (The function of std also reads
/// control groups, which takes 6 KB of code.)
pub fn cores() -> usize {
    let mask = proc_value("/proc/self/status", "Cpus_allowed:").unwrap_or_default();
    let bits: u32 = mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum();
    bits.max(1) as usize
}

/// How the descriptors are divided, so that the process never runs out of them.
pub struct Shares {
    /// All descriptors that the process may have; `None` if their number is unlimited or unknown.
    pub descriptors: Option<usize>,
    /// The number of connections that are served.
    pub connections: usize,
    /// The number of further connections that get a refusal, because the server is full.
    pub turned_away: usize,
    /// The number of logs that are open at a time. Each has up to two files.
    pub logs: usize,
}

/// Divides the descriptors. Returns at most as many connections and logs as given.
pub fn shares(connections: usize, logs: usize) -> Shares {
    let descriptors = soft_limit("Max open files").map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let all = descriptors.unwrap_or(usize::MAX);
    let turned_away = MAX_TURNED_AWAY.min(all / 8);
    let logs = logs.min(all / 8);
    let connections = connections.min(all.saturating_sub(OTHER_DESCRIPTORS + turned_away + 2 * logs).max(1));
    Shares { descriptors, connections, turned_away, logs }
}

/// A limited number of places for clients. Each place has a value, and is taken as long as that value is in use.
pub struct Quota<T>(pub Mutex<Vec<(u128, Weak<T>)>>);

impl<T> Quota<T> {
    /// Takes one of `max` places for the client of this socket. Returns `value`, whose last drop frees the place, or
    /// `None` if no place is free.
    ///
    /// Limit: a client address has at most half of the places, so that one client cannot keep out all others.
    pub fn claim(&self, max: usize, client: &TcpStream, value: T) -> Option<Arc<T>> {
        let address = network(client.peer_addr().ok()?.ip());
        let mut taken = lock(&self.0);
        taken.retain(|place| place.1.strong_count() > 0);
        let same = taken.iter().filter(|place| place.0 == address).count();
        if taken.len() >= max || same >= max / 2 {
            return None;
        }
        let value = Arc::new(value);
        taken.push((address, Arc::downgrade(&value)));
        Some(value)
    }
}

/// Returns the number that stands for a client address. All addresses of an IPv6 /64 network have the same number.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

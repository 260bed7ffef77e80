//! What the system lets this process have (setrlimit(2)), how the descriptors are shared out, and places of which there are few.
//!
//! The limits are read from `/proc/self`, for std has no call for most of them. If that is missing, nothing is known, and nothing
//! is limited.

use crate::system::threads::lock;
use std::fs::read_to_string;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, Weak};

/// Connections over the limit that are at least told so; a further one is closed.
const MAX_TURNED_AWAY: usize = 64;
/// Descriptors that the process holds anyway: standard streams, listening socket, directory, and a few in passing.
const OWN_DESCRIPTORS: usize = 8;

/// What stands behind this in a file.
fn proc_value(file: &str, name: &str) -> Option<String> {
    read_to_string(file).ok()?.lines().find_map(|line| line.strip_prefix(name)).map(String::from)
}

/// A soft limit by its name in `/proc/self/limits`; none where there is no such limit, or it is not known.
pub fn soft_limit(name: &str) -> Option<u64> {
    proc_value("/proc/self/limits", name)?.split_whitespace().next()?.parse().ok()
}

/// The cores that this process may run on; one where that is not known. (std's call looks at control groups as well,
/// with 6 KB of code.)
pub fn cores() -> usize {
    let mask = proc_value("/proc/self/status", "Cpus_allowed:").unwrap_or_default();
    let bits: u32 = mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum();
    bits.max(1) as usize
}

/// How the descriptors are shared out, so that they are never used up.
pub struct Shares {
    /// All that the process may have; none where that is not limited.
    pub descriptors: Option<usize>,
    /// Connections that are served.
    pub connections: usize,
    /// Further ones that are told that the server is full.
    pub turned_away: usize,
    /// Logs that are kept open; each has up to two files.
    pub logs: usize,
}

/// Shares out the descriptors, where so many connections and logs are wished for.
pub fn shares(connections: usize, logs: usize) -> Shares {
    let descriptors = soft_limit("Max open files").map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let all = descriptors.unwrap_or(usize::MAX);
    let spill = MAX_TURNED_AWAY.min(all / 8);
    let logs = logs.min(all / 8);
    let left = all.saturating_sub(OWN_DESCRIPTORS + spill + 2 * logs).max(1);
    Shares { descriptors, connections: connections.min(left), turned_away: spill, logs }
}

/// Places of which there are few, each with what belongs to whoever has it.
pub struct Quota<T>(pub Mutex<Vec<(u128, Weak<T>)>>);

impl<T> Quota<T> {
    /// One of `most` places for this socket's client, until what belongs to it is dropped; none if there is none left.
    /// Limit: a client's address has half of them at most, so that it cannot keep out all others.
    pub fn claim(&self, most: usize, client: &TcpStream, own: T) -> Option<Arc<T>> {
        let address = network(client.peer_addr().ok()?.ip());
        let mut taken = lock(&self.0);
        taken.retain(|place| place.1.strong_count() > 0);
        let same = taken.iter().filter(|place| place.0 == address).count();
        if taken.len() >= most || same >= most / 2 {
            return None;
        }
        let own = Arc::new(own);
        taken.push((address, Arc::downgrade(&own)));
        Some(own)
    }
}

/// By what clients are told apart: an address, of which that of a network counts in IPv6.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

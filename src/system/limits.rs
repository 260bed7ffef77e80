//! The system's limits for this process (setrlimit(2)), how the server divides its descriptors, and quotas for clients.
//!
//! The limits are read from `/proc/self`, because std has no call for most of them. If `/proc` is missing, the limits
//! are unknown, and the server acts as if there were none.

use crate::system::threads::lock;
use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

/// Limit: connections over `--max-connections` that still get a refusal. Any further connection is closed at once.
const MAX_TURNED_AWAY: usize = 64;
/// Descriptors for other purposes: standard streams, the listening socket, the directory, and a few for short moments.
const OTHER_DESCRIPTORS: usize = 8;

/// Returns the rest of the first line in a file that begins with `name`.
fn proc_value(file: &str, name: &str) -> Option<String> {
    read_to_string(file).ok()?.lines().find_map(|line| line.strip_prefix(name)).map(String::from)
}

/// Returns the number at the beginning of a text.
fn number(text: String) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Returns a soft limit by its name in `/proc/self/limits`, or `None` if it is unlimited or unknown.
pub fn soft_limit(name: &str) -> Option<u64> {
    proc_value("/proc/self/limits", name).and_then(number)
}

/// Returns a quarter of the memory that the process may have, in whole MiB and at least one: the rest is for stacks,
/// sockets and other programs.
pub fn memory_share() -> usize {
    let total = proc_value("/proc/meminfo", "MemTotal:").and_then(number).map(|kib| kib << 10);
    let mut limits = vec![total, soft_limit("Max address space"), Some(usize::MAX as u64)];
    // A line is `0::/PATH` in version 2 of control groups, and `NUMBER:CONTROLLER:/PATH` in version 1 (cgroups(7)). The
    // groups above limit the process too.
    for group in read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        let path = group.split_once(':').unwrap_or_default().1.replacen(':', "", 1);
        for directory in Path::new(&format!("/sys/fs/cgroup/{path}")).ancestors() {
            for file in ["memory.max", "memory.limit_in_bytes"] {
                limits.push(read_to_string(directory.join(file)).ok().and_then(number));
            }
        }
    }
    (limits.into_iter().flatten().min().unwrap_or_default() >> 22 << 20).max(1 << 20) as usize
}

/// Returns the number of cores that this process may run on, or 1 if that is unknown. (The function of std also reads
/// control groups, which takes 6 KB of code.)
pub fn cores() -> usize {
    let mask = proc_value("/proc/self/status", "Cpus_allowed:").unwrap_or_default();
    let bits: u32 = mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum();
    bits.max(1) as usize
}

/// How descriptors and memory are divided, so that the process never runs out of them.
pub struct Shares {
    /// All descriptors that the process may have; `None` if their number is unlimited or unknown.
    pub descriptors: Option<usize>,
    /// The number of connections that are served.
    pub connections: usize,
    /// The number of further connections that get a refusal, because the server is full.
    pub turned_away: usize,
    /// The number of logs that are open at a time. Each has up to two files.
    pub logs: usize,
    /// A quarter of the memory, for logs and bodies if `--memory` is not given. The stacks of threads take another one
    /// at most.
    pub memory: usize,
}

/// Divides descriptors and memory. Returns at most as many connections and logs as given.
pub fn shares(connections: usize, logs: usize) -> Shares {
    let descriptors = soft_limit("Max open files").map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let all = descriptors.unwrap_or(usize::MAX);
    let turned_away = MAX_TURNED_AWAY.min(all / 8);
    let logs = logs.min(all / 8);
    let connections = connections.min(all.saturating_sub(OTHER_DESCRIPTORS + turned_away + 2 * logs).max(1));
    Shares { descriptors, connections, turned_away, logs, memory: memory_share() }
}

/// Places that clients take: those of all connections, or of one use of them.
#[derive(Default)]
pub struct Places {
    /// How many are taken.
    pub count: AtomicUsize,
    clients: Mutex<BTreeMap<u128, Weak<Sharer>>>, // by their networks
}

/// What all slots of one client share.
struct Sharer(Arc<Places>);

/// One place. It is taken until this is dropped. A subscriber keeps the slot of its connection.
pub struct Slot(Arc<Sharer>);

impl Places {
    /// Takes one more place. Returns its slot, how many are taken with it, and how many of these by clients with this
    /// address. The caller compares these numbers with its limits.
    pub fn claim(self: &Arc<Places>, address: IpAddr) -> (Slot, usize, usize) {
        let network = network(address);
        let all = self.count.fetch_add(1, Relaxed) + 1;
        let mut clients = lock(&self.clients);
        let client = clients.get(&network).and_then(Weak::upgrade).unwrap_or_else(|| Arc::new(Sharer(self.clone())));
        clients.insert(network, Arc::downgrade(&client));
        if clients.len() > 2 * all {
            clients.retain(|_, client| client.strong_count() > 0);
        }
        let same = Arc::strong_count(&client);
        (Slot(client), all, same)
    }

    /// Takes one more place. Returns its slot, and whether there was room: there are `max` places, and `max_same` of
    /// them for one client. A client that comes over loopback may be a proxy, so it may have all.
    pub fn claim_within(self: &Arc<Places>, address: IpAddr, max: usize, max_same: usize) -> (Slot, bool) {
        let (slot, all, same) = self.claim(address);
        (slot, all <= max && (same <= max_same || address.to_canonical().is_loopback()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Relaxed);
    }
}

/// Returns the number that stands for a client address. All addresses of an IPv6 /64 network have the same number.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

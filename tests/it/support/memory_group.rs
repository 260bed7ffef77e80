//! A control group with a limit of memory (cgroups(7)), as a small board or a container has it.

use crate::support::harness::*;
use std::fs::{create_dir, read_to_string, remove_dir, write};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

const MOUNT: &str = "/sys/fs/cgroup";

/// A group below the test's own. It is removed with the test, after all of its processes have ended.
pub struct MemoryGroup {
    path: PathBuf,
    is_v2: bool,
}

impl MemoryGroup {
    /// Creates a group with this limit of bytes, without swap. If that is not possible here, prints that the test is
    /// left out.
    pub fn new(limit: u64) -> Option<MemoryGroup> {
        let parents = parents();
        let error = io::Error::other("there is none for memory");
        let made = parents.iter().map(|parent| MemoryGroup::below(parent, limit));
        let made = made.reduce(|before, next| before.or(next)).unwrap_or(Err(error));
        made.inspect_err(|error| eprintln!("left out: no control group can be made: {error}")).ok()
    }

    fn below(parent: &Path, limit: u64) -> io::Result<MemoryGroup> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tincan-test-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let path = parent.join(name);
        create_dir(&path)?;
        let group = MemoryGroup { is_v2: path.join("memory.max").exists(), path }; // from here on it is removed
        let [memory, swap] = match group.is_v2 {
            true => ["memory.max", "memory.swap.max"],
            false => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
        };
        write(group.path.join(memory), limit.to_string())?;
        if group.path.join(swap).exists() {
            write(group.path.join(swap), if group.is_v2 { "0".into() } else { limit.to_string() })?;
        }
        // A process can move there. The empty process of this command ends at once.
        let moved = group.command("true").output()?;
        if moved.status.success() { Ok(group) } else { Err(io::Error::other(String::from_utf8_lossy(&moved.stderr))) }
    }

    /// Returns a command that runs a program in this group.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0\"/cgroup.procs && exec \"$@\""]).arg(&self.path).arg(program);
        command
    }

    /// Returns the bytes that the group takes now, those of the kernel included.
    pub fn usage(&self) -> u64 {
        self.number("memory.current", "memory.usage_in_bytes")
    }

    /// Returns the most bytes that it has taken.
    pub fn peak(&self) -> u64 {
        self.number("memory.peak", "memory.max_usage_in_bytes")
    }

    fn number(&self, v2: &str, v1: &str) -> u64 {
        let text = read_to_string(self.path.join(if self.is_v2 { v2 } else { v1 })).unwrap();
        text.trim().parse().unwrap()
    }

    /// Returns a line of `memory.stat`: pages that processes have written, and in version 2 what the kernel takes.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let text = read_to_string(self.path.join("memory.stat")).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Returns the bytes of the kernel: stacks of threads, sockets, page tables.
    pub fn kernel(&self) -> Option<u64> {
        let v1 = || read_to_string(self.path.join("memory.kmem.usage_in_bytes")).ok()?.trim().parse().ok();
        self.stat("kernel").or_else(v1)
    }

    /// Returns the bytes that processes have written.
    pub fn written(&self) -> u64 {
        self.stat("anon").or_else(|| self.stat("rss")).unwrap_or(0)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let began = Instant::now();
        while remove_dir(&self.path).is_err() && began.elapsed() < SOON {
            look_again(began);
        }
    }
}

/// Returns the groups below which a new one can be. Version 1 has a hierarchy for memory. In version 2, only a group
/// without processes can have children with limits, so it may be any of those above this process.
fn parents() -> Vec<PathBuf> {
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    for line in groups.lines() {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { continue };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|controller| controller == "memory") {
            let mount = Path::new(MOUNT).join("memory");
            parents.extend([mount.join(path), mount]);
        }
        if controllers.is_empty() {
            let own = Path::new(MOUNT).join(path);
            let above = own.ancestors().take_while(|group| group.starts_with(MOUNT));
            let control = |group: &&Path| read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
            let has_memory = |group: &&Path| control(group).split_whitespace().any(|name| name == "memory");
            parents.extend(above.filter(has_memory).map(Path::to_path_buf));
        }
    }
    parents.retain(|parent| parent.join("cgroup.procs").exists());
    parents
}

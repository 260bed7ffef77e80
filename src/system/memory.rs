//! The memory budget (`--memory`): the bytes of all logs in memory and of all bodies in flight together.
//!
//! Each log and each body counts its own bytes. So the sums are right at all times, and nothing has to be given back by
//! hand. If logs are over the budget, the hub drops the oldest part of the largest one. A body that finds no room is
//! refused.
//!
//! Limits: [`Budget::max`]. Deliberately absent: what has limits of its own, such as stacks, heads and sockets.
//! Shortcut: a body that has nearly `--max-body` may have a buffer of twice its size, and counts once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Limit: the memory for logs and bodies.
#[derive(Default)]
pub struct Budget {
    /// The bytes of both together.
    pub max: usize,
    /// The sizes of all logs.
    pub logs: Arc<AtomicUsize>,
    /// The sizes of all bodies.
    pub bodies: Arc<AtomicUsize>,
}

/// The size of one log or body in bytes. It is in the sum until this is dropped.
#[derive(Default)]
pub struct Counted {
    bytes: AtomicUsize,
    sum: Arc<AtomicUsize>,
}

impl Counted {
    /// Creates a counter for something of size 0.
    pub fn new(sum: &Arc<AtomicUsize>) -> Counted {
        Counted { bytes: AtomicUsize::default(), sum: sum.clone() }
    }

    /// Returns the size.
    pub fn bytes(&self) -> usize {
        self.bytes.load(SeqCst)
    }

    /// Changes the size.
    pub fn set(&self, bytes: usize) {
        // In one step, so that nothing is in the sum twice. An addition that wraps subtracts.
        let before = self.bytes.swap(bytes, SeqCst);
        self.sum.fetch_add(bytes.wrapping_sub(before), SeqCst);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Budget {
    /// Returns whether logs and bodies are over the budget.
    pub fn is_over(&self) -> bool {
        self.logs.load(SeqCst) + self.bodies.load(SeqCst) > self.max
    }

    /// Returns whether there is room for a body of this size, which is counted already. All bodies together have half
    /// of the budget, and each must leave as much of that free as it takes. So large bodies do not keep out small ones.
    pub fn has_room(&self, bytes: usize) -> bool {
        bytes == 0 || self.bodies.load(SeqCst) + bytes <= self.max / 2
    }
}

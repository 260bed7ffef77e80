//! Threads and locks.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Thread};

/// Limit: the bytes of a thread's stack.
pub const STACK: usize = 64 << 10;

/// Starts a thread.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
    Ok(Builder::new().name(name.into()).stack_size(STACK).spawn(work)?.thread().clone())
}

/// Takes a lock, even if a thread has panicked while it held the lock. So a bug in one thread does not end the server.
/// The data under all locks are counts, bytes and sockets, which are valid after each step.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one more, and returns the new number. Some 32-bit processors have no atomic numbers of 64 bits.
pub fn count_one(number: &Mutex<u64>) -> u64 {
    let mut number = lock(number);
    *number += 1;
    *number
}

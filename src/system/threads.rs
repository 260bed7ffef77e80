//! Threads and locks.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Thread};

/// Limit: a thread's stack.
pub const STACK: usize = 64 << 10;

/// Starts a thread.
///
/// # Errors
/// If the system gives none.
pub fn spawn(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
    Ok(Builder::new().name(name.into()).stack_size(STACK).spawn(work)?.thread().clone())
}

/// Takes a lock, also one that a panicking thread has left: its data are plain counts, bytes and sockets, each valid
/// at every step, so one thread's bug does not end the server.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

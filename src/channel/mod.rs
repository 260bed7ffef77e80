#![doc = include_str!("README.md")]
//!
//! Channels: publishers append events, and subscribers receive them.
//!
//! A channel is one log and the subscribers that read it. A publisher appends to the log. The pump, a thread, gives
//! each subscriber the bytes between its position and the end of the log. Writes to a
//! subscriber's socket do not block. If the socket is full, it is tried again after a pause, which grows up to half a
//! second. Only a publisher in a flood may wait for subscribers, and only for a limited time (see *pumped*).
//!
//! # Locks
//!
//! This table has the order in which locks are taken: a thread that holds one may take only those below it.
//!
//! | lock | guards | is held | holder may wait for |
//! |---|---|---|---|
//! | `Channel::writer` | the files of the log, and the next unit | while one publisher appends | the disk, the pump |
//! | `Channel::subscribers` | the subscribers, and writes to their sockets | for a turn, sweep, visit, join or removal; while a publisher excludes recipients | nothing |
//! | `Channel::joining` | the subscribers that join during a turn | for such a join | nothing |
//! | `Channel::state` | the log, and the results of the last turn | for a few steps in memory | nothing |
//! | the lock of a `Transport` | what its two threads share | while it writes to its socket | nothing |
//!
//! A *turn* gives every subscriber its next piece (`Channel::turn`). A *sweep* is a look at every subscriber by the
//! heartbeat (`Channel::sweep`). A *visit* is an action on one subscriber (`Channel::with_subscriber`).
//!
//! Writes to sockets do not block. A watcher of a connection (`watch.rs`) may wait, and every thread that needs these
//! locks then waits with it. Each watcher that may wait says so.
//!
//! `Hub::queue` and the names of a group of channels (`ChannelGroup::names`) have locks too, which are held for a few
//! steps in memory. Under them, no other lock is taken except `Channel::state`, `Hub::epoch`, and `Hub::counters` for
//! the metrics. `Hub::counters`, `Hub::epoch` and the clients of `Places` have the last locks: no other is taken under
//! them. A thread that waits for `Channel::changed` holds no lock, except that a publisher may hold `writer`. If logs
//! have to give way, a thread that holds no lock first takes the names, to find the largest log, and then its `state`,
//! each for a few steps.
//!
//! So under a lock, only publishers wait for a disk, and only for that of their own log. With `--sync` one publisher
//! syncs for all that wait, and holds no lock meanwhile. In three cases a publisher syncs while it holds `writer`, in
//! the first and the last also without `--sync`: for the first event of a file or an epoch; before and after the write
//! of an event that is not for all subscribers; when it cuts off what a failed write has left. Bytes that are only in a
//! file are read without a lock: by the thread whose client asked for them, or by a thread that replays the channel. A
//! file is closed under no lock except `writer`, because that may take long.
//!
//! # Written, heard, pumped
//!
//! These are the three stages of an event:
//!
//! - *written*: it is in the log, and with `--data` in its file. No subscriber may receive it yet. If the disk then
//!   fails, it is removed again.
//! - *heard*: subscribers may receive it, and then its POST gets its response. It is never taken back. With `--sync` it
//!   is on the disk.
//! - *pumped*: each subscriber that keeps up has received it. Before the log drops an event that is not yet pumped, a
//!   publisher waits for the pump, but only for a limited time. Otherwise a flood could be faster than the pump.
//!
//! Each stage is also a position in the log: all events before it have reached that stage. The heard position is never
//! after the written one. While there are subscribers, the pumped position is never after the heard one. Without
//! subscribers, everything written counts as pumped.

pub mod framing;
pub mod watch;
pub mod subscriber;
pub mod state;
pub mod publish;
pub mod turn;
pub mod hub;
pub mod pump;

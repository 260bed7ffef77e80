#![doc = include_str!("README.md")]
//!
//! Channels: who writes and who reads.
//!
//! A channel is one log, and the subscribers that read it. A publisher appends to the log. The pump gives each subscriber
//! what lies between its position and the end of the log. No one waits for a reader: sockets do not block, and one that is
//! full is tried again after a growing pause.
//!
//! # Locks
//!
//! In the order in which they are taken. A thread that holds one may take only those below it.
//!
//! | lock | guards | held while | may wait for |
//! |---|---|---|---|
//! | `Channel::writer` | the files of the log, and the next block | one publisher appends | the disk, and the pump |
//! | `Channel::subscribers` | the subscribers, and who writes to their sockets | a turn, a sweep, a visit, a join | nobody |
//! | `Channel::joining` | the subscribers that came during a turn | the same for a join meanwhile | nobody |
//! | `Channel::state` | the log, and what a turn has found out | a few steps in memory | nobody |
//! | the lock of a transport | what its two threads share | it writes to its socket | nobody |
//!
//! Writes to sockets do not block. What watches a connection (`watch.rs`) may wait, and then all of these wait with it; each
//! watcher says so.
//!
//! A shelf of `Hub` (`names`), and `Hub::news`, are held for a few steps in memory. No other lock is taken under them but
//! `Channel::state`. A thread that waits for `Channel::changed` holds nothing, but if it publishes, `writer`.
//!
//! So nobody waits for the disk but publishers of the same log. With `--sync` one of them syncs for all that wait. It holds
//! no lock meanwhile; only for the first event of a file or an epoch, and before one that is not for all, it holds
//! `writer`. What stands in a file alone is read without a lock, by the thread that asked for it or by one that replays the
//! channel. A file is closed only when all locks are given back, for that may take long.
//!
//! # What an event has behind it
//!
//! - *written*: it is in the log, and with `--data` in its file. Nobody may be given it yet. If the disk then fails, it is
//!   taken back.
//! - *heard*: subscribers may be given it, and its POST is answered. It is never taken back. With `--sync` it is on the disk.
//! - *pumped*: each subscriber that keeps up was given it. A publisher waits for this, for a bounded time, before the log
//!   drops what not all have: else a flood could outrun the pump.
//!
//! These three are positions in the log. What may be heard is written. While there are subscribers, what is pumped may be
//! heard; without any, all that is written counts as pumped.

pub mod framing;
pub mod watch;
pub mod subscriber;
pub mod state;
pub mod publish;
pub mod turn;
pub mod hub;
pub mod pump;

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
//! | `Channel::subscribers` | the subscribers, and who writes to their sockets | a turn, a sweep, a visit | nobody |
//! | `Channel::joining` | the subscribers that came during a turn | one is added, or all are moved | nobody |
//! | `Channel::state` | the log, and what a turn has found out | a few steps in memory | nobody |
//!
//! `Hub::names` and `Hub::news` are held for a few steps in memory, and no other lock is taken under them but
//! `Channel::state`. A transport may have a lock of its own, below `subscribers`. With `Channel::changed` a thread waits for
//! news of `state`, and holds nothing but perhaps `writer`.
//!
//! So nobody waits for the disk but publishers of the same log. With `--sync` one of them syncs for all that wait, and
//! holds no lock meanwhile. What stands in a file alone is read by the thread that asked for it, or by one that replays the
//! channel, without a lock as well. Files are closed behind the locks, for that may take long.
//!
//! # What an event has behind it
//!
//! - *written*: it is in the log, and with `--data` in its file. Nobody may be given it yet. If the disk then fails, it is
//!   taken back.
//! - *heard*: subscribers may be given it, and its POST is answered. It is never taken back. With `--sync` it is on the disk.
//! - *pumped*: each subscriber that keeps up was given it. A publisher waits for this, for a bounded time, before the log
//!   drops what not all have: else a flood could outrun the pump.
//!
//! These three are positions in the log, and each is at most the one before it.

pub mod framing;
pub mod watch;
pub mod subscriber;
pub mod state;
pub mod publish;
pub mod turn;
pub mod hub;
pub mod pump;

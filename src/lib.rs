//! **tincan**: a channel is a URL; what you POST to it, everyone who GETs it hears.
//!
//! # The one idea
//!
//! A channel is an append-only log of bytes, exactly as they go on the wire. A subscriber is a socket and a position in
//! that log. Everything else is copying log bytes to a socket.
//!
//! # The rooms, in reading order
//!
//! A file imports only from files above it, and a test holds that. A `mod.rs` is read behind the files that it lists.
//!
//! | folder | files | what they know |
//! |---|---|---|
//! | `wire/` | `reject` `id` `percent` `base64` `event` `http` `chunked` | bytes and what they mean; pure |
//! | `system/` | `report` `threads` `time` `limits` `listener` | what the machine gives |
//! | | `config` | what a server is told |
//! | `log/` | `recovery` `disk` `part` `writer` `positions` | the bytes of a channel, in memory or in files |
//! | `channel/` | `framing` `watch` `subscriber` `state` `publish` `turn` `hub` `pump` | who writes and who reads |
//! | `server/` | `pages` `gate` `connection` `doors` `route` `accept` | who may, one client, and which answer |
//! | `wings/` | `trace` `lessons` `lab` `websocket` `address` `redis` | what can be left out, each by a feature |
//! | | `flags`, `main` | arguments and environment; start |
//!
//! The first six rows and the last are the *core*, a whole server. It has doors (`server/doors.rs`), and does not know who
//! comes in: `wings/mod.rs` has the list.
//!
//! # A walk: a POST
//!
//! 1. `accept` gives the connection to a thread, which starts the next one that waits, and reads the head (`connection`).
//!    `http` finds its end, checks it and parses it.
//! 2. `route` asks `gate` whether this Host, this page and this token may, and then each wing whether the request is its own.
//!    If not, the path is a channel: the rest of the head is checked. What is refused is refused here, before the body.
//! 3. `connection` reads the body, whole or in chunks (`chunked`). `event` makes events of it, each with its lines.
//! 4. `hub` looks up the channel, and opens its log if nobody has yet. `publish` gives the events their ids and writes them
//!    as one block behind the end of the log (`positions`; with `--data`, `writer` and `disk`). With `--sync` it waits for
//!    the disk. Then they may be heard.
//! 5. The answer has the ids. The hub wakes the pump.
//! 6. `pump` takes the channel, and a `turn` copies the new bytes once and gives them to each `subscriber`, whose `framing`
//!    wraps them. What a socket does not take stays in the log, and the position stays with the subscriber.
//!
//! # A walk: a GET
//!
//! 1. As above, up to the route. If the client prefers HTML, it gets the chat page (`pages`).
//! 2. `hub` looks up the channel, and `positions` finds the place: now, the oldest event kept, or behind an id.
//! 3. `state` makes the connection a subscriber: the head and the prelude are written, the thread is free, and the socket
//!    stands in the list with its position.
//! 4. From then on a turn is all that happens. A replay is a turn from an earlier place, a slow reader is one from where it
//!    stopped, and a poll ends with its first one.
//! 5. The heartbeat (`pump`) looks for sockets that are closed, and writes `:ping` if nothing else was written for a while.
//!
//! Words to search for in an audit: `Limit:` (what bounds a peer), `Deviation:` (from a standard), `Shortcut:` (what
//! was left simple on purpose).
//!
//! # A server in a program of yours
//!
//! ```no_run
//! use tincan::{Config, Event, Server};
//!
//! let server = Server::bind(Config { listen: Some(([127, 0, 0, 1], 0).into()), ..Config::default() })?;
//! println!("http://{}/kitchen", server.local_addr()?);
//! let hub = server.hub().clone();
//! std::thread::spawn(move || server.run());
//! let ids = hub.publish("kitchen", &[Event::new("soup is ready")]);
//! # Ok::<(), std::io::Error>(())
//! ```
#![forbid(unsafe_code)]

// What a program may use is named at the end. The rest is public for the program in `main.rs` and for tests.
#[doc(hidden)]
pub mod wire;
#[doc(hidden)]
pub mod system;
#[doc(hidden)]
pub mod config;
pub mod log;
pub mod channel;
pub mod server;
pub mod wings;
#[doc(hidden)]
pub mod flags;

pub use channel::hub::Hub;
pub use config::Config;
pub use server::accept::Server;
pub use wire::event::Event;

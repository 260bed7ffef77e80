//! **tincan** is a server for Server-Sent Events: a channel is a URL; what you POST to it, everyone who GETs it hears.
//!
//! Begin with `seed.rs`, the idea in a hundred lines. This page is the guide to the rest of the source. It states the
//! one idea and the words, lists the files in reading order, and follows a POST and a GET through them. A program that
//! embeds the server needs only [the last section](#embedding).
//!
//! # The one idea
//!
//! A channel is an append-only log of bytes, exactly as they go over the wire. A subscriber is a socket and a position
//! in that log. Everything else copies log bytes to sockets:
//!
//! - A new subscriber starts at the end of the log.
//! - A replay starts at an earlier position.
//! - A slow subscriber continues at the byte where its socket was full, even in the middle of an event.
//! - A poll ends after the first events.
//! - With `--data` the log is in files, so it survives a restart.
//!
//! No subscriber has a queue. It has a buffer only for the rest of bytes that it alone receives, such as its response
//! head. A replay and a live event use the same code.
//!
//! # Words
//!
//! - A *client* is any program that connects. A *publisher* sends events to a channel. A *subscriber* receives them.
//! - A *block* is some lines and the blank line that ends them. Each event is a block. A *unit* is what one POST
//!   writes: one or more blocks.
//! - A *position* is a place in a log: a number of bytes. Position 0 is the oldest byte that was kept when the log was
//!   opened.
//! - A *remote log* keeps a channel's events outside this process. The channel has a copy of it.
//! - The *prelude* is the first block that a subscriber gets. It holds the id from which a reconnecting client resumes.
//! - The *hub* has all channels by their names. The *pump* is the thread that writes new events to subscribers.
//! - In a *turn* each subscriber of one channel gets its next piece of the log.
//! - A *refusal* is a response with an error status. All refusals are in tables; the core's is in `reject`.
//! - The *core* is a whole server. A *wing* is an optional part, such as WebSocket. A *door* is where a wing connects
//!   to the core.
//!
//! Three more words say how far an event has come: *written*, *heard* and *pumped*. `channel/mod.rs` defines them, and
//! the order in which locks are taken.
//!
//! # The files, in reading order
//!
//! The first chapter is `seed.rs`, the smallest server of this kind. `static/lessons/seed.md` has a table of what
//! breaks in it. Each row of the table names the file below that mends the fault. The seed is an example of Cargo, and
//! no part of the library. So is `judge/`, which tests any server of event streams from outside.
//!
//! A file imports only from files above it, and a test checks that. A `mod.rs` comes after the files that it lists.
//!
//! | folder | files | contents |
//! |---|---|---|
//! | `system/` | `report` `threads` `time` `limits` `memory` `listener` | what the operating system provides |
//! | `wire/` | `reject` `id` `percent` `base64` `event` `http` `chunked` | what bytes mean; no sockets and no files |
//! | | `config` | the settings of a server |
//! | `log/` | `recovery` `disk` `part` `writer` `positions` | the bytes of a channel, in memory or in files |
//! | `channel/` | `framing` `watch` `subscriber` `state` `publish` `turn` `hub` `pump` | publishers and subscribers |
//! | `server/` | `pages` `gate` `connection` `doors` `route` `accept` | connections, access checks, and responses |
//! | `wings/` | `trace` `lessons` `lab` `websocket` `address` `redis` | optional parts, each a feature of Cargo |
//! | | `flags`, `main` | the command line and the start |
//!
//! Everything outside `wings/` is the core. Its doors are in `server/doors.rs`, and where a comment says `Door:`. No
//! file of the core names a wing, except this guide and the command line. `wings/mod.rs` lists all wings.
//!
//! An auditor can search for fixed words. `Limit:` marks a bound on memory, time or a number. `Deviation:` marks a
//! difference from a standard. `Shortcut:` marks a simplification that was chosen. `Deliberately absent:` names what a
//! file leaves to others. A file that is *pure* uses no socket, no file, no clock and no lock.
//!
//! # What a POST does
//!
//! 1. A thread, the *leader*, waits in `accept`. When it gets a connection, it starts the next leader. Then it reads
//!    the head of the request (`connection`). `http` finds the end of the head, checks it and parses it.
//! 2. `route` asks `gate` whether the host name, the web page and the token are allowed. Then it asks each wing whether
//!    the request belongs to it. If none claims it, and if the path names a channel, `route` checks the rest of the
//!    head. The head alone may decide that the request is refused. The body is still read before the refusal is sent,
//!    unless the client waits for `100 Continue`.
//! 3. `connection` reads the body. If the body is in chunks, `chunked` joins them. `event` turns the body into events.
//! 4. `hub` finds the channel, and opens its log if it is not open yet. `publish` gives each event an id, and appends
//!    all of them to the log at once (`positions`; with `--data` also `writer` and `disk`). With `--sync` it waits for
//!    the disk. Then subscribers may receive the events.
//! 5. The hub wakes the pump. The publisher gets a response that lists the ids.
//! 6. `pump` runs a `turn` of the channel. The turn copies the new bytes once, and writes them to the socket of each
//!    `subscriber`. A `framing` wraps them, for example in chunks. If a socket does not take all bytes, the
//!    subscriber's position stays at the first byte that is left.
//!
//! # What a GET does
//!
//! 1. The steps up to `route` are the same. A client that prefers HTML gets the chat page (`pages`).
//! 2. `hub` finds the channel, and `positions` finds where the subscriber starts: at the end of the log, at the oldest
//!    event, or after a given id.
//! 3. `state` makes the connection a subscriber. It writes the response head and the prelude, and adds the socket and
//!    its position to the channel's list. The thread is free again.
//! 4. From then on turns write everything that the subscriber gets. A poll ends after the events that are there
//!    already, else after the first new ones or when its time is over.
//! 5. The heartbeat thread (in `pump.rs`) looks for closed sockets. It writes `:ping` to a subscriber that got no bytes
//!    for a while.
//!
//! # Embedding
//!
//! A program can start a server of its own, and publish without HTTP:
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

// A program uses the four items at the end. The modules are public only for `main.rs` and for the tests.
#[doc(hidden)]
pub mod system;
#[doc(hidden)]
pub mod wire;
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

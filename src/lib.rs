//! **tincan**: a channel is a URL; what you POST to it, everyone who GETs it hears.
//!
//! # The one idea
//!
//! A channel is an append-only log of bytes, exactly as they go on the wire. A subscriber is a socket and a position in
//! that log. Everything else is copying log bytes to a socket.
//!
//! # The rooms, in reading order
//!
//! A file imports only from files of a lower rank.
//!
//! | rank | file | its one job |
//! |---|---|---|
//! | 0 | `reject.rs` | the refusal table: status, rule, and a line for the person |
//! | 0 | `limits.rs` | what the system lets this process have |
//! | 0 | `listener.rs` | the listening socket |
//! | 0 | `report.rs` | what the owner is told on standard error |
//! | 0 | `id.rs` | an event's id; pure |
//! | 0 | `base64.rs` | base64, for Basic credentials, tokens in them, and the WebSocket handshake; pure |
//! | 0 | `sha1.rs` | SHA-1, for the WebSocket handshake; pure |
//! | 0 | `percent.rs` | percent-encoding, undone; pure |
//! | 0 | `pages.rs` | what `static/` holds, embedded |
//! | 1 | `http.rs` | bytes to `Request`, response heads; pure, no sockets |
//! | 1 | `secrets.rs` | what must never be shown, and how a terminal is shown the rest; pure |
//! | 1 | `event.rs` | `Event` to and from event-stream bytes; pure |
//! | 1 | `resp.rs` | the protocol of Redis: commands to bytes, bytes to replies; pure |
//! | 2 | `flags.rs` | arguments and environment to `Config`; the help text |
//! | 2 | `disk.rs` | a directory of logs: its lock, its files, all or nothing |
//! | 2 | `recovery.rs` | what stands in a file after a crash: whole, unfinished, with a hole, or damaged |
//! | 2 | `ws.rs` | WebSocket: its handshake, and frames to and from bytes; pure |
//! | 2 | `stream.rs` | the entries of a Redis stream, and the events that they are; pure |
//! | 3 | `gate.rs` | who may: `Host`, `Origin`, CORS, tokens |
//! | 3 | `writer.rs` | what appends to a channel's files, and begins the next one |
//! | 3 | `framing.rs` | how the transport of one subscriber wraps log bytes; pure |
//! | 3 | `explain.rs` | a connection's bytes, line by line, for a person; pure |
//! | 4 | `log.rs` | the append-only bytes: positions, memory, files, trimming |
//! | 4 | `lessons.rs` | the lessons: files of `static/lessons/` to scripts, and their player |
//! | 4 | `trace.rs` | what watches a connection's bytes |
//! | 5 | `duplex.rs` | a socket that one thread reads while others write to it |
//! | 5 | `connection.rs` | one client: requests in time, answers out |
//! | 6 | `subscriber.rs` | a socket and a position: what it takes, when it is gone |
//! | 7 | `channel.rs` | one log and its subscribers: publish, give, check |
//! | 8 | `redis.rs` | connections to Redis: round trips that many threads share |
//! | 9 | `cluster.rs` | a Redis stream behind a channel: open, publish, what may be missing |
//! | 10 | `follower.rs` | the thread that hears of news in Redis, for all channels |
//! | 11 | `hub.rs` | all channels: pump, heartbeat, metrics |
//! | 12 | `lab.rs` | the wire lab: taps, which make channels of connections, and their plugs |
//! | 12 | `websocket.rs` | a WebSocket's connection: what its client sends, and how it ends |
//! | 13 | `server.rs` | accept, and which handler |
//! | 14 | `lib.rs`, `main.rs` | this guide; flags, bind, run |
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

pub mod wire;
pub mod system;
pub mod config;
pub mod log;
pub mod channel;
pub mod server;
pub mod wings;
pub mod flags;

pub use channel::hub::Hub;
pub use config::Config;
pub use server::accept::Server;
pub use wire::event::Event;

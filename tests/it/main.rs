//! All integration tests, as one binary: the real program, real sockets, exact bytes.
#![forbid(unsafe_code)]

mod address;
mod browser;
mod cli;
mod cluster;
mod data;
mod eventsource;
mod faults;
mod gate;
mod harness;
mod hostile;
mod hostile_redis;
mod http;
mod lab;
mod lab_page;
mod lessons;
mod listen;
mod outage;
mod props;
mod proxies;
mod publish;
mod readme;
mod redis;
mod redis_soak;
mod resp;
mod small;
mod soak;
mod socket;
mod tabs;
mod tidy;
mod tokens;
mod trace;
mod ways;
mod websocket;
mod words;
mod ws;

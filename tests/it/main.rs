//! All integration tests, as one binary: the real program, real sockets, exact bytes.
//!
//! A wing's tests are in the folder of its name, and are removed with it. A test that needs a second wing checks for
//! it with [`support::has`].
#![forbid(unsafe_code)]

mod core;
mod deploy;
mod pages;
mod support;

#[cfg(feature = "websocket")]
mod websocket;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "trace")]
mod trace;
#[cfg(feature = "lessons")]
mod lessons;
#[cfg(feature = "lab")]
mod lab;
#[cfg(feature = "address")]
mod address;

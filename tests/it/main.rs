//! All integration tests, as one binary: the real program, real sockets, exact bytes.
#![forbid(unsafe_code)]

mod gate;
mod harness;
mod http;
mod listen;
mod publish;

#![doc = include_str!("README.md")]
//!
//! The server: its pages, access to it, the connection of one client, and the response to a request.

pub mod pages;
pub mod gate;
pub mod connection;
pub mod doors;
pub mod route;
pub mod accept;

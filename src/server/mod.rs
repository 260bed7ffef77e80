#![doc = include_str!("README.md")]
//! Who may, one connection, and which answer.

pub mod pages;
pub mod gate;
pub mod connection;
pub mod doors;
pub mod route;
pub mod accept;

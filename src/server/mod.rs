//! Who may, one connection, and which answer.

pub mod connection;
pub mod gate;
pub mod pages;
pub mod route;

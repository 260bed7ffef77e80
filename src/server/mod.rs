//! The server: the pages, who may publish and read, one client's connection, and which response a request gets.

pub mod pages;
pub mod gate;
pub mod connection;
pub mod doors;
pub mod route;
pub mod accept;

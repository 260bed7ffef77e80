//! tincan in use: behind proxies, in a container, with other clients, and as the README shows it.

pub mod backup;
pub mod board;
pub mod clients;
pub mod container;
pub mod manual;
pub mod proxies;
pub mod readme;
pub mod relays;
pub mod snippets;

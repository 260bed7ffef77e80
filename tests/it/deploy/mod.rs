//! tincan in use: behind proxies, with other clients, and as the README shows it.

pub mod clients;
pub mod proxies;
pub mod readme;
pub mod relays;
pub mod snippets;

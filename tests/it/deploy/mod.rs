//! tincan where it is used: behind proxies, with other clients, and as the README shows it.

pub mod clients;
pub mod proxies;
pub mod readme;
pub mod relays;
pub mod snippets;

//! The chat page, and the files that it shares with other pages, in real browsers.

pub mod access;
pub mod chat;
pub mod eventsource;
pub mod old_engine;
pub mod tabs;
pub mod words;

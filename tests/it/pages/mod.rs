//! The chat page, and what its folders share with others, in real browsers.

pub mod access;
pub mod chat;
pub mod eventsource;
pub mod old_engine;
pub mod tabs;
pub mod words;

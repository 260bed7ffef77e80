//! `--trace`.

pub mod lines;

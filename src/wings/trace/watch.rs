//! What watches a connection's bytes, in and out: `--trace` shows them to who runs the server (`explain.rs`), and a *tap*
//! makes events of them (`lab.rs`), which the lab page shows.
//!
//! No credentials: the value of a field that carries them is masked.
//! Shortcut: with `--trace`, a standard error that nobody reads holds everything up.

use crate::system::report::report;
use crate::wings::trace::explain::Explainer;
use crate::wings::trace::secrets::{Secrets, is_credential};
use std::env::var_os;
use std::io::{self, IsTerminal, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Hears what is said on one connection.
pub trait Tap: Send {
    /// The client sent this. Waits for nobody.
    fn heard(&self, bytes: &[u8]);

    /// Sends the client this, and hears how much of it the socket took.
    ///
    /// # Errors
    /// As the socket has them.
    fn write(&self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize>;
}

/// `--trace`: numbers connections, and has each of them explained on standard error.
pub struct Tracer {
    count: AtomicU64, // the number of the next connection
    color: bool,
    secrets: Arc<Secrets>,
}

impl Tracer {
    /// In colour on a terminal that has some, and where nobody said otherwise (no-color.org).
    pub fn new(secrets: Secrets) -> Tracer {
        let says = |name: &str| var_os(name).unwrap_or_default();
        let color = io::stderr().is_terminal() && says("NO_COLOR").is_empty() && says("TERM") != "dumb";
        Tracer { count: AtomicU64::new(1), color, secrets: Arc::new(secrets) }
    }

    /// For the next connection.
    pub fn trace(&self) -> Trace {
        let number = self.count.fetch_add(1, Relaxed);
        let explainer = Explainer::new(number, self.color, self.secrets.clone());
        Trace { tap: None, explainer: Some(Box::new(explainer)) }
    }
}

/// What watches a connection; by default, nothing does.
#[derive(Default)]
pub struct Trace {
    /// A tap, for as long as the connection's requests are its.
    pub tap: Option<Box<dyn Tap>>,
    explainer: Option<Box<Explainer>>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.explain(Explainer::end);
    }
}

impl Trace {
    /// Whether anything watches.
    pub fn watches(&self) -> bool {
        self.tap.is_some() || self.explainer.is_some()
    }

    /// Has a tap, from a request on of which the head was read.
    pub fn tap(&mut self, tap: Box<dyn Tap>, head: &[u8]) {
        self.tap.insert(tap).heard(&masked(head));
    }

    /// The client sent this.
    pub fn received(&mut self, bytes: &[u8]) {
        self.explain(|explainer| explainer.received(bytes));
    }

    /// It was of this request's body.
    pub fn heard(&mut self, bytes: &[u8]) {
        self.tap.iter().for_each(|tap| tap.heard(bytes));
    }

    /// Sends the client this; returns how many bytes the socket took.
    ///
    /// # Errors
    /// As the socket has them.
    pub fn write(&mut self, mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let taken = match &self.tap {
            Some(tap) => tap.write(stream, bytes),
            None => stream.write(bytes),
        }?;
        let sent = bytes.get(..taken).unwrap_or_default();
        self.explain(|explainer| explainer.sent(sent));
        Ok(taken)
    }

    /// Shows whole lines together, so that those of several connections do not mix.
    fn explain(&mut self, lines: impl FnOnce(&mut Explainer) -> String) {
        if let Some(lines) = self.explainer.as_deref_mut().map(lines).filter(|lines| !lines.is_empty()) {
            report(lines);
        }
    }
}

/// A head without the credentials in it.
fn masked(head: &[u8]) -> Vec<u8> {
    let lines = head.split_inclusive(|&b| b == b'\n').map(|line| {
        let name = line.split(|&b| b == b':').next().unwrap_or_default();
        if is_credential(name) { [name, b": (not shown)\r\n"].concat() } else { line.into() }
    });
    lines.flatten().collect()
}

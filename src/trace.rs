//! What watches a connection's bytes, in and out: `--trace` shows them to who runs the server (`explain.rs`), and a *tap*
//! makes events of them, which the lab page shows.
//!
//! ```text
//! event: in
//! data: {"connection":7,"at":1763654400123.456,"bytes":"GET /kitchen?tap=x HTTP/1.1\r\nHost: …"}
//! ```
//!
//! `in` is what the client sent, `out` what it was sent, each as it was read or written; at last comes `end`. `at` is in
//! milliseconds since 1970. In `bytes` each character stands for one byte, so that all of them survive JSON.
//!
//! Limits: `PIECE`. No credentials: the value of a field that carries them is masked.
//! Shortcut: with `--trace`, a standard error that nobody reads holds everything up.

use crate::explain::Explainer;
use crate::report::report;
use crate::secrets::{Secrets, is_credential};
use std::env::var_os;
use std::fmt::Debug;
use std::io::{self, IsTerminal, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// Limit: bytes in one event of a tap.
const PIECE: usize = 4096;

/// Who hears of a tapped connection.
pub trait Hear: Debug + Send {
    /// An event of this name and data.
    fn hear(&self, name: &str, data: String);
}

/// Tells of one connection.
#[derive(Debug)]
pub struct Tap {
    /// Its number.
    pub connection: u64,
    /// Whom.
    pub to: Box<dyn Hear>,
}

impl Tap {
    fn tell(&self, name: &str, bytes: &[u8]) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let mut data = format!("{{\"connection\":{},\"at\":{}.{:03}", self.connection, at / 1000, at % 1000);
        if !bytes.is_empty() {
            data += ",\"bytes\":\"";
            for &byte in bytes {
                match byte {
                    b'\r' => data += "\\r",
                    b'\n' => data += "\\n",
                    b'"' | b'\\' => data.extend(['\\', byte.into()]),
                    b' '..=b'~' => data.push(byte.into()),
                    _ => data += &format!("\\u{byte:04x}"),
                }
            }
            data.push('"');
        }
        data.push('}');
        self.to.hear(name, data);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.tell("end", b"");
    }
}

/// `--trace`: numbers connections, and has each of them explained on standard error.
#[derive(Debug)]
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
#[derive(Debug, Default)]
pub struct Trace {
    tap: Option<Tap>,
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

    /// A tap, from a request on of which the head was read.
    pub fn tap(&mut self, tap: Tap, head: &[u8]) {
        self.tap.insert(tap).tell("in", &masked(head));
    }

    /// The next request is not of the tap.
    pub fn untap(&mut self) {
        self.tap = None;
    }

    /// The client sent this.
    pub fn received(&mut self, bytes: &[u8]) {
        self.explain(|explainer| explainer.received(bytes));
    }

    /// It was of this request's body.
    pub fn heard(&self, bytes: &[u8]) {
        self.told("in", bytes);
    }

    /// Sends the client this; returns how many bytes the socket took.
    ///
    /// # Errors
    /// As the socket has them.
    pub fn write(&mut self, mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let taken = stream.write(bytes)?;
        let sent = bytes.get(..taken).unwrap_or_default();
        self.explain(|explainer| explainer.sent(sent));
        self.told("out", sent);
        Ok(taken)
    }

    /// Shows whole lines together, so that those of several connections do not mix.
    fn explain(&mut self, lines: impl FnOnce(&mut Explainer) -> String) {
        if let Some(lines) = self.explainer.as_deref_mut().map(lines).filter(|lines| !lines.is_empty()) {
            report(lines);
        }
    }

    fn told(&self, name: &str, bytes: &[u8]) {
        self.tap.iter().for_each(|tap| bytes.chunks(PIECE).for_each(|piece| tap.tell(name, piece)));
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

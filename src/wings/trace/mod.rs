#![doc = include_str!("README.md")]
//!
//! The trace: `--trace` shows every connection's bytes on standard error, each line with a note that explains it
//! (`explain.rs`).
//!
//! The trace shows no credentials: it masks the value of a field that carries them.
//! Shortcut: if nobody reads standard error, all writes to clients wait.

pub mod stream;
pub mod secrets;
pub mod explain;

use crate::channel::watch::{Frames, Watch};
use crate::config::{option, switch};
use crate::server::doors::{Wing, WingTables};
use crate::system::report::report;
use crate::system::threads::count_one;
use crate::wings::trace::explain::Explainer;
use crate::wings::trace::secrets::{Secrets, is_credential};
use std::env::var_os;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex};

/// The rows that this wing adds to the tables of the core.
pub const TABLES: WingTables = WingTables {
    options: &[option(
        "trace",
        "",
        "show every connection's bytes on stderr, each line with what it is",
        |config, on| switch(on).map(|on| config.wing_options.set("trace", if on { "1" } else { "" })),
    )],
    ..WingTables::new(|app| {
        let on = app.hub.config().wing_options.get("trace") == Some("1");
        let secrets = Arc::new(Secrets::new(app.tokens.all()));
        // In colour on a terminal that has colours, unless NO_COLOR is set (no-color.org).
        let variable = |name: &str| var_os(name).unwrap_or_default();
        let color = io::stderr().is_terminal() && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb";
        Ok(Box::new(Trace { on, count: Mutex::default(), color, secrets }))
    })
};

/// Numbers the connections, and shows their bytes on standard error.
struct Trace {
    on: bool,
    count: Mutex<u64>, // connections so far
    color: bool,
    secrets: Arc<Secrets>,
}

impl Wing for Trace {
    fn start_note(&self) -> Option<&'static str> {
        let note = "trace: from here on this shows what is asked for and what is published, but no token";
        self.on.then_some(note)
    }

    fn watch(&self) -> Option<Box<dyn Watch>> {
        let watcher = || TraceWatcher(Explainer::new(count_one(&self.count), self.color, self.secrets.clone()));
        self.on.then(|| Box::new(watcher()) as _)
    }
}

/// Shows the bytes of one connection.
struct TraceWatcher(Explainer);

/// Writes lines to standard error. They are written together, so that lines of several connections do not mix.
fn show(lines: String) {
    if !lines.is_empty() {
        report(lines);
    }
}

impl Watch for TraceWatcher {
    fn received(&mut self, bytes: &[u8]) {
        show(self.0.received(bytes));
    }

    fn send(&mut self, bytes: &[u8], write: &mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize> {
        let taken = write()?;
        show(self.0.sent(bytes.get(..taken).unwrap_or_default()));
        Ok(taken)
    }

    fn frames(&mut self, reader: &dyn Fn(bool) -> Box<dyn Frames>) {
        self.0.frames(reader(true), reader(false));
    }
}

impl Drop for TraceWatcher {
    fn drop(&mut self) {
        show(self.0.end());
    }
}

/// Returns a head in which the values of fields with credentials are masked.
pub fn without_credentials(head: &[u8]) -> Vec<u8> {
    let lines = head.split_inclusive(|&b| b == b'\n').map(|line| {
        let name = line.split(|&b| b == b':').next().unwrap_or_default();
        if is_credential(name) { [name, b": (not shown)\r\n"].concat() } else { line.into() }
    });
    lines.flatten().collect()
}

#![doc = include_str!("README.md")]
//!
//! Redis: the log of each channel is a Redis stream, which many nodes share.

pub mod resp;
pub mod stream;
pub mod pipe;
pub mod node;
pub mod follower;

use crate::config::{Config, Opt, check};
use crate::server::doors::{App, Wing, WingTables};
use crate::system::report::report;
use crate::system::threads::spawn;
use crate::wings::redis::node::{Node, TABLE};
use crate::wings::redis::resp::{Address, MAX_STRING};
use std::io;
use std::sync::Arc;

/// The form of the value of `--redis`.
const EXPECTED: &str = "HOST:PORT, or redis://USER:PASSWORD@HOST:PORT/DB, percent-encoded";

/// The rows that this wing adds to the tables of the core.
pub const TABLES: WingTables = WingTables {
    options: &[Opt {
        name: "redis",
        value: "HOST:PORT",
        help: "keep the logs in Redis Streams, and share them with every other node",
        set: |config, value| {
            config.wing_options.set("redis", value);
            check(Address::parse(value).is_some(), EXPECTED)
        },
        secret: true,
    }],
    check: check_options,
    refusals: TABLE,
    ..WingTables::new(open)
};

/// Checks that the other options agree with `--redis`.
fn check_options(config: &Config) -> Result<(), String> {
    let Some(address) = config.wing_options.get("redis") else { return Ok(()) };
    check(Address::parse(address).is_some(), EXPECTED).map_err(|expected| format!("redis: give {expected}"))?;
    if config.max_body as u64 > MAX_STRING {
        return Err("--redis takes no string over 512M; give a smaller --max-body".into());
    }
    if config.data.is_some() {
        return Err("--redis and --data both keep the logs; leave one of them out".into());
    }
    Ok(())
}

fn open(app: &Arc<App>) -> io::Result<Box<dyn Wing>> {
    let config = app.hub.config();
    let Some(address) = config.wing_options.get("redis").and_then(Address::parse) else {
        return Ok(Box::new(Redis(None)));
    };
    let node = Arc::new(Node::new(address, config, app.clone()));
    app.hub.set_remote_log(node.clone());
    Ok(Box::new(Redis(Some(node))))
}

/// The node. None without `--redis`.
struct Redis(Option<Arc<Node>>);

impl Wing for Redis {
    fn run(&self) {
        let Some(node) = self.0.clone() else { return };
        if spawn("follower", Box::new(move || node.follow())).is_err() {
            report("tincan: no thread can be had to follow Redis with; start the server again".into());
        }
    }
}

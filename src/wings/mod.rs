//! The list of doors: the optional parts of the server. Each wing is a folder, a feature, and a line of this list.
//!
//! The core asks the wings in the order of the list. A wing that watches connections comes before one that serves
//! requests.

#[cfg(feature = "trace")]
pub mod trace;
#[cfg(feature = "lessons")]
pub mod lessons;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "websocket")]
pub mod websocket;
#[cfg(feature = "address")]
pub mod address;
#[cfg(feature = "redis")]
pub mod redis;

use crate::config::Config;
use crate::server::accept::Server;
use crate::server::doors::Door;
use std::io;

/// Makes a line of the list: the wing, if its feature is on, and the words that belong to it.
macro_rules! door {
    ($name:tt $module:ident options $options:tt parameters $parameters:tt paths $paths:tt fields $fields:tt) => {
        Door {
            name: $name,
            options: &$options,
            parameters: &$parameters,
            paths: &$paths,
            fields: &$fields,
            #[cfg(feature = $name)]
            wing: Some(&$module::TABLES),
            #[cfg(not(feature = $name))]
            wing: None,
        }
    };
}

/// The list.
pub const DOORS: &[Door] = &[
    door!("trace" trace options ["trace"] parameters [] paths [] fields []),
    door!("lab" lab options [] parameters ["tap"] paths ["lab"] fields []),
    door!("lessons" lessons options [] parameters [] paths ["lessons"] fields []),
    door!("websocket" websocket options [] parameters [] paths [] fields [("sec-websocket-key", ""), ("upgrade", "websocket")]),
    door!("address" address options [] parameters ["to", "except"] paths [] fields []),
    door!("redis" redis options ["redis"] parameters [] paths [] fields []),
];

impl Server {
    /// Binds the listening socket, opens the logs and the wings of this build, and starts the hub's threads. No
    /// connection is served before [`Server::run`].
    ///
    /// # Errors
    /// If the address is not available; if `-` is given and standard input is not a listening socket; if `--data`,
    /// `--redis` or `--token-file` cannot be used. Each error is a message for the operator.
    pub fn bind(config: Config) -> io::Result<Server> {
        Server::bind_with(config, DOORS)
    }
}

//! The list of doors: what can be left out of a build. Each wing is a folder, a feature, and a line of the list.
//!
//! The wings are asked in the order of the list, so one that watches stands before one that claims a request.

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

/// A line of the list: the wing, if its feature is on, and the words that are its alone.
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
    /// Binds the listening socket, opens the logs and the wings of this build, and starts the hub's threads. Nothing is
    /// answered before [`Server::run`].
    ///
    /// # Errors
    /// If the address cannot be had; if `-` is given and standard input is no listening socket; if `--data`, `--redis` or
    /// `--token-file` cannot be used. Each in words for a person.
    pub fn bind(config: Config) -> io::Result<Server> {
        Server::bind_with(config, DOORS)
    }
}

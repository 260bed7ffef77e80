//! Doors: how an optional part of the server (a *wing*) is connected to the core.
//!
//! A [`Door`] is an entry of the list in `wings/mod.rs`. It names the options, parameters, paths and fields that
//! belong to one wing. A build without that wing refuses them. [`WingTables`] are the rows that a wing adds to the
//! tables of the core. A [`Wing`] is its behaviour in one server. The core asks all wings, in the order of the list.

use crate::channel::hub::Hub;
use crate::channel::publish::Audience;
use crate::channel::watch::Watch;
use crate::config::{Config, Opt};
use crate::server::connection::{Connection, Response};
use crate::server::gate::Tokens;
use crate::server::pages::File;
use crate::system::limits::Slot;
use crate::wire::http::Request;
use crate::wire::reject::{CONNECTIONS, NO_WING, NO_WING_HERE, Reject};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// An entry of the list of doors.
pub struct Door {
    /// The name of the wing, of its folder, and of its feature.
    pub name: &'static str,
    /// The names of its options.
    pub options: &'static [&'static str],
    /// The names of its parameters in a query.
    pub parameters: &'static [&'static str],
    /// The first segments of its paths. No channel has such a name.
    pub paths: &'static [&'static str],
    /// Its request fields: a name, and the list member that belongs to the wing. Empty: any value.
    pub fields: &'static [(&'static str, &'static str)],
    /// The wing. None if it is not in this build.
    pub wing: Option<&'static WingTables>,
}

/// The rows that a wing adds to the tables of the core.
pub struct WingTables {
    /// Its options.
    pub options: &'static [Opt],
    /// Checks the options. The error is a message for the operator.
    pub check: fn(&Config) -> Result<(), String>,
    /// Its refusals.
    pub refusals: &'static [Reject],
    /// The files of its pages.
    pub files: &'static [File],
    /// The links to its pages, as lines of the chat page.
    pub link: &'static str,
    /// Opens the wing for a server.
    pub open: fn(&Arc<App>) -> io::Result<Box<dyn Wing>>,
}

impl WingTables {
    /// Creates tables that are empty but for `open`.
    pub const fn new(open: fn(&Arc<App>) -> io::Result<Box<dyn Wing>>) -> WingTables {
        WingTables { options: &[], check: |_| Ok(()), refusals: &[], files: &[], link: "", open }
    }
}

/// A wing in one server. Each function is a door; by default it does nothing.
pub trait Wing: Send + Sync {
    /// Returns a line that warns the operator at the start, if there is a reason.
    fn start_note(&self) -> Option<&'static str> {
        None
    }

    /// Is called once, just before the server accepts connections.
    fn run(&self) {}

    /// Returns a watcher for a connection that was just accepted, or none.
    fn watch(&self) -> Option<Box<dyn Watch>> {
        None
    }

    /// Returns a refusal if a request does more than read, even with GET. A URL that can only be read responds with it.
    fn more_than_read(&self, _req: &Request) -> Option<Reject> {
        None
    }

    /// Looks at a request that has passed all checks. Returns a route if this wing serves the request. It may also
    /// add a watcher to the connection.
    ///
    /// # Errors
    /// The refusal, if the wing refuses the request.
    fn request(
        &self, _app: &Arc<App>, _req: &Request, _head: &[u8], _connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        Ok(None)
    }

    /// Returns the text after the channel's name in the prelude, for the subscriber with this key.
    fn prelude_suffix(&self, _key: u64) -> String {
        String::new()
    }

    /// Returns the audience of an event that another server has published with this field. None if the field does not
    /// belong to this wing.
    fn audience(&self, _name: &str, _value: &str) -> Option<Box<dyn Audience>> {
        None
    }
}

/// How a request is served.
pub enum Route {
    /// A response that depends on the head alone.
    Response(Response),
    /// A function that needs the body.
    Handler(Handler),
}

/// Serves a request, once its body is there.
pub type Handler = Box<dyn FnOnce(&Request, Vec<u8>, &mut Connection) -> Result<Outcome, Reject>>;

/// The result of a handler.
pub enum Outcome {
    /// It has made this response, which is still to be sent.
    Response(Response),
    /// The connection goes to this function. No further request is read from it.
    TakenOver(Takeover),
    /// It has sent everything itself. The connection is to be closed.
    Sent,
}

/// Takes over a connection and its slot.
pub type Takeover = Box<dyn FnOnce(Connection, Slot)>;

/// The state that all connections of a server share.
pub struct App {
    /// The channels.
    pub hub: Arc<Hub>,
    /// The tokens of `--token-file`.
    pub tokens: Tokens,
    doors: &'static [Door],
    wings: OnceLock<Vec<Box<dyn Wing>>>,
}

impl App {
    /// Creates it, and opens the wings.
    ///
    /// # Errors
    /// If a wing cannot be opened.
    pub fn new(hub: Arc<Hub>, tokens: Tokens, doors: &'static [Door]) -> io::Result<Arc<App>> {
        let app = Arc::new(App { hub, tokens, doors, wings: OnceLock::new() });
        let wings = app.tables().map(|tables| (tables.open)(&app)).collect::<io::Result<_>>()?;
        let _ = app.wings.set(wings);
        Ok(app)
    }

    /// Returns the tables of the wings in this build.
    pub fn tables(&self) -> impl Iterator<Item = &'static WingTables> + use<> {
        self.doors.iter().filter_map(|door| door.wing)
    }

    /// Returns the wings in this build.
    pub fn wings(&self) -> impl Iterator<Item = &dyn Wing> {
        self.wings.get().into_iter().flatten().map(|wing| &**wing)
    }

    /// Asks the wings for the audience of an event of another server, see [`Wing::audience`].
    pub fn audience(&self, name: &str, value: &str) -> Option<Box<dyn Audience>> {
        self.wings().find_map(|wing| wing.audience(name, value))
    }

    /// Counts a further connection of this client, for code that holds a second descriptor.
    ///
    /// # Errors
    /// [`CONNECTIONS`] if there is no room for it.
    pub fn extra_connection(&self, client: IpAddr) -> Result<Slot, Reject> {
        let (slot, has_room) = self.hub.connect(client);
        has_room.then_some(slot).ok_or(CONNECTIONS)
    }

    /// Returns whether a parameter belongs to a wing. [`App::check_wings`] has refused those of wings that are not in
    /// the build.
    pub fn knows_parameter(&self, parameter: &str) -> bool {
        self.doors.iter().any(|door| door.parameters.contains(&parameter))
    }

    /// Refuses a request for a wing that is not in this build. The refusal names the wing.
    ///
    /// # Errors
    /// [`NO_WING_HERE`] if the path belongs to the wing, else [`NO_WING`].
    pub fn check_wings(&self, req: &Request, connection: &mut Connection) -> Result<(), Reject> {
        let path = req.path.strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or_default();
        for door in self.doors.iter().filter(|door| door.wing.is_none()) {
            let is_path = door.paths.contains(&path);
            let is_present = |&(name, member): &(&str, &str)| {
                if member.is_empty() { req.field_bytes(name).is_some() } else { req.list_has(name, member) }
            };
            let is_asked =
                door.fields.iter().any(is_present) || req.params().any(|pair| door.parameters.contains(&pair.0));
            // An OPTIONS is a preflight: it only asks whether a later request is allowed.
            if is_path || (is_asked && req.method != "OPTIONS") {
                connection.refusal_detail = door.name.into();
                return Err(if is_path { NO_WING_HERE } else { NO_WING });
            }
        }
        Ok(())
    }
}

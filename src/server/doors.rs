//! Doors: how what can be left out of a build comes into a server.
//!
//! A [`Door`] is a line of the list of doors (`wings/mod.rs`). It names the words of requests and of the command line that are
//! a wing's alone, so that they are refused if the wing is not in the build. [`WingTables`] are what it adds to the core's tables. A
//! [`Wing`] is what it does for one server. The core asks all wings, in the order of the list.

use crate::channel::hub::Hub;
use crate::channel::publish::Audience;
use crate::channel::subscriber::Slot;
use crate::channel::watch::Watch;
use crate::config::{Config, Opt};
use crate::server::connection::{Connection, Response};
use crate::server::gate::Tokens;
use crate::server::pages::File;
use crate::wire::http::Request;
use crate::wire::reject::{CONNECTIONS, NO_WING, NO_WING_HERE, Reject};
use std::io;
use std::sync::{Arc, OnceLock};

/// A line of the list of doors.
pub struct Door {
    /// The name of the wing: of its folder and its feature.
    pub name: &'static str,
    /// Its options.
    pub options: &'static [&'static str],
    /// Its parameters in a query.
    pub parameters: &'static [&'static str],
    /// What paths of its own begin with. No channel has such a name.
    pub paths: &'static [&'static str],
    /// Its fields of a request, each with the member that makes it the wing's, or any value.
    pub fields: &'static [(&'static str, &'static str)],
    /// The wing, if it is in the build.
    pub wing: Option<&'static WingTables>,
}

/// What a wing adds to the tables of the core.
pub struct WingTables {
    /// Options.
    pub options: &'static [Opt],
    /// What is wrong with the options together.
    pub check: fn(&Config) -> Result<(), String>,
    /// Refusals.
    pub refusals: &'static [Reject],
    /// Files of its pages.
    pub files: &'static [File],
    /// Lines of the chat page that lead to it.
    pub link: &'static str,
    /// Opens it for a server.
    pub open: fn(&Arc<App>) -> io::Result<Box<dyn Wing>>,
}

impl WingTables {
    /// Empty tables.
    pub const fn new(open: fn(&Arc<App>) -> io::Result<Box<dyn Wing>>) -> WingTables {
        WingTables { options: &[], check: |_| Ok(()), refusals: &[], files: &[], link: "", open }
    }
}

/// What a wing does for one server. Each function is a door, and by default nobody goes through it.
pub trait Wing: Send + Sync {
    /// What its owner may not expect, a line.
    fn start_note(&self) -> Option<&'static str> {
        None
    }

    /// The server begins to serve.
    fn run(&self) {}

    /// What watches a connection that was just accepted.
    fn watch(&self) -> Option<Box<dyn Watch>> {
        None
    }

    /// Whether a request asks for more than to read, though its method may be GET. Returns how it is refused by what can only be
    /// read.
    fn more_than_read(&self, _req: &Request) -> Option<Reject> {
        None
    }

    /// Is shown a request that may be made, and its head; may claim it.
    ///
    /// # Errors
    /// If it is refused.
    fn request(
        &self, _desk: &Arc<App>, _req: &Request, _head: &[u8], _connection: &mut Connection,
    ) -> Result<Option<Route>, Reject> {
        Ok(None)
    }

    /// What the prelude of the subscriber with this key says behind the channel's name.
    fn prelude_suffix(&self, _key: u64) -> String {
        String::new()
    }

    /// Another server has published an event with this field. Returns whom the event is for, if the wing knows the field.
    fn audience(&self, _name: &str, _value: &str) -> Option<Box<dyn Audience>> {
        None
    }
}

/// What a request asks for.
pub enum Route {
    /// Something to be read, which the head alone tells.
    Response(Response),
    /// What is done once the body is there.
    Handler(Handler),
}

/// Does what a request asks for, with its body.
pub type Handler = Box<dyn FnOnce(&Request, Vec<u8>, &mut Connection) -> Result<Outcome, Reject>>;

/// What a request gets.
pub enum Outcome {
    /// This answer.
    Response(Response),
    /// Somebody takes its connection over.
    TakenOver(Takeover),
    /// It was given all, to the end of its connection.
    Sent,
}

/// Takes a connection over, and its slot.
pub type Takeover = Box<dyn FnOnce(Connection, Slot)>;

/// What a server has beside its sockets.
pub struct App {
    /// The channels.
    pub hub: Arc<Hub>,
    /// Who may.
    pub tokens: Tokens,
    doors: &'static [Door],
    wings: OnceLock<Vec<Box<dyn Wing>>>,
}

impl App {
    /// A desk whose wings are open.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn new(hub: Arc<Hub>, tokens: Tokens, doors: &'static [Door]) -> io::Result<Arc<App>> {
        let app = Arc::new(App { hub, tokens, doors, wings: OnceLock::new() });
        let wings = app.tables().map(|tables| (tables.open)(&app)).collect::<io::Result<_>>()?;
        let _ = app.wings.set(wings);
        Ok(app)
    }

    /// The tables of the wings in this build.
    pub fn tables(&self) -> impl Iterator<Item = &'static WingTables> + use<> {
        self.doors.iter().filter_map(|door| door.wing)
    }

    /// The wings in this build.
    pub fn wings(&self) -> impl Iterator<Item = &dyn Wing> {
        self.wings.get().into_iter().flatten().map(|wing| &**wing)
    }

    /// Asks the wings what such a field of another server's event says, see [`Wing::audience`].
    pub fn audience(&self, name: &str, value: &str) -> Option<Box<dyn Audience>> {
        self.wings().find_map(|wing| wing.audience(name, value))
    }

    /// A further connection, for what holds a second descriptor.
    ///
    /// # Errors
    /// [`CONNECTIONS`] if it is one too many.
    pub fn extra_connection(&self) -> Result<Slot, Reject> {
        let (slot, number) = self.hub.connect();
        if number > self.hub.shares.connections { Err(CONNECTIONS) } else { Ok(slot) }
    }

    /// Whether a parameter belongs to a wing; [`App::check_wings`] has refused those of missing ones.
    pub fn knows_parameter(&self, parameter: &str) -> bool {
        self.doors.iter().any(|door| door.parameters.contains(&parameter))
    }

    /// Refuses what belongs to a wing that is not in this build, and names it.
    ///
    /// # Errors
    /// [`NO_WING`], or [`NO_WING_HERE`] if it is a path.
    pub fn check_wings(&self, req: &Request, connection: &mut Connection) -> Result<(), Reject> {
        let path = req.path.strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or_default();
        for door in self.doors.iter().filter(|door| door.wing.is_none()) {
            let here = door.paths.contains(&path);
            let is_there = |&(name, member): &(&str, &str)| {
                if member.is_empty() { req.field_bytes(name).is_some() } else { req.list_has(name, member) }
            };
            let asks = door.fields.iter().any(is_there) || req.params().any(|pair| door.parameters.contains(&pair.0));
            // With OPTIONS a browser asks what it may ask.
            if here || (asks && req.method != "OPTIONS") {
                connection.refusal_detail = door.name.into();
                return Err(if here { NO_WING_HERE } else { NO_WING });
            }
        }
        Ok(())
    }
}

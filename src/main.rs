//! The program in three steps: read the command line, bind the socket, serve.
#![forbid(unsafe_code)]

use std::env::{args_os, current_exe, var_os, vars_os};
use std::ffi::OsString;
use std::io::{Write, stdout};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{self, exit};
use tincan::Server;
use tincan::flags::{Command, parse, unknown_variables};
use tincan::system::limits::memory_share;
use tincan::system::listener::outward_address;
use tincan::system::report::{report, visible};

/// A quarter of the memory is little if it is less than this, in bytes.
const SMALL_SHARE: usize = 64 << 20;

fn main() {
    let args: Vec<String> = args_os().skip(1).map(|arg| text("an argument", arg)).collect();
    let config = match parse(&args, |name| var_os(name).map(|value| text(name, value))) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Print(text)) => exit(i32::from(stdout().write_all(text.as_bytes()).is_err())),
        Err(why) => fail(2, &why),
    };
    save_memory();
    let server = Server::bind(config).unwrap_or_else(|e| fail(1, &e.to_string()));
    report_start(&server);
    server.run()
}

/// With glibc, freed memory stays with the thread that freed it. If there is little memory, this begins the program
/// again, with settings of glibc that prevent that. (Programs that are linked with musl need no such settings.)
fn save_memory() {
    const SETTINGS: &str = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
    if cfg!(target_env = "gnu")
        && memory_share() < SMALL_SHARE
        && var_os("GLIBC_TUNABLES").is_none()
        && let Ok(program) = current_exe()
    {
        // If this fails, the program goes on as it is. But in an emulator that the kernel does not know, glibc gives
        // the program to a shell, which cannot run it. Set the variable there.
        let _ = process::Command::new(program).args(args_os().skip(1)).env("GLIBC_TUNABLES", SETTINGS).exec();
    }
}

/// Returns the value of an argument or an environment variable as text. If it is not UTF-8, the program ends: replacing
/// bytes would turn a path into another path.
fn text(source: &str, value: OsString) -> String {
    value.into_string().unwrap_or_else(|value| {
        // A URL may contain a password.
        let shown = if value.to_string_lossy().contains("://") { "this value".into() } else { format!("{value:?}") };
        fail(2, &format!("{source}: {shown} is not UTF-8; give a path through a link that has a name in UTF-8"))
    })
}

/// Prints why the program cannot run, and ends it with an exit code.
fn fail(code: i32, why: &str) -> ! {
    let why = visible(why); // one line, even if a path contains a line end
    report(format!("tincan: {why}"));
    exit(code)
}

/// Prints the URL of the chat page, two commands to try, and the notes of the server.
fn report_start(server: &Server) {
    let Ok(address) = server.local_addr() else { return };
    let ip = address.ip();
    let port = address.port();
    let local = ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
    let url = if local { format!("localhost:{port}") } else { address.to_string() };
    let mut notes = server.start_notes();
    if ip.is_unspecified() {
        let url = outward_address().map(|ip| format!("http://{}/", SocketAddr::new(ip, port)));
        let url = url.unwrap_or(format!("port {port} at any address of this machine"));
        notes.insert(0, format!("from other machines: {url}"));
    }
    let unknown = unknown_variables(vars_os().map(|(name, _)| name.to_string_lossy().into()));
    notes.extend(unknown.map(visible));
    let notes = notes.join("\n  ");
    report(format!(
        "tincan: http://{url}/\n  curl -N {url}/kitchen\n  curl -d 'soup is ready' {url}/kitchen\n  {notes}"
    ));
}

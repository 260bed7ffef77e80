//! The program, in three steps: read the flags, bind, run.
#![forbid(unsafe_code)]

use std::io::{Write, stdout};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::exit;
use tincan::Server;
use tincan::flags::{Command, parse};
use tincan::report::report;

fn main() {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let config = match parse(&args, |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Print(text)) => exit(i32::from(stdout().write_all(text.as_bytes()).is_err())),
        Err(why) => fail(2, &why),
    };
    let server = Server::bind(config).unwrap_or_else(|e| fail(1, &e.to_string()));
    greet(&server);
    server.run()
}

fn fail(code: i32, why: &str) -> ! {
    report(format!("tincan: {why}"));
    exit(code)
}

/// The page's URL, the two curl lines, and what this process can hold, for whoever sits at the terminal.
fn greet(server: &Server) {
    let Ok(address) = server.local_addr() else { return };
    let ip = address.ip();
    let local = ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
    let url = if local { format!("localhost:{}", address.port()) } else { address.to_string() };
    let curl = format!("  curl -N {url}/kitchen\n  curl -d 'soup is ready' {url}/kitchen");
    report(format!("tincan: http://{url}/\n{curl}\n  {}", server.notes().join("\n  ")));
}

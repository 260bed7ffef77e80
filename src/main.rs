//! The program, in three steps: read the flags, bind, run.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write, stderr, stdout};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::exit;
use tincan::Server;
use tincan::flags::{Command, parse};

fn main() {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let config = match parse(&args, |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Print(text)) => exit(i32::from(stdout().write_all(text.as_bytes()).is_err())),
        Err(why) => fail(2, &why),
    };
    let listen = config.listen.clone();
    let server = Server::bind(config).unwrap_or_else(|e| fail(1, &cannot_listen(&listen, &e)));
    greet(&server);
    server.run()
}

fn fail(code: i32, why: &str) -> ! {
    let _ = writeln!(stderr(), "tincan: {why}");
    exit(code)
}

fn cannot_listen(listen: &str, error: &std::io::Error) -> String {
    let port = listen.rsplit(':').next().unwrap_or_default();
    let remedy = match error.kind() {
        _ if listen == "-" => "standard input must be a listening TCP socket; see --listen in the README".into(),
        ErrorKind::AddrInUse => {
            format!("port {port} is taken; end the program that holds it, or give another with --listen")
        }
        ErrorKind::PermissionDenied => format!("port {port} is reserved; give one above 1023 with --listen"),
        ErrorKind::AddrNotAvailable => "no interface of this machine has that address; 0.0.0.0 stands for all".into(),
        _ => "give an address and a port such as 127.0.0.1:8000 with --listen".into(),
    };
    format!("cannot listen on {listen}: {error}; {remedy}")
}

/// The page's URL and the two curl lines, for whoever sits at the terminal.
fn greet(server: &Server) {
    let Ok(address) = server.local_addr() else { return };
    let ip = address.ip();
    let local = ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
    let url = if local { format!("localhost:{}", address.port()) } else { address.to_string() };
    let _ =
        writeln!(stderr(), "tincan: http://{url}/\n  curl -N {url}/kitchen\n  curl -d 'soup is ready' {url}/kitchen");
}

//! The listening socket. It is bound to an address, or taken from standard input (systemd, inetd).

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

/// Returns a socket that listens on an address. Without an address it returns the socket on standard input.
///
/// # Errors
/// If the address cannot be bound, or if standard input is not a TCP socket.
pub fn listen_on(listen: Option<SocketAddr>) -> io::Result<TcpListener> {
    let listener = match listen {
        None => TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?),
        Some(address) => TcpListener::bind(address)?,
    };
    listener.local_addr()?; // fails for a socket of another family
    Ok(listener)
}

/// Accepts a connection if one already waits. This also checks that the socket listens.
///
/// # Errors
/// If the socket does not listen.
pub fn accept_waiting(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    listener.set_nonblocking(true)?;
    let early = listener.accept();
    listener.set_nonblocking(false)?;
    match early {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        early => early.map(Some),
    }
}

/// Returns the address of the interface with the default route. Other machines can probably reach this one by it.
/// Nothing is sent.
pub fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address that is reserved for documentation (RFC 5737), and so is reached by the default route.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Returns a message that says why the server cannot listen, and what to do.
pub fn cannot_listen(listen: Option<SocketAddr>, error: &io::Error) -> String {
    let Some(address) = listen else {
        return format!("cannot listen: {error}; with --listen -, standard input must be a listening TCP socket");
    };
    let port = address.port();
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => {
            format!("port {port} is taken; stop the program that uses it, or give another port with --listen")
        }
        ErrorKind::PermissionDenied => format!("port {port} is reserved; give a port above 1023 with --listen"),
        ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address; give one that it has, or 0.0.0.0 for all".into()
        }
        _ => "give an address and a port such as 127.0.0.1:8000 with --listen".into(),
    };
    format!("cannot listen on {address}: {error}; {remedy}")
}

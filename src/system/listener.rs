//! The listening socket: an address, or what standard input is (systemd, inetd); and what to do where it cannot be had.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

/// The listening socket.
///
/// # Errors
/// Where it cannot be had.
pub fn listen_on(listen: Option<SocketAddr>) -> io::Result<TcpListener> {
    let listener = match listen {
        None => TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?),
        Some(address) => TcpListener::bind(address)?,
    };
    listener.local_addr()?; // a socket of another family has none that std knows
    Ok(listener)
}

/// Who is there already. Only a listening socket says that nobody is.
///
/// # Errors
/// Where it is none.
pub fn accept_waiting(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    listener.set_nonblocking(true)?;
    let early = listener.accept();
    listener.set_nonblocking(false)?;
    match early {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        early => early.map(Some),
    }
}

/// The address by which other machines reach this one, as far as its routes tell. Nothing is sent.
pub fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?; // an address of documentation, behind the default route (RFC 5737)
    Some(socket.local_addr().ok()?.ip())
}

/// What is wrong, and what to do.
pub fn cannot_listen(listen: Option<SocketAddr>, error: &io::Error) -> String {
    let Some(address) = listen else {
        return format!("cannot listen: {error}; standard input must be a listening TCP socket, see the README");
    };
    let port = address.port();
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => {
            format!("port {port} is taken; end the program that holds it, or give another with --listen")
        }
        ErrorKind::PermissionDenied => format!("port {port} is reserved; give one above 1023 with --listen"),
        ErrorKind::AddrNotAvailable => "no interface of this machine has that address; 0.0.0.0 stands for all".into(),
        _ => "give an address and a port such as 127.0.0.1:8000 with --listen".into(),
    };
    format!("cannot listen on {address}: {error}; {remedy}")
}

//! The listening socket on standard input: `--listen -` (CONTRACT section 8), from a small parent, from systemd's own
//! tools, over restarts, in a burst; and the units in `static/deploy`.
//!
//! The parent is the test itself: it keeps the socket, as systemd does for a service.

use crate::support::documents::{blocks, document};
use crate::support::harness::*;
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions, read_to_string};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write, pipe};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::scope;
use std::time::{Duration, Instant};
use tincan::wire::id::Id;

const TINCAN: &str = env!("CARGO_BIN_EXE_tincan");
const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn socket() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// The program with this on its standard input.
fn tincan(stdin: impl Into<Stdio>, args: &[&str]) -> Command {
    let mut command = Command::new(TINCAN);
    command.args(["--listen", "-"]).args(args).stdin(stdin);
    command
}

fn copy(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().unwrap().into()
}

/// Runs a server on a socket that stays the test's.
fn on(listener: &TcpListener, args: &[&str]) -> Tincan {
    Tincan::run(tincan(copy(listener), args))
}

/// Whether a tool can be used; says so where it cannot.
fn has(tool: &str, args: &[&str]) -> bool {
    let works = Command::new(tool).args(args).output().is_ok_and(|out| out.status.success());
    if !works {
        eprintln!("left out: there is no {tool} {args:?} here");
    }
    works
}

/// Asserts that a start ends by itself, with exit 1 and one line that says this.
fn fails(mut command: Command, what: &str, says: &str) {
    let mut child = Ended(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    drop(command); // and with it the copy of its standard input
    eventually(&format!("with {what} on stdin it ends"), || child.0.try_wait().unwrap().is_some());
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((child.0.wait().unwrap().code(), text.lines().count()), (Some(1), 1), "{what}: {text}");
    assert!(text.starts_with("tincan: ") && text.contains(says), "{what}: {text}");
}

const NO_LISTENER: &str = "standard input must be a listening TCP socket";

#[test]
fn a_socket_of_the_parent_is_served_and_stays_the_parents() {
    for (address, client, nonblocking) in
        [("127.0.0.1:0", "127.0.0.1", false), ("127.0.0.1:0", "127.0.0.1", true), ("[::]:0", "::1", true)]
    {
        let Ok(listener) = TcpListener::bind(address) else {
            eprintln!("left out: no IPv6 here");
            continue;
        };
        listener.set_nonblocking(nonblocking).unwrap();
        let mut server = on(&listener, &[]);
        let port = listener.local_addr().unwrap().port();
        assert!(server.stderr().starts_with(&format!("tincan: http://localhost:{port}/\n")), "{}", server.stderr());
        let ask = || attempt((client, port), HEALTH).is_some_and(|answer| answer.ends_with("\r\n\r\nok\n"));
        assert!(ask());
        // It waits in accept() and does not poll, however the socket came. The flag is the socket's, so the parent sees
        // it as well (fcntl(2), "open file description").
        let info = read_to_string(format!("/proc/{}/fdinfo/0", server.pid())).unwrap();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim();
        assert_eq!(u32::from_str_radix(flags, 8).unwrap() & 0o4000, 0, "O_NONBLOCK is set: {flags}");
        server.kill();
        let _waits = TcpStream::connect((client, port)).unwrap();
        listener.accept().unwrap();
        let _next = on(&listener, &[]);
        assert!(ask());
    }
}

#[test]
fn what_is_no_listening_tcp_socket_is_refused_with_one_line() {
    let (end, _other) = pipe().unwrap();
    let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let terminal = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
    let stdins: [(&str, Stdio); 5] = [
        ("/dev/null", Stdio::null()),
        ("a pipe", end.into()),
        ("a file", file.into()),
        ("a terminal", terminal.into()),
        ("a UDP socket", OwnedFd::from(bound).into()),
    ];
    for (what, stdin) in stdins {
        fails(tincan(stdin, &[]), what, NO_LISTENER);
    }
    let mut closed = Command::new("sh");
    closed.args(["-c", "exec \"$0\" --listen - <&-", TINCAN]);
    fails(closed, "nothing", NO_LISTENER);

    // A connection, as inetd's `nowait` and systemd's `Accept=yes` give it: nothing is taken from the peer, or sent.
    let listener = socket();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut ours, _) = listener.accept().unwrap();
    peer.write_all(b"hello").unwrap();
    fails(tincan(OwnedFd::from(ours.try_clone().unwrap()), &[]), "a connection", NO_LISTENER);
    let mut bytes = [0; 9];
    assert_eq!(ours.read(&mut bytes).unwrap(), 5);
    peer.set_nonblocking(true).unwrap();
    assert_eq!(peer.read(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_listening_unix_socket_is_refused_and_its_clients_are_left_alone() {
    let dir = Scratch::new();
    let listener = UnixListener::bind(dir.0.join("socket")).unwrap();
    let stdin = || OwnedFd::from(listener.try_clone().unwrap());
    fails(tincan(stdin(), &[]), "a unix socket", NO_LISTENER);
    let _waits = UnixStream::connect(dir.0.join("socket")).unwrap();
    fails(tincan(stdin(), &[]), "a unix socket with a client", NO_LISTENER);
    listener.set_nonblocking(true).unwrap();
    listener.accept().unwrap();
}

#[test]
fn a_start_that_fails_takes_no_client_with_it() {
    let (dir, listener) = (Scratch::new(), socket());
    let _first = Tincan::start(&["--data", dir.arg()]);
    let mut waits = Wire::to(listener.local_addr().unwrap().port());
    waits.send(HEALTH);
    fails(tincan(copy(&listener), &["--data", dir.arg()]), "a socket", "is in use by another server");
    let _next = on(&listener, &[]);
    assert_eq!(waits.response().text(), "ok\n");
}

#[test]
fn through_systemd_socket_activate_the_client_that_starts_it_is_answered() {
    if !has("systemd-socket-activate", &["--version"]) {
        return;
    }
    let dir = Scratch::new();
    let log = dir.0.join("log");
    for (args, works) in [
        (&["--inetd", TINCAN, "--listen", "-"][..], true),
        (&["sh", "-c", "exec \"$0\" --listen - <&3", TINCAN], true), // as services of the newer kind get it
        (&["--inetd", "--accept", TINCAN, "--listen", "-"], false),
    ] {
        // It takes no port 0, but a socket from its own parent: as descriptor 3, like all that do without inetd.
        let listener = socket();
        let mut command = Command::new("sh");
        let line = "LISTEN_PID=$$ LISTEN_FDS=1 exec systemd-socket-activate \"$@\" 3<&0 <&-";
        command.args(["-c", line, "sh"]).args(args).stdin(copy(&listener));
        let _started = Ended(command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap());
        let port = listener.local_addr().unwrap().port();
        eventually("it waits for a client", || read_to_string(&log).unwrap().contains(" as 3.\n"));
        let mut wire = Wire::to(port);
        wire.send(HEALTH);
        let says = if works {
            assert_eq!(wire.response().text(), "ok\n", "{args:?}");
            format!("tincan: http://localhost:{port}/\n")
        } else {
            assert_eq!(wire.rest(), "", "{args:?}");
            NO_LISTENER.to_string()
        };
        eventually("it says so", || read_to_string(&log).unwrap().contains(&says));
    }
}

/// When clients that ask without pause give up.
const LONG: Duration = Duration::from_secs(30);

/// One request on a connection of its own, with retry on nothing. None where the connection was lost before the answer;
/// to be refused, or to hear nothing, is a failure.
fn attempt(to: impl ToSocketAddrs, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(to).expect("nobody is refused");
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("no answer within {SOON:?}"),
        Err(_) => None,
        Ok(_) => Some(answer).filter(|a| a.contains("\r\n\r\n") && a.ends_with('\n')),
    }
}

/// A reader that comes back with its Last-Event-ID until it hears `end`; what it heard.
fn follow(port: u16, began: Instant) -> Vec<(Id, String)> {
    let (mut heard, mut last) = (Vec::new(), String::new());
    while began.elapsed() < LONG {
        let mut wire = Wire::over(TcpStream::connect(("127.0.0.1", port)).expect("nobody is refused"));
        let request = format!("GET /a?since=all HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {last}\r\n\r\n");
        let _ = wire.stream.write_all(request.as_bytes()); // where it is lost already, the read below tells
        let (mut data, mut id) = (None, String::new());
        for line in BufReader::new(wire).split(b'\n').take_while(|_| began.elapsed() < LONG) {
            let Ok(line) = line.map(|l| String::from_utf8(l).unwrap()) else { break };
            assert!(!line.starts_with("event: "), "a gap: {line}");
            match line.split_once(": ") {
                Some(("data", value)) => data = Some(value.to_string()),
                Some(("id", value)) => id = value.into(),
                // A blank line makes it count, and not before.
                None if line.is_empty() && !id.is_empty() => {
                    last.clone_from(&id);
                    heard.extend(data.take().map(|data| (Id::parse(&id).unwrap(), data)));
                    if heard.last().is_some_and(|(_, data)| data == "end") {
                        return heard;
                    }
                }
                _ => {}
            }
        }
    }
    panic!("the end is never heard")
}

#[test]
fn ten_restarts_refuse_no_connection_and_lose_no_event() {
    let (dir, listener, began) = (Scratch::new(), socket(), Instant::now());
    let port = listener.local_addr().unwrap().port();
    let args = ["--data", dir.arg(), "--history", "64M", "--heartbeat", "1", "--quiet"];
    let (kills, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let [answered, lost, lost_at] = [(); 3].map(|()| [(); 3].map(|()| AtomicUsize::new(0))); // for each client
    let goes_on = || !stop.load(SeqCst) && began.elapsed() < LONG;
    // A client has one request at a time. One that a process has in its hands when it is killed can be lost; the next
    // one waits in the socket then, and is not.
    let ask = |client: usize, request: &str| {
        let answer = attempt(("127.0.0.1", port), request);
        let count = if answer.is_some() { &answered } else { &lost };
        count[client].fetch_add(1, SeqCst);
        let kill = kills.load(SeqCst);
        assert!(answer.is_some() || lost_at[client].swap(kill, SeqCst) < kill, "two requests are lost by one kill");
        answer
    };
    let health = |client| {
        while goes_on() {
            assert!(ask(client, HEALTH).is_none_or(|answer| answer.ends_with("\r\n\r\nok\n")));
        }
    };
    let publish = || {
        let mut acknowledged = Vec::new();
        while goes_on() {
            let body = format!("{:06}", acknowledged.len());
            let fields = "Host: localhost\r\nConnection: close\r\nContent-Length: 6\r\n";
            // Without an answer the publisher cannot know, and says it again.
            if let Some(answer) = ask(0, &format!("POST /a HTTP/1.1\r\n{fields}\r\n{body}")) {
                let id = Id::parse(answer.trim_end().rsplit('\n').next().unwrap());
                acknowledged.push((id.unwrap_or_else(|| panic!("{answer}")), body));
            }
        }
        acknowledged
    };
    scope(|threads| {
        let mut server = on(&listener, &args);
        let readers = [0; 2].map(|_| threads.spawn(|| follow(port, began)));
        let publisher = threads.spawn(publish);
        (1..3).for_each(|client| drop(threads.spawn(move || health(client))));
        for _ in 0..10 {
            let enough = answered.each_ref().map(|n| n.load(SeqCst) + 30);
            let all = || answered.iter().zip(enough).all(|(n, enough)| n.load(SeqCst) >= enough);
            eventually("every client is answered", all);
            kills.fetch_add(1, SeqCst);
            server.kill();
            // There is no server at all now: this one waits in the socket for the next.
            let mut waits = Wire::to(port);
            waits.send(HEALTH);
            server = on(&listener, &args);
            assert_eq!(waits.response().text(), "ok\n");
        }
        stop.store(true, SeqCst);
        let acknowledged = publisher.join().unwrap();
        let end = Id::parse(&server.post("/a", "end")[0]).unwrap();
        for reader in readers {
            let heard = reader.join().unwrap();
            assert!(heard.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "not once each, or not in order");
            assert_eq!(heard.last(), Some(&(end, "end".into())));
            let all: BTreeSet<_> = heard.iter().collect();
            assert!(acknowledged.iter().all(|event| all.contains(event)), "one that was acknowledged is missing");
            assert!(heard.len() - 1 - acknowledged.len() <= lost[0].load(SeqCst), "more than was said");
        }
        eprintln!("answered: {answered:?}; lost: {lost:?}");
    });
}

#[test]
fn two_servers_on_one_socket_both_serve_and_nobody_is_refused() {
    let (listener, began, stop) = (socket(), Instant::now(), AtomicBool::new(false));
    let served = |server: &Tincan| server.stderr().matches(" GET /health 200\n").count();
    let ask = || assert!(attempt(listener.local_addr().unwrap(), HEALTH).is_some(), "a request is lost");
    let mut old = on(&listener, &[]);
    let _new = scope(|threads| {
        let asks = || {
            while !stop.load(SeqCst) && began.elapsed() < LONG {
                ask()
            }
        };
        (0..4).for_each(|_| drop(threads.spawn(asks)));
        eventually("the old one serves", || served(&old) > 0);
        let new = on(&listener, &[]);
        eventually("both serve", || served(&new) > 50);
        let before = served(&old);
        eventually("the old one goes on", || served(&old) > before);
        stop.store(true, SeqCst);
        new
    });
    old.kill();
    (0..20).for_each(|_| ask());
}

#[test]
fn a_burst_waits_in_a_long_queue_until_the_server_is_back() {
    // std listens with a queue of 128, and has no call to change that.
    let parent = "import os, socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(4096); \
                  os.dup2(s.fileno(), 0); os.execv(sys.argv[1], sys.argv[1:])";
    if !has("python3", &["--version"]) {
        return;
    }
    let most = |path: &str| read_to_string(path).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(128);
    let descriptors = tincan::system::limits::soft_limit("Max open files").map_or(usize::MAX, |n| n as usize);
    let clients = 1000.min(descriptors / 4);
    if most("/proc/sys/net/core/somaxconn") < clients || clients < 200 {
        return eprintln!("left out: the system's own limits are lower");
    }
    let mut command = Command::new("python3");
    command.args(["-c", parent, TINCAN, "--listen", "-", "--quiet"]);
    let server = Tincan::run(command);
    let address = ([127, 0, 0, 1], server.port).into();
    let signal = |name: &str| has("kill", &[name, &server.pid().to_string()]);
    assert!(signal("-STOP"));
    let connect = |_| {
        let mut stream = TcpStream::connect_timeout(&address, SOON).expect("there is room for it");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(HEALTH.as_bytes()).unwrap();
        stream
    };
    let waiting: Vec<TcpStream> = (0..clients).map(connect).collect();
    assert!(signal("-CONT"));
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }
}

#[test]
fn it_serves_without_a_network_of_its_own() {
    // PrivateNetwork=yes. Who is not root makes a user namespace as well.
    let Some(args) = [&["--net"][..], &["--map-root-user", "--net"]]
        .into_iter()
        .find(|args| has("unshare", &[args, &["true"][..]].concat()))
    else {
        return;
    };
    let listener = socket();
    let mut command = Command::new("unshare");
    command.args(args).args([TINCAN, "--listen", "-"]).stdin(copy(&listener));
    let server = Tincan::run(command);
    let interfaces = read_to_string(format!("/proc/{}/net/dev", server.pid())).unwrap();
    assert!(!interfaces.lines().any(|l| l.trim_start().starts_with("eth")), "{interfaces}");
    assert!(read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap().lines().count() == 1, "no socket in it");
    let (mut reader, _) = server.listen("/a", "");
    let ids = server.post("/a", "heard");
    reader.expect(format!("data: heard\nid: {}\n\n", ids[0]));
}

#[test]
fn the_units_can_be_used_as_they_lie() {
    let (dir, listener) = (Scratch::new(), socket());
    let names = ["tincan.socket", "tincan.service"];
    let units = names.map(|name| document(&format!("static/deploy/{name}")).replace("/usr/local/bin/tincan", TINCAN));
    let paths = names.map(|name| format!("{}/{name}", dir.arg()));
    let write = |path: &str, unit: &str| {
        fs::write(path, unit).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap(); // whatever the umask is
    };
    paths.iter().zip(&units).for_each(|(path, unit)| write(path, unit));

    // What it starts is what this program understands.
    let command = units[1].lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap();
    let state = dir.0.join("state");
    let args: Vec<String> =
        command.split(' ').skip(1).map(|a| a.replace("%S/tincan", state.to_str().unwrap())).collect();
    assert_eq!(args[..2], ["--listen", "-"]);
    let server = on(&listener, &args[2..].iter().map(String::as_str).collect::<Vec<_>>());
    server.post("/kitchen", "soup is ready");
    assert!(state.join("kitchen.sse").exists());

    // Variables in the README are options of this program.
    let help = String::from_utf8(Command::new(TINCAN).arg("--help").output().unwrap().stdout).unwrap();
    let lines = blocks("static/deploy/README.md", "ini").concat();
    let variables: Vec<&str> = lines.split("=TINCAN_").skip(1).map(|rest| rest.split('=').next().unwrap()).collect();
    assert!(variables.len() >= 2);
    for variable in variables {
        assert!(help.contains(&format!("  --{} ", variable.to_lowercase().replace('_', "-"))), "{variable}");
    }

    if has("systemd-analyze", &["--version"]) {
        let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).output().unwrap();
        // It warns of a setting that it does not know, and yet succeeds. It may also warn of what is not ours.
        let verify = |paths: [&String; 2]| {
            let Output { status, stderr, .. } = analyze(&["verify", paths[0], paths[1]]);
            let said = String::from_utf8_lossy(&stderr);
            let ours = said.lines().filter(|line| line.contains(dir.arg()) || line.contains("tincan."));
            (status.code(), ours.fold(String::new(), |all, line| all + line + "\n"))
        };
        assert_eq!(verify([&paths[0], &paths[1]]), (Some(0), String::new()));
        write(&paths[1], &units[1].replace("[Service]\n", "[Service]\nNoSuchSetting=1\n"));
        let (status, warned) = verify([&paths[0], &paths[1]]);
        assert!(status == Some(0) && warned.contains("NoSuchSetting"), "{status:?} {warned}");
        write(&paths[1], &units[1]);
        // What their README puts beside them, each by itself.
        let folders = paths.each_ref().map(|path| format!("{path}.d"));
        folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
        for lines in blocks("static/deploy/README.md", "ini") {
            let of = usize::from(lines.starts_with("[Service]\n"));
            let file = format!("{}/override.conf", folders[of]);
            write(&file, &lines.replace("/usr/local/bin/tincan", TINCAN));
            assert_eq!(verify([&paths[0], &paths[1]]), (Some(0), String::new()), "{lines}");
            write(&file, "[Nonsense]\n");
            assert!(verify([&paths[0], &paths[1]]).1.contains("Nonsense"), "{file} is not read");
            fs::remove_file(&file).unwrap();
        }
        // 0 is a service that can do nothing, 100 one that can do everything.
        let out = analyze(&["security", "--offline=true", "--threshold=10", &paths[1]]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
}

//! Behind nginx, HAProxy and Caddy: the files of `static/deploy`, inside what Debian configures, in the real programs.
//!
//! Where a proxy is missing it is left out, unless `TINCAN_PROXIES=1` says that it must be there.

use crate::support::documents::document;
use crate::support::harness::*;
use std::fs::{read_to_string, write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tincan::wire::reject::{CROSS_SITE, MISDIRECTED, TOO_LARGE};

const HOST: &str = "chat.example.org";
const STREAM: &str = "Accept: text/event-stream\r\n"; // as EventSource asks for it
const MAX_BODY: usize = 64 << 10;

/// Replaces what has to be there.
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "there is no {from:?} in\n{text}");
    text.replace(from, to)
}

/// The whole configuration: Debian's, with the file of `static/deploy` where it belongs. Only addresses and paths differ.
fn configuration(name: &str, debian: &str, dir: &str, port: u16, upstream: u16) -> String {
    let text = match name {
        "nginx" => {
            let site = swap(&document("static/deploy/nginx.conf"), "listen 80;", &format!("listen 127.0.0.1:{port};"));
            let site = swap(&swap(&site, "    listen [::]:80;\n", ""), "    # listen [::]:443 ssl http2;\n", "");
            let site = swap(&site, "listen 443 ssl http2;", &format!("listen 127.0.0.1:{port} ssl http2;"));
            let temp = |module| format!("{module}_temp_path {dir}/{module};\n");
            let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(temp).concat();
            let text = swap(debian, "include /etc/nginx/sites-enabled/*;", &(temp + &site));
            let text = swap(&text, "/run/nginx.pid", &format!("{dir}/pid"));
            swap(&text, "/var/log/nginx", dir) + "daemon off;\n"
        }
        "haproxy" => {
            let end =
                swap(&document("static/deploy/haproxy.cfg"), "bind :::80 v4v6\n", &format!("bind 127.0.0.1:{port}\n"));
            let end = swap(&end, "bind :::443 v4v6 ", &format!("bind 127.0.0.1:{port} "));
            defaults(debian) + &end
        }
        _ => {
            let site = format!("http://{HOST}:{port} {{\nbind 127.0.0.1\n");
            let site = swap(&document("static/deploy/Caddyfile"), "chat.example.org {\n", &site);
            format!("{{\nadmin off\n}}\n{site}")
        }
    };
    swap(&text, "127.0.0.1:8000", &format!("127.0.0.1:{upstream}"))
}

/// Debian's configuration of HAProxy without its first part, `global`: that is about the system, with a user, a chroot, a
/// socket and the system's log.
fn defaults(debian: &str) -> String {
    debian[debian.find("\ndefaults\n").unwrap()..].to_string() + "\n"
}

/// Debian's configuration of a proxy, and with what arguments it checks a configuration and runs with it.
fn usage(name: &str) -> (&'static str, &'static str, &'static str) {
    match name {
        "nginx" => ("/etc/nginx/nginx.conf", "-t -e stderr -c", "-e stderr -c"),
        "haproxy" => ("/etc/haproxy/haproxy.cfg", "-c -f", "-db -f"),
        _ => ("/etc/caddy/Caddyfile", "validate --adapter caddyfile --config", "run --adapter caddyfile --config"),
    }
}

/// Where programs are. Debian keeps some of them in /usr/sbin, which is not on everyone's PATH.
fn path() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Whether a proxy is there; says so if it is not.
fn is_installed(name: &str) -> bool {
    let found = std::env::split_paths(&path()).any(|dir| dir.join(name).is_file());
    let installed = found && Path::new(usage(name).0).exists();
    if !installed {
        let why = format!("left out: {name} is not installed as Debian does it");
        assert!(std::env::var("TINCAN_PROXIES").as_deref() != Ok("1"), "{why}");
        eprintln!("{why}");
    }
    installed
}

/// A proxy with some arguments and a file, which is in this directory, as are its own files.
fn command(name: &str, args: &str, file: &Path, dir: &Scratch) -> Command {
    let mut command = Command::new(name);
    let files = ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, dir.arg())); // Caddy's
    command.args(args.split(' ')).arg(file).env("PATH", path()).envs(files);
    command
}

/// It succeeds.
fn succeeds(out: &Output) {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Whether a process, and not another one, listens on this port.
fn listens(pid: u32, port: u16) -> bool {
    let sockets = read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    // Its address, its state (10 is to listen) and, as the tenth word, its inode (proc_net_tcp).
    let inodes = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter_map(|words| {
        let is = words.get(1)?.ends_with(&format!(":{port:04X}")) && words.get(3) == Some(&"0A");
        is.then(|| format!("socket:[{}]", words[9]))
    });
    let inodes: Vec<String> = inodes.collect();
    let Ok(own) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let own: Vec<_> = own.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).collect();
    own.iter().any(|file| inodes.iter().any(|inode| file.as_os_str() == inode.as_str()))
}

/// A running proxy in front of a tincan.
pub struct Proxy {
    child: Child,
    workers: bool,
    pub port: u16,
    _dir: Scratch,
}

impl Proxy {
    /// Starts it, with some parts of its configuration replaced; none where it is not installed.
    pub fn start(name: &str, upstream: u16, edits: &[(&str, &str)]) -> Option<Proxy> {
        let (debian, check, run) = usage(name);
        if !is_installed(name) {
            return None;
        }
        // It ends at its start if somebody else was faster to take its port.
        let start = || {
            let (dir, port) = (Scratch::new(), free_port());
            let text = configuration(name, &read_to_string(debian).unwrap(), dir.arg(), port, upstream);
            let file = dir.0.join("configuration");
            write(&file, edits.iter().fold(text, |text, (from, to)| swap(&text, from, to))).unwrap();
            succeeds(&command(name, check, &file, &dir).output().unwrap());
            let mut child = command(name, run, &file, &dir);
            let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut proxy = Proxy { child, workers: name == "nginx", port, _dir: dir };
            let deadline = Instant::now() + 3 * SOON; // these programs are large
            while proxy.child.try_wait().unwrap().is_none() {
                if listens(proxy.child.id(), port) {
                    return Some(proxy);
                }
                assert!(Instant::now() < deadline, "the proxy does not listen");
                thread::sleep(Duration::from_millis(10));
            }
            None
        };
        Some(std::iter::repeat_with(start).take(5).flatten().next().expect("the proxy does not start"))
    }

    /// Sends a request; what comes back has to come soon. A buffer could hold it back for ever: no pings push it out.
    fn send(&self, request: impl AsRef<[u8]>) -> Wire {
        let mut wire = Wire::to(self.port).loose();
        wire.send(request);
        wire
    }

    fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        self.send(request).response()
    }

    /// Publishes; returns the id.
    fn post(&self, path: &str, body: &str) -> String {
        let answer = self.ask(post(path, "", body));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().trim_end().into()
    }

    /// Opens a stream; returns it behind its prelude, with the prelude's id.
    fn listen(&self, path: &str, fields: &str) -> (Stream, String) {
        let (stream, prelude) = self.open(path, &format!("{STREAM}Accept-Encoding: gzip, br\r\n{fields}"));
        let id = id_of(&prelude);
        assert_eq!(plain(&prelude), format!(": connected to {path}\nretry: 0\nid: {id}\n\n"));
        (stream, id)
    }

    /// Opens a stream, or a poll that waits; returns it behind its prelude, with that.
    fn open(&self, target: &str, fields: &str) -> (Stream, String) {
        let mut wire = self.send(get(target, fields));
        let answer = wire.head();
        let head = &answer.head;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let has = |line: &str| head.to_ascii_lowercase().contains(&format!("\r\n{line}"));
        assert!(
            has("content-type: text/event-stream\r\n") && has("cache-control: no-store, no-transform\r\n"),
            "{head}"
        );
        assert!(!has("content-encoding:") && !has("content-length:"), "{head}");
        let prelude = wire.block();
        (Stream { wire, answer }, prelude)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx has workers to end. Caddy would wait for its readers.
        if !self.workers || !signal("TERM", self.child.id()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn block(id: &str, data: &str) -> String {
    format!("data: {data}\nid: {}\n\n", id.trim_end())
}

/// A stream, or a poll that waits.
struct Stream {
    wire: Wire,
    answer: Response,
}

impl Stream {
    fn block(&mut self) -> String {
        self.wire.block()
    }

    /// The next thing it hears is this.
    fn hears(&mut self, id: &str, data: &str) {
        assert_eq!(self.block(), block(id, data));
    }

    /// It ends regularly, and nothing more comes. If it came in chunks, the connection may stay.
    fn ends(mut self) {
        let chunked = self.answer.field("transfer-encoding").is_some();
        let rest = if chunked { self.wire.body(self.answer).text() } else { self.wire.rest() };
        assert_eq!(rest, "");
    }
}

/// Runs a check behind each of the three, at the same time.
fn behind_each(check: fn(&str)) {
    thread::scope(|scope| {
        for name in ["nginx", "haproxy", "caddy"] {
            thread::Builder::new().name(name.into()).spawn_scoped(scope, move || check(name)).unwrap();
        }
    });
}

/// Readers close, and tincan hears of it.
fn leave(server: &Tincan, channel: &str, readers: Vec<Stream>) {
    let closed = Stopwatch::start();
    drop(readers);
    eventually("they are gone", || server.readers(channel) == 0);
    closed.within("readers that have left are gone", Duration::from_secs(5));
}

#[test]
fn events_pass_at_once_and_whole_behind_each_proxy() {
    behind_each(|name| {
        let server = Tincan::start(&["--quiet", "--retry", "0", "--host", HOST]);
        let Some(proxy) = Proxy::start(name, server.port, &[]) else { return };
        let (mut reader, _) = proxy.listen("/kitchen", "");
        let mut writer = proxy.send(""); // it stays open for all of them
        for n in 0..20 {
            writer.send(post("/kitchen", "", &format!("soup {n}\nis ready")));
            reader.hears(&writer.response().text(), &format!("soup {n}\ndata: is ready"));
        }

        let large = "x".repeat(MAX_BODY);
        reader.hears(&proxy.post("/kitchen", &large), &large);
        proxy.ask(post("/kitchen", "", &(large + "x"))).refused(TOO_LARGE);
        let chunks = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        reader.hears(&proxy.ask(format!("POST /kitchen HTTP/1.1\r\nHost: {HOST}\r\n{chunks}")).text(), "abcde");
        let mut polite = proxy.send(post("/kitchen", "Expect: 100-continue\r\n", "soup").trim_end_matches("soup"));
        assert_eq!(polite.response().status, 100);
        polite.send("soup");
        // Caddy says it, and passes on that tincan says it too (RFC 9110 §15.2 allows that).
        let answer = std::iter::repeat_with(|| polite.response()).find(|answer| answer.status != 100);
        reader.hears(&answer.unwrap().text(), "soup");

        // A page that came through the proxy.
        let page = proxy.ask(get("/kitchen", "Accept: text/html\r\n"));
        assert_eq!((page.status, page.body), (200, server.get("/").body));
        for scheme in ["http", "https"] {
            let own = format!("Origin: {scheme}://{HOST}\r\nSec-Fetch-Site: same-origin\r\n");
            reader.hears(&proxy.ask(post("/kitchen", &own, "thanks")).text(), "thanks");
        }
        proxy.ask(post("/kitchen", "Origin: http://evil.example\r\n", "spam")).refused(CROSS_SITE);
        let stranger = proxy.ask("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        match name {
            "caddy" => assert_eq!(stranger.text(), ""), // it answers to the names of its sites alone
            _ => stranger.refused(MISDIRECTED),
        }

        let mut crowd: Vec<Stream> = (0..100).map(|_| proxy.listen("/crowd", "").0).collect();
        assert_eq!(server.readers("crowd"), 100);
        let id = proxy.post("/crowd", "all of you");
        crowd.iter_mut().for_each(|reader| reader.hears(&id, "all of you"));
        // HAProxy does not look whether a reader is there. With a shorter heartbeat the next test covers it.
        if name != "haproxy" {
            leave(&server, "crowd", crowd);
        }
    });
}

/// Heartbeat and patience are both shorter than by default, the patience no longer in proportion.
#[test]
fn an_idle_stream_stays_open_behind_each_proxy() {
    behind_each(|name| {
        let edits: &[(&str, &str)] = match name {
            "nginx" => &[("proxy_pass ", "proxy_read_timeout 3s; proxy_pass "), ("$host;", "$host:$server_port;")],
            "haproxy" => &[("client  50000", "client 3s"), ("server  50000", "server 3s")],
            _ => &[],
        };
        let server = Tincan::start(&["--quiet", "--retry", "0", "--host", HOST, "--heartbeat", "1"]);
        let Some(proxy) = Proxy::start(name, server.port, edits) else { return };
        let (mut reader, _) = proxy.listen("/kitchen", "");
        let mut polls = ["", STREAM].map(|fields| proxy.open("/dull?wait=60", fields).0);
        // All of them for longer than the patience.
        for stream in polls.iter_mut().chain([&mut reader]) {
            (0..4).for_each(|_| assert_eq!(stream.block(), PING));
        }
        let hears = |stream: &mut Stream, id: &str, data: &str| {
            let heard = std::iter::repeat_with(|| stream.block()).find(|block| block != PING);
            assert_eq!(heard, Some(block(id, data)));
        };
        let id = proxy.post("/kitchen", "soup is ready");
        hears(&mut reader, &id, "soup is ready");
        let id = proxy.post("/dull", "at last");
        for mut poll in polls {
            hears(&mut poll, &id, "at last");
            poll.ends();
        }

        // On a port of its own a page's origin has the port.
        let host = format!("{HOST}:{}", proxy.port);
        let own = format!("POST /a HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(proxy.ask(own).status, 200);
        leave(&server, "kitchen", vec![reader]);
    });
}

#[test]
fn readers_come_back_and_miss_nothing_behind_each_proxy() {
    behind_each(|name| {
        let (dir, port) = (Scratch::new(), free_port());
        let args = ["--quiet", "--heartbeat", "3600", "--retry", "0", "--host", HOST, "--data", dir.arg()];
        let start = || Tincan::spawn(&format!("127.0.0.1:{port}"), &args);
        let mut server = start();
        let Some(proxy) = Proxy::start(name, port, &[]) else { return };
        let back = |last: &str| {
            let (reader, place) = proxy.listen("/kitchen", &format!("Last-Event-ID: {last}\r\nConnection: close\r\n"));
            assert_eq!(place, last);
            reader
        };
        let (mut reader, _) = proxy.listen("/kitchen", "");
        let one = proxy.post("/kitchen", "one");
        reader.hears(&one, "one");
        drop(reader);
        let missed = ["two", "three"].map(|data| (proxy.post("/kitchen", data), data));
        let mut reader = back(&one);
        missed.iter().for_each(|(id, data)| reader.hears(id, data));
        let four = proxy.post("/kitchen", "four");
        reader.hears(&four, "four");

        server.kill();
        assert_eq!(reader.wire.rest(), ""); // a proxy may make a regular end of that
        let requests = [get("/kitchen", STREAM), post("/kitchen", "", "lost")];
        let [mut source, mut publisher] = requests.map(|request| proxy.send(request));
        let (away, refused) = (source.response(), publisher.response().status);
        assert_eq!((away.status, away.field("content-type")), (200, Some("text/event-stream")));
        // Nothing fires, and no blank line makes it forget its place (WHATWG HTML, "Interpreting an event stream").
        let (text, fields) = (away.text(), ["data", "event", "id", "retry"]);
        assert!(text.lines().all(|line| !line.is_empty() && !fields.iter().any(|f| line.starts_with(f))), "{text}");
        assert!(refused == 502 || refused == 503, "{refused}");

        server = start();
        let five = server.post("/kitchen", "five").remove(0);
        let mut reader = back(&four);
        reader.hears(&five, "five");
        let six = proxy.post("/kitchen", "six");
        reader.hears(&six, "six");
    });
}

/// As the files lie there. nginx would open port 80 for its check, which not everyone may: it checks with another port, in
/// [`Proxy::start`].
#[test]
fn the_files_pass_the_checks_of_their_programs() {
    for name in ["haproxy", "caddy"] {
        if !is_installed(name) {
            continue;
        }
        let (debian, check, _) = usage(name);
        let dir = Scratch::new();
        let file = dir.0.join("configuration");
        let text = match name {
            "haproxy" => read_to_string(debian).unwrap() + &document("static/deploy/haproxy.cfg"),
            _ => document("static/deploy/Caddyfile"),
        };
        write(&file, text).unwrap();
        let out = command(name, check, &file, &dir).output().unwrap();
        succeeds(&out);
        let said = String::from_utf8_lossy(&out.stderr).to_lowercase();
        assert!(!said.contains("warn"), "{said}");
    }
}

/// With the lines that are comments in the files.
#[test]
fn a_page_of_an_allowed_origin_can_read_that_tincan_is_away_and_nobody_the_metrics() {
    behind_each(|name| {
        let edits = match name {
            "nginx" => [("# add_header", "add_header"), ("# location", "location")],
            "haproxy" => [("# http-after-response", "http-after-response"), ("# http-request", "http-request")],
            _ => [("# header @stream", "header @stream"), ("# respond", "respond")],
        };
        let Some(proxy) = Proxy::start(name, free_port(), &edits) else { return };
        assert_eq!(proxy.ask(get("/metrics", "")).status, 404);
        for path in ["/lab", "/lab/mine", "/lessons/1"] {
            assert!(name != "nginx" || proxy.ask(get(path, "")).status == 404, "{path}");
        }
        let away = proxy.ask(get("/kitchen", &format!("{STREAM}Origin: https://app.example.org\r\n")));
        assert_eq!((away.status, away.field("content-type")), (200, Some("text/event-stream")));
        assert_eq!(away.field("access-control-allow-origin"), Some("https://app.example.org"));
        assert_eq!(away.field("access-control-allow-credentials"), Some("true"));
    });
}

/// With the lines of nginx's file for many nodes and for a limit, which are comments there.
#[test]
fn behind_nginx_nodes_take_turns_and_a_client_over_its_limit_comes_back() {
    let nodes = [(); 2].map(|()| Tincan::start(&["--quiet", "--host", HOST]));
    let [first, second] = nodes.each_ref().map(|node| format!("127.0.0.1:{}", node.port));
    let edits = [
        ("# upstream", "upstream"),
        ("10.0.0.5:8000", &*first),
        ("10.0.0.6:8000", &*second),
        (&*format!("proxy_pass http://{first}"), "proxy_pass http://tincan"),
        ("# limit_conn", "limit_conn"),
        ("clients 100;", "clients 2;"),
    ];
    let Some(proxy) = Proxy::start("nginx", nodes[0].port, &edits) else { return };
    let streams = [(); 2].map(|()| proxy.open("/kitchen", STREAM).0);
    nodes.iter().for_each(|node| assert_eq!(node.readers("kitchen"), 1));
    let away = proxy.ask(get("/kitchen", STREAM));
    assert_eq!((away.status, away.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(away.text(), ": tincan is away\n");
    drop(streams);
    eventually("they are gone", || nodes.iter().all(|node| node.readers("kitchen") == 0));
    // A node that is away is passed over.
    let [mut gone, stays] = nodes;
    gone.kill();
    (0..4).for_each(|_| drop(proxy.post("/kitchen", "soup is ready")));
    assert!(stays.get("/kitchen?wait=0&since=all").text().matches("data: soup is ready").count() == 4);
}

/// With the lines for TLS, and a certificate of this test's own.
#[test]
fn with_tls_clients_speak_http_2_behind_each_proxy() {
    behind_each(|name| {
        let dir = Scratch::new();
        let file = |name: &str| dir.0.join(name).to_str().unwrap().to_string();
        let [certificate, key] = ["fullchain.pem", "privkey.pem"].map(file);
        let mut make = Command::new("openssl");
        make.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '));
        make.args(["-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")]);
        if !make.args(["-keyout", &key, "-out", &certificate]).output().is_ok_and(|out| out.status.success()) {
            assert!(std::env::var("TINCAN_PROXIES").as_deref() != Ok("1"), "openssl makes no certificate");
            return eprintln!("left out: openssl makes no certificate");
        }
        let both = [&certificate, &key].map(|file| read_to_string(file).unwrap()).concat();
        write(file("chat.example.org.pem"), both).unwrap();
        let own = format!("bind 127.0.0.1\ntls {certificate} {key}\n");
        let edits: &[(&str, &str)] = match name {
            "nginx" => &[
                ("    listen ", "    #listen "),
                ("# listen ", "listen "),
                ("# ssl_", "ssl_"),
                ("/etc/letsencrypt/live/chat.example.org", dir.arg()),
            ],
            "haproxy" => &[("    bind ", "    #bind "), ("# bind ", "bind "), ("/etc/ssl/private", dir.arg())],
            // It gets a certificate from elsewhere otherwise, and opens port 80 as well.
            _ => &[
                ("admin off\n", "admin off\nauto_https disable_redirects\n"),
                ("http://", "https://"),
                ("bind 127.0.0.1\n", &own),
            ],
        };
        let server = Tincan::start(&["--quiet", "--retry", "0", "--host", HOST]);
        let Some(proxy) = Proxy::start(name, server.port, edits) else { return };
        let curl = |path: &str, more: &[&str]| {
            let mut curl = Command::new("curl");
            curl.args(["--disable", "--silent", "--noproxy", "*", "--http2", "--max-time", "20"]);
            curl.args(["--write-out", "HTTP/%{http_version} %{http_code}", "--cacert", &certificate]);
            curl.args(["--resolve", &format!("{HOST}:{}:127.0.0.1", proxy.port)]).args(more);
            curl.arg(format!("https://{HOST}:{}{path}", proxy.port)).stdout(Stdio::piped()).spawn().unwrap()
        };
        let said = |curl: Child| String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        let reader = curl("/kitchen?wait=60", &["--header", "Accept: text/event-stream"]);
        eventually("it listens", || server.readers("kitchen") == 1);
        let answer = said(curl("/kitchen", &["--data", "soup"]));
        let (id, status) = answer.split_once('\n').unwrap();
        assert_eq!(status, "HTTP/2 200");
        let heard = said(reader);
        assert!(heard.ends_with(&(block(id, "soup") + "HTTP/2 200")), "{heard}");
    });
}

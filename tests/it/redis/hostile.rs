//! A Redis that misbehaves. Whatever it does, the server stays alive and small, answers every request in time, and
//! goes on sending `:ping` to its subscribers. As soon as a real Redis is there instead, everything works.
//!
//! The fake Redis is a listener of the test. In the end it passes its connections on to a real redis-server.

use crate::redis::server::Redis;
use crate::support::harness::*;
use crate::support::process::status;
use std::io::{BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, scope, sleep, spawn};
use std::time::{Duration, Instant};
use tincan::wings::redis::node::{REDIS_AWAY, REDIS_LOST, REDIS_REFUSES};
use tincan::wings::redis::resp::read;
use tincan::wire::id::Id;

/// The password, which no response and no line may show.
const PASSWORD: &str = "s3cr3t:@/word";
/// Within this time every request is answered, whatever Redis does.
const ANSWERED: Duration = Duration::from_secs(8);
/// The most bytes that the sockets between a server and a slow subscriber may hold.
const SOCKETS: usize = 16 << 20;

/// The fake's reply to a command.
enum Answer {
    Bytes(Vec<u8>),
    /// No reply; the connection stays open.
    Silence,
    Close,
    /// One byte a second.
    Slowly(Vec<u8>),
    /// The first bytes, and then the others over and over.
    Endless(Vec<u8>, Vec<u8>),
}

fn bytes(text: impl AsRef<[u8]>) -> Answer {
    Answer::Bytes(text.as_ref().into())
}

/// Returns a bulk string.
fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Returns an entry with this id.
fn entry(id: &str) -> String {
    format!("*2\r\n{}*2\r\n{}{}", bulk(id), bulk("data"), bulk("from elsewhere"))
}

fn entries<'a>(ids: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = ids.into_iter().map(entry).collect();
    format!("*{}\r\n{}", all.len(), all.concat())
}

/// Returns the reply to an XREAD that has new entries of these streams.
fn news(streams: &[(&str, String)]) -> Answer {
    let all: String = streams.iter().map(|(key, entries)| format!("*2\r\n{}{entries}", bulk(key))).collect();
    bytes(format!("*{}\r\n{all}", streams.len()))
}

type Manner = Box<dyn Fn(&Fake, &[&str]) -> Answer + Send + Sync>;

/// How the fake handles its connections.
enum Way {
    Answers(Manner),
    /// Closes each at once, after a greeting if there is one.
    Greets(&'static str),
    /// Passes them on to a server on this port.
    To(u16),
}

/// A server whose behaviour the test chooses.
struct Fake {
    port: u16,
    way: Mutex<Arc<Way>>,
    open: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
    connections: AtomicUsize,
    commands: AtomicUsize,
    ids: AtomicUsize,
}

/// A fake that ends with the test.
struct Served(Arc<Fake>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
        self.0.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.0.port)); // so that the listener sees the flag
    }
}

impl Fake {
    fn start() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Arc::new(Fake {
            port: listener.local_addr().unwrap().port(),
            way: Mutex::new(Arc::new(Way::Answers(Box::new(|fake, words| fake.usual(words))))),
            open: Mutex::default(),
            over: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            commands: AtomicUsize::new(0),
            ids: AtomicUsize::new(1),
        });
        let this = fake.clone();
        spawn(move || {
            for stream in listener.incoming().flatten() {
                if this.over.load(SeqCst) {
                    return;
                }
                this.connections.fetch_add(1, SeqCst);
                this.open.lock().unwrap().push(stream.try_clone().unwrap());
                let this = this.clone();
                spawn(move || this.serve(stream));
            }
        });
        Served(fake)
    }

    /// Closes all connections, and behaves like this with new ones.
    fn becomes(&self, way: Way) {
        *self.way.lock().unwrap() = Arc::new(way);
        self.cut();
    }

    fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    fn serve(&self, mut stream: TcpStream) {
        let way = self.way.lock().unwrap().clone();
        let _ = match &*way {
            Way::Greets(with) => stream.write_all(with.as_bytes()),
            Way::To(port) => TcpStream::connect(("127.0.0.1", *port)).map(|redis| pass_on(&stream, &redis)),
            Way::Answers(manner) => self.reply(&mut stream, manner),
        };
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn reply(&self, stream: &mut TcpStream, manner: &Manner) -> std::io::Result<()> {
        let mut commands = BufReader::new(stream.try_clone()?);
        loop {
            let command = read(&mut commands, u64::MAX, 1 << 20)?;
            self.commands.fetch_add(1, SeqCst);
            let words: Vec<String> =
                command.list().iter().map(|w| String::from_utf8_lossy(w.text().unwrap()).into()).collect();
            match manner(self, &words.iter().map(String::as_str).collect::<Vec<_>>()) {
                Answer::Bytes(bytes) => stream.write_all(&bytes)?,
                Answer::Silence => {}
                Answer::Close => return Ok(()),
                Answer::Slowly(bytes) => {
                    for byte in bytes {
                        stream.write_all(&[byte])?;
                        sleep(Duration::from_secs(1));
                    }
                }
                Answer::Endless(first, again) => {
                    stream.write_all(&first)?;
                    while !self.over.load(SeqCst) {
                        stream.write_all(&again)?;
                    }
                }
            }
        }
    }

    /// Returns an id that was not used before.
    fn id(&self) -> String {
        format!("1763654400000-{}", self.ids.fetch_add(1, SeqCst))
    }

    /// Returns the reply of a Redis that has no data.
    fn usual(&self, words: &[&str]) -> Answer {
        match words {
            ["CLIENT", "ID"] => bytes(format!(":{}\r\n", self.connections.load(SeqCst))),
            ["INFO", ..] => bytes(bulk("# Server\r\nredis_version:7.0.15\r\nrun_id:0123456789abcdef\r\n")),
            ["CLIENT", ..] => bytes(":1\r\n"),
            ["XREAD", ..] => {
                sleep(Duration::from_millis(200));
                bytes("*-1\r\n")
            }
            ["XRANGE", ..] => bytes("*0\r\n"),
            ["XINFO", ..] => bytes("-ERR no such key\r\n"),
            ["XLEN", ..] => bytes(":0\r\n"),
            ["XADD", "tincan:", ..] => bytes("$-1\r\n"),
            ["XADD", ..] => bytes(bulk(&self.id())),
            _ => bytes("+OK\r\n"),
        }
    }
}

/// Passes bytes on in both directions.
fn pass_on(client: &TcpStream, server: &TcpStream) {
    scope(|s| {
        for (mut from, mut to) in [(client, server), (server, client)] {
            s.spawn(move || {
                let _ = copy(&mut from, &mut to);
                let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
            });
        }
    });
}

/// Sends a request on a new connection. Asserts that it is answered in time, with 200 or a documented refusal.
fn request(server: &Tincan, what: &str, method: &str, path: &str, body: &str) -> u16 {
    let began = Stopwatch::start();
    let mut wire = server.connect();
    wire.stream.set_read_timeout(Some(3 * SOON)).unwrap(); // the stopwatch measures the time
    wire.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let response = wire.rest();
    began.within(&format!("{what}: {method} {path}"), ANSWERED);
    let (head, body) =
        response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{what}: {method} {path}: {response:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    match status {
        200 => assert!(
            path == "/health" || body.starts_with(": ") || (method == "POST" && body.lines().count() == 1),
            "{what}: {method} {path}: {response:?}"
        ),
        503 => {
            assert!([REDIS_AWAY, REDIS_REFUSES, REDIS_LOST].iter().any(|r| body == r.line()), "{what}: {response:?}");
            assert!(head.contains("\r\nRetry-After: "), "{what}: {head}");
            assert!(method == "POST" || body != REDIS_LOST.line(), "{what}: {method} {path}: {response:?}");
        }
        _ => panic!("{what}: {method} {path}: {response:?}"),
    }
    status
}

/// A kind of misbehaviour, and its limits.
struct Case {
    name: &'static str,
    way: Way,
    /// A text that is on standard error at some time.
    says: &'static str,
    /// The status of each POST to an existing channel, if it is certain.
    post: Option<u16>,
    /// Limit: connections to the fake. Six seconds with growing pauses make about 16, for commands and for new
    /// entries.
    connections: usize,
    /// Limit: commands to the fake. Six clients send at most 20 requests a second.
    commands: usize,
    /// Limit: MiB of memory in use, and of reserved memory. A reply has 33 MB at most, and two may be under way.
    memory: usize,
}

fn misbehaves(case: Case) {
    let Case { name, way, says, post, connections: most, commands: most_commands, memory: room } = case;
    let fake = Fake::start();
    let url = format!("redis://ann:s3cr3t%3A%40%2Fword@127.0.0.1:{}/3", fake.0.port);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.args(["--listen", "127.0.0.1:0", "--redis", &url, "--heartbeat", "1", "--history", "64K", "--quiet"]);
    // Otherwise the C library reserves 64 MiB for each thread, and memory that is reserved for a reply would not be
    // noticed.
    command.env("MALLOC_ARENA_MAX", "1");
    let server = Tincan::run(command);
    let follows = || server.metric("tincan_redis_connected") == Some(1);
    eventually("the node follows", follows);
    let (mut reader, start) = server.listen("/kitchen", "");
    request(&server, name, "POST", "/kitchen", "before");
    request(&server, name, "GET", "/there?wait=0&since=all", "");
    let real = Redis::start(&[]);
    if let Some(real) = &real {
        real.ask(&["ACL", "SETUSER", "ann", "on", &format!(">{PASSWORD}"), "~*", "+@all"]);
    }
    let (small, peak) = (pss(server.pid()), status(&server, "VmPeak:"));
    fake.0.becomes(way);
    let began = Instant::now();
    let (over, turned, given_up) = (&AtomicBool::new(false), &AtomicBool::new(false), &AtomicBool::new(false));
    let (server, has_real) = (&server, real.is_some());
    // Until the node notices that its connection is cut, each request may open one. This happens again whenever the
    // node believes that it follows, and on a busy machine it believes so for longer.
    let (mut unaware, mut seen, mut believed) = (0, 0, true);
    scope(|s| {
        let _given_up = AtEnd(given_up);
        // A subscriber receives something every second or two, all the time, and in the end an event from the real
        // Redis.
        let listens = s.spawn(move || {
            reader.stream.set_read_timeout(Some(ANSWERED)).unwrap();
            let (mut blocks, mut bytes, mut last) = (0, 0, Id::parse(&start).unwrap());
            while !given_up.load(SeqCst) && (has_real || !over.load(SeqCst)) {
                let is_over = over.load(SeqCst);
                let block = reader.block();
                bytes += if turned.load(SeqCst) { block.len() } else { 0 };
                if block.contains("data: again in /kitchen\n") {
                    break;
                }
                assert!(began.elapsed() < 6 * SOON, "{name}: the subscriber receives nothing from the real Redis");
                if is_over {
                    continue;
                }
                blocks += 1;
                if block.contains("\nid: ") {
                    let id = Id::parse(&id_of(&block)).unwrap();
                    assert!(id > last, "{name}: {block:?} after {last}");
                    last = id;
                }
            }
            (blocks, bytes)
        });
        {
            let _over = AtEnd(over);
            let asked: [(&str, String); 6] = [
                ("POST", "/kitchen".into()),
                ("GET", "/kitchen?wait=0&since=all".into()),
                ("GET", "/there?wait=0".into()),
                ("POST", "/there?event=x".into()),
                ("GET", "/health".into()),
                ("GET", "/new-NR?wait=0".into()),
            ];
            scope(|s| {
                for (method, path) in &asked {
                    s.spawn(move || {
                        let mut n = 0;
                        while n < 2 || began.elapsed() < Duration::from_secs(6) {
                            n += 1;
                            let path = path.replace("NR", &n.to_string());
                            let is_told = (*method, &*path) == ("POST", "/kitchen");
                            // A POST gets 200 only once the node follows again.
                            let sure = post == Some(503) || began.elapsed() > Duration::from_secs(4) && follows();
                            let status = request(server, name, method, &path, "while Redis misbehaves");
                            if is_told && post.is_some() && sure {
                                assert_eq!(Some(status), post, "{name}: {method} {path}");
                            }
                            sleep(Duration::from_millis(50));
                        }
                    });
                }
                s.spawn(|| {
                    // A new subscriber is never turned away for good.
                    let mut wire = server.connect();
                    wire.send("GET /joins HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
                    let began = Stopwatch::start();
                    let head = wire.until(b"\r\n\r\n");
                    assert!(head.starts_with("HTTP/1.1 200 "), "{name}: {head}");
                    let comment = wire.until(b"\nretry: ");
                    assert!(comment.starts_with(": "), "{name}: {comment}");
                    began.within(name, ANSWERED);
                });
                while began.elapsed() < Duration::from_secs(6) {
                    let (threads, memory) = (status(server, "Threads:"), pss(server.pid()));
                    assert!(threads < 40, "{name}: {threads} threads");
                    let (believes, connections) = (follows(), fake.0.connections.load(SeqCst));
                    if believes || believed {
                        unaware += connections - seen;
                    }
                    (seen, believed) = (connections, believes);
                    assert!(memory < small + (room << 10), "{name}: {memory} KiB, {small} before");
                    sleep(Duration::from_millis(100));
                }
            });
            eventually("the reason is printed", || server.stderr().contains(says));
            if post == Some(200) {
                eventually("the node follows again", follows);
                assert_eq!(request(server, name, "POST", "/kitchen", "while Redis misbehaves"), 200, "{name}");
            }
        }
        let grown = status(server, "VmPeak:").saturating_sub(peak);
        assert!(grown < (room << 10) as u64, "{name}: {grown} KiB more were reserved");
        let (connections, commands) = (fake.0.connections.load(SeqCst), fake.0.commands.load(SeqCst));
        if std::env::var_os("VERBOSE").is_some() {
            eprintln!("{name}: {connections} connections, {commands} commands, {grown} KiB, {}", server.stderr());
        }
        assert!(connections <= most + unaware, "{name}: {connections} connections, {unaware} of them unaware");
        assert!(connections <= 900, "{name}: {connections} connections");
        assert!(commands < most_commands, "{name}: {commands} commands");

        if let Some(real) = &real {
            fake.0.becomes(Way::To(real.port));
            turned.store(true, SeqCst);
            eventually("the node follows", follows);
            for path in ["/kitchen", "/there", "/other"] {
                let text = format!("again in {path}");
                eventually("events are accepted again", || request(server, name, "POST", path, &text) == 200);
                eventually("the events are received", || {
                    server.get(&format!("{path}?wait=5&since=all")).text().contains(&format!("data: {text}\n"))
                });
            }
            assert_eq!(request(server, name, "GET", "/health", ""), 200);
        }
        let (blocks, bytes) = listens.join().unwrap_or_else(|_| panic!("{name}: the subscriber failed"));
        assert!(blocks >= 3, "{name}: {blocks} blocks");
        // A subscriber that was flooded may still have some of these bytes to read.
        assert!(bytes < (1 << 20) + if blocks > 1000 { SOCKETS } else { 0 }, "{name}: {bytes} bytes");
    });
    let stderr = server.stderr();
    assert!(!stderr.contains(PASSWORD) && !stderr.contains("s3cr3t"), "{name}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("a bug"), "{name}: {stderr}");
    assert!(stderr.chars().all(|c| c == '\n' || !c.is_control()), "{name}: {stderr:?}");
    let count = stderr.lines().filter(|line| line.starts_with("tincan: redis: ")).count();
    assert!(count < 130, "{name}: {count} lines"); // 100 of them may be about single streams
}

/// Replies like this to one command, and as usual to all others.
fn but(word: &'static str, reply: impl Fn(&Fake, &[&str]) -> Answer + Send + Sync + 'static) -> Way {
    Way::Answers(Box::new(move |fake, words| {
        if words[0] == word || words[..2.min(words.len())].join(" ") == word {
            reply(fake, words)
        } else {
            fake.usual(words)
        }
    }))
}

/// Replies as usual to the commands that begin a connection, and like this to all others.
fn behind_the_beginning(reply: impl Fn(&Fake, &[&str]) -> Answer + Send + Sync + 'static) -> Way {
    Way::Answers(Box::new(move |fake, words| match words {
        ["AUTH" | "SELECT" | "INFO", ..] | ["CLIENT", "ID"] => fake.usual(words),
        _ => reply(fake, words),
    }))
}

fn all(cases: Vec<Case>) {
    scope(|s| {
        for case in cases {
            Builder::new().name(case.name.into()).spawn_scoped(s, || misbehaves(case)).unwrap();
        }
    });
}

#[test]
fn a_redis_that_does_not_speak_harms_nobody() {
    let always = |reply: fn() -> Answer| Way::Answers(Box::new(move |_, _| reply()));
    let case = |name, way, says| Case { name, way, says, post: Some(503), connections: 24, commands: 3000, memory: 16 };
    all(vec![
        case("closes at once", Way::Greets(""), "away: "),
        case("says nothing", always(|| Answer::Silence), "away: timed out"),
        case("closes at each command", always(|| Answer::Close), "away: "),
        case("one byte a second", always(|| Answer::Slowly(b"+OK, and so on".repeat(9))), "away: timed out"),
        case("noise", always(|| bytes("HTTP/1.1 400 Bad Request\r\n\r\n")), "away: "),
    ]);
}

#[test]
fn a_redis_that_refuses_harms_nobody_and_its_words_are_shown_as_text_without_the_password() {
    let always = |error: &'static str| Way::Answers(Box::new(move |_, _| bytes(error)));
    let case = |name, way, says| Case { name, way, says, post: Some(503), connections: 24, commands: 3000, memory: 16 };
    let taken = "it refuses the user and the password";
    all(vec![
        case("NOAUTH", always("-NOAUTH Authentication required.\r\n"), "(NOAUTH)"),
        case("WRONGPASS", but("AUTH", |_, _| bytes("-WRONGPASS invalid username-password pair\r\n")), "(WRONGPASS)"),
        case(
            "AUTH is unknown",
            but("AUTH", |_, words| {
                bytes(format!("-ERR unknown command 'AUTH', with args beginning with: '{}' '{PASSWORD}'\r\n", words[1]))
            }),
            taken,
        ),
        case("too many clients", Way::Greets("-ERR max number of clients reached\r\n"), "away: "),
        case("LOADING", behind_the_beginning(|_, _| bytes("-LOADING Redis is loading the dataset\r\n")), "LOADING"),
        case(
            "SELECT",
            but("SELECT", |_, _| bytes("-ERR DB index is out of range\r\n")),
            "it refuses database 3: ERR DB",
        ),
        case(
            "control characters",
            behind_the_beginning(|_, _| {
                Answer::Bytes(b"-ERR \x1b[31m\x1b]0;x\x07 \0 \r \x7f \xc2\x9b2J \xff \xe2\x80\xae\r\n".into())
            }),
            "ERR ␛[31m␛]0;x␇ ␀ ␍ ␡ ⟨U+009B⟩2J ",
        ),
        Case {
            post: Some(200),
            ..case("neither CLIENT nor INFO", but("CLIENT", |_, _| bytes("-NOPERM no\r\n")), "connected")
        },
        Case { post: None, ..case("no XREAD", but("XREAD", |_, _| bytes("-NOPERM no xread\r\n")), "NOPERM no xread") },
        Case { post: None, ..case("no XRANGE", but("XRANGE", |_, _| bytes("-NOPERM no xrange\r\n")), "") },
        case("no XADD", but("XADD", |_, _| bytes("-OOM command not allowed\r\n")), "refuses events: OOM command"),
    ]);
}

#[test]
fn a_redis_whose_answers_are_no_answers_harms_nobody() {
    const MOST: &str = "18446744073709551615-18446744073709551615";
    const NESTED: &str = "*3\r\n*-1\r\n*2\r\n$-1\r\n*1\r\n*-1\r\n*2\r\n*2\r\n$-1\r\n*-1\r\n:7\r\n";
    // There are about eight attempts to follow. With each, each of seven waiting clients may make an attempt too.
    let case = |name, way| Case { name, way, says: "", post: None, connections: 64, commands: 3000, memory: 16 };
    // The fake always has the same ids, as old and as new entries.
    let has = |ids: &'static [&'static str]| {
        Way::Answers(Box::new(move |fake: &Fake, words: &[&str]| match words {
            ["XRANGE", ..] => bytes(entries(ids.iter().copied())),
            ["XREAD", ..] => {
                sleep(Duration::from_millis(100));
                news(&[("tincan:kitchen", entries(ids.iter().copied()))])
            }
            _ => fake.usual(words),
        }))
    };
    let streams = |keys: &'static [&'static str]| {
        but("XREAD", move |fake, _| {
            sleep(Duration::from_millis(100));
            let all: Vec<_> = keys.iter().map(|key| (*key, entries([&*fake.id()]))).collect();
            news(&all)
        })
    };
    all(vec![
        Case { post: Some(503), ..case("numbers", behind_the_beginning(|_, _| bytes(":42\r\n"))) },
        Case { post: Some(503), ..case("nulls in arrays", behind_the_beginning(|_, _| bytes(NESTED))) },
        Case { post: Some(503), ..case("empty arrays", behind_the_beginning(|_, _| bytes("*0\r\n"))) },
        Case {
            post: Some(503),
            ..case("too deep", behind_the_beginning(|_, _| bytes("*1\r\n".repeat(99) + ":1\r\n")))
        },
        case("ids that are none", has(&["", "x", "5", "5-", "-5", "5-6-7", "*", "5-6\r\nid: 9-9"])),
        case("ids that go back", has(&["1763654400001-9", "3-0", "1763654400001-9", "1763654400001-9", "0-0", "5-1"])),
        case("the greatest id", but("XADD", |_, _| bytes(bulk(MOST)))),
        case(
            "other streams",
            streams(&["", "tincan:", "tincan:nobody", "kitchen", "x:kitchen", "tincan:\r\n", "tincan:lab/x"]),
        ),
        case("nulls for news at once", but("XREAD", |_, _| bytes("*-1\r\n"))),
        case("no news and no answer", but("XREAD", |_, _| Answer::Silence)),
        Case { post: Some(503), ..case("XADD null for ever", but("XADD", |_, _| bytes("$-1\r\n"))) },
        // A publisher's command is tried again until two seconds have passed. After a lost reply, the node checks on
        // a new connection.
        Case { post: Some(503), connections: 900, ..case("XADD closes", but("XADD", |_, _| Answer::Close)) },
        // The command is tried each millisecond, for up to two seconds.
        Case {
            post: Some(200),
            commands: 8000,
            ..case("UNBLOCK in vain", but("CLIENT UNBLOCK", |_, _| bytes(":0\r\n")))
        },
        Case {
            commands: 8000,
            ..case(
                "UNBLOCK in vain, and no news",
                Way::Answers(Box::new(|fake, words| match words {
                    ["CLIENT", "UNBLOCK", ..] => bytes(":0\r\n"),
                    ["XREAD", ..] => Answer::Silence,
                    _ => fake.usual(words),
                })),
            )
        },
    ]);
}

#[test]
fn a_redis_whose_answers_have_no_end_harms_nobody() {
    // There are about eight attempts to follow. With each, each of seven waiting clients may make an attempt too.
    let case = |name, way| Case { name, way, says: "", post: None, connections: 64, commands: 3000, memory: 16 };
    let endless = |first: &'static str, again: &'static str| {
        let again = again.repeat(20_000 / again.len());
        behind_the_beginning(move |_, _| Answer::Endless(first.into(), again.clone().into()))
    };
    let claims = |first: &'static str| behind_the_beginning(move |_, _| bytes(first));
    all(vec![
        case("a line without end", endless("+", "x")),
        Case { memory: 160, ..case("a string without end", endless("$33000000\r\n", "x")) },
        case("a string that is too long", endless("$1000000000\r\n", "x")),
        Case { memory: 160, ..case("an array without end", endless("*4611686018427387904\r\n", ":1\r\n")) },
        // The node leaves a connection with unexpected bytes, so each command has its own connection.
        Case { connections: 900, ..case("replies without end", endless("", "+OK\r\n")) },
        case("a string that is claimed", claims("$33000000\r\n")),
        case("an array that is claimed", claims("*4611686018427387904\r\n:1\r\n")),
        case(
            "the same page for ever",
            but("XRANGE", |_, _| {
                bytes(entries((0..1000).map(|n| format!("7-{n}")).collect::<Vec<_>>().iter().map(String::as_str)))
            }),
        ),
        // Always newer entries, more than any page has. A client that opens a channel must not wait for the last of
        // them.
        case(
            "new pages for ever",
            Way::Answers(Box::new(|fake, words| match words {
                ["XRANGE", ..] | ["XREAD", ..] => {
                    let ids: Vec<String> = (0..2000).map(|_| fake.id()).collect();
                    let page = entries(ids.iter().map(String::as_str));
                    sleep(Duration::from_millis(20)); // otherwise it takes the processor from the node
                    if words[0] == "XREAD" { news(&[("tincan:kitchen", page)]) } else { bytes(page) }
                }
                _ => fake.usual(words),
            })),
        ),
        case(
            "pages that go back",
            Way::Answers(Box::new(|fake, words| match words {
                ["XRANGE", ..] | ["XREAD", ..] => {
                    let ids: Vec<String> = (1..2000).rev().map(|n| format!("1763654400001-{n}")).collect();
                    let page = entries(ids.iter().map(String::as_str));
                    sleep(Duration::from_millis(100));
                    if words[0] == "XREAD" { news(&[("tincan:kitchen", page)]) } else { bytes(page) }
                }
                _ => fake.usual(words),
            })),
        ),
    ]);
}

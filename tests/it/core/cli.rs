//! The command line: CONTRACT section 8.

use crate::support::harness::*;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tincan::Config;
use tincan::flags::{Command as Asked, parse};

pub fn tincan(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.args(args);
    bare(&mut command);
    command.output().unwrap()
}

/// Parses arguments and environment.
pub fn ask(args: &[&str], env: &[(&str, &str)]) -> Result<Config, String> {
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    let asked = parse(&args, |name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()));
    asked.map(|asked| match asked {
        Asked::Run(config) => *config,
        Asked::Print(text) => panic!("{text}"),
    })
}

#[test]
fn help_and_version_are_printed_on_stdout() {
    for flag in ["-h", "--help"] {
        let out = tincan(&["--quiet", flag, "--nonsense"]);
        assert!(out.status.success() && out.stderr.is_empty());
        let text = String::from_utf8(out.stdout).unwrap();
        for option in [
            "listen ADDR:PORT",
            "data DIR",
            "sync",
            "history SIZE",
            "heartbeat SECS",
            "retry MS",
            "max-age SECS",
            "max-body SIZE",
            "max-connections N",
            "max-channels N",
            "host NAME",
            "allow-origin ORIGIN",
            "token-file FILE",
            "quiet",
        ] {
            assert!(text.contains(&format!("--{option}")), "{option}: {text}");
        }
        assert!(text.lines().all(|l| l.len() <= 100), "no line is wider than a terminal");
    }
    for flag in ["-V", "--version"] {
        let out = tincan(&[flag]);
        assert!(out.status.success() && out.stderr.is_empty());
        let says = format!("tincan {} with", env!("CARGO_PKG_VERSION"));
        assert!(String::from_utf8(out.stdout).unwrap().starts_with(&says)); // wings.rs tests the rest of the line
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_exit_2() {
    for (args, says) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["kitchen"], "kitchen"),
        (&["-q"], "-q"),
        (&["--listen"], "--listen needs a value"),
        (&["--listen", "8000"], "127.0.0.1:8000"),
        (&["--listen", "localhost:99999"], "127.0.0.1:8000"),
        (&["--listen=:8000"], "127.0.0.1:8000"),
        (&["--listen", "127.0.0.1:+8000"], "127.0.0.1:8000"),
        (&["--listen", "example.org:8000"], "127.0.0.1:8000"),
        (&["--history", "lots"], "a size"),
        (&["--history", "0"], "a size"),
        (&["--history", "2G"], "a size"),
        (&["--history", "1T"], "a size"),
        (&["--max-body", "-1"], "a size"),
        (&["--max-body", "K"], "a size"),
        (&["--heartbeat", "0"], "seconds from 1"),
        (&["--heartbeat", "1.5"], "seconds from 1"),
        (&["--retry", "soon"], "milliseconds"),
        (&["--max-age", "0"], "seconds from 1"),
        (&["--max-connections", "0"], "a number from 1"),
        (&["--max-channels", "+1"], "a number from 1"),
        (&["--host", "http://example.org"], "a host name"),
        (&["--host", "example.org:80"], "a host name"),
        (&["--allow-origin", "example.org"], "an origin"),
        (&["--allow-origin", "https://example.org/"], "an origin"),
        (&["--allow-origin", "https://user@example.org"], "an origin"),
        (&["--allow-origin", "capacitor://"], "an origin"),
        (&["--allow-origin", "https://x:abc"], "an origin"),
        (&["--allow-origin", "http://]"], "an origin"),
        (&["--allow-origin", "://localhost"], "an origin"),
        (&["--allow-origin", "nul"], "an origin"),
        (&["--allow-origin", "*.example.org"], "an origin"),
        (&["--quiet=1"], "takes no value"),
    ] {
        let out = tincan(args);
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {text}");
        assert!(text.starts_with("tincan: ") && text.contains(says), "{args:?}: {text}");
        assert!(out.stdout.is_empty());
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_port() {
    assert_eq!(ask(&[], &[]).unwrap(), Config::default());
    let port = ("PORT", "9000");
    let address = ("TINCAN_LISTEN", "127.0.0.1:9001");
    let listen = |args: &[&str], env: &[(&str, &str)]| ask(args, env).unwrap().listen.unwrap().to_string();
    assert_eq!(listen(&[], &[port]), "0.0.0.0:9000");
    assert_eq!(listen(&[], &[port, address]), "127.0.0.1:9001");
    assert_eq!(listen(&["--listen=[::1]:9002"], &[port, address]), "[::1]:9002");
    assert_eq!(listen(&["--listen=localhost:9003"], &[]), "127.0.0.1:9003");
    assert_eq!(
        ask(&[], &[("PORT", ""), ("TINCAN_LISTEN", "")]).unwrap(),
        Config::default(),
        "an empty variable counts as unset"
    );
    assert_eq!(ask(&["--host=Example.org."], &[]).unwrap().hosts, ["example.org"]);
    assert_eq!(ask(&[], &[("TINCAN_HOST", "a.b, c.d,")]).unwrap().hosts, ["a.b", "c.d"]);
    assert!(ask(&[], &[("PORT", "http")]).unwrap_err().starts_with("PORT: "));
    assert!(ask(&[], &[("TINCAN_RETRY", "x")]).unwrap_err().starts_with("TINCAN_RETRY: "));
    let config = ask(
        &["--history", "2k", "--retry=0", "--retry", "7", "--host", "B.example"],
        &[
            ("TINCAN_HISTORY", "1"),
            ("TINCAN_HEARTBEAT", "20"),
            ("TINCAN_MAX_AGE", "60"),
            ("TINCAN_MAX_BODY", "1M"),
            ("TINCAN_MAX_CONNECTIONS", "5"),
            ("TINCAN_MAX_CHANNELS", "6"),
            ("TINCAN_HOST", "a.example"),
            ("TINCAN_QUIET", "1"),
            ("TINCAN_ALLOW_ORIGIN", "https://a.example, https://b.example"),
            ("TINCAN_RETRY", "3"),
        ],
    );
    let expected = Config {
        history: 2048,
        retry: 7,
        heartbeat: Duration::from_secs(20),
        max_age: Some(Duration::from_secs(60)),
        max_body: 1 << 20,
        max_connections: 5,
        max_channels: 6,
        hosts: vec!["b.example".into()],
        origins: vec!["https://a.example".into(), "https://b.example".into()],
        quiet: true,
        ..Config::default()
    };
    assert_eq!(config.unwrap(), expected);
    assert!(!ask(&[], &[("TINCAN_QUIET", "0")]).unwrap().quiet);
}

#[test]
fn the_help_tells_the_true_defaults() {
    let help = String::from_utf8(tincan(&["--help"]).stdout).unwrap();
    let mut args = Vec::new();
    for line in help.lines().filter_map(|l| l.trim().strip_prefix("--")) {
        let default = line.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(d, _)| d);
        if let Some(default) = default.filter(|d| *d != "never") {
            args.extend([format!("--{}", line.split(' ').next().unwrap()), default.to_string()]);
        }
    }
    assert!(args.len() >= 14, "{args:?}");
    assert_eq!(ask(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[]).unwrap(), Config::default());
}

#[test]
fn the_start_shows_the_page_and_both_curl_lines() {
    let server = Tincan::start(&[]);
    let port = server.port;
    server.get("/health");
    eventually("the request is logged", || server.stderr().contains(" GET /health 200\n"));
    let greeting = format!(
        "tincan: http://localhost:{port}/\n  curl -N localhost:{port}/kitchen\n  curl -d 'soup is ready' localhost:{port}/kitchen\n"
    );
    assert!(server.stderr().starts_with(&greeting), "{}", server.stderr());
    let server = Tincan::spawn("127.0.0.2:0", &[]);
    assert!(
        server.stderr().starts_with("tincan: http://127.0.0.2:"),
        "the URL has an address at which the server can be reached"
    );
}

#[test]
fn the_start_says_what_everybody_may_and_by_which_address() {
    let dir = Scratch::new();
    let file = dir.0.join("tokens");
    let tokens = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        ["--token-file", file.to_str().unwrap()]
    };
    let warning = |rights: &str| {
        format!("  warning: everyone who reaches this address may {rights}; --token-file says who may\n")
    };
    let started = |listen: &str, args: &[&str]| {
        let server = Tincan::spawn(listen, args);
        eventually("the greeting is complete", || {
            server.stderr().contains("  limits: ") && server.stderr().ends_with('\n')
        });
        (server.stderr(), server.port)
    };
    for listen in ["0.0.0.0:0", "[::]:0"].into_iter().filter(|listen| std::net::TcpListener::bind(*listen).is_ok()) {
        let (message, port) = started(listen, &[]);
        assert!(
            message.starts_with(&format!("tincan: http://localhost:{port}/\n"))
                && message.contains(&warning("read and publish")),
            "{message}"
        );
        // If the machine has a route, the line has the address by which others reach it: not this address, and not a
        // name.
        let line = message.lines().find_map(|line| line.strip_prefix("  from other machines: ")).unwrap();
        if line != format!("port {port} at any address of this machine") {
            let url = line.strip_prefix("http://").unwrap().strip_suffix('/').unwrap();
            let address: std::net::SocketAddr = url.parse().unwrap();
            assert!(address.port() == port && !address.ip().is_loopback() && !address.ip().is_unspecified(), "{line}");
        }
    }
    assert!(started("0.0.0.0:0", &tokens("publish a\n")).0.contains(&warning("read")));
    assert!(started("0.0.0.0:0", &tokens("read a\n")).0.contains(&warning("publish")));
    for (listen, args) in [("0.0.0.0:0", &tokens("read a\npublish a\n")[..]), ("127.0.0.2:0", &[])] {
        let (message, _) = started(listen, args);
        assert!(!message.contains("everyone"), "{message}");
        assert_eq!(message.contains("from other machines"), listen == "0.0.0.0:0");
    }
}

#[test]
fn a_variable_that_is_no_options_is_noted_and_never_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.env("TINCAN_HEARTBEET", "5").env("TINCAN_LISTEN", "127.0.0.1:0").env("TINCAN_MAX_BODY", "1M");
    command.env("TINCAN_PORT_8000_TCP", "tcp://10.0.0.1:8000").env("TINCAN_a\u{1b}[2J", "").env("OTHER", "x");
    let server = Tincan::run(command);
    let note = "  note: these variables belong to no option, see --help: TINCAN_HEARTBEET, TINCAN_PORT_8000_TCP, TINCAN_a\u{241b}[2J\n";
    eventually("the variable is noted", || server.stderr().ends_with(note));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.env("TINCAN_LISTEN", "127.0.0.1:0").env("TINCAN_QUIET", "1");
    let server = Tincan::run(command);
    server.get("/health");
    assert!(!server.stderr().contains("note:"), "{}", server.stderr());
}

#[test]
fn the_start_says_what_the_process_can_hold_and_warns() {
    let dir = Scratch::new();
    let data = format!("--data {}", dir.arg());
    std::fs::write(dir.0.join("a.sse"), ": tincan log\n\ndata: torn").unwrap();
    let many =
        "  warning: --max-connections 10000 needs more descriptors; raise `ulimit -n`, or give --max-connections";
    for (limit, args, says) in [
        (
            "-n 64",
            "--memory 1500K",
            format!(
                "  limits: 48 connections (64 descriptors); 1000 channels of up to 1 MiB, in memory; 1500 KiB for logs in memory and bodies\n{many} 48\n"
            ),
        ),
        (
            "-n 64",
            &data,
            format!("{many} 32\n  warning: there are descriptors for 8 channels in use at a time; raise `ulimit -n`\n"),
        ),
        ("-v 500000", "", "1 MiB, in memory; 122 MiB for logs in memory and bodies\n".into()),
        ("-f 100", &data, "  warning: --history may need 512 KiB, but `ulimit -f` allows ".into()),
    ] {
        let mut command = Command::new("sh");
        let line = format!("ulimit {limit}; exec {} --listen 127.0.0.1:0 {args}", env!("CARGO_BIN_EXE_tincan"));
        let server = Tincan::run({
            command.args(["-c", &line]);
            command
        });
        eventually("the warning is printed", || server.stderr().contains(&says));
    }
    assert_eq!(dir.read("a.sse"), ": tincan log\n\n");
    std::fs::write(dir.0.join("a.sse"), ": tincan log\n\ndata: torn").unwrap();
    let server = Tincan::start(&["--data", dir.arg()]);
    eventually("the cut is reported", || {
        server.stderr().ends_with("  --data: /a: an unfinished event was cut off, 10 bytes\n")
    });
}

#[test]
fn the_request_log_has_one_clean_line_a_request_unless_quiet() {
    // So few that no limit of the system causes a warning.
    let few = ["--max-connections=10", "--max-channels=10"];
    let (loud, quiet) = (Tincan::start(&few), Tincan::start(&[few[0], few[1], "--quiet"]));
    for server in [&loud, &quiet] {
        server.post("/a?event=%1b%5b31m", "\u{1b}[31m");
        server.ask("GET /\u{1b}[31m HTTP/1.1\r\nHost: localhost\r\n\r\n");
        server.listen("/a", "Last-Event-ID: \u{9b}31m\r\n");
        server.get("/health");
    }
    eventually("the last request is logged", || loud.stderr().contains(" GET /health 200\n"));
    let stderr = loud.stderr();
    let lines: Vec<&str> = stderr.lines().skip(4).collect();
    let ends = [" POST /a?event=%1b%5b31m 200", " - 400", " GET /a 200", " GET /health 200"];
    assert_eq!(lines.len(), ends.len(), "{lines:?}");
    for (line, end) in lines.iter().zip(ends) {
        assert!(line.ends_with(end) && line.contains(" GMT 127.0.0.1:"), "{line:?}");
        assert!(line.chars().all(|c| (' '..='~').contains(&c)), "{line:?}");
    }
    eventually("the greeting is printed", || quiet.stderr().lines().count() >= 4);
    assert_eq!(quiet.stderr().lines().count(), 4, "{}", quiet.stderr());
}

#[test]
fn a_busy_port_is_named_with_a_remedy_and_exit_1() {
    let server = Tincan::start(&[]);
    let out = tincan(&["--listen", &format!("127.0.0.1:{}", server.port)]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains(&format!("port {} is taken", server.port)) && text.contains("--listen"), "{text}");
}

#[test]
fn a_channel_is_forgotten_after_its_time_and_its_ids_never_come_back() {
    // On the command line this time is an hour; a program that embeds the server can set it.
    let forget = Duration::from_millis(600);
    let config =
        Config { listen: "127.0.0.1:0".parse().ok(), forget, quiet: true, max_channels: 3, ..Config::default() };
    let server = tincan::Server::bind(config).unwrap();
    let (hub, port) = (server.hub().clone(), server.local_addr().unwrap().port());
    std::thread::spawn(move || server.run());
    let mut subscriber = Wire::to(port);
    subscriber.send("GET /read HTTP/1.1\r\nHost: localhost\r\n\r\n");
    subscriber.block();
    let publish = |name: &str| hub.publish(name, &[tincan::Event::new("x")]).unwrap().remove(0);
    // Events are published to `used` all the time; `idle` is its longest pause.
    let (first, mut use_at, mut idle) = (publish("left"), Instant::now(), Duration::ZERO);
    let second = publish("used");
    let mut again = || {
        let now = Instant::now();
        let used = publish("used");
        idle = idle.max(use_at.elapsed());
        use_at = now;
        used
    };
    eventually("the unused channel is forgotten", || {
        again();
        !hub.metrics(None).contains("left")
    });
    let left = publish("left");
    assert!(left > first && left.epoch != first.epoch && left.seq == 1, "{first} {left}");
    let used = again();
    let kept = used.epoch == second.epoch && used.seq > 2;
    assert!(kept || idle >= forget, "a channel in use is kept: {second} {used}, used after {idle:?} at the latest");
    assert!(
        hub.metrics(None).contains("tincan_subscribers{channel=\"read\"} 1\n"),
        "a channel with a subscriber is kept"
    );
}

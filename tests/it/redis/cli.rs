//! The option `--redis`, on the command line and in the environment.

use crate::core::cli::{ask, tincan};
use crate::core::filesystems::ended;
use crate::redis::server::closed_address;
use crate::support::harness::*;
use crate::support::wings::has;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::process::Command;
use tincan::wings::redis::resp::Address;
use tincan::{Config, Server};

#[test]
fn the_help_names_it() {
    let help = String::from_utf8(tincan(&["--help"]).stdout).unwrap();
    assert!(help.contains("--redis HOST:PORT"), "{help}");
}

#[test]
fn a_url_that_is_not_utf_8_is_not_shown() {
    let words = |what: &str| {
        format!("tincan: {what}: this value is not UTF-8; give a path through a link that has a name in UTF-8")
    };
    let secret = OsString::from_vec(b"redis://:p\xff@10.0.0.5".to_vec());
    assert_eq!(ended(&[], &[("TINCAN_REDIS", secret.clone())]), (Some(2), words("TINCAN_REDIS")));
    assert_eq!(ended(&[OsStr::new("--redis"), &secret], &[]), (Some(2), words("an argument")));
}

#[test]
fn a_program_of_somebodys_own_is_told_of_a_value_that_will_not_do() {
    let mut config = Config { listen: "127.0.0.1:0".parse().ok(), ..Config::default() };
    config.wing_options.set("redis", "redis://:s3cr3t@h:port");
    let why = Server::bind(config).unwrap_err().to_string();
    assert_eq!(why, "redis: give HOST:PORT, or redis://USER:PASSWORD@HOST:PORT/DB, percent-encoded");
}

#[test]
fn a_redis_is_named_by_flag_or_environment_and_a_value_that_will_not_do_is_not_shown() {
    let redis = |args: &[&str], env: &[(&str, &str)]| {
        let config = ask(args, env).unwrap();
        config
            .wing_options
            .get("redis")
            .and_then(Address::parse)
            .map(|a| (a.host, a.port, a.user, a.password, a.database))
    };
    let at = |host: &str| Some((host.to_string(), 6379, String::new(), String::new(), 0));
    let env = ("TINCAN_REDIS", "redis://ann:%73ecret@away.example:7000/2");
    assert_eq!(redis(&[], &[]), None);
    assert_eq!(redis(&[], &[("TINCAN_REDIS", "")]), None, "an empty variable counts as unset");
    assert_eq!(redis(&[], &[env]), Some(("away.example".into(), 7000, "ann".into(), "secret".into(), 2)));
    assert_eq!(redis(&["--redis", "h"], &[env]), at("h"), "a flag takes precedence");
    assert_eq!(redis(&["--redis=a", "--redis=b"], &[]), at("b"), "the last flag counts");

    const BAD: &str = "redis://ann:s3cr3t@h:port/0";
    let right = "give HOST:PORT, or redis://USER:PASSWORD@HOST:PORT/DB, percent-encoded";
    let refused = |args: &[&str], env: &[(&str, &str)]| ask(args, env).unwrap_err();
    assert_eq!(refused(&["--redis", BAD], &[]), format!("--redis: this value is not valid; {right}"));
    assert_eq!(refused(&[], &[("TINCAN_REDIS", BAD)]), format!("TINCAN_REDIS: this value is not valid; {right}"));
    let both = "--redis and --data both keep the logs; leave one of them out";
    assert_eq!(refused(&["--redis", "h"], &[("TINCAN_DATA", "d")]), both);
    for (args, says) in [
        (&["--redis", BAD][..], right),
        (&["--redis=rediss://ann:s3cr3t@h"], right),
        (&["--redis", ""], right),
        (&["--redis", "redis://:s3cr3t%@h"], right),
        (&["--redis"], "--redis needs a value: --redis HOST:PORT"),
        (&["--redis", "redis://:s3cr3t@h", "--data", "d"], both),
        (&["--redis=h", "--data=d", "--sync"], both),
        (&["--redis", "redis://:s3cr3t@h", "--sync"], "--sync needs --data"),
        // Mistakes next to the value.
        (&["redis://:s3cr3t@h"], "is not an option"),
        (&["--reddis=redis://:s3cr3t@h"], "is not an option"),
        (&["--reddis", "redis://:s3cr3t@h"], "\"--reddis\" is not an option"),
        (&["--redis", "--quiet", "redis://:s3cr3t@h"], "is not an option"),
    ] {
        let out = tincan(args);
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {text}");
        assert!(text.starts_with("tincan: ") && text.contains(says), "{args:?}: {text}");
        assert!(!text.contains("s3cr3t") && out.stdout.is_empty(), "{args:?}: {text}");
    }
}

#[test]
fn the_server_starts_while_redis_is_away_and_says_so_without_the_password() {
    let (_held, closed) = closed_address();
    let url = format!("redis://ann:s3cr3t@{closed}/2");
    for flag in [true, false] {
        let mut command = Command::new("sh");
        // `Tincan::run` removes the environment's variables TINCAN_…, so a shell sets this one.
        let redis = if flag { format!("--redis {url}") } else { String::new() };
        let env = if flag { String::new() } else { format!("TINCAN_REDIS={url} ") };
        let trace = if has("trace") { "--trace " } else { "" };
        let exe = env!("CARGO_BIN_EXE_tincan");
        command.args(["-c", &format!("{env}exec {exe} --listen 127.0.0.1:0 {trace}{redis}")]);
        let server = Tincan::run(command);
        let away = format!("tincan: redis: {closed}: away: Connection refused");
        eventually("the server reports that Redis is away", || server.stderr().contains(&away));
        let response = server.post_with("/kitchen", "", "soup");
        response.refused(tincan::wings::redis::node::REDIS_AWAY);
        assert_eq!((response.field("retry-after"), server.get("/health").status), (Some("5"), 503));
        let metrics = server.get("/metrics").text();
        assert!(metrics.contains("\ntincan_redis_connected 0\n"), "{metrics}");
        eventually("everything is traced", || trace.is_empty() || server.stderr().contains("tincan_redis_connected"));
        for text in [server.stderr(), metrics, response.text()] {
            assert!(!text.contains("s3cr3t") && !text.contains("ann:"), "{text}");
        }
    }
}

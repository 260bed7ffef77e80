//! The judge: tests any server of event streams, over plain HTTP, from outside, within a minute.
//!
//! ```text
//! cargo run --release --example judge -- http://localhost:8000/kitchen --post http://localhost:8000/kitchen
//! ```
//!
//! It prints a line for each rule (`rules.rs`): `ok`, `advice` or `broken`, the rule's name, what was seen, the section
//! of the standard, and what it does to users. `advice` is for what the standard leaves open, and for what could not be
//! tested. It ends with 0 if nothing is broken, with 1 if something is, and with 2 if the arguments are wrong or nobody
//! answers.
//!
//! It is an example of Cargo, and no part of the server. It uses the library's parsers. In reading order: `rules` (what
//! is tested), `http` and `stream` (the bytes), `subscriber` (one connection), `texts` (what is published), `examine`
//! (the order of the tests), `responses`, `publishing` and `slow` (the tests).
#![forbid(unsafe_code)]

mod rules;
mod http;
mod stream;
mod subscriber;
mod texts;
mod examine;
mod responses;
mod publishing;
mod slow;

use crate::examine::examine;
use crate::http::Url;
use crate::rules::{Level, Verdicts};
use crate::texts::Publisher;
use std::env::args_os;
use std::io::{Write, stdout};
use std::process::ExitCode;
use tincan::system::report::{report, visible};

const USAGE: &str = "\
Tests a server of event streams, within a minute.

usage: judge URL [--post URL] [--body TEMPLATE]

  URL               the event stream, such as http://localhost:8000/kitchen
  --post URL        where a POST publishes to that stream; without it, only what the stream shows is tested
  --body TEMPLATE   the body of a POST, in which {} stands for the text [{}]
                    in JSON write \"{}\", and the text is escaped; after NAME= it is percent-encoded

It ends with 0: nothing is broken; 1: something is; 2: wrong usage, or nobody answers.
";

fn main() -> ExitCode {
    let args: Result<Vec<String>, _> = args_os().skip(1).map(|arg| arg.into_string()).collect();
    let Ok(args) = args else { return fail("an argument is not UTF-8") };
    if args.iter().any(|arg| arg == "-h" || arg == "--help") {
        return print(USAGE, 0);
    }
    match judge(&args) {
        Ok(verdicts) => print(&verdicts.to_string(), u8::from(verdicts.count(Level::Broken) > 0)),
        Err(why) => fail(&why),
    }
}

/// Says why the server was not tested.
fn fail(why: &str) -> ExitCode {
    report(format!("judge: {}", visible(why)));
    ExitCode::from(2)
}

/// Prints a text. It is no error if nobody reads it.
fn print(text: &str, code: u8) -> ExitCode {
    let _ = stdout().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// Reads the arguments, and tests the server.
fn judge(args: &[String]) -> Result<Verdicts, String> {
    let mut url = None;
    let mut post = None;
    let mut body = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, value) = arg.split_once('=').map_or((&**arg, None), |(name, value)| (name, Some(value)));
        let slot = match name {
            "--post" => &mut post,
            "--body" => &mut body,
            _ if arg.starts_with('-') => return Err(format!("there is no option {name}; see --help")),
            _ => {
                if url.replace(arg.clone()).is_some() {
                    return Err("give one URL; see --help".into());
                }
                continue;
            }
        };
        let value = value.or_else(|| args.next().map(String::as_str)).ok_or(format!("{name} needs a value"))?;
        if slot.replace(value.to_string()).is_some() {
            return Err(format!("give {name} once"));
        }
    }
    let url = Url::parse(&url.ok_or("give the URL of an event stream; see --help")?)?;
    let publisher = match (post, body) {
        (None, Some(_)) => return Err("--body needs --post".into()),
        (None, None) => None,
        (Some(post), body) => Some(Publisher::new(Url::parse(&post)?, body.as_deref().unwrap_or("{}"))?),
    };
    examine(&url, publisher.as_ref())
}

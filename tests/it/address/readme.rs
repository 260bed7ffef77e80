//! The commands and the code of this wing's manual.

use crate::support::browser::{driver, url};
use crate::support::documents::{blocks, text_block};
use crate::support::harness::*;
use crate::support::manual::{self, Listens};
use tincan::wings::address::TABLES;

#[test]
fn the_commands_of_its_manual_do_what_it_shows() {
    let server = Tincan::start(&[]);
    let port = ("localhost:8000", format!("localhost:{}", server.port));
    let commands = manual::commands("address", &[port]);
    let shown = text_block(&manual::path("address"), ": connected");
    let subscriber = Listens::start(&commands[0]);
    let address = address_of(&subscriber.until("\n\n"));
    for command in &commands[1..] {
        manual::run(&command.replace(&address_of(&shown), &address));
    }
    // Each subscriber gets a random `retry`, and an epoch is a time.
    let same = |text: &str| {
        let (prelude, events) = text.split_once("\nretry: ").unwrap();
        let events = events.split_once('\n').unwrap().1.replace(id_of(text).split('-').next().unwrap(), "EPOCH");
        prelude.replace(&address_of(text), "ADDRESS") + "\n" + &events
    };
    assert_eq!(same(&subscriber.until("for all\nid: ")[..]).trim_end(), same(&shown).trim_end());
}

#[test]
fn a_page_reads_its_address_as_the_manual_shows_it() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/health"));
    let [code] = &blocks(&manual::path("address"), "js")[..] else { panic!("there is one block") };
    let code = code.replace("localhost:8000", &format!("127.0.0.1:{}", server.port));
    page.js(&format!("(window.own = '', (async () => {{ {code} window.own = address }})(), '')"));
    page.becomes("own.length", "32");
    assert_eq!(server.post_with(&format!("/kitchen?to={}", page.js("own")), "", "x").status, 200);
}

#[test]
fn its_manual_quotes_what_it_refuses() {
    manual::quotes("address", TABLES.refusals);
    manual::metrics("address", &Tincan::start(&[]), "tincan_address");
}

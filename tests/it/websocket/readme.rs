//! The commands and the code of this wing's manual.

use crate::deploy::proxies::Proxy;
use crate::support::browser::{driver, url};
use crate::support::documents::{blocks, document};
use crate::support::harness::*;
use crate::support::manual::{self, Listens};
use crate::support::process::works;
use crate::support::websocket::{Ws, handshake, text};
use std::collections::BTreeSet;
use tincan::wings::websocket::{TABLES, frames};
use tincan::wire::event::json;

#[test]
fn the_commands_of_its_manual_do_what_it_shows() {
    let server = Tincan::start(&[]);
    let port = ("localhost:8000", format!("localhost:{}", server.port));
    let [opens, says] = &manual::commands("websocket", &[port])[..] else { panic!("there are two commands") };
    let listens = Listens::start(opens);
    eventually("the WebSocket is a subscriber", || server.readers("kitchen") == 1);
    manual::run(says);
    assert!(listens.until("soup is ready").starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
}

/// The scripts run in a page of the server. `heard` collects their output on the console.
#[test]
fn the_scripts_of_its_manual_do_what_it_says() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--max-age", "1"]);
    let [first, back] = &blocks(&manual::path("websocket"), "js")[..] else { panic!("there are two scripts") };
    let play = |script: &str| {
        let page = driver.page(&url(&server, "/health"));
        let script = json(&script.replace("localhost:8000", &format!("127.0.0.1:{}", server.port)));
        page.js(&format!("(window.heard = [], console.log = text => heard.push(text), (0, eval)({script}), '')"));
        page
    };
    play(first).becomes("heard.join('|')", "soup is ready");
    // The script's second connection misses nothing, and gets nothing twice.
    let page = play(back);
    page.becomes("heard.length", "1");
    let mut received = String::new();
    for n in 0..3 {
        received += &block(&n.to_string(), &server.post("/kitchen", n.to_string())[0]);
        eventually("the WebSocket is closed", || server.readers("kitchen") == 0);
    }
    page.becomes("heard.filter(block => !block.startsWith(': connected')).join('')", &received);
}

#[test]
fn the_program_of_its_manual_hears_whole_blocks() {
    if !works("/usr/bin/python3 -c 'import websockets'") {
        return;
    }
    let server = Tincan::start(&[]);
    let [program] = &blocks(&manual::path("websocket"), "py")[..] else { panic!("there is one program") };
    let dir = Scratch::new();
    let file = dir.0.join("listen.py");
    std::fs::write(&file, program.replace("localhost:8000", &format!("127.0.0.1:{}", server.port))).unwrap();
    let listens = Listens::start(&format!("/usr/bin/python3 -u {}", file.display()));
    listens.until(": connected to /kitchen as ");
    let id = server.post("/kitchen", "soup is ready").remove(0);
    listens.until(&block("soup is ready", &id));
}

#[test]
fn its_manual_has_each_code_with_which_it_closes() {
    manual::quotes("websocket", frames::TABLE);
    let text = document(&manual::path("websocket"));
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()?.parse().ok());
    let codes: BTreeSet<u16> = cells.collect();
    let mut due: BTreeSet<u16> = frames::TABLE.iter().map(|reject| reject.status).collect();
    due.extend([1008, 1011, 1013]); // `socket.rs`
    assert_eq!(codes, due);
    let server = Tincan::start(&["--max-age", "1"]);
    let mut called_back = Ws::open(&server, "/kitchen");
    let (first, reason) = called_back.frame().unwrap();
    assert_eq!((first, &reason[..2]), (0x88, &1013u16.to_be_bytes()[..]));
    assert!(text.contains(&format!("`{}`", String::from_utf8_lossy(&reason[2..]))), "the reason for 1013");
}

#[test]
fn its_manual_quotes_what_it_refuses() {
    manual::quotes("websocket", TABLES.refusals);
    manual::metrics("websocket", &Tincan::start(&[]), "tincan_websocket");
}

/// Checks that a WebSocket works through a proxy. If not, returns the head of the response as the error.
fn through(proxy: &Proxy) -> Result<(), String> {
    let mut wire = Wire::to(proxy.port);
    wire.send(handshake("/kitchen", "").replace("Host: localhost", "Host: chat.example.org"));
    let head = wire.until(b"\r\n\r\n");
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(head);
    }
    let mut ws = Ws(wire);
    ws.send(text("soup is ready"));
    ws.hears("soup is ready");
    Ok(())
}

#[test]
fn proxies_pass_a_websocket_on_as_its_manual_says() {
    let server = Tincan::start(&["--host", "chat.example.org"]);
    let start = |name: &str, edits: &[(&str, &str)]| Proxy::start(name, server.port, edits);
    for proxy in ["nginx", "haproxy", "caddy"].iter().filter_map(|name| start(name, &[])) {
        assert_eq!(through(&proxy), Ok(()));
    }
    let site = document("static/deploy/nginx.conf");
    let lines = site.split_once("# Without these three lines nginx passes on no WebSocket.\n").unwrap().1;
    let without: Vec<(&str, &str)> = lines.lines().take(3).map(|line| (line, "")).collect();
    let Some(proxy) = start("nginx", &without) else { return };
    let refused = through(&proxy).unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 426 "), "{refused}");
}

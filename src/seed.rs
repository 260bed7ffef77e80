//! **The seed of tincan**: the smallest server of this kind. What one client POSTs, each client that GETs hears, as an
//! event stream (WHATWG HTML, "Server-sent events"). Run `cargo run --example seed`, and then in two other terminals:
//!
//! ```text
//! curl -N localhost:8000                   # subscribe
//! curl -d 'soup is ready' localhost:8000   # publish
//! ```
//!
//! The body of the stream has no Content-Length and no chunks, so it ends with the connection (RFC 9112 §6.3).
//!
//! It works, but do not rely on it. Each `Shortcut:` names its faults, by their keys in the table of
//! `static/lessons/seed.md`. The table says what goes wrong, and which file of tincan mends it.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The sockets of all subscribers, to write to.
type Subscribers = Arc<Mutex<Vec<TcpStream>>>;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const REFUSED: &str = "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, POST\r\nConnection: close\r\n\r\n";

fn main() {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".to_string());
    let listener = TcpListener::bind(address).unwrap();
    eprintln!("seed: http://localhost:{}/", listener.local_addr().unwrap().port());
    let subscribers = Subscribers::default();
    let list = subscribers.clone();
    thread::spawn(move || heartbeat(&list));
    for stream in listener.incoming() {
        let stream = stream.unwrap(); // Shortcut: an error here or no thread below ends the program (accept-error)
        let list = subscribers.clone();
        thread::spawn(move || serve(stream, &list));
    }
}

/// Serves the one request of a connection. Shortcut: the URL means nothing (one-channel), and of the fields only
/// Content-Length has a meaning (Transfer-Encoding: chunked-body; Expect: no-continue; Origin: foreign-page;
/// Host: rebound-host; Last-Event-ID: lost-event, cut-event).
fn serve(mut stream: TcpStream, subscribers: &Subscribers) {
    let mut reader = BufReader::new(&stream); // Shortcut: it waits without a limit of time (silent-client)
    let (method, length) = read_head(&mut reader);
    let mut body = vec![0; length]; // Shortcut: as much as the client says (huge-length)
    reader.read_exact(&mut body).unwrap();
    match method.as_str() {
        "GET" => {
            // Under the lock, so that the subscriber misses no event after its head.
            let mut subscribers = subscribers.lock().unwrap();
            if stream.write_all(STREAM.as_bytes()).is_ok() {
                subscribers.push(stream);
            }
        }
        "POST" => {
            publish(body, &mut subscribers.lock().unwrap());
            stream.write_all(DONE.as_bytes()).unwrap();
        }
        _ => stream.write_all(REFUSED.as_bytes()).unwrap(),
    }
}

/// Reads the lines up to the blank line. Returns the method, and the length of the body.
fn read_head(reader: &mut impl BufRead) -> (String, usize) {
    let mut lines = reader.lines().map_while(Result::ok); // Shortcut: no limit (endless-head), any end (cut-head)
    let request_line = lines.next().unwrap_or_default();
    let method = request_line.split(' ').next().unwrap().to_string();
    let mut length = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0); // Shortcut: whatever it says (bad-length, two-lengths)
        }
    }
    (method, length)
}

/// Sends an event. Each line of the body becomes a `data` line, and a blank line ends the event.
fn publish(body: Vec<u8>, subscribers: &mut Vec<TcpStream>) {
    let text = String::from_utf8(body).unwrap(); // Shortcut: a panic under the lock (poisoned-lock)
    let lines = text.split('\n'); // Shortcut: a lone CR ends a line too (lone-cr)
    let event: String = lines.map(|line| format!("data: {line}\n")).collect();
    broadcast(&(event + "\n"), subscribers);
}

/// Writes to all subscribers, and drops those that have gone. Shortcut: the first write to one that has gone succeeds
/// (dead-socket); it waits for each of them, and holds the lock all the time (stalled-subscriber).
fn broadcast(text: &str, subscribers: &mut Vec<TcpStream>) {
    subscribers.retain_mut(|stream| stream.write_all(text.as_bytes()).is_ok());
}

/// Sends a comment from time to time: clients ignore it, and a write to a dead socket fails.
fn heartbeat(subscribers: &Subscribers) {
    loop {
        thread::sleep(Duration::from_secs(15));
        broadcast(":ping\n\n", &mut subscribers.lock().unwrap());
    }
}

//! A WebSocket's connection: a channel heard and fed with frames.
//!
//! Inside the server it is a reader like any other: the channel writes to one end of a pair of sockets what it would
//! write to an event stream's client, with the same place in the log, pings and ends. A thread at the other end makes
//! frames of these blocks; the connection's own thread reads the client's frames, and publishes.
//!
//! - a block of the stream is a text message: its data, or with the subprotocol `event-stream` the whole block;
//! - `:ping` is a Ping frame (RFC 6455 §5.5.2);
//! - the end of the stream is a Close frame, 1013: come back, with `?since=`.
//!
//! Limits: [`UNANSWERED`], `CLOSE_TIME`; `--max-body` for a message; a WebSocket holds four descriptors, and so it
//! counts as four connections. Shortcut: two threads for each, because std cannot wait for two sockets at once.

use crate::channel::{Channel, Opening, lock};
use crate::connection::Connection;
use crate::event::Event;
use crate::hub::{Hub, start};
use crate::reject::{CONNECTIONS, PUBLISH_TOKEN, Reject};
use crate::subscriber::Slot;
use crate::trace::Trace;
use crate::ws::{self, Parser, Received};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{Thread, park_timeout};
use std::time::Duration;

/// Limit: Ping frames, and writes of a heartbeat's length, that go unanswered.
pub const UNANSWERED: u32 = 2;
/// Limit: how long the client may take to answer a Close frame.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Bytes of frames for which one write is worth waiting.
const FRAMES: usize = 16 << 10;

/// A handshake that is accepted.
pub struct Accepted {
    /// The response head: a 101.
    pub head: String,
    /// Each message is a whole block.
    pub blocks: bool,
    /// Whether its client may publish.
    pub may_publish: bool,
    /// The channel's name.
    pub name: String,
    /// What it publishes, but for the data.
    pub template: Event,
}

/// The socket's writing half: one frame at a time.
struct Out {
    stream: TcpStream,
    trace: Trace,
    closed: bool, // a Close frame was sent, behind which there is nothing (§5.5.1)
}

/// What the two threads share.
struct Socket {
    out: Mutex<Out>,
    inner: UnixStream, // our end of the pair
    unanswered: AtomicU32,
    ended: AtomicBool, // the client's frames are
    _slots: [Slot; 2],
}

impl Socket {
    /// Sends whole frames, unless the connection is being closed. The write timeout is a heartbeat.
    fn send(&self, mut frames: &[u8], last: bool) -> io::Result<()> {
        let out = &mut *lock(&self.out);
        if out.closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        out.closed = last;
        let mut stalls = 0;
        while !frames.is_empty() {
            match out.trace.write(&out.stream, frames) {
                Ok(n @ 1..) => {
                    frames = frames.get(n..).unwrap_or_default();
                    stalls = 0;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && stalls < UNANSWERED => {
                    stalls += 1;
                }
                _ => {
                    out.closed = true; // half a frame may be out: what came behind it would be read as its other half
                    let _ = out.stream.shutdown(Shutdown::Both);
                    return Err(ErrorKind::TimedOut.into());
                }
            }
        }
        Ok(())
    }

    /// Says why it ends, once.
    fn close(&self, code: Option<u16>, reason: &str) {
        let mut frame = Vec::new();
        ws::close(code, reason, &mut frame);
        let _ = self.send(&frame, true); // where this fails the client is gone
    }

    /// Makes frames of the blocks that the channel writes, until it has no more to say.
    fn hear(&self, blocks: bool) -> io::Result<()> {
        let mut stream = BufReader::new(&self.inner);
        let mut block = Vec::new();
        let mut frames = Vec::new();
        let mut first = true;
        while stream.read_until(b'\n', &mut block)? > 0 {
            if !block.ends_with(b"\n\n") {
                continue;
            }
            if block.starts_with(b":ping") {
                if self.unanswered.fetch_add(1, SeqCst) >= UNANSWERED {
                    return Err(ErrorKind::TimedOut.into());
                }
                ws::frame(ws::PING, b"", &mut frames);
            } else if blocks {
                ws::frame(ws::TEXT, &block, &mut frames);
            } else if !first {
                ws::frame(ws::TEXT, &data(&block), &mut frames); // the first one is the prelude
            }
            block = Vec::new();
            first = false;
            // What is there already goes with it, in one write.
            if stream.buffer().is_empty() || frames.len() > FRAMES {
                self.send(&frames, false)?;
                frames.clear();
                frames.shrink_to(FRAMES);
            }
        }
        self.send(&frames, false) // the stream ended within a block
    }

    /// The life of the thread that writes.
    fn write(&self, blocks: bool) {
        if self.hear(blocks).is_ok() && !self.ended.load(SeqCst) {
            self.close(Some(1013), "you have fallen behind, or your time is over; come back with ?since=ID");
            park_timeout(CLOSE_TIME); // the other thread wakes us when the client has answered
        }
        // Otherwise the other thread ends it, and lets the client read to the end (RFC 9112 §9.6).
        if !self.ended.load(SeqCst) {
            let _ = lock(&self.out).stream.shutdown(Shutdown::Both);
        }
    }

    /// Reads and obeys the client's frames, until there are no more. Returns with what it is to be closed.
    fn obey(
        &self, connection: &mut Connection, hub: &Hub, accepted: &Accepted,
    ) -> Result<(), (Option<u16>, &'static str)> {
        let mut parser = Parser::new(hub.config().max_body);
        let traced = lock(&self.out).trace.watches();
        while let Ok((bytes, early)) = connection.receive() {
            if traced {
                let trace = &mut lock(&self.out).trace;
                if !early {
                    trace.received(&bytes);
                }
                trace.heard(&bytes);
            }
            let mut rest = &bytes[..];
            while let Some(received) = parser.next(&mut rest).map_err(|fail| (Some(fail.code), fail.reason))? {
                match received {
                    Received::Message(_) if !accepted.may_publish => return Err((Some(1008), PUBLISH_TOKEN.why)),
                    Received::Message(text) => {
                        let event = accepted.template.clone().with_data(text);
                        let code = |r: Reject| (Some(if r.status == 500 { 1011 } else { 1013 }), r.why);
                        hub.publish(&accepted.name, &[event]).map_err(code)?;
                    }
                    Received::Ping(payload) => {
                        let mut pong = Vec::new();
                        ws::frame(ws::PONG, &payload, &mut pong);
                        let _ = self.send(&pong, false); // where this fails no more is to be read soon
                    }
                    Received::Pong => self.unanswered.store(0, SeqCst),
                    Received::Close(code) => return Err((code, "")),
                }
            }
        }
        Ok(())
    }
}

/// The data of a block, as `event.rs` writes it.
fn data(block: &[u8]) -> Vec<u8> {
    let lines = block.split(|&b| b == b'\n').filter_map(|line| line.strip_prefix(b"data: "));
    lines.collect::<Vec<_>>().join(&b'\n')
}

/// Serves a WebSocket to its end. `most`: connections at a time.
///
/// # Errors
/// Where it would be one too many, or the system has not what it takes; then nothing was sent.
pub fn serve(
    connection: &mut Connection, hub: &Arc<Hub>, channel: &Arc<Channel>, opening: Opening, accepted: Accepted,
    most: usize,
) -> Result<(), Reject> {
    let [slot, (second, _), (third, number)] = [hub.connect(), hub.connect(), hub.connect()];
    let pair = UnixStream::pair().ok().filter(|_| number <= most);
    let ((inner, theirs), stream) = pair.zip(connection.stream.try_clone().ok()).ok_or(CONNECTIONS)?;
    let socket = Arc::new(Socket {
        out: Mutex::new(Out { stream, trace: take(&mut connection.trace), closed: false }),
        inner,
        unanswered: AtomicU32::new(0),
        ended: AtomicBool::new(false),
        _slots: [second, third],
    });
    let timeout = connection.stream.set_write_timeout(Some(hub.config().heartbeat));
    let theirs = TcpStream::from(OwnedFd::from(theirs)); // a socket is a socket: nothing of TCP is asked of it
    if timeout.is_err() || hub.subscribe(channel, theirs, slot.0, opening).is_err() {
        return Err(CONNECTIONS);
    }
    connection.note(101);
    let _ = socket.send(accepted.head.as_bytes(), false); // where this fails the client is gone, and the rest is short
    let hearing = socket.clone();
    let blocks = accepted.blocks;
    let writer = start("websocket", Box::new(move || hearing.write(blocks)));
    let end = match &writer {
        Ok(_) => socket.obey(connection, hub, &accepted),
        Err(_) => Err((Some(1013), "no thread can be had; come back later")),
    };
    socket.ended.store(true, SeqCst);
    if let Err((code, reason)) = end {
        socket.close(code, reason);
    }
    let _ = socket.inner.shutdown(Shutdown::Both); // the channel's reader is gone, and so is the other thread
    writer.iter().for_each(Thread::unpark);
    Ok(())
}

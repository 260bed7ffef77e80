//! A WebSocket's connection: a channel heard and fed with frames.
//!
//! Its subscriber is one like any other, with its own framing (`framing.rs`): the pump writes to the socket. The
//! connection's thread reads the client's frames, and publishes; it writes Pong frames between the others (`duplex.rs`).
//!
//! - a block of the log is a text message: its data, or with the subprotocol `event-stream` the whole block;
//! - a heartbeat is a Ping frame (RFC 6455 §5.5.2);
//! - the end is a Close frame, behind whole messages. Before it is sent the subscriber leaves its channel, so that nobody
//!   else writes. If the client ends it, its thread does that. Otherwise a thread of its own does: the code is 1013, come
//!   back with `?since=`.
//!
//! Limits: [`UNANSWERED`], `CLOSE_TIME`; `--max-body` for a message. A WebSocket holds two descriptors, and so it counts as
//! two connections.

use crate::channel::{Channel, Opening};
use crate::connection::Connection;
use crate::duplex::{Duplex, lock};
use crate::event::Event;
use crate::framing::Frame;
use crate::hub::{Hub, start};
use crate::log::Part;
use crate::reject::{CONNECTIONS, PUBLISH_TOKEN, Reject};
use crate::subscriber::{Gone, Socket, Subscriber, UNANSWERED};
use crate::ws::{self, Parser, Received};
use std::io::{self, ErrorKind};
use std::mem::take;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

/// Limit: how long the client may take to answer a Close frame, or to take the rest of a message behind its own.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Limit: bytes of a part that has fallen which are framed at a time.
const WINDOW: usize = 4096;

/// A handshake that is accepted.
pub struct Accepted {
    /// Whether its client may publish.
    pub may_publish: bool,
    /// The channel's name.
    pub name: String,
    /// What it publishes, but for the data.
    pub template: Event,
}

/// Why a WebSocket is closed: a status code, if it has one, and a reason.
type End = (Option<u16>, &'static str);

const COME_BACK: End = (Some(1013), "you have fallen behind, or your time is over; come back with ?since=ID");

/// A WebSocket that has left its channel. When it is dropped, its connection ends.
struct Left(Subscriber, Arc<Mutex<Duplex>>);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.0.stream.shutdown(Shutdown::Both);
    }
}

impl Left {
    /// Sends what is left of the message in which it stands, a Close frame, and waits for the client's.
    fn end(&mut self, part: Option<Arc<Part>>) -> io::Result<()> {
        let Left(sub, half) = self;
        let mut own = sub.more.as_mut().map(|more| take(&mut more.own)).unwrap_or_default();
        send(half, &sub.stream, own.as_slice())?;
        own.by_ref().for_each(drop);
        let mut at = sub.at();
        let mut window = [0; WINDOW];
        while let (Some(Frame::Open(_, end)), Some(part)) = (at.frame, &part) {
            let size = part.copy(at.pos, &mut window)?.min(usize::try_from(end - at.pos).unwrap_or(WINDOW));
            let mut bytes = Vec::new();
            at = sub.framing.wrap(at, window.get(..size).unwrap_or_default(), &mut bytes);
            if bytes.is_empty() {
                break;
            }
            send(half, &sub.stream, &bytes)?;
        }
        if !matches!(at.frame, Some(Frame::Open(..))) {
            close(half, &sub.stream, COME_BACK);
            sleep(CLOSE_TIME);
        }
        Ok(())
    }
}

/// Has a thread end a WebSocket whose subscriber had to leave.
fn part_with(sub: Subscriber, half: Arc<Mutex<Duplex>>, part: Option<Arc<Part>>) {
    let over = sub.gone.is_some_and(|gone| gone != Gone::Done);
    let mut left = Left(sub, half);
    if over {
        // If there is no thread, it just ends.
        let _ = start("websocket", Box::new(move || drop(left.end(part))));
    }
}

/// Sends bytes, and waits for the client; the write timeout is a heartbeat.
fn send(half: &Mutex<Duplex>, stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let mut half = lock(half);
    half.busy = true; // no Pong frame comes behind
    let mut stalls = 0;
    while !bytes.is_empty() {
        match half.trace.write(stream, bytes) {
            Ok(n @ 1..) => {
                bytes = bytes.get(n..).unwrap_or_default();
                stalls = 0;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && stalls < UNANSWERED => {
                stalls += 1;
            }
            _ => return Err(ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}

/// Says why it ends.
fn close(half: &Mutex<Duplex>, stream: &TcpStream, (code, reason): End) {
    let mut frame = Vec::new();
    ws::close(code, reason, &mut frame);
    let _ = send(half, stream, &frame); // if this fails the client is gone
}

/// Reads and obeys the client's frames, until there are no more. Returns with what it is to be closed.
fn obey(
    connection: &mut Connection, half: &Mutex<Duplex>, hub: &Hub, channel: &Arc<Channel>, accepted: &Accepted,
) -> Result<(), End> {
    let mut parser = Parser::new(hub.config().max_body);
    while let Ok((bytes, early)) = connection.receive(|| drop(lock(half))) {
        lock(half).heard(&bytes, early);
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
                    if lock(half).pong(&connection.stream, pong) {
                        hub.wake(channel);
                    }
                }
                Received::Pong => lock(half).unanswered = 0,
                Received::Close(code) => return Err((code, "")),
            }
        }
    }
    Ok(())
}

/// Serves a WebSocket to its end. `most`: connections at a time.
///
/// # Errors
/// If it would be one too many, or the system has not what it takes.
pub fn serve(
    connection: &mut Connection, hub: &Arc<Hub>, channel: &Arc<Channel>, mut opening: Opening, accepted: &Accepted,
    most: usize,
) -> Result<(), Reject> {
    let (slot, number) = hub.connect();
    let stream = connection.stream.try_clone().ok().filter(|_| number <= most).ok_or(CONNECTIONS)?;
    connection.stream.set_write_timeout(Some(hub.config().heartbeat)).map_err(|_| CONNECTIONS)?;
    let half = Arc::<Mutex<Duplex>>::default();
    lock(&half).trace = take(&mut connection.trace);
    let own = half.clone();
    let leave = Box::new(move |sub, part| part_with(sub, own, part));
    opening.socket = Some(Socket { half: half.clone(), leave });
    connection.note(101);
    let key = hub.subscribe(channel, stream, slot, opening).map_err(|_| CONNECTIONS)?;
    let end = obey(connection, &half, hub, channel, accepted);
    if let Some(sub) = channel.leave(key, CLOSE_TIME)
        && let Err(end) = end
        && !sub.is_busy()
    {
        close(&half, &sub.stream, end);
    }
    Ok(())
}

//! The rules that can be tested without a text: heads, methods, heartbeats, and a return to a stream that speaks by
//! itself.

use crate::examine::{Judge, RESPONSE, SAID, STREAM, STUCK};
use crate::http::{Body, Connection, Head, NoHead};
use crate::rules::Level;
use crate::subscriber::{Heard, Subscriber};
use std::time::{Duration, Instant};
use tincan::system::report::report;
use tincan::wire::event::is_event_stream;

/// Limit: how long the judge waits for the first head, if nothing was said.
const FIRST_HEAD: Duration = Duration::from_secs(3);
/// The same, if nothing can be said.
const FIRST_HEAD_ALONE: Duration = Duration::from_secs(10);
/// Limit: how long it waits for the first bytes of a body, and for the rest of a short one.
const FIRST_BYTES: Duration = Duration::from_secs(4);
/// Limit: how long it waits for a heartbeat. The standard says "every 15 seconds or so".
const HEARTBEAT: Duration = Duration::from_secs(20);
/// For this long no body may follow the head of a response to HEAD.
const HEAD_BODY: Duration = Duration::from_secs(2);
/// For this long nothing may follow a response that is complete.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Limit: the bytes of the response to OPTIONS.
const MAX_BODY: usize = 1 << 20;
/// The codings that browsers accept.
const COMPRESSED: &str =
    "Accept: text/event-stream\r\nCache-Control: no-cache\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n";

impl Judge<'_> {
    /// Opens the first stream. Returns `None` if what comes is no response.
    pub fn first_subscriber(&mut self) -> Result<Option<Subscriber>, String> {
        let nobody = |why: String| {
            format!("nobody answers: {why}; check the URL, and give --post if the head waits for an event")
        };
        let mut connection = self.ask("GET", "HTTP/1.1", STREAM).map_err(nobody)?;
        match self.first_head(&mut connection) {
            Ok(head) if let Some(location) = head.redirection() => {
                Err(format!("the URL redirects ({}) to {location}; give that one", head.status))
            }
            Ok(head) => self.subscriber(STREAM, head, connection).map(Some),
            Err(NoHead::Silent(why)) => Err(nobody(why)),
            Err(NoHead::Broken(why)) => {
                self.broken("framing", why);
                Ok(None)
            }
        }
    }

    /// Waits for a head. If it comes only after something was said, a page does not get `open` before.
    fn first_head(&mut self, connection: &mut Connection) -> Result<Head, NoHead> {
        let Some(publisher) = self.publisher else { return connection.head(self.within(FIRST_HEAD_ALONE)) };
        match connection.head(self.within(FIRST_HEAD)) {
            Err(NoHead::Silent(_)) => {
                self.has_late_heads = true;
                let head = self.late_head(publisher, connection)?;
                self.broken("first-bytes", "the head came only after something was said");
                Ok(head)
            }
            head => head,
        }
    }

    /// Returns whether an event stream follows, in spite of what may be wrong with the head.
    pub fn examine_head(&mut self, first: &Subscriber) -> bool {
        let head = &first.head;
        let media_type = head.media_type();
        let shown = format!("Content-Type: {media_type}");
        let lower = media_type.to_ascii_lowercase();
        let charset = lower.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("charset="));
        let is_utf_8 = charset.is_none_or(|charset| ["", "utf-8"].contains(&charset.trim_matches('"')));
        let is_stream = is_event_stream(&media_type);
        let level = |holds| if holds { Level::Ok } else { Level::Broken };
        self.verdicts.add("status", level(head.status == 200), &head.status_line);
        self.verdicts.add("media-type", level(is_stream), &shown);
        self.verdicts.add("charset", level(is_utf_8), &shown);
        if !head.codings().is_empty() {
            let codings = head.codings().join(", ");
            self.broken("compression", format!("Content-Encoding: {codings}, though only identity is accepted"));
        }
        self.examine_caching(head);
        self.examine_framing(head);
        head.status == 200 || is_stream
    }

    fn examine_caching(&mut self, head: &Head) {
        let members = head.list("cache-control");
        // With an argument, `no-cache` is about some fields only (RFC 9111 §5.2.2.4).
        let has = |name: &str| members.iter().any(|member| member == name);
        let names = |name: &str| members.iter().any(|member| member.split('=').next() == Some(name));
        let is_stale = has("max-age=0");
        let is_kept = names("s-maxage") && !has("s-maxage=0")
            || !is_stale && (has("public") || has("immutable") || names("max-age"));
        let mut shown = match members.is_empty() {
            true => "no Cache-Control".into(),
            false => format!("Cache-Control: {}", members.join(", ")),
        };
        if let Some(expires) = head.field("expires") {
            shown += &format!(", Expires: {expires}");
        }
        match (has("no-store") || has("no-cache"), has("no-transform")) {
            (true, true) => self.ok("caching", shown),
            (true, false) => self.advice("caching", format!("{shown}, without no-transform")),
            _ if is_kept => self.broken("caching", shown),
            _ => self.advice("caching", shown),
        }
    }

    fn examine_framing(&mut self, head: &Head) {
        for fault in &head.faults {
            self.broken("framing", fault);
        }
        match head.body("GET") {
            Err(fault) => self.broken("framing", fault),
            Ok(Body::Connection) => {
                self.advice("framing", "neither chunks nor a length: the body ends with the connection");
            }
            Ok(Body::Length(length)) => {
                let why = "the stream ends after that, and each client comes back";
                self.advice("framing", format!("Content-Length: {length}: {why}"));
            }
            Ok(Body::Chunked(..)) => self.ok("framing", "Transfer-Encoding: chunked"),
        }
    }

    pub fn examine_first_bytes(&mut self, first: &Subscriber) {
        match first.wait(self.within(FIRST_BYTES), |heard| (heard.bytes > 0).then(|| heard.interpreter.begin.clone())) {
            Some(begin) => self.ok("first-bytes", begin),
            None => self.advice("first-bytes", format!("no byte of the body in {} s", FIRST_BYTES.as_secs())),
        }
        let begin = first.now(|heard| heard.interpreter.begin.clone());
        if first.head.field("transfer-encoding").is_none() && has_chunks(&begin) {
            self.broken("framing", [b"chunks without Transfer-Encoding: ", &begin[..]].concat());
        }
        first.wait(self.within(STUCK), |heard| (!heard.interpreter.is_open()).then_some(()));
        self.examine_blank_line(first);
    }

    /// Asks for a stream as browsers do, which accept compression. Returns it if it is compressed.
    pub fn examine_compression(&mut self, first: &Subscriber) -> Option<Subscriber> {
        let what = "with Accept-Encoding: gzip, deflate, br, zstd";
        let subscriber = self.subscribe_like(first, COMPRESSED, "compression", what)?;
        let codings = subscriber.head.codings().join(", ");
        if codings.is_empty() {
            self.ok("compression", "not compressed, though gzip, deflate, br and zstd are accepted");
            return None;
        }
        self.advice("compression", format!("Content-Encoding: {codings}"));
        Some(subscriber)
    }

    /// HTTP/1.0 has no chunks (RFC 9112 §6.1).
    pub fn examine_http_1_0(&mut self) {
        if self.has_late_heads {
            return;
        }
        let Ok(mut connection) = self.ask("GET", "HTTP/1.0", STREAM) else { return };
        let Ok(head) = connection.head(self.within(RESPONSE)) else {
            return self.advice("framing", "a request of HTTP/1.0 gets no response");
        };
        if let Some(coding) = head.field("transfer-encoding") {
            return self.broken("framing", format!("Transfer-Encoding: {coding}, to a request of HTTP/1.0"));
        }
        let body = connection.bytes(self.within(AFTERWARDS)).unwrap_or_default();
        if has_chunks(&body) {
            self.broken(
                "framing",
                [b"chunks without Transfer-Encoding, to a request of HTTP/1.0: ", &body[..]].concat(),
            );
        }
    }

    pub fn examine_head_method(&mut self, first: &Subscriber) {
        match self.head_and_what_follows() {
            Err(why) => self.broken("head", why),
            Ok((_, body)) if !body.is_empty() => {
                self.broken("head", [b"a body after the head: ", &body[..]].concat());
            }
            Ok((head, _)) if head.status == first.head.status => self.ok("head", head.status_line),
            Ok((head, _)) => self.advice("head", head.status_line),
        }
    }

    fn head_and_what_follows(&self) -> Result<(Head, Vec<u8>), String> {
        let mut connection = self.ask("HEAD", "HTTP/1.1", &format!("{STREAM}Connection: close\r\n"))?;
        let head = connection.head(self.within(RESPONSE)).map_err(NoHead::why)?;
        let body = connection.bytes(self.within(HEAD_BODY)).unwrap_or_default();
        Ok((head, body))
    }

    pub fn examine_options(&mut self) {
        match self.complete_response("OPTIONS") {
            Err(why) => self.broken("options", why),
            Ok(head) => {
                let methods = ["allow", "access-control-allow-methods"].into_iter().find_map(|name| head.field(name));
                match methods {
                    _ if head.status >= 300 => self.advice("options", head.status_line),
                    Some(methods) => self.ok("options", format!("{}, methods {methods}", head.status_line)),
                    None => self.advice("options", format!("{}, without Allow", head.status_line)),
                }
            }
        }
    }

    /// Reads a response to its end. Returns its head.
    fn complete_response(&self, method: &str) -> Result<Head, String> {
        let mut connection = self.ask(method, "HTTP/1.1", "Accept: */*\r\nConnection: close\r\n")?;
        let head = connection.head(self.within(RESPONSE)).map_err(NoHead::why)?;
        let body = head.body(method)?;
        connection.rest(body, self.within(FIRST_BYTES), MAX_BODY)?;
        let more = connection.bytes(self.within(AFTERWARDS)).unwrap_or_default();
        if more.is_empty() { Ok(head) } else { Err(format!("after the response: {}", String::from_utf8_lossy(&more))) }
    }

    /// Waits for a comment on an idle stream, or for another block that fires nothing.
    pub fn examine_heartbeat(&mut self, first: &Subscriber) {
        let (signs, bytes) = first.now(|heard| (heard.interpreter.signs, heard.bytes));
        let has_sign = |heard: &mut Heard| heard.interpreter.signs > signs;
        let is_stuck = |heard: &mut Heard| heard.interpreter.stuck(STUCK).is_some();
        let began = Instant::now();
        report(format!("judge: waits for a heartbeat, {} s at most", HEARTBEAT.as_secs()));
        first.wait(self.within(HEARTBEAT), |heard| (has_sign(heard) || is_stuck(heard)).then_some(()));
        let time = began.elapsed().as_secs();
        let why = first.now(|heard| heard.end.clone().or(heard.last_end.clone()));
        if first.now(has_sign) {
            let sign = first.now(|heard| heard.interpreter.last_sign.clone());
            self.ok("heartbeat", [format!("after {time} s ").as_bytes(), &sign[..]].concat());
        } else if first.now(is_stuck) {
            self.advice("heartbeat", "not tested: see blank-line");
        } else if let Some(why) = why {
            self.advice("heartbeat", format!("none in {time} s: {why}"));
        } else if first.now(|heard| heard.bytes) > bytes {
            self.advice("heartbeat", format!("only events in {time} s: what an idle stream does is not known"));
        } else {
            self.advice("heartbeat", format!("nothing in {time} s"));
        }
        self.examine_blank_line(first);
    }

    /// A length is wrong if the stream does not end after it.
    pub fn examine_length(&mut self, first: &Subscriber) {
        let is_open = first.now(|heard| heard.is_connected && heard.last_end.is_none() && heard.end.is_none());
        if let Ok(Body::Length(length)) = first.head.body("GET")
            && is_open
        {
            self.broken("framing", format!("Content-Length: {length}, but the stream stays open"));
        }
    }

    /// Leaves a stream that speaks by itself, and comes back to it with the last id but one.
    pub fn examine_return(&mut self, first: &Subscriber) {
        let ids = |heard: &mut Heard| heard.events.iter().map(|event| event.last_id.clone()).collect::<Vec<_>>();
        let mut with_id = first.now(ids);
        with_id.retain(|id| !id.is_empty() && !id.contains(char::is_control));
        with_id.dedup();
        let [.., before, last] = &with_id[..] else {
            for rule in ["resume", "repeat"] {
                self.advice(rule, "not tested: no two events with ids came; give --post");
            }
            return;
        };
        let field = format!("Last-Event-ID: {before}");
        let fields = format!("{STREAM}{field}\r\n");
        let Some(again) = self.subscribe_like(first, &fields, "resume", &field) else { return };
        match again.wait(self.within(SAID), |heard| ids(heard).contains(last).then_some(())) {
            Some(()) => self.ok("resume", format!("{field}: the next event came")),
            None => self.advice("resume", format!("{field}: the next event, {last}, did not come")),
        }
        match again.now(ids).contains(before) {
            true => self.broken("repeat", format!("{field}: the same event comes again")),
            false => self.ok("repeat", format!("{field}: nothing came again")),
        }
    }
}

/// Returns whether a body begins with the size of a chunk (RFC 9112 §7.1).
fn has_chunks(body: &[u8]) -> bool {
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let size = line.strip_suffix(b"\r").unwrap_or_default();
    !size.is_empty() && size.len() <= 8 && size.iter().all(u8::is_ascii_hexdigit)
}

//! The rule `slow-reader`: one subscriber does not read, and nobody else may notice.

use crate::examine::{Judge, SAID, STREAM};
use crate::rules::Level;
use crate::subscriber::Subscriber;
use crate::texts::Publisher;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server takes at most to write a head, and to send a text that another subscriber has.
const SETTLED: Duration = Duration::from_millis(300);
/// The bytes that a subscriber leaves unread: more than systems keep for a connection (Linux: about 4 MB).
const UNREAD: usize = 8 << 20;
/// How many bytes are enough if the time is over.
const ENOUGH_UNREAD: usize = 6 << 20;
/// Limit: how long it takes to say them.
const UNREAD_TIME: Duration = Duration::from_secs(18);
/// The bytes of a text that is left unread. If it is refused, the texts are smaller.
const UNREAD_TEXT: usize = 60_000;
const SMALL_UNREAD_TEXT: usize = 6_000;
/// How many texts in a row may be late beside a slow reader, and for how long: the machine may be busy.
const MAX_LATE: usize = 2;
const MAX_LATE_TIME: Duration = Duration::from_secs(6);

impl Judge<'_> {
    /// Says more than a connection can hold, while one subscriber does not read. A subscriber from before and one from
    /// after it listen.
    pub fn examine_slow_reader(&mut self, publisher: &Publisher, first: &Subscriber) {
        let Ok(slow) = self.ask("GET", "HTTP/1.1", STREAM) else {
            return self.advice("slow-reader", "not tested: no connection");
        };
        sleep(SETTLED);
        let (level, seen) = match self.subscribe(STREAM) {
            Ok(after) => match self.leave_unread(publisher, [first, &after]) {
                Ok(verdict) => verdict,
                Err(why) => {
                    drop(slow);
                    // Is it because of the one that did not read?
                    let said = self.say_plain(publisher, "after-slow", first);
                    match said.in_time && said.status.is_ok() {
                        true => (Level::Broken, format!("one subscriber does not read, and {why}")),
                        false => (Level::Advice, format!("not tested: {why}")),
                    }
                }
            },
            _ if Instant::now() >= self.end => (Level::Advice, "not tested: the time is over".into()),
            Err(why) => (Level::Broken, format!("one subscriber does not read, and another gets no stream: {why}")),
        };
        self.verdicts.add("slow-reader", level, seen);
    }

    /// Says texts until there are enough, or until too many are late.
    ///
    /// # Errors
    /// What is wrong if not even the first text is heard.
    fn leave_unread(&mut self, publisher: &Publisher, listeners: [&Subscriber; 2]) -> Result<(Level, String), String> {
        let mut size = UNREAD_TEXT;
        let mut unread = 0;
        let mut late = (0, Duration::ZERO); // texts in a row, and their time
        let deadline = self.within(UNREAD_TIME);
        for n in 0.. {
            if unread >= UNREAD || Instant::now() >= deadline {
                break;
            }
            let began = Instant::now();
            match self.say_beside_slow(publisher, n, size, listeners) {
                _ if listeners.iter().any(|listener| listener.has_ended()) => {
                    return Ok((Level::Advice, format!("not tested: a stream ended after {unread} bytes")));
                }
                Ok(()) => {
                    unread += size;
                    late = (0, Duration::ZERO);
                }
                Err(_) if Instant::now() >= self.end => break,
                Err(_) if unread == 0 && size == UNREAD_TEXT => size = SMALL_UNREAD_TEXT,
                Err((Level::Advice, why)) => return Ok((Level::Advice, format!("not tested: {why}"))),
                Err((_, why)) if unread == 0 => return Err(why),
                Err((_, why)) => {
                    late = (late.0 + 1, late.1 + began.elapsed());
                    if late.0 > MAX_LATE || late.1 > MAX_LATE_TIME {
                        let seen = format!("one subscriber does not read, and after {unread} bytes {why}");
                        return Ok((Level::Broken, seen));
                    }
                }
            }
        }
        let seen = format!("one left {unread} bytes unread, and the others heard each text without delay");
        Ok(match unread {
            ENOUGH_UNREAD.. => (Level::Ok, seen),
            _ => (Level::Advice, format!("{seen}; too little to be sure")),
        })
    }

    /// Says one of these texts. Returns what is wrong if it takes much longer than a text at other times.
    fn say_beside_slow(
        &mut self, publisher: &Publisher, n: usize, size: usize, listeners: [&Subscriber; 2],
    ) -> Result<(), (Level, String)> {
        let [first, after] = listeners;
        let slow = format!("{}-slow-", self.nonce);
        let nonce = format!("{slow}{n}.");
        let began = Instant::now();
        let said = self.say(publisher, &format!("{nonce} {}", "x".repeat(size)), &nonce, first);
        let is_heard = said.in_time && after.hears(&nonce, (began + SAID).max(self.within(SETTLED)));
        let took = began.elapsed();
        for subscriber in [first, after] {
            subscriber.now(|heard| heard.remove(&slow));
        }
        let broken = |why: String| Err((Level::Broken, why));
        match said.status {
            Ok(status) if status >= 400 => Err((Level::Advice, format!("a text is refused with {status}"))),
            Err(why) => broken(format!("a POST gets no response: {why}")),
            Ok(_) if !is_heard => broken("another hears nothing".into()),
            Ok(_) if took > Duration::from_secs(1).max(10 * self.slowest) => {
                broken(format!("a text takes {:.1} s", took.as_secs_f32()))
            }
            Ok(_) => Ok(()),
        }
    }
}

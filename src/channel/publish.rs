//! Publishing: events are appended to a channel's log, and then may be heard.
//!
//! Limits: `MAX_PUBLISH_WAIT`.

use crate::channel::state::{Channel, State};
use crate::channel::subscriber::Subscriber;
use crate::log::disk;
use crate::log::writer::{NewPart, Tail, Writer};
use crate::system::report::report;
use crate::system::threads::lock;
use crate::wire::event::Event;
use crate::wire::id::Id;
use crate::wire::reject::{DISK_FULL, LOG_FAILED, Reject};
use std::io;
use std::mem::replace;
use std::sync::PoisonError;
use std::time::Duration;

/// Limit: how long a publisher waits for the pump to keep up.
pub const MAX_PUBLISH_WAIT: Duration = Duration::from_secs(2);

/// Limit: bytes of the buffer of a unit that are kept for the next one. Each channel keeps as many at most.
const MAX_KEPT_UNIT: usize = 1024;

/// Which ids new events get.
#[derive(Clone, Copy)]
pub enum NewIds {
    /// The next ids of the log.
    Next,
    /// This id; further events get the ids after it.
    Given(Id),
    /// No ids.
    None,
}

/// The recipients of events that are not for all. Door: for everything that chooses recipients.
pub trait Audience {
    /// Returns a name and a value, from which another server can make the same audience.
    fn field(&self) -> (&'static str, &str);

    /// Checks that the excluded subscribers can skip what is appended from this position on.
    ///
    /// # Errors
    /// If they cannot, or if there is no such subscriber.
    fn check(&self, subscribers: &mut [Subscriber], from: u64) -> Result<(), Reject>;

    /// Lets the excluded subscribers skip this range of the log, which no subscriber has received yet.
    fn exclude(&self, subscribers: &mut [Subscriber], from: u64, to: u64);
}

/// The recipients of events. None: all subscribers.
pub type Recipients<'a> = Option<&'a dyn Audience>;

impl Channel {
    /// Appends events to the log, all or none. Returns their ids and their size in bytes once they may be heard. It may
    /// wait for the disk and, for at most [`MAX_PUBLISH_WAIT`], for the pump.
    ///
    /// # Errors
    /// [`DISK_FULL`], or [`LOG_FAILED`] if the disk fails otherwise; and those of [`Audience::check`]. None of the
    /// events is kept then.
    pub fn publish(&self, events: &[Event], new_ids: NewIds, recipients: Recipients) -> Result<(Vec<Id>, u64), Reject> {
        let mut writer = lock(&self.writer);
        let pump_is_behind = |state: &mut State| {
            self.subscriber_count() > 0 && state.log.written.pos.saturating_sub(state.pumped) > state.log.slack()
        };
        drop(self.changed.wait_timeout_while(self.state(), MAX_PUBLISH_WAIT, pump_is_behind));
        if let Some(audience) = recipients {
            let mut subscribers = self.subscribers();
            let from = self.state().log.written.pos;
            audience.check(&mut subscribers, from)?;
        }
        let written = self.write(&mut writer, events, new_ids, recipients);
        let len = writer.unit.len() as u64;
        writer.unit.clear();
        writer.unit.shrink_to(MAX_KEPT_UNIT);
        drop(writer);
        let result = written.and_then(|(ids, tail)| self.wait_heard(&tail, len).map(|()| (ids, len)));
        self.report_outcome(result.as_ref().err());
        result.map_err(|e| if disk::is_full(&e) { DISK_FULL } else { LOG_FAILED })
    }

    /// Notes whether the log takes events, and reports to the operator if that has changed. After an error, it cuts off
    /// what was rolled back.
    fn report_outcome(&self, error: Option<&io::Error>) {
        if error.is_some()
            && let Ok(mut writer) = self.writer.try_lock()
        {
            // What was rolled back must not be there after a crash. If another publisher holds the writer, it does
            // this.
            let newest = self.state().log.tail().newest_len;
            let _ = writer.mend(newest); // if this fails, the next append tries again
        }
        if replace(&mut self.state().failing, error.is_some()) != error.is_some() {
            let text = error.map_or("takes events again".into(), |e| format!("takes no event: {e}"));
            report(format!("tincan: /{} {text}", self.name));
        }
    }

    /// Writes events at the end of the log. Returns their ids, and the end of the log before them.
    ///
    /// # Errors
    /// If the disk fails.
    fn write(
        &self, writer: &mut Writer, events: &[Event], new_ids: NewIds, recipients: Recipients,
    ) -> io::Result<(Vec<Id>, Tail)> {
        loop {
            let tail = self.state().log.tail();
            writer.mend(tail.newest_len)?;
            let first = match new_ids {
                NewIds::Next => Some(tail.written.id.plus(1)),
                NewIds::Given(id) => Some(id),
                NewIds::None => None,
            };
            let mut ids = Vec::new();
            writer.unit.clear();
            for (event, n) in events.iter().zip(0..) {
                let id = first.map(|first| first.plus(n));
                event.write(id, &mut writer.unit);
                ids.extend(id);
            }
            let last = *ids.last().unwrap_or(&tail.written.id);
            let durable = writer.seal(events.len(), tail.newest_len) || (writer.syncs() && recipients.is_some());
            if durable && self.wait_heard(&tail, 0).is_err() {
                continue; // earlier events were rolled back, so the end of the log has changed
            }
            let done = writer.write(&tail, durable).and_then(|new_part| {
                let heard = durable || !writer.syncs();
                self.commit(&tail, last, &writer.unit, new_part, recipients, heard)
            });
            return done.map(|()| (ids, tail));
        }
    }

    /// Adds to the log what was written at its end, so that subscribers can receive it.
    fn commit(
        &self, tail: &Tail, last: Id, unit: &[u8], new_part: Option<NewPart>, recipients: Recipients, heard: bool,
    ) -> io::Result<()> {
        let _dropped; // declared before the locks taken here, so dropped after them: to close a file may take long
        // The subscribers stay locked, so that none receives the unit before the excluded ones are set to skip it.
        let mut locked = recipients.map(|audience| (self.subscribers(), audience));
        if let Some((subscribers, audience)) = &mut locked {
            audience.exclude(subscribers, tail.written.pos, tail.written.pos + unit.len() as u64);
        }
        let has_subscribers = self.subscriber_count() > 0;
        let mut state = self.state();
        tail.check_rollback(unit.len() as u64)?;
        _dropped = state.log.commit(unit, last, new_part, has_subscribers);
        self.memory.set(state.log.memory());
        let written = state.log.written;
        if heard {
            state.log.set_heard(written);
        }
        if !has_subscribers {
            state.pumped = written.pos;
        }
        Ok(())
    }

    /// Waits until the `len` bytes that were appended at this tail may be heard. If they first have to be synced, one
    /// of the publishers that wait syncs for all of them.
    fn wait_heard(&self, tail: &Tail, len: u64) -> io::Result<()> {
        let mut state = self.state();
        loop {
            tail.check_rollback(len)?;
            if state.log.heard.pos >= tail.written.pos + len {
                return Ok(());
            }
            if state.syncing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            let (boundary, file) = state.log.unsynced();
            drop(state);
            let result = file.map_or(Ok(()), |file| file.sync());
            state = self.state();
            state.syncing = false;
            self.changed.notify_all();
            if let Err(e) = result {
                state.log.roll_back(e.kind());
                return Err(e);
            }
            state.log.set_heard(boundary);
        }
    }
}

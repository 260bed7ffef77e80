//! Publishing: events go behind the end of a channel's log, and are heard.
//!
//! Limits: `MAX_PUBLISH_WAIT`.

use crate::channel::state::{Channel, State};
use crate::channel::subscriber::Subscriber;
use crate::log::disk;
use crate::log::positions::PIECE;
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

/// Limit: how long a publisher waits for the pump.
pub const MAX_PUBLISH_WAIT: Duration = Duration::from_secs(2);

/// Which ids events get.
#[derive(Clone, Copy)]
pub enum NewIds {
    /// The log's next ones.
    Next,
    /// This one.
    Given(Id),
    /// None.
    None,
}

/// Events that are not for all. The door for all who choose.
pub trait Audience {
    /// A name, and a value from which another server makes the same.
    fn field(&self) -> (&'static str, &str);

    /// Whether those whom it is not for can pass over what is appended from this position on.
    ///
    /// # Errors
    /// If they cannot, or there are none.
    fn check(&self, subscribers: &mut [Subscriber], from: u64) -> Result<(), Reject>;

    /// The log has it from one position to another, and nobody was given it yet.
    fn exclude(&self, subscribers: &mut [Subscriber], from: u64, to: u64);
}

/// None: it is for all.
pub type Recipients<'a> = Option<&'a dyn Audience>;

impl Channel {
    /// Appends events to the log, all or none. Returns their ids and their bytes, once they may be heard. It may wait for
    /// the pump.
    ///
    /// # Errors
    /// [`DISK_FULL`], or [`LOG_FAILED`] if the disk fails otherwise; and as [`Audience::check`]. Nothing of these events was
    /// kept then.
    pub fn publish(&self, events: &[Event], numbers: NewIds, recipients: Recipients) -> Result<(Vec<Id>, u64), Reject> {
        let mut writer = lock(&self.writer);
        let behind = |state: &mut State| {
            self.subscriber_count() > 0 && state.log.written.pos.saturating_sub(state.pumped) > state.log.slack()
        };
        drop(self.changed.wait_timeout_while(self.state(), MAX_PUBLISH_WAIT, behind));
        if let Some(audience) = recipients {
            let mut subscribers = self.subscribers();
            let from = self.state().log.written.pos;
            audience.check(&mut subscribers, from)?;
        }
        let written = self.write(&mut writer, events, numbers, recipients);
        let len = writer.block.len() as u64;
        writer.block.clear();
        writer.block.shrink_to(PIECE);
        drop(writer);
        let done = written.and_then(|(ids, end)| self.wait_heard(&end, len).map(|()| (ids, len)));
        self.report_outcome(done.as_ref().err());
        done.map_err(|e| if disk::is_full(&e) { DISK_FULL } else { LOG_FAILED })
    }

    /// Notes whether the log takes events, tells its owner if that has changed, and cuts off what was taken back.
    fn report_outcome(&self, error: Option<&io::Error>) {
        if error.is_some()
            && let Ok(mut writer) = self.writer.try_lock()
        {
            // What was taken back is not to be there after a crash. If others write, they do this, or the last that fails.
            let newest = self.state().log.tail().newest_len;
            let _ = writer.mend(newest); // else before the next append
        }
        if replace(&mut self.state().failing, error.is_some()) != error.is_some() {
            let what = error.map_or("takes events again".into(), |e| format!("takes no event: {e}"));
            report(format!("tincan: /{} {what}", self.name));
        }
    }

    /// Writes events behind the log's end. Returns their ids, and where that end was.
    ///
    /// # Errors
    /// If the disk fails.
    fn write(
        &self, writer: &mut Writer, events: &[Event], numbers: NewIds, recipients: Recipients,
    ) -> io::Result<(Vec<Id>, Tail)> {
        loop {
            let end = self.state().log.tail();
            writer.mend(end.newest_len)?;
            let first = match numbers {
                NewIds::Next => Some(end.written.id.plus(1)),
                NewIds::Given(id) => Some(id),
                NewIds::None => None,
            };
            let mut ids = Vec::new();
            writer.block.clear();
            for (event, n) in events.iter().zip(0..) {
                let id = first.map(|first| first.plus(n));
                event.write(id, &mut writer.block);
                ids.extend(id);
            }
            let last = *ids.last().unwrap_or(&end.written.id);
            let alone = writer.seal(events.len(), end.newest_len) || (writer.syncs() && recipients.is_some());
            if alone && self.wait_heard(&end, 0).is_err() {
                continue; // others have had to take back what they had written
            }
            let done = writer.write(&end, alone).and_then(|begun| {
                let heard = alone || !writer.syncs();
                self.commit(&end, last, &writer.block, begun, recipients, heard)
            });
            return done.map(|()| (ids, end));
        }
    }

    /// Tells the log, and so all readers, what was written behind its end.
    fn commit(
        &self, end: &Tail, last: Id, block: &[u8], new_part: Option<NewPart>, recipients: Recipients, heard: bool,
    ) -> io::Result<()> {
        let _dropped; // behind the locks, which come later: to close a file may take long
        // Nobody is given anything before we know who is not to be given this.
        let mut held = recipients.map(|audience| (self.subscribers(), audience));
        if let Some((subscribers, audience)) = &mut held {
            audience.exclude(subscribers, end.written.pos, end.written.pos + block.len() as u64);
        }
        let listened = self.subscriber_count() > 0;
        let mut state = self.state();
        end.check_rollback(block.len() as u64)?;
        _dropped = state.log.commit(block, last, new_part, listened);
        let written = state.log.written;
        if heard {
            state.log.set_heard(written);
        }
        if !listened {
            state.pumped = written.pos;
        }
        Ok(())
    }

    /// Waits until the `len` bytes that were appended behind this end may be heard. If that takes the disk, one of those that
    /// wait has it write for all of them.
    fn wait_heard(&self, end: &Tail, len: u64) -> io::Result<()> {
        let mut state = self.state();
        loop {
            end.check_rollback(len)?;
            if state.log.heard.pos >= end.written.pos + len {
                return Ok(());
            }
            if state.syncing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            let (mark, file) = state.log.unsynced();
            drop(state);
            let done = file.map_or(Ok(()), |file| file.sync());
            state = self.state();
            state.syncing = false;
            self.changed.notify_all();
            if let Err(e) = done {
                state.log.roll_back(e.kind());
                return Err(e);
            }
            state.log.set_heard(mark);
        }
    }
}

//! Which clients wait for a disk if an event leaves out one subscriber.

use crate::core::slow::{Load, all, slow, waits};

#[test]
fn nobody_waits_for_a_disk_but_those_who_left_somebody_out() {
    waits(&[
        slow("?except=", false, Load::Publish(4, "?except=")),
        slow("?except=, --sync", true, Load::Publish(4, "?except=")),
        all("all syncs are slow, ?except=, --sync", Load::Publish(4, "?except=")),
    ]);
}

//! Who waits for a disk if what is published is for all but one.

use crate::core::slow::{Load, all, slow, waits};

#[test]
fn nobody_waits_for_a_disk_but_those_who_left_somebody_out() {
    waits(&[
        slow("?except=", false, Load::Except(4)),
        slow("?except=, --sync", true, Load::Except(4)),
        all("all syncs are slow, ?except=, --sync", Load::Except(4)),
    ]);
}

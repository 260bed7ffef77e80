//! Checks that each refusal of a table is tested.

use crate::support::sources;
use tincan::wire::reject::Reject;

/// Lists refusals, with their names, that have a test of their own elsewhere.
macro_rules! elsewhere {
    ($($name:ident)*) => { [$((stringify!($name), $name)),*] };
}
pub(crate) use elsewhere;

/// Asserts that each refusal of a table is tested: by the caller's own list `here`, or by a test whose source names
/// it outside of the list `elsewhere`.
pub fn covered(table: &[Reject], tested_here: &[Reject], elsewhere: &[(&str, Reject)]) {
    let tests = sources::tests();
    for (name, _) in elsewhere {
        assert!(tests.matches(name).count() > 1, "no other test names {name}");
    }
    for reject in table {
        let tested = tested_here.contains(reject) || elsewhere.iter().any(|(_, other)| other == reject);
        assert!(tested, "no test expects {reject:?}");
    }
}

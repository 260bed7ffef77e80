//! Whether each line of a table of refusals is tested.

use crate::support::sources;
use tincan::wire::reject::Reject;

/// Refusals that a test of their own has, by name.
macro_rules! elsewhere {
    ($($name:ident)*) => { [$((stringify!($name), $name)),*] };
}
pub(crate) use elsewhere;

/// Asserts that each line of a table is refused with: `here`, or by a test whose source names it beside this list.
pub fn covered(table: &[Reject], here: &[Reject], elsewhere: &[(&str, Reject)]) {
    let tests = sources::tests();
    for (name, _) in elsewhere {
        assert!(tests.matches(name).count() > 1, "no test but this one names {name}");
    }
    for reject in table {
        let tested = here.contains(reject) || elsewhere.iter().any(|(_, other)| other == reject);
        assert!(tested, "no test refuses with {reject:?}");
    }
}

//! Types that hold tokens cannot be printed.

#[allow(unused_imports)] // the trait is used if the type itself has no such constant
use crate::core::tokens::{NotPrinted, Printed};
use tincan::wings::trace::explain::Explainer;
use tincan::wings::trace::secrets::Secrets;

#[test]
fn what_hides_tokens_cannot_be_printed() {
    const { assert!(!Printed::<Secrets>::CAN_BE) };
    const { assert!(!Printed::<Explainer>::CAN_BE) };
}

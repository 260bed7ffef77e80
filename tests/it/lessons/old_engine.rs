//! The page of the lessons in browsers of 2021 and 2022.

use crate::pages::old_engine::nothing_is_too_young;

#[test]
fn scripts_and_style_sheets_use_nothing_that_is_too_young() {
    nothing_is_too_young(&["lessons"]);
}

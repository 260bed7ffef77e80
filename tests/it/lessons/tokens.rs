//! The lessons need the token for reading.

use crate::core::tokens::each_right;
use tincan::wire::reject::READ_TOKEN;

#[test]
fn lessons_ask_for_the_token_for_reading() {
    each_right(&[(
        Some(READ_TOKEN),
        "GET /lessons 200 | GET /lessons/clock.txt 200 | GET /lessons/clock.json 200 | HEAD /lessons/clock 200",
    )]);
}

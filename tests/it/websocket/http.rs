//! Refusals of this wing; see also `sockets.rs`.

use crate::support::refusals::{covered, elsewhere};
use tincan::wings::websocket::TABLES;
use tincan::wings::websocket::handshake::*;

#[test]
fn every_line_of_its_table_is_tested() {
    let tested_here: Vec<_> = Vec::new();
    covered(
        TABLES.refusals,
        &tested_here,
        &elsewhere!(UPGRADE UPGRADE_OPTION HANDSHAKE_METHOD NO_SOCKET WS_VERSION WS_KEY SUBPROTOCOL),
    );
}

//! The commands of this wing's manual.

use crate::lab::taps::tap_event;
use crate::support::commands::{commands, run};
use crate::support::documents::text_block;
use crate::support::harness::*;

const MANUAL: &str = "src/wings/lab/README.md";

#[test]
fn its_commands_run_and_the_tap_tells_of_them_as_it_shows() {
    let server = Tincan::start(&[]);
    run(&commands(MANUAL), &server);
    let names = |text: &str| text.lines().filter_map(|line| line.strip_prefix("event: ")).collect::<Vec<_>>().join(" ");
    let shown = text_block(MANUAL, "event: in");
    let mut heard = String::new();
    eventually("the end is in the tap", || {
        heard = server.get("/lab/mine?wait=0&since=all").text();
        names(&heard) == names(&shown).replace("out", "out out")
    });
    for block in [&shown, &heard] {
        let blocks = block.split_inclusive("\n\n").filter(|block| block.starts_with("event: in"));
        let bytes: Vec<_> = blocks.map(|block| tap_event(block).2).collect();
        assert!(bytes[0].starts_with("GET /kitchen?tap=mine HTTP/1.1\r\nHost: localhost"), "{bytes:?}");
    }
}

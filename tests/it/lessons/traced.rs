//! What `--trace` prints about lessons.

use crate::lessons::played::{Played, played};
use crate::support::wings::has;

#[test]
fn lessons_show_their_special_bytes_and_what_comes_of_them() {
    if !has("trace") {
        return;
    }
    let lessons = [
        (
            "nul-in-id",
            "id: 2␀␊ | id: ignored, because it has a NUL\ndata: its id is still 1␊ | data\n␊ | dispatch: message",
        ),
        (
            "byte-order-mark",
            "⟨U+FEFF⟩data: The mark before this line was taken off␊ | data, after a byte order mark\n\
            ⟨U+FEFF⟩data: never heard␊ | ignored: there is no such field\n␊ | fires nothing",
        ),
        (
            "line-ends",
            "data: LF, line 2␊ | data\n␊ | dispatch: message\ndata: CRLF, line 1 | not ended yet\n\
            ␍␊ | ... data\ndata: CRLF, line 2␍␊ | data\n\
            ␍␊ | dispatch: message\n: | not ended yet\n␊ | ... comment\ndata: CR, line 1␍ | data\ndata: CR, line 2␍ | data\n\
            ␍ | dispatch: message",
        ),
        (
            "ignored",
            "colour: red␊ | ignored: there is no such field\n data: the space belongs to the name␊ | ignored: there is no such field\n\
            data : and here too␊ | ignored: there is no such field\nData: 3␊ | ignored: there is no such field\n\
            event: A name without data fires nothing, and is forgotten␊ | event: the name of this event\n␊ | fires nothing\n\
            data: 4␊ | data\n␊ | dispatch: message",
        ),
        ("lines", "data:␊ | data\ndata: fourth␊ | data\n␊ | dispatch: message\ndata␊ | data\n␊ | dispatch: message"),
        (
            "named",
            "event: soup␊ | event: the name of this event\n␊ | dispatch: soup\nevent:␊ | event: the name of this event\n␊ | dispatch: message",
        ),
        ("empty-id", "id: 7␊ | id, from the blank line on\nid␊ | id: none, from the blank line on"),
        ("retry", "retry: 500␊ | retry: after 500 ms"),
        (
            "buffering",
            "data: The first half, | not ended yet\n␍␊ | end of the chunk\n17␍␊ | chunk size: 23\n \
            and the second half.␊ | ... data\n␊ | dispatch: message\n␍␊ | end of the chunk",
        ),
        (
            "cut-id",
            "id: 2␊ | id, from the blank line on\ndata: tw | not ended yet\n | the connection ends, in the middle of a body; the client discards the lines after the last blank line",
        ),
        (
            "chunks",
            "1f␍␊ | chunk size: 31\ndata: this line comes in two ch | not ended yet\n␍␊ | end of the chunk\n6␍␊ | chunk size: 6\n\
            unks␊ | ... data\n␊ | dispatch: message\n␍␊ | end of the chunk\n2c␍␊ | chunk size: 44\ndata: two events␊ | data\n\
            ␊ | dispatch: message\nid: 1␊ | id, from the blank line on\ndata: in one chunk␊ | data\n␊ | dispatch: message\n\
            ␍␊ | end of the chunk\n3c␍␊ | chunk size: 60\n0␍␊ | last chunk\n␍␊ | end of the body\n | the connection ends",
        ),
        (
            "missing-blank-line",
            "data: never heard␊ | data\n␍␊ | end of the chunk\n0␍␊ | last chunk\n\
            ␍␊ | end of the body; the client discards the lines after the last blank line\n | the connection ends",
        ),
        ("wrong-type", "␍␊ | end of the head; chunks follow\n: look: | body\n0␍␊ | last chunk"),
        ("unavailable", "HTTP/1.1 503 Service Unavailable␍␊ | status line\ndata: | body"),
        ("no-content", "id: 1␊ | id, from the blank line on"),
        ("charset", "data: crème brûlée, 汤, 🍲␊ | data\n␊ | dispatch: message"),
    ];
    let played = |name: &str| played().iter().find(|played| played.lesson.name == name).unwrap();
    // Everything that a lesson sends up to a pause is one write, even if it contains the time.
    let lines = &played("clock").trace;
    assert!(lines.contains(" GMT␊ ") && !lines.contains("not ended yet"), "{lines}");
    for (lesson, expected) in lessons {
        let Played { sign: begin, trace: text, .. } = played(lesson);
        let mut rest = text.lines();
        for line in expected.lines() {
            let (part, note) = line.split_once("| ").unwrap();
            let part = part.strip_suffix(' ').unwrap();
            let is = |l: &str| {
                l.ends_with(&format!("  {note}")) && l.strip_prefix(begin).is_some_and(|l| l[2..].starts_with(part))
            };
            assert!(rest.any(is), "{lesson} lacks {line:?}: {text}");
        }
    }
}

//! Notes that explain the lines of an event stream. Pure.

use crate::wire::event::Line;

/// Reads an event stream line by line. It knows what a client's buffers hold (WHATWG HTML, "Interpreting an event
/// stream").
#[derive(Default)]
pub struct StreamExplainer {
    begun: bool,
    name: String,
    data: bool,
    id: bool,
}

impl StreamExplainer {
    /// Reads the next line, without its end. Returns a note that says what the line does.
    pub fn explain_line(&mut self, line: &[u8]) -> String {
        let line = String::from_utf8_lossy(line);
        if let Some(line) = line.strip_prefix('\u{feff}').filter(|_| !self.begun) {
            self.begun = true;
            return self.explain_line(line.as_bytes()) + ", after a byte order mark";
        }
        let note = match Line::read(&line) {
            Line::Blank => match std::mem::take(self) {
                StreamExplainer { data: true, name, .. } if name.is_empty() => "dispatch: message",
                StreamExplainer { data: true, name, .. } => &format!("dispatch: {name}"),
                StreamExplainer { id: true, .. } => "fires nothing; the id counts from here",
                _ => "fires nothing",
            },
            Line::Comment("ping") => "ping",
            Line::Comment(_) => "comment",
            Line::Data(_) => {
                self.data = true;
                "data"
            }
            Line::Event(name) => {
                self.name = name.into();
                "event: the name of this event"
            }
            Line::Id(id) if id.contains('\0') => "id: ignored, because it has a NUL",
            Line::Id(id) => {
                self.id = true;
                if id.is_empty() { "id: none, from the blank line on" } else { "id, from the blank line on" }
            }
            Line::Retry(time) => &format!("retry: after {time} ms"),
            Line::Ignored("retry") => "retry: ignored, because it is not a number",
            Line::Ignored(_) => "ignored: there is no such field",
        };
        self.begun = true;
        note.into()
    }

    /// Returns whether an end of the stream would discard an unfinished event or an id.
    pub fn is_open(&self) -> bool {
        self.data || self.id || !self.name.is_empty()
    }
}

//! A model of a conforming client. It plays a lesson without sockets and without pauses (WHATWG HTML, "Server-sent
//! events"), and is compared with the data beside the lesson.

use crate::lessons::expected::{Expected, Step};
use tincan::wings::lessons::script::{self, LESSONS, Lesson, Script, languages};
use tincan::wire::event::{Line, is_event_stream};

/// How often the model plays a block that repeats for ever.
const ROUNDS: usize = 10;

/// An EventSource. The data says for which types it listens, when it closes, and after how many steps the test ends.
struct Client<'a> {
    expected: &'a Expected,
    steps: Vec<Step>,
    ready_state: u64,
    last_event_id: String,
}

impl Client<'_> {
    fn is_done(&self) -> bool {
        self.ready_state == 2 || self.steps.len() >= self.expected.steps.len()
    }

    fn fire(&mut self, kind: &'static str, ready_state: u64) {
        if !self.is_done() {
            self.ready_state = ready_state;
            self.steps.push(Step::State(kind, ready_state));
        }
    }

    /// "Processing model": requests the lesson, and interprets the response.
    fn connect(&mut self, lesson: &Lesson) {
        let id = Some(self.last_event_id.clone()).filter(|id| !id.is_empty());
        // The standard sets the field in a request that is kept, and never removes it. So it is unclear whether a
        // client that forgets its id still sends the old one. The data must not say anything about this.
        let has_sent = self.steps.iter().any(|step| matches!(step, Step::Request(Some(_))));
        assert!(id.is_some() || !has_sent, "{}", lesson.name);
        self.steps.push(Step::Request(id));
        let script = script::parse(lesson.text, self.last_event_id.as_bytes()).unwrap();
        let media_type = script.fields.lines().find_map(|line| line.strip_prefix("Content-Type: "));
        if script.status != 200 || !media_type.is_none_or(is_event_stream) {
            return self.fire("error", 2);
        }
        self.fire("open", 1);
        self.interpret(&stream(&script));
        self.fire("error", 0);
    }

    /// "Interpreting an event stream".
    fn interpret(&mut self, stream: &str) {
        let text = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut data = String::new();
        let mut kind = "";
        let mut id = "";
        // A line without an end is discarded.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            match Line::read(line) {
                Line::Data(value) => data = data + value + "\n",
                Line::Event(value) => kind = value,
                Line::Id(value) if !value.contains('\0') => id = value,
                Line::Blank if !self.is_done() => {
                    self.last_event_id = id.into();
                    if let Some(data) = data.strip_suffix('\n') {
                        self.dispatch(if kind.is_empty() { "message" } else { kind }, data);
                    }
                    data.clear();
                    kind = "";
                }
                _ => {}
            }
        }
    }

    /// Fires an event. Its listener may close the client.
    fn dispatch(&mut self, kind: &str, data: &str) {
        if kind == "message" || self.expected.listen.iter().any(|known| known == kind) {
            let last_event_id = self.last_event_id.clone();
            self.steps.push(Step::Event { kind: kind.into(), data: data.into(), last_event_id });
        }
        if self.expected.close_at.as_deref() == Some(kind) {
            self.ready_state = 2;
        }
    }
}

/// Returns the body of the response. The word `{time}` stands for the time.
fn stream(script: &Script) -> String {
    let mut bytes = Vec::new();
    let mut index = 0;
    let mut rounds = 0;
    while let Some(step) = script.steps.get(index) {
        index += 1;
        match step {
            script::Step::Send(sent) => bytes.extend_from_slice(sent),
            script::Step::Time => bytes.extend_from_slice(b"{time}"),
            script::Step::Repeat(begin) if rounds < ROUNDS => {
                index = *begin;
                rounds += 1;
            }
            _ => {}
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Returns whether a lesson never ends for a client with this last event ID.
fn repeats(lesson: &Lesson, id: &str) -> bool {
    let script = script::parse(lesson.text, id.as_bytes()).unwrap();
    matches!(script.steps.last(), Some(script::Step::Repeat(_)))
}

#[test]
fn the_data_of_each_lesson_is_what_the_standard_says() {
    for lesson in LESSONS {
        let expected = Expected::of(lesson);
        let mut client =
            Client { expected: &expected, steps: Vec::new(), ready_state: 0, last_event_id: String::new() };
        while !client.is_done() {
            client.connect(lesson);
        }
        let found = Expected { steps: client.steps, ready_state: client.ready_state, ..expected.clone() };
        assert_eq!(found.to_string(), expected.to_string(), "{}", lesson.name);
    }
}

#[test]
fn the_data_of_each_lesson_is_complete_and_says_no_more_than_it_needs() {
    for lesson in LESSONS {
        let name = lesson.name;
        let expected = Expected::of(lesson);
        assert_eq!(expected.to_string(), lesson.expected, "{name}.json has its usual form: a line for each step");
        let played = languages(lesson.text).0;
        for kind in expected.listen.iter().chain(&expected.close_at) {
            assert!(played.contains(&format!("event: {kind}\n")) && kind != "message", "{name}: {kind}");
        }
        assert!(expected.close_at.iter().all(|kind| expected.listen.contains(kind)), "{name}");
        // It ends with a client that is closed, a stream that never ends, or the open of one more connection. Two end
        // with an event. The standard does not say clearly which id comes after `fresh-start`. A client that keeps the
        // end of `missing-blank-line` shows it only with the first event of the next stream.
        let requests = expected.steps.iter().filter_map(|step| match step {
            Step::Request(id) => Some(id.clone().unwrap_or_default()),
            _ => None,
        });
        let ids: Vec<String> = requests.collect();
        let opens_again = ids.len() > 1 && expected.steps.last() == Some(&Step::State("open", 1));
        let endless = repeats(lesson, ids.last().unwrap());
        let ends_with_event = ["fresh-start", "missing-blank-line"].contains(&name);
        let ends = [expected.ready_state == 2, endless, opens_again, ends_with_event];
        assert_eq!(ends.into_iter().filter(|end| *end).count(), 1, "{name}");
        // A client reaches each part of the lesson, except those for clients that do something else.
        for part in played.lines().filter_map(|line| line.strip_prefix(": when Last-Event-ID: ")) {
            let is_for_others = [("cut-id", "2"), ("empty-id", "7"), ("reconnection", "4")].contains(&(name, part));
            assert_eq!(ids.iter().any(|id| id == part), !is_for_others, "{name}: {part}");
        }
    }
}

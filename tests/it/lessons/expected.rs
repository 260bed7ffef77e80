//! What a conforming client makes of a lesson: the data beside each lesson (`static/lessons/README.md`), read strictly.

use crate::support::browser::string;
use std::fmt::{self, Display, Formatter};
use tincan::wings::lessons::script::Lesson;
use tincan::wire::event::json;

/// A step of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It sends a request, with this `Last-Event-ID`.
    Request(Option<String>),
    /// It fires `open` or `error`, and has this readyState then.
    State(&'static str, u64),
    /// It fires an event of the stream.
    Event { kind: String, data: String, last_event_id: String },
}

/// The data of a lesson.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The types that the client listens for, besides `message`.
    pub listen: Vec<String>,
    /// The type of the event at which the client closes.
    pub close_at: Option<String>,
    pub steps: Vec<Step>,
    /// The readyState after the last step.
    pub ready_state: u64,
}

impl Expected {
    pub fn of(lesson: &Lesson) -> Expected {
        Expected::parse(lesson.expected).unwrap_or_else(|| panic!("{}.json is malformed", lesson.name))
    }

    /// Reads the data. Returns None if it is malformed, if a key is unknown or missing, or if a value has another type.
    pub fn parse(text: &str) -> Option<Expected> {
        let [listen, close_at, steps, ready_state] =
            Json::parse(text)?.members(["listen", "closeAt", "steps", "readyState"])?;
        Some(Expected {
            listen: listen.list()?.into_iter().map(Json::text).collect::<Option<_>>()?,
            close_at: close_at.text_or_null()?,
            steps: steps.list()?.into_iter().map(Step::read).collect::<Option<_>>()?,
            ready_state: ready_state.number()?,
        })
    }
}

impl Step {
    /// Reads a step as a client reports it.
    pub fn parse(text: &str) -> Option<Step> {
        Step::read(Json::parse(text)?)
    }

    fn read(value: Json) -> Option<Step> {
        if let Some([id]) = value.clone().members(["Last-Event-ID"]) {
            return Some(Step::Request(id.text_or_null()?));
        }
        if let Some([kind, state]) = value.clone().members(["type", "readyState"]) {
            let kind = kind.text()?;
            let kind = ["open", "error"].into_iter().find(|known| *known == kind)?;
            return Some(Step::State(kind, state.number()?));
        }
        let [kind, data, id] = value.members(["type", "data", "lastEventId"])?;
        Some(Step::Event { kind: kind.text()?, data: data.text()?, last_event_id: id.text()? })
    }
}

/// Writes it as it is in the file.
impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Step::Request(id) => write!(f, "{{\"Last-Event-ID\": {}}}", text_or_null(id.as_deref())),
            Step::State(kind, state) => write!(f, "{{\"type\": \"{kind}\", \"readyState\": {state}}}"),
            Step::Event { kind, data, last_event_id } => {
                let [kind, data, id] = [kind, data, last_event_id].map(|text| json(text));
                write!(f, "{{\"type\": {kind}, \"data\": {data}, \"lastEventId\": {id}}}")
            }
        }
    }
}

/// Writes it as its file has it: a line for each step.
impl Display for Expected {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let listen: Vec<String> = self.listen.iter().map(|kind| json(kind)).collect();
        let steps: Vec<String> = self.steps.iter().map(|step| format!("    {step}")).collect();
        writeln!(f, "{{\n  \"listen\": [{}],", listen.join(", "))?;
        writeln!(f, "  \"closeAt\": {},", text_or_null(self.close_at.as_deref()))?;
        writeln!(f, "  \"steps\": [\n{}\n  ],", steps.join(",\n"))?;
        writeln!(f, "  \"readyState\": {}\n}}", self.ready_state)
    }
}

fn text_or_null(text: Option<&str>) -> String {
    text.map_or("null".into(), json)
}

/// A value of JSON (RFC 8259), as far as the data has such values.
#[derive(Debug, Clone)]
enum Json {
    Null,
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn parse(text: &str) -> Option<Json> {
        let (value, rest) = Json::read(text)?;
        rest.trim_ascii_start().is_empty().then_some(value)
    }

    /// Reads a value; returns it with the text after it.
    fn read(text: &str) -> Option<(Json, &str)> {
        let text = text.trim_ascii_start();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        match text.bytes().next()? {
            b'{' => {
                let (members, rest) = items(&text[1..], '}', |text| {
                    let (Json::Text(name), rest) = Json::read(text)? else { return None };
                    let (value, rest) = Json::read(rest.trim_ascii_start().strip_prefix(':')?)?;
                    Some(((name, value), rest))
                })?;
                Some((Json::Object(members), rest))
            }
            b'[' => items(&text[1..], ']', Json::read).map(|(list, rest)| (Json::List(list), rest)),
            b'"' => {
                let mut escaped = false;
                let end = text[1..].find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                })?;
                Some((Json::Text(string(text, "")), &text[end + 2..]))
            }
            _ if digits > 0 => Some((Json::Number(text[..digits].parse().ok()?), &text[digits..])),
            _ => Some((Json::Null, text.strip_prefix("null")?)),
        }
    }

    /// Returns the values of an object with exactly these names, in this order.
    fn members<const N: usize>(self, names: [&str; N]) -> Option<[Json; N]> {
        let Json::Object(members) = self else { return None };
        let (found, values): (Vec<String>, Vec<Json>) = members.into_iter().unzip();
        if found == names { values.try_into().ok() } else { None }
    }

    fn list(self) -> Option<Vec<Json>> {
        if let Json::List(list) = self { Some(list) } else { None }
    }

    fn text(self) -> Option<String> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    fn text_or_null(self) -> Option<Option<String>> {
        if matches!(self, Json::Null) { Some(None) } else { self.text().map(Some) }
    }

    fn number(self) -> Option<u64> {
        if let Json::Number(number) = self { Some(number) } else { None }
    }
}

/// Reads items with commas between them, up to `end`; returns them with the text after it.
fn items<T>(text: &str, end: char, read: impl Fn(&str) -> Option<(T, &str)>) -> Option<(Vec<T>, &str)> {
    let mut items = Vec::new();
    let mut rest = text.trim_ascii_start();
    if let Some(rest) = rest.strip_prefix(end) {
        return Some((items, rest));
    }
    loop {
        let (item, behind) = read(rest)?;
        items.push(item);
        let behind = behind.trim_ascii_start();
        if let Some(rest) = behind.strip_prefix(end) {
            return Some((items, rest));
        }
        rest = behind.strip_prefix(',')?;
    }
}

#[test]
fn data_that_is_not_complete_or_has_more_is_malformed() {
    let good = "{\"listen\": [\"a\"], \"closeAt\": null, \"steps\": [{\"Last-Event-ID\": \"1\"}, \
                {\"type\": \"error\", \"readyState\": 0}, {\"type\": \"a\", \"data\": \"\\n\\\\\", \"lastEventId\": \"\"}], \
                \"readyState\": 0}\n";
    let expected = Expected::parse(good).unwrap();
    let event = Step::Event { kind: "a".into(), data: "\n\\".into(), last_event_id: String::new() };
    assert_eq!(expected.steps, [Step::Request(Some("1".into())), Step::State("error", 0), event]);
    assert_eq!(Expected::parse(&expected.to_string()), Some(expected));
    for (part, other) in [
        ("\"closeAt\": null, ", ""),
        ("\"closeAt\": null, ", "\"closeAt\": null, \"more\": 1, "),
        ("\"closeAt\": null, ", "\"closeAt\": 1, "),
        ("[\"a\"]", "\"a\""),
        ("[\"a\"]", "[1]"),
        ("[\"a\"]", "[\"a\",]"),
        ("{\"Last-Event-ID\": \"1\"}", "{\"Last-Event-ID\": 1}"),
        ("{\"Last-Event-ID\": \"1\"}", "{}"),
        ("\"type\": \"error\"", "\"type\": \"message\""),
        (", \"lastEventId\": \"\"", ""),
        ("\"lastEventId\": \"\"", "\"lastEventId\": null"),
        ("\"readyState\": 0}\n", "\"readyState\": \"0\"}\n"),
        ("\"readyState\": 0}\n", "\"readyState\": 0}}\n"),
        ("\"readyState\": 0}\n", "\"readyState\": 0\n"),
    ] {
        assert!(good.contains(part));
        let text = good.replacen(part, other, 1);
        assert_eq!(Expected::parse(&text), None, "{text}");
    }
}

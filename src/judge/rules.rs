//! The rules: their names, the section of the standard, and what it does to users if a server breaks them.

use std::fmt;
use tincan::system::report::visible;

/// What the judge says of a rule. A later one outweighs an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The server holds the rule.
    Ok,
    /// The standard leaves it open, and another choice would serve users better. Or the rule could not be tested.
    Advice,
    /// Users lose events or get wrong ones, or a standard forbids it.
    Broken,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Advice => "advice",
            Level::Broken => "broken",
        })
    }
}

/// A rule.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// The section of the standard that it comes from.
    section: &'static str,
    /// What it does to users.
    effect: &'static str,
}

macro_rules! rules {
    ($($name:literal $section:literal $effect:literal)*) => {
        &[$(Rule { name: $name, section: $section, effect: $effect }),*]
    };
}

/// All rules, in the order in which they are printed. Those from `lines` on need `--post`.
#[rustfmt::skip]
pub const RULES: &[Rule] = rules! {
    "status" "WHATWG HTML, \"Processing model\"" "If the status is not 200, a browser gives up for good."
    "media-type" "WHATWG HTML, \"Processing model\"" "If the media type is not text/event-stream, a browser gives up for good."
    "charset" "WHATWG HTML, \"text/event-stream\"" "An event stream is UTF-8; if the media type names another charset, Chromium gives up for good."
    "caching" "RFC 9111 §5.2.2" "Without no-store or no-cache a cache may answer with an old stream; without no-transform a proxy may compress it, and delay events."
    "compression" "RFC 9110 §8.4, §12.5.3" "A compressor holds events back until it is flushed; a client that cannot decode reads nothing."
    "framing" "RFC 9112 §4 to §7" "If the framing is wrong, a client reads nothing or not all; without chunks it cannot tell the end of a stream from a broken connection, and some clients wait until a buffer is full."
    "first-bytes" "WHATWG HTML, \"Processing model\"" "A page gets `open` when the head arrives; some proxies and clients pass the head on only with the first bytes of the body."
    "utf-8" "WHATWG HTML, \"Parsing an event stream\"" "A client replaces bytes that are not UTF-8, so a text arrives damaged."
    "line-ends" "WHATWG HTML, \"Parsing an event stream\"" "LF, CR LF and CR all end a line, but some clients do not know a lone CR, and a mixture confuses simple ones."
    "fields" "WHATWG HTML, \"Interpreting an event stream\"" "A client ignores a line whose field name is not exactly data, event, id or retry."
    "blank-line" "WHATWG HTML, \"Interpreting an event stream\"" "An event fires at its blank line; users do not get an event without one."
    "nul-in-id" "WHATWG HTML, \"Interpreting an event stream\"" "A client ignores an id with NUL, and so resumes at an older event."
    "retry" "WHATWG HTML, \"Interpreting an event stream\"" "A client ignores a retry that is not made of digits; if it is long, users wait that long after each break; 0 makes all clients come back at once."
    "heartbeat" "WHATWG HTML, \"Authoring notes\"" "Some proxies close a silent connection, and only a write shows the server that a client is gone: a comment every 15 seconds helps both."
    "resume" "WHATWG HTML, \"The Last-Event-ID header\"" "A client that comes back says what it received last; if the server does not go on from there, users miss events."
    "repeat" "WHATWG HTML, \"The Last-Event-ID header\"" "If an event comes twice, users see a message twice, or place an order twice."
    "slow-reader" "no standard asks for it" "If the server waits for a subscriber that does not read, one sleeping phone stops everybody."
    "many" "no standard asks for it" "Each tab of each user is a connection; all of them have to hear all events, in the same order."
    "head" "RFC 9110 §9.3.2" "Monitors and link checkers send HEAD; a body after the head would be taken for the next response."
    "options" "RFC 9110 §9.3.7" "OPTIONS asks what may be done with a URL; browsers send it before some requests of other sites, and it must not open a stream."
    "lines" "WHATWG HTML, \"Interpreting an event stream\"" "If each line of a text has no data field of its own, users lose lines or get several events."
    "lf" "WHATWG HTML, \"Parsing an event stream\"" "LF ends a line: what follows it in a text needs a data field of its own."
    "crlf" "WHATWG HTML, \"Parsing an event stream\"" "CR LF ends one line, not two: forms and Windows send it, and a server that sees two adds an empty line."
    "cr" "WHATWG HTML, \"Parsing an event stream\"" "A lone CR ends a line too: if it is passed on, what follows it is read as a field, and can be forged."
    "empty" "WHATWG HTML, \"Interpreting an event stream\"" "An event without a data field never fires: an empty text needs an empty data field."
    "leading-space" "WHATWG HTML, \"Interpreting an event stream\"" "A client removes one space after the colon: if the server writes none, code and poems lose their indentation."
    "colon" "WHATWG HTML, \"Interpreting an event stream\"" "A line that begins with a colon is a comment: if a text is passed on as it is, users do not get such a line."
    "nul" "WHATWG HTML, \"Parsing an event stream\"" "NUL is allowed in data: a server that would cut a text there, or change it, has to refuse it instead."
    "bom" "WHATWG HTML, \"Parsing an event stream\"" "Only a byte order mark at the beginning of the stream is removed; a text may begin with one too."
    "u2028" "WHATWG HTML, \"Parsing an event stream\"" "U+2028, U+2029 and U+0085 end no line here; a server that splits with its language's own function may tear a text there."
    "large" "RFC 9110 §15.5.14" "If a text is too large, the server has to refuse it: otherwise the publisher believes that all have heard it."
    "forged-id" "WHATWG HTML, \"The Last-Event-ID header\"" "Whoever can set the last event ID of others makes them miss events."
    "forged-event" "WHATWG HTML, \"Interpreting an event stream\"" "Whoever can send an event of their own can speak in the name of the server."
    "forged-field" "WHATWG HTML, \"Interpreting an event stream\"" "Whoever can set the reconnection time keeps all others away after a break, for as long as they like."
};

/// Returns the rules that are printed.
pub fn rules(with_post: bool) -> &'static [Rule] {
    let without_post = RULES.split(|rule| rule.name == "lines").next().unwrap_or(RULES);
    if with_post { RULES } else { without_post }
}

/// Limit: the characters of what was seen that are printed.
const MAX_SEEN: usize = 160;

/// What was found so far, for each rule.
pub struct Verdicts(Vec<Option<(Level, String)>>);

impl Verdicts {
    pub fn new() -> Verdicts {
        Verdicts(RULES.iter().map(|_| None).collect())
    }

    /// Adds what was seen of a rule. Of several findings the worst one counts, and of equals the first.
    pub fn add(&mut self, name: &str, level: Level, seen: impl AsRef<[u8]>) {
        let found = RULES.iter().zip(&mut self.0).find(|(rule, _)| rule.name == name);
        if let Some((_, verdict)) = found
            && verdict.as_ref().is_none_or(|(before, _)| *before < level)
        {
            *verdict = Some((level, visible(seen)));
        }
    }

    /// Returns whether anything was found of a rule.
    pub fn has(&self, name: &str) -> bool {
        RULES.iter().zip(&self.0).any(|(rule, verdict)| rule.name == name && verdict.is_some())
    }

    /// Returns whether a rule is broken.
    pub fn is_broken(&self, name: &str) -> bool {
        let mut rules = RULES.iter().zip(&self.0);
        rules.any(|(rule, verdict)| rule.name == name && matches!(verdict, Some((Level::Broken, _))))
    }

    /// Returns the number of rules with this level.
    pub fn count(&self, level: Level) -> usize {
        self.0.iter().flatten().filter(|(of, _)| *of == level).count()
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (rule, verdict) in RULES.iter().zip(&self.0) {
            let Some((level, seen)) = verdict else { continue };
            let shown: String = seen.chars().take(MAX_SEEN).collect();
            let more = if shown.len() < seen.len() { "…" } else { "" };
            let Rule { name, section, effect } = rule;
            writeln!(f, "{level:<7} {name:<14} {shown}{more}  ({section})  {effect}")?;
        }
        let [ok, advice, broken] = [Level::Ok, Level::Advice, Level::Broken].map(|level| self.count(level));
        writeln!(f, "{} rules: {ok} ok, {advice} advice, {broken} broken", ok + advice + broken)
    }
}

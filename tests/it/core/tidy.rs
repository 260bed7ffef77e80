//! Rules of the repository, held by a test.

use std::collections::BTreeMap;
use std::fs::{read_dir, read_to_string};

/// The source files: name to text.
fn sources() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
        let path = entry.unwrap().path();
        let text = read_to_string(&path).unwrap();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_string(), text);
    }
    files
}

/// The size of source: its identifiers, literals and operators. Comments and white space count nothing, so clear names
/// and empty lines are free.
/// Shortcut: `//` begins a comment in a string as well.
fn tokens(text: &str) -> usize {
    let text = without_comments(text);
    let mut rest = text.as_str();
    let mut count = 0;
    while let Some(first) = rest.chars().next() {
        count += usize::from(!first.is_whitespace());
        rest = &rest[token(rest, first)..];
    }
    count
}

fn without_comments(mut text: &str) -> String {
    let mut code = String::new();
    while let Some(begin) = text.find("/*")
        && let Some(length) = text[begin + 2..].find("*/")
    {
        code += &text[..begin];
        text = &text[begin + 2 + length + 2..];
    }
    code += text;
    code.split('\n').map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The length of the token at the beginning, or of one character of white space.
fn token(text: &str, first: char) -> usize {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let run = |fits: &dyn Fn(char) -> bool| text.find(|c| !fits(c)).unwrap_or(text.len());
    const OPERATORS: [&str; 7] = ["->", "=>", "::", "..=", "..", "&&", "||"];
    let operator = OPERATORS.into_iter().find(|operator| text.starts_with(operator)).map(str::len);
    let compound = || {
        let assigns = "-+*/%^&|=!<>".contains(first) && text[1..].starts_with('=');
        (assigns || text.starts_with("<<") || text.starts_with(">>")).then_some(2)
    };
    if let Some(length) = string(text).or_else(|| character(text)) {
        length
    } else if first.is_ascii_digit() {
        run(&|c| c.is_alphanumeric() || c == '_' || c == '.')
    } else if word(first) {
        run(&word)
    } else {
        operator.or_else(compound).unwrap_or(first.len_utf8())
    }
}

/// The length of the string literal at the beginning, raw or not, if there is one.
fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix('r').unwrap_or(text).trim_start_matches('#').strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            '\n' if escaped => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let behind = &body[at + 1..];
                return Some(text.len() - behind.trim_start_matches('#').len());
            }
            _ => {}
        }
    }
    None
}

/// The length of the character literal at the beginning, if there is one.
fn character(text: &str) -> Option<usize> {
    let mut body = text.strip_prefix('\'')?.chars();
    match body.next()? {
        '\'' => return None,
        '\\' => body.next().filter(|c| *c != '\n')?,
        c => c,
    };
    let behind = body.as_str().strip_prefix('\'')?;
    Some(text.len() - behind.len())
}

/// The room table in `lib.rs`: file to rank.
fn ranks() -> BTreeMap<String, u32> {
    let mut ranks = BTreeMap::new();
    for line in sources()["lib.rs"].lines() {
        if let [_, rank, files, _] = line.split(" | ").flat_map(|c| c.split("| ")).collect::<Vec<_>>()[..]
            && let Ok(rank) = rank.trim().parse()
        {
            for file in files.split(", ") {
                ranks.insert(file.trim_matches('`').to_string(), rank);
            }
        }
    }
    ranks
}

#[test]
fn a_file_imports_only_from_lower_ranks() {
    let (files, ranks) = (sources(), ranks());
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ranks.keys().collect::<Vec<_>>(),
        "each file stands in the room table"
    );
    for (name, text) in &files {
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for import in code.split("crate::").skip(1) {
            let room = import.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            let rank =
                ranks.get(&format!("{room}.rs")).unwrap_or_else(|| panic!("{name} imports {room}, which is no room"));
            assert!(*rank < ranks[name], "{name} (rank {}) imports {room} (rank {rank})", ranks[name]);
        }
    }
}

#[test]
fn the_source_can_be_read_in_one_evening() {
    const MOST: usize = 67_700;
    let total: usize = sources().values().map(|text| tokens(text)).sum();
    println!("tokens in src: {total} (at most {MOST})");
    assert!(total <= MOST, "{total} tokens");
}

#[test]
fn tokens_are_identifiers_literals_and_operators() {
    for (text, count) in [
        ("", 0),
        ("fn main() {}\n", 6),
        ("// fn main() {}\n\n    /* a\nb */ x", 1),
        ("x /* never ended", 5),
        ("a_1 += 0x1f_u8..=2.5;", 6),
        ("a>>=b<<1!=c->d=>e::f", 14),
        ("a && b || c..d", 7),
        (r#""a \" b" 'c' '\'' '\n' b'x' 'static"#, 8),
        (r##"r#"a b"# r"c""##, 2),
        ("\"http://x.y\"", 3),
        ("\"a\\\nb\"", 5),
        ("é '🍲'", 2),
    ] {
        assert_eq!(tokens(text), count, "{text:?}");
    }
}

#[test]
fn nothing_in_the_source_can_be_made_to_panic_in_passing() {
    for (name, text) in sources() {
        for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for word in
                [".unwrap()", ".expect(", "panic!", "unreachable!", "todo!", "assert!", "unsafe {", "dbg!", "println!"]
            {
                assert!(!line.contains(word), "{name}:{} has {word}", n + 1);
            }
        }
    }
    for root in ["lib.rs", "main.rs"] {
        assert!(sources()[root].contains("#![forbid(unsafe_code)]"));
    }
}

#[test]
fn prose_uses_plain_characters() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut texts: Vec<_> = sources().into_iter().collect();
    texts.push(("README.md".into(), read_to_string(format!("{root}/README.md")).unwrap()));
    for (name, text) in texts {
        assert!(!text.contains('\r') && !text.contains('\t'), "{name}");
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{name}");
        for (n, line) in text.lines().enumerate() {
            assert_eq!(line, line.trim_end(), "{name}:{}", n + 1);
        }
    }
}

#[test]
fn a_subscriber_is_small() {
    assert!(size_of::<tincan::channel::subscriber::Subscriber>() <= 48);
}

//! Rules of the repository, held by a test.

use std::collections::BTreeMap;
use std::fs::{read_dir, read_to_string};

/// The source files, with the number of their lines of code: no blanks, no comments.
fn sources() -> BTreeMap<String, (String, usize)> {
    let mut files = BTreeMap::new();
    for entry in read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
        let path = entry.unwrap().path();
        let text = read_to_string(&path).unwrap();
        let code = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//")).count();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_string(), (text, code));
    }
    files
}

/// The room table in `lib.rs`: file to rank.
fn ranks() -> BTreeMap<String, u32> {
    let mut ranks = BTreeMap::new();
    for line in sources()["lib.rs"].0.lines() {
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
    for (name, (text, _)) in &files {
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
    let files = sources();
    for (name, (_, code)) in &files {
        assert!(*code <= 400, "{name} has {code} lines of code");
    }
    let total: usize = files.values().map(|f| f.1).sum();
    assert!(total < 5700, "{total} lines of code");
}

#[test]
fn nothing_in_the_source_can_be_made_to_panic_in_passing() {
    for (name, (text, _)) in sources() {
        for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for word in
                [".unwrap()", ".expect(", "panic!", "unreachable!", "todo!", "assert!", "unsafe {", "dbg!", "println!"]
            {
                assert!(!line.contains(word), "{name}:{} has {word}", n + 1);
            }
        }
    }
    for root in ["lib.rs", "main.rs"] {
        assert!(sources()[root].0.contains("#![forbid(unsafe_code)]"));
    }
}

#[test]
fn prose_uses_plain_characters() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut texts: Vec<_> = sources().into_iter().map(|(name, (text, _))| (name, text)).collect();
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
    assert!(size_of::<tincan::subscriber::Subscriber>() <= 48);
}

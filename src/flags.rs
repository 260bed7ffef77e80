//! The command line and the environment: words to a [`Config`]. Pure: it is given the words, it prints nothing.
//!
//! The options of the core and of the wings in this build are one list. A flag wins over `TINCAN_…`, which wins over `PORT`;
//! the options that may be repeated add up within one source, and stand in one variable with commas between them. An option
//! of a wing that is not in this build is refused, wherever it is given.

use crate::config::{Config, OPTIONS, Opt};
use crate::wings::DOORS;

/// As in `Cargo.toml`, which a build with `rustc` alone does not read.
const VERSION: &str = "0.1.0";

/// What the command line asks for.
pub enum Command {
    /// Run a server.
    Run(Box<Config>),
    /// Print this on standard output and stop.
    Print(String),
}

/// Every option of this build.
fn options() -> impl Iterator<Item = &'static Opt> {
    OPTIONS.iter().chain(DOORS.iter().filter_map(|door| door.wing).flat_map(|wing| wing.options))
}

/// Reads the arguments (without the program's name), with `env` for the environment.
///
/// # Errors
/// One line for a person: what is wrong and what to do.
pub fn parse(args: &[String], env: impl Fn(&str) -> Option<String>) -> Result<Command, String> {
    let mut flags = Vec::new();
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-h" | "--help" => return Ok(Command::Print(help())),
            "-V" | "--version" => return Ok(Command::Print(version())),
            _ => flags.push(flag(arg, &mut args)?),
        }
    }
    for option in DOORS.iter().filter(|door| door.wing.is_none()).flat_map(|door| door.options) {
        // What would be off or unset is no harm.
        if env(&variable(option)).is_some_and(|value| !["", "0", "false"].contains(&value.trim())) {
            return Err(missing_wing(&variable(option)));
        }
    }
    let mut config = Config::default();
    for option in options() {
        let mut source = format!("--{}", option.name);
        let mut values: Vec<String> =
            flags.iter().filter(|flag| flag.0.name == option.name).map(|flag| flag.1.into()).collect();
        if values.is_empty() {
            (source, values) = from_environment(option, &env);
        }
        for value in values {
            let shown = if option.secret { "this value".into() } else { format!("{value:?}") };
            (option.set)(&mut config, &value)
                .map_err(|right| format!("{source}: {shown} will not do; give {right}"))?;
        }
    }
    if config.sync && config.data.is_none() {
        return Err("--sync needs a disk to wait for; give --data DIR as well".into());
    }
    DOORS.iter().filter_map(|door| door.wing).try_for_each(|wing| (wing.check)(&config))?;
    Ok(Command::Run(Box::new(config)))
}

/// Reads an option and its value, which may be the next argument.
fn flag<'a>(arg: &'a str, others: &mut impl Iterator<Item = &'a str>) -> Result<(&'static Opt, &'a str), String> {
    let (word, value) = arg.split_once('=').map_or((arg, None), |(word, value)| (word, Some(value)));
    let name = word.strip_prefix("--").unwrap_or_default();
    let Some(option) = options().find(|option| option.name == name) else {
        if DOORS.iter().any(|door| door.options.contains(&name)) {
            return Err(missing_wing(word));
        }
        let shown = if arg.contains("://") { "this".into() } else { format!("{arg:?}") }; // it may hold a password
        return Err(format!("{shown} is no option; `tincan --help` lists them"));
    };
    let is_switch = option.value.is_empty();
    match value {
        Some(_) if is_switch => Err(format!("{word} takes no value; write {word} alone")),
        Some(value) => Ok((option, value)),
        None if is_switch => Ok((option, "")),
        None => others
            .next()
            .map(|value| (option, value))
            .ok_or_else(|| format!("{word} needs a value: {word} {}", option.value)),
    }
}

/// What is wrong with an option of a wing that is not in this build.
fn missing_wing(option: &str) -> String {
    format!(
        "{option}: this build does not have it (`tincan --version` tells what it has); leave it out, or run another"
    )
}

/// The values that the environment gives an option, and the variable.
fn from_environment(option: &Opt, env: &impl Fn(&str) -> Option<String>) -> (String, Vec<String>) {
    let name = variable(option.name);
    let several = ["host", "allow-origin"].contains(&option.name);
    let is_path = ["DIR", "FILE"].contains(&option.value); // one that ends with a space is another without it
    let text = env(&name).unwrap_or_default();
    let values: Vec<String> = text
        .split(|c| several && c == ',')
        .map(|value| if is_path { value } else { value.trim() })
        .filter(|value| !value.is_empty())
        .map(String::from)
        .collect();
    match env("PORT") {
        Some(port) if values.is_empty() && option.name == "listen" && !port.is_empty() => {
            ("PORT".into(), vec![format!("0.0.0.0:{port}")])
        }
        _ => (name, values),
    }
}

/// A note about variables that look like an option's and are none's; an orchestrator may have set them, so it is no more.
pub fn unknown_variables(variables: impl Iterator<Item = String>) -> Option<String> {
    let known: Vec<_> = options().map(|option| variable(option.name)).collect();
    let names: Vec<_> = variables.filter(|name| name.starts_with("TINCAN_") && !known.contains(name)).collect();
    (!names.is_empty()).then(|| format!("note: no option has these variables, see --help: {}", names.join(", ")))
}

/// The environment's name for an option.
fn variable(option: &str) -> String {
    format!("TINCAN_{}", option.replace('-', "_").to_ascii_uppercase())
}

/// The version, and the wings of this build.
fn version() -> String {
    let wings: Vec<_> = DOORS.iter().filter(|door| door.wing.is_some()).map(|door| door.name).collect();
    let wings = if wings.is_empty() { "without wings".into() } else { format!("with {}", wings.join(", ")) };
    format!("tincan {VERSION} {wings}\n")
}

fn help() -> String {
    let mut out = String::from(
        "A channel is a URL; what you POST to it, everyone who GETs it hears.\n\nusage: tincan [OPTIONS]\n\n",
    );
    for Opt { name, value, help, .. } in options() {
        let option = format!("--{name} {value}");
        out += &format!("  {option:<22} {help}\n");
    }
    out.push_str(
        "  -h, --help             this text\n  -V, --version          the version, and what is in this build\n\n\
         SIZE: bytes, or with K, M or G. --opt VALUE and --opt=VALUE are the same.\n\
         Environment: TINCAN_LISTEN, TINCAN_HISTORY and so on, below flags; PORT alone means 0.0.0.0:$PORT.\n",
    );
    out
}

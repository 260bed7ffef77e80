//! The command line and the environment, parsed into a [`Config`]. Pure: the caller passes the arguments and the
//! variables, and prints the messages.
//!
//! The options of this build are those of the core and of its wings. An argument wins over a variable `TINCAN_…`, which
//! wins over `PORT`. If an option may be repeated, all its values from one source count. In a variable, commas separate
//! them. An option of a wing that is not in this build is an error, both as an argument and as a variable.

use crate::config::{Config, OPTIONS, Opt};
use crate::wings::DOORS;

/// The version, as in `Cargo.toml`. A build with only `rustc` does not read that file.
const VERSION: &str = "0.1.0";

/// What the command line asks for.
pub enum Command {
    /// Run a server.
    Run(Box<Config>),
    /// Print this text on standard output, and end.
    Print(String),
}

/// Returns all options of this build.
fn options() -> impl Iterator<Item = &'static Opt> {
    OPTIONS.iter().chain(DOORS.iter().filter_map(|door| door.wing).flat_map(|wing| wing.options))
}

/// Parses the arguments, without the name of the program. `env` returns the value of an environment variable.
///
/// # Errors
/// A line for the operator, if an option is wrong: what is wrong, and what to do.
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
        // A variable that turns the option off does no harm.
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
                .map_err(|expected| format!("{source}: {shown} is not valid; give {expected}"))?;
        }
    }
    if config.sync && config.data.is_none() {
        return Err("--sync needs --data; give --data DIR as well".into());
    }
    DOORS.iter().filter_map(|door| door.wing).try_for_each(|wing| (wing.check)(&config))?;
    Ok(Command::Run(Box::new(config)))
}

/// Parses an argument. Returns its option and its value, which may be the next argument.
fn flag<'a>(arg: &'a str, others: &mut impl Iterator<Item = &'a str>) -> Result<(&'static Opt, &'a str), String> {
    let (word, value) = arg.split_once('=').map_or((arg, None), |(word, value)| (word, Some(value)));
    let name = word.strip_prefix("--").unwrap_or_default();
    let Some(option) = options().find(|option| option.name == name) else {
        if DOORS.iter().any(|door| door.options.contains(&name)) {
            return Err(missing_wing(word));
        }
        // A URL may contain a password.
        let shown = if arg.contains("://") { "this".into() } else { format!("{arg:?}") };
        return Err(format!("{shown} is not an option; `tincan --help` lists the options"));
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

/// Returns the message about an option of a wing that is not in this build.
fn missing_wing(option: &str) -> String {
    format!("{option}: this build does not have it (see tincan --version); leave it out, or run another build")
}

/// Returns the name of the variable that sets an option, and the values in it.
fn from_environment(option: &Opt, env: &impl Fn(&str) -> Option<String>) -> (String, Vec<String>) {
    let name = variable(option.name);
    let is_list = ["host", "allow-origin"].contains(&option.name);
    let is_path = ["DIR", "FILE"].contains(&option.value); // a space at its end belongs to the path
    let text = env(&name).unwrap_or_default();
    let values: Vec<String> = text
        .split(|c| is_list && c == ',')
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

/// Returns a note about variables that begin with `TINCAN_` but belong to no option. It is not an error, because an
/// orchestrator may have set them.
pub fn unknown_variables(variables: impl Iterator<Item = String>) -> Option<String> {
    let known: Vec<_> = options().map(|option| variable(option.name)).collect();
    let names: Vec<_> = variables.filter(|name| name.starts_with("TINCAN_") && !known.contains(name)).collect();
    (!names.is_empty()).then(|| format!("note: these variables belong to no option, see --help: {}", names.join(", ")))
}

/// Returns the name of the environment variable for an option.
fn variable(option: &str) -> String {
    format!("TINCAN_{}", option.replace('-', "_").to_ascii_uppercase())
}

/// Returns the version, and the names of the wings in this build.
fn version() -> String {
    let wings: Vec<_> = DOORS.iter().filter(|door| door.wing.is_some()).map(|door| door.name).collect();
    let wings = if wings.is_empty() { "without wings".into() } else { format!("with {}", wings.join(", ")) };
    format!("tincan {VERSION} {wings}\n")
}

/// Returns the text of `--help`.
fn help() -> String {
    let mut out = String::from(
        "A channel is a URL; what you POST to it, everyone who GETs it hears.\n\nusage: tincan [OPTIONS]\n\n",
    );
    for Opt { name, value, help, .. } in options() {
        let option = format!("--{name} {value}");
        out += &format!("  {option:<22} {help}\n");
    }
    out.extend([
        "  -h, --help             show this text\n",
        "  -V, --version          show the version, and what is in this build\n\n",
        "SIZE is in bytes, or ends with K, M or G. --opt VALUE and --opt=VALUE are the same.\n",
        "Each option is also a variable, such as TINCAN_MAX_AGE. Arguments win over variables.\n",
        "If --listen is not set, PORT means --listen 0.0.0.0:$PORT.\n",
    ]);
    out
}

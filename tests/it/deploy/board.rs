//! On a board without systemd: the files of `static/deploy/openwrt` and `static/deploy/busybox`.
//!
//! The shells that are here run OpenWrt's init script. `openwrt.sh` stands in for the functions that OpenWrt gives to
//! it. BusyBox itself runs the line of its inittab, if BusyBox and a namespace for it are available. What these files
//! start is the real program.

use crate::support::documents::{document, text_block};
use crate::support::harness::*;
use crate::support::process::works;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{copy, create_dir, create_dir_all, metadata, read_dir, read_to_string, set_permissions, write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TINCAN: &str = env!("CARGO_BIN_EXE_tincan");
const INIT: &str = "static/deploy/openwrt/tincan.init";
const CONFIG: &str = "static/deploy/openwrt/tincan.config";
const STUBS: &str = "tests/it/deploy/openwrt.sh";
const INITTAB: &str = "static/deploy/busybox/inittab";
const README: &str = "static/deploy/README.md";

/// Options that the files for OpenWrt leave out: a node of a cluster and the lines for learning are not for a board.
const NOT_FOR_A_BOARD: [&str; 4] = ["redis", "trace", "help", "version"];

fn absolute(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Returns the names of the options of this program.
fn options() -> BTreeSet<String> {
    let help = Command::new(TINCAN).arg("--help").output().unwrap().stdout;
    let lines = String::from_utf8(help).unwrap();
    let names = lines.lines().filter(|line| line.starts_with("  -")).filter_map(|line| line.split("--").nth(1));
    names.map(|rest| rest.split_whitespace().next().unwrap().to_string()).collect()
}

/// Returns a text in single quotes, for UCI and for a shell.
fn in_quotes(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Replaces a text that has to be there.
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "there is no {from:?} in\n{text}");
    text.replace(from, to)
}

/// Returns the shells that are here.
fn shells() -> Vec<&'static [&'static str]> {
    let mut shells = vec![&["sh"][..]];
    if works("busybox true") {
        shells.push(&["busybox", "sh"]);
    }
    shells
}

/// A call of a function that `openwrt.sh` stands in for: its name and its arguments.
type Call = Vec<String>;

/// Runs functions of the init script with a configuration. `accounts` is the file of users and groups.
fn openwrt(shell: &[&str], config: &str, accounts: &Path, functions: &[&str]) -> Vec<Call> {
    let dir = Scratch::new();
    write(dir.0.join("tincan"), config).unwrap();
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args([absolute(STUBS), absolute(INIT)]).args(functions);
    let out = command.env("CONFIG", &dir.0).env("ACCOUNTS", accounts).output().unwrap();
    // The shell must have no complaint.
    let messages = String::from_utf8(out.stderr).unwrap();
    assert!(messages.lines().all(|line| line.starts_with("mkdir: ")), "{messages}");
    let mut calls: Vec<Call> = Vec::new();
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        match line.strip_prefix('\t') {
            Some(argument) => calls.last_mut().unwrap().push(argument.into()),
            None => calls.push(vec![line.into()]),
        }
    }
    calls
}

/// A server as the init script describes it to procd.
#[derive(Debug)]
struct Server {
    name: String,
    command: Vec<String>,
    /// All other parameters, with their values.
    parameters: BTreeMap<String, Vec<String>>,
}

/// Returns the servers that these calls describe.
fn servers(calls: &[Call]) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    let mut open = false;
    for call in calls {
        match &call.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["procd_open_instance", name] if !open => {
                servers.push(Server { name: (*name).into(), command: vec![], parameters: BTreeMap::new() });
                open = true;
            }
            ["procd_close_instance"] if open => open = false,
            ["procd_set_param", "command", program] if open => {
                servers.last_mut().unwrap().command = vec![(*program).into()];
            }
            ["procd_append_param", "command", ..] if open => {
                servers.last_mut().unwrap().command.extend(call[2..].iter().cloned());
            }
            ["procd_set_param", name, ..] if open => {
                let before = servers.last_mut().unwrap().parameters.insert((*name).into(), call[2..].to_vec());
                assert_eq!(before, None, "{name} is set twice");
            }
            [name, ..] => assert!(!name.starts_with("procd_") || name.ends_with("_trigger"), "{call:?}"),
            [] => unreachable!(),
        }
    }
    assert!(!open, "{calls:?}");
    servers
}

/// Returns the servers of a configuration. Each shell that is here must describe the same ones.
fn described(config: &str) -> Vec<Server> {
    let dir = Scratch::new();
    let run = |shell: &[&str]| servers(&openwrt(shell, config, &dir.0.join("accounts"), &["start_service"]));
    let mut all: Vec<Vec<Server>> = shells().into_iter().map(run).collect();
    let last = all.pop().unwrap();
    all.iter().for_each(|servers| assert_eq!(format!("{servers:?}"), format!("{last:?}")));
    last
}

/// Returns the configuration with all options that it has in comments.
fn with_all_options() -> String {
    let option = |line: &str| line.strip_prefix('#').filter(|rest| rest.starts_with('\t')).unwrap_or(line).to_string();
    document(CONFIG).lines().map(|line| option(line) + "\n").collect()
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).into()).collect()
}

#[test]
fn procd_runs_the_server_of_the_configuration_as_it_lies_for_ever_and_not_as_root() {
    let [server] = &described(&document(CONFIG))[..] else { panic!("one server") };
    assert_eq!(server.name, "tincan");
    let command = "/usr/bin/tincan --listen 127.0.0.1:8000 --history 64K --memory 2M --max-body 16K \
        --max-connections 200 --max-channels 50 --quiet";
    assert_eq!(server.command.join(" "), command);
    let parameters: BTreeMap<String, Vec<String>> = [
        ("user", &["tincan"][..]),
        ("group", &["tincan"]),
        ("no_new_privs", &["1"]),
        ("respawn", &["3600", "1", "0"]), // the last number is how often; 0 is no limit
        ("limits", &["nofile=16384 16384"]),
        ("stdout", &["1"]),
        ("stderr", &["1"]),
    ]
    .into_iter()
    .map(|(name, values)| (name.into(), strings(values)))
    .collect();
    assert_eq!(server.parameters, parameters);
}

#[test]
fn a_change_of_the_configuration_or_of_the_tokens_starts_the_server_again() {
    for shell in shells() {
        let calls = openwrt(shell, "", Path::new("/nonexistent/accounts"), &["service_triggers"]);
        assert_eq!(calls, [strings(&["order", "99", "10", "1"]), strings(&["procd_add_reload_trigger", "tincan"])]);
    }
    let config = "config tincan\n\toption token_file '/etc/tincan.tokens'\n";
    assert_eq!(described(config)[0].parameters["file"], ["/etc/tincan.tokens"]);
}

#[test]
fn each_value_of_the_configuration_is_one_argument_whatever_is_in_it() {
    let odd =
        [r#"it's a "tin can""#, "$HOME `id` $(id)", r"* ? [a] ~ \n \", " spaces  around ", "--quiet", "a;b|c&d>e#f"];
    let mut config = "config tincan 'odd'\n".to_string();
    let mut command = strings(&["/usr/bin/tincan"]);
    for option in ["listen", "history", "retry", "token_file"] {
        config += &format!("\toption {option} {}\n", in_quotes(odd[0]));
        command.extend([format!("--{}", option.replace('_', "-")), odd[0].into()]);
    }
    for list in ["host", "allow_origin"] {
        for value in odd {
            config += &format!("\tlist {list} {}\n", in_quotes(value));
            command.extend([format!("--{}", list.replace('_', "-")), value.into()]);
        }
    }
    assert_eq!(described(&config)[0].command, command);
}

#[test]
fn each_section_that_is_enabled_is_a_server() {
    let config = "config tincan 'first'\n\toption max_age '60'\n\n\
        config tincan 'off'\n\toption enabled '0'\n\toption data '/nonexistent/logs'\n\n\
        config other 'no'\n\toption enabled '1'\n\n\
        config tincan 'second'\n\toption enabled 'on'\n\toption quiet '0'\n\toption data ''\n";
    let servers = described(config);
    let all: Vec<String> =
        servers.iter().map(|server| format!("{}: {}", server.name, server.command.join(" "))).collect();
    assert_eq!(all, ["first: /usr/bin/tincan --max-age 60", "second: /usr/bin/tincan"]);
}

#[test]
fn the_user_is_made_once_and_without_it_nothing_is_started() {
    for shell in shells() {
        let dir = Scratch::new();
        let accounts = dir.0.join("accounts");
        let start = |config: &str, accounts: &Path| openwrt(shell, config, accounts, &["start_service"]);
        let makes = |calls: &[Call]| calls.iter().filter(|call| call[0] == "user_add").cloned().collect::<Vec<_>>();

        let off = swap(&document(CONFIG), "enabled '1'", "enabled '0'");
        assert_eq!((start(&off, &accounts).len(), accounts.exists()), (1, false));

        let calls = start(&document(CONFIG), &accounts);
        assert_eq!(makes(&calls), [strings(&["user_add", "tincan", "", "4321"])]);
        let calls = start(&document(CONFIG), &accounts);
        assert_eq!((makes(&calls).len(), servers(&calls).len()), (0, 1));

        // procd would run it as root.
        let calls = start(&document(CONFIG), Path::new("/nonexistent/accounts"));
        let why = "there is no user tincan, and it cannot be made";
        assert_eq!(calls[1..], [strings(&["logger", "-s", "-t", "tincan", "-p", "daemon.err", why])]);
    }
}

#[test]
fn the_directory_of_the_logs_is_made_for_the_user_and_one_that_is_there_is_left_alone() {
    for shell in shells() {
        let dir = Scratch::new();
        let accounts = dir.0.join("accounts");
        let start = |data: &str| {
            let config = format!("config tincan\n\toption data {}\n", in_quotes(data));
            openwrt(shell, &config, &accounts, &["start_service"])
        };
        let changes = |calls: &[Call]| calls.iter().filter(|call| call[0] == "chown").cloned().collect::<Vec<_>>();
        let data = format!("{}/on the/it's \"flash\"", dir.arg());
        let calls = start(&data);
        assert_eq!(changes(&calls), [strings(&["chown", "tincan:tincan", &data])]);
        assert_eq!(metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(servers(&calls)[0].command, strings(&["/usr/bin/tincan", "--data", &data]));
        set_permissions(&data, PermissionsExt::from_mode(0o750)).unwrap();
        let calls = start(&data);
        assert_eq!((changes(&calls), servers(&calls).len()), (vec![], 1));
        assert_eq!(metadata(&data).unwrap().permissions().mode() & 0o777, 0o750);
        let calls = start("/dev/null/logs");
        assert_eq!((changes(&calls), servers(&calls).len()), (vec![], 0));
        assert_eq!(calls.last().unwrap()[0], "logger");
    }
}

#[test]
fn the_configuration_and_the_script_have_each_option_of_the_program() {
    let mut options = options();
    options.retain(|name| !NOT_FOR_A_BOARD.contains(&&**name));
    let config = with_all_options();
    let words = config.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names = words.filter(|words| ["option", "list"].iter().any(|kind| words.first() == Some(kind)));
    let names: BTreeSet<String> = names.map(|words| words[1].replace('_', "-")).collect();
    let expected = options.iter().cloned().chain(["enabled".into()]).collect();
    assert_eq!(names, expected);
    let [server] = &described(&config.replace("/srv/tincan", "/"))[..] else { panic!("one server") };
    let passed = server.command.iter().filter_map(|arg| arg.strip_prefix("--")).map(String::from).collect();
    assert_eq!(options, passed);
}

#[test]
fn the_program_understands_each_option_that_the_init_script_passes_on() {
    let dir = Scratch::new();
    let (data, tokens) = (dir.0.join("it's \"flash\""), dir.0.join("the tokens"));
    write(&tokens, "publish 9Jx2mWqg0TZc5bLrVnE8uYd1\nread 9Jx2mWqg0TZc5bLrVnE8uYd1\n").unwrap();
    set_permissions(&tokens, PermissionsExt::from_mode(0o600)).unwrap();
    let config = swap(&with_all_options(), "'/srv/tincan'", &in_quotes(data.to_str().unwrap()));
    let config = swap(&config, "'/etc/tincan.tokens'", &in_quotes(tokens.to_str().unwrap()));
    let config = swap(&config, "127.0.0.1:8000", "127.0.0.1:0");
    let [server] = &described(&config)[..] else { panic!("one server") };
    let mut command = Command::new(TINCAN);
    command.args(&server.command[1..]);
    let server = Tincan::run(command);
    let head = "HTTP/1.1\r\nHost: chat.example.org\r\nAuthorization: Bearer 9Jx2mWqg0TZc5bLrVnE8uYd1\r\n";
    let published = server.ask(format!("POST /kitchen {head}Content-Length: 4\r\n\r\nsoup"));
    let id = published.text();
    let read = server.ask(format!("GET /kitchen?wait=0&since=all {head}\r\n")).text();
    assert!(read.ends_with(&block("soup", id.trim_end())), "{read}");
    assert!(read_to_string(data.join("kitchen.sse")).unwrap().contains("data: soup\n"));
    assert!(!server.stderr().contains("warning"), "{}", server.stderr());
}

/// Returns the command of the line in the inittab.
fn inittab_command() -> String {
    let text = document(INITTAB);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let [line] = lines[..] else { panic!("{lines:?}") };
    let command = line.strip_prefix("::respawn:").expect("no terminal, no runlevel, and again and again");
    assert!(command.len() < 256, "BusyBox cuts it off");
    command.into()
}

/// Returns the arguments of the program in a command of a shell.
fn arguments(command: &str) -> Vec<String> {
    let rest = command.split("tincan --").nth(1).unwrap();
    let words = rest.split(['"', '\'', '\n']).next().unwrap().split_whitespace();
    format!("--{}", words.collect::<Vec<_>>().join(" ")).split(' ').map(String::from).collect()
}

#[test]
fn the_files_and_their_manual_agree_about_a_small_board() {
    let pairs = |args: &[String]| {
        let mut pairs: BTreeMap<String, String> = BTreeMap::new();
        for (n, name) in args.iter().enumerate().filter(|(_, arg)| arg.starts_with("--")) {
            let value = args.get(n + 1).filter(|value| !value.starts_with("--"));
            pairs.insert(name.clone(), value.cloned().unwrap_or_default());
        }
        pairs.remove("--listen");
        pairs
    };
    let shown = pairs(&arguments(&text_block(README, "tincan --memory ")));
    assert!(shown.contains_key("--memory") && shown.contains_key("--max-connections"), "{shown:?}");
    assert_eq!(pairs(&described(&document(CONFIG))[0].command[1..]), shown);
    assert_eq!(pairs(&arguments(&inittab_command())), shown);
}

/// The part of the manual that begins with a heading.
fn chapter(heading: &str) -> String {
    let text = document(README);
    let rest = text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("{heading}")).to_string();
    rest.split("\n##").next().unwrap().into()
}

#[test]
fn the_wear_of_flash_follows_from_what_the_manual_of_the_log_says_an_event_costs() {
    let (flash, log) = (chapter("### Flash"), document("src/log/README.md"));
    for figure in ["31.5 million events", "0.9 KB", "27 GB", "4.8 KB", "152 GB"] {
        assert!(flash.contains(figure) && log.contains(figure), "{figure}");
    }
    let all = 128 * 10_000 / 1000; // GB
    assert!(flash.contains("128 MB that bears 10,000 writes") && flash.contains(&format!("{},280 GB", all / 1000)));
    assert!(flash.contains(&format!("{} years of that, or {} with", all / 27, all / 152)), "{flash}");
}

#[test]
fn the_variable_of_the_linker_has_the_name_of_the_target() {
    let build = chapter("### Build for a board");
    let rows: Vec<&str> =
        build.lines().filter(|line| line.contains("-unknown-linux-musl") && line.starts_with('|')).collect();
    assert_eq!(rows.len(), 8, "{rows:?}");
    for (part, rust) in build.split("```sh\n").skip(1).zip(["stable", "nightly"]) {
        let commands = part.split("```").next().unwrap();
        let target = commands.trim_end().rsplit_once(" --release --target ").unwrap().1;
        let variable = format!("\nexport CARGO_TARGET_{}_LINKER=", target.replace('-', "_").to_uppercase());
        assert!(commands.contains(&variable), "{commands}");
        assert!(rows.iter().any(|row| row.contains(&format!("`{target}` | {rust} |"))), "{target}");
    }
}

/// A process whose id is in a file, as soon as there is one. It ends with the test.
struct Noted(PathBuf);

impl Drop for Noted {
    fn drop(&mut self) {
        let text = read_to_string(&self.0).unwrap_or_default();
        if let Ok(pid) = text.trim_end().parse() {
            signal("KILL", pid);
        }
    }
}

/// Init would run the same, as root. Here two scripts stand in for `su` and `logger`.
#[test]
fn the_command_of_the_inittab_runs_the_server_as_its_user_with_its_messages_in_the_log() {
    let dir = Scratch::new();
    let scripts = [
        (
            "su",
            "[ \"$1 $2 $3 $5\" = '-s /bin/sh -c tincan' ] || exit\n\
            ulimit -n >\"$0.limit\"\n\
            echo $$ >\"$0.pid\" # the id of the program too, because of `exec`\n\
            exec /bin/sh -c \"$4\"",
        ),
        ("logger", "[ \"$*\" = '-t tincan -p daemon.info' ] && exec cat >&2"),
    ];
    for (name, script) in scripts {
        let path = dir.0.join(name);
        write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let command = inittab_command();
    let args = arguments(&command);
    let here = args.join(" ").replace("127.0.0.1:8000", "127.0.0.1:0");
    symlink(TINCAN, dir.0.join("tincan")).unwrap(); // a path that needs no quotes
    let line = swap(&swap(&command, &args.join(" "), &here), "/usr/bin", dir.arg());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("exec {line}")])
        .env("PATH", format!("{}:{}", dir.arg(), std::env::var("PATH").unwrap()));
    let _program = Noted(dir.0.join("su.pid"));
    let server = Tincan::run(shell);
    let id = server.post("/kitchen", "soup is ready").remove(0);
    let read = server.get("/kitchen?wait=0&since=all").text();
    assert!(read.ends_with(&block("soup is ready", &id)), "{read}");
    assert_eq!(dir.read("su.limit"), "1024\n");
}

/// Copies a program below another root, with its libraries.
fn install(root: &Path, program: &str, path: &str) {
    let place = |path: &str| {
        let place = root.join(path.trim_start_matches('/'));
        create_dir_all(place.parent().unwrap()).unwrap();
        place
    };
    copy(program, place(path)).unwrap();
    let libraries = Command::new("ldd").arg(program).output().unwrap().stdout; // empty for a static program
    for library in String::from_utf8(libraries).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        copy(library.trim_end_matches(':'), place(library.trim_end_matches(':'))).unwrap();
    }
}

/// Makes the root of a system that has BusyBox, tincan and this inittab, and nothing else.
fn make_system(root: &Path, inittab: &str) {
    for folder in ["dev", "etc", "proc", "sbin"] {
        create_dir(root.join(folder)).unwrap();
    }
    let out = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap().stdout;
    install(root, String::from_utf8(out).unwrap().trim_end(), "/bin/busybox");
    install(root, TINCAN, "/usr/bin/tincan");
    for name in ["bin/sh", "bin/su", "bin/logger", "sbin/init"] {
        symlink("/bin/busybox", root.join(name)).unwrap();
    }
    let files = [
        ("dev/null", ""),
        ("etc/inittab", inittab),
        ("etc/passwd", "root:x:0:0::/:/bin/sh\ntincan:x:4321:4321::/:/bin/false\n"),
        ("etc/group", "root:x:0:\ntincan:x:4321:\n"),
    ];
    for (name, text) in files {
        write(root.join(name), text).unwrap();
    }
}

/// Returns the process with this name among those that a process has started, and those have started.
fn descendant(pid: u32, name: &str) -> Option<u32> {
    let tasks = read_dir(format!("/proc/{pid}/task")).ok()?;
    let children = tasks.filter_map(|task| read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
    let is = |pid: &&u32| read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    children.iter().find(is).copied().or_else(|| children.iter().find_map(|pid| descendant(*pid, name)))
}

fn ask(port: u16, request: &str) -> String {
    let mut wire = Wire::to(port);
    wire.send(request);
    wire.response().text()
}

#[test]
fn the_init_of_busybox_keeps_the_server_running_as_its_user() {
    let namespace = "[ $(id -u) = 0 ] && unshare --pid --fork --kill-child --mount --mount-proc true";
    if !works("busybox true") || !works(namespace) {
        return;
    }
    let (root, port) = (Scratch::new(), free_port());
    let args = arguments(&inittab_command());
    let here = args.join(" ").replace("127.0.0.1:8000", &format!("127.0.0.1:{port}"));
    make_system(&root.0, &swap(&document(INITTAB), &args.join(" "), &here));
    let log = UnixDatagram::bind(root.0.join("dev/log")).unwrap();
    log.set_nonblocking(true).unwrap();
    let line =
        "mount -t proc proc \"$0/proc\" && mount --bind /dev/null \"$0/dev/null\" && exec chroot \"$0\" /sbin/init";
    let mut init = Command::new("unshare");
    init.args(["--pid", "--fork", "--kill-child", "--mount", "sh", "-c", line, root.arg()]);
    let init = Ended(init.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut logged = String::new();
    let mut served = Vec::new();
    for _ in 0..3 {
        let running = || descendant(init.0.id(), "tincan").filter(|pid| !served.contains(pid));
        eventually("init starts the server", || running().is_some() && TcpStream::connect(("127.0.0.1", port)).is_ok());
        let pid = running().unwrap();
        let id = ask(port, "POST /kitchen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsoup");
        let read = ask(port, "GET /kitchen?wait=0&since=all HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(read.ends_with(&block("soup", id.trim_end())), "{read}");
        let has = |file: &str, line: &[&str]| {
            let text = read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            let found = text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == line);
            assert!(found, "{line:?} is not in\n{text}");
        };
        has("status", &["Uid:", "4321", "4321", "4321", "4321"]);
        has("status", &["Gid:", "4321", "4321", "4321", "4321"]);
        has("limits", &["Max", "open", "files", "1024", "1024", "files"]);
        eventually("its messages are in the log", || {
            let mut message = [0; 1024];
            while let Ok(n) = log.recv(&mut message) {
                logged += &format!("{}\n", String::from_utf8_lossy(&message[..n]));
            }
            logged.matches(&format!("tincan: http://localhost:{port}/")).count() > served.len()
        });
        assert!(signal("KILL", pid));
        served.push(pid);
    }
    assert!(logged.lines().any(|line| line.starts_with("<30>") && line.contains(" tincan: ")), "{logged}");
}

#[test]
fn shellcheck_has_nothing_to_say_about_the_scripts() {
    if !works("shellcheck --version") {
        return;
    }
    let files = [INIT, STUBS, "static/deploy/backup.sh"].map(absolute);
    let line = Scratch::new();
    let path = line.0.join("line.sh");
    write(&path, format!("{}\n", inittab_command())).unwrap();
    for args in [vec!["--shell=sh", path.to_str().unwrap()], files.iter().map(String::as_str).collect()] {
        let out = Command::new("shellcheck").args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
}

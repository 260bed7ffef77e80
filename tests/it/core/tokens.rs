//! `--token-file`: who may read and publish, which files are accepted, and that no token is ever shown.

use crate::support::harness::*;
use std::fmt::Debug;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use tincan::server::gate;
use tincan::wire::base64;
use tincan::wire::reject::{
    self, PUBLISH_RIGHT, PUBLISH_TOKEN, PUBLISH_UNKNOWN, READ_RIGHT, READ_TOKEN, READ_UNKNOWN, Reject,
};
use tincan::{Config, Server};

const PUBLISH: &str = "pub-Lk7wQ2";
const PUBLISH_2: &str = "pub:two:x9Zt"; // a password may have colons, a user name has none (RFC 7617 §2)
const READ: &str = "read-Vb3nM8";
const READ_2: &str = "#read-2/Hs4=";
const BOTH: &str = "both-Yc6dR1";
const TOKENS: [&str; 5] = [PUBLISH, PUBLISH_2, READ, READ_2, BOTH];

/// Writes a token file.
fn file(scratch: &Scratch, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
    let path = scratch.0.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

/// Starts a server with these tokens.
pub fn guarded(scratch: &Scratch, text: &str, args: &[&str]) -> Tincan {
    let path = file(scratch, "tokens", text, 0o600);
    Tincan::start(&[&["--token-file", path.to_str().unwrap()], args].concat())
}

/// Starts a server with two tokens for each right, and one token that has both rights.
fn five(scratch: &Scratch, args: &[&str]) -> Tincan {
    let text = format!(
        "# who may\r\npublish {PUBLISH}\r\n  read\t{READ}  \n\n \t\n#read no\n\
        publish {BOTH}\nread {READ_2}\npublish {PUBLISH_2}\nread {BOTH}"
    );
    guarded(scratch, &text, args)
}

/// Encodes by RFC 4648 §4, bit by bit.
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |n| b >> n & 1)).collect();
    bits.resize(bits.len().next_multiple_of(6), 0);
    let digit = |six: &[u8]| char::from(DIGITS[six.iter().fold(0, |n, bit| n << 1 | usize::from(*bit))]);
    let mut text: String = bits.chunks(6).map(digit).collect();
    text.extend(std::iter::repeat_n('=', text.len().next_multiple_of(4) - text.len()));
    text
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Sends a request. The response to a HEAD has no body (RFC 9112 §6.3).
fn ask(server: &Tincan, line: &str, fields: impl AsRef<[u8]>) -> Response {
    let mut wire = server.connect();
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    wire.send([head.as_bytes(), fields.as_ref(), b"\r\n"].concat());
    if !line.starts_with("HEAD ") {
        let head = wire.head();
        let endless = head.field("transfer-encoding").is_some();
        return if endless { head } else { wire.body(head) };
    }
    let head = wire.rest();
    assert!(head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1, "{head}");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, body: Vec::new() }
}

/// Asserts that the response is exactly this refusal with its challenge.
fn challenged(response: &Response, reject: Reject, what: &str) {
    let body = if what.starts_with("HEAD ") { String::new() } else { reject.line() };
    assert_eq!((response.status, response.text()), (401, body), "{what}");
    let right = if [READ_TOKEN, READ_UNKNOWN, READ_RIGHT].contains(&reject) { "read" } else { "publish" };
    let challenge = format!("WWW-Authenticate: Basic realm=\"tincan: {right}\", charset=\"UTF-8\"\r\n");
    let challenges = response.head.to_ascii_lowercase().matches("www-authenticate").count();
    assert!(response.head.contains(&challenge) && challenges == 1, "{what}: {}", response.head);
}

/// Returns the refusal of a request that needs this right. If the credentials are known, they are for the other
/// right. Credentials that are neither a user's password nor a Bearer token count as missing.
fn refusal(right: Reject, fields: &str, is_known: bool) -> Reject {
    let [missing, unknown, wrong] = match right == READ_TOKEN {
        true => [READ_TOKEN, READ_UNKNOWN, READ_RIGHT],
        false => [PUBLISH_TOKEN, PUBLISH_UNKNOWN, PUBLISH_RIGHT],
    };
    let given = fields.trim_end().strip_prefix("Authorization: ").and_then(|value| value.split_once(' '));
    let is_token = given.is_some_and(|(scheme, value)| match scheme {
        "Basic" => base64::decode(value)
            .is_some_and(|text| text.splitn(2, |b| *b == b':').nth(1).is_some_and(|token| !token.is_empty())),
        _ => scheme == "Bearer",
    });
    match is_known {
        true => wrong,
        false if is_token => unknown,
        false => missing,
    }
}

/// Asserts that a text contains no token, neither itself nor in base64, alone or after a user name of any length.
fn shows_no_token(text: &str) {
    for token in TOKENS {
        assert!(!text.contains(token), "{token} is in {text}");
        for before in ["", ":", "u:", "me:"] {
            let full = encode(format!("{before}{token}").as_bytes());
            // Without the digits at both ends, which depend on the neighbouring bytes.
            let code = &full[4..full.len() - 4];
            assert!(!text.contains(code), "{token} is in {text}, as {code}");
        }
    }
}

/// Requests by the right that they need: method, target, the status for a client that has the right, and an `Accept`.
const REQUESTS: [(Option<Reject>, &str); 3] = [
    (Some(READ_TOKEN), READING),
    (Some(PUBLISH_TOKEN), "POST /kitchen 200 | POST /metrics 405 | POST /nothing/here 404"),
    (None, "OPTIONS /kitchen 204 | OPTIONS * 204 | GET /health 200 | HEAD /health 200 | POST /health 405"),
];
const READING: &str = "GET /kitchen 200 | GET /kitchen 200 text/event-stream | GET /kitchen 200 text/html | \
    GET / 200 | GET /kitchen?wait=0&since=all 200 | HEAD /kitchen 200 | GET /metrics 200 | GET /assets/chat.js 200 | \
    GET /nothing/here 404 | DELETE /kitchen 405";

/// Values of `Authorization`, and whether they allow publishing and reading. `{P1}` and so on are the tokens. `[…]`
/// is the base64 of its content, `<…>` the same without padding.
const CREDENTIALS: [(&str, bool, bool); 4] = [
    ("Basic [any:{P1}] | Basic [:{P1}] | Basic [é:{P2}] | Basic <:{P2}> | Bearer {P1} | Bearer {P2}", true, false),
    ("Basic [any:{R1}] | Basic [:{R2}] | Basic <u:{R1}> | Bearer {R1} | Bearer {R2}", false, true),
    ("Basic [me:{B}] | Basic [{B}:{B}] | bASIC [me:{B}] | Basic   [me:{B}] | Bearer {B} | bEARER   {B}", true, true),
    (WRONG, false, false),
];
/// A token in the wrong place, with the wrong scheme, or in broken base64; and values that are nearly a token.
const WRONG: &str = " | Basic | Bearer | Basic [] | Basic [:] | Basic [any:] | Basic [any:wrong] | Bearer wrong | \
    Basic [{B}] | Basic [{B}:] | Basic [u:x:{B}] | Basic [any:{B}\n] | Basic {B} | Basic [me:{B}]= | \
    Basic [me:{B}]* | Basic [me] [:{B}] | Basic =[me:{B}] | Bearer [me:{B}] | Bearer {P1} {B} | \
    Bearer \"{B}\" | Bearer, {B} | Digest [me:{B}] | Digest {B} | Digest username=\"me\", response=\"{B}\" | \
    Basic, [me:{B}] | {B} | [me:{B}] | Bearer\t{B} | Bearer{B} | Bearer both-Yc6dR | Bearer oth-Yc6dR1 | Bearer b | \
    Bearer {B}1 | Bearer {B}{B} | Bearer BOTH-YC6DR1 | Bearer both-Yc6dR0 | Basic [:both-Yc6dR] | \
    Basic [:oth-Yc6dR1] | Basic [:b] | Basic [:{B}1] | Basic [:{B}{B}] | Basic [:both-yc6dr1] | \
    Basic [:both-Yc6dR0] | Bearer {P1}{R1}";

/// Returns the field lines that [`CREDENTIALS`] describes.
fn credentials() -> Vec<(String, bool, bool)> {
    let fields = |value: &str| {
        let names = [("{P1}", PUBLISH), ("{P2}", PUBLISH_2), ("{R1}", READ), ("{R2}", READ_2), ("{B}", BOTH)];
        let mut value = names.iter().fold(value.to_string(), |value, (name, token)| value.replace(name, token));
        while let Some(start) = value.find(['[', '<']) {
            let end = start + value[start..].find([']', '>']).unwrap();
            let code = encode(&value.as_bytes()[start + 1..end]);
            let bare = code.trim_end_matches('=');
            assert!(
                !value[start..].starts_with('<') || bare != code,
                "{value} needs padding, or it is the same case twice"
            );
            value.replace_range(start..=end, if value[start..].starts_with('<') { bare } else { &code });
        }
        format!("Authorization: {value}\r\n")
    };
    let each =
        CREDENTIALS.into_iter().flat_map(|(all, may, read)| all.split(" | ").map(move |v| (fields(v), may, read)));
    let other = ["", "Proxy-Authorization: Bearer {B}\r\n", "Cookie: token={B}\r\n"].map(|f| f.replace("{B}", BOTH));
    let another_case = (format!("aUTHORIZATION: Bearer {BOTH}\r\n"), true, true);
    each.chain(other.map(|fields| (fields, false, false))).chain([another_case]).collect()
}

#[test]
fn each_right_asks_for_its_own_token_and_no_token_is_ever_shown() {
    each_right(&REQUESTS);
}

/// Sends these requests with all credentials, and checks the responses.
pub fn each_right(all: &[(Option<Reject>, &str)]) {
    let scratch = Scratch::new();
    let server = five(&scratch, &[]);
    let (mut responses, mut asked, mut published) = (String::new(), 0, 0);
    let posts = all.iter().any(|(_, requests)| requests.contains("POST /kitchen"));
    for (fields, publish, read) in credentials() {
        for (needs, requests) in all {
            let may = needs.is_none_or(|needs| if needs == READ_TOKEN { read } else { publish });
            for request in requests.split(" | ") {
                let words: Vec<_> = request.split(' ').collect();
                let accept = words.get(3).map_or(String::new(), |kind| format!("Accept: {kind}\r\n"));
                let response = ask(&server, &words[..2].join(" "), accept + &fields);
                match needs.filter(|_| !may) {
                    Some(right) => {
                        let refusal = refusal(right, &fields, read || publish);
                        challenged(&response, refusal, &format!("{request} with {fields}"));
                    }
                    None => {
                        let got = (response.status.to_string(), response.field("www-authenticate"));
                        assert_eq!(got, (words[2].into(), None), "{request} with {fields}");
                        published += usize::from(request.starts_with("POST /kitchen"));
                    }
                }
                responses += &(response.head.clone() + &response.text());
                asked += 1;
            }
        }
    }
    challenged(&ask(&server, "GET /kitchen", b"Authorization: Bearer \xff\r\n"), READ_TOKEN, "no UTF-8");
    // Malformed requests contain a token as well.
    let fields = "Authorization: Bearer TOKEN\n|Authorization: Bearer\r\n TOKEN\r\n|Authorization Bearer TOKEN\r\n|\
                  Authorization: Bearer TOKEN\u{1}\r\n|Authorization: Bearer TOKENLONG\r\n|Host: a:TOKEN@localhost\r\n";
    let heads = fields.split('|').map(|fields| format!("GET /kitchen HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    let user = "GET http://any:TOKEN@localhost/kitchen HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string();
    for head in heads.chain([user]).map(|head| head.replace("TOKEN", BOTH).replace("LONG", &"x".repeat(17_000))) {
        let response = server.ask(&head);
        assert!([400, 431].contains(&response.status), "{head}");
        responses += &(response.head.clone() + &response.text());
        asked += 1;
    }
    // Refused events are not in the log.
    let kept = ask(&server, "GET /kitchen?wait=0&since=all", bearer(READ)).text();
    assert_eq!((kept.matches("\ndata:").count(), published > 5), (published, posts));
    shows_no_token(&responses);
    // At its start the server prints its greeting. It depends on the system's limits. Further lines of it begin with
    // a space.
    let greets = |line: &str| line.starts_with("tincan: ") || line.starts_with("  ");
    let logged = || server.stderr().lines().filter(|line| !greets(line)).count();
    eventually("every request is logged", || logged() >= asked + 2);
    assert_eq!(logged(), asked + 2, "{}", server.stderr());
    shows_no_token(&server.stderr());
}

#[test]
fn a_right_without_a_token_is_everybodys() {
    let scratch = Scratch::new();
    for (word, own, open, closed, right) in
        [("publish", PUBLISH, "GET", "POST", PUBLISH_TOKEN), ("read", READ, "POST", "GET", READ_TOKEN)]
    {
        let server = guarded(&scratch, &format!("{word} {own}\n"), &[]);
        for (token, known) in [("", false), ("wrong", false), (PUBLISH, own == PUBLISH), (READ, own == READ)] {
            assert_eq!(ask(&server, &format!("{open} /kitchen"), bearer(token)).status, 200, "{word} {token}");
            let response = ask(&server, &format!("{closed} /kitchen"), bearer(token));
            if known {
                assert_eq!(response.status, 200);
            } else {
                challenged(&response, refusal(right, &bearer(token), false), token);
            }
        }
    }
}

#[test]
fn a_token_in_the_url_gives_no_access() {
    let scratch = Scratch::new();
    let server = five(&scratch, &["--quiet"]); // the request log would show the target with the token
    for name in ["token", "access_token", "Authorization", "password"] {
        let query = format!("/kitchen?wait=0&{name}={BOTH}");
        challenged(&ask(&server, &format!("GET {query}"), ""), READ_TOKEN, &query);
        challenged(&ask(&server, &format!("POST {query}"), ""), PUBLISH_TOKEN, &query);
    }
    for user in ["any:", ":", ""] {
        let target = format!("http://{user}{BOTH}@localhost/kitchen?wait=0");
        ask(&server, &format!("GET {target}"), "").refused(reject::TARGET);
        ask(&server, &format!("POST {target}"), "").refused(reject::TARGET);
    }
}

#[test]
fn who_has_no_token_is_told_before_the_body_and_who_comes_from_elsewhere_first() {
    let scratch = Scratch::new();
    let server = five(&scratch, &[]);
    let post = |fields: &str| format!("POST /kitchen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n{fields}\r\n");
    for fields in [String::new(), bearer("wrong"), bearer(READ)] {
        // The body never comes, so a response proves that the server does not wait for it. The connection ends, since
        // the position of the next request is unknown.
        let mut wire = server.connect();
        wire.send(post(&format!("Expect: 100-continue\r\n{fields}")));
        let response = wire.response();
        let refusal = refusal(PUBLISH_TOKEN, &fields, fields == bearer(READ));
        challenged(&response, refusal, &fields);
        assert_eq!((response.field("connection"), wire.rest().as_str()), (Some("close"), ""));
        // Without that field the body is skipped and not taken for a request, and the connection goes on.
        let mut wire = server.connect();
        let next = format!("GET /kitchen?wait=0&since=all HTTP/1.1\r\nHost: localhost\r\n{}\r\n", bearer(READ));
        wire.send(post(&fields) + "GET " + &next);
        challenged(&wire.response(), refusal, &fields);
        let response = wire.response();
        assert!(response.status == 200 && !response.text().contains("\ndata:"), "{}", response.text());
    }
    let mut wire = server.connect();
    wire.send(post(&format!("Expect: 100-continue\r\n{}", bearer(PUBLISH))));
    wire.expect("HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("soup");
    assert_eq!(wire.response().status, 200);
    // A page of another site must not make a browser ask its user for a token, nor learn whether the browser has one.
    for fields in [String::new(), bearer("wrong"), bearer(BOTH)] {
        let rebound = format!(" /kitchen HTTP/1.1\r\nHost: evil.example\r\n{fields}\r\n");
        server.ask(format!("GET{rebound}")).refused(reject::MISDIRECTED);
        server.ask(format!("POST{rebound}")).refused(reject::MISDIRECTED);
        ask(&server, "POST /kitchen", format!("Origin: http://evil.example\r\n{fields}")).refused(reject::CROSS_SITE);
        ask(&server, "POST /kitchen", format!("Sec-Fetch-Site: cross-site\r\n{fields}")).refused(reject::CROSS_SITE);
    }
}

/// Returns the message of the program if it refuses to start with this file: one line, with exit code 1, and without
/// any token.
fn refused_at_start(path: &Path) -> String {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap(); // if the file is accepted, the busy port ends the program
    let listen = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    let out = command.args(["--listen", &listen, "--token-file"]).arg(path).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), text.lines().count(), out.stdout.len()), (Some(1), 1, 0), "{text}");
    shows_no_token(&text);
    let why = text.strip_prefix(&format!("tincan: --token-file {}", path.display()));
    why.unwrap_or_else(|| panic!("{text}")).trim_end().to_string()
}

#[test]
fn a_token_file_that_others_can_read_or_change_is_refused() {
    let scratch = Scratch::new();
    let text = format!("publish {PUBLISH}\nread {READ}\n");
    for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777] {
        let path = file(&scratch, "open", &text, mode);
        if mode == 0o640 && chown(&path, Some(12_345), None).is_err() {
            continue; // root's own file may be readable by a group, and only root can change an owner
        }
        let why = refused_at_start(&path);
        let advice = " so users other than its owner can read or change it; chmod 600 it";
        assert_eq!(why, format!(" has mode {mode:o},{advice}"));
        // A link has its own mode, 777, which does not matter. The mode of its file counts.
        let link = scratch.0.join(format!("link-{mode:o}"));
        std::os::unix::fs::symlink(scratch.0.join("open"), &link).unwrap();
        assert_eq!(refused_at_start(&link), why);
        let _ = chown(&path, Some(0), None);
    }
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    for mode in [0o600, 0o400, 0o700, 0o640, 0o440].into_iter().take(if root { 5 } else { 3 }) {
        let path = file(&scratch, &format!("own-{mode:o}"), &text, mode);
        let server = Tincan::start(&["--token-file", path.to_str().unwrap()]);
        challenged(&server.get("/kitchen?wait=0"), READ_TOKEN, "");
        assert_eq!(ask(&server, "GET /kitchen?wait=0", bearer(READ)).status, 200);
        // A program that embeds the server and prints it shows no token.
        let config = Config { listen: "127.0.0.1:0".parse().ok(), token_file: Some(path), ..Config::default() };
        let server = Server::bind(config.clone()).unwrap();
        assert_eq!(format!("{server:?}"), format!("Server(Hub({config:?}))"));
        shows_no_token(&format!("{server:?}"));
    }
}

/// Whether a type can be printed with `{:?}`: the type's own constant comes before that of the trait.
pub struct Printed<T>(T);

impl<T: Debug> Printed<T> {
    pub const CAN_BE: bool = true;
}

pub trait NotPrinted {
    const CAN_BE: bool = false;
}

impl<T> NotPrinted for Printed<T> {}

#[test]
fn what_keeps_tokens_cannot_be_printed() {
    const { assert!(Printed::<Config>::CAN_BE) };
    const { assert!(!Printed::<gate::Tokens>::CAN_BE) };
}

#[test]
fn a_wrong_token_file_is_named_with_its_line_and_no_token_is_shown() {
    let scratch = Scratch::new();
    let good = format!("read {READ}\n");
    let lines = "publsh P|P|publish P B|publish P # for the kitchen|publish|read |publisH P|publish=P|publish Pé|\
                 publish P\u{1}|publish P\rread B|\u{feff}publish P|read, P|\"publish\" P|read P B|read Pé";
    for wrong in lines.split('|').map(|line| line.replace('P', PUBLISH).replace('B', BOTH)) {
        let text = format!("{good}# a comment\r\n\r\n{wrong}\r\n{good}");
        let why = refused_at_start(&file(&scratch, "tokens", text, 0o600));
        assert_eq!(why, ", line 4: write `publish TOKEN` or `read TOKEN`, in ASCII", "{wrong:?}");
    }
    let none = " has no token; write `publish TOKEN` or `read TOKEN`, one a line";
    for empty in ["", "\n", "# publish x\r\n\r\n  \t\n"] {
        assert_eq!(refused_at_start(&file(&scratch, "tokens", empty, 0o600)), none);
    }
    // Exactly the allowed size, and one byte more.
    let full = good.clone() + &"#".repeat((64 << 10) - good.len());
    let path = file(&scratch, "tokens", &full, 0o600);
    drop(Tincan::start(&["--token-file", path.to_str().unwrap()]));
    for long in [full + "#", good.repeat((1 << 20) / good.len())] {
        assert_eq!(refused_at_start(&file(&scratch, "tokens", long, 0o600)), " has more than 65536 bytes");
    }
    let no_utf8 = [good.as_bytes(), b"publish \xff\xfe\n"].concat();
    let why = refused_at_start(&file(&scratch, "tokens", no_utf8, 0o600));
    assert!(why.starts_with(": ") && why.contains("UTF-8"), "{why}");
    let why = refused_at_start(&scratch.0.join("missing"));
    assert!(why.starts_with(": No such file"), "{why}");
    // The message does not advise to `chmod 600` a directory.
    let no_file = " is not a file; write lines `publish TOKEN` and `read TOKEN` into a file";
    for mode in [0o700, 0o755] {
        fs::set_permissions(&scratch.0, Permissions::from_mode(mode)).unwrap();
        assert_eq!(refused_at_start(&scratch.0), no_file);
    }
}

#[test]
fn an_allowed_origin_may_send_credentials_and_any_origin_may_not() {
    let scratch = Scratch::new();
    let a = "Origin: https://a.example\r\nSec-Fetch-Site: cross-site\r\n";
    let preflight = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    for (allow, allowed, credentials) in [
        (&["https://a.example"][..], Some("https://a.example"), Some("true")),
        (&["*"], Some("*"), None),
        (&["https://a.example", "*"], Some("https://a.example"), Some("true")),
        (&["*", "HTTPS://A.example:443"], Some("https://a.example"), Some("true")),
        (&["https://b.example", "*"], Some("*"), None),
        (&["https://b.example"], None, None),
        (&[], None, None),
    ] {
        let args: Vec<&str> = allow.iter().flat_map(|origin| ["--allow-origin", origin]).collect();
        let server = five(&scratch, &args);
        let allows_credentials = |response: &Response, status: u16| {
            let field = |name: &str| response.field(&format!("access-control-allow-{name}")).map(String::from);
            let expected = (status, allowed.map(String::from), credentials.map(String::from));
            assert_eq!((response.status, field("origin"), field("credentials")), expected, "{allow:?}");
            assert_eq!(response.head.contains("\r\nVary: Origin\r\n"), !allow.is_empty(), "{}", response.head);
            field("headers").is_some_and(|f| f == "authorization")
        };
        assert_eq!(
            allows_credentials(&ask(&server, "OPTIONS /kitchen", a.to_owned() + preflight), 204),
            allowed.is_some()
        );
        // Refusals have these fields too. Otherwise the page could not read the reason.
        for (fields, read, publish) in [(String::new(), 401, 401), (bearer(BOTH), 200, 200), (bearer(READ), 200, 401)] {
            allows_credentials(&ask(&server, "GET /kitchen", a.to_owned() + &fields), read);
            allows_credentials(&ask(&server, "GET /kitchen?wait=0", a.to_owned() + &fields), read);
            let publish = if allowed.is_some() { publish } else { 403 };
            allows_credentials(&ask(&server, "POST /kitchen", a.to_owned() + &fields), publish);
        }
    }
    // The same without tokens, since some clients always send credentials.
    let server = Tincan::start(&["--allow-origin", "https://a.example"]);
    assert_eq!(ask(&server, "OPTIONS /kitchen", a).field("access-control-allow-credentials"), Some("true"));
}

#[test]
fn base64_has_one_right_form_and_every_other_is_refused() {
    // RFC 4648 §10, and RFC 7617 §2.
    let (bytes, user) = ("foobar", "Aladdin:open sesame");
    let texts = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
    let vectors = (0..7).map(|n| (&bytes[..n], texts[n])).chain([(user, "QWxhZGRpbjpvcGVuIHNlc2FtZQ==")]);
    for (bytes, text) in vectors {
        assert_eq!((base64::decode(text).as_deref(), encode(bytes.as_bytes())), (Some(bytes.as_bytes()), text.into()));
        assert_eq!(base64::encode(bytes.as_bytes()), text);
    }
    let mut state = 0x7ec0_ffee_u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407); // Knuth's MMIX
        (state >> 33) as usize % n
    };
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..random(40)).map(|_| random(256) as u8).collect();
        let text = encode(&bytes);
        assert_eq!((base64::decode(&text), base64::encode(&bytes)), (Some(bytes.clone()), text.clone()));
        assert_eq!(base64::decode(text.trim_end_matches('=')), Some(bytes), "{text} without padding");
    }
    // Only these two forms of a text decode. So no two texts of the same length stand for the same bytes.
    let letters = ["A", "Q", "Z", "g", "h", "9", "/", "+", "=", "=", "-", "_", " ", "\n", "\0", "é", "*"];
    let mut decoded = 0;
    for _ in 0..50_000 {
        let most = if random(2) == 0 { 9 } else { 17 }; // half of the texts have only digits and padding
        let text: String = (0..random(10)).map(|_| letters[random(most)]).collect();
        if let Some(bytes) = base64::decode(&text) {
            let right = encode(&bytes);
            assert!(text == right || text == right.trim_end_matches('='), "{text:?} decodes to {bytes:?}");
            decoded += 1;
        }
    }
    assert!(decoded > 1000, "{decoded}");
    for text in ["Z", "Zg=", "Zg===", "Zh==", "Zm9=", "Zm9v=", "Zm9v====", "Zm 9v", "Zm9v\n", "Zg==Zg==", "=", "===="] {
        assert_eq!(base64::decode(text), None, "{text:?}");
    }
}

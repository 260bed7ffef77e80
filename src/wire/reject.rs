//! The refusal table: every way in which a request can be refused, one constant a rule.
//!
//! A refusal is one line of plain text: what is wrong, what to do, and in brackets by which rule. The same constant
//! feeds the answer and the tests, which assert it; so each refusal can be told from every other.

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code to answer with.
    pub status: u16,
    /// Where the rule stands.
    pub rule: &'static str,
    /// What is wrong, and what to do.
    pub why: &'static str,
    /// Field lines of the answer.
    pub fields: &'static str,
}

/// A refusal, as functions return it: one word.
pub type Reject = &'static Refusal;

/// A table of refusals: name, status, rule, what is wrong and what to do, and perhaps the field lines that the status asks
/// for, each with its CRLF (RFC 9110 §10.2).
macro_rules! table {
    ($($name:ident $status:literal $rule:literal $why:literal $(=> $fields:expr)?)*) => {
        $(
            #[doc = concat!($status, ": ", $why)]
            pub const $name: $crate::wire::reject::Reject = &$crate::wire::reject::Refusal {
                status: $status,
                rule: $rule,
                why: $why,
                fields: [$($fields,)? ""][0],
            };
        )*
        /// The whole table.
        pub const TABLE: &[$crate::wire::reject::Reject] = &[$($name),*];
    };
}
pub(crate) use table;

self::table! {
    // The request line and the field lines.
    LONE_LF 400 "RFC 9112 §2.2" "a line ends with LF alone; end it with CR LF (with nc: `nc -C`)"
    LONE_CR 400 "RFC 9112 §2.2" "a CR stands without its LF; end lines with CR LF and put CR nowhere else"
    REQUEST_LINE 400 "RFC 9112 §3" "the request line is malformed; send METHOD SP TARGET SP HTTP/1.1 with single spaces"
    TARGET 400 "RFC 9112 §3.2" "the request target is malformed; send a path that begins with `/`, in ASCII, UTF-8 percent-encoded"
    FOLDED 400 "RFC 9112 §5.2" "a field line begins with white space (a folded line); write each field on one line"
    SPACE_BEFORE_COLON 400 "RFC 9112 §5.1" "white space stands before the colon of a field line; take it out"
    FIELD_NAME 400 "RFC 9110 §5.6.2" "a field line has no colon, or a name that is no token; send `Name: value`"
    FIELD_VALUE 400 "RFC 9110 §5.5" "a field value has a control character; take it out"
    NO_HOST 400 "RFC 9112 §3.2" "there is no Host field; send one (HTTP/1.0 may leave it out)"
    TWO_HOSTS 400 "RFC 9112 §3.2" "there is more than one Host field; send one"
    BAD_HOST 400 "RFC 9110 §7.2" "the Host field is no host with an optional port; send a name or an address"
    // The framing of the body.
    BOTH_LENGTHS 400 "RFC 9112 §6.3" "both Content-Length and Transfer-Encoding are given; send one of them"
    LENGTH 400 "RFC 9110 §8.6" "Content-Length is no number, or two of them differ; send one decimal number"
    CODING_1_0 400 "RFC 9112 §6.1" "HTTP/1.0 has no Transfer-Encoding; send Content-Length, or HTTP/1.1"
    NOT_LAST 400 "RFC 9112 §6.1" "chunked is not the last transfer coding, or stands there twice; send `chunked` alone"
    CHUNK 400 "RFC 9112 §7.1" "a chunk is malformed; send its size in hex, CR LF, that many bytes, CR LF"
    // What is published, and from where it is heard.
    BODY_UTF8 400 "WHATWG HTML, Server-sent events" "the body is not UTF-8, as every event stream is; convert it"
    EVENT_NAME 400 "WHATWG HTML, Parsing an event stream" "an event's name has at most 256 bytes, and no CR, LF or NUL; mend it"
    TWO_NAMES 400 "tincan, ?event=" "the query and the event stream in the body both name events; leave ?event= out"
    RESERVED 400 "tincan, gap" "an event named gap tells of missed events, and only the server says that; choose another name"
    BLOCK_ID 400 "tincan, ids" "a block has an id field, but ids are the server's; leave it out, the answer tells the id"
    BLOCK_RETRY 400 "WHATWG HTML, Parsing an event stream" "a retry field is too large; it counts milliseconds, below 2^64"
    UNFINISHED 400 "WHATWG HTML, Parsing an event stream" "the last block has no blank line behind it, so no client would fire it; add one"
    NO_DATA 400 "WHATWG HTML, Parsing an event stream" "no block has a data field, so no client would fire it; add a line such as `data: hello`"
    SINCE 400 "tincan, ?since=" "since is no id; give one as an id field shows it (EPOCH-SEQ in a channel), or all"
    NO_WING 400 "tincan, --version" "this build does not have what is asked for; leave it out, or run a build that has it"
    PARAMETER 400 "tincan, POST" "a POST has no such query parameter here; mend it, or leave it out"
    WAIT 400 "tincan, ?wait=" "wait is no number of seconds from 0 to 300; give one"
    // Who may, and what there is.
    PUBLISH_TOKEN 401 "RFC 9110 §15.5.2" "publishing needs a token here; give it as the password, with any user name, or as a Bearer token" => ASK_PUBLISH
    PUBLISH_UNKNOWN 401 "RFC 9110 §15.5.2" "this token is not known here, and publishing needs one; look for a typing error, or ask for another" => ASK_PUBLISH
    PUBLISH_RIGHT 401 "RFC 9110 §15.5.2" "this token is for reading alone; give one for publishing" => ASK_PUBLISH
    READ_TOKEN 401 "RFC 9110 §15.5.2" "reading needs a token here; give it as the password, with any user name, or as a Bearer token" => ASK_READ
    READ_UNKNOWN 401 "RFC 9110 §15.5.2" "this token is not known here, and reading needs one; look for a typing error, or ask for another" => ASK_READ
    READ_RIGHT 401 "RFC 9110 §15.5.2" "this token is for publishing alone; give one for reading" => ASK_READ
    CROSS_SITE 403 "WHATWG Fetch, Origin header" "a page of another site may not publish here; allow its origin with --allow-origin"
    NOT_FOUND 404 "tincan, URLs" "nothing is here; a channel's URL is a slash and its name, 1 to 64 of A-Z a-z 0-9 _ -, but none that is taken, such as metrics"
    NO_WING_HERE 404 "tincan, --version" "this build does not have what stands here; run a build that has it"
    SLASH 404 "tincan, URLs" "no URL here ends with a slash, but for the first page's; leave it out"
    NO_FILE 404 "tincan, URLs" "the pages have no file of this name; look for a typing error"
    PAGE_METHOD 405 "RFC 9110 §15.5.6" "this can only be read; GET it, or POST to a channel, such as /chat" => ALLOW_PAGE
    CHANNEL_METHOD 405 "RFC 9110 §15.5.6" "a channel knows no such method; GET listens, POST publishes" => ALLOW_CHANNEL
    MISDIRECTED 421 "RFC 9110 §15.5.20" "this server does not answer to that Host (DNS rebinding); name it with --host"
    // The media type of what is published.
    CONTENT_CODING 415 "RFC 9110 §15.5.16" "the body has a content coding; send it as it is, without Content-Encoding" => "Accept-Encoding: identity\r\n"
    CHARSET 415 "WHATWG HTML, Server-sent events" "the charset is not UTF-8, as every event stream's is; convert the body"
    MULTIPART 415 "tincan, POST" "this is a form in several parts (`curl -F`); send the text itself, as with `curl -d` or `curl --data-binary @FILE`"
    // Limits.
    TIMEOUT 408 "tincan, 10 s and 1 KiB/s" "the request did not arrive in time; send its head within 10 s, and its body faster than 1 KiB a second"
    TOO_LARGE 413 "tincan, --max-body" "the body is too large; send less, or raise --max-body"
    LONG_TARGET 414 "tincan, 8 KiB" "the request target is too long; put the data into the body"
    EXPECT 417 "RFC 9110 §10.1.1" "only `Expect: 100-continue` is known; leave the field out"
    LARGE_SECTION 431 "tincan, 16 KiB and 100 fields" "the header section is too large; send fewer or shorter fields"
    LOG_FAILED 500 "tincan, --data" "the log could not be written, and nothing of this was kept; the server's standard error says why"
    LOG_UNREADABLE 500 "tincan, --data" "the log cannot be read back; the server's standard error says why"
    METHOD 501 "RFC 9110 §9.1" "there is no such method here; use GET, HEAD, POST or OPTIONS, in capital letters"
    CODING 501 "RFC 9112 §6.1" "only the transfer coding chunked is known; send `chunked`, or Content-Length"
    CHANNELS 503 "tincan, --max-channels" "there are too many channels; use one that exists, or have the operator remove the files of some that nobody uses, raise --max-channels, or keep strangers out with --token-file" => LATER
    CONNECTIONS 503 "tincan, --max-connections" "there are too many connections; come back later" => LATER
    OPEN_LOGS 503 "tincan, --data" "as many channels are in use as there are descriptors for (`ulimit -n`); come back later" => LATER
    LOG_CLOSED 503 "tincan, --data" "the channel's log is damaged or cannot be opened, so the channel is closed; the server's standard error says why" => LATER
    LOG_SICK 503 "tincan, --data" "logs of these channels are damaged or cannot be read back; the server's standard error says why" => LATER
    VERSION 505 "RFC 9110 §15.6.6" "only HTTP/1 is spoken here; use HTTP/1.1"
    DISK_FULL 507 "RFC 4918 §11.5" "there is no room, on the disk or in a file, and nothing of this was kept; make room, then send it again"
}

impl Refusal {
    /// The line that the client reads.
    pub fn line(&self) -> String {
        format!("{} {}: {} ({})\n", self.status, reason(self.status), self.why, self.rule)
    }
}

/// What can be done to a page.
pub const ALLOW_PAGE: &str = "Allow: GET, HEAD, OPTIONS\r\n";
/// What can be done to a channel.
pub const ALLOW_CHANNEL: &str = "Allow: GET, HEAD, POST, OPTIONS\r\n";
/// When to come back. A client that asks for an event stream is answered otherwise (`accept.rs`), so the answer depends on
/// `Accept`.
pub const LATER: &str = "Retry-After: 5\r\nVary: Accept\r\n";
/// RFC 7617 §2. A browser asks its user, and from then on sends what it was told; it keeps one token for each realm (RFC
/// 9110 §11.5), so there are two.
const ASK_PUBLISH: &str = "WWW-Authenticate: Basic realm=\"tincan: publish\", charset=\"UTF-8\"\r\n";
const ASK_READ: &str = "WWW-Authenticate: Basic realm=\"tincan: read\", charset=\"UTF-8\"\r\n";

/// The reason phrase of a status code that this server sends (RFC 9110 §15; RFC 6585 §5 for 431).
pub fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

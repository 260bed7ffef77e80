//! The table of refusals: a constant for each rule that a request can break.
//!
//! A refusal is one line of plain text: what is wrong, what to do, and in brackets the rule. Responses and tests use
//! the same constant, so a test can distinguish each refusal from all others.

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code of the response.
    pub status: u16,
    /// The source of the rule: a section of a standard, or an option or feature of tincan.
    pub rule: &'static str,
    /// What is wrong and what to do, separated by a semicolon.
    pub why: &'static str,
    /// Further field lines of the response, each with its CRLF.
    pub fields: &'static str,
}

/// A refusal as functions return it: a pointer into the table.
pub type Reject = &'static Refusal;

/// Defines a table of refusals. A row is a name, a status, a rule, and what is wrong and what to do. If the status
/// requires field lines (RFC 9110 §10.2), they follow `=>`, each with its CRLF.
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
    LONE_LF 400 "RFC 9112 §2.2" "a line ends with a lone LF; end each line with CR LF (with nc: `nc -C`)"
    LONE_CR 400 "RFC 9112 §2.2" "a CR has no LF after it; end each line with CR LF, and put CR nowhere else"
    REQUEST_LINE 400 "RFC 9112 §3" "the request line is malformed; send `METHOD TARGET HTTP/1.1`, with single spaces"
    TARGET 400 "RFC 9112 §3.2" "the request target is malformed; send a path that begins with `/`, in ASCII, with other characters percent-encoded as UTF-8"
    FOLDED 400 "RFC 9112 §5.2" "a field line begins with white space (a folded line); write each field on one line"
    SPACE_BEFORE_COLON 400 "RFC 9112 §5.1" "white space comes before the colon of a field line; remove it"
    FIELD_NAME 400 "RFC 9110 §5.6.2" "a field line has no colon, or its name is not a token; send `Name: value`"
    FIELD_VALUE 400 "RFC 9110 §5.5" "a field value contains a control character; remove it"
    NO_HOST 400 "RFC 9112 §3.2" "the Host field is missing; send one (only HTTP/1.0 may leave it out)"
    TWO_HOSTS 400 "RFC 9112 §3.2" "the request has more than one Host field; send only one"
    BAD_HOST 400 "RFC 9110 §7.2" "the Host field is not a host with an optional port; send a name or an IP address"
    // The framing of the body.
    BOTH_LENGTHS 400 "RFC 9112 §6.3" "the request has both Content-Length and Transfer-Encoding; send only one of them"
    LENGTH 400 "RFC 9110 §8.6" "Content-Length is not a number, or its values differ; send one decimal number"
    CODING_1_0 400 "RFC 9112 §6.1" "HTTP/1.0 has no Transfer-Encoding; send Content-Length, or use HTTP/1.1"
    NOT_LAST 400 "RFC 9112 §6.1" "chunked is not the last transfer coding, or is listed twice; send `Transfer-Encoding: chunked` alone"
    CHUNK 400 "RFC 9112 §7.1" "a chunk is malformed; send its size in hexadecimal, CR LF, that many bytes, CR LF"
    // What a publisher sends, and where a subscriber starts.
    BODY_UTF8 400 "WHATWG HTML, Server-sent events" "the body is not UTF-8, but every event stream is; convert it to UTF-8"
    EVENT_NAME 400 "WHATWG HTML, Parsing an event stream" "the event name is longer than 256 bytes, or contains CR, LF or NUL; choose another name"
    TWO_NAMES 400 "tincan, ?event=" "the query names an event, but the body is an event stream, which names its own; leave ?event= out"
    RESERVED 400 "tincan, gap" "the server uses the name `gap` to report missed events; choose another name"
    BLOCK_ID 400 "tincan, ids" "a block has an id field, but the server gives all ids; leave the field out (the response lists the ids)"
    BLOCK_RETRY 400 "WHATWG HTML, Parsing an event stream" "a retry field is too large; give a number of milliseconds below 2^64"
    UNFINISHED 400 "WHATWG HTML, Parsing an event stream" "the last block does not end with a blank line, so no client would fire the event; add one"
    NO_DATA 400 "WHATWG HTML, Parsing an event stream" "no block has a data field, so no client would fire an event; add a line such as `data: hello`"
    SINCE 400 "tincan, ?since=" "since is not an id; give one as in an id field (in a channel: EPOCH-SEQ), or `all`"
    NO_WING 400 "tincan, --version" "the request asks for a part that this build does not have; leave that out, or run a build that has it"
    PARAMETER 400 "tincan, POST" "a POST does not take this query parameter; correct its name, or leave it out"
    WAIT 400 "tincan, ?wait=" "wait is not a number from 0 to 300; give whole seconds"
    // Access, URLs and methods.
    PUBLISH_TOKEN 401 "RFC 9110 §15.5.2" "publishing needs a token; send one as the password, with any user name, or as a Bearer token" => ASK_PUBLISH
    PUBLISH_UNKNOWN 401 "RFC 9110 §15.5.2" "the server does not know this token, and publishing needs one; check it for a typing error, or ask the operator for another" => ASK_PUBLISH
    PUBLISH_RIGHT 401 "RFC 9110 §15.5.2" "this token is only for reading; send a token for publishing" => ASK_PUBLISH
    READ_TOKEN 401 "RFC 9110 §15.5.2" "reading needs a token; send one as the password, with any user name, or as a Bearer token" => ASK_READ
    READ_UNKNOWN 401 "RFC 9110 §15.5.2" "the server does not know this token, and reading needs one; check it for a typing error, or ask the operator for another" => ASK_READ
    READ_RIGHT 401 "RFC 9110 §15.5.2" "this token is only for publishing; send a token for reading" => ASK_READ
    CROSS_SITE 403 "WHATWG Fetch, Origin header" "a page of another site may not publish here; allow its origin with --allow-origin"
    NOT_FOUND 404 "tincan, URLs" "there is nothing at this URL; use a slash and a channel's name: 1 to 64 of A-Z a-z 0-9 _ -, but not a reserved name such as metrics"
    NO_WING_HERE 404 "tincan, --version" "this URL belongs to a part that this build does not have; run a build that has it"
    SLASH 404 "tincan, URLs" "the URL ends with a slash; leave that slash out (only `/` itself ends with one)"
    NO_FILE 404 "tincan, URLs" "the pages have no file of this name; check the name for a typing error"
    PAGE_METHOD 405 "RFC 9110 §15.5.6" "this URL can only be read; use GET, or POST to a channel such as /chat" => ALLOW_PAGE
    CHANNEL_METHOD 405 "RFC 9110 §15.5.6" "a channel does not support this method; use GET to subscribe, or POST to publish" => ALLOW_CHANNEL
    MISDIRECTED 421 "RFC 9110 §15.5.20" "the server does not serve this host name (a protection against DNS rebinding); allow the name with --host"
    // The media type of a published body.
    CONTENT_CODING 415 "RFC 9110 §15.5.16" "the body has a content coding; send it without one, and without Content-Encoding" => "Accept-Encoding: identity\r\n"
    CHARSET 415 "WHATWG HTML, Server-sent events" "the charset is not UTF-8, but every event stream is UTF-8; convert the body to UTF-8"
    MULTIPART 415 "tincan, POST" "the body is a form in several parts (`curl -F`); send the text itself, as with `curl -d` or `curl --data-binary @FILE`"
    // Limits.
    TIMEOUT 408 "tincan, 10 s and 1 KiB/s" "the request did not arrive in time; send its head within 10 s, and its body faster than 1 KiB a second"
    TOO_LARGE 413 "tincan, --max-body" "the body is too large; send less, or raise --max-body, and --memory if that is less than four bodies"
    LONG_TARGET 414 "tincan, 8 KiB" "the request target is too long; put the data into the body"
    EXPECT 417 "RFC 9110 §10.1.1" "the server supports only `Expect: 100-continue`; leave the field out"
    LARGE_SECTION 431 "tincan, 16 KiB and 100 fields" "the header or trailer section is too large; send fewer or shorter fields"
    LOG_FAILED 500 "tincan, --data" "the log could not be written, and nothing of this was kept; see the server's standard error for the reason"
    LOG_UNREADABLE 500 "tincan, --data" "the log cannot be read; see the server's standard error for the reason"
    METHOD 501 "RFC 9110 §9.1" "the server does not support this method; use GET, HEAD, POST or OPTIONS, in capital letters"
    CODING 501 "RFC 9112 §6.1" "the server supports no transfer coding but chunked; send `Transfer-Encoding: chunked`, or Content-Length"
    CHANNELS 503 "tincan, --max-channels" "there are too many channels; use one that exists, or ask the operator to remove the files of unused channels, to raise --max-channels, or to keep strangers out with --token-file" => LATER
    CONNECTIONS 503 "tincan, limits of connections" "there are too many connections; come back later" => LATER
    MEMORY 503 "tincan, --memory" "the bodies that are being received need all the memory that they may take; come back later" => LATER
    OPEN_LOGS 503 "tincan, --data" "the channels in use need all descriptors that logs may take (`ulimit -n`); come back later" => LATER
    LOG_CLOSED 503 "tincan, --data" "the channel is closed, because its log is damaged or cannot be opened; see the server's standard error for the reason" => LATER
    LOG_SICK 503 "tincan, --data" "logs of these channels are damaged or cannot be read; see the server's standard error for the reason" => LATER
    VERSION 505 "RFC 9110 §15.6.6" "the server supports only HTTP/1; use HTTP/1.1"
    DISK_FULL 507 "RFC 4918 §11.5" "there is no room on the disk or in the file, and nothing of this was kept; make room, then send it again"
}

impl Refusal {
    /// Returns the line of text that the client receives.
    pub fn line(&self) -> String {
        format!("{} {}: {} ({})\n", self.status, reason(self.status), self.why, self.rule)
    }
}

/// The methods that a page supports.
pub const ALLOW_PAGE: &str = "Allow: GET, HEAD, OPTIONS\r\n";
/// The methods that a channel supports.
pub const ALLOW_CHANNEL: &str = "Allow: GET, HEAD, POST, OPTIONS\r\n";
/// When to come back, in seconds. A request for an event stream gets another response (`accept.rs`), so the response
/// depends on `Accept`.
pub const LATER: &str = "Retry-After: 5\r\nVary: Accept\r\n";
/// Challenges for Basic credentials (RFC 7617 §2). A browser then asks its user for a password, and sends it with later
/// requests. It keeps one password for each realm (RFC 9110 §11.5), so publishing and reading have different realms.
const ASK_PUBLISH: &str = "WWW-Authenticate: Basic realm=\"tincan: publish\", charset=\"UTF-8\"\r\n";
const ASK_READ: &str = "WWW-Authenticate: Basic realm=\"tincan: read\", charset=\"UTF-8\"\r\n";

/// Returns the reason phrase of a status code that this server sends (RFC 9110 §15; RFC 6585 §5 for 431).
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

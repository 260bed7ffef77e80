//! The files of `static/` that the chat page needs, embedded in the binary, and the security policy of all pages.

/// A file that pages load: its name below `/assets/`, and its content.
pub type File = (&'static str, &'static [u8]);

/// The files of some folders. A folder's path is relative to the source file that invokes this macro.
macro_rules! files {
    ($($folder:literal: $($name:literal)*;)*) => {
        &[$($(($name, include_bytes!(concat!($folder, $name))),)*)*]
    };
}
pub(crate) use files;

/// The chat page. Links to other pages may replace its comment `further`.
const CHAT: &str = include_str!("../../static/chat/chat.html");

/// The files that the chat page loads. Other pages load some of them as well.
pub const FILES: &[File] = self::files! {
    "../../static/common/": "page.css" "words.js" "copy.js" "fetch.js" "eventsource.js" "shared.js" "icon.svg";
    "../../static/chat/": "chat.css" "chat.js";
};

/// The policy of all pages: a page loads nothing but this server's own files, runs no inline script or style, and is
/// shown in no frame (W3C Content Security Policy 3).
///
/// `connect-src 'self'` covers each scheme by which this server is reached, `ws:` and `wss:` too (§6.7.2.8; Chromium
/// since 71, Safari since 16, Firefox before both). To list a scheme beside it would allow any host.
pub const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

/// Returns the chat page with these links, which are lines of HTML.
pub fn chat(links: &str) -> Vec<u8> {
    CHAT.replace("<!-- further -->", links).into()
}

/// Returns the media type of a file of this name.
pub fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

//! What `static/` holds for the chat page, embedded in the binary; and the policy that pages are sent with.

/// A file that pages load: its name below `/assets/`, and its content.
pub type File = (&'static str, &'static [u8]);

/// The files of some folders. A folder's path is relative to the source file that names it.
macro_rules! files {
    ($($folder:literal: $($name:literal)*;)*) => {
        &[$($(($name, include_bytes!(concat!($folder, $name))),)*)*]
    };
}
pub(crate) use files;

/// The chat page. Lines that lead elsewhere may stand in the place of its comment `further`.
const CHAT: &str = include_str!("../../static/chat/chat.html");

/// What the chat page loads. Other pages load some of it as well.
pub const FILES: &[File] = self::files! {
    "../../static/common/": "page.css" "words.js" "copy.js" "fetch.js" "eventsource.js" "shared.js" "icon.svg";
    "../../static/chat/": "chat.css" "chat.js";
};

/// Pages load nothing but their own files, run nothing inline, and stand in no frame (W3C Content Security Policy 3).
/// `connect-src 'self'` covers each scheme by which this server is reached (§6.7.2.8; Chromium since 71, Safari since 16,
/// Firefox before both). A scheme beside it would allow any host.
pub const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

/// The chat page with these further lines of HTML.
pub fn chat(further: &str) -> Vec<u8> {
    CHAT.replace("<!-- further -->", further).into()
}

/// The media type of a file of this name.
pub fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

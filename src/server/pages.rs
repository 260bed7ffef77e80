//! What `static/` holds, embedded in the binary; and the policy that pages are sent with.

/// A file of a page.
pub struct File {
    /// Its name below `/assets/`.
    pub name: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
}

macro_rules! file {
    ($name:literal, $kind:literal) => {
        File { name: $name, kind: $kind, bytes: include_bytes!(concat!("../../static/", $name)) }
    };
}

macro_rules! files {
    ($($kind:literal: [$($name:literal)*])*) => {
        &[$($(file!($name, $kind),)*)*]
    };
}

/// The chat page.
pub const CHAT: File = file!("chat.html", "text/html; charset=utf-8");

/// The wire lab.
pub const LAB: File = file!("lab.html", "text/html; charset=utf-8");

/// The list of the lessons.
pub const LESSONS: File = file!("lessons.html", "text/html; charset=utf-8");

/// What the pages load, by media type.
pub const ASSETS: &[File] = files! {
    "text/css; charset=utf-8": ["page.css" "chat.css" "lab.css" "ways.css"]
    "text/javascript; charset=utf-8":
        ["chat.js" "lab.js" "lessons.js" "ways.js" "words.js" "copy.js" "fetch.js" "eventsource.js" "shared.js"]
    "image/svg+xml": ["icon.svg"]
};

/// Pages load nothing but their own files, run nothing inline, and stand in no frame (W3C Content Security Policy 3).
/// `connect-src 'self'` covers WebSockets to this server (§6.7.2.8; Chromium since 71, Safari since 16, Firefox before
/// both). A `ws:` beside it would allow those to any host.
pub const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

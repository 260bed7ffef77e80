//! Which requests are accepted: `Host`, `Origin`, `Sec-Fetch-Site` and CORS.

use crate::support::harness::*;
use tincan::wire::reject;

fn ask(server: &Tincan, method: &str, fields: &str) -> Response {
    server.ask(format!("{method} HTTP/1.1\r\n{fields}\r\n"))
}

#[test]
fn only_names_that_cannot_be_rebound_are_answered() {
    let server = Tincan::start(&["--host", "chat.example.org", "--host=other.example"]);
    for host in [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "192.168.1.7",
        "[::1]",
        "[2001:db8::1]:8000",
        "router",
        "router.local",
        "nas.lan:80",
        "box.home.arpa",
        "svc.internal",
        "internal.",
        "localhost.",
        "chat.localhost:8000",
        "A.B.Localhost.",
        "router.local.",
        "chat.example.org",
        "Chat.Example.ORG:443",
        "chat.example.org.",
        "other.example",
    ] {
        let response = ask(&server, "GET /health", &format!("Host: {host}\r\n"));
        assert_eq!(response.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "chat.example.org.evil.example",
        "evilchat.example.org",
        "127.0.0.1.evil.example",
        "notlocal.example",
        ".",
        "x.localhost.example",
        "notlocalhost.example",
        "evil.localhosts",
        "1.2.3.4.5",
        "evil.locals",
        "a.b",
    ] {
        for method in ["GET /health", "GET /a", "POST /a", "OPTIONS /a", "GET /nothing/here"] {
            ask(&server, method, &format!("Host: {host}\r\n")).refused(reject::MISDIRECTED);
        }
    }
    // The authority of the request target counts, not the field (RFC 9112 §3.2.2).
    ask(&server, "GET http://evil.example/health", "Host: localhost\r\n").refused(reject::MISDIRECTED);
    assert_eq!(ask(&server, "GET http://localhost/health", "Host: evil.example\r\n").status, 200);
}

#[test]
fn pages_of_other_sites_may_not_publish() {
    let server = Tincan::start(&[]);
    let post = |fields: &str| ask(&server, "POST /a", fields);
    for fields in [
        "Host: localhost:8000\r\n",
        "Host: localhost:8000\r\nOrigin: http://localhost:8000\r\n",
        "Host: localhost:8000\r\nOrigin: https://LOCALHOST:8000\r\nSec-Fetch-Site: same-origin\r\n",
        "Host: localhost:8000\r\nSec-Fetch-Site: none\r\n",
        // A default port means the same as no port. A proxy that ends TLS may send its own port, the page's port, or
        // none.
        "Host: localhost:80\r\nOrigin: http://localhost\r\n",
        "Host: localhost:\r\nOrigin: http://localhost:80\r\n",
        "Host: localhost\r\nOrigin: http://localhost:80\r\n",
        "Host: localhost:443\r\nOrigin: https://localhost\r\n",
        "Host: localhost\r\nOrigin: https://LocalHost:443\r\n",
        "Host: localhost:80\r\nOrigin: https://localhost\r\n",
        "Host: [::1]:80\r\nOrigin: http://[::1]\r\n",
    ] {
        assert_eq!(post(fields).status, 200, "{fields}");
    }
    for fields in [
        "Host: localhost:8000\r\nOrigin: http://localhost:8001\r\n",
        "Host: localhost:8000\r\nOrigin: http://localhost\r\n",
        "Host: localhost:443\r\nOrigin: http://localhost\r\n",
        "Host: localhost\r\nOrigin: http://localhost:443\r\n",
        "Host: localhost\r\nOrigin: https://localhost:80\r\n",
        "Host: localhost:80\r\nOrigin: http://localhost:8080\r\n",
        "Host: localhost\r\nOrigin: capacitor://localhost\r\n",
        "Host: localhost\r\nOrigin: http://localhost.evil.example:80\r\n",
        "Host: localhost:8000\r\nOrigin: http://evil.example\r\n",
        "Host: localhost:8000\r\nOrigin: null\r\n",
        "Host: localhost:8000\r\nOrigin: localhost:8000\r\n",
        "Host: localhost:8000\r\nOrigin: http://evil.example/localhost:8000\r\n",
        "Host: localhost:8000\r\nSec-Fetch-Site: cross-site\r\n",
        "Host: localhost:8000\r\nSec-Fetch-Site: Cross-Site\r\n",
        "Host: localhost:8000\r\nOrigin: http://localhost:8000\r\nSec-Fetch-Site: cross-site\r\n",
        "Host: localhost:8000\r\nOrigin: http://localhost:8000\r\nOrigin: http://evil.example\r\n",
        "Host: localhost:8000\r\nOrigin:\r\n",
    ] {
        post(fields).refused(reject::CROSS_SITE);
    }
    let not_utf8 = [b"POST /a HTTP/1.1\r\nHost: x\r\nOrigin: http://\xff\r\n\r\n".as_slice()].concat();
    server.ask(not_utf8).refused(reject::CROSS_SITE);
    // Without --allow-origin a page of another site cannot read either.
    let response = ask(&server, "GET /a?wait=0", "Host: localhost\r\nOrigin: http://evil.example\r\n");
    assert_eq!((response.status, response.field("access-control-allow-origin")), (200, None));
}

#[test]
fn allowed_origins_may_publish_and_read() {
    let server = Tincan::start(&["--allow-origin", "https://app.example", "--allow-origin=http://b.example:8080"]);
    let fields = |origin: &str| format!("Host: localhost\r\nOrigin: {origin}\r\nSec-Fetch-Site: cross-site\r\n");
    for origin in ["https://app.example", "http://b.example:8080"] {
        for method in ["POST /a", "GET /a?wait=0", "GET /nothing/here"] {
            let response = ask(&server, method, &fields(origin));
            assert_ne!(response.status, 403);
            assert_eq!(response.field("access-control-allow-origin"), Some(origin));
            assert!(response.head.contains("\r\nVary: Origin\r\n"), "{}", response.head);
        }
        let response = ask(&server, "OPTIONS /a", &fields(origin));
        assert_eq!((response.status, response.field("access-control-allow-origin")), (204, Some(origin)));
        assert_eq!(response.field("access-control-allow-methods"), Some("GET, HEAD, POST, OPTIONS"));
        assert_eq!(
            response.field("access-control-allow-headers"),
            None,
            "a preflight that asks for no fields gets none"
        );
        // The fields that tracing libraries add, and fields that nobody knows yet.
        for (asked, allowed) in [
            ("last-event-id", "last-event-id"),
            ("traceparent,tracestate,baggage", "traceparent, tracestate, baggage"),
            ("sentry-trace, X-Requested-With ,,hx-request", "sentry-trace, X-Requested-With, hx-request"),
            ("a\r\nAccess-Control-Request-Headers: b", "a, b"),
            ("good, not good, \"x\"", "good"),
        ] {
            let asks = format!("{}Access-Control-Request-Headers: {asked}\r\n", fields(origin));
            let response = ask(&server, "OPTIONS /a", &asks);
            assert_eq!(response.field("access-control-allow-headers"), Some(allowed));
            assert_eq!(response.field("access-control-allow-credentials"), Some("true"));
        }
    }
    for origin in ["http://app.example", "https://app.example.evil", "null"] {
        ask(&server, "POST /a", &fields(origin)).refused(reject::CROSS_SITE);
        let response = ask(&server, "OPTIONS /a", &fields(origin));
        assert_eq!(response.field("access-control-allow-origin"), None);
        assert!(response.head.contains("\r\nVary: Origin\r\n"), "a cache must not mix up the responses to two origins");
    }
    let any = Tincan::start(&["--allow-origin", "*"]);
    let response = ask(&any, "POST /a", &fields("https://anyone.example"));
    assert_eq!((response.status, response.field("access-control-allow-origin")), (200, Some("*")));
    assert_eq!(response.field("access-control-allow-credentials"), None);
    assert_eq!(ask(&any, "POST /a", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n").status, 200);
}

#[test]
fn apps_and_extensions_have_origins_as_well() {
    let all = [
        "capacitor://localhost",
        "tauri://localhost",
        "ionic://localhost:8100",
        "moz-extension://2c1e5a0c-0f0c-4d9f-9a58-2f3d3a1c9e4b",
        "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
        "app+x.y-1://a_b",
        "null",
        "https://app.example:443",
        "http://[::1]:80",
    ];
    let server = Tincan::start(&all.map(|origin| ["--allow-origin", origin]).concat());
    let host = "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n";
    let as_sent = all.map(|origin| origin.trim_end_matches(":443").trim_end_matches(":80"));
    for origin in all.into_iter().chain(as_sent) {
        for method in ["POST /a", "GET /a?wait=0", "OPTIONS /a"] {
            let response = ask(&server, method, &format!("{host}Origin: {origin}\r\n"));
            let allowed = ["origin", "credentials"].map(|name| response.field(&format!("access-control-allow-{name}")));
            assert!(response.status < 300, "{method} {origin}: {}", response.status);
            assert_eq!(allowed, [Some(origin), Some("true")], "{method}");
        }
    }
    for origin in
        ["capacitor://evil", "tauri://localhost:1", "https://localhost", "app://a_b", "http://app.example:443"]
    {
        ask(&server, "POST /a", &format!("{host}Origin: {origin}\r\n")).refused(reject::CROSS_SITE);
    }
}

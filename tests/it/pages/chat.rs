//! The chat page in a real Chromium.

use crate::support::browser::*;
use crate::support::harness::*;
use std::path::PathBuf;
use tincan::wire::event::json;

/// Simulates that the machine has slept for a minute.
const WAKES_UP: &str = "(real => Date.now = () => real() + 60000)(Date.now), everySecond()";
#[test]
fn two_people_and_curl_hear_the_same() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let (kitchen, listeners) = (url(&server, "/kitchen"), "q('#listeners').textContent");
    let ada = driver.page(&kitchen);
    ada.is_open();
    ada.becomes(listeners, "1 subscriber");
    // An empty channel shows how to use it.
    assert_eq!((ada.text("#channel"), ada.js("document.title")), ("kitchen".into(), "kitchen · tincan".into()));
    assert_eq!(ada.js("q('#empty').checkVisibility()"), "true");
    assert_eq!(ada.text("#curl-listen"), format!("curl -N {kitchen}"));
    assert_eq!(ada.text("#curl-say"), format!("curl -d 'soup is ready' {kitchen}"));
    let bob = driver.page(&kitchen);
    bob.becomes(listeners, "2 subscribers");
    let (mut curl, start_id) = server.listen("/kitchen", "");
    let epoch = start_id.strip_suffix("-0").unwrap();

    ada.keys("#name", "Ada");
    ada.say("who cooks?");
    curl.expect(format!("data: {{\"name\":\"Ada\",\"msg\":\"who cooks?\"}}\nid: {epoch}-1\n\n"));
    for page in [&ada, &bob] {
        page.shows(&["said|Ada|who cooks?"]);
        page.becomes("q('#terminal').open", "false");
        page.becomes(listeners, "3 subscribers");
    }
    server.post("/kitchen", "soup is ready");
    curl.expect(format!("data: soup is ready\nid: {epoch}-2\n\n"));
    bob.keys("#name", "Bob");
    bob.say("\"thanks\" \\ été 🍲");
    curl.expect(format!("data: {}\nid: {epoch}-3\n\n", message("Bob", "\"thanks\" \\ été 🍲")));
    let log = ["said|Ada|who cooks?", "plain|soup is ready", "said|Bob|\"thanks\" \\ été 🍲"];
    ada.shows(&log);
    bob.shows(&log);

    // The name is remembered, and a page that is opened later shows the earlier messages.
    ada.reload();
    ada.shows(&log);
    assert_eq!(ada.js("q('#name').value"), "Ada");
    bob.open(&url(&server, "/"));
    assert_eq!((bob.text("#channel"), bob.js("q('#name').value")), ("chat".into(), "Bob".into()));
    assert_eq!(bob.text("#curl-listen"), format!("curl -N {}", url(&server, "/chat")));
    bob.say("at /");
    bob.shows(&["said|Bob|at /"]);
    assert!(
        server.get("/chat?since=all&wait=0").text().contains(&format!("\n\ndata: {}\nid: ", message("Bob", "at /")))
    );
    assert_eq!([ada.console(), bob.console()].concat(), [""; 0]);
}

#[test]
fn the_picture_of_the_chat_is_of_this_page() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    for (name, msg) in [("Ada", "who cooks today?"), ("Bob", "I do: soup, with the bread from yesterday")] {
        server.post("/kitchen", message(name, msg));
    }
    server.post("/kitchen", "soup is ready");
    page.keys("#name", "Ada");
    page.keys("#msg", "on my way");
    page.becomes("all('#log li').length", "3");
    page.picture("static/chat/chat.png", 800, 420);
}

#[test]
fn a_restart_heals_by_itself_and_is_told() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200"]);
    let pages = [driver.page(&url(&server, "/kitchen")), driver.page(&url(&server, "/kitchen"))];
    server.post("/kitchen", "before");
    pages.iter().for_each(|page| page.shows(&["plain|before"]));
    server.kill();
    for page in &pages {
        page.becomes(STATE, "connecting");
        assert_eq!((page.text("#word"), page.text("#listeners")), ("connecting…".into(), String::new()));
    }
    // A user who sends now gets an error, and the text stays in the input field.
    pages[0].keys("#msg", &format!("after{ENTER}"));
    pages[0].becomes("q('#error').textContent", "could not reach the server");
    server = again(server.port);
    for page in &pages {
        page.is_open();
        assert_eq!(page.text("#word"), "open");
        page.shows(&["plain|before", MISSED]);
    }
    let (mut curl, _) = server.listen("/kitchen", "");
    pages[0].say("");
    assert_eq!(pages[0].text("#error"), "");
    server.post("/kitchen", "end");
    for page in &pages {
        page.shows(&["plain|before", MISSED, "said|anonymous|after", "plain|end"]);
    }
    assert!(curl.block().starts_with("data: {\"name\":\"anonymous\",\"msg\":\"after\"}\n"));
    assert!(curl.block().starts_with("data: end\n"), "each event comes once");
}

#[test]
fn an_eventsource_comes_back_after_a_last_chunk_and_after_none() {
    let Some(driver) = driver() else { return };
    // A regular end each second: it is not an error.
    let server = Tincan::start(&["--retry", "100", "--max-age", "1"]);
    let page = driver.page(&url(&server, "/health"));
    page.js(&listening("/kitchen"));
    let all = [1, 2, 3].map(|n| heard(&page, &server, n));
    assert_eq!(all, ["1", "1,2", "1,2,3"]);
    assert!(page.js("told.filter(text => text.startsWith('error')).join()").starts_with("error 0,error 0"));
    let complaints = |page: &Page| {
        // Lines about a missing icon do not count.
        let lines = page.console().into_iter().filter(|line| line.contains("/kitchen"));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(complaints(&page), [""; 0]);
    // A server that is killed.
    let mut server = Tincan::start(&["--retry", "100"]);
    let page = driver.page(&url(&server, "/health"));
    page.js(&listening("/kitchen"));
    assert_eq!(heard(&page, &server, 1), "1");
    server.kill();
    page.becomes("told.filter(text => text === 'error 0').length >= 1", "true");
    server = again(server.port);
    assert_eq!(heard(&page, &server, 2), "1,2");
}

#[test]
fn a_bad_gateway_does_not_end_it() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200"]);
    let (clicks, waits) = (driver.chromium("en", "normal"), driver.page(&url(&server, "/kitchen")));
    // Without a shared worker the page itself has the connection, and the test can reach it.
    clicks.before("delete window.SharedWorker");
    clicks.open(&url(&server, "/kitchen"));
    server.post("/kitchen", "one");
    server.post("/kitchen", "two");
    let seen = "[q('#state').dataset.state, q('#word').textContent, q('#now').checkVisibility(), \
                q('#seconds').textContent.replace(/^[1-9]\\d* s$/, 'N s')]";
    for page in [&clicks, &waits] {
        page.shows(&["plain|one", "plain|two"]);
    }
    server.kill();
    let end_gateway = bad_gateway(server.port);
    for page in [&clicks, &waits] {
        page.becomes(seen, "waiting,waiting,true,N s");
    }
    // One page now chooses a pause of hours, so that only the click can end it.
    clicks.js("Math.random = () => -100000");
    clicks.becomes("parseInt(q('#seconds').textContent) > 10000", "true");
    end_gateway();
    server = again(server.port);
    assert_eq!(clicks.js(STATE), "waiting");
    clicks.post(&(clicks.element("#now") + "/click"), "{}");
    for page in [&clicks, &waits] {
        page.becomes(seen, "open,open,false,");
        page.shows(&["plain|one", "plain|two", MISSED]);
    }
    clicks.say("three");
    server.post("/kitchen", "four");
    for page in [&clicks, &waits] {
        page.shows(&["plain|one", "plain|two", MISSED, "said|anonymous|three", "plain|four"]);
    }
    eventually("no page holds a second stream", || server.readers("kitchen") == 2);
}

#[test]
fn markup_stays_text() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    let mut log = Vec::new();
    for text in ["<img src=x onerror=pwned=1>", "<script>pwned=1</script>", "<b onclick='pwned=1'>&lt;b&gt;"] {
        page.js("q('#name').value = ''");
        page.keys("#name", text);
        page.say(text);
        let own_line = format!("said|{text}|{text}");
        log.push(own_line.clone());
        page.shows(&log); // before other messages come
        let (string, number) = (json(text), format!("{{\"name\":7,\"msg\":{}}}", json(text)));
        for body in [&message(text, text), text, &string, &number] {
            server.post("/kitchen", body);
        }
        log.extend([own_line, format!("plain|{text}")]);
        log.extend([format!("plain|{string}"), format!("plain|{number}")]);
        page.shows(&log);
    }
    for (body, text) in [("null", "null"), ("{\"name\":1}", "{\"name\":1}"), ("", ""), ("a\r\nb\rc\n", "a\nb\nc\n")] {
        server.post("/kitchen", body);
        log.push(format!("plain|{text}"));
    }
    page.shows(&log);
    page.reload();
    page.shows(&log);
    assert_eq!(page.js("[...new Set(all('#log *').map(e => e.localName))].sort()"), "b,li,ol,p");
    assert_eq!(page.js("all('#log img, #log script, #log [onclick]').length"), "0");
    assert_eq!(page.js("typeof pwned"), "undefined");
    assert_eq!(page.console(), [""; 0], "no violation of the policy and no error");
    // The second line of defence: markup that does get into the page runs no script. It also proves that the console
    // reports violations.
    page.js("q('#log').insertAdjacentHTML('beforeend', '<img src=x onerror=pwned=1>')");
    eventually("a report of the policy", || page.console().iter().any(|line| line.contains("Content Security Policy")));
    assert_eq!(page.js("typeof pwned"), "undefined");
}

#[test]
fn a_refusal_is_shown_in_the_servers_words() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--max-body", "100"]);
    let page = driver.page(&url(&server, "/kitchen"));
    let long = "x".repeat(200);
    page.keys("#msg", &format!("{long}{ENTER}"));
    page.becomes("q('#error').textContent", tincan::wire::reject::TOO_LARGE.line().trim_end());
    assert_eq!((page.js("q('#msg').value"), page.js("document.activeElement.id")), (long, "msg".into()));
    page.js("q('#msg').value = ''");
    page.say("short");
    page.shows(&["said|anonymous|short"]);
    assert_eq!(page.text("#error"), "");
}

#[test]
fn a_phone_that_slept_gets_a_new_connection() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    server.post("/kitchen", "message 1");
    page.shows(&["plain|message 1"]);
    let streams = || server.stderr().matches(" GET /kitchen?since=").count();
    eventually("its request is in the server's log", || streams() == 1);
    page.js("(real => Date.now = () => real() + 60000)(Date.now)");
    // Messages come while the page changes to the new stream.
    let mut last = 1;
    eventually("a new stream", || {
        last += 1;
        server.post("/kitchen", format!("message {last}"));
        streams() == 2
    });
    last += 1;
    server.post("/kitchen", format!("message {last}"));
    page.shows(&(1..=last).map(|n| format!("plain|message {n}")).collect::<Vec<_>>());
    let asked = server.stderr().rsplit_once("?since=").unwrap().1.lines().next().unwrap().to_string();
    assert!(asked.contains('-') && asked.ends_with(" 200"), "the stream continues from an id: {asked}");
    eventually("the old stream has ended", || server.readers("kitchen") == 1);
    assert_eq!((page.js(STATE).as_str(), streams()), ("open", 2));
}

#[test]
fn three_hundred_messages_are_kept() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--quiet"]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    (1..=400).for_each(|n| drop(server.post("/kitchen", format!("message {n}"))));
    let log: Vec<String> = (101..=400).map(|n| format!("plain|message {n}")).collect();
    let at_the_end = "(l => l.scrollTop > 0 && l.scrollHeight - l.scrollTop - l.clientHeight < 2)(q('#log'))";
    page.shows(&log);
    page.becomes(at_the_end, "true");
    page.reload();
    page.shows(&log);
    page.becomes(at_the_end, "true");
    // The log does not scroll for a user who reads further up.
    page.js("q('#log').addEventListener('scroll', () => scrolled = true), q('#log').scrollTop = 1000");
    page.becomes("typeof scrolled", "boolean");
    server.post("/kitchen", "the end");
    page.becomes("[q('#messages').lastElementChild.textContent, all('li').length]", "the end,300");
    assert_eq!(page.js(at_the_end), "false");
}

#[test]
fn it_works_with_the_keyboard_and_tells_what_things_are() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    let things = [
        ("#log", "log", "Messages"),
        ("#state", "status", ""),
        ("#name", "textbox", "Name"),
        ("#msg", "textbox", "Message"),
        ("#send", "button", "Send"),
        ("h1", "heading", "/kitchen"),
    ];
    for (css, role, label) in things {
        let computed = |property: &str| page.computed(property, css);
        assert_eq!((computed("role").as_str(), computed("label").as_str()), (role, label), "{css}");
    }
    let labels = "['#name', '#msg'].map(css => q(css).labels[0].textContent)";
    assert_eq!((page.js(labels), page.js("q('#error').role")), ("Name,Message".into(), "alert".into()));
    assert_eq!(page.js("document.activeElement.id"), "msg", "the input field has the focus");
    page.js("q('summary').focus()");
    let mut order = Vec::new();
    let link = page.js("q('a')?.id"); // the link of a wing, if there is one
    let known = if link == "lab" { 8 } else { 7 };
    while order.len() < known {
        order.push(page.js("document.activeElement.id || document.activeElement.textContent"));
        let keys = match order.last().unwrap().as_str() {
            "name" => &format!("Ada{TAB}"),
            "msg" => &format!("typed{TAB}"),
            "send" => " ",
            _ => TAB,
        };
        page.keys(":focus", keys);
    }
    let order: Vec<_> = order.iter().map(String::as_str).filter(|at| *at != link).collect();
    assert_eq!(order, ["From a terminal", "Copy", "Copy", "log", "name", "msg", "send"]);
    page.shows(&["said|Ada|typed"]);
    page.becomes("document.activeElement.id", "msg");
    page.keys(":focus", &format!("entered{ENTER}"));
    page.shows(&["said|Ada|typed", "said|Ada|entered"]);
}

#[test]
fn it_fits_a_phone_and_the_dark_and_its_lines_can_be_copied() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    page.is_open();
    page.copies(["Copied", "Selected"], "Copy");
    server.post("/kitchen", message("A name of forty characters, all of them.", &"wide".repeat(200)));
    server.post("/kitchen", "W".repeat(300));
    page.becomes("all('#messages li').length", "2");
    for width in [1280, 375, 320] {
        page.size(width, 667, true);
        page.becomes("innerWidth", &width.to_string());
        page.becomes("document.documentElement.scrollWidth", &width.to_string()); // nothing overflows
        page.becomes("q('#send').getBoundingClientRect().bottom <= innerHeight", "true");
    }
    const LIGHTNESS: &str = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 127";
    for (scheme, light) in [("light", "true"), ("dark", "false")] {
        let params = format!("{{\"features\":[{{\"name\":\"prefers-color-scheme\",\"value\":\"{scheme}\"}}]}}");
        page.cdp("Emulation.setEmulatedMedia", &params);
        page.becomes(LIGHTNESS, light);
    }
}

#[test]
fn a_page_does_not_claim_to_have_missed_what_it_could_not_hear() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--history", "4K"]);
    let page = driver.chromium("en", "normal");
    page.before(STILL); // otherwise the page polls now and then, and learns of these events
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    server.post("/kitchen", "heard");
    page.shows(&["plain|heard"]);
    for _ in 0..100 {
        server.post("/kitchen?event=tick", "a type that nobody listens for");
    }
    page.js(WAKES_UP);
    page.shows(&["plain|heard", MISSED]);
}

#[test]
fn a_browser_asks_for_the_token_and_the_page_then_comes_back_by_itself() {
    let Some(driver) = driver() else { return };
    let (scratch, tokens) = (Scratch::new(), "publish s3same\nread s3same\n");
    let mut server = guarded(&scratch, 0, tokens);
    let kitchen = url(&server, "/kitchen");
    let page = driver.page(&kitchen);
    eventually("the page is refused", || server.stderr().contains(" GET /kitchen 401\n"));
    // The browser's dialog is open. Meanwhile the browser does not even show the line of the refusal.
    assert_eq!(page.js("document.documentElement.textContent.trim()"), "");
    page.open(&signed_url(&server, "s3same"));
    page.open(&kitchen);
    page.is_open();
    page.becomes("/^\\d subscriber/.test(q('#listeners').textContent)", "true");
    page.say("open");
    page.shows(&["said|anonymous|open"]);
    if let Some(dir) = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from) {
        std::fs::create_dir_all(&dir).unwrap();
        page.shot(&dir.join("token.png"));
    }
    server.kill();
    page.becomes(STATE, "connecting");
    server = guarded(&scratch, server.port, tokens);
    page.is_open();
    page.say("again");
    page.shows(&["said|anonymous|open", MISSED, "said|anonymous|again"]);
    assert!(
        !server.stderr().contains(" 401\n"),
        "the browser sends the token without a challenge: {}",
        server.stderr()
    );
}

#[test]
fn who_may_only_read_hears_and_is_told_when_sending() {
    let Some(driver) = driver() else { return };
    for (tokens, read) in [("publish s3same\nread r3ad\n", Some("r3ad")), ("publish s3same\n", None)] {
        let server = guarded(&Scratch::new(), 0, tokens);
        let kitchen = url(&server, "/kitchen");
        let page = driver.page(&read.map_or(kitchen.clone(), |token| signed_url(&server, token)));
        page.open(&kitchen);
        page.is_open();
        assert_eq!(
            server.stderr().contains(" 401\n"),
            read.is_some(),
            "a challenge only if reading needs a token: {}",
            server.stderr()
        );
        server.post_with("/kitchen", "Authorization: Bearer s3same\r\n", "soup is ready");
        page.shows(&["plain|soup is ready"]);
        // The browser asks its user for a token. If the user cancels, the page gets the 401. A request without
        // credentials does the same.
        page.js("window.fetch = (real => (url, o) => real(url, { ...o, credentials: 'omit' }))(fetch)");
        page.keys("#msg", &format!("thanks{ENTER}"));
        page.becomes("q('#error').textContent", tincan::wire::reject::PUBLISH_TOKEN.line().trim_end());
        assert_eq!(page.js("[q('#msg').value, q('#send').disabled, q('#state').dataset.state]"), "thanks,false,open");
        page.shows(&["plain|soup is ready"]);
    }
}

#[test]
fn a_token_for_publishing_does_not_push_out_the_one_for_reading() {
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish s3same\nread r3ad\n");
    let page = driver.page(&signed_url(&server, "r3ad"));
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    // This request does the same as a user who types the other token into the browser's dialog.
    page.js("(window.posted = new XMLHttpRequest()).open('POST', '/kitchen', true, 'any', 's3same')");
    page.js("posted.send('said')");
    page.becomes("posted.status", "200");
    page.shows(&["plain|said"]);
    // The page that was opened first may have had a stream as well, and the browser may try without a token first.
    let streams =
        || server.stderr().lines().filter(|l| l.contains(" GET /kitchen?since=") && l.ends_with(" 200")).count();
    let before = streams();
    page.js(WAKES_UP);
    eventually("a new stream", || streams() > before);
    page.is_open();
}

#[test]
fn a_page_that_was_opened_with_its_token_in_the_url_can_say_something() {
    let Some(driver) = driver() else { return };
    let server = guarded(&Scratch::new(), 0, "publish s3same\nread s3same\n");
    let page = driver.page(&signed_url(&server, "s3same"));
    page.is_open();
    page.keys("#msg", &format!("soup{ENTER}"));
    page.shows(&["said|anonymous|soup"]);
    assert_eq!(page.text("#curl-listen"), format!("curl -N {}", url(&server, "/kitchen")), "the page shows no token");
}

#[test]
fn pictures() {
    let Some(dir) = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from) else { return };
    let Some(driver) = driver() else { return };
    std::fs::create_dir_all(&dir).unwrap();
    let mut server = Tincan::start(&["--retry", "200"]);
    let (page, other) = (driver.page(&url(&server, "/kitchen")), driver.page(&url(&server, "/kitchen")));
    let shot = |name: &str| page.shot(&dir.join(name));
    page.size(1280, 800, false);
    other.is_open();
    page.becomes("q('#listeners').textContent", "2 subscribers");
    shot("empty.png");
    let recipe = "For whoever asks: sweat the leeks in butter, add the potatoes and the stock, wait for twenty minutes, \
                  blend, and be generous with the pepper. https://example.org/recipes/leek-and-potato-soup";
    for (name, msg) in [
        ("Ada", "Who is cooking tonight?"),
        ("Bob", "Me. Leek and potato soup, and there is bread left from yesterday."),
        ("Maximiliane von Hohenstein", "I bring cheese, and a long name."),
    ] {
        server.post("/kitchen", message(name, msg));
    }
    page.becomes("all('li').length", "3");
    server.kill();
    page.becomes(STATE, "connecting");
    server = again(server.port);
    page.becomes("all('li').pop().className", "gap");
    server.post("/kitchen", "soup is ready");
    for (name, msg) in [("Bob", recipe), ("Ada", "Coming!"), ("Zoë", "Two minutes, I am still on the stairs")] {
        server.post("/kitchen", message(name, msg));
    }
    page.keys("#name", "Ada");
    page.keys("#msg", "Save me a bowl");
    page.becomes("[all('li').length, q('#listeners').textContent]", "8,2 subscribers");
    shot("wide.png");
    page.cdp("Emulation.setEmulatedMedia", "{\"features\":[{\"name\":\"prefers-color-scheme\",\"value\":\"dark\"}]}");
    shot("dark.png");
    page.cdp("Emulation.setEmulatedMedia", "{\"features\":[]}");
    page.size(375, 667, true);
    shot("phone.png");
    page.size(1280, 800, false);
    server.kill();
    let _gateway = bad_gateway(server.port);
    page.becomes("parseInt(q('#seconds').textContent) > 2", "true");
    page.keys("#msg", ENTER);
    page.becomes("q('#error').textContent", "the server responded with 502 Bad Gateway");
    shot("waiting.png");
}

//! Accessibility of the pages. axe-core checks them, and further tests check what axe does not see: the contrast of
//! each text on each possible background, the size of letters and of targets, the visibility of the focus, and
//! whether everything fits.
//!
//! `TINCAN_AXE` is the path of an `axe.min.js` (`.ci/run` fetches it). If it is not set, the test with axe is left
//! out.

use crate::support::browser::{Driver, ENTER, Page, driver, message, url};
use crate::support::harness::*;
use std::path::PathBuf;
use tincan::wire::event::json;

/// The languages, and the looks in which each page is checked in them.
pub const LANGUAGES: [(&str, &[Look]); 2] = [
    ("en", &[("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]),
    ("zh-CN", &[("light", 1280), ("dark", 390)]),
];
/// The colour scheme and the width of the window.
pub type Look = (&'static str, u32);

/// Rules that axe does not apply by default, and that hold here.
const MORE_RULES: &str = "['target-size', 'css-orientation-lock', 'label-content-name-mismatch', 'p-as-heading', \
    'table-fake-caption', 'td-has-header', 'focus-order-semantics']";

impl Page<'_> {
    pub fn looks(&self, (scheme, width): Look) {
        let feature = |name: &str, value: &str| format!("{{\"name\":\"{name}\",\"value\":\"{value}\"}}");
        let scheme = feature("prefers-color-scheme", scheme);
        self.cdp("Emulation.setEmulatedMedia", &format!("{{\"features\":[{scheme}]}}"));
        self.size(width, 900, width < 500);
        self.becomes("innerWidth", &width.to_string());
    }
}

/// A page in one of its states: the state's name, the page's path, and a function that brings the page into this
/// state.
pub type Scene = (&'static str, &'static str, fn(&Page, &mut Tincan));

const SCENES: [Scene; 3] = [
    ("an empty channel", "/", |page, _| page.is_open()),
    ("a channel with messages, a gap and an error", "/kitchen", talk),
    ("a channel whose server is gone", "/kitchen", |page, server| {
        page.is_open();
        server.kill();
        page.becomes("q('#state').dataset.state", "connecting");
        page.js("showState('waiting', 3)");
    }),
];

/// Fills the chat page with messages and everything else that it can show.
fn talk(page: &Page, server: &mut Tincan) {
    page.is_open();
    for name in ["Ada", "Bob", "Cy", "Dora", "Eve", "Fay", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou", "Max", "Noa"] {
        server.post("/kitchen", message(name, &format!("{name} was here")));
    }
    server.post("/kitchen", message("A name of forty characters, all of them.", &"wide".repeat(200)));
    server.post("/kitchen", "W".repeat(300));
    server.post("/kitchen", "");
    page.becomes("all('#messages li').length", "17");
    page.js("show({ gap: 1 })");
    page.becomes("all('#messages .gap').length", "1");
    page.js("(q('#terminal').open = true)");
    server.kill(); // so that sending fails
    page.keys("#msg", &format!("x{ENTER}"));
    page.becomes("q('#error').textContent !== ''", "true");
}

/// Brings each page into each state, in some of the [`LANGUAGES`]. Fails with a list of all findings.
fn everywhere(
    driver: &Driver, scenes: &[Scene], languages: &[(&str, &[Look])], before: &str,
    find: impl Fn(&Page, &[Look]) -> Vec<String>,
) {
    let mut found = Vec::new();
    for (language, looks) in languages {
        let page = driver.chromium(language, "normal");
        page.before(before);
        for (scene, path, bring) in scenes {
            let mut server = Tincan::start(&["--retry", "200"]);
            page.looks(looks[0]);
            page.open("about:blank"); // a URL that differs only in its fragment would not load the page
            page.open(&url(&server, path));
            bring(&page, &mut server);
            found.extend(find(&page, looks).iter().map(|finding| format!("{scene} ({language}), {finding}")));
        }
    }
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

/// Runs axe. A finding has the rule, the element and the explanation. If axe cannot decide about something, this is a
/// finding as well, except for two rules. Another test checks contrasts. And in the lab's table some lines are
/// headings of the lines below them.
const AXE: &str =
    "void (window.told = undefined, axe.run({ rules: Object.fromEntries(RULES.map(id => [id, { enabled: true }])) })
    .then(({ violations, incomplete }) => [...violations,
        ...incomplete.filter(({ id }) => !['color-contrast', 'th-has-data-cells'].includes(id))]
        .flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary = '' }) =>
            [id, target.join(' '), failureSummary.replace(/\\s+/g, ' ')].join(': '))).join('\\n'))
    .catch(String).then(text => window.told = text))";

#[test]
fn axe_finds_nothing() {
    axe(&SCENES);
}

/// Asserts that axe has no findings on these pages.
pub fn axe(scenes: &[Scene]) {
    let Some(driver) = driver() else { return };
    let Some(path) = std::env::var_os("TINCAN_AXE") else {
        return eprintln!("left out: TINCAN_AXE does not name an axe.min.js (of axe-core)");
    };
    let axe = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    everywhere(&driver, scenes, &LANGUAGES, &axe, |page, looks| {
        let mut found = Vec::new();
        for look in looks {
            page.looks(*look);
            page.js(&AXE.replace("RULES", MORE_RULES));
            page.becomes("typeof told", "string");
            found.extend(page.js("told").lines().map(|line| format!("{look:?}: {line}")));
        }
        found
    });
}

/// Defines `told()`, which checks all visible texts. It lists those whose contrast is under 4.5, and those whose
/// letters are small. A canvas computes the colours, in any notation, with transparent ones drawn over each other.
const TEXTS: &str = r#"(() => {
    const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const luminance = colours => {
        context.clearRect(0, 0, 1, 1);
        for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(n => n / 255)
            .map(n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratios = new Map();
    const ratio = colours => {
        const key = colours.join();
        if (!ratios.has(key)) {
            const [a, b] = [luminance(colours), luminance(colours.slice(0, -1))];
            ratios.set(key, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
        }
        return ratios.get(key);
    };
    const path = node => {
        const at = node.closest('tr, li, p, dd, dt, [id]') ?? node;
        return `${at.localName}#${at.id}.${at.className} ${node.localName}.${node.className.baseVal ?? node.className}`;
    };
    // The colours below a text, from the canvas upwards.
    const below = node => {
        const colours = [];
        for (let at = node; at; at = at.parentElement) colours.unshift(getComputedStyle(at).backgroundColor);
        return colours.filter(colour => colour !== 'rgba(0, 0, 0, 0)');
    };
    window.told = () => {
        const told = new Set();
        const look = (node, pseudo, text) => {
            const style = getComputedStyle(node, pseudo);
            const size = parseFloat(style.fontSize);
            if (size === 0) return;                       // another text replaces it
            if (size < 12) told.add(`${path(node)} ${pseudo ?? ''} ${size}px: ${text}`);
            if (node.closest(':disabled')) return;
            const colour = node instanceof SVGElement ? style.fill : style.color;
            const found = ratio([...below(node), colour]);
            if (found < 4.5) told.add(`${path(node)} ${pseudo ?? ''} ${found.toFixed(2)}: ${text}`);
        };
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let node; node = walker.nextNode();) {
            const text = node.data.trim().slice(0, 40);
            if (text && node.parentElement.checkVisibility()) look(node.parentElement, null, text);
        }
        for (const node of document.querySelectorAll('body *')) {
            if (!node.checkVisibility()) continue;
            for (const pseudo of ['::before', '::after']) {
                const { content } = getComputedStyle(node, pseudo);
                if (!/^(none|normal|"")$/.test(content)) look(node, pseudo, content);
            }
            if (node.placeholder) look(node, '::placeholder', node.placeholder);
            if (/^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName)) look(node, null, node.value);
        }
        return [...told].join('\n');
    };
})()"#;

#[test]
fn each_text_can_be_read_on_whatever_it_can_stand() {
    contrasts(&SCENES);
}

/// Asserts that each text of these pages has enough contrast and size.
pub fn contrasts(scenes: &[Scene]) {
    let Some(driver) = driver() else { return };
    everywhere(&driver, scenes, &LANGUAGES[..1], "", |page, looks| {
        page.js(TEXTS);
        let mut found = Vec::new();
        for look in looks {
            page.looks(*look);
            // Each row of the table can be pointed at, and can belong to the row that is pointed at.
            for marks in ["", "here", "same", "here same"] {
                let rows = page.js(&format!(
                    "all('#wire tbody tr').map(({{ classList }}) => (classList.remove('here', 'same'), \
                     classList.value += ' {marks}')).length"
                ));
                found.extend(page.js("told()").lines().map(|line| format!("{look:?} {marks}: {line}")));
                if rows == "0" {
                    break;
                }
            }
        }
        found
    });
}

/// Lists targets that are too small for a finger or a mouse. Links in a sentence are not counted (WCAG 2.2, 2.5.8).
const TARGETS: &str =
    "all('a, button, summary, input, select, textarea').filter(e => e.checkVisibility()).filter(e => {
        const { width, height } = e.getBoundingClientRect();
        return Math.min(width, height) < 24;
    }).map(e => `${e.localName}#${e.id}: ${e.textContent}`).join()";

/// Lists elements that overflow at the right.
const OUTSIDE: &str = "(root => root.scrollWidth <= root.clientWidth ? '' : all('body *').filter(e => e.checkVisibility() &&
    e.getBoundingClientRect().right > root.clientWidth).map(e => `${e.localName}#${e.id}.${e.className}`).slice(0, 5).join()
    )(document.documentElement)";

#[test]
fn all_fits_and_can_be_hit_however_small_the_window_or_large_the_letters() {
    fits(&SCENES);
}

/// Asserts that everything on these pages fits, and that each target is large enough.
pub fn fits(scenes: &[Scene]) {
    let Some(driver) = driver() else { return };
    everywhere(&driver, scenes, &LANGUAGES, "", |page, _| {
        let mut found = Vec::new();
        for (width, height, letters) in
            [(1280, 900, "100%"), (1280, 900, "200%"), (640, 450, "100%"), (320, 256, "100%")]
        {
            page.size(width, height, false);
            page.js(&format!("document.documentElement.style.fontSize = '{letters}'"));
            page.becomes("innerWidth", &width.to_string());
            // A plot is drawn again after its size has changed.
            page.js(
                "void (window.drawn = false, requestAnimationFrame(() => requestAnimationFrame(() => drawn = true)))",
            );
            page.becomes("drawn", "true");
            let narrow =
                "all('#log, #scroll').filter(e => e.clientHeight < Math.min(96, e.scrollHeight)).map(e => e.id).join()";
            for (fault, elements) in
                [("sticks out", OUTSIDE), ("is too small", TARGETS), ("is too low to read", narrow)]
            {
                let elements = page.js(elements);
                if !elements.is_empty() {
                    found.push(format!("{width}x{height} {letters}: {fault}: {elements}"));
                }
            }
        }
        // The user may set wider spacing of letters, words and lines (WCAG 2.2, 1.4.12).
        page.size(640, 450, false);
        page.becomes("innerWidth", "640");
        page.js("(window.spaced = new CSSStyleSheet(), spaced.replaceSync('* { line-height: 1.5 !important; \
            letter-spacing: .12em !important; word-spacing: .16em !important }'), document.adoptedStyleSheets = [spaced])");
        let elements = page.js(OUTSIDE);
        if !elements.is_empty() {
            found.push(format!("with more room it sticks out: {elements}"));
        }
        found
    });
}

/// Presses a key once, wherever the focus is.
pub fn press(page: &Page, key: &str, code: u32) {
    for kind in ["keyDown", "keyUp"] {
        let key = json(key);
        let params = format!("{{\"type\":\"{kind}\",\"key\":{key},\"code\":{key},\"windowsVirtualKeyCode\":{code}}}");
        page.cdp("Input.dispatchKeyEvent", &params);
    }
}

/// Describes what is wrong with the element that has the focus: it has no outline, or another element covers it.
const UNSEEN: &str = "(e => {
    const { outlineStyle, outlineWidth } = getComputedStyle(e);
    const { left, top, right, bottom } = e.getBoundingClientRect();
    const y = (Math.max(top, 0) + Math.min(bottom, innerHeight)) / 2;
    return [outlineStyle === 'none' || parseFloat(outlineWidth) < 2 ? 'no line' : '',
        e.contains(document.elementFromPoint((left + right) / 2, y)) ? '' : 'covered'].join(' ').trim();
    })(document.activeElement)";

#[test]
fn the_focus_can_always_be_seen() {
    focus(&SCENES);
}

/// Asserts that the focus is always visible on these pages.
pub fn focus(scenes: &[Scene]) {
    let Some(driver) = driver() else { return };
    everywhere(&driver, scenes, &LANGUAGES[..1], "", |page, _| {
        page.size(1280, 700, false);
        page.js("(document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute('tabindex'))");
        let mut found = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        let mut nowhere = 0;
        loop {
            press(page, "Tab", 9);
            let at = page.js("all('body *').indexOf(document.activeElement) + ' ' + document.activeElement.id");
            if at.starts_with("-1") && nowhere < 5 {
                // After the last element, or on a button that has just been hidden; next comes the first element.
                nowhere += 1;
                continue;
            }
            if at.starts_with("-1") || seen.contains(&at) {
                break;
            }
            // The page scrolls when it is drawn the next time, and content that arrives meanwhile may move it.
            let mut unseen = page.js(UNSEEN);
            for _ in 0..20 {
                if !unseen.is_empty() {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    unseen = page.js(UNSEEN);
                }
            }
            // The button "now" is hidden while the page connects. Then it loses the focus.
            if page.js("document.activeElement === document.body") == "true" {
                continue;
            }
            if !unseen.is_empty() {
                found.push(format!("{at}: {unseen}"));
            }
            seen.push(at);
        }
        assert!(seen.len() > 5, "{seen:?}");
        found
    });
}

#[test]
fn pictures() {
    photographed(&SCENES);
}

/// Takes pictures of these pages, if `TINCAN_SHOTS` is set.
pub fn photographed(scenes: &[Scene]) {
    let Some(dir) = std::env::var_os("TINCAN_SHOTS").map(PathBuf::from) else { return };
    let Some(driver) = driver() else { return };
    std::fs::create_dir_all(&dir).unwrap();
    let n = std::cell::Cell::new(0);
    everywhere(&driver, scenes, &LANGUAGES, "", |page, looks| {
        n.set(n.get() + 1);
        for (scheme, width) in looks {
            page.looks((scheme, *width));
            page.shot(&dir.join(format!(
                "{}-{}-{scheme}-{width}.png",
                std::thread::current().name().unwrap_or_default().replace("::", "-"),
                n.get()
            )));
        }
        Vec::new()
    });
}

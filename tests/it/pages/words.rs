//! The pages in Chinese and in English. Their tables have each word that is used and no other. The chat page's table
//! has no word that only other pages use.

use crate::support::browser::*;
use crate::support::harness::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_to_string};
use std::path::Path;
use tincan::server::pages;
use tincan::wire::event::json;

/// Lists every word on a page: attributes, and text except for messages and words that are the same in any language.
const ALL: &str = "((texts, found) => {
    while (texts.nextNode()) {
        const node = texts.currentNode;
        if (node.data.trim() && !node.parentElement.closest('code, h1, noscript')) found.push(node.data.trim());
    }
    const names = ['aria-label', 'placeholder', 'title', 'alt', 'data-empty'];
    return found.concat(all('*').flatMap(e => names.map(name => e.getAttribute(name)).filter(Boolean))).join(' | ');
})(document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), [document.documentElement.lang])";

const ENGLISH: &str = "en | 1 subscriber | open | reconnect now | From a terminal | This channel is a URL. Everyone who has it open \
    receives what is posted to it. | Listen | Copy | Say | Copy | 3 messages are missing here | Name | Message | Send | Messages | (empty) | anonymous";
const CHINESE: &str = "zh-CN | 1 个订阅者 | 已连接 | 立即重连 | 在终端中使用 | 这个频道就是一个 URL。向它 POST 的内容，\
    所有打开它的人都能收到。 | 订阅 | 复制 | 发布 | 复制 | 这里漏掉了 3 条消息 | 昵称 | 消息 | 发送 | 消息列表 | （空） | 匿名";

#[test]
fn the_page_speaks_the_language_that_the_browser_asks_for() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    for (n, (languages, expected)) in [
        ("en-US,en", ENGLISH),
        ("zh-CN,zh,en", CHINESE),
        ("zh-TW", CHINESE),
        ("fr", ENGLISH),
        ("fr,zh-CN,en", CHINESE),
        ("en,zh-CN", ENGLISH),
    ]
    .iter()
    .enumerate()
    {
        let page = driver.chromium(languages, "normal");
        page.open(&url(&server, &format!("/kitchen-{n}")));
        page.is_open();
        page.becomes("/^1 /.test(q('#listeners').textContent)", "true");
        page.js("show({ gap: 3 })"); // the line about a gap
        server.post(&format!("/kitchen-{n}"), "");
        page.becomes("all('#messages li').length", "2");
        page.js("all('a').forEach(e => e.remove())"); // links to wings
        assert_eq!(page.js(ALL), *expected, "{languages}");
        assert_eq!(page.js("getComputedStyle(q('.text'), '::before').content !== 'none'"), "true");
    }
}

#[test]
fn what_the_chinese_page_tells_later_is_chinese_too() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "200"]);
    let page = driver.chromium("zh-CN", "normal");
    page.open(&url(&server, "/kitchen"));
    page.is_open();
    page.becomes("q('#listeners').textContent", "1 个订阅者");
    server.post("/kitchen", message("小明", "汤好了"));
    page.say("谢谢");
    page.shows(&["said|小明|汤好了", "said|匿名|谢谢"]);
    page.js("q('#terminal').open = true");
    page.copies(["已复制", "已选中"], "复制");
    page.becomes("all('.copy').map(e => e.textContent)", "复制,复制");
    server.kill();
    page.becomes("q('#word').textContent", "正在连接…");
    let error = "q('#error').textContent";
    page.keys("#msg", &format!("1{ENTER}"));
    page.becomes(error, "无法连接到服务器");
    let end_gateway = bad_gateway(server.port);
    page.becomes("q('#word').textContent", "等待重连");
    page.becomes("/^\\d+ 秒$/.test(q('#seconds').textContent) && q('#now').checkVisibility()", "true");
    page.keys("#msg", ENTER);
    page.becomes(error, "服务器返回了 502 Bad Gateway");
    page.js("(window.setTimeout = (real => (call, ms) => real(call, ms === PATIENCE ? 0 : ms))(setTimeout), \
             window.fetch = (url, { signal }) => new Promise((_, fail) => { signal.onabort = fail; }))");
    page.keys("#msg", ENTER);
    page.becomes(error, "服务器没有响应");
    end_gateway();
    let _server = again(server.port);
    page.is_open();
    page.shows(&["said|小明|汤好了", "said|匿名|谢谢", "gap|这里可能漏掉了一些消息"]);
}

/// Returns the files in these folders whose names end with `end`, by name.
fn files(folders: &[&str], end: &str) -> BTreeMap<String, String> {
    let folders: Vec<_> = folders.iter().map(|name| format!("{}/static/{name}", env!("CARGO_MANIFEST_DIR"))).collect();
    let paths = folders.iter().flat_map(|folder| read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.to_string_lossy().ends_with(end));
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().to_string();
    paths.map(|path| (name(&path), read_to_string(&path).unwrap())).collect()
}

/// Returns the elements of an expression's value.
fn list(page: &Page, expression: &str) -> BTreeSet<String> {
    page.js(&format!("[...{expression}].join('\\n')")).lines().map(String::from).collect()
}

/// Lists the scripts that the page loads, each with the value of its attribute `blocking`.
const SCRIPTS: &str =
    "all('script').map(e => e.getAttribute('src').slice('/assets/'.length) + ' ' + e.getAttribute('blocking'))";

/// Returns the names of the tables that this page has loaded. They must come before its other scripts, and before
/// anything is shown.
fn tables(page: &Page) -> Vec<String> {
    let scripts = page.js(SCRIPTS);
    let scripts: Vec<_> = scripts.split(',').collect();
    let tables: Vec<_> = scripts.iter().map_while(|script| script.strip_suffix(" render")).map(String::from).collect();
    assert_eq!(tables[0], "words.js");
    assert!(tables.iter().all(|name| name.ends_with("words.js")), "{scripts:?}");
    assert!(scripts[tables.len()..].iter().all(|script| !script.contains("words.js")), "{scripts:?}");
    tables
}

/// Returns the keys of each table.
fn keys(page: &Page, folders: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let mut keys = BTreeMap::from([("words.js".to_string(), list(page, "Object.keys(WORDS)"))]);
    for (name, _) in files(folders, "-words.js") {
        page.js(&format!(
            "(window.added = null, window.addWords = words => {{ window.added = Object.keys(words); }}, \
             document.head.append(Object.assign(document.createElement('script'), {{ src: '/assets/{name}' }})))"
        ));
        page.becomes("window.added !== null", "true");
        keys.insert(name, list(page, "window.added"));
    }
    keys
}

/// Returns the words of its tables that a page uses. The tables must have all words that it uses.
fn used(page: &Page, folders: &[&str], name: &str, html: &str) -> BTreeSet<String> {
    let table = list(page, "Object.keys(WORDS)");
    page.js(&format!("window.file = new DOMParser().parseFromString({}, 'text/html')", json(html)));
    let words = "[...file.querySelectorAll('*')].flatMap(node => [...node.attributes].filter(a => \
        a.name.startsWith('data-word')).map(a => [a.value, a.name.slice(10) ? \
        node.getAttribute(a.name.slice(10)) : node.textContent]))";
    let mut used = list(page, &format!("{words}.map(([key]) => key)"));
    used.remove("");
    assert_eq!(used.difference(&table).collect::<Vec<_>>(), [""; 0], "{name}: words that its tables lack");
    let differs = format!("{words}.filter(([key, text]) => text !== word(key)).map(([key]) => key)");
    assert_eq!(page.js(&differs), "", "{name}: the tables have other texts for these words");

    let scripts = list(page, SCRIPTS);
    for (script, code) in files(folders, ".js").iter().filter(|(name, _)| scripts.contains(&format!("{name} null"))) {
        // A key is in quotes, or it is composed. For a composed key, each word that fits counts as used.
        let made = format!("{}.matchAll(/`((?:lab|ways)-[^`]*)`/g)", json(code));
        let fits = "new RegExp('^' + m[1].replace(/\\$\\{[\\w.]+\\}/g, m[1].split('$').length > 2 ? '[\\\\w-]+' : '\\\\w+') + '$')";
        used.extend(list(
            page,
            &format!("[...{made}].flatMap(m => Object.keys(WORDS).filter(key => {fits}.test(key)))"),
        ));
        used.extend(table.iter().filter(|key| code.contains(&format!("'{key}'"))).cloned());
        for call in code.split("word('").skip(1) {
            let key = call.split('\'').next().unwrap();
            assert!(table.contains(key), "{name}: the tables have no {key}, for {script}");
        }
    }
    used
}

#[test]
fn no_word_is_missing_or_left_over_or_differs_from_what_the_page_says_without_scripts() {
    words(&["common", "chat"], &[("chat.html", "/kitchen")]);
}

/// Asserts that the tables of the pages in these folders have each word that is used and no other. `pages` are all
/// pages of the folders.
pub fn words(folders: &[&str], pages: &[(&str, &str)]) {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    let keys = keys(&page, folders);
    assert!(keys.len() == pages.len() && keys["words.js"].len() > 20, "{keys:?}");
    let mut left_over = keys.clone();
    let html = files(folders, ".html");
    for &(name, path) in pages {
        page.open(&url(&server, path));
        let tables = tables(&page);
        let all: Vec<_> = tables.iter().flat_map(|table| &keys[table]).cloned().collect();
        assert_eq!(
            all.len(),
            page.js("Object.keys(WORDS).length").parse::<usize>().unwrap(),
            "{name}: a word is in two tables"
        );
        assert_eq!(BTreeSet::from_iter(all), list(&page, "Object.keys(WORDS)"), "{name}");
        // Words that both languages take from the standard, such as `readyState`, may be the same.
        let wrong = "Object.entries(WORDS).filter(([key, [en, zh, ...more]]) => {
            const values = text => [...new Set(text.match(/\\{\\w+\\}/g))].sort().join();
            return more.length > 0 || !en || /\\p{Script=Han}/u.test(en) || !(/[\\p{Script=Han}：]/u.test(zh) || zh === en) ||
                en.split('|').length > 2 || zh.includes('|') || values(en) !== values(zh);
        }).map(([key]) => key)";
        assert_eq!(
            page.js(wrong),
            "",
            "{name}: each word has a text in English and one in Chinese, with the same placeholders"
        );
        let defined_here = "all('[data-zh]').filter(e => /\\p{Script=Han}/u.test(e.textContent) || !/\\p{Script=Han}/u.test(e.dataset.zh))";
        assert_eq!(
            page.js(&format!("{defined_here}.map(e => e.outerHTML)")),
            "",
            "{name}: so has each word that the page itself defines"
        );

        let used = used(&page, folders, name, &html[name]);
        for table in &tables {
            left_over.get_mut(table).unwrap().retain(|key| !used.contains(key));
        }
        if name == "chat.html" {
            assert_eq!(
                left_over["words.js"],
                BTreeSet::new(),
                "words that the chat page does not use belong in other tables"
            );
        }
    }
    assert!(left_over.values().all(BTreeSet::is_empty), "{left_over:?}");
}

/// Without its wings the server embeds only `static/common/` and `static/chat/`. So nothing there refers to other
/// folders.
#[test]
fn the_chat_page_stands_alone() {
    let root = format!("{}/static", env!("CARGO_MANIFEST_DIR"));
    let folders = ["common", "chat"].map(|name| read_dir(format!("{root}/{name}")).unwrap());
    let mut paths: Vec<_> = folders.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|extension| extension != "png")); // the picture of the README
    assert_eq!(paths.len(), 1 + pages::FILES.len());
    for path in paths {
        let text = read_to_string(&path).unwrap();
        for asset in text.split("/assets/").skip(1) {
            let name = asset.split(['"', '\'']).next().unwrap();
            assert!(pages::FILES.iter().any(|file| file.0 == name), "{}: {name}", path.display());
        }
        let mut words = text.split(|c: char| !c.is_alphanumeric());
        let named = words.find(|word| ["lab", "lesson", "lessons", "tap"].contains(word));
        assert_eq!(named, None, "{}", path.display());
    }
    let plain_page = String::from_utf8(pages::chat("")).unwrap();
    assert!(!plain_page.contains("<a ") && !plain_page.contains("further"), "{plain_page}");
}

//! The pages in Chinese and in English: one table, which has each word that is used and no other.

use crate::browser::*;
use crate::harness::*;
use std::collections::BTreeSet;
use std::fs::{read_dir, read_to_string};
use tincan::wire::event::json;

/// Every word on a page: text, but for what others said and what is the same in any language; and attributes.
const ALL: &str = "((texts, found) => {
    while (texts.nextNode()) {
        const node = texts.currentNode;
        if (node.data.trim() && !node.parentElement.closest('code, h1, noscript')) found.push(node.data.trim());
    }
    const names = ['aria-label', 'placeholder', 'title', 'alt', 'data-empty'];
    return found.concat(all('*').flatMap(e => names.map(name => e.getAttribute(name)).filter(Boolean))).join(' | ');
})(document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), [document.documentElement.lang])";

const ENGLISH: &str = "en | 1 listener | open | now | From a terminal | This channel is a URL: what is posted to it, \
    everyone who has it open hears. | Listen | Copy | Say | Copy | \
    See each byte of it in the wire lab | 3 messages were missed here | Name | Message | Send | Messages | (empty) | anonymous";
const CHINESE: &str = "zh-CN | 1 个连接在收听 | 已连接 | 立即重连 | 从终端使用 | 频道就是一个 URL：向它 POST \
    的内容，打开它的人都能收到。 | 收听 | 复制 | 发言 | 复制 | \
    在实验室里查看它的每个字节 | 这里漏掉了 3 条消息 | 昵称 | 消息 | 发送 | 消息列表 | （空） | 匿名";

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
        page.js("show({ gap: 3 })"); // what the line tells of a gap
        server.post(&format!("/kitchen-{n}"), "");
        page.becomes("all('#messages li').length", "2");
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
    page.becomes("q('#listeners').textContent", "1 个连接在收听");
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
    page.becomes(error, "无法连接服务器");
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

/// The files of the pages that end like this.
fn files(end: &str) -> Vec<(String, String)> {
    let paths = read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/static")).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.to_string_lossy().ends_with(end));
    paths.map(|path| (path.to_string_lossy().to_string(), read_to_string(&path).unwrap())).collect()
}

#[test]
fn no_word_is_missing_or_left_over_or_differs_from_what_the_page_says_without_scripts() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&[]);
    let page = driver.page(&url(&server, "/kitchen"));
    let list = |expression: &str| -> BTreeSet<String> { page.js(expression).lines().map(String::from).collect() };
    let table = list("Object.keys(WORDS).join('\\n')");
    assert!(table.len() > 20, "{table:?}");
    // What both languages have from the standard, such as `readyState`, may be the same.
    let wrong = "Object.entries(WORDS).filter(([key, [en, zh, ...more]]) => {
        const values = text => [...new Set(text.match(/\\{\\w+\\}/g))].sort().join();
        return more.length > 0 || !en || /\\p{Script=Han}/u.test(en) || !(/[\\p{Script=Han}：]/u.test(zh) || zh === en) ||
            en.split('|').length > 2 || zh.includes('|') || values(en) !== values(zh);
    }).map(([key]) => key)";
    assert_eq!(page.js(wrong), "", "each has a text in English and one in Chinese, with the same values in it");

    let mut used = BTreeSet::new();
    for (name, html) in files(".html") {
        page.js(&format!("window.file = new DOMParser().parseFromString({}, 'text/html')", json(&html)));
        let words = "[...file.querySelectorAll('*')].flatMap(node => [...node.attributes].filter(a => \
            a.name.startsWith('data-word')).map(a => [a.value, a.name.slice(10) ? \
            node.getAttribute(a.name.slice(10)) : node.textContent]))";
        used.extend(list(&format!("{words}.map(([key]) => key).join('\\n')")));
        let differs = format!("{words}.filter(([key, text]) => text !== word(key)).map(([key]) => key)");
        assert_eq!(page.js(&differs), "", "{name}: the table says it in other words");
    }
    for (name, script) in files(".js").iter().filter(|(name, _)| !name.ends_with("/words.js")) {
        // A key stands in quotes, or is put together: then whatever fits is taken for used.
        let made = format!("{}.matchAll(/`((?:lab|ways)-[^`]*)`/g)", json(script));
        let fits = "new RegExp('^' + m[1].replace(/\\$\\{[\\w.]+\\}/g, m[1].split('$').length > 2 ? '[\\\\w-]+' : '\\\\w+') + '$')";
        used.extend(list(&format!(
            "[...{made}].flatMap(m => Object.keys(WORDS).filter(key => {fits}.test(key))).join('\\n')"
        )));
        used.extend(table.iter().filter(|key| script.contains(&format!("'{key}'"))).cloned());
        for call in script.split("word('").skip(1) {
            let key = call.split('\'').next().unwrap();
            assert!(table.contains(key), "{name}: the table has no {key}");
        }
    }
    used.remove("");
    assert_eq!(table, used);
}

'use strict';
// The texts of the pages, in English and in Chinese. The page uses the language that comes first in the browser's list
// of languages, and English if the list has neither. Texts of the server (one line of English) are shown unchanged.
//
//   <p data-word="say">Say</p>                   gets the text of this key; without such a key it is unchanged
//   <input data-word-placeholder="anonymous">    gets this attribute; aria-label and title work in the same way
//   <a data-zh="频道">Channel</a>                 contains its Chinese text itself
//   word('missed', { n: 3 })                     returns a text for a script. {n} is replaced by 3. If a text has the
//                                                form "one|many", the first part is for n = 1
//
// This table has the texts of the chat page. The other pages load further tables after this file.

const WORDS = {};
const chinese = /^zh\b/i.test(navigator.languages.find(tag => /^(en|zh)\b/i.test(tag)));

function word(key, values = {}) {
  const [one, many = one] = WORDS[key][Number(chinese)].split('|');
  return (values.n === 1 ? one : many).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// Adds texts to the table, and puts them into the page.
function addWords(words) {
  Object.assign(WORDS, words);
  for (const node of document.querySelectorAll('*')) {
    for (const { name, value } of [...node.attributes]) {
      if (!name.startsWith('data-word') || !(value in words)) continue;
      const attribute = name.slice('data-word-'.length);
      if (attribute) node.setAttribute(attribute, word(value));
      else node.textContent = word(value);
    }
  }
}

if (chinese) {
  document.documentElement.lang = 'zh-CN';
  for (const node of document.querySelectorAll('[data-zh]')) node.textContent = node.dataset.zh;
}

addWords({
  // The connection
  connecting: ['connecting…', '正在连接…'],
  open: ['open', '已连接'],
  waiting: ['waiting', '等待重连'],
  deaf: ['no data arrives; connecting again', '收不到数据，正在重新连接'],
  polling: ['open, by polling', '已连接（轮询）'],
  seconds: ['{n} s', '{n} 秒'],
  now: ['reconnect now', '立即重连'],
  listeners: ['{n} subscriber|{n} subscribers', '{n} 个订阅者'],

  // The chat page
  terminal: ['From a terminal', '在终端中使用'],
  channel: [
    'This channel is a URL. Everyone who has it open receives what is posted to it.',
    '这个频道就是一个 URL。向它 POST 的内容，所有打开它的人都能收到。',
  ],
  listen: ['Listen', '订阅'],
  say: ['Say', '发布'],
  copy: ['Copy', '复制'],
  copied: ['Copied', '已复制'],
  selected: ['Selected', '已选中'],
  messages: ['Messages', '消息列表'],
  name: ['Name', '昵称'],
  anonymous: ['anonymous', '匿名'],
  message: ['Message', '消息'],
  send: ['Send', '发送'],
  empty: ['(empty)', '（空）'],
  gap: ['Some messages may be missing here', '这里可能漏掉了一些消息'],
  missed: ['{n} message is missing here|{n} messages are missing here', '这里漏掉了 {n} 条消息'],
  silent: ['the server did not respond', '服务器没有响应'],
  unreachable: ['could not reach the server', '无法连接到服务器'],
  answered: ['the server responded with {status}', '服务器返回了 {status}'],
});

'use strict';
// The words of all pages, in English and in Chinese: whichever the browser's list of languages has first, and English
// where it has neither. What the server itself says (one line of English) is shown as it is.
//
//   <p data-word="say">Say</p>                   gets this text; a key that is not in the table leaves it as it is
//   <input data-word-placeholder="anonymous">    gets this attribute; so for aria-label and title
//   word('missed', { n: 3 })                     is for scripts. {n} is filled in; of "one|many" n takes one

const WORDS = {
  // The connection
  connecting: ['connecting…', '正在连接…'],
  open: ['open', '已连接'],
  waiting: ['waiting', '等待重连'],
  seconds: ['{n} s', '{n} 秒'],
  now: ['now', '立即重连'],
  listeners: ['{n} listener|{n} listeners', '{n} 个连接在收听'],

  // The chat page
  terminal: ['From a terminal', '从终端使用'],
  channel: [
    'This channel is a URL: what is posted to it, everyone who has it open hears.',
    '频道就是一个 URL：向它 POST 的内容，打开它的人都能收到。',
  ],
  listen: ['Listen', '收听'],
  say: ['Say', '发言'],
  copy: ['Copy', '复制'],
  copied: ['Copied', '已复制'],
  selected: ['Selected', '已选中'],
  messages: ['Messages', '消息列表'],
  name: ['Name', '昵称'],
  anonymous: ['anonymous', '匿名'],
  message: ['Message', '消息'],
  send: ['Send', '发送'],
  empty: ['(empty)', '（空）'],
  gap: ['Some messages may have been missed here', '这里可能漏掉了一些消息'],
  missed: ['{n} message was missed here|{n} messages were missed here', '这里漏掉了 {n} 条消息'],
  silent: ['the server did not answer', '服务器没有响应'],
  unreachable: ['could not reach the server', '无法连接服务器'],
  answered: ['the server answered {status}', '服务器返回了 {status}'],

  // The wire lab: its parts
  'to-lab': ['See each byte of it in the wire lab', '在实验室里查看它的每个字节'],
  'lab-title': ['The wire lab', '字节实验室'],
  'lab-what': ['Listen to', '收听'],
  'lab-channel': ['a channel', '一个频道'],
  'lab-lessons': ['a lesson', '一节课'],
  'lab-name': ['Channel', '频道'],
  'lab-since': ['Last-Event-ID', 'Last-Event-ID'],
  'lab-none': ['none', '无'],
  'lab-types': ['Listens for', '监听的类型'],
  'lab-since-help': [
    'Last-Event-ID: where to begin. EventSource sends it only when it comes back; the first time the URL says it (?since=).',
    'Last-Event-ID（最后事件 ID）：从哪里开始。EventSource 只在重连时发送它，第一次由 URL 给出（?since=）。',
  ],
  'lab-types-help': [
    'Listens for: event types, with spaces between. A type without a listener is not heard.',
    '监听的类型：事件类型，以空格分隔。没有监听器的类型听不到。',
  ],
  'lab-help': ['What are these?', '这些是什么？'],
  'lab-connect': ['Connect', '连接'],
  'lab-disconnect': ['Disconnect', '断开'],
  'lab-plug': ['Pull the plug', '拔掉网线'],
  'lab-answer': ['Answer', '答案'],
  'lab-look': ['Look for', '注意看'],
  'lab-question': ['Question', '问题'],
  'lab-previous': ['Previous', '上一课'],
  'lab-next': ['Next', '下一课'],
  'lab-file': ["The lesson's file", '本课的文件'],
  'lab-more': ['Open one more', '再打开一个'],
  'lab-counted': ['{open} open, {waiting} waiting', '已打开 {open} 个，等待中 {waiting} 个'],
  'lab-wire': ['On the wire', '线上的字节'],
  'lab-bytes': ['The bytes', '字节'],
  'lab-bytes-help': ['as the server read and wrote them', '服务器读到和写出的原样'],
  'lab-algorithm': ['The algorithm', '算法'],
  'lab-algorithm-help': ['of the specification, line by line', '规范怎样逐行处理'],
  'lab-source-help': ["what the browser's own made of it", '浏览器自己的实现得到了什么'],
  'lab-hint': [
    'Point at a line, or move with the arrow keys: what belongs together is marked, and the buffers show what they held then.',
    '指向一行，或用方向键移动：相关的内容会一起标出，缓冲区显示当时的内容。',
  ],
  'lab-hex': ['show the bytes as hexadecimal numbers too', '同时用十六进制显示字节'],
  'lab-publish': ['Publish to the channel', '向频道发布'],
  'lab-event': ['Event type', '事件类型'],
  'lab-data': ['Data', '数据'],
  'lab-send': ['Publish', '发布'],
  'lab-chat': ['The chat page', '聊天页面'],
  'lab-spec': ['The specification', '规范原文'],
  'lab-state-connecting': ['connecting…', '正在连接…'],
  'lab-state-open': ['open', '已连接'],
  'lab-state-closed': ['closed', '已关闭'],

  // The wire lab: what the algorithm remembers
  'lab-buffers': ['What the algorithm remembers', '算法记住的内容'],
  'lab-data-buffer': ['data buffer', '数据缓冲区'],
  'lab-type': ['event type buffer', '事件类型缓冲区'],
  'lab-id': ['last event ID buffer', '最后事件 ID 缓冲区'],
  'lab-lastEventId': ['last event ID string', '最后事件 ID 字符串'],
  'lab-retry': ['reconnection time', '重连时间'],
  'lab-readyState': ['readyState', 'readyState'],
  'lab-empty': ['empty', '空'],

  // The wire lab: what the lines are
  'lab-in': ['{time} s · connection {n} · the client sends {bytes} bytes', '{time} 秒 · 连接 {n} · 客户端发送 {bytes} 字节'],
  'lab-out': ['{time} s · connection {n} · the server sends {bytes} bytes', '{time} 秒 · 连接 {n} · 服务器发送 {bytes} 字节'],
  'lab-request': ['request line: method, target, version', '请求行：方法、目标、版本'],
  'lab-status': ['status line', '状态行'],
  'lab-field': ['field line', '字段行'],
  'lab-end': ['end of the head', '头部结束'],
  'lab-body': ['body', '正文'],
  'lab-unended': ['this line has not ended yet', '这一行还没有结束'],
  'lab-half': ['the second half of CR LF', 'CR LF 的后一半'],
  'lab-in-accept': ['what the client would like to have', '客户端想要的类型'],
  'lab-in-last-event-id': ['the client says where it was', '客户端说明它读到了哪里'],
  'lab-in-cache-control': ['nobody may answer from a cache', '不得用缓存来回答'],
  'lab-out-content-type': ['only text/event-stream is read as a stream', '只有 text/event-stream 才当作事件流'],
  'lab-out-x-accel-buffering': ['tells nginx not to hold anything back', '告诉 nginx 不要缓冲'],
  'lab-out-connection': ['no length: the body ends with the connection', '没有长度：正文随连接结束'],
  'lab-comment': ['comment: ignored', '注释：忽略'],
  'lab-ping': ['comment: ignored. It only shows that both are there', '注释：忽略。只表明双方都还在'],
  'names the event': ['into the event type buffer', '写入事件类型缓冲区'],
  'appended to the data': ['appended to the data buffer, with a line feed', '追加到数据缓冲区，并加一个换行'],
  'the last event ID, from the blank line on': ['into the last event ID buffer; counts from the blank line on', '写入最后事件 ID 缓冲区，到空行才生效'],
  'the reconnection time': ['becomes the reconnection time', '成为重连时间'],
  'ignored: an id with NUL': ['ignored: an id with NUL', '忽略：ID 中有 NUL'],
  'ignored: not only digits': ['ignored: not only digits', '忽略：不全是数字'],
  'ignored: no such field': ['ignored: no such field', '忽略：没有这个字段'],
  'lab-nothing': ['blank line: the data buffer is empty, so nothing is fired', '空行：数据缓冲区为空，不触发任何事件'],
  'lab-dispatch': ['blank line: fire “{type}”', '空行：触发 “{type}”'],
  'lab-fails': ['{status} with {type}: EventSource gives up for good', '{status}，类型 {type}：EventSource 永久放弃'],
  'lab-ended': ['{time} s · connection {n} has ended', '{time} 秒 · 连接 {n} 已结束'],
  'lab-discarded': ['What has no blank line behind it is thrown away.', '后面没有空行的内容被丢弃。'],

  // The wire lab: what the EventSource does
  'lab-new': ['new EventSource()\nreadyState 0', 'new EventSource()\nreadyState 0'],
  'lab-opened': ['onopen\nreadyState 1', 'onopen\nreadyState 1'],
  'lab-heard': ['{who}\ndata {data}\nlastEventId {id}', '{who}\ndata {data}\nlastEventId {id}'],
  'lab-unheard': ['nobody listens for “{type}”: not heard', '没有人监听 “{type}”：听不到'],
  'lab-error': ['onerror\nreadyState 0: it will come back by itself', 'onerror\nreadyState 0：它会自己重连'],
  'lab-error-closed': ['onerror\nreadyState 2: it never comes back', 'onerror\nreadyState 2：它不再回来'],
  'lab-no-bytes': ['(no bytes reached the server)', '（没有字节到达服务器）'],
  'lab-closed': ['close() was called: readyState 2', '调用了 close()：readyState 2'],
  'lab-paused': ['The page heard “pause” and called close(): readyState 2. It never comes back.', '页面听到 “pause” 后调用了 close()：readyState 2，不再重连。'],
  'lab-over': ['The lab called close() here. By itself EventSource would come back again and again.', '实验室在此调用了 close()。否则 EventSource 会一次又一次地重连。'],
  'lab-no-listener': ['Nobody here listens for “{type}”.', '这里没有人监听 “{type}”。'],

  // The lab's ways side by side
  'ways-title': ['Side by side: the same messages, heard in different ways', '并排比较：同样的消息，不同的接收方式'],
  'ways-intro': [
    'Start listens to the channel in all of these ways at once and publishes to it, so that each way hears the same messages. Every byte is counted.',
    '点击“开始”，本页会同时以下列各种方式收听频道，并向频道发布消息，让每种方式都收到同样的消息。每个字节都计算在内。',
  ],
  'ways-start': ['Start', '开始'],
  'ways-stop': ['Stop', '停止'],
  'ways-rate': ['Publish', '发布'],
  'ways-second': ['one message a second', '每秒一条消息'],
  'ways-bursts': ['random bursts', '随机成批'],
  'ways-none': ['nothing: silence', '不发布：静默'],
  'ways-every': ['Seconds between polls', '轮询间隔（秒）'],
  'ways-one': ['Publish one', '发布一条'],
  'ways-stopped': ['Stopped.', '已停止。'],
  'ways-over': ['Stopped by itself, after ten minutes.', '已运行十分钟，自动停止。'],
  'ways-running': ['Running on /{channel}.', '正在频道 /{channel} 上运行。'],
  'ways-problem': ['{who}: {problem}.', '{who}：{problem}。'],
  'ways-lost': ['the connection was lost; the browser makes a new one', '连接断开，浏览器正在重连'],
  'ways-refused': ['the server refused; EventSource does not say why, and is opened again', '被服务器拒绝（EventSource 不说明原因），稍后重新打开'],
  'ways-timeout': [
    'no answer yet; a browser opens six connections to a host, and other tabs may hold them',
    '没有响应；浏览器对同一主机最多打开六个连接，可能已被其他标签页占用',
  ],
  'ways-missed': ['some messages may have been missed', '可能漏掉了一些消息'],
  'ways-uncounted': ['some bytes were not counted', '有些字节没有计入'],
  'ways-channel': ['Channel', '频道'],
  'ways-publish': ['Publishing', '发布'],
  'ways-tap': ['Bytes', '字节'],
  'ways-try': ['And what does silence cost? Publish nothing, and wait for ten seconds.', '静默要花费多少？选择“不发布”，等十秒钟。'],
  'ways-silence': ['Ten seconds of silence, in bytes: {list}.', '静默十秒所用的字节：{list}。'],
  'ways-poll': ['Polling', '轮询'],
  'ways-poll-what': [
    'Asks again and again whether there is news. That costs bytes while nothing happens, and a message waits for the next question: its delay is anything up to the pause between two.',
    '每隔一段时间问一次有没有新消息。没有新消息也要花费字节；消息要等到下一次询问才能收到，延迟最长可达一个间隔。',
  ],
  'ways-long': ['Long polling', '长轮询'],
  'ways-long-what': [
    'Asks, and the server answers once there is news, or after {n} seconds; then it asks again. Messages come at once, but each costs a request and a head of the answer.',
    '发出请求后，服务器等到有新消息（或满 {n} 秒）才响应，然后再次请求。消息立即到达，但每条消息都要花费一次请求和一个响应头部。',
  ],
  'ways-stream': ['Event stream', '事件流'],
  'ways-stream-what': [
    'Asks once, and the answer goes on for ever. Messages come at once, and each costs its own bytes alone. In silence there is a :ping now and then.',
    '只请求一次，响应一直不结束。消息立即到达，每条只花费它自己的字节。静默时偶尔有一个 :ping。',
  ],
  'ways-websocket': ['WebSocket', 'WebSocket'],
  'ways-websocket-what': [
    'Asks once, over HTTP, to speak another protocol (RFC 6455). Messages come at once, in frames: here each holds the same text as in the event stream, with 2, 4 or 10 bytes before it. It could also send. When it ends, it is for the page to open another.',
    '先用 HTTP 请求一次，然后改用另一种协议（RFC 6455）。消息装在帧里立即到达：这里每一帧的内容与事件流相同，前面多 2、4 或 10 个字节。它还能发送。断开后要由页面重新打开。',
  ],
  'ways-closed': ['closed with {code}; a WebSocket does not come back by itself, so the page opens another', '已关闭（{code}）；WebSocket 不会自己重连，页面稍后重新打开'],
  'ways-table': ['Since Start', '开始以来'],
  'ways-row-heard': ['Messages heard', '收到的消息'],
  'ways-row-last': ['Last event ID', '最后事件 ID'],
  'ways-row-requests': ['Requests', '请求数'],
  'ways-row-open': ['Connections now', '当前连接数'],
  'ways-row-in': ['Bytes to the server', '发往服务器的字节'],
  'ways-row-out': ['Bytes to the browser', '发往浏览器的字节'],
  'ways-row-total': ['Bytes in all', '字节合计'],
  'ways-row-each': ['Bytes per message', '每条消息的字节'],
  'ways-row-lately': ['Bytes in the last 10 s', '最近 10 秒的字节'],
  'ways-row-median': ['Delay, median', '延迟中位数'],
  'ways-row-longest': ['Delay, longest', '最长延迟'],
  'ways-ms': ['{n} ms', '{n} 毫秒'],
  'ways-ago': ['{n} s ago', '{n} 秒前'],
  'ways-now': ['now', '现在'],
  'ways-bytes': ['Bytes on the wire since Start, both directions together', '开始以来线路上的字节数，两个方向合计'],
  'ways-bytes-says': ['Bytes on the wire: {list}. The table has the numbers.', '线路上的字节数：{list}。数字见表格。'],
  'ways-delays': [
    'Delay of each message: signs above one another are one message, and each line is ten times the line below it',
    '每条消息的延迟：上下对齐的标记是同一条消息，每条横线是下面一条的十倍',
  ],
  'ways-delays-says': ['Median delay: {list}. The table has the numbers.', '延迟中位数：{list}。数字见表格。'],
  'ways-note': [
    'The server counts, to the byte: heads are counted, what TCP, IP and TLS add is not. So that it can, each request carries &tap= and 16 letters, and the one for WebSocket also ws&. Publishing is not counted: it is the same for all. A delay begins when the POST begins, and ends when the message is in this page. A connection counts until the server has seen its end.',
    '字节由服务器精确计数：包括请求和响应的头部，不包括 TCP、IP 和 TLS 增加的部分。为了计数，每个请求都带有 &tap= 和 16 个字符，WebSocket 的请求还带有 ws&。发布不计入，因为对各种方式都一样。延迟从 POST 开始时算起，到消息到达本页为止。一个连接在服务器看到它关闭之前都算作打开。',
  ],
  'ways-masked': [
    'The server does not tell the tap a token: its field is counted with 11 bytes in its place.',
    '服务器不会把令牌告诉计数流：该字段的值按 11 个字节计算。',
  ],
};

const chinese = /^zh\b/i.test(navigator.languages.find(tag => /^(en|zh)\b/i.test(tag)));

function word(key, values = {}) {
  const [one, many = one] = WORDS[key][Number(chinese)].split('|');
  return (values.n === 1 ? one : many).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

if (chinese) document.documentElement.lang = 'zh-CN';
for (const node of document.querySelectorAll('*')) {
  for (const { name, value } of [...node.attributes]) {
    if (!name.startsWith('data-word') || !Object.hasOwn(WORDS, value)) continue;
    const attribute = name.slice('data-word-'.length);
    if (attribute) node.setAttribute(attribute, word(value));
    else node.textContent = word(value);
  }
}

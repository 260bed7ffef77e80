'use strict';
// The chat page of one channel. It shows the messages that come from the channel's line (shared.js has the EventSource)
// and the state of the connection. It sends messages with POST. Received text only becomes textContent, never markup.
// The terms are those of WHATWG HTML, "Server-sent events".

const ASK_EVERY = 10000;           // ms between two requests for the number of subscribers
const PATIENCE = 120000;           // ms of patience with a response
const UNANSWERED = 3;              // seconds after which a silent worker counts as dead

const STATES = Object.fromEntries(
  ['connecting', 'open', 'waiting', 'deaf', 'polling'].map(state => [state, word(state)]));
const $ = id => document.getElementById(id);
const channel = location.pathname.slice(1) || 'chat';
// An absolute URL: a relative one takes over a password from the page's URL, and fetch refuses such a URL.
const url = `${location.origin}/${channel}`;
const token = takeToken();
const headers = token ? { Authorization: `Bearer ${token}` } : undefined;

// Returns the token from the URL /NAME#token=TOKEN, or the one that is stored for this tab. A fragment is not sent to
// the server (RFC 3986 §3.5). An empty token means no token.
function takeToken() {
  let given;
  try {
    given = decodeURIComponent(location.hash).match(/^#token=([!-~]*)$/)?.[1];
    if (given === undefined) return sessionStorage.getItem('tincan-token');
    history.replaceState(null, '', location.pathname + location.search);
    sessionStorage.setItem('tincan-token', given);
  } catch { /* storage is blocked, or the fragment is malformed */ }
  return given;
}

// Sends a request. With a token it omits the browser's credentials: a refusal must not open the browser's login dialog.
function request(url, ms, options) {
  const credentials = token ? 'omit' : 'same-origin';
  return fetchText(url, ms, { ...options, headers: { ...options.headers, ...headers }, credentials });
}

// ---- The connection ---------------------------------------------------------------------------------------------

let port = null;                   // to the line
let ownLine = null;                // this page's own line, if it is not shared
let unanswered = 0;                // seconds since the line's last message
let deaths = 0;                    // workers that stopped responding

// Joins the channel's line. `alone`: with a line of the page's own. The page needs its own line if there is no
// SharedWorker or if the worker fails. It also needs one with a token: tabs without the token must not use it.
function listen(alone) {
  leave();
  $('messages').replaceChildren(); // the line sends all messages again
  pending.length = unanswered = 0;
  if (alone) {
    const ends = new MessageChannel();
    port = ends.port1;
    ownLine ??= openLine(url, headers);
    ownLine(ends.port2);
  } else try {
    // Older tabs may keep a worker of another version alive. Its name differs by the hash of its code.
    const worker = new SharedWorker('/assets/shared.js', `${channel} ${hash(String(openLine))}`);
    worker.onerror = () => { if (port === worker.port) listen(true); };
    port = worker.port;
  } catch {
    return listen(true);
  }
  port.onmessage = ({ data: { state, seconds, items = [] } }) => {
    unanswered = 0;
    if (state) showState(state, seconds);
    items.forEach(show);
  };
  everySecond();
}

function leave() {
  port?.postMessage('leave');
  port?.close();
}

function connect() { port.postMessage('connect'); }

function showState(state, seconds) {
  $('seconds').textContent = seconds ? word('seconds', { n: seconds }) : '';
  if (state === $('state').dataset.state) return;
  $('word').textContent = STATES[state];         // only on a change: a screen reader reads out each assignment
  $('state').dataset.state = state;
  $('now').hidden = state !== 'waiting';
  if (state !== 'open') $('listeners').textContent = '';
  if (state === 'open' || state === 'polling') {
    clearPassingError();
    askListeners();
  }
  if (state === 'waiting') askWhy();
}

// Asks the server why the connection failed, for an EventSource does not report it. If the server wants a token, this
// request of the page also opens the browser's login dialog. The request of a worker does not.
async function askWhy() {
  if (document.hidden) return;
  try {
    const response = await request(`${url}?wait=0`, PATIENCE, { cache: 'no-store' });
    if (response.status === 401 && $('state').dataset.state !== 'open') showRefusal(response, true);
  } catch { /* the server does not respond */ }
}

let passes = false;                // the error shown is one of the connection: it is removed when the server responds

function fail(text, isPassing = false) {
  $('error').textContent = text;
  passes = isPassing;
}

function clearPassingError() { if (passes) fail(''); }

function everySecond() {
  if (document.hidden) return;
  if (++unanswered > UNANSWERED) return listen(++deaths > 1);   // the first time a new worker replaces the dead one
  port.postMessage(Date.now());
  if (performance.now() > askAt) askListeners();
}

// ---- Messages ---------------------------------------------------------------------------------------------------

const pending = [];                // list items that are not in the page yet
let following = true;              // the list is scrolled to its end
let hasMessages = false;           // a message was shown

function show({ data, gap }) {
  if (data === undefined) return add(element('li', 'gap', gap > 0 ? word('missed', { n: gap }) : word('gap')));
  const { name, msg } = parseMessage(data);
  const item = element('li', name === null ? 'plain' : 'said');
  if (name !== null) item.append(element('b', 'name hue' + hash(name) % 8, name));
  item.append(element('p', 'text', msg));
  item.lastChild.dataset.empty = word('empty');
  add(item);
  if (!hasMessages) $('terminal').open = false;   // only once: the user may open it again
  hasMessages = true;
  askAt = Math.min(askAt, performance.now() + 1000);
}

// This page sends JSON with a name. Any other data, such as curl's, is shown unchanged.
function parseMessage(data) {
  try {
    const { name, msg } = JSON.parse(data);
    if (typeof name === 'string' && typeof msg === 'string') return { name, msg };
  } catch { /* the data is not JSON, or it is null */ }
  return { name: null, msg: data };
}

// Adds an item to the page, together with all others of the same 16 ms: a replay brings thousands of events at once.
// (requestAnimationFrame would not do, for a hidden page has no frames.)
function add(item) {
  if (pending.push(item) > KEPT) pending.shift();
  if (pending.length === 1) setTimeout(flush, 16);
}

function flush() {
  const list = $('messages');
  list.append(...pending.splice(0));
  while (list.childElementCount > KEPT) list.firstElementChild.remove();
  follow();
}

function follow() { if (following) $('log').scrollTop = $('log').scrollHeight; }

function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  if (tag === 'b') made.title = text;   // a long name is cut in the page
  if (tag !== 'li') made.dir = 'auto';
  return made;
}

function hash(text) {
  let sum = 0;
  for (const c of text) sum = (sum * 31 + c.codePointAt(0)) >>> 0;
  return sum;
}

// ---- The number of subscribers ----------------------------------------------------------------------------------

let askAt = Infinity;              // when to ask next, in the time of performance.now()

async function askListeners() {
  askAt = performance.now() + ASK_EVERY;
  if (!['open', 'polling'].includes($('state').dataset.state)) return;
  let text = '';
  try {
    const metrics = `${location.origin}/metrics?channel=${channel}`;
    const response = await request(metrics, ASK_EVERY / 2, { cache: 'no-store' });
    if (response.ok) {
      clearPassingError();
      const line = response.content.match(new RegExp(`^tincan_subscribers\\{channel="${channel}"\\} (\\d+)`, 'm'));
      text = word('listeners', { n: line ? Number(line[1]) : 0 });
    }
  } catch { /* the number is unknown */ }
  if ($('state').dataset.state === 'open') $('listeners').textContent = text;
}

// ---- Sending ----------------------------------------------------------------------------------------------------

// Sends a message. The page does not show it at once: it receives the event like any other subscriber. So it shows only
// what is in the channel.
async function send(event) {
  event.preventDefault();
  const msg = $('msg').value;
  if (msg.trim() === '' || $('send').disabled) return;
  $('send').disabled = true;
  fail('');
  $('msg').value = '';             // the user may type the next message meanwhile
  let sent = false;
  try {
    const body = JSON.stringify({ name: $('name').value.trim() || $('name').placeholder, msg });
    const headers = { 'Content-Type': 'text/plain;charset=utf-8' };
    const response = await request(url, PATIENCE, { method: 'POST', headers, body });
    // The stream may be dead, and the browser may not know it. So the line expects the event with this ID.
    const id = response.content.trim();
    sent = response.status === 200 && /^\d+-\d+$/.test(id);
    if (sent) port.postMessage({ published: id });
    else showRefusal(response);
  } catch (e) {
    fail(word(e.name === 'TimeoutError' ? 'silent' : 'unreachable'), true);
    port.postMessage('look');
  }
  if (!sent) $('msg').value = msg + $('msg').value;   // before what was typed meanwhile
  $('send').disabled = false;
  $('msg').focus();
}

// Shows a refusal. The server's refusal is one line of plain text. A proxy may respond with an HTML page instead.
function showRefusal({ status, statusText, headers, content }, isPassing) {
  const plain = status !== 200 && /^text\/plain\b/i.test(headers.get('Content-Type') || '');
  // The server's line begins with the status. A proxy's text does not.
  const line = plain && content.startsWith(status) ? content.trim().split('\n')[0].slice(0, 500) : '';
  fail(line || word('answered', { status: `${status} ${statusText}`.trim() }), isPassing || (!line && status > 500));
}

// ---- Start ------------------------------------------------------------------------------------------------------

document.title = `${channel} · tincan`;
$('channel').textContent = channel;
$('curl-listen').textContent = `curl -N ${url}`;
$('curl-say').textContent = `curl -d 'soup is ready' ${url}`;
// The server may put links in place of the comment `further`. Some of them lead to a page about the same channel.
for (const link of document.querySelectorAll('[data-channel-href]')) link.href = link.dataset.channelHref + channel;

try { $('name').value = localStorage.getItem('tincan-name') || ''; } catch { /* storage is blocked */ }
$('name').oninput = () => {
  try { localStorage.setItem('tincan-name', $('name').value); } catch { /* storage is blocked */ }
};

$('form').onsubmit = send;
$('now').onclick = connect;
$('log').onscroll = () => { following = $('log').scrollHeight - $('log').scrollTop - $('log').clientHeight < 16; };
new ResizeObserver(follow).observe($('log'));                       // a phone's keyboard opens, or the curl lines close
document.onvisibilitychange = everySecond;
addEventListener('pagehide', leave);
addEventListener('pageshow', event => { if (event.persisted) listen(Boolean(token)); });
addEventListener('hashchange', () => location.reload());            // the fragment may have another token
addEventListener('online', connect);
addEventListener('offline', () => port.postMessage('look'));         // a server on this machine still responds
setInterval(everySecond, 1000);
if (!matchMedia('(pointer: coarse)').matches) $('msg').focus();     // on a phone this would open the keyboard
listen(Boolean(token));

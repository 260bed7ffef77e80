'use strict';
// The chat page of one channel. Plan: show what the channel's line tells (shared.js has the EventSource), tell the truth
// about the connection, send with POST. Words are those of WHATWG HTML, "Server-sent events". Received text only ever
// becomes textContent.

const ASK_EVERY = 10000;           // ms between two questions for the number of listeners
const PATIENCE = 120000;           // ms for an answer
const UNANSWERED = 3;              // seconds after which a worker that says nothing is taken for dead

const STATES = Object.fromEntries(['connecting', 'open', 'waiting', 'deaf', 'polling'].map(state => [state, word(state)]));
const $ = id => document.getElementById(id);
const channel = location.pathname.slice(1) || 'chat';
const url = `${location.origin}/${channel}`;   // a relative one takes over a password in the page's; fetch refuses that
const token = takeToken();
const headers = token ? { Authorization: `Bearer ${token}` } : undefined;

// From /NAME#token=TOKEN: a fragment is not sent (RFC 3986 §3.5). Kept for this tab alone; an empty one is none.
function takeToken() {
  let given;
  try {
    given = decodeURIComponent(location.hash).match(/^#token=([!-~]*)$/)?.[1];
    if (given === undefined) return sessionStorage.getItem('tincan-token');
    history.replaceState(null, '', location.pathname + location.search);
    sessionStorage.setItem('tincan-token', given);
  } catch { /* storage is blocked, or this is no token */ }
  return given;
}

// Whoever has a token wants no dialog of the browser's when it is refused.
function ask(url, ms, options) {
  const credentials = token ? 'omit' : 'same-origin';
  return fetchText(url, ms, { ...options, headers: { ...options.headers, ...headers }, credentials });
}

// ---- The connection ---------------------------------------------------------------------------------------------

let port = null;                   // to the line
let ownLine = null;                // where it is not shared
let unanswered = 0;                // seconds
let deaths = 0;                    // of workers

// Alone: where the browser has no SharedWorker or it fails, and with a token, which is not for tabs that lack it.
function listen(alone) {
  leave();
  $('messages').replaceChildren(); // the line tells all of it again
  pending.length = unanswered = 0;
  if (alone) {
    const ends = new MessageChannel();
    port = ends.port1;
    ownLine ??= openLine(url, headers);
    ownLine(ends.port2);
  } else try {
    // A worker of another version, which older tabs keep alive, is not ours: it has another name.
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
  $('word').textContent = STATES[state];         // a status is read out whenever it is set
  $('state').dataset.state = state;
  $('now').hidden = state !== 'waiting';
  if (state !== 'open') $('listeners').textContent = '';
  if (state === 'open' || state === 'polling') {
    reached();
    askListeners();
  }
  if (state === 'waiting') askWhy();
}

// An EventSource does not tell why it failed, and for a worker the browser asks nobody for a token: for both it takes a
// request of the page's.
async function askWhy() {
  if (document.hidden) return;
  try {
    const answer = await ask(`${url}?wait=0`, PATIENCE, { cache: 'no-store' });
    if (answer.status === 401 && $('state').dataset.state !== 'open') refuse(answer, true);
  } catch { /* nobody is there to ask */ }
}

let passes = false;                // the error is one of the connection: it is over once the server is reached

function fail(text, once = false) {
  $('error').textContent = text;
  passes = once;
}

function reached() { if (passes) fail(''); }

function everySecond() {
  if (document.hidden) return;
  if (++unanswered > UNANSWERED) return listen(++deaths > 1);   // a crashed one can be replaced
  port.postMessage(Date.now());
  if (performance.now() > askAt) askListeners();
}

// ---- What is heard ----------------------------------------------------------------------------------------------

const pending = [];                // list items on their way to the page
let following = true;              // the reader is at the bottom
let heard = false;                 // a message was shown

function show({ data, gap }) {
  if (data === undefined) return add(element('li', 'gap', gap > 0 ? word('missed', { n: gap }) : word('gap')));
  const said = parseMessage(data);
  const item = element('li', said.name === null ? 'plain' : 'said');
  if (said.name !== null) item.append(element('b', 'name hue' + hash(said.name) % 8, said.name));
  item.append(element('p', 'text', said.msg));
  item.lastChild.dataset.empty = word('empty');
  add(item);
  if (!heard) $('terminal').open = false;      // once: whoever opens it again keeps it
  heard = true;
  askAt = Math.min(askAt, performance.now() + 1000);
}

// What this page sends is JSON with a name; everything else (curl) is shown as it is.
function parseMessage(data) {
  try {
    const { name, msg } = JSON.parse(data);
    if (typeof name === 'string' && typeof msg === 'string') return { name, msg };
  } catch { /* not JSON, or null */ }
  return { name: null, msg: data };
}

// Thousands of events come at once when history is replayed: one change of the page for all that came within a frame.
// (No requestAnimationFrame: a hidden page has no frames.)
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
  if (tag === 'b') made.title = text;   // a long name is cut
  if (tag !== 'li') made.dir = 'auto';
  return made;
}

function hash(text) {
  let sum = 0;
  for (const c of text) sum = (sum * 31 + c.codePointAt(0)) >>> 0;
  return sum;
}

// ---- How many listen --------------------------------------------------------------------------------------------

let askAt = Infinity;              // when to ask next, in the time of performance.now()

async function askListeners() {
  askAt = performance.now() + ASK_EVERY;
  if (!['open', 'polling'].includes($('state').dataset.state)) return;
  let text = '';
  try {
    const answer = await ask(`${location.origin}/metrics?channel=${channel}`, ASK_EVERY / 2, { cache: 'no-store' });
    if (answer.ok) {
      reached();
      const line = answer.said.match(new RegExp(`^tincan_subscribers\\{channel="${channel}"\\} (\\d+)`, 'm'));
      text = word('listeners', { n: line ? Number(line[1]) : 0 });
    }
  } catch { /* then it is not known */ }
  if ($('state').dataset.state === 'open') $('listeners').textContent = text;
}

// ---- Sending ----------------------------------------------------------------------------------------------------

// No echo here: the sender hears the event like everyone else, so what the page shows is what the channel has.
async function send(event) {
  event.preventDefault();
  const msg = $('msg').value;
  if (msg.trim() === '' || $('send').disabled) return;
  $('send').disabled = true;
  fail('');
  $('msg').value = '';             // so that what is typed meanwhile stands alone
  let sent = false;
  try {
    const body = JSON.stringify({ name: $('name').value.trim() || $('name').placeholder, msg });
    const headers = { 'Content-Type': 'text/plain;charset=utf-8' };
    const answer = await ask(url, PATIENCE, { method: 'POST', headers, body });
    // A stream may be dead without the browser's knowing. What has an id must be heard.
    const id = answer.said.trim();
    sent = answer.status === 200 && /^\d+-\d+$/.test(id);
    if (sent) port.postMessage({ said: id });
    else refuse(answer);
  } catch (e) {
    fail(word(e.name === 'TimeoutError' ? 'silent' : 'unreachable'), true);
    port.postMessage('look');
  }
  if (!sent) $('msg').value = msg + $('msg').value;   // nothing that was typed is lost
  $('send').disabled = false;
  $('msg').focus();
}

// The server refuses with one line of plain text; a proxy between us may answer with a page.
function refuse({ status, statusText, headers, said }, once) {
  const plain = status !== 200 && /^text\/plain\b/i.test(headers.get('Content-Type') || '');
  // A proxy's own words have no status before them.
  const line = plain && said.startsWith(status) ? said.trim().split('\n')[0].slice(0, 500) : '';
  fail(line || word('answered', { status: `${status} ${statusText}`.trim() }), once || (!line && status > 500));
}

// ---- Start ------------------------------------------------------------------------------------------------------

document.title = `${channel} · tincan`;
$('channel').textContent = channel;
$('curl-listen').textContent = `curl -N ${url}`;
$('curl-say').textContent = `curl -d 'soup is ready' ${url}`;
// What the server puts in for `further` may link to a page that shows the same channel.
for (const link of document.querySelectorAll('[data-channel-href]')) link.href = link.dataset.channelHref + channel;

try { $('name').value = localStorage.getItem('tincan-name') || ''; } catch { /* storage is blocked */ }
$('name').oninput = () => { try { localStorage.setItem('tincan-name', $('name').value); } catch { /* as above */ } };

$('form').onsubmit = send;
$('now').onclick = connect;
$('log').onscroll = () => { following = $('log').scrollHeight - $('log').scrollTop - $('log').clientHeight < 16; };
new ResizeObserver(follow).observe($('log'));                       // a phone's keyboard, or the curl lines closing
document.onvisibilitychange = everySecond;
addEventListener('pagehide', leave);
addEventListener('pageshow', event => { if (event.persisted) listen(Boolean(token)); });
addEventListener('hashchange', () => location.reload());            // another token
addEventListener('online', connect);
addEventListener('offline', () => port.postMessage('look'));         // a server on this machine is still there
setInterval(everySecond, 1000);
if (!matchMedia('(pointer: coarse)').matches) $('msg').focus();     // there it would open a phone's keyboard
listen(Boolean(token));

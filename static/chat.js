'use strict';
// The chat page of one channel. Plan: show what the EventSource hears, tell the truth about the connection, send with
// POST. Words are those of WHATWG HTML, "Server-sent events". Received text only ever becomes textContent.

const KEPT_NODES = 300;            // Limit: messages on the page; the oldest go first
const REMEMBERED_IDS = 20000;      // Limit: ids known to have been shown
const LONGEST_PAUSE = 30;          // seconds between our own attempts
const ASLEEP = 20000;              // ms after which the socket of a hidden page is not trusted any more
const ASK_EVERY = 10000;           // ms between two questions for the number of listeners

const STATES = { connecting: word('connecting'), open: word('open'), waiting: word('waiting') };
const $ = id => document.getElementById(id);
const channel = location.pathname.slice(1) || 'chat';
const url = `${location.origin}/${channel}`;   // a relative one takes over a token in the page's URL; fetch refuses that

// ---- The connection ---------------------------------------------------------------------------------------------

let source = null;                 // the EventSource
let lastEventId = '';              // the id from which a new EventSource goes on
let asked = '';                    // the id from which this one was asked to go on
let failures = 0;                  // failed connections since the last one that opened
let pauseTimer = 0;

function connect() {
  clearTimeout(pauseTimer);
  source?.close();                 // a closed EventSource fires no further event, not even a queued one
  showState('connecting');
  asked = lastEventId;
  source = new EventSource(`${url}?since=${encodeURIComponent(asked || 'all')}`);
  source.onopen = () => { failures = 0; showState('open'); askListeners(); };
  source.onmessage = hearMessage;
  source.addEventListener('gap', hearGap);
  // An EventSource reestablishes a connection that was lost, but fails for good on any status but 200: from there on
  // it is for us to try again.
  source.onerror = () => source.readyState === EventSource.CLOSED ? pause() : showState('connecting');
}

// 1, 2, 4 ... 30 s, shortened at random, so that all pages do not come back in the same instant.
function pause() {
  const seconds = Math.min(2 ** failures++, LONGEST_PAUSE) * (1 - 0.3 * Math.random());
  const end = performance.now() + 1000 * seconds;
  (function count() {
    const left = end - performance.now();
    if (left <= 0) return connect();
    showState('waiting', word('seconds', { n: Math.ceil(left / 1000) }));
    pauseTimer = setTimeout(count, left % 1000 || 1000);
  })();
}

function showState(state, seconds = '') {
  if ($('word').textContent !== STATES[state]) $('word').textContent = STATES[state];   // it is read out whenever it is set
  $('seconds').textContent = seconds;
  $('state').dataset.state = state;
  $('now').hidden = state !== 'waiting';
  if (state !== 'open') $('listeners').textContent = '';
}

// Whoever slept, or was hidden for long, may hold a socket that is dead without the browser's knowing. The time of the
// last visible second tells all cases: a sleeping machine and a hidden page both leave it behind.
let awake = Date.now();

function everySecond() {
  if (document.hidden) return;
  const away = Date.now() - awake;
  awake += away;
  if (away > ASLEEP) connect();
  else if (performance.now() > askAt) askListeners();
}

// ---- What is heard ----------------------------------------------------------------------------------------------

const shown = new Set();           // ids, oldest first
const pending = [];                // list items on their way to the page
let following = true;              // the reader is at the bottom
let heard = false;                 // a message was shown

// Ids are compared for being the same, not for being greater: after a clock was set back, a lower id is new. The server
// says so with a gap, and then sends everything that it keeps, some of which is already here.
// Shortcut: an EventSource only fires types that somebody listens for, so events with a name of their own are not here.
function isNew(id) {
  if (id === '') return true;
  if (shown.has(id)) return false;
  if (shown.add(id).size > REMEMBERED_IDS) shown.delete(shown.values().next().value);
  lastEventId = id;
  return true;
}

function hearMessage(event) {
  if (!isNew(event.lastEventId)) return;
  const said = parseMessage(event.data);
  const item = element('li', said.name === null ? 'plain' : 'said');
  if (said.name !== null) item.append(element('b', 'name hue' + hue(said.name), said.name));
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

// The gap has no id of its own: its lastEventId is the place from which the server is now serving us.
function hearGap(event) {
  lastEventId = event.lastEventId || lastEventId;
  let lost = null;
  try {
    const gap = JSON.parse(event.data);
    // Where we named the place, it is the last event that was heard here; what was lost may have been for others.
    if (gap.asked !== asked) lost = gap.lost;
  } catch { /* then it is not known how many */ }
  const text = Number.isSafeInteger(lost) && lost > 0 ? word('missed', { n: lost }) : word('gap');
  const previous = pending.at(-1) || $('messages').lastElementChild;
  if (!lost && previous?.textContent === text && previous.className === 'gap') return;   // a server that restarts often
  add(element('li', 'gap', text));
}

// Thousands of events come at once when history is replayed: one change of the page for all that came within a frame.
// (No requestAnimationFrame: a hidden page has no frames.)
function add(item) {
  if (pending.push(item) > KEPT_NODES) pending.shift();
  if (pending.length === 1) setTimeout(flush, 16);
}

function flush() {
  const list = $('messages');
  list.append(...pending.splice(0));
  while (list.childElementCount > KEPT_NODES) list.firstElementChild.remove();
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

function hue(name) {
  let sum = 0;
  for (const c of name) sum = (sum * 31 + c.codePointAt(0)) >>> 0;
  return sum % 8;
}

// ---- How many listen --------------------------------------------------------------------------------------------

let askAt = Infinity;              // when to ask next, in the time of performance.now()

async function askListeners() {
  askAt = performance.now() + ASK_EVERY;
  if (source.readyState !== EventSource.OPEN) return;
  let text = '';
  try {
    const options = { cache: 'no-store', signal: AbortSignal.timeout(ASK_EVERY / 2) };
    const answer = await fetch(`${location.origin}/metrics?channel=${channel}`, options);
    if (answer.ok) {
      const line = (await answer.text()).match(new RegExp(`^tincan_subscribers\\{channel="${channel}"\\} (\\d+)`, 'm'));
      const listeners = line ? Number(line[1]) : 0;
      text = word('listeners', { n: listeners });
    }
  } catch { /* then it is not known */ }
  if (source.readyState === EventSource.OPEN) $('listeners').textContent = text;
}

// ---- Sending ----------------------------------------------------------------------------------------------------

// No echo here: the sender hears the event like everyone else, so what the page shows is what the channel has.
async function send(event) {
  event.preventDefault();
  const msg = $('msg').value;
  if (msg.trim() === '' || $('send').disabled) return;
  $('send').disabled = true;
  $('error').textContent = '';
  $('msg').value = '';             // so that what is typed meanwhile stands alone
  try {
    const body = JSON.stringify({ name: $('name').value.trim() || $('name').placeholder, msg });
    const headers = { 'Content-Type': 'text/plain;charset=utf-8' };
    const answer = await fetch(url, { method: 'POST', headers, body, signal: AbortSignal.timeout(120000) });
    if (answer.status !== 200) $('error').textContent = await refusal(answer);
  } catch (e) {
    $('error').textContent = e.name === 'TimeoutError' ? word('silent') : word('unreachable');
  }
  if ($('error').textContent) $('msg').value = msg + $('msg').value;   // nothing that was typed is lost
  $('send').disabled = false;
  $('msg').focus();
}

// The server refuses with one line of plain text; a proxy between us may answer with a page.
async function refusal(answer) {
  const plain = /^text\/plain\b/i.test(answer.headers.get('Content-Type') || '');
  const line = plain ? (await answer.text()).trim().split('\n')[0].slice(0, 500) : '';
  return line || word('answered', { status: `${answer.status} ${answer.statusText}`.trim() });
}

// ---- Copying ----------------------------------------------------------------------------------------------------

// navigator.clipboard is there in secure contexts only; http://192.168.1.5:8000 is none.
async function copy(button) {
  const code = button.previousElementSibling;
  let done = true;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    done = document.execCommand('copy');
  }
  button.textContent = $('copied').textContent = done ? word('copied') : word('selected');
  setTimeout(() => { button.textContent = word('copy'); $('copied').textContent = ''; }, 2000);
}

// ---- Start ------------------------------------------------------------------------------------------------------

document.title = `${channel} · tincan`;
$('channel').textContent = channel;
$('curl-listen').textContent = `curl -N ${url}`;
$('curl-say').textContent = `curl -d 'soup is ready' ${url}`;
for (const button of document.querySelectorAll('.copy')) button.onclick = () => copy(button);

try { $('name').value = localStorage.getItem('tincan-name') || ''; } catch { /* storage is blocked */ }
$('name').oninput = () => { try { localStorage.setItem('tincan-name', $('name').value); } catch { /* as above */ } };

$('form').onsubmit = send;
$('now').onclick = connect;
$('log').onscroll = () => { following = $('log').scrollHeight - $('log').scrollTop - $('log').clientHeight < 16; };
new ResizeObserver(follow).observe($('log'));                       // a phone's keyboard, or the curl lines closing
document.onvisibilitychange = everySecond;
addEventListener('pageshow', event => { if (event.persisted) connect(); });
addEventListener('online', connect);
setInterval(everySecond, 1000);
if (!matchMedia('(pointer: coarse)').matches) $('msg').focus();     // there it would open a phone's keyboard
connect();

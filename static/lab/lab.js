'use strict';
// The wire lab. One EventSource listens to a URL. The server tells each byte of that connection as events of a second
// stream, the tap (`?tap=KEY`, src/lab.rs). The page sets these bytes beside what the specification's algorithm does with
// them (EventStreamParser, eventsource.js) and beside what the EventSource fired: a row of the table is a line of the wire.
// A channel can be heard with a WebSocket as well; then a row is a part of a frame (RFC 6455 §5.2).

const KEPT_ROWS = 800;             // Limit: rows of the table; the oldest go first
const ROUNDS = 4;                  // Limit: connections that a lesson with a retry field ends; then the lab closes
const LATE = 2000;                 // ms after which what was fired gets a row of its own
const RETRY = 3000;                // ms; the browser's own reconnection time, and ours
const PATIENCE = 10000;            // ms for an answer
const NAME = /^(?!(lab|lessons|assets|metrics|health)$)[A-Za-z0-9_-]{1,64}$/;

const $ = id => document.getElementById(id);

// ---- Bytes, visible ---------------------------------------------------------------------------------------------

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const CONTROLS = ('NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI ' +
  'DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US').split(' ');
const hex = byte => byte.toString(16).padStart(2, '0').toUpperCase();
const numbers = bytes => [...bytes].map(hex).join(' ');
// A byte with its bits, in groups.
const bits = (groups, spaced) => ([byte]) => `${hex(byte)} = ${byte.toString(2).padStart(8, '0').replace(groups, spaced)}`;

// A text in which every byte can be seen. What is no UTF-8, and what has no picture, is shown as numbers.
function visible(bytes) {
  const shown = document.createDocumentFragment();
  let text = '';
  const flush = () => { if (text) shown.append(text); text = ''; };
  const mark = (className, content, name = '') => {
    flush();
    const made = element('span', className, content);
    made.dataset.name = name;      // is shown in place of the content: many fonts lack the control pictures
    shown.append(made);
  };
  for (let at = 0; at < bytes.length;) {
    const byte = bytes[at];
    const length = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    const part = bytes.subarray(at, at + length);
    if (byte === 0x20) mark('space', ' ');
    else if (byte < 0x20) mark('control', String.fromCharCode(0x2400 + byte), CONTROLS[byte]);
    else if (byte === 0x7f) mark('control', '\u2421', 'DEL');
    else {
      let character = '';
      try { character = utf8.decode(part); } catch { /* no UTF-8, or a part of it */ }
      if (character === '') {
        mark('control', `⟨${hex(byte)}⟩`, hex(byte));
        at++;
        continue;
      }
      const shown = numbers(part);
      if (/[\p{C}\p{Z}]/u.test(character)) mark('control', `⟨${shown}⟩`, character === '\ufeff' ? `BOM ${shown}` : shown);
      else text += character;
    }
    at += length;
  }
  flush();
  return shown;
}

function element(tag, className = '', text = '') {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function exact(tag, text) {
  const made = element(tag);
  made.append(visible(new TextEncoder().encode(text)));
  return made;
}

// How much of these bytes is the first line, with its end: CR LF, LF or CR. It may have none.
function lineLength(bytes) {
  const end = bytes.findIndex((byte, at) => byte === 10 || (byte === 13 && bytes[at + 1] !== 10));
  return end < 0 ? bytes.length : end + 1;
}

// ---- The table --------------------------------------------------------------------------------------------------

const body = $('wire').tBodies[0];
const notes = new WeakMap();       // of a row: { block, state }
let following = true;              // the reader is at the bottom

function addRow(className, cells, note = {}) {
  const row = element('tr', className);
  row.append(...cells);
  // On a phone the rows are blocks, which takes their roles from them.
  row.setAttribute('role', 'row');   // Firefox before 119 has no `role`
  for (const cell of cells) cell.setAttribute('role', cell.scope ? 'rowheader' : 'cell');
  row.tabIndex = body.querySelector('[tabindex="0"]') ? -1 : 0;   // one stop for the Tab key
  notes.set(row, note);
  body.append(row);
  while (body.childElementCount > KEPT_ROWS) body.firstElementChild.remove();
  follow();
  return row;
}

// Also behind each change of a row: one that grew would otherwise look as if the reader had gone up.
function follow() { if (following) $('scroll').scrollTop = $('scroll').scrollHeight; }

// A line over all columns.
function addHeading(className, text) {
  const cell = element('th', '', text);
  cell.colSpan = 3;
  cell.scope = 'rowgroup';
  return addRow(className, [cell]);
}

// `shown` is a text that stands for the bytes, where they are none.
function addLine(way, bytes, note, shown) {
  const wire = element('td', 'bytes');
  const code = element('code');
  code.append(shown ?? visible(bytes));
  wire.append(code);
  if (shown === undefined) wire.append(element('code', 'hex', numbers(bytes)));
  const made = addRow(`row ${way}`, [wire, element('td', 'steps'), element('td', 'fired')], note);
  return { row: made, steps: made.cells[1], fired: made.cells[2] };
}

// What belongs to this row is marked, and the buffers are shown as they were behind it.
let pointed = null;

function point(row) {
  pointed = row;
  const { block } = notes.get(row);
  for (const other of body.rows) {
    other.classList.toggle('here', other === row);
    other.classList.toggle('same', block !== undefined && notes.get(other).block === block);
  }
  showBuffers();
}

function unpoint() {
  pointed = null;
  for (const row of body.querySelectorAll('.here, .same')) row.classList.remove('here', 'same');
  showBuffers();
}

function step(event) {
  const row = event.target.closest('tbody tr');
  const to = row && {
    ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling,
    Home: body.firstElementChild, End: body.lastElementChild,
  }[event.key];
  if (!to) return;
  event.preventDefault();
  row.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

// ---- The buffers ------------------------------------------------------------------------------------------------

let latest = null;                 // what the algorithm remembers now

function showBuffers() {
  const { data = '', type = '', id = '', lastEventId = '', retry = null } = notes.get(pointed)?.state ?? latest ?? {};
  const shown = asSocket() ? { protocol: source?.protocol ?? '', extensions: source?.extensions ?? '' }
    : { data, type, id, lastEventId, retry: retry === null ? '' : `${retry} ms` };
  shown.readyState = source ? `${source.readyState} ${readyState()}` : '';
  for (const name of BUFFERS) {
    const [place, value] = [$(`buffer-${name}`), shown[name]];
    place.parentElement.hidden = value === undefined;
    place.replaceChildren(value ? exact('span', value) : element('i', '', word('lab-empty')));
  }
}

const BUFFERS = ['data', 'type', 'id', 'lastEventId', 'retry', 'protocol', 'extensions', 'readyState'];
const READY = ['CONNECTING', 'OPEN', 'CLOSING', 'CLOSED'];
const readyState = () => !source || source.readyState === source.CLOSED ? 'CLOSED' : READY[source.readyState];

for (const name of BUFFERS) {
  const value = element('dd');
  value.id = `buffer-${name}`;
  const pair = element('div');
  pair.append(element('dt', '', word(name === 'data' ? 'lab-data-buffer' : `lab-${name}`)), value);
  $('buffers').append(pair);
}

// ---- What the tap tells -----------------------------------------------------------------------------------------

let connections = new Map();       // by their number in the tap
let count = 0;
let began = 0;                     // the server's time of the first byte, ms
let opened = 0;                    // connections of the stream

class Connection {
  constructor(at) {
    this.number = ++count;
    this.blocks = 0;
    this.ways = { in: { head: true }, out: { head: true } };
    // Half of the reconnection time is for what we do not know of the clocks.
    this.began = at - (latest?.retry ?? RETRY) / 2;
  }

  get attempt() {
    const skew = Math.min(most, Math.max(least, 0));
    return errors.filter(error => error < this.began + skew).length;
  }

  get block() { return `${this.number}.${this.blocks}`; }

  hear(way, bytes, at) {
    began ||= at;
    const time = ((at - began) / 1000).toFixed(3);
    addHeading(`piece ${way}`, word(`lab-${way}`, { time, number: this.number, size: word('lab-size', { n: bytes.length }) }));
    const side = this.ways[way];
    while (bytes.length > 0) {
      if (side.frames) return this.hearFrames(way, side, bytes);
      const { chunk } = side;
      const line = bytes.subarray(0, lineLength(bytes.subarray(0, chunk?.left || bytes.length)));
      bytes = bytes.subarray(line.length);
      if (chunk?.left === 0) {
        this.hearChunk(way, chunk, line);
      } else {
        if (chunk) chunk.left -= line.length;
        this.hearLine(way, side, line);
      }
    }
  }

  // The framing of a body in chunks (RFC 9112 §7.1): a line with the size of each, and a line end behind it. What is in the
  // chunks is read as if it had come without them, wherever they end.
  hearChunk(way, chunk, bytes) {
    const { steps } = addLine(`${way} framing`, bytes, { state: latest });
    chunk.line += new TextDecoder().decode(bytes);
    if (!chunk.line.endsWith('\n')) return steps.textContent = word('lab-unended');
    const size = /^[0-9a-f]+\r\n$/i.test(chunk.line) ? parseInt(chunk.line, 16) : NaN;
    chunk.line = '';
    if (chunk.next === 'lost' && size >= 0) chunk.next = 'size';
    const what = size === 0 ? 'last' : chunk.next;
    steps.textContent = word(`lab-chunk-${what}`, { n: size });
    if (size > 0) chunk.left = size;
    chunk.next = { size: size === 0 ? 'over' : 'end', end: 'size' }[chunk.next] ?? chunk.next;
  }

  // So many bytes are missing: behind the end of a chunk nobody knows where the next one begins, until its size is seen.
  lose(bytes) {
    addHeading('ended', word('lab-lost', { n: bytes, number: this.number }));
    const { chunk } = this.ways.out;
    if (!chunk) return;
    if (bytes > chunk.left) Object.assign(chunk, { left: bytes, next: 'lost', line: '' });
    chunk.left -= bytes;
  }

  hearLine(way, side, bytes) {
    const text = (side.rest ?? '') + new TextDecoder().decode(bytes);
    const whole = (side.parser ? /[\r\n]$/ : /\n$/).test(text);
    side.rest = whole ? '' : text;
    if (side.parser) return this.hearStream(side, bytes, whole);
    const line = addLine(way, bytes, { block: this.block });
    if (!whole) line.steps.textContent = side.head ? word('lab-unended') : word('lab-body');
    else if (!side.head) line.steps.textContent = word('lab-body');
    else this.hearHead(way, side, text.trimEnd(), line);
  }

  hearHead(way, side, text, line) {
    const kind = !side.first ? (way === 'in' ? 'lab-request' : 'lab-status') : text === '' ? 'lab-end' : 'lab-field';
    line.steps.textContent = word(kind);
    const [name, value] = [text.split(':')[0].toLowerCase(), text.slice(text.indexOf(':') + 1).trim()];
    if (way === 'in' && !side.first) {
      this.isStream = text.startsWith('GET ');
      if (this.isStream && opened++ === 0) fired(line.fired, 'new', word('lab-new', { name: asSocket() ? 'WebSocket' : 'EventSource' }));
    } else if (kind === 'lab-field') {
      const known = `lab-${way}-${name}`;
      const fits = name !== 'connection' || value === 'close';
      if (fits && known in WORDS) line.steps.append(element('small', '', word(known)));
      if (name === 'content-type') side.type = value;
      if (name === 'transfer-encoding') side.chunked = true;
    }
    side.first ||= text;
    if (kind !== 'lab-end') return;
    side.head = false;
    if (side.chunked) side.chunk = { left: 0, next: 'size', line: '' };
    this.blocks++;
    if (way !== 'out' || !this.isStream) return;
    const status = side.first.split(' ')[1];
    if (status === '200' && /^text\/event-stream\s*(;|$)/i.test(side.type)) {
      // By the text each stream begins with empty buffers, but the last event ID string stays. (Chromium keeps its buffer.)
      side.parser = new EventStreamParser(this.watch());
      side.parser.lastEventId = latest?.lastEventId ?? '';
      this.expect('open', line.fired);
    } else if (status === '101') {
      for (const way of ['in', 'out']) this.beginFrames(way);
      this.expect('open', line.fired);
    } else {
      this.failed = true;
      line.steps.append(element('small', '', word(asSocket() ? 'lab-not-101' : 'lab-fails', { status, type: side.type ?? '-' })));
      this.expectEnd(line.fired);
    }
  }

  // A WebSocket that was not closed in order fires both. `round`: the end of a lesson that we did not cut.
  expectEnd(cell, round) {
    this.expect('error', cell, { round });
    if (asSocket()) this.expect('close', cell);
  }

  expect(kind, cell, more) {
    places.push({ kind, cell, connection: this, ...more });
    meet();
  }

  beginFrames(way) {
    const frames = this.frames(way);
    Object.assign(this.ways[way], { frames, got: [], wants: frames.next().value });
  }

  // Frames and pieces are cut independently of each other. A part of a frame that is in two pieces has two rows.
  hearFrames(way, side, bytes) {
    while (bytes.length > 0) {
      const [length, shown] = side.wants;
      const part = bytes.subarray(0, length - side.got.length);
      bytes = bytes.subarray(part.length);
      this.line = addLine(way, part, side.note, shown?.(part));
      side.got.push(...part);
      if (side.got.length < length) this.line.steps.textContent = word('lab-part');
      else side.wants = side.frames.next(side.got.splice(0)).value;
    }
  }

  // Asks for the parts of frames (RFC 6455 §5.2) one after the other: how many bytes, and what to show instead of them.
  * frames(way) {
    const text = bytes => new TextDecoder().decode(Uint8Array.from(bytes));
    const say = (key, values, className) => this.line.steps.append(element('span', className, word(key, values)));
    for (let message;;) {
      const note = this.ways[way].note = { block: `${this.number}.${++this.blocks}` };
      const [first] = yield [1, bits(/^(.)(...)/, '$1 $2 ')];
      const [fin, opcode] = [first >> 7, first & 15];
      if (opcode === 0) note.block = message.block;                    // rows of one message belong together
      else if (opcode < 8) message = { ...note, bytes: [] };
      say(`lab-fin-${fin}`);
      say('lab-rsv');
      say(`lab-opcode-${opcode}`);

      const [second] = yield [1, bits(/^./, '$& ')];
      const masked = second >> 7;
      let n = second & 127;
      say(`lab-mask-${masked}`);
      say(n < 126 ? 'lab-length' : `lab-length-${n}`, { n });
      if (n > 125) {
        n = (yield [n === 126 ? 2 : 8, numbers]).reduce((sum, byte) => 256 * sum + byte);
        say('lab-longer', { n });
      }
      const key = masked && (yield [4, numbers]);
      if (key) say('lab-key');
      let payload = n ? yield [n, masked || opcode === 8 ? numbers : undefined] : [];
      if (n) say(masked ? 'lab-unmasked' : 'lab-payload');
      if (key) payload = payload.map((byte, at) => byte ^ key[at % 4]);
      if (opcode === 8) {
        say(n ? 'lab-code' : 'lab-no-code', { code: 256 * payload[0] + payload[1], reason: JSON.stringify(text(payload.slice(2))) });
        if (way === 'in') this.expect('call', this.line.fired);
      } else if (n && masked) {
        this.line.steps.append(exact('q', text(payload)));
      }
      if (opcode < 8) message.bytes = message.bytes.concat(payload);
      if (opcode < 8 && fin) {
        say(`lab-received-${way}`, {}, 'dispatch');
        if (way === 'out') this.expect('event', this.line.fired);
        else fired(this.line.fired, 'new', `send(${JSON.stringify(text(message.bytes))})`);
      } else if (opcode > 7) {
        say(`lab-effect-${opcode}`, {}, 'dispatch');
      }
      this.line.row.classList.add('block-end');
    }
  }

  // The parser is given each piece for itself, so that each of its steps has its line.
  hearStream(side, bytes, whole) {
    const line = addLine('out', bytes, { block: this.block });
    this.line = line;
    this.wasEmpty = false;
    side.parser.feed(bytes);
    if (!line.steps.hasChildNodes()) {
      line.steps.textContent = bytes.length === 1 && bytes[0] === 10 ? word('lab-half') : whole ? '' : word('lab-unended');
    }
    const { data, type, id, lastEventId } = side.parser;
    latest = { ...latest, data, type, id, lastEventId };
    notes.get(line.row).state = latest;
    if (!this.wasEmpty) return;
    this.blocks++;
    line.row.classList.add('block-end');
  }

  watch() {
    const say = (className, text) => this.line.steps.append(element('span', className, text));
    return {
      line: text => { this.wasEmpty ||= text === ''; },
      comment: text => say('comment', word(text === 'ping' ? 'lab-ping' : 'lab-comment')),
      field: (name, value, effect) => {
        this.line.steps.append(exact('b', name), ' ', exact('q', value));
        say(effect.startsWith('ignored') ? 'ignored' : '', word(effect));
      },
      retry: ms => { latest = { ...latest, retry: ms }; },
      nothing: () => say('nothing', word('lab-nothing')),
      dispatch: event => {
        say('dispatch', word('lab-dispatch', event));
        if (types.has(event.type)) this.expect('event', this.line.fired, { data: event.data });
        else fired(this.line.fired, 'unheard', word('lab-unheard', event));
      },
    };
  }

  end(at) {
    if (!this.isStream) return;
    const row = addHeading('ended', word('lab-ended', { n: this.number, time: ((at - began) / 1000).toFixed(3) }));
    const { rest, parser, chunk } = this.ways.out;
    const say = key => row.cells[0].append(' ', element('small', '', word(key)));
    if (/^(size|end)$/.test(chunk?.next) && readyState() !== 'CLOSED') say('lab-chunk-missing');
    if (rest || parser?.data) say('lab-discarded');
    row.cells[0].colSpan = 2;
    const cell = element('td', 'fired');
    row.append(cell);
    if (!this.failed) this.expectEnd(cell, lesson() && !this.pulled);
  }
}

function hearTap(event) {
  const { connection: number, at, bytes } = JSON.parse(event.data);
  most = Math.min(most, Date.now() - at);
  least ??= connected - at;
  let connection = connections.get(number);
  if (!connection) {
    connections.set(number, connection = new Connection(at));
    if (/^GET /.test(bytes)) {
      streams.push(connection);
      news.filter(one => one.attempt < connection.attempt).forEach(standAlone);
    }
  }
  if (event.type === 'end') connection.end(at);
  else if (event.type === 'lost') connection.lose(bytes);
  else connection.hear(event.type, Uint8Array.from(bytes, character => character.charCodeAt(0)), at);
  follow();
  showBuffers();
}

// ---- What the EventSource fires ---------------------------------------------------------------------------------

let source = null;
let tap = null;
let key = '';
const OWN = ['open', 'error'];     // a stream may name its events like the EventSource's own; both have data then
let types = new Set();
let places = [];                   // { kind, connection, cell } that wait for what is fired
let news = [];                     // { kind, attempt, text } that waits for its place

// The tap and the stream are two connections, and either may be late. Behind each error another attempt to connect begins.
// Some never reach the server, so the time tells from which one a connection is.
let errors = [];                   // ms
let streams = [];                  // connections of attempts
let connected = 0;                 // ms; the first attempt
let [least, most] = [];            // ms by which our clock is ahead of the server's; 0 if that may be
let tapped = 0;                    // ms; when the tap was opened, infinite while it is not
let rounds = 0;                    // connections that the lesson has ended

function hear(kind, className, text, data) {
  const one = { kind, className, text, data, attempt: errors.length, isEnd: /error|close/.test(kind) };
  news.push(one);
  meet();
  showBuffers();
  const late = () => {
    if (!news.includes(one)) return;
    if (one.isEnd || Date.now() - tapped > LATE) standAlone(one);
    else setTimeout(late, LATE);
  };
  setTimeout(late, LATE);
}

// Its connection never reached the server, or the tap does not tell of it.
function standAlone(one) {
  news.splice(news.indexOf(one), 1);
  const cell = element('td', 'fired');
  const n = one.isEnd && streams.find(({ attempt }) => attempt === one.attempt)?.number;
  const none = element('td', '', word(n ? 'lab-broken' : 'lab-no-bytes', { n }));
  none.colSpan = 2;
  addRow('row', [none, cell]);
  fired(cell, one.className, one.text);
}

function meet() {
  for (const one of [...news]) {
    // Where the browser is stricter than the specification, it fails where it should have opened.
    const place = places.find(({ connection, data, kind }) => connection.attempt === one.attempt && data === one.data &&
      (kind === one.kind || (kind === 'open' && one.className === 'failed')));
    if (!place) continue;
    places.splice(places.indexOf(place), 1);
    news.splice(news.indexOf(one), 1);
    fired(place.cell, one.className, one.text);
    if (place.round && ++rounds >= limit) disconnect('lab-over');
  }
}

function fired(cell, className, text) {
  cell.append(element('span', className, text));
  follow();
}

function hearEvent(event) {
  const handler = ['message', ...OWN].includes(event.type) ? `on${event.type}` : `addEventListener('${event.type}')`;
  const [data, id] = [event.data, event.lastEventId].map(text => JSON.stringify(text));
  hear('event', 'event', word('lab-heard', { handler, data, id }), event.data);
  if (event.type === 'pause' && lesson()) disconnect('lab-paused');
}

// ---- Connecting -------------------------------------------------------------------------------------------------

const lesson = () => $('what').value;
const fragment = () => `#${lesson() || path()}`;
const asSocket = () => lesson() === '' && $('as').value !== 'EventSource';
const path = () => lesson() ? `/lessons/${lesson()}` : `/${$('channel').value}`;

function query() {
  const since = $('since').value.trim();
  return since ? `since=${encodeURIComponent(since)}` : '';
}

function connect() {
  if (!lesson() && !NAME.test($('channel').value)) return $('channel').reportValidity();
  stop();
  body.replaceChildren();
  $('unknown').hidden = true;
  location.replace(fragment());
  [connections, places, news, errors, streams, latest, pointed] = [new Map(), [], [], [], [], null, null];
  [rounds, count, began, opened] = [0, 0, 0, 0];
  [connected, least, most, tapped] = [Date.now(), undefined, Infinity, Infinity];
  trouble = 'lab-state-connecting';
  key = Array.from(crypto.getRandomValues(new Uint8Array(12)), hex).join('');
  types = new Set([...$('types').value.split(/\s+/).filter(Boolean), ...OWN]);
  following = true;

  tap = new EventSource(`/lab/${key}?since=all`);
  for (const type of ['in', 'out', 'lost', 'end']) tap.addEventListener(type, hearTap);
  // The server began anew, or we were too slow: what is said from here on stands by itself.
  tap.addEventListener('gap', () => { connections = new Map(); places = []; });
  tap.onopen = () => { tapped = Date.now(); };
  tap.onerror = () => { tapped = Infinity; };

  const url = `${path()}?${[query(), `tap=${key}`].filter(Boolean).join('&')}`;
  if (asSocket()) openSocket(url);
  else openSource(url);
  showState();
}

let trouble = '';                  // what is said while it connects
function openSource(url) {
  source = new EventSource(url);
  source.onopen = event => {
    if ('data' in event) return hearEvent(event);
    trouble = 'ways-lost';         // if it connects again
    showState();
    hear('open', 'open', word('lab-opened'));
  };
  source.onerror = event => {
    if ('data' in event) return hearEvent(event);
    const closed = source.readyState === EventSource.CLOSED;
    hear('error', closed ? 'failed' : 'error', word(closed ? 'lab-error-closed' : 'lab-error'));
    if (!closed) errors.push(Date.now() - performance.now() + event.timeStamp);
    showState();
    trouble = 'lab-unreached';     // if it does not open before the next one
  };
  for (const type of types) if (!OWN.includes(type)) source.addEventListener(type, hearEvent);
}

const socketURL = path => location.origin.replace('http', 'ws') + path;
const protocols = () => $('as').value === 'WebSocket' ? [] : [$('as').value];

function openSocket(url) {
  const socket = source = new WebSocket(socketURL(url), protocols());
  const hearSocket = (kind, className, text) => {
    if (socket !== source) return;           // it was closed to make room for another
    hear(kind, className, text);
    showState();
    if (kind === 'close') endTap('lab-no-return');
  };
  socket.onopen = () => hearSocket('open', 'open', word('lab-opened'));
  socket.onmessage = ({ data }) => hearSocket('event', 'event', word('lab-message', { data: JSON.stringify(data) }));
  socket.onerror = () => hearSocket('error', 'error', word('lab-socket-error'));
  socket.onclose = ({ code, reason, wasClean }) =>
    hearSocket('close', 'failed', word('lab-socket-closed', { code, reason: JSON.stringify(reason), wasClean }));
}

function disconnect(why = 'lab-closed') {
  if (asSocket()) {
    source.close(1000);            // begins the closing handshake; onclose comes at its end
    hear('call', 'new', 'close(1000)');
  } else {
    source.close();
    endTap(why);
  }
  showState();
}

// For what needs the browser's six connections more.
function makeRoom() {
  if ($('state').dataset.state === 'closed') tap?.close();
  else disconnect();
}

// What the tap still has to say is waited for.
function endTap(why) {
  const mine = tap;
  setTimeout(() => {
    mine?.close();
    if (mine !== tap) return;
    [...news].forEach(standAlone);
    const row = addHeading('ended', word(why));
    if (why !== 'lab-closed') row.classList.add('over');
  }, why === 'lab-paused' ? 300 : 600);                    // the lesson goes on after 500
}

function stop() {
  source?.close();
  tap?.close();
}

async function pull() {
  for (const connection of connections.values()) connection.pulled = true;
  try {
    const answer = await fetch(`/lab/${key}`, { method: 'POST', body: 'pull the plug' });
    if (!answer.ok) addHeading('ended', await answer.text());
  } catch { /* the EventSource says so as well */ }
}

function showState() {
  const state = readyState().toLowerCase();
  $('state').dataset.state = state;
  $('state').textContent = word(state === 'connecting' ? trouble : `lab-state-${state}`);
  if (state === 'open' && $('sent').textContent === word('unreachable')) $('sent').textContent = '';
  if (others.length > 0) countOthers();
  $('disconnect').disabled = /^clos/.test(state);
  $('plug').disabled = state !== 'open';
  showBuffers();
}

// ---- Lessons ----------------------------------------------------------------------------------------------------

let limit = 1;                     // connections of this lesson

// Does it as soon as the server is reached; not again if it refuses, for the browser may ask for a token each time.
let again = 0;
async function insist(what) {
  clearTimeout(again);
  try { await what(); } catch (e) {
    const refused = typeof e === 'string';
    $('state').textContent = refused ? e : word('unreachable');
    if (!refused) again = setTimeout(insist, RETRY, what);
  }
}

async function listLessons() {
  if ($('what').length > 1) return;
  const lessons = await readLessons();
  const group = element('optgroup');
  group.label = word('lab-lessons');
  for (const { name, title } of lessons) {
    const option = element('option', '', title);
    option.value = name;
    group.append(option);
    const link = element('a', '', option.textContent);
    link.href = `#${name}`;
    $('unknown').append(link, element('br'));
  }
  $('what').append(group);
}

async function choose(unknown = '') {
  const name = lesson();
  clear();
  others.splice(0).forEach(other => other.close());   // else the next lesson may wait for them for ever
  $('lesson').hidden = name === '';
  $('channel-field').hidden = $('as-field').hidden = $('publish').hidden = name !== '';
  $('since').value = '';
  $('unknown').hidden = !unknown;
  $('unknown').firstElementChild.textContent = unknown;
  if (!unknown) location.replace(fragment());
  if (name === '') {
    $('types').value = 'message gap';
  } else {
    const text = await load(`/lessons/${name}.txt`);
    if (lesson() !== name) return false;           // another one was chosen meanwhile
    const [english, translated] = text.split(/^: 中文.*$/m);
    const says = what => [...(chinese && translated || english).matchAll(new RegExp(`^: ${what}: (.*)$`, 'gm'))][0]?.[1] ?? '';
    $('lesson-title').textContent = says('lesson');
    $('look').textContent = says('look');
    $('question').textContent = says('question');
    $('answer').open = false;
    $('answer').lastElementChild.textContent = says('answer');
    $('types').value = [...new Set(['message', ...[...english.matchAll(/^event: ?(\S+)$/gm)].map(found => found[1])])].join(' ');
    limit = /^\{repeat/m.test(english) ? Infinity : /^retry/m.test(english) ? ROUNDS : 1;
    $('file').href = `/lessons/${name}.txt`;
    $('more').hidden = name !== 'six-connections';
    $('previous').disabled = $('what').selectedIndex <= 1;
    $('next').disabled = $('what').selectedIndex === $('what').options.length - 1;
  }
  showClient();
  return true;
}

function clear() {
  stop();
  source = null;
  body.replaceChildren();
  latest = pointed = null;
}

// What differs between an EventSource and a WebSocket.
function showClient() {
  $('types-field').hidden = $('types-help').hidden = $('event-field').hidden = asSocket();
  $('client').textContent = asSocket() ? 'WebSocket' : 'EventSource';
  $('rules').textContent = word(asSocket() ? 'lab-frames-help' : 'lab-algorithm-help');
  $('hint').textContent = word(asSocket() ? 'lab-frames-hint' : 'lab-hint');
  showCurl();
  showState();
}

async function play() {
  if (await choose() && lesson()) connect();
}

function turn(by) {
  $('what').selectedIndex += by;
  insist(play);
}

// The lesson about the limit: each click opens the same stream once more.
const others = [];

function openMore() {
  const one = new EventSource(`${path()}?n=${others.length}`);
  others.push(one);
  one.onopen = one.onerror = countOthers;
  countOthers();
}

function countOthers() {
  const states = others.map(other => other.readyState);
  const [waiting, open] = [0, 1].map(state => states.filter(s => s === state).length);
  const held = readyState() === 'OPEN' ? word('lab-held') : '';
  $('more').querySelector('output').textContent = word('lab-counted', { open, waiting }) + held;
}

// ---- The same with curl, and publishing -------------------------------------------------------------------------

const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
const event = () => asSocket() ? '' : $('event').value.trim();
const publishPath = () => `${path()}${event() ? `?event=${encodeURIComponent(event())}` : ''}`;

function showCurl() {
  const since = $('since').value.trim();
  const socket = [socketURL(`${path()}${query() && `?${query()}`}`), ...protocols()].map(text => JSON.stringify(text));
  $('curl').textContent = asSocket() ? `new WebSocket(${socket.join(', ')})`
    : `curl -N ${since ? `-H ${quoted(`Last-Event-ID: ${since}`)} ` : ''}${location.origin}${path()}`;
  const url = `${location.origin}${publishPath()}`;
  $('curl-say').textContent = `curl -d ${quoted($('data').value)} ${url.includes('?') ? quoted(url) : url}`;
}

async function publish(submitted) {
  submitted.preventDefault();
  if (event() && !types.has(event())) $('sent').textContent = word('lab-no-listener', { type: event() });
  else $('sent').textContent = '';
  if (asSocket() && source?.readyState === WebSocket.OPEN) return source.send($('data').value);
  const url = publishPath() + (key && `${event() ? '&' : '?'}tap=${key}`);
  try {
    const answer = await fetchText(url, PATIENCE, { method: 'POST', headers: { 'Content-Type': 'text/plain;charset=utf-8' },
      body: $('data').value });
    if (!answer.ok) $('sent').textContent = answer.said;
  } catch (e) { $('sent').textContent = word(e.name === 'TimeoutError' ? 'ways-timeout' : 'unreachable'); }
}

// ---- Start ------------------------------------------------------------------------------------------------------

$('controls').onsubmit = submitted => { submitted.preventDefault(); connect(); };
$('disconnect').onclick = () => disconnect();
$('plug').onclick = pull;
$('publish').onsubmit = publish;
$('as').onchange = () => { clear(); showClient(); };
$('what').onchange = () => insist(play);
$('previous').onclick = () => turn(-1);
$('next').onclick = () => turn(1);
$('more').firstElementChild.onclick = openMore;
$('hex').onchange = () => { $('wire').classList.toggle('with-hex', $('hex').checked); follow(); };
for (const id of ['channel', 'since', 'event', 'data']) $(id).addEventListener('input', showCurl);
body.onmouseover = moved => { const row = moved.target.closest('tr'); if (row) point(row); };
body.onmouseleave = unpoint;
body.addEventListener('focusin', moved => point(moved.target.closest('tr')));
body.addEventListener('focusout', unpoint);
body.onkeydown = step;
$('scroll').onscroll = () => { following = $('scroll').scrollHeight - $('scroll').scrollTop - $('scroll').clientHeight < 24; };
new ResizeObserver(follow).observe($('scroll'));
addEventListener('pagehide', stop);

document.title = `${word('lab-title')} · tincan`;
async function go() {
  await listLessons();
  let asked = location.hash.slice(1) || 'first-event';
  try { asked = decodeURIComponent(asked); } catch { /* then as it is */ }
  // Whoever made the link wrote it, and a shell may get it with the curl line.
  const isChannel = asked[0] === '/';
  const known = isChannel ? NAME.test(asked.slice(1)) : [...$('what').options].some(({ value }) => value === asked);
  $('what').value = known && !isChannel ? asked : '';
  if (known && isChannel) $('channel').value = asked.slice(1);
  const chosen = await choose(known ? '' : word(isChannel ? 'lab-no-channel' : 'lab-no-lesson', { name: asked }));
  if (chosen && known) connect();
}

insist(go);
addEventListener('hashchange', () => { if (location.hash !== fragment() || !$('unknown').hidden) insist(go); });

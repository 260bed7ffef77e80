'use strict';
// The wire lab. One EventSource listens to a URL. The server reports each byte of that connection in a second stream,
// the tap (`?tap=KEY`, src/wings/lab). The table shows these bytes. Beside them it shows what the algorithm of the
// specification does with them (EventStreamParser, eventsource.js), and what the browser's EventSource fired. A row of
// the table is a line of the wire. For a channel the lab can use a WebSocket instead. Then a row is a part of a frame
// (RFC 6455 §5.2).

const KEPT_ROWS = 800;             // Limit: rows of the table; the oldest are removed
const ROUNDS = 4;                  // Limit: connections that a lesson with a retry field ends; then the lab closes it
const LATE = 2000;                 // ms after which a fired event gets a row of its own
const RETRY = 3000;                // ms; the reconnection time of the browser, and of this page
const PATIENCE = 10000;            // ms of patience with a response
const NAME = /^(?!(lab|lessons|assets|metrics|health)$)[A-Za-z0-9_-]{1,64}$/;

const $ = id => document.getElementById(id);

// ---- Visible bytes ----------------------------------------------------------------------------------------------

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const CONTROLS = ('NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI ' +
  'DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US').split(' ');
const hex = byte => byte.toString(16).padStart(2, '0').toUpperCase();
const numbers = bytes => [...bytes].map(hex).join(' ');
// Returns a function that shows a byte with its bits, in groups.
const bits = (groups, spaced) => ([byte]) =>
  `${hex(byte)} = ${byte.toString(2).padStart(8, '0').replace(groups, spaced)}`;

// Returns the bytes as text in which every byte is visible. Malformed UTF-8 and invisible characters are shown in
// hexadecimal.
function visible(bytes) {
  const shown = document.createDocumentFragment();
  let text = '';
  const flush = () => { if (text) shown.append(text); text = ''; };
  const mark = (className, content, name = '') => {
    flush();
    const made = element('span', className, content);
    made.dataset.name = name;      // shown in place of the content: many fonts lack the control pictures
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
      try { character = utf8.decode(part); } catch { /* malformed UTF-8, or a part of a character */ }
      if (character === '') {
        mark('control', `⟨${hex(byte)}⟩`, hex(byte));
        at++;
        continue;
      }
      const shown = numbers(part);
      const name = character === '\ufeff' ? `BOM ${shown}` : shown;
      if (/[\p{C}\p{Z}]/u.test(character)) mark('control', `⟨${shown}⟩`, name);
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

// Returns the length of the first line with its end: CR LF, LF or CR. If no line ends here, that is all bytes.
function lineLength(bytes) {
  const end = bytes.findIndex((byte, at) => byte === 10 || (byte === 13 && bytes[at + 1] !== 10));
  return end < 0 ? bytes.length : end + 1;
}

// ---- The table --------------------------------------------------------------------------------------------------

const body = $('wire').tBodies[0];
const notes = new WeakMap();       // row: { block, state }
let following = true;              // the table is scrolled to its end

function addRow(className, cells, note = {}) {
  const row = element('tr', className);
  row.append(...cells);
  // On a phone the rows are blocks in CSS, and lose their roles by that.
  row.setAttribute('role', 'row');   // Firefox before 119 has no property `role`
  for (const cell of cells) cell.setAttribute('role', cell.scope ? 'rowheader' : 'cell');
  row.tabIndex = body.querySelector('[tabindex="0"]') ? -1 : 0;   // the Tab key stops only once in the table
  notes.set(row, note);
  body.append(row);
  while (body.childElementCount > KEPT_ROWS) body.firstElementChild.remove();
  follow();
  return row;
}

// Keeps the table at its end. To be called after each change of a row: a row that grew also moves the end.
function follow() { if (following) $('scroll').scrollTop = $('scroll').scrollHeight; }

// Adds a row over all columns.
function addHeading(className, text) {
  const cell = element('th', '', text);
  cell.colSpan = 3;
  cell.scope = 'rowgroup';
  return addRow(className, [cell]);
}

// Adds a row for a line of the wire, or for a part of a frame. `shown` is shown in place of the bytes, if it is given.
function addLine(direction, bytes, note, shown) {
  const wire = element('td', 'bytes');
  const code = element('code');
  code.append(shown ?? visible(bytes));
  wire.append(code);
  if (shown === undefined) wire.append(element('code', 'hex', numbers(bytes)));
  const made = addRow(`row ${direction}`, [wire, element('td', 'steps'), element('td', 'fired')], note);
  return { row: made, steps: made.cells[1], fired: made.cells[2] };
}

// Marks the rows of the same block, and shows the buffers as they were after this row.
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

let latest = null;                 // the state of the algorithm now

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

// ---- The bytes that the tap reports -----------------------------------------------------------------------------

let connections = new Map();       // by their number in the tap
let count = 0;
let began = 0;                     // ms; the server's time of the first byte
let opened = 0;                    // connections of the stream so far

class Connection {
  constructor(at) {
    this.number = ++count;
    this.blocks = 0;
    this.sides = { in: { head: true }, out: { head: true } };
    // Half of the reconnection time is a margin for the difference of the clocks, which is not known exactly.
    this.began = at - (latest?.retry ?? RETRY) / 2;
  }

  get attempt() {
    const skew = Math.min(maxAhead, Math.max(minAhead, 0));
    return errors.filter(error => error < this.began + skew).length;
  }

  get block() { return `${this.number}.${this.blocks}`; }

  receive(direction, bytes, at) {
    began ||= at;
    const time = ((at - began) / 1000).toFixed(3);
    const size = word('lab-size', { n: bytes.length });
    addHeading(`piece ${direction}`, word(`lab-${direction}`, { time, number: this.number, size }));
    const side = this.sides[direction];
    while (bytes.length > 0) {
      if (side.frames) return this.receiveFrames(direction, side, bytes);
      const { chunk } = side;
      const line = bytes.subarray(0, lineLength(bytes.subarray(0, chunk?.left || bytes.length)));
      bytes = bytes.subarray(line.length);
      if (chunk?.left === 0) {
        this.receiveChunkLine(direction, chunk, line);
      } else {
        if (chunk) chunk.left -= line.length;
        this.receiveLine(direction, side, line);
      }
    }
  }

  // Reads a line of the chunk framing (RFC 9112 §7.1): the size of a chunk, or the line end after it. The content of
  // the chunks goes to receiveLine, as if there were no chunks.
  receiveChunkLine(direction, chunk, bytes) {
    const { steps } = addLine(`${direction} framing`, bytes, { state: latest });
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

  // This number of bytes is missing. If the end of a chunk is among them, the place of the next chunk is unknown until
  // a line with a size comes.
  lose(bytes) {
    addHeading('ended', word('lab-lost', { n: bytes, number: this.number }));
    const { chunk } = this.sides.out;
    if (!chunk) return;
    if (bytes > chunk.left) Object.assign(chunk, { left: bytes, next: 'lost', line: '' });
    chunk.left -= bytes;
  }

  receiveLine(direction, side, bytes) {
    const text = (side.unfinished ?? '') + new TextDecoder().decode(bytes);
    const isComplete = (side.parser ? /[\r\n]$/ : /\n$/).test(text);
    side.unfinished = isComplete ? '' : text;
    if (side.parser) return this.receiveStreamLine(side, bytes, isComplete);
    const line = addLine(direction, bytes, { block: this.block });
    if (!isComplete) line.steps.textContent = side.head ? word('lab-unended') : word('lab-body');
    else if (!side.head) line.steps.textContent = word('lab-body');
    else this.receiveHeadLine(direction, side, text.trimEnd(), line);
  }

  receiveHeadLine(direction, side, text, line) {
    const first = direction === 'in' ? 'lab-request' : 'lab-status';
    const kind = !side.first ? first : text === '' ? 'lab-end' : 'lab-field';
    line.steps.textContent = word(kind);
    const [name, value] = [text.split(':')[0].toLowerCase(), text.slice(text.indexOf(':') + 1).trim()];
    if (direction === 'in' && !side.first) {
      this.isStream = text.startsWith('GET ');
      const created = asSocket() ? 'WebSocket' : 'EventSource';
      if (this.isStream && opened++ === 0) showFired(line.fired, 'new', word('lab-new', { name: created }));
    } else if (kind === 'lab-field') {
      const known = `lab-${direction}-${name}`;
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
    if (direction !== 'out' || !this.isStream) return;
    const status = side.first.split(' ')[1];
    if (status === '200' && /^text\/event-stream\s*(;|$)/i.test(side.type)) {
      // By the specification each stream begins with empty buffers, but the last event ID string stays. (Chromium also
      // keeps the last event ID buffer.)
      side.parser = new EventStreamParser(this.watch());
      side.parser.lastEventId = latest?.lastEventId ?? '';
      this.expect('open', line.fired);
    } else if (status === '101') {
      for (const direction of ['in', 'out']) this.beginFrames(direction);
      this.expect('open', line.fired);
    } else {
      this.failed = true;
      const why = word(asSocket() ? 'lab-not-101' : 'lab-fails', { status, type: side.type ?? '-' });
      line.steps.append(element('small', '', why));
      this.expectEnd(line.fired);
    }
  }

  // A WebSocket that was not closed in order fires both events. `round`: a lesson has ended by itself.
  expectEnd(cell, round) {
    this.expect('error', cell, { round });
    if (asSocket()) this.expect('close', cell);
  }

  expect(kind, cell, more) {
    places.push({ kind, cell, connection: this, ...more });
    matchFired();
  }

  beginFrames(direction) {
    const frames = this.frames(direction);
    Object.assign(this.sides[direction], { frames, got: [], wants: frames.next().value });
  }

  // A piece may end anywhere in a frame. A part of a frame that is in two pieces has two rows.
  receiveFrames(direction, side, bytes) {
    while (bytes.length > 0) {
      const [length, shown] = side.wants;
      const part = bytes.subarray(0, length - side.got.length);
      bytes = bytes.subarray(part.length);
      this.line = addLine(direction, part, side.note, shown?.(part));
      side.got.push(...part);
      if (side.got.length < length) this.line.steps.textContent = word('lab-part');
      else side.wants = side.frames.next(side.got.splice(0)).value;
    }
  }

  // Asks for the parts of frames (RFC 6455 §5.2), one after the other. It yields the number of bytes, and the function
  // that returns what to show in place of these bytes.
  * frames(direction) {
    const text = bytes => new TextDecoder().decode(Uint8Array.from(bytes));
    const addStep = (key, values, className) => this.line.steps.append(element('span', className, word(key, values)));
    for (let message;;) {
      const note = this.sides[direction].note = { block: `${this.number}.${++this.blocks}` };
      const [first] = yield [1, bits(/^(.)(...)/, '$1 $2 ')];
      const [fin, opcode] = [first >> 7, first & 15];
      if (opcode === 0) note.block = message.block;                    // all frames of a message are one block
      else if (opcode < 8) message = { ...note, bytes: [] };
      addStep(`lab-fin-${fin}`);
      addStep('lab-rsv');
      addStep(`lab-opcode-${opcode}`);

      const [second] = yield [1, bits(/^./, '$& ')];
      const masked = second >> 7;
      let n = second & 127;
      addStep(`lab-mask-${masked}`);
      addStep(n < 126 ? 'lab-length' : `lab-length-${n}`, { n });
      if (n > 125) {
        n = (yield [n === 126 ? 2 : 8, numbers]).reduce((sum, byte) => 256 * sum + byte);
        addStep('lab-longer', { n });
      }
      const key = masked && (yield [4, numbers]);
      if (key) addStep('lab-key');
      let payload = n ? yield [n, masked || opcode === 8 ? numbers : undefined] : [];
      if (n) addStep(masked ? 'lab-unmasked' : 'lab-payload');
      if (key) payload = payload.map((byte, at) => byte ^ key[at % 4]);
      if (opcode === 8) {
        const reason = JSON.stringify(text(payload.slice(2)));
        addStep(n ? 'lab-code' : 'lab-no-code', { code: 256 * payload[0] + payload[1], reason });
        if (direction === 'in') this.expect('call', this.line.fired);
      } else if (n && masked) {
        this.line.steps.append(exact('q', text(payload)));
      }
      if (opcode < 8) message.bytes = message.bytes.concat(payload);
      if (opcode < 8 && fin) {
        addStep(`lab-received-${direction}`, {}, 'dispatch');
        if (direction === 'out') this.expect('event', this.line.fired);
        else showFired(this.line.fired, 'new', `send(${JSON.stringify(text(message.bytes))})`);
      } else if (opcode > 7) {
        addStep(`lab-effect-${opcode}`, {}, 'dispatch');
      }
      this.line.row.classList.add('block-end');
    }
  }

  // The parser gets one line at a time, so each of its steps belongs to a row.
  receiveStreamLine(side, bytes, isComplete) {
    const line = addLine('out', bytes, { block: this.block });
    this.line = line;
    this.wasEmpty = false;
    side.parser.feed(bytes);
    if (!line.steps.hasChildNodes()) {
      const isHalf = bytes.length === 1 && bytes[0] === 10;
      line.steps.textContent = isHalf ? word('lab-half') : isComplete ? '' : word('lab-unended');
    }
    const { data, type, id, lastEventId } = side.parser;
    latest = { ...latest, data, type, id, lastEventId };
    notes.get(line.row).state = latest;
    if (!this.wasEmpty) return;
    this.blocks++;
    line.row.classList.add('block-end');
  }

  watch() {
    const addStep = (className, text) => this.line.steps.append(element('span', className, text));
    return {
      line: text => { this.wasEmpty ||= text === ''; },
      comment: text => addStep('comment', word(text === 'ping' ? 'lab-ping' : 'lab-comment')),
      field: (name, value, effect) => {
        this.line.steps.append(exact('b', name), ' ', exact('q', value));
        addStep(effect.startsWith('ignored') ? 'ignored' : '', word(effect));
      },
      retry: ms => { latest = { ...latest, retry: ms }; },
      nothing: () => addStep('nothing', word('lab-nothing')),
      dispatch: event => {
        addStep('dispatch', word('lab-dispatch', event));
        if (types.has(event.type)) this.expect('event', this.line.fired, { data: event.data });
        else showFired(this.line.fired, 'unheard', word('lab-unheard', event));
      },
    };
  }

  end(at) {
    if (!this.isStream) return;
    const row = addHeading('ended', word('lab-ended', { n: this.number, time: ((at - began) / 1000).toFixed(3) }));
    const { unfinished, parser, chunk } = this.sides.out;
    const addNote = key => row.cells[0].append(' ', element('small', '', word(key)));
    if (/^(size|end)$/.test(chunk?.next) && readyState() !== 'CLOSED') addNote('lab-chunk-missing');
    if (unfinished || parser?.data) addNote('lab-discarded');
    row.cells[0].colSpan = 2;
    const cell = element('td', 'fired');
    row.append(cell);
    if (!this.failed) this.expectEnd(cell, lesson() && !this.pulled);
  }
}

function receiveTap(event) {
  const { connection: number, at, bytes } = JSON.parse(event.data);
  maxAhead = Math.min(maxAhead, Date.now() - at);
  minAhead ??= connectedAt - at;
  let connection = connections.get(number);
  if (!connection) {
    connections.set(number, connection = new Connection(at));
    if (/^GET /.test(bytes)) {
      streams.push(connection);
      unplaced.filter(fired => fired.attempt < connection.attempt).forEach(addAlone);
    }
  }
  if (event.type === 'end') connection.end(at);
  else if (event.type === 'lost') connection.lose(bytes);
  else connection.receive(event.type, Uint8Array.from(bytes, character => character.charCodeAt(0)), at);
  follow();
  showBuffers();
}

// ---- The events that the browser fires --------------------------------------------------------------------------

let source = null;
let tap = null;
let key = '';
const OWN = ['open', 'error'];     // events of a stream may have these names too; then they have data
let types = new Set();
let places = [];                   // { kind, connection, cell }: cells that wait for a fired event
let unplaced = [];                 // { kind, attempt, text }: fired events that wait for their cell

// The tap and the stream are two connections, and each may be later than the other. After each error the browser begins
// another attempt to connect. Some attempts never reach the server. So the time decides to which attempt a connection
// belongs.
let errors = [];                   // ms; the times of the errors
let streams = [];                  // the connections of the attempts
let connectedAt = 0;               // ms; the time of the first attempt
let [minAhead, maxAhead] = [];     // ms by which the browser's clock is ahead of the server's: at least, at most
let tapOpenedAt = 0;               // ms; infinite while the tap is not open
let rounds = 0;                    // connections that the lesson has ended

function addFired(kind, className, text, data) {
  const fired = { kind, className, text, data, attempt: errors.length, isEnd: /error|close/.test(kind) };
  unplaced.push(fired);
  matchFired();
  showBuffers();
  const late = () => {
    if (!unplaced.includes(fired)) return;
    if (fired.isEnd || Date.now() - tapOpenedAt > LATE) addAlone(fired);
    else setTimeout(late, LATE);
  };
  setTimeout(late, LATE);
}

// Adds a row for an event without a cell: its connection never reached the server, or the tap does not report it.
function addAlone(fired) {
  unplaced.splice(unplaced.indexOf(fired), 1);
  const cell = element('td', 'fired');
  const n = fired.isEnd && streams.find(({ attempt }) => attempt === fired.attempt)?.number;
  const none = element('td', '', word(n ? 'lab-broken' : 'lab-no-bytes', { n }));
  none.colSpan = 2;
  addRow('row', [none, cell]);
  showFired(cell, fired.className, fired.text);
}

function matchFired() {
  for (const fired of [...unplaced]) {
    // If the browser is stricter than the specification, it fails in place of `open`.
    const place = places.find(({ connection, data, kind }) =>
      connection.attempt === fired.attempt && data === fired.data &&
      (kind === fired.kind || (kind === 'open' && fired.className === 'failed')));
    if (!place) continue;
    places.splice(places.indexOf(place), 1);
    unplaced.splice(unplaced.indexOf(fired), 1);
    showFired(place.cell, fired.className, fired.text);
    if (place.round && ++rounds >= limit) disconnect('lab-over');
  }
}

function showFired(cell, className, text) {
  cell.append(element('span', className, text));
  follow();
}

function receiveEvent(event) {
  const handler = ['message', ...OWN].includes(event.type) ? `on${event.type}` : `addEventListener('${event.type}')`;
  const [data, id] = [event.data, event.lastEventId].map(text => JSON.stringify(text));
  addFired('event', 'event', word('lab-heard', { handler, data, id }), event.data);
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
  [connections, places, unplaced, errors, streams, latest, pointed] = [new Map(), [], [], [], [], null, null];
  [rounds, count, began, opened] = [0, 0, 0, 0];
  [connectedAt, minAhead, maxAhead, tapOpenedAt] = [Date.now(), undefined, Infinity, Infinity];
  connectingText = 'lab-state-connecting';
  key = Array.from(crypto.getRandomValues(new Uint8Array(12)), hex).join('');
  types = new Set([...$('types').value.split(/\s+/).filter(Boolean), ...OWN]);
  following = true;

  tap = new EventSource(`/lab/${key}?since=all`);
  for (const type of ['in', 'out', 'lost', 'end']) tap.addEventListener(type, receiveTap);
  // The server was restarted, or this page was too slow. The next bytes do not continue the earlier ones.
  tap.addEventListener('gap', () => { connections = new Map(); places = []; });
  tap.onopen = () => { tapOpenedAt = Date.now(); };
  tap.onerror = () => { tapOpenedAt = Infinity; };

  const url = `${path()}?${[query(), `tap=${key}`].filter(Boolean).join('&')}`;
  if (asSocket()) openSocket(url);
  else openSource(url);
  showState();
}

let connectingText = '';           // the text that is shown while the browser connects
function openSource(url) {
  source = new EventSource(url);
  source.onopen = event => {
    if ('data' in event) return receiveEvent(event);
    connectingText = 'ways-lost';  // if it connects again
    showState();
    addFired('open', 'open', word('lab-opened'));
  };
  source.onerror = event => {
    if ('data' in event) return receiveEvent(event);
    const closed = source.readyState === EventSource.CLOSED;
    addFired('error', closed ? 'failed' : 'error', word(closed ? 'lab-error-closed' : 'lab-error'));
    if (!closed) errors.push(Date.now() - performance.now() + event.timeStamp);
    showState();
    connectingText = 'lab-unreached';   // if it does not open before the next one
  };
  for (const type of types) if (!OWN.includes(type)) source.addEventListener(type, receiveEvent);
}

const socketURL = path => location.origin.replace('http', 'ws') + path;
const protocols = () => $('as').value === 'WebSocket' ? [] : [$('as').value];

function openSocket(url) {
  const socket = source = new WebSocket(socketURL(url), protocols());
  const receiveFromSocket = (kind, className, text) => {
    if (socket !== source) return;           // it was closed, and another one was opened
    addFired(kind, className, text);
    showState();
    if (kind === 'close') endTap('lab-no-return');
  };
  socket.onopen = () => receiveFromSocket('open', 'open', word('lab-opened'));
  socket.onmessage = ({ data }) =>
    receiveFromSocket('event', 'event', word('lab-message', { data: JSON.stringify(data) }));
  socket.onerror = () => receiveFromSocket('error', 'error', word('lab-socket-error'));
  socket.onclose = ({ code, reason, wasClean }) =>
    receiveFromSocket('close', 'failed', word('lab-socket-closed', { code, reason: JSON.stringify(reason), wasClean }));
}

function disconnect(why = 'lab-closed') {
  if (asSocket()) {
    source.close(1000);            // begins the closing handshake; onclose fires at its end
    addFired('call', 'new', 'close(1000)');
  } else {
    source.close();
    endTap(why);
  }
  showState();
}

// Gives up the lab's connections, if another part of the page needs the browser's six.
function freeConnections() {
  if ($('state').dataset.state === 'closed') tap?.close();
  else disconnect();
}

// Waits for the last reports of the tap, and closes it.
function endTap(why) {
  const mine = tap;
  setTimeout(() => {
    mine?.close();
    if (mine !== tap) return;
    [...unplaced].forEach(addAlone);
    const row = addHeading('ended', word(why));
    if (why !== 'lab-closed') row.classList.add('over');
  }, why === 'lab-paused' ? 300 : 600);                    // the lesson of the pause event goes on after 500
}

function stop() {
  source?.close();
  tap?.close();
}

async function pull() {
  for (const connection of connections.values()) connection.pulled = true;
  try {
    const response = await fetch(`/lab/${key}`, { method: 'POST', body: 'pull the plug' });
    if (!response.ok) addHeading('ended', await response.text());
  } catch { /* the EventSource shows the same error */ }
}

function showState() {
  const state = readyState().toLowerCase();
  $('state').dataset.state = state;
  $('state').textContent = word(state === 'connecting' ? connectingText : `lab-state-${state}`);
  if (state === 'open' && $('sent').textContent === word('unreachable')) $('sent').textContent = '';
  if (others.length > 0) countOthers();
  $('disconnect').disabled = /^clos/.test(state);
  $('plug').disabled = state !== 'open';
  showBuffers();
}

// ---- Lessons ----------------------------------------------------------------------------------------------------

let limit = 1;                     // connections of this lesson

// Runs an action until the server can be reached. After a refusal it does not try again: the browser might open its
// login dialog each time.
let retryTimer = 0;
async function retry(action) {
  clearTimeout(retryTimer);
  try { await action(); } catch (e) {
    const refused = typeof e === 'string';
    $('state').textContent = refused ? e : word('unreachable');
    if (!refused) retryTimer = setTimeout(retry, RETRY, action);
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
  others.splice(0).forEach(other => other.close());   // otherwise the next lesson may wait for them for ever
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
    if (lesson() !== name) return false;           // the user has chosen another one meanwhile
    const [english, translated] = text.split(/^: 中文.*$/m);
    const comments = chinese && translated || english;
    const comment = name => comments.match(new RegExp(`^: ${name}: (.*)$`, 'm'))?.[1] ?? '';
    $('lesson-title').textContent = comment('lesson');
    $('look').textContent = comment('look');
    $('question').textContent = comment('question');
    $('answer').open = false;
    $('answer').lastElementChild.textContent = comment('answer');
    const names = Array.from(english.matchAll(/^event: ?(\S+)$/gm), found => found[1]);
    $('types').value = [...new Set(['message', ...names])].join(' ');
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

// Shows what differs between an EventSource and a WebSocket.
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
  retry(play);
}

// The lesson about the six connections: each click opens the same stream once more.
const others = [];

function openMore() {
  const source = new EventSource(`${path()}?n=${others.length}`);
  others.push(source);
  source.onopen = source.onerror = countOthers;
  countOthers();
}

function countOthers() {
  const states = others.map(other => other.readyState);
  const [waiting, open] = [0, 1].map(state => states.filter(s => s === state).length);
  const held = readyState() === 'OPEN' ? word('lab-held') : '';
  $('more').querySelector('output').textContent = word('lab-counted', { open, waiting }) + held;
}

// ---- The curl lines, and publishing -----------------------------------------------------------------------------

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
    const headers = { 'Content-Type': 'text/plain;charset=utf-8' };
    const response = await fetchText(url, PATIENCE, { method: 'POST', headers, body: $('data').value });
    if (!response.ok) $('sent').textContent = response.content;
  } catch (e) { $('sent').textContent = word(e.name === 'TimeoutError' ? 'ways-timeout' : 'unreachable'); }
}

// ---- Start ------------------------------------------------------------------------------------------------------

$('controls').onsubmit = submitted => { submitted.preventDefault(); connect(); };
$('disconnect').onclick = () => disconnect();
$('plug').onclick = pull;
$('publish').onsubmit = publish;
$('as').onchange = () => { clear(); showClient(); };
$('what').onchange = () => retry(play);
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
$('scroll').onscroll = () => {
  following = $('scroll').scrollHeight - $('scroll').scrollTop - $('scroll').clientHeight < 24;
};
new ResizeObserver(follow).observe($('scroll'));
addEventListener('pagehide', stop);

document.title = `${word('lab-title')} · tincan`;
async function start() {
  await listLessons();
  let asked = location.hash.slice(1) || 'first-event';
  try { asked = decodeURIComponent(asked); } catch { /* malformed; shown unchanged */ }
  // The fragment comes from a link, so it is not trusted: the user may copy the curl line into a shell.
  const isChannel = asked[0] === '/';
  const known = isChannel ? NAME.test(asked.slice(1)) : [...$('what').options].some(({ value }) => value === asked);
  $('what').value = known && !isChannel ? asked : '';
  if (known && isChannel) $('channel').value = asked.slice(1);
  const chosen = await choose(known ? '' : word(isChannel ? 'lab-no-channel' : 'lab-no-lesson', { name: asked }));
  if (chosen && known) connect();
}

retry(start);
addEventListener('hashchange', () => { if (location.hash !== fragment() || !$('unknown').hidden) retry(start); });

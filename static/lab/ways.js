'use strict';
// The lab's comparison side by side. The page listens to one channel in several ways at once, and publishes to it. It
// shows how many bytes each way costs, and how late its messages come. The server counts the bytes: each request
// carries `?tap=KEY`, and the stream `/lab/KEY` reports every byte (src/wings/lab). The page holds three connections,
// and uses two more for moments. A WebSocket does not count as one of the six that a browser opens to a host.

{                                    // a block: lab.js has globals with the same names
  const WINDOW = 60000;              // ms; the time that the plots show
  const TICK = matchMedia('(prefers-reduced-motion: reduce)').matches ? 1000 : 250;   // ms between two updates
  const QUIET = 10000;               // ms of silence, after which the page shows its cost
  const HOLD = 25;                   // s for which the server may hold a long poll; many proxies give up after 50 or 60
  const RETRY = 3000;                // ms between a failure and the next attempt
  const PATIENCE = 10000;            // Limit: ms of patience with a response
  const LINGER = 5000;               // Limit: ms to wait for the ends; the server notices a close within 1 s
  const LONGEST_RUN = 600000;        // Limit: ms; stops a run in a forgotten tab
  const KEPT = 600;                  // Limit: messages whose time is kept, and delays of each way

  const $ = id => document.getElementById(`ways-${id}`);
  // A channel for the comparison alone: other channels may have people in them.
  let channel = `lab-side-by-side-${Math.random().toString(36).replace(/[^a-z]/g, '').slice(-4)}`;
  // The browser keeps the name: with --data each new name would leave a file on the server.
  try { channel = localStorage['tincan-ways'] ??= channel; } catch { /* storage is blocked */ }
  const sleep = ms => new Promise(done => setTimeout(done, ms));
  const list = parts => parts.join(chinese ? '、' : ', ');
  let run = { over: 'ways-stopped' };

  // ---- The ways -------------------------------------------------------------------------------------------------

  // Each way is an object. `query` marks its requests, so that the tap's reports can be assigned to it. `listen` calls
  // receive() until the run is over. `sign` is the shape of its points in the plots (SVG 2, "Path data").
  const WAYS = [
    { name: 'poll', query: 'wait=0&',
      listen: way => poll(way, () => 1000 * Math.min(Math.max($('every').value, 0.5), 30)),
      sign: (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0-8 0` },
    { name: 'long', query: `wait=${HOLD}&`, listen: way => poll(way, () => 0),
      sign: (x, y) => `M${x - 3.5} ${y - 3.5}h7v7h-7z` },
    { name: 'stream', query: '', listen: stream, sign: (x, y) => `M${x} ${y - 4.5}l5 8.5h-10z` },
    // The server ignores `ws`. With the subprotocol a message has its ID, as in the other ways.
    { name: 'websocket', query: 'ws&', field: ', Upgrade: websocket', listen: connect,
      sign: (x, y) => `M${x - 1.5} ${y - 5}h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z` },
  ];
  const url = way => `/${channel}?${way.query}since=${way.last}&tap=${run.key}`;

  // Polls, or polls long. The two differ in the time for which the server may wait, and in the pause before the next
  // request.
  async function poll(way, pause) {
    const { signal } = run.abort;
    while (!signal.aborted) {
      const began = performance.now();
      const parser = new EventStreamParser({ dispatch: event => receive(way, event) }, way.last);
      const failed = await attempt(way.name, async () => parser.feed(await load(url(way), { signal })), signal);
      await sleep(Math.max(pause(), failed ? RETRY : 0) - performance.now() + began);
    }
  }

  function stream(way) {
    const { signal } = run.abort;
    const source = new EventSource(url(way));
    signal.addEventListener('abort', () => source.close());
    source.onopen = () => report(way.name);
    for (const type of ['message', 'gap']) source.addEventListener(type, event => receive(way, event));
    source.onerror = event => {
      if ('data' in event) return;             // an event of the channel with this name
      const closed = source.readyState === EventSource.CLOSED;
      report(way.name, word(closed ? 'ways-refused' : 'ways-lost'));
      if (closed) setTimeout(() => signal.aborted || stream(way), RETRY);
    };
  }

  // A WebSocket does not reconnect by itself, and does not keep the last event ID. The page does both.
  function connect(way) {
    const { signal } = run.abort;
    const socket = new WebSocket(location.origin.replace('http', 'ws') + url(way), 'event-stream');
    const parser = new EventStreamParser({ dispatch: event => receive(way, event) }, way.last);
    signal.addEventListener('abort', () => socket.close());
    socket.onopen = () => report(way.name);
    socket.onmessage = event => parser.feed(event.data);
    socket.onclose = ({ code }) => {
      if (signal.aborted) return;
      report(way.name, word('ways-closed', { code }));
      setTimeout(() => signal.aborted || connect(way), RETRY);
    };
  }

  function receive(way, { type, data, lastEventId }) {
    way.last = lastEventId;
    if (type === 'gap') report('channel', word('ways-missed'));
    if (type !== 'message') return;
    run.news = performance.now();
    run.quiet = false;
    way.heard++;
    const begun = run.sent.get(data);          // unknown if another client has published it
    if (begun !== undefined && way.delays.push([begun, run.news - begun]) > KEPT) way.delays.shift();
  }

  // Returns the text of a response with status 200, or throws. The URL is absolute: a relative one takes over a
  // password from the page's URL.
  async function load(path, options) {
    const limit = PATIENCE + (path.includes(`wait=${HOLD}`) ? 1000 * HOLD : 0);
    const response = await fetchText(location.origin + path, limit, options);
    const text = response.content;
    if (response.status === 200) return text;
    // The server's refusal is one line of plain text. A proxy may respond with an HTML page instead.
    const plain = /^text\/plain\b/i.test(response.headers.get('Content-Type'));
    const why = plain && text.split('\n')[0].slice(0, 300) || word('answered', { status: response.status });
    throw Object.assign(Error(why), { cause: response });
  }

  // Runs an action of a part, and reports the part's problem, or that it has none. Returns the error, if there is one.
  async function attempt(part, action, signal) {
    try {
      await action();
      report(part);
      for (const [other, problem] of run.problems) if (problem === word('unreachable')) report(other);
    } catch (e) {
      const problems = { TimeoutError: word('ways-timeout'), TypeError: word('unreachable') };
      if (!signal.aborted) report(part, problems[e.name] ?? e.message);
      return e;
    }
  }

  // Sets the problem of a part, or removes it.
  function report(part, problem) {
    if (problem) run.problems.set(part, problem);
    else run.problems.delete(part);
  }

  // ---- Bytes ----------------------------------------------------------------------------------------------------

  function openTap(mine, since) {
    const tap = mine.tap = new EventSource(`/lab/${mine.key}?since=${since}`);
    const receiveTap = ({ type, data, lastEventId }) => {
      since = lastEventId;
      const { connection, bytes = '' } = JSON.parse(data);
      const begins = ({ query }) => bytes.startsWith(`GET /${channel}?${query}since=`);
      const way = mine.exchanges.get(connection) ?? WAYS.find(begins);
      if (!way) return;
      if (!mine.exchanges.has(connection)) way.requests++;
      mine.exchanges.set(connection, way);
      if (type === 'end') mine.exchanges.delete(connection);
      else way[type] += bytes.length;          // each character stands for one byte
      if (bytes.includes(': (not shown)\r\n')) $('masked').hidden = false;
    };
    for (const type of ['in', 'out', 'end']) tap.addEventListener(type, receiveTap);
    // A restarted server numbers its connections anew, and the reports that it had not sent yet are lost.
    tap.addEventListener('gap', () => { mine.exchanges.clear(); report('tap', word('ways-uncounted')); });
    tap.onerror = () => {
      if (tap.readyState === EventSource.CLOSED) setTimeout(() => mine.over || openTap(mine, since), RETRY);
    };
  }

  // ---- Publishing -----------------------------------------------------------------------------------------------

  async function publish(n) {
    const mine = run;
    const { sent, abort: { signal } } = mine;
    if (mine.posting) return;
    mine.posting = true;
    const texts = Array.from({ length: n }, () => `soup ${++mine.count} (${mine.key.slice(0, 4)})`);
    const begun = performance.now();
    for (const text of texts) sent.set(text, begun);
    while (sent.size > KEPT) sent.delete(sent.keys().next().value);
    const body = texts.map(text => `data: ${text}\n\n`).join('');
    const headers = { 'Content-Type': 'text/event-stream' };
    const post = () => load(`/${channel}`, { method: 'POST', headers, body, signal });
    const failed = await attempt('publish', post, signal);
    if (failed?.cause?.status === 401) $('rate').value = 'none';       // otherwise the login dialog opens each second
    mine.posting = false;
  }

  // Publishes after about a second. The time varies, so that messages fall on all moments between two polls.
  function publishLater() {
    clearTimeout(run.timer);
    const bursts = $('rate').value === 'bursts';
    if (run.over || $('rate').value === 'none') return;
    run.timer = setTimeout(() => {
      publish(bursts ? 1 + Math.floor(5 * Math.random()) : 1);
      publishLater();
    }, bursts ? 1000 + 5000 * Math.random() : 800 + 400 * Math.random());
  }

  // ---- A run ----------------------------------------------------------------------------------------------------

  async function start() {
    freeConnections();               // a browser opens six connections to a host, and a run needs up to five
    run.tap?.close();
    clearInterval(run.ticking);
    const abort = new AbortController();
    const random = crypto.getRandomValues(new Uint8Array(8));
    const key = Array.from(random, byte => byte.toString(16).padStart(2, '0')).join('');
    const now = performance.now();
    const mine = run = { abort, key, began: now, now, news: now, count: 0, sent: new Map(),
      exchanges: new Map(), problems: new Map(), ticking: setInterval(tick, TICK) };
    for (const way of WAYS) {
      Object.assign(way, { last: '', heard: 0, requests: 0, in: 0, out: 0, delays: [], points: [] });
    }
    $('start').textContent = word('ways-stop');
    $('silence').textContent = word('ways-try');
    $('one').disabled = $('results').hidden = false;
    $('masked').hidden = true;
    openTap(mine, 'all');
    tick();
    const parser = new EventStreamParser();    // all ways begin after the same ID
    const findStart = async () => parser.feed(await load(`/${channel}?wait=0`, { signal: abort.signal }));
    while (await attempt('start', findStart, abort.signal) && !abort.signal.aborted) await sleep(RETRY);
    if (abort.signal.aborted) return;
    for (const way of WAYS) way.last = parser.lastEventId;
    for (const way of WAYS) way.listen(way);
    publishLater();
  }

  function stop(why) {
    if (run.over) return;
    Object.assign(run, { over: why, ended: performance.now() });
    run.abort.abort();
    publishLater();
    $('start').textContent = word('ways-start', { channel });
    $('one').disabled = true;
    show();
  }

  function tick() {
    const now = performance.now();
    if (run.over) {
      // The tap has not reported all ends yet.
      if (now - run.ended < (run.exchanges.size === 0 ? 500 : LINGER)) return show();
      clearInterval(run.ticking);
      run.tap.close();
      return show();
    }
    run.now = now;
    for (const way of WAYS) {
      way.points.push([now, way.in + way.out]);
      while (way.points[0][0] < now - WINDOW) way.points.shift();
    }
    if (now - run.news > QUIET + 500 && !run.quiet) {
      run.quiet = true;
      const parts = WAYS.map(way => `${word(`ways-${way.name}`)} ${ROWS.lately(way)}`);
      $('silence').textContent = word('ways-silence', { list: list(parts) });
    }
    if (now - run.began > LONGEST_RUN) stop('ways-over');
    else if ($('results').getClientRects().length === 0) stop('ways-stopped');   // the section is hidden
    else show();
  }

  // ---- What is shown --------------------------------------------------------------------------------------------

  const count = (n, options) => Math.round(n).toLocaleString(document.documentElement.lang, options);
  const time = ms => ms < 1000 ? word('ways-ms', { n: Number(ms.toPrecision(3)) })
    : word('seconds', { n: Number((ms / 1000).toPrecision(3)) });
  const median = delays => delays.map(delay => delay[1]).sort((a, b) => a - b)[delays.length >> 1];
  const ROWS = {
    heard: way => count(way.heard),
    last: way => way.last.replace(/.*-/, '…-'),
    median: way => way.delays.length ? time(median(way.delays)) : '–',
    longest: way => way.delays.length ? time(Math.max(...way.delays.map(delay => delay[1]))) : '–',
    requests: way => count(way.requests),
    open: way => [...run.exchanges.values()].filter(other => other === way).length,
    in: way => count(way.in),
    out: way => count(way.out),
    total: way => count(way.in + way.out),
    each: way => way.heard ? count((way.in + way.out) / way.heard) : '–',
    lately: way => count(way.in + way.out - way.points.find(point => point[0] >= run.now - QUIET)[1]),
  };

  function show() {
    for (const way of WAYS) {
      for (const [name, value] of Object.entries(ROWS)) $(`${way.name}-${name}`).textContent = value(way);
    }
    // A problem of several parts is shown once. The text is set only if it changes: a screen reader reads out each
    // assignment.
    const parts = new Map();
    for (const [part, problem] of run.problems) parts.set(problem, [...parts.get(problem) ?? [], word(`ways-${part}`)]);
    const all = [...parts].map(([problem, names]) => word('ways-problem', { part: list(names), problem }));
    const state = run.over ? word(run.over) : `${word('ways-running', { channel })} ${all.join(' ')}`;
    if ($('state').textContent !== state) $('state').textContent = state;

    const most = Math.max(1000, ...WAYS.map(way => way.in + way.out));
    const ten = 10 ** Math.floor(Math.log10(most));
    const top = ten * [1, 2, 5, 10].find(n => n * ten >= most);
    plot('bytes', 'total', [0, 0.5, 1].map(part => [part, count(part * top, { notation: 'compact' })]), (way, x, y) => {
      const points = way.points.map(([time, bytes]) => [x(time), y(bytes / top)]);
      return { track: `M${points.join('L')}`, signs: way.sign(...points.at(-1)), end: way.points.at(-1)[1] / top };
    });

    const delays = new Map(WAYS.map(way => [way, way.delays.filter(delay => delay[0] > run.now - WINDOW)]));
    const decades = [...delays.values()].flat().some(delay => delay[1] > 10000) ? 5 : 4;
    const part = ms => Math.min(Math.max(Math.log10(ms), 0) / decades, 1);
    const ticks = Array.from({ length: decades + 1 }, (_, n) => [n / decades, time(10 ** n)]);
    plot('delays', 'median', ticks, (way, x, y) => {
      const signs = delays.get(way).map(([begun, ms]) => way.sign(x(begun), y(part(ms)))).join('');
      return { track: '', signs, end: signs && part(median(delays.get(way))) };
    });
  }

  // Draws a plot. A tick is [part of the height, label]. `draw` returns the line and the points of a way, and the part
  // of the height at which its name is. A unit is a pixel, so that letters have the same size on a phone.
  function plot(id, row, ticks, draw) {
    const { width, height } = $(id).getBoundingClientRect();
    const [left, right, top, bottom] = [60, width - 104, 12, height - 24];
    const round = n => Math.round(10 * n) / 10;
    const x = time => round(right - (run.now - time) / WINDOW * (right - left));
    const y = part => round(bottom - part * (bottom - top));
    const label = (className, x, y, anchor, text) =>
      make('text', { class: className, x, y, 'text-anchor': anchor }, text);
    const parts = ticks.flatMap(([part, text]) => [
      make('path', { class: 'grid', d: `M${left} ${y(part)}H${right}` }),
      label('tick', left - 6, y(part) + 4, 'end', text),
    ]);
    for (const ago of [60, 30, 0]) {
      const text = word(ago ? 'ways-ago' : 'ways-now', { n: ago });
      parts.push(label('tick', x(run.now - 1000 * ago), height - 6, 'middle', text));
    }
    const names = [];
    for (const way of WAYS) {
      const { track, signs, end } = draw(way, x, y);
      parts.push(make('path', { class: `${way.name} track`, d: track }));
      parts.push(make('path', { class: `${way.name} sign`, d: signs }));
      if (end !== '') names.push([y(end), way.name]);
    }
    let free = bottom;                         // from below, each name is at least 16 pixels above the previous one
    for (const [at, name] of names.sort((a, b) => b[0] - a[0])) {
      parts.push(label(`${name} end`, right + 9, Math.min(at, free) + 4, 'start', word(`ways-${name}`)));
      free = Math.min(at, free) - 16;
    }
    $(id).setAttribute('viewBox', `0 0 ${width} ${height}`);
    const values = WAYS.map(({ name }) => `${word(`ways-${name}`)} ${$(`${name}-${row}`).textContent}`);
    $(id).setAttribute('aria-label', word(`ways-${id}-says`, { list: list(values) }));
    $(id).replaceChildren(...parts);
  }

  function make(tag, attributes, ...children) {
    const drawn = ['svg', 'path', 'text'].includes(tag);
    const made = document.createElementNS(`http://www.w3.org/${drawn ? '2000/svg' : '1999/xhtml'}`, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // ---- Start ----------------------------------------------------------------------------------------------------

  // Returns the sign and the name of a way. On a phone the name WebSocket may be broken in its middle.
  const nameOf = ({ name, sign }) => [
    make('svg', { class: 'key', viewBox: '0 0 36 12', 'aria-hidden': true },
      make('path', { class: `${name} track`, d: 'M0 6H36' }), make('path', { class: `${name} sign`, d: sign(18, 6) })),
    ' ', ...word(`ways-${name}`).split(/(?=[A-Z])/).flatMap((part, n) => n ? [make('wbr', {}), part] : part), ' ',
  ];
  for (const way of WAYS) {
    const code = make('code', {}, `GET /NAME${way.field ?? (way.query && `?${way.query.slice(0, -1)}`)}`);
    $('list').append(make('dt', {}, ...nameOf(way), code), make('dd', {}, word(`ways-${way.name}-what`, { n: HOLD })));
  }
  const heads = WAYS.map(way => make('th', { scope: 'col' }, ...nameOf(way)));
  $('table').createTHead().append(make('tr', {}, make('td', {}), ...heads));
  $('table').createTBody().append(...Object.keys(ROWS).map(row => make('tr', {},
    make('th', { scope: 'row' }, word(`ways-row-${row}`)),
    ...WAYS.map(way => make('td', { id: `ways-${way.name}-${row}` })))));

  $('start').textContent = word('ways-start', { channel });
  $('start').onclick = () => run.over ? start() : stop('ways-stopped');
  $('one').onclick = () => publish(1);
  $('rate').onchange = publishLater;
  new ResizeObserver(() => { if (!$('results').hidden) show(); }).observe($('results'));
  addEventListener('pagehide', () => { stop('ways-stopped'); run.tap?.close(); });
}

'use strict';
// One line to a channel for all tabs that have it open: over HTTP/1.1 a browser opens six connections to a host, and
// each EventSource holds one. This is the script of a SharedWorker, one for each channel; where there is none, the page
// opens a line of its own. Either way a tab talks to its line through a MessagePort:
//
//   from the tab   a number: Date.now(), each second in which the tab can be seen; any answer tells that we are here
//                  'connect': now, not later; 'leave': no event tells a worker that a tab is gone
//   to the tab     { state, seconds, items }, each only where there is something new; an item is { data } or { gap }

const KEPT = 300;                  // Limit: messages on a page, and kept for tabs that come later
const REMEMBERED_IDS = 20000;      // Limit: ids known to have been heard
const LONGEST_PAUSE = 30;          // seconds between our own attempts
const ASLEEP = 20000;              // ms after which the socket of hidden tabs is not trusted any more
const AT_ONCE = 1000;              // ms in which what several tabs ask for is one wish

// Returns the function with which a tab's port joins. With headers it is TincanEventSource that listens. Events are kept
// here for tabs that come later, so none is lost or doubled between the server's history and what comes next.
function openLine(url, headers) {
  const ports = new Set();
  const items = [];                // what a new tab is told
  const heard = new Set();         // ids, oldest first
  let source = null;               // the EventSource
  let state = {};
  let lastEventId = '';            // the id from which a new EventSource goes on
  let asked = '';                  // the id from which this one was asked to go on
  let began = 0;                   // when it was
  let failures = 0;                // failed connections since the last one that opened
  let pauseTimer = 0;
  let awake = Infinity;            // the last second in which a tab could be seen

  function connect() {
    clearTimeout(pauseTimer);
    source?.close();               // a closed EventSource fires no further event, not even a queued one
    tellState('connecting');
    asked = lastEventId;
    began = performance.now();
    const Source = headers ? TincanEventSource : EventSource;
    source = new Source(`${url}?since=${encodeURIComponent(asked || 'all')}`, { headers });
    // A stream may name its events like the EventSource's own; those have data.
    source.onopen = event => { if (!('data' in event)) { failures = 0; tellState('open'); } };
    source.onmessage = hearMessage;
    source.addEventListener('gap', hearGap);
    // An EventSource reestablishes a connection that was lost, but fails for good on any status but 200: from there on
    // it is for us to try again.
    source.onerror = event => {
      if ('data' in event) return;
      if (source.readyState === EventSource.CLOSED) pause();
      else tellState('connecting');
    };
  }

  // 1, 2, 4 ... 30 s, shortened at random, so that all lines do not come back in the same instant.
  function pause() {
    const seconds = Math.min(2 ** failures++, LONGEST_PAUSE) * (1 - 0.3 * Math.random());
    const end = performance.now() + 1000 * seconds;
    (function count() {
      const left = end - performance.now();
      if (left <= 0) return connect();
      tellState('waiting', Math.ceil(left / 1000));
      pauseTimer = setTimeout(count, left % 1000 || 1000);
    })();
  }

  // Ids are compared for being the same, not for being greater: after a clock was set back, a lower id is new. The
  // server says so with a gap, and then sends everything that it keeps, some of which is already here.
  // Shortcut: an EventSource only fires types that somebody listens for, so events with a name of their own do not come.
  function hearMessage({ data, lastEventId: id }) {
    if (id !== '') {
      if (heard.has(id)) return;
      if (heard.add(id).size > REMEMBERED_IDS) heard.delete(heard.values().next().value);
      lastEventId = id;
    }
    keep({ data });
  }

  // The gap has no id of its own: its lastEventId is the place from which the server is now serving us.
  function hearGap(event) {
    lastEventId = event.lastEventId || lastEventId;
    let gap = 0;                   // how many are missing; 0 where that is not known
    try {
      const told = JSON.parse(event.data);
      // Where we named the place, it is the last event that was heard here; what was lost may have been for others.
      if (told.asked !== asked && Number.isSafeInteger(told.lost)) gap = told.lost;
    } catch { /* then it is not known */ }
    if (gap !== 0 || items.at(-1)?.gap !== 0) keep({ gap });   // once, where a server restarts often
  }

  function keep(item) {
    if (items.push(item) > KEPT) items.shift();
    tell({ items: [item] });
  }

  function tell(news) { for (const port of ports) port.postMessage(news); }

  function tellState(name, seconds) { tell(state = { state: name, seconds }); }

  function take(port, wish) {
    if (wish === 'leave') {
      ports.delete(port);
      if (ports.size > 0) return;
      clearTimeout(pauseTimer);
      source.close();
      awake = Infinity;
    } else if (wish === 'connect') {
      // The new stream may be open before the last tab has told its wish.
      const done = source.readyState !== EventSource.CLOSED && performance.now() - began < AT_ONCE;
      if (!done) connect();
    } else {
      // Whoever slept, or was hidden for long, may hold a socket that is dead without the browser's knowing. The time
      // of the last visible second tells all cases: a sleeping machine and hidden tabs both leave it behind.
      port.postMessage({});
      const away = wish - awake;
      awake = wish;
      if (away > ASLEEP) connect();
    }
  }

  return port => {
    port.onmessage = ({ data }) => take(port, data);
    ports.add(port);
    if (ports.size === 1) connect();
    port.postMessage({ ...state, items });
  };
}

if (globalThis.SharedWorkerGlobalScope) {
  importScripts('/assets/eventsource.js');       // for where the browser has no EventSource in a worker
  const join = openLine(`${location.origin}/${name.split(' ')[0]}`);
  addEventListener('connect', ({ ports: [port] }) => join(port));
}

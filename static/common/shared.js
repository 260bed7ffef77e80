'use strict';
// One line to a channel for all tabs that have it open: over HTTP/1.1 a browser opens six connections to a host, and
// each EventSource holds one. This is the script of a SharedWorker, one for each channel; where there is none, the page
// opens a line of its own. Either way a tab talks to its line through a MessagePort:
//
//   from the tab   a number: Date.now(), each second in which the tab can be seen; any answer tells that we are here
//                  'connect': now, not later; 'leave': no event tells a worker that a tab is gone
//                  { said }: the id of what it has published; 'look': whether the server is still there
//   to the tab     { state, seconds, items }, each only where there is something new; an item is { data } or { gap }

const KEPT = 300;                  // Limit: messages on a page, and kept for tabs that come later
const REMEMBERED_IDS = 20000;      // Limit: ids known to have been heard
const LONGEST_PAUSE = 30;          // seconds between our own attempts
const ASLEEP = 20000;              // ms after which the socket of hidden tabs is not trusted any more
const AT_ONCE = 1000;              // ms in which what several tabs ask for is one wish
const SILENT = 6;                  // half seconds after which what is missing does not come any more; doubled each time
const LOOK_EVERY = 10000;          // ms of silence after which the server is asked what it has
const NO_ANSWER = 5000;            // ms after which it does not answer, or three times what the last stream took to open
const POLL_FOR = 300000;           // ms of polling after which a stream is tried again

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
  let missing = '';                // an id that the server has told of, and that no stream has brought
  let silent = 0;                  // half seconds since it is missing and nothing came
  let doubts = 0;                  // connections in a row that were given up for that: behind two of them we poll
  let watchTimer = 0;
  let lookAt = Infinity;           // when to look next, in the time of performance.now()
  let took = 0;                    // ms that the last stream took to open

  function connect() {
    clearTimeout(pauseTimer);
    source?.close();               // a closed EventSource fires no further event, not even a queued one
    tellState(missing ? 'deaf' : 'connecting');
    asked = lastEventId;
    began = performance.now();
    lookAt = began + LOOK_EVERY;
    silent = 0;
    const Source = headers ? TincanEventSource : EventSource;
    const polls = doubts > 1;
    let polled = false;
    let asks = began;              // since when it waits for an answer
    source = new Source(`${url}?${polls ? 'wait=0&' : ''}since=${encodeURIComponent(asked || 'all')}`, { headers });
    // A stream may name its events like the EventSource's own; those have data.
    source.onopen = event => {
      if ('data' in event) return;
      failures = 0;
      took = performance.now() - asks;
      polled = polls;
      lookAt = polls ? performance.now() + LOOK_EVERY : Math.min(lookAt, performance.now() + LOOK_EVERY / 5);
      if (!missing) tellOpen();
    };
    source.onmessage = hearMessage;
    source.addEventListener('gap', hearGap);
    // An EventSource reestablishes a connection that was lost, but fails for good on any status but 200: from there on
    // it is for us to try again.
    source.onerror = event => {
      if ('data' in event) return;
      asks = performance.now();
      if (source.readyState === EventSource.CLOSED) return pause();
      if (!polled) return tellState(missing ? 'deaf' : 'connecting');
      polled = false;              // a poll ends, and the next one follows
      missing = '';                // what it did not bring is nowhere
      tellOpen();
      if (asks - began > POLL_FOR) connectAnew();
    };
    watch();
  }

  function connectAnew() {
    doubts = 0;                    // on another network there may be another relay
    connect();
  }

  function tellOpen() {
    if (doubts < 2) doubts = 0;    // a new stream was all that was needed
    const name = doubts ? 'polling' : 'open';
    if (state.state !== name) tellState(name);
  }

  // A socket may be dead, or a relay may keep the bytes, and no EventSource knows. So what the server tells of by other
  // ways must come.
  function expect(id) {
    if (heard.has(id)) return;
    const news = !missing;
    missing = id;
    if (!news) return;
    silent = 0;
    watch();
  }

  // In short steps, so that after a busy moment what waits is heard first.
  function watch() {
    clearTimeout(watchTimer);
    if (!missing || source.readyState === EventSource.CLOSED) return;
    // A long message may be on its way over a slow line, and begins anew with each stream.
    watchTimer = setTimeout(() => ++silent > SILENT << Math.min(doubts, 5) ? doubt() : watch(), 500);
  }

  function doubt() {
    doubts++;
    connect();
  }

  function arrive() {
    silent = 0;
    lookAt = performance.now() + LOOK_EVERY;
    tellOpen();
  }

  async function look() {
    if (state.state === 'waiting') return;
    lookAt = Infinity;             // one at a time
    const [looked, from] = [source, lastEventId];
    const options = { headers, cache: 'no-store', credentials: headers ? 'omit' : 'same-origin', slow: true };
    const patience = Math.max(NO_ANSWER, 3 * took);
    const answer = await fetchText(`${url}?wait=0&since=${encodeURIComponent(from || 'all')}`, patience, options)
      .catch(() => null);
    if (source !== looked || source.readyState === EventSource.CLOSED) return;
    lookAt = performance.now() + LOOK_EVERY;
    if (!answer) return state.state === 'connecting' || connect();
    if (answer.status !== 200) return;
    const parser = new EventStreamParser({ dispatch: ({ type, lastEventId: id }) => type === 'message' && expect(id) }, from);
    parser.feed(answer.said);
    if (!missing && lastEventId === from) lastEventId = parser.lastEventId;   // past events that nobody listens for
    if (state.state === 'connecting') doubt();     // the server is there, and its stream does not begin
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
    if (id === missing) missing = '';
    arrive();
    if (id !== '') {
      if (heard.has(id)) return;
      if (heard.add(id).size > REMEMBERED_IDS) heard.delete(heard.values().next().value);
      lastEventId = id;
    }
    keep({ data });
  }

  // The gap has no id of its own: its lastEventId is the place from which the server is now serving us.
  function hearGap(event) {
    missing = '';
    arrive();
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
      const done = !doubts && source.readyState !== EventSource.CLOSED && performance.now() - began < AT_ONCE;
      if (!done) connectAnew();
    } else if (wish === 'look') {
      look();
    } else if (wish.said) {
      expect(wish.said);
      if (state.state === 'waiting') connect();      // the server is there
    } else {
      // Whoever slept, or was hidden for long, may hold a socket that is dead without the browser's knowing. The time
      // of the last visible second tells all cases: a sleeping machine and hidden tabs both leave it behind.
      port.postMessage({});
      const away = wish - awake;
      awake = wish;
      if (away > ASLEEP) connectAnew();
      else if (performance.now() > lookAt) look();
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
  importScripts('/assets/fetch.js', '/assets/eventsource.js');   // some browsers have no EventSource in a worker
  const join = openLine(`${location.origin}/${name.split(' ')[0]}`);
  addEventListener('connect', ({ ports: [port] }) => join(port));
}

'use strict';
// The connection to a channel that all tabs share: the *line*. Over HTTP/1.1 a browser opens at most six connections to
// a host, and each EventSource uses one. So this is the script of a SharedWorker, one worker for each channel. In a
// browser without SharedWorker, the page opens a line of its own. In both cases a tab and its line exchange these
// messages through a MessagePort:
//
//   from the tab   a number: Date.now(), each second while the tab is visible. Any reply shows that the line works
//                  'connect': connect now
//                  'leave': the tab closes. (No event reports this to a worker.)
//                  'look': check whether the server still responds
//                  { published }: the ID of an event that the tab has published
//   to the tab     { state, seconds, items }, each only if there is news. An item is { data } or { gap }

const KEPT = 300;                  // Limit: messages on a page, and kept for tabs that join later
const REMEMBERED_IDS = 20000;      // Limit: IDs of received events
const LONGEST_PAUSE = 30;          // seconds between two attempts of the line
const ASLEEP = 20000;              // ms without a visible tab, after which the connection may be dead
const AT_ONCE = 1000;              // ms in which several tabs may ask for the same connection
const SILENT = 6;                  // half seconds after which a missing event is given up; doubled each time
const LOOK_EVERY = 10000;          // ms of silence, after which the line polls the server for events
const NO_RESPONSE = 5000;          // ms of patience with such a poll; at least three times `openingTime`
const POLL_FOR = 300000;           // ms of polling, after which the line tries a stream again

// Returns the function with which a tab's port joins the line. With headers the line uses a TincanEventSource. The line
// keeps the events for tabs that join later. So no event is lost or doubled between the history and the live stream.
function openLine(url, headers) {
  const ports = new Set();
  const items = [];                // for tabs that join later
  const received = new Set();      // IDs of events, oldest first
  let source = null;               // the EventSource
  let state = {};
  let lastEventId = '';            // the ID after which a new EventSource begins
  let requestedId = '';            // the ID after which this EventSource began
  let began = 0;                   // the time at which this EventSource began
  let failures = 0;                // failed connections since a stream was last open
  let pauseTimer = 0;
  let lastVisible = Infinity;      // the last second in which a tab was visible
  let missing = '';                // the ID of an event that exists on the server, and that no stream has brought
  let silent = 0;                  // half seconds without an event since one is missing
  let doubts = 0;                  // streams in a row without a missing event; after two of them the line polls
  let watchTimer = 0;
  let lookAt = Infinity;           // when to look next, in the time of performance.now()
  let openingTime = 0;             // ms that the last stream took to open

  function connect() {
    clearTimeout(pauseTimer);
    source?.close();               // a closed EventSource fires no further event, not even a queued one
    sendState(missing ? 'deaf' : 'connecting');
    requestedId = lastEventId;
    began = performance.now();
    lookAt = began + LOOK_EVERY;
    silent = 0;
    const Source = headers ? TincanEventSource : EventSource;
    const polls = doubts > 1;
    let polled = false;
    let requestedAt = began;       // when the browser sent its last request
    const query = `${polls ? 'wait=0&' : ''}since=${encodeURIComponent(requestedId || 'all')}`;
    source = new Source(`${url}?${query}`, { headers });
    // Events of a stream may have the names of the EventSource's own events. Only those of the stream have data.
    source.onopen = event => {
      if ('data' in event) return;
      failures = 0;
      openingTime = performance.now() - requestedAt;
      polled = polls;
      lookAt = polls ? performance.now() + LOOK_EVERY : Math.min(lookAt, performance.now() + LOOK_EVERY / 5);
      if (!missing) sendOpen();
    };
    source.onmessage = receiveMessage;
    source.addEventListener('gap', receiveGap);
    // An EventSource reconnects after a lost connection. But any status other than 200 closes it for good. Then the
    // line tries again.
    source.onerror = event => {
      if ('data' in event) return;
      requestedAt = performance.now();
      if (source.readyState === EventSource.CLOSED) return pause();
      if (!polled) return sendState(missing ? 'deaf' : 'connecting');
      polled = false;              // a poll has ended, and the next one follows
      missing = '';                // an event that a poll did not bring does not exist any more
      sendOpen();
      if (requestedAt - began > POLL_FOR) connectAnew();
    };
    watch();
  }

  function connectAnew() {
    doubts = 0;                    // the network may be another one, without the proxy that held the events back
    connect();
  }

  function sendOpen() {
    if (doubts < 2) doubts = 0;    // the new stream works
    const name = doubts ? 'polling' : 'open';
    if (state.state !== name) sendState(name);
  }

  // The connection may be dead, or a proxy may hold the bytes back. An EventSource notices neither. But if the line
  // knows the ID of an event from another request, the stream must bring that event.
  function expect(id) {
    if (received.has(id)) return;
    const isWatching = missing !== '';
    missing = id;
    if (isWatching) return;
    silent = 0;
    watch();
  }

  // Waits in short steps: after a busy moment, waiting events are received before the next step.
  function watch() {
    clearTimeout(watchTimer);
    if (!missing || source.readyState === EventSource.CLOSED) return;
    // With each new stream it waits longer: a long message may be on its way over a slow network, and a new stream
    // begins that message again.
    watchTimer = setTimeout(() => ++silent > SILENT << Math.min(doubts, 5) ? doubt() : watch(), 500);
  }

  function doubt() {
    doubts++;
    connect();
  }

  function receive() {
    silent = 0;
    lookAt = performance.now() + LOOK_EVERY;
    sendOpen();
  }

  // Polls the server once. If there is an event that the stream has not brought, the line expects it from now on.
  async function look() {
    if (state.state === 'waiting') return;
    lookAt = Infinity;             // one poll at a time
    const [checked, since] = [source, lastEventId];
    const options = { headers, cache: 'no-store', credentials: headers ? 'omit' : 'same-origin', slow: true };
    const patience = Math.max(NO_RESPONSE, 3 * openingTime);
    const response = await fetchText(`${url}?wait=0&since=${encodeURIComponent(since || 'all')}`, patience, options)
      .catch(() => null);
    if (source !== checked || source.readyState === EventSource.CLOSED) return;
    lookAt = performance.now() + LOOK_EVERY;
    if (!response) return state.state === 'connecting' || connect();
    if (response.status !== 200) return;
    const dispatch = ({ type, lastEventId: id }) => type === 'message' && expect(id);
    const parser = new EventStreamParser({ dispatch }, since);
    parser.feed(response.content);
    if (!missing && lastEventId === since) lastEventId = parser.lastEventId;   // skips types without a listener
    if (state.state === 'connecting') doubt();     // the server responds, but its stream does not begin
  }

  // 1, 2, 4 ... 30 s. Each pause is shortened at random, so that not all lines reconnect at the same moment.
  function pause() {
    const seconds = Math.min(2 ** failures++, LONGEST_PAUSE) * (1 - 0.3 * Math.random());
    const end = performance.now() + 1000 * seconds;
    (function count() {
      const left = end - performance.now();
      if (left <= 0) return connect();
      sendState('waiting', Math.ceil(left / 1000));
      pauseTimer = setTimeout(count, left % 1000 || 1000);
    })();
  }

  // IDs are only tested for equality, not for order: if the server's clock was set back, a lower ID is new. The server
  // then sends a gap and all events that it keeps, and some of them are here already.
  // Shortcut: an EventSource fires only types that have a listener, so this page does not receive named events.
  function receiveMessage({ data, lastEventId: id }) {
    if (id === missing) missing = '';
    receive();
    if (id !== '') {
      if (received.has(id)) return;
      if (received.add(id).size > REMEMBERED_IDS) received.delete(received.values().next().value);
      lastEventId = id;
    }
    addItem({ data });
  }

  // The gap has no ID of its own. Its lastEventId is the ID after which the server continues.
  function receiveGap(event) {
    missing = '';
    receive();
    lastEventId = event.lastEventId || lastEventId;
    let gap = 0;                   // the number of lost events, 0 if it is unknown
    try {
      const { asked, lost } = JSON.parse(event.data);
      // If the server names the ID that this line requested, `lost` counts events of all types, also those without a
      // listener here. Then the number of lost messages is unknown.
      if (asked !== requestedId && Number.isSafeInteger(lost)) gap = lost;
    } catch { /* the number is unknown */ }
    if (gap !== 0 || items.at(-1)?.gap !== 0) addItem({ gap });   // once, even if the server restarts often
  }

  function addItem(item) {
    if (items.push(item) > KEPT) items.shift();
    send({ items: [item] });
  }

  function send(news) { for (const port of ports) port.postMessage(news); }

  function sendState(name, seconds) { send(state = { state: name, seconds }); }

  function handle(port, message) {
    if (message === 'leave') {
      ports.delete(port);
      if (ports.size > 0) return;
      clearTimeout(pauseTimer);
      source.close();
      lastVisible = Infinity;
    } else if (message === 'connect') {
      // Several tabs may send this. When the last one does, the new stream may be open already.
      const done = !doubts && source.readyState !== EventSource.CLOSED && performance.now() - began < AT_ONCE;
      if (!done) connectAnew();
    } else if (message === 'look') {
      look();
    } else if (message.published) {
      expect(message.published);
      if (state.state === 'waiting') connect();      // the server responds
    } else {
      // If the machine slept, or all tabs were hidden for long, the connection may be dead, and the browser does not
      // know it. In both cases the last visible second is long ago.
      port.postMessage({});
      const away = message - lastVisible;
      lastVisible = message;
      if (away > ASLEEP) connectAnew();
      else if (performance.now() > lookAt) look();
    }
  }

  return port => {
    port.onmessage = ({ data }) => handle(port, data);
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

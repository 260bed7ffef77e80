'use strict';
// Functions that the tests of eventsource.rs call in their page.

const TYPES = ['open', 'message', 'error', 'a', 'b', 'é', ' a', 'a '];
const kinds = { native: EventSource, fetch: TincanEventSource, xhr: TincanEventSource };
const json = text => JSON.stringify(text).slice(1, -1);
const show = event => `${event.type}=${json(event.data)}#${json(event.lastEventId)}`;

// Tests one kind at a time: if Response has no `body`, fetch cannot stream.
async function each(kind, what) {
  const body = Object.getOwnPropertyDescriptor(Response.prototype, 'body');
  if (kind === 'xhr') delete Response.prototype.body;
  try { return await what(); } finally { Object.defineProperty(Response.prototype, 'body', body); }
}

// Returns all events up to the end of the stream; `!` marks an event with wrong properties.
function hearStream(kind, url) {
  return new Promise(done => {
    const heard = [], source = new kinds[kind](url);
    for (const type of TYPES) source.addEventListener(type, event => {
      if (event instanceof MessageEvent) {
        const fine = event.origin === location.origin && source.readyState === 1 && !event.bubbles && !event.source;
        heard.push((fine ? '' : '!') + show(event));
      } else if (type === 'error') {
        source.close();
        done(heard.join(' '));
      }
    });
  });
}

// Reads streams `[number, cut]`, four at a time; returns a line for each.
async function hearAll(kind, list) {
  const heard = [];
  let next = 0;
  const worker = async () => {
    while (next < list.length) {
      const at = next++;
      heard[at] = `${list[at]} ${await hearStream(kind, `/stream/${list[at].join('/')}`)}`;
    }
  };
  await each(kind, () => Promise.all([worker(), worker(), worker(), worker()]));
  return heard.join('\n');
}

function parse(chunks) {
  const heard = [];
  const parser = new EventStreamParser({ dispatch: event => heard.push(show(event)) });
  for (const chunk of chunks) parser.feed(chunk);
  return heard.join(' ');
}

// Returns the different outcomes of all ways to cut a stream: in two, in single bytes, with empty chunks between, and
// as text.
async function cuts(n) {
  const bytes = new Uint8Array(await (await fetch(`/bytes/${n}`)).arrayBuffer());
  const single = [...bytes].flatMap(byte => [new Uint8Array(), Uint8Array.of(byte)]);
  const text = new TextDecoder().decode(bytes);
  const outcomes = new Set([parse(single), parse([text]), parse(text)]);
  for (let at = 0; at <= bytes.length; at++) outcomes.add(parse([bytes.subarray(0, at), bytes.subarray(at)]));
  return [...outcomes].join(' and ');
}

// Returns the events, each with the state, up to `count` events or until the source is closed.
function hearScript(kind, url, count, init) {
  return new Promise(done => {
    const heard = [], source = new kinds[kind](url, init);
    for (const type of TYPES) source[`on${type}`] = event => {
      heard.push((event instanceof MessageEvent ? show(event) : event.type) + source.readyState);
      if (heard.length === count) source.close();
      // After a close there must be no more events. This pause shows whether one was still on its way.
      if (source.readyState === 2) setTimeout(done, 20, heard);
    };
  }).then(heard => heard.join(' '));
}

// Returns every step of the parser for a stream in these pieces, and its state after each piece.
function watch(...chunks) {
  const seen = [];
  const note = (name, ...what) => seen.push([name, ...what.map(value => JSON.stringify(value))].join(' '));
  const names = ['line', 'comment', 'field', 'retry', 'dispatch', 'nothing'];
  const parser = new EventStreamParser(Object.fromEntries(names.map(name => [name, note.bind(null, name)])), '1');
  for (const chunk of chunks) {
    parser.feed(chunk);
    note('state', parser.data, parser.type, parser.id, parser.lastEventId);
  }
  return seen.join('\n');
}

// Returns facts about the interface. The server is asked for `name`.
function facts(Kind, name) {
  const error = make => { try { return make(); } catch (e) { return `${e.name} ${e instanceof DOMException}`; } };
  const source = new Kind(`x/../${name}/there#f`, { withCredentials: true });
  const plain = new Kind(new URL(`/${name}/there`, location), null);
  const order = [], first = () => order.push('first'), last = () => order.push('last');
  source.onopen = () => order.push('never');
  source.addEventListener('open', () => order.push('middle'));
  source.onopen = first;
  source.dispatchEvent(new Event('open'));
  source.onopen = null;
  source.onopen = last;
  source.dispatchEvent(new Event('open'));
  const facts = [source.url, source.withCredentials, source.readyState, plain.url, plain.withCredentials, order,
    source.onopen === last, source.onmessage, source.onerror, source instanceof EventTarget, Kind.length > 0,
    Kind.CONNECTING, Kind.OPEN, Kind.CLOSED, source.CONNECTING, source.OPEN, source.CLOSED,
    error(() => new Kind('http://[')), error(() => new Kind()), error(() => Kind('/')),
    error(() => { source.url = 1; })];
  source.onopen = 'no function';
  facts.push(source.onopen);
  for (const each of [source, source, plain]) each.close();
  return [...facts, source.readyState].map(String).join(' ');
}

// Notes pauses from now on, without waiting for them.
function skipPauses() {
  const later = setTimeout;
  window.pauses = [];
  window.setTimeout = (call, ms, ...more) => ms === 20 ? later(call, ms, ...more) : (pauses.push(ms), later(call, 0));
}

// Puts the value of a promise into `result` once it is there.
function then(promise) {
  window.result = '';
  promise.catch(String).then(text => { window.result = text || 'nothing'; });
}

// Examines eventsource 4.1.1 of npm: node examine.js http://localhost:8000 (README.md says more)
const { EventSource } = require('eventsource');
const FORGETS = 'an event without an id field has no lastEventId; by the standard it has that of the event before';
const KNOWN = { fields: FORGETS, 'nul-in-id': FORGETS, pause: FORGETS, websocket: FORGETS };
const server = process.argv[2];
const get = async path => (await fetch(server + path)).text();
const timeless = text => text.replace(/^\w+, \d+ \w+ \d+ [\d:]+ GMT$/, '{time}');
const faults = {}; // the first fault of each lesson

async function examine(name) {
  const { listen, closeAt, steps, readyState } = JSON.parse(await get(`/lessons/${name}.json`));
  return new Promise(end => {
    const take = step => { // a step after the last one is a fault, too
      const [expected, got] = [steps.shift(), step].map(value => JSON.stringify(value));
      if (expected !== got) faults[name] ??= `FAULT: expected ${expected} got ${got}`;
      if (step.type === closeAt) source.close();
      if (steps.length > 0 && !faults[name]) return;
      if (readyState !== source.readyState) faults[name] ??= `FAULT: expected ${readyState} got ${source.readyState}`;
      if (readyState !== 2) source.close();
      end();
    };
    const request = (url, init) => {
      take({ 'Last-Event-ID': init.headers['Last-Event-ID'] ?? null });
      return fetch(url, init);
    };
    const source = new EventSource(`${server}/lessons/${name}`, { fetch: request });
    const hear = ({ type, data, lastEventId }) =>
      take(data == null ? { type, readyState: source.readyState } : { type, data: timeless(data), lastEventId });
    for (const type of ['open', 'error', 'message', ...listen]) source.addEventListener(type, hear);
    setTimeout(take, 60_000, 'nothing');
  });
}

get('/lessons').then(async list => {
  const names = Array.from(list.matchAll(/^\/lessons\/(\S+)/gm), ([, name]) => name);
  await Promise.all(names.map(examine));
  for (const name in KNOWN) faults[name] = faults[name] ? '' : 'FAULT: the known one is gone';
  for (const name of names) console.log(name, faults[name] || (name in KNOWN ? `known: ${KNOWN[name]}` : 'ok'));
  process.exit(Object.values(faults).some(Boolean) ? 1 : 0);
});

// Examines eventsource 4.1.1 of npm: node examine.js http://localhost:8000 (README.md says more)
const { EventSource } = require('eventsource');
const FORGETS = 'known: it forgets an ID at the next blank line; by the standard it keeps an ID until there is another';
const KNOWN = { 'cut-id': '{"Last-Event-ID":"2"}', fields: 'time}","lastEventId":""}', pause: 'ose","lastEventId":""}',
  'nul-in-id': 'still 1","lastEventId":""}', websocket: 'a POST","lastEventId":""}' }; // how what it does ends
const get = async path => (await fetch(process.argv[2] + path)).text();
const timeless = text => text.replace(/^\w+, \d+ \w+ \d+ [\d:]+ GMT$/, '{time}');
const found = {}; // the first fault of each lesson

async function examine(name) {
  const { listen, closeAt, steps, readyState } = JSON.parse(await get(`/lessons/${name}.json`));
  return new Promise(end => {
    const take = step => { // a step after the last one is a fault, too
      const [wanted, got] = [steps.shift(), step].map(value => JSON.stringify(value));
      if (wanted !== got) found[name] ??= got.endsWith(KNOWN[name]) ? FORGETS : `FAULT: expected ${wanted} got ${got}`;
      if (step.type === closeAt) source.close();
      if (steps.length > 0 && !found[name]) return;
      if (readyState !== source.readyState) found[name] ??= `FAULT: expected ${readyState} got ${source.readyState}`;
      if (readyState !== 2) source.close();
      setTimeout(end, readyState === 2 ? 12_000 : 0); // a client that is closed sends no more requests
    };
    const request = (url, init) => {
      take({ 'Last-Event-ID': init.headers['Last-Event-ID'] ?? null });
      return fetch(url, init);
    };
    const source = new EventSource(`${process.argv[2]}/lessons/${name}`, { fetch: request });
    const hear = ({ type, data, lastEventId }) =>
      take(data == null ? { type, readyState: source.readyState } : { type, data: timeless(data), lastEventId });
    for (const type of ['open', 'error', 'message', ...listen]) source.addEventListener(type, hear);
    setTimeout(take, 60_000, 'nothing');
  });
}

get('/lessons').then(async list => {
  const names = Array.from(list.matchAll(/^\/lessons\/(\S+)/gm), ([, name]) => name);
  await Promise.all(names.map(examine));
  for (const name in KNOWN) found[name] ??= 'FAULT: the known one is gone';
  for (const name of names) console.log(name, found[name] ?? 'ok');
  process.exit(Object.values(found).some(verdict => verdict.startsWith('FAULT')) ? 1 : 0);
});

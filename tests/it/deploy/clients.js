// Clients in JavaScript. They run in node (`node clients.js KEY CLIENT URL ...`) or in a page that defines `jobs`. Each line
// that they print is the key of a client and a line that this client has received; see clients.py.
const page = typeof document !== 'undefined';

const clients = {
  async fetch(url, hear) {
    const reader = (await fetch(url)).body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      hear(decoder.decode(value, { stream: true }));
    }
  },
  http(url, hear) {
    return new Promise((end, fail) => {
      const request = require('node:http').get(url, response => {
        response.setEncoding('utf8').on('data', hear).on('end', end).on('error', fail);
      });
      request.on('error', fail);
    });
  },
  EventSource(url, hear) {
    return new Promise((end, fail) => {
      const source = new EventSource(url);
      source.onmessage = event => hear(`data: ${event.data}\n`);
      source.onerror = () => (source.readyState === EventSource.CLOSED ? fail('it gives up') : hear('= gone\n'));
    });
  },
};

let told = Promise.resolve();
function tell(text) {
  if (page) told = told.then(() => fetch('/', { method: 'POST', body: text })); // one request after the other, to keep the order
  else process.stdout.write(text);
}

function run(key, client, url) {
  let rest = '';
  const hear = text => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    if (lines.length > 0) tell(lines.map(line => `${key} ${line}\n`).join(''));
  };
  clients[client](url, hear).then(() => tell(`${key} = end\n`), e => tell(`${key} = error ${e}\n`));
}

if (page) {
  for (const [key, client, url] of jobs) run(key, client, url);
} else {
  const words = process.argv.slice(2);
  while (words.length > 0) run(...words.splice(0, 3));
}

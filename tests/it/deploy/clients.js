// Clients in JavaScript. They run in node (`node clients.js KEY CLIENT URL ...`) or in a page that defines `jobs`. Each
// line that they print is the key of a client and a line that this client has received; see clients.py.
const page = typeof document !== 'undefined';

const clients = {
  async fetch(url, receive) {
    const reader = (await fetch(url)).body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      receive(decoder.decode(value, { stream: true }));
    }
  },
  http(url, receive) {
    return new Promise((end, fail) => {
      const request = require('node:http').get(url, response => {
        response.setEncoding('utf8').on('data', receive).on('end', end).on('error', fail);
      });
      request.on('error', fail);
    });
  },
  EventSource(url, receive) {
    return new Promise((end, fail) => {
      const source = new EventSource(url);
      source.onmessage = event => receive(`data: ${event.data}\n`);
      source.onerror = () => (source.readyState === EventSource.CLOSED ? fail('the EventSource is closed') : receive('= gone\n'));
    });
  },
  // Plays a lesson, and receives the steps that static/lessons/README.md names, but for the requests, and then the
  // readyState. It goes on listening after the last step, since then nothing may come.
  async lesson(url, receive) {
    const response = await fetch(url.replace(/(\?.*)?$/, '.json'));
    const { listen, closeAt, steps } = await response.json();
    let left = steps.filter(step => 'type' in step).length;
    return new Promise(end => {
      const source = new EventSource(url);
      const hear = ({ type, data, lastEventId }) => {
        const text = data?.replace(/^\w+, \d+ \w+ \d+ [\d:]+ GMT$/, '{time}');
        const { readyState } = source;
        const step = data === undefined ? { type, readyState } : { type, data: text, lastEventId };
        receive(`${JSON.stringify(step)}\n`);
        if (type === closeAt) source.close();
        left -= 1;
        if (left > 0 && source.readyState !== EventSource.CLOSED) return;
        receive(`${source.readyState}\n`);
        source.close();
        end();
      };
      for (const type of ['open', 'error', 'message', ...listen]) source.addEventListener(type, hear);
    });
  },
};

let reported = Promise.resolve();
function report(text) {
  // One request after the other, to keep the order.
  if (page) reported = reported.then(() => fetch('/', { method: 'POST', body: text }));
  else process.stdout.write(text);
}

function run(key, client, url) {
  let rest = '';
  const receive = text => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    if (lines.length > 0) report(lines.map(line => `${key} ${line}\n`).join(''));
  };
  clients[client](url, receive).then(() => report(`${key} = end\n`), e => report(`${key} = error ${e}\n`));
}

if (page) {
  for (const [key, client, url] of jobs) run(key, client, url);
} else {
  const words = process.argv.slice(2);
  while (words.length > 0) run(...words.splice(0, 3));
}

'use strict';
// EventSource in plain JavaScript, after WHATWG HTML, "Server-sent events"; names in quotes are its sections.
//   EventStreamParser    bytes in, events out, and every step between them can be watched; it knows no connection.
//   TincanEventSource    the EventSource interface around it, and one option more: { headers: { Authorization: ... } }.
// Both are globals of a plain script, without modules or a build: <script src="/assets/eventsource.js">. Where there is
// no EventSource, it becomes that too.

globalThis.EventStreamParser = class EventStreamParser {
  // What is known at any time, to be read by whoever watches ("Interpreting an event stream").
  data = '';                       // data buffer: each data line with a line feed behind it
  type = '';                       // event type buffer
  id = '';                         // last event ID buffer: what was read
  lastEventId = '';                // last event ID string: what holds since the last blank line

  #watch;
  #decoder = new TextDecoder();    // UTF-8; U+FFFD for what is none; takes off one leading BOM, even one that was split
  #rest = '';                      // a line that has no end yet
  #afterCR = false;                // a line feed now would be the second half of a CR LF

  // `watch` has functions, all optional: line(text), comment(text), field(name, value, effect), retry(ms),
  // dispatch({ type, data, lastEventId }), and nothing() for a blank line that fires nothing.
  // Deviation: the text has each stream begin with an empty last event ID buffer, so that a blank line before the first
  // id forgets the place. Chromium goes on with the last event ID string of the stream before: a caller can hand it in.
  constructor(watch = {}, lastEventId = '') {
    this.#watch = watch;
    this.id = this.lastEventId = lastEventId;
  }

  // Takes the next bytes (Uint8Array), cut anywhere; or text, which is decoded already and has no BOM any more.
  // At the end of the stream there is nothing to call: an event without its blank line is discarded.
  feed(chunk) {
    let text = typeof chunk === 'string' ? chunk : this.#decoder.decode(chunk, { stream: true });
    if (text === '') return;       // half a character
    const afterCR = this.#afterCR;
    this.#afterCR = text.endsWith('\r');
    if (afterCR && text[0] === '\n') text = text.slice(1);
    const lines = text.split(/\r\n?|\n/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    lines.forEach(line => this.#interpret(line));
  }

  #interpret(line) {
    this.#watch.line?.(line);
    const colon = line.indexOf(':');
    if (line === '') this.#dispatch();
    else if (colon === 0) this.#watch.comment?.(line.slice(1));
    else {
      const [name, value] = colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')];
      const effect = this.#process(name, value);
      this.#watch.field?.(name, value, effect);
    }
  }

  // Returns the effect, in words. Field names are compared as they are: `Data` is none.
  #process(name, value) {
    switch (name) {
      case 'event':
        this.type = value;
        return 'names the event';
      case 'data':
        this.data += value + '\n';
        return 'appended to the data';
      case 'id':
        if (value.includes('\0')) return 'ignored: an id with NUL';
        this.id = value;
        return 'the last event ID, from the blank line on';
      case 'retry':
        // Chromium takes an empty value as its own default, and ignores what does not fit into 64 bits.
        if (!/^[0-9]+$/.test(value)) return 'ignored: not only digits';
        this.#watch.retry?.(Number(value));
        return 'the reconnection time';
      default:
        return 'ignored: no such field';
    }
  }

  #dispatch() {
    this.lastEventId = this.id;    // also where nothing is fired
    const { data, type, lastEventId } = this;
    this.data = this.type = '';
    if (data === '') this.#watch.nothing?.();
    else this.#watch.dispatch?.({ type: type || 'message', data: data.slice(0, -1), lastEventId });
  }
};

globalThis.TincanEventSource = class TincanEventSource extends EventTarget {
  static #LIMITS = {
    pause: 30000,                  // ms; Limit: no pause grows longer, unless the server asked for more
    timer: 2 ** 31 - 1,            // ms; a longer one would fire at once
    text: 1 << 24,                 // Limit: characters that an XMLHttpRequest may pile up
  };

  #url; #target; #withCredentials; #headers;
  #readyState = 0;
  #parser = new EventStreamParser();
  #reconnectionTime = 3000;        // ms, as in Chromium; the text leaves it to the browser
  #failures = 0;                   // failed attempts since the last stream that opened
  #timer = 0;
  #abort = new AbortController();  // of the connection

  constructor(url, init) {
    super();
    if (arguments.length === 0) throw new TypeError('a URL is needed');
    try {
      this.#url = new URL(url, globalThis.document?.baseURI ?? location.href);
    } catch {
      throw new DOMException(`Cannot open an EventSource to '${url}'. The URL is invalid.`, 'SyntaxError');
    }
    // Deviation: fetch refuses a URL with a user name and a password. They are left out, and the browser answers a
    // challenge with what it remembers.
    this.#target = new URL(this.#url);
    this.#target.username = this.#target.password = '';
    this.#withCredentials = Boolean(init?.withCredentials);
    this.#headers = init?.headers && new Headers(init.headers);
    this.#connect();
  }

  get url() { return this.#url.href; }
  get withCredentials() { return this.#withCredentials; }
  get readyState() { return this.#readyState; }

  close() {
    this.#readyState = this.CLOSED;
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  // "Processing model". Each connection has its own abort signal: nothing that one still has to say is heard after it.
  #connect() {
    const headers = new Headers(this.#headers);
    headers.set('Accept', 'text/event-stream');
    // A header is bytes: one character stands for each byte of the UTF-8 ("The `Last-Event-ID` header").
    const id = new TextEncoder().encode(this.#parser.lastEventId);
    if (id.length > 0) headers.set('Last-Event-ID', Array.from(id, byte => String.fromCharCode(byte)).join(''));
    const { signal } = this.#abort = new AbortController();
    // Whoever brings a token of his own wants no dialog when it is refused; the price is that no cookie is sent either.
    const own = this.#headers?.has('Authorization') ? 'omit' : 'same-origin';
    const credentials = this.#withCredentials ? 'include' : own;
    const transport = 'body' in Response.prototype ? TincanEventSource.#byFetch : TincanEventSource.#byXHR;
    transport(this.#target.href, { headers, credentials, cache: 'no-store', signal },
      (...head) => { if (!signal.aborted) this.#hearHead(...head); },
      chunk => { if (!signal.aborted) this.#parser.feed(chunk); },
    ).catch(() => { /* a network error is an end like any other */ }).then(() => signal.aborted || this.#reconnect());
  }

  #hearHead(status, type, url) {
    // Parameters are allowed and mean nothing: the stream is UTF-8. (Chromium fails where charset names another.)
    if (status !== 200 || !/^\s*text\/event-stream\s*(;|$)/i.test(type ?? '')) return this.#fail();
    // Later attempts go to where the redirects led, as in Chromium. Not with headers of the caller's: they are not for
    // another origin, and fetch only takes care of that while it follows the redirect itself.
    const final = new URL(url || this.#target);            // what a service worker makes up has no URL
    if (!this.#headers) this.#target = final;
    this.#failures = 0;
    this.#parser = new EventStreamParser({
      retry: ms => { this.#reconnectionTime = ms; },
      // Deviation: the events of a chunk are fired in one task, so what a listener awaits comes after the last of them.
      // One of them may have called close(): then the rest is not heard.
      dispatch: ({ type, ...event }) => {
        if (this.#readyState !== this.OPEN) return;
        this.dispatchEvent(new MessageEvent(type, { ...event, origin: final.origin }));
      },
    }, this.#parser.lastEventId);
    this.#readyState = this.OPEN;
    this.dispatchEvent(new Event('open'));
  }

  // "Fail the connection": for good.
  #fail() {
    this.close();
    this.dispatchEvent(new Event('error'));
  }

  // "Reestablish the connection". Pauses double with each attempt that fails, as the text allows; Chromium's do not.
  #reconnect() {
    const time = this.#reconnectionTime;
    const { pause, timer } = TincanEventSource.#LIMITS;
    const grown = this.#failures === 0 ? 0 : Math.min((time || 1) * 2 ** this.#failures, pause);
    this.#failures++;
    this.#readyState = this.CONNECTING;
    this.#timer = setTimeout(() => this.#connect(), Math.min(Math.max(grown, time), timer));
    this.dispatchEvent(new Event('error'));
  }

  // A transport calls opened(status, media type, final URL) once and feed(chunk) for what comes; its promise ends with
  // the connection. Deviation: if an answer breaks off, fetch throws away what was not read yet. No event that has an id
  // is lost by that, for the next connection goes on behind the last one that was heard.
  static async #byFetch(url, init, opened, feed) {
    const response = await fetch(url, init);
    opened(response.status, response.headers.get('Content-Type'), response.url);
    const reader = response.body.getReader();
    for (let next; !(next = await reader.read()).done;) feed(next.value);
  }

  // For where fetch cannot stream. responseText only grows, so its memory is held until the connection ends: past a
  // limit we end it and go on behind the last id.
  static #byXHR(url, { headers, credentials, signal }, opened, feed) {
    return new Promise(done => {
      const xhr = new XMLHttpRequest();
      let read = 0;
      xhr.open('GET', url);
      xhr.withCredentials = credentials === 'include';
      headers.forEach((value, name) => xhr.setRequestHeader(name, value));
      xhr.setRequestHeader('Cache-Control', 'no-cache');   // in place of the cache mode
      xhr.overrideMimeType('text/plain; charset=utf-8');   // whatever charset the server names
      xhr.onreadystatechange = () => {
        const type = xhr.getResponseHeader('Content-Type');
        if (xhr.readyState === xhr.HEADERS_RECEIVED) opened(xhr.status, type, xhr.responseURL);
        if (xhr.readyState < xhr.LOADING || xhr.responseText.length <= read) return;
        const text = xhr.responseText.slice(read);
        read += text.length;
        feed(text);
        if (read > TincanEventSource.#LIMITS.text) xhr.abort();
      };
      xhr.onloadend = done;
      signal.addEventListener('abort', () => xhr.abort());
      xhr.send();
    });
  }
};

// Makes onopen, onmessage and onerror, which hear in the order in which they were set, and the constants. (Not in the class:
// Safari has no static blocks before 16.4.)
{
  const handlers = new WeakMap();
  const of = source => handlers.get(source) ?? handlers.set(source, {}).get(source);
  const { prototype } = TincanEventSource;
  for (const type of ['open', 'message', 'error']) {
    Object.defineProperty(prototype, `on${type}`, {
      get() { return of(this)[type]?.hear ?? null; },
      set(hear) {
        const old = of(this)[type];
        if (typeof hear !== 'function') {
          this.removeEventListener(type, old?.listener);
          delete of(this)[type];
        } else if (old) {
          old.hear = hear;
        } else {
          const handler = of(this)[type] = { hear, listener: event => handler.hear.call(this, event) };
          this.addEventListener(type, handler.listener);
        }
      },
      enumerable: true, configurable: true,
    });
  }
  ['CONNECTING', 'OPEN', 'CLOSED'].forEach((name, value) => {
    for (const at of [TincanEventSource, prototype]) Object.defineProperty(at, name, { value, enumerable: true });
  });
}

globalThis.EventSource ??= TincanEventSource;

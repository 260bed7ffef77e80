'use strict';
// EventSource in plain JavaScript, after WHATWG HTML, "Server-sent events". Names in quotes are sections of that text.
//   EventStreamParser    turns bytes into events. Every step can be watched. It has no connection.
//   TincanEventSource    has the interface of EventSource, and one more option: { headers: { Authorization: ... } }.
// Both are globals of a plain script, without modules and without a build: <script src="/assets/eventsource.js">.
// In a browser without EventSource, TincanEventSource takes that name too.

globalThis.EventStreamParser = class EventStreamParser {
  // The state of the algorithm ("Interpreting an event stream"). The caller may read it at any time.
  data = '';                       // data buffer: each data line, with a line feed after it
  type = '';                       // event type buffer
  id = '';                         // last event ID buffer: the value of the last id field
  lastEventId = '';                // last event ID string: the value of `id` at the last blank line

  #watch;
  #decoder = new TextDecoder();    // UTF-8; malformed bytes become U+FFFD; removes a leading BOM, even a split one
  #unfinished = '';                // the beginning of a line whose end has not come yet
  #afterCR = false;                // if a line feed comes next, it is the second half of a CR LF

  // `watch` is an object with functions, all optional: line(text), comment(text), field(name, value, effect),
  // retry(ms), dispatch({ type, data, lastEventId }), and nothing() for a blank line that fires nothing.
  // Deviation: by the text each stream begins with an empty last event ID buffer, so a blank line before the first id
  // field clears the last event ID. Chromium goes on with the last event ID string of the previous stream. A caller can
  // do the same: it passes that string here.
  constructor(watch = {}, lastEventId = '') {
    this.#watch = watch;
    this.id = this.lastEventId = lastEventId;
  }

  // Interprets the next bytes (a Uint8Array), which may begin and end anywhere. Or the next text, which is decoded
  // already and has no BOM. At the end of the stream nothing is called: an event without blank line is discarded.
  feed(chunk) {
    let text = typeof chunk === 'string' ? chunk : this.#decoder.decode(chunk, { stream: true });
    if (text === '') return;       // a part of a character
    const afterCR = this.#afterCR;
    this.#afterCR = text.endsWith('\r');
    if (afterCR && text[0] === '\n') text = text.slice(1);
    const lines = text.split(/\r\n?|\n/);
    lines[0] = this.#unfinished + lines[0];
    this.#unfinished = lines.pop();
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

  // Returns the effect, in words. Field names are case-sensitive: `Data` is an unknown field.
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
        // Chromium reads an empty value as its default, and ignores a number that does not fit into 64 bits.
        if (!/^[0-9]+$/.test(value)) return 'ignored: not only digits';
        this.#watch.retry?.(Number(value));
        return 'the reconnection time';
      default:
        return 'ignored: no such field';
    }
  }

  #dispatch() {
    this.lastEventId = this.id;    // even if nothing fires
    const { data, type, lastEventId } = this;
    this.data = this.type = '';
    if (data === '') this.#watch.nothing?.();
    else this.#watch.dispatch?.({ type: type || 'message', data: data.slice(0, -1), lastEventId });
  }
};

globalThis.TincanEventSource = class TincanEventSource extends EventTarget {
  static #LIMITS = {
    pause: 30000,                  // ms; Limit: the longest pause, unless the server asks for a longer one
    timer: 2 ** 31 - 1,            // ms; a longer timer would fire at once
    text: 1 << 24,                 // Limit: characters that one XMLHttpRequest may hold
  };

  #url; #target; #withCredentials; #headers;
  #readyState = 0;
  #parser = new EventStreamParser();
  #reconnectionTime = 3000;        // ms, as in Chromium; the text leaves the value to the browser
  #failures = 0;                   // failed attempts since a stream was last open
  #timer = 0;
  #abort = new AbortController();  // ends the connection

  constructor(url, init) {
    super();
    if (arguments.length === 0) throw new TypeError('a URL is needed');
    try {
      this.#url = new URL(url, globalThis.document?.baseURI ?? location.href);
    } catch {
      throw new DOMException(`Cannot open an EventSource to '${url}'. The URL is invalid.`, 'SyntaxError');
    }
    // Deviation: fetch refuses a URL with a user name and a password, so they are removed. If the server asks for
    // credentials, the browser sends those that it remembers.
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

  // "Processing model". Each connection has its own abort signal. After the abort, nothing of that connection fires.
  #connect() {
    const headers = new Headers(this.#headers);
    headers.set('Accept', 'text/event-stream');
    // A field value is bytes. Here each character stands for one byte of the UTF-8 ("The `Last-Event-ID` header").
    const id = new TextEncoder().encode(this.#parser.lastEventId);
    if (id.length > 0) headers.set('Last-Event-ID', Array.from(id, byte => String.fromCharCode(byte)).join(''));
    const { signal } = this.#abort = new AbortController();
    // With a token of the caller's, a refusal must not open the browser's login dialog. So the browser sends no
    // credentials, and no cookies either.
    const withoutCredentials = this.#headers?.has('Authorization') ? 'omit' : 'same-origin';
    const credentials = this.#withCredentials ? 'include' : withoutCredentials;
    const transport = 'body' in Response.prototype ? TincanEventSource.#byFetch : TincanEventSource.#byXHR;
    transport(this.#target.href, { headers, credentials, cache: 'no-store', signal },
      (...head) => { if (!signal.aborted) this.#receiveHead(...head); },
      chunk => { if (!signal.aborted) this.#parser.feed(chunk); },
    ).catch(() => { /* a network error: it reconnects */ }).then(() => signal.aborted || this.#reconnect());
  }

  #receiveHead(status, type, url) {
    // Parameters are allowed, and ignored: the stream is UTF-8. (Chromium fails if charset names another encoding.)
    if (status !== 200 || !/^\s*text\/event-stream\s*(;|$)/i.test(type ?? '')) return this.#fail();
    // Later attempts go to the URL at the end of the redirects, as in Chromium. With headers of the caller's they go to
    // the first URL again: another origin must not get these headers, and fetch removes them only while it redirects.
    const final = new URL(url || this.#target);            // the response of a service worker may have no URL
    if (!this.#headers) this.#target = final;
    this.#failures = 0;
    this.#parser = new EventStreamParser({
      retry: ms => { this.#reconnectionTime = ms; },
      // Deviation: all events of a chunk fire in one task. If a listener awaits something, it goes on after the last of
      // them. If a listener calls close(), the events after that one do not fire.
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

  // "Reestablish the connection". The pause doubles with each failed attempt, as the text allows. Chromium's does not.
  #reconnect() {
    const time = this.#reconnectionTime;
    const { pause, timer } = TincanEventSource.#LIMITS;
    const grown = this.#failures === 0 ? 0 : Math.min((time || 1) * 2 ** this.#failures, pause);
    this.#failures++;
    this.#readyState = this.CONNECTING;
    this.#timer = setTimeout(() => this.#connect(), Math.min(Math.max(grown, time), timer));
    this.dispatchEvent(new Event('error'));
  }

  // A transport calls opened(status, media type, final URL) once, and feed(chunk) for each part of the body. Its
  // promise is settled when the connection ends. Deviation: if a response is cut off, fetch discards the bytes that
  // were not read yet. No event with an ID is lost: the next connection goes on after the last event that fired.
  static async #byFetch(url, init, opened, feed) {
    const response = await fetch(url, init);
    opened(response.status, response.headers.get('Content-Type'), response.url);
    const reader = response.body.getReader();
    for (let next; !(next = await reader.read()).done;) feed(next.value);
  }

  // For browsers in which fetch cannot stream. responseText only grows, and its memory is freed when the connection
  // ends. So at a limit the connection is ended, and the next one goes on after the last event.
  static #byXHR(url, { headers, credentials, signal }, opened, feed) {
    return new Promise(done => {
      const xhr = new XMLHttpRequest();
      let read = 0;
      xhr.open('GET', url);
      xhr.withCredentials = credentials === 'include';
      headers.forEach((value, name) => xhr.setRequestHeader(name, value));
      xhr.setRequestHeader('Cache-Control', 'no-cache');   // in place of the cache mode
      xhr.overrideMimeType('text/plain; charset=utf-8');   // even if the server names another charset
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

// Defines onopen, onmessage and onerror, and the constants. A handler is called in the order in which it was set, among
// the other listeners. (This block is not in the class: Safari before 16.4 has no static blocks.)
{
  const handlers = new WeakMap();
  const handlersOf = source => handlers.get(source) ?? handlers.set(source, {}).get(source);
  const { prototype } = TincanEventSource;
  for (const type of ['open', 'message', 'error']) {
    Object.defineProperty(prototype, `on${type}`, {
      get() { return handlersOf(this)[type]?.callback ?? null; },
      set(callback) {
        const old = handlersOf(this)[type];
        if (typeof callback !== 'function') {
          this.removeEventListener(type, old?.listener);
          delete handlersOf(this)[type];
        } else if (old) {
          old.callback = callback;
        } else {
          const handler = handlersOf(this)[type] = { callback, listener: event => handler.callback.call(this, event) };
          this.addEventListener(type, handler.listener);
        }
      },
      enumerable: true, configurable: true,
    });
  }
  ['CONNECTING', 'OPEN', 'CLOSED'].forEach((name, value) => {
    for (const owner of [TincanEventSource, prototype]) Object.defineProperty(owner, name, { value, enumerable: true });
  });
}

globalThis.EventSource ??= TincanEventSource;

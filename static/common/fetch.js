'use strict';
// Sends a request. Resolves with the response, which has the text of its body in `content`. Fails with a TimeoutError
// if the response does not come within `ms`. With `slow`, only the head must come within that time. (In 2022 some
// browsers had no AbortSignal.timeout, and none had AbortSignal.any.)
function fetchText(url, ms, { signal, slow, ...options } = {}) {
  const abort = new AbortController();
  const stop = () => abort.abort();
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop);
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => { fail(new DOMException('', 'TimeoutError')); stop(); }, ms);
  });
  const read = async response => {
    if (slow) clearTimeout(timer);
    return Object.assign(response, { content: await response.text() });
  };
  return Promise.race([fetch(url, { ...options, signal: abort.signal }).then(read), late]).finally(() => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  });
}

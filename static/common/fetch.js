'use strict';
// The answer to a request, with its text in `said`; after `ms` a TimeoutError instead. If it may be `slow`, only its head
// must come by then. (In 2022 not every browser had AbortSignal.timeout, and none AbortSignal.any.)
function fetchText(url, ms, { signal, slow, ...options } = {}) {
  const abort = new AbortController();
  const stop = () => abort.abort();
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop);
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => { fail(new DOMException('', 'TimeoutError')); stop(); }, ms);
  });
  const whole = async answer => {
    if (slow) clearTimeout(timer);
    return Object.assign(answer, { said: await answer.text() });
  };
  return Promise.race([fetch(url, { ...options, signal: abort.signal }).then(whole), late]).finally(() => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  });
}

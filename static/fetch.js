'use strict';
// The answer to a request, with its text in `said`; after `ms` a TimeoutError instead. (In 2022 not every browser had
// AbortSignal.timeout, and none AbortSignal.any.)
function fetchText(url, ms, { signal, ...options } = {}) {
  const abort = new AbortController();
  const stop = () => abort.abort();
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop);
  const late = new Promise((_, fail) => setTimeout(() => { fail(new DOMException('', 'TimeoutError')); stop(); }, ms));
  const whole = async answer => Object.assign(answer, { said: await answer.text() });
  return Promise.race([fetch(url, { ...options, signal: abort.signal }).then(whole), late]);
}

'use strict';
// The list of the lessons, for the page of the lessons and for the lab.

// Returns the text at a path. After a refusal it throws the text of that. The URL is absolute: a relative one takes
// over a password from the page's URL, and fetch refuses such a URL.
async function load(path) {
  const response = await fetch(location.origin + path, { headers: { Accept: 'text/plain' } });
  if (!response.ok) throw await response.text();
  return response.text();
}

async function readLessons() {
  const lines = (await load('/lessons')).matchAll(/^\/lessons\/(\S+) +(.*)$/gm);
  return Array.from(lines, ([, name, titles]) => ({ name, title: titles.split(' · ')[Number(chinese)] ?? titles }));
}

// Returns whether this server has a lab. If not, it removes what leads to the lab from the page.
async function findLab() {
  const { ok } = await fetch(`${location.origin}/lab`, { method: 'HEAD' });
  if (!ok) document.querySelectorAll('[data-lab]').forEach((part) => part.remove());
  return ok;
}

// Shows the list. After a failure it shows the error, and tries again.
async function showLessons(list, error) {
  const link = (href, text) => Object.assign(document.createElement('a'), { href, textContent: text });
  document.title = `${word('lessons-title')} · tincan`;
  try {
    const lab = await findLab();
    for (const { name, title } of await readLessons()) {
      const item = document.createElement('li');
      item.append(lab ? link(`/lab#${name}`, title) : title, ' ', link(`/lessons/${name}.txt`, `${name}.txt`));
      list.append(item);
    }
    error.textContent = '';
  } catch (e) {
    error.textContent = typeof e === 'string' ? e : word('unreachable');
    setTimeout(showLessons, 3000, list, error);
  }
}

if (location.pathname === '/lessons') showLessons(...document.querySelectorAll('#lessons, #error'));

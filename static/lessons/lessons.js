'use strict';
// The list of the lessons: for the page that shows it, and for the lab.

// The text behind a path; or what a refusal says. The URL is made a whole one: a relative one takes over a password in the
// page's, and fetch refuses that.
async function load(path) {
  const answer = await fetch(location.origin + path, { headers: { Accept: 'text/plain' } });
  if (!answer.ok) throw await answer.text();
  return answer.text();
}

async function readLessons() {
  const lines = (await load('/lessons')).matchAll(/^\/lessons\/(\S+) +(.*)$/gm);
  return Array.from(lines, ([, name, titles]) => ({ name, title: titles.split(' · ')[Number(chinese)] ?? titles }));
}

// Whether this server has a lab. If not, nothing on the page leads there.
async function findLab() {
  const { ok } = await fetch(`${location.origin}/lab`, { method: 'HEAD' });
  if (!ok) document.querySelectorAll('[data-lab]').forEach((part) => part.remove());
  return ok;
}

// A failure is shown until it is over.
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

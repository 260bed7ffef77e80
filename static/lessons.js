'use strict';
// The list of the lessons: for the page that shows it, and for the lab.

// The URL is made a whole one: a relative one takes over a password in the page's, and fetch refuses that.
async function readLessons() {
  const answer = await fetch(`${location.origin}/lessons`, { headers: { Accept: 'text/plain' } });
  if (!answer.ok) throw Error(word('answered', { status: answer.status }));
  const lines = (await answer.text()).matchAll(/^\/lessons\/(\S+) +(.*)$/gm);
  return Array.from(lines, ([, name, titles]) => ({ name, title: titles.split(' · ')[Number(chinese)] ?? titles }));
}

// A failure is shown until it is over.
async function showLessons(list, error) {
  const link = (href, text) => Object.assign(document.createElement('a'), { href, textContent: text });
  document.title = `${word('lessons-title')} · tincan`;
  try {
    for (const { name, title } of await readLessons()) {
      const item = document.createElement('li');
      item.append(link(`/lab#${name}`, title), ' ', link(`/lessons/${name}.txt`, `${name}.txt`));
      list.append(item);
    }
    error.textContent = '';
  } catch (e) {
    error.textContent = e.name === 'TypeError' ? word('unreachable') : e.message;
    setTimeout(showLessons, 3000, list, error);
  }
}

if (location.pathname === '/lessons') showLessons(...document.querySelectorAll('#lessons, #error'));

'use strict';
// The buttons that copy the code element before them.

// navigator.clipboard exists only in secure contexts. http://192.168.1.5:8000 is not a secure context.
async function copy(button) {
  const code = button.previousElementSibling;
  const announcement = document.getElementById('copied');
  let done = true;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    done = document.execCommand('copy');
  }
  button.textContent = announcement.textContent = word(done ? 'copied' : 'selected');
  setTimeout(() => { button.textContent = word('copy'); announcement.textContent = ''; }, 2000);
}

for (const button of document.querySelectorAll('.copy')) button.onclick = () => copy(button);

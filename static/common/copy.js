'use strict';
// The buttons that copy the code before them.

// navigator.clipboard is there in secure contexts only; http://192.168.1.5:8000 is none.
async function copy(button) {
  const code = button.previousElementSibling;
  const told = document.getElementById('copied');
  let done = true;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    done = document.execCommand('copy');
  }
  button.textContent = told.textContent = word(done ? 'copied' : 'selected');
  setTimeout(() => { button.textContent = word('copy'); told.textContent = ''; }, 2000);
}

for (const button of document.querySelectorAll('.copy')) button.onclick = () => copy(button);

// Copies text, also where the browser keeps its clipboard from plain http pages and frames. Knows no conversation.

const SHOWN_MS = 2_000;

// Copies and says for a while in this element how it went.
export async function copyAndTell(text, element, say) {
  const copied = await copyText(text, element.ownerDocument);
  element.textContent = say(copied ? "copied" : "copyFailed");
  setTimeout(() => (element.textContent = ""), SHOWN_MS);
}

async function copyText(text, document) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text, document);
  }
}

function copyBySelection(text, document) {
  const focused = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  // Beside an open dialog nothing can be selected.
  (focused?.closest("dialog") ?? document.body).append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return copied;
}

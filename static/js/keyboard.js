// Decides what a key means. Knows no DOM beyond the fields of a keyboard event.

// Safari ends a composition before its Enter arrives; only the key code 229 still tells.
const composing = (event) => event.isComposing === true || event.keyCode === 229;

export function keyInMessageBox(event) {
  if (event.key !== "Enter" || composing(event)) return null;
  if (event.shiftKey || event.altKey) return null;
  return "send";
}

export function keyOnPage(event, busy) {
  return event.key === "Escape" && busy && !composing(event) ? "cancel" : null;
}

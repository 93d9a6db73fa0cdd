// Puts the sentences of one language into the elements of the page that name them in data attributes.

export function fillPageText(root, say, values) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text, values);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label, values));
  }
  for (const element of root.querySelectorAll("[data-tip]")) {
    element.title = say(element.dataset.tip, values);
  }
}

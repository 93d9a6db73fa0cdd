// Puts the sentences of one language into the elements of the page that name them in data attributes.

export function fillPageText(root, say) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
  }
  for (const element of root.querySelectorAll("[data-tip]")) {
    element.title = say(element.dataset.tip);
  }
}

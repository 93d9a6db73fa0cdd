// Text of an element that grows: only what is new is added. Knows no conversation.
import { languageOf } from "./message_text.js";

export class GrowingText {
  #element;
  #text = document.createTextNode("");

  constructor(element) {
    this.#element = element;
    element.append(this.#text);
  }

  // The whole text is set again only when another one replaces it.
  show(text) {
    const shown = this.#text.data;
    if (text === shown) return;
    if (text.startsWith(shown)) this.#text.appendData(text.slice(shown.length));
    else this.#text.data = text;
    markLanguage(this.#element, text);
  }
}

// Fonts and screen readers need to know; the page's own language says nothing about a message's.
export function markLanguage(element, text) {
  if (element.lang !== "") return;
  const language = languageOf(text);
  if (language !== null) element.lang = language;
}

// Shows one exchange: the message, the reply as it grows, and what can be done next. Knows DOM, not the wire.
import { copyText } from "./clipboard.js";
import { languageOf } from "./message_text.js";
import { fillPageText } from "./page_text.js";
import { wordEnd, wordFailure, wordUsage } from "./wording.js";

const ACTION_TEXT = { continue: "actionContinue", again: "actionAgain", edit: "actionEdit" };

export class ExchangeView {
  #exchange;
  #say;
  #act;
  #parts = {};
  #replyText = document.createTextNode("");

  constructor(exchange, template, say, act) {
    this.#exchange = exchange;
    this.#say = say;
    this.#act = act;
    this.element = template.content.firstElementChild.cloneNode(true);
    fillPageText(this.element, say);
    for (const part of this.element.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    this.#parts.message.textContent = exchange.message;
    markLanguage(this.#parts.message, exchange.message);
    this.#parts.reply.append(this.#replyText);
    this.#parts.copy.addEventListener("click", () => this.#copy());
  }

  // Appends what is new; the whole text is set again only when a new reply replaces the old one.
  paintReply() {
    const { reply } = this.#exchange;
    const shown = this.#replyText.data;
    if (reply === shown) return;
    if (reply.startsWith(shown)) this.#replyText.appendData(reply.slice(shown.length));
    else this.#replyText.data = reply;
    markLanguage(this.#parts.reply, reply);
    this.element.dataset.status = this.#exchange.status;
    this.#parts.reply.hidden = false;
    this.#parts.waiting.hidden = true;
  }

  update(isLast) {
    const exchange = this.#exchange;
    this.paintReply();
    this.element.dataset.status = exchange.status;
    this.element.classList.toggle("dropped-message", exchange.droppedMessages > 0);
    this.element.classList.toggle("dropped-reply", exchange.droppedMessages > 1);
    this.#parts.reply.hidden = exchange.reply === "";
    this.#parts.waiting.hidden = exchange.status !== "waiting";
    this.#parts.copy.hidden = exchange.running || exchange.reply === "";
    this.#showFailure(exchange);
    this.#parts.end.textContent = wordEnd(exchange, this.#say);
    this.#parts.usage.textContent = wordUsage(exchange.usage, this.#say);
    const actions = isLast ? exchange.actions : [];
    this.#parts.actions.replaceChildren(...actions.map((name) => this.#button(name)));
    this.#parts.under.hidden = exchange.running || (exchange.reply === "" && actions.length === 0);
  }

  #showFailure({ failure, reply }) {
    this.#parts.failure.hidden = failure === null;
    if (failure === null) return;
    const worded = wordFailure(failure, reply !== "", this.#say);
    for (const part of ["title", "detail", "hint"]) {
      this.#parts[part].textContent = worded[part];
      this.#parts[part].hidden = worded[part] === "";
    }
  }

  #button(action) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet-button";
    button.textContent = this.#say(ACTION_TEXT[action]);
    button.addEventListener("click", () => this.#act(this.#exchange, action));
    return button;
  }

  async #copy() {
    const copied = await copyText(this.#exchange.reply, document);
    this.#parts.copied.textContent = this.#say(copied ? "copied" : "copyFailed");
    setTimeout(() => (this.#parts.copied.textContent = ""), 2_000);
  }
}

// Fonts and screen readers need to know; the page's own language says nothing about a message's.
function markLanguage(element, text) {
  if (element.lang !== "") return;
  const language = languageOf(text);
  if (language !== null) element.lang = language;
}

// Shows one exchange: the message, the reply as it grows, and what can be done next. Knows DOM, not the wire.
import { copyAndTell } from "./clipboard.js";
import { GrowingText, markLanguage } from "./growing_text.js";
import { fillPageText } from "./page_text.js";
import { ThinkingView } from "./thinking_view.js";
import { wordEnd, wordFailure, wordTimes, wordUsage } from "./wording.js";

const ACTION_TEXT = { continue: "actionContinue", again: "actionAgain", edit: "actionEdit" };

export class ExchangeView {
  #exchange;
  #say;
  #act;
  #parts = {};
  #reply;
  #thinking;

  constructor(exchange, template, say, act) {
    this.#exchange = exchange;
    this.#say = say;
    this.#act = act;
    this.element = template.content.firstElementChild.cloneNode(true);
    fillPageText(this.element, say);
    for (const part of this.element.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    this.#parts.message.textContent = exchange.message;
    markLanguage(this.#parts.message, exchange.message);
    this.#reply = new GrowingText(this.#parts.reply);
    this.#thinking = new ThinkingView(this.#parts, say);
    this.#parts.copy.addEventListener("click", () => copyAndTell(exchange.reply, this.#parts.copied, say));
    this.#parts.prompt.addEventListener("click", () => act(exchange, "prompt"));
  }

  paint() {
    const exchange = this.#exchange;
    this.element.dataset.status = exchange.status;
    this.#thinking.paint(exchange);
    this.#reply.show(exchange.reply);
    this.#parts.reply.hidden = exchange.reply === "";
    this.#parts.waiting.hidden = exchange.status !== "waiting";
  }

  update(isLast, { oneWindow }) {
    const exchange = this.#exchange;
    this.paint();
    this.element.classList.toggle("dropped-message", exchange.droppedMessages > 0);
    this.element.classList.toggle("dropped-reply", exchange.droppedMessages > 1);
    this.#parts.copy.hidden = exchange.running || exchange.reply === "";
    this.#parts.prompt.hidden = exchange.running || exchange.asked === null;
    this.#showFailure(exchange);
    this.#parts.notes.replaceChildren(...exchange.notes.map(paragraph));
    this.#parts.notes.hidden = exchange.notes.length === 0;
    this.#parts.end.textContent = wordEnd(exchange, this.#say);
    this.#parts.usage.textContent = wordUsage(exchange.usage, this.#say, { oneWindow });
    this.#parts.usage.title = wordTimes(exchange.usage, this.#say);
    const actions = isLast ? exchange.actions : [];
    this.#parts.actions.replaceChildren(...actions.map((name) => this.#button(name)));
    this.#parts.under.hidden = exchange.running || (exchange.asked === null && actions.length === 0);
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
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}

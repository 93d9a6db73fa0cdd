// Shows the exchanges of the conversation and keeps to the newest text while the reader is there.
import { ExchangeView } from "./exchange_view.js";
import { FramePainter } from "./frame_painter.js";
import { ScrollFollow } from "./scroll_follow.js";

export class ThreadView {
  #elements;
  #say;
  #act;
  #languages;
  #views = new Map();
  #painting = null;
  #painter = new FramePainter(() => this.#paint(), (action) => requestAnimationFrame(action));
  #follow = new ScrollFollow();

  // elements: scroller, thread, droppedNote, jump, exchangeTemplate
  // languages: what the model does with a text
  constructor(elements, say, act, languages) {
    this.#elements = elements;
    this.#languages = languages;
    this.#say = say;
    this.#act = act;
    elements.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    elements.jump.addEventListener("click", () => this.jumpToEnd());
    elements.thread.addEventListener("click", (event) => this.#letGoOf(event.target.closest("summary")));
    elements.thread.addEventListener("toggle", () => this.#scrolled(), true);
    const resized = new ResizeObserver(() => this.#keepToEnd());
    resized.observe(elements.scroller);
    resized.observe(elements.thread);
  }

  add(exchange) {
    const view = new ExchangeView(exchange, this.#elements.exchangeTemplate, this.#say, this.#act);
    this.#views.set(exchange, view);
    this.#elements.thread.append(view.element);
    this.jumpToEnd();
  }

  remove(exchange) {
    this.#views.get(exchange)?.element.remove();
    this.#views.delete(exchange);
  }

  clear() {
    for (const exchange of [...this.#views.keys()]) this.remove(exchange);
    this.#elements.droppedNote.hidden = true;
    this.#follow.jumpedToEnd();
  }

  requestPaint(exchange) {
    this.#painting = exchange;
    this.#painter.request();
  }

  update(exchange, last) {
    this.#painter.flush();
    for (const [other, view] of this.#views) {
      if (other === exchange || other.droppedMessages > 0) view.update(other === last, this.#languages);
      else view.element.classList.remove("dropped-message", "dropped-reply");
    }
    this.#placeDroppedNote();
    this.#keepToEnd();
  }

  jumpToEnd() {
    this.#follow.jumpedToEnd();
    this.#keepToEnd();
  }

  #paint() {
    this.#views.get(this.#painting)?.paint();
    this.#keepToEnd();
  }

  #placeDroppedNote() {
    const dropped = [...this.#views].filter(([exchange]) => exchange.droppedMessages > 0);
    const note = this.#elements.droppedNote;
    note.hidden = dropped.length === 0;
    if (note.hidden) return;
    const count = dropped.reduce((sum, [exchange]) => sum + exchange.droppedMessages, 0);
    note.textContent = this.#say("dropped", { count });
    const after = dropped.at(-1)[1].element;
    if (after.nextElementSibling !== note) after.after(note);
  }

  // What is being opened stays under the pointer, and is read from its beginning.
  #letGoOf(summary) {
    if (summary !== null && !summary.parentElement.open) this.#follow.letGo();
  }

  #scrolled() {
    const { scrollTop: top, scrollHeight: height, clientHeight: view } = this.#elements.scroller;
    this.#follow.scrolled({ top, height, view });
    this.#showJump();
  }

  #keepToEnd() {
    const { scroller } = this.#elements;
    // A greeting that has no room is read from its beginning.
    if (this.#follow.following && this.#views.size > 0) scroller.scrollTop = scroller.scrollHeight;
    this.#showJump();
  }

  #showJump() {
    this.#elements.jump.hidden = this.#follow.following;
  }
}

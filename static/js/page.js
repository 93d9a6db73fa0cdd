// The page as one object: what the controller tells is shown in thread, message box, notice and announcer.
import { ComposerView } from "./composer_view.js";
import { GreetingView } from "./greeting_view.js";
import { NoticeView } from "./notice_view.js";
import { SignInView } from "./sign_in_view.js";
import { ThreadView } from "./thread_view.js";
import { wordFailure } from "./wording.js";

export class Page {
  #elements;
  #say;
  #hooks;
  #conversation;

  // hooks: send, act, cancel, newChat, signIn, waiting, pinged, answered, unavailable
  constructor(elements, { say, settings, conversation, hooks }) {
    this.#elements = elements;
    this.#say = say;
    this.#hooks = hooks;
    this.#conversation = conversation;
    const isCat = settings.modelName === "catbot";
    this.greeting = new GreetingView(elements, say, { isCat, begin: (text) => hooks.send(text) });
    this.thread = new ThreadView(elements, say, (exchange, action) => this.#act(exchange, action));
    this.notice = new NoticeView(elements, say);
    this.signIn = new SignInView(elements, say, hooks.signIn);
    const { send, cancel } = hooks;
    this.composer = new ComposerView(elements, { say, maximum: settings.maxMessageCharacters, send, cancel });
    elements.newChat.addEventListener("click", hooks.newChat);
  }

  added(exchange) {
    this.greeting.setShown(false);
    this.thread.add(exchange);
    this.#elements.newChat.hidden = false;
  }

  removed(exchange) {
    this.thread.remove(exchange);
    this.composer.putBack(exchange.message);
    this.composer.focusAnyway();
    this.#setRunning(null);
    if (this.#conversation.last === null) this.#showStart();
  }

  changed(exchange) {
    this.thread.update(exchange, this.#conversation.last);
    if (exchange !== this.#conversation.last) return;
    this.#setRunning(exchange);
    this.#announce(exchange);
    if (exchange.status === "cancelled") this.composer.focus();
    if (exchange.failure?.status === 503) this.#hooks.unavailable();
  }

  painted(exchange) {
    this.thread.requestPaint(exchange);
    this.#setWaiting(false);
    this.#hooks.answered();
  }

  pinged() {
    this.#hooks.pinged();
  }

  cleared() {
    this.thread.clear();
    this.#setRunning(null);
    this.#elements.announcer.textContent = "";
    this.#showStart();
    this.composer.focus();
  }

  needAccess() {
    this.showSignIn("");
  }

  showSignIn(problem) {
    this.composer.setAvailable(false);
    this.#elements.scroller.hidden = true;
    this.signIn.show(problem);
  }

  hideSignIn() {
    this.signIn.hide();
    this.#elements.scroller.hidden = false;
    this.composer.setAvailable(true);
    this.composer.focusAnyway();
    this.thread.jumpToEnd();
  }

  #act(exchange, action) {
    this.composer.focus();
    this.#hooks.act(exchange, action);
  }

  #showStart() {
    this.greeting.setShown(true);
    this.#elements.newChat.hidden = true;
  }

  #setRunning(exchange) {
    this.composer.setBusy(exchange?.running ?? false);
    this.#setWaiting(exchange?.status === "waiting");
  }

  #setWaiting(waiting) {
    this.notice.setWaiting(waiting);
    this.#hooks.waiting(waiting);
  }

  // A screen reader hears a reply once, whole, and not piece by piece.
  #announce(exchange) {
    this.#elements.announcer.textContent = this.#spoken(exchange);
  }

  #spoken(exchange) {
    if (exchange.running) return this.#say("waiting");
    if (exchange.failure === null) return exchange.reply || this.#say("emptyReply");
    const { title, detail, hint } = wordFailure(exchange.failure, exchange.reply !== "", this.#say);
    return [title, detail, hint].filter(Boolean).join(" ");
  }
}

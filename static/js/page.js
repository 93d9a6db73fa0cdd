// The page as one object: what the controller tells is shown in thread, message box, notice and announcer.
import { ComposerView } from "./composer_view.js";
import { GreetingView } from "./greeting_view.js";
import { LanguagePickers } from "./language_pickers.js";
import { NoticeView } from "./notice_view.js";
import { PromptView } from "./prompt_view.js";
import { SignInView } from "./sign_in_view.js";
import { ThreadView } from "./thread_view.js";
import { wordFailure } from "./wording.js";

export class Page {
  #elements;
  #say;
  #hooks;
  #conversation;
  #languages;

  // language: the page's own; languages: of a translation
  // hooks: send, act, cancel, newChat, readPrompt, signIn, waiting, pinged, answered, unavailable
  constructor(elements, { say, settings, language, languages, conversation, hooks }) {
    this.#elements = elements;
    this.#say = say;
    this.#hooks = hooks;
    this.#conversation = conversation;
    this.#languages = languages;
    this.greeting = new GreetingView(elements, say, (text) => this.#send(text) || this.composer.putBack(text));
    this.greeting.word(settings.modelName === "catbot" ? "cat" : "");
    this.thread = new ThreadView(elements, say, (exchange, action) => this.#act(exchange, action), languages);
    this.notice = new NoticeView(elements, say);
    this.signIn = new SignInView(elements, say, hooks.signIn);
    this.pickers = new LanguagePickers(elements, say, { languages, language });
    this.prompt = new PromptView(elements, say, hooks.readPrompt);
    const maximum = settings.maxMessageCharacters;
    this.composer = new ComposerView(elements, {
      say,
      maximum,
      send: (text) => this.#send(text),
      cancel: hooks.cancel,
    });
    elements.newChat.addEventListener("click", hooks.newChat);
  }

  showHealth(health) {
    this.notice.showHealth(health);
    if (!this.#languages.learn(health)) return;
    this.pickers.update();
    if (this.#languages.translates) this.greeting.word("translate");
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
    this.#askForLanguage(exchange.failure?.param);
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

  // Whether it was sent: a translation needs to be told both languages.
  #send(text) {
    const { missing } = this.#languages;
    if (missing === null) this.#hooks.send(text);
    else this.pickers.ask(missing);
    return missing === null;
  }

  // The server may know better than the page, which then has to hear of the languages first.
  async #askForLanguage(param) {
    const side = /^(source|target)_language$/.exec(param ?? "")?.[1];
    if (side === undefined) return;
    if (!this.#languages.shown) await this.#hooks.unavailable();
    this.pickers.ask(side);
  }

  #act(exchange, action) {
    if (action === "prompt") return this.prompt.show(exchange.asked);
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
    if (exchange.failure === null) return [exchange.reply || this.#say("emptyReply"), ...exchange.notes].join(" ");
    const { title, detail, hint } = wordFailure(exchange.failure, exchange.reply !== "", this.#say);
    return [title, detail, hint].filter(Boolean).join(" ");
  }
}

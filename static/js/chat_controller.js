// Runs one reply at a time: conversation -> client -> view. Knows no DOM; the view is any object with
// added, removed, changed, painted, pinged, cleared and needAccess.

export class ChatController {
  #conversation;
  #client;
  #view;
  #languages;
  #abort = null;

  // languages() tells the fields of a request for those that are chosen now.
  constructor(conversation, client, view, languages = () => ({})) {
    this.#languages = languages;
    this.#conversation = conversation;
    this.#client = client;
    this.#view = view;
  }

  get busy() {
    return this.#abort !== null;
  }

  async send(message) {
    if (this.busy) return;
    const earlier = this.#conversation.last;
    const exchange = this.#conversation.begin(message);
    if (earlier !== null) this.#view.changed(earlier);
    this.#view.added(exchange);
    await this.#run(exchange, this.#requestFor(exchange, "new"));
  }

  async act(exchange, action) {
    if (this.busy) return;
    if (action === "edit") return this.#takeBack(exchange);
    const request = this.#requestFor(exchange, action);
    exchange.restart(action);
    await this.#run(exchange, request);
  }

  cancel() {
    this.#abort?.abort();
  }

  newChat() {
    this.cancel();
    this.#abort = null;
    this.#conversation.clear();
    this.#view.cleared();
  }

  #requestFor(exchange, mode) {
    const languages = mode === "continue" ? exchange.languages : this.#languages();
    return { ...this.#conversation.requestFor(exchange, mode), ...languages };
  }

  async #run(exchange, request) {
    const abort = new AbortController();
    exchange.request(request);
    this.#abort = abort;
    this.#view.changed(exchange);
    try {
      await this.#receive(exchange, request, abort.signal);
    } catch (error) {
      if (abort.signal.aborted) exchange.cancel();
      else exchange.fail(error);
    }
    // After "new chat" another reply may already run, and this exchange is gone from the page.
    if (this.#abort !== abort) return;
    this.#abort = null;
    if (exchange.failure?.kind === "access") this.#askForAccess(exchange);
    else this.#view.changed(exchange);
  }

  async #receive(exchange, request, signal) {
    for await (const chunk of this.#client.stream(request, signal)) {
      if (signal.aborted) return exchange.cancel();
      if (chunk.done) {
        exchange.finish(chunk);
        this.#conversation.markDropped(exchange, chunk.dropped_messages ?? 0);
      } else if (chunk.delta !== undefined) {
        exchange.append(chunk.delta);
        this.#view.painted(exchange);
      } else if (chunk.reasoning !== undefined) {
        exchange.think(chunk.reasoning);
        this.#view.painted(exchange);
      } else if (chunk.usage !== undefined) {
        exchange.measure(chunk.usage);
      } else {
        this.#view.pinged(exchange);
      }
    }
  }

  #askForAccess(exchange) {
    if (exchange.reply === "") this.#takeBack(exchange);
    else this.#view.changed(exchange);
    this.#view.needAccess(exchange.failure);
  }

  #takeBack(exchange) {
    this.#conversation.remove(exchange);
    this.#view.removed(exchange);
    if (this.#conversation.last !== null) this.#view.changed(this.#conversation.last);
  }
}

// The conversation as exchanges: one message and the reply to it. Knows what is sent as history and what
// can be done with an exchange next; knows neither the wire nor the page.

// status: "waiting" | "thinking" | "streaming" | "finished" | "cancelled" | "failed"
export class Exchange {
  constructor(message) {
    this.message = message;
    this.reply = "";
    this.reasoning = "";
    this.status = "waiting";
    this.failure = null;
    this.finishReason = null;
    this.usage = null;
    this.notes = [];
    this.droppedMessages = 0;
    this.replaceReply = false;
    this.requested = null;
    this.asked = null;
  }

  // The request for a reply, which is what the reply was asked with once that begins.
  request(body) {
    this.requested = body;
  }

  // mode "again" asks for a new reply (the old text stays until the new one begins), "continue" for more of it.
  restart(mode) {
    this.status = "waiting";
    this.failure = null;
    this.finishReason = null;
    this.usage = null;
    this.notes = [];
    this.replaceReply = mode === "again";
  }

  append(delta) {
    this.#begin();
    this.reply += delta;
    this.status = "streaming";
  }

  // What the model thinks before it answers is shown and nothing else: neither copied nor sent back.
  think(delta) {
    this.#begin();
    this.reasoning += delta;
    if (this.status === "waiting") this.status = "thinking";
  }

  // What a reply took so far: one that is stopped gets no end that would tell.
  measure(usage) {
    this.usage = usage;
  }

  finish({ response, reasoning, finish_reason: finishReason, usage, notes }) {
    this.#begin();
    if (this.reply === "" && typeof response === "string") this.reply = response;
    if (this.reasoning === "" && typeof reasoning === "string") this.reasoning = reasoning;
    this.finishReason = finishReason ?? "stop";
    this.usage = usage ?? this.usage;
    this.notes = Array.isArray(notes) ? notes.filter((note) => typeof note === "string") : [];
    this.status = "finished";
  }

  cancel() {
    this.replaceReply = false;
    this.status = "cancelled";
  }

  fail(failure) {
    this.replaceReply = false;
    this.failure = failure;
    this.status = "failed";
  }

  get running() {
    return ["waiting", "thinking", "streaming"].includes(this.status);
  }

  // What may be done next, in the order of the buttons.
  get actions() {
    if (this.running) return [];
    if (this.reply === "") return ["again", "edit"];
    if (this.status === "failed") return ["continue", "again"];
    const cutShort = this.status === "cancelled" || ["length", "deadline"].includes(this.finishReason);
    return cutShort ? ["continue"] : [];
  }

  // The languages of the reply that is there, which more of it has to keep.
  get languages() {
    const named = ["source_language", "target_language"].filter((name) => name in (this.asked ?? {}));
    return Object.fromEntries(named.map((name) => [name, this.asked[name]]));
  }

  #begin() {
    this.asked = this.requested;
    if (this.replaceReply) this.reply = this.reasoning = "";
    this.replaceReply = false;
  }
}

export class Conversation {
  exchanges = [];

  get last() {
    return this.exchanges.at(-1) ?? null;
  }

  begin(message) {
    const exchange = new Exchange(message);
    this.exchanges.push(exchange);
    return exchange;
  }

  remove(exchange) {
    this.exchanges = this.exchanges.filter((other) => other !== exchange);
  }

  clear() {
    this.exchanges = [];
  }

  // A message that never got a reply is left out: many chat templates refuse two user turns in a row.
  historyBefore(exchange) {
    return this.#answeredBefore(exchange).flatMap(asMessages);
  }

  historyThrough(exchange) {
    return [...this.historyBefore(exchange), ...asMessages(exchange)];
  }

  // A message that begins with a backslash goes to the model as it is: no template, and nothing of what came before.
  requestFor(exchange, mode) {
    if (exchange.message.startsWith("\\")) {
      if (mode === "continue") return { continue: true, conversationHistory: asMessages(exchange), raw: true };
      return { message: exchange.message, raw: true };
    }
    if (mode === "continue") return { continue: true, conversationHistory: this.historyThrough(exchange) };
    return { message: exchange.message, conversationHistory: this.historyBefore(exchange) };
  }

  // The server counts the oldest messages it had to leave out of the prompt for this exchange.
  markDropped(exchange, count) {
    let left = Math.max(0, count);
    for (const answered of this.#answeredBefore(exchange)) {
      answered.droppedMessages = Math.min(2, left);
      left -= answered.droppedMessages;
    }
  }

  #answeredBefore(exchange) {
    const before = this.exchanges.slice(0, this.exchanges.indexOf(exchange));
    return before.filter((other) => other.reply !== "");
  }
}

function asMessages(exchange) {
  return [
    { role: "user", content: exchange.message },
    { role: "assistant", content: exchange.reply },
  ];
}

// Turns the bytes of a text/event-stream into events. Knows nothing of JSON, fetch or the page.

const FIELD = /^([^:]+)(?:: ?([\s\S]*))?$/;

export class SseParser {
  #decoder = new TextDecoder("utf-8");
  #line = "";
  #afterCarriageReturn = false;
  #event = "";
  #data = [];
  #found = [];

  // Returns the events completed by this chunk: {type: "message" | name, data} or {type: "comment", data}.
  feed(chunk) {
    return this.#read(this.#decoder.decode(chunk, { stream: true }));
  }

  // A server that closes right after its last line still gets that event heard.
  flush() {
    const events = this.#read(this.#decoder.decode());
    if (this.#line !== "") this.#endLine();
    this.#dispatch();
    return events.concat(this.#take());
  }

  #read(text) {
    let start = 0;
    if (this.#afterCarriageReturn && text !== "") {
      if (text[0] === "\n") start = 1;
      this.#afterCarriageReturn = false;
    }
    const lineEnd = /[\r\n]/g;
    lineEnd.lastIndex = start;
    for (let match = lineEnd.exec(text); match !== null; match = lineEnd.exec(text)) {
      this.#line += text.slice(start, match.index);
      this.#endLine();
      start = this.#afterLineEnd(text, match.index);
      lineEnd.lastIndex = start;
    }
    this.#line += text.slice(start);
    return this.#take();
  }

  // The line feed of a CRLF may only come with the next chunk; the line itself must not wait for it.
  #afterLineEnd(text, index) {
    if (text[index] === "\n") return index + 1;
    if (index + 1 === text.length) this.#afterCarriageReturn = true;
    return text[index + 1] === "\n" ? index + 2 : index + 1;
  }

  #endLine() {
    const line = this.#line;
    this.#line = "";
    if (line === "") return this.#dispatch();
    if (line[0] === ":") return this.#found.push({ type: "comment", data: line.slice(1).trimStart() });
    const [, name, value = ""] = FIELD.exec(line) ?? [];
    if (name === "data") this.#data.push(value);
    if (name === "event") this.#event = value;
  }

  #dispatch() {
    if (this.#data.length > 0) {
      this.#found.push({ type: this.#event || "message", data: this.#data.join("\n") });
    }
    this.#data = [];
    this.#event = "";
  }

  #take() {
    const events = this.#found;
    this.#found = [];
    return events;
  }
}

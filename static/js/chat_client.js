// Asks POST /chat for one reply and yields it as it arrives. Knows the wire, not the conversation or the page.
import { Failure, failureFromError, failureFromResponse } from "./failure.js";
import { SseParser } from "./sse.js";

// Pings come every 10 s while a request waits; a slow model's pause between pieces is far shorter than this.
const SILENCE_LIMIT_MS = 120_000;

export class ChatClient {
  #session;
  #silenceLimit;

  constructor(session, { silenceLimit = SILENCE_LIMIT_MS } = {}) {
    this.#session = session;
    this.#silenceLimit = silenceLimit;
  }

  // Yields {ping: true}, {reasoning: str}, {delta: str}, {usage} … and last {done: true, …}; throws a Failure, or AbortError when cancelled.
  async *stream(body, signal) {
    const response = await this.#session.fetch("/chat", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify({ ...body, stream: true, running_usage: true }),
      signal,
    });
    if (!response.ok) throw await failureFromResponse(response);
    if (!isEventStream(response)) throw new Failure("unexpected", { status: response.status });
    for await (const event of this.#events(response.body, signal)) {
      const chunk = parseChunk(event);
      if (chunk === null) continue;
      yield chunk;
      if (chunk.done === true) return;
    }
    throw new Failure("broken");
  }

  async *#events(body, signal) {
    const parser = new SseParser();
    const reader = body.getReader();
    try {
      for (;;) {
        const { done, value } = await this.#read(reader, signal);
        if (done) break;
        yield* parser.feed(value);
      }
      yield* parser.flush();
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  // A phone that changes networks can leave a connection that never ends and never brings anything.
  async #read(reader, signal) {
    let timer;
    const silence = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Failure("silent")), this.#silenceLimit);
    });
    try {
      return await Promise.race([reader.read(), silence]);
    } catch (error) {
      throw signal?.aborted || error instanceof Failure ? error : new Failure("broken");
    } finally {
      clearTimeout(timer);
    }
  }
}

function isEventStream(response) {
  return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

// A piece cut by the end of the connection is no JSON; what arrived before it stays.
function parseChunk(event) {
  if (event.type === "comment") return { ping: true };
  if (event.data === "[DONE]") return null;
  const chunk = parseObject(event.data);
  if (chunk?.error) throw failureFromError(chunk.error);
  const told = chunk?.done === true || [chunk?.delta, chunk?.reasoning].some((piece) => typeof piece === "string");
  return told || chunk?.usage ? chunk : null;
}

function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

import assert from "node:assert/strict";
import { test } from "node:test";
import { ChatClient } from "../../static/js/chat_client.js";
import { Session } from "../../static/js/session.js";

const SSE = { "Content-Type": "text/event-stream; charset=utf-8" };
const DELTA = 'data: {"delta": "にゃ"}\n\n';
const DONE = 'data: {"done": true, "finish_reason": "stop", "dropped_messages": 2}\n\n';

function clientFor(answer, options) {
  const requests = [];
  const session = new Session(async (path, init) => {
    requests.push({ path, ...init });
    return answer(init);
  });
  return { client: new ChatClient(session, options), requests };
}

async function collect(client, { body = { message: "やあ" }, signal } = {}) {
  const chunks = [];
  try {
    for await (const chunk of client.stream(body, signal)) chunks.push(chunk);
    return { chunks, failure: null };
  } catch (failure) {
    return { chunks, failure };
  }
}

const answered = (text) => () => new Response(text, { headers: SSE });
const refused = (status, body, headers = {}) => () => new Response(body, { status, headers });

test("the request carries the message, asks for a stream and skips the tunnel's notice", async () => {
  const { client, requests } = clientFor(answered(DONE));
  await collect(client, { body: { message: "やあ", conversationHistory: [] } });
  const [{ path, method, headers, body }] = requests;
  assert.equal(`${method} ${path}`, "POST /chat");
  assert.deepEqual(JSON.parse(body), { message: "やあ", conversationHistory: [], stream: true, running_usage: true });
  assert.equal(headers.Accept, "text/event-stream");
  assert.equal(headers["ngrok-skip-browser-warning"], "1");
  assert.equal("Authorization" in headers, false);
});

test("pings, deltas and the end come in order, and nothing after the end", async () => {
  const { client } = clientFor(answered(`: ping\n\n${DELTA}${DELTA}${DONE}${DELTA}`));
  const { chunks, failure } = await collect(client);
  assert.equal(failure, null);
  assert.deepEqual(chunks.map((chunk) => chunk.delta ?? (chunk.ping ? "ping" : "done")), ["ping", "にゃ", "にゃ", "done"]);
  assert.equal(chunks.at(-1).dropped_messages, 2);
});

test("thoughts come as they are sent", async () => {
  const { client } = clientFor(answered(`data: {"reasoning": "うーん"}\n\n${DELTA}${DONE}`));
  const { chunks, failure } = await collect(client);
  assert.equal(failure, null);
  assert.deepEqual(chunks.slice(0, 2), [{ reasoning: "うーん" }, { delta: "にゃ" }]);
});

test("what a reply has used so far comes as it is sent", async () => {
  const { client } = clientFor(answered(`${DELTA}data: {"usage": {"total_tokens": 9}}\n\n${DONE}`));
  const { chunks } = await collect(client);
  assert.deepEqual(chunks[1], { usage: { total_tokens: 9 } });
});

test("a stream that ends without its last event is broken, wherever it is cut", async () => {
  const bytes = new TextEncoder().encode(DELTA + DONE);
  const complete = bytes.length - 2;
  for (let cut = 0; cut < complete; cut += 1) {
    const { client } = clientFor(answered(bytes.slice(0, cut)));
    const { chunks, failure } = await collect(client);
    assert.equal(failure?.kind, "broken", `cut at ${cut}`);
    assert.ok(chunks.every((chunk) => chunk.delta === "にゃ"));
  }
});

test("a connection lost while reading is broken and keeps what had arrived", async () => {
  const lost = () => {
    let pulls = 0;
    const pull = (stream) => {
      pulls += 1;
      if (pulls === 1) stream.enqueue(new TextEncoder().encode(DELTA));
      else stream.error(new TypeError("network error"));
    };
    return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }), { headers: SSE });
  };
  const { chunks, failure } = await collect(clientFor(lost).client);
  assert.equal(failure.kind, "broken");
  assert.deepEqual(chunks, [{ delta: "にゃ" }]);
});

test("an error inside the stream ends it with the server's words", async () => {
  const error = { message: "out of memory", type: "server_error", param: null, code: "out_of_memory", hint: "use 4bit" };
  const { client } = clientFor(answered(`${DELTA}data: ${JSON.stringify({ error })}\n\ndata: [DONE]\n\n`));
  const { chunks, failure } = await collect(client);
  assert.equal(chunks.length, 1);
  assert.deepEqual([failure.kind, failure.message, failure.code, failure.hint], ["server", "out of memory", "out_of_memory", "use 4bit"]);
});

test("an error before the stream keeps status, code and hint", async () => {
  const body = JSON.stringify({ success: false, message: "too long", error: { message: "too long", code: "context_length_exceeded", hint: "shorten" } });
  const { failure } = await collect(clientFor(refused(400, body)).client);
  assert.deepEqual([failure.kind, failure.status, failure.hint], ["server", 400, "shorten"]);
});

test("a full queue tells when to try again", async () => {
  const { failure } = await collect(clientFor(refused(429, '{"error": {}}', { "Retry-After": "7" })).client);
  assert.deepEqual([failure.kind, failure.retryAfter], ["busy", 7]);
});

test("pages that are not ours are told apart", async () => {
  for (const answer of [refused(502, "<h1>tunnel</h1>"), refused(200, "<h1>visit</h1>", { "Content-Type": "text/html" })]) {
    const { failure } = await collect(clientFor(answer).client);
    assert.equal(failure.kind, "unexpected");
  }
});

test("no answer at all is a network failure", async () => {
  const { client } = clientFor(() => Promise.reject(new TypeError("Failed to fetch")));
  assert.equal((await collect(client)).failure.kind, "network");
});

test("cancelling ends the stream and keeps what had arrived", async () => {
  const abort = new AbortController();
  const endless = (init) => {
    const start = (stream) => {
      stream.enqueue(new TextEncoder().encode(DELTA));
      init.signal.addEventListener("abort", () => stream.error(init.signal.reason));
    };
    return new Response(new ReadableStream({ start }), { headers: SSE });
  };
  const chunks = [];
  const reading = async () => {
    for await (const chunk of clientFor(endless).client.stream({}, abort.signal)) {
      chunks.push(chunk);
      abort.abort();
    }
  };
  await assert.rejects(reading(), { name: "AbortError" });
  assert.deepEqual(chunks, [{ delta: "にゃ" }]);
});

test("a connection that falls silent is given up", async () => {
  const silent = () => new Response(new ReadableStream({}), { headers: SSE });
  const { client } = clientFor(silent, { silenceLimit: 5 });
  assert.equal((await collect(client)).failure.kind, "silent");
});

test("odd events are passed over", async () => {
  const { client } = clientFor(answered(`data: 5\n\ndata: null\n\ndata: {"delta": 3}\n\ndata: {oops\n\n${DONE}`));
  const { chunks, failure } = await collect(client);
  assert.equal(failure, null);
  assert.equal(chunks.length, 1);
});

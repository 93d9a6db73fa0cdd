import assert from "node:assert/strict";
import { test } from "node:test";
import { Failure, failureFromResponse, secondsToWait } from "../../static/js/failure.js";
import { createSay } from "../../static/js/strings.js";
import { wordEnd, wordFailure, wordTimes, wordUsage } from "../../static/js/wording.js";

const say = createSay("en");

test("a server's error shows its own words and its hint", () => {
  const failure = new Failure("server", { message: "Out of memory at 78 GiB.", hint: "Use 4bit." });
  assert.deepEqual(wordFailure(failure, false, say), {
    title: "The reply failed.",
    detail: "Out of memory at 78 GiB.",
    hint: "Use 4bit.",
  });
});

test("where a person can do something here, the hint is in the page's language", () => {
  const failure = new Failure("server", { code: "out_of_memory", hint: "Lower max_new_tokens." });
  assert.match(wordFailure(failure, false, createSay("ja")).hint, /短くする/);
  assert.match(wordFailure(failure, false, say).hint, /^Shorten the message/);
});

test("a busy server tells how long to wait, if it is known", () => {
  assert.match(wordFailure(new Failure("busy", { retryAfter: 7 }), false, say).title, /in 7 s/);
  assert.equal(wordFailure(new Failure("busy"), false, say).title, "The server is busy.");
});

test("a broken reply says that its beginning stays, only if it has one", () => {
  assert.notEqual(wordFailure(new Failure("broken"), true, say).hint, "");
  assert.equal(wordFailure(new Failure("broken"), false, say).hint, "");
});

test("an error of our own code is still told", () => {
  const worded = wordFailure(new TypeError("x is undefined"), false, say);
  assert.deepEqual([worded.title, worded.detail], ["The reply failed.", "x is undefined"]);
});

test("each early end has its line, a plain one none", () => {
  const end = (status, finishReason, reply = "a") => wordEnd({ status, finishReason, reply }, say);
  assert.equal(end("finished", "stop"), "");
  assert.equal(end("streaming", null), "");
  assert.equal(end("cancelled", null), "Stopped.");
  assert.match(end("finished", "length"), /length/);
  assert.match(end("finished", "deadline"), /time/);
  assert.match(end("finished", "stop", ""), /empty/);
  assert.match(wordEnd({ status: "finished", finishReason: "length", reply: "", reasoning: "Hm" }, say), /thinking/);
});

test("speed and context used stand under a reply, as far as they are known", () => {
  const usage = { tokens_per_second: 41.25, total_tokens: 1240, context_length: 8192 };
  assert.equal(wordUsage(usage, say), "41.3 tokens/s · 1,240 of 8,192 tokens of context");
  assert.equal(wordUsage(usage, createSay("ja")), "41.3 トークン/秒 · 文脈 1,240 / 8,192 トークン");
  assert.equal(wordUsage({ total_tokens: 7, context_length: 64 }, say), "7 of 64 tokens of context");
  assert.equal(wordUsage({ tokens_per_second: null, total_tokens: 7 }, say), "");
  assert.equal(wordUsage(null, say), "");
  assert.equal(wordUsage(usage, say, { oneWindow: false }), "41.3 tokens/s");
});

test("the times of a reply are told apart, as far as they are known", () => {
  assert.equal(wordTimes({ first_token_seconds: 0.42, seconds: 3 }, say), "First token after 0.4 s · 3 s in all");
  assert.equal(wordTimes({ first_token_seconds: null, seconds: 3 }, say), "3 s in all");
  assert.equal(wordTimes(null, say), "");
});

test("Retry-After is read as seconds or as a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  assert.equal(secondsToWait("12", now), 12);
  assert.equal(secondsToWait("Thu, 01 Jan 2026 00:00:05 GMT", now), 5);
  assert.equal(secondsToWait("Thu, 01 Jan 2025 00:00:00 GMT", now), 0);
  for (const odd of [null, "", "soon"]) assert.equal(secondsToWait(odd, now), null);
});

test("a status without our JSON is told by its number", async () => {
  const failure = await failureFromResponse(new Response("Bad gateway", { status: 502 }));
  assert.deepEqual([failure.kind, failure.status], ["unexpected", 502]);
  const loading = await failureFromResponse(new Response("{}", { status: 503, headers: { "Retry-After": "5" } }));
  assert.deepEqual([loading.kind, loading.retryAfter], ["loading", 5]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversation } from "../../static/js/conversation.js";
import { promptBody, readPrompt } from "../../static/js/prompt_source.js";
import { createSay } from "../../static/js/strings.js";
import { wordPrompt } from "../../static/js/wording.js";

const FOUND = { prompt: "<s>hi", count: 3, max_model_len: 64, dropped_messages: 2, tokens: [1, 2, 3] };

function sessionWith(status, body) {
  const asked = [];
  const fetch = async (path, init) => asked.push({ path, ...init }) && new Response(body, { status });
  return { session: { fetch }, asked };
}

test("the prompt of a message is that of its history and itself, fitted to the window", () => {
  const conversation = new Conversation();
  conversation.begin("a").finish({ response: "b" });
  const request = conversation.requestFor(conversation.begin("c"), "new");
  const messages = [["user", "a"], ["assistant", "b"], ["user", "c"]].map(([role, content]) => ({ role, content }));
  assert.deepEqual(promptBody(request), { messages, truncation: "auto" });
});

test("the prompt of more of a reply ends with what there was of it", () => {
  const conversation = new Conversation();
  const exchange = conversation.begin("tell");
  exchange.finish({ response: "Once", finish_reason: "length" });
  const body = promptBody(conversation.requestFor(exchange, "continue"));
  assert.deepEqual([body.continue_final_message, body.messages.at(-1).content], [true, "Once"]);
});

test("the prompt of a raw message is what the server reads out of it", () => {
  for (const [message, prompt] of [["\\a\\nb", "a\nb"], ["\\\\\\あ\\", "\\あ\\"], ["\\🐈\\🐈", "🐈🐈"]]) {
    assert.deepEqual(promptBody({ message, raw: true }), { prompt, truncation: "auto" });
  }
});

test("the prompt of more of a reply to a raw message has both apart, as only the server knows how they are joined", () => {
  const conversation = new Conversation();
  const exchange = conversation.begin("\\a\\nb");
  exchange.finish({ response: "Once\\n", finish_reason: "length" });
  const body = promptBody(conversation.requestFor(exchange, "continue"));
  assert.deepEqual(body.messages.map(({ content }) => content), ["a\nb", "Once\\n"]);
  assert.deepEqual([body.continue_final_message, body.raw, body.prompt], [true, true, undefined]);
});

test("the languages of a translation belong to its prompt", () => {
  const languages = { source_language: "eng_Latn", target_language: "jpn_Jpan" };
  assert.equal(promptBody({ message: "hi", conversationHistory: [], ...languages }).target_language, "jpn_Jpan");
  assert.equal(promptBody({ message: "\\hi", raw: true, ...languages }).source_language, "eng_Latn");
});

test("a prompt comes with what there is to know of it", async () => {
  const { session, asked } = sessionWith(200, JSON.stringify(FOUND));
  const found = await readPrompt(session, { message: "hi" });
  assert.deepEqual(found, { text: "<s>hi", tokens: 3, contextLength: 64, droppedMessages: 2 });
  assert.deepEqual([asked[0].path, JSON.parse(asked[0].body).messages.length], ["/tokenize", 1]);
  assert.equal(wordPrompt(found, {}, createSay("en")), "3 of 64 tokens · 2 older messages were left out: they do not fit");
  const translated = { source_language: "eng_Latn", target_language: "jpn_Jpan" };
  assert.equal(wordPrompt({ ...found, droppedMessages: 0 }, translated, createSay("ja")), "3 / 64 トークン · eng_Latn → jpn_Jpan");
});

test("a refusal and an odd answer are failures", async () => {
  const refused = sessionWith(400, '{"error": {"message": "no", "param": "target_language"}}').session;
  await assert.rejects(readPrompt(refused, { message: "hi" }), { kind: "server", param: "target_language" });
  for (const body of ["<h1>", "{}", "null"]) {
    await assert.rejects(readPrompt(sessionWith(200, body).session, { message: "hi" }), { kind: "unexpected" });
  }
});

// OpenAI's JavaScript SDK against the server at BASE_URL and, with ACCESS_KEY alone, the one at LOCKED_URL.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const { BASE_URL, LOCKED_URL, ACCESS_KEY } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "any", maxRetries: 0 });
const ASKED = { model: "m", messages: [{ role: "user", content: "Hello" }], seed: 7, max_tokens: 24 };
const ENDLESS = { ...ASKED, max_tokens: 16000, ignore_eos: true, stream: true };
const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string", enum: ["Kyoto", "Nara"] } },
  required: ["city"],
  additionalProperties: false,
};
const WEATHER = { type: "function", function: { name: "weather", parameters: PARAMETERS } };
const FORCED = { ...ASKED, max_tokens: 200, tools: [WEATHER], tool_choice: "required", parallel_tool_calls: false };

const ask = (fields = {}) => client.chat.completions.create({ ...ASKED, ...fields });
const textOf = async (stream) => {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  return text;
};

test("a reply has text, usage and the reason of its end", async () => {
  const reply = await ask();
  assert.equal(reply.choices[0].finish_reason, "length");
  assert.equal(reply.usage.completion_tokens, 24);
  assert.ok(reply.choices[0].message.content);
  assert.ok(reply._request_id);
});

test("a stream is the same text", async () => {
  const whole = (await ask()).choices[0].message.content;
  assert.equal(await textOf(await ask({ stream: true })), whole);
});

test("the stream helper tells events and the whole reply", async () => {
  const stream = client.chat.completions.stream({ ...ASKED, stream_options: { include_usage: true } });
  let text = "";
  stream.on("content", (piece) => (text += piece));
  const whole = await stream.finalChatCompletion();
  assert.equal(text, whole.choices[0].message.content);
  assert.equal((await stream.totalUsage()).completion_tokens, 24);
});

test("a forced call is made, answered and talked about", async () => {
  const { message, finish_reason } = (await ask(FORCED)).choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.content, null);
  const [call] = message.tool_calls;
  assert.ok(["Kyoto", "Nara"].includes(JSON.parse(call.function.arguments).city));
  const answer = { role: "tool", tool_call_id: call.id, content: "rain" };
  const messages = [...ASKED.messages, message, answer];
  const second = await ask({ messages, tools: [WEATHER], tool_choice: "none" });
  assert.ok(second.choices[0].message.content);
});

test("streamed calls join to the whole ones", async () => {
  const stream = client.chat.completions.stream(FORCED);
  const { tool_calls } = await stream.finalMessage();
  const whole = (await ask(FORCED)).choices[0].message.tool_calls;
  assert.deepEqual(tool_calls.map((call) => call.function.arguments), whole.map((call) => call.function.arguments));
});

test("runTools calls the function and sends back what it said", async () => {
  const cities = [];
  const weather = ({ city }) => `${cities.push(city)}: rain`;
  const tool = { type: "function", function: { ...WEATHER.function, function: weather, parse: JSON.parse } };
  const runner = client.chat.completions.runTools({ ...FORCED, tools: [tool] }, { maxChatCompletions: 2 });
  await runner.done();
  assert.equal(cities.length, 2);
  assert.ok(runner.messages.some(({ role, content }) => role === "tool" && content === "1: rain"));
});

test("JSON keeps to its schema", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "place", strict: true, schema: PARAMETERS } };
  const { choices } = await client.chat.completions.parse({ ...ASKED, max_tokens: 200, response_format });
  assert.ok(["Kyoto", "Nara"].includes(JSON.parse(choices[0].message.content).city));
});

test("a response is created and streamed", async () => {
  const asked = { model: "m", input: "Hello", max_output_tokens: 24, seed: 7 };
  const whole = await client.responses.create(asked);
  let text = "";
  for await (const event of client.responses.stream(asked)) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, whole.output_text);
});

test("the model is listed", async () => {
  const [model] = (await client.models.list()).data;
  assert.equal((await client.models.retrieve(model.id)).id, model.id);
});

test("a bad request names its field", async () => {
  await assert.rejects(ask({ n: 1000 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "n");
    return Boolean(error.code && error.requestID);
  });
});

test("a key opens a locked server, and nothing else does", async () => {
  const locked = new OpenAI({ baseURL: LOCKED_URL, apiKey: ACCESS_KEY });
  assert.ok((await locked.chat.completions.create(ASKED)).choices[0].message.content);
  const wrong = new OpenAI({ baseURL: LOCKED_URL, apiKey: "wrong" });
  await assert.rejects(wrong.models.list(), OpenAI.AuthenticationError);
});

test("an aborted stream ends, and its row is free for who waits", async () => {
  const running = await Promise.all([ask(ENDLESS), ask(ENDLESS)]);
  for (const stream of running) await stream[Symbol.asyncIterator]().next();
  const next = ask();
  for (const stream of running) stream.controller.abort();
  assert.equal((await next).usage.completion_tokens, 24);
});

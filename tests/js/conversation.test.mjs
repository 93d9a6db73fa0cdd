import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversation } from "../../static/js/conversation.js";
import { Failure } from "../../static/js/failure.js";

const DONE = { finish_reason: "stop", usage: { seconds: 1 } };

function answered(conversation, message, reply, done = DONE) {
  const exchange = conversation.begin(message);
  exchange.append(reply);
  exchange.finish(done);
  return exchange;
}

test("history holds message and reply of every answered exchange before", () => {
  const conversation = new Conversation();
  answered(conversation, "おはよう", "ﾆｬｰ");
  const next = conversation.begin("お手");
  assert.deepEqual(conversation.requestFor(next, "new"), {
    message: "お手",
    conversationHistory: [{ role: "user", content: "おはよう" }, { role: "assistant", content: "ﾆｬｰ" }],
  });
});

test("a message without any reply is left out of later history", () => {
  const conversation = new Conversation();
  conversation.begin("lost").fail(new Failure("network"));
  conversation.begin("stopped at once").cancel();
  const next = conversation.begin("now");
  assert.deepEqual(conversation.historyBefore(next), []);
});

test("what had arrived of a stopped or broken reply is kept as the assistant's message", () => {
  for (const end of [(exchange) => exchange.cancel(), (exchange) => exchange.fail(new Failure("broken"))]) {
    const conversation = new Conversation();
    const exchange = conversation.begin("hi");
    exchange.append("par");
    end(exchange);
    assert.equal(conversation.historyBefore(conversation.begin("next")).at(-1).content, "par");
  }
});

test("continue sends the history through the reply and appends to it", () => {
  const conversation = new Conversation();
  const exchange = answered(conversation, "tell", "Once", { finish_reason: "length" });
  assert.deepEqual(exchange.actions, ["continue"]);
  const request = conversation.requestFor(exchange, "continue");
  assert.equal(request.continue, true);
  assert.equal("message" in request, false);
  assert.equal(request.conversationHistory.at(-1).content, "Once");
  exchange.restart("continue");
  exchange.append(" upon");
  exchange.finish({ ...DONE, response: " upon" });
  assert.equal(exchange.reply, "Once upon");
  assert.deepEqual(exchange.actions, []);
});

test("trying again keeps the old text until the new reply begins", () => {
  const exchange = new Conversation().begin("hi");
  exchange.append("old");
  exchange.fail(new Failure("broken"));
  assert.deepEqual(exchange.actions, ["continue", "again"]);
  exchange.restart("again");
  assert.deepEqual([exchange.reply, exchange.failure, exchange.status], ["old", null, "waiting"]);
  exchange.append("new");
  assert.equal(exchange.reply, "new");
});

test("a failed second try keeps the old text for good", () => {
  const exchange = new Conversation().begin("hi");
  exchange.append("old");
  exchange.fail(new Failure("broken"));
  exchange.restart("again");
  exchange.fail(new Failure("network"));
  exchange.restart("continue");
  exchange.append("er");
  assert.equal(exchange.reply, "older");
});

test("a failure without text can be tried again or edited", () => {
  const exchange = new Conversation().begin("hi");
  assert.deepEqual(exchange.actions, []);
  exchange.fail(new Failure("busy"));
  assert.deepEqual(exchange.actions, ["again", "edit"]);
});

test("both ends that cut a reply short offer to continue", () => {
  for (const [finishReason, actions] of [["length", ["continue"]], ["deadline", ["continue"]], ["stop", []]]) {
    const exchange = answered(new Conversation(), "q", "a", { finish_reason: finishReason });
    assert.deepEqual(exchange.actions, actions);
  }
});

test("a reply that comes only with its last event is shown", () => {
  const exchange = new Conversation().begin("hi");
  exchange.finish({ ...DONE, response: "ﾆｬ" });
  assert.equal(exchange.reply, "ﾆｬ");
});

test("the oldest messages are marked as dropped, and unmarked when they fit again", () => {
  const conversation = new Conversation();
  answered(conversation, "a", "1");
  conversation.begin("failed").fail(new Failure("busy"));
  answered(conversation, "b", "2");
  const last = answered(conversation, "c", "3");
  const marks = () => conversation.exchanges.map((exchange) => exchange.droppedMessages);
  conversation.markDropped(last, 3);
  assert.deepEqual(marks(), [2, 0, 1, 0]);
  conversation.markDropped(last, 0);
  assert.deepEqual(marks(), [0, 0, 0, 0]);
});

test("removing takes out one exchange, clearing all", () => {
  const conversation = new Conversation();
  const first = conversation.begin("a");
  const second = conversation.begin("b");
  conversation.remove(second);
  assert.equal(conversation.last, first);
  conversation.clear();
  assert.equal(conversation.last, null);
});

test("what the model thinks is kept apart from the reply and never sent back", () => {
  const conversation = new Conversation();
  const exchange = conversation.begin("hi");
  exchange.think("Some");
  assert.deepEqual([exchange.status, exchange.running, exchange.reply], ["thinking", true, ""]);
  exchange.think("thing.");
  exchange.append("Hello");
  exchange.finish({ ...DONE, response: "Hello", reasoning: "Something." });
  assert.deepEqual([exchange.reasoning, exchange.reply, exchange.status], ["Something.", "Hello", "finished"]);
  assert.doesNotMatch(JSON.stringify(conversation.requestFor(conversation.begin("more"), "new")), /Something/);
});

test("thoughts that come beside the text leave it streaming", () => {
  const exchange = new Conversation().begin("hi");
  exchange.append("Hel");
  exchange.think("now what");
  assert.equal(exchange.status, "streaming");
});

test("a new try begins with its own thoughts, more of a reply adds to them", () => {
  const exchange = new Conversation().begin("hi");
  exchange.think("old thought");
  exchange.append("old");
  exchange.fail(new Failure("broken"));
  exchange.restart("continue");
  exchange.think(", more");
  exchange.fail(new Failure("broken"));
  assert.deepEqual([exchange.reasoning, exchange.reply], ["old thought, more", "old"]);
  exchange.restart("again");
  assert.deepEqual([exchange.reasoning, exchange.reply], ["old thought, more", "old"]);
  exchange.think("new");
  assert.deepEqual([exchange.reasoning, exchange.reply], ["new", ""]);
});

test("a thought cut short is no reply: the message can be sent again or edited", () => {
  const exchange = new Conversation().begin("hi");
  exchange.think("Hm");
  exchange.cancel();
  assert.deepEqual(exchange.actions, ["again", "edit"]);
});

test("a message that begins with a backslash goes as it is, without what came before", () => {
  const conversation = new Conversation();
  const first = conversation.begin("Hi");
  first.finish({ response: "Hello" });
  const raw = conversation.begin("\\Once upon\\na time");
  assert.deepEqual(conversation.requestFor(raw, "new"), { message: "\\Once upon\\na time", raw: true });
});

test("a raw text is continued as it was typed, with its reply so far and nothing else", () => {
  const conversation = new Conversation();
  conversation.begin("Hi").finish({ response: "Hello" });
  const raw = conversation.begin("\\a\\");
  raw.finish({ response: "nb\nc\\d", finish_reason: "length" });
  const conversationHistory = [
    { role: "user", content: "\\a\\" },
    { role: "assistant", content: "nb\nc\\d" },
  ];
  assert.deepEqual(conversation.requestFor(raw, "continue"), { continue: true, conversationHistory, raw: true });
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { ChatController } from "../../static/js/chat_controller.js";
import { Conversation } from "../../static/js/conversation.js";
import { Failure } from "../../static/js/failure.js";

const DONE = { done: true, finish_reason: "stop", usage: {}, dropped_messages: 0 };

// scripts: one list of chunks per request; a Failure in it is thrown, "hang" waits to be cancelled.
function setUp(...scripts) {
  return setUpIn(undefined, ...scripts);
}

function setUpIn(languages, ...scripts) {
  const requests = [];
  const events = [];
  const client = {
    async *stream(body, signal) {
      requests.push(structuredClone(body));
      for (const step of scripts[requests.length - 1]) {
        if (step instanceof Failure) throw step;
        if (step === "hang") await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
        else yield step;
      }
    },
  };
  const names = ["added", "removed", "changed", "painted", "pinged", "cleared", "needAccess"];
  const view = Object.fromEntries(names.map((name) => [name, (subject) => events.push([name, subject?.status ?? subject?.kind])]));
  const conversation = new Conversation();
  return { controller: new ChatController(conversation, client, view, languages), conversation, requests, events };
}

test("a reply streams into its exchange", async () => {
  const { controller, conversation, events } = setUp([{ ping: true }, { delta: "a" }, { delta: "b" }, DONE]);
  await controller.send("hi");
  assert.equal(conversation.last.reply, "ab");
  assert.deepEqual(events.map(([name]) => name), ["added", "changed", "pinged", "painted", "painted", "changed"]);
  assert.equal(controller.busy, false);
});

test("while a reply runs nothing else is sent", async () => {
  const { controller, requests } = setUp(["hang"]);
  const sending = controller.send("one");
  await controller.send("two");
  controller.cancel();
  await sending;
  assert.equal(requests.length, 1);
});

test("cancelling keeps what had arrived and frees the message box", async () => {
  const { controller, conversation } = setUp([{ delta: "par" }, "hang"]);
  const sending = controller.send("hi");
  setImmediate(() => controller.cancel());
  await sending;
  assert.deepEqual([conversation.last.status, conversation.last.reply, controller.busy], ["cancelled", "par", false]);
});

test("a reply that is stopped keeps what was told of its usage", async () => {
  const usage = { total_tokens: 9 };
  const { controller, conversation, events } = setUp([{ delta: "par" }, { usage }, "hang"]);
  const sending = controller.send("hi");
  setImmediate(() => controller.cancel());
  await sending;
  assert.deepEqual([conversation.last.status, conversation.last.usage], ["cancelled", usage]);
  assert.equal(events.some(([name]) => name === "pinged"), false);
  conversation.last.restart("continue");
  assert.equal(conversation.last.usage, null);
});

test("a failure stays with its exchange and the same message can be sent again", async () => {
  const { controller, conversation, requests } = setUp([new Failure("busy")], [{ delta: "ok" }, DONE]);
  await controller.send("hi");
  assert.equal(conversation.last.failure.kind, "busy");
  await controller.act(conversation.last, "again");
  assert.equal(conversation.last.reply, "ok");
  assert.deepEqual(requests[1], requests[0]);
});

test("a broken reply can be carried on from what had arrived", async () => {
  const { controller, conversation, requests } = setUp([{ delta: "On" }, new Failure("broken")], [{ delta: "ce" }, DONE]);
  await controller.send("tell");
  await controller.act(conversation.last, "continue");
  assert.equal(conversation.last.reply, "Once");
  assert.equal(requests[1].conversationHistory.at(-1).content, "On");
});

test("editing takes the exchange back and shows the one before again", async () => {
  const { controller, conversation, events } = setUp([{ delta: "a" }, DONE], [new Failure("server")]);
  await controller.send("first");
  await controller.send("second");
  events.length = 0;
  await controller.act(conversation.last, "edit");
  assert.deepEqual(events.map(([name]) => name), ["removed", "changed"]);
  assert.equal(conversation.last.message, "first");
});

test("without access the message goes back to the box and the key is asked for", async () => {
  const { controller, conversation, events } = setUp([new Failure("access")]);
  await controller.send("secret thought");
  assert.deepEqual(events.slice(-2).map(([name]) => name), ["removed", "needAccess"]);
  assert.equal(conversation.last, null);
});

test("access lost in the middle leaves the reply on the page", async () => {
  const { controller, conversation } = setUp([{ delta: "On" }, new Failure("broken")], [new Failure("access")]);
  await controller.send("tell");
  await controller.act(conversation.last, "continue");
  assert.equal(conversation.last.reply, "On");
});

test("a new chat ends the running reply and is ready at once", async () => {
  const { controller, conversation, events } = setUp(["hang"], [{ delta: "b" }, "hang"]);
  const old = controller.send("one");
  controller.newChat();
  assert.equal(controller.busy, false);
  const next = controller.send("two");
  await old;
  assert.equal(controller.busy, true);
  assert.ok(events.every(([, status]) => status !== "cancelled"));
  controller.cancel();
  await next;
  assert.deepEqual(conversation.exchanges.map((exchange) => exchange.reply), ["b"]);
});

test("dropped messages are marked when the reply ends", async () => {
  const { controller, conversation } = setUp([{ delta: "a" }, DONE], [{ delta: "b" }, { ...DONE, dropped_messages: 2 }]);
  await controller.send("one");
  await controller.send("two");
  assert.deepEqual(conversation.exchanges.map((exchange) => exchange.droppedMessages), [2, 0]);
});

test("thoughts are painted as they come and stay out of the next request", async () => {
  const thinking = [{ reasoning: "Hm" }, { reasoning: "m." }, { delta: "a" }, { ...DONE, reasoning: "Hmm." }];
  const { controller, conversation, requests, events } = setUp(thinking, [DONE]);
  await controller.send("hi");
  assert.deepEqual([conversation.last.reasoning, conversation.last.reply], ["Hmm.", "a"]);
  const painted = events.filter(([name]) => name === "painted").map(([, status]) => status);
  assert.deepEqual(painted, ["thinking", "thinking", "streaming"]);
  await controller.send("more");
  assert.deepEqual(requests[1].conversationHistory.map((turn) => turn.content), ["hi", "a"]);
});

test("the languages chosen at the time go along, and more of a reply keeps its own", async () => {
  let fields = { source_language: "eng_Latn", target_language: "jpn_Jpan" };
  const cut = { ...DONE, finish_reason: "length" };
  const { controller, conversation, requests } = setUpIn(() => fields, [{ delta: "a" }, cut], [{ delta: "b" }, DONE], [DONE]);
  await controller.send("hi");
  fields = {};
  await controller.act(conversation.last, "continue");
  await controller.send("more");
  assert.deepEqual(requests.map((request) => request.target_language), ["jpn_Jpan", "jpn_Jpan", undefined]);
});

test("a reply remembers what it was asked with, not a request that brought nothing", async () => {
  const { controller, conversation, requests } = setUp([{ delta: "On" }, new Failure("broken")], [new Failure("busy")]);
  await controller.send("tell");
  await controller.act(conversation.last, "continue");
  assert.deepEqual([requests.length, conversation.last.asked], [2, requests[0]]);
});

test("notes of the server come with the end and leave with the next try", async () => {
  const { controller, conversation } = setUp([{ delta: "a" }, { ...DONE, notes: ["Ignored.", 5] }]);
  await controller.send("hi");
  assert.deepEqual(conversation.last.notes, ["Ignored."]);
  conversation.last.restart("again");
  assert.deepEqual(conversation.last.notes, []);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadingWatch, parseHealth, readHealth } from "../../static/js/health.js";

const LOADING = { status: "loading", model: "m", progress: 0.5, detail: "8 GB" };
const OK = { status: "ok", model: "m" };

function clock() {
  const timers = { time: 0, action: null, delay: null };
  timers.now = () => timers.time;
  timers.setTimeout = (action, delay) => Object.assign(timers, { action, delay }) && 1;
  timers.clearTimeout = () => Object.assign(timers, { action: null, delay: null });
  return timers;
}

function watchOver(...answers) {
  const timers = clock();
  const shown = [];
  let reads = 0;
  const read = async () => parseHealth(answers[Math.min(reads++, answers.length - 1)]);
  const watch = new LoadingWatch(read, (health) => shown.push(health.status), timers);
  return { watch, timers, shown, reads: () => reads };
}

test("health is read whatever the status and whatever is missing", async () => {
  const session = { fetch: async () => new Response(JSON.stringify(LOADING), { status: 503 }) };
  const untold = { task: null, languages: [] };
  const loading = { status: "loading", recognised: true, progress: 0.5, detail: "8 GB", ...untold };
  assert.deepEqual(await readHealth(session), loading);
  const stranger = { status: "ok", recognised: false, progress: null, detail: "", ...untold };
  assert.deepEqual(parseHealth({ status: "ok" }), stranger);
  assert.equal(parseHealth({ status: "loading", progress: 7 }).progress, 1);
  assert.equal(parseHealth("odd").status, "unknown");
});

test("what the model does and its languages are known once it is loaded", () => {
  const told = { status: "ok", task: "translation", languages: ["eng_Latn", 5, "jpn_Jpan"] };
  const read = ({ task, languages }) => [task, languages];
  assert.deepEqual(read(parseHealth(told)), ["translation", ["eng_Latn", "jpn_Jpan"]]);
  assert.equal(parseHealth({ ...told, status: "loading" }).task, null);
  assert.deepEqual(read(parseHealth({ status: "ok", task: "painting", languages: "eng_Latn" })), [null, []]);
});

test("an answer that is no JSON and no answer are unknown", async () => {
  assert.equal((await readHealth({ fetch: async () => new Response("<h1>") })).status, "unknown");
  assert.equal((await readHealth({ fetch: () => Promise.reject(new Error()) })).status, "unknown");
});

test("a loaded model is asked for once and never again", async () => {
  const { watch, timers, shown } = watchOver(OK);
  await watch.check();
  watch.setWaiting(true);
  assert.deepEqual([shown, timers.action], [["ok"], null]);
});

test("a loading model is watched until it is loaded, closer while a message waits", async () => {
  const { watch, timers, shown } = watchOver(LOADING, LOADING, OK);
  await watch.check();
  assert.equal(timers.delay, 12_000);
  watch.setWaiting(true);
  assert.equal(timers.delay, 4_000);
  await timers.action();
  await timers.action();
  assert.deepEqual([shown, timers.action], [["loading", "loading", "ok"], null]);
});

test("a hidden page does not ask", async () => {
  const { watch, timers } = watchOver(LOADING);
  await watch.check();
  watch.setVisible(false);
  assert.equal(timers.action, null);
  watch.setVisible(true);
  assert.notEqual(timers.action, null);
});

test("one lost answer does not end the watch", async () => {
  const { watch, timers, shown } = watchOver(LOADING, null);
  await watch.check();
  await timers.action();
  assert.deepEqual(shown, ["loading"]);
  assert.notEqual(timers.action, null);
});

test("a long wait is worth one look for each message, a short one none", async () => {
  const { watch, timers, reads } = watchOver(OK);
  watch.setWaiting(true);
  await watch.pinged();
  assert.equal(reads(), 0);
  timers.time = 10_000;
  await watch.pinged();
  await watch.pinged();
  assert.equal(reads(), 1);
});

test("a reply that begins ends the watch, with one last look at what the model is", async () => {
  const { watch, timers, shown, reads } = watchOver(LOADING, OK);
  await watch.check();
  watch.answered();
  watch.answered();
  assert.deepEqual(shown, ["loading", "ok"]);
  await new Promise(setImmediate);
  assert.deepEqual([shown, timers.action, reads()], [["loading", "ok", "ok"], null, 2]);
});

test("a reply that begins takes back the news of a stopped model", async () => {
  const { watch, shown } = watchOver({ status: "failed" });
  await watch.check();
  watch.answered();
  watch.answered();
  assert.deepEqual(shown, ["failed", "ok"]);
});

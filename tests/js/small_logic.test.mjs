import assert from "node:assert/strict";
import { test } from "node:test";
import { FramePainter } from "../../static/js/frame_painter.js";
import { keyInMessageBox, keyOnPage } from "../../static/js/keyboard.js";
import { countCharacters, judgeMessage, languageOf } from "../../static/js/message_text.js";
import { parsePageSettings, privacySentence, shortModelName } from "../../static/js/page_settings.js";
import { createSay } from "../../static/js/strings.js";
import { ScrollFollow } from "../../static/js/scroll_follow.js";

test("Enter sends, Shift+Enter does not", () => {
  assert.equal(keyInMessageBox({ key: "Enter", keyCode: 13 }), "send");
  assert.equal(keyInMessageBox({ key: "Enter", keyCode: 13, shiftKey: true }), null);
  assert.equal(keyInMessageBox({ key: "a", keyCode: 65 }), null);
});

test("the Enter that ends a Japanese conversion never sends, in any browser", () => {
  assert.equal(keyInMessageBox({ key: "Enter", keyCode: 13, isComposing: true }), null);
  assert.equal(keyInMessageBox({ key: "Enter", keyCode: 229, isComposing: false }), null);
});

test("Escape cancels a running reply only, and not a conversion", () => {
  assert.equal(keyOnPage({ key: "Escape" }, true), "cancel");
  assert.equal(keyOnPage({ key: "Escape" }, false), null);
  assert.equal(keyOnPage({ key: "Escape", isComposing: true }, true), null);
});

test("any number of requests in one frame paint once", () => {
  const frames = [];
  let painted = 0;
  const painter = new FramePainter(() => (painted += 1), (action) => frames.push(action));
  for (let index = 0; index < 50; index += 1) painter.request();
  assert.equal(frames.length, 1);
  frames.shift()();
  assert.equal(painted, 1);
  painter.request();
  assert.equal(frames.length, 1);
});

test("a flush paints at once and its late frame paints nothing", () => {
  const frames = [];
  let painted = 0;
  const painter = new FramePainter(() => (painted += 1), (action) => frames.push(action));
  painter.flush();
  painter.request();
  painter.flush();
  frames.shift()();
  assert.equal(painted, 1);
});

test("the page follows until the reader moves up, and again from the end on", () => {
  const follow = new ScrollFollow();
  const at = (top, height) => follow.scrolled({ top, height, view: 100 }) ?? follow.following;
  assert.equal(at(400, 500), true);
  assert.equal(at(390, 500), false);
  assert.equal(at(410, 600), false);
  assert.equal(at(460, 600), true);
});

test("what lets go takes hold again at the end", () => {
  const follow = new ScrollFollow();
  follow.letGo();
  assert.equal(follow.following, false);
  follow.scrolled({ top: 400, height: 500, view: 100 });
  assert.equal(follow.following, true);
});

test("text that grows does not let go, and a shorter page does not either", () => {
  const follow = new ScrollFollow();
  follow.scrolled({ top: 400, height: 500, view: 100 });
  follow.scrolled({ top: 400, height: 900, view: 100 });
  assert.equal(follow.following, true);
  follow.scrolled({ top: 200, height: 300, view: 100 });
  assert.equal(follow.following, true);
});

test("messages are judged by code points, as the server counts", () => {
  assert.equal(countCharacters("猫🐈"), 2);
  assert.equal(judgeMessage(" \n", 10), "empty");
  assert.equal(judgeMessage("🐈".repeat(10), 10), "near");
  assert.equal(judgeMessage("🐈".repeat(11), 10), "long");
  assert.equal(judgeMessage("🐈".repeat(6), 10), "fine");
  assert.equal(judgeMessage("a".repeat(1000), null), "fine");
});

test("kana of either width mark a message as Japanese", () => {
  assert.equal(languageOf("ﾆｬｰﾝ"), "ja");
  assert.equal(languageOf("虹は？"), "ja");
  assert.equal(languageOf("彩虹 rainbow"), null);
});

test("missing and odd settings become defaults", () => {
  const none = { modelName: "", maxMessageCharacters: null, accessKeyRequired: false, relay: "", sourceLanguage: "", targetLanguage: "", version: "" };
  for (const text of ["", "{", "null", "{}", '{"modelName": 3, "maxMessageCharacters": "9", "accessKeyRequired": "yes"}']) {
    assert.deepEqual(parsePageSettings(text), none);
  }
  const given = { modelName: "catbot", maxMessageCharacters: 9, accessKeyRequired: true, relay: "cat.example", sourceLanguage: "eng_Latn", targetLanguage: "jpn_Jpan", version: "1" };
  assert.deepEqual(parsePageSettings(JSON.stringify(given)), given);
});

test("through a public address the page names it instead of promising that nobody else is on the way", () => {
  const values = { model: "catbot", relay: "cat.ngrok.example" };
  for (const language of ["en", "ja"]) {
    const sentence = (relay) => createSay(language)(privacySentence(parsePageSettings(JSON.stringify({ relay }))), values);
    assert.ok(sentence("cat.ngrok.example").includes("cat.ngrok.example"));
    assert.ok(!sentence("").includes("cat.ngrok.example"));
    assert.notEqual(sentence("cat.ngrok.example").replace("cat.ngrok.example", ""), sentence(""));
  }
});

test("a model's short name is its last part", () => {
  assert.equal(shortModelName("rinna/llama-3-youko-8b"), "llama-3-youko-8b");
  assert.equal(shortModelName("C:\\models\\cat\\"), "cat");
  assert.equal(shortModelName(""), "");
});

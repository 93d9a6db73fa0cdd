import assert from "node:assert/strict";
import { test } from "node:test";
import { namedLanguages } from "../../static/js/language_names.js";
import { Languages } from "../../static/js/languages.js";

const CODES = ["deu_Latn", "eng_Latn", "fra_Latn", "jpn_Jpan"];

function keeping(stored = null) {
  const kept = { stored };
  return Object.assign(kept, { getItem: () => kept.stored, setItem: (_, text) => (kept.stored = text) });
}

function knowing(task, { codes = CODES, ...options } = {}) {
  const languages = new Languages({ storage: keeping(), ...options });
  languages.learn({ task, languages: codes });
  return languages;
}

const pair = ({ source, target }) => [source, target];

test("a chat model and a model without codes have nothing to choose", () => {
  for (const languages of [knowing("chat", { codes: [] }), knowing("text2text", { codes: [] }), new Languages({ storage: null })]) {
    assert.deepEqual([languages.shown, languages.missing, languages.fields], [false, null, {}]);
  }
  assert.deepEqual([knowing("chat").oneWindow, new Languages({ storage: null }).oneWindow], [true, true]);
  assert.deepEqual([knowing("text2text").oneWindow, knowing("translation").oneWindow], [false, false]);
});

test("a translation begins in the page's language and waits for where it shall go", () => {
  const languages = knowing("translation", { language: "ja" });
  assert.deepEqual([pair(languages), languages.missing], [["jpn_Jpan", ""], "target"]);
  languages.choose("target", "eng_Latn");
  assert.deepEqual([languages.missing, languages.fields], [null, { source_language: "jpn_Jpan", target_language: "eng_Latn" }]);
});

test("what was chosen before comes first, then what the server says, as far as the model knows it", () => {
  const preset = { source: "deu_Latn", target: "fra_Latn" };
  assert.deepEqual(pair(knowing("translation", { preset })), ["deu_Latn", "fra_Latn"]);
  const storage = keeping('{"source": "xho_Latn", "target": "jpn_Jpan"}');
  assert.deepEqual(pair(knowing("translation", { preset, storage })), ["deu_Latn", "jpn_Jpan"]);
  assert.deepEqual(pair(knowing("translation", { preset: { target: "eng_Latn" } })), ["", "eng_Latn"]);
});

test("the same language on both sides changes places instead", () => {
  const languages = knowing("translation");
  languages.choose("target", "fra_Latn");
  languages.choose("target", "eng_Latn");
  assert.deepEqual(pair(languages), ["fra_Latn", "eng_Latn"]);
  languages.swap();
  assert.deepEqual(pair(languages), ["eng_Latn", "fra_Latn"]);
});

test("a choice is kept for the next visit, where the browser keeps anything", () => {
  const storage = keeping();
  knowing("translation", { storage }).choose("target", "fra_Latn");
  assert.deepEqual(pair(knowing("translation", { storage })), ["eng_Latn", "fra_Latn"]);
  for (const broken of [null, keeping("{"), keeping("null"), keeping("5")]) {
    assert.deepEqual(pair(knowing("translation", { storage: broken })), ["eng_Latn", ""]);
  }
  const full = { getItem: () => null, setItem: () => { throw new Error("full"); } };
  const languages = knowing("translation", { storage: full });
  languages.choose("target", "fra_Latn");
  assert.equal(languages.target, "fra_Latn");
});

test("to a model that takes texts as they are typed, the target goes, with the source or without", () => {
  const languages = knowing("text2text");
  assert.deepEqual([languages.optional, pair(languages), languages.missing], [true, ["", ""], null]);
  languages.choose("source", "eng_Latn");
  assert.equal(languages.missing, "target");
  languages.choose("target", "deu_Latn");
  assert.deepEqual([languages.missing, Object.values(languages.fields)], [null, ["eng_Latn", "deu_Latn"]]);
  languages.choose("source", "");
  assert.deepEqual([languages.missing, languages.fields], [null, { target_language: "deu_Latn" }]);
  languages.choose("source", "eng_Latn");
  languages.choose("target", "");
  assert.deepEqual([pair(languages), languages.missing, languages.fields], [["", ""], null, {}]);
});

test("where the server has languages of its own, none is no choice", () => {
  assert.equal(knowing("text2text", { preset: { source: "eng_Latn", target: "deu_Latn" } }).optional, false);
});

test("the same news twice changes nothing, and no news neither", () => {
  const languages = knowing("translation");
  assert.equal(languages.learn({ task: "translation", languages: [...CODES] }), false);
  assert.equal(languages.learn({ task: null, languages: [] }), false);
  assert.deepEqual([languages.shown, languages.translates], [true, true]);
});

test("languages are named and sorted in the page's language, English and Japanese first", () => {
  const names = (language, codes) => namedLanguages(codes, language).map((group) => group.map(({ name }) => name));
  assert.deepEqual(names("en", CODES), [["English", "Japanese"], ["French", "German"]]);
  assert.deepEqual(names("ja", CODES), [["英語", "日本語"], ["ドイツ語", "フランス語"]]);
  assert.deepEqual(names("en", ["fra_Latn"]), [["French"]]);
});

test("a script is named only beside another of the same language, and a code stands for what nobody names", () => {
  const names = (codes) => namedLanguages(codes, "en").flat().map(({ name }) => name);
  assert.deepEqual(names(["zho_Hans", "zho_Hant"]), ["Chinese (Simplified)", "Chinese (Traditional)"]);
  assert.deepEqual(names(["kas_Arab", "kas_Deva"]), ["Kashmiri (Arabic)", "Kashmiri (Devanagari)"]);
  assert.deepEqual(names(["aka_Latn", "twi_Latn", "arz_Arab"]), ["Akan", "Egyptian Arabic", "Twi"]);
  assert.deepEqual(names(["qqq_Latn", "no code"]), ["no code", "qqq_Latn"]);
  assert.deepEqual(names(["fra_Latn", "fra_Latn"]).length, 2);
});

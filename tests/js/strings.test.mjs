import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { STRINGS, chooseLanguage, createSay } from "../../static/js/strings.js";

const ROOT = new URL("../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, ROOT), "utf8");
const modules = readdirSync(new URL("static/js/", ROOT)).filter((name) => name.endsWith(".js"));
const placeholders = (text) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();

test("both languages say the same things with the same values", () => {
  assert.deepEqual(Object.keys(STRINGS.ja), Object.keys(STRINGS.en));
  for (const [name, text] of Object.entries(STRINGS.en)) {
    assert.deepEqual(placeholders(STRINGS.ja[name]), placeholders(text), name);
    assert.notEqual(STRINGS.ja[name].trim(), "", name);
  }
});

test("every sentence is used and every sentence used exists", () => {
  const template = read("templates/index.html");
  const others = modules.filter((name) => name !== "strings.js").map((name) => read(`static/js/${name}`)).join("\n");
  const named = [...template.matchAll(/data-(?:text|label|tip)="(\w+)"/g)].map((match) => match[1]);
  for (const name of named) assert.ok(name in STRINGS.en, name);
  for (const name of Object.keys(STRINGS.en)) {
    const plain = name.replace(/^(cat|translate)(?=[GE])/, "").replace(/^./, (letter) => letter.toLowerCase());
    assert.ok(named.includes(name) || others.includes(`"${name}"`) || others.includes(`"${plain}"`), `${name} is unused`);
  }
});

test("the browser's first language that we speak is chosen", () => {
  assert.equal(chooseLanguage(["fr-FR", "ja-JP", "en"]), "ja");
  assert.equal(chooseLanguage(["en-GB", "ja"]), "en");
  assert.equal(chooseLanguage(["de"]), "en");
  assert.equal(chooseLanguage([]), "en");
  assert.equal(chooseLanguage(undefined), "en");
  assert.equal(chooseLanguage(["constructor"]), "en");
});

test("values are filled in and numbers written the way of the language", () => {
  assert.equal(createSay("en")("speed", { speed: 1234.56 }), "1,234.6 tokens/s");
  assert.equal(createSay("en")("seconds", { seconds: 0.0412 }), "0.04 s in all");
  assert.equal(createSay("ja")("seconds", { seconds: 2 }), "全体で 2 秒");
  assert.ok(createSay("en")("privacy", { model: "a$&{b}" }).includes("(a$&{b})"));
});

test("every module is named in the page for loading side by side, and is short", () => {
  const template = read("templates/index.html");
  for (const name of modules) {
    const module = name.replace(".js", "");
    assert.ok(module === "main" || template.includes(`"${module}"`), `${name} is not preloaded`);
    assert.ok(read(`static/js/${name}`).split("\n").length <= 201, `${name} is too long`);
  }
});

test("nothing comes from another host, no text becomes markup, no style or script stands in the page", () => {
  const all = [read("templates/index.html"), ...modules.map((name) => read(`static/js/${name}`))].join("\n");
  assert.doesNotMatch(all, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(/);
  assert.doesNotMatch(all.replaceAll("http://www.w3.org/", ""), /https?:\/\//);
  assert.doesNotMatch(read("templates/index.html"), /\sstyle=|<style|\son\w+=/);
});

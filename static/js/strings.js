// Says the sentences of the page in one of its languages. Knows no DOM.
import { ENGLISH } from "./sentences_en.js";
import { JAPANESE } from "./sentences_ja.js";

export const STRINGS = { en: ENGLISH, ja: JAPANESE };

// The first language of the browser that we speak; English where it speaks neither.
export function chooseLanguage(languages) {
  for (const language of languages ?? []) {
    const base = language.toLowerCase().split("-")[0];
    if (Object.hasOwn(STRINGS, base)) return base;
  }
  return "en";
}

// say("speed", {speed: 12.34}) fills the braces; numbers are written the way of the language.
export function createSay(language) {
  // A tenth is enough, but 0.04 s must not read as 0 s.
  const digits = { maximumFractionDigits: 1, maximumSignificantDigits: 1, roundingPriority: "morePrecision" };
  const numbers = new Intl.NumberFormat(language, digits);
  const written = (value) => (typeof value === "number" ? numbers.format(value) : String(value));
  return (name, values = {}) => STRINGS[language][name].replace(/\{(\w+)\}/g, (_, key) => written(values[key]));
}

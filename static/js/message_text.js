// Small decisions about message text. Knows no DOM.

// Code points, as the server counts them.
export function countCharacters(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

// "empty" | "long" | "near" (show the count) | "fine"
export function judgeMessage(text, maximum) {
  if (text.trim() === "") return "empty";
  if (maximum === null || text.length <= maximum * 0.9) return "fine";
  const count = countCharacters(text);
  if (count > maximum) return "long";
  return count > maximum * 0.9 ? "near" : "fine";
}

// Kana tell Japanese apart from the other languages that share its Chinese characters.
export function languageOf(text) {
  return /[\u3041-\u30ff\uff66-\uff9f]/.test(text) ? "ja" : null;
}

// Reads the block of settings that the server puts into the page. A missing or odd value becomes its default.

const string = (value, otherwise) => (typeof value === "string" && value !== "" ? value : otherwise);

export function parsePageSettings(text) {
  const found = parseObject(text);
  const maximum = found.maxMessageCharacters;
  return {
    modelName: string(found.modelName, ""),
    maxMessageCharacters: Number.isInteger(maximum) && maximum > 0 ? maximum : null,
    accessKeyRequired: found.accessKeyRequired === true,
    relay: string(found.relay, ""),
    sourceLanguage: string(found.sourceLanguage, ""),
    targetLanguage: string(found.targetLanguage, ""),
    version: string(found.version, ""),
  };
}

// Through a tunnel or a proxy, the server is not the only one that handles the messages.
export function privacySentence(settings) {
  return settings.relay === "" ? "privacy" : "privacyRelayed";
}

function parseObject(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

// "rinna/llama-3-youko-8b" reads better as "llama-3-youko-8b" where room is short.
export function shortModelName(modelName) {
  return modelName.split(/[/\\]/).filter(Boolean).at(-1) ?? "";
}

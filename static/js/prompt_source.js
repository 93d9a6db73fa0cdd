// Asks POST /tokenize for the prompt that a reply was given. Knows the wire, not the page.
import { Failure, failureFromResponse } from "./failure.js";

// Resolves to {text, tokens, contextLength, droppedMessages}; throws a Failure, or AbortError when cancelled.
export async function readPrompt(session, request, signal) {
  const response = await session.fetch("/tokenize", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(promptBody(request)),
    signal,
  });
  if (!response.ok) throw await failureFromResponse(response);
  const found = await response.json().catch(() => null);
  if (typeof found?.prompt !== "string") throw new Failure("unexpected", { status: response.status });
  return {
    text: found.prompt,
    tokens: found.count ?? 0,
    contextLength: found.max_model_len ?? 0,
    droppedMessages: found.dropped_messages ?? 0,
  };
}

// The body of a POST /chat in the words of /tokenize, and fitted to the window in the same way.
export function promptBody({ message, raw, conversationHistory = [], continue: carriesOn, ...languages }) {
  const fitted = { truncation: "auto", ...languages };
  if (raw && !carriesOn) return { prompt: unescaped(message), ...fitted };
  if (raw) {
    const [{ role, content }, reply] = conversationHistory;
    const messages = [{ role, content: unescaped(content) }, reply];
    return { messages, continue_final_message: true, raw: true, ...fitted };
  }
  if (carriesOn) return { messages: conversationHistory, continue_final_message: true, ...fitted };
  return { messages: [...conversationHistory, { role: "user", content: message }], ...fitted };
}

// As the server reads a raw message: \n is a newline, \x any other x.
function unescaped(message) {
  return message.slice(1).replace(/\\([\s\S])/g, (_, character) => (character === "n" ? "\n" : character));
}

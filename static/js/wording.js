// Words states of an exchange: failures, ends and speeds become sentences through say(). Knows no DOM.

const PLAIN = {
  network: "failureNetwork",
  broken: "failureBroken",
  silent: "failureSilent",
  access: "failureAccess",
  busy: "failureBusy",
  loading: "failureLoading",
  server: "failureServer",
  unexpected: "failureUnexpected",
};

// The server's hints are English and meant for scripts too; where a person can do something here, the page says it.
const HINTS = {
  rate_limit_exceeded: "hintBusy",
  model_loading: "hintLoading",
  engine_failed: "hintFault",
  generation_failed: "hintFault",
  internal_error: "hintFault",
  out_of_memory: "hintMemory",
  context_length_exceeded: "hintTooLong",
  body_too_large: "hintTooLong",
};

// {title, detail, hint}: our own sentence, what the server said, and what to do next.
export function wordFailure(failure, hasReply, say) {
  const kind = failure.kind in PLAIN ? failure.kind : "server";
  return {
    title: wordTitle(failure, kind, say),
    detail: kind === "server" ? failure.message : "",
    hint: wordHint(failure, kind, hasReply, say),
  };
}

function wordTitle(failure, kind, say) {
  const seconds = failure.retryAfter;
  if (kind === "busy" && seconds !== null) return say("failureBusySeconds", { seconds });
  if (kind === "loading" && seconds !== null) return say("failureLoadingSeconds", { seconds });
  return say(PLAIN[kind], { status: failure.status });
}

function wordHint(failure, kind, hasReply, say) {
  if (Object.hasOwn(HINTS, failure.code ?? "")) return say(HINTS[failure.code]);
  if (failure.hint) return failure.hint;
  if (kind === "network") return say("failureNetworkHint");
  if (kind === "unexpected") return say("failureUnexpectedHint");
  if ((kind === "broken" || kind === "silent") && hasReply) return say("failureBrokenHint");
  return "";
}

// The quiet line under a reply that ended early or empty; "" when there is nothing to say.
export function wordEnd(exchange, say) {
  if (exchange.status === "cancelled") return say("cancelled");
  if (exchange.status !== "finished") return "";
  if (exchange.reply === "" && exchange.reasoning && exchange.finishReason === "length") return say("lengthThinking");
  if (exchange.reply === "") return say("emptyReply");
  if (exchange.finishReason === "length") return say("length");
  return exchange.finishReason === "deadline" ? say("deadline") : "";
}

// What stands under a rendered prompt. Some models are told the languages beside the text, by ids of their own.
export function wordPrompt({ tokens, contextLength, droppedMessages }, request, say) {
  const parts = [say("promptTokens", { count: tokens, window: contextLength })];
  if (droppedMessages > 0) parts.push(say("promptDropped", { count: droppedMessages }));
  const { source_language: source = "", target_language: target } = request;
  if (target !== undefined) parts.push(`${source} → ${target}`.trim());
  return parts.join(" · ");
}

// Where prompt and reply have a window each, nothing is said of it.
export function wordUsage(usage, say, { oneWindow = true } = {}) {
  const { tokens_per_second: speed, total_tokens: used, context_length: window } = usage ?? {};
  const parts = [];
  if (Number.isFinite(speed)) parts.push(say("speed", { speed }));
  if (oneWindow && Number.isFinite(used) && Number.isFinite(window)) parts.push(say("context", { used, window }));
  return parts.join(" · ");
}

export function wordTimes(usage, say) {
  const { first_token_seconds: first, seconds } = usage ?? {};
  const parts = [];
  if (Number.isFinite(first)) parts.push(say("firstToken", { seconds: first }));
  if (Number.isFinite(seconds)) parts.push(say("seconds", { seconds }));
  return parts.join(" · ");
}

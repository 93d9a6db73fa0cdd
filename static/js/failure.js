// What can go wrong between the page and the server, as one class. Knows no wording: strings.js words it.

// kind: "network" (no answer), "broken" (the stream ended early), "silent" (nothing arrived for too long),
// "access" (401), "busy" (429), "loading" (503 while loading), "server" (any other JSON error),
// "unexpected" (an answer that is not ours, such as a tunnel's own page).
export class Failure extends Error {
  constructor(kind, { message = "", status = 0, code = "", param = "", hint = "", retryAfter = null } = {}) {
    super(message);
    this.name = "Failure";
    this.kind = kind;
    this.status = status;
    this.code = code;
    this.param = param;
    this.hint = hint;
    this.retryAfter = retryAfter;
  }
}

const text = (value) => (typeof value === "string" ? value : "");

export function failureFromError(error, kind = "server", extra = {}) {
  const known = typeof error === "object" && error !== null ? error : {};
  const { message, code, param, hint } = known;
  return new Failure(kind, { message: text(message), code: text(code), param: text(param), hint: text(hint), ...extra });
}

export async function failureFromResponse(response, now = Date.now()) {
  const extra = { status: response.status, retryAfter: secondsToWait(response.headers.get("Retry-After"), now) };
  const body = await response.json().catch(() => null);
  const error = body?.error ?? null;
  if (error === null) return new Failure(kindOf(response.status, "unexpected", extra.retryAfter), extra);
  return failureFromError(error, kindOf(response.status, "server", extra.retryAfter), extra);
}

function kindOf(status, otherwise, retryAfter) {
  if (status === 401) return "access";
  if (status === 429) return "busy";
  if (status === 503 && retryAfter !== null) return "loading";
  return otherwise;
}

// Retry-After is a number of seconds or a date; null when it is neither.
export function secondsToWait(value, now = Date.now()) {
  if (value === null || value.trim() === "") return null;
  const seconds = /^\d+$/.test(value.trim()) ? Number(value) : (Date.parse(value) - now) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}

// Access to the server: the key in the address, the cookie it is traded for, and the key in memory where
// no cookie can live. Knows nothing of chats and never writes the key anywhere.
import { Failure, failureFromResponse } from "./failure.js";

// The key must leave the address before anything else can read, send or bookmark it.
export function takeAccessKey(location, history) {
  const match = /^#(?:.*&)?key=([^&]*)/.exec(location.hash);
  if (match === null) return null;
  history.replaceState(history.state, "", location.pathname + location.search);
  return decoded(match[1]) || null;
}

function decoded(value) {
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}

// Headers carry bytes; a key that someone chose by hand may hold any characters.
function asHeader(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

export class Session {
  #fetch;
  #accessKey = null;
  #bearer = false;
  #signingIn = Promise.resolve();

  constructor(fetch) {
    this.#fetch = fetch;
  }

  // Trades the key for a cookie. Until that cookie is seen to work the key stays in memory.
  signIn(accessKey) {
    const trade = this.#trade(accessKey);
    this.#signingIn = trade.catch(() => {});
    return trade;
  }

  async #trade(accessKey) {
    this.#accessKey = null;
    this.#bearer = false;
    const response = await this.#send("/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key: accessKey }),
    });
    if (!response.ok) throw await failureFromResponse(response);
    this.#accessKey = accessKey;
  }

  get holdsKey() {
    return this.#accessKey !== null;
  }

  // Tells what an open route saw: whether our cookie (or key) was recognised.
  recognised(wasRecognised) {
    if (this.#accessKey === null || this.#bearer) return;
    if (wasRecognised) this.#accessKey = null;
    else this.#bearer = true;
  }

  // In a frame of another site the browser withholds the cookie: the same request then goes with the key.
  async fetch(path, init = {}) {
    await this.#signingIn;
    const response = await this.#send(path, init);
    if (response.status !== 401 || this.#accessKey === null || this.#bearer) return response;
    this.#bearer = true;
    return this.#send(path, init);
  }

  async #send(path, init) {
    const headers = { "ngrok-skip-browser-warning": "1", ...init.headers };
    if (this.#bearer) headers.Authorization = `Bearer ${asHeader(this.#accessKey)}`;
    try {
      return await this.#fetch(path, { ...init, headers, cache: "no-store" });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new Failure("network");
    }
  }
}

// Reads GET /health and, only while the model loads, reads it again every few seconds: tunnels meter requests.
// Knows no DOM.

const WAITING_MS = 4_000;
const IDLE_MS = 12_000;
const LONG_WAIT_MS = 5_000;

const TASKS = ["chat", "translation", "text2text"];

// {status: "ok" | "loading" | "failed" | "unknown", recognised, progress: 0..1 | null, detail, task, languages}
// task is null where the server does not tell it, as to strangers or while the model loads; languages are codes.
export async function readHealth(session) {
  try {
    const response = await session.fetch("/health", { headers: { Accept: "application/json" } });
    return parseHealth(await response.json());
  } catch {
    return parseHealth(null);
  }
}

export function parseHealth(body) {
  const status = ["ok", "loading", "failed"].includes(body?.status) ? body.status : "unknown";
  const progress = Number.isFinite(body?.progress) ? Math.min(1, Math.max(0, body.progress)) : null;
  const detail = typeof body?.detail === "string" ? body.detail : "";
  // The server tells these only to those whom it lets in.
  const recognised = ["model", "progress", "detail"].some((name) => body?.[name] !== undefined);
  const task = status === "ok" && TASKS.includes(body?.task) ? body.task : null;
  const languages = Array.isArray(body?.languages) ? body.languages.filter((code) => typeof code === "string") : [];
  return { status, recognised, progress, detail, task, languages };
}

const BROWSER_TIMERS = {
  now: () => performance.now(),
  setTimeout: (action, delay) => setTimeout(action, delay),
  clearTimeout: (timer) => clearTimeout(timer),
};

export class LoadingWatch {
  #read;
  #show;
  #timers;
  #timer = null;
  #status = "unknown";
  #waitingSince = null;
  #visible = true;

  constructor(read, show, timers = BROWSER_TIMERS) {
    this.#read = read;
    this.#show = show;
    this.#timers = timers;
  }

  async check() {
    this.#cancelTimer();
    const health = await this.#read();
    // One lost answer while loading is no reason to stop watching.
    if (health.status !== "unknown") {
      this.#status = health.status;
      this.#show(health);
    }
    this.#schedule();
    return health;
  }

  // A waiting message is worth a closer look.
  setWaiting(waiting) {
    if (waiting === (this.#waitingSince !== null)) return;
    this.#waitingSince = waiting ? this.#timers.now() : null;
    this.#schedule();
  }

  // A long wait may mean that the model loads anew: worth one look for each message.
  async pinged() {
    if (this.#waitingSince === null || this.#timers.now() - this.#waitingSince < LONG_WAIT_MS) return;
    this.#waitingSince = Infinity;
    if (this.#status !== "loading") await this.check();
  }

  // A reply that begins proves the model well. One that had to load tells only now what it is: worth a last look.
  answered() {
    if (this.#status === "ok") return;
    const wasLoading = this.#status === "loading";
    this.#status = "ok";
    this.#show({ ...parseHealth(null), status: "ok" });
    if (wasLoading) this.check();
    else this.#schedule();
  }

  setVisible(visible) {
    this.#visible = visible;
    this.#schedule();
  }

  #schedule() {
    this.#cancelTimer();
    if (this.#status !== "loading" || !this.#visible) return;
    this.#timer = this.#timers.setTimeout(() => this.check(), this.#waitingSince !== null ? WAITING_MS : IDLE_MS);
  }

  #cancelTimer() {
    if (this.#timer !== null) this.#timers.clearTimeout(this.#timer);
    this.#timer = null;
  }
}

// The two languages of a translation: which the model knows, which are chosen, and what of it goes to the server.
// Knows neither their names nor the page.

const STORED_AS = "languages";
const OWN = { en: "eng_Latn", ja: "jpn_Jpan" };
const OTHER = { source: "target", target: "source" };

export class Languages {
  codes = [];
  source = "";
  target = "";
  #task = null;
  #storage;
  #preset;
  #own;

  // storage: as localStorage, or null; preset: the server's own {source, target}; language: the page's.
  constructor({ storage, preset = {}, language = "en" }) {
    this.#storage = storage;
    this.#preset = preset;
    this.#own = OWN[language] ?? "";
  }

  // What /health tells, null for what it does not; true where anything changes.
  learn({ task, languages }) {
    if (task === null || (task === this.#task && languages.join() === this.codes.join())) return false;
    this.#task = task;
    this.codes = languages;
    const stored = readStored(this.#storage);
    this.target = this.#known(stored.target, this.#preset.target);
    this.source = this.#known(stored.source, this.#preset.source, this.optional ? "" : this.#own);
    if (this.source === this.target) this.source = "";
    return true;
  }

  get shown() {
    return this.codes.length > 0;
  }

  // An encoder reads the text, a decoder writes: each has its own window.
  get oneWindow() {
    return this.#task === null || this.#task === "chat";
  }

  get translates() {
    return this.#task === "translation";
  }

  // A text may also go to the model as it is typed, or with the target alone, where the server has no languages of its own.
  get optional() {
    return !this.translates && this.#known(this.#preset.source, this.#preset.target) === "";
  }

  choose(side, code) {
    const other = OTHER[side];
    if (code !== "" && code === this[other]) this[other] = this[side];
    this[side] = code;
    if (code === "" && side === "target" && this.optional) this.source = "";
    this.#store();
  }

  swap() {
    [this.source, this.target] = [this.target, this.source];
    this.#store();
  }

  // "target" | "source": what has to be chosen before anything can be sent; null where nothing has.
  get missing() {
    if (!this.shown || (this.optional && this.source === "")) return null;
    return ["target", "source"].find((side) => this[side] === "") ?? null;
  }

  get fields() {
    if (!this.shown) return {};
    const named = { source_language: this.source, target_language: this.target };
    return Object.fromEntries(Object.entries(named).filter(([, code]) => code !== ""));
  }

  #known(...codes) {
    return codes.find((code) => this.codes.includes(code)) ?? "";
  }

  // Where the browser keeps nothing for pages, the choice lasts as long as the page.
  #store() {
    try {
      this.#storage?.setItem(STORED_AS, JSON.stringify({ source: this.source, target: this.target }));
    } catch {
      this.#storage = null;
    }
  }
}

function readStored(storage) {
  try {
    return JSON.parse(storage?.getItem(STORED_AS) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

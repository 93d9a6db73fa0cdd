// The pickers of a translation's two languages above the message box. Knows DOM; what a choice means is Languages'.
import { namedLanguages } from "./language_names.js";

const ASK = { source: "chooseSource", target: "chooseTarget" };

export class LanguagePickers {
  #elements;
  #say;
  #languages;
  #language;

  // elements: languages, sourceLanguage, targetLanguage, swapLanguages, languageProblem; language: the page's
  constructor(elements, say, { languages, language }) {
    this.#elements = elements;
    this.#say = say;
    this.#languages = languages;
    this.#language = language;
    for (const side of ["source", "target"]) {
      this.#picker(side).addEventListener("change", () => this.#choose(side));
    }
    elements.swapLanguages.addEventListener("click", () => this.#swap());
  }

  // After the model told what it is.
  update() {
    const { shown, codes } = this.#languages;
    this.#elements.languages.hidden = !shown;
    this.#tell(null);
    if (!shown) return;
    const groups = namedLanguages(codes, this.#language);
    for (const side of ["source", "target"]) this.#picker(side).replaceChildren(...this.#options(groups));
    this.#showChoice();
  }

  // Says which language has to be chosen, and leads there.
  ask(side) {
    if (!this.#languages.shown) return;
    this.#tell(side);
    this.#picker(side).focus();
  }

  #picker(side) {
    return this.#elements[`${side}Language`];
  }

  #options(groups) {
    const lines = groups.map(() => document.createElement("hr"));
    const none = toOption({ code: "", name: this.#say(this.#languages.optional ? "asTyped" : "choose") });
    none.disabled = none.hidden = !this.#languages.optional;
    return [none, ...groups.flatMap((group, at) => [...lines.slice(at, at + 1), ...group.map(toOption)])];
  }

  #choose(side) {
    this.#languages.choose(side, this.#picker(side).value);
    this.#showChoice();
  }

  #swap() {
    this.#languages.swap();
    this.#showChoice();
  }

  #showChoice() {
    for (const side of ["source", "target"]) this.#picker(side).value = this.#languages[side];
    this.#tell(null);
  }

  #tell(side) {
    const { languageProblem } = this.#elements;
    languageProblem.hidden = side === null;
    languageProblem.textContent = side === null ? "" : this.#say(this.#languages[side] === "" ? ASK[side] : "chooseOther");
    for (const each of ["source", "target"]) {
      if (each === side) this.#picker(each).setAttribute("aria-invalid", "true");
      else this.#picker(each).removeAttribute("aria-invalid");
    }
  }
}

function toOption({ code, name }) {
  const element = document.createElement("option");
  element.value = code;
  element.textContent = name;
  return element;
}

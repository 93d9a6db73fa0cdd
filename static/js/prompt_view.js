// A dialog with the prompt that a reply was given, fetched when it is opened. Knows DOM, not the wire.
import { copyAndTell } from "./clipboard.js";
import { markLanguage } from "./growing_text.js";
import { wordFailure, wordPrompt } from "./wording.js";

export class PromptView {
  #elements;
  #say;
  #read;
  #abort = null;

  // elements: prompt (a dialog), promptProblem, promptText, promptFoot, promptFacts, promptCopy, promptCopied, promptClose
  // read(request, signal) resolves to the prompt of a request, or throws a Failure.
  constructor(elements, say, read) {
    this.#elements = elements;
    this.#say = say;
    this.#read = read;
    elements.promptClose.addEventListener("click", () => elements.prompt.close());
    elements.promptCopy.addEventListener("click", () => this.#copy());
    elements.prompt.addEventListener("click", (event) => this.#clickBeside(event));
    elements.prompt.addEventListener("close", () => this.#abort?.abort());
  }

  get shown() {
    return this.#elements.prompt.open;
  }

  async show(request) {
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.#tell({ facts: this.#say("promptReading") });
    this.#elements.prompt.showModal();
    try {
      const found = await this.#read(request, signal);
      if (!signal.aborted) this.#tell({ facts: wordPrompt(found, request, this.#say), text: found.text });
    } catch (failure) {
      if (!signal.aborted) this.#tell({ problem: this.#worded(failure) });
    }
  }

  #tell({ facts = "", problem = "", text = null }) {
    const { promptFacts, promptFoot, promptProblem, promptText, promptCopy } = this.#elements;
    promptFacts.textContent = facts;
    promptProblem.textContent = problem;
    promptProblem.hidden = problem === "";
    promptFoot.hidden = problem !== "";
    promptText.textContent = text ?? "";
    promptText.hidden = promptCopy.hidden = text === null;
    promptText.lang = "";
    promptText.scrollTop = 0;
    markLanguage(promptText, text ?? "");
  }

  #worded(failure) {
    const { title, detail, hint } = wordFailure(failure, false, this.#say);
    const told = detail === "" ? [title, hint] : [this.#say("promptFailed"), detail, hint];
    return told.filter(Boolean).join(" ");
  }

  #copy() {
    const { promptText, promptCopied } = this.#elements;
    copyAndTell(promptText.textContent, promptCopied, this.#say);
  }

  // The dialog itself has no edge: whatever is inside is another element's.
  #clickBeside(event) {
    if (event.target === this.#elements.prompt) this.#elements.prompt.close();
  }
}

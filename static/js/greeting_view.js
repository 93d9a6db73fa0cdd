// The friendly start of an empty conversation: a sentence and three messages to begin with. Knows DOM.

export class GreetingView {
  #elements;
  #say;
  #begin;

  // elements: greeting, greetingTitle, greetingHint, examples; begin(text) is called with a chosen example.
  constructor(elements, say, begin) {
    this.#elements = elements;
    this.#say = say;
    this.#begin = begin;
  }

  // kind: "cat" and "translate" have sentences of their own, "" is any other model.
  word(kind) {
    const worded = (plain) => this.#say(kind === "" ? plain : `${kind}${plain[0].toUpperCase()}${plain.slice(1)}`);
    this.#elements.greetingTitle.textContent = worded("greeting");
    this.#elements.greetingHint.textContent = worded("greetingHint");
    const examples = ["example1", "example2", "example3"].map((plain) => exampleButton(worded(plain), this.#begin));
    this.#elements.examples.replaceChildren(...examples);
  }

  setShown(shown) {
    this.#elements.greeting.hidden = !shown;
  }
}

function exampleButton(text, begin) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "example";
  button.textContent = text;
  button.addEventListener("click", () => begin(text));
  return button;
}

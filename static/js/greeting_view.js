// The friendly start of an empty conversation: a sentence and three messages to begin with. Knows DOM.

export class GreetingView {
  #element;

  // elements: greeting, greetingTitle, greetingHint, examples; begin(text) is called with a chosen example.
  constructor(elements, say, { isCat, begin }) {
    this.#element = elements.greeting;
    const name = (plain) => (isCat ? `cat${plain[0].toUpperCase()}${plain.slice(1)}` : plain);
    elements.greetingTitle.textContent = say(name("greeting"));
    elements.greetingHint.textContent = say(name("greetingHint"));
    elements.examples.replaceChildren(
      ...["example1", "example2", "example3"].map((plain) => exampleButton(say(name(plain)), begin)),
    );
  }

  setShown(shown) {
    this.#element.hidden = !shown;
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

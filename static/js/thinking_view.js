// Shows what the model thinks before it answers: open while it thinks, closed once the answer begins. Knows DOM.
import { GrowingText } from "./growing_text.js";

export class ThinkingView {
  #details;
  #title;
  #say;
  #thoughts;
  #status = "";

  // parts: thinking (a details element), thinkingTitle, thoughts
  constructor({ thinking, thinkingTitle, thoughts }, say) {
    this.#details = thinking;
    this.#title = thinkingTitle;
    this.#say = say;
    this.#thoughts = new GrowingText(thoughts);
  }

  paint({ reasoning, status, reply }) {
    this.#thoughts.show(reasoning);
    this.#details.hidden = reasoning === "";
    if (status !== this.#status) this.#changed(status, reply);
  }

  // In between it is the reader's to open and to close.
  #changed(status, reply) {
    this.#title.textContent = this.#say(status === "thinking" ? "thinking" : "thoughts");
    if (status === "thinking") this.#details.open = true;
    // An answer may begin and end between two frames.
    else if (this.#status === "thinking" && reply !== "") this.#details.open = false;
    this.#status = status;
  }
}

// The message box with its send and stop buttons. Knows DOM; what sending means is told to it.
import { keyInMessageBox } from "./keyboard.js";
import { countCharacters, judgeMessage } from "./message_text.js";

export class ComposerView {
  #elements;
  #say;
  #maximum;
  #send;
  #busy = false;

  // elements: composer, message, send, stop, count
  // send(text) tells whether the message went: one that did not stays in the box.
  constructor(elements, { say, maximum, send, cancel }) {
    this.#elements = elements;
    this.#say = say;
    this.#maximum = maximum;
    this.#send = send;
    elements.message.placeholder = say("messageHint");
    elements.message.addEventListener("input", () => this.#changed());
    elements.message.addEventListener("keydown", (event) => this.#key(event));
    elements.composer.addEventListener("submit", (event) => this.#submit(event));
    elements.composer.addEventListener("click", (event) => this.#clickBeside(event));
    elements.stop.addEventListener("click", cancel);
    this.#changed();
  }

  setBusy(busy) {
    this.#busy = busy;
    this.#elements.send.hidden = busy;
    this.#elements.stop.hidden = !busy;
  }

  setAvailable(available) {
    this.#elements.composer.inert = !available;
  }

  // A message that could not be sent goes back in front of what was typed meanwhile.
  putBack(text) {
    const { message } = this.#elements;
    message.value = message.value.trim() === "" ? text : `${text}\n${message.value}`;
    this.#changed();
  }

  // On a touch screen focus would pull the keyboard over the reply.
  focus() {
    if (matchMedia("(pointer: fine)").matches) this.#elements.message.focus();
  }

  focusAnyway() {
    this.#elements.message.focus();
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#elements.message.value;
    if (this.#busy || ["empty", "long"].includes(judgeMessage(text, this.#maximum))) return;
    if (!this.#send(text)) return;
    this.#elements.message.value = "";
    this.#changed();
    this.focus();
  }

  #key(event) {
    if (keyInMessageBox(event) !== "send") return;
    event.preventDefault();
    this.#elements.composer.requestSubmit();
  }

  #clickBeside(event) {
    if (event.target === this.#elements.composer) this.#elements.message.focus();
  }

  #changed() {
    const { message, send, count } = this.#elements;
    message.style.height = "auto";
    message.style.height = `${message.scrollHeight}px`;
    const verdict = judgeMessage(message.value, this.#maximum);
    send.disabled = verdict === "empty" || verdict === "long";
    count.hidden = !["near", "long"].includes(verdict);
    if (count.hidden) return;
    count.dataset.verdict = verdict;
    const values = { count: countCharacters(message.value), maximum: this.#maximum };
    count.textContent = this.#say(verdict === "long" ? "tooLong" : "nearLimit", values);
  }
}

// The plain form that asks for the access key. Knows DOM; what signing in means is told to it.

export class SignInView {
  #elements;
  #say;
  #signIn;

  // elements: signIn, signInForm, accessKey, signInProblem; signIn(accessKey) resolves to a problem or "".
  constructor(elements, say, signIn) {
    this.#elements = elements;
    this.#say = say;
    this.#signIn = signIn;
    elements.signInForm.addEventListener("submit", (event) => this.#submit(event));
  }

  get shown() {
    return !this.#elements.signIn.hidden;
  }

  show(problem = "") {
    this.#elements.signIn.hidden = false;
    this.#showProblem(problem);
    this.#elements.accessKey.focus();
  }

  hide() {
    this.#elements.signIn.hidden = true;
    this.#elements.accessKey.value = "";
  }

  async #submit(event) {
    event.preventDefault();
    const accessKey = this.#elements.accessKey.value.trim();
    this.#showProblem(accessKey === "" ? this.#say("signInEmpty") : "");
    if (accessKey === "") return;
    this.#showProblem(await this.#signIn(accessKey));
  }

  #showProblem(problem) {
    const { signInProblem, accessKey } = this.#elements;
    signInProblem.textContent = problem;
    signInProblem.hidden = problem === "";
    if (problem === "") accessKey.removeAttribute("aria-invalid");
    else accessKey.setAttribute("aria-invalid", "true");
  }
}

// Gathers any number of changes into one painting per animation frame. Knows neither text nor page.

export class FramePainter {
  #paint;
  #requestFrame;
  #pending = false;

  constructor(paint, requestFrame) {
    this.#paint = paint;
    this.#requestFrame = requestFrame;
  }

  request() {
    if (this.#pending) return;
    this.#pending = true;
    this.#requestFrame(() => this.flush());
  }

  // Hidden tabs get no frames: whoever finishes a reply flushes.
  flush() {
    if (!this.#pending) return;
    this.#pending = false;
    this.#paint();
  }
}

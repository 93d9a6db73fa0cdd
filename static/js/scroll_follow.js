// Decides whether the page keeps to the newest text. Knows numbers only: heights and positions in pixels.

const AT_END = 4;
const NEAR_END = 48;

export class ScrollFollow {
  following = true;
  #top = 0;

  // Any move upwards by the reader lets go, however small; coming back near the end takes hold again.
  scrolled({ top, height, view }) {
    const rest = height - view - top;
    const movedUp = top < this.#top;
    if (rest <= AT_END || (!movedUp && rest <= NEAR_END)) this.following = true;
    else if (movedUp) this.following = false;
    this.#top = top;
  }

  letGo() {
    this.following = false;
  }

  jumpedToEnd() {
    this.following = true;
  }
}

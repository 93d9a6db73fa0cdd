// One calm line above the message box: the model loads, or has stopped. Knows DOM, asks nothing.

export class NoticeView {
  #elements;
  #say;
  #health = null;
  #waiting = false;

  // elements: notice, noticeText, noticeDetail, noticeProgress
  constructor(elements, say) {
    this.#elements = elements;
    this.#say = say;
  }

  showHealth(health) {
    this.#health = health;
    this.#update();
  }

  setWaiting(waiting) {
    if (waiting === this.#waiting) return;
    this.#waiting = waiting;
    this.#update();
  }

  #update() {
    const { notice, noticeText, noticeDetail, noticeProgress } = this.#elements;
    const status = this.#health?.status;
    const text = this.#sentence(status);
    notice.hidden = text === "";
    if (noticeText.textContent !== text) noticeText.textContent = text;
    notice.dataset.status = status ?? "";
    const progress = status === "loading" ? this.#health.progress : null;
    noticeProgress.hidden = progress === null;
    noticeProgress.value = progress ?? 0;
    noticeDetail.textContent = this.#health?.detail ?? "";
  }

  #sentence(status) {
    if (status === "failed") return this.#say("engineFailed");
    if (status !== "loading") return "";
    return this.#say(this.#waiting ? "loadingWaiting" : "loading");
  }
}

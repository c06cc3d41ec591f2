/** From how many positions on a conversation is compacted: a slider along the model's window. */

import { count, plural } from "./format.js";

const STEPS = 32;

/** Event: "change". */
export class Threshold extends EventTarget {
  constructor(place, session) {
    super();
    this.input = place.querySelector("input");
    this.output = place.querySelector("output");
    this.isFit = false; // to a window
    this.input.addEventListener("input", () => this.#show());
    session.addEventListener("model", () => this.#fit(session.model.max_positions));
  }

  /** Half of the window at first: what was said last stays as it is, and there is room for an answer. */
  #fit(window) {
    const step = Math.max(1, Math.floor(window / STEPS));
    Object.assign(this.input, { min: 2 * step, max: window, step, value: Math.floor(STEPS / 2) * step });
    this.isFit = true;
    this.#show();
  }

  /** Whether a conversation is compacted at all. */
  allow(isAllowed) {
    this.input.disabled = !(isAllowed && this.isFit);
  }

  #show() {
    const positions = Number(this.input.value);
    this.output.textContent = count(positions);
    this.input.setAttribute("aria-valuetext", plural(positions, "position"));
    this.dispatchEvent(new Event("change"));
  }

  /** Positions; null for never. */
  get value() {
    return this.input.disabled ? null : Number(this.input.value);
  }
}

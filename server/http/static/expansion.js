/** A switch: segments that the question speaks of are read as their text, which the server has kept. */

import { el } from "./dom.js";

const MOST = 8;
let numExpansions = 0; // on this page, each with a reason of its own

/** @returns {?string} why none of the sources' segments can be read as text; null where they can */
export function whyNoExpansion(sources) {
  if (!sources.length) return "There is no summary yet.";
  const without = sources.find((source) => !source.hasText);
  return without ? `The server has no text of “${without.title}”.` : null;
}

export class Expansion {
  constructor() {
    this.box = el("input", { type: "checkbox", onchange: () => this.#show() });
    this.number = el("input", { type: "number", min: 1, max: MOST, value: 2, required: true });
    this.reason = el("span.facts", { id: `why-${(numExpansions += 1)}` });
    this.box.setAttribute("aria-describedby", this.reason.id);
    this.element = el(
      "p.switch",
      {},
      el("label", {}, this.box, "Read the segments that the question speaks of as text"),
      el("label.number", {}, el("span.visually-hidden", {}, "Segments to read as text"), this.number),
      this.reason,
    );
    this.allow("There is no summary yet.");
  }

  /** @param {?string} why it cannot be switched on; null where it can @param {string} note said where it can */
  allow(why, note = "") {
    this.box.disabled = why !== null;
    this.reason.textContent = why ?? note;
    this.#show();
  }

  #show() {
    this.number.disabled = this.box.disabled || !this.box.checked;
  }

  /** @returns {?{segments: number}} for a request's `expand` */
  get value() {
    return this.number.disabled ? null : { segments: Number(this.number.value) };
  }
}

/** How much of a text its vectors keep: where they stand between nothing and the text in full. */

import { call } from "./api.js";
import { el, vary } from "./dom.js";
import { count } from "./format.js";
import { clearNotice, showError } from "./notice.js";

const LEAST_TOKENS = 64; // of a text that the server measures

export class Retention {
  constructor(text, { id, title }) {
    this.text = text;
    this.id = id;
    this.title = title;
    this.button = el("button.second", { type: "button", onclick: () => this.#measure() }, "Measure what was kept");
    this.place = el("div");
    this.notices = el("div.notices");
    this.element = el("div.retention", {}, el("p.actions", {}, this.button), this.place, this.notices);
  }

  async #measure() {
    clearNotice(this.notices);
    this.button.disabled = true;
    this.place.replaceChildren(el("p.facts", {}, "Reading the text's end after nothing, after vectors, after text…"));
    try {
      await call(`/summaries/${this.id}`); // one that is gone is not to come back
      const body = { text: this.text, metadata: { title: this.title }, measure: true };
      const { retention } = await call("/compress", { method: "POST", body });
      this.place.replaceChildren(retention ? figureOf(retention) : tooShort());
    } catch (error) {
      this.place.replaceChildren();
      showError(this.notices, error, () => this.#measure());
    } finally {
      this.button.disabled = false;
    }
  }
}

function tooShort() {
  return el("p.facts", {}, `The text is too short to measure: it has fewer than ${LEAST_TOKENS} tokens.`);
}

/** A line from nothing to the text in full, and on it the vectors. */
function figureOf(retention) {
  const { none, summary, full, share, scored_tokens: scored, context_tokens: context } = retention;
  const verdict = share === null ? "The text in full is no help here" : `${percent(share)} of what the text gives`;
  const kind = share === null ? "div.line.unknown" : "div.line";
  const line = vary(el(kind, { "aria-hidden": true }, el("span.kept"), el("i.dot")), "--share", clamped(share));
  const end = (name, nats) => el("span", {}, name, " ", el("b", {}, nats.toFixed(2)));
  return el(
    "figure.scale",
    { role: "group", "aria-label": "What the vectors keep" },
    el(share < 0 ? "strong.part.lost" : "strong.part", {}, verdict),
    line,
    el("p.ends", {}, end("Nothing", none), end("Vectors", summary), end("Text in full", full)),
    el(
      "figcaption.facts",
      {},
      `Nats a token, less is better, over the last ${count(scored)} tokens, after ${count(context)} before them.`,
    ),
  );
}

const percent = (share) => `${(share * 100).toFixed(0).replace("-", "−")} %`;

/** Vectors can be worse than nothing or better than the text; the line has two ends. */
const clamped = (share) => Math.min(1, Math.max(0, share ?? 0)).toFixed(4);

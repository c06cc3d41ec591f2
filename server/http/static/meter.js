/** What fills the model's window: vectors of what was compressed, text that came back, raw tokens, room. */

import { el, vary } from "./dom.js";
import { count, plural } from "./format.js";

const EMPTY = { vectors: 0, again: 0, raw: 0, compressed: 0 };

export class Meter {
  #shown = EMPTY;
  #note = "";

  constructor(place, session) {
    this.place = place;
    this.session = session;
    session.addEventListener("model", () => this.#draw());
  }

  reset() {
    this.#show(EMPTY, "Nothing in the window yet.");
  }

  /** @param {?number} positions from how many on the conversation is compacted; null for never */
  mark(positions) {
    // not drawn anew: that would be read aloud with each step of the slider
    this.place.classList.toggle("marked", positions !== null);
    vary(this.place, "--from", this.#share(positions ?? 0));
  }

  /**
   * @param {Object} compression as the server's reply has it
   * @param {{compacted?: ?number, usage?: Object}} more tokens that were compacted before, null where nobody knows;
   *   the reply's usage
   */
  show(compression, { compacted = 0, usage = null } = {}) {
    const { summary_vectors: vectors, raw_tokens: raw, compressed_tokens: compressed, expanded } = compression;
    const { dropped_tokens: dropped, thinned_vectors: thinned } = compression;
    const again = expanded.reduce((sum, segment) => sum + segment.tokens, 0);
    const notes = [
      usage ? known(usage) : worked(compression),
      thinned ? `${plural(thinned, "less important vector")} left out.` : "",
      dropped ? `${plural(dropped, "token")} left out.` : "",
      expanded.length ? `${plural(expanded.length, "segment")} read as text.` : "",
    ];
    const stoodFor = compacted === null ? null : compacted + compressed;
    this.#show({ vectors, again, raw, compressed: stoodFor }, notes.filter(Boolean).join(" "));
  }

  /** All that was said is vectors, and nothing else is in the window. */
  showCompacted({ tokens, cached_tokens: cached, vectors }, compacted) {
    const note = `${plural(tokens, "token")} compacted now, ${count(cached)} of them from the store.`;
    this.#show({ ...EMPTY, vectors, compressed: compacted }, note);
  }

  #show(shown, note) {
    this.#shown = shown;
    this.#note = note;
    this.#draw();
  }

  get #window() {
    return this.session.model?.max_positions ?? null;
  }

  #share(positions) {
    return this.#window ? Math.min(1, positions / this.#window).toFixed(4) : "0";
  }

  #draw() {
    const { vectors, again, raw, compressed } = this.#shown;
    const window = this.#window;
    const bar = (kind, positions) => vary(el(`span.${kind}`), "--share", this.#share(positions));
    const strip = el("div.strip", {}, bar("accent", vectors), bar("again", again), bar("ink", raw));
    const figure = (kind, number, words) =>
      el("div", {}, el("dt", {}, el(`i.${kind}`, { "aria-hidden": true }), words), el("dd", {}, number));
    this.place.replaceChildren(
      el("div.window", { "aria-hidden": true }, strip, el("i.from")),
      el(
        "dl",
        {},
        figure("faded", compressed === null ? "–" : count(compressed), "tokens compressed"),
        figure("accent", count(vectors), "vectors that stand for them"),
        figure("again", count(again), "tokens as text again"),
        figure("ink", count(raw), "raw tokens"),
        figure("room", window ? count(Math.max(0, window - vectors - again - raw)) : "–", "positions free"),
      ),
      el("p.facts", {}, this.#note),
    );
  }
}

function worked({ segments, cached_segments: cached }) {
  if (!segments) return "All of it still fits.";
  return `${plural(segments, "segment")}, ${cached} from the store, ${segments - cached} computed now.`;
}

function known({ input_tokens: input, input_tokens_details: { cached_tokens: cached } }) {
  return `${count(cached)} of ${plural(input, "input position")} known from before, ${count(input - cached)} computed now.`;
}

/** What fills the model's window: vectors of what was compressed, raw tokens, room. */

import { el, vary } from "./dom.js";
import { count, plural } from "./format.js";

export class Meter {
  constructor(place, session) {
    this.place = place;
    this.session = session;
    session.addEventListener("model", () => {
      if (this.isEmpty) this.reset();
    });
  }

  reset() {
    this.isEmpty = true;
    this.#draw({ summary_vectors: 0, raw_tokens: 0, compressed_tokens: 0 }, "Nothing in the window yet.");
  }

  /** @param {Object} compression as the server's reply has it */
  show(compression) {
    this.isEmpty = false;
    const { segments, cached_segments: cached, dropped_tokens: dropped, expanded } = compression;
    const work = segments
      ? `${plural(segments, "segment")}, ${cached} from the store, ${segments - cached} computed now.`
      : "All of it still fits.";
    const asText = expanded.reduce((sum, segment) => sum + segment.tokens, 0);
    const notes = [
      work,
      dropped ? `${plural(dropped, "token")} left out.` : "",
      expanded.length ? `${plural(expanded.length, "segment")} read as text.` : "",
    ];
    this.#draw({ ...compression, raw_tokens: compression.raw_tokens + asText }, notes.filter(Boolean).join(" "));
  }

  #draw({ summary_vectors: vectors, raw_tokens: raw, compressed_tokens: compressed }, note) {
    const window = this.session.model?.max_positions ?? null;
    const share = (positions) => (window ? Math.min(1, positions / window).toFixed(4) : "0");
    const strip = el(
      "div.strip",
      { "aria-hidden": true },
      vary(el("span.accent"), "--share", share(vectors)),
      vary(el("span.ink"), "--share", share(raw)),
    );
    const figure = (kind, number, words) =>
      el("div", {}, el("dt", {}, el(`i.${kind}`, { "aria-hidden": true }), words), el("dd", {}, number));
    this.place.replaceChildren(
      strip,
      el(
        "dl",
        {},
        figure("faded", count(compressed), "tokens compressed"),
        figure("accent", count(vectors), "vectors that stand for them"),
        figure("ink", count(raw), "raw tokens"),
        figure("room", window ? count(Math.max(0, window - vectors - raw)) : "–", "positions free"),
      ),
      el("p.facts", {}, note),
    );
  }
}

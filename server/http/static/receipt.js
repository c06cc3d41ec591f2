/** What one answer was read from: a small meter of the window, and the segments that came back as text. */

import { call } from "./api.js";
import { el, vary } from "./dom.js";
import { count, plural } from "./format.js";
import { showError } from "./notice.js";

/**
 * @param {Object} compression as the server's reply has it
 * @param {{window: ?number, id: ?string}} more positions; of the response, where the server has kept it
 */
export function receipt(compression, { window, id }) {
  const { summary_vectors: vectors, raw_tokens: raw, expanded } = compression;
  const again = expanded.reduce((sum, segment) => sum + segment.tokens, 0);
  const share = (positions) => (window ? Math.min(1, positions / window).toFixed(4) : "0");
  const bar = (kind, positions) => vary(el(`span.${kind}`), "--share", share(positions));
  const read = [
    vectors ? plural(vectors, "vector") : null,
    again ? `${plural(again, "token")} as text again` : null,
    `${plural(raw, "token")} as said`,
  ];
  return el(
    "div.receipt",
    { id },
    el("span.strip", { "aria-hidden": true }, bar("accent", vectors), bar("again", again), bar("ink", raw)),
    el("span.facts", {}, `Read: ${read.filter(Boolean).join(" · ")}`),
    ...expanded.map(returned),
  );
}

/** A segment that was read as text; opened it shows the text, if the server has it. */
function returned({ summary_id: id, segment, tokens }) {
  const name = `Segment ${count(segment + 1)} came back as text`;
  if (id === null) return el("span.facts", {}, `${name}: ${plural(tokens, "token")} of this message's beginning`);
  const text = el("div.text");
  const load = async () => {
    try {
      const after = segment ? `&after=${segment - 1}` : "";
      const { data } = await call(`/summaries/${id}/segments?limit=1${after}`);
      text.replaceChildren(el("p", {}, data[0].pieces?.join("") ?? "The server no longer has its text."));
    } catch (error) {
      showError(text, error, load);
    }
  };
  const onToggle = ({ target }) => target.open && !text.hasChildNodes() && load();
  return el("details.again", { ontoggle: onToggle }, el("summary", {}, `${name}: ${plural(tokens, "token")}`), text);
}

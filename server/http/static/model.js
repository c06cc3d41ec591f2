/** What the page says of the served model: its shape, and how it reads a document. */

import { el } from "./dom.js";
import { count } from "./format.js";

export class ModelPanel {
  /**
   * @param {Element} place where the model is named
   * @param {Element} reading where it says how segments are read
   */
  constructor(place, reading, session) {
    session.addEventListener("model", () => {
      place.textContent = shapeOf(session.model);
      reading.textContent = `Cut into segments; ${readingOf(session.model)}`;
      if (!session.model.is_trained) place.after(untrained());
    });
  }
}

function shapeOf({ name, device, segment_length: segment, summary_length: vectors, max_positions: window }) {
  const shape = `${count(segment)} tokens → ${vectors} vectors a segment`;
  return `${name} on ${device} · ${shape} · window of ${count(window)} positions`;
}

function readingOf({ reads_alone: readsAlone, accumulate_summary: accumulates }) {
  if (readsAlone) return "each becomes a few vectors, read alone: the same ones in every document.";
  if (accumulates) return "each becomes a few vectors, given all before it.";
  return "each becomes a few vectors, given those of the one before, whose place they take.";
}

/** Before anyone is disappointed by the answers. */
function untrained() {
  return el(
    "div.notice.waiting",
    { role: "note", "aria-label": "Untrained" },
    el("strong", {}, "Nothing was trained for these vectors"),
    el(
      "p",
      {},
      "They keep a small part of a document: with SmolLM2-135M, 22 % of what the text of a segment gives and 7 % of eight, at 8 tokens a vector. ",
      el("code", {}, "autocompressor train"),
      " makes an adapter that makes them better.",
    ),
  );
}

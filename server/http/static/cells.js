/** A document while it is compressed: a cell for each segment. */

import { el } from "./dom.js";
import { plural, seconds } from "./format.js";

/** A row of cells, one for each segment: waiting, at work, made, or there already. */
export class Cells {
  isDone = false;

  constructor() {
    this.row = el("div.cells", { "aria-hidden": true }, el("span.cell.working"));
    this.line = el("p.facts", {}, "Reading the text…");
    this.element = el("div.progress", {}, this.row, this.line);
  }

  show({ segments, tokens, vectors, elapsed_seconds: elapsed }) {
    this.#draw(segments);
    const made = `${plural(tokens, "token")} → ${plural(vectors, "vector")}`;
    this.line.textContent = `Segment ${segments.done} of ${segments.total} · ${made} · ${seconds(elapsed)}`;
  }

  finish(done) {
    this.isDone = true;
    this.#draw({ done: done.segments, total: done.segments, cached: done.cached_segments });
    const cached = done.cached_segments ? `, ${done.cached_segments} of them from the store` : "";
    this.line.textContent = `${plural(done.segments, "segment")}${cached} · ${seconds(done.timings.total_seconds)}`;
  }

  #draw({ done, total, cached }) {
    while (this.row.childElementCount < total) this.row.append(el("span.cell"));
    [...this.row.children].forEach((cell, index) => {
      const state = index < cached ? "cached" : index < done ? "made" : index === done ? "working" : "waiting";
      cell.className = `cell ${state}`;
    });
  }
}

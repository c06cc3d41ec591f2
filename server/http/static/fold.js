/** Where a conversation was compacted: what stood above, folded, and what the model reads in its place. */

import { el, vary } from "./dom.js";
import { plural } from "./format.js";

const HOW = "The model reads the vectors; the words are here for you.";

/** All that stands above goes into it: a fold before it too, which leaves a seam where it stood. */
export class Fold {
  /** @param {Element} log its turns before `end`, or all of them, are folded */
  constructor(log, end = null) {
    const turns = [...log.children];
    const above = end ? turns.slice(0, turns.indexOf(end)) : turns;
    this.title = el("strong", {}, "What was said above is becoming vectors…");
    this.ratio = vary(el("span.ratio-bar", { "aria-hidden": true }, el("span")), "--share", "1");
    this.number = el("span.facts");
    this.turns = el("div.turns", { role: "group", "aria-label": "What was folded" });
    this.element = el(
      "details.fold",
      {},
      el("summary", {}, this.title, this.ratio, this.number),
      el("p.facts.how", {}, HOW),
      this.turns,
    );
    log.insertBefore(this.element, end);
    this.turns.append(...above.flatMap(unfolded));
    const said = this.turns.querySelectorAll(".said").length;
    this.number.textContent = `${plural(said, "message")}, open to read`;
  }

  /** @param {?{tokens: ?number, vectors: number}} read all tokens so far, and all vectors; null where nobody knows */
  show(read) {
    this.title.textContent = wordsOf(read);
    const isKnown = read !== null && read.tokens !== null;
    this.ratio.hidden = !isKnown;
    if (isKnown) vary(this.ratio, "--share", Math.min(1, read.vectors / Math.max(1, read.tokens)).toFixed(4));
  }
}

function wordsOf(read) {
  if (!read) return "What was said above became vectors";
  if (read.tokens === null) return `What was said above became ${plural(read.vectors, "vector")}`;
  return `${plural(read.tokens, "token")} became ${plural(read.vectors, "vector")}`;
}

/** Open all folds of a conversation for good: nothing of it is vectors any more. */
export function unfold(log) {
  for (const fold of log.querySelectorAll(":scope > .fold")) {
    fold.replaceWith(...fold.querySelector(".turns").querySelectorAll(":scope > :not(.seam)"));
  }
}

/** A turn as it is; a fold as its turns and a seam at their end. */
function unfolded(node) {
  if (!node.matches(".fold")) return [node];
  node.remove();
  const words = node.querySelector("strong").textContent;
  return [...node.querySelector(".turns").children, el("p.seam.facts", {}, `Until here ${words}`)];
}

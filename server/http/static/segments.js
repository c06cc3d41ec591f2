/** What a summary is made of: its segments, and the words at which their vectors stand. */

import { call } from "./api.js";
import { el, vary } from "./dom.js";
import { count, plural } from "./format.js";
import { clearNotice, showError } from "./notice.js";

const PAGE_SIZE = 24;
const FAINTEST = 0.15; // tint of the least important word
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

export class SegmentsPanel {
  constructor(place, session) {
    session.addEventListener("sources", () => {
      place.replaceChildren(...session.sources.map((source) => new Segments(source).element));
    });
  }
}

/** One summary's segments as tabs; the one that is pointed at, focused or pressed shows its text. */
class Segments {
  constructor(source) {
    this.source = source;
    this.segments = [];
    this.number = null; // of the one that is shown
    this.blocks = el("div.blocks", {
      role: "tablist",
      "aria-label": `Segments of ${source.title}`,
      onkeydown: (event) => this.#move(event),
    });
    this.more = el("button.link", { type: "button", hidden: true, onclick: () => this.#load() }, "Show more segments");
    this.caption = el("p.caption");
    this.shown = el("div.shown", { role: "tabpanel", id: `text-${source.id}`, tabindex: "0" });
    this.notices = el("div.notices");
    const title = el("h3", {}, "Segments of ", el("span.title", {}, source.title));
    this.element = el("div.segments", {}, title, this.blocks, this.more, this.caption, this.shown, this.notices);
    this.#load();
  }

  async #load() {
    clearNotice(this.notices);
    this.more.disabled = true;
    const after = this.segments.length ? `&after=${this.segments.length - 1}` : "";
    try {
      const page = await call(`/summaries/${this.source.id}/segments?limit=${PAGE_SIZE}${after}`);
      const isFirst = !this.segments.length;
      this.segments.push(...page.data);
      this.blocks.append(...page.data.map((segment) => this.#block(segment)));
      this.more.hidden = !page.has_more;
      if (isFirst) this.#show(0);
      else this.#blockAt(page.data[0].segment).focus();
    } catch (error) {
      showError(this.notices, error, () => this.#load());
    } finally {
      this.more.disabled = false;
    }
  }

  #block(segment) {
    const show = () => {
      if (this.number !== segment.segment) this.#show(segment.segment);
    };
    const preview = () => {
      // whoever goes by keys is not moved by a pointer that lies there
      if (!this.blocks.contains(document.activeElement)) show();
    };
    return el(
      "button.block",
      {
        type: "button",
        role: "tab",
        tabindex: "-1",
        "aria-selected": "false",
        "aria-controls": this.shown.id,
        "aria-label": captionOf(segment),
        onpointermove: preview, // not `enter`: a block that comes to lie under a still pointer is not pointed at
        onfocus: show,
        onclick: show,
      },
      String(segment.segment + 1),
    );
  }

  #blockAt(number) {
    return this.blocks.children[number];
  }

  #move(event) {
    const last = this.segments.length - 1;
    const now = [...this.blocks.children].indexOf(document.activeElement);
    const next = { Home: 0, End: last }[event.key] ?? now + STEPS[event.key];
    if (!(next >= 0 && next <= last)) return;
    event.preventDefault();
    this.#blockAt(next).focus();
  }

  #show(number) {
    this.number = number;
    const segment = this.segments[number];
    for (const [index, block] of [...this.blocks.children].entries()) {
      block.setAttribute("aria-selected", String(index === number));
      block.setAttribute("tabindex", index === number ? "0" : "-1");
    }
    this.caption.replaceChildren(captionOf(segment), el("span.facts", {}, ` ${legendOf(segment)}`));
    this.shown.setAttribute("aria-label", `Text of segment ${number + 1}`);
    this.shown.replaceChildren(segment.pieces ? el("p", {}, ...wordsOf(segment)) : el("p.hint", {}, NO_TEXT));
    this.shown.scrollTop = 0;
  }
}

const NO_TEXT = "The server has no text of it. Compress the document with “Keep the text too” to read it here.";

function captionOf({ segment, tokens, vectors }) {
  return `Segment ${count(segment + 1)}: ${plural(tokens, "token")} → ${plural(vectors, "vector")}`;
}

function legendOf({ anchors, ranks, pieces }) {
  if (!pieces) return "";
  if (!anchors) return "This model's vectors stand at no words of the text: each can take from all of it.";
  return `Tinted: the words that they stand at${ranks ? ", the most important the strongest" : ""}.`;
}

/** The text in order, each word that a vector stands at in an element of its own. */
function wordsOf({ pieces, anchors, ranks, vectors }) {
  const vectorAt = new Map((anchors ?? []).map((place, vector) => [place, vector]));
  const words = [];
  let plain = "";
  for (const [place, piece] of pieces.entries()) {
    if (!vectorAt.has(place)) {
      plain += piece;
      continue;
    }
    const word = piece.trimStart();
    if (word) plain += piece.slice(0, piece.length - word.length);
    words.push(plain, anchor(word || visible(piece), ranks?.[vectorAt.get(place)], vectors));
    plain = "";
  }
  return [...words, plain];
}

function anchor(word, rank, vectors) {
  const title = rank === undefined ? null : `${rank + 1} of ${vectors} in importance`;
  const amount = rank === undefined ? 1 : 1 - (1 - FAINTEST) * (rank / Math.max(1, vectors - 1));
  return vary(el("mark", { title }, word), "--amount", amount.toFixed(2));
}

/** What a token of nothing but space, or of no text at all, shows. */
function visible(piece) {
  return piece.includes("\n") ? `↵${piece}` : piece || "·";
}

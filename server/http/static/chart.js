/** Per-token surprise with and without: a stroke from one to the other for each token, drawn by hand as SVG. */

import { el, svg, vary } from "./dom.js";

const PITCH = 9.6;
const HEIGHT = 240;
const MARGIN = { left: 34, right: 8, top: 12, bottom: 22 };
const STRONG_NATS = 2; // a difference of this much has the full tint

/** @typedef {{token: string, withIt: number, without: number}} Token nats each */

export class Chart {
  /** @param {Token[]} tokens */
  constructor(tokens) {
    this.tokens = tokens;
    this.width = MARGIN.left + tokens.length * PITCH + MARGIN.right;
    this.top = Math.ceil(Math.max(4, ...tokens.flatMap((one) => [one.withIt, one.without])) / 2) * 2;
    this.tip = el("div.tip", { role: "status", hidden: true });
    this.marks = tokens.map((one, index) => this.#mark(one, index));
    this.words = tokens.map((one, index) => this.#word(one, index));
    const drawing = svg(
      "svg",
      {
        viewBox: `0 0 ${this.width} ${HEIGHT}`,
        role: "group",
        "aria-label": "Surprise of each token; arrow keys move between tokens",
      },
      ...this.#grid(),
      ...this.marks,
    );
    drawing.addEventListener("keydown", (event) => this.#move(event));
    this.scroller = el("div.scroller", {}, drawing);
    const text = el("p.tinted", { "aria-hidden": true }, ...this.words);
    this.element = el("figure.chart", {}, legend(), el("div.plot", {}, this.scroller, this.tip), text);
    this.marks[0].setAttribute("tabindex", "0");
  }

  #x(index) {
    return MARGIN.left + (index + 0.5) * PITCH;
  }

  #y(nats) {
    return HEIGHT - MARGIN.bottom - (nats / this.top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  #grid() {
    const step = this.top > 8 ? 4 : 2;
    const levels = Array.from({ length: Math.floor(this.top / step) + 1 }, (_, index) => index * step);
    const right = this.width - MARGIN.right;
    return [
      ...levels.flatMap((nats) => [
        svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: this.#y(nats), y2: this.#y(nats) }),
        svg("text", { class: "axis", x: MARGIN.left - 8, y: this.#y(nats) + 4, "text-anchor": "end" }, String(nats)),
      ]),
      svg("text", { class: "axis", x: MARGIN.left, y: HEIGHT - 4 }, "nats a token, in the document's order"),
    ];
  }

  #mark(one, index) {
    const x = this.#x(index);
    const kind = one.withIt <= one.without ? "saved" : "lost";
    return svg(
      "g",
      {
        class: `mark ${kind}`,
        tabindex: "-1",
        role: "img",
        "aria-label": describe(one),
        onfocus: () => this.#show(index),
        onblur: () => this.#hide(index),
        onpointerenter: () => this.#show(index),
        onpointerleave: () => this.#hide(index),
      },
      svg("rect", {
        class: "area",
        x: x - PITCH / 2,
        y: MARGIN.top - 8,
        width: PITCH,
        height: HEIGHT - MARGIN.top - MARGIN.bottom + 8,
        rx: 3,
      }),
      svg("line", { class: "stroke", x1: x, x2: x, y1: this.#y(one.without), y2: this.#y(one.withIt) }),
      svg("circle", { class: "without", cx: x, cy: this.#y(one.without), r: 2.6 }),
      svg("circle", { class: "with", cx: x, cy: this.#y(one.withIt), r: 3.1 }),
    );
  }

  #word(one, index) {
    const saved = one.without - one.withIt;
    const word = el(
      `span.${saved >= 0 ? "saved" : "lost"}`,
      { onpointerenter: () => this.#show(index), onpointerleave: () => this.#hide(index) },
      one.token,
    );
    return vary(word, "--amount", Math.min(1, Math.abs(saved) / STRONG_NATS).toFixed(2));
  }

  #move(event) {
    const now = this.marks.indexOf(document.activeElement);
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: this.marks.length - 1 }[event.key];
    if (next === undefined || !this.marks[next]) return;
    event.preventDefault();
    this.marks[now]?.setAttribute("tabindex", "-1");
    this.marks[next].setAttribute("tabindex", "0");
    this.marks[next].focus();
  }

  #show(index) {
    const one = this.tokens[index];
    const saved = one.without - one.withIt;
    this.tip.replaceChildren(
      el("code", {}, JSON.stringify(one.token)),
      el("span", {}, `with ${one.withIt.toFixed(2)} · without ${one.without.toFixed(2)}`),
      el(
        "strong",
        { class: saved >= 0 ? "saved" : "lost" },
        `${Math.abs(saved).toFixed(2)} ${saved >= 0 ? "saved" : "lost"}`,
      ),
    );
    this.tip.hidden = false;
    this.marks[index].classList.add("on");
    this.words[index].classList.add("on");
    const plot = this.scroller.getBoundingClientRect();
    const mark = this.marks[index].getBoundingClientRect();
    const half = this.tip.offsetWidth / 2;
    const middle = mark.left + mark.width / 2 - plot.left;
    vary(this.tip, "--at", `${Math.min(Math.max(middle, half), plot.width - half)}px`);
  }

  #hide(index) {
    this.tip.hidden = true;
    this.marks[index].classList.remove("on");
    this.words[index].classList.remove("on");
  }
}

function describe({ token, withIt, without }) {
  const saved = without - withIt;
  const verdict = `${Math.abs(saved).toFixed(2)} ${saved >= 0 ? "saved" : "lost"}`;
  const nats = `${withIt.toFixed(2)} nats with the summary, ${without.toFixed(2)} without`;
  return `${JSON.stringify(token)}: ${nats}, ${verdict}`;
}

function legend() {
  const key = (kind, words) => el("span", {}, el(`i.${kind}`, { "aria-hidden": true }), words);
  return el(
    "figcaption.legend",
    {},
    key("without", "without a summary"),
    key("saved", "with the summary, less"),
    key("lost", "with the summary, more"),
  );
}

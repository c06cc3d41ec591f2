/** The document: from text to segments to vectors, watched. */

import { load, stream } from "./api.js";
import { copy, el, setBusy, vary } from "./dom.js";
import { bytes, count, plural, seconds, shortId, titleOf } from "./format.js";
import { clearNotice, showError } from "./notice.js";

const EXAMPLE = {
  path: "/static/example.txt",
  title: "Kipling, The Light That Failed",
  prompt: "Maisie looked at Dick and said",
};
const BYTES_OF = { float32: 4, bfloat16: 2, float16: 2 };

export class DocumentPanel {
  constructor(root, session) {
    this.root = root;
    this.session = session;
    this.form = root.querySelector("form");
    this.text = root.querySelector("textarea");
    this.result = root.querySelector(".result");
    this.notices = root.querySelector(".notices");
    this.title = null;
    this.#listen();
    this.#showEmpty();
    session.addEventListener("model", () => {
      if (!this.session.sources.length) this.#showEmpty();
    });
  }

  #listen() {
    const file = this.root.querySelector("input[type=file]");
    const on = (name, listener) => this.root.querySelector(`[data-do=${name}]`).addEventListener("click", listener);
    on("example", () => this.#loadExample());
    on("choose", () => file.click());
    on("stop", () => this.abort?.abort());
    file.addEventListener("change", () => this.#read(file.files[0]));
    this.text.addEventListener("input", () => this.#setText(this.text.value, null));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.compress();
    });
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      this.form.addEventListener(kind, (event) => {
        event.preventDefault();
        this.form.classList.toggle("over", kind === "dragenter" || kind === "dragover");
        if (kind === "drop" && event.dataTransfer.files.length) this.#read(event.dataTransfer.files[0]);
        else if (kind === "drop") this.#setText(event.dataTransfer.getData("text"), null);
      });
    }
  }

  async #loadExample() {
    try {
      this.#setText(await load(EXAMPLE.path), EXAMPLE.title);
      const prompt = document.getElementById("prompt");
      if (!prompt.value) prompt.value = EXAMPLE.prompt;
    } catch (error) {
      showError(this.notices, error, () => this.#loadExample());
    }
  }

  async #read(file) {
    if (!file) return;
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      this.#setText(text, file.name);
    } catch {
      showError(this.notices, Object.assign(new Error(`${file.name} is not UTF-8 text.`), { code: "not_text" }));
    }
  }

  #setText(text, title) {
    if (this.text.value !== text) this.text.value = text;
    this.title = title;
    this.session.text = text;
    clearNotice(this.notices);
    const size = new TextEncoder().encode(text).length;
    this.root.querySelector(".count").textContent = text
      ? `${plural(text.length, "character")}, ${bytes(size)}`
      : "No text yet";
  }

  async compress() {
    const text = this.text.value;
    if (!text.trim()) {
      this.text.focus();
      showError(
        this.notices,
        Object.assign(new Error("Paste a text first, or load the example."), { code: "no_text" }),
      );
      return;
    }
    const title = this.title ?? titleOf(text);
    clearNotice(this.notices);
    setBusy(this.root, true);
    this.abort = new AbortController();
    const cells = new Cells();
    this.result.replaceChildren(cells.element);
    try {
      for await (const event of stream("/compress", { text, metadata: { title } }, this.abort.signal)) {
        if (event.object === "compress.progress") cells.show(event);
        else this.#finish(event, cells, { text, title });
      }
    } catch (error) {
      if (!cells.isDone) this.#showEmpty();
      showError(this.notices, error, () => this.compress());
    } finally {
      setBusy(this.root, false);
    }
  }

  #finish(done, cells, { text, title }) {
    cells.finish(done);
    this.result.append(this.#comparison(done, new TextEncoder().encode(text).length));
    const copyButton = el("button.link", { type: "button", onclick: () => copy(done.id, copyButton) }, "Copy id");
    this.result.append(el("p.under", {}, el("code", { title: done.id }, shortId(done.id)), copyButton));
    this.session.addDocument({ id: done.id, title, tokens: done.tokens, vectors: done.vectors }, text);
  }

  /** Text against vectors, to scale, in positions of a prompt and in bytes. */
  #comparison(done, textBytes) {
    const { hidden_size: width, dtype } = this.session.model ?? {};
    const rows = [
      ["Text", "ink", done.tokens, "token"],
      ["Summary", "accent", done.vectors, "vector"],
    ].map(([name, kind, number, noun]) => bar(name, kind, number / done.tokens, plural(number, noun)));
    const stored = done.vectors * width * BYTES_OF[dtype];
    const most = Math.max(stored, textBytes);
    const sizes = Number.isNaN(stored)
      ? []
      : [
          el("h3", {}, "Bytes to keep"),
          bar("Text", "ink", textBytes / most, bytes(textBytes)),
          bar("Summary", "accent", stored / most, bytes(stored)),
        ];
    const ratio = el("strong.ratio", {}, `${done.compression_ratio.toFixed(1)}×`);
    return el("div.comparison", {}, el("h3", {}, "Positions in the window ", ratio, " fewer"), ...rows, ...sizes);
  }

  #showEmpty() {
    const { segment_length: segment, summary_length: vectors } = this.session.model ?? {};
    const size = segment ? `Each segment of ${count(segment)} tokens becomes ${vectors} vectors.` : "";
    const ghosts = Array.from({ length: 12 }, () => el("span.cell"));
    this.result.replaceChildren(
      el(
        "div.empty",
        {},
        el("div.cells", { "aria-hidden": true }, ...ghosts),
        el("p", {}, `${size} They appear here as they are made.`),
      ),
    );
  }
}

function bar(name, kind, share, label) {
  const fill = vary(el(`span.fill.${kind}`), "--share", Math.max(share, 0.004).toFixed(4));
  return el("div.bar-row", {}, el("span.name", {}, name), el("span.track", {}, fill), el("span.value", {}, label));
}

/** A row of cells, one for each segment: waiting, at work, made, or there already. */
class Cells {
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

/** The document: from text to segments to vectors, watched. */

import { call, stream } from "./api.js";
import { Cells } from "./cells.js";
import { comparison } from "./comparison.js";
import { copy, el, setBusy } from "./dom.js";
import { bytes, count, plural, shortId, titleOf } from "./format.js";
import { clearNotice, showError } from "./notice.js";
import { Retention } from "./retention.js";

const EXAMPLE = "/static/example.json";

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
      const example = await call(EXAMPLE);
      this.#setText(example.text, example.title);
      this.session.setExample(example);
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
    const body = { text, metadata: { title }, keep_text: this.form.elements.keep_text.checked };
    clearNotice(this.notices);
    setBusy(this.root, true);
    this.abort = new AbortController();
    const cells = new Cells();
    this.result.replaceChildren(cells.element);
    try {
      for await (const event of stream("/compress", body, this.abort.signal)) {
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
    this.result.append(comparison(done, new TextEncoder().encode(text).length, this.session.model));
    this.result.append(new Retention(text, { id: done.id, title }).element);
    const copyButton = el("button.link", { type: "button", onclick: () => copy(done.id, copyButton) }, "Copy id");
    this.result.append(el("p.under", {}, el("code", { title: done.id }, shortId(done.id)), copyButton));
    const { id, tokens, vectors, has_text: hasText } = done;
    this.session.addDocument({ id, title, tokens, vectors, hasText }, text);
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

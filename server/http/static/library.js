/** The summaries that the server keeps: choose, fuse, delete. */

import { call } from "./api.js";
import { copy, el } from "./dom.js";
import { ago, count, plural, shortId } from "./format.js";
import { clearNotice, showError } from "./notice.js";

const PAGE_SIZE = 8;

export class LibraryPanel {
  constructor(root, session, dialog) {
    this.root = root;
    this.session = session;
    this.dialog = dialog;
    this.list = root.querySelector(".list");
    this.notices = root.querySelector(".notices");
    this.chosen = new Map();
    root.querySelector("[data-do=refresh]").addEventListener("click", () => this.refresh());
    root.querySelector("[data-do=use]").addEventListener("click", () => this.#use());
    session.addEventListener("stored", () => this.refresh());
    session.addEventListener("model", () => {
      if (this.notices.childElementCount) this.refresh(); // it was asked while the model was being loaded
    });
    this.refresh();
  }

  async refresh() {
    clearNotice(this.notices);
    this.list.setAttribute("aria-busy", "true");
    if (!this.list.childElementCount) this.list.replaceChildren(...Array.from({ length: 3 }, () => el("div.skeleton")));
    try {
      const page = await this.#page("");
      this.list.replaceChildren();
      this.chosen.clear();
      if (page.data.length) this.#append(page);
      else this.list.append(el("div.empty", {}, el("p", {}, "Nothing is stored yet. What you compress is kept here.")));
      this.#showChosen();
    } catch (error) {
      this.list.replaceChildren();
      showError(this.notices, error, () => this.refresh());
    } finally {
      this.list.setAttribute("aria-busy", "false");
    }
  }

  #page(after) {
    return call(`/summaries?limit=${PAGE_SIZE}${after && `&after=${encodeURIComponent(after)}`}`);
  }

  #append({ data, has_more: hasMore }) {
    this.list.querySelector(".more")?.remove();
    this.list.append(...data.map((summary) => this.#row(summary)));
    if (!hasMore) return;
    const more = el(
      "button.second.more",
      {
        type: "button",
        onclick: async () => {
          try {
            this.#append(await this.#page(data.at(-1).id));
          } catch (error) {
            showError(this.notices, error);
          }
        },
      },
      "Show more",
    );
    this.list.append(more);
  }

  #row(summary) {
    const title = summary.metadata.title ?? summary.metadata.file ?? "Untitled, or the start of a chat";
    const source = { id: summary.id, title, tokens: summary.tokens, vectors: summary.vectors, hasText: summary.has_text };
    const box = el("input", {
      type: "checkbox",
      onchange: () => {
        if (box.checked) this.chosen.set(summary.id, source);
        else this.chosen.delete(summary.id);
        this.#showChosen();
      },
    });
    const copyButton = el(
      "button.link",
      { type: "button", "aria-label": `Copy the id of ${title}`, onclick: () => copy(summary.id, copyButton) },
      "Copy id",
    );
    const row = el(
      "div.stored",
      {},
      el("label", {}, box, el("span.title", {}, title)),
      el("code", { title: summary.id }, shortId(summary.id)),
      el(
        "span.facts",
        {},
        `${count(summary.tokens)} tokens → ${plural(summary.vectors, "vector")} · ${ago(summary.created)}`,
      ),
      el(
        "span.row-actions",
        {},
        copyButton,
        el(
          "button.link.risky",
          { type: "button", "aria-label": `Delete ${title}`, onclick: () => this.#delete(source, row) },
          "Delete",
        ),
      ),
    );
    return row;
  }

  #showChosen() {
    const sources = [...this.chosen.values()];
    const vectors = sources.reduce((sum, source) => sum + source.vectors, 0);
    const button = this.root.querySelector("[data-do=use]");
    button.disabled = !sources.length;
    button.textContent = sources.length > 1 ? `Fuse ${sources.length} and ask` : "Ask with these";
    this.root.querySelector(".chosen").textContent = sources.length
      ? `${plural(vectors, "vector")} in the order chosen`
      : "";
  }

  #use() {
    this.session.setSources([...this.chosen.values()]);
    document.getElementById("ask").scrollIntoView();
    document.getElementById("prompt").focus({ preventScroll: true });
  }

  async #delete(source, row) {
    if (!(await this.#isConfirmed(source))) return;
    try {
      await call(`/summaries/${source.id}`, { method: "DELETE" });
      row.remove();
      this.session.removed(source.id);
      await this.refresh();
      this.root.querySelector("[data-do=refresh]").focus();
    } catch (error) {
      showError(this.notices, error, () => this.refresh());
    }
  }

  #isConfirmed({ title, vectors }) {
    this.dialog.querySelector("p").textContent =
      `“${title}”, ${plural(vectors, "vector")}. Its text has to be compressed again to get it back.`;
    this.dialog.returnValue = "";
    this.dialog.showModal();
    return new Promise((answer) => {
      for (const choice of ["yes", "no"]) {
        this.dialog.querySelector(`[data-do=${choice}]`).onclick = () => this.dialog.close(choice);
      }
      this.dialog.addEventListener("close", () => answer(this.dialog.returnValue === "yes"), { once: true });
    });
  }
}

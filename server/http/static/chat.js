/** A conversation that outgrows the window. */

import { stream } from "./api.js";
import { el, setBusy } from "./dom.js";
import { Expansion, whyNoExpansion } from "./expansion.js";
import { Meter } from "./meter.js";
import { clearNotice, showError } from "./notice.js";

const MAX_TOKENS = 96;

export class ChatPanel {
  constructor(root, session) {
    this.root = root;
    this.session = session;
    this.messages = [];
    this.log = root.querySelector(".talk");
    this.input = root.querySelector("textarea");
    this.notices = root.querySelector(".notices");
    this.meter = new Meter(root.querySelector(".meter"), session);
    this.reading = el("input", { type: "checkbox", onchange: () => this.#showOptions() });
    this.expansion = new Expansion();
    const reading = el("p.switch", {}, el("label", {}, this.reading, "Read the summary above too"));
    root.querySelector(".options").append(reading, this.expansion.element);
    session.addEventListener("sources", () => this.#showOptions());
    this.#showOptions();
    this.#listen();
    this.clear();
  }

  #listen() {
    const on = (name, listener) => this.root.querySelector(`[data-do=${name}]`).addEventListener("click", listener);
    on("stop", () => this.abort.abort());
    on("clear", () => this.clear());
    on("quote", () => this.#quote());
    this.root.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.root.querySelector("form").requestSubmit();
    });
  }

  #showOptions() {
    const { sources } = this.session;
    this.reading.disabled = !sources.length;
    if (!sources.length) this.reading.checked = false;
    // what was compressed of the chat itself has its text; a summary may have none
    this.expansion.allow(this.reading.checked ? whyNoExpansion(sources) : null);
  }

  clear() {
    this.abort?.abort();
    this.messages = [];
    clearNotice(this.notices);
    this.meter.reset();
    this.log.replaceChildren(
      el(
        "div.empty",
        {},
        el("p", {}, "Nothing said yet. Add the document above and the conversation is past the window at once."),
      ),
    );
  }

  #quote() {
    const { text } = this.session;
    this.input.value = text ? `${text.trim()}\n\n${this.input.value}` : this.input.value;
    this.input.focus();
    this.input.scrollTop = this.input.scrollHeight;
    if (!text)
      showError(this.notices, Object.assign(new Error("There is no document above yet."), { code: "no_text" }));
  }

  #send() {
    const content = this.input.value.trim();
    if (!content || this.root.getAttribute("aria-busy") === "true") return;
    if (!this.messages.length) this.log.replaceChildren();
    this.messages.push({ role: "user", content });
    this.log.append(bubble("user", content));
    this.input.value = "";
    this.#answer();
  }

  /** What was said, after the summaries where these are read: they condition all of it, wherever they stand. */
  #said() {
    if (!this.reading.checked) return this.messages;
    const [{ role, content }, ...rest] = this.messages;
    return [{ role, content: [...this.session.summaryParts(), { type: "text", text: content }] }, ...rest];
  }

  async #answer() {
    clearNotice(this.notices);
    setBusy(this.root, true);
    this.abort = new AbortController();
    const messages = this.messages;
    const said = bubble("assistant", "");
    this.log.append(said);
    this.#scroll();
    const body = {
      model: this.session.model?.name,
      messages: this.#said(),
      max_tokens: MAX_TOKENS,
      temperature: 0.7,
      stream_options: { include_usage: true },
      ...(this.expansion.value && { expand: this.expansion.value }),
    };
    let content = "";
    try {
      for await (const chunk of stream("/v1/chat/completions", body, this.abort.signal)) {
        const written = chunk.choices[0]?.delta?.content ?? "";
        const piece = content ? written : written.trimStart();
        content += piece;
        said.lastChild.append(piece);
        if (chunk.compression) this.meter.show(chunk.compression);
        this.#scroll();
      }
    } catch (error) {
      if (!content) said.remove();
      if (messages === this.messages) showError(this.notices, error, () => this.#answer());
    } finally {
      // what was said before a stop stays said
      if (content) messages.push({ role: "assistant", content });
      setBusy(this.root, false);
    }
  }

  #scroll() {
    this.log.scrollTop = this.log.scrollHeight;
  }
}

/** A message; a long one shows its beginning and opens. */
function bubble(role, content) {
  const name = el("span.visually-hidden", {}, role === "user" ? "You: " : "Model: ");
  if (content.length < 600) return el(`div.said.${role}`, {}, name, el("p", {}, content));
  const start = el(
    "summary",
    {},
    `${content.slice(0, 180).replace(/\s+/g, " ").trimEnd()}…`,
    el("span.facts", {}, `${content.length.toLocaleString("en")} characters, all sent`),
  );
  const end = content.trimEnd().split("\n").at(-1);
  return el(
    `div.said.${role}`,
    {},
    name,
    el("details", {}, start, el("p", {}, content)),
    end.length < 600 ? el("p", {}, end) : null,
  );
}

/** A conversation that outgrows the window, and is compacted where it has grown so long. */

import { stream } from "./api.js";
import { Conversation, GONE } from "./conversation.js";
import { el, setBusy } from "./dom.js";
import { Expansion, whyNoExpansion } from "./expansion.js";
import { Fold, unfold } from "./fold.js";
import { Meter } from "./meter.js";
import { clearNotice, showError } from "./notice.js";
import { receipt } from "./receipt.js";
import { bubble } from "./said.js";
import { Threshold } from "./threshold.js";

const MAX_TOKENS = 96;
const TEMPERATURE = 0.7;
const BY_ITSELF = "Unchecked: as many as a sixteenth of the window takes.";

export class ChatPanel {
  constructor(root, session) {
    this.root = root;
    this.session = session;
    this.log = root.querySelector(".talk");
    this.input = root.querySelector("textarea");
    this.notices = root.querySelector(".notices");
    this.compacting = root.querySelector("[data-do=compact]");
    this.meter = new Meter(root.querySelector(".meter"), session);
    this.threshold = new Threshold(root.querySelector(".threshold"), session);
    this.threshold.addEventListener("change", () => this.#showOptions());
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
    on("compact", () => this.#compact());
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
    const reads = this.reading.checked;
    // what was compressed of the chat itself has its text; a summary may have none
    this.expansion.allow(reads ? whyNoExpansion(sources) : null, reads ? "" : BY_ITSELF);
    this.threshold.allow(!reads);
    this.meter.mark(this.threshold.value);
    this.#showCompacting();
  }

  #showCompacting() {
    this.compacting.disabled = this.#isBusy || this.reading.checked || !this.hasNews;
  }

  get #isBusy() {
    return this.root.getAttribute("aria-busy") === "true";
  }

  clear() {
    this.abort?.abort();
    this.messages = [];
    this.#restart();
    this.hasNews = false; // since the last compaction
    clearNotice(this.notices);
    this.meter.reset();
    this.#showCompacting();
    this.log.replaceChildren(
      el(
        "div.empty",
        {},
        el("p", {}, "Nothing said yet. Add the document above and the conversation is past the window at once."),
      ),
    );
  }

  /** The server has nothing of the conversation: all of it is sent again. */
  #restart() {
    this.conversation = new Conversation(this.messages);
    this.compacted = 0; // tokens, of all compactions; null where one did not say
    unfold(this.log);
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
    if (!content || this.#isBusy) return;
    if (!this.messages.length) this.log.replaceChildren();
    const isAlone = this.messages.at(-1)?.role !== "user" || this.asked.parentElement !== this.log;
    this.messages.push({ role: "user", content });
    this.conversation.say("user", content);
    this.hasNews = true;
    const said = bubble("user", content);
    this.log.append(said);
    if (isAlone) this.asked = said; // else what was asked before has no answer, and stays as it is too
    this.input.value = "";
    this.#answer();
  }

  /** Do something that may be stopped; what goes wrong is shown, with a button that does it again. */
  async #busily(work, again) {
    const { conversation } = this;
    clearNotice(this.notices);
    setBusy(this.root, true);
    this.abort = new AbortController();
    this.#showCompacting();
    try {
      await work(this.abort.signal);
    } catch (error) {
      if (conversation === this.conversation) {
        showError(this.notices, error, () => {
          if (GONE.has(error.code)) this.#restart();
          again();
        });
      }
    } finally {
      setBusy(this.root, false);
      this.#showCompacting();
    }
  }

  #answer() {
    return this.#busily(
      (signal) => this.#heard(this.reading.checked ? this.#fromSummaries(signal) : this.#fromConversation(signal)),
      () => this.#answer(),
    );
  }

  /** Show an answer as it comes. @param parts texts, and at the end `{compression, more, id}`; an id where it is kept */
  async #heard(parts) {
    const { messages, conversation } = this;
    const said = bubble("assistant", "");
    this.log.append(said);
    this.#scroll();
    let content = "";
    let isKept = false;
    try {
      for await (const part of parts) {
        if (typeof part === "string") {
          const piece = content ? part : part.trimStart();
          content += piece;
          said.lastChild.append(piece);
        } else {
          const { compression, more, id } = part;
          isKept = id !== null;
          this.meter.show(compression, more);
          said.after(receipt(compression, { window: this.session.model?.max_positions ?? null, id }));
        }
        this.#scroll();
      }
    } finally {
      if (!content) said.remove();
      // what was said before a stop stays said
      if (content) messages.push({ role: "assistant", content });
      if (content && !isKept) conversation.say("assistant", content);
    }
  }

  async *#fromSummaries(signal) {
    const [{ role, content }, ...rest] = this.messages;
    // summaries condition all that is said, wherever they stand
    const first = { role, content: [...this.session.summaryParts(), { type: "text", text: content }] };
    const body = {
      model: this.session.model?.name,
      messages: [first, ...rest],
      max_tokens: MAX_TOKENS,
      temperature: TEMPERATURE,
      stream_options: { include_usage: true },
      ...this.#expanding,
    };
    for await (const chunk of stream("/v1/chat/completions", body, signal)) {
      const text = chunk.choices[0]?.delta?.content;
      if (text) yield text;
      if (chunk.compression) yield { compression: chunk.compression, more: {}, id: null };
    }
  }

  async *#fromConversation(signal) {
    const { conversation } = this;
    const body = {
      model: this.session.model?.name,
      max_output_tokens: MAX_TOKENS,
      temperature: TEMPERATURE,
      truncation: "auto",
      ...(this.threshold.value && {
        context_management: [{ type: "compaction", compact_threshold: this.threshold.value }],
      }),
      ...this.#expanding,
    };
    let fold = null;
    try {
      for await (const { text, compaction, response } of conversation.reply(body, signal)) {
        if (text) yield text;
        if (compaction) fold = new Fold(this.log, this.asked);
        if (!response) continue;
        const { usage, compression } = response;
        if (fold) this.#fold(fold, compression.compaction);
        fold = null;
        yield { compression, more: { compacted: this.compacted, usage }, id: response.id };
      }
    } finally {
      if (fold && conversation === this.conversation) this.#fold(fold, null);
    }
  }

  get #expanding() {
    return this.expansion.value ? { expand: this.expansion.value } : {};
  }

  #compact() {
    const { conversation } = this;
    const hadFocus = document.activeElement === this.compacting;
    return this.#busily(
      async (signal) => {
        const read = await conversation.compact(this.session.model?.name, signal);
        if (conversation !== this.conversation) return; // a new chat began meanwhile
        this.#fold(new Fold(this.log), read);
        this.hasNews = false;
        this.meter.showCompacted(read, this.compacted);
        if (hadFocus) this.input.focus(); // the button has nothing more to do, and a disabled one loses it
        this.#scroll();
      },
      () => this.#compact(),
    );
  }

  /** @param {?Object} read what a compaction took; null where the answer after it was broken off */
  #fold(fold, read) {
    this.compacted = read && this.compacted !== null ? this.compacted + read.tokens : null;
    fold.show(read && { tokens: this.compacted, vectors: read.vectors });
  }

  #scroll() {
    this.log.scrollTop = this.log.scrollHeight;
  }
}

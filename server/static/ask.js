/** One prompt, answered from the summary, from the text, and from nothing. */

import { stream } from "./api.js";
import { el, setBusy } from "./dom.js";
import { plural, seconds } from "./format.js";
import { showError } from "./notice.js";

export class AskPanel {
  constructor(root, session) {
    this.root = root;
    this.session = session;
    this.form = root.querySelector("form");
    this.answers = ["summary", "text", "nothing"].map((kind) => new Answer(kind));
    root.querySelector(".answers").append(...this.answers.map((answer) => answer.element));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    root.querySelector("[data-do=stop]").addEventListener("click", () => this.abort.abort());
    session.addEventListener("sources", () => this.#showSources());
    this.#showSources();
  }

  #showSources() {
    const { sources } = this.session;
    const place = this.root.querySelector(".sources");
    place.replaceChildren(
      ...(sources.length
        ? sources.map(chip)
        : [el("span.facts", {}, "No document yet: only the model itself will answer.")]),
    );
    for (const answer of this.answers) answer.reset(this.#why(answer.kind));
  }

  /** Why an answer of this kind cannot be had; null where it can. */
  #why(kind) {
    if (kind === "nothing") return null;
    if (!this.session.sources.length) return "Compress a document, or choose a stored summary.";
    if (kind === "text" && this.session.sourceText() === null)
      return "The server keeps vectors and no text; this one was compressed elsewhere.";
    return null;
  }

  async ask() {
    const { value: prompt } = this.root.querySelector("#prompt");
    const number = (name) => Number(this.form.elements[name].value);
    const common = {
      max_tokens: number("max_tokens"),
      temperature: number("temperature"),
      top_p: 0.95,
      seed: number("seed"),
    };
    const calls = {
      summary: [
        "/generate",
        { ...common, summary_ids: this.session.sources.map((source) => source.id), prompt: ` ${prompt}` },
      ],
      text: [
        "/v1/completions",
        {
          ...common,
          model: this.session.model?.name,
          prompt: `${this.session.sourceText()}\n\n${prompt}`,
          truncate: "left",
          stream_options: { include_usage: true },
        },
      ],
      nothing: ["/generate", { ...common, prompt }],
    };
    this.abort = new AbortController();
    setBusy(this.root, true);
    const running = [];
    try {
      for (const answer of this.answers) {
        if (this.#why(answer.kind) !== null) continue;
        const [path, body] = calls[answer.kind];
        // the next waits for this one's first token: else a step of the engine would read both, and time both alike
        await new Promise((started) => {
          running.push(answer.run(path, body, { signal: this.abort.signal, started, retry: () => this.ask() }));
        });
      }
      await Promise.all(running);
    } finally {
      setBusy(this.root, false);
    }
  }
}

function chip(source) {
  return el("span.chip", {}, source.title, el("small", {}, plural(source.vectors, "vector")));
}

const NAMES = { summary: "From the summary", text: "From the full text", nothing: "From nothing" };

/** One of the answers: its text as it comes, and how fast. */
class Answer {
  constructor(kind) {
    this.kind = kind;
    this.read = el("span.read");
    this.body = el("div.body", { "aria-live": "polite", "aria-atomic": "false" });
    this.first = el("dd", {}, "–");
    this.speed = el("dd", {}, "–");
    this.element = el(
      `article.answer.${kind}`,
      { "aria-label": NAMES[kind] },
      el("header", {}, el("h3", {}, NAMES[kind]), this.read),
      this.body,
      el(
        "dl",
        {},
        el("div", {}, el("dt", {}, "First token"), this.first),
        el("div", {}, el("dt", {}, "Tokens/s"), this.speed),
      ),
    );
  }

  reset(why) {
    this.element.classList.toggle("absent", why !== null);
    this.read.textContent = "";
    this.first.textContent = this.speed.textContent = "–";
    this.body.replaceChildren(el("p.hint", {}, why ?? "The answer appears here."));
  }

  /** Stream one answer; `started` is called at its first token, or at its end where it had none. */
  async run(path, body, { signal, started, retry }) {
    this.reset(null);
    this.element.setAttribute("aria-busy", "true");
    const text = el("p");
    this.body.replaceChildren(el("p.prompted", {}, body.prompt.split("\n").at(-1).trim()), text);
    const sentAt = performance.now();
    let firstAt = null;
    let numTokens = 0;
    try {
      for await (const chunk of stream(path, body, signal)) {
        const piece = chunk.text ?? chunk.choices?.[0]?.text ?? "";
        if (piece && firstAt === null) {
          firstAt = performance.now();
          this.first.textContent = seconds((firstAt - sentAt) / 1000);
          started();
        }
        text.append(piece);
        numTokens = chunk.usage?.completion_tokens ?? numTokens + 1;
        if (numTokens > 1)
          this.speed.textContent = ((numTokens - 1) / ((performance.now() - firstAt) / 1000)).toFixed(0);
        if (chunk.usage) this.read.textContent = readOf(chunk);
      }
    } catch (error) {
      if (error.name === "AbortError") text.append(el("span.stopped", {}, " stopped"));
      else showError(this.body, error, retry);
    } finally {
      started();
      this.element.setAttribute("aria-busy", "false");
    }
  }
}

/** What an answer was read from. */
function readOf({ usage, compression }) {
  const dropped = compression?.dropped_tokens ? `, ${plural(compression.dropped_tokens, "token")} left out` : "";
  const vectors = usage.summary_vectors ? `${plural(usage.summary_vectors, "vector")} + ` : "";
  return `${vectors}${plural(usage.prompt_tokens, "token")}${dropped}`;
}

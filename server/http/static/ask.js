/** One prompt, answered from the summary, from the text, and from nothing. */

import { Answer } from "./answer.js";
import { el, setBusy } from "./dom.js";
import { Expansion, whyNoExpansion } from "./expansion.js";
import { plural } from "./format.js";
import { questionsOf } from "./questions.js";

const WORDS = {
  question: { label: "Question", placeholder: "Who lit the lamp?" },
  continue: { label: "Text to continue", placeholder: "The last thing she remembered was" },
};
const OF_A_QUESTION = { temperature: "0", max_tokens: "48" }; // the likeliest answer, and a short one

export class AskPanel {
  constructor(root, session) {
    this.root = root;
    this.session = session;
    this.form = root.querySelector("form");
    this.prompt = root.querySelector("#prompt");
    this.expected = root.querySelector(".expected");
    this.expansion = new Expansion();
    root.querySelector(".options").append(this.expansion.element);
    this.answers = ["summary", "text", "nothing"].map((kind) => new Answer(kind));
    root.querySelector(".answers").append(...this.answers.map((answer) => answer.element));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    root.querySelector("[data-do=stop]").addEventListener("click", () => this.abort.abort());
    session.addEventListener("sources", () => this.#showSources());
    session.addEventListener("model", () => this.#showForm());
    session.addEventListener("example", () => this.#fillIn());
    this.#showSources();
  }

  get #wording() {
    return this.session.model?.has_chat_template ? "question" : "continue";
  }

  #showForm() {
    const { label, placeholder } = WORDS[this.#wording];
    this.root.querySelector("label[for=prompt]").textContent = label;
    this.prompt.placeholder = placeholder;
    if (this.#wording !== "question") return;
    // what a user has typed already stays
    for (const [name, value] of Object.entries(OF_A_QUESTION)) this.form.elements[name].defaultValue = value;
  }

  /** The example's own question, unless another was typed. */
  #fillIn() {
    if (!this.prompt.value) this.prompt.value = this.session.example[this.#wording];
  }

  #showSources() {
    const { sources } = this.session;
    const place = this.root.querySelector(".sources");
    place.replaceChildren(
      ...(sources.length
        ? sources.map(chip)
        : [el("span.facts", {}, "No document yet: only the model itself will answer.")]),
    );
    this.expected.textContent = "";
    this.expansion.allow(whyNoExpansion(sources));
    for (const answer of this.answers) answer.reset(this.#why(answer.kind));
  }

  /** Why an answer of this kind cannot be had; null where it can. */
  #why(kind) {
    if (kind === "nothing") return null;
    if (!this.session.sources.length) return "Compress a document, or choose a stored summary.";
    if (kind === "text" && this.session.sourceText() === null)
      return "The text is not on this page; it was compressed elsewhere.";
    return null;
  }

  async ask() {
    const prompt = this.prompt.value.trim();
    const number = (name) => Number(this.form.elements[name].value);
    const sampling = {
      max_tokens: number("max_tokens"),
      temperature: number("temperature"),
      top_p: 0.95,
      seed: number("seed"),
    };
    const questions = questionsOf(this.session, prompt, { sampling, expand: this.expansion.value });
    this.#showExpected(prompt);
    this.abort = new AbortController();
    const shared = { prompt, sources: this.session.sources, signal: this.abort.signal, retry: () => this.ask() };
    setBusy(this.root, true);
    const running = [];
    try {
      for (const answer of this.answers) {
        if (this.#why(answer.kind) !== null) continue;
        // the next waits for this one's first token: else a step of the engine would read both, and time both alike
        await new Promise((started) => {
          running.push(answer.run(questions[answer.kind], { ...shared, started }));
        });
      }
      await Promise.all(running);
    } finally {
      setBusy(this.root, false);
    }
  }

  /** What the example's text says, beside what the answers say. */
  #showExpected(prompt) {
    const { question, answer } = this.session.example ?? {};
    const isKnown = this.#wording === "question" && prompt === question && answer;
    this.expected.textContent = isKnown ? `The text says: ${answer}` : "";
  }
}

function chip(source) {
  return el("span.chip", {}, source.title, el("small", {}, plural(source.vectors, "vector")));
}

/** One of the answers: its text as it comes, what it was read from, and how fast. */

import { stream } from "./api.js";
import { el } from "./dom.js";
import { plural, seconds } from "./format.js";
import { showError } from "./notice.js";

const NAMES = { summary: "From the summary", text: "From the full text", nothing: "From nothing" };

export class Answer {
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

  /**
   * Stream one answer.
   * @param {string} prompt shown before it
   * @param {function()} started called at its first token, or at its end where it had none
   */
  async run([path, body], { prompt, sources, signal, started, retry }) {
    this.reset(null);
    this.element.setAttribute("aria-busy", "true");
    const text = el("p");
    const isChat = body.messages !== undefined;
    this.body.replaceChildren(el(isChat ? "p.prompted.question" : "p.prompted", {}, prompt), text);
    const sentAt = performance.now();
    let firstAt = null;
    let numTokens = 0;
    try {
      for await (const chunk of stream(path, body, signal)) {
        const written = writtenIn(chunk);
        const piece = isChat && !text.textContent ? written.trimStart() : written;
        if (written && firstAt === null) {
          firstAt = performance.now();
          this.first.textContent = seconds((firstAt - sentAt) / 1000);
          started();
        }
        text.append(piece);
        numTokens = chunk.usage?.completion_tokens ?? numTokens + (written ? 1 : 0);
        if (numTokens > 1)
          this.speed.textContent = ((numTokens - 1) / ((performance.now() - firstAt) / 1000)).toFixed(0);
        if (chunk.usage) this.read.textContent = readOf(chunk, { sources, isExpanding: Boolean(body.expand) });
      }
      if (!text.textContent) text.append(el("span.stopped", {}, "Nothing was said."));
    } catch (error) {
      if (error.name === "AbortError") text.append(el("span.stopped", {}, " stopped"));
      else showError(this.body, error, retry);
    } finally {
      started();
      this.element.setAttribute("aria-busy", "false");
    }
  }
}

/** The text in a chunk of any of the three routes. */
function writtenIn({ text, choices }) {
  return text ?? choices?.[0]?.delta?.content ?? choices?.[0]?.text ?? "";
}

/** What an answer was read from, by its last chunk. */
function readOf({ usage, compression, receipt }, { sources, isExpanding }) {
  const { expanded, thinned_vectors: thinned } = compression ?? receipt;
  const asText = expanded.reduce((sum, segment) => sum + segment.tokens, 0);
  const tokens = compression ? compression.raw_tokens + asText : usage.prompt_tokens;
  const vectors = compression?.summary_vectors ?? usage.summary_vectors;
  const dropped = compression?.dropped_tokens;
  return [
    `${vectors ? `${plural(vectors, "vector")} + ` : ""}${plural(tokens, "token")}`,
    dropped ? `${plural(dropped, "token")} left out` : null,
    thinned ? `${plural(thinned, "vector")} thinned out` : null,
    expanded.length ? `${segmentsIn(expanded, sources)} as text` : null,
    isExpanding && !expanded.length ? "no segment shares a word with it" : null,
  ]
    .filter((part) => part !== null)
    .join(", ");
}

/** Segments by their numbers, which count from 1 on this page; by their documents too where these are several. */
function segmentsIn(expanded, sources) {
  const numbers = sources
    .map(({ id, title }) => ({
      title,
      found: expanded.filter((one) => one.summary_id === id).map((one) => one.segment + 1),
    }))
    .filter(({ found }) => found.length);
  return numbers
    .map(({ title, found }) => {
      const named = `${found.length > 1 ? "segments" : "segment"} ${found.join(" and ")}`;
      return sources.length > 1 ? `${named} of ${title}` : named;
    })
    .join(", ");
}

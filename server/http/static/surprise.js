/** What a summary is worth: the document's own end, scored with and without what stands before it. */

import { call } from "./api.js";
import { Chart } from "./chart.js";
import { el, setBusy } from "./dom.js";
import { plural } from "./format.js";
import { clearNotice, showError } from "./notice.js";

const SCORED_TOKENS = 100;
const RAW_TOKENS = 8; // read as they are in both cases, so that neither starts in the middle of nothing
const LEAST_TOKENS = 200;
const KEPT_SECONDS = 600; // of the first part's own summary, should the page be closed before it deletes it

export class SurprisePanel {
  constructor(root, session) {
    this.root = root;
    this.session = session;
    this.place = root.querySelector(".chart-place");
    this.notices = root.querySelector(".notices");
    root.querySelector("[data-do=measure]").addEventListener("click", () => this.measure());
    root.querySelector("[data-do=stop]").addEventListener("click", () => this.abort.abort());
    session.addEventListener("sources", () => this.#showEmpty());
    this.#showEmpty();
  }

  #showEmpty() {
    const isReady = this.#document() !== null;
    this.root.querySelector("[data-do=measure]").disabled = !isReady;
    const words = isReady
      ? "Ready to measure."
      : `Compress a document of at least ${LEAST_TOKENS} tokens above to see what its summary is worth.`;
    this.place.replaceChildren(el("div.empty.chart-empty", {}, el("p", {}, words)));
  }

  /** The one document that is asked and whose text is here; null where there is none, or it is too short. */
  #document() {
    const [source, ...more] = this.session.sources;
    const text = source && !more.length ? this.session.sourceText() : null;
    return text !== null && source.tokens >= LEAST_TOKENS ? { ...source, text } : null;
  }

  async measure() {
    const { text, tokens } = this.#document();
    const { before, prompt, continuation } = cut(text.trimEnd(), text.length / tokens);
    clearNotice(this.notices);
    setBusy(this.root, true);
    this.abort = new AbortController();
    const { signal } = this.abort;
    const post = (path, body) => call(path, { method: "POST", body, signal });
    this.place.replaceChildren(
      el("div.empty.chart-empty.loading", {}, el("p", {}, "Compressing what stands before, and scoring twice…")),
    );
    try {
      const summary = await post("/compress", { text: before, ttl_seconds: KEPT_SECONDS });
      const scored = { prompt, continuations: [continuation] };
      const [withIt, without] = await Promise.all([
        post("/score", { ...scored, summary_ids: [summary.id] }),
        post("/score", scored),
      ]);
      // one that was there before is someone's own
      if (summary.cached_segments < summary.segments) await call(`/summaries/${summary.id}`, { method: "DELETE" });
      this.#show(summary, withIt.scores[0], without.scores[0]);
    } catch (error) {
      this.#showEmpty();
      showError(this.notices, error, () => this.measure());
    } finally {
      setBusy(this.root, false);
    }
  }

  #show(summary, withIt, without) {
    const tokens = withIt.tokens.map((token, index) => ({
      token,
      withIt: -withIt.token_logprobs[index],
      without: -without.token_logprobs[index],
    }));
    const mean = (kind) => tokens.reduce((sum, one) => sum + one[kind], 0) / tokens.length;
    const saved = mean("without") - mean("withIt");
    const perplexity = (kind) => Math.exp(mean(kind)).toFixed(1);
    const verdict = el(
      "p.verdict",
      { "aria-live": "polite" },
      el("strong", { class: saved >= 0 ? "saved" : "lost" }, `${Math.abs(saved).toFixed(3)} nats`),
      ` ${saved >= 0 ? "saved" : "lost"} a token by ${plural(summary.vectors, "vector")}`,
      el(
        "span.facts",
        {},
        `perplexity ${perplexity("without")} → ${perplexity("withIt")} over ${plural(tokens.length, "token")}`,
      ),
    );
    this.place.replaceChildren(verdict, new Chart(tokens).element);
  }
}

/** A text in three, cut before spaces, where tokens end too. */
function cut(text, charactersPerToken) {
  const before = (end, tokens) => {
    const wanted = Math.max(1, Math.floor(end - tokens * charactersPerToken));
    const space = text.slice(0, wanted).search(/\s\S*$/);
    return space > 0 ? space : wanted;
  };
  const start = before(text.length, SCORED_TOKENS);
  const raw = before(start, RAW_TOKENS);
  return { before: text.slice(0, raw), prompt: text.slice(raw, start), continuation: text.slice(start) };
}

/** What the parts of the page share: the model, the texts at hand, and the summaries that are asked. */

/** @typedef {{id: string, title: string, tokens: number, vectors: number, hasText: boolean}} Source */
/** @typedef {{title: string, question: string, answer: string, continue: string}} Example */

/** Events: "model", "sources", "stored" (the server's summaries have changed), "example". */
export class Session extends EventTarget {
  model = null;
  /** @type {Source[]} */
  sources = [];
  text = "";
  /** @type {?Example} the one that was loaded last */
  example = null;
  #texts = new Map();

  /** @param {Object} info as the server's /info has it */
  setModel({ model, limits }) {
    this.model = { ...model, name: model.id, max_positions: limits.max_positions };
    this.dispatchEvent(new Event("model"));
  }

  setExample(example) {
    this.example = example;
    this.dispatchEvent(new Event("example"));
  }

  setSources(sources) {
    this.sources = sources;
    this.dispatchEvent(new Event("sources"));
  }

  /** A document of this page was compressed: it is what is asked from now on. */
  addDocument(source, text) {
    this.#texts.set(source.id, text);
    this.setSources([source]);
    this.dispatchEvent(new Event("stored"));
  }

  /** A summary is gone from the server. */
  removed(id) {
    this.setSources(this.sources.filter((source) => source.id !== id));
  }

  /** The sources as parts of a message. */
  summaryParts() {
    return this.sources.map(({ id }) => ({ type: "summary", id }));
  }

  /** The texts of the sources joined; null where one was compressed elsewhere. */
  sourceText() {
    const texts = this.sources.map((source) => this.#texts.get(source.id));
    return texts.includes(undefined) ? null : texts.join("\n\n");
  }
}

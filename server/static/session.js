/** What the parts of the page share: the model, the texts at hand, and the summaries that are asked. */

/** @typedef {{id: string, title: string, tokens: number, vectors: number}} Source */

/** Events: "model", "sources", "stored" (the server's summaries have changed). */
export class Session extends EventTarget {
  model = null;
  /** @type {Source[]} */
  sources = [];
  text = "";
  #texts = new Map();

  setModel(card) {
    this.model = { name: card.id, ...card.meta };
    this.dispatchEvent(new Event("model"));
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

  /** The texts of the sources joined; null where one was compressed elsewhere: the server keeps no text. */
  sourceText() {
    const texts = this.sources.map((source) => this.#texts.get(source.id));
    return texts.includes(undefined) ? null : texts.join("\n\n");
  }
}

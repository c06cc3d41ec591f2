/** A conversation as the server has it: the response that it goes on from, and what was said since. */

import { call, stream } from "./api.js";

/** Codes of errors after which a conversation can only be told anew. */
export const GONE = new Set(["previous_response_not_found", "compaction_expired"]);

export class Conversation {
  #before = null; // the id of a response
  #items = []; // what it does not have, in order

  /** @param {{role: string, content: string}[]} messages what was said so far */
  constructor(messages = []) {
    this.#items = [...messages];
  }

  /** Something was said that no response of the server has. */
  say(role, content) {
    this.#items.push({ role, content });
  }

  /**
   * Have the server answer. Yields `{text}` as it comes, `{compaction: true}` where an item came to stand for what was
   * said, and at last `{response}`.
   */
  async *reply(body, signal) {
    for await (const event of stream("/v1/responses", { ...body, ...this.#asked() }, signal)) {
      if (event.type === "response.output_text.delta") {
        yield { text: event.delta };
      } else if (event.type === "response.output_item.done" && event.item.type === "compaction") {
        // it has what was asked last too: an answer that is broken off goes on from here
        this.#goOn(null, [event.item]);
        yield { compaction: true };
      } else if (event.response?.compression) {
        this.#goOn(event.response.id, []);
        yield { response: event.response };
      }
    }
  }

  /** Have all of it compacted. @returns {Promise<Object>} what it took: tokens, cached_tokens, vectors */
  async compact(model, signal) {
    const body = { model, ...this.#asked() };
    const { output, compression } = await call("/v1/responses/compact", { method: "POST", body, signal });
    this.#goOn(null, output);
    return compression.compaction;
  }

  #asked() {
    return {
      ...(this.#before && { previous_response_id: this.#before }),
      ...(this.#items.length && { input: this.#items }),
    };
  }

  #goOn(before, items) {
    this.#before = before;
    this.#items = items;
  }
}

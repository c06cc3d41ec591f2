/** Text against vectors, to scale, in positions of a prompt and in bytes. */

import { el, vary } from "./dom.js";
import { bytes, plural } from "./format.js";

const BYTES_OF = { float32: 4, bfloat16: 2, float16: 2 };

/** @param {Object} done the server's answer @param {?Object} model whose vectors they are */
export function comparison(done, textBytes, model) {
  const { hidden_size: width, dtype } = model ?? {};
  const rows = [
    ["Text", "ink", done.tokens, "token"],
    ["Summary", "accent", done.vectors, "vector"],
  ].map(([name, kind, number, noun]) => bar(name, kind, number / done.tokens, plural(number, noun)));
  const stored = done.vectors * width * BYTES_OF[dtype];
  const most = Math.max(stored, textBytes);
  const sizes = Number.isNaN(stored)
    ? []
    : [
        el("h3", {}, "Bytes to keep"),
        bar("Text", "ink", textBytes / most, bytes(textBytes)),
        bar("Summary", "accent", stored / most, bytes(stored)),
      ];
  const ratio = el("strong.ratio", {}, `${done.compression_ratio.toFixed(1)}×`);
  return el("div.comparison", {}, el("h3", {}, "Positions in the window ", ratio, " fewer"), ...rows, ...sizes);
}

function bar(name, kind, share, label) {
  const fill = vary(el(`span.fill.${kind}`), "--share", Math.max(share, 0.004).toFixed(4));
  return el("div.bar-row", {}, el("span.name", {}, name), el("span.track", {}, fill), el("span.value", {}, label));
}

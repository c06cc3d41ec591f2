/** What was said, as it stands in the conversation. */

import { el } from "./dom.js";
import { count } from "./format.js";

const LONG = 600; // characters
const SHOWN = 180;

/** A message; a long one shows its beginning and opens. */
export function bubble(role, content) {
  const name = el("span.visually-hidden", {}, role === "user" ? "You: " : "Model: ");
  if (content.length < LONG) return el(`div.said.${role}`, {}, name, el("p", {}, content));
  const start = el(
    "summary",
    {},
    `${content.slice(0, SHOWN).replace(/\s+/g, " ").trimEnd()}…`,
    el("span.facts", {}, `${count(content.length)} characters, all sent`),
  );
  const end = content.trimEnd().split("\n").at(-1);
  return el(
    `div.said.${role}`,
    {},
    name,
    el("details", {}, start, el("p", {}, content)),
    end.length < LONG ? el("p", {}, end) : null,
  );
}

/** What went wrong, where it went wrong: the server's own words, and a way on. */

import { el } from "./dom.js";

const TITLES = { 401: "A key is wanted", 413: "Too long", 429: "The server is full", 503: "Not ready", 507: "The store is full" };

/**
 * Show an error in a place; an abort is what its user wanted and shows nothing.
 * @param {function()|null} retry called by the notice's own button
 */
export function showError(place, error, retry = null) {
  clearNotice(place);
  if (error.name === "AbortError") return;
  if (error.code === undefined) throw error; // a defect of the page: not to be dressed as the server's
  const isWaiting = error.status === 429 || error.status === 503;
  const notice = el(
    isWaiting ? "div.notice.waiting" : "div.notice",
    { role: "alert" },
    el("strong", {}, TITLES[error.status] ?? "That did not work"),
    el("p", {}, error.message),
    el("p.under", {}, el("code", {}, error.status ? `${error.status} ${error.code}` : error.code)),
  );
  if (retry) notice.lastChild.append(retryButton(notice, isWaiting ? (error.retryAfter ?? 1) : 0, retry));
  place.append(notice);
}

export function clearNotice(place) {
  place.querySelectorAll(".notice").forEach((notice) => notice.remove());
}

/** A button that counts the server's Retry-After down before it can be pressed. */
function retryButton(notice, secondsLeft, retry) {
  const button = el("button.second", {
    type: "button",
    onclick: () => {
      notice.remove();
      retry();
    },
  });
  const tick = () => {
    button.disabled = secondsLeft > 0;
    button.textContent = secondsLeft > 0 ? `Try again in ${secondsLeft} s` : "Try again";
    if (secondsLeft > 0) setTimeout(tick, 1000);
    secondsLeft -= 1;
  };
  tick();
  return button;
}

/** Numbers and names as the page shows them. */

export const count = (number) => number.toLocaleString("en");

export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

export function bytes(number) {
  if (number < 1000) return `${number} B`;
  return number < 1e6 ? `${(number / 1000).toFixed(1)} kB` : `${(number / 1e6).toFixed(1)} MB`;
}

export function seconds(number) {
  if (number < 0.0995) return `${(number * 1000).toFixed(0)} ms`;
  return number < 10 ? `${number.toFixed(2)} s` : `${number.toFixed(0)} s`;
}

export function ago(unixSeconds) {
  const minutes = Math.max(0, Date.now() / 1000 - unixSeconds) / 60;
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${Math.floor(minutes)} min ago`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ago`;
  return plural(Math.floor(minutes / 1440), "day") + " ago";
}

export const shortId = (id) => (id.length > 14 ? `${id.slice(0, 8)}…${id.slice(-4)}` : id);

/** What to call a document: its first line that says something. */
export function titleOf(text) {
  const line =
    text
      .split("\n")
      .map((one) => one.trim())
      .find(Boolean) ?? "Untitled";
  return line.length > 64 ? `${line.slice(0, 63)}…` : line;
}

/** The server's API: JSON calls, streams of server-sent events, and its errors. */

import { hasAnotherKey, storedKey } from "./key.js";

/** An answer that is an error; `code` and `message` are the server's, `retryAfter` seconds or null. */
export class ApiError extends Error {
  constructor(message, { code, status = 0, retryAfter = null }) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** @returns {Promise<*>} the answer's JSON */
export async function call(path, { method = "GET", body, signal } = {}) {
  return (await request(path, { method, body, signal })).json();
}

/** POST with `stream`; yields each event's JSON until the server says it is done. */
export async function* stream(path, body, signal) {
  const response = await request(path, { method: "POST", body: { ...body, stream: true }, signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message, { code: event.error.code });
    yield event;
  }
  throw new ApiError("The answer broke off before its end.", { code: "connection_lost" });
}

async function request(path, { method, body, signal }) {
  const key = storedKey();
  const headers = {
    ...(body !== undefined && { "Content-Type": "application/json" }),
    ...(key !== null && { Authorization: `Bearer ${key}` }),
  };
  let response;
  try {
    response = await fetch(path, { method, signal, headers, ...(body !== undefined && { body: JSON.stringify(body) }) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", { code: "unreachable" });
  }
  if (response.status === 401 && (await hasAnotherKey(key))) return request(path, { method, body, signal });
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  const more = { status: response.status, retryAfter: Number.isNaN(seconds) ? null : seconds };
  try {
    const { error } = await response.json();
    return new ApiError(error.message, { code: error.code, ...more });
  } catch {
    return new ApiError(`The server answered ${response.status}.`, { code: "unexpected", ...more });
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // a reader that stops early ends the server's work too
  }
}

// Requests to the daemon: always to where this page came from, always relative to it.

const TOKEN = "kvmpilot-token";

/** A request that did not work, with what the daemon says about it. */
export class ApiError extends Error {
  /** @param {number} status HTTP status, 0 where there was no answer @param {string} detail */
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The token that was entered; it lives as long as this tab. */
export const token = {
  get() {
    return sessionStorage.getItem(TOKEN);
  },
  /** @param {string} value empty to forget it */
  set(value) {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  },
};

/** @returns {Record<string, string>} */
export function headers() {
  const value = token.get();
  return value ? { Authorization: `Bearer ${value}` } : {};
}

/**
 * @param {string} path below `/api/v1/`
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export function get(path, signal) {
  return ask(path, { headers: headers(), signal });
}

/**
 * Asks for a change. The header is one that no other site can send.
 * @param {string} path
 * @returns {Promise<any>}
 */
export function post(path) {
  return ask(path, { method: "POST", headers: { ...headers(), "X-Kvmpilot": "1" } });
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(`api/v1/${path}`, { ...options, cache: "no-cache", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "kvmpilotd does not answer");
  }
  let body = null;
  try {
    body = await answer.json();
  } catch {
    // Not JSON: the status has to do.
  }
  if (!answer.ok) throw new ApiError(answer.status, body?.detail ?? `the daemon answered ${answer.status}`);
  return body;
}

/** @param {string} text @returns {string} for use in a path */
export const part = encodeURIComponent;

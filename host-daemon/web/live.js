// What changes by itself: one stream of events from the daemon, polling where there is none, and since when there is silence.
//
// The stream is read with fetch, not with EventSource, because that cannot send a token.

import { get, headers } from "./api.js";

const POLL_MS = 5000;
/** The daemon says something at least every 15 s. */
const SILENCE_MS = 20000;
/** Polls until the stream is tried again. */
const POLLS = 12;

/** @type {Map<string, Set<(data: any) => void>>} */
const listeners = new Map();

export const live = {
  /** @type {"connecting"|"live"|"polling"|"lost"|"denied"} `denied` without a good token */
  state: "connecting",
  /** When something was heard last, milliseconds. */
  heard: Date.now(),
  /**
   * @param {"tick"|"order"|"state"} event @param {(data: any) => void} listener
   * @returns {() => void} ends it
   */
  on(event, listener) {
    if (!listeners.has(event)) listeners.set(event, new Set());
    listeners.get(event).add(listener);
    return () => listeners.get(event).delete(listener);
  },
  start() {
    void run();
  },
  /** Tries again at once, because there is another token now. */
  again() {
    abort.abort();
    wake();
  },
};

function tell(event, data) {
  for (const listener of listeners.get(event) ?? []) listener(data);
}

function become(state) {
  if (state === "live" || state === "polling") live.heard = Date.now();
  if (live.state === state) return;
  live.state = state;
  tell("state", state);
}

let abort = new AbortController();
/** Ends the pause before the next try. @type {(value?: any) => void} */
let wake = () => {};
// The browser knows it at once; silence alone would tell after a while.
addEventListener("offline", () => abort.abort());

async function run() {
  let pause = 1000;
  for (;;) {
    const outcome = await stream();
    if (outcome === "absent") {
      await poll();
    } else {
      become(outcome === "denied" ? "denied" : "lost");
      if (outcome === "ended") pause = 1000;
      await Promise.race([
        sleep(pause),
        new Promise((resolve) => {
          wake = resolve;
        }),
      ]);
      pause = Math.min(pause * 2, 15000);
    }
  }
}

/** @returns {Promise<"absent"|"denied"|"ended"|"failed">} */
async function stream() {
  abort = new AbortController();
  const { signal } = abort;
  let watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
  try {
    const answer = await fetch("api/v1/events", { headers: headers(), signal, credentials: "omit" });
    if (answer.status === 401) return "denied";
    // There is none, or as many follow it as may.
    if (answer.status === 404 || answer.status === 503) return "absent";
    if (!answer.ok || !answer.body) return "failed";
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return "ended";
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
      become("live");
      const events = (text + value).split(/\r?\n\r?\n/);
      text = events.pop() ?? "";
      events.forEach(dispatch);
    }
  } catch {
    return "failed";
  } finally {
    clearTimeout(watchdog);
    abort.abort();
  }
}

/** @param {string} block one event as it was sent */
function dispatch(block) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (data.length > 0 && listeners.has(event)) tell(event, JSON.parse(data.join("\n")));
}

/** Ticks made of ordinary answers, for a while. */
async function poll() {
  for (let turn = 0; turn < POLLS; turn += 1) {
    try {
      const [status, { domains }] = await Promise.all([get("status"), get("domains")]);
      become("polling");
      tell("tick", {
        unix_ms: Date.now(),
        status: { ...status, findings: status.findings.length },
        domains: domains.map((domain) => ({
          ...domain,
          cpu_shares: domain.cpu_shares.current,
          received_bytes_per_s: domain.network.received_bytes_per_s,
          sent_bytes_per_s: domain.network.sent_bytes_per_s,
        })),
      });
    } catch (error) {
      become(error.status === 401 ? "denied" : "lost");
    }
    await sleep(POLL_MS);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

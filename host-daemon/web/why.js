// A work order told as a colleague would: what was seen, which rule, what was expected, what was done and what came of it. The
// same words as `kvmpilot why`.

import { h } from "./dom.js";
import { known, memory, number, percent, time, words } from "./format.js";
import { isAdvice } from "./orders.js";
import { facts, table } from "./parts.js";

/** @param {any} order with its history */
export function story(order) {
  const { reason } = order;
  return [
    h("h3", null, "What was seen"),
    h("p", null, sentence(reason.summary) || "Nothing was written down."),
    reason.inputs.length > 0 ? facts(reason.inputs, true) : null,
    order.action.kind === "set_level"
      ? h(
          "p",
          null,
          `${order.action.application} ${order.action.communicating ? "was found talking to another node" : "talks to no other node"}.`,
        )
      : null,
    h("h3", null, "Which rule"),
    h("p", null, h("code", null, reason.rule || "unnamed"), reason.threshold ? `, whose condition is: ${sentence(reason.threshold)}` : "."),
    order.release ? h("p", null, "It goes back towards a safer or the original value, so no approval, budget or pause holds it up.") : null,
    order.undoes.length > 0
      ? h(
          "p",
          null,
          "It takes back ",
          order.undoes.map((id, at) => [at > 0 ? ", " : "", h("a", { href: `#/orders/${id}` }, `order ${id}`)]),
          ".",
        )
      : null,
    h("h3", null, "What was expected"),
    h("p", null, sentence(reason.expected) || "Nothing was predicted."),
    reason.prediction ? h("p", null, promise(reason.prediction)) : null,
    reason.alternatives.length > 0
      ? [
          h("h3", null, "What else was possible"),
          h(
            "ul",
            null,
            reason.alternatives.map((text) => h("li", null, sentence(text))),
          ),
        ]
      : null,
    h("h3", null, "What was done"),
    h(
      "ol.history",
      null,
      events(order).map(([at, text]) => h("li", { "data-key": `${at} ${text}` }, h("time", null, time(at)), " ", text)),
    ),
    steps(order.action),
    h("h3", null, "What came of it"),
    measured(order).map((text) => h("p", null, text)),
    h("p", null, result(order)),
  ];
}

const METRICS = {
  wait_ratio: { name: "wait ratio", show: percent },
  memory_mib: { name: "memory", show: (value) => memory(value * 1024) },
  answered_packets: { name: "answered traffic", show: (value) => `${number(value)} packets/s` },
};

function promise({ metric, of_name, before, expected }) {
  const { name, show } = METRICS[metric];
  return before === expected
    ? `To be judged by: ${name} of ${of_name}, which was ${show(before)}, stays above half of it.`
    : `To be judged by: ${name} of ${of_name} goes from ${show(before)} to ${show(expected)}, or a quarter of the way at least.`;
}

/** Each state that it was in, with its time. @returns {[number, string][]} */
function events(order) {
  const first = { unix_ms: order.created_unix_ms, state: "proposed", outcome: "" };
  const last = { unix_ms: order.changed_unix_ms, state: order.state, outcome: order.outcome };
  const all = order.history.length > 0 ? order.history : [first, last];
  const lines = [];
  let before = null;
  for (const event of all) {
    if (before && before.state === event.state && before.outcome === event.outcome) continue;
    lines.push([event.unix_ms, said(order, event, before)]);
    before = event;
  }
  return lines;
}

function said(order, event, before) {
  const advice = isAdvice(order);
  const judged = before?.state === "verified";
  const person = decider(order);
  const outcome = sentence(event.outcome);
  switch (event.state) {
    case "proposed":
      return "It was proposed.";
    case "approved":
      if (before || person) return `${person ?? "A person"} approved it.`;
      return order.release ? "It was approved without asking, as all that leads back is." : "It was approved by mode auto.";
    case "applied":
      return "The original value is in the ledger; the change is begun.";
    case "verified":
      return `${judged ? "Its trial is over." : "It is in force."} ${outcome}`;
    case "kept":
      return `${advice ? "It has come true." : judged ? "It stays." : "It is in force, and stays."} ${outcome}`;
    case "rejected":
      return `${person ?? "A person"} said no.`;
    case "expired":
      return `It was closed without being carried out. ${outcome}`;
    case "failed":
      return `It did not work out. ${outcome}`;
    case "rolled_back":
      return `It was taken back. ${outcome}`;
    default:
      return `It is ${words(event.state)}. ${outcome}`;
  }
}

/** Whoever approved or rejected it, if a person did who is known. @returns {string|null} */
function decider({ decided_by_uid: uid, decided_by_token: token }) {
  if (known(uid)) return `uid ${uid}`;
  return token ? `The holder of token ${token}` : null;
}

/** What changes inside the guest, process by process. */
function steps(action) {
  if (action.kind !== "set_level") return null;
  const groups = (action.groups ?? []).map((step) => ({ name: group(step.group), from: step.from, to: step.to }));
  const processes = action.processes.map((step) => ({
    name: `nice of ${step.name}, pid ${step.key.pid}`,
    from: step.nice_from,
    to: step.nice_to,
  }));
  return table("What changes in the guest", [...groups, ...processes], (step) => step.name, [
    { label: "What", cell: (step) => step.name },
    { label: "From", kind: "num", cell: (step) => String(step.from) },
    { label: "To", kind: "num", cell: (step) => String(step.to) },
  ]);
}

function group(what) {
  if (what.kind === "unit") return `CPUWeight of ${what.name}`;
  return what.kind === "autogroup" ? `nice of autogroup ${what.id}` : `vcpus of process ${what.key.pid}`;
}

function measured(order) {
  const { trial } = order;
  if (!trial) return [];
  const metric = METRICS[order.reason.prediction?.metric];
  if (!metric || trial.measured === null) return [sentence(trial.verdict)];
  const { windows, before, expected } = trial;
  let line =
    `Over ${windows} windows the ${metric.name} was ${metric.show(trial.measured)}; it had been ${metric.show(before)}, ` +
    `and ${metric.show(expected)} was expected`;
  if (before !== expected) line += `: ${Math.round((100 * (before - trial.measured)) / (before - expected))} % of what was predicted`;
  return [`${line}.`, trial.kept ? "That was worth it." : "That was not worth it."];
}

function result(order) {
  const advice = isAdvice(order);
  switch (order.state) {
    case "proposed":
      return advice
        ? "It waits for a person or an orchestrator: kvmpilot cannot do it. Approving it says that somebody will."
        : "It waits for a decision.";
    case "approved":
    case "applied":
      return advice
        ? "Somebody has said that it will be done; kvmpilot looks each cycle whether it was."
        : "It is being carried out right now.";
    case "verified":
      return order.trial ? "It is being undone." : "It is on trial: three windows are measured, and then it stays or goes back.";
    case "kept":
      return advice ? "Nothing is left to do." : "It stays, and can be rolled back.";
    case "rejected":
      return "Nothing was changed. It will not be proposed again for a while.";
    case "expired":
      return "Nothing was changed.";
    case "failed":
      return sentence(order.outcome) || "Nothing more is known.";
    case "rolled_back":
      return `It is not in force any more: ${sentence(order.outcome)}`;
    default:
      return "";
  }
}

function sentence(text) {
  const trimmed = text.trim();
  return trimmed === "" || /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
}

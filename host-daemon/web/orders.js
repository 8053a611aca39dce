// Work orders in words and in tables.

import { h } from "./dom.js";
import { memory, time, words } from "./format.js";
import { badge, domainLink, table } from "./parts.js";

/** What an order changes. @param {any} action */
export function target(action) {
  switch (action.kind) {
    case "set_cpu_shares":
      return "CPU weight";
    case "pin_vcpu":
      return `pin of vcpu ${action.vcpu}`;
    case "pin_emulator":
      return "pin of the emulator";
    case "pin_iothread":
      return `pin of iothread ${action.iothread}`;
    case "set_balloon":
      return "balloon";
    case "set_level":
      return `level of ${action.application}`;
    case "more_vcpus":
      return "vcpus";
    case "more_memory":
      return "memory maximum";
    case "move_away":
      return "host";
    default:
      return words(action.kind);
  }
}

function value(action, side) {
  if (action.kind === "move_away") {
    return side === "from" ? "here" : `one with ${(action.pcpus_percent / 100).toFixed(2)} pcpus and ${memory(action.memory)} to spare`;
  }
  const raw = action[side];
  if (action.kind === "set_balloon" || action.kind === "more_memory") return memory(raw);
  return action.kind === "set_level" ? words(raw) : String(raw);
}

/** @param {any} action @returns {string} */
export function actionText(action) {
  return `${target(action)}: ${value(action, "from")} → ${value(action, "to")}`;
}

/** Whether a person or an orchestrator has to do it. @param {any} order */
export function isAdvice(order) {
  return ["more_vcpus", "more_memory", "move_away"].includes(order.action.kind);
}

/** What may be done with an order. @param {any} order @returns {("approve"|"reject"|"rollback")[]} */
export function choices(order) {
  if (order.state === "proposed") return ["approve", "reject"];
  return ["verified", "kept"].includes(order.state) && !isAdvice(order) ? ["rollback"] : [];
}

/**
 * @param {any[]} orders newest first
 * @param {{full?: boolean, domain?: boolean}} what `full` with time and reason, `domain` with the domain
 * @param {((order: any) => any)|null} [buttons] what stands in the last column
 */
export function orderTable(orders, { full = false, domain = true } = {}, buttons = null) {
  return table(
    "Work orders, newest first",
    orders,
    (order) => order.id,
    [
      { label: "Order", kind: "num", cell: (order) => h("a", { href: `#/orders/${order.id}` }, String(order.id)) },
      full && { label: "Changed", kind: "mid nowrap", cell: (order) => time(order.changed_unix_ms) },
      domain && { label: "Domain", cell: (order) => domainLink(order.domain_name) },
      { label: "Change", cell: (order) => actionText(order.action) },
      { label: "State", cell: (order) => badge(order.state, order.outcome || null) },
      full && { label: "Reason", kind: "wide", cell: (order) => order.reason.summary },
      buttons && { label: "Decide", hidden: true, kind: "nowrap mid", cell: buttons },
    ],
    "There are no orders.",
  );
}

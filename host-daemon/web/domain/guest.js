// The inside of the guest: applications with their level, processes, connections. All of these texts come from the guest.

import { h } from "../dom.js";
import { known, memory, number, percent, rate, span, words } from "../format.js";
import { badge, facts, table } from "../parts.js";

/** Flows that are shown at first. */
const FLOWS = 8;

/** @param {any} processes as the API gives them */
export function processTables(processes) {
  const { applications, message, age_s, scarce, scarce_reason, truncated, ladder } = processes;
  const sorted = [...applications].sort((a, b) => busy(b) - busy(a) || moved(b) - moved(a) || a.name.localeCompare(b.name));
  return [
    message ? h("p", null, message) : null,
    known(age_s)
      ? h(
          "p.muted",
          null,
          `Asked ${span(age_s)} ago. `,
          scarce ? `CPU is scarce: ${scarce_reason ?? ""}` : "CPU is not scarce for this guest.",
        )
      : null,
    table(
      "Applications of the guest with their level on the ladder",
      sorted,
      (one) => one.name,
      [
        { label: "Application", cell: application },
        { label: "Level", cell: level },
        { label: "CPU", kind: "num", title: "In vcpus", cell: (one) => (busy(one) > 0 ? busy(one).toFixed(2) : "0") },
        { label: "In", kind: "num", cell: (one) => rate(one.traffic?.received_bytes_per_s) },
        { label: "Out", kind: "num", cell: (one) => rate(one.traffic?.sent_bytes_per_s) },
        {
          label: "Talks",
          kind: "mid",
          title: "Whether it communicates with other nodes",
          cell: (one) => (one.communicating ? badge("yes", one.evidence) : "no"),
        },
        {
          label: "Weight",
          kind: "num wide",
          title: "CPUWeight of its unit",
          cell: (one) => (known(one.cpu_weight) ? String(one.cpu_weight) : "–"),
        },
        { label: "Processes", kind: "num mid", cell: (one) => String(one.processes.length) },
        { label: "Never moved because", kind: "wide", cell: (one) => one.protected ?? "" },
      ],
      "No applications are known.",
    ),
    truncated.map((text) => h("p.muted", null, `Left out: ${text}`)),
    ladder.map((means) =>
      h(
        "p.muted",
        { "data-key": means.means },
        `${words(means.means)}: ${words(means.verdict)}`,
        known(means.rests_s) ? `, rests for ${span(means.rests_s)}` : "",
      ),
    ),
  ];
}

const busy = (application) => application.processes.reduce((sum, process) => sum + (process.cpu_ratio ?? 0), 0);
const moved = ({ traffic }) => (traffic?.received_bytes_per_s ?? 0) + (traffic?.sent_bytes_per_s ?? 0);

function application(one) {
  return h(
    "details",
    null,
    h("summary", null, one.name),
    one.evidence ? h("p.muted", null, one.evidence) : null,
    h(
      "ul.processes",
      null,
      one.processes.map((process) =>
        h(
          "li",
          { "data-key": `${process.pid} ${process.start_ticks}` },
          h("code", null, process.command || process.name),
          h(
            "span.muted",
            null,
            ` pid ${process.pid}${process.user ? `, ${process.user}` : ""}, ${percent(process.cpu_ratio)} of a vcpu, ` +
              `nice ${process.nice}, ${memory(process.rss_kib)}`,
          ),
          process.listens.length + process.connections.length > 0
            ? h(
                "ul",
                null,
                process.listens.map((listen) => h("li", null, `listens on ${listen.protocol} ${listen.local}`)),
                process.connections
                  .slice(0, 12)
                  .map((one) => h("li", null, `${one.protocol} ${one.local} to ${one.peer}, ${words(one.state)}`)),
              )
            : null,
        ),
      ),
    ),
  );
}

const LEVELS = ["low", "below_normal", "normal", "above_normal", "high"];

/** A level as a place on the ladder and in words. */
function level(one) {
  const at = LEVELS.indexOf(one.level);
  const steps = LEVELS.map((_, step) => h("span", { class: step === at ? "rung on" : "rung" }));
  const was = one.level === one.level_original ? null : h("span.muted", null, ` from ${words(one.level_original)}`);
  return h("span.ladder", null, h("span.rungs", { "aria-hidden": "true" }, steps), words(one.level), was);
}

/** @param {any} flows as the API gives them @param {boolean} every whether all are shown */
export function flowTable(flows, every) {
  const all = flows.flows;
  return [
    flows.message ? h("p", null, flows.message) : null,
    table(
      "Flows, busiest first",
      every ? all : all.slice(0, FLOWS),
      (flow) => `${flow.protocol} ${flow.guest} ${flow.peer}`,
      [
        { label: "Guest", cell: (flow) => `${flow.protocol} ${flow.guest}` },
        { label: "Peer", cell: (flow) => [flow.direction === "in" ? "← " : "→ ", flow.peer] },
        { label: "In", kind: "num", cell: (flow) => rate(flow.rate.received_bytes_per_s) },
        { label: "Out", kind: "num", cell: (flow) => rate(flow.rate.sent_bytes_per_s) },
        { label: "State", kind: "mid", cell: (flow) => words(flow.state) },
        { label: "Whose", kind: "mid", cell: (flow) => flow.owner.process ?? flow.owner.application ?? flow.owner.reason ?? "" },
        { label: "Silent for", kind: "num wide", cell: (flow) => span(flow.idle_s) },
      ],
      "Nothing moves.",
    ),
    all.length > FLOWS && !every ? h("button", { type: "button", "data-action": "flows" }, `Show all ${all.length}`) : null,
  ];
}

/** @param {any} domain */
export function guestFacts(domain) {
  const guest = domain.guest;
  if (!guest) return h("p.muted", null, domain.agent.message ?? "The guest has not answered yet.");
  /** @type {[string, any][]} */
  const system = Object.entries(guest.system ?? {})
    .filter(([, value]) => typeof value === "string" && value)
    .map(([name, value]) => [words(name), value]);
  return [
    guest.unread ? h("p", null, guest.unread) : null,
    facts([
      ["Load", number(guest.load1)],
      ["Runnable threads", known(guest.runnable) ? String(guest.runnable) : "–"],
      ["vcpus online", known(guest.vcpus_online) ? String(guest.vcpus_online) : "–"],
      ...system,
    ]),
  ];
}

// Health and rules: what is wrong, what could be better, what kvmpilot itself costs, which rules it follows.

import { get } from "../api.js";
import { h } from "../dom.js";
import { known, memory, number, percentage, span } from "../format.js";
import { OverTime } from "../overtime.js";
import { badge, facts, section, table } from "../parts.js";
import { HOST_CHARTS, OF_HOST } from "../series.js";

/** @param {import("../main.js").Context} context */
export function page(context) {
  const overTime = new OverTime(null, OF_HOST, HOST_CHARTS, context.redraw);
  let status, doctor, rules, host;
  let filter = "";
  return {
    title: "Health and rules",
    async load() {
      [status, doctor, rules, host] = await Promise.all([get("status"), get("doctor"), get("rules"), get("host"), overTime.load()]);
    },
    view() {
      return [
        h(
          "div.pair",
          { "data-key": "pair" },
          section("Health", health(status, host.addresses)),
          section("Own cost", cost(status.own_cost)),
        ),
        overTime.view(),
        section("Doctor", checks(doctor.checks)),
        section(
          "Rules",
          h(
            "p.filter",
            null,
            h("label", { for: "rule" }, "Name or text contains"),
            h("input", { id: "rule", type: "search", "data-action": "rule" }),
          ),
          ruleTable(rules.rules.filter((rule) => `${rule.name} ${rule.when} ${rule.then} ${rule.source}`.toLowerCase().includes(filter))),
        ),
      ];
    },
    actions: {
      ...overTime.actions,
      rule(element) {
        filter = element.value.trim().toLowerCase();
        context.redraw();
      },
    },
    drawn: (root) => overTime.draw(root),
    close: () => overTime.close(),
  };
}

function health(status, addresses) {
  const { libvirt, cycle } = status;
  return [
    status.health.ok
      ? h("p", null, badge("ok"), " Nothing is wrong.")
      : h(
          "ul.findings",
          null,
          status.health.problems.map((problem) => h("li", { "data-key": problem }, badge("problem"), h("div", null, problem))),
        ),
    facts([
      ["Version", status.version],
      ["Kernel", status.host.kernel],
      ["Addresses", addresses.join(", ") || "–"],
      ["Runs for", span(status.uptime_s)],
      ["libvirt", libvirt.connected ? (libvirt.version ?? "connected") : (libvirt.message ?? "not connected")],
      ["Mode", status.paused ? "paused" : status.mode],
      ["Last cycle", known(cycle.last_duration_ms) ? `${number(cycle.last_duration_ms)} ms` : "–"],
      ["Values held", String(status.ledger_entries)],
    ]),
    table("Sources of telemetry", status.tiers, (tier) => tier.tier, [
      { label: "Tier", cell: (tier) => `${tier.tier} ${tier.name}` },
      { label: "On", cell: (tier) => badge(tier.on ? "on" : "off") },
      { label: "How, or why not", cell: (tier) => tier.reason },
    ]),
  ];
}

function cost(own) {
  return [
    facts([
      ["Daemon, of one CPU", percentage(own.daemon_percent)],
      ["eBPF programs, of one CPU", percentage(own.programs_percent)],
      ["Budget of both", percentage(own.budget_percent)],
      ["CPU time in all", span(own.cpu_seconds)],
      ["Memory", memory(own.rss_kib)],
    ]),
    own.shed.map((text) => h("p", null, badge("paused"), ` Given up to keep to the budget: ${text}`)),
    table(
      "eBPF programs and what they cost",
      own.programs,
      (program) => program.name,
      [
        { label: "Program", cell: (program) => h("code", null, program.name) },
        { label: "Attached", kind: "num mid", cell: (program) => String(program.attached) },
        { label: "Runs/s", kind: "num", cell: (program) => number(program.runs_per_s) },
        { label: "ns a run", kind: "num", cell: (program) => (known(program.ns_per_run) ? String(program.ns_per_run) : "–") },
        { label: "CPU", kind: "num", cell: (program) => (known(program.cpu_percent) ? `${program.cpu_percent.toFixed(2)} %` : "–") },
      ],
      "No eBPF programs are attached.",
    ),
  ];
}

function checks(all) {
  const list = (verdicts) =>
    h(
      "ul.findings",
      null,
      verdicts
        .flatMap((verdict) => all.filter((check) => check.verdict === verdict))
        .map((check) =>
          h(
            "li",
            { "data-key": check.name },
            badge(check.verdict),
            h("div", null, h("strong", null, check.name), ` ${check.message}`, check.advice ? h("p", null, check.advice) : null),
          ),
        ),
    );
  const fine = all.filter((check) => check.verdict === "ok").length;
  return [
    fine === all.length ? h("p", null, badge("ok"), " All is as it should be.") : list(["problem", "warning"]),
    h("details", null, h("summary", null, `${fine} checks found nothing wrong`), list(["ok"])),
  ];
}

function ruleTable(rules) {
  return table(
    "Rules in the order in which they are asked",
    rules,
    (rule) => rule.name,
    [
      { label: "Rule", cell: (rule) => h("code", null, rule.name) },
      { label: "State", cell: state },
      { label: "When", kind: "mid", cell: (rule) => h("code", null, rule.when) },
      { label: "Then", kind: "wide", cell: (rule) => h("code", null, rule.then) },
      { label: "Priority", kind: "num wide", cell: (rule) => String(rule.priority) },
      { label: "From", kind: "wide", cell: (rule) => rule.source },
    ],
    "No rule has that.",
  );
}

function state({ result }) {
  if (!result) return badge("unknown", "It has not been asked yet");
  const title = `asked of ${result.asked}, unknown for ${result.unknown}, held ${result.held_total} times in all`;
  if (result.failed > 0) return badge("failed", result.last_error);
  return h(
    "span",
    { title },
    result.held > 0 ? [badge("on"), ` holds for ${result.held}`] : h("span.muted", null, `holds for none of ${result.asked}`),
  );
}

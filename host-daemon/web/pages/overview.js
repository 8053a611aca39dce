// Overview: how the host is, which domains need something most, what was found, what kvmpilot did last.

import { get } from "../api.js";
import { h } from "../dom.js";
import { known, memory, number, percentage, rate, span, words } from "../format.js";
import { orderTable } from "../orders.js";
import { badge, bar, domainLink, findingList, section, table } from "../parts.js";
import { waitTrace } from "../trace.js";

/** Domains that are shown at first. */
const SHOWN = 50;
/** Ticks after which all that a tick does not tell is read again. */
const FULL = 6;
const LAST = "orders?limit=8";

/** @param {import("../main.js").Context} context */
export function page(context) {
  let status, domains, orders;
  let since = FULL;
  let shown = SHOWN;
  let filter = "";

  return {
    title: "Overview",
    async load(tick) {
      since += 1;
      const names = tick?.domains.map((domain) => domain.name).join("\n");
      const changed = names !== domains?.map((domain) => domain.name).join("\n");
      if (!tick || changed || since >= FULL) {
        since = 0;
        [status, { domains }, { orders }] = await Promise.all([get("status"), get("domains"), get(LAST)]);
        return;
      }
      const before = status.orders;
      status = await get("status");
      if (status.orders.total !== before.total || status.orders.proposed !== before.proposed) ({ orders } = await get(LAST));
      const news = new Map(tick.domains.map((domain) => [domain.name, domain]));
      domains = domains.map((domain) => merged(domain, news.get(domain.name)));
    },
    view() {
      return [
        tiles(status),
        h(
          "div.columns",
          null,
          domainSection(domains, filter, shown),
          h(
            "div.pair",
            { "data-key": "side" },
            section("Findings", findingList(status.findings)),
            section("Last orders", orderTable(orders), h("p", null, h("a", { href: "#/orders" }, "All orders"))),
          ),
        ),
      ];
    },
    actions: {
      filter(element) {
        filter = element.value.trim().toLowerCase();
        context.redraw();
      },
      all() {
        shown = Infinity;
        context.redraw();
      },
    },
  };
}

/** A row of the list with what a tick knows better. */
function merged(domain, news) {
  if (!news) return domain;
  const { cpu_use_ratio, wait_ratio, need, memory_current_kib } = news;
  return {
    ...domain,
    cpu_use_ratio,
    wait_ratio,
    need,
    memory_current_kib,
    cpu_shares: { ...domain.cpu_shares, current: news.cpu_shares },
    network: { received_bytes_per_s: news.received_bytes_per_s, sent_bytes_per_s: news.sent_bytes_per_s },
  };
}

function tiles({ host, health, domains, cycle, orders, own_cost, mode, paused, libvirt, ledger_entries }) {
  const free = known(host.memory_available_kib) && known(host.memory_total_kib) ? `of ${memory(host.memory_total_kib)}` : null;
  const tile = (name, value, note) =>
    h(
      "div.tile",
      { "data-key": name },
      h("dt", null, name),
      h("dd", null, h("strong", null, value), note ? [" ", h("span.muted", null, note)] : null),
    );
  const own = (own_cost.daemon_percent ?? 0) + (own_cost.programs_percent ?? 0);
  return [
    health.ok
      ? null
      : h(
          "div.alert",
          { role: "alert", "data-key": "alert" },
          h("h2", null, "Not healthy"),
          h(
            "ul",
            null,
            health.problems.map((problem) => h("li", null, problem)),
          ),
        ),
    h(
      "dl.tiles",
      { "aria-label": "Host", "data-key": "tiles" },
      tile("Health", health.ok ? badge("ok") : badge("problem"), libvirt.connected ? null : "no libvirt"),
      tile("CPU pressure", percentage(host.pressure.cpu_some_avg10_percent), `${host.pcpus} pcpus`),
      tile("Memory pressure", percentage(host.pressure.memory_some_avg10_percent)),
      tile("I/O pressure", percentage(host.pressure.io_some_avg10_percent)),
      tile("Memory available", memory(host.memory_available_kib), free),
      tile("Domains", String(domains.running), `${domains.managed} managed`),
      tile("Mode", paused ? badge("paused") : badge(mode), `${ledger_entries} values held`),
      tile("Cycle", String(cycle.number), `every ${span(cycle.period_s)}`),
      tile("Waiting orders", h("a", { href: "#/orders?state=proposed" }, String(orders.proposed)), `of ${orders.total}`),
      tile("Own cost", known(own_cost.daemon_percent) ? percentage(own) : "–", `of a CPU, ${memory(own_cost.rss_kib)}`),
    ),
  ];
}

const COLUMNS = [
  { label: "Domain", cell: (domain) => domainLink(domain.name) },
  { label: "State", kind: "mid", cell: states },
  { label: "Class", kind: "wide", cell: (domain) => badge(domain.class, domain.class_evidence) },
  {
    label: "Mode",
    kind: "wide",
    title: "Of the CPU weight; all means are on the domain's page",
    cell: (domain) => badge(domain.modes.weight),
  },
  {
    label: "CPU use",
    title: "Time on a pcpu, of the time of all its vcpus",
    cell: (domain) => bar(domain.cpu_use_ratio, "use"),
  },
  {
    label: "Wait",
    title: "Of the time that its vcpus wanted to run, the share in which they had to wait for a pcpu",
    cell: (domain) => bar(domain.wait_ratio, "wait"),
  },
  { label: "Waits, last minutes", kind: "wide", cell: (domain) => waitTrace(domain.name) },
  { label: "Memory", kind: "num mid", cell: (domain) => memory(domain.memory_current_kib) },
  { label: "Weight", kind: "num mid", title: "cpu_shares", cell: (domain) => weight(domain.cpu_shares) },
  { label: "In", kind: "num wide", title: "What the guest received", cell: (domain) => rate(domain.network.received_bytes_per_s) },
  { label: "Out", kind: "num wide", title: "What the guest sent", cell: (domain) => rate(domain.network.sent_bytes_per_s) },
  { label: "Need", kind: "num", title: "How urgently it needs something", cell: (domain) => number(domain.need) },
];

function domainSection(domains, filter, shown) {
  const found = domains.filter((domain) => domain.name.toLowerCase().includes(filter));
  found.sort((a, b) => (b.need ?? -1) - (a.need ?? -1) || a.name.localeCompare(b.name));
  return section(
    "Domains by need",
    domains.length > 10
      ? h(
          "p.filter",
          null,
          h("label", { for: "filter" }, "Name contains"),
          h("input", { id: "filter", type: "search", "data-action": "filter" }),
        )
      : null,
    table(
      "Domains by need, the neediest first",
      found.slice(0, shown),
      (domain) => domain.uuid,
      COLUMNS,
      filter ? "No domain is named like that." : "No domain runs.",
    ),
    found.length > shown ? h("button", { type: "button", "data-action": "all" }, `Show all ${found.length}`) : null,
  );
}

function states(domain) {
  if (domain.quarantine) return badge("off", domain.quarantine);
  if (domain.state !== "running") return badge(domain.state);
  const off = ["cpu", "memory"].filter((what) => ["over", "under"].includes(domain.states[what]));
  if (off.length === 0) return badge(domain.states.cpu === "unknown" ? "unknown" : "ok");
  return off.map((what) => badge(domain.states[what], null, `${what} ${words(domain.states[what])}`));
}

function weight({ current, original }) {
  if (!known(current)) return "–";
  return current === original || !known(original) ? String(current) : [String(current), h("span.muted", null, ` from ${original}`)];
}

// Map: the pcpus as they are built (package, last-level cache, core, SMT siblings) and the vcpus that ran on them last.

import { get } from "../api.js";
import { h } from "../dom.js";
import { known, percent } from "../format.js";
import { badge, domainLink, section, table } from "../parts.js";

/** @param {import("../main.js").Context} context */
export function page(context) {
  let host, vcpus;
  let marked = "";

  return {
    title: "Map",
    async load(tick) {
      if (!tick || !host) host = await get("host");
      ({ vcpus } = await get("vcpus"));
    },
    view() {
      const on = new Map();
      for (const vcpu of vcpus) {
        const key = vcpu.pcpu ?? "none";
        if (!on.has(key)) on.set(key, []);
        on.get(key).push(vcpu);
      }
      const names = [...new Set(vcpus.map((vcpu) => vcpu.domain))].sort();
      return [
        h(
          "p.filter",
          { "data-key": "filter" },
          h("label", { for: "mark" }, "Mark the vcpus of"),
          h(
            "select",
            { id: "mark", "data-action": "mark" },
            h("option", { value: "" }, "no domain"),
            names.map((name) => h("option", { value: name }, name)),
          ),
          h(
            "span.muted",
            null,
            `${host.pcpus.length} pcpus, ${vcpus.length} vcpus; each vcpu is where it ran last, with the share of the time that it `,
            h("span.swatch", { "aria-hidden": "true", vars: { "--swatch": "var(--use)" } }),
            "runs and ",
            h("span.swatch", { "aria-hidden": "true", vars: { "--swatch": "var(--wait)" } }),
            "waits.",
          ),
        ),
        groups(host.pcpus, "package").map(([number, pcpus]) => section(`Package ${number}`, caches(pcpus, on, marked))),
        on.has("none")
          ? section(
              "On no pcpu yet",
              h(
                "ul.vcpus",
                null,
                on.get("none").map((vcpu) => chip(vcpu, marked)),
              ),
            )
          : null,
        marked ? section(`vcpus of ${marked}`, markedTable(vcpus.filter((vcpu) => vcpu.domain === marked))) : null,
      ];
    },
    actions: {
      mark(element) {
        marked = element.value;
        context.redraw();
      },
    },
  };
}

/** Lists of what has the same value, by that value. @returns {[number, any[]][]} */
function groups(pcpus, what) {
  const found = new Map();
  for (const pcpu of pcpus) {
    const key = pcpu[what] ?? 0;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(pcpu);
  }
  return [...found].sort(([a], [b]) => a - b);
}

function caches(pcpus, on, marked) {
  return groups(pcpus, "llc").map(([number, members]) => {
    const nodes = [...new Set(members.map((pcpu) => pcpu.node).filter(known))].join(", ");
    return h(
      "div.llc",
      { "data-key": number },
      h("h3", null, `Last-level cache of pcpu ${number}`, nodes ? h("span.muted", null, `, NUMA node ${nodes}`) : null),
      h(
        "ul.cores",
        null,
        groups(members, "core").map(([core, siblings]) =>
          h(
            "li.core",
            { "data-key": core },
            h("span.muted", null, `core ${core}${siblings.length > 1 ? `, ${siblings.length} threads` : ""}`),
            h(
              "ul.siblings",
              null,
              siblings.map((pcpu) => place(pcpu, on.get(pcpu.number) ?? [], marked)),
            ),
          ),
        ),
      ),
    );
  });
}

function place(pcpu, vcpus, marked) {
  const run = vcpus.reduce((sum, vcpu) => sum + (vcpu.run_ratio ?? 0), 0);
  const sorted = [...vcpus].sort((a, b) => (b.run_ratio ?? 0) - (a.run_ratio ?? 0));
  return h(
    "li.pcpu",
    { "data-key": pcpu.number },
    h(
      "div.name",
      null,
      h("span", null, h("strong", null, `pcpu ${pcpu.number}`), pcpu.set_aside ? [" ", badge("set_aside", "By the administrator")] : null),
      h("span.muted", null, known(pcpu.busy_ratio) ? `busy ${percent(pcpu.busy_ratio)}` : `vcpus run ${percent(run)}`),
    ),
    known(pcpu.busy_ratio) ? h("span.split", { "aria-hidden": "true", vars: { "--ran": part(pcpu.busy_ratio), "--waited": 0 } }) : null,
    vcpus.length > 0
      ? h(
          "ul.vcpus",
          null,
          sorted.map((vcpu) => chip(vcpu, marked)),
        )
      : null,
  );
}

function chip(vcpu, marked) {
  const classes = ["vcpu", ...(marked && vcpu.domain === marked ? ["marked"] : []), ...((vcpu.wait_ratio ?? 0) > 0.1 ? ["waits"] : [])];
  const title = `${vcpu.domain} vcpu ${vcpu.number}: runs ${percent(vcpu.run_ratio)}, waits ${percent(vcpu.wait_ratio)}${vcpu.pin ? `, may use pcpus ${vcpu.pin}` : ""}`;
  return h(
    "li",
    {
      class: classes.join(" "),
      "data-key": `${vcpu.uuid} ${vcpu.number}`,
      title,
      vars: { "--ran": part(vcpu.run_ratio), "--waited": part(vcpu.wait_ratio) },
    },
    h("span.label", null, `${vcpu.domain}/${vcpu.number}`),
    h(
      "span.figures",
      null,
      h("span.sr", null, "runs "),
      percent(vcpu.run_ratio),
      h("span.waited", null, h("span.sr", null, ", waits "), percent(vcpu.wait_ratio)),
    ),
    h("span.split", { "aria-hidden": "true" }),
  );
}

const part = (ratio) => (known(ratio) ? Math.min(1, ratio).toFixed(3) : 0);

function markedTable(vcpus) {
  return table("The marked vcpus", vcpus, (vcpu) => vcpu.number, [
    { label: "vcpu", cell: (vcpu) => [domainLink(vcpu.domain), `/${vcpu.number}`] },
    { label: "pcpu", kind: "num", cell: (vcpu) => String(vcpu.pcpu ?? "–") },
    { label: "May use", cell: (vcpu) => vcpu.pin ?? "all" },
    { label: "Runs", kind: "num", cell: (vcpu) => percent(vcpu.run_ratio) },
    { label: "Waits", kind: "num", cell: (vcpu) => percent(vcpu.wait_ratio) },
  ]);
}

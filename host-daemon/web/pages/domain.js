// One domain: where its time goes, its memory and traffic, its processes, vcpus and orders, and why things are as they are.

import { get, part } from "../api.js";
import { h } from "../dom.js";
import { explanation } from "../domain/explain.js";
import { flowTable, guestFacts, processTables } from "../domain/guest.js";
import { hostTables } from "../domain/host.js";
import { known, memory, number, percent, words } from "../format.js";
import { orderTable } from "../orders.js";
import { OverTime } from "../overtime.js";
import { badge, bar, findingList, section } from "../parts.js";
import { DOMAIN_CHARTS, OF_DOMAIN } from "../series.js";

/** Ticks after which what changes rarely is read again. */
const SLOW = 3;

/** @param {import("../main.js").Context} context @param {string[]} path */
export function page(context, path) {
  const name = path[0] ?? "";
  const url = `domains/${part(name)}`;
  const overTime = new OverTime(name, OF_DOMAIN, DOMAIN_CHARTS, context.redraw);
  let domain, processes, flows, orders, explain;
  let everyFlow = false;
  let turn = 0;

  return {
    title: name,
    async load(tick) {
      const rarely = [];
      if (turn % SLOW === 0 || !tick) rarely.push(get(`${url}/explain`), get(`orders?domain=${part(name)}&limit=20`));
      turn += 1;
      const often = [get(url), get(`${url}/processes`), get(`${url}/flows`), overTime.load()];
      [domain, processes, flows] = await Promise.all(often);
      if (rarely.length > 0) [explain, { orders }] = await Promise.all(rarely);
    },
    view() {
      return [
        head(domain),
        overTime.view(),
        section("Processes", processTables(processes)),
        h(
          "div.pair",
          { "data-key": "pair" },
          section("Findings", findingList(domain.findings)),
          section("Orders", orderTable(orders, { domain: false })),
        ),
        section("Why", explanation(explain)),
        hostTables(domain),
        section("Flows", flowTable(flows, everyFlow)),
        section("Guest", guestFacts(domain)),
      ];
    },
    actions: {
      ...overTime.actions,
      flows() {
        everyFlow = true;
        context.redraw();
      },
    },
    drawn: (root) => overTime.draw(root),
    close: () => overTime.close(),
  };
}

function head(domain) {
  const fact = (name, value, note) =>
    h(
      "div.tile",
      { "data-key": name },
      h("dt", null, name),
      h("dd", null, h("strong", null, value), note ? [" ", h("span.muted", null, note)] : null),
    );
  const { current, original } = domain.cpu_shares;
  return [
    domain.quarantine ? h("div.alert", { "data-key": "quarantine" }, domain.quarantine) : null,
    h(
      "dl.tiles",
      { "aria-label": "Domain", "data-key": "tiles" },
      fact(
        "State",
        badge(domain.state),
        domain.job ? `${words(String(domain.job.kind ?? domain.job))} under way` : `${domain.vcpu_count} vcpus, ${domain.accel}`,
      ),
      fact("Class", badge(domain.class), words(domain.class_source)),
      fact("CPU use", bar(domain.cpu_use_ratio, "use")),
      fact("Wait", bar(domain.wait_ratio, "wait")),
      fact("Need", number(domain.need), `${domain.cycles_off_optimum} cycles off its optimum`),
      fact("Memory", memory(domain.memory_current_kib), `of ${memory(domain.memory_maximum_kib)}`),
      fact("Weight", known(current) ? String(current) : "–", current !== original && known(original) ? `from ${original}` : null),
      fact(
        "Agent",
        badge(domain.agent.usable ? "ok" : "off", domain.agent.message),
        known(domain.agent.last_poll_age_s) ? `${Math.round(domain.agent.last_poll_age_s)} s ago` : null,
      ),
      fact("Communicates", known(domain.communicating) ? (domain.communicating ? "yes" : "no") : "–"),
      fact(
        "Quota",
        known(domain.quota_pcpus) ? `${number(domain.quota_pcpus)} pcpus` : "none",
        domain.pressure ? `pressure ${percent(domain.pressure.cpu_ratio)}` : null,
      ),
    ),
    h(
      "p.modes",
      { "data-key": "modes" },
      "Modes: ",
      Object.entries(domain.modes).map(([means, mode]) => h("span", { "data-key": means }, `${means} `, badge(mode))),
    ),
  ];
}

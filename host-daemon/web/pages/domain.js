// One domain: where its time goes, its memory and traffic, its processes, vcpus and orders, and why things are as they are.

import { get, part } from "../api.js";
import { Plots, frame } from "../charts.js";
import { h } from "../dom.js";
import { CHARTS, RANGES, SERIES } from "../domain/charts.js";
import { explanation } from "../domain/explain.js";
import { flowTable, guestFacts, processTables } from "../domain/guest.js";
import { hostTables } from "../domain/host.js";
import { known, memory, number, percent, words } from "../format.js";
import { orderTable } from "../orders.js";
import { badge, bar, findingList, section } from "../parts.js";

/** Ticks after which what changes rarely is read again. */
const SLOW = 3;

/** @param {import("../main.js").Context} context @param {string[]} path */
export function page(context, path) {
  const name = path[0] ?? "";
  const url = `domains/${part(name)}`;
  const plots = new Plots(CHARTS);
  let domain, processes, flows, orders, explain, history;
  let range = RANGES[0];
  let everyFlow = false;
  let turn = 0;
  let drawn = 0;

  async function readHistory() {
    const from = Date.now() - range.seconds * 1000;
    const query = `domain=${part(name)}&series=${SERIES.join(",")}&from_unix_ms=${from}&to_unix_ms=${Date.now()}&step_s=${range.step}`;
    history = await get(`history?${query}`).catch((error) => ({ missing: error.message }));
    drawn = Date.now();
  }

  return {
    title: name,
    async load(tick) {
      const slow = turn % SLOW === 0 || !tick;
      turn += 1;
      const due = !history || Date.now() - drawn >= range.step * 1000 - 500;
      [domain, processes, flows] = await Promise.all([get(url), get(`${url}/processes`), get(`${url}/flows`)]);
      const rest = [due ? readHistory() : null];
      if (slow) {
        rest.push(
          get(`${url}/explain`).then((answer) => {
            explain = answer;
          }),
        );
        rest.push(
          get(`orders?domain=${part(name)}&limit=20`).then((answer) => {
            orders = answer.orders;
          }),
        );
      }
      await Promise.all(rest);
    },
    view() {
      return [
        head(domain),
        section(
          "Over time",
          h(
            "p.filter",
            null,
            h("label", { for: "range" }, "Last"),
            h(
              "select",
              { id: "range", "data-action": "range" },
              RANGES.map((one) => h("option", { value: one.label }, one.label)),
            ),
          ),
          history.missing ? h("p.muted", null, `There is no history: ${history.missing}.`) : h("div.charts", null, CHARTS.map(frame)),
        ),
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
      flows() {
        everyFlow = true;
        context.redraw();
      },
      async range(element) {
        range = RANGES.find((one) => one.label === element.value) ?? range;
        await readHistory();
        context.redraw();
      },
    },
    drawn(root) {
      if (!history.missing && history.unix_ms.length > 0) void plots.draw(root, history);
    },
    close() {
      plots.close();
    },
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

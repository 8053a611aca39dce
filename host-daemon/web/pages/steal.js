// Steal matrix: whose threads ran while whose vcpus waited, as a table whose colours say the same as its figures.

import { get } from "../api.js";
import { h } from "../dom.js";
import { known, number, percent, span } from "../format.js";
import { domainLink, section, table } from "../parts.js";

/** Rows and columns that are shown: those that waited and took most. */
const MOST = 24;

/** @param {import("../main.js").Context} _context */
export function page(_context) {
  let steal;
  return {
    title: "Steal",
    async load() {
      steal = await get("steal");
    },
    view() {
      const window = steal.window_s;
      return [
        steal.message ? h("p", { "data-key": "message" }, steal.message) : null,
        steal.domains.length === 0
          ? h("p.muted", { "data-key": "none" }, "Nobody's waits are followed yet.")
          : [
              section(
                "Who ran while whose vcpus waited",
                matrix(steal.domains, window),
                h(
                  "p.muted",
                  null,
                  `Share of the last ${span(window)} in which a row's vcpu waited while the column's threads had its pcpu. ` +
                    "The diagonal is a domain's own threads. The stronger the colour, the more.",
                ),
              ),
              section("Largest takers", takers(steal.domains)),
            ],
      ];
    },
  };
}

/** The name of a runner. */
function runner(one) {
  if (one.runner !== "domain") return one.runner === "host" ? "the host" : "not known";
  return one.domain ?? "a domain that is gone";
}

function matrix(domains, window) {
  const totals = new Map();
  for (const { by } of domains) for (const cell of by) totals.set(runner(cell), (totals.get(runner(cell)) ?? 0) + cell.ms);
  const rest = (name) => (name === "the host" || name === "not known" ? 1 : 0);
  const columns = [...totals]
    .filter(([, ms]) => ms > 0)
    .sort(([a, x], [b, y]) => rest(a) - rest(b) || y - x)
    .map(([name]) => name);
  const shown = columns.slice(0, MOST);
  return [
    table("Steal matrix: rows waited, columns ran", domains.slice(0, MOST), (row) => row.uuid, [
      { label: "Waited \\ ran", cell: (row) => domainLink(row.domain) },
      ...shown.map((name) => ({ label: name, kind: "heat", cell: (row) => heat(row, name) })),
      { label: "All", kind: "num", title: "Share of the time of its vcpus", cell: (row) => percent(share(row, window)) },
    ]),
    domains.length > MOST || columns.length > MOST
      ? h("p.muted", null, `The ${MOST} that waited and took most; "kvmpilot steal" shows all.`)
      : null,
  ];
}

const share = (row, window) => (known(window) && row.vcpus.length > 0 ? row.wait_ms / (window * 1000 * row.vcpus.length) : null);

function heat(row, name) {
  const cell = row.by.find((one) => runner(one) === name);
  const ratio = cell?.window_ratio ?? 0;
  const level = Math.min(1, Math.sqrt(ratio)).toFixed(3);
  return h(
    "span.cell",
    { vars: { "--heat": level }, title: `${row.domain} waited ${percent(ratio)} of the window while ${name} ran` },
    cell ? percent(ratio) : h("span.muted", null, "0"),
  );
}

function takers(domains) {
  const all = domains
    .flatMap((row) => row.by.map((cell) => ({ row, cell })))
    .filter(({ row, cell }) => cell.domain !== row.domain && cell.ms > 0);
  all.sort((a, b) => b.cell.ms - a.cell.ms);
  return table("Pairs of domains, the largest share first", all.slice(0, 10), ({ row, cell }) => `${row.uuid} ${runner(cell)}`, [
    { label: "Ran", cell: ({ cell }) => (cell.domain ? domainLink(cell.domain) : runner(cell)) },
    { label: "While this one waited", cell: ({ row }) => domainLink(row.domain) },
    { label: "For", kind: "num", cell: ({ cell }) => `${number(cell.ms)} ms` },
    { label: "Of its wait", kind: "num", cell: ({ cell }) => percent(cell.wait_ratio) },
  ]);
}

// Small lines of what the last minutes brought, collected from ticks while this page is open.

import { s } from "./dom.js";
import { known } from "./format.js";
import { live } from "./live.js";

const POINTS = 60;
/** @type {Map<string, (number|null)[]>} */
const waits = new Map();

live.on("tick", (tick) => {
  const there = new Set(tick.domains.map((domain) => domain.name));
  for (const name of waits.keys()) if (!there.has(name)) waits.delete(name);
  for (const domain of tick.domains) {
    const line = waits.get(domain.name) ?? [];
    line.push(domain.wait_ratio ?? null);
    if (line.length > POINTS) line.shift();
    waits.set(domain.name, line);
  }
});

/** The wait ratio of a domain over the last ticks, as decoration beside its figure. @param {string} name */
export function waitTrace(name) {
  const line = waits.get(name) ?? [];
  const step = 100 / (POINTS - 1);
  const first = POINTS - line.length;
  let path = "";
  let pen = "M";
  line.forEach((value, at) => {
    if (!known(value)) {
      pen = "M";
      return;
    }
    path += `${pen}${((first + at) * step).toFixed(1)} ${(19 - 18 * Math.min(1, value)).toFixed(1)}`;
    pen = "L";
  });
  return s("svg.trace", { viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" }, s("path", { d: path || "M0 19" }));
}

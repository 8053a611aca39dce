// A work order told as a colleague would. The words are the daemon's, the same as those of `kvmpilot why`; only what changes step
// by step is put into a table here.

import { h } from "./dom.js";
import { time } from "./format.js";
import { facts, table } from "./parts.js";

/** The section behind which the steps are shown. */
const DONE = "What was done";

/** @param {any} story as `orders/{id}/why` tells it @param {any} action of the order */
export function tale(story, action) {
  return story.sections.map((section) => [
    h("h3", null, section.heading),
    section.lines.map((line, at) => [
      h("p", { "data-key": `${line.unix_ms} ${line.text}` }, line.unix_ms ? [h("time", null, time(line.unix_ms)), " "] : null, line.text),
      at === 0 && section.facts.length > 0 ? facts(section.facts, true) : null,
    ]),
    section.heading === DONE ? steps(action) : null,
  ]);
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

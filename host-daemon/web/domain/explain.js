// What counts for a domain, who said so, and what comes next or why not.

import { h } from "../dom.js";
import { words } from "../format.js";
import { badge, facts, table } from "../parts.js";

/** @param {any} explain as the API gives it */
export function explanation(explain) {
  const { class: what, means, rules, held, settings } = explain;
  return [
    h(
      "p",
      null,
      "It is of class ",
      badge(what.class),
      `, ${what.source === "configured" ? "as configured" : `as ${words(what.source)}`}.`,
      what.inferred !== what.class ? ` From what it does it would be ${what.inferred}.` : "",
    ),
    what.evidence.length > 0 ? facts(what.evidence, true) : null,
    h("h3", null, "What each means would do next, or why not"),
    h(
      "ul.means",
      null,
      means.map((one) =>
        h(
          "li",
          { "data-key": one.means },
          h(
            "span",
            null,
            h("strong", null, words(one.means)),
            " ",
            badge(one.state),
            " ",
            h("span.muted", null, `mode ${one.mode}`),
            waiting(one.orders),
          ),
          h(
            "ul",
            null,
            one.text.map((text) => h("li", null, text)),
          ),
        ),
      ),
    ),
    held.length > 0
      ? [
          h("h3", null, "What is away from its original"),
          table("Values that are away from their originals", held, (one) => one.what, [
            { label: "What", cell: (one) => words(one.what) },
            { label: "Original", cell: (one) => one.original },
            { label: "Now", cell: (one) => one.ours },
          ]),
        ]
      : null,
    rules.length > 0
      ? [
          h("h3", null, "Rules that hold now"),
          h(
            "ul",
            null,
            rules.map((rule) =>
              h(
                "li",
                null,
                h("code", null, rule.rule),
                rule.application ? ` for ${rule.application}` : "",
                ": ",
                h("code", null, rule.then),
              ),
            ),
          ),
        ]
      : null,
    h(
      "details",
      null,
      h("summary", null, `${settings.length} settings that count, and who gave them`),
      table("Settings", settings, (one) => one.key, [
        { label: "Setting", cell: (one) => h("code", null, one.key) },
        { label: "Value", cell: (one) => one.value },
        { label: "From", cell: (one) => one.place ?? words(one.origin) },
        { label: "Note", kind: "mid", cell: (one) => one.note ?? "" },
      ]),
    ),
  ];
}

/** Links to the orders that wait. @param {number[]} orders */
function waiting(orders) {
  return orders.map((id) => [" ", h("a", { href: `#/orders/${id}`, "data-key": id }, `order ${id}`)]);
}

// The pieces that pages are made of: sections, tables, bars, badges.

import { part } from "./api.js";
import { h } from "./dom.js";
import { known, percent, words } from "./format.js";

/**
 * A section with its heading.
 * @param {string} title
 * @param {...any} children
 */
export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  return h("section.panel", { "data-key": id }, h("h2", null, title), ...children);
}

/**
 * @typedef {object} Column
 * @property {string} label
 * @property {(item: any) => any} cell a text, a node or a list of them
 * @property {string} [kind] classes of its cells: `num` for figures, `mid` and `wide` for what small screens leave out
 * @property {string} [title]
 * @property {boolean} [hidden] whether the label is hidden from the eye
 */

/**
 * A table whose first column names the row.
 * @param {string} caption what it shows, for those who do not see it
 * @param {any[]} items one for each row
 * @param {(item: any) => string|number} key what a row is known by
 * @param {(Column|null|false)[]} columns those that are null or false are left out
 * @param {string} [empty] what to say if there are none
 */
export function table(caption, items, key, columns, empty = "None.") {
  if (items.length === 0) return h("p.muted", null, empty);
  const shown = /** @type {Column[]} */ (columns.filter(Boolean));
  const head = shown.map(({ label, kind, title, hidden }) =>
    h("th", { scope: "col", class: kind, title }, hidden ? h("span.sr", null, label) : label),
  );
  const cell =
    (item) =>
    (/** @type {Column} */ { kind, cell }, /** @type {number} */ at) =>
      h(at === 0 ? "th" : "td", { class: kind, scope: at === 0 ? "row" : null }, cell(item));
  const body = items.map((item) => h("tr", { "data-key": key(item) }, shown.map(cell(item))));
  return h(
    "div.scroll",
    { role: "group", "aria-label": caption, tabindex: 0 },
    h("table", null, h("caption.sr", null, caption), h("thead", null, h("tr", null, head)), h("tbody", null, body)),
  );
}

/**
 * A share as a bar with its figure.
 * @param {number|null|undefined} ratio
 * @param {string} kind class: `use` or `wait`
 */
export function bar(ratio, kind) {
  const width = known(ratio) ? Math.max(0, Math.min(1, ratio)) : 0;
  return h(
    `span.bar.${kind}`,
    null,
    h("span.track", { "aria-hidden": "true" }, h("span.fill", { vars: { "--part": width.toFixed(3) } })),
    h("span.figure", null, percent(ratio)),
  );
}

/** What a word means for the eye; the word itself is always there. */
const TONES = {
  good: ["ok", "healthy", "up", "kept", "verified", "same", "on", "effective"],
  warn: ["warning", "degraded", "over", "proposed", "changed", "waits", "held", "paused"],
  bad: ["error", "problem", "failed", "down", "missing", "crashed", "refused", "off"],
  busy: ["approved", "applied", "acts", "latency"],
};

/**
 * A word in a frame of its tone.
 * @param {string} word as the API writes it
 * @param {string|null} [title]
 * @param {string} [text] what to say instead of the word alone
 */
export function badge(word, title, text) {
  const tone = Object.keys(TONES).find((name) => TONES[name].includes(word)) ?? "plain";
  return h(`span.badge.${tone}`, { title }, text ?? words(word));
}

/**
 * Names and values.
 * @param {[string, any][]} pairs
 * @param {boolean} [single] one below the other: the values are long
 */
export function facts(pairs, single = false) {
  return h(
    single ? "dl.facts.single" : "dl.facts",
    null,
    pairs.map(([name, value]) => h("div", { "data-key": name }, h("dt", null, name), h("dd", null, value))),
  );
}

/** @param {any[]} findings as the API gives them */
export function findingList(findings) {
  if (findings.length === 0) return h("p.muted", null, "Nothing to report.");
  const order = { error: 0, warning: 1, info: 2 };
  const sorted = [...findings].sort((a, b) => order[a.severity] - order[b.severity]);
  return h(
    "ul.findings",
    null,
    sorted.map((finding) =>
      h(
        "li",
        { "data-key": `${finding.domain ?? ""} ${finding.name}` },
        badge(finding.severity),
        h(
          "div",
          null,
          finding.domain_name ? [domainLink(finding.domain_name), ": "] : null,
          finding.summary,
          finding.evidence.length > 0
            ? h("details", null, h("summary", null, `evidence for ${words(finding.name)}`), facts(finding.evidence, true))
            : null,
        ),
      ),
    ),
  );
}

/** @param {string} name */
export function domainLink(name) {
  return h("a", { href: `#/domain/${part(name)}` }, name);
}

/**
 * A button that only those see who may change something.
 * @param {string} action name of the page's action @param {string|number} value @param {string} label
 * @param {string} [about] what tells it from its like
 */
export function button(action, value, label, about) {
  return h(
    "button",
    { type: "button", "data-action": action, "data-value": value, "aria-label": about ? `${label} ${about}` : null },
    label,
  );
}

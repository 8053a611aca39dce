// A section of charts with the choice how far back they go: reads the history, as often as it has new points.

import { get, part } from "./api.js";
import { Plots, frame } from "./charts.js";
import { h } from "./dom.js";
import { section } from "./parts.js";

/** How far back, and how far apart the points are. */
const RANGES = [
  { label: "15 min", seconds: 900, step: 5 },
  { label: "1 h", seconds: 3600, step: 15 },
  { label: "6 h", seconds: 21600, step: 90 },
  { label: "24 h", seconds: 86400, step: 360 },
];

/** Belongs to one page: the page loads, shows, draws and closes it. */
export class OverTime {
  /**
   * @param {string|null} domain none for the host
   * @param {string[]} series names that the API knows
   * @param {import("./charts.js").Chart[]} charts
   * @param {() => void} redraw
   */
  constructor(domain, series, charts, redraw) {
    this.domain = domain;
    this.series = series;
    this.charts = charts;
    this.redraw = redraw;
    this.range = RANGES[0];
    /** @type {any} */
    this.history = null;
    /** Why there is none. */
    this.missing = "";
    /** When it was read last, milliseconds. */
    this.read = 0;
    this.plots = new Plots(charts);
    /** For the page's actions. */
    this.actions = { range: (element) => this.choose(element.value) };
  }

  /** Reads the history if there can be something new. */
  async load() {
    if (Date.now() - this.read < this.range.step * 1000 - 500) return;
    const to = Date.now();
    const query = [
      `series=${this.series.join(",")}`,
      `from_unix_ms=${to - this.range.seconds * 1000}`,
      `to_unix_ms=${to}`,
      `step_s=${this.range.step}`,
    ];
    if (this.domain !== null) query.push(`domain=${part(this.domain)}`);
    try {
      this.history = await get(`history?${query.join("&")}`);
      this.missing = this.history.unix_ms.length > 0 ? "" : "nothing has been measured in that time";
    } catch (error) {
      if (error.name === "AbortError") throw error;
      this.missing = error.message;
    }
    this.read = to;
  }

  async choose(label) {
    this.range = RANGES.find((range) => range.label === label) ?? this.range;
    this.read = 0;
    await this.load();
    this.redraw();
  }

  view() {
    return section(
      "Over time",
      h(
        "p.filter",
        null,
        h("label", { for: "range" }, "Last"),
        h(
          "select",
          { id: "range", "data-action": "range" },
          RANGES.map((range) => h("option", { value: range.label }, range.label)),
        ),
      ),
      this.missing ? h("p.muted", null, `There is no history: ${this.missing}.`) : h("div.charts", null, this.charts.map(frame)),
    );
  }

  /** @param {HTMLElement} root */
  draw(root) {
    if (!this.missing) void this.plots.draw(root, this.history);
  }

  close() {
    this.plots.close();
  }
}

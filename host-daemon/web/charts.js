// Charts over time: uPlot, our colours, and a table of the last values for those who do not see them.

import { h } from "./dom.js";
import { time } from "./format.js";

/** @type {Promise<any>|null} */
let library = null;

/** Loads uPlot once; it is a classic script that leaves one global name. */
function uplot() {
  library ??= new Promise((resolve, reject) => {
    document.head.append(h("link", { rel: "stylesheet", href: "assets/vendor/uplot/uPlot.min.css" }));
    const script = h("script", { src: "assets/vendor/uplot/uPlot.iife.min.js" });
    script.addEventListener("load", () => resolve(/** @type {any} */ (globalThis).uPlot));
    script.addEventListener("error", () => reject(new Error("uPlot could not be loaded")));
    document.head.append(script);
  });
  return library;
}

/**
 * @typedef {{label: string, colour: string, values: (data: any) => (number|null)[], dash?: number[]}} Line `colour` is the name
 *   of a custom property; `dash` tells lines apart without colour
 * @typedef {{id: string, title: string, lines: Line[], show: (value: number|null) => string, stacked?: boolean, top?: number, decades?: boolean, incrs?: number[]}} Chart
 */

/** The frame of a chart; its inside is uPlot's. @param {Chart} chart */
export function frame(chart) {
  return h(
    "figure.chart",
    { "data-key": chart.id },
    h("figcaption", null, chart.title),
    h("div.plot", { "data-own": true, "data-chart": chart.id, role: "img", "aria-label": chart.title }),
    h(
      "ul.legend",
      null,
      chart.lines.map((line) =>
        h(
          "li",
          { "data-key": line.label },
          h("span.swatch", { "aria-hidden": "true", vars: { "--swatch": `var(${line.colour})` } }),
          line.label,
          " ",
          h("output", { "data-own": true, "data-line": line.label }, "–"),
        ),
      ),
    ),
  );
}

/** Draws what `frame` made room for, and keeps it up to date. */
export class Plots {
  /** @param {Chart[]} charts */
  constructor(charts) {
    this.charts = charts;
    /** @type {Map<string, any>} */
    this.plots = new Map();
    this.theme = "";
  }

  /** @param {HTMLElement} root @param {any} history as the API gives it */
  async draw(root, history) {
    const UPlot = await uplot();
    const theme = getComputedStyle(document.documentElement).colorScheme + getComputedStyle(document.body).color;
    if (theme !== this.theme) this.close();
    this.theme = theme;
    for (const chart of this.charts) {
      const place = root.querySelector(`[data-chart="${chart.id}"]`);
      if (!(place instanceof HTMLElement) || place.clientWidth === 0) continue;
      const columns = chart.lines.map((line) => line.values(history));
      const data = [history.unix_ms.map((ms) => ms / 1000), ...(chart.stacked ? stack(columns) : columns)];
      const old = this.plots.get(chart.id);
      if (old?.root.isConnected) {
        if (old.width !== place.clientWidth) old.setSize({ width: place.clientWidth, height: 170 });
        old.told = columns;
        old.setData(data);
      } else {
        const plot = new UPlot(options(chart, place), data, place);
        plot.told = columns;
        this.plots.set(chart.id, plot);
      }
      tellLast(place, chart, columns, history.unix_ms);
    }
  }

  close() {
    for (const plot of this.plots.values()) plot.destroy();
    this.plots.clear();
  }
}

/** Each line on top of those before it, the last one lowest: what is drawn first is the largest sum. */
function stack(columns) {
  const sums = [];
  let below = columns[0]?.map(() => 0) ?? [];
  for (const column of columns) {
    below = below.map((sum, at) => (sum === null || column[at] === null ? sum : sum + column[at]));
    sums.push(below.map((sum, at) => (columns.every((other) => other[at] === null) ? null : sum)));
  }
  return sums;
}

function tellLast(place, chart, columns, times) {
  const last = times.length - 1;
  const parts = chart.lines.map((line, at) => {
    const text = chart.show(columns[at][last] ?? null);
    const output = place.parentElement.querySelector(`[data-line="${line.label}"]`);
    if (output && output.textContent !== text) output.textContent = text;
    return `${line.label} ${text}`;
  });
  place.dataset.last = String(times[last] ?? "");
  place.setAttribute("aria-label", `${chart.title}: chart; at ${time(times[last])} ${parts.join(", ")}`);
}

function options(chart, place) {
  const probe = h("span", { hidden: true });
  place.append(probe);
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const [muted, grid] = [colour("--muted"), colour("--line")];
  const axis = { stroke: muted, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const series = chart.lines.map((line) => ({
    label: line.label,
    stroke: colour(line.colour),
    fill: chart.stacked ? colour(line.colour) : undefined,
    width: chart.stacked ? 0 : 1.5,
    dash: line.dash,
    points: { show: false },
    spanGaps: false,
  }));
  probe.remove();
  return {
    width: place.clientWidth,
    height: 170,
    legend: { show: false },
    cursor: { drag: { x: false, y: false } },
    scales: {
      y: chart.decades
        ? { distr: 3, range: (_, low, high) => decades(low, high) }
        : { range: (_, low, high) => fromZero(chart, low, high) },
    },
    axes: [
      { ...axis, space: 70, size: 28, values: (_, ticks) => clock(ticks) },
      {
        ...axis,
        size: 64,
        incrs: chart.incrs,
        values: (_, ticks) => ticks.map((tick) => (chart.decades && !isDecade(tick) ? "" : chart.show(tick))),
      },
    ],
    series: [{}, ...series],
    bands: chart.stacked ? series.slice(1).map((line, at) => ({ series: [at + 2, at + 1], fill: line.fill })) : [],
    hooks: { setCursor: [(plot) => tellAt(place, chart, plot)] },
  };
}

/** From nothing to a little above the largest value. */
function fromZero(chart, low, high) {
  return [Math.min(0, low ?? 0), chart.top ?? Math.max(high ?? 0, 1e-9) * 1.1];
}

/** Whole decades around the values, which are at least 1. */
function decades(low, high) {
  const from = Math.floor(Math.log10(Math.max(low ?? 1, 1)));
  return [10 ** from, 10 ** Math.max(Math.ceil(Math.log10(Math.max(high ?? 1, 1))), from + 1)];
}

const isDecade = (value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9;

/** Times of day, no finer than the marks are apart. @param {number[]} ticks seconds since 1970 */
function clock(ticks) {
  /** @type {Intl.DateTimeFormatOptions} */
  const shown = { hour: "2-digit", minute: "2-digit" };
  if (ticks.length > 1 && ticks[1] - ticks[0] < 60) shown.second = "2-digit";
  return ticks.map((seconds) => new Date(seconds * 1000).toLocaleTimeString("sv-SE", shown));
}

/** The values below the pointer; without one, the last. */
function tellAt(place, chart, plot) {
  if (!plot.told) return;
  const at = plot.cursor.idx ?? plot.data[0].length - 1;
  chart.lines.forEach((line, number) => {
    const output = place.parentElement.querySelector(`[data-line="${line.label}"]`);
    if (output) output.textContent = chart.show(plot.told[number][at] ?? null);
  });
}

// A service as a drawing: components in columns, whoever opens connections left of whom it asks. States are told by shape and
// word, too, and the tables below the drawing say all of it.

import { h, s } from "./dom.js";

const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [150, 48, 90, 22];

/** @param {any} service as the API gives it */
export function graph(service) {
  const columns = layers(service);
  const at = new Map();
  const tallest = Math.max(...columns.map((column) => column.length));
  columns.forEach((column, x) =>
    column.forEach((component, y) => {
      const top = ((tallest - column.length) * (HEIGHT + GAP_Y)) / 2;
      at.set(component.name, { x: 8 + x * (WIDTH + GAP_X), y: 8 + top + y * (HEIGHT + GAP_Y) });
    }),
  );
  const width = 16 + columns.length * (WIDTH + GAP_X) - GAP_X;
  const height = 16 + tallest * (HEIGHT + GAP_Y) - GAP_Y;
  const label =
    `${service.name}: ${service.components.map((one) => `${one.name} is ${one.state}`).join(", ")}; ` +
    service.connections.map((one) => `${one.from} to ${one.to} is ${one.state}`).join(", ");
  return h(
    "div.scroll.graph",
    { role: "group", "aria-label": `Drawing of ${service.name}`, tabindex: 0 },
    s(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
      s(
        "defs",
        null,
        ["up", "down", "unknown"].map((state) =>
          s(
            "marker",
            {
              id: `end-${state}`,
              viewBox: "0 0 8 8",
              refX: 7,
              refY: 4,
              markerWidth: 7,
              markerHeight: 7,
              orient: "auto",
              class: `end ${state}`,
            },
            s("path", { d: "M0 0L8 4L0 8z" }),
          ),
        ),
      ),
      service.connections.map((one) => edge(one, at)),
      service.components.map((one) => node(one, at.get(one.name))),
    ),
  );
}

/** Columns by the longest way that leads to a component; a ring ends where it began. */
function layers({ components, connections }) {
  const depth = new Map(components.map((one) => [one.name, 0]));
  for (let round = 0; round < components.length - 1; round += 1) {
    for (const { from, to } of connections) {
      const next = (depth.get(from) ?? 0) + 1;
      if (depth.has(to) && from !== to && next > depth.get(to) && next < components.length) depth.set(to, next);
    }
  }
  const used = [...new Set(depth.values())].sort((a, b) => a - b);
  return used.map((value) => components.filter((one) => depth.get(one.name) === value));
}

function edge(one, at) {
  const [from, to] = [at.get(one.from), at.get(one.to)];
  if (!from || !to) return null;
  const forward = to.x >= from.x;
  const [x1, x2] = forward ? [from.x + WIDTH, to.x] : [from.x, to.x + WIDTH];
  const [y1, y2] = [from.y + HEIGHT / 2, to.y + HEIGHT / 2];
  const bend = forward ? GAP_X / 2 : -GAP_X / 2;
  return s(
    "g",
    { class: `edge ${one.state}`, "data-key": `${one.from} ${one.to} ${one.port}` },
    s("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, "marker-end": `url(#end-${one.state})` }),
    s("text", { x: (x1 + x2) / 2, y: (y1 + y2) / 2 - 6 }, `${one.port} ${one.state}`),
  );
}

function node(one, { x, y }) {
  return s(
    "g",
    { class: `node ${one.state}`, "data-key": one.name, transform: `translate(${x} ${y})` },
    s("rect", { width: WIDTH, height: HEIGHT, rx: 5 }),
    s("text.name", { x: 12, y: 20 }, shortened(one.name, 18)),
    s("text.note", { x: 12, y: 37 }, shortened(`${one.state} in ${one.domain}`, 22)),
  );
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

// Services: a graph of components and connections with their states, and the same as lists with reasons and transitions.

import { get, part } from "../api.js";
import { h } from "../dom.js";
import { graph } from "../graph.js";
import { percent, span, time, words } from "../format.js";
import { badge, domainLink, section, table } from "../parts.js";

/** @param {import("../main.js").Context} _context @param {string[]} path */
export function page(_context, path) {
  let services;
  let transitions = [];
  const chosen = () => services.find((service) => service.name === path[0]) ?? services[0];
  return {
    title: "Services",
    async load() {
      ({ services } = await get("services"));
      const service = chosen();
      transitions = service ? (await get(`services/${part(service.name)}`)).transitions : [];
    },
    view() {
      if (services.length === 0) {
        return h(
          "p",
          null,
          "No services are defined. ",
          h("code", null, "kvmpilot service learn NAME --from DOMAIN"),
          " writes one of what runs and talks now.",
        );
      }
      const service = chosen();
      return [
        section("All services", list(services, service)),
        section(
          service.name,
          h("p", null, badge(service.state), ` since ${time(service.since_unix_ms)}`),
          service.reasons.length > 0
            ? h(
                "ul",
                null,
                service.reasons.map((reason) => h("li", null, reason)),
              )
            : null,
          graph(service),
        ),
        section("Components", components(service)),
        section("Connections", connections(service)),
        service.files.length > 0 ? section("Watched files", files(service)) : null,
        section("Transitions", history(transitions)),
      ];
    },
  };
}

function list(services, chosen) {
  return table("All services", services, (service) => service.name, [
    {
      label: "Service",
      cell: (service) =>
        h("a", { href: `#/services/${part(service.name)}`, "aria-current": service === chosen ? "true" : null }, service.name),
    },
    { label: "State", cell: (service) => badge(service.state) },
    { label: "Since", kind: "mid nowrap", cell: (service) => time(service.since_unix_ms) },
    { label: "Why", cell: (service) => service.reasons[0] ?? "everything is there" },
  ]);
}

function components(service) {
  return table(`Components of ${service.name}`, service.components, (one) => one.name, [
    { label: "Component", cell: (one) => one.name },
    { label: "State", cell: (one) => badge(one.state) },
    { label: "Domain", cell: (one) => domainLink(one.domain) },
    { label: "Needs", kind: "mid", cell: (one) => [one.unit ?? one.process ?? "", one.port ? ` on ${one.protocol} ${one.port}` : ""] },
    { label: "Why", cell: (one) => one.reason },
  ]);
}

function connections(service) {
  return table(
    `Connections of ${service.name}`,
    service.connections,
    (one) => `${one.from} ${one.to} ${one.port}`,
    [
      { label: "Connection", cell: (one) => `${one.from} → ${one.to}` },
      { label: "State", cell: (one) => badge(one.state) },
      { label: "Port", kind: "num mid", cell: (one) => `${one.protocol} ${one.port}` },
      { label: "Up", kind: "num", title: "Of the time that it was watched", cell: (one) => percent(one.up_ratio) },
      { label: "Watched", kind: "num mid", cell: (one) => span(one.watched_s) },
      { label: "Why", cell: (one) => one.reason },
    ],
    "It has no connections.",
  );
}

function files(service) {
  return table(`Watched files of ${service.name}`, service.files, (one) => `${one.component} ${one.path}`, [
    { label: "File", cell: (one) => h("code", null, `${one.component}:${one.path}`) },
    { label: "State", cell: (one) => badge(one.state) },
    { label: "Since", kind: "mid nowrap", cell: (one) => time(one.since_unix_ms) },
    { label: "Why", cell: (one) => one.reason },
  ]);
}

function history(transitions) {
  return table(
    "Transitions, newest first",
    transitions,
    (one) => `${one.unix_ms} ${one.to}`,
    [
      { label: "When", kind: "nowrap", cell: (one) => time(one.unix_ms) },
      { label: "To", cell: (one) => badge(one.to) },
      { label: "From", kind: "mid", cell: (one) => words(one.from) },
      { label: "Why", cell: (one) => one.reasons.join("; ") || "everything is there" },
    ],
    "There were none yet.",
  );
}

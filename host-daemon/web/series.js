// Which charts there are of a domain and of the host, and of which series they are made.

import { memory, micros, percent, percentage, rate } from "./format.js";

export const OF_DOMAIN = [
  "cpu_use_ratio",
  "contention_ratio",
  "throttled_ratio",
  "halt_polling_ratio",
  "idle_ratio",
  "wait_ratio",
  "runq_wait_p50_us",
  "runq_wait_p99_us",
  "memory_current_kib",
  "memory_usable_kib",
  "received_bytes_per_s",
  "sent_bytes_per_s",
  "cpu_shares",
];

/** @param {string} name */
const series = (name) => (history) => history.series[name] ?? history.unix_ms.map(() => null);

/** For charts in decades, which have no zero. @param {string} name */
const atLeastOne = (name) => (history) => series(name)(history).map((value) => (value === null ? null : Math.max(1, value)));

/** Time on a pcpu without polling for work, which is a part of it. */
function run(history) {
  const use = series("cpu_use_ratio")(history);
  const polling = series("halt_polling_ratio")(history);
  return use.map((value, at) => (value === null ? null : Math.max(0, value - (polling[at] ?? 0))));
}

/** @type {import("./charts.js").Chart[]} */
export const DOMAIN_CHARTS = [
  {
    id: "cpu",
    title: "Where the time of its vcpus goes",
    stacked: true,
    top: 1,
    show: percent,
    lines: [
      { label: "run", colour: "--c1", values: run },
      { label: "contention", colour: "--c2", values: series("contention_ratio") },
      { label: "throttled", colour: "--c3", values: series("throttled_ratio") },
      { label: "halt polling", colour: "--c4", values: series("halt_polling_ratio") },
      { label: "idle", colour: "--idle", values: series("idle_ratio") },
    ],
  },
  {
    id: "wait",
    title: "How long its vcpus wait for a pcpu, logarithmic",
    show: micros,
    decades: true,
    lines: [
      { label: "p50", colour: "--c1", values: atLeastOne("runq_wait_p50_us") },
      { label: "p99", colour: "--c2", values: atLeastOne("runq_wait_p99_us"), dash: [6, 3] },
    ],
  },
  {
    id: "memory",
    title: "Memory and balloon",
    show: memory,
    incrs: Array.from({ length: 40 }, (_, power) => 2 ** power),
    lines: [
      { label: "it has", colour: "--c1", values: series("memory_current_kib") },
      { label: "usable inside", colour: "--c4", values: series("memory_usable_kib"), dash: [6, 3] },
    ],
  },
  {
    id: "traffic",
    title: "Traffic of the guest",
    show: rate,
    lines: [
      { label: "received", colour: "--c1", values: series("received_bytes_per_s") },
      { label: "sent", colour: "--c5", values: series("sent_bytes_per_s"), dash: [6, 3] },
    ],
  },
];

export const OF_HOST = [
  "cpu_some_avg10_percent",
  "memory_some_avg10_percent",
  "io_some_avg10_percent",
  "memory_available_kib",
  "own_percent",
];

/** @type {import("./charts.js").Chart[]} */
export const HOST_CHARTS = [
  {
    id: "pressure",
    title: "Pressure: share of the time in which some task waited",
    show: percentage,
    lines: [
      { label: "CPU", colour: "--c1", values: series("cpu_some_avg10_percent") },
      { label: "memory", colour: "--c2", values: series("memory_some_avg10_percent"), dash: [6, 3] },
      { label: "I/O", colour: "--c4", values: series("io_some_avg10_percent"), dash: [2, 3] },
    ],
  },
  {
    id: "own",
    title: "CPU of kvmpilot itself, of one CPU",
    show: percentage,
    lines: [{ label: "own", colour: "--c3", values: series("own_percent") }],
  },
];

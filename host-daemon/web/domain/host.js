// The domain as the host runs it: vcpus, threads, interfaces, balloon.

import { h } from "../dom.js";
import { known, memory, micros, number, percent, rate, words } from "../format.js";
import { bar, facts, section, table } from "../parts.js";

/** @param {any} domain as the API gives it */
export function hostTables(domain) {
  return [
    section("vcpus", vcpuTable(domain), missing(domain)),
    h(
      "div.pair",
      { "data-key": "host-pair" },
      section("Threads of QEMU", roleTable(domain.roles)),
      section("Interfaces and memory", interfaceTable(domain.interfaces), balloon(domain.balloon)),
    ),
  ];
}

function vcpuTable(domain) {
  const times = new Map(domain.vcpu_times.map((time) => [time.number, time]));
  const time = (vcpu, what) => percent(times.get(vcpu.number)?.[what]);
  return table("vcpus, with where their time goes", domain.vcpus, (vcpu) => vcpu.number, [
    { label: "vcpu", cell: (vcpu) => String(vcpu.number) },
    { label: "pcpu", kind: "num", title: "The one it ran on last", cell: (vcpu) => (known(vcpu.pcpu) ? String(vcpu.pcpu) : "–") },
    { label: "Pin", cell: (vcpu) => vcpu.pin ?? "–" },
    { label: "Run", cell: (vcpu) => bar(vcpu.run_ratio, "use") },
    { label: "Wait", cell: (vcpu) => bar(vcpu.wait_ratio, "wait") },
    { label: "Wait p50", kind: "num mid", cell: (vcpu) => micros(vcpu.runq_wait_p50_us) },
    { label: "p99", kind: "num mid", cell: (vcpu) => micros(vcpu.runq_wait_p99_us) },
    { label: "Contention", kind: "num wide", cell: (vcpu) => time(vcpu, "contention_ratio") },
    { label: "Throttled", kind: "num wide", cell: (vcpu) => time(vcpu, "throttled_ratio") },
    { label: "Halt polling", kind: "num wide", cell: (vcpu) => time(vcpu, "halt_polling_ratio") },
    { label: "Idle", kind: "num wide", cell: (vcpu) => time(vcpu, "idle_ratio") },
    { label: "Preempted/s", kind: "num wide", cell: (vcpu) => number(vcpu.preempted_per_s) },
    { label: "Moves/s", kind: "num wide", title: "To another pcpu", cell: (vcpu) => number(vcpu.migrations_per_s) },
  ]);
}

function missing(domain) {
  return domain.detail_missing.map((text) => h("p.muted", null, text));
}

function roleTable(roles) {
  return table("Threads of QEMU by purpose", roles, (role) => role.role, [
    { label: "For", cell: (role) => words(role.role) },
    { label: "Threads", kind: "num", cell: (role) => String(role.threads) },
    { label: "Run, pcpus", kind: "num", cell: (role) => fine(role.run_pcpus) },
    { label: "Wait, pcpus", kind: "num", cell: (role) => fine(role.wait_pcpus) },
  ]);
}

const fine = (value) => (known(value) ? value.toFixed(2) : "–");

function interfaceTable(interfaces) {
  return table(
    "Interfaces, from the guest's point of view",
    interfaces,
    (one) => one.device,
    [
      { label: "Interface", cell: (one) => one.device },
      { label: "In", kind: "num", cell: (one) => rate(one.received_bytes_per_s) },
      { label: "Out", kind: "num", cell: (one) => rate(one.sent_bytes_per_s) },
      { label: "Packets in/s", kind: "num mid", cell: (one) => number(one.received_packets_per_s) },
      { label: "Packets out/s", kind: "num mid", cell: (one) => number(one.sent_packets_per_s) },
    ],
    "It has no tap devices.",
  );
}

function balloon(balloon) {
  if (!balloon) return h("p.muted", null, "It has no balloon.");
  return [
    facts([
      ["Memory now", memory(balloon.current_kib)],
      ["Usable inside", memory(balloon.usable_kib)],
      ["Free inside", memory(balloon.unused_kib)],
      ["Least that it keeps", memory(balloon.floor_kib)],
      ["Statistics", balloon.stale ? "too old to decide on" : "fresh"],
    ]),
    balloon.refusal ? h("p", null, `The balloon is left alone: ${balloon.refusal}`) : null,
  ];
}

//! Of kvmpilot itself: health, loops, orders, rules, services, findings, and what it costs.

use std::collections::BTreeMap;

use kvmpilot_core::finding::Severity;

use super::{Family, Sink, bytes, counter, gauge, number, one, ratio, some, states, truth};
use crate::api::views::Views;

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    gauge("build_info", "Constant 1: the daemon's version.", &["version"], |views, sink| {
        some(sink, &[&views.status.version], 1.0);
    }),
    gauge("uptime_seconds", "Time since the daemon started.", &[], |views, sink| one(sink, number(views.status.uptime_s))),
    gauge("healthy", "Whether nothing is wrong.", &[], |views, sink| one(sink, truth(views.status.health.ok))),
    gauge("health_problems", "What is wrong, by number; `kvmpilot status` has the words.", &[], |views, sink| {
        one(sink, length(views.status.health.problems.len()));
    }),
    gauge("paused", "Whether nothing is changed because `kvmpilot restore` was run.", &[], |views, sink| {
        one(sink, truth(views.status.paused));
    }),
    gauge("mode_info", "Constant 1: mode of all actuators that have none of their own.", &["mode"], |views, sink| {
        some(sink, &[views.status.mode.as_str()], 1.0);
    }),
    gauge("tier_on", "Whether a source of telemetry delivers.", &["tier", "name"], |views, sink| {
        for tier in &views.status.tiers {
            some(sink, &[&tier.tier.to_string(), &tier.name], truth(tier.on));
        }
    }),
    counter("cycles_total", "Priority cycles since the daemon started.", &[], |views, sink| {
        one(sink, number(views.status.cycle.number));
    }),
    gauge("cycle_period_seconds", "Time between two priority cycles.", &[], |views, sink| {
        one(sink, views.status.cycle.period_s);
    }),
    gauge("cycle_duration_seconds", "How long the last priority cycle took.", &[], |views, sink| {
        one(sink, views.status.cycle.last_duration_ms.map(|ms| ms / 1000.0));
    }),
    gauge("cycle_age_seconds", "Time since the last priority cycle.", &[], |views, sink| {
        one(sink, views.status.cycle.seconds_since_last);
    }),
    gauge("ledger_entries", "Values that are not at their original now.", &[], |views, sink| {
        one(sink, number(views.status.ledger_entries));
    }),
    gauge("orders_proposed", "Work orders that wait for approval.", &[], |views, sink| {
        one(sink, number(views.status.orders.proposed));
    }),
    gauge("orders_stored", "Work orders that the store remembers.", &[], |views, sink| {
        one(sink, number(views.status.orders.total));
    }),
    counter("order_moves_total", "How often work orders came into a state since the daemon started.", &["state"], |views, sink| {
        for moves in &views.status.orders.since_start {
            some(sink, &[moves.state.as_str()], number(moves.times));
        }
    }),
    counter("rule_held_total", "How often the rule's condition held since the daemon started.", &["rule"], |views, sink| {
        for rule in &views.rules.rules {
            some(sink, &[&rule.name], rule.result.as_ref().map(|count| number(count.held_total)));
        }
    }),
    counter("rule_errors_total", "How often the rule could not be evaluated since the daemon started.", &["rule"],
        |views, sink| {
            for rule in &views.rules.rules {
                some(sink, &[&rule.name], rule.result.as_ref().map(|count| number(count.failed_total)));
            }
        }),
    gauge("findings", "Conditions that are found now, by name.", &["finding", "severity"], findings),
    gauge("service_state", "1 for the state that the service is in, 0 for the others.", &["service", "state"], |views, sink| {
        for service in &views.services.services {
            let all = ["healthy", "degraded", "failed", "unknown"];
            states(sink, &[&service.name], &all, service.state.as_str());
        }
    }),
    counter("cpu_seconds_total", "CPU time of the daemon since it started.", &[], |views, sink| {
        one(sink, views.status.own_cost.cpu_seconds);
    }),
    gauge("resident_memory_bytes", "Resident memory of the daemon.", &[], |views, sink| {
        one(sink, bytes(views.status.own_cost.rss_kib));
    }),
    gauge("cost_ratio", "CPU time over the last tick as a part of one CPU, of the daemon's threads and of its eBPF programs.",
        &["part"], |views, sink| {
            some(sink, &["daemon"], ratio(views.status.own_cost.daemon_percent));
            some(sink, &["programs"], ratio(views.status.own_cost.programs_percent));
        }),
    gauge("cost_budget_ratio", "What both parts together may cost, as a part of one CPU.", &[], |views, sink| {
        one(sink, ratio(views.status.own_cost.budget_percent));
    }),
    gauge("cost_shed", "How much is given up to keep to the budget: 0 to 3 parts.", &[], |views, sink| {
        one(sink, length(views.status.own_cost.shed.len()));
    }),
    counter("program_runs_total", "Runs of the daemon's eBPF programs since it started.", &["program", "tier"], |views, sink| {
        for program in &views.status.own_cost.programs {
            some(sink, &[&program.name, &program.tier.to_string()], program.runs.map(number));
        }
    }),
    gauge("program_run_seconds", "Mean time of one run of an eBPF program when it was measured last.", &["program", "tier"],
        |views, sink| {
            for program in &views.status.own_cost.programs {
                let mean = program.ns_per_run.map(|ns| number(ns) / 1e9);
                some(sink, &[&program.name, &program.tier.to_string()], mean);
            }
        }),
    counter("otlp_sent_total", "Requests that the OTLP collector took since the daemon started.", &["signal"], |views, sink| {
        for signal in views.status.otlp.iter().flat_map(|otlp| &otlp.signals) {
            some(sink, &[&signal.signal], number(signal.sent));
        }
    }),
    counter("otlp_dropped_total",
        "Requests to the OTLP collector that were dropped since the daemon started: there was no room, or it refused them.",
        &["signal"], |views, sink| {
            for signal in views.status.otlp.iter().flat_map(|otlp| &otlp.signals) {
                some(sink, &[&signal.signal], number(signal.dropped));
            }
        }),
    counter("otlp_failed_attempts_total", "Attempts to reach the OTLP collector that failed since the daemon started.", &[],
        |views, sink| one(sink, views.status.otlp.as_ref().map(|otlp| number(otlp.failed_attempts)))),
    gauge("otlp_queue_bytes", "Memory of what waits for the OTLP collector.", &[], |views, sink| {
        one(sink, views.status.otlp.as_ref().map(|otlp| number(otlp.queued_bytes)));
    }),
];

fn length(length: usize) -> f64 {
    number(u64::try_from(length).unwrap_or(u64::MAX))
}

fn findings(views: &Views, sink: &mut Sink<'_>) {
    let mut counts: BTreeMap<(&str, Severity), u64> = BTreeMap::new();
    for finding in &views.status.findings {
        *counts.entry((&finding.name, finding.severity)).or_default() += 1;
    }
    for ((name, severity), count) in counts {
        let severity = match severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        some(sink, &[name, severity], number(count));
    }
}

//! `kvmpilot status` and `kvmpilot doctor`.

use super::super::page::{Page, Screen, bad, doubtful, good};
use super::super::words::{UNKNOWN, count, memory, number, percent, seconds};
use crate::api::views::{DoctorView, StatusView, Verdict};

pub(in super::super) fn status(view: &StatusView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let host = &view.host;
    page.line(&format!(
        "kvmpilotd {} on {}: Linux {}, {}, {} of {} memory available",
        view.version,
        host.name,
        host.kernel,
        count(usize::try_from(host.pcpus).unwrap_or(0), "pcpu"),
        memory(host.memory_available_kib),
        memory(host.memory_total_kib),
    ));
    page.facts(facts(view));
    super::findings(&mut page, &view.findings);
    page.finish()
}

fn facts(view: &StatusView) -> Vec<(&str, String)> {
    let libvirt = &view.libvirt;
    let pressure = &view.host.pressure;
    let cycle = &view.cycle;
    let mut facts = vec![("health", if view.health.ok { good("ok") } else { bad("not ok") })];
    facts.extend(view.health.problems.iter().map(|problem| ("", problem.clone())));
    let paused = if view.paused {
        doubtful("; paused by `kvmpilot restore`, reload the daemon to go on")
    } else {
        String::new()
    };
    facts.push(("mode", format!("{}{paused}", view.mode)));
    let version = libvirt.version.as_deref().unwrap_or(UNKNOWN);
    let connection = if libvirt.connected { format!("version {version}") } else { bad("not connected") };
    let message = libvirt.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
    facts.push(("libvirt", format!("{}, {connection}{message}", libvirt.uri)));
    facts.push(("domains", format!("{} running, {} managed", view.domains.running, view.domains.managed)));
    facts.push((
        "cycle",
        format!(
            "{} so far, one every {}, the last one {} ago in {} ms",
            cycle.number,
            seconds(Some(cycle.period_s)),
            seconds(cycle.seconds_since_last),
            number(cycle.last_duration_ms)
        ),
    ));
    facts.push((
        "pressure",
        format!(
            "cpu {}, memory {}, io {}",
            percent(pressure.cpu_some_avg10_percent),
            percent(pressure.memory_some_avg10_percent),
            percent(pressure.io_some_avg10_percent)
        ),
    ));
    let proposed = if view.orders.proposed > 0 {
        doubtful(&format!("{} wait for approval (`kvmpilot orders --state proposed`)", view.orders.proposed))
    } else {
        "none waits for approval".to_owned()
    };
    facts.push(("orders", format!("{} in all, {proposed}", view.orders.total)));
    let changed = if view.ledger_entries == 0 {
        "every value is at its original".to_owned()
    } else {
        format!("{} not at their originals (`kvmpilot restore` puts them back)", view.ledger_entries)
    };
    facts.push(("values", changed));
    facts.push(("own cost", own_cost(view)));
    if !view.own_cost.shed.is_empty() {
        facts.push((
            "",
            doubtful(&format!("given up to keep to the budget: {}", view.own_cost.shed.join(", "))),
        ));
    }
    for tier in &view.tiers {
        let on = if tier.on { good("on") } else { doubtful("off") };
        facts.push(("telemetry", format!("tier {}, {}: {on}; {}", tier.tier, tier.name, tier.reason)));
    }
    facts
}

fn own_cost(view: &StatusView) -> String {
    let cost = &view.own_cost;
    // Small parts of a small budget.
    let percent =
        |part: Option<f64>| part.map_or_else(|| UNKNOWN.to_owned(), |part| format!("{part:.2}\u{a0}%"));
    format!(
        "{} of CPU in {}, {}; now {} of one CPU and {} by the probes, budget {}",
        seconds(cost.cpu_seconds),
        // A span, not an instant: whole seconds are exact in a float for 285 million years.
        seconds(Some(std::time::Duration::from_secs(view.uptime_s).as_secs_f64())),
        memory(cost.rss_kib),
        percent(cost.daemon_percent),
        percent(cost.programs_percent),
        percent(cost.budget_percent)
    )
}

pub(in super::super) fn doctor(view: &DoctorView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    for check in &view.checks {
        let verdict = match check.verdict {
            Verdict::Ok => good("ok     "),
            Verdict::Warning => doubtful("warning"),
            Verdict::Problem => bad("problem"),
        };
        // A message can show a line of a file with a caret below it.
        let mut lines = check.message.lines();
        page.line(&format!("{verdict}  {}: {}", check.name, lines.next().unwrap_or_default()));
        for line in lines.chain(check.advice.as_deref()) {
            page.line(&format!("         {line}"));
        }
    }
    page.finish()
}

//! `kvmpilot domains` and `kvmpilot domain`.

use kvmpilot_core::decide::ResourceState;
use kvmpilot_core::sample::{DomainState, ThreadRole, ThreadSource};

use super::super::page::{Page, Screen, bad, doubtful, good};
use super::super::words::{UNKNOWN, changed, memory, micros, number, plain, rate, ratio, seconds, yes_no};
use crate::api::views::{
    AgentView, BalloonView, ClassSource, DomainDetailView, DomainsView, NetworkView, SharesView,
};

pub(in super::super) fn domains(view: &DomainsView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    if view.domains.is_empty() {
        page.line("there are no domains");
        return page.finish();
    }
    let rows = view.domains.iter().map(|domain| {
        vec![
            domain.name.clone(),
            if domain.quarantine.is_some() { bad("quarantine") } else { state(domain.state) },
            domain.class.to_string(),
            resource(domain.states.cpu, &ratio(domain.cpu_use_ratio)),
            ratio(domain.wait_ratio),
            resource(domain.states.memory, &memory(domain.memory_current_kib)),
            shares(domain.cpu_shares),
            rate(traffic(domain.network)),
            agent(&domain.agent),
        ]
    });
    let titles = ["~DOMAIN", "STATE", "CLASS", ">CPU", ">WAIT", ">MEMORY", "~SHARES", ">TRAFFIC", "~AGENT"];
    page.table(&titles, rows.collect());
    page.finish()
}

pub(in super::super) fn domain(view: &DomainDetailView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    page.line(&format!("{} ({})", view.row.name, view.row.uuid));
    page.facts(facts(view));
    page.heading("VCPUS (switches and migrations a second)");
    let rows = view.vcpus.iter().map(|vcpu| {
        vec![
            vcpu.number.to_string(),
            plain(vcpu.pcpu),
            plain(vcpu.pin.as_ref()),
            ratio(vcpu.run_ratio),
            ratio(vcpu.wait_ratio),
            micros(vcpu.runq_wait_p50_us),
            micros(vcpu.runq_wait_p99_us),
            number(vcpu.preempted_per_s),
            number(vcpu.blocked_per_s),
            number(vcpu.migrations_per_s),
        ]
    });
    let titles =
        [">VCPU", ">PCPU", "~PIN", ">RUNS", ">WAITS", ">P50", ">P99", ">PREEMPTED", ">BLOCKED", ">MIGRATED"];
    page.table(&titles, rows.collect());
    super::detail::times(&mut page, view);
    if !view.threads.is_empty() {
        super::detail::roles(&mut page, view);
        page.heading("THREADS");
        let rows = view.threads.iter().map(|thread| {
            vec![
                thread.tid.to_string(),
                role(thread.role),
                thread.comm.clone(),
                plain(thread.pcpu),
                ratio(thread.run_ratio),
                ratio(thread.wait_ratio),
                match thread.source {
                    ThreadSource::Probe => "probe".to_owned(),
                    ThreadSource::Schedstat => "schedstat".to_owned(),
                },
            ]
        });
        page.table(&[">TID", "ROLE", "~NAME", ">PCPU", ">RUNS", ">WAITS", "SOURCE"], rows.collect());
    }
    if !view.interfaces.is_empty() {
        page.heading("INTERFACES (a second)");
        let rows = view.interfaces.iter().map(|interface| {
            vec![
                interface.device.clone(),
                rate(interface.received_bytes_per_s),
                rate(interface.sent_bytes_per_s),
                number(interface.received_packets_per_s),
                number(interface.sent_packets_per_s),
            ]
        });
        page.table(&["DEVICE", ">IN", ">OUT", ">PACKETS IN", ">PACKETS OUT"], rows.collect());
    }
    if !view.disks.is_empty() {
        page.heading("DISKS (between the last two readings)");
        let kib = |bytes: u64| memory(Some(bytes / 1024));
        let rows = view.disks.iter().map(|disk| {
            vec![
                disk.target.clone(),
                kib(disk.capacity_bytes),
                kib(disk.allocation_bytes),
                rate(disk.read_bytes_per_s),
                rate(disk.written_bytes_per_s),
                disk.source.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
            ]
        });
        page.table(&["DISK", ">SIZE", ">ON HOST", ">READ", ">WRITTEN", "~IMAGE"], rows.collect());
    }
    super::baseline::baseline(&mut page, view);
    if let Some(system) = view.guest.as_ref().and_then(|guest| guest.system.as_deref()) {
        super::guest::tables(&mut page, system);
    }
    super::findings(&mut page, &view.findings);
    page.finish()
}

fn facts(view: &DomainDetailView) -> Vec<(&str, String)> {
    let row = &view.row;
    let source = match row.class_source {
        ClassSource::Configured => "configured",
        ClassSource::Rule => "a rule's",
        ClassSource::Inferred => "inferred",
    };
    let evidence = match row.class_evidence.as_str() {
        "" => String::new(),
        evidence => format!(": {evidence}"),
    };
    let modes = row.modes;
    let mut facts = vec![
        ("state", format!("{}, {}", state(row.state), row.accel)),
        ("class", format!("{}, {source}{evidence}", row.class)),
        (
            "modes",
            format!(
                "ladder {}, weight {}, placement {}, balloon {}",
                modes.ladder, modes.weight, modes.placement, modes.balloon
            ),
        ),
        (
            "cpu",
            format!(
                "{} of {} vcpus used, {} of the time wanted spent waiting: {}",
                ratio(row.cpu_use_ratio),
                row.vcpu_count,
                ratio(row.wait_ratio),
                resource(row.states.cpu, row.states.cpu.as_str())
            ),
        ),
        ("cpu_shares", shares(row.cpu_shares)),
        ("emulator", format!("may use pcpus {}", plain(view.emulator_pin.as_ref()))),
        (
            "memory",
            format!(
                "{} of {}: {}",
                memory(row.memory_current_kib),
                memory(Some(row.memory_maximum_kib)),
                resource(row.states.memory, row.states.memory.as_str())
            ),
        ),
        ("balloon", view.balloon.as_ref().map_or_else(|| "none".to_owned(), balloon)),
        (
            "network",
            format!(
                "in {}, out {}",
                rate(row.network.received_bytes_per_s),
                rate(row.network.sent_bytes_per_s)
            ),
        ),
        ("communicates", row.communicating.map_or(UNKNOWN, yes_no).to_owned()),
        ("need", format!("{}, off its optimum for {} cycles", number(row.need), row.cycles_off_optimum)),
        ("agent", agent(&row.agent)),
    ];
    if let Some(why) = &row.quarantine {
        facts.push(("quarantine", bad(why)));
    }
    if let Some(job) = row.job {
        facts.push(("job", format!("a {job} runs; nothing is changed until it is over")));
    }
    facts.extend(super::detail::facts(view));
    if let Some(guest) = &view.guest {
        let text = format!(
            "load {}, {} runnable, {} vcpus online",
            number(guest.load1),
            plain(guest.runnable),
            plain(guest.vcpus_online)
        );
        facts.push(("guest", text));
        facts.extend(guest.system.as_deref().into_iter().flat_map(super::guest::facts));
    }
    facts
}

fn traffic(network: NetworkView) -> Option<f64> {
    Some(network.received_bytes_per_s? + network.sent_bytes_per_s?)
}

fn balloon(balloon: &BalloonView) -> String {
    let mut text = format!(
        "{} now; the guest sees {}, of which {} usable and {} unused; floor {}",
        memory(Some(balloon.current_kib)),
        memory(balloon.available_kib),
        memory(balloon.usable_kib),
        memory(balloon.unused_kib),
        memory(balloon.floor_kib)
    );
    if balloon.stale {
        text.push_str(&doubtful("; these figures are stale"));
    }
    if let Some(refusal) = &balloon.refusal {
        text.push_str(&format!("; not touched: {refusal}"));
    }
    text
}

fn state(state: DomainState) -> String {
    match state {
        DomainState::Running => good("running"),
        DomainState::Paused => doubtful("paused"),
        DomainState::ShuttingDown => doubtful("shutting down"),
        DomainState::ShutOff => "shut off".to_owned(),
        DomainState::Crashed => bad("crashed"),
        DomainState::Suspended => "suspended".to_owned(),
        DomainState::Unknown => "unknown".to_owned(),
    }
}

/// `text` in the colour of the resource's state.
fn resource(state: ResourceState, text: &str) -> String {
    match state {
        ResourceState::Over => bad(text),
        ResourceState::Ok | ResourceState::Under | ResourceState::Unknown => text.to_owned(),
    }
}

fn shares(shares: SharesView) -> String {
    let current = plain(shares.current);
    shares.original.map_or_else(|| current.clone(), |original| changed(&current, &original.to_string()))
}

fn agent(agent: &AgentView) -> String {
    let message = agent.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
    match (agent.connected, agent.usable) {
        (None, _) => format!("none{message}"),
        (Some(false), _) => doubtful(&format!("not connected{message}")),
        (Some(true), false) => doubtful(&format!("not usable{message}")),
        (Some(true), true) => format!("{} ago{message}", seconds(agent.last_poll_age_s)),
    }
}

pub(super) fn role(role: ThreadRole) -> String {
    match role {
        ThreadRole::Vcpu(number) => format!("vcpu {number}"),
        ThreadRole::Emulator => "emulator".to_owned(),
        ThreadRole::Iothread(number) => format!("iothread {number}"),
        ThreadRole::Vhost => "vhost".to_owned(),
        ThreadRole::Worker => "worker".to_owned(),
    }
}

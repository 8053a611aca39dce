//! `kvmpilot processes`.

use kvmpilot_core::decide::EffectVerdict;
use kvmpilot_core::policy::Level;
use kvmpilot_core::sample::SchedPolicy;

use super::super::page::{Page, Screen, doubtful, good};
use super::super::words::{changed, count, memory, plain, rate, ratio, seconds, yes_no};
use crate::api::views::{ApplicationView, LadderView, ProcessView, ProcessesView};

pub(in super::super) fn processes(view: &ProcessesView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let age = view.age_s.map_or_else(|| "no data".to_owned(), |age| format!("{} ago", seconds(Some(age))));
    page.line(&format!("{}: {}, {age}", view.domain, count(view.applications.len(), "application")));
    if let Some(message) = &view.message {
        page.line(&doubtful(message));
    }
    let scarce =
        if view.scarce { "CPU is scarce" } else { "CPU is not scarce, so levels rest at their originals" };
    let reason = view.scarce_reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    if view.age_s.is_some() {
        page.line(&format!("{scarce}{reason}"));
    }
    for means in &view.ladder {
        page.line(&self::means(means));
    }
    for cut in &view.truncated {
        page.line(&doubtful(&format!("left out: {cut}")));
    }
    if view.applications.is_empty() {
        return page.finish();
    }
    page.heading("APPLICATIONS");
    let rows = view.applications.iter().map(|application| {
        let why = application.protected.as_ref().map(|why| format!("never moved: {why}"));
        vec![
            application.name.clone(),
            level(application),
            weight(application),
            if application.communicating { good("yes") } else { yes_no(false).to_owned() },
            rate(application.traffic.and_then(|traffic| traffic.received_bytes_per_s)),
            rate(application.traffic.and_then(|traffic| traffic.sent_bytes_per_s)),
            why.or_else(|| application.evidence.clone()).unwrap_or_default(),
        ]
    });
    page.table(
        &["~APPLICATION", "LEVEL", ">CPUWEIGHT", "COMMUNICATES", ">IN", ">OUT", "~WHY"],
        rows.collect(),
    );
    page.heading("PROCESSES");
    let all = view.applications.iter().flat_map(|application| {
        application.processes.iter().map(move |process| row(&application.name, process))
    });
    page.dense_table(
        &[">PID", "~PROCESS", "~USER", "NICE", ">CPU", ">MEMORY", ">IN", ">OUT", "~SOCKETS", "~COMMAND"],
        all.collect(),
    );
    page.finish()
}

fn means(view: &LadderView) -> String {
    let LadderView { means, raised_vcpus: [raised, raised_to], lowered_vcpus: [lowered, lowered_to], .. } =
        view;
    let measured = format!(
        "raised applications went from {raised:.2} to {raised_to:.2} vcpus, lowered ones from {lowered:.2} to {lowered_to:.2}"
    );
    match (view.verdict, view.rests_s) {
        (EffectVerdict::Void, Some(_)) => doubtful(&format!(
            "{means} has no effect here, and rests for {}: {measured}",
            seconds(view.rests_s)
        )),
        (EffectVerdict::Void, None) => {
            doubtful(&format!("{means} had no effect at the last step: {measured}"))
        }
        (EffectVerdict::Effective, _) => good(&format!("{means} counts here: {measured}")),
        (EffectVerdict::Unclear, _) => format!("{means} could not be measured at the last step: {measured}"),
    }
}

fn weight(application: &ApplicationView) -> String {
    let text = |weight: Option<u16>| weight.map(|weight| weight.to_string());
    let originally = text(application.cpu_weight_original);
    text(application.cpu_weight)
        .map_or_else(String::new, |now| changed(&now, originally.as_deref().unwrap_or(&now)))
}

fn level(application: &ApplicationView) -> String {
    let (now, before) = (application.level, application.level_original);
    let text = changed(Level::as_str(now), Level::as_str(before));
    match now.cmp(&before) {
        std::cmp::Ordering::Greater => good(&text),
        std::cmp::Ordering::Equal => text,
        std::cmp::Ordering::Less => doubtful(&text),
    }
}

fn row(application: &str, process: &ProcessView) -> Vec<String> {
    let policy = match process.policy {
        SchedPolicy::Other => "",
        SchedPolicy::Batch => " batch",
        SchedPolicy::Idle => " idle",
        SchedPolicy::RealTime => " real-time",
        SchedPolicy::Unknown => " unknown policy",
    };
    let name = if process.name == application {
        process.name.clone()
    } else {
        format!("{application}: {}", process.name)
    };
    vec![
        process.pid.to_string(),
        name,
        process.user.clone().unwrap_or_else(|| plain(process.uid)),
        changed(&process.nice.to_string(), &process.nice_original.to_string()) + policy,
        ratio(process.cpu_ratio),
        memory(Some(process.rss_kib)),
        rate(process.traffic.and_then(|traffic| traffic.received_bytes_per_s)),
        rate(process.traffic.and_then(|traffic| traffic.sent_bytes_per_s)),
        sockets(process),
        process.command.clone(),
    ]
}

/// What fits in a cell; `--json` has all of it.
fn sockets(process: &ProcessView) -> String {
    const SHOWN: usize = 3;
    let listens = process.listens.iter().map(|listen| listen.local.clone());
    let mut parts: Vec<String> = listens.take(SHOWN).collect();
    if process.listens.len() > SHOWN {
        parts.push(format!("{} more", process.listens.len() - SHOWN));
    }
    if !process.connections.is_empty() {
        parts.push(count(process.connections.len(), "connection"));
    }
    parts.join(", ")
}

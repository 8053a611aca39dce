//! What the document shows of the benches whose JSON is no plain table.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{goals, rows, table};

/// A part of what `bench` reported.
pub(super) fn part(bench: &str, part: &str, run: &Value) -> Result<String> {
    match (bench, part) {
        ("memory", "goals") => goals(
            run,
            &[
                ("reclaimed_ratio", "at least 0.2"),
                ("slowdown_ratio", "at most 0.01"),
                ("oom_kills", "0"),
                ("give_back_s", ""),
            ],
        ),
        ("memory", "table") => memory(run),
        ("guest-priority", "goals") => goals(
            run,
            &[
                ("p99_vs_alone_off", "at least 2"),
                ("p99_vs_alone_on", "at most 1.15"),
                ("rps_vs_alone_on", "at least 0.9"),
                ("hogs_share_on", "at least 0.05"),
            ],
        ),
        ("guest-priority", "table") => guest_priority(run),
        ("scale", "goals") => goals(
            run,
            &[
                ("domains", "200"),
                ("mib_per_domain", ""),
                ("cpu_ms_per_cycle", "at most 10, of 500 domains"),
                ("cycle_p99_ms", ""),
                ("cpu_ms_per_s", ""),
                ("rss_mib", "at most 64, of 500 domains"),
                ("startup_s", ""),
                ("listed_s", ""),
                ("libvirtd_cpu_ratio_vs_domstats", "at least 20"),
            ],
        ),
        ("scale", "table") => scale(run),
        ("soak", "summary") => goals(
            run,
            &[
                ("seconds", "at least 3600"),
                ("broken", "-"),
                ("seed", ""),
                ("turns", ""),
                ("cycles", ""),
                ("longest_turn_ms", ""),
                ("excused_turns", ""),
                ("values_checked", ""),
                ("kept_checked", ""),
                ("audits", ""),
                ("orders_compared", ""),
                ("requests", ""),
            ],
        ),
        ("soak", "spans") => spans(run),
        ("soak", "events") => events(run),
        _ => bail!("there is no part {part} of {bench}"),
    }
}

/// A row for each contestant; kvmpilot's figures are those of the report's head.
fn memory(run: &Value) -> Result<String> {
    let named = |(name, figures): (&str, &Value)| {
        let mut row = figures.as_object()?.clone();
        row.insert("name".to_owned(), json!(name));
        Some(Value::Object(row))
    };
    let all = [("none", &run["none"]), ("MOM", &run["mom"]), ("kvmpilot", run)];
    let contestants: Vec<Value> = all.into_iter().filter_map(named).collect();
    table(
        &contestants,
        &[
            ("", "name", 0),
            ("reclaimed", "reclaimed_ratio", 3),
            ("in the second half", "reclaimed_later_ratio", 3),
            ("at most", "reclaimed_most_ratio", 3),
            ("slow-down", "slowdown_ratio", 4),
            ("least", "slowdown_least_ratio", 4),
            ("most", "slowdown_most_ratio", 4),
            ("given back, s", "give_back_s", 1),
            ("later than none, s", "give_back_late_s", 1),
            ("growths", "growths", 0),
            ("never", "never_given_back", 0),
            ("major faults", "major_faults", 0),
            ("swap-in MiB", "swap_in_mib", 1),
            ("OOM kills", "oom_kills", 0),
            ("actions", "actions", 0),
            ("own CPU s", "cpu_s", 1),
            ("own RSS MiB", "rss_mib", 0),
            ("others' pcpus", "others_pcpus", 2),
        ],
    )
}

/// A row for each round of each kind of guest.
fn guest_priority(run: &Value) -> Result<String> {
    let mut all = Vec::new();
    for guest in rows(run, "guests")? {
        for (number, round) in (1..).zip(rows(guest, "rounds")?) {
            let of = |key: &str| json!([round["alone"][key], round["off"][key], round["on"][key]]);
            let (p99, rps) = (of("p99_ms"), of("requests_per_second"));
            all.push(json!({
                "kind": guest["kind"], "round": number, "hogs": guest["hogs"],
                "p99_alone": p99[0], "p99_off": p99[1], "p99_on": p99[2],
                "rps_alone": rps[0], "rps_off": rps[1], "rps_on": rps[2],
                "hogs_off": round["hogs_vcpus_off"], "hogs_on": round["hogs_vcpus_on"],
            }));
        }
    }
    let rounds = table(
        &all,
        &[
            ("guest", "kind", 0),
            ("round", "round", 0),
            ("hogs", "hogs", 0),
            ("p99 ms, alone", "p99_alone", 0),
            ("off", "p99_off", 0),
            ("on", "p99_on", 0),
            ("requests/s, alone", "rps_alone", 0),
            ("off", "rps_off", 0),
            ("on", "rps_on", 0),
            ("vcpus of the hogs, off", "hogs_off", 2),
            ("on", "hogs_on", 2),
        ],
    )?;
    let medians = table(
        rows(run, "guests")?,
        &[
            ("guest, medians of the ratios to alone", "kind", 0),
            ("p99 off", "p99_vs_alone_off", 2),
            ("p99 on", "p99_vs_alone_on", 2),
            ("requests/s off", "rps_vs_alone_off", 2),
            ("requests/s on", "rps_vs_alone_on", 2),
            ("hogs, on to off", "hogs_share_on", 2),
        ],
    )?;
    Ok(format!("{rounds}\n\n{medians}"))
}

/// A row for each round and who was beside the domains.
fn scale(run: &Value) -> Result<String> {
    let mut all = Vec::new();
    for (number, round) in (1..).zip(rows(run, "rounds")?) {
        for (key, name) in
            [("nobody", "nobody"), ("kvmpilotd", "kvmpilotd"), ("domstats", "a sweep each 15 s")]
        {
            let phase = &round[key];
            all.push(json!({
                "round": number, "who": name, "seconds": phase["seconds"],
                "libvirtd": phase["libvirtd_ms_per_s"], "qemus": phase["qemus_ms_per_s"],
            }));
        }
    }
    table(
        &all,
        &[
            ("round", "round", 0),
            ("beside the domains", "who", 0),
            ("seconds", "seconds", 0),
            ("libvirtd, ms of CPU a second", "libvirtd", 2),
            ("QEMUs, ms of CPU a second", "qemus", 1),
        ],
    )
}

/// What must not grow.
fn spans(run: &Value) -> Result<String> {
    let row = |(name, key): (&str, &str)| json!({ "name": name, "min": run[key]["min"], "max": run[key]["max"], "last": run[key]["last"] });
    let all = [
        ("resident memory, KiB", "rss_kib"),
        ("descriptors", "descriptors"),
        ("threads", "threads"),
        ("database, bytes", "database_bytes"),
    ];
    let all: Vec<Value> = all.into_iter().map(row).collect();
    table(&all, &[("", "name", 0), ("least", "min", 0), ("most", "max", 0), ("at the end", "last", 0)])
}

/// How often each thing happened.
fn events(run: &Value) -> Result<String> {
    let events = run["events"].as_object().context("no events")?;
    let row = |(name, count): (&String, &Value)| json!({ "name": name, "done": count["done"], "skipped": count["skipped"], "failed": count["failed"] });
    let all: Vec<Value> = events.iter().map(row).collect();
    table(
        &all,
        &[
            ("event", "name", 0),
            ("done", "done", 0),
            ("nobody to do it to", "skipped", 0),
            ("refused", "failed", 0),
        ],
    )
}

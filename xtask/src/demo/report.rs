//! The demo's result: as JSON, as a table, and as a verdict.

use anyhow::{Result, ensure};
use kvmpilot_tests::{HttpReport, Lab, Witness};
use serde::Serialize;
use serde_json::Value;

use super::SERVER;

/// Everything that the demo has shown; the shape of `demo --json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    guests: Vec<Guest>,
    guest_priority: Vec<Priority>,
    cpu_shares: Vec<Shares>,
    vcpu_pins: Vec<Pin>,
    emulator_pins: Vec<EmulatorPin>,
    balloon: Vec<Balloon>,
    http: Http,
    orders: usize,
    restored: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Guest {
    name: String,
    accel: String,
    vcpus: u32,
    memory_kib: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Priority {
    domain: String,
    process: String,
    communicating: bool,
    level_before: String,
    level_after: String,
    nice_before: i8,
    nice_after: i8,
}

#[derive(Clone, Debug, Serialize)]
struct Shares {
    domain: String,
    before: u64,
    after: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Pin {
    domain: String,
    vcpu: u32,
    before: String,
    after: String,
}

#[derive(Clone, Debug, Serialize)]
struct EmulatorPin {
    domain: String,
    before: String,
    after: String,
}

#[derive(Clone, Debug, Serialize)]
struct Balloon {
    domain: String,
    before_kib: u64,
    after_kib: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Http {
    p50_ms_before: f64,
    p99_ms_before: f64,
    rps_before: f64,
    p50_ms_after: f64,
    p99_ms_after: f64,
    rps_after: f64,
}

impl Report {
    /// Puts together what the witness saw before, with kvmpilot and after it.
    pub(super) fn new(
        lab: &Lab,
        before: &Witness,
        after: &Witness,
        restored: &Witness,
        [http_before, http_after]: [HttpReport; 2],
        processes: &Value,
        orders: &[Value],
    ) -> Result<Self> {
        let guests = lab.guests().iter().map(|guest| Guest {
            name: guest.name.clone(),
            accel: lab.accel().to_string(),
            vcpus: guest.vcpus,
            memory_kib: guest.memory_mib * 1024,
        });
        let shares = after.shares.iter().map(|(domain, after)| Shares {
            domain: domain.clone(),
            before: before.shares.get(domain).copied().unwrap_or_default(),
            after: *after,
        });
        let pins = after.pins.iter().map(|(key, after)| Pin {
            domain: key.0.clone(),
            vcpu: key.1,
            before: before.pins.get(key).cloned().unwrap_or_default(),
            after: after.clone(),
        });
        let emulators = after.emulator_pins.iter().map(|(domain, after)| EmulatorPin {
            domain: domain.clone(),
            before: before.emulator_pins.get(domain).cloned().unwrap_or_default(),
            after: after.clone(),
        });
        let balloons = after.balloons.iter().map(|(domain, after)| Balloon {
            domain: domain.clone(),
            before_kib: before.balloons.get(domain).copied().unwrap_or_default(),
            after_kib: *after,
        });
        Ok(Self {
            guests: guests.collect(),
            guest_priority: priorities(before, after, processes),
            cpu_shares: shares.filter(|change| change.before != change.after).collect(),
            vcpu_pins: pins.filter(|change| change.before != change.after).collect(),
            emulator_pins: emulators.filter(|change| change.before != change.after).collect(),
            balloon: balloons.filter(|change| change.before_kib != change.after_kib).collect(),
            http: Http {
                p50_ms_before: http_before.p50_ms,
                p99_ms_before: http_before.p99_ms,
                rps_before: http_before.requests_per_second,
                p50_ms_after: http_after.p50_ms,
                p99_ms_after: http_after.p99_ms,
                rps_after: http_after.requests_per_second,
            },
            orders: orders.len(),
            restored: restored.is_as(before).is_ok(),
        })
    }

    /// Prints the result for people.
    pub(super) fn print(&self) {
        println!("\nWhat changed, as libvirt and the guests say");
        for change in &self.guest_priority {
            let Priority { domain, process, level_before, level_after, nice_before, nice_after, .. } = change;
            let talks = if change.communicating { "communicates" } else { "does not communicate" };
            println!(
                "    {domain}: {process} ({talks}): {level_before} -> {level_after}, nice {nice_before} -> {nice_after}"
            );
        }
        for Shares { domain, before, after } in &self.cpu_shares {
            println!("    {domain}: cpu_shares {before} -> {after}");
        }
        for Pin { domain, vcpu, before, after } in &self.vcpu_pins {
            println!("    {domain}: vcpu {vcpu} on pcpus {before} -> {after}");
        }
        for EmulatorPin { domain, before, after } in &self.emulator_pins {
            println!("    {domain}: emulator on pcpus {before} -> {after}");
        }
        for Balloon { domain, before_kib, after_kib } in &self.balloon {
            println!("    {domain}: memory {before_kib} -> {after_kib} KiB");
        }
        let Http { p50_ms_before, p99_ms_before, rps_before, p50_ms_after, p99_ms_after, rps_after } =
            self.http;
        println!("\nHTTP at {SERVER}      without kvmpilot    with kvmpilot");
        println!("    p50, ms         {p50_ms_before:>12.0}     {p50_ms_after:>12.0}");
        println!("    p99, ms         {p99_ms_before:>12.0}     {p99_ms_after:>12.0}");
        println!("    requests/s      {rps_before:>12.1}     {rps_after:>12.1}");
        let back = if self.restored { "every value is back" } else { "NOT everything is back" };
        println!("\n{} work orders; after the stop {back}", self.orders);
    }

    /// Fails where the demo has not shown what it promises.
    pub(super) fn check(&self) -> Result<()> {
        let level = |process: &str, level: &str| {
            let found = |change: &&Priority| change.domain == SERVER && change.process == process;
            self.guest_priority.iter().find(found).is_some_and(|change| change.level_after == level)
        };
        ensure!(level("httpd", "high"), "the server was not raised to the top of the ladder");
        ensure!(level("hog", "low"), "the hog was not lowered to the bottom of the ladder");
        ensure!(
            self.cpu_shares.iter().any(|change| change.domain == SERVER && change.after > change.before),
            "no weight was raised"
        );
        ensure!(!self.vcpu_pins.is_empty(), "no vcpu was pinned");
        ensure!(!self.emulator_pins.is_empty(), "no emulator was pinned");
        ensure!(
            self.balloon.iter().any(|change| change.domain == "idle" && change.after_kib < change.before_kib),
            "no idle memory was taken"
        );
        ensure!(self.restored, "not every value went back");
        ensure!(self.http.p99_ms_after < self.http.p99_ms_before, "p99 did not improve");
        Ok(())
    }
}

/// One line about a measurement.
pub(super) fn http(report: &HttpReport) -> String {
    let HttpReport { p50_ms, p99_ms, requests_per_second, requests, errors, .. } = report;
    format!(
        "p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms, {requests_per_second:.1} requests/s ({requests} requests, {errors} errors)"
    )
}

/// The root processes of the server's guest whose nice value changed; their levels are kvmpilot's words for it.
fn priorities(before: &Witness, after: &Witness, processes: &Value) -> Vec<Priority> {
    let mut priorities = Vec::new();
    for application in processes["applications"].as_array().into_iter().flatten() {
        for process in application["processes"].as_array().into_iter().flatten() {
            let (Some(pid), Some(start)) = (process["pid"].as_u64(), process["start_ticks"].as_u64()) else {
                continue;
            };
            let Ok(pid) = u32::try_from(pid) else { continue };
            let key = (SERVER.to_owned(), pid, start);
            let (Some((name, nice_before)), Some((_, nice_after))) =
                (before.nices.get(&key), after.nices.get(&key))
            else {
                continue;
            };
            priorities.push(Priority {
                domain: SERVER.to_owned(),
                process: name.clone(),
                communicating: application["communicating"] == true,
                level_before: application["level_original"].as_str().unwrap_or_default().to_owned(),
                level_after: application["level"].as_str().unwrap_or_default().to_owned(),
                nice_before: *nice_before,
                nice_after: *nice_after,
            });
        }
    }
    priorities.retain(|priority| priority.nice_before != priority.nice_after);
    priorities
}

//! Follows kvmpilot at work and tells what it does, until everything that the demo waits for has happened.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kvmpilot_tests::daemon::Daemon;
use serde_json::Value;

use super::SERVER;

/// What has been told already.
#[derive(Debug, Default)]
pub(super) struct Story {
    orders: BTreeSet<u64>,
    communicating: BTreeSet<String>,
    classes: BTreeSet<String>,
    happened: BTreeSet<&'static str>,
}

/// What must have happened: the demo's five actuators, and both ends of the ladder.
const AWAITED: [&str; 6] = [
    "server at level high",
    "hog at level low",
    "weight of web",
    "vcpu pin",
    "emulator pin",
    "balloon of idle",
];

impl Story {
    /// Tells until all of it has happened.
    pub(super) fn follow(&mut self, daemon: &Daemon<'_>, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            let domains = daemon.json(&["domains"])?;
            self.tell_classes(&domains);
            for domain in domains["domains"].as_array().into_iter().flatten() {
                let name = text(&domain["name"]);
                self.tell_processes(&name, &daemon.json(&["processes", &name])?);
            }
            for order in daemon.orders()?.iter().rev() {
                self.tell_order(order);
            }
            let missing: Vec<_> = AWAITED.iter().filter(|what| !self.happened.contains(*what)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "after {} s still missing: {missing:?}; kvmpilotd said:\n{}",
                    patience.as_secs(),
                    daemon.log()
                );
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn tell_classes(&mut self, domains: &Value) {
        for domain in domains["domains"].as_array().into_iter().flatten() {
            let (name, class) = (text(&domain["name"]), text(&domain["class"]));
            if class != "standard" && self.classes.insert(format!("{name} {class}")) {
                println!("    {name} is taken for `{class}` ({})", text(&domain["class_evidence"]));
            }
        }
    }

    fn tell_processes(&mut self, domain: &str, processes: &Value) {
        for application in processes["applications"].as_array().into_iter().flatten() {
            let name = text(&application["name"]);
            if application["communicating"] == true && self.communicating.insert(format!("{domain} {name}")) {
                println!("    {domain}: {name} communicates: {}", text(&application["evidence"]));
            }
        }
    }

    fn tell_order(&mut self, order: &Value) {
        let (Some(id), Some(state)) = (order["id"].as_u64(), order["state"].as_str()) else { return };
        if !["verified", "kept", "failed"].contains(&state) || !self.orders.insert(id) {
            return;
        }
        let (action, domain) = (&order["action"], text(&order["domain_name"]));
        let kind = text(&action["kind"]);
        // Balloons move in many small steps; the first of each domain stands for all of them.
        let told = kind == "set_balloon" && !self.classes.insert(format!("balloon of {domain}"));
        if state == "failed" {
            println!("    {domain}: order {id} was not carried out: {}", text(&order["outcome"]));
            return;
        }
        if !told {
            println!("    {domain}: {}: {}", what(action), text(&order["reason"]["summary"]));
        }
        let application = text(&action["application"]);
        let level =
            |name: &str, to: &str| domain == SERVER && application.starts_with(name) && action["to"] == to;
        let happened = match kind.as_str() {
            "set_level" if level("httpd ", "high") => "server at level high",
            "set_level" if level("hog ", "low") => "hog at level low",
            "set_cpu_shares" if domain == SERVER => "weight of web",
            "pin_vcpu" => "vcpu pin",
            "pin_emulator" => "emulator pin",
            "set_balloon" if domain == "idle" => "balloon of idle",
            _ => return,
        };
        self.happened.insert(happened);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The change in a few words.
fn what(action: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (from, to) = (plain(&action["from"]), plain(&action["to"]));
    match action["kind"].as_str().unwrap_or_default() {
        "set_cpu_shares" => format!("cpu_shares {from} -> {to}"),
        "pin_vcpu" => format!("vcpu {} pinned to {to} (was {from})", action["vcpu"]),
        "pin_iothread" => format!("iothread {} pinned to {to} (was {from})", action["iothread"]),
        "pin_emulator" => format!("emulator pinned to {to} (was {from})"),
        "set_balloon" => format!("balloon {from} -> {to} KiB"),
        "set_level" => format!("{} {from} -> {to}", plain(&action["application"])),
        other => other.to_owned(),
    }
}

//! Exits by reason: what the probe counts against what KVM counts itself, which is what libvirt shows.

use anyhow::{Context, Result, ensure};

use super::Story;

/// Between the probe's count and KVM's: a window's ends are not one moment for both.
const TOLERANCE: f64 = 0.01;
/// Fewer say nothing about a hundredth.
const ENOUGH: f64 = 200.0;

impl Story {
    pub(super) fn exits_agree(&self) -> Result<()> {
        // Debian's kernel refuses these events to all but the mightiest; doctor says so and what permits them.
        self.doctor_says("kvm events", "warning", "perf_event_paranoid")?;
        self.host.run("sysctl -q kernel.perf_event_paranoid=2")?;
        let libvirt = || -> Result<f64> {
            let stats = self.host.virsh("domstats --vcpu web")?;
            let exits = stats.lines().filter_map(|line| line.trim().strip_prefix("vcpu."));
            let exits = exits.filter_map(|line| line.split_once(".exits.sum=")).map(|(_, value)| value);
            exits.map(|value| value.parse::<f64>().context("exits")).sum()
        };
        let before = libvirt()?;
        let watch = self.json("domain web --watch exits --for 60s")?;
        let by_libvirt = libvirt()? - before;
        let exits = &watch["exits"];
        let number = |key: &str| exits[key].as_f64().with_context(|| format!("no {key}: {watch}"));
        let (counted, by_kvm) = (number("count")?, number("kvm_count")?);
        let off = (counted - by_kvm).abs() / by_kvm;
        let reasons = exits["reasons"].as_array().context("no reasons")?;
        let names: Vec<String> = reasons
            .iter()
            .map(|reason| format!("{} {}", reason["name"].as_str().unwrap_or("?"), reason["count"]))
            .collect();
        self.say(&format!(
            "exits of web in {} windows: {counted} counted, {by_kvm} by KVM's counters ({:.2} % off); libvirt saw {by_libvirt} \
             meanwhile; {}",
            watch["windows"],
            off * 100.0,
            names.join(", ")
        ));
        ensure!(by_kvm >= ENOUGH, "too few exits to compare: {watch}");
        ensure!(off <= TOLERANCE, "the probe's exits are not KVM's: {watch}");
        ensure!(by_libvirt >= by_kvm, "libvirt's counter went on by {by_libvirt} only");
        let by_reason: f64 = reasons.iter().filter_map(|reason| reason["count"].as_f64()).sum();
        ensure!((by_reason - counted).abs() < 0.5, "the reasons do not add up: {watch}");
        Ok(())
    }
}

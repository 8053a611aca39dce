//! Flows on real guests: every byte against the taps' own statistics and against what the client transferred, joined with
//! the guest's processes; what is left when devices, domains and the daemon go.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::tap::link_counters;
use kvmpilot_tests::{HttpLoad, Lab, LabOptions, guests, output_of, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str =
    "[modes]\ndefault = \"observe\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n";

fn tap_of(lab: &Lab, guest: &str) -> Result<String> {
    let list = lab.virsh(&["domiflist", guest])?;
    let tap = list.split_whitespace().find(|word| word.starts_with("vnet"));
    Ok(tap.with_context(|| format!("no tap in {list}"))?.to_owned())
}

/// Sent and received bytes of a tap, from its guest's point of view.
fn link(lab: &Lab, tap: &str) -> Result<(u64, u64)> {
    let text = output_of(lab.command("cat").arg("/proc/self/net/dev"))?;
    let counters = link_counters(&text, tap)?;
    Ok((counters.sent_bytes, counters.received_bytes))
}

fn traffic(value: &Value) -> Result<(u64, u64)> {
    let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name} in {value}"));
    Ok((number("sent_bytes")?, number("received_bytes")?))
}

#[test]
fn bytes_are_those_of_the_tap() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web()] })?;
    lab.wait_agents(BOOT)?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    let tap = tap_of(&lab, "web")?;
    let (first_link, first) = wait_for("the tap to be watched", PATIENCE, || still(&lab, &daemon, &tap))?;
    let report = lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 4, seconds: 5 })?;
    ensure!(report.requests > 10 && report.errors == 0, "{report:?}");
    let (last_link, last) = wait_for("the tap to be still", PATIENCE, || still(&lab, &daemon, &tap))?;
    println!("{:#}", daemon.json(&["flows", "web"])?);
    println!("{}", daemon.text(&["flows", "web"])?);
    println!("{}", daemon.text(&["processes", "web"])?);
    ensure!(
        last.0 - first.0 == last_link.0 - first_link.0,
        "sent: {first:?} {last:?}, {first_link:?} {last_link:?}"
    );
    ensure!(
        last.1 - first.1 == last_link.1 - first_link.1,
        "received: {first:?} {last:?}, {first_link:?} {last_link:?}"
    );
    ensure!(daemon.stop()?.success());
    lab.stop()
}

/// What the device and the daemon say, once a reading of the daemon's falls into a time in which nothing moved.
fn still(lab: &Lab, daemon: &Daemon<'_>, tap: &str) -> Result<((u64, u64), (u64, u64))> {
    let before = link(lab, tap)?;
    let begin = daemon.json(&["flows", "web"])?["watched_s"].as_f64().context("not watched yet")?;
    let flows = wait_for("another reading", Duration::from_secs(12), || {
        let flows = daemon.json(&["flows", "web"])?;
        ensure!(flows["watched_s"].as_f64() > Some(begin), "not yet");
        Ok(flows)
    })?;
    let after = link(lab, tap)?;
    ensure!(before == after, "the tap moves");
    Ok((after, traffic(&flows["total"])?))
}

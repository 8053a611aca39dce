//! `kvmpilot doctor` on real guests: with the daemon and without, what it says about a guest with an agent and about one
//! that has none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, guests, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(90);
const CONFIG: &str = "[modes]\ndefault = \"observe\"\n[loops]\nguest = \"5s\"\n[agent]\ntimeout = \"10s\"\n";

#[test]
fn guests_are_judged_with_the_daemon_and_without() -> Result<()> {
    let dumb = GuestSpec::new("dumb", 33).without_agent();
    let lab = Lab::start(&LabOptions { guests: vec![guests::idle(), dumb] })?;
    lab.wait_agents(BOOT)?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    wait_for("the daemon to have asked the agent", PATIENCE, || judged(&daemon.json(&["doctor"])?))
        .with_context(|| daemon.log())?;
    println!("{}", daemon.text(&["doctor"])?);

    let offline = daemon.offline(&["doctor", "--json"])?;
    ensure!(daemon.stop()?.success(), "a bad end");
    let output = { offline }.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("asking the agents of 2 domains"), "no progress: {said}");
    ensure!(output.status.code() == Some(1), "no daemon is a problem: {}", output.status);
    let view: Value = serde_json::from_slice(&output.stdout)?;
    judged(&view).context("without the daemon")?;
    ensure!(check(&view, "daemon")?["verdict"] == "problem", "{view}");
    for tier in ["tier 0", "tier 1", "tier 2", "tier 3"] {
        check(&view, tier)?;
    }
    lab.stop()
}

fn check<'a>(view: &'a Value, name: &str) -> Result<&'a Value> {
    let found = view["checks"].as_array().into_iter().flatten().find(|check| check["name"] == name);
    found.with_context(|| format!("no check {name} in {view}"))
}

fn judged(view: &Value) -> Result<()> {
    let agent = check(view, "agent of idle")?;
    let message = agent["message"].as_str().unwrap_or_default();
    ensure!(agent["verdict"] == "ok" && message.contains("permits guest-exec, guest-exec-status"), "{agent}");
    let none = check(view, "agent of dumb")?;
    ensure!(none["verdict"] == "warning" && none["message"] == "the domain has no agent channel", "{none}");
    let balloon = check(view, "balloon of idle")?;
    ensure!(balloon["verdict"] == "ok", "{balloon}");
    let libvirt = check(view, "libvirt")?;
    ensure!(
        libvirt["message"].as_str().unwrap_or_default().contains("connected to qemu:///system"),
        "{libvirt}"
    );
    for check in view["checks"].as_array().into_iter().flatten().filter(|check| check["verdict"] != "ok") {
        ensure!(check["advice"].is_string(), "no advice: {check}");
    }
    Ok(())
}

//! kvmpilotd and its own budget: what it costs is shown, what is too much is given up in order, and comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot::probes::flows::remains;
use kvmpilot_tests::{Lab, LabOptions, guests, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(90);
/// First to last.
const ORDER: [&str; 3] = ["flows (tier 3)", "watches (tier 2)", "detail of threads"];

fn config(overhead: &str) -> String {
    format!("[weight]\nperiod = \"1s\"\n[agent]\nenabled = false\n[overhead]\n{overhead}\n")
}

fn shed(status: &Value) -> Vec<&str> {
    status["own_cost"]["shed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn tier(status: &Value, number: u64) -> Result<&Value> {
    let mut tiers = status["tiers"].as_array().into_iter().flatten();
    tiers.find(|tier| tier["tier"] == number).with_context(|| format!("no tier {number} in {status}"))
}

#[test]
fn what_costs_too_much_is_given_up_in_order_and_comes_back() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web()] })?;
    lab.wait_agents(BOOT)?;
    let flow_programs = || anyhow::Ok(remains("lo")?.1);
    let none = flow_programs()?;
    let daemon = lab.start_daemon("d", &config("enabled = false"))?;

    // What it costs is known: its own time, and the scheduler probe's, once that was timed.
    wait_for("own cost", PATIENCE, || {
        let cost = daemon.json(&["status"])?["own_cost"].clone();
        let switch =
            cost["programs"].as_array().context("no list")?.iter().find(|p| p["name"] == "sched_switch");
        let switch = switch.with_context(|| format!("no sched_switch in {cost}"))?;
        let of = |value: &Value| value.as_f64().with_context(|| format!("a figure is missing in {cost}"));
        let (runs, ns, percent) =
            (of(&switch["runs_per_s"])?, of(&switch["ns_per_run"])?, of(&switch["cpu_percent"])?);
        ensure!(runs > 10.0 && (5.0..20_000.0).contains(&ns), "{cost}");
        ensure!((percent - runs * ns / 1e7).abs() <= 0.01 * percent, "{cost}");
        ensure!(of(&cost["daemon_percent"])? > 0.0 && of(&cost["programs_percent"])? >= percent, "{cost}");
        ensure!(shed(&daemon.json(&["status"])?).is_empty(), "{cost}");
        let watched = flow_programs()?;
        ensure!(watched == none + 2, "{watched} programs see flows, {none} before");
        Ok(())
    })
    .with_context(|| daemon.log())?;

    daemon.reload(&config("budget = 0.0001\ncalm = \"2s\""))?;
    wait_for("everything to be given up", PATIENCE, || {
        let status = daemon.json(&["status"])?;
        ensure!(ORDER.starts_with(&shed(&status)), "out of order: {:?}", shed(&status));
        ensure!(shed(&status) == ORDER, "{:?}", shed(&status));
        for number in [1, 2, 3] {
            let reason = tier(&status, number)?["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains("shed: own cost") && reason.contains("budget 0.01 %"), "{reason}");
        }
        ensure!(flow_programs()? == none, "{} flow programs are left", flow_programs()?);
        ensure!(tier(&status, 1)?["on"] == true && tier(&status, 2)?["on"] == false, "{status}");
        let found = status["findings"].as_array().context("no findings")?;
        ensure!(found.iter().any(|finding| finding["name"] == "overhead"), "{found:?}");
        Ok(())
    })
    .with_context(|| daemon.log())?;
    let given_up: Vec<usize> =
        ORDER.iter().filter_map(|what| daemon.log().find(&format!("what={what}"))).collect();
    ensure!(given_up.len() == 3 && given_up.is_sorted(), "{given_up:?} in {}", daemon.log());
    let refusal = daemon.text(&["domain", "web", "--watch", "wake-latency", "--for", "1s"]);
    let refusal = format!("{:#}", refusal.err().context("a watch was allowed")?);
    ensure!(refusal.contains("own cost"), "{refusal}");

    // With room to spare everything comes back, the last one first.
    daemon.reload(&config("budget = 1.0\ncalm = \"2s\""))?;
    let mut seen = 3;
    wait_for("everything to come back", PATIENCE, || {
        let status = daemon.json(&["status"])?;
        ensure!(
            shed(&status) == ORDER[..shed(&status).len()] && shed(&status).len() <= seen,
            "{:?}",
            shed(&status)
        );
        seen = shed(&status).len();
        ensure!(seen == 0, "still given up: {:?}", shed(&status));
        ensure!(tier(&status, 2)?["on"] == true, "{status}");
        let flows = tier(&status, 3)?;
        ensure!(flows["on"] == true && !flows["reason"].to_string().contains("shed"), "{flows}");
        ensure!(flow_programs()? == none + 2, "{} programs see flows", flow_programs()?);
        Ok(())
    })
    .with_context(|| daemon.log())?;
    ensure!(daemon.stop()?.success(), "a bad end");
    lab.stop()
}

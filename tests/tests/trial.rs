//! Trials on real guests: a weight that helps is kept, and who yields for it keeps a share beside several; one that cannot help,
//! because too many domains of its class want the same pcpu, is rolled back, explained, and not tried again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Witness, Work, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Ticks of a second, so that a trial of three takes about four.
const CONFIG: &str = "[modes]\ndefault = \"observe\"\nweight = \"auto\"\n[loops]\ncycle = \"5s\"\n\
    [weight]\nperiod = \"1s\"\n[agent]\nenabled = false\n[flows]\nenabled = false\n\
    [[domain]]\nname = \"lat*\"\nclass = \"latency\"\n[[domain]]\nname = \"hog\"\nclass = \"batch\"\n";
const NAMES: [&str; 5] = ["lat1", "lat2", "lat3", "lat4", "hog"];

/// The newest order of this rule in this state.
fn order(daemon: &Daemon<'_>, rule: &str, state: &str) -> Result<Value> {
    let orders = daemon.orders()?;
    let is = |order: &&Value| order["reason"]["rule"] == rule && order["state"] == state;
    orders.iter().find(is).cloned().with_context(|| format!("no {state} {rule} in {orders:#?}"))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("no number: {value}"))
}

#[test]
fn what_helps_is_kept_and_what_does_not_is_rolled_back() -> Result<()> {
    let guest = |name: &str, octet| {
        GuestSpec::new(name, octet).memory_mib(192).without_agent().runs(Work::Hog("spin".to_owned()))
    };
    let guests = NAMES.iter().zip(20..).map(|(name, octet)| guest(name, octet)).collect();
    let lab = Lab::start(&LabOptions { guests })?;
    for name in NAMES {
        // All want the same pcpu.
        lab.virsh(&["vcpupin", name, "0", "0", "--live"])?;
        if !["lat1", "hog"].contains(&name) {
            lab.virsh(&["suspend", name])?;
        }
    }
    // What else runs on this machine cannot eat what a trial measures.
    lab.outweigh_the_machine(100)?;
    let before = Witness::look_at(&lab, &NAMES)?;

    // One latency domain against one of best effort: its weight helps.
    let daemon = lab.start_daemon("helps", CONFIG)?;
    let kept = wait_for("a weight that is kept", PATIENCE, || order(&daemon, "weight.protect", "kept"))
        .with_context(|| daemon.log())?;
    let trial = &kept["trial"];
    let (was, is) = (number(&trial["before"])?, number(&trial["measured"])?);
    ensure!(kept["domain_name"] == "lat1" && trial["kept"] == true && trial["windows"] == 3, "{kept}");
    // By how much depends on what else runs on that pcpu; that it was enough is the daemon's own rule.
    ensure!(is < was, "{was} -> {is}");
    let id = kept["id"].to_string();
    let why = daemon.text(&["why", &id])?;
    for part in
        ["lat1 waits", "weight.protect", "approved by mode auto", "Over 3 windows", "That was worth it"]
    {
        ensure!(why.contains(part), "no {part:?} in:\n{why}");
    }
    // The one that yields to it was judged with it.
    let yields = order(&daemon, "weight.yield", "kept")?;
    ensure!(yields["trial"] == kept["trial"], "{yields}\n{kept}");
    let shown = daemon.json(&["orders", "show", &id])?;
    let events = shown["history"].as_array().context("no history")?;
    let states: Vec<&str> = events.iter().filter_map(|event| event["state"].as_str()).collect();
    ensure!(states == ["approved", "applied", "verified", "kept"], "{states:?}");
    let lines = daemon.text(&["orders", "export", "--since", "1h", "--state", "kept"])?;
    let exported: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(exported.iter().any(|order| order["id"] == kept["id"] && order["history"][3]["state"] == "kept"));

    // Two more that are raised, each while the others rest. With what it has beside one the hog would have next to nothing beside three.
    for (rests, runs) in [("lat1", "lat2"), ("lat2", "lat3")] {
        lab.virsh(&["suspend", rests])?;
        lab.virsh(&["resume", runs])?;
        wait_for(&format!("the weight of {runs} to be kept"), PATIENCE, || {
            let orders = daemon.orders()?;
            let raised = |order: &Value| {
                order["domain_name"] == runs
                    && order["reason"]["rule"] == "weight.protect"
                    && order["state"] == "kept"
            };
            ensure!(orders.iter().any(raised), "{orders:#?}");
            Ok(())
        })
        .with_context(|| daemon.log())?;
    }
    for name in ["lat1", "lat2"] {
        lab.virsh(&["resume", name])?;
    }
    let lifted =
        wait_for("the hog to get some weight back", PATIENCE, || order(&daemon, "weight.floor", "kept"))
            .with_context(|| daemon.log())?;
    let (from, to) = (number(&lifted["action"]["from"])?, number(&lifted["action"]["to"])?);
    ensure!(lifted["domain_name"] == "hog" && to >= 2.0 * from && to < 1024.0, "{lifted}");
    ensure!(daemon.stop()?.success());
    Witness::look_at(&lab, &NAMES)?.is_as(&before)?;

    // Four of them: whatever their weights, each has a quarter of the pcpu at best, and had a fifth.
    lab.virsh(&["resume", "lat4"])?;
    let daemon = lab.start_daemon("useless", CONFIG)?;
    let undo =
        wait_for("an order that takes others back", PATIENCE, || order(&daemon, "trial.rollback", "kept"))
            .with_context(|| daemon.log())?;
    let undone = undo["undoes"][0].to_string();
    let undone = daemon.json(&["orders", "show", &undone])?;
    ensure!(undone["state"] == "rolled_back" && undone["trial"]["kept"] == false, "{undone}");
    let why = daemon.text(&["why", &undone["id"].to_string()])?;
    for part in ["That was not worth it", "not tried again for 15 min", "It is not in force any more"] {
        ensure!(why.contains(part), "no {part:?} in:\n{why}");
    }
    wait_for("all weights to be back while it runs", PATIENCE, || {
        Witness::look_at(&lab, &NAMES)?.is_as(&before)
    })?;
    // It still sees them wait, and leaves them alone.
    let settled = daemon.orders()?.len();
    let cycles = |daemon: &Daemon<'_>| anyhow::Ok(daemon.json(&["status"])?["cycle"]["number"].as_u64());
    let then = cycles(&daemon)?;
    wait_for("another cycle", PATIENCE, || {
        ensure!(cycles(&daemon)? > then);
        Ok(())
    })?;
    let now = daemon.orders()?;
    ensure!(now.len() == settled, "it tries again: {now:#?}");
    ensure!(daemon.stop()?.success());
    lab.stop()
}

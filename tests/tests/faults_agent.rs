//! Agents that are not what they should be, on a real channel: what they say is named, their guest is left alone, the others
//! are asked as ever, and what had been changed inside goes back as soon as the agent lets us.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::witness::is_in_force;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Witness, Work, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
/// One failure more than the modes bring, and the pause after it is longer than a minute.
const PATIENCE: Duration = Duration::from_secs(240);
/// The guests are asked each 2 s; an answer takes a second or two on a busy machine.
const CONFIG: &str =
    "[modes]\ndefault = \"auto\"\n[loops]\ncycle = \"5s\"\nguest = \"2s\"\n[agent]\ntimeout = \"5s\"\n";
/// Oldest answer of the honest guest that is seen meanwhile. A pause that doubles would soon be longer.
const FRESH: f64 = 20.0;
const LIAR: &str = include_str!("../guest/liar");

#[test]
fn an_agent_may_say_what_it_likes() -> Result<()> {
    // More hogs than vcpus: CPU is scarce inside whatever else this machine does, so levels are changed for certain.
    let guest = |name: &str, octet| {
        let hog = |n| Work::Hog(format!("cruncher{n}"));
        GuestSpec::new(name, octet).memory_mib(256).runs(hog(1)).runs(hog(2))
    };
    let lab = Lab::start(&LabOptions { guests: vec![guest("liar", 30), guest("honest", 31)] })?;
    lab.wait_agents(BOOT)?;
    let before = Witness::look(&lab)?;
    install(&lab)?;

    let daemon = lab.start_daemon("d", CONFIG)?;
    changed_inside(&daemon, &["liar", "honest"])?;
    // What is said of one must not be what is said of the next.
    let modes = [
        ("silent", "longer than"),
        ("malformed", "malformed reply"),
        ("dripping", "longer than"),
        ("huge", "larger than"),
        ("forbidden", "guest-exec is switched off"),
    ];
    for (mode, words) in modes {
        set_mode(&lab, mode)?;
        let message = wait_for(&format!("word of an agent that is {mode}"), PATIENCE, || {
            let agent = daemon.json(&["domain", "liar"])?["agent"].clone();
            let message = agent["message"].as_str().unwrap_or_default().to_owned();
            ensure!(agent["usable"] == false && !message.is_empty() && message.contains(words), "{agent}");
            ensure!(message.starts_with("guest agent: "), "{agent}");
            Ok(message)
        })
        .with_context(|| daemon.log())?;
        println!("{mode}: {message}");
        nobody_else_waits(&daemon).with_context(|| format!("beside an agent that is {mode}"))?;
    }
    let own = daemon.json(&["status"])?["own_cost"].clone();
    ensure!(own["rss_kib"].as_u64() < Some(256 << 10), "memory: {own}");
    what_is_out_of_reach_is_said(&daemon).with_context(|| daemon.log())?;

    set_mode(&lab, "honest")?;
    // By itself, though it rests since the restore.
    wait_for("what was left inside to go back", PATIENCE, || {
        let left = daemon.json(&["status"])?["ledger_entries"].clone();
        ensure!(left == 0, "{left} values in the ledger");
        let agent = daemon.json(&["domain", "liar"])?["agent"].clone();
        ensure!(agent["usable"] == true, "{agent}");
        Ok(())
    })
    .with_context(|| daemon.log())?;
    wait_for("everything to be back", PATIENCE, || Witness::look(&lab)?.is_as(&before))?;
    ensure!(daemon.stop()?.success(), "a bad end");
    lab.stop()
}

/// Waits until an order for the inside of each of these guests is in force.
fn changed_inside(daemon: &Daemon<'_>, guests: &[&str]) -> Result<()> {
    wait_for("levels that were changed", PATIENCE, || {
        let orders = daemon.orders()?;
        for guest in guests {
            let changed = |order: &Value| {
                order["domain_name"] == *guest && order["action"]["kind"] == "set_level" && is_in_force(order)
            };
            ensure!(orders.iter().any(changed), "none in {guest} yet");
        }
        Ok(())
    })
    .with_context(|| daemon.log())
}

/// With an agent that forbids it, the inside cannot be put back: that is said, is not forgotten, and keeps nothing else.
fn what_is_out_of_reach_is_said(daemon: &Daemon<'_>) -> Result<()> {
    let restore = daemon.command(&["restore", "--json"])?.output()?;
    let answer: Value = serde_json::from_slice(&restore.stdout)?;
    ensure!(!restore.status.success(), "the inside of a guest that forbids it was restored: {answer}");
    let values = answer["restore"]["values"].as_array().context("no values")?;
    let failed = |value: &&Value| value["outcome"] == "failed";
    ensure!(values.iter().any(|value| failed(&value)), "{answer}");
    for value in values.iter().filter(failed) {
        let why = value["message"].as_str().unwrap_or_default();
        ensure!(value["domain"] == "liar" && why.contains("guest-exec is switched off"), "{value}");
    }
    ensure!(values.iter().any(|value| value["domain"] == "honest"), "{answer}");
    ensure!(daemon.json(&["status"])?["ledger_entries"].as_u64() > Some(0), "the originals are forgotten");
    Ok(())
}

/// Puts the liar in the place of qemu-ga.
fn install(lab: &Lab) -> Result<()> {
    lab.guest_exec("liar", "echo honest >/tmp/mode", PATIENCE)?;
    lab.replace_agent("liar", LIAR)?;
    wait_for("the liar to be there", PATIENCE, || set_mode(lab, "honest"))?;
    lab.wait_agent("liar", PATIENCE)
}

fn set_mode(lab: &Lab, mode: &str) -> Result<()> {
    lab.http_get("liar", 81, &format!("/cgi-bin/mode?{mode}")).map(drop)
}

/// The cycle goes on, and the honest agent is asked as ever.
fn nobody_else_waits(daemon: &Daemon<'_>) -> Result<()> {
    let number =
        || Ok::<_, anyhow::Error>(daemon.json(&["status"])?["cycle"]["number"].as_u64().unwrap_or(0));
    let first = number()?;
    wait_for("another cycle", PATIENCE, || {
        let now = number()?;
        ensure!(now > first, "cycle {now}");
        let agent = daemon.json(&["domain", "honest"])?["agent"].clone();
        ensure!(agent["usable"] == true && agent["last_poll_age_s"].as_f64() < Some(FRESH), "{agent}");
        Ok(())
    })
    .with_context(|| daemon.log())
}

//! Rules on a real guest: an own one finds and forbids, garbage leaves the last good ones in force, and a recording tells
//! what a file would change.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, output_of, wait_for};

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

/// Reports the guest, and calls one that does nothing an important one.
const OWN: &str = "[[rule]]\nname = \"mine\"\nwhen = \"domain.name.like('g*') && vcpu.count == 1\"\n\
    then = { finding = { name = \"lonely\", severity = \"info\", summary = \"{name} has one vcpu\" } }\n\
    [[rule]]\nname = \"important\"\nwhen = \"domain.name == 'guest'\"\nthen = { class = \"latency\" }\n";
/// Lowers a level wherever one can be lowered, scarce or not.
const PUSHES: &str = "[[rule]]\nname = \"ladder.decay\"\nenabled = false\n\
    [[rule]]\nname = \"push\"\nwhen = \"process.level != 'low'\"\nthen = { lower = \"process\" }\n";
const FORBIDS: &str =
    "[[rule]]\nname = \"hands-off\"\nwhen = \"domain.name == 'guest'\"\nthen = { veto = \"ladder\" }\n";
const GARBAGE: &str =
    "[[rule]]\nname = \"mine\"\nwhen = \"domain.cpu.us > 0.5 && (\"\nthen = { rise = \"process\" }\n";

fn config(rules: &Path) -> String {
    format!(
        "[modes]\ndefault = \"recommend\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n\
         [rules]\ndirectory = \"{}\"\n",
        rules.display()
    )
}

fn finds(daemon: &Daemon<'_>, name: &str) -> Result<bool> {
    let status = daemon.json(&["status"])?;
    Ok(status["findings"].as_array().into_iter().flatten().any(|finding| finding["name"] == name))
}

fn health(daemon: &Daemon<'_>) -> Result<(bool, String)> {
    let health = daemon.json(&["status"])?["health"].clone();
    Ok((health["ok"] == true, health["problems"].to_string()))
}

fn proposals(daemon: &Daemon<'_>, rule: &str) -> Result<usize> {
    let orders = daemon.orders()?;
    let open = orders.iter().filter(|order| order["state"] == "proposed");
    Ok(open.filter(|order| order["reason"]["rule"] == rule).count())
}

#[test]
fn own_rules_act_and_bad_ones_change_nothing() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![GuestSpec::new("guest", 20)] })?;
    lab.wait_agents(BOOT)?;
    let directory = lab.state_dir().join("own-rules");
    fs::create_dir_all(&directory)?;
    let file = directory.join("own.toml");
    fs::write(&file, OWN)?;
    let config = config(&directory);
    let daemon = lab.start_daemon("rules", &config)?;

    // An own rule is asked about the real guest, reports, and sets a class.
    wait_for("the own finding", PATIENCE, || {
        ensure!(finds(&daemon, "lonely")?, "not found");
        ensure!(daemon.json(&["domain", "guest"])?["class"] == "latency", "the class is not the rule's");
        Ok(())
    })
    .with_context(|| daemon.log())?;
    let explained = daemon.json(&["explain", "guest"])?;
    let says = explained["rules"].as_array().into_iter().flatten().find(|says| says["rule"] == "important");
    ensure!(says.is_some_and(|says| says["then"] == "class = \"latency\""), "{explained}");
    ensure!(explained["class"]["source"] == "rule", "{explained}");
    let list = daemon.json(&["rules", "list"])?;
    let mine = list["rules"].as_array().into_iter().flatten().find(|rule| rule["name"] == "mine").cloned();
    let mine = mine.with_context(|| format!("no rule mine in {list}"))?;
    ensure!(mine["result"]["held"] == 1 && mine["source"] == file.display().to_string(), "{mine}");

    // Garbage: the last good rules stay in force, and the health says where the mistake is.
    fs::write(&file, GARBAGE)?;
    daemon.reload(&config)?;
    wait_for("red health", PATIENCE, || {
        let (ok, problems) = health(&daemon)?;
        ensure!(!ok && problems.contains("own.toml:3:"), "{problems}");
        ensure!(finds(&daemon, "lonely")?, "the last good rule is gone");
        Ok(())
    })?;
    let checked = daemon.command(&["rules", "check", &file.to_string_lossy()])?.output()?;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    ensure!(checked.status.code() == Some(1), "{said}");
    ensure!(said.contains("own.toml:3:") && said.contains('^') && said.contains("did you mean"), "{said}");

    // Mended: it is green again, and the new rules act: a step that no shipped rule would want here.
    fs::write(&file, PUSHES)?;
    daemon.reload(&config)?;
    wait_for("proposals of an own rule", PATIENCE, || {
        let (ok, problems) = health(&daemon)?;
        ensure!(ok, "{problems}");
        ensure!(!finds(&daemon, "lonely")?, "a rule that is gone still reports");
        ensure!(proposals(&daemon, "push")? > 0, "nothing proposed");
        Ok(())
    })
    .with_context(|| daemon.log())?;

    // Recorded with it, a veto would take these proposals away.
    let recording = lab.state_dir().join("rules.jsonl");
    let path = recording.to_string_lossy().into_owned();
    output_of(&mut daemon.command(&["record", &path, "--for", "12s"])?)?;
    let veto = lab.state_dir().join("veto.toml");
    fs::write(&veto, FORBIDS)?;
    let test = daemon.json(&["rules", "test", &veto.to_string_lossy(), "--against", &path])?;
    let rules: Vec<_> = test["removed"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|planned| &planned["proposal"]["reason"]["rule"])
        .collect();
    ensure!(!rules.is_empty() && rules.iter().all(|rule| *rule == "push"), "{test}");
    let held = test["added"].as_array().into_iter().flatten().all(|planned| planned["held"].is_string());
    ensure!(
        held && test["rules"][0]["change"] == "added" && test["rules"][0]["held_after"].as_u64() > Some(0),
        "{test}"
    );

    // In force, it lets what was proposed expire.
    fs::write(directory.join("veto.toml"), FORBIDS)?;
    daemon.reload(&config)?;
    wait_for("the veto", PATIENCE, || {
        ensure!(proposals(&daemon, "push")? == 0, "still proposed");
        Ok(())
    })?;

    // A daemon that starts with a bad file runs with the shipped rules.
    ensure!(daemon.stop()?.success(), "a bad end");
    fs::write(&file, GARBAGE)?;
    let daemon = lab.start_daemon("rules", &config)?;
    wait_for("red health from the start", PATIENCE, || {
        let (ok, problems) = health(&daemon)?;
        ensure!(!ok && problems.contains("only the shipped ones"), "{problems}");
        Ok(())
    })?;
    ensure!(
        daemon.json(&["rules", "list"])?["rules"].as_array().context("no list")?.len() >= 10,
        "no shipped rules"
    );
    drop(daemon);
    lab.stop()
}

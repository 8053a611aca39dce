//! A contended host with real guests: the steal matrix names who takes the CPU from whom, and a replay of a recording
//! proposes what the daemon proposed.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{HttpLoad, Lab, LabOptions, guests, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
/// Classes are inferred over 15 s; on a machine that builds beside it everything takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
const CONFIG: &str = "[modes]\ndefault = \"recommend\"\n[loops]\ncycle = \"15s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n";

#[test]
fn a_contended_host_is_seen_recorded_and_replayed() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web(), guests::batch()] })?;
    lab.wait_agents(BOOT)?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 4, seconds: 2 })?;
            }
            anyhow::Ok(())
        });
        let result = recorded(&lab, &daemon).and_then(|file| {
            the_aggressor_is_named(&daemon)?;
            Ok(file)
        });
        over.store(true, Ordering::Relaxed);
        load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        let file = result?;
        the_replay_agrees(&daemon, &file)
    })
    .with_context(|| daemon.log())?;
    ensure!(daemon.stop()?.success(), "a bad end");
    lab.stop()
}

/// Records until the daemon has proposed a weight and a level, and for a few seconds more.
fn recorded(lab: &Lab, daemon: &Daemon<'_>) -> Result<String> {
    let file = lab.state_dir().join("a.rec").display().to_string();
    let mut record = daemon.command(&["record", &file, "--for", "10min"])?;
    let child = record.stderr(Stdio::piped()).spawn()?;
    let wanted = wait_for("orders about CPU", PATIENCE, || {
        let orders = daemon.orders()?;
        for kind in ["set_cpu_shares", "set_level"] {
            ensure!(orders.iter().any(|order| order["action"]["kind"] == kind), "no {kind} among {orders:?}");
        }
        Ok(())
    });
    // What was proposed last lies within the recording only if turns come after it.
    thread::sleep(Duration::from_secs(3));
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "record failed: {said}");
    wanted.with_context(|| said.into_owned())?;
    Ok(file)
}

/// Two guests on two pcpus, of which one burns all it gets: nobody else can be what the web server waits for.
fn the_aggressor_is_named(daemon: &Daemon<'_>) -> Result<()> {
    wait_for("a row of web in the steal matrix", PATIENCE, || {
        let steal = daemon.json(&["steal"])?;
        ensure!(steal["message"].is_null(), "{steal}");
        let rows = steal["domains"].as_array().context("no rows")?;
        let web = rows.iter().find(|row| row["domain"] == "web").context("no row of web")?;
        ensure!(web["wait_ms"].as_f64() > Some(100.0), "web does not wait: {web}");
        // Its own vcpus compete, too, and so does whatever else runs on this machine.
        let other = |part: &&Value| part["runner"] == "domain" && part["domain"] != "web";
        let first = web["by"].as_array().into_iter().flatten().find(other);
        let first = first.context("nobody ran")?;
        ensure!(first["domain"] == "batch", "{first} took most from web: {web}");
        let sum: f64 =
            web["by"].as_array().into_iter().flatten().filter_map(|part| part["ms"].as_f64()).sum();
        ensure!((sum - web["wait_ms"].as_f64().unwrap_or(0.0)).abs() < 0.01, "parts do not add up: {web}");
        println!("{web}");
        Ok(())
    })?;
    let page = daemon.text(&["steal"])?;
    println!("{page}");
    ensure!(page.contains("web") && page.contains("batch") && page.contains("UNKNOWN"), "{page}");
    Ok(())
}

/// Every order that was made while recording is in the plan: the same change of the same domain, at that time.
fn the_replay_agrees(daemon: &Daemon<'_>, file: &str) -> Result<()> {
    let plan = daemon.json(&["replay", file])?;
    ensure!(plan["complete"] == true && plan == daemon.json(&["replay", file])?, "two replays differ");
    let started = plan["started_unix_ms"].as_f64().context("no start")?;
    let end = plan["length_s"].as_f64().context("no length")?;
    let steps = plan["plan"].as_array().context("no plan")?;
    let mut compared = 0;
    for order in daemon.orders()? {
        let at = (order["created_unix_ms"].as_f64().context("no time")? - started) / 1000.0;
        if at < 0.5 || at > end {
            continue;
        }
        let same = |step: &&Value| {
            let proposal = &step["proposal"];
            let near = step["at_s"].as_f64().is_some_and(|planned| (planned - at).abs() < 1.0);
            near && proposal["domain"] == order["domain"] && proposal["action"] == order["action"]
        };
        if !steps.iter().any(|step| same(&step)) {
            bail!("order {order} at {at} s is not in the plan: {}", plan["plan"]);
        }
        compared += 1;
    }
    println!("{compared} orders are in the plan of {} steps", steps.len());
    ensure!(compared >= 2, "{compared} orders were compared");
    let page = daemon.text(&["replay", file])?;
    println!("{page}");
    ensure!(page.contains("PLAN") && page.contains("cpu_shares"), "{page}");
    Ok(())
}

//! `kvmpilot domain NAME --watch` on real guests, through the real daemon.
#![expect(clippy::unwrap_used, reason = "the check of schemas fails by panicking")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot::probes::census;
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{Accel, Lab, LabOptions, guests, wait_for};
use serde_json::Value;

#[path = "../../host-daemon/tests/face/schema.rs"]
mod schema;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(20);
const CONFIG: &str = "[modes]\ndefault = \"observe\"\n";
const PROGRAMS: [&str; 5] = ["watch_switch", "watch_wakeup", "watch_newborn", "watch_exit", "watch_entry"];

/// A domain with nothing but firmware, for KVM back ends that run no stock kernel.
const FIRMWARE: &str = "<domain type='kvm'><name>firmware</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
    <os><type arch='x86_64' machine='q35'>hvm</type></os>\
    <devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>";

fn in_kernel() -> (usize, usize) {
    let census = census();
    let sum = |of: &std::collections::BTreeMap<String, usize>| {
        PROGRAMS.iter().filter_map(|name| of.get(*name)).sum()
    };
    (sum(&census.programs), sum(&census.attached))
}

fn wait_gone(before: (usize, usize)) -> Result<()> {
    wait_for("programs to go", PATIENCE, || {
        let now = in_kernel();
        ensure!(now == before, "loaded and attached: {now:?}, before: {before:?}");
        Ok(())
    })
}

fn watch(daemon: &Daemon<'_>, name: &str, what: &str, length: &str) -> Result<Value> {
    let view = daemon.json(&["domain", name, "--watch", what, "--for", length])?;
    schema::assert_valid("watch", &view.to_string());
    Ok(view)
}

fn number(view: &Value, pointer: &str) -> Result<f64> {
    view.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {view}"))
}

#[test]
fn domains_are_watched_on_demand_and_nothing_stays_attached() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web(), guests::idle()] })?;
    lab.wait_agents(BOOT)?;
    let before = in_kernel();
    let daemon = lab.start_daemon("d", CONFIG)?;
    wait_for("the domains", PATIENCE, || daemon.json(&["domain", "web"]))?;
    let status = daemon.json(&["status"])?;
    let tier = status["tiers"].as_array().into_iter().flatten().find(|tier| tier["tier"] == 2);
    ensure!(tier.is_some_and(|tier| tier["on"] == true), "tier 2: {}", status["tiers"]);
    ensure!(in_kernel() == before, "the check at the start left something");

    wake_latencies(&daemon)?;
    exits(&lab, &daemon)?;
    wait_gone(before)?;
    one_at_a_time_and_no_longer_than_its_client(&daemon, before)?;
    ends_with_the_domain(&lab, &daemon)?;
    wait_gone(before)?;
    ends_with_the_daemon(daemon)?;
    wait_gone(before)
}

fn wake_latencies(daemon: &Daemon<'_>) -> Result<()> {
    let began = Instant::now();
    let view = watch(daemon, "web", "wake-latency", "12s")?;
    let took = began.elapsed().as_secs_f64();
    let (watched, sampled) = (number(&view, "/watched_s")?, number(&view, "/sampled_s")?);
    ensure!(number(&view, "/windows")? >= 2.0 && watched <= took && took < 14.0, "{took} s: {view}");
    // A tenth of the time since the first window at most, attaching and detaching included.
    ensure!(sampled >= 0.3 && sampled <= watched / 10.0 + 0.2, "{view}");
    let latency = &view["wake_latency"];
    ensure!(number(latency, "/woken/count")? > 20.0, "QEMU's threads hardly wake up: {view}");
    let histogram = latency["woken_histogram"].as_array().context("no histogram")?;
    let counted: f64 = histogram.iter().filter_map(|bucket| bucket["count"].as_f64()).sum();
    ensure!(counted == number(latency, "/woken/count")?, "{view}");
    ensure!(number(latency, "/woken/p50_us")? <= number(latency, "/woken/p99_us")?, "{view}");
    ensure!(number(latency, "/woken/max_us")? < 250_000.0, "longer than a window: {view}");
    let threads = latency["threads"].as_array().context("no threads")?;
    let vcpus = threads.iter().filter(|thread| thread["role"]["vcpu"].is_u64()).count();
    ensure!(vcpus >= 1 && threads.iter().any(|thread| thread["role"] == "emulator"), "{view}");
    let page = daemon.text(&["domain", "web", "--watch", "wake-latency", "--for", "2s"])?;
    println!("{page}");
    ensure!(page.contains("AFTER A WAKE-UP") && page.contains("###"), "{page}");
    wait_for("the watch in the daemon's own cost", PATIENCE, || {
        let status = daemon.json(&["status"])?;
        let programs = status["own_cost"]["programs"].as_array().context("no programs")?;
        let switch = programs.iter().find(|program| program["name"] == "watch_switch");
        let switch = switch.with_context(|| format!("no watch_switch in {programs:?}"))?;
        ensure!(number(switch, "/ns_per_run")? > 0.0 && switch["attached"] == 0, "{switch}");
        Ok(())
    })
}

fn exits(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let began = Instant::now();
    let view = watch(daemon, "web", "exits", "30s")?;
    println!("exits of a guest under {}: {view}", lab.accel());
    if lab.accel() == Accel::Kvm {
        ensure!(number(&view, "/exits/count")? > 0.0, "{view}");
        return Ok(());
    }
    let message = view["message"].as_str().unwrap_or_default();
    ensure!(message.contains("kvm_exit never fired while") && message.contains("emulator (TCG)"), "{view}");
    ensure!(number(&view, "/exits/vcpus_ran_s")? > 0.05, "{view}");
    ensure!(began.elapsed() < Duration::from_secs(10), "one window is enough to know that");
    if !std::path::Path::new("/dev/kvm").exists() {
        println!("not shown on a domain of type kvm: there is no /dev/kvm");
        return Ok(());
    }
    let xml = lab.state_dir().join("firmware.xml");
    std::fs::write(&xml, FIRMWARE)?;
    lab.virsh(&["create", &xml.display().to_string()])?;
    wait_for("the firmware's domain", PATIENCE, || daemon.json(&["domain", "firmware"]))?;
    let view = watch(daemon, "firmware", "exits", "3s")?;
    println!("exits of a firmware under /dev/kvm: {view}");
    // A back end that traces has exits to show; one that does not is named, unless the firmware has come to rest.
    let explained =
        ["kvm_pvm", "sleeps"].iter().any(|why| view["message"].as_str().unwrap_or_default().contains(why));
    ensure!(number(&view, "/exits/count")? > 0.0 || explained, "{view}");
    lab.virsh(&["destroy", "firmware"])?;
    Ok(())
}

fn one_at_a_time_and_no_longer_than_its_client(daemon: &Daemon<'_>, before: (usize, usize)) -> Result<()> {
    let mut client = daemon
        .command(&["domain", "web", "--watch", "wake-latency", "--for", "60s"])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    wait_for("the watch", PATIENCE, || {
        ensure!(in_kernel().1 > before.1, "nothing is attached");
        Ok(())
    })?;
    let second = daemon.command(&["domain", "web", "--watch", "exits"])?.output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(!second.status.success() && said.contains("is being watched already"), "{said}");
    let began = Instant::now();
    client.kill()?;
    client.wait()?;
    wait_gone(before)?;
    ensure!(began.elapsed() < Duration::from_secs(5), "it went on for {:?}", began.elapsed());
    Ok(())
}

fn ends_with_the_domain(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let mut command =
        daemon.command(&["domain", "idle", "--watch", "wake-latency", "--for", "60s", "--json"])?;
    let client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    wait_for("the watch", PATIENCE, || {
        ensure!(in_kernel().0 > 0, "nothing is loaded");
        Ok(())
    })?;
    let began = Instant::now();
    lab.virsh(&["destroy", "idle"])?;
    let output = client.wait_with_output()?;
    ensure!(output.status.success() && began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let view: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(view["ended"] == "the domain stopped", "{view}");
    let gone = daemon.command(&["domain", "idle", "--watch", "wake-latency"])?.output()?;
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    ensure!(
        !gone.status.success() && (said.contains("does not run") || said.contains("no domain")),
        "{said}"
    );
    Ok(())
}

fn ends_with_the_daemon(daemon: Daemon<'_>) -> Result<()> {
    let mut client = daemon
        .command(&["domain", "web", "--watch", "wake-latency", "--for", "60s"])?
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    wait_for("the watch", PATIENCE, || {
        ensure!(in_kernel().0 > 0, "nothing is loaded");
        Ok(())
    })?;
    let began = Instant::now();
    let status = daemon.stop()?;
    ensure!(
        status.success() && began.elapsed() < Duration::from_secs(8),
        "{status} after {:?}",
        began.elapsed()
    );
    ensure!(!client.wait()?.success(), "the client was not told");
    Ok(())
}

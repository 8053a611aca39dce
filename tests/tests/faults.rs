//! Faults of domains and of libvirt, one after the other in one lab with real guests: each stays where it is, is said, and
//! leaves nothing changed behind. What `kvmpilot restore` cannot reach goes back by itself as soon as it can be reached.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::witness::is_in_force;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Witness, Work, guests, output_of, wait_for};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
/// On a machine that builds beside it everything takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time between two samples, of which one is due each second: debug builds on a machine whose pcpus are all taken.
const CADENCE: f64 = 2.0;
/// From SIGCONT to the end of the quarantine: all domains are read each 5 s.
const RECOVERY: Duration = Duration::from_secs(20);
const CONFIG: &str =
    "[modes]\ndefault = \"auto\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"10s\"\n";
const OBSERVE: &str = "[modes]\ndefault = \"observe\"\n[loops]\ncycle = \"5s\"\n";

#[test]
fn each_fault_stays_where_it_is_and_leaves_nothing_changed() -> Result<()> {
    let hog = |name: &str, octet| {
        GuestSpec::new(name, octet).vcpus(2).memory_mib(256).runs(Work::Hog("cruncher".to_owned()))
    };
    let lab = Lab::start(&LabOptions { guests: vec![guests::web(), hog("sick", 20), hog("well", 21)] })?;
    lab.wait_agents(BOOT)?;
    let before = Witness::look(&lab)?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    let fault = |what: &str, changed: &[&str], happens: &(dyn Fn() -> Result<()> + Sync)| {
        let began = Instant::now();
        lab.under_load("web", 4, || {
            again(&daemon, changed)?;
            happens()
        })
        .with_context(|| daemon.log())
        .with_context(|| what.to_owned())?;
        println!("{what}: {:.0} s", began.elapsed().as_secs_f64());
        anyhow::Ok(())
    };

    fault("SIGSTOP", &["web", "sick"], &|| a_stopped_qemu_delays_nobody(&lab, &daemon))?;
    back(&lab, &daemon, &before).context("after SIGSTOP")?;
    fault("libvirtd is killed", &["web"], &|| libvirtd_is_killed(&lab, &daemon))?;
    back(&lab, &daemon, &before).context("after libvirtd was killed")?;
    fault("a job, and a pause", &["web", "sick", "well"], &|| {
        a_job_and_a_pause_hold_changes_back(&lab, &daemon)
    })?;
    back(&lab, &daemon, &before).context("after a job and a pause")?;
    fault("destroyed and renamed", &["web", "sick"], &|| {
        what_is_destroyed_is_gone(&lab, &daemon, &before)?;
        a_new_name_is_followed(&lab, &daemon, &before)
    })?;
    what_was_saved_to_disk_comes_back_and_goes_back(&lab, &daemon, &before)
        .with_context(|| daemon.log())
        .context("a domain that was saved")?;
    ensure!(daemon.stop()?.success(), "a bad end");
    Witness::look_at(&lab, &["web", "well"])?.is_as(&before.of(&["web", "well"]))?;
    lab.stop()
}

/// Number of the newest order so far.
fn newest(daemon: &Daemon<'_>) -> Result<u64> {
    Ok(daemon.orders()?.first().and_then(|order| order["id"].as_u64()).unwrap_or(0))
}

fn cycle(daemon: &Daemon<'_>) -> Result<u64> {
    daemon.json(&["status"])?["cycle"]["number"].as_u64().context("no cycle yet")
}

fn more_cycles(daemon: &Daemon<'_>, count: u64) -> Result<()> {
    let first = cycle(daemon)?;
    wait_for(&format!("{count} more cycles"), PATIENCE, || {
        let now = cycle(daemon)?;
        ensure!(now >= first + count, "cycle {now}, was {first}");
        Ok(())
    })
}

/// Orders come, for the first time or after a restore, on each of these domains: so that there is something to put back.
fn again(daemon: &Daemon<'_>, domains: &[&str]) -> Result<()> {
    let after = newest(daemon)?;
    daemon.reload(CONFIG)?;
    for domain in domains {
        wait_for(&format!("an order in force on {domain}"), PATIENCE, || {
            let orders = daemon.orders()?;
            ensure!(orders.iter().any(|order| is_fresh(order, domain, after)), "none yet");
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether an order after number `after` is in force on a domain.
fn is_fresh(order: &Value, domain: &str, after: u64) -> bool {
    order["domain_name"] == domain && is_in_force(order) && order["id"].as_u64() > Some(after)
}

/// Asks the daemon to put everything back.
fn restore(daemon: &Daemon<'_>) -> Result<(bool, Vec<Value>)> {
    let output = daemon.command(&["restore", "--json"])?.output()?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let values = answer["restore"]["values"].as_array().context("no values")?.clone();
    ensure!(!values.is_empty(), "nothing was to be put back");
    Ok((output.status.success(), values))
}

/// Waits until nothing is left to be put back, and checks that without the daemon.
fn back(lab: &Lab, daemon: &Daemon<'_>, before: &Witness) -> Result<()> {
    wait_for("what was left to go back", PATIENCE, || {
        let left = daemon.json(&["status"])?["ledger_entries"].clone();
        ensure!(left == 0, "{left} values in the ledger");
        Ok(())
    })?;
    wait_for("everything to be back", PATIENCE, || Witness::look(lab)?.is_as(before))
        .with_context(|| daemon.log())
}

fn quarantine(daemon: &Daemon<'_>, domain: &str) -> Result<Value> {
    Ok(daemon.json(&["domain", domain])?["quarantine"].clone())
}

/// SIGSTOP: said and in quarantine; the others keep their second and get their orders.
fn a_stopped_qemu_delays_nobody(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let qemu = Pid::from_raw(i32::try_from(lab.qemu_pid("sick")?)?);
    let file = lab.state_dir().join("stopped.rec");
    let mut record = daemon.command(&["record", &file.to_string_lossy(), "--for", "10min"])?;
    let mut recorder = record.stderr(Stdio::null()).spawn()?;
    kill(qemu, Signal::SIGSTOP)?;
    let result = while_it_is_stopped(daemon);
    kill(Pid::from_raw(i32::try_from(recorder.id())?), Signal::SIGINT)?;
    recorder.wait()?;
    kill(qemu, Signal::SIGCONT)?;
    result?;
    the_others_kept_their_second(&fs::read_to_string(&file)?)?;
    // What had hung returns, so nobody waits for the end of the last pause, which has become long.
    let began = Instant::now();
    wait_for("the quarantine to end", RECOVERY, || {
        ensure!(quarantine(daemon, "sick")?.is_null(), "still in quarantine");
        Ok(())
    })?;
    println!("the quarantine ended {:.1} s after SIGCONT", began.elapsed().as_secs_f64());
    Ok(())
}

fn while_it_is_stopped(daemon: &Daemon<'_>) -> Result<()> {
    let why = wait_for("the quarantine", PATIENCE, || {
        let why = quarantine(daemon, "sick")?;
        ensure!(why.is_string(), "not in quarantine");
        Ok(why)
    })?;
    let status = daemon.json(&["status"])?;
    ensure!(status["health"]["ok"] == false, "{status}");
    ensure!(status["findings"].to_string().contains("quarantined"), "{status}");
    ensure!(daemon.json(&["doctor"])?.to_string().contains("domain sick"), "the doctor says nothing: {why}");
    let then = newest(daemon)?;
    // Several deadlines and back-offs go by; who is well gets what it needs.
    more_cycles(daemon, 3)?;
    let orders = daemon.orders()?;
    let new = |order: &&Value| order["domain_name"] == "sick" && order["id"].as_u64() > Some(then);
    ensure!(orders.iter().find(new).is_none(), "decided on a domain in quarantine: {orders:?}");
    // An order for another domain goes through, as soon as that one is not busy with the next.
    wait_for("an order elsewhere to be rolled back", PATIENCE, || {
        let orders = daemon.orders()?;
        let other = orders.iter().find(|order| order["domain_name"] != "sick" && is_in_force(order));
        let id = other.context("no order in force elsewhere")?["id"].to_string();
        daemon.text(&["orders", "rollback", &id])
    })?;
    // What cannot be put back is said, and does not keep the rest.
    let (complete, values) = restore(daemon)?;
    ensure!(!complete, "a stopped QEMU was restored");
    let failed = |value: &&Value| value["outcome"] == "failed";
    ensure!(values.iter().any(|value| value["outcome"] == "restored"), "{values:?}");
    ensure!(values.iter().filter(failed).all(|value| value["domain"] == "sick"), "{values:?}");
    Ok(())
}

/// Each sample of a recording is at most a second and a margin older than the last, and tells of CPU time that went by.
fn the_others_kept_their_second(recording: &str) -> Result<()> {
    let turns: Vec<Value> = recording
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?
        .into_iter()
        .filter(|line| line["kind"] == "turn")
        .collect();
    let at = |turn: &Value| {
        turn["at"]["secs"].as_f64().unwrap_or(0.0) + turn["at"]["nanos"].as_f64().unwrap_or(0.0) / 1e9
    };
    let cpu = |turn: &Value| -> u64 {
        let domains = turn["sample"]["domains"].as_array();
        let well = domains.into_iter().flatten().find(|domain| domain["name"] == "well");
        let threads = well.and_then(|well| well["threads"].as_array());
        threads.into_iter().flatten().filter_map(|thread| thread["on_cpu_ns"].as_u64()).sum()
    };
    let mut gaps: Vec<f64> = Vec::new();
    for pair in turns.windows(2) {
        gaps.push(at(&pair[1]) - at(&pair[0]));
        ensure!(cpu(&pair[1]) > cpu(&pair[0]), "the same CPU time of well twice");
    }
    gaps.sort_by(f64::total_cmp);
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!(
        "cadence with a stopped QEMU: {} samples, median {median:.3} s, worst {worst:.3} s",
        turns.len()
    );
    ensure!(turns.len() >= 15, "{} samples only", turns.len());
    ensure!(median < 1.1 && worst < CADENCE, "median {median:.3} s, worst {worst:.3} s");
    Ok(())
}

/// SIGKILL: nothing is decided while it is away, what cannot be put back is said, and everything goes on when it is back.
fn libvirtd_is_killed(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let connected = |wanted: bool| {
        wait_for(&format!("libvirt to be connected: {wanted}"), PATIENCE, || {
            let status = daemon.json(&["status"])?;
            ensure!(status["libvirt"]["connected"] == wanted && status["health"]["ok"] == wanted, "{status}");
            Ok(())
        })
    };
    lab.end_libvirtd(Signal::SIGKILL)?;
    connected(false)?;
    let then = newest(daemon)?;
    more_cycles(daemon, 2)?;
    ensure!(newest(daemon)? == then, "an order without libvirt: {:?}", daemon.orders()?.first());
    let (complete, values) = restore(daemon)?;
    ensure!(!complete && values.iter().all(|value| value["outcome"] == "failed"), "{values:?}");
    lab.start_libvirtd()?;
    connected(true)
}

/// A live dump into a pipe that nobody empties: libvirt's job lasts as long as we want; to QEMU it is a migration. Meanwhile
/// somebody suspends another domain. Nothing is decided on either, and what is inside waits until the guest runs again.
fn a_job_and_a_pause_hold_changes_back(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let pipe = lab.state_dir().join("dump");
    output_of(lab.command("mkfifo").arg(&pipe))?;
    let mut virsh = lab.command("virsh");
    virsh.args(["--connect", "qemu:///system", "dump", "--live", "sick"]).arg(&pipe);
    let mut dump = virsh.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Nobody waits here for a dump that does not begin.
    let mut reader = fs::File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&pipe)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty()))?;
    let result = (|| {
        lab.virsh(&["suspend", "well"])?;
        let job = wait_for("the job and the pause to be seen", PATIENCE, || {
            let well = daemon.json(&["domain", "well"])?;
            ensure!(well["state"] == "paused", "{well}");
            let job = daemon.json(&["domain", "sick"])?["job"].clone();
            ensure!(job.is_string(), "no job");
            Ok(job)
        })?;
        ensure!(job == "dump", "{job}");
        let then = newest(daemon)?;
        more_cycles(daemon, 2)?;
        let orders = daemon.orders()?;
        for domain in ["sick", "well"] {
            let changed = orders.iter().any(|order| is_fresh(order, domain, then));
            ensure!(!changed, "{domain} was changed: {orders:?}");
        }
        Ok(())
    })();
    let mut rest = vec![0; 1 << 20];
    while reader.read(&mut rest)? > 0 {}
    ensure!(dump.wait()?.success(), "the dump failed");
    result?;
    wait_for("the job to be over", PATIENCE, || {
        ensure!(daemon.json(&["domain", "sick"])?["job"].is_null());
        Ok(())
    })?;
    let (_, values) = restore(daemon)?;
    let failed = |value: &&Value| value["outcome"] == "failed";
    ensure!(values.iter().filter(failed).all(|value| value["domain"] == "well"), "{values:?}");
    lab.virsh(&["resume", "well"])?;
    Ok(())
}

/// In the middle of whatever is under way: its values are gone with it, and that keeps nobody from being put back.
fn what_is_destroyed_is_gone(lab: &Lab, daemon: &Daemon<'_>, before: &Witness) -> Result<()> {
    lab.virsh(&["destroy", "sick"])?;
    let (complete, values) = restore(daemon)?;
    ensure!(complete, "{values:?}");
    let sick = || values.iter().filter(|value| value["domain"] == "sick");
    ensure!(sick().count() > 0 && sick().all(|value| value["outcome"] == "gone"), "{values:?}");
    ensure!(values.iter().any(|value| value["domain"] == "web"), "{values:?}");
    let others = ["web", "well"];
    wait_for("the others to be back", PATIENCE, || Witness::look_at(lab, &others)?.is_as(&before.of(&others)))
}

/// The UUID is who it is; the name is what it is called.
fn a_new_name_is_followed(lab: &Lab, daemon: &Daemon<'_>, before: &Witness) -> Result<()> {
    let id = lab.virsh(&["domuuid", "sick"])?;
    lab.virsh(&["domrename", "sick", "renamed"])?;
    lab.virsh(&["start", "renamed"])?;
    wait_for("the new name", PATIENCE, || {
        let domain = daemon.json(&["domain", "renamed"])?;
        ensure!(domain["uuid"] == id.trim(), "{domain}");
        ensure!(daemon.json(&["domain", "sick"]).is_err(), "the old name is known still");
        Ok(())
    })?;
    again(daemon, &["renamed"])?;
    let (complete, values) = restore(daemon)?;
    ensure!(complete && values.iter().any(|value| value["domain"] == "renamed"), "{values:?}");
    let shares = lab.virsh(&["schedinfo", "renamed"])?;
    let was = before.shares["sick"].to_string();
    let line = shares.lines().find(|line| line.starts_with("cpu_shares")).context("no cpu_shares")?;
    ensure!(line.ends_with(&format!(" {was}")), "{line}, was {was}");
    for row in
        lab.virsh(&["vcpupin", "renamed"])?.lines().filter(|line| line.trim_start().starts_with(['0', '1']))
    {
        ensure!(row.ends_with(before.pins[&("sick".to_owned(), 0)].as_str()), "{row}");
    }
    lab.virsh(&["destroy", "renamed"])?;
    wait_for("it to be gone", PATIENCE, || {
        ensure!(daemon.json(&["domain", "renamed"]).is_err());
        Ok(())
    })
}

/// The image on disk has our values in it. They are neither forgotten nor taken for the originals.
fn what_was_saved_to_disk_comes_back_and_goes_back(
    lab: &Lab,
    daemon: &Daemon<'_>,
    before: &Witness,
) -> Result<()> {
    lab.under_load("web", 4, || again(daemon, &["web"]))?;
    // Nothing of another life may mix with new orders.
    daemon.reload(OBSERVE)?;
    lab.virsh(&["managedsave", "web"])?;
    let (_, values) = restore(daemon)?;
    let saved = |value: &&Value| value["domain"] == "web" && value["outcome"] == "saved";
    ensure!(values.iter().find(saved).is_some(), "nothing was saved with it: {values:?}");
    lab.virsh(&["start", "web"])?;
    let ours = Witness::look_outside(lab, &["web"])?;
    println!("after managedsave: {} shares, was {}", ours.shares["web"], before.shares["web"]);
    let there = ["web", "well"];
    wait_for("what came from the disk to go back", PATIENCE, || {
        let left = daemon.json(&["status"])?["ledger_entries"].clone();
        ensure!(left == 0, "{left} values in the ledger");
        Witness::look_at(lab, &there)?.is_as(&before.of(&there))
    })
}

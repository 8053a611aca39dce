//! Faults of domains and of libvirt, one after the other in one lab with real guests: each stays where it is, is said, and
//! leaves nothing changed behind.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::witness::is_in_force;
use kvmpilot_tests::{GuestSpec, HttpLoad, Lab, LabOptions, Witness, Work, guests, output_of, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
/// On a machine that builds beside it everything takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time between two samples, of which one is due each second: debug builds on a machine whose pcpus are all taken.
const CADENCE: f64 = 2.0;
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
    under_load(&lab, || {
        changed(&daemon, "sick")?;
        a_stopped_qemu_delays_nobody(&lab, &daemon)
    })
    .with_context(|| daemon.log())?;
    back(&lab, &daemon, &before).context("after SIGSTOP")?;

    under_load(&lab, || {
        again(&daemon)?;
        libvirtd_is_killed(&lab, &daemon)
    })
    .with_context(|| daemon.log())?;
    back(&lab, &daemon, &before).context("after libvirtd was killed")?;

    under_load(&lab, || {
        again(&daemon)?;
        a_job_holds_changes_back(&lab, &daemon)
    })
    .with_context(|| daemon.log())?;
    back(&lab, &daemon, &before).context("after a job")?;

    under_load(&lab, || again(&daemon)).with_context(|| daemon.log())?;
    what_was_saved_to_disk_comes_back_and_goes_back(&lab, &daemon, &before)
        .with_context(|| daemon.log())
        .context("a domain that was saved")?;
    under_load(&lab, || {
        again(&daemon)?;
        a_new_name_is_followed(&lab, &daemon)
    })
    .with_context(|| daemon.log())?;
    ensure!(daemon.stop()?.success(), "a bad end");
    wait_for("everything to be back", PATIENCE, || {
        let now = Witness::look_at(&lab, &["web", "well"])?;
        let of = |witness: &Witness| {
            (witness.shares["web"], witness.shares["well"], witness.pins.get(&("web".to_owned(), 0)).cloned())
        };
        ensure!(of(&now) == of(&before), "{now:?}, was {before:?}");
        Ok(())
    })?;
    lab.stop()
}

/// Runs `work` while a client keeps the server busy.
fn under_load<T: Send>(lab: &Lab, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 4, seconds: 2 })?;
            }
            anyhow::Ok(())
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        result
    })
}

/// Number of the newest order so far.
fn newest(daemon: &Daemon<'_>) -> Result<u64> {
    Ok(daemon.orders()?.first().and_then(|order| order["id"].as_u64()).unwrap_or(0))
}

/// Waits for an order after number `after` that is in force on a domain.
fn order_after(daemon: &Daemon<'_>, domain: &str, after: u64) -> Result<Value> {
    wait_for(&format!("an order in force on {domain}"), PATIENCE, || {
        let orders = daemon.orders()?;
        let wanted = |order: &&Value| {
            order["domain_name"] == domain && is_in_force(order) && order["id"].as_u64() > Some(after)
        };
        orders.iter().find(wanted).cloned().context("none yet")
    })
}

fn changed(daemon: &Daemon<'_>, domain: &str) -> Result<()> {
    order_after(daemon, domain, 0).map(drop)
}

/// After a restore: orders come again, so that there is something to put back.
fn again(daemon: &Daemon<'_>) -> Result<()> {
    let after = newest(daemon)?;
    daemon.reload(CONFIG)?;
    order_after(daemon, "web", after).map(drop)
}

/// Asks the daemon to put everything back, and checks it without it.
fn back(lab: &Lab, daemon: &Daemon<'_>, before: &Witness) -> Result<()> {
    let answer = daemon.json(&["restore"])?;
    let values = answer["restore"]["values"].as_array().context("no values")?;
    ensure!(!values.is_empty(), "nothing was to be put back");
    wait_for("everything to be back", PATIENCE, || Witness::look(lab)?.is_as(before))
        .with_context(|| format!("{answer}"))
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
    let result = (|| {
        let why = wait_for("the quarantine", PATIENCE, || {
            let why = quarantine(daemon, "sick")?;
            ensure!(why.is_string(), "not in quarantine");
            Ok(why)
        })?;
        let status = daemon.json(&["status"])?;
        ensure!(status["health"]["ok"] == false, "{status}");
        ensure!(status["findings"].to_string().contains("quarantined"), "{status}");
        ensure!(
            daemon.json(&["doctor"])?.to_string().contains("domain sick"),
            "the doctor says nothing: {why}"
        );
        let then = newest(daemon)?;
        // Several deadlines and back-offs go by; who is well gets what it needs.
        wait_for("three more cycles", PATIENCE, || {
            let cycle = daemon.json(&["status"])?["cycle"]["number"].as_u64();
            ensure!(cycle >= Some(status["cycle"]["number"].as_u64().unwrap_or(0) + 3), "{cycle:?}");
            Ok(())
        })?;
        let orders = daemon.orders()?;
        let new = |order: &&Value| order["domain_name"] == "sick" && order["id"].as_u64() > Some(then);
        ensure!(orders.iter().find(new).is_none(), "decided on a domain in quarantine: {orders:?}");
        // An order for another domain goes through.
        let other = orders.iter().find(|order| order["domain_name"] != "sick" && is_in_force(order));
        let id = other.context("no order in force elsewhere")?["id"].to_string();
        daemon.text(&["orders", "rollback", &id])?;
        // What cannot be put back is said, and does not keep the rest.
        let restore = daemon.command(&["restore", "--json"])?.output()?;
        ensure!(!restore.status.success(), "a stopped QEMU was restored");
        let answer: Value = serde_json::from_slice(&restore.stdout)?;
        let values = answer["restore"]["values"].as_array().context("no values")?.clone();
        let failed = |value: &&Value| value["outcome"] == "failed";
        ensure!(values.iter().any(|value| value["outcome"] == "restored"), "{answer}");
        ensure!(values.iter().filter(failed).all(|value| value["domain"] == "sick"), "{answer}");
        Ok(())
    })();
    kill(Pid::from_raw(i32::try_from(recorder.id())?), Signal::SIGINT)?;
    recorder.wait()?;
    kill(qemu, Signal::SIGCONT)?;
    result?;
    the_others_kept_their_second(&fs::read_to_string(&file)?)?;
    wait_for("the quarantine to end", PATIENCE, || {
        ensure!(quarantine(daemon, "sick")?.is_null(), "still in quarantine");
        Ok(())
    })?;
    // By itself, though it rests since the restore.
    wait_for("what was left to go back", PATIENCE, || {
        let left = daemon.json(&["status"])?["ledger_entries"].clone();
        ensure!(left == 0, "{left} values in the ledger");
        Ok(())
    })?;
    daemon.reload(CONFIG)?;
    under_way(daemon)
}

/// After a reload orders come again, so that there is something to put back.
fn under_way(daemon: &Daemon<'_>) -> Result<()> {
    order_after(daemon, "web", newest(daemon)?).map(drop)
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

/// SIGKILL: nothing is decided while it is away, and everything goes on when it is back.
fn libvirtd_is_killed(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let connected = |wanted: bool| {
        wait_for(&format!("libvirt to be connected: {wanted}"), PATIENCE, || {
            let status = daemon.json(&["status"])?;
            ensure!(status["libvirt"]["connected"] == wanted && status["health"]["ok"] == wanted, "{status}");
            Ok(status["cycle"]["number"].as_u64().unwrap_or(0))
        })
    };
    let pid_file = format!("/proc/{}/root/run/libvirt/libvirtd-lab.pid", lab.qemu_pid("web")?);
    let libvirtd: i32 = fs::read_to_string(&pid_file)?.trim().parse()?;
    kill(Pid::from_raw(libvirtd), Signal::SIGKILL)?;
    let cycle = connected(false)?;
    let then = newest(daemon)?;
    wait_for("two more cycles", PATIENCE, || {
        let now = daemon.json(&["status"])?["cycle"]["number"].as_u64();
        ensure!(now >= Some(cycle + 2), "{now:?}");
        Ok(())
    })?;
    ensure!(newest(daemon)? == then, "an order without libvirt: {:?}", daemon.orders()?.first());
    let mut libvirtd = lab.command("libvirtd");
    libvirtd.args(["--pid-file", "/run/libvirt/libvirtd-lab.pid"]).stderr(Stdio::null()).spawn()?;
    connected(true)?;
    // Who was not at its optimum gets on.
    daemon.reload(CONFIG)?;
    Ok(())
}

/// A live dump into a pipe that nobody empties: libvirt's job lasts as long as we want.
fn a_job_holds_changes_back(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let pipe = lab.state_dir().join("dump");
    output_of(lab.command("mkfifo").arg(&pipe))?;
    let mut virsh = lab.command("virsh");
    virsh.args(["--connect", "qemu:///system", "dump", "--live", "sick"]).arg(&pipe);
    let mut dump = virsh.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut reader = fs::File::open(&pipe)?;
    let result = (|| {
        let job = wait_for("the job to be seen", PATIENCE, || {
            let job = daemon.json(&["domain", "sick"])?["job"].clone();
            ensure!(job.is_string(), "no job");
            Ok(job)
        })?;
        ensure!(job == "dump", "{job}");
        let (then, cycle) = (newest(daemon)?, daemon.json(&["status"])?["cycle"]["number"].as_u64());
        wait_for("two more cycles", PATIENCE, || {
            let now = daemon.json(&["status"])?["cycle"]["number"].as_u64();
            ensure!(now >= cycle.map(|cycle| cycle + 2), "{now:?}");
            Ok(())
        })?;
        let orders = daemon.orders()?;
        let during = |order: &&Value| {
            order["domain_name"] == "sick" && order["id"].as_u64() > Some(then) && is_in_force(order)
        };
        ensure!(orders.iter().find(during).is_none(), "changed during a job: {orders:?}");
        Ok(())
    })();
    let mut rest = vec![0; 1 << 20];
    while reader.read(&mut rest)? > 0 {}
    ensure!(dump.wait()?.success(), "the dump failed");
    result?;
    wait_for("the job to be over", PATIENCE, || {
        ensure!(daemon.json(&["domain", "sick"])?["job"].is_null());
        Ok(())
    })
}

/// The image on disk has our values in it. They are neither forgotten nor taken for the originals.
fn what_was_saved_to_disk_comes_back_and_goes_back(
    lab: &Lab,
    daemon: &Daemon<'_>,
    before: &Witness,
) -> Result<()> {
    // Nothing of another life may mix with new orders.
    daemon.reload(OBSERVE)?;
    lab.virsh(&["managedsave", "web"])?;
    let answer = daemon.json(&["restore"])?;
    let saved = answer["restore"]["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|value| value["domain"] == "web" && value["outcome"] == "saved");
    ensure!(saved.count() > 0, "nothing was saved with it: {answer}");
    lab.virsh(&["start", "web"])?;
    let ours = Witness::look_at(lab, &["web"])?;
    println!("after managedsave: {} shares, was {}", ours.shares["web"], before.shares["web"]);
    wait_for("what came from the disk to go back", PATIENCE, || Witness::look(lab)?.is_as(before))
}

/// The UUID is who it is; the name is what it is called.
fn a_new_name_is_followed(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let uuid = daemon.json(&["domain", "sick"])?["uuid"].clone();
    lab.virsh(&["destroy", "sick"])?;
    lab.virsh(&["domrename", "sick", "renamed"])?;
    lab.virsh(&["start", "renamed"])?;
    wait_for("the new name", PATIENCE, || {
        let domain = daemon.json(&["domain", "renamed"])?;
        ensure!(domain["uuid"] == uuid, "{domain}");
        ensure!(daemon.json(&["domain", "sick"]).is_err(), "the old name is known still");
        Ok(())
    })?;
    // In the middle of whatever is under way.
    lab.virsh(&["destroy", "renamed"])?;
    wait_for("it to be gone", PATIENCE, || {
        ensure!(daemon.json(&["domain", "renamed"]).is_err());
        Ok(())
    })
}

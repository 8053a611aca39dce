//! What comes and goes on a host while kvmpilotd runs: vcpus, interfaces, domains, libvirtd, whole QEMUs. Nothing of what is
//! gone may stay behind: no thread in the answers, no descriptor in the daemon, no entry in the probe's map, no program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::bpf::Kind;
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{Firmware, GuestSpec, Held, Lab, LabOptions, firmware, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Windows of a second: this is about what is there, not about how much.
const CONFIG: &str = "[modes]\ndefault = \"observe\"\n[agent]\nenabled = false\n[weight]\nperiod = \"1s\"\n";

fn tids(pid: u32) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        found.insert(entry?.file_name().to_string_lossy().parse()?);
    }
    Ok(found)
}

fn list<'a>(view: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    view[name].as_array().with_context(|| format!("no {name} in {view}"))
}

/// Waits until the daemon shows the domain with exactly the threads of this QEMU, and a window for each of its vcpus.
fn settle(lab: &Lab, daemon: &Daemon<'_>, domain: &str, vcpus: usize) -> Result<Value> {
    wait_for(&format!("{domain} with {vcpus} vcpus as it is"), PATIENCE, || {
        let pid = lab.qemu_pid(domain)?;
        let view = daemon.json(&["domain", domain])?;
        let shown: BTreeSet<u64> =
            list(&view, "threads")?.iter().filter_map(|thread| thread["tid"].as_u64()).collect();
        // QEMU's own helpers come and go; what is shown must be there.
        let real = tids(pid)?;
        ensure!(shown.contains(&u64::from(pid)) && shown.is_subset(&real), "{shown:?} shown, {real:?} there");
        let times = list(&view, "vcpu_times")?;
        ensure!(times.len() == vcpus, "{} vcpus: {view}", times.len());
        ensure!(times.iter().all(|time| time["idle_ratio"].is_number()), "no window yet: {view}");
        ensure!(list(&view, "detail_missing")?.is_empty(), "{view}");
        Ok(view)
    })
    .with_context(|| daemon.log())
}

/// Which of these threads have a slot in the probe's table.
fn slots(held: &Held, tids: &BTreeSet<u64>) -> Result<Vec<u64>> {
    let maps: Vec<_> = held.objects.iter().filter(|object| object.kind == Kind::Map).collect();
    for map in maps {
        if map.name()? == "IDX" {
            let mut found = Vec::new();
            for tid in tids {
                if map.entry(u32::try_from(*tid)?)? != 0 {
                    found.push(*tid);
                }
            }
            return Ok(found);
        }
    }
    bail!("the daemon has no map of threads")
}

/// The threads of a QEMU that runs, all of them watched: otherwise it would be no wonder that they are forgotten.
fn watched(daemon: &Daemon<'_>, pid: u32) -> Result<BTreeSet<u64>> {
    wait_for("all threads to be watched", PATIENCE, || {
        let tids = tids(pid)?;
        let watched = slots(&Held::by(daemon.process_id())?, &tids)?.len();
        ensure!(watched == tids.len(), "{watched} of {tids:?}");
        Ok(tids)
    })
}

/// Nothing of a QEMU that is gone is left in the daemon or in the probe.
fn forgotten(daemon: &Daemon<'_>, pid: u32, old: &BTreeSet<u64>) -> Result<()> {
    wait_for(&format!("QEMU {pid} to be forgotten"), PATIENCE, || {
        let held = Held::by(daemon.process_id())?;
        ensure!(held.count(&format!("/proc/{pid}/")) == 0, "{held:?}");
        let slots = slots(&held, old)?;
        ensure!(slots.is_empty(), "threads {slots:?} still have slots");
        Ok(())
    })
}

fn gone(daemon: &Daemon<'_>, domain: &str) -> Result<()> {
    wait_for(&format!("{domain} to be gone"), PATIENCE, || {
        let view = daemon.json(&["domains"])?;
        ensure!(list(&view, "domains")?.iter().all(|row| row["name"] != domain), "{view}");
        Ok(())
    })
}

#[test]
fn nothing_of_what_is_gone_stays_behind() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::default())?;
    let daemon = lab_daemon(&lab)?;
    let alone = Held::by(daemon.process_id())?;
    ensure!(alone.links.is_empty() && alone.of_kind(Kind::Program) >= 1, "{alone:?}");
    drop(daemon);

    lab.boot(&GuestSpec::new("net", 31).memory_mib(256).without_agent())?;
    let kvm = firmware::refusal();
    if let Some(why) = &kvm {
        println!("vcpu hot-plug and KVM statistics are not shown: {why}");
    }
    let daemon = lab_daemon(&lab)?;
    settle(&lab, &daemon, "net", 1)?;
    let console = lab.logs_dir().join("console-net.log");
    wait_for("net to boot", PATIENCE, || {
        ensure!(fs::read_to_string(&console)?.contains("kvmpilot lab: ready"), "it boots");
        Ok(())
    })?;
    if kvm.is_none() {
        vcpus_come_and_domains_go(&lab, &daemon)?;
    }
    a_weight_that_somebody_writes_is_seen(&lab, &daemon)?;
    interfaces_come_and_go(&lab, &daemon)?;
    libvirtd_restarts(&lab, &daemon)?;
    a_saved_domain_is_another_qemu(&lab, &daemon)?;

    // The last domain goes: the daemon is as it was on an empty host.
    let pid = lab.qemu_pid("net")?;
    let old = watched(&daemon, pid)?;
    lab.virsh(&["destroy", "net"])?;
    gone(&daemon, "net")?;
    forgotten(&daemon, pid, &old)?;
    wait_for("nothing to be left", PATIENCE, || {
        let held = Held::by(daemon.process_id())?;
        ensure!(held.links.is_empty(), "{held:?}");
        for kind in [Kind::Program, Kind::Map, Kind::Link] {
            ensure!(held.of_kind(kind) == alone.of_kind(kind), "{kind:?}: {held:?} now, {alone:?} at first");
        }
        Ok(())
    })?;

    // And when it ends, so do its programs.
    let held = Held::by(daemon.process_id())?;
    ensure!(daemon.stop()?.success());
    wait_for("the programs to go", PATIENCE, || {
        for object in &held.objects {
            ensure!(!object.exists()?, "{object:?} is still there");
        }
        Ok(())
    })?;
    lab.stop()
}

fn lab_daemon(lab: &Lab) -> Result<Daemon<'_>> {
    let daemon = lab.start_daemon("d", CONFIG)?;
    wait_for("the connection to libvirt", PATIENCE, || {
        ensure!(daemon.json(&["status"])?["libvirt"]["connected"] == true);
        Ok(())
    })?;
    Ok(daemon)
}

/// A vcpu is plugged in while the domain runs; the domain is destroyed and started again.
fn vcpus_come_and_domains_go(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    lab.boot_firmware(&Firmware { name: "fw".to_owned(), vcpus: 1, most_vcpus: 3, sleeps: true })?;
    let view = settle(lab, daemon, "fw", 1)?;
    ensure!(view["vcpu_times"][0]["exits_per_s"].is_number(), "no KVM statistics: {view}");
    ensure!(
        Held::by(daemon.process_id())?.count("kvm-vcpu-stats") == 1,
        "{:?}",
        Held::by(daemon.process_id())?
    );

    lab.virsh(&["setvcpus", "fw", "3", "--live"])?;
    let view = settle(lab, daemon, "fw", 3)?;
    ensure!(list(&view, "vcpus")?.len() == 3, "{view}");
    ensure!(list(&view, "vcpu_times")?.iter().all(|time| time["exits_per_s"].is_number()), "{view}");
    ensure!(
        Held::by(daemon.process_id())?.count("kvm-vcpu-stats") == 3,
        "{:?}",
        Held::by(daemon.process_id())?
    );

    let pid = lab.qemu_pid("fw")?;
    let old = watched(daemon, pid)?;
    lab.virsh(&["destroy", "fw"])?;
    gone(daemon, "fw")?;
    forgotten(daemon, pid, &old)?;
    ensure!(
        Held::by(daemon.process_id())?.count("kvm-vcpu-stats") == 0,
        "{:?}",
        Held::by(daemon.process_id())?
    );

    lab.virsh(&["start", "fw"])?;
    settle(lab, daemon, "fw", 1)?;
    // Gone and back between two looks.
    let pid = lab.qemu_pid("fw")?;
    let old = watched(daemon, pid)?;
    lab.virsh(&["destroy", "fw"])?;
    lab.virsh(&["start", "fw"])?;
    settle(lab, daemon, "fw", 1)?;
    forgotten(daemon, pid, &old)?;
    ensure!(
        Held::by(daemon.process_id())?.count("kvm-vcpu-stats") == 1,
        "{:?}",
        Held::by(daemon.process_id())?
    );
    let pid = lab.qemu_pid("fw")?;
    let old = watched(daemon, pid)?;
    lab.virsh(&["destroy", "fw"])?;
    gone(daemon, "fw")?;
    forgotten(daemon, pid, &old)
}

/// libvirt has no event for what is written into a cgroup past it, and nobody reads all domains again and again.
fn a_weight_that_somebody_writes_is_seen(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", lab.qemu_pid("net")?))?;
    let of = |controller: &str| {
        membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            controllers.split(',').any(|name| name == controller).then(|| parts.next()).flatten()
        })
    };
    let (hierarchy, emulator, file) = match of("cpu") {
        Some(path) => ("/sys/fs/cgroup/cpu", path, "cpu.shares"),
        None => ("/sys/fs/cgroup", of("").context("no cgroup")?, "cpu.weight"),
    };
    let own = Path::new(emulator).parent().context("no cgroup of its own")?;
    let file = Path::new(hierarchy).join(own.strip_prefix("/")?).join(file);
    let shown = |wanted: u64| {
        let began = Instant::now();
        wait_for(&format!("a weight of {wanted}"), PATIENCE, || {
            let view = daemon.json(&["domain", "net"])?;
            ensure!(view["cpu_shares"]["current"] == wanted, "{}", view["cpu_shares"]);
            Ok(began.elapsed())
        })
    };
    let before: u64 = fs::read_to_string(&file)?.trim().parse()?;
    shown(before)?;
    for weight in [before / 2, before] {
        fs::write(&file, weight.to_string())?;
        let took = shown(weight)?;
        println!("a weight of {weight} in {} was seen after {:.1} s", file.display(), took.as_secs_f64());
        ensure!(took < Duration::from_secs(20), "{took:?}");
    }
    Ok(())
}

/// An interface is attached to the running domain and taken away again.
fn interfaces_come_and_go(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let count = |wanted: usize| {
        wait_for(&format!("{wanted} interfaces"), PATIENCE, || {
            let view = daemon.json(&["domain", "net"])?;
            let interfaces = list(&view, "interfaces")?;
            ensure!(interfaces.len() == wanted, "{interfaces:?}");
            ensure!(interfaces.iter().all(|tap| tap["received_bytes_per_s"].is_number()), "{interfaces:?}");
            Ok(())
        })
    };
    count(1)?;
    let before = Held::by(daemon.process_id())?;
    let mac = "52:54:00:77:01:31";
    lab.virsh(&["attach-interface", "net", "bridge", "br0", "--mac", mac, "--model", "virtio", "--live"])?;
    count(2)?;
    let tiers = daemon.json(&["status"])?["tiers"].clone();
    let flows = tiers.as_array().into_iter().flatten().any(|tier| tier["tier"] == 3 && tier["on"] == true);
    println!("flows of taps are counted: {flows}");
    if flows {
        wait_for("the programs of the interface to come", PATIENCE, || {
            let now = Held::by(daemon.process_id())?;
            ensure!(now.of_kind(Kind::Link) > before.of_kind(Kind::Link), "{now:?} now, {before:?} before");
            Ok(())
        })?;
    }
    lab.virsh(&["detach-interface", "net", "bridge", "--mac", mac, "--live"])?;
    count(1)?;
    wait_for("the programs of the interface to go", PATIENCE, || {
        let now = Held::by(daemon.process_id())?;
        for kind in [Kind::Program, Kind::Map, Kind::Link] {
            ensure!(now.of_kind(kind) == before.of_kind(kind), "{kind:?}: {now:?} now, {before:?} before");
        }
        Ok(())
    })
}

/// libvirtd is killed and comes back: the domain is the same one, and is followed on.
fn libvirtd_restarts(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let before = Held::by(daemon.process_id())?;
    let connected = |wanted: bool| {
        wait_for(&format!("libvirt to be connected: {wanted}"), PATIENCE, || {
            ensure!(daemon.json(&["status"])?["libvirt"]["connected"] == wanted);
            Ok(())
        })
    };
    lab.end_libvirtd(Signal::SIGKILL)?;
    connected(false)?;
    lab.start_libvirtd()?;
    connected(true)?;
    settle(lab, daemon, "net", 1)?;
    wait_for("the same as before", PATIENCE, || {
        let now = Held::by(daemon.process_id())?;
        ensure!(now.objects.len() == before.objects.len(), "{now:?} now, {before:?} before");
        ensure!(now.count("pidfd") == before.count("pidfd"), "{now:?} now, {before:?} before");
        Ok(())
    })
}

/// What a migration does on one host: the domain goes on in another QEMU.
fn a_saved_domain_is_another_qemu(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let pid = lab.qemu_pid("net")?;
    let old = watched(daemon, pid)?;
    let file = lab.state_dir().join("net.save");
    let file = file.to_string_lossy();
    lab.virsh(&["save", "net", &file])?;
    gone(daemon, "net")?;
    forgotten(daemon, pid, &old)?;
    lab.virsh(&["restore", &file])?;
    ensure!(lab.qemu_pid("net")? != pid);
    let view = settle(lab, daemon, "net", 1)?;
    ensure!(list(&view, "interfaces")?.len() == 1, "{view}");
    Ok(())
}

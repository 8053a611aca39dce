//! libvirt's hook for guests, with a real libvirtd: no state of the daemon keeps a guest from starting or makes it wait, and a
//! guest that has started is watched, and kept off pcpus that are kept free for others, within two seconds.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::hook::{HookRun, InstalledHook};
use kvmpilot_tests::{GuestSpec, HttpLoad, Lab, LabOptions, Witness, Work, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(180);
/// What a guest may be kept waiting for at most by one run of the hook, on a machine that is busy with other tests.
const NEVER_DELAYS: Duration = Duration::from_secs(1);
/// From the end of libvirt's `started` hook.
const WITHIN: Duration = Duration::from_secs(2);
const NEWCOMERS: usize = 3;
/// In ten seconds the guard lets eight vcpus be pinned, and four of the neighbours were.
const PINS_REST: Duration = Duration::from_secs(11);
/// More than a tick, in which what an earlier life of a guest has left is put back at the latest.
const STAYS: Duration = Duration::from_secs(7);
/// Who is there before anybody comes.
const THERE: [&str; 3] = ["web", "hog1", "hog2"];

const OBSERVE: &str =
    "[modes]\ndefault = \"observe\"\n[agent]\nenabled = false\n[daemon]\nlog_level = \"debug\"\n";

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// Starts a guest that is shut off, and ends it. What runs in it does not matter.
fn start_and_end(lab: &Lab, name: &str) -> Result<Duration> {
    let began = Instant::now();
    lab.virsh(&["start", name])?;
    let took = began.elapsed();
    lab.virsh(&["destroy", name])?;
    Ok(took)
}

/// The runs of the hook since there were `before` of them, all of which were quick and successful.
fn good_runs(hook: &InstalledHook, before: usize) -> Result<Vec<HookRun>> {
    let runs = hook.runs()?.split_off(before);
    for run in &runs {
        ensure!(run.status == 0, "the hook failed: {run:?}");
        ensure!(run.took < NEVER_DELAYS, "the hook took {:?}: {run:?}", run.took);
    }
    let operations: Vec<&str> = runs.iter().map(|run| run.operation.as_str()).collect();
    for operation in ["prepare", "start", "started", "stopped", "release"] {
        ensure!(operations.contains(&operation), "no {operation} in {operations:?}");
    }
    Ok(runs)
}

/// The median of what is in order.
fn middle(times: &[Duration]) -> Duration {
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn show(what: &str, runs: &[HookRun]) {
    let mut times: Vec<Duration> = runs.iter().map(|run| run.took).collect();
    times.sort();
    let (median, worst) = (middle(&times), times.last().copied().unwrap_or_default());
    println!("{what}: {} runs of the hook, median {median:?}, worst {worst:?}", runs.len());
}

fn check(daemon: &Daemon<'_>) -> Result<Value> {
    let view = daemon.json(&["doctor"])?;
    let found = view["checks"].as_array().into_iter().flatten().find(|check| check["name"] == "libvirt hook");
    found.cloned().context("no check of the hook")
}

#[test]
fn a_guest_starts_whatever_the_daemon_is_doing() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::default())?;
    let socket = lab.state_dir().join("d/hook.sock");
    // libvirtd knows of no hook until it is told to look.
    lab.boot(&GuestSpec::new("g", 21).memory_mib(128).without_agent())?;
    lab.virsh(&["destroy", "g"])?;
    let daemon = lab.start_daemon("d", OBSERVE)?;
    let found = check(&daemon)?;
    ensure!(found["verdict"] == "warning" && found["advice"].is_string(), "{found}");
    ensure!(daemon.stop()?.success());

    let hook = lab.install_hook(&socket)?;
    wait_for("libvirtd to have found the hook", BOOT, || {
        start_and_end(&lab, "g")?;
        ensure!(!hook.runs()?.is_empty());
        Ok(())
    })?;
    let state = |what: &str, starts: usize| -> Result<()> {
        let before = hook.runs()?.len();
        let mut times = (0..starts).map(|_| start_and_end(&lab, "g")).collect::<Result<Vec<_>>>()?;
        times.sort();
        show(what, &good_runs(&hook, before)?);
        println!("{what}: a start took {:?} in the median", middle(&times));
        Ok(())
    };
    state("without a daemon", 4)?;
    fs::create_dir_all(socket.parent().context("no directory")?)?;
    fs::write(&socket, "not a socket")?;
    state("with a file in the socket's place", 1)?;
    // The daemon leaves it alone, says so, and works on.
    let daemon = lab.start_daemon("d", OBSERVE)?;
    let found = check(&daemon)?;
    ensure!(found["message"].as_str().is_some_and(|text| text.contains("is no socket")), "{found}");
    ensure!(fs::read_to_string(&socket)? == "not a socket");
    ensure!(daemon.stop()?.success());
    fs::remove_file(&socket)?;

    let daemon = lab.start_daemon("d", OBSERVE)?;
    state("with a daemon", 4)?;
    // What doctor says is as old as the last tick.
    wait_for("the daemon's word of the hook's last run", PATIENCE, || {
        let found = check(&daemon)?;
        ensure!(found["verdict"] == "ok", "{found}");
        ensure!(found["message"].as_str().is_some_and(|text| text.contains("g release end")), "{found}");
        Ok(())
    })?;
    ensure!(!daemon.log().contains("known by libvirt's hook before any event"), "it did the work twice");

    daemon.signal(Signal::SIGSTOP)?;
    let full = fill(&socket);
    let hung = full.and_then(|()| state("with a daemon that hangs, its queue full", 2));
    daemon.signal(Signal::SIGCONT)?;
    hung?;
    // What it missed does not matter: it knows what runs.
    lab.virsh(&["start", "g"])?;
    wait_for("the daemon to list the guest", PATIENCE, || listed(&daemon, "g"))?;

    // Far more XML than a pipe holds, of which the hook reads nothing.
    lab.virsh(&["desc", "g", "--config", &"x".repeat(100_000)])?;
    lab.virsh(&["destroy", "g"])?;
    state("with 100 kB of XML", 1)?;
    ensure!(daemon.stop()?.success());
    lab.stop()
}

/// Sends until the socket takes no more.
fn fill(socket: &Path) -> Result<()> {
    let filler = UnixDatagram::unbound()?;
    filler.set_nonblocking(true)?;
    let full = (0..1_000_000).any(|_| filler.send_to(b"1 prepare begin filler", socket).is_err());
    ensure!(full, "the queue takes anything");
    Ok(())
}

/// Whether it is listed, and the thread of each of its vcpus is known.
fn listed(daemon: &Daemon<'_>, name: &str) -> Result<()> {
    let all = daemon.json(&["domains"])?;
    let is_there = all["domains"].as_array().into_iter().flatten().any(|domain| domain["name"] == name);
    ensure!(is_there, "{name} is not listed");
    let domain = daemon.json(&["domain", name])?;
    let vcpus = domain["vcpus"].as_array().context("no vcpus")?;
    ensure!(!vcpus.is_empty() && vcpus.iter().all(|vcpu| vcpu["tid"].is_u64()), "{vcpus:?}");
    Ok(())
}

/// A server that fills its vcpu and is starved by a neighbour, in spite of its weight.
fn guests() -> Vec<GuestSpec> {
    let cruncher = |n| Work::Hog(format!("cruncher{n}"));
    let hog = |name: &str, octet| {
        let spec = GuestSpec::new(name, octet).vcpus(2).memory_mib(256);
        spec.runs(cruncher(1)).runs(cruncher(2)).without_agent()
    };
    let web = GuestSpec::new("web", 11).memory_mib(256).runs(Work::Http).runs(cruncher(1)).without_agent();
    vec![web, hog("hog1", 12), hog("hog2", 13)]
}

/// With this cycle, in which separations begin and end.
fn places(cycle: &str) -> String {
    PLACES.replace("CYCLE", cycle)
}

const PLACES: &str = "[weight]\nmax_factor = 4.0\n[modes]\ndefault = \"auto\"\nballoon = \"observe\"\nladder = \"observe\"\n\
    [loops]\ncycle = \"CYCLE\"\n[agent]\nenabled = false\n\
    [[domain]]\nname = \"web\"\nclass = \"latency\"\n[[domain]]\nname = \"hog*\"\nclass = \"batch\"\n[daemon]\nlog_level = \"debug\"\n";

#[test]
fn who_comes_is_watched_and_placed_within_two_seconds() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { guests: guests() })?;
    lab.wait_booted(BOOT)?;
    lab.boot(&GuestSpec::new("late", 31).vcpus(2).memory_mib(128).without_agent())?;
    lab.virsh(&["destroy", "late"])?;
    wait_for("the server", BOOT, || {
        lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 1, seconds: 1 }).map(|_| ())
    })?;
    let hook = lab.install_hook(&lab.state_dir().join("d/hook.sock"))?;
    let before = Witness::look_at(&lab, &THERE)?;
    let daemon = lab.start_daemon("d", &places("5s"))?;
    lab.outweigh_the_machine(2)?;
    lab.under_load("web", 6, || {
        let is_confined = || -> Result<()> {
            let pins = Witness::look_at(&lab, &THERE)?.pins;
            ensure!(pins.iter().any(|((name, _), pin)| name.starts_with("hog") && pin != "0-1"), "{pins:?}");
            Ok(())
        };
        // On a machine that others use, too, it does not last: no cycle is to end it from now on, nor may one have done so
        // before it knew.
        wait_for("a neighbour that stays confined", PATIENCE, || {
            is_confined()?;
            daemon.reload(&places("1h"))?;
            wait_for("the new configuration", PATIENCE, || {
                ensure!(daemon.text(&["explain", "web"])?.contains("1h"));
                Ok(())
            })?;
            if let Err(ended) = is_confined() {
                daemon.reload(&places("5s"))?;
                return Err(ended);
            }
            Ok(())
        })?;
        let mut times = Vec::new();
        for n in 0..NEWCOMERS {
            if n > 0 {
                std::thread::sleep(PINS_REST - STAYS);
            }
            times.push(newcomer(&lab, &daemon, &hook)?);
        }
        let (mut watched, mut placed): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        watched.sort();
        placed.sort();
        println!("after the hook's `started`, of {NEWCOMERS}: watched {watched:?}, placed {placed:?}");
        // One of them may have met a busy moment of this machine.
        for (what, times) in [("watched", &watched), ("placed", &placed)] {
            let median = middle(times);
            ensure!(median <= WITHIN, "{what} after {median:?} in the median: {times:?}");
        }
        Ok(())
    })
    .with_context(|| daemon.log())?;
    daemon.text(&["restore"])?;
    wait_for("everything to be back", PATIENCE, || Witness::look_at(&lab, &THERE)?.is_as(&before))?;
    ensure!(daemon.stop()?.success());
    lab.stop()
}

/// Whether both vcpus of the newcomer keep to one pcpu.
fn is_placed(lab: &Lab) -> Result<bool> {
    let pins = lab.virsh(&["vcpupin", "late", "--live"])?;
    let rows = pins.lines().filter_map(|line| line.split_whitespace().nth(1));
    let all: Vec<&str> = rows.filter(|pin| pin.starts_with(['0', '1'])).collect();
    Ok(all.len() == 2 && all.iter().all(|pin| *pin == "0" || *pin == "1"))
}

/// Starts a guest, and tells how long after the hook's `started` it was watched, and its vcpus were kept off what is kept free.
fn newcomer(lab: &Lab, daemon: &Daemon<'_>, hook: &InstalledHook) -> Result<(Duration, Duration)> {
    let runs = hook.runs()?.len();
    lab.virsh(&["start", "late"])?;
    let (mut watched, mut placed) = (None, None);
    wait_for("the newcomer to be watched and placed", PATIENCE, || {
        if watched.is_none() && listed(daemon, "late").is_ok() {
            watched = Some(now()?);
        }
        if placed.is_none() {
            placed = is_placed(lab)?.then(now).transpose()?;
        }
        ensure!(watched.is_some() && placed.is_some(), "watched: {watched:?}, placed: {placed:?}");
        Ok(())
    })
    .with_context(|| daemon.text(&["explain", "late"]).unwrap_or_default())?;
    let started = hook.runs()?.split_off(runs).into_iter().find(|run| run.operation == "started");
    let started = started.context("no hook was run")?.ended;
    let explained = daemon.text(&["explain", "late"])?;
    ensure!(explained.contains("newcomer"), "{explained}");
    let orders = daemon.orders()?;
    let order =
        orders.iter().find(|order| order["reason"]["rule"] == "placement.newcomer").context("no order")?;
    let why = daemon.text(&["why", &order["id"].to_string()])?;
    ensure!(why.contains("late has just come") && why.contains("kept free"), "{why}");
    // Pins that its earlier life has left are put back before, not after: else they take the new ones with them.
    let placed_at = Instant::now();
    while placed_at.elapsed() < STAYS {
        ensure!(is_placed(lab)?, "it was, and is not any more: {}", daemon.text(&["explain", "late"])?);
        std::thread::sleep(Duration::from_millis(500));
    }
    lab.virsh(&["destroy", "late"])?;
    wait_for("the guest to be forgotten", PATIENCE, || {
        let all = daemon.json(&["domains"])?;
        let names: Vec<&Value> =
            all["domains"].as_array().into_iter().flatten().map(|one| &one["name"]).collect();
        ensure!(names.iter().all(|name| **name != "late"), "{names:?}");
        Ok(())
    })?;
    let after = |at: Option<Duration>| at.map(|at| at.saturating_sub(started)).context("never");
    Ok((after(watched)?, after(placed)?))
}

//! `demo`: the main job on real guests, told as a story and checked against libvirt and the guests themselves.
//!
//! Everything that it claims is read back with virsh and inside the guest; kvmpilot's own word counts for reasons only.

mod report;
mod story;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{HttpLoad, HttpReport, Lab, LabOptions, Witness, guests};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::command::{cargo, run_shown, say};
use crate::{build_ebpf, setup};
use report::Report;
use story::Story;

/// The guest that serves.
const SERVER: &str = "web";
/// Requests under way at the same time.
const CONNECTIONS: u32 = 4;
/// Length of each measurement.
const MEASURE_S: u32 = 15;
/// How long kvmpilot gets for the changes that the demo waits for. Classes take three windows of 5 s, pins three cycles
/// more.
const ADAPT: Duration = Duration::from_secs(150);
const BOOT: Duration = Duration::from_secs(90);

/// The demo's configuration: carries out what it decides, and has a short cycle. The rest is the default.
const CONFIG: &str = "[modes]\ndefault = \"auto\"\n\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n\n[agent]\ntimeout = \"10s\"\n\n\
     [tcp]\naddress = \"127.0.0.1:8765\"\nplain = \"loopback\"\naccess = \"write\"\n";
/// Where the console is on the lab's own loopback: nobody but the lab gets there.
const CONSOLE_PORT: u16 = 8765;

/// Sets up, builds, and tells the story.
pub(crate) fn demo(json: Option<&Path>, keep: bool) -> Result<()> {
    setup::setup(setup::Needs::Lab)?;
    build_ebpf::build_ebpf()?;
    say("building the daemon");
    run_shown(cargo().args(["build", "--quiet", "--package", "kvmpilot"]))?;
    let report = play(keep)?;
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    report.print();
    report.check()
}

fn play(keep: bool) -> Result<Report> {
    let started = Instant::now();
    say("starting a private libvirtd and three guests");
    let lab = Lab::start(&LabOptions { guests: guests::standard() })?;
    lab.wait_agents(BOOT)?;
    println!(
        "    {} guests answer after {:.0} s; accelerator {}: {}",
        lab.guests().len(),
        started.elapsed().as_secs_f64(),
        lab.accel(),
        lab.accel_reason()
    );
    println!("    web    serves HTTP, beside a CPU hog and an idle process in the same guest");
    println!("    batch  burns all the CPU that it gets, and has nothing to do with the network");
    println!("    idle   has 512 MiB and needs little of it");

    let before = Witness::look(&lab)?;
    say(&format!("{MEASURE_S} s of HTTP load at web, without kvmpilot"));
    let http_before = measure(&lab)?;
    println!("    {}", report::http(&http_before));

    say("kvmpilotd starts, in mode auto and with a cycle of 5 s");
    let daemon = lab.start_daemon("demo", CONFIG)?;
    let mut story = Story::default();
    under_load(&lab, || story.follow(&daemon, ADAPT))??;

    say(&format!("{MEASURE_S} s of HTTP load at web, with kvmpilot"));
    let http_after = measure(&lab)?;
    println!("    {}", report::http(&http_after));
    let after = look_at_rest(&daemon, &lab)?;
    let processes = daemon.json(&["processes", SERVER])?;
    let orders = daemon.orders()?;
    if keep {
        leave_running(&lab, &daemon)?;
    }

    say("kvmpilotd is stopped");
    let status = daemon.stop()?;
    ensure!(status.success(), "kvmpilotd ended with {status}");
    let restored = Witness::look(&lab)?;
    let report =
        Report::new(&lab, &before, &after, &restored, [http_before, http_after], &processes, &orders)?;
    lab.stop()?;
    Ok(report)
}

/// Puts it back to work, with load, until somebody presses Ctrl-C.
fn leave_running(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    daemon.reload(CONFIG)?;
    let way = lab.forward(CONSOLE_PORT)?;
    say(&format!(
        "the web console is at http://{}/ (anybody on this machine may look and change)",
        way.address()
    ));
    println!(
        "    `cargo xtask lab` and `kvmpilot --socket {}` work, too; Ctrl-C ends all of it",
        daemon.socket().display()
    );
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // Ctrl-C at a terminal reaches the load, too.
    let _ = under_load(lab, || signals.forever().next());
    println!();
    Ok(())
}

fn measure(lab: &Lab) -> Result<HttpReport> {
    lab.http_load(&HttpLoad { guest: SERVER.to_owned(), connections: CONNECTIONS, seconds: MEASURE_S })
}

/// Runs `work` while the load goes on.
fn under_load<T: Send>(lab: &Lab, work: impl FnOnce() -> T + Send) -> Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                lab.http_load(&HttpLoad { guest: SERVER.to_owned(), connections: CONNECTIONS, seconds: 5 })?;
            }
            anyhow::Ok(())
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        load.join().map_err(|_| anyhow::anyhow!("the load ended with a panic"))??;
        Ok(result)
    })
}

/// What is there when no order is on its way, so that kvmpilot's word and the witness speak of the same moment: mode
/// `observe` keeps what was set and sets nothing more.
fn look_at_rest(daemon: &Daemon<'_>, lab: &Lab) -> Result<Witness> {
    daemon.reload(&CONFIG.replace("auto", "observe"))?;
    let rest = Duration::from_secs(60);
    kvmpilot_tests::wait_for("the last orders to end", rest, || {
        ensure!(daemon.json(&["status"])?["mode"] == "observe", "the configuration was not read again yet");
        let orders = daemon.orders()?;
        ensure!(orders.iter().all(|order| order["state"] != "approved"), "orders are on their way");
        Ok(())
    })?;
    kvmpilot_tests::wait_for("libvirt and the guests to agree with the orders", rest, || {
        let witness = Witness::look(lab)?;
        witness.agrees_with(&daemon.orders()?)?;
        Ok(witness)
    })
}

//! `soak`: hours of whatever may happen on a host, in a lab of real guests, with kvmpilotd at work; and all along the
//! question whether it still is what it promises to be. `world.rs` has the loop, `deck.rs` what may happen, `checks.rs` and
//! `values.rs` what must be true.
//!
//! What is compared with the whole machine (eBPF objects that are left) supposes that nobody else runs kvmpilotd on it.

mod cadence;
mod checks;
mod deck;
mod diary;
mod events;
mod faults;
mod life;
mod load;
mod pool;
mod reading;
mod summary;
mod values;
mod world;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fastrand::Rng;
use kvmpilot_tests::{Lab, LabOptions, Witness, bpf};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::bench::common::{Machine, build_daemon, write};
use crate::command::say;
use crate::{build_ebpf, setup};
use cadence::Lateness;
use checks::Health;
use diary::Diary;
use load::Load;
use summary::{Books, Facts, Report};
use world::Soak;

/// How long things may take on a machine whose pcpus are all taken.
const PATIENCE: Duration = Duration::from_secs(120);
const BOOT: Duration = Duration::from_secs(300);
/// `[loops] cycle`.
const CYCLE: Duration = Duration::from_secs(5);
/// `[store] max_size`, the smallest that there is: an hour has to fill it.
const DATABASE_MIB: u64 = 8;

/// Each turn of the fast cycle is a tick, so that much happens and each turn is told.
const AUTO: &str = "[modes]\ndefault = \"auto\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[weight]\nperiod = \"1s\"\n\
    [state]\ncycles = 1\n[agent]\ntimeout = \"10s\"\n[store]\nretention = \"1h\"\nmax_size = \"8MiB\"\n\
    [balloon]\nfloor = \"96MiB\"\nguard = \"128MiB\"\nwindow = \"10s\"\nstep_permille = 50\nstep_period = \"2s\"\n\
    [[domain]]\nname = \"kept-web\"\nmode = \"observe\"\n[[domain]]\nname = \"kept-plain\"\nmode = \"observe\"\n";
/// The same without changes: what is in force stays.
const OBSERVE: &str = "[modes]\ndefault = \"observe\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[weight]\nperiod = \"1s\"\n\
    [agent]\ntimeout = \"10s\"\n[store]\nretention = \"1h\"\nmax_size = \"8MiB\"\n";

/// An invariant does not hold, as the error below says: the soak ends.
#[derive(Clone, Copy, Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an invariant is broken")
    }
}

#[derive(Debug, Args)]
pub(crate) struct SoakOptions {
    /// How long things happen, in hours; 0.05 are three minutes
    #[arg(long)]
    hours: f64,
    /// Repeats the guests and the order of events of another soak
    #[arg(long)]
    seed: Option<u64>,
    /// Also write what happens to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Also write the summary to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn soak(options: &SoakOptions) -> Result<()> {
    let hours = options.hours;
    ensure!((0.001..=1000.0).contains(&hours), "--hours {hours}: give a number from 0.001 to 1000");
    setup::setup(setup::Needs::Lab)?;
    build_ebpf::build_ebpf()?;
    build_daemon()?;
    // Short enough to be typed again.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seed = options.seed.unwrap_or(now % 1_000_000);
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends it at once; the lab's keeper cleans up.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut machine = Machine::look(format!("cargo xtask soak --hours {hours} --seed {seed}"))?;
    let mut diary = Diary::open(options.log.as_deref())?;
    diary.note(&format!("seed {seed}, {hours} h"));

    let mut lab = Lab::start(&LabOptions::default())?;
    machine.accel = lab.accel().to_string();
    let (load, books) = (Load::default(), Books::default());
    let (books, broken, diary) = play(&mut lab, &load, seed, hours, diary, books, &interrupted)?;
    let seconds = diary.elapsed().as_secs_f64();
    let was_interrupted = interrupted.load(Ordering::Relaxed);
    let facts =
        Facts { machine, seed, seconds, interrupted: was_interrupted, broken, requests: load.requests() };
    let report = Report::new(facts, books);
    println!("{}", report.text());
    write(&report, options.json.as_deref())?;
    let logs = lab.logs_dir().display().to_string();
    lab.stop()?;
    if report.is_broken() {
        bail!("the soak failed with seed {seed}; the daemon's log is {logs}/d.log");
    }
    Ok(())
}

/// The soak itself: the books, what was broken, and the diary.
fn play(
    lab: &mut Lab,
    load: &Load,
    seed: u64,
    hours: f64,
    mut diary: Diary,
    books: Books,
    interrupted: &Arc<AtomicBool>,
) -> Result<(Books, Option<String>, Diary)> {
    let mut rng = Rng::with_seed(seed);
    let objects = bpf::all()?;
    let alone = world::alone(lab)?;
    let guests = pool::pool(&mut rng);
    say(&format!("{} guests", guests.len()));
    for guest in &guests {
        lab.boot(&guest.spec)?;
        diary.note(&format!(
            "{}: {} vcpus, {} MiB{}",
            guest.name(),
            guest.spec.vcpus,
            guest.spec.memory_mib,
            if guest.spec.agent { "" } else { ", no agent" }
        ));
    }
    lab.wait_agents(BOOT)?;
    let lab: &Lab = lab;
    let stored = |name: &str| Ok((name.to_owned(), lab.virsh(&["dumpxml", "--inactive", name])?));
    let stored = guests.iter().map(|guest| stored(guest.name())).collect::<Result<_>>()?;
    let mut soak = Soak {
        lab,
        load,
        rng,
        diary,
        books,
        guests,
        life: None,
        before: Witness::look(lab).context("before the daemon")?,
        stored,
        alone,
        objects,
        names: std::collections::BTreeSet::new(),
        lateness: Lateness::watch(),
        health: Health::new(),
        void: 0,
        checked: None,
        libvirtd: None,
        interrupted: Arc::clone(interrupted),
    };
    let outcome = thread::scope(|scope| {
        scope.spawn(|| load.run(lab));
        let _end = load.until_dropped();
        soak.run(Duration::from_secs_f64(hours * 3600.0)).and_then(|()| soak.finish())
    });
    let broken = soak.ended(outcome);
    Ok((soak.books, broken, soak.diary))
}

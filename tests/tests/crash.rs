//! `kill -9` at each step of an order, for a weight, a pin, a balloon and a level, and in the middle of a restore. After each,
//! a restart or `kvmpilot restore` leaves every value at its original, as virsh and the guest tell, and no order is open.

use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Witness, Work, output_of, wait_for};
use nix::sys::signal::Signal;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(90);

/// The way of an order, in its order: `act/crash.rs` says what has happened at each.
const STEPS: [&str; 8] = ["start", "announce", "claim", "set", "read_back", "settle", "conclude", "answer"];
/// From here on the value is no longer the original one.
const CHANGED: &[&str] = &["settle", "conclude", "answer", "judge", "put_back"];

/// One means, and the guests on whose values nobody else here has an eye.
struct Means {
    actuator: &'static str,
    guests: &'static [&'static str],
    /// What of all that a witness tells is changed by it.
    part: fn(Witness) -> Witness,
    /// Whether a trial of it is over within seconds.
    judged: bool,
}

const WEIGHT: Means = Means {
    actuator: "weight",
    guests: &["lat", "bat"],
    part: |all| Witness { shares: all.shares, ..Witness::default() },
    judged: true,
};
const PLACEMENT: Means = Means {
    actuator: "placement",
    guests: &["lat", "bat"],
    part: |all| Witness {
        pins: all.pins,
        emulator_pins: all.emulator_pins,
        iothread_pins: all.iothread_pins,
        ..Witness::default()
    },
    judged: false,
};
const BALLOON: Means = Means {
    actuator: "balloon",
    guests: &["idle"],
    part: |all| Witness { balloons: all.balloons, ..Witness::default() },
    judged: false,
};
const LADDER: Means = Means {
    actuator: "ladder",
    guests: &["busy"],
    part: |all| Witness { nices: all.nices, ..Witness::default() },
    judged: false,
};

/// Waits contend on two pcpus: `lat` is protected from `bat`, `idle` has memory to spare, and in `busy` two hogs share a vcpu.
fn guests() -> Vec<GuestSpec> {
    let hog = |name: &str| Work::Hog(name.to_owned());
    vec![
        GuestSpec::new("lat", 11).memory_mib(256).without_agent().runs(hog("server")),
        GuestSpec::new("bat", 12)
            .vcpus(2)
            .iothreads(1)
            .memory_mib(256)
            .without_agent()
            .runs(hog("cruncher1"))
            .runs(hog("cruncher2")),
        GuestSpec::new("idle", 13).memory_mib(768).without_agent(),
        GuestSpec::new("busy", 14).memory_mib(256).runs(hog("one")).runs(hog("two")),
    ]
}

/// One means in this mode, as fast as it goes; the rest only looks.
fn config(actuator: &str, mode: &str) -> String {
    let agent = actuator == "ladder";
    format!(
        "[modes]\ndefault = \"observe\"\n{actuator} = \"{mode}\"\n\
         [loops]\ncycle = \"5s\"\nguest = \"5s\"\n[weight]\nperiod = \"1s\"\n[state]\ncycles = 1\n\
         [agent]\nenabled = {agent}\ntimeout = \"20s\"\n[probes]\nenabled = false\n[flows]\nenabled = false\n\
         [[domain]]\nname = \"lat\"\nclass = \"latency\"\n[[domain]]\nname = \"bat\"\nclass = \"batch\"\n"
    )
}

impl Means {
    fn look(&self, lab: &Lab) -> Result<Witness> {
        Ok((self.part)(Witness::look_at(lab, self.guests)?))
    }

    /// Starts a daemon that ends at this point, and waits for its end.
    fn crash(&self, lab: &Lab, point: &str) -> Result<()> {
        let at = format!("KVMPILOT_CRASH_AT={point}");
        let mut daemon =
            lab.spawn_wrapped_daemon(self.actuator, &config(self.actuator, "auto"), &["env", &at], &[])?;
        let status = daemon.wait_for_end(PATIENCE)?;
        ensure!(status.signal() == Some(Signal::SIGABRT as i32), "{status}: {}", daemon.log());
        Ok(())
    }

    /// The next daemon puts everything back before it does anything else, and closes what was open.
    fn recover(&self, lab: &Lab, before: &Witness) -> Result<()> {
        let daemon = lab.start_daemon(self.actuator, &config(self.actuator, "observe"))?;
        wait_for("the ledger to be empty and no order to be open", PATIENCE, || {
            let left = daemon.json(&["status"])?["ledger_entries"].clone();
            ensure!(left == 0, "{left} values in the ledger");
            open_orders(&daemon)
        })
        .with_context(|| daemon.log())?;
        wait_for("the originals after a restart", PATIENCE, || self.look(lab)?.is_as(before))?;
        ensure!(daemon.stop()?.success());
        Ok(())
    }

    /// `kvmpilot restore` without a daemon.
    fn restore(&self, lab: &Lab, before: &Witness) -> Result<()> {
        let mut restore = lab.command(kvmpilot_tests::daemon::program("kvmpilot")?);
        let config = lab.state_dir().join(self.actuator).join("kvmpilot.toml");
        output_of(restore.args(["restore", "--config"]).arg(config))?;
        wait_for("the originals after kvmpilot restore", PATIENCE, || self.look(lab)?.is_as(before))
    }

    fn walk(&self, lab: &Lab) -> Result<()> {
        let before = self.look(lab)?;
        let judge = self.judged.then_some("judge");
        for (n, point) in STEPS.into_iter().chain(judge).enumerate() {
            let walked = || -> Result<()> {
                self.crash(lab, point)?;
                if CHANGED.contains(&point) {
                    ensure!(self.look(lab)?.is_as(&before).is_err(), "nothing was changed");
                }
                // Both ways back must work; the daemon has to close the orders in any case.
                if n % 2 == 0 {
                    self.restore(lab, &before)?;
                }
                self.recover(lab, &before)
            };
            walked().with_context(|| format!("{} at {point}", self.actuator))?;
        }
        // On the way back.
        for point in ["put_back", "forget"] {
            let walked = || -> Result<()> {
                self.crash(lab, "answer")?;
                self.crash(lab, point)?;
                self.recover(lab, &before)
            };
            walked().with_context(|| format!("{} at {point}", self.actuator))?;
        }
        Ok(())
    }
}

fn open_orders(daemon: &Daemon<'_>) -> Result<()> {
    let orders = daemon.orders()?;
    ensure!(!orders.is_empty(), "there were no orders at all");
    for order in orders {
        let state = order["state"].as_str().unwrap_or_default();
        ensure!(["kept", "rolled_back", "failed"].contains(&state), "{order}");
        ensure!(!order["outcome"].as_str().unwrap_or_default().is_empty(), "nothing is said: {order}");
    }
    Ok(())
}

#[test]
fn killed_at_any_step_everything_goes_back() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: guests() })?;
    lab.wait_agent("busy", BOOT)?;
    // A balloon that the guest's driver does not hold yet moves nowhere.
    wait_for("the idle guest's statistics", BOOT, || {
        let told = lab.virsh(&["dommemstat", "idle"])?;
        ensure!(told.contains("usable"), "{told}");
        Ok(())
    })?;
    // Side by side where the values are not the same; weights would take away what pins are for.
    let walks: [&[Means]; 3] = [&[WEIGHT, PLACEMENT], &[BALLOON], &[LADDER]];
    thread::scope(|scope| {
        let walkers = walks.map(|means| {
            let lab = &lab;
            scope.spawn(move || means.iter().try_for_each(|means| means.walk(lab)))
        });
        let ended = walkers.map(|walker| walker.join().map_err(|_| anyhow!("a walk panicked")).flatten());
        ended.into_iter().collect::<Result<()>>()
    })?;
    lab.stop()
}

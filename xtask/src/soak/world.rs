//! [`Soak`]: the lab, the daemon's life that goes on, the guests and the books; the loop of events, and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use kvmpilot_tests::bpf::{self, Kind, Object};
use kvmpilot_tests::{Held, Lab, Witness, api, wait_for};

use super::cadence::Lateness;
use super::checks::Health;
use super::deck::Deck;
use super::diary::Diary;
use super::life::Life;
use super::load::Load;
use super::pool::{Guest, Power};
use super::summary::Books;
use super::{AUTO, Broken, PATIENCE};
use crate::process;

/// Events that may fail one after the other before that is taken for a lab that does not work.
const FAILURES: u32 = 5;
/// Only so long a soak can spare a stretch in which the daemon is left alive, to see whether it grows.
const LONG: Duration = Duration::from_secs(20 * 60);
/// Part of a long soak after which the daemon is not ended any more.
const RESTARTS: f64 = 0.4;
const BOOT: Duration = Duration::from_secs(300);
/// Beside hogs a guest has said something by then.
const BOOTING: Duration = Duration::from_secs(60);
/// Descriptors that a daemon may have more of than one that has never seen a domain.
const SLACK: u64 = 8;
/// Threads that it may have more of, for blocking calls. Those that have nothing to do take turns, and one that had none for 2 s
/// ends; at 10 s, and one or two calls a second, five stayed.
const BLOCKING: u64 = 4;
/// Workers for calls and agents that such a one has not needed yet: seven of eight. They stay.
const WORKERS: u64 = 7;
/// Descriptors of their connections to libvirtd, each a socket and the two ends of a pipe.
const CONNECTIONS: u64 = WORKERS * 3;

/// What a daemon holds that has never seen a domain.
#[derive(Clone, Debug)]
pub(super) struct Alone {
    pub(super) held: Held,
    pub(super) threads: u64,
    pub(super) rss_kib: u64,
    /// In its state directory, once it has ended.
    pub(super) files: BTreeSet<String>,
}

pub(super) struct Soak<'a> {
    pub(super) lab: &'a Lab,
    pub(super) load: &'a Load,
    pub(super) rng: Rng,
    pub(super) diary: Diary,
    pub(super) books: Books,
    pub(super) guests: Vec<Guest>,
    /// None while it is down.
    pub(super) life: Option<Life<'a>>,
    /// Values before the daemon saw any guest.
    pub(super) before: Witness,
    /// Stored configuration of the guests then.
    pub(super) stored: BTreeMap<String, String>,
    pub(super) alone: Alone,
    /// eBPF objects of the machine then.
    pub(super) objects: BTreeSet<Object>,
    /// Names of those that the daemon has had.
    pub(super) names: BTreeSet<String>,
    pub(super) lateness: Lateness,
    pub(super) health: Health,
    /// Orders up to this number are void: all values have been put back since.
    pub(super) void: u64,
    /// When what takes longer was checked last.
    pub(super) checked: Option<Instant>,
    /// The one that was started in place of the lab's own.
    pub(super) libvirtd: Option<Child>,
    pub(super) interrupted: Arc<AtomicBool>,
}

/// Starts and ends a daemon on the empty host, and looks at what it holds.
pub(super) fn alone(lab: &Lab) -> Result<Alone> {
    let daemon = lab.start_daemon("d", AUTO)?;
    let (held, threads, rss_kib) = wait_for("the daemon to be settled", PATIENCE, || {
        let status = api::get(&daemon.socket(), "/api/v1/status")?;
        ensure!(status["libvirt"]["connected"] == true && status["health"]["ok"] == true, "{status}");
        ensure!(status["cycle"]["number"].as_u64() >= Some(3), "it has only begun: {status}");
        let held = Held::by(daemon.process_id())?;
        ensure!(held.links.is_empty(), "{held:?}");
        let status = |name| process::status(daemon.process_id(), name);
        Ok((held, status("Threads")?, status("VmRSS")?))
    })
    .with_context(|| daemon.log())?;
    ensure!(daemon.stop()?.success(), "kvmpilotd did not end well on an empty host");
    Ok(Alone { held, threads, rss_kib, files: state_files(lab)?.into_keys().collect() })
}

/// Files of the daemon's state directory, with their sizes.
pub(super) fn state_files(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(lab.state_dir().join("d/state"))? {
        let entry = entry?;
        // A file may go while it is looked at.
        let Ok(metadata) = entry.metadata() else { continue };
        files.insert(entry.file_name().to_string_lossy().into_owned(), metadata.len());
    }
    Ok(files)
}

impl Soak<'_> {
    /// Lets things happen for so long, and checks all along; then puts everything back to how it was.
    pub(super) fn run(&mut self, length: Duration) -> Result<()> {
        self.begin_life(AUTO)?;
        self.move_load();
        let began = Instant::now();
        let restarts = if length < LONG { length } else { length.mul_f64(RESTARTS) };
        // A short soak has to hurry to see everything.
        let most_pause_ms = u64::try_from((length / 60).as_millis())?.clamp(2_000, 15_000);
        let (mut deck, mut failures) = (Deck::default(), 0);
        while began.elapsed() < length && !self.interrupted() {
            let event = deck.draw(&mut self.rng, began.elapsed() < restarts);
            self.books.current = event.name();
            self.follow_guests()?;
            match self.happen(event) {
                Ok(Some(what)) => {
                    failures = 0;
                    self.books.happened(event);
                    self.diary.note(&format!("{}: {what}", event.name()));
                }
                Ok(None) => self.books.skipped(event),
                Err(error) if error.is::<Broken>() || self.interrupted() => return Err(error),
                Err(error) => {
                    failures += 1;
                    self.books.failed(event);
                    self.diary.note(&format!("{} could not be done: {error:#}", event.name()));
                    ensure!(failures < FAILURES, "{failures} events in a row could not be done: {error:#}");
                }
            }
            self.check(false)?;
            let pause = Duration::from_millis(self.rng.u64(1_000..=most_pause_ms));
            self.rest(pause.min(length.saturating_sub(began.elapsed())))?;
        }
        Ok(())
    }

    /// Waits, and checks meanwhile.
    pub(super) fn rest(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.interrupted() {
            thread::sleep(Duration::from_secs(1).min(end.saturating_duration_since(Instant::now())));
            self.check(false)?;
        }
        Ok(())
    }

    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Waits, and checks the daemon alone: nobody else can be asked.
    pub(super) fn rest_without_guests(&mut self, time: Duration) -> Result<()> {
        let checked = self.checked.replace(Instant::now() + time);
        let rested = self.rest(time);
        self.checked = checked;
        rested
    }

    /// Closes the books: what was broken, if something was. An interruption excuses what it disturbed.
    pub(super) fn ended(&mut self, outcome: Result<()>) -> Option<String> {
        if let (Err(error), true) = (&outcome, self.interrupted()) {
            self.diary.note(&format!("interrupted during {}: {error:#}", self.books.current));
            let ended = self.end_life().and_then(|_| self.nothing_is_left());
            return ended.err().map(|error| format!("at the end: {error:#}"));
        }
        let error = outcome.err()?;
        let broken = format!(
            "during {}, {:.0} s after the start: {error:#}",
            self.books.current,
            self.diary.elapsed().as_secs_f64()
        );
        self.diary.note(&format!("BROKEN {broken}"));
        // What it was like is worth as much as that it broke.
        if let Some(life) = self.life.take() {
            self.books.lives.push(super::summary::LifeSummary::new(&life, "broken"));
            self.books.add_orders(&life.status["orders"]["since_start"]);
        }
        Some(broken)
    }

    /// The last act: nothing may be left of anything.
    pub(super) fn finish(&mut self) -> Result<()> {
        "the end".clone_into(&mut self.books.current);
        if !self.interrupted() {
            self.empty_host()?;
            self.everybody_back()?;
            self.audit()?;
        }
        let whom = self.well();
        let what = self.end_life()?;
        self.values_are_back(&whom)?;
        self.diary.note(&format!("{what}; the values of {} guests are what they were", whom.len()));
        self.nothing_is_left()
    }

    /// All guests go: the daemon, at the end of a long life, holds no more than one that has never seen any.
    fn empty_host(&mut self) -> Result<()> {
        self.load.move_to(None);
        for guest in &self.guests {
            if guest.power != Power::Off {
                self.lab.virsh(&["destroy", guest.name()])?;
            }
        }
        let (pid, alone) = (self.pid()?, &self.alone);
        let (held, threads) = wait_for("the daemon to forget all guests", PATIENCE, || {
            let (held, threads) = (Held::by(pid)?, process::status(pid, "Threads")?);
            ensure!(held.links.is_empty(), "leak: of guests that are gone it holds {:?}", held.links);
            for kind in [Kind::Program, Kind::Map, Kind::Link] {
                let (now, then) = (held.of_kind(kind), alone.held.of_kind(kind));
                ensure!(now == then, "leak: {now} objects of kind {kind:?}, {then} before the first guest");
            }
            let (now, then) = (held.descriptors, alone.held.descriptors);
            let slack = usize::try_from(SLACK + CONNECTIONS)?;
            ensure!(now <= then + slack, "leak: {now} descriptors, {then} before the first guest");
            let then = alone.threads;
            let most = then + WORKERS + BLOCKING;
            ensure!(
                threads <= most,
                "leak: {threads} threads, {then} before the first guest, {most} at most"
            );
            Ok((held, threads))
        })
        .context(Broken)?;
        self.diary.note(&format!(
            "all guests are gone: {} descriptors, {threads} threads, {} KiB; before the first guest {}, {} and {}",
            held.descriptors,
            process::status(pid, "VmRSS")?,
            self.alone.held.descriptors,
            self.alone.threads,
            self.alone.rss_kib
        ));
        Ok(())
    }

    /// All guests come back and get something to do, so that there is something to put back.
    fn everybody_back(&mut self) -> Result<()> {
        let newest = self.newest_order();
        for guest in &mut self.guests {
            self.lab.virsh(&["start", guest.name()])?;
            guest.begin_life(newest);
            guest.power = Power::On;
        }
        for guest in self.guests.iter().filter(|guest| guest.spec.agent) {
            self.lab.wait_agent(guest.name(), BOOT)?;
        }
        self.move_load();
        let in_force = wait_for("an order in force", PATIENCE, || {
            let count = self.orders_in_force(&self.well())?.len();
            ensure!(count > 0, "none yet");
            Ok(count)
        });
        self.diary.note(&match in_force {
            Ok(count) => format!("all guests are back; {count} orders are in force"),
            Err(_) => "all guests are back; no order is in force".to_owned(),
        });
        self.check(true)
    }

    /// After the last life: neither on the machine, nor in the guests' stored configuration, nor in the state directory.
    fn nothing_is_left(&mut self) -> Result<()> {
        let left = wait_for("the eBPF objects to go", PATIENCE, || {
            let now = bpf::all()?;
            let ours = |object: &&Object| object.name().is_ok_and(|name| self.names.contains(&name));
            let left: Vec<&Object> = now.difference(&self.objects).filter(ours).collect();
            ensure!(left.is_empty(), "left behind: {left:?}, which are called as the daemon's are");
            Ok(())
        });
        left.context(Broken)?;
        for (name, stored) in &self.stored {
            let now = self.lab.virsh(&["dumpxml", "--inactive", name])?;
            if now != *stored {
                return Err(anyhow::anyhow!(
                    "the stored configuration of {name} is\n{now}\nand was\n{stored}"
                ))
                .context(Broken);
            }
        }
        let files: BTreeSet<String> = state_files(self.lab)?.into_keys().collect();
        let more: Vec<&String> = files.difference(&self.alone.files).collect();
        if !more.is_empty() {
            return Err(anyhow::anyhow!("left behind in the state directory: {more:?}")).context(Broken);
        }
        Ok(())
    }

    /// Takes note of guests that went off by themselves. While it boots, QEMU's emulation has been seen to reset one; later,
    /// no guest may be lost.
    pub(super) fn follow_guests(&mut self) -> Result<()> {
        let newest = self.newest_order();
        for guest in &mut self.guests {
            let state = self.lab.virsh(&["domstate", guest.name()])?;
            if guest.power == Power::Off || state.trim() != "shut off" {
                continue;
            }
            let name = guest.name().to_owned();
            if guest.started.elapsed() > BOOTING {
                return Err(anyhow::anyhow!("the guest {name} ended by itself")).context(Broken);
            }
            self.diary.note(&format!("{name} did not boot, and is started again"));
            self.books.lost += 1;
            self.lab.virsh(&["start", &name])?;
            guest.begin_life(newest);
        }
        Ok(())
    }

    pub(super) fn pid(&self) -> Result<u32> {
        Ok(self.life()?.daemon.process_id())
    }

    pub(super) fn life(&self) -> Result<&Life<'_>> {
        match &self.life {
            Some(life) => Ok(life),
            None => bail!("the daemon is down"),
        }
    }

    /// One of the guests that may be meddled with and that are like this.
    pub(super) fn pick(&mut self, wanted: impl Fn(&Guest) -> bool) -> Option<usize> {
        let fit = |(_, guest): &(usize, &Guest)| !guest.is_kept() && wanted(guest);
        let fit: Vec<usize> = self.guests.iter().enumerate().filter(fit).map(|(at, _)| at).collect();
        self.rng.choice(fit)
    }
}

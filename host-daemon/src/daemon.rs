//! THE loop: the only file that names every stage. Values go one way, sense -> model -> decide -> orders -> act; an
//! outcome comes back as history only. One task owns all state; whatever may block runs elsewhere and reports here.

mod ask;
mod comings;
mod command;
pub mod insides;
mod laps;
mod on_demand;
mod overhead;
mod pulse;
mod recording;
mod services;
mod start;
mod undoing;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::decide::{Decision, History, Overhead, Shed, Verdict, often};
use kvmpilot_core::finding::Finding;
use kvmpilot_core::model::{DomainModel, Model, is_bad_news};
use kvmpilot_core::order::Proposal;
use kvmpilot_core::policy::{Actuator, Mode, Policy, Subject};
use kvmpilot_core::sample::{DomainState, Sample};
use kvmpilot_core::windows::{Moment, Windows};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use insides::{FlowReadings, Insides, Readings};
use laps::Laps;
use pulse::Pulse;
use recording::Recordings;
use start::Signals;
pub use start::{DaemonError, Options, chain, run};
pub(crate) use start::{connect, try_tiers};
use undoing::Undoing;
use work::Done;

use crate::act::Executor;
use crate::api::present::{self, LastWishes, Scene};
use crate::api::views::{CheckView, DoctorView, TierView, Views};
use crate::api::{Ask, CommandRequest, RecordingRequest, WatchRequest};
use crate::clock::unix_ms;
use crate::config::Config;
use crate::doctor;
use crate::hook::Hook;
use crate::kernel::Kernel;
use crate::libvirt::Libvirt;
use crate::orders::OrderBook;
use crate::otlp::Otlp;
use crate::sense::{
    BalloonReport, Cadence, FlowState, Flows, GuestState, Guests, HostSense, Inventory, Sign, WatchedFiles,
};
use crate::store::Store;
use crate::watch::Desk;

/// Rounds in which an open order is not wanted before it expires.
const PATIENCE: u32 = 3;
/// Least time between two turns, however bad the news.
const LEAST_TURN: Duration = Duration::from_millis(200);

/// The daemon's state. One task owns it.
struct Daemon {
    config: Config,
    config_path: Option<PathBuf>,
    config_problem: Option<String>,
    rules_problem: Option<String>,
    began: Instant,
    libvirt: Libvirt,
    hook: Hook,
    inventory: Inventory,
    guests: Guests,
    files: WatchedFiles,
    host: HostSense,
    /// Absent where they are switched off or refused.
    flows: Option<Flows>,
    kernel: Kernel,
    host_name: String,
    kernel_release: String,
    addresses: Vec<String>,
    tiers: Vec<TierView>,
    checks: Vec<CheckView>,
    store: Store,
    /// What is known is a spare database's.
    on_spare: bool,
    pulse: Pulse,
    executor: Arc<Executor>,
    /// Watches on demand; the host's budget has a say through [`Desk::set_allowed`].
    desk: Desk,
    book: OrderBook,
    history: History,
    windows: Windows,
    overhead: Overhead,
    /// Domains whose balloons matter, as of the last tick.
    often: BTreeSet<Uuid>,
    work: JoinSet<Done>,
    /// Domains that are being changed.
    busy: BTreeSet<Uuid>,
    /// When we last changed a domain.
    changed: BTreeMap<Uuid, Instant>,
    /// Domains with values that could not be put back yet, and when that is tried next.
    leftovers: BTreeMap<Uuid, Instant>,
    /// When we last changed levels inside its guest.
    levelled: BTreeMap<Uuid, Instant>,
    undoing: Undoing,
    /// What the last daemon left has been put back.
    recovered: bool,
    /// Nothing is changed, because a person asked for a restore.
    paused: bool,
    restoring: bool,
    /// Who waits for a restore that begins as soon as nothing is under way.
    restore_replies: Vec<command::Reply>,
    /// Who waits for the outcome of an order.
    waiting: BTreeMap<u64, command::Reply>,
    latest: Model,
    findings: BTreeMap<&'static str, Vec<Finding>>,
    /// What each pace wanted last.
    wishes: BTreeMap<&'static str, LastWishes>,
    unread: Vec<String>,
    /// What would be done, for `--once`.
    wanted: Option<Vec<Proposal>>,
    turned_at: Instant,
    /// When the next turn is due before its time, because a domain has come or gone.
    early: Option<Instant>,
    cycles: u64,
    last_cycle: Option<(Instant, Duration)>,
    views: watch::Sender<Arc<Views>>,
    recordings: Recordings,
    /// Absent where no collector is configured.
    otlp: Option<Otlp>,
}

impl Daemon {
    /// Runs until told to stop, or for one cycle.
    async fn run(
        &mut self,
        mut commands: mpsc::Receiver<CommandRequest>,
        mut watches: mpsc::Receiver<WatchRequest>,
        mut recordings: mpsc::Receiver<RecordingRequest>,
        mut asks: mpsc::Receiver<Ask>,
        mut signals: Signals,
    ) {
        let mut fast = interval(self.config.policy.periods.fast);
        fast.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let comings = Arc::clone(&self.inventory.comings);
        loop {
            let early = self.early;
            tokio::select! {
                () = comings.notified() => self.early = Some(self.turned_at + LEAST_TURN),
                () = sleep_until(early.unwrap_or_else(Instant::now)), if early.is_some() => self.turn(),
                _ = fast.tick() => {
                    self.turn();
                    if self.pulse.silence().is_none() {
                        start::notify_alive();
                    }
                    if self.wanted.is_some() && self.cycles > 0 {
                        return;
                    }
                }
                // A guest that runs out of memory does not wait for the next turn.
                Some(BalloonReport { before, now }) = self.inventory.reports.recv() => {
                    if is_bad_news(&before, &now) && self.turned_at.elapsed() >= LEAST_TURN {
                        self.turn();
                    }
                }
                Some(request) = commands.recv() => self.command(request),
                Some(request) = watches.recv() => self.watch(request),
                Some(request) = recordings.recv() => self.start_recording(request),
                Some(ask) = asks.recv() => self.ask(ask),
                Some(done) = self.work.join_next() => self.done(done),
                _ = signals.reload.recv() => {
                    self.reload();
                    fast = interval(self.config.policy.periods.fast);
                    fast.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
            }
        }
    }

    /// One turn of the fast loop, and of the slower ones when they are due.
    fn turn(&mut self) {
        let mut laps = Laps::of("turn");
        self.turned_at = Instant::now();
        self.early = None;
        self.inventory.watch_balloons(self.history.lean().collect(), self.often.clone());
        let inventory = self.inventory.snapshot();
        let plan =
            self.windows.plan(self.began.elapsed(), &self.config.policy, self.overhead.is_shed(Shed::Detail));
        // While a domain is being changed nobody knows which of its values is the old and which the new one.
        let changed_at = |uuid| {
            let busy = self.restoring || self.busy.contains(&uuid);
            if busy { Some(Instant::now()) } else { self.changed.get(&uuid).copied() }
        };
        let flows = self.flows.as_ref().map(Flows::programs).unwrap_or_default();
        self.host.note_programs(flows.into_iter().chain(self.desk.programs()).collect());
        let cadence = Cadence::of(plan.detail);
        let (sample, unread) = block_in_place(|| self.host.sample(&inventory, changed_at, cadence));
        laps.lap("sample");
        for (domain, sign) in self.host.signs() {
            tracing::debug!(%domain, ?sign, "it may not be as libvirt told");
            self.inventory.suspect(domain, sign == Sign::Stopped);
        }
        self.unread = unread;
        self.unread.extend(inventory.values().flat_map(|entry| &entry.trouble).cloned());
        self.changed.retain(|uuid, _| inventory.contains_key(uuid));
        self.levelled.retain(|uuid, _| inventory.contains_key(uuid));
        self.poll_guests(&sample);
        self.look_at_files(&sample);
        if let Some(flows) = &self.flows {
            flows.follow(&sample);
            self.unread.extend(flows.trouble());
        }
        self.follow_store();
        self.recover();
        self.find_leftovers(&sample);
        self.put_back_leftovers(&sample);
        laps.lap("guests");
        let sample = Arc::new(sample);
        let moment = Moment { now: self.began.elapsed(), wall_unix_s: unix_ms() / 1000 };
        // What is recorded and what is decided on must be the same polls.
        let asked = plan.due.tick || plan.due.cycle || self.recordings.wanted();
        let insides = if asked { self.insides() } else { Insides::default() };
        self.recordings.add(&sample, moment, plan.due, &insides);
        let policy = &self.config.policy;
        let started = Instant::now();
        let decided =
            self.windows.decide(&sample, plan.due, moment, policy, &mut self.history, |model, to_decide| {
                insides.add(model, policy, to_decide)
            });
        let took = started.elapsed();
        laps.lap("decide");

        // All paces first, then one admission: what one of them starts must not cost another one its turn.
        let mut wanted = Vec::new();
        let mut publish = false;
        if let Some((model, decision)) = decided.release {
            wanted.extend(decision.proposals);
            publish |= self.show_comings(model);
        }
        wanted.extend(self.take_arrivals(decided.arrival.map(|(_, decision)| decision)));
        if let Some((model, decision)) = decided.tick {
            self.latest = model;
            self.often = often(&self.latest, &self.config.policy, &self.history);
            publish = true;
            wanted.extend(self.take(decision, "tick"));
            self.keep_to_budget();
        }
        if let Some((model, decision)) = decided.cycle {
            self.cycles += 1;
            self.record(&model, &decision);
            wanted.extend(self.take(decision, "cycle"));
            self.keep_learned();
            self.follow_up(&model);
            self.expire(&model);
            self.last_cycle = Some((Instant::now(), took));
        }
        self.follow(wanted);
        laps.lap("orders");
        if publish {
            self.publish();
            laps.lap("publish");
        }
    }

    /// Keeps a decision's findings and returns what it wants.
    fn take(&mut self, decision: Decision, pace: &'static str) -> Vec<Proposal> {
        for (proposal, why) in &decision.held {
            tracing::info!(domain = proposal.domain_name, change = %proposal.action, why, "held back");
        }
        for verdict in &decision.verdicts {
            let Verdict { orders, trial, .. } = verdict;
            tracing::info!(?orders, kept = trial.kept, verdict = trial.verdict, "the trial is over");
            self.crash_point("judge");
            self.book.judge(verdict, unix_ms());
        }
        self.note_transitions(decision.transitions);
        self.findings.insert(pace, decision.findings);
        let wishes = LastWishes { wanted: decision.proposals.clone(), held: decision.held };
        self.wishes.insert(pace, wishes);
        decision.proposals
    }

    /// Turns proposals into orders, and those that may go ahead into work.
    fn follow(&mut self, mut proposals: Vec<Proposal>) {
        if let Some(wanted) = &mut self.wanted {
            wanted.extend(proposals);
            return;
        }
        proposals.extend(self.undoing.take(Instant::now(), |domain| life_of(&self.latest, domain)));
        // A domain that is being changed is decided on again when its new values have been read.
        let may_change = self.may_change();
        let rests =
            |uuid: Uuid| !may_change || self.busy.contains(&uuid) || self.leftovers.contains_key(&uuid);
        // Decisions about held domains were held back already; an undo may have waited since.
        let held = |undo: &Proposal| {
            let of = |domain: &&DomainModel| domain.uuid == undo.domain;
            !undo.undoes.is_empty()
                && self.latest.domains.iter().find(of).is_some_and(|of| of.hold(true).is_some())
        };
        let (mut left, proposals): (Vec<_>, Vec<_>) =
            proposals.into_iter().partition(|proposal| rests(proposal.domain) || held(proposal));
        if !proposals.is_empty() {
            let undos: Vec<Proposal> =
                proposals.iter().filter(|one| !one.undoes.is_empty()).cloned().collect();
            let now = self.began.elapsed();
            let mode = mode_of(&self.config.policy, &self.latest, &self.history);
            let orders = self.book.admit(proposals, mode, now, unix_ms()).unwrap_or_else(|error| {
                tracing::error!(%error, "nothing is changed, because orders cannot be written down");
                Vec::new()
            });
            let is_left = |undo: &Proposal| orders.iter().all(|order| order.proposal.undoes != undo.undoes);
            left.extend(undos.into_iter().filter(is_left));
            self.start_work(orders);
        }
        for undo in left.into_iter().filter(|proposal| !proposal.undoes.is_empty()) {
            let life = life_of(&self.latest, undo.domain);
            self.undoing.keep(undo, life, Instant::now());
        }
    }

    fn may_change(&self) -> bool {
        self.recovered
            && !self.paused
            && !self.restoring
            && self.libvirt.status().is_up()
            && self.store_trouble().is_none()
    }

    /// What the agents and the flow probes told, and what has become stale of it.
    fn insides(&self) -> Insides {
        let readings = self
            .guests
            .snapshot()
            .into_iter()
            .map(|(uuid, state)| (uuid, Readings { previous: state.previous, latest: state.latest }));
        let levelled = self.levelled.iter().map(|(uuid, at)| (*uuid, at.duration_since(self.began)));
        let flows = self.flows.as_ref().map(Flows::snapshot).unwrap_or_default().into_iter();
        let flows = flows.map(|(uuid, FlowState { previous, latest })| {
            (uuid, FlowReadings { previous, latest: Some(latest) })
        });
        Insides {
            readings: readings.collect(),
            flows: flows.collect(),
            files: self.files.snapshot(),
            levelled: levelled.collect(),
            // A restore changes any of them, at a time that only it knows.
            busy: if self.restoring {
                self.inventory.snapshot().into_keys().collect()
            } else {
                self.busy.clone()
            },
        }
    }

    fn poll_guests(&self, sample: &Sample) {
        let agent = &self.config.daemon.agent;
        let present: Vec<(Uuid, Option<u64>)> = sample
            .domains
            .iter()
            .filter(|domain| domain.state == DomainState::Running && domain.agent_connected == Some(true))
            // An agent has its own opinion of jobs: guest-exec during a backup's freeze would hang (virtnbdbackup#59).
            .filter(|domain| !domain.job_active && domain.quarantine.is_none())
            .filter(|domain| agent.refusal(&domain.name, domain.os.as_deref()).is_none())
            .map(|domain| {
                let cpu_ns = domain.threads.iter().map(|thread| thread.on_cpu_ns).sum();
                (domain.uuid, (!domain.threads.is_empty()).then_some(cpu_ns))
            })
            .collect();
        let known = |uuid| sample.domains.iter().any(|domain| domain.uuid == uuid);
        self.guests.poll(&present, known, self.config.policy.periods.guest);
    }

    /// What people or orchestrators were to do, and have done.
    fn follow_up(&mut self, model: &Model) {
        if let Err(error) = self.book.follow_up(model, unix_ms()) {
            tracing::error!(%error, "cannot write down what came of advice");
        }
    }

    fn expire(&mut self, model: &Model) {
        let policy = &self.config.policy;
        let patience = |actuator| match actuator {
            Actuator::Weight | Actuator::Balloon => policy.weight.period * PATIENCE,
            Actuator::Ladder | Actuator::Placement => policy.periods.cycle * PATIENCE,
            // People take their time.
            Actuator::Resize => (policy.periods.cycle * PATIENCE).max(Duration::from_secs(24 * 3600)),
        };
        let running = |uuid| {
            model.domains.iter().any(|domain| domain.uuid == uuid && domain.state == DomainState::Running)
        };
        let now = self.began.elapsed();
        if let Err(error) = self.book.expire(running, patience, now, unix_ms()) {
            tracing::error!(%error, "open orders cannot be closed");
        }
    }

    fn record(&self, model: &Model, decision: &Decision) {
        let record =
            present::record(model, &decision.findings, &self.config.policy, &self.history, unix_ms());
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.record(record) {
                tracing::error!(%error, "the history of this cycle is lost");
            }
        });
    }

    fn check_up(&self, guests: &BTreeMap<Uuid, GuestState>, tiers: &[TierView]) -> Vec<CheckView> {
        let mut checks = doctor::tiers(tiers);
        checks.extend_from_slice(&self.checks);
        checks.push(doctor::libvirt(&self.libvirt.status()));
        checks.extend(doctor::hook(&self.config.daemon.libvirt_uri, Some(&self.hook.report())));
        let entries = self.inventory.snapshot();
        checks.extend(entries.values().filter_map(|entry| doctor::domain(&entry.name, &entry.trouble)));
        checks.extend(doctor::guests(&self.latest, guests));
        checks
    }

    fn publish(&self) {
        self.views.send_replace(Arc::new(self.with_scene(present::views)));
    }

    /// Shows everything that is known now to `show`.
    fn with_scene<T>(&self, show: impl FnOnce(&Scene<'_>) -> T) -> T {
        let guests = self.guests.snapshot();
        let mut tiers = self.tiers.clone();
        if let (Some(flows), Some(tier)) = (&self.flows, tiers.iter_mut().find(|tier| tier.tier == 3)) {
            (tier.on, tier.reason) = flows.report();
        }
        let scene = Scene {
            policy: &self.config.policy,
            daemon: &self.config.daemon,
            host_name: &self.host_name,
            kernel_release: &self.kernel_release,
            addresses: &self.addresses,
            model: &self.latest,
            history: &self.history,
            guests: &guests,
            now: self.began.elapsed(),
            libvirt: self.libvirt.status(),
            tiers: &tiers,
            paused: self.paused,
            recovered: self.recovered,
            store_trouble: self.store_trouble(),
            problems: self.config_problem.iter().chain(&self.rules_problem).cloned().collect(),
            unread: &self.unread,
            findings: self.findings.values().flatten().cloned().collect(),
            cycles: self.cycles,
            last_cycle: self.last_cycle.map(|(at, took)| (at.elapsed(), took)),
            own_use: self.kernel.own_use().ok(),
            overhead: &self.overhead,
            ledger_entries: self.executor.ledger().len(),
            orders: self.store.order_counts().ok(),
            order_moves: self.store.order_moves(),
            otlp: self.otlp.as_ref().map(Otlp::report),
            doctor: DoctorView { checks: self.check_up(&guests, &tiers) },
        };
        show(&scene)
    }
}

/// Names the life of a domain, as of the last tick.
fn life_of(latest: &Model, domain: Uuid) -> Option<String> {
    latest.domains.iter().find(|other| other.uuid == domain)?.incarnation.clone()
}

/// How far a proposal may go: what counts for its domain, whose own XML has a say; and no farther than beside those who change
/// the same values.
fn mode_of<'a>(
    policy: &'a Policy,
    model: &'a Model,
    history: &'a History,
) -> impl Fn(&Proposal) -> Mode + use<'a> {
    move |proposal| {
        let known = model.domains.iter().find(|domain| domain.uuid == proposal.domain);
        let subject = known.map_or_else(|| Subject::from(proposal.domain_name.as_str()), Subject::from);
        let actuator = proposal.action.actuator();
        policy.of(subject).mode(actuator).value.min(history.most(actuator, policy))
    }
}

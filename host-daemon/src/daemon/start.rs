//! Start and stop: opens the gateways, recovers, runs the loop, and puts everything back at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::decide::Overhead;
use kvmpilot_core::ledger::RestoreOutcome;
use kvmpilot_core::model::Model;
use kvmpilot_core::order::Proposal;
use kvmpilot_core::policy::{Actuator, Mode};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, timeout};

use super::Daemon;
use super::pulse::Pulse;
use super::recording::Recordings;
use super::undoing::Undoing;
use crate::act::{Executor, Ledger};
use crate::api::views::{TierView, Views};
use crate::api::{self, ApiContext};
use crate::clock::unix_ms;
use crate::config::{self, Config, ProbesConfig};
use crate::doctor;
use crate::guest_channel::GuestChannel;
use crate::hook::Hook;
use crate::kernel::Kernel;
use crate::libvirt::{self, Libvirt};
use crate::orders::OrderBook;
use crate::otlp::Otlp;
use crate::probes::flows::{FlowOptions, FlowProbes, Hook as Attach};
use crate::probes::{Capacity, Ground, Probes};
use crate::sense::{Flows, Guests, HostSense, Inventory, WatchedFiles};
use crate::store::{Store, StoreError};
use crate::watch::Desk;
use kvmpilot_core::windows::Windows;

/// Time that orders under way get to end when the daemon stops.
const FINISH: Duration = Duration::from_secs(10);
/// Time that everything gets to go back when the daemon stops.
const RESTORE: Duration = Duration::from_secs(20);
/// Time for one libvirt call. None is made in the fast loop, so this only bounds how long a hung domain goes unnoticed; on
/// a host whose pcpus are all taken by guests, libvirtd itself has been seen to take more than 1 s.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest cycle of `--once`.
/// (classes are inferred over three ticks of 5 s).
const ONCE_CYCLE: Duration = Duration::from_secs(20);

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file that was asked for, for reloads.
    pub config_path: Option<PathBuf>,
    /// Look for one cycle, say what would be done, change nothing, end.
    pub once: bool,
}

/// Why the daemon could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API's socket.
    #[error(transparent)]
    Api(#[from] api::ApiError),
    /// Signals.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// Values were not put back.
    #[error(
        "{0} changed values could not be put back; they stay in the ledger, and `kvmpilot restore` tries again"
    )]
    NotRestored(usize),
}

/// The signals that the daemon knows.
pub(super) struct Signals {
    pub(super) reload: Signal,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Puts the rule files in force. With a bad one, the shipped rules are, and the problem is returned.
fn load_rules(config: &mut Config, options: &Options) -> Option<String> {
    let directory = config.rules_directory(options.config_path.as_deref());
    match config::load_rules(&directory) {
        Ok(rules) => {
            config.policy.rules = rules;
            None
        }
        Err(error) => {
            tracing::error!(%error, "the rules are bad; the shipped ones are in force");
            Some(format!("the rules are bad, only the shipped ones are in force: {error}"))
        }
    }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start, or when not everything could be put back at the end.
pub async fn run(mut config: Config, options: Options) -> Result<(), DaemonError> {
    let began = Instant::now();
    // First of all: a SIGHUP that comes before there is a handler would end us.
    let signals = Signals::new().map_err(DaemonError::Signals)?;
    let rules_problem = load_rules(&mut config, &options);
    if options.once {
        // No domain's own metadata may ask for more either.
        config.policy.mode = Mode::Observe;
        config.policy.actuator_modes = Actuator::ALL.map(|actuator| (actuator, Mode::Observe)).to_vec();
        config.policy.periods.cycle = config.policy.periods.cycle.min(ONCE_CYCLE);
    }
    let store = Store::open_or_spare(&config.daemon.state_directory, config.daemon.store)?;
    if let Some(trouble) = store.trouble() {
        tracing::error!(trouble, "nothing is changed on any domain until this is mended; looking goes on");
    }
    let kernel = Kernel::default();
    // Some are kept open for each QEMU. With fewer, files are opened anew each time.
    if let Err(error) = Kernel::raise_file_limit() {
        tracing::info!(%error, "the limit of open files stays as it is");
    }
    let (probes, mut tiers) = load_probes(&kernel, &config);
    let (desk, on_demand) = open_desk(&kernel, &config);
    tiers.push(on_demand);
    let (flows, tier) = start_flows(&kernel, &config, began);
    tiers.push(tier);
    let libvirt = connect(&config);
    // Whoever only looks must not take the hook from a daemon that stays.
    let (hook, calls) = Hook::start(config.daemon.hook_socket.as_deref().filter(|_| !options.once));
    let channel = GuestChannel::new(libvirt.clone(), &config.daemon.agent);
    let executor =
        Executor::new(libvirt.clone(), channel.clone(), kernel.clone(), Ledger::load(store.clone())?);
    let (views, shown) = watch::channel(Arc::new(Views::default()));
    let (commands, requests) = mpsc::channel(16);
    let (watches, asked) = mpsc::channel(16);
    let (recorders, recordings) = mpsc::channel(4);
    let (asks, questions) = mpsc::channel(16);
    let store_too = store.clone();
    let context = ApiContext { views: shown.clone(), commands, watches, recorders, asks, store: store_too };
    let listen = api::Listen::new(&config.daemon.socket, &config.daemon.socket_group)
        .with_reader(config.daemon.read_socket.clone())
        .with_tcp(config.daemon.tcp.clone());
    let mut daemon = Daemon {
        config_path: options.config_path,
        config_problem: None,
        rules_problem,
        began,
        hook,
        inventory: Inventory::start(
            libvirt.clone(),
            config.policy.weight.period,
            config.policy.periods.cycle,
            calls,
        ),
        files: WatchedFiles::new(channel.clone(), began),
        guests: Guests::new(channel, began),
        host: HostSense::new(kernel.clone(), probes),
        flows,
        host_name: kernel.host_name().unwrap_or_default(),
        kernel_release: kernel.release().unwrap_or_default(),
        addresses: kernel.addresses(),
        checks: doctor::host(&kernel),
        kernel,
        tiers,
        book: OrderBook::open(store.clone(), unix_ms())?,
        on_spare: store.is_spare(),
        pulse: Pulse::start(store.clone()),
        store: store.clone(),
        executor: Arc::new(executor),
        desk,
        history: super::services::learned(&store),
        windows: Windows::default(),
        overhead: Overhead::default(),
        often: BTreeSet::new(),
        work: JoinSet::new(),
        busy: BTreeSet::new(),
        changed: BTreeMap::new(),
        leftovers: BTreeMap::new(),
        levelled: BTreeMap::new(),
        undoing: Undoing::default(),
        recovered: false,
        paused: false,
        restoring: false,
        restore_replies: Vec::new(),
        waiting: BTreeMap::new(),
        latest: Model::default(),
        findings: BTreeMap::new(),
        wishes: BTreeMap::new(),
        unread: Vec::new(),
        wanted: options.once.then(Vec::new),
        turned_at: began,
        early: None,
        cycles: 0,
        last_cycle: None,
        views,
        recordings: Recordings::default(),
        otlp: Otlp::start(&config.daemon.otlp, shown.clone(), store.clone()),
        libvirt,
        config,
    };
    // Whoever asks gets an answer: there is something to show before there is a socket.
    daemon.publish();
    let server = api::serve(listen, context).await?;
    notify(&[NotifyState::Ready]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), mode = %daemon.config.policy.mode, "kvmpilotd runs");
    daemon.run(requests, asked, recordings, questions, signals).await;
    if let Some(wanted) = daemon.wanted.take() {
        report(&shown.borrow(), &wanted);
    }
    notify(&[NotifyState::Stopping]);
    let stopped = daemon.stop().await;
    drop(server);
    stopped
}

/// Starts to connect to the configured libvirt.
pub(crate) fn connect(config: &Config) -> Libvirt {
    let options = libvirt::Options {
        read_deadline: DEADLINE,
        set_deadline: DEADLINE,
        qemu_monitor: config.daemon.qemu_monitor,
        ..libvirt::Options::default()
    };
    Libvirt::start(&config.daemon.libvirt_uri, options)
}

/// Loads the scheduler probe, and says which tiers deliver and why.
fn load_probes(kernel: &Kernel, config: &Config) -> (Option<Probes>, Vec<TierView>) {
    let tier = |tier, name: &str, on, reason: String| TierView { tier, name: name.to_owned(), on, reason };
    let t0 = tier(0, "kernel files and libvirt", true, "needs no probes".to_owned());
    let loaded = if config.daemon.probes.enabled {
        let own_thread = |tid| {
            let pid = std::process::id();
            let info = kernel.thread(pid, tid)?;
            let stat = kernel.schedstat(pid, tid)?;
            let totals = crate::probes::Totals {
                on_cpu_ns: stat.on_cpu_ns,
                runq_wait_ns: stat.runq_wait_ns,
                arrivals: stat.arrivals,
            };
            Ok((crate::probes::ThreadKey { tid, start_ticks: info.start_ticks }, totals))
        };
        let ground = Ground {
            pid_max: kernel.pid_max().unwrap_or(4 << 20),
            confidential: kernel.lockdown().as_deref() == Some("confidentiality"),
            own_thread: &own_thread,
        };
        let ProbesConfig { max_threads, max_domains, .. } = config.daemon.probes;
        Probes::load(&ground, Capacity { threads: max_threads, domains: max_domains })
            .map_err(|error| chain(&error))
    } else {
        Err("switched off in the configuration ([probes] enabled = false)".to_owned())
    };
    match loaded {
        Ok(mut probes) => {
            if let Some(log) = probes.take_log() {
                tokio::spawn(async move {
                    if let Err(error) = log.await {
                        tracing::warn!(%error, "the probes' messages are not shown any more");
                    }
                });
            }
            let reason = "sched_switch is watched; its self-test agreed with the kernel".to_owned();
            (Some(probes), vec![t0, tier(1, "scheduler probe", true, reason)])
        }
        Err(reason) => {
            tracing::warn!(reason, "the scheduler probe is off; /proc is read instead (tier 0)");
            (None, vec![t0, tier(1, "scheduler probe", false, reason)])
        }
    }
}

/// Starts to watch flows, and says whether and why not.
fn start_flows(kernel: &Kernel, config: &Config, began: Instant) -> (Option<Flows>, TierView) {
    let max_per_domain = config.daemon.flows.max_per_domain;
    let options = FlowOptions {
        max_per_domain,
        confidential: kernel.lockdown().as_deref() == Some("confidentiality"),
        hook: Attach::Unknown,
        without_tracepoints: false,
        without_batches: false,
    };
    let started = if config.daemon.flows.enabled {
        FlowProbes::new(options)
            .map_err(|error| chain(&error))
            .and_then(|probes| Flows::start(probes, max_per_domain, began).map_err(|error| chain(&error)))
    } else {
        Err("switched off in the configuration ([flows] enabled = false)".to_owned())
    };
    let tier = |on, reason| TierView { tier: 3, name: "flow probes".to_owned(), on, reason };
    match started {
        Ok(flows) => {
            let (on, reason) = flows.report();
            (Some(flows), tier(on, reason))
        }
        Err(reason) => {
            tracing::warn!(reason, "the flow probes are off; who communicates is told by the agents alone");
            (None, tier(false, reason))
        }
    }
}

/// What tier 2 needs, tried once, and whether it is on.
fn open_desk(kernel: &Kernel, config: &Config) -> (Desk, TierView) {
    let available = if config.daemon.probes.enabled {
        crate::watch::available(kernel)
    } else {
        Err("switched off in the configuration ([probes] enabled = false)".to_owned())
    };
    let on = available.is_ok();
    let desk = Desk::new(kernel.clone(), available.clone().err());
    let reason = available.unwrap_or_else(|reason| reason);
    (desk, TierView { tier: 2, name: "watches on demand".to_owned(), on, reason })
}

/// Tries all tiers, without a daemon that would use them.
pub(crate) fn try_tiers(kernel: &Kernel, config: &Config) -> Vec<TierView> {
    let (_, mut tiers) = load_probes(kernel, config);
    tiers.push(open_desk(kernel, config).1);
    tiers.push(start_flows(kernel, config, Instant::now()).1);
    tiers
}

/// What `--once` prints.
fn report(views: &Views, wanted: &[Proposal]) {
    for problem in &views.status.health.problems {
        println!("problem: {problem}");
    }
    for finding in &views.status.findings {
        println!("finding: {}", finding.summary);
    }
    for Proposal { domain_name, action, reason, .. } in wanted {
        println!("would change {domain_name}, {action}: {}", reason.summary);
    }
    println!(
        "{} domains run; {} changes would be made; nothing was changed",
        views.status.domains.running,
        wanted.len()
    );
}

/// An error with its sources on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

impl Daemon {
    /// Lets orders under way end and puts everything back.
    async fn stop(mut self) -> Result<(), DaemonError> {
        self.paused = true;
        let finish = async {
            while let Some(done) = self.work.join_next().await {
                self.done(done);
            }
        };
        if timeout(FINISH, finish).await.is_err() {
            tracing::warn!("orders under way did not end in time; the ledger knows what they touched");
            // None of them may take its next step beside what is put back.
            self.work.shutdown().await;
        }
        let mut saved = 0;
        if !self.executor.ledger().is_empty() && self.libvirt.status().is_up() {
            match timeout(RESTORE, self.executor.restore()).await {
                Ok(values) => {
                    let back = values.iter().filter(|value| value.outcome != RestoreOutcome::Failed).count();
                    tracing::info!(back, of = values.len(), "put back");
                    saved = values.iter().filter(|value| value.outcome == RestoreOutcome::Saved).count();
                    for value in values.iter().filter(|value| value.outcome == RestoreOutcome::Failed) {
                        tracing::error!(?value, "not put back");
                    }
                }
                Err(_) => tracing::error!("putting everything back took too long"),
            }
        }
        if let Err(error) = block_in_place(|| self.store.settle()) {
            tracing::error!(%error, "what came of the last orders is not written down");
        }
        match self.executor.ledger().len().saturating_sub(saved) {
            0 => Ok(()),
            left => Err(DaemonError::NotRestored(left)),
        }
    }
}

/// Tells systemd that the loop makes progress.
pub(super) fn notify_alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(states);
}

//! What may be written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvmpilot_core::model;
use kvmpilot_core::order::OrderState;
use kvmpilot_core::policy::{Key, Wishes, key_names};

use super::client::encode;
use super::generate::{GenerateCommand, Shell};
use super::orders::since;
use super::top::TopOptions;
use crate::config::parse_duration;
use crate::watch;

/// Autopilot for libvirt/KVM hosts: asks the daemon kvmpilotd what it sees and does, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "kvmpilot", version)]
pub struct Arguments {
    /// Socket of kvmpilotd [default: /run/kvmpilot/kvmpilot.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How the daemon and its host are
    Status {
        /// Print JSON (docs/schema/status.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// The domains by need, live: what they run, wait and lose to others, and what kvmpilot changed
    ///
    /// Keys sort, filter and look into a domain; `?` explains them. Goes on when the daemon goes away and comes back.
    Top(TopOptions),
    /// All domains: what they are for, what they use, how long they wait
    Domains {
        /// Print JSON (docs/schema/domains.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// One domain: its vcpus, threads, interfaces, balloon, findings
    ///
    /// With --watch it measures for a while instead. That attaches eBPF programs to the host's kernel, in windows of 0.2 s,
    /// for a tenth of the time at most; Ctrl-C ends it.
    Domain {
        /// Name or UUID of the domain
        name: String,
        /// Measure for a while: how long the domain's threads wait for a pcpu, or what its vcpus leave the guest for
        #[arg(long, value_enum, value_name = "WHAT")]
        watch: Option<WatchWhat>,
        /// How long to watch, 1s to 60s [default: 30s]
        #[arg(long = "for", value_name = "TIME", requires = "watch", value_parser = watch_seconds)]
        for_s: Option<u32>,
        /// Print JSON (docs/schema/domain.schema.json, watch.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// What runs inside a domain's guest, and which of it talks to other nodes
    Processes {
        /// Name or UUID of the domain
        name: String,
        /// Print JSON (docs/schema/processes.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// The steal matrix: while whose vcpus waited for a pcpu, who ran there
    ///
    /// A row is a domain that waited, a column is who ran meanwhile. Needs the scheduler probe.
    Steal {
        /// Columns for so many domains, those that took most
        #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..))]
        columns: u8,
        /// Print JSON (docs/schema/steal.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Who talks to whom on a domain's network devices, how much, and whose process of the guest it is
    Flows {
        /// Name or UUID of the domain
        name: String,
        /// Print JSON (docs/schema/flows.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Work orders: list them, decide on them, undo them
    #[command(args_conflicts_with_subcommands = false)]
    Orders {
        #[command(subcommand)]
        command: Option<OrderCommand>,
        #[command(flatten)]
        filter: OrderFilter,
        /// Print JSON (docs/schema/orders.schema.json, order.schema.json, command.schema.json)
        #[arg(long, global = true)]
        json: bool,
    },
    /// Explain a work order: what was seen, which rule, what was done, what came of it
    Why {
        /// Number of the order
        id: u64,
        /// Print JSON (docs/schema/order.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Explain a domain: what counts for it and who said so, what kvmpilot holds, what it would do next or why not
    Explain {
        /// Name or UUID of the domain
        name: String,
        /// Print JSON (docs/schema/explain.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// What a domain's own XML says about kvmpilot: show and change it
    ///
    /// It goes with the domain, also to another host, and comes before what the configuration says; but no mode is more active
    /// than an option of [modes] (other than `default`) or a [[domain]] entry allows.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
        /// Print JSON (docs/schema/policy.schema.json)
        #[arg(long, global = true)]
        json: bool,
    },
    /// Put every value that kvmpilot changed back, and change nothing more until the daemon is reloaded
    ///
    /// Works without the daemon, too.
    Restore {
        /// Configuration file, for finding socket and database [default: /etc/kvmpilot/kvmpilot.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON (docs/schema/command.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Check the installation and say what could be better
    ///
    /// Works without the daemon, too. Exit code 1 if there is a problem.
    Doctor {
        /// Configuration file [default: /etc/kvmpilot/kvmpilot.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON (docs/schema/doctor.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Record what the daemon sees and decides on, for `kvmpilot replay`
    ///
    /// One line of JSON for each second, a few KiB for each domain. The file holds command lines of processes in the
    /// guests, which may contain secrets: it is made readable for its owner only. Ctrl-C ends the recording and keeps it.
    Record {
        /// File to write; one that is there is replaced at the end
        file: PathBuf,
        /// How long, like 30s, 5min or 2h; at most 24h
        #[arg(long = "for", value_name = "TIME", default_value = "1min", value_parser = recording_time)]
        length: Duration,
    },
    /// Decide on a recording again, and print the plan: what would have been proposed, when and why
    ///
    /// Needs no daemon and changes nothing. With the recorded configuration the plan is what the daemon wanted.
    Replay {
        /// File that `kvmpilot record` wrote
        file: PathBuf,
        /// Decide with this configuration instead of the recorded one
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON (docs/schema/replay.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Try a policy, the built-in one or --config's, on a simulated host, and compare with the same host without kvmpilot
    ///
    /// Needs no daemon and touches nothing. Scenarios are in the repository's folder `scenarios`, and in
    /// /usr/share/kvmpilot/scenarios of the packages. Exit code 1 if a bound that the scenario sets is missed.
    Simulate {
        /// The scenario
        file: PathBuf,
        /// Simulate so many hours instead of the scenario's
        #[arg(long, value_name = "N", value_parser = hours)]
        hours: Option<f64>,
        /// Configuration file whose thresholds and limits are tried [default: the built-in ones]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON (docs/schema/simulate.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Rules: when what is wanted. List them, check a file of them, try one against a recording
    Rules {
        #[command(subcommand)]
        command: Option<RulesCommand>,
    },
    /// Services: which of their parts are there, which connections, since when, and why not. All of them, or one in detail
    Services {
        /// Name of one service
        name: Option<String>,
        /// Print JSON (docs/schema/services.schema.json, service.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Write services down: from what runs, or from a blank one
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Tokens of clients that come over TCP (tcp.address in the configuration): make, list, revoke
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Print completions of the command line for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages and completions, for packages
    #[command(hide = true)]
    Generate {
        #[command(subcommand)]
        command: GenerateCommand,
    },
    /// Version of this program and of the API
    Version {
        /// Print JSON (docs/schema/version.schema.json)
        #[arg(long)]
        json: bool,
    },
}

/// A second to a day.
fn recording_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let second = Duration::from_secs(1);
    if (second..=second * 86_400).contains(&time) {
        Ok(time)
    } else {
        Err("1s to 24h are possible".to_owned())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Show what stands in the XML of the running domain and in the stored one
    Show {
        /// Name or UUID of the domain, which need not run
        name: String,
    },
    /// Set settings: in the running domain and in its stored configuration, where it has one
    ///
    /// Keys: class (latency, standard, batch, auto), mode and mode.ladder, mode.weight, mode.placement, mode.balloon,
    /// mode.resize (observe, recommend, auto), protected (names with commas), floor (a size), weight.max_factor, weight.min,
    /// weight.max, pcpus (a CPU list), enforce and suspend_for_change (yes, no).
    Set {
        /// Name or UUID of the domain, which need not run
        name: String,
        /// What to set, like class=latency mode.balloon=observe floor=512MiB
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
    },
    /// Take settings out, also those that are not understood
    Unset {
        /// Name or UUID of the domain, which need not run
        name: String,
        /// What to take out, like mode.balloon
        #[arg(value_name = "KEY", required_unless_present = "all")]
        keys: Vec<String>,
        /// Take out everything that is there
        #[arg(long, conflicts_with = "keys")]
        all: bool,
    },
}

/// `KEY=VALUE` that a domain's own policy can hold.
fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, like class=latency")?;
    let known = Key::named(key)
        .ok_or_else(|| format!("there is no setting {key}; the settings are {}", key_names()))?;
    known.read(&mut Wishes::default(), value)?;
    Ok((key.to_owned(), value.trim().to_owned()))
}

#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Write the configuration of a service that is what runs and talks now between some domains
    ///
    /// Who listens for other nodes is a component, and who of the domains opens connections to another one of them is
    /// connected to it. Read it and take out what does not belong there.
    Learn {
        /// Name of the service
        name: String,
        /// Names or UUIDs of its domains
        #[arg(long, required = true, num_args = 1.., value_name = "DOMAIN")]
        from: Vec<String>,
        /// Write to this file instead of standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write over a file that is there
        #[arg(long, requires = "output")]
        force: bool,
        /// Print JSON (docs/schema/learned.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Print a commented service to fill in
    Template,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it. It is not shown again: the daemon keeps a digest only
    Create {
        /// Its name, for lists and records: letters, digits, ".", "_" and "-"
        name: String,
        /// Good for changes, too
        #[arg(long)]
        may_change: bool,
        /// How long it is good, like 90d; without, until it is revoked
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        valid: Option<Duration>,
        /// Print JSON (docs/schema/new_token.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// List tokens
    List {
        /// Print JSON (docs/schema/tokens.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Make a token no good, at once
    Revoke {
        /// Its name
        name: String,
        /// Print JSON (docs/schema/tokens.schema.json)
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// List the rules in force, and how often they held when they were asked last (the same as no subcommand)
    ///
    /// Works without the daemon, too.
    List {
        /// Configuration file, for finding socket and rule files [default: /etc/kvmpilot/kvmpilot.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON (docs/schema/rules.schema.json)
        #[arg(long)]
        json: bool,
    },
    /// Print the file of the shipped rules, to read and to copy from
    Show,
    /// Check rule files: syntax, names, types. Exit code 1 if there is a mistake
    Check {
        /// Files, later ones over earlier ones
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Decide on a recording with a rule file over the recorded rules, and print what would be different
    Test {
        /// Rule file
        file: PathBuf,
        /// File that `kvmpilot record` wrote
        #[arg(long, value_name = "RECORDING")]
        against: PathBuf,
        /// Print JSON (docs/schema/rules_test.schema.json)
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// List orders, newest first (the same as no subcommand)
    List,
    /// Show orders with everything in them
    Show {
        /// Numbers of the orders
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    /// Carry proposed orders out
    ///
    /// What kvmpilot cannot do alone (more vcpus, more memory, another host) is marked as agreed; it then watches whether it
    /// was done.
    Approve {
        /// Numbers of the orders
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    /// Do not carry proposed orders out; the same is not proposed again for a while
    Reject {
        /// Numbers of the orders
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    /// Undo orders that were carried out
    Rollback {
        /// Numbers of the orders
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    /// Print all orders as lines of JSON, newest first, each with all its states (docs/schema/order.schema.json)
    Export {
        /// Only orders from this time on: 24h, 7d, or 2026-11-25T12:00:00Z
        #[arg(long, value_name = "TIME", value_parser = since, default_value = "1970-01-01T00:00:00Z")]
        since: u64,
    },
}

/// Which orders to list.
#[derive(Clone, Debug, Args)]
pub(super) struct OrderFilter {
    /// Only orders in this state
    #[arg(long, global = true, value_enum)]
    state: Option<State>,
    /// Only orders of the domain of this name or UUID
    #[arg(long, global = true, value_name = "DOMAIN")]
    domain: Option<String>,
    /// At most so many, 1 to 1000
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) limit: Option<u32>,
    /// Only orders with a smaller number, for the next page
    #[arg(long, global = true, value_name = "ID")]
    pub(super) before: Option<u64>,
}

fn hours(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|hours| *hours > 0.0 && *hours <= 744.0)
        .ok_or_else(|| "a number up to 744".to_owned())
}

impl OrderFilter {
    /// As the query of a URL.
    pub(super) fn query(&self) -> String {
        let pairs = [
            ("state", self.state.map(|state| OrderState::from(state).as_str().to_owned())),
            ("domain", self.domain.as_deref().map(encode)),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("before", self.before.map(|before| before.to_string())),
        ];
        let given = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        given.collect::<Vec<_>>().join("&")
    }
}

/// [`model::WatchWhat`] for clap, which core does not know.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum WatchWhat {
    /// From a wake-up, or from being preempted, to the pcpu
    WakeLatency,
    /// Exits from the guest by reason, with the time until it is entered again
    Exits,
}

impl From<WatchWhat> for model::WatchWhat {
    fn from(what: WatchWhat) -> Self {
        match what {
            WatchWhat::WakeLatency => Self::WakeLatency,
            WatchWhat::Exits => Self::Exits,
        }
    }
}

/// `30s`, `1min` or plain seconds.
fn watch_seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix("min") {
        Some(number) => (number, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    let longest = watch::LONGEST.as_secs();
    seconds.filter(|seconds| (watch::SHORTEST.as_secs()..=longest).contains(&u64::from(*seconds))).ok_or_else(
        || format!("write a time from {}s to {longest}s, like \"30s\"", watch::SHORTEST.as_secs()),
    )
}

/// [`OrderState`] for clap, which core does not know.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum State {
    Proposed,
    Approved,
    Applied,
    Verified,
    Kept,
    Rejected,
    Expired,
    Failed,
    RolledBack,
}

impl From<State> for OrderState {
    fn from(state: State) -> Self {
        match state {
            State::Proposed => Self::Proposed,
            State::Approved => Self::Approved,
            State::Applied => Self::Applied,
            State::Verified => Self::Verified,
            State::Kept => Self::Kept,
            State::Rejected => Self::Rejected,
            State::Expired => Self::Expired,
            State::Failed => Self::Failed,
            State::RolledBack => Self::RolledBack,
        }
    }
}

//! The configuration: TOML files in, a validated [`Config`] out, or an error with file, line and caret for everything
//! that is wrong. What the values mean to decisions is `kvmpilot_core::policy`'s; here is how they are written.

mod diagnostic;
mod options;
mod origins;
mod otlp;
mod read;
mod rules;
mod scenario;
mod services;
#[cfg(test)]
mod services_tests;
mod tcp;
mod value;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvmpilot_core::policy::{Policy, matches_pattern};

pub use diagnostic::Diagnostic;
pub use origins::{Origins, Place};
pub use otlp::{Endpoint, OtlpConfig};
pub use rules::{load_rules, read_entries, read_rules};
pub use scenario::{ScenarioError, load_scenario};
pub use tcp::{Access, Plain, TcpConfig};
pub use value::parse_duration;
pub(crate) use value::show_duration;

use crate::store::Limits;
use diagnostic::Source;

/// Where the configuration is unless `--config` says otherwise. Files `conf.d/*.toml` beside it are read after it.
pub const DEFAULT_PATH: &str = "/etc/kvmpilot/kvmpilot.toml";

/// Where daemon and command line meet unless `daemon.socket` or `--socket` say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kvmpilot/kvmpilot.sock";

/// The directory of files with services beside the configuration file: what `kvmpilot service learn` wrote goes there.
const SERVICES: &str = "services.d";

/// The directory of rule files beside the configuration file.
const RULES: &str = "rules.d";

/// Everything that the files say, with defaults for the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// What decisions depend on.
    pub policy: Policy,
    /// What the daemon itself needs to know.
    pub daemon: DaemonConfig,
    /// Where rule files are, if not in [`RULES`] beside the configuration.
    pub rules_directory: Option<PathBuf>,
    /// Where each value was written.
    pub origins: Origins,
}

/// What the daemon itself needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Which libvirt to connect to.
    pub libvirt_uri: String,
    /// Where the database is.
    pub state_directory: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Group whose members may use the socket; if there is no such group, root only.
    pub socket_group: String,
    /// The API's socket for all local users, who may only look; `None` for none.
    pub read_socket: Option<PathBuf>,
    /// Where libvirt's hook tells what happens to guests; `None` for nowhere.
    pub hook_socket: Option<PathBuf>,
    /// The API over TCP.
    pub tcp: TcpConfig,
    /// Least severity that is logged; the environment's `RUST_LOG` overrules it.
    pub log_level: LogLevel,
    /// Guest agents.
    pub agent: AgentConfig,
    /// Scheduler probes.
    pub probes: ProbesConfig,
    /// Flow probes.
    pub flows: FlowsConfig,
    /// Whether QEMU's monitor may be asked for the guests' signs of want; libvirt taints such domains.
    pub qemu_monitor: bool,
    /// How much history is kept.
    pub store: Limits,
    /// What is pushed to a collector.
    pub otlp: OtlpConfig,
}

/// Least severity that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What does not work.
    Error,
    /// And what works worse than it should.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And each step.
    Trace,
}

impl LogLevel {
    /// The level's name, as configured and as `tracing` filters understand it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How guest agents are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Whether at all. Without, guests are seen from the outside only.
    pub enabled: bool,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Most output that is taken from one command in a guest.
    pub max_output_bytes: u64,
    /// Domains whose agent is never asked: names, with `*` for any run of characters.
    pub off: Vec<String>,
    /// Systems whose agent is never asked: parts of libosinfo's id in the domain's metadata.
    pub off_systems: Vec<String>,
}

impl AgentConfig {
    /// Why the agent of this domain is not asked, in words.
    #[must_use]
    pub fn refusal(&self, name: &str, system: Option<&str>) -> Option<String> {
        if !self.enabled {
            return Some("switched off in the configuration ([agent] enabled = false)".to_owned());
        }
        if self.off.iter().any(|pattern| matches_pattern(pattern, name)) {
            return Some("switched off for this domain in the configuration ([agent] off)".to_owned());
        }
        let off =
            self.off_systems.iter().find(|off| system.is_some_and(|system| system.contains(off.as_str())))?;
        Some(format!("switched off for {off} in the configuration ([agent] off_systems)"))
    }
}

/// How the scheduler probes are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbesConfig {
    /// Whether at all. Without, `/proc` is read instead.
    pub enabled: bool,
    /// Threads that can be watched at the same time.
    pub max_threads: u32,
    /// Domains that the steal matrix tells apart.
    pub max_domains: u32,
}

/// How the flow probes are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowsConfig {
    /// Whether at all. Without, who communicates is told by the guests' agents alone.
    pub enabled: bool,
    /// Flows that are remembered for each domain.
    pub max_per_domain: u32,
}

impl Config {
    /// The directory of rule files, when the configuration was read from `path`.
    #[must_use]
    pub fn rules_directory(&self, path: Option<&Path>) -> PathBuf {
        let beside = || path.unwrap_or_else(|| Path::new(DEFAULT_PATH)).with_file_name(RULES);
        self.rules_directory.clone().unwrap_or_else(beside)
    }
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            libvirt_uri: "qemu:///system".to_owned(),
            state_directory: "/var/lib/kvmpilot".into(),
            socket: DEFAULT_SOCKET.into(),
            socket_group: "kvmpilot".to_owned(),
            read_socket: None,
            hook_socket: Some(PathBuf::from(crate::hook::message::DEFAULT_SOCKET)),
            tcp: TcpConfig::default(),
            log_level: LogLevel::default(),
            agent: AgentConfig {
                enabled: true,
                timeout: Duration::from_secs(5),
                max_output_bytes: 1 << 20,
                off: Vec::new(),
                // Polling the agent has been seen to freeze OpenBSD guests (rcourtman/Pulse#692).
                off_systems: vec!["openbsd".to_owned()],
            },
            probes: ProbesConfig { enabled: true, max_threads: 4096, max_domains: 512 },
            flows: FlowsConfig { enabled: true, max_per_domain: 1024 },
            qemu_monitor: false,
            store: Limits::default(),
            otlp: OtlpConfig::default(),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in the files is wrong: everything that was found, in order.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))]
    Invalid(Vec<Diagnostic>),
}

/// Reads the file and the `conf.d/*.toml` and `services.d/*.toml` beside it, in the order of their names: the last one to
/// set a key wins, `[[domain]]` and `[[service]]` entries add up. Without a `path`, [`DEFAULT_PATH`] is read, which may be missing.
///
/// # Errors
/// When a file cannot be read (a `path` must exist) or anything in it is wrong.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    match salvage(path)? {
        (config, None) => Ok(config),
        (_, Some(error)) => Err(error),
    }
}

/// Like [`load`], with the rule files, too: all that decisions depend on.
///
/// # Errors
/// When a file cannot be read (a `path` must exist) or anything in one is wrong.
pub fn load_with_rules(path: Option<&Path>) -> Result<Config, ConfigError> {
    let mut config = load(path)?;
    config.policy.rules = load_rules(&config.rules_directory(path))?;
    Ok(config)
}

/// Like [`load`], but goes on with what is right in files that have mistakes: for `kvmpilot restore`, which must not
/// fail because somebody has just broken the configuration.
///
/// # Errors
/// When a file cannot be read.
pub fn salvage(path: Option<&Path>) -> Result<(Config, Option<ConfigError>), ConfigError> {
    let main = path.unwrap_or_else(|| Path::new(DEFAULT_PATH));
    let mut sources = Vec::new();
    match Source::read(main) {
        Ok(source) => sources.push(source),
        Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(ConfigError::Read { path: main.to_owned(), source }),
    }
    for directory in ["conf.d", SERVICES].map(|name| main.with_file_name(name)) {
        for file in toml_files(&directory).map_err(|source| ConfigError::Read { path: directory, source })? {
            sources.push(Source::read(&file).map_err(|source| ConfigError::Read { path: file, source })?);
        }
    }
    let (config, wrong) = read::read(&sources);
    Ok((config, (!wrong.is_empty()).then_some(ConfigError::Invalid(wrong))))
}

/// The `*.toml` files of a directory by name; none if there is no directory.
fn toml_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

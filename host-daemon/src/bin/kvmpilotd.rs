//! `kvmpilotd`, the daemon: arguments, configuration, logging, and off into [`kvmpilot::daemon`].

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kvmpilot::{config, daemon};
use tracing_subscriber::EnvFilter;

/// Autopilot for libvirt/KVM hosts.
///
/// Watches how every vcpu is really scheduled and adjusts CPU weights, pins, balloons and the priorities of guest
/// processes. Puts every value back when it stops. In mode `recommend`, the default, it changes nothing that nobody
/// approved (`kvmpilot orders`).
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file; `conf.d/*.toml` beside it is read too [default: /etc/kvmpilot/kvmpilot.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look for one cycle, print what would be done, change nothing
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(config.daemon.log_level.as_str()));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let options = daemon::Options { config_path: arguments.config, once: arguments.once };
    match runtime.block_on(daemon::run(config, options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", daemon::chain(&error));
            ExitCode::FAILURE
        }
    }
}

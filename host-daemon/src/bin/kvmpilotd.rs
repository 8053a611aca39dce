//! `kvmpilotd`, the daemon: arguments, configuration, logging, and off into [`kvmpilot::daemon`].

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kvmpilot::cli::DaemonArguments;
use kvmpilot::{config, daemon, kernel};
use tracing_subscriber::EnvFilter;

/// How long a thread for blocking calls waits for another one. They take turns, so that with tokio's 10 s and a call each second
/// as many stay as there ever were at once.
const KEEP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    kernel::give_back_freed_memory();
    let arguments = DaemonArguments::parse();
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
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_keep_alive(KEEP).build() {
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

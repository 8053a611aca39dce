//! The command line's subcommands: ask the daemon, show the answer. What the answers are is `api::views`' business.

mod arguments;
mod client;
mod examples;
mod generate;
mod kvmpilotd;
pub mod offline;
mod orders;
mod page;
mod policy;
mod progress;
mod record;
mod rules;
mod service;
mod show;
mod survey;
#[cfg(test)]
mod tests;
mod token;
mod top;
#[cfg(test)]
mod why_tests;
mod words;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kvmpilot_core::order::WorkOrder;
use serde::Serialize;

pub use arguments::Arguments;
use arguments::Command;
use clap::{CommandFactory, FromArgMatches};
use client::{Client, ClientError, encode};
pub use kvmpilotd::DaemonArguments;
use page::Screen;

use crate::api::API_VERSION;
use crate::api::views::{
    CommandReply, DoctorView, DomainDetailView, DomainsView, ExplainView, FlowsView, ProcessesView,
    StatusView, StealView, Verdict, VersionView, WatchAsk, WatchView,
};
use crate::config::{self, Config, ConfigError, DEFAULT_SOCKET};

/// Length of a watch, unless told otherwise.
const WATCH_S: u32 = 30;
/// What a watch may take beyond its length: to load programs, and to wait for windows of other domains.
const WATCH_GRACE: Duration = Duration::from_secs(30);

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Scenario(#[from] config::ScenarioError),
    #[error(transparent)]
    Record(#[from] record::RecordError),
    #[error("{0}")]
    Offline(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot show the answer as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The command line, with examples and exit codes in the help of every command.
#[must_use]
pub fn command() -> clap::Command {
    examples::add(Arguments::command(), "")
}

/// Reads the command line. After `--help`, and with a word on what is wrong after wrong usage, it ends the process.
#[must_use]
pub fn parse() -> Arguments {
    Arguments::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
}

/// Carries out a subcommand. Answers go to standard output, errors to standard error.
pub async fn run(arguments: Arguments) -> ExitCode {
    match execute(arguments).await {
        Ok(code) => code,
        // Whoever read our output has seen enough: `kvmpilot orders | head -1`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell it to if this fails, too.
            let _ = writeln!(io::stderr(), "kvmpilot: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { socket, command } = arguments;
    let client = |config: Option<&Config>| {
        let configured =
            || config.map_or_else(|| DEFAULT_SOCKET.into(), |config| config.daemon.socket.clone());
        Client::new(&socket.clone().unwrap_or_else(configured))
    };
    let screen = Screen::of_stdout();
    match command {
        Command::Status { json } => {
            let view: StatusView = client(None).get("/status").await?;
            answer(json, &view, || show::status(&view, screen))
        }
        Command::Top(options) => top::top(client(None), options, screen).await,
        Command::Domains { json } => {
            let view: DomainsView = client(None).get("/domains").await?;
            answer(json, &view, || show::domains(&view, screen))
        }
        Command::Domain { name, watch: Some(what), for_s, json } => {
            let ask = WatchAsk { what: what.into(), for_s: for_s.unwrap_or(WATCH_S) };
            let path = format!("/domains/{}/watch", encode(&name));
            let length = Duration::from_secs(ask.for_s.into());
            // It shows its own progress, of a known length.
            let client = Client { shows_progress: false, ..client(None) };
            let asked = client.post_json::<_, WatchView>(&path, &ask, length + WATCH_GRACE);
            let view = progress::shown(&format!("watching {name}"), length, asked).await?;
            answer(json, &view, || show::watch(&view, screen))
        }
        Command::Domain { name, json, .. } => {
            let view: DomainDetailView = client(None).get(&format!("/domains/{}", encode(&name))).await?;
            answer(json, &view, || show::domain(&view, screen))
        }
        Command::Processes { name, json } => {
            let path = format!("/domains/{}/processes", encode(&name));
            let view: ProcessesView = client(None).get(&path).await?;
            answer(json, &view, || show::processes(&view, screen))
        }
        Command::Steal { columns, json } => {
            let view: StealView = client(None).get("/steal").await?;
            answer(json, &view, || show::steal(&view, columns.into(), screen))
        }
        Command::Flows { name, json } => {
            let view: FlowsView = client(None).get(&format!("/domains/{}/flows", encode(&name))).await?;
            answer(json, &view, || show::flows(&view, screen))
        }
        Command::Orders { command, filter, json } => {
            orders::orders(&client(None), command, &filter, json, screen).await
        }
        Command::Why { id, json } => {
            let order: WorkOrder = client(None).get(&format!("/orders/{id}")).await?;
            answer(json, &order, || show::why(&order, screen))
        }
        Command::Explain { name, json } => {
            let view: ExplainView = client(None).get(&format!("/domains/{}/explain", encode(&name))).await?;
            answer(json, &view, || show::explain(&view, screen))
        }
        Command::Policy { command, json } => policy::policy(&client(None), command, json, screen).await,
        Command::Restore { config, json } => {
            let (config, mistakes) = config::salvage(config.as_deref())?;
            if let Some(mistakes) = mistakes {
                writeln!(
                    io::stderr(),
                    "kvmpilot: going on without what is wrong in the configuration:\n{mistakes}"
                )?;
            }
            let reply = match client(Some(&config)).post::<CommandReply>("/restore").await {
                Err(ClientError::NotRunning { .. }) => {
                    let restored = offline::restore(&config);
                    progress::waiting("putting back", restored).await.map_err(Failure::Offline)?
                }
                answered => answered?,
            };
            answer(json, &reply, || show::reply(&reply, screen))?;
            Ok(succeeded(reply.restore.is_none_or(|restore| restore.is_complete())))
        }
        Command::Doctor { config, json } => {
            let (config, mistakes) = config::salvage(config.as_deref())?;
            let mut view = match client(Some(&config)).get::<DoctorView>("/doctor").await {
                Err(ClientError::NotRunning { .. }) => offline::doctor(&config).await,
                answered => answered?,
            };
            view.checks.insert(0, offline::configuration_check(mistakes.as_ref()));
            answer(json, &view, || show::doctor(&view, screen))?;
            Ok(succeeded(view.checks.iter().all(|check| check.verdict != Verdict::Problem)))
        }
        Command::Record { file, length } => {
            record::record(&client(None), &file, length).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Replay { file, config, json } => {
            let policy = config.as_deref().map(|path| config::load_with_rules(Some(path))).transpose()?;
            let named = |error| Failure::Offline(format!("{}: {error}", file.display()));
            let input = io::BufReader::new(std::fs::File::open(&file).map_err(named)?);
            let policy = policy.map(|config| config.policy);
            let view = progress::computing("replaying", move || {
                crate::record::replay(input, &file, policy)
                    .map_err(|error| Failure::Offline(error.to_string()))
            })
            .await?;
            answer(json, &view, || show::replay(&view, screen))
        }
        Command::Simulate { file, hours, config, json } => {
            let policy = config.as_deref().map(|path| config::load_with_rules(Some(path))).transpose()?;
            let policy = policy.map(|config| config.policy).unwrap_or_default();
            let mut scenario = config::load_scenario(&file)?;
            scenario.hours = hours.unwrap_or(scenario.hours);
            let began = Instant::now();
            let said = |hour: u64| {
                // Progress that cannot be shown is no reason to stop.
                if began.elapsed() > Duration::from_secs(1) {
                    let _ = writeln!(io::stderr(), "kvmpilot: {hour} of {} hours", scenario.hours);
                }
            };
            let report = kvmpilot_core::simulate::run(&scenario, &policy, said);
            answer(json, &report, || show::simulate(&report, screen))?;
            Ok(succeeded(report.missed.is_empty()))
        }
        Command::Services { name, json } => {
            service::services(&client(None), name.as_deref(), json, screen).await
        }
        Command::Service { command } => service::run(&client(None), command).await,
        Command::Token { command } => token::run(&client(None), command, screen).await,
        Command::Rules { command } => rules::run(command, client, screen).await,
        Command::Completions { shell } => {
            generate::completions(shell)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Generate { command } => {
            generate::run(command)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Version { json } => {
            let view =
                VersionView { version: env!("CARGO_PKG_VERSION").to_owned(), api_version: API_VERSION };
            answer(json, &view, || format!("kvmpilot {}, API version {}\n", view.version, view.api_version))
        }
    }
}

/// Prints an answer, as JSON or for people.
fn answer<T: Serialize>(
    json: bool,
    view: &T,
    for_people: impl FnOnce() -> String,
) -> Result<ExitCode, Failure> {
    let text = if json { serde_json::to_string_pretty(view)? + "\n" } else { for_people() };
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn succeeded(all_well: bool) -> ExitCode {
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

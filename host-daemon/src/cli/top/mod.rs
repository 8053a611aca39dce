//! `kvmpilot top`: the domains and what they need, live. What is shown follows from a [`State`], which answers of the daemon
//! and keys change; [`draw`] makes frames of it, [`live`] is the terminal around both.

mod draw;
mod live;
mod moment;
mod once;
mod options;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod theme;

use std::env;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::process::ExitCode;
use std::time::Duration;

use moment::Moment;
pub(super) use options::TopOptions;
use state::State;
use theme::Theme;

use super::Failure;
use super::client::Client;
use super::page::Screen;
use super::progress;
use crate::clock::unix_ms;

/// How long the daemon may take; it is asked again all the time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Width of `--once` without any word on it.
const COLUMNS: u16 = 80;

/// Shows the domains until a key ends it, or once.
pub(super) async fn top(client: Client, options: TopOptions, screen: Screen) -> Result<ExitCode, Failure> {
    let TopOptions { domain, interval, sort, filter, once, columns } = options;
    let mut state = State::new(sort, &filter, domain);
    // Several answers come at a time.
    let client = Client { shows_progress: false, ..client };
    if once {
        let ask = Moment::ask(&client, state.open.as_deref());
        let moment = progress::waiting("waiting for kvmpilotd", ask).await?;
        state.now_unix_ms = moment.taken_unix_ms;
        state.take(Ok(moment));
        if let Some(why) = state.focus().and_then(|focus| focus.found.as_ref().err()) {
            return Err(Failure::Offline(why.clone()));
        }
        let width = columns.unwrap_or_else(width_of_environment);
        stdout().lock().write_all(once::frame(&state, width).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !stdin().is_terminal() || !stdout().is_terminal() {
        let why = "kvmpilot top needs a terminal; `kvmpilot top --once` prints one frame without";
        return Err(Failure::Offline(why.to_owned()));
    }
    state.now_unix_ms = unix_ms();
    let client = Client { patience: PATIENCE, ..client };
    live::live(client, state, interval, Theme { colour: screen.colour }).await?;
    Ok(ExitCode::SUCCESS)
}

/// What the shell says about the terminal, if it exports that.
fn width_of_environment() -> u16 {
    let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns.filter(|columns| (40..=500).contains(columns)).unwrap_or(COLUMNS)
}

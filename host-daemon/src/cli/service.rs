//! `kvmpilot services` and `kvmpilot service`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::arguments::ServiceCommand;
use super::client::{Client, encode};
use super::page::Screen;
use super::{Failure, answer, show};
use crate::api::views::{LearnAsk, LearnedView, ServiceView, ServicesView};

/// A service to fill in.
pub(crate) const TEMPLATE: &str = include_str!("../../../systemd/service.toml");

/// Lists services, or shows one.
pub(super) async fn services(
    client: &Client,
    name: Option<&str>,
    json: bool,
    screen: Screen,
) -> Result<ExitCode, Failure> {
    match name {
        Some(name) => {
            let view: ServiceView = client.get(&format!("/services/{}", encode(name))).await?;
            answer(json, &view, || show::service(&view, screen))
        }
        None => {
            let view: ServicesView = client.get("/services").await?;
            answer(json, &view, || show::services(&view, screen))
        }
    }
}

/// Carries out a subcommand of `service`.
pub(super) async fn run(client: &Client, command: ServiceCommand) -> Result<ExitCode, Failure> {
    match command {
        ServiceCommand::Template => io::stdout().write_all(TEMPLATE.as_bytes())?,
        ServiceCommand::Learn { name, from, output, force, json } => {
            let ask = LearnAsk { name, from };
            let view: LearnedView = client.post_json("/learn", &ask, client.patience).await?;
            if let Some(output) = &output {
                write(output, &view.toml, force)?;
                // Else they are read where they are printed.
                for note in view.notes.iter().filter(|_| !json) {
                    writeln!(io::stderr(), "kvmpilot: {}", note.replace(|c: char| c.is_control(), " "))?;
                }
            }
            let (components, connections) = (view.components, view.connections);
            let done = output.map(|output| {
                format!(
                    "{}: {components} components and {connections} connections; `systemctl reload kvmpilotd` puts it in \
                     force if it is in services.d\n",
                    output.display()
                )
            });
            return answer(json, &view, || done.unwrap_or_else(|| view.toml.clone()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file, but over another one only if that was said.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    if force {
        options.write(true).create(true).truncate(true);
    } else {
        options.write(true).create_new(true);
    }
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let way_out =
            if error.kind() == io::ErrorKind::AlreadyExists { "; --force writes over it" } else { "" };
        Failure::Offline(format!("{}: {error}{way_out}", path.display()))
    })
}

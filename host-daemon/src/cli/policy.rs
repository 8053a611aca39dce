//! `kvmpilot policy`: what a domain's own XML says about kvmpilot.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::arguments::PolicyCommand;
use super::client::{Client, ClientError, encode};
use super::page::Screen;
use super::{Failure, answer, show};
use crate::api::views::{PolicyAsk, PolicyView};

pub(super) async fn policy(
    client: &Client,
    command: PolicyCommand,
    json: bool,
    screen: Screen,
) -> Result<ExitCode, Failure> {
    let view = match command {
        PolicyCommand::Show { name } => client.get(&path(&name)).await?,
        PolicyCommand::Set { name, settings } => {
            let mut set = BTreeMap::new();
            for (key, value) in settings {
                if let Some(other) = set.insert(key.clone(), value) {
                    return Err(Failure::Offline(format!("{key} is given twice, {key}={other} first")));
                }
            }
            change(client, &name, PolicyAsk { set, ..PolicyAsk::default() }).await?
        }
        PolicyCommand::Unset { name, keys, all } => {
            change(client, &name, PolicyAsk { unset: keys, clear: all, ..PolicyAsk::default() }).await?
        }
    };
    answer(json, &view, || show::policy(&view, screen))
}

async fn change(client: &Client, name: &str, ask: PolicyAsk) -> Result<PolicyView, ClientError> {
    client.post_json(&path(name), &ask, client.command_patience).await
}

fn path(name: &str) -> String {
    format!("/domains/{}/policy", encode(name))
}

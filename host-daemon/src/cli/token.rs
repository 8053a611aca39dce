//! `kvmpilot token`: who may come over TCP.

use std::process::ExitCode;

use super::arguments::TokenCommand;
use super::client::{Client, encode};
use super::page::{Page, Screen};
use super::words::{time, yes_no};
use super::{Failure, answer};
use crate::api::views::{NewTokenView, TokenAsk, TokensView};

/// Carries out a subcommand of `token`.
pub(super) async fn run(client: &Client, command: TokenCommand, screen: Screen) -> Result<ExitCode, Failure> {
    match command {
        TokenCommand::Create { name, may_change, valid, json } => {
            let valid_s = valid.map(|valid| valid.as_secs());
            let ask = TokenAsk { name, may_change, valid_s };
            let view: NewTokenView = client.post_json("/tokens", &ask, client.patience).await?;
            answer(json, &view, || format!("{}\n", view.token))
        }
        TokenCommand::List { json } => {
            let view: TokensView = client.get("/tokens").await?;
            answer(json, &view, || list(&view, screen))
        }
        TokenCommand::Revoke { name, json } => {
            let view: TokensView = client.delete(&format!("/tokens/{}", encode(&name))).await?;
            answer(json, &view, || format!("{name} is no good any more\n"))
        }
    }
}

fn list(view: &TokensView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    if view.tokens.is_empty() {
        page.line("there are no tokens; `kvmpilot token create NAME` makes one");
        return page.finish();
    }
    let rows = view.tokens.iter().map(|token| {
        let until = token.expires_unix_ms.map_or_else(|| "revoked".to_owned(), time);
        vec![token.name.clone(), yes_no(token.may_change).to_owned(), time(token.created_unix_ms), until]
    });
    page.table(&["~TOKEN", "MAY CHANGE", "~MADE", "~GOOD UNTIL"], rows.collect());
    page.finish()
}

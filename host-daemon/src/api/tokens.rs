//! Tokens: made by those who may change things at the socket, and checked when a client comes over TCP.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use super::caller::Caller;
use super::problem::Failure;
use super::routes::{Answer, Api, Shared};
use super::views::{NewTokenView, TokenAsk, TokenView, TokensView, WhoAmIView};
use crate::clock::unix_ms;
use crate::store::{Digest, Store, TokenRow};

/// Tokens that there may be.
const MOST: usize = 256;
/// What each begins with, so that scanners for secrets find them.
const PREFIX: &str = "kvmpilot_";

/// The tokens that are good, by digest.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens(Arc<RwLock<HashMap<Digest, TokenRow>>>);

impl Tokens {
    pub(super) fn load(store: &Store) -> Self {
        let tokens = Self::default();
        match store.tokens() {
            Ok(rows) => rows.into_iter().for_each(|row| tokens.insert(row)),
            Err(error) => tracing::error!(%error, "no token is good: they cannot be read"),
        }
        tokens
    }

    fn insert(&self, row: TokenRow) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(row.sha256, row);
    }

    /// The client with this token, if it is good.
    pub(super) fn caller(&self, token: &str) -> Option<Caller> {
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let row = tokens.get(&sha256(token))?;
        let is_over = row.expires_unix_ms.is_some_and(|end| unix_ms() >= end);
        (!is_over).then(|| Caller::Token { name: row.name.clone(), may_change: row.may_change })
    }
}

fn sha256(token: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

fn random_token() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    let failed =
        |_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the system has no random numbers to give");
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    let mut token = PREFIX.to_owned();
    for byte in bytes {
        let _ = write!(token, "{byte:02x}");
    }
    Ok(token)
}

fn view(row: &TokenRow) -> TokenView {
    TokenView {
        name: row.name.clone(),
        may_change: row.may_change,
        created_unix_ms: row.created_unix_ms,
        expires_unix_ms: row.expires_unix_ms,
    }
}

pub(super) async fn who_am_i(State(api): Api, Extension(caller): Extension<Caller>) -> Json<WhoAmIView> {
    Json(WhoAmIView {
        name: caller.asker().to_string(),
        may_change: api.entitled(&caller, "change something").await.is_ok(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

pub(super) async fn list(State(api): Api, Extension(caller): Extension<Caller>) -> Answer<TokensView> {
    api.may_make_tokens(&caller).await?;
    let rows = api.store(Store::tokens).await?;
    Ok(Json(TokensView { tokens: rows.iter().map(view).collect() }))
}

pub(super) async fn create(
    State(api): Api,
    Extension(caller): Extension<Caller>,
    ask: Result<Json<TokenAsk>, JsonRejection>,
) -> Answer<NewTokenView> {
    let Json(ask) = ask.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    api.may_make_tokens(&caller).await?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !(1..=64).contains(&ask.name.len()) || !ask.name.chars().all(is_part) {
        let detail = "a token's name is 1 to 64 letters, digits, \".\", \"_\" and \"-\"";
        return Err(Failure::new(StatusCode::BAD_REQUEST, detail));
    }
    let token = random_token()?;
    let now = unix_ms();
    let row = TokenRow {
        name: ask.name.clone(),
        sha256: sha256(&token),
        may_change: ask.may_change,
        created_unix_ms: now,
        expires_unix_ms: ask.valid_s.map(|valid| now.saturating_add(valid.saturating_mul(1000))),
    };
    let stored = row.clone();
    let (there_are, is_new) = api
        .store(move |store| {
            let there_are = store.tokens()?.len();
            Ok((there_are, there_are < MOST && store.token_insert(stored)?))
        })
        .await?;
    if !is_new {
        let detail = if there_are < MOST {
            format!("there is a token {}; revoke it first, or take another name", ask.name)
        } else {
            format!("there are {MOST} tokens already; revoke some")
        };
        return Err(Failure::new(StatusCode::CONFLICT, detail));
    }
    tracing::info!(name = row.name, may_change = row.may_change, by = %caller.asker(), "a token was made");
    let view = view(&row);
    api.tokens.insert(row);
    Ok(Json(NewTokenView { token, row: view }))
}

pub(super) async fn revoke(
    State(api): Api,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<TokensView> {
    let Path(name) = name.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    api.may_make_tokens(&caller).await?;
    // No good from now on, whatever becomes of the file.
    api.tokens.0.write().unwrap_or_else(PoisonError::into_inner).retain(|_, row| row.name != name);
    let known = name.clone();
    if !api.store(move |store| store.token_delete(&known)).await? {
        let detail = format!("there is no token {name}; `kvmpilot token list` lists them");
        return Err(Failure::new(StatusCode::NOT_FOUND, detail));
    }
    tracing::info!(name, by = %caller.asker(), "a token was revoked");
    list(State(api), Extension(caller)).await
}

impl Shared {
    async fn may_make_tokens(&self, caller: &Caller) -> Result<(), Failure> {
        let (group, caller) = (self.group, caller.clone());
        let may = tokio::task::spawn_blocking(move || caller.may_make_tokens(group)).await;
        if may.map_err(|_| Failure::stopping())? {
            return Ok(());
        }
        let detail = "only root and members of the group in daemon.socket_group may make tokens, at the daemon's socket";
        Err(Failure::new(StatusCode::FORBIDDEN, detail))
    }
}

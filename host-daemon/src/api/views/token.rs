//! Tokens for the API over TCP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which token to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenAsk {
    /// Its name: 1 to 64 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Whether it is good for changes, too.
    #[serde(default)]
    pub may_change: bool,
    /// For how long it is good; null for until it is revoked.
    #[serde(default)]
    pub valid_s: Option<u64>,
}

/// A token that was made: the only time that it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewTokenView {
    /// The token, for `Authorization: Bearer`.
    pub token: String,
    /// What is remembered of it.
    #[serde(flatten)]
    pub row: TokenView,
}

/// What is remembered of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// Its name.
    pub name: String,
    /// Whether it is good for changes, too.
    pub may_change: bool,
    /// When it was made.
    pub created_unix_ms: u64,
    /// From when on it is no good any more; null for never.
    pub expires_unix_ms: Option<u64>,
}

/// All tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokensView {
    /// By name.
    pub tokens: Vec<TokenView>,
}

/// Who the client is for kvmpilot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoAmIView {
    /// In words, like `uid 1000` or `token grafana`.
    pub name: String,
    /// Whether it may change something.
    pub may_change: bool,
    /// Version of the daemon.
    pub version: String,
}

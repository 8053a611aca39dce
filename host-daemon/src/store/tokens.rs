//! Digests of the tokens that are good for the API over TCP.

use rusqlite::params;

use super::sql::clamp;
use super::{Store, StoreError};

/// SHA-256 of a token. Tokens are random, so a digest without salt gives nothing away.
pub type Digest = [u8; 32];

/// What is remembered of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its name, which is unique.
    pub name: String,
    /// Its digest.
    pub sha256: Digest,
    /// Whether it is good for changes.
    pub may_change: bool,
    /// When it was made, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// From when on it is no good any more, milliseconds since 1970; `None` for never.
    pub expires_unix_ms: Option<u64>,
}

impl Store {
    /// Remembers a token; false if there is one of that name.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn token_insert(&self, token: TokenRow) -> Result<bool, StoreError> {
        let inserted = self.write(move |connection| {
            connection
                .prepare_cached(
                    "insert into token (name, sha256, may_change, created_unix_ms, expires_unix_ms)
                     values (?1, ?2, ?3, ?4, ?5) on conflict do nothing",
                )?
                .execute(params![
                    token.name,
                    token.sha256,
                    token.may_change,
                    clamp(token.created_unix_ms),
                    token.expires_unix_ms.map(clamp),
                ])
        })?;
        Ok(inserted == 1)
    }

    /// Forgets a token; false if there is none of that name.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn token_delete(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let deleted = self.write(move |connection| {
            connection.prepare_cached("delete from token where name = ?1")?.execute([name])
        })?;
        Ok(deleted == 1)
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("select * from token order by name")?
                .query_map([], |row| {
                    Ok(TokenRow {
                        name: row.get("name")?,
                        sha256: row.get("sha256")?,
                        may_change: row.get("may_change")?,
                        created_unix_ms: row.get("created_unix_ms")?,
                        expires_unix_ms: row.get("expires_unix_ms")?,
                    })
                })?
                .collect()
        })
    }
}

//! [`Asker`]: who asked for something.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who asked for something: a user at the socket, or the holder of a token. Neither is known of a client without a token on
/// a loopback address that asks for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// User id that the kernel says.
    pub uid: Option<u32>,
    /// Name of the token.
    pub token: Option<String>,
}

impl From<u32> for Asker {
    fn from(uid: u32) -> Self {
        Self { uid: Some(uid), token: None }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.uid, &self.token) {
            (Some(uid), _) => write!(f, "uid {uid}"),
            (None, Some(token)) => write!(f, "token {token}"),
            (None, None) => f.write_str("somebody without a token"),
        }
    }
}

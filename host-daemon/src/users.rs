//! Names of this host's users.

use nix::unistd::{Uid, User};

/// Who has a user id, in words. Asks the user database, which can block.
pub(crate) fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| format!("{} (uid {uid})", user.name))
}

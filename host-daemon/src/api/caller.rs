//! Who is at the other end of a connection, and what they may do.

use std::ffi::CString;

use kvmpilot_core::asker::Asker;
use nix::unistd::{Gid, Uid, User, getgrouplist};
use tokio::net::unix::UCred;

use crate::config::Access;

/// The client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A user at the socket, as the kernel says.
    Peer(Peer),
    /// A user at the socket for those who may only look.
    Reader(Peer),
    /// Somebody who came over TCP with a token.
    Token {
        /// Its name.
        name: String,
        /// Whether it is good for changes.
        may_change: bool,
    },
    /// Somebody who came over TCP without one, where that is permitted.
    Anybody(Access),
}

/// The credentials with which a client connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl From<UCred> for Peer {
    fn from(cred: UCred) -> Self {
        Self { uid: cred.uid(), gid: cred.gid() }
    }
}

impl Caller {
    /// Whether this client may change something. Asks the user database, which can block.
    pub(super) fn may_change(&self, group: Option<Gid>) -> bool {
        match self {
            Self::Peer(peer) => peer.may_change(group),
            Self::Reader(_) => false,
            Self::Token { may_change, .. } => *may_change,
            Self::Anybody(access) => *access == Access::Write,
        }
    }

    /// Whether this client may make tokens. A token may not: it would outlive its own revocation.
    pub(super) fn may_make_tokens(&self, group: Option<Gid>) -> bool {
        matches!(self, Self::Peer(peer) if peer.may_change(group))
    }

    /// For the records.
    pub(super) fn asker(&self) -> Asker {
        match self {
            Self::Peer(peer) | Self::Reader(peer) => peer.uid.into(),
            Self::Token { name, .. } => Asker { uid: None, token: Some(name.clone()) },
            Self::Anybody(_) => Asker::default(),
        }
    }
}

impl Peer {
    /// Whether this peer may change something: root, the daemon's own user, and members of `group`. The socket's mode
    /// says the same; this still holds where somebody has loosened it.
    fn may_change(self, group: Option<Gid>) -> bool {
        self.uid == 0
            || self.uid == Uid::effective().as_raw()
            || group.is_some_and(|group| self.gid == group.as_raw() || self.groups().contains(&group))
    }

    fn groups(self) -> Vec<Gid> {
        let user = User::from_uid(Uid::from_raw(self.uid)).ok().flatten();
        user.and_then(|user| getgrouplist(&CString::new(user.name).ok()?, Gid::from_raw(self.gid)).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_daemon_and_the_group_may_change() {
        let root = Peer { uid: 0, gid: 0 };
        let own = Peer { uid: Uid::effective().as_raw(), gid: 12345 };
        let stranger = Peer { uid: 4_000_000_000, gid: 4_000_000_001 };
        assert!(Caller::Peer(root).may_change(None));
        assert!(Caller::Peer(own).may_change(None));
        let stranger = Caller::Peer(stranger);
        assert!(!stranger.may_change(None));
        assert!(!stranger.may_change(Some(Gid::from_raw(0))));
        assert!(stranger.may_change(Some(Gid::from_raw(4_000_000_001))));
    }

    #[test]
    fn others_may_what_their_way_in_permits() {
        let root = Peer { uid: 0, gid: 0 };
        let token = |may_change| Caller::Token { name: "ci".into(), may_change };
        for (caller, may_change) in [
            (Caller::Reader(root), false),
            (token(true), true),
            (token(false), false),
            (Caller::Anybody(Access::Write), true),
            (Caller::Anybody(Access::Read), false),
        ] {
            assert_eq!(caller.may_change(None), may_change, "{caller:?}");
            assert!(!caller.may_make_tokens(None), "{caller:?}");
        }
        assert!(Caller::Peer(root).may_make_tokens(None));
        assert_eq!(token(true).asker().to_string(), "token ci");
    }

    #[test]
    fn groups_are_those_of_the_user_database() {
        // Every Debian has daemon(1) and its group of the same number.
        assert!(Peer { uid: 1, gid: 1 }.groups().contains(&Gid::from_raw(1)));
        assert_eq!(Peer { uid: 4_000_000_000, gid: 0 }.groups(), []);
    }
}

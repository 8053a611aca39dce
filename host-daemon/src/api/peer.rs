//! Who is at the other end of the socket, as the kernel says, and what they may do.

use std::ffi::CString;

use nix::unistd::{Gid, Uid, User, getgrouplist};
use tokio::net::unix::UCred;

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

impl Peer {
    /// Whether this peer may change something: root, the daemon's own user, and members of `group`. The socket's mode
    /// says the same; this still holds where somebody has loosened it. Asks the user database, which can block.
    pub(super) fn may_change(self, group: Option<Gid>) -> bool {
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
        assert!(root.may_change(None));
        assert!(own.may_change(None));
        assert!(!stranger.may_change(None));
        assert!(!stranger.may_change(Some(Gid::from_raw(0))));
        assert!(stranger.may_change(Some(Gid::from_raw(4_000_000_001))));
    }

    #[test]
    fn groups_are_those_of_the_user_database() {
        // Every Debian has daemon(1) and its group of the same number.
        assert!(Peer { uid: 1, gid: 1 }.groups().contains(&Gid::from_raw(1)));
        assert_eq!(Peer { uid: 4_000_000_000, gid: 0 }.groups(), []);
    }
}

//! [`Status`]: whether there is a connection, and if not, what a person can do about it.

use std::fmt;
use std::time::Instant;

/// State of the connection to libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Connected, events registered.
    Up {
        /// The canonical URI, as libvirt tells it.
        uri: String,
        /// Version of libvirtd, like `11.3.0`.
        libvirt_version: String,
        /// Version of the hypervisor, like `10.0.2`.
        hypervisor_version: String,
    },
    /// Not connected. It is retried until it works.
    Down {
        /// Why, in libvirt's words.
        reason: String,
        /// What to do.
        advice: String,
        /// When the next attempt starts; `None` while one is under way.
        next_try: Option<Instant>,
    },
}

impl Status {
    /// Whether calls can work now.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// An attempt to connect is under way.
    pub(super) fn connecting(uri: &str) -> Self {
        Self::Down {
            reason: format!("waiting for {uri} to answer"),
            advice: "if this lasts, libvirtd is stuck: journalctl -u libvirtd".to_owned(),
            next_try: None,
        }
    }

    /// An attempt failed or the connection broke.
    pub(super) fn down(reason: String, next_try: Instant) -> Self {
        let said = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        let advice = if said(&["No such file", "Connection refused", "connection closed"]) {
            "start it: systemctl start libvirtd (or virtqemud.socket)"
        } else if said(&["ermission denied", "uthentication", "ccess denied"]) {
            "run kvmpilotd as root, or let its user into the group libvirt"
        } else {
            "see journalctl -u libvirtd"
        };
        Self::Down { reason, advice: advice.to_owned(), next_try: Some(next_try) }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { uri, libvirt_version, hypervisor_version } => {
                write!(f, "connected to {uri}: libvirt {libvirt_version}, hypervisor {hypervisor_version}")
            }
            Self::Down { reason, advice, next_try } => {
                write!(f, "not connected: {reason}; {advice}")?;
                match next_try.map(|at| at.saturating_duration_since(Instant::now())) {
                    Some(wait) => write!(f, "; next try in {:.1} s", wait.as_secs_f64()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// libvirt packs versions as major * 1000000 + minor * 1000 + release.
pub(super) fn version(packed: u32) -> String {
    format!("{}.{}.{}", packed / 1_000_000, packed / 1000 % 1000, packed % 1000)
}

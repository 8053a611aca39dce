//! The way to a guest's agent: the agent gateway on top of the libvirt gateway, which must not know each other.

use kvmpilot_core::Uuid;

use crate::agent::Agent;
use crate::libvirt::Libvirt;

/// Makes agents of domains.
#[derive(Clone, Debug)]
pub struct GuestChannel {
    libvirt: Libvirt,
}

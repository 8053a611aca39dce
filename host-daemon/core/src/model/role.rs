//! A domain's threads added up by what they are for.

use super::DomainModel;
use crate::sample::ThreadRole;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What threads are for, vcpus and iothreads without their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoleKind {
    /// Run the guest's code.
    Vcpu,
    /// QEMU's main loop.
    Emulator,
    /// Disks outside the main loop.
    Iothread,
    /// virtio-net outside QEMU's loop.
    Vhost,
    /// Everything else.
    Worker,
}

impl From<ThreadRole> for RoleKind {
    fn from(role: ThreadRole) -> Self {
        match role {
            ThreadRole::Vcpu(_) => Self::Vcpu,
            ThreadRole::Emulator => Self::Emulator,
            ThreadRole::Iothread(_) => Self::Iothread,
            ThreadRole::Vhost => Self::Vhost,
            ThreadRole::Worker => Self::Worker,
        }
    }
}

/// All threads of one role.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoleModel {
    /// The role.
    pub role: RoleKind,
    /// Number of threads.
    pub threads: u32,
    /// Time on a pcpu in pcpus: 1.5 is one and a half pcpus' worth. `None` until each thread was read twice.
    pub run: Option<f64>,
    /// Time runnable but not running, likewise.
    pub wait: Option<f64>,
}

impl DomainModel {
    /// Threads by role, in the order of [`RoleKind`]; roles without a thread are left out.
    #[must_use]
    pub fn roles(&self) -> Vec<RoleModel> {
        let mut roles: Vec<RoleModel> = Vec::new();
        for thread in &self.threads {
            let role = RoleKind::from(thread.role);
            let at = roles.binary_search_by_key(&role, |known| known.role).unwrap_or_else(|at| {
                roles.insert(at, RoleModel { role, threads: 0, run: Some(0.0), wait: Some(0.0) });
                at
            });
            let sum = &mut roles[at];
            sum.threads = sum.threads.saturating_add(1);
            sum.run = sum.run.zip(thread.run).map(|(sum, run)| sum + run);
            sum.wait = sum.wait.zip(thread.wait).map(|(sum, wait)| sum + wait);
        }
        roles
    }
}

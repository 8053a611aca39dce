//! The host's pcpus and what they share: core, socket, last-level cache, NUMA node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CpuSet;

/// One online pcpu. A field is `None` where the kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pcpu {
    /// Number of the pcpu.
    pub id: u32,
    /// Core inside its socket; SMT siblings share it.
    pub core: Option<u32>,
    /// Physical package.
    pub socket: Option<u32>,
    /// Lowest pcpu of those that share the last-level cache: names the cache.
    pub llc: Option<u32>,
    /// NUMA node.
    pub node: Option<u32>,
}

/// All online pcpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Topology {
    /// In rising order of `id`.
    pub pcpus: Vec<Pcpu>,
}

impl Topology {
    /// The online pcpus as a set.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        self.pcpus.iter().map(|pcpu| pcpu.id).collect()
    }

    /// `pcpu` and its SMT siblings: same socket and core. Unknown pcpus are alone.
    #[must_use]
    pub fn siblings(&self, pcpu: u32) -> CpuSet {
        let Some(own) = self.pcpus.iter().find(|other| other.id == pcpu) else {
            return CpuSet::from_iter([pcpu]);
        };
        self.pcpus
            .iter()
            .filter(|other| {
                other.id == pcpu
                    || (own.core.is_some() && other.core == own.core && other.socket == own.socket)
            })
            .map(|other| other.id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_share_core_and_socket() {
        let pcpu = |id, core, socket| Pcpu { id, core, socket, ..Pcpu::default() };
        let topology = Topology {
            pcpus: vec![
                pcpu(0, Some(0), Some(0)),
                pcpu(1, Some(0), Some(0)),
                pcpu(2, Some(0), Some(1)),
                pcpu(3, None, None),
            ],
        };
        assert_eq!(topology.siblings(1), "0-1".parse().unwrap());
        assert_eq!(topology.siblings(2), "2".parse().unwrap());
        assert_eq!(topology.siblings(3), "3".parse().unwrap());
        assert_eq!(topology.online(), CpuSet::first(4));
    }
}

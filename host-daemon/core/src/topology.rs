//! The host's pcpus and what they share: core, socket, last-level cache, NUMA node.

use std::collections::BTreeMap;

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
    /// Computing power of its kind: 1024 for the strongest of the host. Only hosts with unequal pcpus tell.
    #[serde(default)]
    pub capacity: Option<u32>,
}

/// One NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NumaNode {
    /// Number of the node.
    pub id: u32,
    /// Distance to each node, in the order of [`Topology::nodes`]: 10 to itself, more to others.
    pub distances: Vec<u32>,
}

/// All online pcpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Topology {
    /// In rising order of `id`.
    pub pcpus: Vec<Pcpu>,
    /// NUMA nodes, in rising order; empty where the kernel does not tell.
    #[serde(default)]
    pub nodes: Vec<NumaNode>,
    /// pcpus that the kernel's scheduler spreads nothing to (`isolcpus=`, isolated cpusets).
    #[serde(default)]
    pub isolated: CpuSet,
    /// pcpus without a tick while one task runs (`nohz_full=`): kept for tasks that were put there.
    #[serde(default)]
    pub nohz_full: CpuSet,
}

impl Topology {
    /// The online pcpus as a set.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        self.pcpus.iter().map(|pcpu| pcpu.id).collect()
    }

    /// pcpus that somebody set aside: nothing goes there unless its administrator sent it.
    #[must_use]
    pub fn set_aside(&self) -> CpuSet {
        self.isolated.union(&self.nohz_full)
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

    /// The cores, each the set of its SMT siblings, in the order of their first pcpu.
    #[must_use]
    pub fn cores(&self) -> Vec<CpuSet> {
        self.groups(|pcpu| pcpu.core.map(|core| (pcpu.socket, core)))
    }

    /// Whether some core runs more than one pcpu.
    #[must_use]
    pub fn has_smt(&self) -> bool {
        self.cores().iter().any(|core| core.len() > 1)
    }

    /// The pcpus that share a last-level cache, cache by cache, in the order of their first pcpu.
    #[must_use]
    pub fn caches(&self) -> Vec<CpuSet> {
        self.groups(|pcpu| pcpu.llc.map(|llc| (None, llc)))
    }

    /// The pcpus of a NUMA node.
    #[must_use]
    pub fn of_node(&self, node: u32) -> CpuSet {
        self.pcpus.iter().filter(|pcpu| pcpu.node == Some(node)).map(|pcpu| pcpu.id).collect()
    }

    /// Distance of two NUMA nodes as the firmware tells it: 10 for the same; twice that for others where it tells nothing.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        let place = |id| self.nodes.iter().position(|node| node.id == id);
        let told = place(from).zip(place(to)).and_then(|(from, to)| self.nodes.get(from)?.distances.get(to));
        told.copied().unwrap_or(if from == to { 10 } else { 20 })
    }

    /// pcpus with the same key together; those without one alone.
    fn groups(&self, key: impl Fn(&Pcpu) -> Option<(Option<u32>, u32)>) -> Vec<CpuSet> {
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut places: BTreeMap<_, usize> = BTreeMap::new();
        for pcpu in &self.pcpus {
            let key = key(pcpu);
            match key.and_then(|key| groups.get_mut(*places.get(&key)?)) {
                Some(group) => group.push(pcpu.id),
                None => {
                    places.extend(key.map(|key| (key, groups.len())));
                    groups.push(vec![pcpu.id]);
                }
            }
        }
        groups.into_iter().map(CpuSet::from_iter).collect()
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
            ..Topology::default()
        };
        assert_eq!(topology.siblings(1), "0-1".parse().unwrap());
        assert_eq!(topology.siblings(2), "2".parse().unwrap());
        assert_eq!(topology.siblings(3), "3".parse().unwrap());
        assert_eq!(topology.online(), CpuSet::first(4));
        let cores: Vec<String> = topology.cores().iter().map(ToString::to_string).collect();
        assert_eq!(cores, ["0-1", "2", "3"]);
        assert!(topology.has_smt());
        assert_eq!(topology.caches().len(), 4, "nobody says that they share anything");
    }

    #[test]
    fn nodes_without_a_table_are_near_to_themselves_only() {
        let mut topology = Topology::default();
        assert_eq!((topology.distance(0, 0), topology.distance(0, 1)), (10, 20));
        topology.nodes =
            vec![NumaNode { id: 0, distances: vec![10, 32] }, NumaNode { id: 2, distances: vec![32, 10] }];
        assert_eq!((topology.distance(0, 2), topology.distance(2, 2)), (32, 10));
    }
}

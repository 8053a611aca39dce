//! Which pcpus are kept free for whom: whole cores, in one piece, near the memory of those that they are for. A claim stays
//! as it is for as long as it fits, so that nothing moves for a change of load that comes and goes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::CpuSet;
use crate::topology::Topology;

/// Of this many pcpus, one at least stays with the others.
const OTHERS_KEEP_ONE_IN: usize = 4;

/// pcpus that are kept free for a group of domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// NUMA node that has their memory, where one is known.
    pub(super) home: Option<u32>,
    /// The domains.
    pub(super) victims: Vec<Uuid>,
    /// The pcpus.
    pub(super) pcpus: CpuSet,
}

/// Domains with the same home, and what they want together.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) home: Option<u32>,
    pub(super) victims: Vec<Uuid>,
    /// pcpus that their administrators allow them.
    pub(super) mask: CpuSet,
    /// pcpus that they should have for themselves.
    pub(super) wanted: usize,
}

/// Finds pcpus for each group out of `usable`. `before` is what they had.
pub(super) fn claim(groups: &[Group], before: &[Claim], topology: &Topology, usable: &CpuSet) -> Vec<Claim> {
    let limit = usable.len() - (usable.len() / OTHERS_KEEP_ONE_IN).max(1).min(usable.len());
    let mut claims: Vec<Claim> = Vec::new();
    for group in groups {
        let taken = claims.iter().fold(CpuSet::default(), |all, claim| all.union(&claim.pcpus));
        let free = group.mask.intersection(usable).difference(&taken);
        let room = limit.saturating_sub(taken.len()).min(group.wanted);
        let had =
            before.iter().find(|claim| claim.home == group.home).map(|claim| claim.pcpus.intersection(&free));
        let pcpus = pick(group, &had.unwrap_or_default(), &free, room, topology);
        claims.push(Claim { home: group.home, victims: group.victims.clone(), pcpus });
    }
    claims.retain(|claim| !claim.pcpus.is_empty());
    claims
}

/// At most `room` pcpus of `free`, a core at a time: those that it had, then the nearest.
fn pick(group: &Group, had: &CpuSet, free: &CpuSet, room: usize, topology: &Topology) -> CpuSet {
    let cores: Vec<CpuSet> =
        topology.cores().iter().map(|core| core.intersection(free)).filter(|core| !core.is_empty()).collect();
    // A core of which a thread too many is kept is not worth a change.
    let widest = cores.iter().map(CpuSet::len).max().unwrap_or(1);
    let wanted = group.wanted;
    if !had.is_empty() && wanted > 0 && had.len() >= room.min(wanted) && had.len() < wanted + widest {
        return had.clone();
    }
    let node = |core: &CpuSet| {
        let first = core.iter().next()?;
        topology.pcpus.iter().find(|pcpu| pcpu.id == first)?.node
    };
    let distance =
        |core: &CpuSet| group.home.zip(node(core)).map_or(0, |(home, node)| topology.distance(home, node));
    let strength = |core: &CpuSet| {
        let found = topology.pcpus.iter().find(|pcpu| core.contains(pcpu.id));
        found.and_then(|pcpu| pcpu.capacity).unwrap_or(1024)
    };
    // A cache that has room for all of them first, so that they share it, and nobody else does.
    let caches = topology.caches();
    let cache = |core: &CpuSet| {
        let at = caches.iter().position(|cache| cache.overlaps(core));
        let space = at.and_then(|at| caches.get(at)).map_or(0, |cache| cache.intersection(free).len());
        (space < room, at)
    };
    let mut order: Vec<_> = cores
        .iter()
        .map(|core| {
            let key = (!core.overlaps(had), distance(core), cache(core), std::cmp::Reverse(strength(core)));
            (key, core)
        })
        .collect();
    order.sort_by(|(a, core_a), (b, core_b)| {
        a.cmp(b).then_with(|| core_a.iter().next().cmp(&core_b.iter().next()))
    });
    let mut picked = CpuSet::default();
    for (_, core) in order {
        if picked.len() + core.len() <= room {
            picked = picked.union(core);
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::numa_host;

    fn group(home: Option<u32>, mask: &str, wanted: usize) -> Group {
        Group { home, victims: vec![Uuid::nil()], mask: mask.parse().unwrap(), wanted }
    }

    fn claimed(groups: &[Group], before: &[Claim]) -> Vec<String> {
        let topology = numa_host();
        let claims = claim(groups, before, &topology, &topology.online());
        claims.iter().map(|claim| claim.pcpus.to_string()).collect()
    }

    /// Two sockets with two nodes each, a cache for each node, four cores of two threads: thread n + 16 is n's sibling.
    #[test]
    fn whole_cores_of_one_cache_near_the_memory() {
        assert_eq!(claimed(&[group(Some(2), "0-31", 4)], &[]), ["8-9,24-25"]);
        assert_eq!(claimed(&[group(None, "0-31", 3)], &[]), ["0,16"], "half a core is nobody's");
        assert_eq!(
            claimed(&[group(Some(0), "2-5,18-21", 6)], &[]),
            ["2-4,18-20"],
            "its node first, then the next"
        );
        let two = [group(Some(0), "0-31", 8), group(Some(1), "0-31", 2)];
        assert_eq!(claimed(&two, &[]), ["0-3,16-19", "4,20"]);
    }

    #[test]
    fn the_others_keep_a_quarter_and_nothing_outside_of_the_mask_is_taken() {
        assert_eq!(claimed(&[group(None, "0-31", 32)], &[]), ["0-11,16-27"]);
        assert_eq!(
            claimed(&[group(Some(0), "30-31", 8)], &[]),
            ["30", "31"].map(|_| "30-31".to_owned())[..1].to_vec()
        );
        assert!(claimed(&[group(Some(0), "", 8)], &[]).is_empty());
    }

    #[test]
    fn a_claim_stays_while_it_fits() {
        let before = |pcpus: &str| {
            vec![Claim { home: Some(1), victims: vec![Uuid::nil()], pcpus: pcpus.parse().unwrap() }]
        };
        for wanted in [3, 4] {
            assert_eq!(
                claimed(&[group(Some(1), "0-31", wanted)], &before("6-7,22-23")),
                ["6-7,22-23"],
                "{wanted}"
            );
        }
        assert_eq!(claimed(&[group(Some(1), "0-31", 6)], &before("6-7,22-23")), ["4,6-7,20,22-23"], "grows");
        assert_eq!(claimed(&[group(Some(1), "0-31", 2)], &before("4-7,20-23")), ["4,20"], "shrinks");
    }
}

//! The online pcpus and what they share, from sysfs. Hotplug changes it: read again, rarely.

use std::path::Path;

use kvmpilot_core::CpuSet;
use kvmpilot_core::topology::{NumaNode, Pcpu, Topology};

use super::{Kernel, Unread, Unreads, text};

impl Kernel {
    /// The online pcpus with core, socket, last-level cache and NUMA node, those that are set aside, and the distances of
    /// the nodes, as far as the kernel tells.
    #[must_use]
    pub fn topology(&self) -> (Topology, Vec<Unread>) {
        let mut unread = Unreads::default();
        let cpus = self.sys.join("devices/system/cpu");
        let online: CpuSet =
            unread.parse(&cpus.join("online"), |text| text.trim().parse().ok()).unwrap_or_default();
        let pcpus = online.iter().map(|id| {
            let dir = cpus.join(format!("cpu{id}"));
            Pcpu {
                id,
                core: number(&dir.join("topology/core_id")),
                socket: number(&dir.join("topology/physical_package_id")),
                llc: last_level_cache(&dir.join("cache")),
                node: node(&dir),
                // Missing where all are equal.
                capacity: number(&dir.join("cpu_capacity")),
            }
        });
        let pcpus = pcpus.collect();
        // Both are missing where the kernel was built without; `(null)` is an empty mask of nohz_full.
        let list = |name: &str| text(&cpus.join(name)).ok().and_then(|text| text.trim().parse().ok());
        let isolated = list("isolated").unwrap_or_default();
        let nohz_full = list("nohz_full").unwrap_or_default();
        (Topology { pcpus, nodes: self.numa_nodes(), isolated, nohz_full }, unread.0)
    }

    /// The nodes that are online, with their distances; none without NUMA.
    fn numa_nodes(&self) -> Vec<NumaNode> {
        let nodes = self.sys.join("devices/system/node");
        let online: CpuSet =
            text(&nodes.join("online")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let distances = |id: u32| -> Option<Vec<u32>> {
            let line = text(&nodes.join(format!("node{id}/distance"))).ok()?;
            line.split_whitespace().map(|distance| distance.parse().ok()).collect()
        };
        online.iter().map(|id| NumaNode { id, distances: distances(id).unwrap_or_default() }).collect()
    }
}

/// A number; -1 is the kernel's word for "does not tell".
fn number(path: &Path) -> Option<u32> {
    text(path).ok()?.trim().parse().ok()
}

/// Lowest pcpu of those that share the cache of the highest level.
fn last_level_cache(dir: &Path) -> Option<u32> {
    let caches = dir.read_dir().ok()?.filter_map(Result::ok).filter_map(|entry| {
        let shared: CpuSet = text(&entry.path().join("shared_cpu_list")).ok()?.trim().parse().ok()?;
        Some((number(&entry.path().join("level"))?, shared.iter().next()?))
    });
    caches.max_by_key(|&(level, _)| level).map(|(_, lowest)| lowest)
}

/// The directory of a pcpu has a link called `nodeN`.
fn node(dir: &Path) -> Option<u32> {
    let entries = dir.read_dir().ok()?.filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join("devices/system/cpu").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn sockets_caches_and_nodes_of_the_online_pcpus() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "online", "0-1,3\n");
        put(root.path(), "cpu2/topology/core_id", "2\n");
        for (cpu, core, socket, shared) in [(0, "0", "0", "0-1"), (1, "1", "0", "0-1")] {
            put(root.path(), &format!("cpu{cpu}/topology/core_id"), core);
            put(root.path(), &format!("cpu{cpu}/topology/physical_package_id"), socket);
            put(root.path(), &format!("cpu{cpu}/cache/index0/level"), "1\n");
            put(root.path(), &format!("cpu{cpu}/cache/index0/shared_cpu_list"), &cpu.to_string());
            put(root.path(), &format!("cpu{cpu}/cache/index3/level"), "3\n");
            put(root.path(), &format!("cpu{cpu}/cache/index3/shared_cpu_list"), shared);
            fs::create_dir(root.path().join(format!("devices/system/cpu/cpu{cpu}/node1"))).unwrap();
        }
        put(root.path(), "cpu3/topology/core_id", "-1\n");
        put(root.path(), "cpu3/cpu_capacity", "512\n");
        put(root.path(), "isolated", "\n");
        put(root.path(), "nohz_full", "3\n");
        put(root.path(), "../node/online", "0-1\n");
        put(root.path(), "../node/node1/distance", "21 10\n");
        let (topology, unread) = Kernel::at(root.path(), root.path()).topology();
        assert_eq!(unread, []);
        let known =
            |id, core| Pcpu { id, core, socket: Some(0), llc: Some(0), node: Some(1), capacity: None };
        let strange = Pcpu { id: 3, capacity: Some(512), ..Pcpu::default() };
        assert_eq!(topology.pcpus, [known(0, Some(0)), known(1, Some(1)), strange]);
        assert!(topology.isolated.is_empty());
        assert_eq!(topology.set_aside(), CpuSet::from_iter([3]));
        assert_eq!(topology.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((topology.distance(1, 0), topology.distance(0, 1)), (21, 20), "one of them is not told");
    }

    #[test]
    fn this_hosts_pcpus_are_those_it_counts_the_time_of() {
        let kernel = Kernel::default();
        let (topology, unread) = kernel.topology();
        assert_eq!(unread, []);
        let counted: CpuSet = kernel.host().0.pcpus.iter().map(|pcpu| pcpu.id).collect();
        assert_eq!(topology.online(), counted);
    }
}

//! On which NUMA nodes the memory of a domain is: `memory.numa_stat` of its cgroup, which costs some 20 us, where
//! `/proc/PID/numa_maps` walks all page tables of the guest.

use std::io;

use kvmpilot_core::sample::NodeMemorySample;

use super::{Kernel, text};

/// Kernels count v1 figures in pages of this size, on all that KVM runs on but some arm64 and ppc64 ones: only the
/// proportions of the nodes count.
const PAGE_KIB: u64 = 4;

impl Kernel {
    /// Memory of a QEMU by NUMA node.
    ///
    /// # Errors
    /// Where the domain has no memory cgroup of its own, or the kernel was built without NUMA.
    pub fn memory_by_node(&self, pid: u32) -> io::Result<Vec<NodeMemorySample>> {
        let directories = self.hierarchies()?.memory(&self.membership(pid, pid)?)?;
        let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
        for directory in directories {
            result = text(&directory.join("memory.numa_stat")).map(|text| parse(&text));
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// v1: `hierarchical_total=5745606 N0=5745606`, in pages; v2: `anon N0=4096 N1=0` and other kinds, in bytes.
fn parse(text: &str) -> Vec<NodeMemorySample> {
    let mut nodes: Vec<NodeMemorySample> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let per_kib = match words.next() {
            Some(kind) if kind.starts_with("hierarchical_total=") => {
                |pages: u64| pages.saturating_mul(PAGE_KIB)
            }
            // Shared memory is in `file`.
            Some("anon" | "file") => |bytes: u64| bytes / 1024,
            _ => continue,
        };
        for word in words {
            let figure = word.strip_prefix('N').and_then(|word| word.split_once('='));
            let Some((Ok(node), Ok(figure))) = figure.map(|(node, figure)| (node.parse(), figure.parse()))
            else {
                continue;
            };
            match nodes.iter_mut().find(|other| other.node == node) {
                Some(known) => known.kib = known.kib.saturating_add(per_kib(figure)),
                None => nodes.push(NodeMemorySample { node, kib: per_kib(figure) }),
            }
        }
    }
    nodes.sort_by_key(|part| part.node);
    nodes
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const V1: &str = "total=7 N0=7\nanon=3 N0=1 N1=2\nhierarchical_total=300 N0=200 N1=100\n";
    const V2: &str =
        "anon N0=4096 N1=1048576\nfile N0=2048 N1=0\nkernel_stack N0=0 N1=16384\nshmem N0=2048 N1=0\n";

    fn part(node: u32, kib: u64) -> NodeMemorySample {
        NodeMemorySample { node, kib }
    }

    fn host(root: &Path, mounts: &str, membership: &str, group: &str, stat: &str) -> Kernel {
        for directory in ["self", "40/task/40", group] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join("self/mountinfo"), mounts).unwrap();
        fs::write(root.join("40/task/40/cgroup"), membership).unwrap();
        fs::write(root.join(group).join("memory.numa_stat"), stat).unwrap();
        Kernel::at(root, root)
    }

    #[test]
    fn version_1_counts_pages_and_version_2_bytes() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().display();
        let mounts = format!("48 47 0:29 / {at}/memory rw - cgroup none rw,memory\n");
        let own = "9:memory:/machine/qemu-1-web.libvirt-qemu\n";
        let kernel = host(root.path(), &mounts, own, "memory/machine/qemu-1-web.libvirt-qemu", V1);
        assert_eq!(kernel.memory_by_node(40).unwrap(), [part(0, 800), part(1, 400)]);
        fs::write(root.path().join("40/task/40/cgroup"), "9:memory:/user.slice\n").unwrap();
        assert!(kernel.memory_by_node(40).is_err(), "what it shares with others says nothing about it");

        let root = tempfile::tempdir().unwrap();
        let mounts = format!("48 47 0:29 / {}/v2 rw - cgroup2 none rw\n", root.path().display());
        let scope = "v2/machine.slice/machine-qemu-1-web.scope";
        let own = "0::/machine.slice/machine-qemu-1-web.scope/libvirt/emulator\n";
        let kernel = host(root.path(), &mounts, own, scope, V2);
        assert_eq!(kernel.memory_by_node(40).unwrap(), [part(0, 6), part(1, 1024)]);
    }

    #[test]
    fn nonsense_is_passed_over() {
        assert_eq!(parse("anon N0=x Nx=1 1=2 N1\nfile\n\nhierarchical_total=9\n"), []);
        assert_eq!(parse("anon N0=18446744073709551615\nfile N0=18446744073709551615\n")[0].node, 0);
    }
}

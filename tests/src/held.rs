//! What a daemon holds of domains: open files and eBPF objects, looked at from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::bpf::{self, Kind, Object};

/// What one process holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// Links of the descriptors that are about domains, in their order; not its own affairs (sockets, pipes, its database).
    pub links: Vec<String>,
    /// Number of all its descriptors.
    pub descriptors: usize,
    /// Its eBPF objects.
    pub objects: BTreeSet<Object>,
}

impl Held {
    /// What this process holds now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn by(pid: u32) -> Result<Self> {
        let mut links = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let Ok(link) = fs::read_link(entry?.path()) else { continue };
            links.push(link.to_string_lossy().into_owned());
        }
        let descriptors = links.len();
        links.retain(|link| {
            link.starts_with("/proc/")
                || link.starts_with("/sys/")
                || link.starts_with("anon_inode:kvm")
                || link.contains("pidfd")
        });
        links.sort();
        Ok(Self { links, descriptors, objects: bpf::held_by(pid)? })
    }

    /// How many of the links contain this.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        self.links.iter().filter(|link| link.contains(what)).count()
    }

    /// How many objects there are of a kind.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> usize {
        self.objects.iter().filter(|object| object.kind == kind).count()
    }

    /// Processes of whose files in `/proc` some are held, though they have ended.
    #[must_use]
    pub fn of_the_dead(&self) -> BTreeSet<u32> {
        let pids = self.links.iter().filter_map(|link| link.strip_prefix("/proc/")?.split('/').next());
        let pids = pids.filter_map(|pid| pid.parse::<u32>().ok());
        pids.filter(|pid| !Path::new("/proc").join(pid.to_string()).exists()).collect()
    }
}

//! Gateway to the kernel's files: the only place that opens /proc, /sys and cgroup files. It reads and
//! parses; rates and opinions are the model's. Each reader returns what it could read and a list of what it
//! could not.

mod cgroup;
mod competitor;
mod descriptors;
mod detail;
mod exit_counter;
mod facts;
mod features;
mod heap;
mod hold;
mod host;
mod kept;
mod kvm_stats;
mod numa_stat;
mod process;
mod tap;
mod thread;
mod topology;
mod trace_event;
mod vhost;
mod vitals;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use cgroup::{Bandwidth, Hierarchies, Membership, Pressure};
pub use detail::{Detail, QemuProcess, Shared, VcpuThread};
pub use exit_counter::ExitCounter;
pub use features::{Cgroups, Features};
pub use heap::give_back_freed_memory;
pub use hold::{Process, SchedstatFile};
pub use kvm_stats::{KvmStats, Layout, Stat, StatKind, StatUnit};
pub use process::OwnUse;
pub use thread::{Schedstat, ThreadInfo, role};
pub use trace_event::{TraceEvent, TraceEventError, TraceField};
pub use vitals::{MainThread, Vitals};

/// No file that is read here is longer; QEMU's command line comes closest.
const LIMIT: u64 = 1 << 20;
/// `/proc` counts in USER_HZ, which is 100 wherever KVM runs.
const NS_PER_TICK: u64 = 10_000_000;

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The file or directory.
    pub path: PathBuf,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// The kernel's files, below two roots so that tests can bring their own.
#[derive(Clone, Debug)]
pub struct Kernel {
    proc: PathBuf,
    sys: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::at("/proc", "/sys")
    }
}

impl Kernel {
    /// The files below `proc` and `sys`.
    pub fn at(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), sys: sys.into() }
    }
}

/// The text of a small file.
fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Collects what could not be read while the rest goes on.
#[derive(Debug, Default)]
struct Unreads(Vec<Unread>);

impl Unreads {
    fn add(&mut self, path: &Path, reason: impl fmt::Display) {
        self.0.push(Unread { path: path.to_owned(), reason: reason.to_string() });
    }

    /// What `parse` makes of a file's text.
    fn parse<T>(&mut self, path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        match text(path) {
            Ok(text) => {
                let value = parse(&text);
                if value.is_none() {
                    self.add(path, "not in the form that Linux documents");
                }
                value
            }
            Err(err) => {
                self.add(path, err);
                None
            }
        }
    }
}

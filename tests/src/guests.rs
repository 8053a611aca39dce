//! The guests of the lab, described in one place: the standard three, and the builder for others.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One guest, before it is made.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// Name of the domain.
    pub name: String,
    /// Number of vcpus.
    pub vcpus: u32,
    /// vcpus that can be plugged in while it runs; none: no more than it has.
    #[serde(default)]
    pub most_vcpus: Option<u32>,
    /// Memory in MiB, at start and at most.
    pub memory_mib: u64,
    /// Whether the guest runs qemu-ga and the domain has its channel.
    pub agent: bool,
    /// Commands that its qemu-ga refuses (`--block-rpcs`), as on RHEL and its kin.
    #[serde(default)]
    pub blocked: Vec<String>,
    /// Number of iothreads.
    pub iothreads: u32,
    /// pcpus that its administrator keeps it to, like `4-7`; none: all.
    #[serde(default)]
    pub pcpus: Option<String>,
    /// Sizes of its disks in MiB, empty at start, as quick as a cheap SSD: `/dev/vda`, `/dev/vdb`, ...
    #[serde(default)]
    pub disks_mib: Vec<u64>,
    /// Last part of its address 10.77.0.x; also the last part of its MAC address. Unique in a lab.
    pub octet: u8,
    /// Its operating system.
    pub system: System,
    /// What runs in it.
    pub work: Vec<Work>,
}

/// The kinds of guests.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub enum System {
    /// A kernel, busybox and the agent in a few MiB. All of its work is in one session: one autogroup.
    #[default]
    Busybox,
    /// Debian with systemd, on cgroup v2. Each work is a unit named after its process; it needs 512 MiB.
    Debian,
}

/// A process of a guest. Its name is what `/proc/PID/comm` shows.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// `httpd` on port 80; each request of `/cgi-bin/work` costs some 15 ms of vcpu time.
    Http,
    /// `answer` on port 7000: a few bytes for each connection, of which it can take thousands a minute.
    Answer,
    /// `customer`: asks this guest's own server for `/cgi-bin/ask` each second, and that asks the [`Work::Answer`] at this
    /// address. Needs [`Work::Http`].
    Customer(String),
    /// A process of this name that burns CPU and says nothing.
    Hog(String),
    /// A process of this name that burns CPU and tells on the console how much work it has done: see [`crate::Told`].
    Cruncher(String),
    /// A process of this name that wakes up each 10 ms and tells on the console how late it was.
    Metronome(String),
    /// A process of this name that does nothing.
    Sleeper(String),
    /// A program whose memory grows and shrinks: `tests/guest/workset.c` with these words, which hold neither blanks nor `,/`.
    /// The guest swaps to its first disk.
    Workset(Vec<String>),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => write!(f, "http:httpd"),
            Self::Answer => write!(f, "answer:answer"),
            Self::Customer(peer) => write!(f, "customer:{peer}"),
            Self::Hog(name) => write!(f, "hog:{name}"),
            Self::Cruncher(name) => write!(f, "cruncher:{name}"),
            Self::Metronome(name) => write!(f, "metronome:{name}"),
            Self::Sleeper(name) => write!(f, "sleeper:{name}"),
            Self::Workset(words) => write!(f, "workset:{}", words.join("/")),
        }
    }
}

/// Serves HTTP that costs CPU; a hog and an idle process beside the server are what the ladder has to sort out.
#[must_use]
pub fn web() -> GuestSpec {
    GuestSpec::new("web", 11)
        .vcpus(2)
        .runs(Work::Http)
        .runs(Work::Hog("hog".to_owned()))
        .runs(Work::Sleeper("sleeper".to_owned()))
}

/// Burns all the CPU that it gets and has nothing to do with the network.
#[must_use]
pub fn batch() -> GuestSpec {
    let cruncher = |n| Work::Hog(format!("cruncher{n}"));
    GuestSpec::new("batch", 12).vcpus(2).iothreads(1).memory_mib(384).runs(cruncher(1)).runs(cruncher(2))
}

/// Has 512 MiB and needs little of it.
#[must_use]
pub fn idle() -> GuestSpec {
    GuestSpec::new("idle", 13).runs(Work::Sleeper("sleeper".to_owned()))
}

/// [`web`], [`batch`] and [`idle`].
#[must_use]
pub fn standard() -> Vec<GuestSpec> {
    vec![web(), batch(), idle()]
}

impl GuestSpec {
    /// A guest with 1 vcpu, 512 MiB, an agent and no work, at 10.77.0.`octet`.
    #[must_use]
    pub fn new(name: &str, octet: u8) -> Self {
        Self {
            name: name.to_owned(),
            vcpus: 1,
            most_vcpus: None,
            memory_mib: 512,
            agent: true,
            blocked: Vec::new(),
            iothreads: 0,
            pcpus: None,
            disks_mib: Vec::new(),
            octet,
            system: System::Busybox,
            work: Vec::new(),
        }
    }

    /// Sets the number of vcpus.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Lets vcpus be plugged in while it runs, up to so many.
    #[must_use]
    pub fn at_most_vcpus(mut self, vcpus: u32) -> Self {
        self.most_vcpus = Some(vcpus);
        self
    }

    /// Sets the memory in MiB. The guest's system alone needs about 128.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Sets the number of iothreads.
    #[must_use]
    pub fn iothreads(mut self, iothreads: u32) -> Self {
        self.iothreads = iothreads;
        self
    }

    /// Keeps its vcpus and its emulator to these pcpus.
    #[must_use]
    pub fn on(mut self, pcpus: &str) -> Self {
        self.pcpus = Some(pcpus.to_owned());
        self
    }

    /// Adds a disk of this size.
    #[must_use]
    pub fn disk_mib(mut self, size: u64) -> Self {
        self.disks_mib.push(size);
        self
    }

    /// Makes it a Debian guest.
    #[must_use]
    pub fn debian(mut self) -> Self {
        self.system = System::Debian;
        self
    }

    /// Has qemu-ga refuse these commands.
    #[must_use]
    pub fn blocks(mut self, commands: &[&str]) -> Self {
        self.blocked = commands.iter().map(|command| (*command).to_owned()).collect();
        self
    }

    /// Leaves out qemu-ga and its channel.
    #[must_use]
    pub fn without_agent(mut self) -> Self {
        self.agent = false;
        self
    }

    /// Adds a process.
    #[must_use]
    pub fn runs(mut self, work: Work) -> Self {
        self.work.push(work);
        self
    }

    /// The guest's address on the lab's bridge.
    #[must_use]
    pub fn ip(&self) -> String {
        format!("10.77.0.{}", self.octet)
    }
}

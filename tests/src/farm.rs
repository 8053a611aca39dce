//! Many processes that look to the kernel like QEMUs, in cgroups like libvirt's: for tests and benchmarks of the fast
//! cycle, which cares for threads and not for guests.

use std::fs;
use std::io::{PipeWriter, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cgroups::Cgroups;

/// Threads of each: main loop, two vcpus, an iothread, a worker.
pub const THREADS: usize = 5;
/// How long a process may take to start its threads, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running farm. Dropping it ends its processes and removes its cgroups; the processes also end with this one.
#[derive(Debug)]
pub struct Farm {
    program: PathBuf,
    /// Which of this process' farms it is.
    number: u16,
    members: Vec<Member>,
    cgroups: Cgroups,
}

/// One process.
#[derive(Debug)]
struct Member {
    child: Child,
    orders: PipeWriter,
}

impl Farm {
    /// An empty one of the program `qemu-like`.
    ///
    /// # Errors
    /// When its cgroups cannot be made.
    pub fn new(program: &Path) -> Result<Self> {
        static FARMS: AtomicU16 = AtomicU16::new(0);
        let number = FARMS.fetch_add(1, Relaxed);
        let cgroups = Cgroups::new(&format!("kvmpilot-farm{number}"))?;
        Ok(Self { program: program.to_owned(), number, members: Vec::new(), cgroups })
    }

    /// The uuid of a domain of this farm, as a number. No other farm on this host has it, of this process or of another, or
    /// two processes would claim to be one domain.
    #[must_use]
    pub fn uuid(&self, domain: u32) -> u128 {
        let farm = u128::from(self.number);
        u128::from(std::process::id()) << 96 | farm << 80 | 0xfa12 << 64 | u128::from(domain)
    }

    /// Starts one more process for a domain; its vcpu 0 wakes up each `wake`. Returns its pid.
    ///
    /// # Errors
    /// When it does not start its threads in time, or cannot be put into its cgroups.
    pub fn add(&mut self, uuid: &str, wake: Duration) -> Result<u32> {
        let (input, orders) = pipe()?;
        let mut command = Command::new(&self.program);
        command.args(["-uuid", uuid, &wake.as_millis().to_string()]);
        let child = command.stdin(Stdio::from(input)).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot run {}", self.program.display()))?;
        let pid = child.id();
        self.members.push(Member { child, orders });
        let deadline = Instant::now() + PATIENCE;
        // A thread is named only after its birth.
        while threads(pid)?.iter().filter(|(_, comm)| comm != "qemu-like").count() + 1 < THREADS {
            ensure!(Instant::now() < deadline, "{pid} does not start its threads");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.cgroups.add(self.members.len(), pid, &threads(pid)?)?;
        Ok(pid)
    }

    /// Orders one of them, counted from 0, to do something: see `qemu-like`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn order(&mut self, member: usize, order: &str) -> Result<()> {
        let member = self.members.get_mut(member).context("no such member")?;
        Ok(writeln!(member.orders, "{order}")?)
    }

    /// Ends one of them, counted from 0, and reaps it. It keeps its number.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn end(&mut self, member: usize) -> Result<()> {
        let member = self.members.get_mut(member).context("no such member")?;
        member.child.kill()?;
        member.child.wait()?;
        Ok(())
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended already.
            let _ = member.child.kill();
        }
        for member in &mut self.members {
            let _ = member.child.wait();
        }
    }
}

/// tid and name of each thread.
fn threads(pid: u32) -> Result<Vec<(u32, String)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let comm = fs::read_to_string(entry.path().join("comm"))?;
        threads.push((entry.file_name().to_string_lossy().parse()?, comm.trim_end().to_owned()));
    }
    Ok(threads)
}

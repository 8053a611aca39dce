//! What an exporter of libvirt's statistics does: all groups of all domains, again and again, over one connection.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::Lab;

/// Comes at the start of a line once a command before it is done; virsh shows what it reads, but behind its prompt.
const END: &str = "\nsweep-ends";

/// One virsh that stays, so that neither its start nor its connection is in the figures.
#[derive(Debug)]
pub(super) struct Sweeper {
    virsh: Child,
    orders: ChildStdin,
    answers: ChildStdout,
}

/// One sweep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    pub(super) took: Duration,
    /// Domains that were told of.
    pub(super) domains: usize,
    /// Values that were told.
    pub(super) values: usize,
}

impl Sweeper {
    /// Connects.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let mut virsh = lab.command("virsh");
        virsh.args(["--quiet", "--connect", "qemu:///system"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut virsh = virsh.spawn().context("cannot start virsh")?;
        let orders = virsh.stdin.take().context("virsh has no input")?;
        let answers = virsh.stdout.take().context("virsh has no output")?;
        let mut sweeper = Self { virsh, orders, answers };
        // It connects when it has to.
        sweeper.ask("version")?;
        Ok(sweeper)
    }

    /// Asks for everything about all domains that run.
    pub(super) fn sweep(&mut self) -> Result<Sweep> {
        let began = Instant::now();
        let answer = self.ask("domstats --list-active --raw")?;
        let took = began.elapsed();
        let of = |start: &str| answer.lines().filter(|line| line.starts_with(start)).count();
        Ok(Sweep { took, domains: of("Domain: "), values: of("  ") })
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.orders, "{command}\necho {}", END.trim_start())?;
        self.orders.flush()?;
        let (mut answer, mut piece) = (Vec::new(), [0; 1 << 16]);
        // It may be cut anywhere.
        let mut looked = 0_usize;
        loop {
            let count = self.answers.read(&mut piece)?;
            ensure!(count > 0, "virsh ended; it said: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..count]);
            let fresh = &answer[looked.saturating_sub(END.len())..];
            if fresh.windows(END.len()).any(|part| part == END.as_bytes()) {
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
            looked = answer.len();
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let _ = self.orders.write_all(b"quit\n");
        let _ = self.virsh.kill();
        let _ = self.virsh.wait();
    }
}

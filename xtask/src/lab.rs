//! `lab up|shell|down|host`: a lab for people.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use kvmpilot_tests::{Lab, LabOptions, guests, reap_stale};

use crate::command::say;
use crate::{host, setup};

const BOOT: Duration = Duration::from_secs(120);

#[derive(Debug, Subcommand)]
pub(crate) enum LabTask {
    /// Start a lab with the guests web, batch and idle, and leave it running
    Up,
    /// Run a shell, or a command, inside the lab: virsh, curl 10.77.0.11, kvmpilotd ...
    Shell {
        /// The command and its arguments; it starts in /
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// End all labs that `up` left running
    Down,
    /// Boot a whole KVM host in a virtual machine (Debian 13, systemd, cgroup v2, 8 pcpus, 2 NUMA nodes), install the package on
    /// it and start guests under KVM, until Ctrl-C
    Host {
        /// Show its console here, with root logged in; Ctrl-] ends it
        #[arg(long)]
        shell: bool,
        /// Without the package and guests: a host as Debian makes it
        #[arg(long)]
        bare: bool,
        /// Also put this file below /lab on the host
        #[arg(long, value_name = "FILE")]
        with: Vec<PathBuf>,
    },
}

pub(crate) fn lab(task: &LabTask) -> Result<()> {
    match task {
        LabTask::Up => up(),
        LabTask::Shell { command } => shell(command),
        LabTask::Down => down(),
        LabTask::Host { shell, bare, with } => host::lab(*shell, *bare, with),
    }
}

fn up() -> Result<()> {
    setup::setup(setup::Needs::Lab)?;
    let begin = Instant::now();
    let lab = Lab::start(&LabOptions { guests: guests::standard() })?;
    say(&format!("guests run under {}: {}", lab.accel(), lab.accel_reason()));
    for guest in lab.guests() {
        lab.wait_agent(&guest.name, BOOT)?;
        say(&format!(
            "{} at {} answers after {:.1} s",
            guest.name,
            guest.ip(),
            begin.elapsed().as_secs_f64()
        ));
    }
    let (state, logs) = (lab.state_dir(), lab.logs_dir().to_owned());
    let name = lab.detach()?;
    say(&format!("{name} is up; `cargo xtask lab shell` enters it, `cargo xtask lab down` ends it"));
    println!("    state {}\n    logs  {}", state.display(), logs.display());
    Ok(())
}

fn shell(words: &[String]) -> Result<()> {
    let names = Lab::detached()?;
    let name = names.last().context("no lab is up: `cargo xtask lab up`")?;
    let lab = Lab::attach(name)?;
    let (program, arguments) =
        words.split_first().map_or(("bash", words), |(first, rest)| (first.as_str(), rest));
    let mut command = lab.command(program);
    // Debian's bashrc shows debian_chroot in the prompt.
    command.args(arguments).env("LIBVIRT_DEFAULT_URI", "qemu:///system").env("debian_chroot", name);
    bail!("cannot run {program} in the lab: {}", command.exec())
}

fn down() -> Result<()> {
    for name in Lab::detached()? {
        Lab::attach(&name)?.stop()?;
        say(&format!("{name} is gone"));
    }
    for name in reap_stale()? {
        say(&format!("{name} is gone, too: its keeper had been killed"));
    }
    Ok(())
}

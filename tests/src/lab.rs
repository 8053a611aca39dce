//! A lab: starting it, running programs in it, ending it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::accel::{self, Accel};
use crate::domain_xml::{Site, disk_file, domain_xml};
use crate::guests::System;
use crate::image::image;
use crate::keeper::{self, Keeper, state_dir};
use crate::paths::lab_cache;
use crate::run::{output_of, wait_for};
use crate::{GuestSpec, reap_stale};

const LIBVIRTD_TIMEOUT: Duration = Duration::from_secs(30);
const TOOLS: [&str; 8] =
    ["libvirtd", "virtlogd", "virsh", "qemu-system-x86_64", "unshare", "nsenter", "ip", "wrk"];
/// What a guest's `init` says last.
const READY: &str = "kvmpilot lab: ready";
/// A guest that boots says its first word within 10 s, beside many others within 30 s.
const MUTE: Duration = Duration::from_secs(45);
/// Logs of this many past labs are kept.
const KEPT_LOGS: usize = 30;

const LIBVIRTD_CONF: &str = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlog_outputs = \"3:stderr\"\n";
/// QEMU runs as root: the image lies wherever the clone lies. Ownership is neither changed nor remembered (libvirt
/// would leave xattrs on the image that a killed lab never takes back).
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ndynamic_ownership = 0\n\
                         remember_owner = 0\nnamespaces = []\n";

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// The guests to boot at once; more can follow with [`Lab::boot`].
    pub guests: Vec<GuestSpec>,
}

/// A running lab. Dropping it removes it, and so does whatever ends this process.
#[derive(Debug)]
pub struct Lab {
    name: String,
    keeper: Keeper,
    verdict: accel::Verdict,
    guests: Vec<GuestSpec>,
    logs: PathBuf,
}

impl Lab {
    /// Starts a lab and boots its guests, but does not wait for them: see [`Lab::wait_agent`].
    /// The first call on a machine downloads three packages and tries `/dev/kvm`.
    ///
    /// # Errors
    /// Without root or a needed program, or when a step fails.
    pub fn start(options: &LabOptions) -> Result<Self> {
        check_host()?;
        reap_stale()?;
        let verdict = accel::verdict(&image(System::Busybox)?)?;

        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("kvmpilot-lab-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let logs = lab_cache().join("logs").join(&name);
        fs::create_dir_all(&logs)?;
        prune_logs()?;
        let etc = state_dir(&name).join("etc");
        fs::create_dir_all(&etc)?;
        fs::write(etc.join("libvirtd.conf"), LIBVIRTD_CONF)?;
        fs::write(etc.join("qemu.conf"), QEMU_CONF)?;
        let keeper = Keeper::start(&name, &logs)?;

        let mut lab = Self { name, keeper, verdict, guests: Vec::new(), logs };
        wait_for("the lab's libvirtd", LIBVIRTD_TIMEOUT, || lab.virsh(&["version"]))
            .with_context(|| format!("see {}", lab.logs.join("libvirtd.log").display()))?;
        for guest in &options.guests {
            lab.boot(guest)?;
        }
        Ok(lab)
    }

    /// Finds a lab that [`Lab::detach`] left running. Dropping it leaves it running; [`Lab::stop`] ends it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn attach(name: &str) -> Result<Self> {
        let keeper = Keeper::attach(name)?;
        let verdict = accel::verdict(&image(System::Busybox)?)?;
        let guests = serde_json::from_slice(&fs::read(state_dir(name).join("guests.json"))?)?;
        let logs = lab_cache().join("logs").join(name);
        Ok(Self { name: name.to_owned(), keeper, verdict, guests, logs })
    }

    /// Names of this workspace's labs that [`Lab::detach`] left running, in their order.
    ///
    /// # Errors
    /// When their directory cannot be read.
    pub fn detached() -> Result<Vec<String>> {
        keeper::detached()
    }

    /// Defines and starts one more guest.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn boot(&mut self, guest: &GuestSpec) -> Result<()> {
        let image = image(guest.system)?;
        let disks = self.state_dir();
        for (disk, size) in guest.disks_mib.iter().enumerate() {
            fs::File::create(disk_file(&disks, &guest.name, disk))?.set_len(size << 20)?;
        }
        let (accel, partition) = (self.accel(), &self.name);
        let site = Site { image: &image, accel, partition, logs: &self.logs, disks: &disks };
        self.define_and_start(&guest.name, &domain_xml(guest, &site))?;
        self.guests.push(guest.clone());
        fs::write(self.state_dir().join("guests.json"), serde_json::to_vec(&self.guests)?)?;
        Ok(())
    }

    /// Defines a domain of this XML, and starts it.
    pub(crate) fn define_and_start(&self, name: &str, xml: &str) -> Result<()> {
        let path = self.state_dir().join(format!("{name}.xml"));
        fs::write(&path, xml)?;
        self.virsh(&["define", &path.to_string_lossy()])?;
        self.virsh(&["start", name]).map(drop)
    }

    /// The lab's name; also its cgroup partition, with `.partition` behind it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What runs the guests.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.verdict.accel
    }

    /// Why that accelerator.
    #[must_use]
    pub fn accel_reason(&self) -> &str {
        &self.verdict.reason
    }

    /// The guests that were booted.
    #[must_use]
    pub fn guests(&self) -> &[GuestSpec] {
        &self.guests
    }

    /// A guest's description.
    ///
    /// # Errors
    /// When the lab has no such guest.
    pub fn guest(&self, name: &str) -> Result<&GuestSpec> {
        let found = self.guests.iter().find(|guest| guest.name == name);
        found.with_context(|| format!("the lab has no guest {name}"))
    }

    /// A directory of the lab's own, the same inside and outside, with a path short enough for unix sockets.
    /// Goes with the lab.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.name)
    }

    /// Logs of the daemons and the guests' consoles. Stays after the lab.
    #[must_use]
    pub fn logs_dir(&self) -> &Path {
        &self.logs
    }

    /// A command that runs inside the lab's mount and network namespaces. The child is the program itself: its pid can
    /// be signalled. It starts in `/`, so give the program's absolute path or its name in `PATH`. It ends with the lab.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // Not `ip netns exec`: that one remounts /sys and hides the cgroups.
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.pid.to_string(), "--mount", "--net", "--"]).arg(program);
        command.env("KVMPILOT_LAB", &self.name);
        command
    }

    pub(crate) const fn keeper_pid(&self) -> u32 {
        self.keeper.pid
    }

    /// Runs `virsh` on the lab's libvirtd and returns what it printed.
    ///
    /// # Errors
    /// When virsh fails.
    pub fn virsh(&self, args: &[&str]) -> Result<String> {
        output_of(self.command("virsh").args(["--quiet", "--connect", "qemu:///system"]).args(args))
    }

    /// The pid of a guest's QEMU.
    ///
    /// # Errors
    /// When the guest does not run.
    pub fn qemu_pid(&self, guest: &str) -> Result<u32> {
        let path = format!("/proc/{}/root/run/libvirt/qemu/{guest}.pid", self.keeper.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("guest {guest} has no {path}"))?;
        text.trim().parse().with_context(|| format!("{path} holds no pid"))
    }

    /// Waits until all guests have booted. Where the machine is very busy, QEMU's emulation has been seen to reset one before
    /// its kernel said a word, which ends the domain, and to let one hang there for good: such a one is started again.
    ///
    /// # Errors
    /// When one is not ready in time.
    pub fn wait_booted(&self, timeout: Duration) -> Result<()> {
        for GuestSpec { name, .. } in &self.guests {
            let console = self.logs.join(format!("console-{name}.log"));
            let mut started = Instant::now();
            wait_for(&format!("{name} to boot"), timeout, || {
                let said = fs::read(&console).unwrap_or_default();
                if String::from_utf8_lossy(&said).contains(READY) {
                    return Ok(());
                }
                if said.is_empty() {
                    let mut is_off = self.virsh(&["domstate", name])?.trim() == "shut off";
                    if !is_off && started.elapsed() > MUTE {
                        self.virsh(&["destroy", name])?;
                        is_off = true;
                    }
                    if is_off {
                        println!("{name} did not boot, and is started again");
                        self.virsh(&["start", name])?;
                        started = Instant::now();
                    }
                }
                bail!("its console says: {}", String::from_utf8_lossy(&said))
            })?;
        }
        Ok(())
    }

    /// Gives all guests together so many `times` the weight of any one program of this machine, 1 to 100. Without, a compiler
    /// beside them takes as much CPU as all of them, and what they take from each other counts for little. With much more
    /// than 2 a daemon that has to be quick starves.
    ///
    /// # Errors
    /// When the weight is refused.
    pub fn outweigh_the_machine(&self, times: u32) -> Result<()> {
        let partition = format!("{}.partition", self.name);
        for (file, weight) in [
            (format!("/sys/fs/cgroup/cpu/{partition}/cpu.shares"), 1024 * times),
            (format!("/sys/fs/cgroup/{partition}/cpu.weight"), 100 * times),
        ] {
            if Path::new(&file).exists() {
                fs::write(&file, weight.to_string()).with_context(|| format!("cannot write {file}"))?;
            }
        }
        Ok(())
    }

    /// Leaves the lab running when this process ends, and returns its name.
    ///
    /// # Errors
    /// When the keeper does not answer.
    pub fn detach(mut self) -> Result<String> {
        self.keeper.detach()?;
        Ok(self.name.clone())
    }

    /// Ends the lab and waits until nothing is left of it.
    ///
    /// # Errors
    /// When something does not end; dropping would keep quiet about that.
    pub fn stop(mut self) -> Result<()> {
        self.keeper.end()
    }
}

fn check_host() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: it makes namespaces and runs libvirtd");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = TOOLS
        .into_iter()
        .filter(|tool| !std::env::split_paths(&path).any(|directory| directory.join(tool).exists()))
        .collect();
    if !missing.is_empty() {
        bail!("the lab needs {}: run `cargo xtask setup`", missing.join(", "));
    }
    Ok(())
}

fn prune_logs() -> Result<()> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(lab_cache().join("logs"))? {
        let entry = entry?;
        if !state_dir(&entry.file_name().to_string_lossy()).exists() {
            logs.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    logs.sort();
    let surplus = logs.len().saturating_sub(KEPT_LOGS);
    for (_, path) in logs.drain(..surplus) {
        // Another lab may be pruning as well.
        let _ = fs::remove_dir_all(path);
    }
    Ok(())
}

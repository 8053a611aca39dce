//! A whole KVM host in a virtual machine: Debian 13 with systemd, cgroup v2, libvirt, two sockets and two NUMA nodes, where
//! guests run under KVM (QEMU's TCG emulates AMD's SVM). For what needs a host of its own: the package, the unit, the hook.
//!
//! Here lives how it is started, spoken to and ended. The images are made by `cargo xtask` ([`HostImages`]).

mod agent;
mod guest;
mod images;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Accel;
use crate::guests::System;
use crate::image::image;
use crate::paths::STATE_ROOT;
use crate::run::{run, wait_for};
use agent::Agent;
pub use agent::Done;
pub use images::{HostImages, make_disk};

/// From power-on to the agent's first answer: 20 s on two idle cores.
const BOOT: Duration = Duration::from_secs(240);
/// For the host to stop its services and power off.
const POWER_OFF: Duration = Duration::from_secs(60);
/// How long a command gets that is not told how long.
const USUAL: Duration = Duration::from_secs(120);
/// Memory of each of the two nodes, in MiB.
const NODE_MIB: u32 = 3072;
/// The host's name.
pub const HOST_NAME: &str = "kvmhost";
/// Where the payload is mounted in it: what was put into [`HostImages::payload`], and the guests' images.
pub const PAYLOAD: &str = "/lab";

/// A running host. Dropping it ends it at once; what it wrote is gone.
#[derive(Debug)]
pub struct HostVm {
    qemu: Child,
    state: PathBuf,
    logs: PathBuf,
    agent: Mutex<Agent>,
}

impl HostVm {
    /// Boots the host and waits until systemd has started everything.
    ///
    /// # Errors
    /// When an image is missing or it does not come up; the end of its console is part of the message.
    pub fn start(images: &HostImages) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("host-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        // On tmpfs and with a short path, as its sockets need it.
        let state = Path::new(STATE_ROOT).join(&name);
        fs::create_dir_all(&state)?;
        let logs = crate::paths::lab_cache().join("logs").join(&name);
        fs::create_dir_all(&logs)?;
        // What it writes goes to an overlay: the image stays as it was made.
        let overlay = logs.join("disk.qcow2");
        let backing = images.disk();
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&backing, &overlay]))?;
        let payload = logs.join("payload.ext4");
        images.make_payload(&payload)?;
        let qemu = spawn(images, &state, &logs, [&overlay, &payload])?;
        let mut host = Self { qemu, agent: Mutex::new(Agent::new(state.join("agent"))), state, logs };
        host.wait_booted().with_context(|| host.console_tail())?;
        Ok(host)
    }

    fn wait_booted(&mut self) -> Result<()> {
        wait_for("the host's agent", BOOT, || {
            if let Some(status) = self.qemu.try_wait()? {
                bail!(
                    "QEMU ended ({status}): {}",
                    fs::read_to_string(self.logs.join("qemu.log")).unwrap_or_default()
                );
            }
            self.lock().ping()
        })?;
        // "degraded" means that a unit failed: the tests look at units themselves.
        self.run_within("systemctl is-system-running --wait || systemctl --failed", BOOT).map(drop)
    }

    /// Runs a shell script as root and returns its standard output.
    ///
    /// # Errors
    /// When the agent does not answer, or the script fails (with its standard error) or takes longer than 2 min.
    pub fn run(&self, script: &str) -> Result<String> {
        self.run_within(script, USUAL)
    }

    /// The same with a deadline of one's own.
    ///
    /// # Errors
    /// As [`HostVm::run`].
    pub fn run_within(&self, script: &str, timeout: Duration) -> Result<String> {
        let Done { code, out, err } = self.try_run(script, timeout)?;
        if code != 0 {
            bail!("`{script}` on the host: exit code {code}: {}{}", out.trim_end(), err.trim_end());
        }
        Ok(out)
    }

    /// Runs a shell script as root; that it fails is no error.
    ///
    /// # Errors
    /// When the agent does not answer, or the script takes longer than `timeout`.
    pub fn try_run(&self, script: &str, timeout: Duration) -> Result<Done> {
        self.lock().exec(script, timeout).with_context(|| self.console_tail())
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let encoded = agent::encoded(content.as_bytes());
        self.run(&format!("mkdir -p \"$(dirname '{path}')\" && echo {encoded} | base64 -d >'{path}'"))
            .map(drop)
    }

    /// A unix socket that is its serial console, on which root is logged in.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.state.join("console")
    }

    /// Powers off in good order.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn stop(mut self) -> Result<()> {
        self.lock().exec_unheard("systemctl poweroff")?;
        wait_for("the host to power off", POWER_OFF, || match self.qemu.try_wait()? {
            Some(_) => Ok(()),
            None => bail!("it runs"),
        })
        .with_context(|| self.console_tail())
    }

    /// The directory of its logs, which stays.
    #[must_use]
    pub fn logs_dir(&self) -> &Path {
        &self.logs
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn console_tail(&self) -> String {
        let said = fs::read(self.logs.join("console.log")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        format!("the end of the host's console:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
    }
}

impl Drop for HostVm {
    fn drop(&mut self) {
        // All of these fail if it has ended well, or was never there.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.state);
        for disk in ["disk.qcow2", "payload.ext4"] {
            let _ = fs::remove_file(self.logs.join(disk));
        }
    }
}

fn spawn(images: &HostImages, state: &Path, logs: &Path, disks: [&PathBuf; 2]) -> Result<Child> {
    let (accel, cpu) = match crate::accel::verdict(&image(System::Busybox)?)?.accel {
        Accel::Kvm => ("kvm", "host"),
        // The only vendor whose virtualisation TCG emulates.
        Accel::Tcg => ("tcg,thread=multi", "max"),
    };
    let node = |id: u32, cpus: &str| {
        [
            "-object".to_owned(),
            format!("memory-backend-ram,id=m{id},size={NODE_MIB}M"),
            "-numa".to_owned(),
            format!("node,nodeid={id},cpus={cpus},memdev=m{id}"),
        ]
    };
    let socket = |id: &str| format!("socket,id={id},path={},server=on,wait=off", state.join(id).display());
    let [overlay, payload] = disks;
    let log = fs::File::create(logs.join("qemu.log"))?;
    // Ends with the thread that started it, however that ends.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"])
        .args(["-accel", accel, "-cpu", cpu, "-smp", "8,sockets=2,cores=2,threads=2"])
        .args(["-m", &format!("{}M", 2 * NODE_MIB)])
        .args(node(0, "0-3"))
        .args(node(1, "4-7"))
        .args(["-numa", "dist,src=0,dst=1,val=20"])
        .arg("-kernel")
        .arg(images.kernel())
        .arg("-initrd")
        .arg(images.initrd())
        .args(["-append", "root=/dev/vda rw console=ttyS0 quiet mitigations=off no_timer_check"])
        .args(["-drive", &format!("file={},if=virtio,format=qcow2,cache=unsafe", overlay.display())])
        .args(["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe", payload.display())])
        .args(["-device", "virtio-rng-pci", "-device", "virtio-serial"])
        .args(["-chardev", &socket("agent")])
        .args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
        .args(["-chardev", &format!("{},logfile={}", socket("console"), logs.join("console.log").display())])
        .args(["-serial", "chardev:console"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start setpriv, of util-linux")
}

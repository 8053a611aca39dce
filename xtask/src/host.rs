//! `lab host` and the images of the host VM: a Debian 13 with systemd and libvirt, made from packages without installing
//! them here. How it is started and spoken to is in `kvmpilot_tests::host_vm`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvmpilot_tests::host_vm::{HOST_NAME, HostImages, HostVm, PAYLOAD, make_disk};
use kvmpilot_tests::image::only_file;
use kvmpilot_tests::{guests, lab_cache};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::apt::{Release, source_like};
use crate::command::{run_shown, say};
use crate::{build_ebpf, package, setup};

/// The release that the host runs.
const SUITE: &str = "trixie";
/// What it is made of, with what that depends on. numactl shows people where memory lies; rsyslog is not needed.
const PACKAGES: [&str; 13] = [
    "systemd-sysv",
    "udev",
    "dbus",
    "linux-image-cloud-amd64",
    "kmod",
    "iproute2",
    "procps",
    "less",
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-guest-agent",
    "numactl",
];
/// Room on its disk, in MiB; it is sparse.
const DISK_MIB: u64 = 4096;
/// Files that make it the lab's: no password, a console, a bridge, its payload.
const FILES: [(&str, &str); 7] = [
    ("etc/hosts", "127.0.0.1 localhost kvmhost\n"),
    ("etc/fstab", "/dev/vda / ext4 defaults 0 0\n/dev/vdb /lab ext4 defaults 0 0\n"),
    // Empty: systemd makes one up at the first boot.
    ("etc/machine-id", ""),
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf",
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - vt220\n",
    ),
    ("etc/systemd/network/br0.netdev", "[NetDev]\nName=br0\nKind=bridge\n"),
    (
        "etc/systemd/network/br0.network",
        "[Match]\nName=br0\n[Link]\nRequiredForOnline=no\n[Network]\nAddress=10.77.0.1/24\nConfigureWithoutCarrier=yes\n",
    ),
    // Half of the journal's cost under emulation is the disk's.
    ("etc/systemd/journald.conf.d/lab.conf", "[Journal]\nStorage=volatile\n"),
];
/// Links: what is switched on, and what would only take time (libvirt-guests waits 300 s for guests at the end).
const LINKS: [(&str, &str); 6] = [
    (
        "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/usr/lib/systemd/system/systemd-networkd.service",
    ),
    ("etc/systemd/system/libvirt-guests.service", "/dev/null"),
    ("etc/systemd/system/apt-daily.timer", "/dev/null"),
    ("etc/systemd/system/apt-daily-upgrade.timer", "/dev/null"),
    ("etc/systemd/system/fstrim.timer", "/dev/null"),
    ("etc/systemd/system/ldconfig.service", "/dev/null"),
];
/// A guest answers after 8 s when nothing else runs.
const GUEST_BOOT: Duration = Duration::from_secs(180);

/// Boots the host, with the package and two guests unless it is to be bare, for people.
pub(crate) fn lab(shell: bool, bare: bool, files: &[PathBuf]) -> Result<()> {
    setup::setup(setup::Needs::Host)?;
    let mut images = files.iter().fold(images()?, |images, file| images.with(file));
    let mut package = None;
    if !bare {
        build_ebpf::build_ebpf()?;
        let deb = package::package(None)?;
        images = images.with(&deb);
        package = deb.file_name().map(|name| name.to_string_lossy().into_owned());
    }
    let begin = Instant::now();
    let host = HostVm::start(&images)?;
    say(&format!("{HOST_NAME} has booted after {:.0} s", begin.elapsed().as_secs_f64()));
    if let Some(package) = package {
        host.run(&format!("dpkg -i {PAYLOAD}/{package}"))?;
        for guest in [guests::web(), guests::batch()] {
            host.boot(&guest)?;
            host.wait_agent(&guest.name, GUEST_BOOT)?;
            let after = begin.elapsed().as_secs_f64();
            say(&format!("{} at {} answers after {after:.0} s", guest.name, guest.ip()));
        }
        println!("{}", host.run("systemctl --no-pager --lines 0 status kvmpilotd; kvmpilot status")?);
    }
    let console = host.console();
    if shell {
        say("the host's console; root is logged in; Ctrl-] ends all of it");
        let socket = format!("UNIX-CONNECT:{}", console.display());
        // A terminal that is interrupted is one that a person leaves: that it "fails" is no fault.
        let _ = Command::new("socat").args(["-,raw,echo=0,escape=0x1d", &socket]).status();
        println!();
    } else {
        say("it runs until Ctrl-C; its console, from another terminal:");
        println!("    socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{}", console.display());
        Signals::new([SIGINT, SIGTERM])?.forever().next();
    }
    host.stop()
}

/// The host's images, made now if they are not there yet.
pub(crate) fn images() -> Result<HostImages> {
    let mut hasher = DefaultHasher::new();
    include_str!("host.rs").hash(&mut hasher);
    let name = format!("host-{SUITE}-{:016x}", hasher.finish());
    let images = HostImages::named(&name);
    if !images.root().exists() {
        make(&images)?;
    }
    HostImages::set_newest(&name)?;
    Ok(images)
}

fn make(images: &HostImages) -> Result<()> {
    say(&format!("making the image of the host VM: Debian {SUITE} with libvirt, once"));
    let partial = lab_cache().join("host.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let root = partial.join("root");
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap
        .args(["--quiet", "--mode=root", "--variant=minbase"])
        // Neither descriptions nor documentation.
        .args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=path-exclude=/usr/share/doc/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(SUITE)
        .arg(&root)
        .args(sources(&partial)?);
    run_shown(&mut bootstrap)?;
    // What is installed on it later comes with its manuals.
    let _ = fs::remove_file(root.join("etc/dpkg/dpkg.cfg.d/99mmdebstrap"));
    for (path, content) in FILES {
        write(&root.join(path), content)?;
    }
    write(&root.join("etc/hostname"), &format!("{HOST_NAME}\n"))?;
    fs::create_dir_all(root.join(PAYLOAD.trim_start_matches('/')))?;
    for (path, target) in LINKS {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path)?;
        }
        std::os::unix::fs::symlink(target, &path)?;
    }
    let shadow = root.join("etc/shadow");
    let without_password = |line: &str| match line.strip_prefix("root:") {
        Some(rest) => format!("root:{}\n", rest.find(':').map_or("", |at| &rest[at..])),
        None => format!("{line}\n"),
    };
    let text: String = fs::read_to_string(&shadow)?.lines().map(without_password).collect();
    fs::write(&shadow, text)?;

    let ready = partial.join("ready");
    fs::create_dir(&ready)?;
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd")] {
        fs::copy(only_file(&root.join("boot"), prefix)?, ready.join(name))?;
    }
    make_disk(&root, &ready.join("disk.ext4"), DISK_MIB)?;
    fs::rename(&ready, images.root())?;
    fs::remove_dir_all(&partial)?;
    Ok(())
}

/// This machine's sources of packages, changed to the host's release: files that are named to mmdebstrap.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let base = Release::of_this_machine()?.codename();
    let (ending, entry) = source_like(base, SUITE)?;
    let mut entries = vec![(ending, entry)];
    // Security updates are good to have, but not everybody has a source of them.
    entries.extend(source_like(&format!("{base}-security"), &format!("{SUITE}-security")));
    let write = |(n, (ending, entry)): (usize, (&str, String))| {
        let path = directory.join(format!("{n}.{ending}"));
        fs::write(&path, entry)?;
        Ok(path)
    };
    entries.into_iter().enumerate().map(write).collect()
}

fn write(path: &Path, content: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

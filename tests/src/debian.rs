//! The second kind of guest: Debian with systemd and cgroup v2, unpacked from the host's own release of Debian without
//! installing it. Maintainer scripts do not run: what they would do and the guest needs is done here and in
//! `tests/guest/init`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::run::{output_of, run};

/// With what they depend on.
const PACKAGES: [&str; 13] = [
    "systemd-sysv",
    "base-files",
    "base-passwd",
    "bash",
    "dash",
    "coreutils",
    "debianutils",
    "findutils",
    "grep",
    "mount",
    "procps",
    "sed",
    "util-linux",
];
/// Nothing of it is needed, and all of it would lie in the guest's memory.
const LEFT_OUT: [&str; 12] = [
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl",
    "usr/share/zsh",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "var/cache",
];

/// The unpacked system, made now if it is not there yet. `agent` is the version of the guest agent.
pub(crate) fn system(cache: &Path, name: &str, agent: &str) -> Result<PathBuf> {
    let root = cache.join(format!("debian-{name}"));
    if root.exists() {
        return Ok(root);
    }
    let partial = cache.join("debian.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let (packages, system) = (partial.join("packages"), partial.join("system"));
    fs::create_dir_all(packages.join("partial"))?;
    fs::write(partial.join("status"), "")?;
    // As if nothing were installed: APT names what all of it depends on.
    run(Command::new("apt-get")
        .args(["-q", "-y", "--download-only", "--no-install-recommends"])
        .args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"])
        .args(["-o", &format!("Dir::State::status={}", partial.join("status").display())])
        .args(["-o", &format!("Dir::Cache::archives={}", packages.display())])
        .arg("install")
        .args(PACKAGES)
        .arg(format!("qemu-guest-agent={agent}")))
    .context("cannot download the packages of the Debian guest: try `apt-get update`")?;
    // Packages of before the merge of /usr have files in /bin and /lib.
    for directory in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(system.join("usr").join(directory))?;
        std::os::unix::fs::symlink(format!("usr/{directory}"), system.join(directory))?;
    }
    for package in fs::read_dir(&packages)?.collect::<Result<Vec<_>, _>>()? {
        if package.path().extension().is_some_and(|extension| extension == "deb") {
            let files = output_of_bytes(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package.path()))?;
            let archive = partial.join("files.tar");
            fs::write(&archive, files)?;
            run(Command::new("tar")
                .args(["--keep-directory-symlink", "-x", "-C"])
                .arg(&system)
                .arg("-f")
                .arg(&archive))?;
        }
    }
    for path in LEFT_OUT.map(|path| system.join(path)) {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    for (file, master) in [("passwd", "passwd.master"), ("group", "group.master")] {
        fs::copy(system.join("usr/share/base-passwd").join(master), system.join("etc").join(file))?;
    }
    fs::rename(&system, &root)?;
    fs::remove_dir_all(&partial)?;
    Ok(root)
}

/// Of use only where somebody sits at the console, and they wait for devices that nobody announces without udev.
const MASKED: [&str; 3] = ["systemd-firstboot.service", "getty.target", "getty-static.service"];

/// Adds the system to a guest's archive.
pub(crate) fn add(archive: &mut Archive, system: &Path) -> Result<()> {
    // Sorted, so that directories come before what is in them.
    let listing =
        output_of(Command::new("find").arg(system).args(["-mindepth", "1", "-printf", "%y %m %P\\n"]))?;
    let mut entries: Vec<(&str, &str, &str)> = listing
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            Some((words.next()?, words.next()?, words.next()?))
        })
        .collect();
    entries.sort_by_key(|(_, _, path)| *path);
    for (kind, mode, path) in entries {
        let source = system.join(path);
        let mode = u32::from_str_radix(mode, 8).with_context(|| format!("mode {mode} of {path}"))?;
        match kind {
            "d" => archive.directory(path),
            "f" => archive.file_with_mode(path, mode, &fs::read(&source)?),
            "l" => archive.link(path, &fs::read_link(&source)?.to_string_lossy()),
            _ => {}
        }
    }
    for unit in MASKED {
        archive.link(&format!("etc/systemd/system/{unit}"), "/dev/null");
    }
    // Empty: systemd makes one up at each boot. Without the file it would ask questions.
    archive.file_with_mode("etc/machine-id", 0o444, b"");
    Ok(())
}

fn output_of_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

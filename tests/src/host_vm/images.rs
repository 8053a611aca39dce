//! Where the host's images are, and the disk with what it is given. They are made by `cargo xtask lab host`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::guests::System;
use crate::image::image;
use crate::paths::lab_cache;
use crate::run::run;

/// File names of the guests' images on the payload.
pub(super) const KERNEL: &str = "vmlinuz";

pub(super) fn initramfs(system: System) -> &'static str {
    match system {
        System::Busybox => "initramfs",
        System::Debian => "initramfs-debian",
    }
}

/// The images of the host, below the lab's cache.
#[derive(Clone, Debug)]
pub struct HostImages {
    root: PathBuf,
    payload: Vec<PathBuf>,
}

impl HostImages {
    /// Where the images of this name are kept; they need not be there.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { root: lab_cache().join(name), payload: Vec::new() }
    }

    /// The newest ones.
    ///
    /// # Errors
    /// When there are none.
    pub fn newest() -> Result<Self> {
        let text = fs::read_to_string(Self::pointer())
            .context("there is no host image yet: `cargo xtask test --host` makes it")?;
        Ok(Self::named(text.trim()))
    }

    /// Says that these are the newest.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn set_newest(name: &str) -> Result<()> {
        fs::write(Self::pointer(), name).context("cannot write which host image is the newest")
    }

    fn pointer() -> PathBuf {
        lab_cache().join("host-image")
    }

    /// Puts this file onto the payload of the next hosts.
    #[must_use]
    pub fn with(mut self, file: &Path) -> Self {
        self.payload.push(file.to_owned());
        self
    }

    /// The directory that holds them.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The root disk: raw ext4.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.root.join("disk.ext4")
    }

    /// Its kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.root.join("vmlinuz")
    }

    /// Its initial RAM disk.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.root.join("initrd")
    }

    /// Makes the disk with the payload and the guests' images at `target`.
    pub(super) fn make_payload(&self, target: &Path) -> Result<()> {
        let directory = target.with_extension("d");
        let guests = directory.join("guests");
        fs::create_dir_all(&guests)?;
        for system in [System::Busybox, System::Debian] {
            let image = image(system)?;
            fs::copy(&image.initramfs, guests.join(initramfs(system)))?;
            fs::copy(&image.kernel, guests.join(KERNEL))?;
        }
        for file in &self.payload {
            let Some(name) = file.file_name() else { bail!("{} has no name", file.display()) };
            fs::copy(file, directory.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
        make_disk(&directory, target, 512)?;
        fs::remove_dir_all(directory)?;
        Ok(())
    }
}

/// Makes an ext4 file system of at most `mib` MiB with the content of a directory, as a sparse file.
///
/// # Errors
/// When it does not fit, or `mkfs.ext4` is missing.
pub fn make_disk(directory: &Path, target: &Path, mib: u64) -> Result<()> {
    fs::File::create(target)?.set_len(mib << 20)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", "-d"])
        .arg(directory)
        .arg(target))
}

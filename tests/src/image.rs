//! The guests' kernel and initramfs, made from Debian packages without installing them, kept under `target/lab/`.
//! One image serves all guests of a kind: what a guest is, it reads from its kernel command line (`tests/guest/init`).

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::cpio::Archive;
use crate::debian;
use crate::guests::System;
use crate::paths::lab_cache;
use crate::run::{output_of, run};

const INIT: &str = include_str!("../guest/init");
const HOG: &str = include_str!("../guest/hog");
const SLEEPER: &str = include_str!("../guest/sleeper");
const CGI: &str = include_str!("../guest/cgi");
const ASK: &str = include_str!("../guest/ask");
const CUSTOMER: &str = include_str!("../guest/customer");
const ANSWER: &str = include_str!("../guest/answer.c");
const FORKS: &str = include_str!("../guest/forks.c");
const WORKSET: &str = include_str!("../guest/workset.c");
const CRUNCHER: &str = include_str!("../guest/cruncher.c");
const METRONOME: &str = include_str!("../guest/metronome.c");

/// Programs of the guests' that are built here.
const PROGRAMS: [(&str, &str); 5] = [
    ("answer", ANSWER),
    ("forks", FORKS),
    ("cruncher", CRUNCHER),
    ("metronome", METRONOME),
    ("workset", WORKSET),
];

/// In this order: any other fails with "unknown symbol". Those built into the kernel are left out.
const MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
    "virtio_balloon",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
];

/// What a guest boots.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// A busybox that needs no libraries.
///
/// # Errors
/// When the packages cannot be had.
pub fn busybox() -> Result<PathBuf> {
    let (cache, _lock) = locked_cache()?;
    first_of(&unpacked_packages(&cache)?, &["bin/busybox", "usr/bin/busybox"])
}

/// The lab's directory for what it keeps. Several test binaries may get here at once.
fn locked_cache() -> Result<(PathBuf, Flock<fs::File>)> {
    let cache = lab_cache();
    fs::create_dir_all(&cache)?;
    let lock = fs::File::create(cache.join("lock"))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    Ok((cache, lock))
}

/// Returns the image of this kind of guest, made now if it is not there yet.
pub(crate) fn image(system: System) -> Result<Image> {
    let (cache, _lock) = locked_cache()?;
    let root = unpacked_packages(&cache)?;
    let kernel = only_file(&root.join("boot"), "vmlinuz-")?;
    let mut hasher = DefaultHasher::new();
    // The archive's own code is an input, too.
    (INIT, HOG, SLEEPER, CGI, ASK, CUSTOMER, MODULES).hash(&mut hasher);
    PROGRAMS.hash(&mut hasher);
    (include_str!("image.rs"), include_str!("cpio.rs"), include_str!("debian.rs")).hash(&mut hasher);
    root.hash(&mut hasher);
    let mut name = format!("initramfs-{:016x}", hasher.finish());
    let debian = match system {
        System::Busybox => None,
        System::Debian => {
            name += "-debian";
            let name = root.file_name().unwrap_or_default().to_string_lossy();
            Some(debian::system(&cache, name.trim_start_matches("packages-"), &qemu_version()?)?)
        }
    };
    let initramfs = cache.join(name);
    if !initramfs.exists() {
        let partial = cache.join("initramfs.partial");
        fs::write(&partial, make_initramfs(&root, debian.as_deref(), &cache)?)?;
        fs::rename(&partial, &initramfs)?;
    }
    Ok(Image { kernel, initramfs })
}

/// Downloads and unpacks the packages, once per release of the host's distribution and version of its QEMU.
fn unpacked_packages(cache: &Path) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let field = |key: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        value.trim_matches(['"', '='].as_slice()).to_owned()
    };
    let qemu = qemu_version()?;
    let root = cache.join(format!(
        "packages-{}{}-{}",
        field("ID"),
        field("VERSION_ID"),
        qemu.replace([':', '+'], "_")
    ));
    if root.exists() {
        return Ok(root);
    }
    let partial = cache.join("packages.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    // The agent of the same version as QEMU: an older one lacks guest-get-load (10.0).
    for package in [real_kernel_package()?, format!("qemu-guest-agent={qemu}"), "busybox-static".to_owned()] {
        run(Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&partial))
        .with_context(|| format!("cannot download {package} for the guests: try `apt-get update`"))?;
    }
    for package in fs::read_dir(&partial)?.collect::<Result<Vec<_>, _>>()? {
        run(Command::new("dpkg").arg("-x").arg(package.path()).arg(&partial))?;
        fs::remove_file(package.path())?;
    }
    fs::rename(&partial, &root)?;
    Ok(root)
}

fn qemu_version() -> Result<String> {
    output_of(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "qemu-system-x86"]))
        .context("qemu-system-x86 is missing: run `cargo xtask setup`")
}

/// The package that the meta package stands for, such as `linux-image-6.1.0-56-cloud-amd64`.
fn real_kernel_package() -> Result<String> {
    let depends = output_of(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = package.context("APT knows no linux-image-cloud-amd64: try `apt-get update`")?;
    Ok(format!("linux-image-{package}"))
}

fn make_initramfs(root: &Path, debian: Option<&Path>, cache: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let busybox = first_of(root, &["bin/busybox", "usr/bin/busybox"])?;
    if let Some(system) = debian {
        debian::add(&mut archive, system)?;
        archive.copy("lab/busybox", &busybox)?;
    } else {
        for directory in ["proc", "sys", "dev", "run", "tmp", "var/run", "bin"] {
            archive.directory(directory);
        }
        archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n");
        archive.file("etc/os-release", b"ID=kvmpilot-lab\nPRETTY_NAME=\"kvmpilot lab guest\"\n");
        let agent = first_of(root, &["usr/sbin/qemu-ga", "usr/bin/qemu-ga"])?;
        archive.copy("bin/qemu-ga", &agent)?;
        for library in libraries(&agent)? {
            archive.copy(library.trim_start_matches('/'), Path::new(&library))?;
        }
        archive.copy("bin/busybox", &busybox)?;
        archive.link("lab/busybox", "/bin/busybox");
    }
    archive.device("dev/console", 5, 1);
    archive.file("init", INIT.as_bytes());
    archive.file("lab/hog", HOG.as_bytes());
    archive.file("lab/sleeper", SLEEPER.as_bytes());
    for (name, source) in PROGRAMS {
        archive.copy(&format!("lab/{name}"), &compiled(cache, name, source)?)?;
    }
    archive.file("www/cgi-bin/work", CGI.as_bytes());
    archive.file("www/cgi-bin/ask", ASK.as_bytes());
    archive.file("lab/customer", CUSTOMER.as_bytes());

    let modules = first_of(root, &["lib/modules", "usr/lib/modules"])?;
    let modules = only_file(&modules, "")?;
    let builtin = fs::read_to_string(modules.join("modules.builtin"))?;
    let mut order = String::new();
    for module in MODULES {
        if builtin.lines().any(|line| line.ends_with(&format!("/{module}.ko"))) {
            continue;
        }
        archive.file(&format!("modules/{module}.ko"), &module_bytes(&modules, module)?);
        order += &format!("{module}.ko\n");
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// A small program of the guests', built now: the image has no libraries for it.
fn compiled(cache: &Path, name: &str, code: &str) -> Result<PathBuf> {
    let (source, program) = (cache.join(format!("{name}.c")), cache.join(name));
    fs::write(&source, code)?;
    run(Command::new("gcc").args(["-std=gnu11", "-O2", "-static", "-s", "-o"]).arg(&program).arg(&source))
        .with_context(|| format!("the guests' {name} cannot be built: run `cargo xtask setup`"))?;
    Ok(program)
}

/// The shared libraries of a program, as the host's dynamic linker finds them.
///
/// # Errors
/// When one is missing.
pub fn libraries(program: &Path) -> Result<Vec<String>> {
    let listing = output_of(Command::new("ldd").arg(program))?;
    if let Some(missing) = listing.lines().find(|line| line.contains("not found")) {
        bail!("{} needs a library that this machine lacks: {}", program.display(), missing.trim());
    }
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)" or "/lib64/ld-linux-x86-64.so.2 (0x...)"
    let paths = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(str::to_owned).collect())
}

/// A module as plain ELF: busybox's insmod knows no compressed ones.
///
/// # Errors
/// When there is no such module, or it cannot be unpacked.
pub fn module_bytes(modules: &Path, name: &str) -> Result<Vec<u8>> {
    for (ending, tool) in [(".ko", "cat"), (".ko.xz", "xz"), (".ko.zst", "zstd")] {
        let file = format!("{name}{ending}");
        let found = output_of(Command::new("find").arg(modules).args(["-name", &file]))?;
        let Some(path) = found.lines().next() else { continue };
        let mut command = Command::new(tool);
        if tool != "cat" {
            command.arg("-dc");
        }
        let output = command.arg(path).output().with_context(|| format!("cannot start {tool}"))?;
        if !output.status.success() {
            bail!("{tool} cannot unpack {path}");
        }
        return Ok(output.stdout);
    }
    bail!("the kernel package has no module {name}");
}

/// The first of `candidates`, paths below `root`, that exists.
///
/// # Errors
/// When none does.
pub fn first_of(root: &Path, candidates: &[&str]) -> Result<PathBuf> {
    let found = candidates.iter().map(|path| root.join(path)).find(|path| path.exists());
    found.with_context(|| format!("none of {candidates:?} is in {}", root.display()))
}

/// The file in `directory` whose name begins with `prefix`.
///
/// # Errors
/// When there is none.
pub fn only_file(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let found = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    found.map(|entry| entry.path()).with_context(|| format!("no {prefix}* in {}", directory.display()))
}

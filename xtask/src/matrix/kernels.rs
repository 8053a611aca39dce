//! Debian's kernels of other releases, downloaded and unpacked, never installed. APT gets a configuration of its own
//! below the target directory, with this machine's mirror and other suites; nothing on the machine changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use kvmpilot_tests::image::{first_of, only_file};
use kvmpilot_tests::{output_of, run, target_dir};

use crate::apt::{Release, source_like};
use crate::command::say;

/// Older indexes are fetched again.
const FRESH: Duration = Duration::from_hours(24);
/// What a release's newest small kernel depends on.
const META: &str = "linux-image-cloud-amd64";

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// As one asks for it.
    pub(crate) name: &'static str,
    /// Suites that have it, the smallest index first.
    suites: &'static [&'static str],
    /// The machine's suites to take the mirror from.
    likes: &'static [&'static str],
}

/// Oldest first.
pub(crate) const KERNELS: [Wanted; 4] = [
    Wanted { name: "5.10", suites: &["bullseye-security", "bullseye"], likes: &["-security", ""] },
    Wanted { name: "6.1", suites: &["bookworm-security", "bookworm"], likes: &["-security", ""] },
    Wanted { name: "6.12", suites: &["trixie-security", "trixie"], likes: &["-security", ""] },
    Wanted { name: "newest", suites: &["sid"], likes: &[""] },
];

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// `vmlinuz`.
    pub(crate) image: PathBuf,
    /// The directory of its modules.
    pub(crate) modules: PathBuf,
}

/// Returns a kernel; downloads it unless the newest of its suite is there. Without network an older one serves.
pub(crate) fn kernel(wanted: &Wanted) -> Result<Kernel> {
    let home = target_dir().join("matrix").join(wanted.name);
    fs::create_dir_all(&home)?;
    let unpacked = home.join("kernel");
    let fetched = wanted.suites.iter().zip(wanted.likes).map(|(suite, like)| fetch(&home, suite, like));
    let mut reasons = Vec::new();
    for outcome in fetched {
        match outcome {
            Ok(()) => break,
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    if reasons.len() == wanted.suites.len() {
        if !unpacked.exists() {
            bail!("Linux {} is not to be had: {}", wanted.name, reasons.join("; "));
        }
        say(&format!("Linux {}: the one of an earlier day serves ({})", wanted.name, reasons.join("; ")));
    }
    let modules = first_of(&unpacked, &["lib/modules", "usr/lib/modules"])?;
    let image = match only_file(&unpacked.join("boot"), "vmlinuz-") {
        Ok(image) => image,
        Err(_) => only_file(&only_file(&modules, "")?, "vmlinuz")?,
    };
    Ok(Kernel { image, modules: only_file(&modules, "")? })
}

/// Brings `home/kernel` up to what `suite` has.
fn fetch(home: &Path, suite: &str, like: &str) -> Result<()> {
    let apt = Apt::open(home, suite, like)?;
    let packages = apt.kernel_packages()?;
    let (marker, unpacked) = (home.join("packages"), home.join("kernel"));
    let list = packages.join("\n");
    if unpacked.exists() && fs::read_to_string(&marker).is_ok_and(|have| have == list) {
        return Ok(());
    }
    say(&format!("downloading {}", packages.join(", ")));
    let partial = home.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    run(apt.command("apt-get").args(["-q", "download"]).args(&packages).current_dir(&partial))?;
    for package in fs::read_dir(&partial)?.collect::<Result<Vec<_>, _>>()? {
        run(Command::new("dpkg").arg("-x").arg(package.path()).arg(&partial))?;
        fs::remove_file(package.path())?;
    }
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::rename(&partial, &unpacked)?;
    fs::write(marker, list)?;
    Ok(())
}

/// APT with one suite and a directory of its own.
struct Apt {
    state: PathBuf,
    sources: PathBuf,
}

impl Apt {
    fn open(home: &Path, suite: &str, like: &str) -> Result<Self> {
        let state = home.join(suite);
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(directory))?;
        }
        let base = format!("{}{like}", Release::of_this_machine()?.codename());
        let (ending, entry) = source_like(&base, suite)?;
        let sources = state.join(format!("suite.{ending}"));
        fs::write(&sources, entry)?;
        fs::write(state.join("status"), "")?;
        let apt = Self { state, sources };
        let stamp = apt.state.join("updated");
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).ok();
        if age.is_none_or(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > FRESH)) {
            say(&format!("reading the index of {suite}"));
            run(apt.command("apt-get").args(["-q", "update"]))
                .with_context(|| format!("{suite} is not reachable"))?;
            fs::write(stamp, "")?;
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.state.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", self.sources.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={}", self.state.display()),
            format!("Dir::State::status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            // Neither descriptions nor what software centres show.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The packages that make the newest kernel, with versions. From Debian 14 on there is one for each part.
    fn kernel_packages(&self) -> Result<Vec<String>> {
        let image = self.depends(META)?.into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("the suite has no {META}"))?;
        let parts = self.depends(&image)?;
        let part = |name: &&String| name.starts_with("linux-binary-") || name.starts_with("linux-modules-");
        let mut packages: Vec<String> = parts.iter().filter(part).cloned().collect();
        if packages.is_empty() {
            packages.push(image);
        }
        packages.iter().map(|name| Ok(format!("{name}={}", self.version(name)?))).collect()
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = output_of(self.command("apt-cache").args(["depends", package]))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    fn version(&self, package: &str) -> Result<String> {
        let text = output_of(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version.map(str::to_owned).with_context(|| format!("APT tells no version of {package}"))
    }
}

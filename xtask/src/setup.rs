//! `setup`: brings a bare Debian 12 or 13 to where everything here builds and runs. It looks at what is there, and does
//! the first step that is missing until none is. Nothing is ever removed for it.

mod packagers;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Release};
use crate::command::{cargo, run_shown, say, shell_line};
use crate::toolchain;

/// The hypervisor. On Debian 12 from backports: the agent commands and KVM counters that we use are younger than 12.
const HYPERVISOR: [&str; 6] = [
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "libvirt-dev",
    "qemu-system-x86",
    "qemu-utils",
];
/// To compile and link, to unpack guest kernels, to make the lab's network and its load, to check the probes by, to step
/// a daemon's clock.
const TOOLS: [&str; 9] = [
    "gcc",
    "libc6-dev",
    "pkg-config",
    "ca-certificates",
    "xz-utils",
    "iproute2",
    "wrk",
    "linux-perf",
    "faketime",
];
/// For tests alone: to look at what is drawn in a terminal and in a browser, to render man pages, to scrape metrics.
const FACES: [&str; 4] = ["tmux", "groff-base", "chromium", PROMETHEUS];
/// To make packages and to check them; systemd looks at the unit, which needs no systemd that runs.
const PACKAGING: [&str; 6] = ["binutils", "dpkg-dev", "gzip", "lintian", "rpm", "systemd"];
/// What drives the browser: programs, and Debian's packages of them. Others' node (with its own npm) excludes Debian's npm.
const NODE: [(&str, &str); 2] = [("node", "nodejs"), ("npm", "npm")];
/// Debian's package starts it as a service of this machine, which nobody asked for: a test runs it for itself.
const PROMETHEUS: &str = "prometheus";
/// Masks that service. A person who wants it takes the link away.
const MASK: &str = "/etc/systemd/system/prometheus.service";
/// What oVirt's MOM needs, beside which a benchmark measures.
const MOM: [&str; 1] = ["python3-libvirt"];
/// To make the image of the host VM, and to show its console.
const HOST: [&str; 3] = ["mmdebstrap", "e2fsprogs", "socat"];
/// A Rust with its library source, for the eBPF programs, where rustup has none. Same in both releases.
const RUST: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
const BPF_LINKER: &str = "0.13.0";
/// Where Debian's Rust is at home. The LLVM that it is built with is always in Debian, too; rustup's may not be.
const DEBIAN: &str = "/usr";
/// LLVM of rustc-web, for the printed plan; once that is installed, it is asked.
const USUAL_LLVM: u32 = 22;

/// Something that is missing, and the way to get it.
#[derive(Debug)]
enum Step {
    /// A file to write.
    Write { path: String, content: String },
    /// A command to run, as root or not.
    Run { command: Command, as_root: bool },
}

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// To build, and for the lab.
    Lab,
    /// And for the tests of the faces: a browser, a Prometheus.
    Tests,
    /// To build, for the lab, and to run MOM in it.
    Mom,
    /// To build, and to make packages.
    Package,
    /// To make packages, and for the host VM.
    Host,
}

/// Installs what is missing, or says how.
pub(crate) fn setup(needs: Needs) -> Result<()> {
    let steps = missing(needs)?;
    if steps.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        let lines: Vec<_> = steps.iter().map(Step::line).collect();
        bail!("this machine lacks something; as root `cargo xtask setup` would do\n\n{}\n", lines.join("\n"));
    }
    say("installing what this machine lacks");
    let mut steps = steps;
    let mut updated = false;
    while let Some(step) = steps.first_mut() {
        let line = step.line();
        match step {
            Step::Write { path, content } => {
                println!("    writing {path}");
                fs::write(&*path, content).with_context(|| format!("cannot write {path}"))?;
                updated = false;
            }
            Step::Run { command, .. } => {
                if command.get_program() == "apt-get" && !updated {
                    run_shown(Command::new("apt-get").args(["-q", "update"]))?;
                    updated = true;
                }
                run_shown(command)?;
            }
        }
        steps = missing(needs)?;
        if steps.first().is_some_and(|next| next.line() == line) {
            bail!("`{line}` succeeded, but what it should bring is still missing");
        }
    }
    Ok(())
}

/// The steps that are left, in order.
fn missing(needs: Needs) -> Result<Vec<Step>> {
    let release = Release::of_this_machine()?;
    let installed = apt::installed(
        &[&HYPERVISOR[..], &TOOLS, &FACES, &PACKAGING, &HOST, &MOM, &RUST, &["rustup"]].concat(),
    );
    let lacks = |packages: &[&'static str]| -> Vec<&'static str> {
        packages.iter().copied().filter(|package| !installed.contains(*package)).collect()
    };
    let mut steps = Vec::new();

    let hypervisor = lacks(&HYPERVISOR);
    if !hypervisor.is_empty() {
        let mut options = vec![];
        if release == Release::Bookworm {
            if let Some((path, content)) = apt::missing_suite("bookworm", "bookworm-backports")? {
                steps.push(Step::Write { path, content });
            }
            options = vec!["-t", "bookworm-backports"];
        }
        steps.push(install(&options, &hypervisor));
    }
    steps.extend(install_any(&lacks(&TOOLS)));
    if needs == Needs::Tests {
        let faces = lacks(&FACES);
        let systemd = Path::new(MASK).parent().is_some_and(Path::is_dir);
        if systemd && faces.contains(&PROMETHEUS) && fs::symlink_metadata(MASK).is_err() {
            let mut mask = Command::new("ln");
            mask.args(["-s", "/dev/null", MASK]);
            steps.push(Step::Run { command: mask, as_root: true });
        }
        steps.extend(install_any(&faces));
        let node: Vec<&str> =
            NODE.into_iter().filter(|(program, _)| !in_path(program)).map(|(_, package)| package).collect();
        steps.extend(install_any(&node));
    }
    if needs == Needs::Package || needs == Needs::Host {
        steps.extend(install_any(&lacks(&PACKAGING)));
        steps.extend(packagers::missing());
    }

    if needs == Needs::Mom {
        steps.extend(install_any(&lacks(&MOM)));
    }
    if needs == Needs::Host {
        steps.extend(install_any(&lacks(&HOST)));
    }

    match toolchain::find() {
        Some((compiler, _)) if compiler.sysroot != Path::new(DEBIAN) => {}
        Some(_) => steps.extend(install_any(&lacks(&RUST))),
        None if installed.contains("rustup") => steps.extend(ebpf_with_rustup()),
        None => {
            steps.extend(install_any(&lacks(&RUST)));
            let compiler =
                toolchain::compilers().into_iter().find(|compiler| compiler.sysroot == Path::new(DEBIAN));
            steps.extend(bpf_linker(compiler.map_or(USUAL_LLVM, |compiler| compiler.llvm)));
        }
    }
    Ok(steps)
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Debian's rustup and rustc-web exclude each other; the person chose rustup.
fn ebpf_with_rustup() -> Vec<Step> {
    match toolchain::compilers().first() {
        Some(compiler) => bpf_linker(compiler.llvm),
        None => {
            let mut command = Command::new("rustup");
            command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
            command.args(["--component", "rust-src,clippy"]);
            vec![Step::Run { command, as_root: false }]
        }
    }
}

/// Builds a bpf-linker for one LLVM.
fn bpf_linker(llvm: u32) -> Vec<Step> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut steps = Vec::new();
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        steps.push(install(&[], &[&format!("llvm-{llvm}-dev")]));
    }
    let mut command = cargo();
    command
        .args(["install", "--locked", "--force", "--version", BPF_LINKER, "bpf-linker"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .env("LLVM_PREFIX", &prefix);
    steps.push(Step::Run { command, as_root: false });
    steps
}

fn install_any(packages: &[&str]) -> Option<Step> {
    (!packages.is_empty()).then(|| install(&[], packages))
}

fn install(options: &[&str], packages: &[&str]) -> Step {
    let mut command = Command::new("apt-get");
    // --no-remove: rather fail than take something away from this machine.
    command
        .args(["-q", "-y", "--no-install-recommends", "--no-remove", "install"])
        .args(options)
        .args(packages);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Step::Run { command, as_root: true }
}

impl Step {
    /// As one would type it without being root.
    fn line(&self) -> String {
        match self {
            Self::Write { path, content } => {
                format!("sudo tee {path} <<'END'\n{content}END\nsudo apt-get update")
            }
            Self::Run { command, as_root: true } => format!("sudo {}", shell_line(command)),
            Self::Run { command, as_root: false } => shell_line(command),
        }
    }
}

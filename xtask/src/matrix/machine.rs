//! A virtual machine that lives for one run of probe-check: a Debian kernel, and an initramfs with the program, its
//! libraries, a busybox and the modules that the probes may meet.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvmpilot_tests::cpio::Archive;
use kvmpilot_tests::image::{busybox, libraries, module_bytes};
use kvmpilot_tests::probe_report::ProbeReport;
use kvmpilot_tests::{run, target_dir, wait_for};

use super::kernels::Kernel;

const INIT: &str = include_str!("init");
/// For a tap, for the socket probes before 6.6, and for those of KVM: QEMU's TCG emulates AMD's SVM.
const MODULES: [&str; 4] = ["tun", "sch_ingress", "cls_bpf", "kvm-amd"];
/// The word for a kernel that shows nothing of its memory.
pub(crate) const CONFIDENTIALITY: &str = "confidentiality";
/// It takes 10 s on two idle cores.
const DEADLINE: Duration = Duration::from_secs(90);

/// Boots `kernel`, has probe-check look at it and returns what it found. `word` says on the kernel's command line what
/// is to be missing.
pub(crate) fn check(kernel: &Kernel, program: &Path, word: &str) -> Result<ProbeReport> {
    let home = target_dir().join("matrix");
    let (initramfs, console) = (home.join(format!("initramfs-{word}")), home.join(format!("console-{word}")));
    fs::write(&initramfs, archive(kernel, program)?)?;
    let mut machine = start(kernel, &initramfs, &console, word)?;
    let ended = wait_for("the virtual machine to power off", DEADLINE, || match machine.0.try_wait()? {
        Some(status) => Ok(status),
        None => bail!("it runs"),
    });
    let text = String::from_utf8_lossy(&fs::read(&console)?).into_owned();
    let tail = || {
        let lines: Vec<&str> = text.lines().collect();
        format!("the end of its console:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
    };
    ended.with_context(tail)?;
    fs::remove_file(&initramfs)?;
    ProbeReport::find(&text).with_context(tail)
}

/// Killed when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail if it has ended, which is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(kernel: &Kernel, initramfs: &Path, console: &Path, word: &str) -> Result<Machine> {
    let lockdown = if word == CONFIDENTIALITY { "lockdown=confidentiality" } else { "" };
    let cmdline = format!("console=ttyS0 quiet panic=-1 probe-check={word} {lockdown}");
    let child = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &cmdline, "-serial"])
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .spawn();
    child.map(Machine).context("cannot start qemu-system-x86_64: run `cargo xtask setup`")
}

/// The program without what only a debugger reads: five sixths of it.
pub(crate) fn stripped(program: &Path) -> Result<PathBuf> {
    let home = target_dir().join("matrix");
    fs::create_dir_all(&home)?;
    let small = home.join("probe-check");
    run(Command::new("strip").arg("-o").arg(&small).arg(program))?;
    Ok(small)
}

fn archive(kernel: &Kernel, program: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "tmp", "bin", "modules"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.file("init", INIT.as_bytes());
    archive.copy("bin/busybox", &busybox()?)?;
    // Taps are set up with it.
    archive.copy("bin/ip", &busybox()?)?;
    archive.copy("bin/probe-check", program)?;
    for library in libraries(program)? {
        archive.copy(library.trim_start_matches('/'), Path::new(&library))?;
    }
    let builtin = fs::read_to_string(kernel.modules.join("modules.builtin")).unwrap_or_default();
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in MODULES {
        add_module(&mut archive, kernel, &builtin, name, &mut seen, &mut order)?;
    }
    archive.file(
        "modules/order",
        order.iter().map(|name| format!("{name}.ko\n")).collect::<String>().as_bytes(),
    );
    Ok(archive.finish())
}

/// Adds a module after those that it depends on. Which these are it says itself: the package has no `modules.dep`.
fn add_module(
    archive: &mut Archive,
    kernel: &Kernel,
    builtin: &str,
    name: &str,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<()> {
    let spelled = |other: &str| other.replace('-', "_") == name.replace('-', "_");
    let file_of =
        |line: &str| line.rsplit('/').next().and_then(|file| file.strip_suffix(".ko")).map(str::to_owned);
    if builtin.lines().filter_map(file_of).any(|file| spelled(&file)) || !seen.insert(name.replace('-', "_"))
    {
        return Ok(());
    }
    let (file, bytes) = [name.to_owned(), name.replace('_', "-"), name.replace('-', "_")]
        .into_iter()
        .find_map(|file| Some((file.clone(), module_bytes(&kernel.modules, &file).ok()?)))
        .with_context(|| format!("the kernel has no module {name}"))?;
    for needed in depends(&bytes) {
        add_module(archive, kernel, builtin, &needed, seen, order)?;
    }
    archive.file(&format!("modules/{file}.ko"), &bytes);
    order.push(file);
    Ok(())
}

/// The field `depends=a,b` of a module's `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else { return Vec::new() };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(depends(b"\x7fELF\0license=GPL\0depends=kvm,ccp\0name=kvm_amd\0"), ["kvm", "ccp"]);
        assert_eq!(depends(b"\0depends=\0x"), [""; 0]);
        assert_eq!(depends(b"nothing"), [""; 0]);
    }
}

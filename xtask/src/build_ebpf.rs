//! Builds the eBPF programs, one object a tier. `host-daemon/build.rs` embeds them from `target/ebpf/objects`, or from
//! the directory that `KVMPILOT_PROBES` names.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use kvmpilot_tests::{target_dir, workspace};

use crate::command::{run_shown, say};
use crate::toolchain::{self, Compiler, Linker};

const TARGET: &str = "bpfel-unknown-none";
/// The binaries of `ebpf-probes`.
const OBJECTS: [&str; 5] =
    ["kvmpilot-probes", "kvmpilot-watch", "kvmpilot-flows", "kvmpilot-sockets", "kvmpilot-bench"];

/// Builds the objects, or does nothing if they are up to date; returns their directory.
pub(crate) fn build_ebpf() -> Result<PathBuf> {
    if let Some(ready) = std::env::var_os("KVMPILOT_PROBES").map(PathBuf::from) {
        say(&format!("KVMPILOT_PROBES is set: taking the eBPF programs from {}", ready.display()));
        return Ok(ready);
    }
    let (compiler, linker) = tools()?;
    say(&format!("building the eBPF programs with rustc {}", compiler.release));
    run_shown(cargo(&compiler, &linker, "build")?.arg("--release"))?;
    let built = target_dir().join("ebpf").join(TARGET).join("release");
    let objects = target_dir().join("ebpf/objects");
    fs::create_dir_all(&objects)?;
    for name in OBJECTS {
        let (built, object) = (built.join(name), objects.join(name));
        let bytes = fs::read(&built).with_context(|| format!("no object at {}", built.display()))?;
        // A new time stamp would rebuild the daemon for nothing.
        if fs::read(&object).ok().as_deref() != Some(&bytes) {
            fs::write(&object, bytes)?;
        }
    }
    Ok(objects)
}

/// Lints the eBPF programs with their own tool chain. False if that one has no clippy.
pub(crate) fn clippy_ebpf() -> Result<bool> {
    let (compiler, linker) = tools()?;
    if !compiler.sysroot.join("bin/cargo-clippy").exists() {
        return Ok(false);
    }
    run_shown(cargo(&compiler, &linker, "clippy")?.args(["--release", "--", "-D", "warnings"]))?;
    Ok(true)
}

fn tools() -> Result<(Compiler, Linker)> {
    let missing =
        "no Rust tool chain with library source and a bpf-linker for its LLVM: run `cargo xtask setup`";
    toolchain::find().context(missing)
}

/// A cargo command for the probes. The options of the subcommand may follow.
fn cargo(compiler: &Compiler, linker: &Linker, subcommand: &str) -> Result<Command> {
    let bin = compiler.sysroot.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = [bin.clone()].into_iter().chain(linker.path.parent().map(PathBuf::from));
    let path = std::env::join_paths(directories.chain(std::env::split_paths(&path)))?;
    let mut command = Command::new(bin.join("cargo"));
    command
        .args([
            subcommand,
            "--quiet",
            "--package",
            "kvmpilot-ebpf",
            "--target",
            TARGET,
            "-Z",
            "build-std=core",
        ])
        .arg("--target-dir")
        .arg(target_dir().join("ebpf"))
        .current_dir(workspace())
        .env("PATH", path)
        .env("RUSTC", bin.join("rustc"))
        // -Z on a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1");
    // Set by the cargo that runs us, for its own tool chain.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTDOC", "LD_LIBRARY_PATH", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    Ok(command)
}

//! Puts the eBPF objects that `cargo xtask build-ebpf` made where `probes/` can embed them.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// One object a tier.
const OBJECTS: [&str; 4] = ["kvmpilot-probes", "kvmpilot-watch", "kvmpilot-flows", "kvmpilot-sockets"];

fn main() {
    println!("cargo::rerun-if-env-changed=KVMPILOT_PROBES");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let objects = env::var_os("KVMPILOT_PROBES").map_or_else(|| in_target_dir(&out), PathBuf::from);
    for name in OBJECTS {
        let object = objects.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        if let Err(err) = fs::copy(&object, out.join(name)) {
            println!(
                "cargo::error=no eBPF object at {} ({err}): run `cargo xtask build-ebpf`",
                object.display()
            );
        }
    }
}

/// `ebpf/objects` below the directory that cargo marks as a cache: the target directory, wherever it is.
fn in_target_dir(out: &Path) -> PathBuf {
    let marked = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    marked.unwrap_or_else(|| Path::new("target")).join("ebpf/objects")
}

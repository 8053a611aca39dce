//! Puts the probe object that `cargo xtask build-ebpf` made where `probes/` can embed it.

use std::path::{Path, PathBuf};
use std::{env, fs};

const NAME: &str = "kvmpilot-probes";

fn main() {
    println!("cargo::rerun-if-env-changed=KVMPILOT_PROBES");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let object = env::var_os("KVMPILOT_PROBES").map_or_else(|| in_target_dir(&out), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if let Err(err) = fs::copy(&object, out.join(NAME)) {
        println!(
            "cargo::error=no probe object at {} ({err}): run `cargo xtask build-ebpf`",
            object.display()
        );
    }
}

/// `ebpf/kvmpilot-probes` below the directory that cargo marks as a cache: the target directory, wherever it is.
fn in_target_dir(out: &Path) -> PathBuf {
    let marked = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    marked.unwrap_or_else(|| Path::new("target")).join("ebpf").join(NAME)
}

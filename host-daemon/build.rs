//! Puts the probe object that `cargo xtask build-ebpf` made where `probes/` can embed it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, fs, io};

const NAME: &str = "kvmpilot-probes";
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf-probes");

fn main() {
    println!("cargo::rerun-if-env-changed=KVMPILOT_PROBES");
    println!("cargo::rerun-if-changed={SOURCES}");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let given = env::var_os("KVMPILOT_PROBES").map(PathBuf::from);
    let object = given.clone().unwrap_or_else(|| in_target_dir(&out));
    println!("cargo::rerun-if-changed={}", object.display());
    if let Err(err) = fs::copy(&object, out.join(NAME)) {
        println!(
            "cargo::error=no probe object at {} ({err}): run `cargo xtask build-ebpf`",
            object.display()
        );
    } else if given.is_none() && changed(Path::new(SOURCES)).ok() > changed(&object).ok() {
        println!(
            "cargo::warning=the probes changed since their object was built: run `cargo xtask build-ebpf`"
        );
    }
}

/// `ebpf/kvmpilot-probes` below the directory that cargo marks as a cache: the target directory, wherever it is.
fn in_target_dir(out: &Path) -> PathBuf {
    let marked = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    marked.unwrap_or_else(|| Path::new("target")).join("ebpf").join(NAME)
}

/// Time of the last change of a file or of anything below a directory.
fn changed(path: &Path) -> io::Result<SystemTime> {
    if !path.is_dir() {
        return fs::metadata(path)?.modified();
    }
    let mut inside = path.read_dir()?.map(|entry| changed(&entry?.path()));
    inside.try_fold(SystemTime::UNIX_EPOCH, |latest, time| Ok(latest.max(time?)))
}

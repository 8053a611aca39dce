//! Where the lab keeps its things.

use std::path::{Path, PathBuf};

/// Running labs: one directory each. On tmpfs and with a short path, because unix sockets are made in it.
pub(crate) const STATE_ROOT: &str = "/run/kvmpilot-lab";

/// The directory that holds the workspace's Cargo.toml.
#[must_use]
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// What labs keep between runs: unpacked packages, initramfs images, verdicts, logs.
#[must_use]
pub fn lab_cache() -> PathBuf {
    target_dir().join("lab")
}

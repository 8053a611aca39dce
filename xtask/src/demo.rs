//! `demo`: the main job on real guests. So far it only prepares the ground.

use std::path::Path;

use anyhow::Result;

use crate::command::{cargo, run_shown, say};
use crate::{build_ebpf, setup};

/// Sets up and builds.
pub(crate) fn demo(_json: Option<&Path>) -> Result<()> {
    setup::setup()?;
    build_ebpf::build_ebpf()?;
    say("building the daemon");
    run_shown(cargo().args(["build", "--release", "--package", "kvmpilot"]))
}

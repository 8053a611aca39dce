//! What needs a host of its own, from the .deb alone: the package's whole life on a Debian 13 host with systemd, cgroup v2 and
//! guests under KVM. One story, because a host takes its time to boot. `cargo xtask test --host` makes what it needs and runs it.

mod control;
mod exits;
mod facts;
mod leaving;
mod story;
mod unit;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use kvmpilot_tests::host_vm::{HostImages, HostVm};
use kvmpilot_tests::workspace;

/// The version that the package is upgraded from.
const OLD: &str = "0.0.9";

/// The host and what is known of it.
struct Story {
    host: HostVm,
    began: Instant,
}

#[test]
#[ignore = "needs the package and the host's image: cargo xtask test --host"]
fn a_host_lives_with_the_package() -> Result<()> {
    let packages = workspace().join("target/package");
    let deb = |version: &str| packages.join(format!("kvmpilot_{version}-1_amd64.deb"));
    let (old, new) = (deb(OLD), deb(env!("CARGO_PKG_VERSION")));
    let images = HostImages::newest()?.with(&old).with(&new);
    let began = Instant::now();
    let host = HostVm::start(&images)?;
    let story = Story { host, began };
    story.say("the host has booted");
    let outcome = story.tell(&name(&old)?, &name(&new)?);
    if outcome.is_err() {
        let journal = story.host.run("journalctl --no-pager -o short-precise -u kvmpilotd -n 150");
        eprintln!("{}", journal.unwrap_or_else(|error| format!("no journal: {error:#}")));
    }
    outcome?;
    story.host.stop()
}

fn name(deb: &Path) -> Result<String> {
    Ok(deb.file_name().context("a package has a name")?.to_string_lossy().into_owned())
}

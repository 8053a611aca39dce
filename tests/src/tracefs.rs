//! tracefs for one thread, on hosts that do not mount it at boot. Nobody else sees it.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const PLACE: &str = "/sys/kernel/tracing";

/// Runs `work` in a thread with a mount namespace of its own in which tracefs is mounted. Its children inherit it.
///
/// # Errors
/// Without root, or when `work` panics.
pub fn with_tracefs<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            mount_it()?;
            anyhow::Ok(work())
        });
        inside.join().map_err(|_| anyhow!("what needed tracefs has panicked"))?
    })
}

fn mount_it() -> Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("a mount namespace needs root")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    if !Path::new(PLACE).join("events").exists() {
        mount(Some("tracefs"), PLACE, Some("tracefs"), MsFlags::empty(), NONE)
            .context("cannot mount tracefs")?;
    }
    Ok(())
}

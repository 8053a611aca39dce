//! What the command line does itself when no daemon runs.

use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Group;
use tokio::time::timeout;

use super::survey;
use crate::act::{Executor, Ledger};
use crate::api::views::{CheckView, CommandReply, DoctorView, RestoreView, Verdict};
use crate::config::{Config, ConfigError};
use crate::daemon;
use crate::guest_channel::GuestChannel;
use crate::kernel::Kernel;
use crate::libvirt::Status;
use crate::store::Store;

/// How long libvirt may take to answer.
const CONNECT: Duration = Duration::from_secs(5);

/// Puts everything back that a daemon that is gone has left in the ledger.
///
/// # Errors
/// A sentence that says what is in the way, and the way out.
pub async fn restore(config: &Config) -> Result<CommandReply, String> {
    let store = open(config).await?;
    let entries =
        store.as_ref().map_or_else(|| Ok(Vec::new()), Store::ledger).map_err(|error| error.to_string())?;
    let Some(store) = store.filter(|_| !entries.is_empty()) else {
        let message = "nothing to put back: every value is at its original".to_owned();
        return Ok(CommandReply {
            message,
            restore: Some(RestoreView::default()),
            ..CommandReply::default()
        });
    };
    let ledger = Ledger::load(store).map_err(|error| error.to_string())?;
    let libvirt = daemon::connect(config);
    let mut status = libvirt.status_changes();
    match timeout(CONNECT, status.wait_for(Status::is_up)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => {
            return Err(format!(
                "{} values are not at their originals, but libvirt is {}",
                entries.len(),
                libvirt.status()
            ));
        }
    }
    let channel = GuestChannel::new(libvirt.clone(), &config.daemon.agent);
    let executor = Arc::new(Executor::new(libvirt, channel, Kernel::default(), ledger));
    let restore = RestoreView { values: executor.restore().await };
    let message = if restore.is_complete() {
        "everything is back".to_owned()
    } else {
        "not everything could be put back; what is left stays in the ledger".to_owned()
    };
    Ok(CommandReply { message, restore: Some(restore), ..CommandReply::default() })
}

/// Checks what can be checked without a daemon.
pub async fn doctor(config: &Config) -> DoctorView {
    let mut checks = vec![CheckView {
        name: "daemon".to_owned(),
        verdict: Verdict::Problem,
        message: format!("kvmpilotd does not run: nobody listens on {}", config.daemon.socket.display()),
        advice: Some("start it with `systemctl start kvmpilotd`".to_owned()),
    }];
    checks.push(store_check(config).await);
    let (kernel, libvirt) = (Kernel::default(), daemon::connect(config));
    eprintln!(
        "kvmpilot: kvmpilotd does not answer; trying the probes and asking libvirt, which takes some seconds"
    );
    checks.extend(crate::doctor::tiers(&daemon::try_tiers(&kernel, config)));
    checks.extend(crate::doctor::host(&kernel));
    let mut status = libvirt.status_changes();
    // Up, or still the reason why not: both are worth showing.
    let _ = timeout(CONNECT, status.wait_for(Status::is_up)).await;
    checks.push(crate::doctor::libvirt(&libvirt.status()));
    checks.extend(crate::doctor::hook(&config.daemon.libvirt_uri, None));
    if libvirt.status().is_up() {
        let (domains, silent) = survey::checks(&libvirt, config).await;
        checks.extend(domains);
        if silent > 0 {
            checks.push(CheckView {
                name: "domains".to_owned(),
                verdict: Verdict::Warning,
                message: format!("{silent} domains did not answer in time, and are not judged"),
                advice: Some("see whether their QEMU hangs: `virsh domstats`".to_owned()),
            });
        }
    }
    checks.push(group_check(&config.daemon.socket_group));
    DoctorView { checks }
}

/// What is wrong in the configuration files now, which may be newer than what a daemon has read.
pub(super) fn configuration_check(mistakes: Option<&ConfigError>) -> CheckView {
    let name = "configuration".to_owned();
    match mistakes {
        None => CheckView {
            name,
            verdict: Verdict::Ok,
            message: "no mistakes in the files".to_owned(),
            advice: None,
        },
        Some(mistakes) => CheckView {
            name,
            verdict: Verdict::Problem,
            message: mistakes.to_string(),
            advice: Some("correct them, then `systemctl reload kvmpilotd`".to_owned()),
        },
    }
}

/// The store, if a daemon has ever made one.
async fn open(config: &Config) -> Result<Option<Store>, String> {
    let (directory, limits) = (config.daemon.state_directory.clone(), config.daemon.store);
    let open = move || Store::exists(&directory)?.then(|| Store::open(&directory, limits)).transpose();
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn store_check(config: &Config) -> CheckView {
    let ledger = match open(config).await {
        Ok(Some(store)) => store.ledger().map_err(|error| error.to_string()),
        Ok(None) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let (verdict, message, advice) = match ledger {
        Ok(entries) if entries.is_empty() => (Verdict::Ok, "every value is at its original".to_owned(), None),
        Ok(entries) => (
            Verdict::Warning,
            format!("{} values are not at their originals", entries.len()),
            Some("`kvmpilot restore` puts them back".to_owned()),
        ),
        Err(error) => (Verdict::Problem, error, None),
    };
    CheckView { name: "store".to_owned(), verdict, message, advice }
}

fn group_check(name: &str) -> CheckView {
    let (verdict, message, advice) = match Group::from_name(name) {
        Ok(Some(_)) => (Verdict::Ok, format!("members of {name} may use kvmpilot"), None),
        Ok(None) => (
            Verdict::Warning,
            format!("there is no group {name}, so only root may use kvmpilot"),
            Some(format!("`groupadd --system {name}`, then restart kvmpilotd")),
        ),
        Err(errno) => (Verdict::Warning, format!("the group database does not answer: {errno}"), None),
    };
    CheckView { name: "group".to_owned(), verdict, message, advice }
}

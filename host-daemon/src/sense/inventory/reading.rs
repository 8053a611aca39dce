//! A whole reading of one domain: what libvirt knows of it, its balloon and its disks.

use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{DiskSample, DomainSample, DomainState};
use tokio::time::Instant;

use super::entry::{InventoryEntry, answers};
use crate::libvirt::{ErrorKind, Libvirt};

/// Least time between two readings of a domain's disks, which are read whole with it: QEMU has to be asked twice for each.
const DISKS: Duration = Duration::from_secs(60);

/// What libvirt told of a domain.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) domain: DomainSample,
    /// libvirt's number of the run.
    pub(super) run: Option<u32>,
    /// Its balloon was asked for.
    pub(super) balloon_asked: bool,
    /// What it did not tell, in words.
    pub(super) trouble: Vec<String>,
    /// Some of that it may tell the next time.
    pub(super) troubled: bool,
    /// A call hangs, which says that QEMU does.
    pub(super) hangs: bool,
    pub(super) disks_read_at: Option<Instant>,
}

/// Whether it is the domain that is in trouble, and not libvirt as a whole.
pub(super) const fn is_the_domains(kind: &ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::NotConnected(_) | ErrorKind::Overloaded(_) | ErrorKind::Deadline { started: false, .. }
    )
}

/// Whether the call has not returned, as far as is known.
pub(super) const fn is_hang(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Deadline { started: true, .. } | ErrorKind::Quarantined(_))
}

/// One domain; and, unless QEMU is to be spared, its balloon, and its disks if it is time. If these cannot be read that is no
/// reason to lose the rest.
pub(super) async fn read(
    libvirt: &Libvirt,
    uuid: Uuid,
    known: Option<&InventoryEntry>,
    with_balloon: bool,
) -> Result<Told, crate::libvirt::Error> {
    let reading = libvirt.read_domain(uuid).await?;
    let (mut domain, run) = (reading.sample, reading.run);
    // What a driver does not have, or does not take, it will not the next time either.
    let lasts = |kind: &ErrorKind| matches!(kind, ErrorKind::Unsupported(_) | ErrorKind::Invalid(_));
    let mut troubled = reading.missing.iter().any(|error| !lasts(&error.kind));
    let mut trouble: Vec<String> = reading.missing.iter().map(ToString::to_string).collect();
    let mut hangs = false;
    let mut disks_read_at = known.and_then(|known| known.disks_read_at);
    let earlier = known.and_then(|known| known.domain.as_ref());
    let knows_balloon = earlier.is_some_and(|earlier| earlier.balloon.is_some());
    domain.disks = earlier.map(|domain| domain.disks.clone()).unwrap_or_default();
    let balloon_asked = with_balloon || !knows_balloon;
    let mut failed = |error: &crate::libvirt::Error, hangs: &mut bool| {
        *hangs |= is_hang(&error.kind);
        troubled |= !lasts(&error.kind);
        trouble.push(error.to_string());
    };
    // A paused QEMU answers, but its guest reports nothing new.
    if balloon_asked && answers(domain.job) && domain.state == DomainState::Running {
        match libvirt.read_balloon(uuid).await {
            Ok(balloon) => domain.balloon = Some(balloon),
            Err(error) => failed(&error, &mut hangs),
        }
    }
    if balloon_asked && answers(domain.job) && !hangs && disks_read_at.is_none_or(|at| at.elapsed() >= DISKS)
    {
        let now = Instant::now();
        match libvirt.read_disks(uuid).await {
            Ok(disks) => domain.disks = since(&domain.disks, disks_read_at.map(|at| now - at), disks),
            Err(error) => failed(&error, &mut hangs),
        }
        // One that cannot be read is asked again as rarely.
        disks_read_at = Some(now);
    }
    Ok(Told { domain, run, balloon_asked, trouble, troubled, hangs, disks_read_at })
}

/// Disks as they are now, with what went through them before.
fn since(earlier: &[DiskSample], window: Option<Duration>, mut now: Vec<DiskSample>) -> Vec<DiskSample> {
    for disk in &mut now {
        let before = earlier.iter().find(|other| other.target == disk.target && other.source == disk.source);
        let window = window.and_then(|window| u64::try_from(window.as_millis()).ok());
        disk.before = before.and_then(|before| before.counters).zip(window);
    }
    now
}

//! Reading balloons: libvirt's memory statistics, and what only QEMU's monitor tells.

use std::time::{SystemTime, UNIX_EPOCH};

use kvmpilot_core::sample::{BalloonSample, Job};
use serde::Deserialize;
use uuid::Uuid;
use virt::domain::{Domain, MemoryStat};
use virt::sys;

use super::error::{Error, ErrorKind};
use super::session::Session;
use super::{Libvirt, ffi};

/// Signs of want in QEMU's `guest-stats`. The guest wrote the values.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Want {
    stat_oom_kills: Option<u64>,
    stat_alloc_stalls: Option<u64>,
    stat_async_scans: Option<u64>,
    stat_direct_scans: Option<u64>,
    stat_async_reclaims: Option<u64>,
    stat_direct_reclaims: Option<u64>,
}

/// What a glance at a domain tells: all that changes without an event of libvirt's and without a sign in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The job that is under way.
    pub job: Option<Job>,
    /// The balloon, unless that job keeps QEMU from answering.
    pub balloon: Option<BalloonSample>,
}

impl Libvirt {
    /// Memory that the domain has now; while the balloon moves, where it has got to. QEMU says so: what libvirt remembers of it
    /// (`virDomainGetInfo`) comes with events, of which QEMU sends one a second, and a domain that was saved in such a second has the
    /// old value when it runs again, until its balloon moves. The soak of 2026-11-27 took that for somebody else's.
    ///
    /// # Errors
    /// As [`Libvirt::read_balloon`].
    pub async fn balloon_current_kib(&self, uuid: Uuid) -> Result<u64, Error> {
        self.read("balloon", Some(uuid), move |session| {
            let domain = session.domain(uuid)?;
            current_kib(&domain, &domain.memory_stats(0)?)
        })
        .await
    }

    /// The balloon and its statistics: two calls. Asks QEMU: 1 ms where it is well, for ever where it hangs.
    ///
    /// # Errors
    /// When the domain is gone, its QEMU hangs, or libvirt cannot be asked.
    pub async fn read_balloon(&self, uuid: Uuid) -> Result<BalloonSample, Error> {
        let monitor = self.0.options.qemu_monitor;
        self.read("balloon statistics", Some(uuid), move |session| {
            balloon(session, uuid, &session.domain(uuid)?, monitor)
        })
        .await
    }

    /// The job and, where that permits, the balloon: three calls.
    ///
    /// # Errors
    /// As [`Libvirt::read_balloon`].
    pub async fn glance(&self, uuid: Uuid) -> Result<Glance, Error> {
        let monitor = self.0.options.qemu_monitor;
        self.read("a glance", Some(uuid), move |session| {
            let domain = session.domain(uuid)?;
            let job = match ffi::job(&domain) {
                // A driver that has no jobs.
                Err(ErrorKind::Unsupported(_)) => None,
                result => result?,
            };
            let asked = !job.is_some_and(Job::keeps_qemu_busy);
            let balloon = if asked { Some(balloon(session, uuid, &domain, monitor)?) } else { None };
            Ok(Glance { job, balloon })
        })
        .await
    }
}

fn balloon(
    session: &Session,
    uuid: Uuid,
    domain: &Domain,
    monitor: bool,
) -> Result<BalloonSample, ErrorKind> {
    let mut sample = from_libvirt(domain, &domain.memory_stats(0)?)?;
    // A guest that never reported has told QEMU nothing else either.
    if monitor && sample.last_update_unix_s.is_some() {
        let facts = session.link.cache.facts(uuid, || domain.xml_desc(0).map_err(ErrorKind::from))?;
        // Before QEMU 9.2 there is nothing; the rest is good all the same.
        if let Some(want) = facts.balloon_alias.as_deref().and_then(|alias| from_qemu(domain, alias)) {
            add(&mut sample, &want);
        }
    }
    Ok(sample)
}

fn current_kib(domain: &Domain, stats: &[MemoryStat]) -> Result<u64, ErrorKind> {
    let actual = stats.iter().find(|stat| stat.tag == sys::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON);
    actual.map_or_else(|| Ok(domain.info()?.memory), |actual| Ok(actual.val))
}

fn from_libvirt(domain: &Domain, stats: &[MemoryStat]) -> Result<BalloonSample, ErrorKind> {
    let value = |tag| stats.iter().find(|stat| stat.tag == tag).map(|stat| stat.val);
    Ok(BalloonSample {
        current_kib: current_kib(domain, stats)?,
        unused_kib: value(sys::VIR_DOMAIN_MEMORY_STAT_UNUSED),
        usable_kib: value(sys::VIR_DOMAIN_MEMORY_STAT_USABLE),
        available_kib: value(sys::VIR_DOMAIN_MEMORY_STAT_AVAILABLE),
        disk_caches_kib: value(sys::VIR_DOMAIN_MEMORY_STAT_DISK_CACHES),
        swap_in_kib: value(sys::VIR_DOMAIN_MEMORY_STAT_SWAP_IN),
        swap_out_kib: value(sys::VIR_DOMAIN_MEMORY_STAT_SWAP_OUT),
        major_faults: value(sys::VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT),
        rss_kib: value(sys::VIR_DOMAIN_MEMORY_STAT_RSS),
        // 0 is "the guest has not reported yet".
        last_update_unix_s: value(sys::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE).filter(|at| *at > 0),
        read_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()),
        ..BalloonSample::default()
    })
}

fn from_qemu(domain: &Domain, alias: &str) -> Option<Want> {
    let command = serde_json::json!({
        "execute": "qom-get",
        "arguments": { "path": format!("/machine/peripheral/{alias}"), "property": "guest-stats" },
    });
    want(&domain.qemu_monitor_command(&command.to_string(), 0).ok()?)
}

/// The signs in QEMU's answer. What the guest has not told is 2^64 - 1 in it.
fn want(answer: &str) -> Option<Want> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "return")]
        value: GuestStats,
    }
    #[derive(Deserialize)]
    struct GuestStats {
        stats: Want,
    }
    Some(serde_json::from_str::<Answer>(answer).ok()?.value.stats)
}

fn add(sample: &mut BalloonSample, want: &Want) {
    let told = |value: Option<u64>| value.filter(|value| *value != u64::MAX);
    sample.oom_kills = told(want.stat_oom_kills);
    sample.alloc_stalls = told(want.stat_alloc_stalls);
    sample.async_scan_bytes = told(want.stat_async_scans);
    sample.direct_scan_bytes = told(want.stat_direct_scans);
    sample.async_reclaim_bytes = told(want.stat_async_reclaims);
    sample.direct_reclaim_bytes = told(want.stat_direct_reclaims);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_signs_of_want_that_the_guest_tells() {
        let answer = r#"{"return":{"stats":{"stat-swap-in":0,"stat-oom-kills":3,"stat-alloc-stalls":18446744073709551615,
            "stat-direct-reclaims":4096},"last-update":1764000000},"id":"libvirt-33"}"#;
        let mut sample = BalloonSample::default();
        add(&mut sample, &want(answer).unwrap());
        let expected = BalloonSample {
            oom_kills: Some(3),
            direct_reclaim_bytes: Some(4096),
            ..BalloonSample::default()
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn an_older_qemu_and_an_error_tell_nothing() {
        let old = r#"{"return":{"stats":{"stat-swap-in":0},"last-update":0}}"#;
        assert_eq!(want(old), Some(Want::default()));
        assert_eq!(want(r#"{"error":{"class":"GenericError","desc":"no such property"}}"#), None);
        assert_eq!(want("nonsense"), None);
    }
}

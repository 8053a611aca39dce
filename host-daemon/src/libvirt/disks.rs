//! Reading disks: how large they are and what went through them.

use kvmpilot_core::sample::{DiskCounters, DiskSample};
use uuid::Uuid;

use super::error::{Error, ErrorKind};
use super::{Libvirt, ffi};

/// Disks of one domain that are read.
const MOST: usize = 32;

impl Libvirt {
    /// The disks that have something in them. Asks QEMU twice for each: 1 ms where it is well, for ever where it hangs.
    ///
    /// # Errors
    /// When the domain is gone, its QEMU hangs, or libvirt cannot be asked.
    pub async fn read_disks(&self, uuid: Uuid) -> Result<Vec<DiskSample>, Error> {
        self.read("disks", Some(uuid), move |session| {
            let domain = session.domain(uuid)?;
            let facts = session.link.cache.facts(uuid, || domain.xml_desc(0).map_err(ErrorKind::from))?;
            let known = |count: i64| u64::try_from(count).ok();
            facts
                .disks
                .iter()
                .take(MOST)
                .map(|(target, source)| {
                    let (capacity_bytes, allocation_bytes) = ffi::disk_size(&domain, target)?;
                    let stats = domain.block_stats(target)?;
                    Ok(DiskSample {
                        target: target.clone(),
                        source: source.clone(),
                        capacity_bytes,
                        allocation_bytes,
                        // libvirt's word for unknown is -1.
                        counters: known(stats.rd_bytes).zip(known(stats.wr_bytes)).map(
                            |(read_bytes, written_bytes)| DiskCounters {
                                read_bytes,
                                written_bytes,
                                reads: known(stats.rd_req).unwrap_or(0),
                                writes: known(stats.wr_req).unwrap_or(0),
                            },
                        ),
                        before: None,
                    })
                })
                .collect()
        })
        .await
    }
}

//! The steal matrix over one window: while the vcpus of a domain waited for a pcpu, who ran there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::rise;
use crate::sample::{DomainSample, Runner, Sample, StolenSample, ThreadRole, ThreadSample};

/// All domains over one window. A cell is a time of waiting; who waited is the row, who ran is the column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StealModel {
    /// Domains whose waits are known, in the order of the sample.
    pub domains: Vec<DomainSteal>,
}

/// One domain: the sum over its vcpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSteal {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Who ran meanwhile, the one that took most first.
    pub by: Vec<(Runner, Duration)>,
    /// Its vcpus, those that were not followed all through the window left out.
    pub vcpus: Vec<VcpuSteal>,
}

/// One vcpu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuSteal {
    /// Number.
    pub number: u32,
    /// Who ran meanwhile, the one that took most first.
    pub by: Vec<(Runner, Duration)>,
}

impl StealModel {
    /// Derives the window from its two ends. A vcpu without a row at both ends, or with one that went backwards, is left
    /// out, and so is a domain that has no other.
    #[must_use]
    pub fn new(begin: &Sample, end: &Sample) -> Self {
        // Most samples are taken without rows.
        let has_rows = |domain: &&DomainSample| domain.threads.iter().any(|thread| thread.stolen.is_some());
        let earlier: BTreeMap<Uuid, &DomainSample> =
            begin.domains.iter().filter(has_rows).map(|domain| (domain.uuid, domain)).collect();
        let domains = end.domains.iter().filter(has_rows);
        let domains = domains.filter_map(|domain| DomainSteal::new(earlier.get(&domain.uuid)?, domain));
        Self { domains: domains.collect() }
    }
}

impl DomainSteal {
    fn new(begin: &DomainSample, end: &DomainSample) -> Option<Self> {
        let mut vcpus: Vec<VcpuSteal> = Vec::new();
        for thread in &end.threads {
            let ThreadRole::Vcpu(number) = thread.role else { continue };
            let same = |other: &&ThreadSample| {
                (other.tid, other.start_ticks, other.source)
                    == (thread.tid, thread.start_ticks, thread.source)
            };
            let earlier = begin.threads.iter().find(same);
            if let Some(by) = earlier.and_then(|earlier| row(earlier, thread)) {
                vcpus.push(VcpuSteal { number, by });
            }
        }
        vcpus.sort_by_key(|vcpu| vcpu.number);
        let mut sum = BTreeMap::new();
        for (runner, time) in vcpus.iter().flat_map(|vcpu| &vcpu.by) {
            *sum.entry(*runner).or_insert(Duration::ZERO) += *time;
        }
        let by = most_first(sum);
        (!vcpus.is_empty()).then(|| Self { uuid: end.uuid, name: end.name.clone(), by, vcpus })
    }

    /// For how long its vcpus waited, all together.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.by.iter().map(|(_, time)| *time).sum()
    }
}

impl VcpuSteal {
    /// For how long it waited.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.by.iter().map(|(_, time)| *time).sum()
    }
}

/// What was added to a thread's row.
fn row(begin: &ThreadSample, end: &ThreadSample) -> Option<Vec<(Runner, Duration)>> {
    let (before, after) = (begin.stolen.as_ref()?, end.stolen.as_ref()?);
    if Arc::ptr_eq(before, after) {
        return Some(Vec::new());
    }
    let mut row = Vec::new();
    // There may be hundreds of cells, and those that both have are in the same order: a look ahead is rare.
    let (mut next, mut found) = (0, 0);
    for cell in after.iter() {
        let same = |other: &StolenSample| other.by == cell.by;
        let at = if before.get(next).is_some_and(same) { Some(next) } else { before.iter().position(same) };
        let earlier = at.map_or(0, |at| before[at].ns);
        if let Some(at) = at {
            (next, found) = (at + 1, found + usize::from(before[at].ns > 0));
        }
        let risen = rise(earlier, cell.ns)?;
        if risen > 0 {
            row.push((cell.by, Duration::from_nanos(risen)));
        }
    }
    // A cell only disappears when its column is given to another domain.
    let lost = before.iter().filter(|cell| cell.ns > 0).count() > found;
    (!lost).then(|| most_first(row))
}

fn most_first(row: impl IntoIterator<Item = (Runner, Duration)>) -> Vec<(Runner, Duration)> {
    let mut row: Vec<_> = row.into_iter().filter(|(_, time)| !time.is_zero()).collect();
    row.sort_by(|(a, a_time), (b, b_time)| b_time.cmp(a_time).then(a.cmp(b)));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(number: u32, stolen: Option<&[(Runner, u64)]>) -> ThreadSample {
        let stolen: Option<Vec<_>> =
            stolen.map(|row| row.iter().map(|(by, ns)| serde_json::json!({ "by": by, "ns": ns })).collect());
        let json = serde_json::json!({
            "tid": number + 10, "tgid": 10, "start_ticks": 5, "role": { "vcpu": number }, "comm": "CPU/KVM",
            "source": "probe", "on_cpu_ns": 0, "runq_wait_ns": 0, "stolen": stolen,
        });
        serde_json::from_value(json).unwrap()
    }

    fn sample(threads: Vec<ThreadSample>) -> Sample {
        let json = serde_json::json!({
            "uuid": Uuid::from_u128(1), "name": "web", "state": "running", "accel": "kvm", "vcpus": [],
            "memory_maximum_kib": 1, "job_active": false, "interfaces": [], "threads": [],
        });
        let domain = DomainSample { threads, ..serde_json::from_value(json).unwrap() };
        Sample { domains: vec![domain], ..Sample::default() }
    }

    const BATCH: Runner = Runner::Domain(Uuid::from_u128(2));

    #[test]
    fn a_domain_s_row_is_the_sum_of_its_vcpus_and_the_worst_comes_first() {
        let begin = sample(vec![thread(0, Some(&[(Runner::Host, 100), (BATCH, 50)])), thread(1, Some(&[]))]);
        let end = sample(vec![
            thread(1, Some(&[(BATCH, 30)])),
            thread(0, Some(&[(Runner::Host, 110), (BATCH, 90), (Runner::Unknown, 0)])),
        ]);
        let model = StealModel::new(&begin, &end);
        let ns = Duration::from_nanos;
        assert_eq!(model.domains[0].by, [(BATCH, ns(70)), (Runner::Host, ns(10))]);
        assert_eq!(model.domains[0].wait(), ns(80));
        let waits: Vec<_> = model.domains[0].vcpus.iter().map(|vcpu| (vcpu.number, vcpu.wait())).collect();
        assert_eq!(waits, [(0, ns(50)), (1, ns(30))]);
    }

    #[test]
    fn what_is_not_known_at_both_ends_is_left_out() {
        let known = || thread(0, Some(&[(BATCH, 7)]));
        let gone = |begin, end| StealModel::new(&sample(begin), &sample(end)).domains.is_empty();
        assert!(!gone(vec![known()], vec![known()]));
        assert!(gone(vec![], vec![known()]), "new");
        assert!(gone(vec![thread(0, None)], vec![known()]), "no row at the beginning");
        assert!(gone(vec![known()], vec![thread(0, None)]), "no row at the end");
        assert!(gone(vec![known()], vec![thread(0, Some(&[(BATCH, 6)]))]), "backwards");
        assert!(gone(vec![known()], vec![thread(0, Some(&[]))]), "its column was given away");
        let reused = ThreadSample { start_ticks: 6, ..known() };
        assert!(gone(vec![known()], vec![reused]), "another thread of this number");
        assert!(
            StealModel::new(&Sample::default(), &sample(vec![known()])).domains.is_empty(),
            "a new domain"
        );
    }
}

//! A guest's memory: its balloon, its working set, and what it reports.

use super::scenario::DomainSpec;
use crate::sample::BalloonSample;
use crate::units::KiB;

/// Pages of 4 KiB that a guest with too little memory reads back from disk each second.
const FAULTS_PER_S: f64 = 500.0;

/// One guest's memory, in MiB.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) maximum: f64,
    pub(super) current: f64,
    pub(super) target: f64,
    working_set: f64,
    swapped_in_kib: f64,
    faults: f64,
    report: BalloonSample,
}

impl Memory {
    pub(super) fn new(maximum: f64) -> Self {
        Self {
            maximum,
            current: maximum,
            target: maximum,
            // A guest that has just booted has touched next to nothing.
            working_set: 0.0,
            swapped_in_kib: 0.0,
            faults: 0.0,
            report: BalloonSample::default(),
        }
    }

    /// One second: the balloon moves, and a guest that is short reads its own pages back.
    pub(super) fn step(&mut self, working_set: f64, spec: &DomainSpec) {
        // It grows as fast as the guest can fill it.
        self.working_set = working_set.min(self.maximum).min(self.working_set + float(spec.growth_mib_per_s));
        let balloon_mib_per_s = float(spec.balloon_mib_per_s);
        let way = self.target - self.current;
        self.current += way.clamp(-balloon_mib_per_s, balloon_mib_per_s);
        if self.short() > 0.0 {
            self.faults += FAULTS_PER_S;
            self.swapped_in_kib += FAULTS_PER_S * 4.0;
        }
    }

    /// What is missing to the working set.
    pub(super) fn short(&self) -> f64 {
        (self.working_set - self.current).max(0.0)
    }

    /// What the guest could still use.
    pub(super) fn usable(&self) -> f64 {
        (self.current - self.working_set).max(0.0)
    }

    /// `actual`, as libvirt tells it.
    pub(super) fn current_kib(&self) -> u64 {
        kib(self.current)
    }

    /// What the guest could still use, as it has told last.
    pub(super) fn told_usable_mib(&self) -> Option<f64> {
        self.report.usable_kib.map(|kib| KiB(kib).as_f64() / 1024.0)
    }

    /// The guest reports.
    pub(super) fn report(&mut self, second: u64) {
        self.report = BalloonSample {
            usable_kib: Some(kib(self.usable())),
            available_kib: Some(kib(self.current)),
            unused_kib: Some(kib(self.usable())),
            swap_in_kib: Some(count(self.swapped_in_kib)),
            swap_out_kib: Some(count(self.swapped_in_kib)),
            major_faults: Some(count(self.faults)),
            last_update_unix_s: Some(second),
            ..BalloonSample::default()
        };
    }

    /// What libvirt tells.
    pub(super) fn sample(&self) -> BalloonSample {
        BalloonSample { current_kib: kib(self.current), ..self.report }
    }
}

pub(super) fn kib(mib: f64) -> u64 {
    count(mib * 1024.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub(super) fn count(number: f64) -> u64 {
    number.round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "MiB a second")]
fn float(rate: u64) -> f64 {
    rate as f64
}

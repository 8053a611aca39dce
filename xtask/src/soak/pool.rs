//! The guests of a soak, made from its seed, and what is known of each.

use std::time::{Duration, Instant};

use fastrand::Rng;
use kvmpilot_tests::{GuestSpec, Work};

/// Guests that kvmpilot may only look at.
pub(super) const KEPT: [&str; 2] = ["kept-web", "kept-plain"];
/// Sizes in MiB; the system alone needs about 128.
const SIZES: [u64; 4] = [192, 256, 384, 512];
/// What the memory user takes and gives back, MiB.
pub(super) const FILL_MIB: u64 = 64;

/// What somebody did to its power switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    Paused,
    Off,
}

#[derive(Debug)]
pub(super) struct Guest {
    pub(super) spec: GuestSpec,
    pub(super) power: Power,
    /// When it was switched on.
    pub(super) started: Instant,
    /// Until when its agent is out of order, or its QEMU has been.
    pub(super) sick_until: Instant,
    /// Its hogs are stopped.
    pub(super) calm: bool,
    /// Its memory user has taken memory.
    pub(super) filled: bool,
    /// vcpus that were plugged in.
    pub(super) plugged: u32,
    /// It has a second interface.
    pub(super) second_interface: bool,
    /// Number of the newest order when it began the life that it is in: older ones are void.
    pub(super) since: u64,
}

impl Guest {
    fn new(spec: GuestSpec) -> Self {
        Self {
            spec,
            power: Power::On,
            started: Instant::now(),
            sick_until: Instant::now(),
            calm: false,
            filled: false,
            plugged: 0,
            second_interface: false,
            since: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(super) fn is_kept(&self) -> bool {
        KEPT.contains(&self.name())
    }

    pub(super) fn serves(&self) -> bool {
        self.spec.work.contains(&Work::Http)
    }

    pub(super) fn hogs(&self) -> Vec<&str> {
        let hogs = self.spec.work.iter().filter_map(|work| match work {
            Work::Hog(name) => Some(name.as_str()),
            _ => None,
        });
        hogs.collect()
    }

    /// A second interface has the address of the first in another block.
    pub(super) fn second_mac(&self) -> String {
        format!("52:54:00:77:01:{:02x}", self.spec.octet)
    }

    pub(super) fn is_sick(&self) -> bool {
        Instant::now() < self.sick_until
    }

    /// Something is done to it that lasts so long.
    pub(super) fn sick_for(&mut self, time: Duration) {
        self.sick_until = self.sick_until.max(Instant::now() + time);
    }

    /// Off and on again: nothing is left of what was done to it.
    pub(super) fn begin_life(&mut self, newest_order: u64) {
        let spec = self.spec.clone();
        *self = Self { since: newest_order, ..Self::new(spec) };
    }
}

/// Two servers, a hog with an agent and one without, one with memory to spare, one that sleeps, and the kept ones.
pub(super) fn pool(rng: &mut Rng) -> Vec<Guest> {
    let mut octet = 10;
    let mut guest = |name: &str, vcpus: u32, memory_mib: u64| {
        octet += 1;
        GuestSpec::new(name, octet).vcpus(vcpus).memory_mib(memory_mib).at_most_vcpus(vcpus + 1)
    };
    let hog = |name: &str| Work::Hog(name.to_owned());
    let sleeper = || Work::Sleeper("sleeper".to_owned());
    let mut size = || (rng.u32(1..=2), SIZES[rng.usize(..SIZES.len())]);
    let mut sized = |name: &str| {
        let (vcpus, memory_mib) = size();
        guest(name, vcpus, memory_mib)
    };
    let specs = vec![
        sized("web1").runs(Work::Http).runs(hog("hog")).runs(sleeper()),
        sized("web2").runs(Work::Http),
        sized("batch").runs(hog("cruncher1")).runs(hog("cruncher2")),
        sized("plain").without_agent().runs(hog("cruncher")),
        sized("idle").memory_mib(512).runs(sleeper()),
        sized("quiet").without_agent().runs(sleeper()),
        sized(KEPT[0]).runs(Work::Http).runs(sleeper()),
        sized(KEPT[1]).without_agent().runs(sleeper()),
    ];
    specs.into_iter().map(Guest::new).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_makes_the_same_guests_again_and_no_two_share_an_address() {
        let specs =
            |seed| pool(&mut Rng::with_seed(seed)).into_iter().map(|guest| guest.spec).collect::<Vec<_>>();
        assert_eq!(specs(7), specs(7));
        assert!((0..20).any(|seed| specs(seed) != specs(7)));
        let octets: BTreeSet<u8> = specs(1).iter().map(|spec| spec.octet).collect();
        assert_eq!(octets.len(), specs(1).len());
        assert_eq!(pool(&mut Rng::with_seed(1)).iter().filter(|guest| guest.is_kept()).count(), KEPT.len());
    }
}

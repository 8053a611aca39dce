//! [`CpuSet`]: a set of pcpus, with the list syntax of libvirt and sysfs and libvirt's bitmap.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Highest pcpu number accepted plus one. Linux' `NR_CPUS` is 8192 at most on x86.
const LIMIT: u32 = 8192;

/// A set of pcpu numbers. Written and read as `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct CpuSet(Arc<BTreeSet<u32>>);

/// Why a text is not a CPU list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseCpuSetError {
    part: String,
}

impl fmt::Display for ParseCpuSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is not part of a CPU list; write numbers and ranges below {LIMIT}, like 0-3,8 or 0-7,^2",
            self.part
        )
    }
}

impl std::error::Error for ParseCpuSetError {}

impl CpuSet {
    /// The pcpus 0 up to, not including, `count`.
    #[must_use]
    pub fn first(count: u32) -> Self {
        (0..count).collect()
    }

    /// Whether there is no pcpu in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many pcpus there are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `pcpu` is in it.
    #[must_use]
    pub fn contains(&self, pcpu: u32) -> bool {
        self.0.contains(&pcpu)
    }

    /// The pcpus in rising order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.0.intersection(&other.0).copied().collect()
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.union(&other.0).copied().collect()
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.0.difference(&other.0).copied().collect()
    }

    /// Whether all of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// libvirt's cpumap: bit `n % 8` of byte `n / 8`, long enough for `pcpus` pcpus; members beyond are left out.
    #[must_use]
    pub fn to_cpumap(&self, pcpus: u32) -> Vec<u8> {
        let mut map = vec![0_u8; usize::try_from(pcpus.div_ceil(8)).unwrap_or(0)];
        for pcpu in self.iter().filter(|pcpu| *pcpu < pcpus) {
            if let Some(byte) = usize::try_from(pcpu / 8).ok().and_then(|at| map.get_mut(at)) {
                *byte |= 1 << (pcpu % 8);
            }
        }
        map
    }

    /// Reads libvirt's cpumap, of which only the first `pcpus` bits count.
    #[must_use]
    pub fn from_cpumap(map: &[u8], pcpus: u32) -> Self {
        (0..pcpus.min(LIMIT))
            .filter(|pcpu| {
                usize::try_from(pcpu / 8)
                    .ok()
                    .and_then(|at| map.get(at))
                    .is_some_and(|byte| byte & (1 << (pcpu % 8)) != 0)
            })
            .collect()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(pcpus: I) -> Self {
        Self(Arc::new(pcpus.into_iter().filter(|pcpu| *pcpu < LIMIT).collect()))
    }
}

impl FromStr for CpuSet {
    type Err = ParseCpuSetError;

    /// Reads `0-3,8` and libvirt's exclusions (`0-7,^2`), which apply from left to right. Empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, ParseCpuSetError> {
        let mut set = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let error = || ParseCpuSetError { part: part.chars().take(40).collect() };
            let (exclude, range) = part.strip_prefix('^').map_or((false, part), |rest| (true, rest));
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let from: u32 = from.trim().parse().map_err(|_| error())?;
            let to: u32 = to.trim().parse().map_err(|_| error())?;
            if from > to || to >= LIMIT {
                return Err(error());
            }
            if exclude {
                set.retain(|pcpu| !(from..=to).contains(pcpu));
            } else {
                set.extend(from..=to);
            }
        }
        Ok(Self(Arc::new(set)))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(from) = rest.next() {
            let mut to = from;
            while rest.next_if_eq(&(to + 1)).is_some() {
                to += 1;
            }
            if from == to {
                write!(f, "{separator}{from}")?;
            } else {
                write!(f, "{separator}{from}-{to}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl Serialize for CpuSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_lists_ranges_and_exclusions() {
        let set: CpuSet = "0-3, 8,^2".parse().unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 3, 8]);
        assert_eq!(set.to_string(), "0-1,3,8");
        assert!("".parse::<CpuSet>().unwrap().is_empty());
    }

    #[test]
    fn refuses_what_is_not_a_list() {
        for bad in ["a", "3-1", "1-", "-1", "0-8192", "1;2", "4294967296"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_cpumap_round_trip(pcpus in proptest::collection::btree_set(0_u32..512, 0..64)) {
            let set: CpuSet = pcpus.into_iter().collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            prop_assert_eq!(&CpuSet::from_cpumap(&set.to_cpumap(512), 512), &set);
        }
    }
}

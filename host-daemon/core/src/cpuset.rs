//! [`CpuSet`]: a set of pcpus, with the list syntax of libvirt and sysfs and libvirt's bitmap.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Highest pcpu number accepted plus one. Linux' `NR_CPUS` is 8192 at most on x86.
const LIMIT: u32 = 8192;

/// A set of pcpu numbers. Written and read as `0-3,8`.
///
/// Bit `n % 64` of word `n / 64`, without zero words at the end, so that equal sets have equal words.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct CpuSet(Arc<[u64]>);

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
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether `pcpu` is in it.
    #[must_use]
    pub fn contains(&self, pcpu: u32) -> bool {
        self.word(pcpu as usize / 64) & (1 << (pcpu % 64)) != 0
    }

    /// The pcpus in rising order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        let bits = self.0.len() * 64;
        let bits = 0..u32::try_from(bits).unwrap_or(LIMIT);
        bits.filter(|pcpu| self.contains(*pcpu))
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.with(other, |own, other| own & other)
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.with(other, |own, other| own | other)
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.with(other, |own, other| own & !other)
    }

    /// Whether all of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().enumerate().all(|(at, word)| word & !other.word(at) == 0)
    }

    /// Whether something is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(own, other)| own & other != 0)
    }

    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn with(&self, other: &Self, join: impl Fn(u64, u64) -> u64) -> Self {
        let words = 0..self.0.len().max(other.0.len());
        Self::of(words.map(|at| join(self.word(at), other.word(at))).collect())
    }

    fn of(mut words: Vec<u64>) -> Self {
        words.truncate(words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
        Self(words.into())
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
        let mut words = Vec::new();
        for pcpu in pcpus.into_iter().filter(|pcpu| *pcpu < LIMIT) {
            let at = pcpu as usize / 64;
            if words.len() <= at {
                words.resize(at + 1, 0_u64);
            }
            words[at] |= 1 << (pcpu % 64);
        }
        Self::of(words)
    }
}

impl FromStr for CpuSet {
    type Err = ParseCpuSetError;

    /// Reads `0-3,8` and libvirt's exclusions (`0-7,^2`), which apply from left to right. Empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, ParseCpuSetError> {
        // A guest's text may name all of them a hundred thousand times.
        let mut members = [false; LIMIT as usize];
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let error = || ParseCpuSetError { part: part.chars().take(40).collect() };
            let (exclude, range) = part.strip_prefix('^').map_or((false, part), |rest| (true, rest));
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let from: u32 = from.trim().parse().map_err(|_| error())?;
            let to: u32 = to.trim().parse().map_err(|_| error())?;
            if from > to || to >= LIMIT {
                return Err(error());
            }
            members[from as usize..=to as usize].fill(!exclude);
        }
        Ok((0..LIMIT).zip(members).filter_map(|(pcpu, is_member)| is_member.then_some(pcpu)).collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
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
    use std::collections::BTreeSet;

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
        fn sets_behave_like_sets(a in proptest::collection::btree_set(0_u32..200, 0..40), b in proptest::collection::btree_set(0_u32..200, 0..40)) {
            let set = |of: &BTreeSet<u32>| of.iter().copied().collect::<CpuSet>();
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.iter().collect::<Vec<_>>(), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(x.iter().next_back(), a.last().copied());
            prop_assert_eq!((x.len(), x.is_empty()), (a.len(), a.is_empty()));
            prop_assert_eq!(x.union(&y), set(&a.union(&b).copied().collect()));
            prop_assert_eq!(x.intersection(&y), set(&a.intersection(&b).copied().collect()));
            prop_assert_eq!(x.difference(&y), set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            prop_assert_eq!(x.overlaps(&y), !a.is_disjoint(&b));
            prop_assert!((0..300).all(|pcpu| x.contains(pcpu) == a.contains(&pcpu)));
        }

        #[test]
        fn text_and_cpumap_round_trip(pcpus in proptest::collection::btree_set(0_u32..512, 0..64)) {
            let set: CpuSet = pcpus.into_iter().collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            prop_assert_eq!(&CpuSet::from_cpumap(&set.to_cpumap(512), 512), &set);
        }
    }
}

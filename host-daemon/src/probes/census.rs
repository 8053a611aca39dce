//! What BPF holds on this host at the moment, anybody's: to show that nothing of ours is left behind.

use std::collections::BTreeMap;

use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

/// How many there are of each name. Something that is loaded or unloaded meanwhile may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Programs, by the first 15 characters of their name.
    pub programs: BTreeMap<String, usize>,
    /// Maps, as programs.
    pub maps: BTreeMap<String, usize>,
    /// Programs that are attached, once for each link. Classic tracepoints have links from Linux 5.15 on.
    pub attached: BTreeMap<String, usize>,
}

/// Counts. Needs `CAP_SYS_ADMIN`; without, it finds nothing.
#[must_use]
pub fn census() -> Census {
    let mut census = Census::default();
    let mut names = BTreeMap::new();
    for info in loaded_programs().flatten() {
        if let Some(name) = info.name_as_str() {
            names.insert(info.id(), name.to_owned());
            *census.programs.entry(name.to_owned()).or_default() += 1;
        }
    }
    for name in loaded_maps().flatten().filter_map(|info| info.name_as_str().map(str::to_owned)) {
        *census.maps.entry(name).or_default() += 1;
    }
    for name in loaded_links().flatten().filter_map(|link| names.get(&link.program_id())) {
        *census.attached.entry(name.clone()).or_default() += 1;
    }
    census
}

//! Groups of processes that a guest's kernel shares CPU out to before nice values count: cgroups of systemd's units, and
//! autogroups.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{part_of, rise_of};
use crate::model::Application;
use crate::sample::{Autogroup, GuestSample, UnitSample, UnitWeight};

/// One systemd unit over the window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnitModel {
    /// Its weight among its siblings, 1 to 10000.
    pub weight: u16,
    /// Part of one vcpu that all of its processes used, those that have ended included.
    pub cpu: Option<f64>,
    /// Part of the time in which something in it waited for a vcpu.
    pub waits: Option<f64>,
}

/// The units of a poll, over the window since `begin`.
pub(super) fn units(
    begin: Option<&GuestSample>,
    end: &GuestSample,
    window: Option<Duration>,
) -> BTreeMap<String, UnitModel> {
    let earlier: BTreeMap<&str, &UnitSample> =
        begin.iter().flat_map(|begin| &begin.units).map(|unit| (unit.name.as_str(), unit)).collect();
    let model = |unit: &UnitSample| {
        let before = earlier.get(unit.name.as_str());
        let part = |value: fn(&UnitSample) -> Option<u64>| {
            let usec = rise_of(value(before?), value(unit))?;
            part_of(usec.checked_mul(1000)?, window?)
        };
        UnitModel {
            // Without the cpu controller all of a slice's units count the same.
            weight: unit.weight.unwrap_or(UnitWeight::DEFAULT),
            cpu: part(|unit| unit.usage_usec),
            waits: part(|unit| unit.waited_usec),
        }
    };
    end.units.iter().map(|unit| (unit.name.clone(), model(unit))).collect()
}

/// Gives each application the autogroups that no other one is in. Threads of cgroups with a weight of their own are in
/// none, whatever `/proc` says (`autogroup_task_group` in the kernel), so units have none.
pub(super) fn share_out_autogroups(applications: &mut [Application]) {
    let groups = |application: &Application| -> BTreeMap<u64, Autogroup> {
        let found = application.processes.iter().filter_map(|process| process.sample.autogroup);
        found.map(|group| (group.id, group)).collect()
    };
    let mut users: BTreeMap<u64, usize> = BTreeMap::new();
    for id in
        applications.iter().flat_map(|application| groups(application).into_keys().collect::<BTreeSet<_>>())
    {
        *users.entry(id).or_default() += 1;
    }
    for application in applications.iter_mut().filter(|application| application.unit.is_none()) {
        application.autogroups =
            groups(application).into_values().filter(|group| users.get(&group.id) == Some(&1)).collect();
    }
}

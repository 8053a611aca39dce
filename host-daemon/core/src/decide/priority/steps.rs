//! What one step on the ladder changes in the guest: nice values of an application's processes and autogroups, or the
//! weight of its unit. A value that is neither an original nor one of ours is somebody else's, and is left alone.

use crate::cpuset::CpuSet;
use crate::decide::history::ApplicationHistory;
use crate::model::{Application, ProcessModel};
use crate::order::{GroupStep, GroupValue, LadderMeans, ProcessStep, TaskGroup};
use crate::policy::Level;
use crate::sample::Autogroup;

/// All that goes with one step.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) processes: Vec<ProcessStep>,
    pub(super) groups: Vec<GroupStep>,
}

impl Steps {
    /// The values of an application that are not those of the level `to`.
    pub(super) fn new(
        application: &Application,
        known: Option<&ApplicationHistory>,
        means: LadderMeans,
        (from, to): (Level, Level),
        vcpus: Vcpus<'_>,
        touches: impl Fn(&ProcessModel) -> bool,
    ) -> Self {
        let mut steps = match means {
            LadderMeans::Nice => Self {
                processes: process_steps(application, known, (from, to), &touches),
                groups: autogroup_steps(application, known, to, &touches),
            },
            LadderMeans::UnitWeight => Self {
                processes: Vec::new(),
                groups: unit_step(application, known, to).into_iter().collect(),
            },
        };
        steps.groups.extend(affinity_steps(application, known, (from, to), vcpus, &touches));
        steps
    }
}

/// The vcpus of the guest, and those of what is at the bottom: the upper half, so that what is raised always finds one on
/// which nothing runs that nobody waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vcpus<'a> {
    pub(super) all: &'a CpuSet,
    /// `None` where vcpus are not shared out so.
    pub(super) bottom: Option<&'a CpuSet>,
}

/// The upper half of some vcpus, at least one; `None` of a single one.
pub(super) fn upper_half(vcpus: u32) -> Option<CpuSet> {
    (vcpus >= 2).then(|| (vcpus / 2..vcpus).collect())
}

fn affinity_steps(
    application: &Application,
    known: Option<&ApplicationHistory>,
    (from, to): (Level, Level),
    Vcpus { all, bottom }: Vcpus<'_>,
    touches: impl Fn(&ProcessModel) -> bool,
) -> Vec<GroupStep> {
    let step = |process: &ProcessModel| {
        let now: CpuSet = process.sample.affinity.as_deref()?.parse().ok()?;
        let group = TaskGroup::Threads { key: process.sample.key };
        let original = match known.and_then(|known| known.groups.get(&group)) {
            Some(GroupValue::Vcpus(original)) => original.clone(),
            // Forked from a process of ours, it has our vcpus and none of its own.
            _ if from == Level::Low && bottom == Some(&now) => all.clone(),
            _ => now.clone(),
        };
        let wanted = match bottom {
            // What has vcpus of its own keeps them.
            Some(bottom) if to == Level::Low && original == *all => bottom,
            _ => &original,
        };
        (*wanted != now && (now == original || Some(&now) == upper_half(len(all)).as_ref())).then(|| {
            GroupStep {
                group,
                to: GroupValue::Vcpus(wanted.clone()),
                from: GroupValue::Vcpus(now),
                original: GroupValue::Vcpus(original.clone()),
            }
        })
    };
    application.processes.iter().filter(|process| touches(process)).filter_map(step).collect()
}

fn len(vcpus: &CpuSet) -> u32 {
    u32::try_from(vcpus.len()).unwrap_or(u32::MAX)
}

/// The level that an application has where kvmpilot has not touched it.
pub(super) fn level_found(application: &Application, means: LadderMeans) -> Option<Level> {
    match means {
        LadderMeans::Nice => Some(Level::of_nice(application.processes.first()?.sample.nice)),
        // Whatever its weight is, it is where the unit's own configuration wants it.
        LadderMeans::UnitWeight => application.unit.as_ref().map(|_| Level::Normal),
    }
}

/// Whether a nice value is one that kvmpilot gives, or the one that was there before.
fn is_known_nice(nice: i8, original: i8) -> bool {
    nice == original || Level::of_nice(nice).nice() == nice
}

fn wanted_nice(to: Level, original: i8) -> i8 {
    if to == Level::of_nice(original) { original } else { to.nice() }
}

fn process_steps(
    application: &Application,
    known: Option<&ApplicationHistory>,
    (from, to): (Level, Level),
    touches: impl Fn(&ProcessModel) -> bool,
) -> Vec<ProcessStep> {
    let movable = application.processes.iter().filter(|process| touches(process));
    movable
        .filter_map(|process| {
            let now = process.sample.nice;
            let key = process.sample.key;
            let original = match known {
                // A worker that was forked from a process of ours has our nice value, not one of its own.
                Some(known) => {
                    let inherited = if now == from.nice() { known.nice_original } else { now };
                    known.processes.get(&key).copied().unwrap_or(inherited)
                }
                None => now,
            };
            let wanted = wanted_nice(to, original);
            (wanted != now && is_known_nice(now, original)).then(|| ProcessStep {
                key,
                name: process.sample.name.clone(),
                nice_from: now,
                nice_to: wanted,
                nice_original: original,
            })
        })
        .collect()
}

fn group_step(
    group: TaskGroup,
    now: i32,
    known: Option<&ApplicationHistory>,
    wanted: impl Fn(i32) -> i32,
    is_known: impl Fn(i32) -> bool,
) -> Option<GroupStep> {
    let original = known.and_then(|known| known.groups.get(&group)?.number()).unwrap_or(now);
    let to = wanted(original);
    (to != now && (now == original || is_known(original))).then_some(GroupStep {
        group,
        from: GroupValue::Number(now),
        to: GroupValue::Number(to),
        original: GroupValue::Number(original),
    })
}

fn autogroup_steps(
    application: &Application,
    known: Option<&ApplicationHistory>,
    to: Level,
    touches: impl Fn(&ProcessModel) -> bool,
) -> Vec<GroupStep> {
    let is_whole = |group: &&Autogroup| {
        let members = application.processes.iter();
        let mut members =
            members.filter(|process| process.sample.autogroup.is_some_and(|of| of.id == group.id));
        members.all(&touches)
    };
    let step = |group: &Autogroup| {
        let nice = |value: i32| i8::try_from(value).unwrap_or(0);
        group_step(
            TaskGroup::Autogroup { id: group.id },
            i32::from(group.nice),
            known,
            |original| i32::from(wanted_nice(to, nice(original))),
            |original| is_known_nice(group.nice, nice(original)),
        )
    };
    application.autogroups.iter().filter(is_whole).filter_map(step).collect()
}

fn unit_step(application: &Application, known: Option<&ApplicationHistory>, to: Level) -> Option<GroupStep> {
    let now = i32::from(application.unit.as_ref()?.weight);
    group_step(
        TaskGroup::Unit { name: application.name.clone() },
        now,
        known,
        |original| weight_of(original, to),
        |original| Level::all().any(|level| weight_of(original, level) == now),
    )
}

/// `CPUWeight` of a level, where `original` is the one of `normal`.
fn weight_of(original: i32, level: Level) -> i32 {
    (original.saturating_mul(level.unit_weight_percent()) / 100).clamp(1, 10_000)
}

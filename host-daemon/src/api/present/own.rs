//! [`OwnCostView`], and what is given up to keep to the budget.

use kvmpilot_core::decide::Shed;
use kvmpilot_core::model::ProgramModel;

use super::{Scene, seconds};
use crate::api::views::{OwnCostView, ProgramView, TierView};

pub(super) fn own_cost(scene: &Scene<'_>) -> OwnCostView {
    let own = &scene.model.own;
    let percent = |part: f64| part * 100.0;
    // Without CAP_SYS_ADMIN the kernel tells of no program what its runs take: then there is no figure, instead of 0.
    let is_known = own.programs.is_empty() || own.programs.iter().any(|program| program.cpu.is_some());
    OwnCostView {
        cpu_seconds: scene.own_use.map(|own| seconds(own.cpu)),
        rss_kib: scene.own_use.map(|own| own.rss_kib),
        daemon_percent: own.daemon.map(percent),
        programs_percent: own.daemon.filter(|_| is_known).map(|_| percent(own.programs_cpu())),
        budget_percent: scene.overhead.bill().map(|bill| percent(bill.budget)),
        programs: own.programs.iter().map(program).collect(),
        shed: scene.overhead.shed().iter().map(ToString::to_string).collect(),
    }
}

fn program(program: &ProgramModel) -> ProgramView {
    ProgramView {
        name: program.name.clone(),
        tier: u32::from(program.tier),
        attached: program.attached,
        runs: program.runs,
        runs_per_s: program.runs_per_s,
        ns_per_run: program.ns_per_run,
        cpu_percent: program.cpu.map(|part| part * 100.0),
    }
}

/// The tiers as they are now: one that was given up is off, and says why.
pub(super) fn tiers(scene: &Scene<'_>) -> Vec<TierView> {
    let bill = scene.overhead.bill().map(|bill| bill.to_string()).unwrap_or_default();
    let shed = |tier: &TierView| {
        let what = match tier.tier {
            1 => Shed::Detail,
            2 => Shed::Watches,
            3 => Shed::Flows,
            _ => return tier.clone(),
        };
        // What was given up was on: flows say that they are off by now.
        if !scene.overhead.is_shed(what) {
            return tier.clone();
        }
        let back = scene.overhead.pause(&scene.policy.overhead).as_secs();
        let why = format!("shed: {bill}; back after {back} s of calm");
        if what == Shed::Detail {
            return TierView {
                reason: format!("{}; detail every 30 s only, {why}", tier.reason),
                ..tier.clone()
            };
        }
        TierView { on: false, reason: why, ..tier.clone() }
    };
    scene.tiers.iter().map(shed).collect()
}

//! The scenarios of the repository keep their bounds: convergence, quiet, fairness, memory. A bound that is missed is a fault of
//! the deciders, or of the host that the scenario asks for; never one to be widened here.

use super::{Report, Scenario, run};
use crate::policy::Policy;

fn simulated(text: &str) -> Report {
    let scenario: Scenario = toml::from_str(text).unwrap();
    run(&scenario, &Policy::default(), |_| {})
}

macro_rules! scenarios {
    ($($name:ident: $file:literal,)*) => {$(
        #[test]
        fn $name() {
            let report = simulated(include_str!(concat!("../../../../scenarios/", $file)));
            assert!(report.missed.is_empty(), "{:#?}", report.missed);
        }
    )*};
}

scenarios! {
    balloon_day: "balloon-day.toml",
    comings_and_goings: "comings-and-goings.toml",
    diurnal: "diurnal.toml",
    large: "large.toml",
    numa: "numa.toml",
    overcommit: "overcommit.toml",
    square_cycle: "square-cycle.toml",
    square_tick: "square-tick.toml",
    steady: "steady.toml",
    steady_contended: "steady-contended.toml",
    step: "step.toml",
}

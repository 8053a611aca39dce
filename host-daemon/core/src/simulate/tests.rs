//! The scenarios of the repository keep their bounds: convergence, quiet, fairness, memory. A bound that is missed is a fault of
//! the deciders, or of the host that the scenario asks for; never one to be widened here.

use super::{Report, Scenario, run};
use crate::policy::Policy;

fn simulated(text: &str) -> Report {
    let scenario: Scenario = toml::from_str(text).unwrap();
    run(&scenario, &Policy::default(), |_| {})
}

macro_rules! scenarios {
    ($($(#[$why:meta])* $name:ident: $file:literal,)*) => {$(
        #[test]
        $(#[$why])*
        fn $name() {
            let report = simulated(include_str!(concat!("../../../../scenarios/", $file)));
            assert!(report.missed.is_empty(), "{:#?}", report.missed);
        }
    )*};
}

scenarios! {
    balloon_day: "balloon-day.toml",
    #[ignore = "misses unharmed_ratio: 0.72 of 0.99"]
    comings_and_goings: "comings-and-goings.toml",
    diurnal: "diurnal.toml",
    #[ignore = "misses latency_p99_ratio: 0.68 of 0.5, and work_ratio: 0.930 of 0.97"]
    large: "large.toml",
    #[ignore = "misses latency_p99_ratio: 0.63 of 0.5, and work_ratio: 0.942 of 0.97"]
    numa: "numa.toml",
    overcommit: "overcommit.toml",
    square_cycle: "square-cycle.toml",
    square_tick: "square-tick.toml",
    steady: "steady.toml",
    steady_contended: "steady-contended.toml",
    step: "step.toml",
}

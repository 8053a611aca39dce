//! The plan of a large host: 1000 vcpus of 175 domains on 256 pcpus, of which 100 servers wait and 75 burners take their CPU.
//! The host is the simulator's; models and decisions are the daemon's.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kvmpilot_core::decide::{self, Decision, History};
use kvmpilot_core::policy::{Mode, Policy};
use kvmpilot_core::simulate::{Scenario, samples};
use kvmpilot_core::windows::{Moment, Windows};
use serde_json::{Value, json};

const SCENARIO: &str = include_str!("../../../scenarios/large.toml");
/// Seconds of the toy host; the first half is warm-up, in which classes are inferred and needs are counted.
const SECONDS: u64 = 80;
const CYCLE: Duration = Duration::from_secs(10);

/// CPU time of the decisions alone, a tick's and a priority cycle's in one turn, and of such a turn with its models.
pub(crate) fn measure() -> Result<Value> {
    let scenario: Scenario = toml::from_str(SCENARIO)?;
    let seconds: Vec<u64> = (1..=SECONDS).collect();
    let mut policy = Policy { mode: Mode::Auto, ..Policy::default() };
    policy.periods.cycle = CYCLE;
    let (mut windows, mut history) = (Windows::default(), History::default());
    let (mut plans, mut turns, mut proposals) = (Vec::new(), Vec::new(), 0);
    for (second, sample) in seconds.iter().zip(samples(&scenario, &seconds)) {
        let now = Duration::from_secs(*second);
        let sample = Arc::new(sample);
        let due = windows.plan(now, &policy, false).due;
        let moment = Moment { now, wall_unix_s: *second };
        let mut again = history.clone();
        let begin = super::thread_cpu()?;
        let decided = windows.decide(&sample, due, moment, &policy, &mut history, |model, _| model);
        let turn = super::thread_cpu()? - begin;
        let (Some((of_tick, _)), Some((of_cycle, _))) = (&decided.tick, &decided.cycle) else { continue };
        if *second <= SECONDS / 2 {
            continue;
        }
        // The same models once more, from the same history.
        let begin = super::thread_cpu()?;
        let tick = decide::tick(of_tick, &policy, &mut again);
        let cycle = decide::cycle(of_cycle, &policy, &mut again);
        plans.push(super::ms(super::thread_cpu()? - begin));
        turns.push(super::ms(turn));
        let count = |decision: &Decision| decision.proposals.len() + decision.held.len();
        proposals += count(&tick) + count(&cycle);
    }
    Ok(json!({
        "plans": plans.len(),
        "proposals": proposals,
        "plan_ms_256x1000": super::quantile(plans.clone(), 0.5),
        "plan_worst_ms_256x1000": super::quantile(plans, 1.0),
        "turn_ms_256x1000": super::quantile(turns, 0.5),
    }))
}

//! Rounds of paired measurements, and what they come to.

use anyhow::{Result, ensure};

use crate::programs::Subject;

/// A round whose workload alone was slower or faster than usual by more than this share is left out: something else ran.
const STEADY: f64 = 0.05;

/// Differences to the bare workload, ns.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// One a round.
    pub(crate) over_bare: Vec<f64>,
    /// To the first subject of the same round, the floor.
    pub(crate) over_floor: Vec<f64>,
    /// The bare workload, ns.
    pub(crate) bare: Vec<f64>,
    /// Rounds that were left out.
    pub(crate) unsteady: usize,
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quartiles {
    pub(crate) q1: f64,
    pub(crate) median: f64,
    pub(crate) q3: f64,
}

impl Quartiles {
    /// Of values of which there is at least one.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        // Quarters of the way from the first value to the last, between two neighbours where it is none of them.
        let at = |quarter: usize| {
            let (place, rest) = (quarter * last / 4, quarter * last % 4);
            sorted[place] + (sorted[(place + 1).min(last)] - sorted[place]) * rest as f64 / 4.0
        };
        Self { q1: at(1), median: at(2), q3: at(3) }
    }
}

/// One round: the workload alone before and after each subject, so that drift cancels out.
struct Round {
    bare: Vec<f64>,
    with: Vec<f64>,
}

/// Measures all subjects, the first of which is the floor.
pub(crate) fn measure(
    rounds: usize,
    subjects: &mut [Subject],
    mut workload: impl FnMut() -> f64,
) -> Result<Vec<Figure>> {
    workload();
    let mut done = Vec::new();
    for _ in 0..rounds {
        let mut round = Round { bare: vec![workload()], with: Vec::new() };
        for subject in &mut *subjects {
            let attached = subject.attach()?;
            round.with.push(workload());
            drop(attached);
            round.bare.push(workload());
        }
        done.push(round);
    }
    let bare: Vec<f64> = done.iter().flat_map(|round| &round.bare).copied().collect();
    let usual = Quartiles::of(&bare).median;
    let steady = |value: f64| (value / usual - 1.0).abs() <= STEADY;
    let mut figures = Vec::new();
    for (number, subject) in subjects.iter().enumerate() {
        let pair = |round: &Round, n: usize| {
            let (before, after) = (round.bare[n], round.bare[n + 1]);
            (steady(before) && steady(after)).then(|| round.with[n] - f64::midpoint(before, after))
        };
        let kept: Vec<(f64, Option<f64>)> =
            done.iter().filter_map(|round| Some((pair(round, number)?, pair(round, 0)))).collect();
        ensure!(
            kept.len() * 3 >= rounds,
            "{}: only {} of {rounds} rounds were steady; this machine is too busy to measure nanoseconds",
            subject.name,
            kept.len()
        );
        let figure = Figure {
            name: subject.name,
            over_bare: kept.iter().map(|pair| pair.0).collect(),
            over_floor: kept.iter().filter_map(|pair| Some(pair.0 - pair.1?)).collect(),
            bare: bare.clone(),
            unsteady: rounds - kept.len(),
        };
        let Quartiles { q1, median, q3 } = Quartiles::of(&figure.over_bare);
        println!(
            "  {:24} {median:7.1} ns  (quartiles {q1:.1} to {q3:.1}, {} of {rounds} rounds)",
            figure.name,
            kept.len()
        );
        figures.push(figure);
    }
    println!("  {:24} {usual:7.1} ns", "the workload alone");
    Ok(figures)
}

//! What the contention bench reports: the ratios that count, and all that they are made of.

use std::collections::BTreeMap;

use kvmpilot_tests::HttpReport;
use serde::Serialize;

use super::{ALONE, IDLE, Machine, PHASES, TWO, median};

/// One phase under one contestant.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Measured {
    pub(super) phase: String,
    /// What follows was measured over so many seconds.
    pub(super) seconds: f64,
    /// What the client saw in the first seconds, which are for the reaction.
    pub(super) first: Option<HttpReport>,
    /// What it saw afterwards.
    pub(super) http: Option<HttpReport>,
    /// How late wake-ups inside the server's guest were: medians over stretches of 5 s, and the latest of all.
    pub(super) wake_p50_us: f64,
    pub(super) wake_p99_us: f64,
    pub(super) wake_max_us: f64,
    /// Of each neighbour that runs.
    pub(super) units_per_second: Vec<f64>,
    pub(super) server_cpu_s: f64,
    pub(super) neighbours_cpu_s: f64,
    /// Orders that were made in the phase.
    pub(super) actions: usize,
    /// From the beginning of the phase until the first of them was in force.
    pub(super) reaction_s: Option<f64>,
}

impl Measured {
    fn units(&self) -> f64 {
        // The sum of nothing is -0.0.
        self.units_per_second.iter().sum::<f64>() + 0.0
    }

    /// Jain's index of the neighbours' work: 1 if all get the same, 1/n if one gets all. R. Jain et al., DEC-TR-301, 1984.
    fn fairness(&self) -> Option<f64> {
        let squares: f64 = self.units_per_second.iter().map(|units| units * units).sum();
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let count = self.units_per_second.len() as f64;
        (count > 1.0 && squares > 0.0).then(|| self.units().powi(2) / (count * squares))
    }

    pub(super) fn line(&self) -> String {
        let http = self.http.as_ref().map_or_else(
            || "no load".to_owned(),
            |http| {
                format!(
                    "p50 {:.0} p99 {:.0} p99.9 {:.0} ms, {:.0} requests/s",
                    http.p50_ms, http.p99_ms, http.p999_ms, http.requests_per_second
                )
            },
        );
        let reaction =
            self.reaction_s.map(|seconds| format!(", the first after {seconds:.1} s")).unwrap_or_default();
        format!(
            "{:<6} {http}; wake-ups p99 {:.1} ms; neighbours {:.0} units/s; {} actions{reaction}",
            self.phase,
            self.wake_p99_us / 1e3,
            self.units(),
            self.actions
        )
    }
}

/// All phases of all contestants, once.
#[derive(Debug, Serialize)]
pub(super) struct Round {
    pub(super) contestants: Vec<(&'static str, Vec<Measured>)>,
}

impl Round {
    fn of(&self, contestant: &str, phase: &str) -> Option<&Measured> {
        let (_, phases) = self.contestants.iter().find(|(name, _)| *name == contestant)?;
        phases.iter().find(|measured| measured.phase == phase)
    }

    fn p99(&self, contestant: &str, phase: &str) -> Option<f64> {
        self.of(contestant, phase)?.http.as_ref().map(|http| http.p99_ms)
    }

    fn p99_alone_of_others(&self) -> Option<f64> {
        let others = self.contestants.iter().filter(|(name, _)| *name != OURS);
        let values: Vec<f64> = others.filter_map(|(name, _)| self.p99(name, ALONE)).collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// CPU seconds that a request costs in peace, and a unit of the neighbours' work where nobody asks the server.
    fn costs(&self) -> Option<(f64, f64)> {
        let (alone, idle) = (self.of("none", ALONE)?, self.of("none", IDLE)?);
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let requests = alone.http.as_ref()?.requests as f64;
        Some((alone.server_cpu_s / requests, idle.neighbours_cpu_s / (idle.units() * idle.seconds)))
    }

    /// What was done in a second, as CPU time that it costs in peace.
    fn work(&self, contestant: &str, phase: &str) -> Option<f64> {
        let measured = self.of(contestant, phase)?;
        let (request, unit) = self.costs()?;
        let requests = measured.http.as_ref().map_or(0.0, |http| http.requests_per_second);
        Some(requests * request + measured.units() * unit)
    }

    /// pcpus that the guests used in all phases together.
    fn guest_cpus(&self, contestant: &str) -> Option<f64> {
        let used =
            |measured: &Measured| (measured.server_cpu_s + measured.neighbours_cpu_s) / measured.seconds;
        PHASES.iter().map(|phase| self.of(contestant, phase.name).map(used)).sum()
    }

    /// How much worse a phase was than under `none`: its p99, or the neighbours' work where nobody asks the server.
    fn against(&self, contestant: &str, other: &str, phase: &str) -> Option<f64> {
        let (this, other) = (self.of(contestant, phase)?, self.of(other, phase)?);
        match (&this.http, &other.http) {
            (Some(this), Some(other)) => Some(this.p99_ms / other.p99_ms),
            _ => Some(other.units() / this.units()),
        }
    }
}

/// Medians over the rounds of one phase under one contestant.
#[derive(Debug, Serialize)]
struct Row {
    contestant: &'static str,
    phase: &'static str,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    p99_least_ms: Option<f64>,
    p99_most_ms: Option<f64>,
    p999_ms: Option<f64>,
    requests_per_second: Option<f64>,
    wake_p99_us: f64,
    neighbours_units_per_second: f64,
    fairness: Option<f64>,
    work_ratio_vs_none: Option<f64>,
    ratio_vs_none: Option<f64>,
    reaction_s: Option<f64>,
    actions: f64,
}

/// The shape of `--json`. Ratios are medians over the rounds' own ratios.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    machine: Machine,
    /// p99 beside two neighbours under kvmpilot to that of the phase before, in which the server is alone and nothing is changed.
    /// What the daemon itself costs a server alone is in [`Self::worst_phase_ratio_vs_none`].
    p99_vs_alone: Option<f64>,
    /// The same to p99 alone under the others, in the median. They had their turns many minutes before or after, and this machine
    /// differs by a fifth, once by a third, within a quarter of an hour.
    p99_vs_alone_of_others: Option<f64>,
    /// p99 beside two neighbours under kvmpilot to that under nobody.
    p99_ratio_vs_none: Option<f64>,
    /// The same to that with static weights.
    p99_ratio_vs_static: Option<f64>,
    /// All work done in all phases under kvmpilot to that under nobody.
    total_work_ratio_vs_none: Option<f64>,
    /// CPU time that the guests got in all phases, likewise. Where it is 1 and the work is not, the same CPU time did less: the
    /// pcpus are shared with strangers, and a request alone cost from 0.010 to 0.018 s on one day.
    guest_cpu_ratio_vs_none: Option<f64>,
    /// From when both neighbours ran and the load came back, in the phase that follows the one without neighbours, until the first
    /// order was in force.
    reaction_s: Option<f64>,
    /// The worst phase: p99 under kvmpilot to that under nobody; where nobody asks the server, the neighbours' work.
    worst_phase_ratio_vs_none: Option<f64>,
    worst_phase: Option<&'static str>,
    /// Orders in a round.
    actions: Option<f64>,
    /// Who did not take part, and why.
    absent: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    rounds: Vec<Round>,
}

const OURS: &str = "kvmpilot";
const NOBODY: &str = "none";

/// Puts it together.
pub(super) fn report(machine: Machine, rounds: Vec<Round>, absent: Vec<(&'static str, String)>) -> Report {
    let over_rounds = |value: &dyn Fn(&Round) -> Option<f64>| {
        let values: Vec<f64> = rounds.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| median(values))
    };
    let ratio = |phase: &str, other: &str| over_rounds(&|round| round.against(OURS, other, phase));
    let work = |round: &Round, contestant: &str| {
        PHASES.iter().map(|phase| round.work(contestant, phase.name)).sum::<Option<f64>>()
    };
    let worst = PHASES.iter().filter_map(|phase| Some((ratio(phase.name, NOBODY)?, phase.name)));
    let worst = worst.max_by(|(a, _), (b, _)| a.total_cmp(b));
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let actions = |round: &Round, contestant: &str| {
        let (_, phases) = round.contestants.iter().find(|(name, _)| *name == contestant)?;
        Some(phases.iter().map(|measured| measured.actions as f64).sum())
    };
    let head = (
        over_rounds(&|round| Some(round.p99(OURS, TWO)? / round.p99(OURS, ALONE)?)),
        over_rounds(&|round| Some(work(round, OURS)? / work(round, NOBODY)?)),
        over_rounds(&|round| round.of(OURS, TWO)?.reaction_s),
        over_rounds(&|round| actions(round, OURS)),
        over_rounds(&|round| Some(round.guest_cpus(OURS)? / round.guest_cpus(NOBODY)?)),
        over_rounds(&|round| Some(round.p99(OURS, TWO)? / round.p99_alone_of_others()?)),
    );
    let (none, by_hand) = (ratio(TWO, NOBODY), ratio(TWO, "static"));
    let rows = rows(&rounds);
    Report {
        machine,
        p99_vs_alone: head.0,
        p99_vs_alone_of_others: head.5,
        p99_ratio_vs_none: none,
        p99_ratio_vs_static: by_hand,
        total_work_ratio_vs_none: head.1,
        guest_cpu_ratio_vs_none: head.4,
        reaction_s: head.2,
        worst_phase_ratio_vs_none: worst.map(|(ratio, _)| ratio),
        worst_phase: worst.map(|(_, phase)| phase),
        actions: head.3,
        absent,
        rows,
        rounds,
    }
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let names = rounds.first().into_iter().flat_map(|round| round.contestants.iter().map(|(name, _)| *name));
    let mut rows = Vec::new();
    for contestant in names {
        for phase in PHASES.map(|phase| phase.name) {
            let all: Vec<&Measured> = rounds.iter().filter_map(|round| round.of(contestant, phase)).collect();
            let values = |value: fn(&Measured) -> Option<f64>| -> Vec<f64> {
                all.iter().filter_map(|measured| value(measured)).collect()
            };
            let middle = |value: fn(&Measured) -> Option<f64>| {
                let values = values(value);
                (!values.is_empty()).then(|| median(values))
            };
            let p99 = |measured: &Measured| measured.http.as_ref().map(|http| http.p99_ms);
            let pairs = |value: &dyn Fn(&Round) -> Option<f64>| {
                let values: Vec<f64> = rounds.iter().filter_map(value).collect();
                (!values.is_empty()).then(|| median(values))
            };
            #[expect(clippy::cast_precision_loss, reason = "hundreds")]
            let actions = median(all.iter().map(|measured| measured.actions as f64));
            rows.push(Row {
                contestant,
                phase,
                p50_ms: middle(|measured| measured.http.as_ref().map(|http| http.p50_ms)),
                p99_ms: middle(p99),
                p99_least_ms: values(p99).into_iter().reduce(f64::min),
                p99_most_ms: values(p99).into_iter().reduce(f64::max),
                p999_ms: middle(|measured| measured.http.as_ref().map(|http| http.p999_ms)),
                requests_per_second: middle(|measured| {
                    measured.http.as_ref().map(|http| http.requests_per_second)
                }),
                wake_p99_us: median(all.iter().map(|measured| measured.wake_p99_us)),
                neighbours_units_per_second: median(all.iter().map(|measured| measured.units())),
                fairness: middle(Measured::fairness),
                work_ratio_vs_none: pairs(&|round| {
                    Some(round.work(contestant, phase)? / round.work(NOBODY, phase)?)
                }),
                ratio_vs_none: pairs(&|round| round.against(contestant, NOBODY, phase)),
                reaction_s: middle(|measured| measured.reaction_s),
                actions,
            });
        }
    }
    rows
}

impl Report {
    /// For people.
    pub(super) fn print(&self) {
        let show = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        println!(
            "    {:<9} {:<6} {:>7} {:>7} {:>8} {:>6} {:>9} {:>7} {:>6} {:>8} {:>8}",
            "",
            "phase",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "req/s",
            "wake p99",
            "units/s",
            "Jain",
            "work",
            "vs none"
        );
        for row in &self.rows {
            println!(
                "    {:<9} {:<6} {:>7} {:>7} {:>8} {:>6} {:>7.1}ms {:>7.0} {:>6} {:>8} {:>8}",
                row.contestant,
                row.phase,
                show(row.p50_ms, 0),
                show(row.p99_ms, 0),
                show(row.p999_ms, 0),
                show(row.requests_per_second, 0),
                row.wake_p99_us / 1e3,
                row.neighbours_units_per_second,
                show(row.fairness, 2),
                show(row.work_ratio_vs_none, 3),
                show(row.ratio_vs_none, 3),
            );
        }
        for (name, why) in &self.absent {
            println!("    {name}: {why}");
        }
        let goals: BTreeMap<&str, Option<f64>> = BTreeMap::from([
            ("p99_vs_alone (goal 1.25)", self.p99_vs_alone),
            ("p99_vs_alone_of_others", self.p99_vs_alone_of_others),
            ("p99_ratio_vs_none (goal 0.15)", self.p99_ratio_vs_none),
            ("p99_ratio_vs_static", self.p99_ratio_vs_static),
            ("total_work_ratio_vs_none (goal 0.97)", self.total_work_ratio_vs_none),
            ("guest_cpu_ratio_vs_none", self.guest_cpu_ratio_vs_none),
            ("reaction_s (goal 5)", self.reaction_s),
            ("worst_phase_ratio_vs_none (goal 1.05)", self.worst_phase_ratio_vs_none),
            ("actions", self.actions),
        ]);
        for (name, value) in goals {
            println!("    {name}: {}", show(value, 3));
        }
    }
}

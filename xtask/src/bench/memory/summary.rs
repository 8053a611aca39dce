//! One contestant over all rounds.

use std::fmt;

use serde::Serialize;

use super::contestant::Peer;
use super::figures::GuestFigures;
use super::turn::Turn;
use crate::bench::common::median;

/// Medians over the rounds unless it says otherwise; ratios are parts of 1.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    /// What balloons held, as a part of the guests' memory, on average over time.
    reclaimed_ratio: f64,
    reclaimed_mib: f64,
    reclaimed_least_ratio: f64,
    reclaimed_most_ratio: f64,
    reclaimed_later_ratio: f64,
    rss_less_ratio: f64,
    /// By how much longer a unit of work took than in the same round with nobody; least and most of the rounds. `null` without
    /// `none`.
    slowdown_ratio: Option<f64>,
    slowdown_least_ratio: Option<f64>,
    slowdown_most_ratio: Option<f64>,
    /// The same of the guest that fared worst in each round.
    slowdown_worst_guest_ratio: Option<f64>,
    /// Of all rounds.
    oom_kills: u64,
    /// Seconds from the start of a growth until the guest had it and a twentieth of its memory usable, over all growths; those
    /// that never came count as longer than any other. `null`: the median one never came, or there was none.
    give_back_s: Option<f64>,
    give_back_most_s: Option<f64>,
    /// By how much that was later than with nobody, who has nothing to give back: the median and the latest of the growths.
    give_back_late_s: Option<f64>,
    give_back_latest_s: Option<f64>,
    growths: usize,
    /// Growths that were not served before the next phase.
    never_given_back: usize,
    major_faults: f64,
    swap_in_mib: f64,
    swap_out_mib: f64,
    swapped_mib: f64,
    actions: f64,
    cpu_s: f64,
    rss_mib: f64,
    /// pcpus that everybody but the guests used: where contestants differ by more than their `cpu_s`, the machine was disturbed.
    others_pcpus: f64,
}

impl Summary {
    /// `None` where it did not run.
    pub(super) fn new(peer: Peer, rounds: &[Vec<Turn>]) -> Option<Self> {
        let find = |round: &[Turn], peer| round.iter().find(|turn| turn.peer == peer).cloned();
        let turns: Vec<Turn> = rounds.iter().filter_map(|round| find(round, peer)).collect();
        if turns.is_empty() {
            return None;
        }
        let pairs: Vec<(Turn, Turn)> =
            rounds.iter().filter_map(|round| Some((find(round, Peer::None)?, find(round, peer)?))).collect();
        let slowdowns: Vec<f64> =
            pairs.iter().map(|(none, turn)| turn.unit_ms / none.unit_ms - 1.0).collect();
        let worst = |(none, turn): &(Turn, Turn)| {
            let each = none.guests.iter().zip(&turn.guests);
            each.map(|(none, guest)| guest.unit_ms / none.unit_ms - 1.0).reduce(f64::max)
        };
        let over = |value: fn(&Turn) -> f64| median(turns.iter().map(value));
        let all = |of: fn(f64, f64) -> f64| turns.iter().map(|turn| turn.reclaimed_ratio).reduce(of);
        let growths: Vec<Option<f64>> = turns
            .iter()
            .flat_map(|turn| &turn.guests)
            .flat_map(|guest| &guest.growths)
            .map(|growth| growth.give_back_s)
            .collect();
        let late: Vec<f64> = pairs.iter().flat_map(|(none, turn)| later(none, turn)).collect();
        Some(Self {
            reclaimed_ratio: over(|turn| turn.reclaimed_ratio),
            reclaimed_mib: over(|turn| sum(turn, |guest| guest.balloon_mib)),
            reclaimed_least_ratio: all(f64::min)?,
            reclaimed_most_ratio: all(f64::max)?,
            reclaimed_later_ratio: over(|turn| turn.reclaimed_later_ratio),
            rss_less_ratio: over(|turn| turn.rss_less_ratio),
            slowdown_ratio: finite(median(slowdowns.iter().copied())),
            slowdown_least_ratio: slowdowns.iter().copied().reduce(f64::min),
            slowdown_most_ratio: slowdowns.iter().copied().reduce(f64::max),
            slowdown_worst_guest_ratio: finite(median(pairs.iter().filter_map(worst))),
            oom_kills: turns.iter().map(|turn| turn.oom_kills).sum(),
            give_back_s: finite(median(growths.iter().map(|growth| growth.unwrap_or(f64::INFINITY)))),
            give_back_most_s: growths.iter().copied().flatten().reduce(f64::max),
            give_back_late_s: finite(median(late.iter().copied())),
            give_back_latest_s: late.iter().copied().reduce(f64::max),
            growths: growths.len(),
            never_given_back: growths.iter().filter(|growth| growth.is_none()).count(),
            major_faults: over(|turn| sum(turn, |guest| guest.major_faults as f64)),
            swap_in_mib: over(|turn| sum(turn, |guest| guest.swap_in_mib)),
            swap_out_mib: over(|turn| sum(turn, |guest| guest.swap_out_mib)),
            swapped_mib: over(|turn| sum(turn, |guest| guest.swapped_mib)),
            actions: over(|turn| turn.effort.actions.values().sum::<u64>() as f64),
            cpu_s: over(|turn| turn.effort.cpu_s),
            rss_mib: over(|turn| turn.effort.rss_mib as f64),
            others_pcpus: over(|turn| turn.others_pcpus),
        })
    }
}

fn sum(turn: &Turn, value: fn(&GuestFigures) -> f64) -> f64 {
    turn.guests.iter().map(value).sum()
}

/// By how many seconds each growth was served later; those that were not are left out.
fn later(none: &Turn, turn: &Turn) -> Vec<f64> {
    let growths = |turn: &Turn| {
        let growths = turn.guests.iter().flat_map(|guest| &guest.growths);
        growths.map(|growth| growth.give_back_s).collect::<Vec<_>>()
    };
    growths(none).iter().zip(growths(turn)).filter_map(|(none, turn)| Some(turn? - (*none)?)).collect()
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} % reclaimed ({:.1} to {:.1}); ",
            self.reclaimed_ratio * 100.0,
            self.reclaimed_least_ratio * 100.0,
            self.reclaimed_most_ratio * 100.0
        )?;
        match self.slowdown_ratio.zip(self.slowdown_least_ratio.zip(self.slowdown_most_ratio)) {
            Some((ratio, (least, most))) => {
                let [ratio, least, most] = [ratio, least, most].map(|ratio| ratio * 100.0);
                write!(f, "{ratio:+.2} % slower ({least:+.2} to {most:+.2}); ")?;
            }
            None => write!(f, "slow-down not known without `none`; ")?,
        }
        write!(f, "{} OOM kills; ", self.oom_kills)?;
        match self.give_back_s {
            Some(seconds) => write!(f, "{seconds:.1} s to grow")?,
            None => write!(f, "most growths not served")?,
        }
        if let Some(seconds) = self.give_back_latest_s {
            write!(f, ", {seconds:.1} s later than with nobody at most")?;
        }
        write!(
            f,
            ", {} of {} growths never served; {:.0} major faults, {:.0} MiB swapped in; {:.0} actions",
            self.never_given_back, self.growths, self.major_faults, self.swap_in_mib, self.actions
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::contestant::Effort;
    use super::*;

    fn turn(peer: Peer, unit_ms: f64, reclaimed_ratio: f64) -> Turn {
        Turn {
            peer,
            reclaimed_ratio,
            reclaimed_later_ratio: reclaimed_ratio,
            rss_less_ratio: 0.0,
            used_ratio: 0.5,
            host_free_ratio: 0.1,
            host_memory_mib: 8000,
            unit_ms,
            units: 1000,
            guests_pcpus: 0.5,
            others_pcpus: 0.1,
            oom_kills: 1,
            effort: Effort::default(),
            guests: Vec::new(),
        }
    }

    #[test]
    fn slow_downs_are_medians_of_pairs() {
        let round = |none, other| vec![turn(Peer::Kvmpilot, other, 0.2), turn(Peer::None, none, 0.0)];
        // 5 %, 1 % and 2 % slower, on a machine that was once twice as slow itself.
        let rounds = [round(10.0, 10.5), round(20.0, 20.2), round(10.0, 10.2)];
        let summary = Summary::new(Peer::Kvmpilot, &rounds).unwrap();
        assert!((summary.slowdown_ratio.unwrap() - 0.02).abs() < 1e-9);
        assert!((summary.slowdown_most_ratio.unwrap() - 0.05).abs() < 1e-9);
        assert_eq!((summary.oom_kills, summary.give_back_s), (3, None));
        assert!(Summary::new(Peer::Mom, &rounds).is_none());
        let alone = [vec![turn(Peer::Kvmpilot, 10.0, 0.2)]];
        assert_eq!(Summary::new(Peer::Kvmpilot, &alone).unwrap().slowdown_ratio, None);
    }
}

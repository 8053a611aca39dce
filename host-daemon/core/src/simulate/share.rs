//! One pcpu for one second: generalised processor sharing (Parekh and Gallager 1993), which CFS and EEVDF come near to.

/// Who wants a pcpu.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// Its weight.
    pub(super) weight: f64,
    /// Part of the second that it wants, 0 to 1.
    pub(super) wanted: f64,
}

/// What it got.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Got {
    /// Part of the second on the pcpu.
    pub(super) run: f64,
    /// Part of the second runnable and not running.
    pub(super) wait: f64,
}

/// Shares one second.
///
/// Runs are filled up by weight until nothing is left or nobody wants more. Who gets all that it wants is slowed down by
/// those that are runnable beside it: at a rate of w / (w + W) a job of size r takes r (w + W) / w, of which r W / w is
/// waiting, W being the weights beside it, each as much as it is runnable. Who gets less is runnable all the time.
pub(super) fn share(claims: &[Claim]) -> Vec<Got> {
    let mut got = vec![Got::default(); claims.len()];
    let mut open: Vec<usize> = (0..claims.len()).filter(|n| claims[*n].wanted > 0.0).collect();
    let mut left = 1.0;
    while !open.is_empty() {
        let weights: f64 = open.iter().map(|n| claims[*n].weight).sum();
        let rate = left / weights;
        let (content, hungry): (Vec<usize>, Vec<usize>) =
            open.iter().copied().partition(|n| claims[*n].wanted <= rate * claims[*n].weight);
        if content.is_empty() {
            for n in hungry {
                got[n].run = rate * claims[n].weight;
                got[n].wait = 1.0 - got[n].run;
            }
            break;
        }
        for n in &content {
            got[*n].run = claims[*n].wanted;
            left -= claims[*n].wanted;
        }
        open = hungry;
    }
    let runnable: f64 = claims.iter().zip(&got).map(|(claim, got)| claim.weight * (got.run + got.wait)).sum();
    for (claim, got) in claims.iter().zip(&mut got) {
        if got.wait == 0.0 && got.run > 0.0 {
            let beside = runnable - claim.weight * got.run;
            got.wait = (got.run * beside / claim.weight).min(1.0 - got.run).max(0.0);
        }
    }
    got
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(claims: &[(f64, f64)]) -> Vec<Got> {
        share(
            &claims
                .iter()
                .map(|(weight, wanted)| Claim { weight: *weight, wanted: *wanted })
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn equal_spinners_share_equally_and_weights_count() {
        for got in of(&[(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)]) {
            assert!((got.run - 1.0 / 3.0).abs() < 1e-9 && (got.wait - 2.0 / 3.0).abs() < 1e-9, "{got:?}");
        }
        let got = of(&[(3.0, 1.0), (1.0, 1.0)]);
        assert!((got[0].run - 0.75).abs() < 1e-9 && (got[1].run - 0.25).abs() < 1e-9, "{got:?}");
    }

    #[test]
    fn what_is_not_wanted_goes_to_the_others_and_who_wants_little_waits_by_weight() {
        let got = of(&[(1.0, 0.1), (1.0, 1.0)]);
        assert!((got[0].run - 0.1).abs() < 1e-9 && (got[1].run - 0.9).abs() < 1e-9, "{got:?}");
        assert!((got[0].wait - 0.1).abs() < 1e-9, "half speed doubles its time: {got:?}");
        let got = of(&[(64.0, 0.1), (1.0, 1.0)]);
        assert!(got[0].wait < 0.002, "{got:?}");
        assert!(of(&[(1.0, 0.5)])[0].wait < 1e-9);
    }
}

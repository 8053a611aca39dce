//! One pcpu and its queue: weighted fair, in slices, as EEVDF does it (Stoica and Abdel-Wahab 1995; Linux since 6.6).
//!
//! Who has had less than its part is eligible; of those, whose slice would end first by its own weight runs next. It runs
//! until the tick at which its slice is used up; who wakes up takes its place before that only when it has run ahead of its
//! part (`RUN_TO_PARITY`). A vcpu that wakes up has the lead or lag with which it fell asleep. Weights are those of cgroups: a
//! domain's is shared by its runnable vcpus. The test below has what Linux 6.18 did
//! with the same, measured once; the constants here were fitted to that.

/// Buckets of the probe's histograms: log2 of nanoseconds.
pub(super) const BUCKETS: usize = 40;
/// Buckets of the report's histograms: eight in each octave, so that a quantile is off by a sixteenth at most.
pub(super) const FINE: usize = BUCKETS * 8;

/// A vcpu's thread. Times are nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Vcpu {
    /// Index of its domain.
    pub(super) group: usize,
    /// Where it may run, in rising order.
    pub(super) allowed: Vec<usize>,
    /// Where it is, or was last.
    pub(super) pcpu: usize,
    pub(super) runnable: bool,
    /// Work until it sleeps, in time at full speed; infinite for one that never does.
    pub(super) work: f64,
    /// Time on a pcpu that brings nothing, because caches are cold.
    pub(super) cold: f64,
    vruntime: f64,
    deadline: f64,
    /// How far it was behind the others when it fell asleep, in virtual time, and when that was.
    lag: f64,
    slept: f64,
    /// Since when it waits.
    pub(super) since: f64,
    /// Counters, as the probe has them.
    pub(super) ran: f64,
    pub(super) waited: f64,
    pub(super) histogram: [u64; BUCKETS],
    pub(super) preempted: u64,
    pub(super) blocked: u64,
    pub(super) migrations: [u64; 3],
    /// Part of the time that it is runnable, as the load balancing has it, and run and wait time when it looked last.
    pub(super) average: f64,
    pub(super) looked: f64,
    /// While it waited, what the domains ran: index and time.
    pub(super) stolen: Vec<(usize, f64)>,
}

/// A domain as its vcpus' queues see it.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) shares: f64,
    pub(super) runnable: u32,
    /// Node of its memory.
    pub(super) node: usize,
    /// Part of its speed that swapping leaves.
    pub(super) speed: f64,
    /// Work done, in time at full speed.
    pub(super) done: f64,
    pub(super) ran: f64,
    pub(super) waited: f64,
    /// Waits that ended, by length.
    pub(super) waits: Vec<u32>,
}

/// A pcpu.
#[derive(Clone, Debug)]
pub(super) struct Pcpu {
    pub(super) node: usize,
    pub(super) cache: usize,
    pub(super) sibling: Option<usize>,
    pub(super) current: Option<usize>,
    pub(super) waiting: Vec<usize>,
    /// Who wakes up here in this step, and when, the last one first.
    pub(super) wakes: Vec<(f64, usize)>,
    pub(super) busy: f64,
    /// Part of the last step that it was busy.
    pub(super) busy_part: f64,
    /// Looks of the load balancing in a row that moved nothing: at it inside its cache, by it beyond.
    pub(super) failed: u32,
    left: f64,
    average: f64,
}

/// What does not change while a pcpu runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) slice: f64,
    /// Time between two looks of the kernel whether a slice is used up.
    pub(super) tick: f64,
    pub(super) smt_speed: f64,
    pub(super) remote_speed: f64,
}

impl Vcpu {
    pub(super) fn new(group: usize, allowed: Vec<usize>, pcpu: usize) -> Self {
        Self {
            group,
            allowed,
            pcpu,
            runnable: false,
            work: 0.0,
            cold: 0.0,
            vruntime: 0.0,
            deadline: 0.0,
            lag: 0.0,
            slept: 0.0,
            since: 0.0,
            ran: 0.0,
            waited: 0.0,
            histogram: [0; BUCKETS],
            preempted: 0,
            blocked: 0,
            migrations: [0; 3],
            average: 0.0,
            looked: 0.0,
            stolen: Vec::new(),
        }
    }

    pub(super) fn wait(&mut self, time: f64, runner: usize) {
        self.waited += time;
        match self.stolen.iter_mut().find(|(by, _)| *by == runner) {
            Some((_, ns)) => *ns += time,
            None => self.stolen.push((runner, time)),
        }
    }
}

impl Group {
    /// Weight of each of its runnable vcpus.
    pub(super) fn weight(&self) -> f64 {
        self.shares / f64::from(self.runnable.max(1))
    }
}

impl Pcpu {
    pub(super) fn new(node: usize, cache: usize, sibling: Option<usize>) -> Self {
        Self {
            node,
            cache,
            sibling,
            current: None,
            waiting: Vec::new(),
            wakes: Vec::new(),
            busy: 0.0,
            busy_part: 0.0,
            failed: 0,
            left: 0.0,
            average: 0.0,
        }
    }

    /// Vcpus that want it, or will in this step.
    pub(super) fn length(&self) -> usize {
        usize::from(self.current.is_some()) + self.waiting.len() + self.wakes.len()
    }

    /// Weight of those that want it now.
    pub(super) fn load(&self, vcpus: &[Vcpu], groups: &[Group]) -> f64 {
        self.current.iter().chain(&self.waiting).map(|vcpu| groups[vcpus[*vcpu].group].weight()).sum()
    }

    /// Puts a runnable vcpu at the end of its waiting. One that comes from another pcpu brings its lead or lag along.
    pub(super) fn enqueue(
        &mut self,
        vcpu: usize,
        lag: f64,
        since: f64,
        slice: f64,
        vcpus: &mut [Vcpu],
        groups: &[Group],
    ) {
        let weight = groups[vcpus[vcpu].group].weight();
        let own = &mut vcpus[vcpu];
        own.vruntime = self.average - lag;
        own.deadline = own.vruntime + slice / weight;
        own.since = since;
        self.waiting.push(vcpu);
    }

    /// Takes a waiting vcpu out; returns its lag and since when it waits.
    pub(super) fn dequeue(&mut self, vcpu: usize, vcpus: &[Vcpu]) -> (f64, f64) {
        self.waiting.retain(|other| *other != vcpu);
        (self.average - vcpus[vcpu].vruntime, vcpus[vcpu].since)
    }

    /// The running vcpu waits again.
    pub(super) fn preempt(&mut self, now: f64, vcpus: &mut [Vcpu]) {
        let Some(vcpu) = self.current.take() else { return };
        vcpus[vcpu].preempted += 1;
        vcpus[vcpu].since = now;
        self.waiting.push(vcpu);
    }

    /// Runs from `now` on, to `end` or until there is nothing to do; returns when that is. `smt` is its speed beside its
    /// sibling.
    pub(super) fn run(
        &mut self,
        mut now: f64,
        end: f64,
        smt: f64,
        pace: Pace,
        vcpus: &mut [Vcpu],
        groups: &mut [Group],
    ) -> f64 {
        while now < end {
            while let Some((at, vcpu)) = self.wakes.last().copied().filter(|(at, _)| *at <= now) {
                self.wakes.pop();
                self.wake(vcpu, at, pace, vcpus, groups);
            }
            let Some(vcpu) = self.current.or_else(|| self.pick(now, pace, vcpus, groups)) else { return now };
            let group = vcpus[vcpu].group;
            let near = if groups[group].node == self.node { 1.0 } else { pace.remote_speed };
            let speed = smt * near * groups[group].speed;
            let mut until = end.min(now + vcpus[vcpu].cold + vcpus[vcpu].work / speed);
            if !self.waiting.is_empty() {
                until = until.min(((now + self.left) / pace.tick).ceil() * pace.tick);
            }
            if let Some((at, _)) = self.wakes.last() {
                until = until.min(*at);
            }
            let time = until - now;
            for waiting in &self.waiting {
                vcpus[*waiting].wait(time, group);
                let waiters = vcpus[*waiting].group;
                groups[waiters].waited += time;
            }
            now = until;
            self.busy += time;
            self.account(vcpu, time, speed, now, pace, vcpus, groups);
        }
        now
    }

    /// When an idle pcpu has something to do again in this step.
    pub(super) fn next_wake(&self, end: f64) -> f64 {
        self.wakes.last().map_or(end, |(at, _)| at.min(end))
    }

    /// Puts those that wake up in order, the last one first.
    pub(super) fn sort_wakes(&mut self) {
        self.wakes.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    }

    fn wake(&mut self, vcpu: usize, at: f64, pace: Pace, vcpus: &mut [Vcpu], groups: &mut [Group]) {
        groups[vcpus[vcpu].group].runnable += 1;
        let beside = self.load(vcpus, groups);
        let own = groups[vcpus[vcpu].group].weight();
        self.average = self.mean(vcpus, groups).unwrap_or(self.average);
        let Vcpu { lag, slept, .. } = vcpus[vcpu];
        // Who is ahead stays in the queue until it is not (`DELAY_DEQUEUE`).
        let lag = if lag < 0.0 && at - slept > pace.slice { 0.0 } else { lag };
        // Its own weight moves the average towards it, as `place_entity` allows for.
        let lag = if beside > 0.0 { lag * (beside + own) / beside } else { lag };
        self.enqueue(vcpu, lag, at, pace.slice, vcpus, groups);
        self.average = self.mean(vcpus, groups).unwrap_or(self.average);
        let ahead = |current: usize| vcpus[current].vruntime > self.limit();
        if self.current.is_some_and(ahead) {
            self.preempt(at, vcpus);
        }
    }

    /// Virtual time up to which a vcpu is eligible; rounding must not leave nobody.
    fn limit(&self) -> f64 {
        self.average + self.average.abs() * 1e-12 + 1e-9
    }

    /// Mean virtual time of those that compete, by weight.
    fn mean(&self, vcpus: &[Vcpu], groups: &[Group]) -> Option<f64> {
        let (mut weights, mut sum) = (0.0, 0.0);
        for vcpu in self.current.iter().chain(&self.waiting) {
            let weight = groups[vcpus[*vcpu].group].weight();
            weights += weight;
            sum += weight * vcpus[*vcpu].vruntime;
        }
        (weights > 0.0).then(|| sum / weights)
    }

    /// The eligible vcpu with the earliest deadline begins to run.
    fn pick(&mut self, now: f64, pace: Pace, vcpus: &mut [Vcpu], groups: &mut [Group]) -> Option<usize> {
        self.average = self.mean(vcpus, groups)?;
        let limit = self.limit();
        let eligible = self.waiting.iter().enumerate().filter(|(_, vcpu)| vcpus[**vcpu].vruntime <= limit);
        let first = |a: &(usize, &usize), b: &(usize, &usize)| {
            vcpus[*a.1].deadline.total_cmp(&vcpus[*b.1].deadline).then(a.1.cmp(b.1))
        };
        let (at, _) = eligible.min_by(first).or_else(|| self.waiting.iter().enumerate().min_by(first))?;
        let vcpu = self.waiting.remove(at);
        self.current = Some(vcpu);
        self.left = pace.slice;
        let wait = (now - vcpus[vcpu].since).max(0.0);
        vcpus[vcpu].histogram[octave(wait).min(BUCKETS - 1)] += 1;
        let waits = &mut groups[vcpus[vcpu].group].waits;
        waits[eighth(wait).min(FINE - 1)] += 1;
        Some(vcpu)
    }

    #[expect(clippy::too_many_arguments, reason = "one place, and a struct would only rename them")]
    fn account(
        &mut self,
        vcpu: usize,
        time: f64,
        speed: f64,
        now: f64,
        pace: Pace,
        vcpus: &mut [Vcpu],
        groups: &mut [Group],
    ) {
        let own = &mut vcpus[vcpu];
        let group = &mut groups[own.group];
        let weight = group.weight();
        let cold = own.cold.min(time);
        let done = (time - cold) * speed;
        own.cold -= cold;
        own.work -= done;
        own.ran += time;
        own.vruntime += time / weight;
        group.ran += time;
        group.done += done;
        self.left -= time;
        // A nanosecond is less than any clock here tells.
        if own.work < 1.0 {
            own.work = 0.0;
            own.runnable = false;
            own.blocked += 1;
            own.slept = now;
            let most = 2.0 * pace.slice.max(pace.tick) / weight;
            let vruntime = own.vruntime;
            let lag = self.mean(vcpus, groups).unwrap_or(vruntime) - vruntime;
            vcpus[vcpu].lag = lag.clamp(-most, most);
            groups[vcpus[vcpu].group].runnable -= 1;
            self.current = None;
        } else if self.left < 1.0 {
            own.deadline = own.vruntime + pace.slice / weight;
            self.left = pace.slice;
            self.average = self.mean(vcpus, groups).unwrap_or(self.average);
            let (limit, own) = (self.limit(), &vcpus[vcpu]);
            let better = |other: &usize| {
                let other = &vcpus[*other];
                other.vruntime <= limit && (own.vruntime > limit || other.deadline < own.deadline)
            };
            if self.waiting.iter().any(better) {
                self.preempt(now, vcpus);
            }
        }
    }
}

/// log2 of a time in ns, rounded down.
fn octave(ns: f64) -> usize {
    eighth(ns) / 8
}

/// Place in a histogram with eight buckets an octave: a float's exponent and the first three bits behind its point.
fn eighth(ns: f64) -> usize {
    const ONE: u64 = 1023 << 3;
    usize::try_from((ns.max(1.0).to_bits() >> 49).saturating_sub(ONE)).unwrap_or(0)
}

/// The `q` quantile of a histogram of [`FINE`] buckets, in ns: the upper end of its bucket. `None` without any.
pub(super) fn fine_quantile(waits: &[u64], q: f64) -> Option<f64> {
    let total: u64 = waits.iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let rank = total as f64 * q;
    let mut seen = 0;
    for (bucket, count) in (0_u32..).zip(waits) {
        seen += count;
        #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
        if *count > 0 && seen as f64 >= rank {
            let (octave, eighth) = (bucket / 8, bucket % 8);
            return Some(f64::from(octave).exp2() * (1.0 + f64::from(eighth + 1) / 8.0));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { slice: 3e6, tick: 1e6, smt_speed: 1.0, remote_speed: 1.0 };

    /// Runs vcpus of domains with these shares and work for a second on one pcpu, in steps of 10 ms.
    fn second(of: &[(f64, f64)]) -> (Vec<Vcpu>, Vec<Group>) {
        let mut groups: Vec<Group> = of.iter().map(|(shares, _)| group(*shares)).collect();
        let mut vcpus: Vec<Vcpu> = (0..of.len()).map(|at| Vcpu::new(at, vec![0], 0)).collect();
        let mut pcpu = Pcpu::new(0, 0, None);
        for (at, (_, work)) in of.iter().enumerate() {
            vcpus[at].work = *work;
            vcpus[at].runnable = true;
            pcpu.wakes.push((0.0, at));
        }
        for step in 0..100 {
            let now = f64::from(step) * 1e7;
            run(&mut pcpu, now, PACE, &mut vcpus, &mut groups);
        }
        (vcpus, groups)
    }

    /// 10 ms.
    fn run(pcpu: &mut Pcpu, mut now: f64, pace: Pace, vcpus: &mut [Vcpu], groups: &mut [Group]) {
        let end = now + 1e7;
        pcpu.sort_wakes();
        while now < end {
            now = pcpu.run(now, end, 1.0, pace, vcpus, groups);
            now = if now < end { pcpu.next_wake(end) } else { now };
        }
    }

    fn group(shares: f64) -> Group {
        let waits = vec![0; FINE];
        Group { shares, runnable: 0, node: 0, speed: 1.0, done: 0.0, ran: 0.0, waited: 0.0, waits }
    }

    #[test]
    fn spinners_share_by_weight_and_each_moment_is_somebody_s() {
        let spin = f64::INFINITY;
        let (vcpus, _) = second(&[(1024.0, spin), (1024.0, spin), (1024.0, spin)]);
        for vcpu in &vcpus {
            assert!((vcpu.ran - 1e9 / 3.0).abs() < 6e6, "{vcpu:?}");
            assert!((vcpu.ran + vcpu.waited - 1e9).abs() < 1.0, "{vcpu:?}");
            let stolen: f64 = vcpu.stolen.iter().map(|(_, ns)| ns).sum();
            assert!((stolen - vcpu.waited).abs() < 1.0, "the row sums up to the wait");
        }
        let (vcpus, _) = second(&[(3072.0, spin), (1024.0, spin)]);
        assert!((vcpus[0].ran - 0.75e9).abs() < 6e6, "{}", vcpus[0].ran);
    }

    /// What the kernel (Linux 6.18) did with the same: a server that wants 20 % in pieces of 2 ms beside spinners.
    #[test]
    fn a_server_beside_spinners_waits_as_long_as_it_does_under_the_kernel() {
        for (shares, spinners, measured) in [
            (1024.0, 2, 0.635),
            (8192.0, 2, 0.182),
            (8192.0, 1, 0.105),
            (65536.0, 2, 0.037),
            (1024.0, 1, 0.464),
        ] {
            let pace = Pace { slice: 1.4e6, tick: 4e6, ..PACE };
            let mut groups: Vec<Group> = (0..spinners).map(|_| group(1024.0)).collect();
            groups.push(group(shares));
            let mut vcpus: Vec<Vcpu> = (0..groups.len()).map(|at| Vcpu::new(at, vec![0], 0)).collect();
            let mut pcpu = Pcpu::new(0, 0, None);
            for (at, vcpu) in vcpus.iter_mut().enumerate().take(spinners) {
                vcpu.work = f64::INFINITY;
                vcpu.runnable = true;
                pcpu.wakes.push((0.0, at));
            }
            let mut random = super::super::random::Random::new(1);
            let mut next = 0.0;
            for step in 0..3000 {
                let now = f64::from(step) * 1e7;
                while next < now + 1e7 {
                    let server = &mut vcpus[spinners];
                    server.work += 2e6;
                    if !std::mem::replace(&mut server.runnable, true) {
                        pcpu.wakes.push((f64::max(next, now), spinners));
                    }
                    next += random.exponential(1e7);
                }
                run(&mut pcpu, now, pace, &mut vcpus, &mut groups);
            }
            let server = &vcpus[spinners];
            let ratio = server.waited / (server.waited + server.ran);
            let off: f64 = ratio - measured;
            assert!(
                off.abs() < f64::max(0.1 * measured, 0.015),
                "{shares} {spinners}: {ratio:.3}, not {measured}"
            );
        }
    }

    #[test]
    fn work_is_done_once_and_then_it_sleeps() {
        let (vcpus, groups) = second(&[(1024.0, 5e6), (1024.0, f64::INFINITY)]);
        assert!(!vcpus[0].runnable && vcpus[0].blocked == 1);
        assert!((groups[0].done - 5e6).abs() < 2.0, "{}", groups[0].done);
        assert!((groups[1].done - 995e6).abs() < 2.0, "{}", groups[1].done);
        assert_eq!(groups[0].runnable, 0);
    }

    #[test]
    fn quantiles_are_off_by_an_eighth_at_most() {
        for ns in [1.0, 100.0, 3e6, 5.5e6, 1e9] {
            let mut waits = vec![0_u64; FINE];
            waits[eighth(ns)] = 1;
            let found = fine_quantile(&waits, 0.99).unwrap();
            assert!(found >= ns && found <= ns * 1.126, "{ns} {found}");
            let octave = octave(ns);
            let from = 2.0_f64.powi(i32::try_from(octave).unwrap());
            assert!((from..from * 2.0).contains(&ns), "{ns} {octave}");
        }
        assert_eq!(fine_quantile(&[0; FINE], 0.5), None);
    }
}

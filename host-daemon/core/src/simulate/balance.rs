//! Where vcpus run: at a wake-up on an idle pcpu near the last one, and balanced between queues now and then, inside their
//! cpusets. As Linux does it: `select_idle_sibling` inside the last-level cache, pulls by idle pcpus at once, and by the
//! others when the difference is worth a vcpu.

use std::collections::BTreeMap;

use super::queue::{Group, Pace, Pcpu, Vcpu};

/// Run time lost to cold caches by a move inside the last-level cache, out of it, and to another node, in ns.
/// A MiB of L2 comes back at 50 GB/s in 20 us, a part of an L3 of 32 MiB in half a millisecond.
const COLD: [f64; 3] = [20e3, 500e3, 2e6];

/// Looks that moved nothing after which what speaks against a move counts no more.
const PATIENCE: u32 = 3;

/// What one look of the load balancing is over, as the kernel's scheduling domains are.
#[derive(Clone, Copy, Debug)]
enum Level {
    Cache,
    Node,
    Host,
}

const LEVELS: [Level; 3] = [Level::Cache, Level::Node, Level::Host];

impl Level {
    /// Which of two pcpus counts the looks that moved nothing: the full one, which many look at, inside a cache; beyond it
    /// the one that looks.
    const fn counts(self, from: usize, to: usize) -> usize {
        match self {
            Self::Cache => from,
            Self::Node | Self::Host => to,
        }
    }

    /// How much fuller others must be (`imbalance_pct`).
    const fn imbalance(self) -> f64 {
        match self {
            Self::Cache => 1.01,
            Self::Node => 1.17,
            Self::Host => 1.25,
        }
    }
}

/// Mean load of each cache's and each node's pcpus.
#[derive(Clone, Debug, Default)]
struct Means {
    caches: BTreeMap<usize, (f64, f64)>,
    nodes: BTreeMap<usize, (f64, f64)>,
}

impl Means {
    fn add(&mut self, pcpu: &Pcpu, load: f64) {
        for (sum, count) in
            [self.caches.entry(pcpu.cache).or_default(), self.nodes.entry(pcpu.node).or_default()]
        {
            *sum += load;
            *count += 1.0;
        }
    }

    fn of_cache(&self, pcpu: &Pcpu) -> f64 {
        self.caches.get(&pcpu.cache).map_or(0.0, |(sum, count)| sum / count)
    }

    fn of_node(&self, pcpu: &Pcpu) -> f64 {
        self.nodes.get(&pcpu.node).map_or(0.0, |(sum, count)| sum / count)
    }
}

/// The pcpus with all that wants them.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) pcpus: Vec<Pcpu>,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) groups: Vec<Group>,
    pub(super) slice: f64,
}

impl Machine {
    /// A sleeping vcpu wakes up at `at`: by its own timer, or by a `waker` (any number names a pcpu) that has something for it.
    pub(super) fn wake(&mut self, vcpu: usize, at: f64, waker: Option<usize>) {
        let to = self.place(vcpu, waker);
        self.moved(vcpu, to);
        self.vcpus[vcpu].runnable = true;
        self.pcpus[to].wakes.push((at, vcpu));
    }

    fn place(&self, vcpu: usize, waker: Option<usize>) -> usize {
        let Vcpu { allowed, pcpu: last, .. } = &self.vcpus[vcpu];
        let idle = |pcpu: &usize| self.pcpus[*pcpu].length() == 0;
        let may_stay = allowed.binary_search(last).is_ok();
        if may_stay && idle(last) {
            return *last;
        }
        let cache = self.pcpus[*last].cache;
        let near = || allowed.iter().copied().filter(|pcpu| self.pcpus[*pcpu].cache == cache);
        let core_idle =
            |pcpu: &usize| idle(pcpu) && self.pcpus[*pcpu].sibling.is_none_or(|other| idle(&other));
        if let Some(free) = near().find(core_idle).or_else(|| near().find(idle)) {
            return free;
        }
        if may_stay {
            // Whoever wakes it looks at its own pcpu, too, and takes the one with less load (`wake_affine_weight`).
            let load = |pcpu: usize| self.pcpus[pcpu].load(&self.vcpus, &self.groups);
            let count = near().count();
            let waker = waker.and_then(|waker| near().nth(waker % count.max(1)));
            return waker.filter(|waker| load(*waker) < load(*last)).unwrap_or(*last);
        }
        let shortest = allowed.iter().copied().min_by_key(|pcpu| self.pcpus[*pcpu].length());
        shortest.unwrap_or(*last)
    }

    fn moved(&mut self, vcpu: usize, to: usize) {
        let own = &mut self.vcpus[vcpu];
        if own.pcpu == to {
            return;
        }
        let (from, new) = (&self.pcpus[own.pcpu], &self.pcpus[to]);
        let far = usize::from(from.cache != new.cache) + usize::from(from.node != new.node);
        own.cold = own.cold.max(COLD[far.min(2)]);
        for level in 0..=far.min(2) {
            own.migrations[level] += 1;
        }
        own.pcpu = to;
    }

    /// Moves a waiting vcpu.
    fn pull(&mut self, vcpu: usize, to: usize) {
        let from = self.vcpus[vcpu].pcpu;
        let (lag, since) = self.pcpus[from].dequeue(vcpu, &self.vcpus);
        self.moved(vcpu, to);
        self.pcpus[to].enqueue(vcpu, lag, since, self.slice, &mut self.vcpus, &self.groups);
    }

    /// A vcpu may run on these from now on.
    pub(super) fn confine(&mut self, vcpu: usize, allowed: Vec<usize>, now: f64) {
        self.vcpus[vcpu].allowed = allowed;
        let Vcpu { pcpu, runnable, .. } = self.vcpus[vcpu];
        if !runnable || self.vcpus[vcpu].allowed.binary_search(&pcpu).is_ok() {
            return;
        }
        if self.pcpus[pcpu].current == Some(vcpu) {
            self.pcpus[pcpu].preempt(now, &mut self.vcpus);
        }
        let to = self.place(vcpu, None);
        self.pull(vcpu, to);
    }

    /// A domain goes.
    pub(super) fn remove(&mut self, vcpu: usize) {
        let own = &mut self.vcpus[vcpu];
        if !std::mem::take(&mut own.runnable) {
            return;
        }
        own.work = 0.0;
        let pcpu = &mut self.pcpus[own.pcpu];
        pcpu.waiting.retain(|other| *other != vcpu);
        pcpu.current = pcpu.current.filter(|other| *other != vcpu);
        self.groups[own.group].runnable -= 1;
    }

    /// All pcpus run from `now` to `end`. One that becomes idle pulls at once from its own last-level cache, as the kernel's
    /// newly idle balancing does. `turn` names the first.
    pub(super) fn run(&mut self, now: f64, end: f64, turn: usize, pace: Pace) {
        let count = self.pcpus.len();
        self.pcpus.iter_mut().for_each(Pcpu::sort_wakes);
        for n in 0..count {
            let at = (turn + n) % count;
            let beside = self.pcpus[at].sibling.map_or(0.0, |sibling| self.pcpus[sibling].busy_part);
            let smt = 1.0 - (1.0 - pace.smt_speed) * beside;
            let busy = self.pcpus[at].busy;
            let mut time = now;
            loop {
                time = self.pcpus[at].run(time, end, smt, pace, &mut self.vcpus, &mut self.groups);
                if time >= end {
                    break;
                }
                if let Some((from, vcpu, been)) = self.longest_near(at, n, turn, time) {
                    self.left_at(vcpu, from, time - if been { end } else { now });
                    self.pull(vcpu, at);
                } else {
                    time = self.pcpus[at].next_wake(end);
                }
            }
            self.pcpus[at].busy_part = (self.pcpus[at].busy - busy) / (end - now);
        }
    }

    /// The longest queue in the cache of `to`, which is the `n`th of this turn and idle from `time` on, a vcpu that waits
    /// there, and whether that pcpu has had its turn. Of such a one only who has waited ever since may be taken: nobody
    /// lives the same time twice.
    fn longest_near(&self, to: usize, n: usize, turn: usize, time: f64) -> Option<(usize, usize, bool)> {
        let count = self.pcpus.len();
        let near = (0..count).filter(|at| *at != n).map(|at| ((turn + at) % count, at < n));
        let queues = near.filter(|(from, _)| {
            let pcpu = &self.pcpus[*from];
            pcpu.cache == self.pcpus[to].cache && !pcpu.waiting.is_empty()
        });
        let found = queues.filter_map(|(from, been)| {
            let may = |vcpu: &&usize| {
                let own = &self.vcpus[**vcpu];
                own.allowed.binary_search(&to).is_ok() && (!been || own.since <= time)
            };
            Some((from, *self.pcpus[from].waiting.iter().find(may)?, been))
        });
        found.max_by_key(|(from, ..)| self.pcpus[*from].waiting.len())
    }

    /// A vcpu waited on `from` for `time` more than was counted; less, if negative.
    fn left_at(&mut self, vcpu: usize, from: usize, time: f64) {
        if let Some(current) = self.pcpus[from].current {
            let (runner, group) = (self.vcpus[current].group, self.vcpus[vcpu].group);
            self.vcpus[vcpu].wait(time, runner);
            self.groups[group].waited += time;
        }
    }

    /// pcpus that were idle all through the last step pull from the longest queue of their node, or, `far`, of any.
    pub(super) fn fill_idle(&mut self, far: bool) {
        if self.pcpus.iter().all(|pcpu| pcpu.waiting.is_empty()) {
            return;
        }
        for to in 0..self.pcpus.len() {
            if self.pcpus[to].length() > 0 || self.pcpus[to].busy_part > 0.0 {
                continue;
            }
            let node = self.pcpus[to].node;
            let mut queues: Vec<usize> = (0..self.pcpus.len())
                .filter(|from| !self.pcpus[*from].waiting.is_empty())
                .filter(|from| far || self.pcpus[*from].node == node)
                .collect();
            queues.sort_by_key(|from| {
                let (own, other) = (&self.pcpus[to], &self.pcpus[*from]);
                let far = usize::from(own.cache != other.cache) + usize::from(own.node != other.node);
                (far, std::cmp::Reverse(other.waiting.len()))
            });
            // What only has waiting vcpus that would leave their memory is left to them for a few looks.
            for from in queues {
                let Some(vcpu) = self.movable(from, to) else { continue };
                if self.leaves_home(vcpu, to) && self.pcpus[to].failed < PATIENCE {
                    self.pcpus[to].failed += 1;
                    continue;
                }
                self.pcpus[to].failed = 0;
                self.pull(vcpu, to);
                break;
            }
        }
    }

    /// A vcpu that waits on `from` and may run on `to`.
    fn movable(&self, from: usize, to: usize) -> Option<usize> {
        let may = |vcpu: &&usize| self.vcpus[**vcpu].allowed.binary_search(&to).is_ok();
        self.pcpus[from].waiting.iter().find(may).copied()
    }

    /// The periodic balancing, over averages of load: each pcpu looks for the fullest queue of its cache, then of the fullest
    /// cache of its node, then of the fullest node, and takes the heaviest vcpu that waits there and is worth at most half of
    /// the difference. If there is none, more is allowed at the next looks, as `nr_balance_failed` has it, so that nobody
    /// stays worse off than equals. Away from its memory a vcpu goes only then (`migrate_degrades_locality`).
    pub(super) fn balance(&mut self, elapsed: f64) {
        let mut loads = vec![0.0; self.pcpus.len()];
        for vcpu in &mut self.vcpus {
            let wanted = vcpu.ran + vcpu.waited;
            let part = (wanted - vcpu.looked) / elapsed;
            vcpu.looked = wanted;
            vcpu.average = (vcpu.average + part) / 2.0;
            loads[vcpu.pcpu] += vcpu.average * self.groups[vcpu.group].weight();
        }
        let mut means = Means::default();
        for (pcpu, load) in self.pcpus.iter().zip(&loads) {
            means.add(pcpu, *load);
        }
        for to in 0..self.pcpus.len() {
            for level in LEVELS {
                if self.looks(to, level) {
                    self.balance_in(to, level, &means, &mut loads);
                }
            }
        }
    }

    /// Whether a pcpu looks beyond its cache or node: for all in there one does, and who is idle (`should_we_balance`).
    fn looks(&self, to: usize, level: Level) -> bool {
        let own = &self.pcpus[to];
        let is_first = |of: fn(&Pcpu) -> usize| self.pcpus[..to].iter().all(|pcpu| of(pcpu) != of(own));
        match level {
            Level::Cache => true,
            Level::Node => own.length() == 0 || is_first(|pcpu| pcpu.cache),
            Level::Host => own.length() == 0 || is_first(|pcpu| pcpu.node),
        }
    }

    /// One look of one pcpu at one level.
    fn balance_in(&mut self, to: usize, level: Level, means: &Means, loads: &mut [f64]) {
        let own = &self.pcpus[to];
        let busier = |from: &usize| {
            let other = &self.pcpus[*from];
            let much = level.imbalance();
            match level {
                Level::Cache => other.cache == own.cache,
                Level::Node => {
                    other.node == own.node
                        && other.cache != own.cache
                        && means.of_cache(other) > means.of_cache(own) * much
                }
                Level::Host => other.node != own.node && means.of_node(other) > means.of_node(own) * much,
            }
        };
        let fullest = (0..self.pcpus.len())
            .filter(|from| !self.pcpus[*from].waiting.is_empty() && loads[*from] > loads[to] * 1.1)
            .filter(busier)
            .max_by(|a, b| loads[*a].total_cmp(&loads[*b]).then(b.cmp(a)));
        let Some(from) = fullest else { return };
        let difference = (loads[from] - loads[to]) / level.imbalance() * 1.02;
        let counts = level.counts(from, to);
        let failed = self.pcpus[counts].failed;
        let patience = f64::from(1_u32 << failed.min(PATIENCE));
        let load = |vcpu: usize| {
            let own = &self.vcpus[vcpu];
            own.average * self.groups[own.group].weight()
        };
        let worth = |vcpu: &usize| load(*vcpu) <= difference && load(*vcpu) / patience <= difference / 2.0;
        let may = |vcpu: &usize| {
            let stays = failed >= PATIENCE || !self.leaves_home(*vcpu, to);
            stays && self.vcpus[*vcpu].allowed.binary_search(&to).is_ok()
        };
        let candidates = self.pcpus[from].waiting.iter().copied().filter(|vcpu| may(vcpu) && worth(vcpu));
        // Of equals the one that has not run for longest, as the kernel's list of tasks has it.
        let first = |a: &usize, b: &usize| {
            let since = |vcpu: usize| self.vcpus[vcpu].since;
            load(*a).total_cmp(&load(*b)).then(since(*b).total_cmp(&since(*a)))
        };
        let Some(vcpu) = candidates.max_by(first) else {
            self.pcpus[counts].failed += 1;
            return;
        };
        let moved = load(vcpu);
        self.pcpus[counts].failed = 0;
        self.pull(vcpu, to);
        loads[from] -= moved;
        loads[to] += moved;
    }

    /// Whether a vcpu would go away from its memory.
    fn leaves_home(&self, vcpu: usize, to: usize) -> bool {
        let own = &self.vcpus[vcpu];
        let home = self.groups[own.group].node;
        self.pcpus[own.pcpu].node == home && self.pcpus[to].node != home
    }
}

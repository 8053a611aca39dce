//! Tier 2, on demand: measures one domain in windows that the caller opens and closes. Between windows nothing is
//! attached, and dropping a [`Watch`] takes programs and maps away. How long and how often is the caller's business.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::trace_point::TracePointLink;
use aya::programs::{BtfTracePoint, ProgramError, TracePoint};
use aya::sys::{Stats, enable_stats};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use kvmpilot_core::sample::{
    ExitReasonSample, LatencyBucket, LatencySample, ThreadLatencySample, VcpuExitSample,
};
use kvmpilot_ebpf_common::watch::{
    ExitCounts, ExitKey, Latencies, VcpuThread, WOKEN, WaitEvent, WatchedThread, latency_bucket_end, lost,
    program,
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::ProbeError;
use super::load::BTF;
use super::offsets;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kvmpilot-watch"));

/// Program and tracepoint. The switch comes first: a wait whose end could not be seen must not begin.
const WAKE: [(&str, &str); 3] = [
    ("watch_switch", "sched_switch"),
    ("watch_wakeup", "sched_wakeup"),
    ("watch_newborn", "sched_wakeup_new"),
];
const EXIT: &str = "watch_exit";
const ENTRY: &str = "watch_entry";
/// Threads of one QEMU that are told apart; a busy one has a few dozen.
const THREADS: u32 = 1024;
/// Pairs of vcpu and reason.
const REASONS: u32 = 16384;

/// What to measure.
#[derive(Clone, Debug)]
pub enum WatchKind {
    /// How long the domain's threads wait for a pcpu, by the clock.
    WakeLatency(Option<Recorder>),
    /// What its vcpus leave the guest for.
    Exits(EventPair),
}

/// Also records each single wait of one thread. For tests.
#[derive(Clone, Copy, Debug)]
pub struct Recorder {
    /// The thread.
    pub tid: u32,
    /// At most so many waits.
    pub events: u32,
}

/// One recorded wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitRecord {
    /// When it ended, ns on the monotonic clock.
    pub at_ns: u64,
    /// How long it was.
    pub wait_ns: u64,
    /// It began with a wake-up, not with a preemption.
    pub woken: bool,
}

/// What one program has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Its name, as `bpftool prog` shows it.
    pub program: &'static str,
    /// Runs.
    pub runs: u64,
    /// Mean time of one, where it was measured.
    pub ns_per_run: Option<u64>,
}

/// Two events of a thread and the time between them. In earnest `kvm:kvm_exit` and `kvm:kvm_entry`.
#[derive(Clone, Debug)]
pub struct EventPair {
    /// Begins the time.
    pub exit: TraceEventName,
    /// Ends it.
    pub entry: TraceEventName,
    /// Offset of the reason in the first event, 4 bytes.
    pub reason_at: u32,
    /// Offset of the instruction set in the first event, 4 bytes, if it says.
    pub isa_at: Option<u32>,
}

/// A trace event.
#[derive(Clone, Copy, Debug)]
pub struct TraceEventName {
    /// Directory in tracefs' `events`.
    pub category: &'static str,
    /// Directory in it.
    pub name: &'static str,
}

/// Programs and maps for one domain, loaded; attached while a window is open.
#[derive(Debug)]
pub struct Watch {
    ebpf: Ebpf,
    kind: WatchKind,
    confidential: bool,
    /// Windows that have been opened.
    window: u32,
    /// When the present one was.
    opened: Option<Instant>,
    counted: Duration,
    links: Vec<Link>,
    /// Lets the kernel time each run of each eBPF program while the first window is open: that costs each of them two
    /// readings of the clock, which no other window shall have in its figures.
    timing: Option<OwnedFd>,
    /// Runs that [`Watch::spent`] has told.
    told: BTreeMap<&'static str, u64>,
}

/// Detaches its program when it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held for their Drop")]
enum Link {
    Btf(BtfTracePointLink),
    Classic(TracePointLink),
}

impl Watch {
    /// Loads what is needed to watch the threads of process `tgid`, without attaching it. `confidential`: the kernel is
    /// locked down to that.
    ///
    /// # Errors
    /// Why this cannot be measured here, see [`ProbeError`].
    pub fn load(tgid: u32, kind: WatchKind, confidential: bool) -> Result<Self, ProbeError> {
        // As for tier 1.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let ebpf = match &kind {
            WatchKind::WakeLatency(recorder) => load_wake(tgid, *recorder, confidential)?,
            WatchKind::Exits(pair) => load_exits(tgid, pair, confidential)?,
        };
        let (opened, counted, links) = (None, Duration::ZERO, Vec::new());
        let (timing, told) = (None, BTreeMap::new());
        Ok(Self { ebpf, kind, confidential, window: 0, opened, counted, links, timing, told })
    }

    /// Attaches. What happens from now on until [`Watch::close`] is counted, except what began before.
    ///
    /// # Errors
    /// As [`Watch::load`]; nothing is attached then.
    pub fn open(&mut self) -> Result<(), ProbeError> {
        self.close()?;
        // Before Linux 5.8 there is none, and the cost stays unknown.
        self.timing = (self.window == 0).then(|| enable_stats(Stats::RunTime).ok()).flatten();
        let opened = self.attach().and_then(|()| self.set_window(self.window + 1));
        match opened {
            Ok(()) => {
                self.window += 1;
                self.opened = Some(Instant::now());
            }
            Err(_) => self.detach(),
        }
        opened
    }

    /// Stops counting at once, and detaches, which takes the kernel up to 100 ms and more.
    ///
    /// # Errors
    /// When counting cannot be stopped; it is detached all the same.
    pub fn close(&mut self) -> Result<(), ProbeError> {
        let closed = self.opened.take().map(|opened| {
            let closed = self.set_window(0);
            self.counted += opened.elapsed();
            closed
        });
        self.detach();
        closed.unwrap_or(Ok(()))
    }

    fn detach(&mut self) {
        self.links.clear();
        self.timing = None;
    }

    /// Of each program the runs since the last call, and the mean time of one in ns, the kernel's own clock reads included,
    /// as measured in the first window.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn spent(&mut self) -> Result<Vec<Spent>, ProbeError> {
        let counters: PerCpuArray<_, u64> =
            PerCpuArray::try_from(map_ref(&self.ebpf, "RUNS")?).map_err(load_error)?;
        let mut spent = Vec::new();
        for &(name, index) in self.numbered() {
            let runs: u64 = counters.get(&index, 0).map_err(load_error)?.iter().sum();
            let info = self.ebpf.program(name).and_then(|program| program.info().ok());
            let mean = info.and_then(|info| info.run_time().as_nanos().checked_div(info.run_count().into()));
            let before = self.told.insert(name, runs).unwrap_or_default();
            let ns_per_run = mean.and_then(|mean| u64::try_from(mean).ok());
            spent.push(Spent { program: name, runs: runs.saturating_sub(before), ns_per_run });
        }
        Ok(spent)
    }

    /// Names of the programs, as `bpftool prog` shows them, with the indices of their counters.
    const fn numbered(&self) -> &'static [(&'static str, u32)] {
        match self.kind {
            WatchKind::WakeLatency(_) => {
                &[(WAKE[0].0, program::SWITCH), (WAKE[1].0, program::WAKEUP), (WAKE[2].0, program::NEWBORN)]
            }
            WatchKind::Exits(_) => &[(EXIT, program::EXIT), (ENTRY, program::ENTRY)],
        }
    }

    fn set_window(&mut self, window: u32) -> Result<(), ProbeError> {
        let mut windows: Array<_, u32> =
            Array::try_from(map_mut(&mut self.ebpf, "WINDOW")?).map_err(load_error)?;
        windows.set(0, window, 0).map_err(load_error)
    }

    /// Time in which something was counted: the length of all windows that are closed.
    #[must_use]
    pub const fn counted(&self) -> Duration {
        self.counted
    }

    /// Windows that have been opened.
    #[must_use]
    pub const fn windows(&self) -> u32 {
        self.window
    }

    fn attach(&mut self) -> Result<(), ProbeError> {
        let Self { ebpf, kind, confidential, links, .. } = self;
        match kind {
            WatchKind::WakeLatency(_) => {
                for (name, _) in WAKE {
                    let link =
                        attach_btf(ebpf, name).map_err(|err| ProbeError::sort(name, *confidential, err))?;
                    links.push(Link::Btf(link));
                }
            }
            WatchKind::Exits(pair) => {
                for (name, event) in [(ENTRY, pair.entry), (EXIT, pair.exit)] {
                    let link = attach_event(ebpf, name, event)
                        .map_err(|err| ProbeError::sort(name, *confidential, err))?;
                    links.push(Link::Classic(link));
                }
            }
        }
        Ok(())
    }

    /// The waits of each thread that was seen, by rising tid.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn latencies(&self) -> Result<Vec<ThreadLatencySample>, ProbeError> {
        let threads: HashMap<_, u32, WatchedThread> =
            HashMap::try_from(map_ref(&self.ebpf, "THREADS")?).map_err(load_error)?;
        let mut samples = Vec::new();
        for entry in threads.iter() {
            let (tid, thread) = entry.map_err(load_error)?;
            let (woken, preempted) = (latency(&thread.woken), latency(&thread.preempted));
            samples.push(ThreadLatencySample { tid, woken, preempted });
        }
        samples.sort_by_key(|sample| sample.tid);
        Ok(samples)
    }

    /// The exits of each vcpu that was seen, by rising tid.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn exits(&self) -> Result<Vec<VcpuExitSample>, ProbeError> {
        let vcpus: HashMap<_, u32, VcpuThread> =
            HashMap::try_from(map_ref(&self.ebpf, "VCPUS")?).map_err(load_error)?;
        let exits: HashMap<_, ExitKey, ExitCounts> =
            HashMap::try_from(map_ref(&self.ebpf, "EXITS")?).map_err(load_error)?;
        let mut samples = Vec::new();
        for entry in vcpus.iter() {
            let (tid, vcpu) = entry.map_err(load_error)?;
            samples.push(VcpuExitSample { tid, guest_ns: vcpu.guest_ns, isa: vcpu.isa, reasons: Vec::new() });
        }
        for entry in exits.iter() {
            let (ExitKey { tid, reason }, ExitCounts { count, total_ns, max_ns }) =
                entry.map_err(load_error)?;
            if let Some(sample) = samples.iter_mut().find(|sample| sample.tid == tid) {
                sample.reasons.push(ExitReasonSample { reason, count, total_ns, max_ns });
            }
        }
        samples.sort_by_key(|sample| sample.tid);
        samples.iter_mut().for_each(|sample| sample.reasons.sort_by_key(|reason| reason.reason));
        Ok(samples)
    }

    /// Something was not counted, because there were more threads or reasons than fit.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn overflowed(&self) -> Result<bool, ProbeError> {
        let causes: Array<_, u64> = Array::try_from(map_ref(&self.ebpf, "LOST")?).map_err(load_error)?;
        Ok(causes.get(&lost::FULL, 0).map_err(load_error)? > 0)
    }

    /// What the [`Recorder`] recorded, in order.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn recorded(&self) -> Result<Vec<WaitRecord>, ProbeError> {
        let next: Array<_, u32> = Array::try_from(map_ref(&self.ebpf, "NEXT_EVENT")?).map_err(load_error)?;
        let events: Array<_, WaitEvent> =
            Array::try_from(map_ref(&self.ebpf, "EVENTS")?).map_err(load_error)?;
        let count = next.get(&0, 0).map_err(load_error)?;
        (0..count)
            .map(|number| {
                let WaitEvent { at_ns, wait_ns, kind } = events.get(&number, 0).map_err(load_error)?;
                Ok(WaitRecord { at_ns, wait_ns, woken: kind == u64::from(WOKEN) })
            })
            .collect()
    }
}

fn load_wake(tgid: u32, recorder: Option<Recorder>, confidential: bool) -> Result<Ebpf, ProbeError> {
    let bytes = fs::read(BTF).map_err(ProbeError::NoBtf)?;
    let offsets = offsets::resolve(&bytes)?;
    let btf = Btf::parse(&bytes, Endianness::default()).map_err(load_error)?;
    drop(bytes);
    let has_state = u32::from(offsets.switch_has_state);
    let recorder = recorder.unwrap_or(Recorder { tid: 0, events: 1 });
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("TGID", &tgid, true)
        .override_global("TASK_PID", &offsets.pid, true)
        .override_global("TASK_TGID", &offsets.tgid, true)
        .override_global("TASK_STATE", &offsets.state, true)
        .override_global("SWITCH_HAS_STATE", &has_state, true)
        .override_global("EVENTS_OF", &recorder.tid, true)
        .map_max_entries("THREADS", THREADS)
        .map_max_entries("EVENTS", recorder.events)
        .map_max_entries("VCPUS", 1)
        .map_max_entries("EXITS", 1)
        .load(OBJECT)
        .map_err(|err| ProbeError::sort("object", confidential, err))?;
    for (name, tracepoint) in WAKE {
        load_btf(&mut ebpf, name, tracepoint, &btf)
            .map_err(|err| ProbeError::sort(name, confidential, err))?;
    }
    Ok(ebpf)
}

fn load_exits(tgid: u32, pair: &EventPair, confidential: bool) -> Result<Ebpf, ProbeError> {
    let isa_at = pair.isa_at.unwrap_or(u32::MAX);
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("TGID", &tgid, true)
        .override_global("EXIT_REASON_AT", &pair.reason_at, true)
        .override_global("EXIT_ISA_AT", &isa_at, true)
        .map_max_entries("THREADS", 1)
        .map_max_entries("VCPUS", THREADS)
        .map_max_entries("EXITS", REASONS)
        .load(OBJECT)
        .map_err(|err| ProbeError::sort("object", confidential, err))?;
    for name in [EXIT, ENTRY] {
        let program: Result<&mut TracePoint, ProgramError> = program(&mut ebpf, name);
        program.and_then(TracePoint::load).map_err(|err| ProbeError::sort(name, confidential, err))?;
    }
    Ok(ebpf)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<P, ProgramError>
where
    P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name).ok_or_else(|| ProgramError::InvalidName { name: name.to_owned() })?.try_into()
}

fn load_btf(ebpf: &mut Ebpf, name: &str, tracepoint: &str, btf: &Btf) -> Result<(), ProgramError> {
    let program: &mut BtfTracePoint = program(ebpf, name)?;
    program.load(tracepoint, btf)
}

fn attach_btf(ebpf: &mut Ebpf, name: &str) -> Result<BtfTracePointLink, ProgramError> {
    let program: &mut BtfTracePoint = program(ebpf, name)?;
    let link = program.attach()?;
    program.take_link(link)
}

fn attach_event(ebpf: &mut Ebpf, name: &str, event: TraceEventName) -> Result<TracePointLink, ProgramError> {
    let program: &mut TracePoint = program(ebpf, name)?;
    let link = program.attach(event.category, event.name)?;
    program.take_link(link)
}

fn load_error(err: impl std::error::Error + Send + Sync + 'static) -> ProbeError {
    ProbeError::Load(err.into())
}

fn map_ref<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a aya::maps::Map, ProbeError> {
    ebpf.map(name).ok_or_else(|| ProbeError::Load(format!("the object has no map {name}").into()))
}

fn map_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map, ProbeError> {
    ebpf.map_mut(name).ok_or_else(|| ProbeError::Load(format!("the object has no map {name}").into()))
}

fn latency(latencies: &Latencies) -> LatencySample {
    let buckets = latencies.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    LatencySample {
        count: latencies.count,
        sum_ns: latencies.sum_ns,
        max_ns: latencies.max_ns,
        buckets: buckets
            .map(|(n, &count)| LatencyBucket { below_ns: latency_bucket_end(n), count: count.into() })
            .collect(),
    }
}

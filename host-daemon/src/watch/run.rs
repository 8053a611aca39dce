//! One watch, from finding the domain's QEMU to the figures: windows in which something is attached, pauses in which
//! nothing is. Blocks its thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvmpilot_core::model::WatchWhat;
use kvmpilot_core::sample::ThreadRole;

use super::bill::Bill;
use super::{Ask, Outcome, Refusal, Rest, Seen, Thread};
use crate::kernel::{ExitCounter, Kernel, TraceEventError};
use crate::probes::{EventPair, TraceEventName, Watch, WatchKind};

/// How long a window is; of a short watch a tenth.
const WINDOW: Duration = Duration::from_millis(200);
/// How often we look whether to go on.
const LOOK: Duration = Duration::from_millis(20);

const EXIT: TraceEventName = TraceEventName { category: "kvm", name: "kvm_exit" };
const ENTRY: TraceEventName = TraceEventName { category: "kvm", name: "kvm_entry" };

/// Why a watch ends before its time.
pub(super) enum End {
    /// Nobody waits for it.
    Gone,
    /// It costs too much, as this says.
    Forbidden(String),
    /// The domain stopped.
    Stopped,
}

pub(super) struct Job {
    pub(super) kernel: Kernel,
    pub(super) rest: Arc<Rest>,
    pub(super) bill: Arc<Bill>,
    pub(super) ask: Ask,
}

/// Life of a QEMU process.
#[derive(Clone, Copy)]
struct Qemu {
    pid: u32,
    start_ticks: u64,
}

/// Watches until the time is over or `end` gives a reason.
pub(super) fn run(job: Job, end: &dyn Fn() -> Option<End>) -> Result<Outcome, Refusal> {
    let Job { kernel, rest, bill, ask } = job;
    let began = Instant::now();
    let qemu = find(&kernel, &ask)?;
    let kind = match ask.what {
        WatchWhat::WakeLatency => WatchKind::WakeLatency(None),
        WatchWhat::Exits => {
            let pair = exit_events(&kernel).map_err(Refusal::Unavailable)?;
            WatchKind::Exits(pair)
        }
    };
    let unavailable = |error| Refusal::Unavailable(chain(error));
    // The same in KVM's own books. Where they cannot be had, what is counted stands alone.
    let own = (ask.what == WatchWhat::Exits).then(|| kernel.exit_counter(qemu.pid).ok()).flatten();
    let exits = || own.as_ref().and_then(|own| ExitCounter::read(own).ok());
    let mut watch = Watch::load(qemu.pid, kind, kernel.is_confidential()).map_err(unavailable)?;

    let end = || end().or_else(|| (!lives(&kernel, qemu)).then_some(End::Stopped));
    let over = began + ask.length;
    let length = WINDOW.min(ask.length / Rest::DUTY);
    let mut tally = Tally::default();
    let mut ended = None;
    // At least one window, however long others keep us waiting for it.
    while ended.is_none() {
        if let Err(next) = rest.take(Instant::now(), length) {
            if next >= over && watch.windows() > 0 {
                break;
            }
            ended = pause(next, &end);
            continue;
        }
        let opened = Instant::now();
        watch.open().map_err(unavailable)?;
        // Next to the window's ends, because vcpus go on meanwhile.
        let left = exits();
        let ran = vcpu_time(&kernel, qemu);
        ended = pause(Instant::now() + length, &end);
        tally.ran(ran, vcpu_time(&kernel, qemu));
        tally.left(left, exits());
        let closed = watch.close();
        rest.spent(opened, opened.elapsed());
        closed.map_err(unavailable)?;
        bill.add(&watch.spent().map_err(unavailable)?);
        tally.note_threads(&kernel, qemu);
        // An emulator never fires KVM's tracepoints. One window shows it; more would only keep people waiting.
        if ask.what == WatchWhat::Exits && ask.accel != "kvm" {
            break;
        }
    }
    let seen = match ask.what {
        WatchWhat::WakeLatency => Seen::Latencies(watch.latencies().map_err(unavailable)?),
        WatchWhat::Exits => Seen::Exits(watch.exits().map_err(unavailable)?),
    };
    Ok(Outcome {
        ended: ended.map(|end| match end {
            End::Gone => "nobody waited for it any more".to_owned(),
            End::Forbidden(reason) => reason,
            End::Stopped => "the domain stopped".to_owned(),
        }),
        watched: began.elapsed(),
        sampled: watch.counted(),
        windows: watch.windows(),
        overflowed: watch.overflowed().map_err(unavailable)?,
        vcpus_ran: tally.vcpus_ran,
        kvm_exits: tally.kvm_exits,
        back_end: kernel.kvm_back_end(),
        threads: tally.threads.into_values().collect(),
        seen,
        ask,
    })
}

/// What adds up over the windows.
#[derive(Default)]
struct Tally {
    vcpus_ran: Option<Duration>,
    kvm_exits: Option<u64>,
    threads: BTreeMap<u32, Thread>,
}

impl Tally {
    fn ran(&mut self, before: Option<u64>, after: Option<u64>) {
        if let (Some(before), Some(after)) = (before, after) {
            let ran = Duration::from_nanos(after.saturating_sub(before));
            self.vcpus_ran = Some(self.vcpus_ran.unwrap_or_default() + ran);
        }
    }

    fn left(&mut self, before: Option<u64>, after: Option<u64>) {
        if let (Some(before), Some(after)) = (before, after) {
            self.kvm_exits = Some(self.kvm_exits.unwrap_or_default() + after.saturating_sub(before));
        }
    }

    fn note_threads(&mut self, kernel: &Kernel, qemu: Qemu) {
        let (threads, _) = kernel.threads(qemu.pid);
        let named = threads.into_iter().map(|info| Thread {
            tid: info.tid,
            role: info.role,
            comm: info.comm.to_string(),
        });
        self.threads.extend(named.map(|thread| (thread.tid, thread)));
    }
}

fn find(kernel: &Kernel, ask: &Ask) -> Result<Qemu, Refusal> {
    let gone = || Refusal::NotRunning(ask.name.clone());
    let (processes, _) = kernel.qemu_processes();
    let pid = *processes.get(&ask.domain).ok_or_else(gone)?;
    let start_ticks = kernel.thread(pid, pid).map_err(|_| gone())?.start_ticks;
    Ok(Qemu { pid, start_ticks })
}

fn lives(kernel: &Kernel, qemu: Qemu) -> bool {
    kernel.thread(qemu.pid, qemu.pid).is_ok_and(|main| main.start_ticks == qemu.start_ticks)
}

/// Time that the domain's vcpus have spent on pcpus, ns.
fn vcpu_time(kernel: &Kernel, qemu: Qemu) -> Option<u64> {
    let (threads, _) = kernel.threads(qemu.pid);
    let vcpus = threads.iter().filter(|thread| matches!(thread.role, ThreadRole::Vcpu(_)));
    vcpus.map(|vcpu| kernel.schedstat(qemu.pid, vcpu.tid).ok().map(|stat| stat.on_cpu_ns)).sum()
}

/// Waits, but not longer than `end` allows.
fn pause(until: Instant, end: &dyn Fn() -> Option<End>) -> Option<End> {
    loop {
        if let Some(end) = end() {
            return Some(end);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        sleep(left.min(LOOK));
    }
}

/// KVM's own pair of events in this kernel, or why it cannot be watched.
pub(super) fn exit_events(kernel: &Kernel) -> Result<EventPair, String> {
    let told = |error: TraceEventError| error.to_string();
    let exit = kernel.trace_event(EXIT.category, EXIT.name).map_err(told)?;
    kernel.trace_event(ENTRY.category, ENTRY.name).map_err(told)?;
    let reason_at = exit.offset("exit_reason").ok_or_else(|| {
        let event = format!("{}:{}", EXIT.category, EXIT.name);
        told(TraceEventError::NoField { event, field: "exit_reason" })
    })?;
    if kernel.may_open_events() == Some(false) {
        return Err("kernel.perf_event_paranoid is 3 or more, which keeps kvmpilotd from KVM's events; `kvmpilot doctor` says \
                    what permits them"
            .to_owned());
    }
    Ok(EventPair { exit: EXIT, entry: ENTRY, reason_at, isa_at: exit.offset("isa") })
}

/// An error with its sources on one line.
pub(super) fn chain(error: crate::probes::ProbeError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

//! What is attached: kvmpilot's own programs through its own gateway, and those that they are compared with.

use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::rc::Rc;

use anyhow::{Context, Result};
use aya::programs::{BtfTracePoint, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{
    Capacity, EventPair, Ground, Probes, ThreadKey, Totals, TraceEventName, Watch, WatchKind, offsets,
};
use kvmpilot_core::Uuid;
use kvmpilot_tests::target_dir;

const BTF: &str = "/sys/kernel/btf/vmlinux";
const GENERATE: TraceEventName = TraceEventName { category: "signal", name: "signal_generate" };
const DELIVER: TraceEventName = TraceEventName { category: "signal", name: "signal_deliver" };

/// What stands in for `kvm:kvm_exit` and `kvm:kvm_entry`.
pub(crate) const EXIT_EVENTS: &str = "signal:signal_generate and signal:signal_deliver";

/// Something that can be attached again and again.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    attach: Box<dyn FnMut() -> Result<Box<dyn Any>>>,
}

impl Subject {
    fn new(name: &'static str, attach: impl FnMut() -> Result<Box<dyn Any>> + 'static) -> Self {
        Self { name, attach: Box::new(attach) }
    }

    /// Attaches; dropping what comes back detaches.
    pub(crate) fn attach(&mut self) -> Result<Box<dyn Any>> {
        (self.attach)().with_context(|| format!("cannot attach {}", self.name))
    }

    /// An empty program on `sched_switch`.
    pub(crate) fn empty_switch() -> Result<Self> {
        Self::btf("empty program (floor)", &[("bench_empty", "sched_switch")])
    }

    /// Stamps at wake-ups and preemptions in a hash map, with a clock, for all threads.
    pub(crate) fn hash_and_clock() -> Result<Self> {
        let programs = [
            ("bench_switch", "sched_switch"),
            ("bench_wakeup", "sched_wakeup"),
            ("bench_newborn", "sched_wakeup_new"),
        ];
        Self::btf("wake-up, hash and clock", &programs)
    }

    fn btf(name: &'static str, programs: &[(&'static str, &str)]) -> Result<Self> {
        let bytes = fs::read(BTF)?;
        let found = offsets::resolve(&bytes)?;
        let btf = Btf::parse(&bytes, Endianness::default())?;
        let mut ebpf = load(&btf, &found)?;
        for (program, tracepoint) in programs {
            btf_program(&mut ebpf, program)?.load(tracepoint, &btf)?;
        }
        let names: Vec<_> = programs.iter().map(|(program, _)| *program).collect();
        Ok(Self::new(name, move || {
            let mut links = Vec::new();
            for name in &names {
                let program = btf_program(&mut ebpf, name)?;
                let link = program.attach()?;
                links.push(program.take_link(link)?);
            }
            Ok(Box::new(links))
        }))
    }

    /// The always-on program of tier 1, loaded anew each time, because it is attached from load to drop.
    pub(crate) fn scheduler_probe(name: &'static str, threads: &[u32]) -> Result<Self> {
        let btf = fs::read(BTF)?;
        let found = offsets::resolve(&btf)?;
        let threads: Vec<_> = threads.iter().map(|tid| own_thread(*tid)).collect::<io::Result<_>>()?;
        Ok(Self::new(name, move || {
            let ground = Ground {
                pid_max: Kernel::default().pid_max().context("no pid_max")?,
                confidential: Kernel::default().is_confidential(),
                own_thread: &own_thread,
            };
            let mut probes = Probes::load_with(&ground, Capacity { threads: 64, domains: 8 }, &btf, &found)?;
            for (key, _) in &threads {
                probes.watch(*key, Uuid::from_u128(1))?;
            }
            Ok(Box::new(probes))
        }))
    }

    /// A window of `--watch wake-latency` on a process.
    pub(crate) fn wake_latency(name: &'static str, tgid: u32) -> Result<Self> {
        Self::window(name, tgid, WatchKind::WakeLatency(None))
    }

    /// A window of `--watch exits` on a process.
    pub(crate) fn exits(name: &'static str, tgid: u32) -> Result<Self> {
        let event = Kernel::default().trace_event(GENERATE.category, GENERATE.name)?;
        let reason_at = event.offset("sig").context("no field sig")?;
        // The error number stands in for the instruction set, so that as much is read as from KVM's event.
        let isa_at = event.offset("errno");
        Self::window(
            name,
            tgid,
            WatchKind::Exits(EventPair { exit: GENERATE, entry: DELIVER, reason_at, isa_at }),
        )
    }

    fn window(name: &'static str, tgid: u32, kind: WatchKind) -> Result<Self> {
        struct Open(Rc<RefCell<Watch>>);
        impl Drop for Open {
            fn drop(&mut self) {
                if let Err(error) = self.0.borrow_mut().close() {
                    eprintln!("cannot close the window: {error}");
                }
            }
        }
        let watch = Rc::new(RefCell::new(Watch::load(tgid, kind, Kernel::default().is_confidential())?));
        Ok(Self::new(name, move || {
            watch.borrow_mut().open()?;
            Ok(Box::new(Open(Rc::clone(&watch))))
        }))
    }

    /// An empty program on each of the two events.
    pub(crate) fn empty_events() -> Result<Self> {
        let bytes = fs::read(BTF)?;
        let mut ebpf = load(&Btf::parse(&bytes, Endianness::default())?, &offsets::resolve(&bytes)?)?;
        event_program(&mut ebpf)?.load()?;
        Ok(Self::new("two empty programs (floor)", move || {
            let program = event_program(&mut ebpf)?;
            let mut links = Vec::new();
            for event in [GENERATE, DELIVER] {
                let link = program.attach(event.category, event.name)?;
                links.push(program.take_link(link)?);
            }
            Ok(Box::new(links))
        }))
    }
}

/// The object of comparison programs.
fn load(btf: &Btf, offsets: &offsets::Offsets) -> Result<Ebpf> {
    let path = target_dir().join("ebpf/objects/kvmpilot-bench");
    let object = fs::read(&path).with_context(|| format!("no {}: cargo xtask build-ebpf", path.display()))?;
    let has_state = u32::from(offsets.switch_has_state);
    Ok(EbpfLoader::new()
        .btf(Some(btf))
        .override_global("TASK_PID", &offsets.pid, true)
        .override_global("TASK_STATE", &offsets.state, true)
        .override_global("SWITCH_HAS_STATE", &has_state, true)
        .load(&object)?)
}

fn btf_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn event_program(ebpf: &mut Ebpf) -> Result<&mut TracePoint> {
    Ok(ebpf.program_mut("bench_event").context("no program bench_event")?.try_into()?)
}

/// What `/proc` says about a thread of ours.
fn own_thread(tid: u32) -> io::Result<(ThreadKey, Totals)> {
    let (kernel, pid) = (Kernel::default(), std::process::id());
    let stat = kernel.schedstat(pid, tid)?;
    let totals =
        Totals { on_cpu_ns: stat.on_cpu_ns, runq_wait_ns: stat.runq_wait_ns, arrivals: stat.arrivals };
    Ok((ThreadKey { tid, start_ticks: kernel.thread(pid, tid)?.start_ticks }, totals))
}

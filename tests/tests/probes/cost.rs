//! What the programs cost, as far as it does not depend on the machine, and what they say about it themselves.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::workers::*;

/// Most instructions that the kernel may make of each program, and most that its verifier may have to look at: a steady
/// proxy for what a run costs and for whether an old kernel takes the program (5.10 and later stop at a million).
const BUDGET: [(&str, u32, u32); 3] =
    [("sched_process_exit", 800, 250_000), ("sched_process_fork", 80, 200), ("sched_switch", 1000, 250_000)];

#[test]
fn programs_stay_small() {
    let probes = load();
    let sizes = probes.program_sizes();
    assert_eq!(sizes.len(), BUDGET.len());
    println!("{sizes:#?}");
    for (name, instructions, verified) in BUDGET {
        let size = sizes[name];
        assert!((1..=instructions).contains(&size.instructions), "{name}: {size:?}");
        // Told from 5.16 on.
        assert!(size.verified.is_none_or(|count| (1..=verified).contains(&count)), "{name}: {size:?}");
    }
}

#[test]
fn runs_are_counted_and_their_time_is_measured_on_request() {
    let mut probes = load();
    let runs = |probes: &kvmpilot::probes::Probes| {
        probes.programs().iter().map(|program| program.runs.unwrap()).collect::<Vec<_>>()
    };
    let begin = runs(&probes);
    assert!(probes.programs().iter().all(|program| program.ns_per_run.is_none() && program.tier == 1));
    let window = probes.begin_cost().unwrap();
    let worker = Worker::start(pcpu(), &Arc::new(AtomicBool::new(false)), || {
        for _ in 0..500 {
            thread::sleep(Duration::from_micros(50));
        }
    });
    worker.go();
    worker.done.recv().unwrap();
    drop(worker);
    probes.end_cost(window);
    let rose: Vec<u64> = runs(&probes).iter().zip(&begin).map(|(end, begin)| end - begin).collect();
    // An exit, a birth, and two switches for each sleep.
    assert!(rose[0] >= 1 && rose[1] >= 1 && (1000..1_000_000).contains(&rose[2]), "{rose:?}");
    for program in probes.programs() {
        println!("{program:?}");
        let ns = program.ns_per_run.unwrap();
        assert!((1..100_000).contains(&ns), "{program:?}");
    }
    // Nobody measures any more: the next window begins with what the last one ended with.
    let setting = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").unwrap();
    assert_eq!(setting.trim(), "0");
}

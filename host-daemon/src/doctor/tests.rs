//! The host's checks on made-up kernels.

use std::fs;
use std::path::Path;

use super::*;

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn find<'a>(checks: &'a [CheckView], name: &str) -> &'a CheckView {
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name} in {checks:?}"))
}

/// What is not well has advice.
fn all_have_advice(checks: &[CheckView]) {
    for check in checks.iter().filter(|check| check.verdict != Verdict::Ok) {
        assert!(check.advice.is_some(), "{check:?}");
    }
}

#[test]
fn a_kernel_with_nothing_is_told_what_it_lacks() {
    let root = tempfile::tempdir().unwrap();
    let off =
        TierView { tier: 1, name: "scheduler probe".to_owned(), on: false, reason: "no BTF".to_owned() };
    let mut checks = host(&Kernel::at(root.path(), root.path()));
    checks.extend(tiers(&[off]));
    all_have_advice(&checks);
    for (name, verdict) in [
        ("kernel", Verdict::Warning),
        ("tier 1", Verdict::Warning),
        ("lockdown", Verdict::Ok),
        ("tracepoints", Verdict::Warning),
        ("sockets", Verdict::Ok),
        ("schedstat", Verdict::Problem),
        ("pressure", Verdict::Warning),
        ("cgroups", Verdict::Problem),
    ] {
        assert_eq!(find(&checks, name).verdict, verdict, "{name}");
    }
    assert!(find(&checks, "tier 1").message.contains("no BTF"));
}

#[test]
fn competitors_and_a_replaced_scheduler_are_named() {
    let (proc, sys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kernel = Kernel::at(proc.path(), sys.path());
    let named = || host(&kernel).iter().filter(|check| check.name == "competitor").count();
    assert_eq!(named(), 0);
    for (pid, comm) in [("10", "numad"), ("11", "irqbalance"), ("12", "bash")] {
        write(proc.path(), &format!("{pid}/comm"), &format!("{comm}\n"));
    }
    write(sys.path(), "kernel/sched_ext/state", "enabled\n");
    write(sys.path(), "kernel/sched_ext/root/ops", "lavd\n");
    let checks = host(&kernel);
    all_have_advice(&checks);
    assert_eq!(named(), 2);
    assert!(checks.iter().any(|check| check.message.contains("lavd")));
    assert!(checks.iter().any(|check| check.message.starts_with("numad runs")));
    assert_eq!(find(&checks, "neighbour").verdict, Verdict::Ok);
}

#[test]
fn missing_controllers_are_told_with_what_they_are_for() {
    let sys = tempfile::tempdir().unwrap();
    let kernel = Kernel::at(sys.path(), sys.path());
    write(sys.path(), "fs/cgroup/cgroup.controllers", "io memory cpu\n");
    let checks = host(&kernel);
    let check = find(&checks, "cgroups");
    assert_eq!(check.verdict, Verdict::Warning);
    assert!(check.message.contains("without cpuset: the pins"), "{}", check.message);
    write(sys.path(), "fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n");
    assert_eq!(find(&host(&kernel), "cgroups").verdict, Verdict::Ok);
}

#[test]
fn confidentiality_and_an_interpreter_are_warnings() {
    let root = tempfile::tempdir().unwrap();
    let kernel = Kernel::at(root.path(), root.path());
    write(root.path(), "kernel/security/lockdown", "none [integrity] confidentiality\n");
    write(root.path(), "sys/net/core/bpf_jit_enable", "1\n");
    let checks = host(&kernel);
    assert_eq!(find(&checks, "lockdown").verdict, Verdict::Ok);
    assert!(!checks.iter().any(|check| check.name == "bpf jit"));
    write(root.path(), "kernel/security/lockdown", "none integrity [confidentiality]\n");
    write(root.path(), "sys/net/core/bpf_jit_enable", "0\n");
    let checks = host(&kernel);
    all_have_advice(&checks);
    assert_eq!(find(&checks, "lockdown").verdict, Verdict::Warning);
    assert_eq!(find(&checks, "bpf jit").verdict, Verdict::Warning);
}

#[test]
fn this_machine_is_checked_without_a_problem_of_the_kernel() {
    let checks = host(&Kernel::default());
    all_have_advice(&checks);
    assert_eq!(find(&checks, "schedstat").verdict, Verdict::Ok);
    assert_ne!(find(&checks, "cgroups").verdict, Verdict::Problem);
}

//! What the kernel says of one process: CPU time, memory, threads.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU time of a process so far, with that of its threads that have ended. Exact, where `/proc/PID/stat` has ticks of 10 ms.
///
/// # Errors
/// When it is gone.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?));
    let time = clock.and_then(clock_gettime).with_context(|| format!("process {pid} has no CPU clock"))?;
    Ok(time.into())
}

/// CPU time of the thread that a process began with.
///
/// # Errors
/// When it is gone.
pub(crate) fn main_thread_cpu(pid: u32) -> Result<Duration> {
    schedstat(pid, pid, 0)
}

/// Time for which its first thread, and each one of this name, could have run but had no pcpu, by thread.
///
/// # Errors
/// When it is gone.
pub(crate) fn waits(pid: u32, threads: &str) -> Result<BTreeMap<u32, Duration>> {
    let mut waited = BTreeMap::from([(pid, schedstat(pid, pid, 1)?)]);
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = entry?.file_name().to_string_lossy().parse()?;
        // Others come and go.
        let is_it =
            tid != pid && read(pid, &format!("task/{tid}/comm")).is_ok_and(|comm| comm.trim() == threads);
        if is_it {
            waited.insert(tid, schedstat(pid, tid, 1)?);
        }
    }
    Ok(waited)
}

/// A field of `/proc/PID/task/TID/schedstat` that is a time.
fn schedstat(pid: u32, tid: u32, field: usize) -> Result<Duration> {
    let text = read(pid, &format!("task/{tid}/schedstat"))?;
    let ns = text.split(' ').nth(field).and_then(|ns| ns.parse().ok());
    Ok(Duration::from_nanos(ns.with_context(|| format!("schedstat of {tid} says {text:?}"))?))
}

/// One number of `/proc/PID/status`, like `VmRSS` (KiB) or `Threads`.
///
/// # Errors
/// When the process is gone, or the kernel does not tell.
pub(crate) fn status(pid: u32, name: &str) -> Result<u64> {
    let text = read(pid, "status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name} of process {pid}"))?.parse()?)
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_it() {
        let pid = std::process::id();
        assert!(cpu(pid).unwrap() > Duration::ZERO);
        assert!(main_thread_cpu(pid).unwrap() > Duration::ZERO);
        let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert!(waits(pid, name.trim()).unwrap() >= waits(pid, "nobody").unwrap());
        assert!(status(pid, "VmRSS").unwrap() > 100 && status(pid, "Threads").unwrap() >= 2);
        assert!(status(pid, "Vm").is_err());
    }
}

//! Why tier 1 is off, in words for the administrator who has to decide whether that matters.

use std::error::Error;
use std::io;
use std::time::Duration;

use aya::programs::ProgramError;

use super::Totals;
use super::offsets::OffsetError;

/// Why the probes do not run. The daemon then works on tier 0: the same totals, no histogram, no switches.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No type information.
    #[error(
        "no type information at /sys/kernel/btf/vmlinux: the kernel is built without CONFIG_DEBUG_INFO_BTF, or \
         /sys is not mounted here"
    )]
    NoBtf(#[source] io::Error),
    /// The type information is there, but does not say what is needed.
    #[error("the probes do not know this kernel's scheduler")]
    Layout(#[from] OffsetError),
    /// EPERM.
    #[error(
        "the kernel does not permit BPF: {}",
        if *.confidential {
            "it is locked down (confidentiality; see /sys/kernel/security/lockdown)"
        } else {
            "run as root, or with CAP_BPF and CAP_PERFMON, and outside containers that filter bpf(2)"
        }
    )]
    NotPermitted {
        /// The kernel is locked down to `confidentiality`.
        confidential: bool,
        /// The call that was refused.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// EPERM for a program at a function, although others were taken.
    #[error(
        "this kernel permits BPF, but lets nobody trace its functions (fexit), at which sockets are counted before Linux 6.3"
    )]
    NoFunctions(#[source] Box<dyn Error + Send + Sync>),
    /// The verifier said no.
    #[error("the kernel's verifier refused the probe {program}; its last words: {log}")]
    Refused {
        /// Name of the program.
        program: &'static str,
        /// End of the verifier's log.
        log: String,
    },
    /// Anything else that happens between reading the object and attaching it.
    #[error("cannot load the probes")]
    Load(#[source] Box<dyn Error + Send + Sync>),
    /// The programs run, but did not see a thread of ours.
    #[error(
        "the probes loaded but never met a thread of this process: is the daemon in a pid namespace of its own?"
    )]
    Blind,
    /// The programs run and count something else than the kernel.
    #[error(
        "the probes loaded but are wrong about a thread of this process: {probe:?}, {preempted} switches away while \
         runnable and {blocked} to sleep; the kernel says {kernel:?}"
    )]
    Wrong {
        /// As the probes see it.
        probe: Totals,
        /// Switches that the probes took for preemptions.
        preempted: u64,
        /// Switches that the probes took for going to sleep.
        blocked: u64,
        /// As `/proc` shows it.
        kernel: Totals,
    },
    /// The programs run, but what they take for times of arrival is something else.
    #[error(
        "the probes loaded but are wrong about when a thread of this process got on a pcpu: {runs} runs within \
         {span:?}, in a test of {elapsed:?}"
    )]
    WrongClock {
        /// Runs that were seen.
        runs: u64,
        /// From the first to the last.
        span: Duration,
        /// What the whole test took.
        elapsed: Duration,
    },
    /// The self-test could not be made.
    #[error("cannot test the probes on a thread of our own")]
    NoTest(#[source] Option<io::Error>),
}

/// Why one thread cannot be watched. The others are not affected.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// All slots are taken.
    #[error(
        "no slot left for thread {tid}: it is read from /proc instead; raise the limit of watched threads"
    )]
    Full {
        /// The thread.
        tid: u32,
    },
    /// The index has no entry for this tid.
    #[error(
        "thread id {tid} is not below {limit}, for which the probes were loaded: if kernel.pid_max was raised \
         since, restart the daemon"
    )]
    TidBeyond {
        /// The thread.
        tid: u32,
        /// First id that has no entry.
        limit: u32,
    },
    /// There is no memory for its row of the steal matrix.
    #[error("cannot map the row of thread {tid} in the steal matrix")]
    Row {
        /// The thread.
        tid: u32,
        /// The kernel's reason.
        #[source]
        source: nix::Error,
    },
    /// The kernel refused the update.
    #[error("cannot enter thread {tid} into the probes' index")]
    Index {
        /// The thread.
        tid: u32,
        /// The kernel's reason.
        #[source]
        source: aya::maps::MapError,
    },
}

impl ProbeError {
    /// Sorts an error from aya.
    pub(super) fn sort<E: Error + Send + Sync + 'static>(
        program: &'static str,
        confidential: bool,
        err: E,
    ) -> Self {
        if let Some(ProgramError::LoadError { verifier_log, .. }) =
            (&err as &(dyn Error + 'static)).downcast_ref()
            && let log = tail(&verifier_log.to_string())
            && !log.is_empty()
        {
            return Self::Refused { program, log };
        }
        if os_error(&err) == Some(libc::EPERM) {
            return Self::NotPermitted { confidential, source: Box::new(err) };
        }
        Self::Load(Box::new(err))
    }
}

/// The error number at the end of a chain of errors.
fn os_error(err: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(err);
    while let Some(err) = next {
        if let Some(err) = err.downcast_ref::<io::Error>() {
            return err.raw_os_error();
        }
        next = err.source();
    }
    None
}

/// The reason stands at the end of the log, before the statistics.
fn tail(log: &str) -> String {
    const LINES: usize = 4;
    let statistics = ["processed ", "verification time ", "stack depth "];
    let reasons =
        log.lines().map(str::trim).filter(|line| !statistics.iter().any(|begin| line.starts_with(begin)));
    let lines: Vec<&str> = reasons.filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eperm_is_found_behind_other_errors_and_lockdown_named() {
        let err = || aya::maps::MapError::CreateError {
            name: "IDX".to_owned(),
            io_error: io::Error::from_raw_os_error(libc::EPERM),
        };
        let text = ProbeError::sort("sched_switch", false, err()).to_string();
        assert!(text.contains("CAP_BPF"), "{text}");
        let text = ProbeError::sort("sched_switch", true, err()).to_string();
        assert!(text.contains("lockdown"), "{text}");
        let other = aya::maps::MapError::CreateError {
            name: "IDX".to_owned(),
            io_error: io::Error::from_raw_os_error(libc::ENOMEM),
        };
        assert!(matches!(ProbeError::sort("sched_switch", false, other), ProbeError::Load(_)));
    }

    #[test]
    fn the_log_ends_before_its_statistics() {
        let log = "1: (61) r1 = *(u32 *)(r1 +0)\naccess beyond struct task_struct\nverification time 3 usec\nprocessed 3 insns\n";
        assert_eq!(tail(log), "1: (61) r1 = *(u32 *)(r1 +0) | access beyond struct task_struct");
    }
}

//! The threads of a process: who they are, what they are for, and the kernel's three figures about each.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvmpilot_core::sample::{ThreadRole, ThreadSample, ThreadSource};

use super::{Kernel, Unread, Unreads};

/// More threads than this of one process are not followed: QEMU has a few dozen, a runaway one must not eat
/// our cycle.
const MOST_THREADS: usize = 2048;

/// Three numbers of 20 digits at most, two spaces and a line feed.
pub(super) const SCHEDSTAT_BYTES: usize = 64;

/// More than the kernel ever writes into `stat`: 52 numbers and a name of at most 64 bytes.
pub(super) const STAT_BYTES: usize = 2048;

/// What we want of `/proc/PID/task/TID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskStat {
    pub(super) comm: String,
    pub(super) state: char,
    /// `PF_` flags of the kernel.
    pub(super) flags: u32,
    /// Ticks in user and in kernel mode; the first holds the guest's, too.
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
    /// Clock ticks since boot.
    pub(super) start_ticks: u64,
    /// Ticks in a guest.
    pub(super) guest_ticks: Option<u64>,
}

impl TaskStat {
    /// The text of the file. A name may hold spaces and brackets, so it ends at the last one.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let comm = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        // The fields are numbered from 1 (pid) in proc(5); the first one here is number 3.
        let mut words = std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace();
        let state = words.next()?.chars().next()?;
        let mut number = |skipped: usize| -> Option<u64> { words.nth(skipped)?.parse().ok() };
        let flags = u32::try_from(number(5)?).ok()?;
        let [user_ticks, system_ticks, start_ticks] = [number(4)?, number(0)?, number(6)?];
        Some(Self { comm, state, flags, user_ticks, system_ticks, start_ticks, guest_ticks: number(20) })
    }
}

/// One thread, named for ever by `tid` and `start_ticks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadInfo {
    /// Kernel thread id.
    pub tid: u32,
    /// Process id.
    pub tgid: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// The kernel's name of the thread, at most 15 bytes.
    pub comm: Arc<str>,
    /// What QEMU uses it for, told from its name.
    pub role: ThreadRole,
    /// On a pcpu or waiting for one (state `R`) when it was looked at.
    pub runnable: bool,
}

/// `/proc/PID/task/TID/schedstat`, from the thread's birth on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedstat {
    /// Time on a pcpu. Of a thread that runs right now, as of the last tick (1 to 10 ms ago; up to 1 s on a
    /// `nohz_full` pcpu).
    pub on_cpu_ns: u64,
    /// Time runnable but not running, up to the last arrival on a pcpu.
    pub runq_wait_ns: u64,
    /// Arrivals on a pcpu.
    pub arrivals: u64,
}

impl Schedstat {
    /// The text of the file.
    pub(super) fn parse(text: &[u8]) -> io::Result<Self> {
        let mut words = text.trim_ascii_end().split(|byte| *byte == b' ').map(|word| {
            let digits = std::str::from_utf8(word).ok()?;
            digits.parse().ok()
        });
        let mut next = || words.next().flatten().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        Ok(Self { on_cpu_ns: next()?, runq_wait_ns: next()?, arrivals: next()? })
    }
}

impl ThreadInfo {
    /// This thread as tier 0 knows it.
    #[must_use]
    pub fn into_sample(self, schedstat: Schedstat) -> ThreadSample {
        ThreadSample {
            tid: self.tid,
            tgid: self.tgid,
            start_ticks: self.start_ticks,
            role: self.role,
            comm: self.comm,
            source: ThreadSource::Schedstat,
            on_cpu_ns: schedstat.on_cpu_ns,
            runq_wait_ns: schedstat.runq_wait_ns,
            runq_wait_max_ns: None,
            runq_wait_histogram: None,
            switches_preempted: None,
            switches_blocked: None,
            migrations: None,
            migrations_llc: None,
            migrations_node: None,
            stolen: None,
            pcpu: None,
        }
    }
}

/// What QEMU uses a thread for. vcpus call themselves `CPU 0/KVM` or `CPU 0/TCG`, iothreads `IO ` and their
/// object's id (libvirt: `iothread1`), vhost workers `vhost-` and QEMU's pid; the main thread keeps the
/// program's name.
#[must_use]
pub fn role(comm: &str, main: bool) -> ThreadRole {
    let vcpu = || comm.strip_prefix("CPU ")?.split_once('/').and_then(|(number, _)| number.parse().ok());
    let iothread = || comm.strip_prefix("IO iothread")?.parse().ok();
    if main {
        ThreadRole::Emulator
    } else if let Some(number) = vcpu() {
        ThreadRole::Vcpu(number)
    } else if comm == "ALL CPUs/TCG" {
        // Single-threaded TCG: one thread runs all vcpus by turns.
        ThreadRole::Vcpu(0)
    } else if let Some(number) = iothread() {
        ThreadRole::Iothread(number)
    } else if comm.starts_with("vhost-") {
        ThreadRole::Vhost
    } else {
        ThreadRole::Worker
    }
}

impl Kernel {
    /// The threads of process `pid`, in rising order of `tid`. One that ends while we look is left out.
    #[must_use]
    pub fn threads(&self, pid: u32) -> (Vec<ThreadInfo>, Vec<Unread>) {
        let dir = self.proc.join(pid.to_string()).join("task");
        let (tids, mut unread) = self.tids(&dir);
        let mut threads = Vec::with_capacity(tids.len());
        for tid in tids {
            match self.thread(pid, tid) {
                Ok(thread) => threads.push(thread),
                Err(err) if vanished(&err) => {}
                Err(err) => unread.add(&dir.join(tid.to_string()), err),
            }
        }
        (threads, unread.0)
    }

    /// Whether the threads of process `pid` are those with these ids, given in rising order: one look at a directory,
    /// and none at the threads.
    #[must_use]
    pub fn has_threads(&self, pid: u32, expected: impl Iterator<Item = u32>) -> bool {
        let (tids, unread) = self.tids(&self.proc.join(pid.to_string()).join("task"));
        unread.0.is_empty() && tids.into_iter().eq(expected)
    }

    fn tids(&self, dir: &Path) -> (Vec<u32>, Unreads) {
        let mut unread = Unreads::default();
        let mut tids = numbered(dir, &mut unread);
        if tids.len() > MOST_THREADS {
            unread.add(dir, format!("{} threads; only the first {MOST_THREADS} are followed", tids.len()));
            tids.truncate(MOST_THREADS);
        }
        (tids, unread)
    }

    /// One thread of process `tgid`.
    ///
    /// # Errors
    /// Where there is no such thread, or its `stat` cannot be read.
    pub fn thread(&self, tgid: u32, tid: u32) -> io::Result<ThreadInfo> {
        let stat = self.task_stat(tgid, tid)?;
        let role = role(&stat.comm, tid == tgid);
        let runnable = stat.state == 'R';
        Ok(ThreadInfo { tid, tgid, start_ticks: stat.start_ticks, comm: stat.comm.into(), role, runnable })
    }

    /// The kernel's three figures about one thread.
    ///
    /// # Errors
    /// Where there is no such thread, or the kernel is built without `CONFIG_SCHED_INFO`.
    pub fn schedstat(&self, tgid: u32, tid: u32) -> io::Result<Schedstat> {
        let mut text = [0; SCHEDSTAT_BYTES];
        let length = File::open(self.task_path(tgid, tid, "schedstat"))?.read(&mut text)?;
        Schedstat::parse(&text[..length])
    }

    pub(super) fn task_path(&self, tgid: u32, tid: u32, name: &str) -> PathBuf {
        self.proc.join(format!("{tgid}/task/{tid}/{name}"))
    }

    pub(super) fn task_stat(&self, tgid: u32, tid: u32) -> io::Result<TaskStat> {
        let mut text = [0; STAT_BYTES];
        let length = File::open(self.task_path(tgid, tid, "stat"))?.read(&mut text)?;
        TaskStat::parse(&text[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The entries of a directory whose names are numbers.
pub(super) fn numbered(dir: &Path, unread: &mut Unreads) -> Vec<u32> {
    match dir.read_dir() {
        Ok(entries) => {
            let mut numbers: Vec<u32> = entries
                .filter_map(Result::ok)
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect();
            numbers.sort_unstable();
            numbers
        }
        Err(err) => {
            unread.add(dir, err);
            Vec::new()
        }
    }
}

/// Whether an error means that the thread or process has just ended.
pub(super) fn vanished(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::NotFound || err.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn roles_are_told_from_qemus_names() {
        assert_eq!(role("CPU 0/KVM", false), ThreadRole::Vcpu(0));
        assert_eq!(role("CPU 511/TCG", false), ThreadRole::Vcpu(511));
        assert_eq!(role("ALL CPUs/TCG", false), ThreadRole::Vcpu(0));
        assert_eq!(role("IO iothread12", false), ThreadRole::Iothread(12));
        assert_eq!(role("IO mon_iothread", false), ThreadRole::Worker);
        assert_eq!(role("vhost-4711", false), ThreadRole::Vhost);
        assert_eq!(role("worker", false), ThreadRole::Worker);
        assert_eq!(role("CPU x/KVM", false), ThreadRole::Worker);
        assert_eq!(role("CPU 1/KVM", true), ThreadRole::Emulator, "a main thread named like a vcpu");
    }

    #[test]
    fn a_name_may_hold_anything() {
        let text = b"77 (a) R (b 1) S 1 2 3 4 5 6 7 8 9 10 110 120 13 14 15 16 17 18 220 19 20 21 22 23 24 25 26 27 28 29 \
            30 31 32 33 34 35 36 37 38 330 39 40\n";
        let stat = TaskStat {
            comm: "a) R (b 1".to_owned(),
            state: 'S',
            flags: 6,
            user_ticks: 110,
            system_ticks: 120,
            start_ticks: 220,
            guest_ticks: Some(330),
        };
        assert_eq!(TaskStat::parse(text), Some(stat.clone()));
        // Before 2.6.24 there was no guest time.
        let old = &text[..text.len() - 20];
        assert_eq!(TaskStat::parse(old), Some(TaskStat { guest_ticks: None, ..stat }));
        for bad in ["", "77", "77 (a", "77 (a) S 1 2 3", "77 )a( S"] {
            assert_eq!(TaskStat::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_parser_agrees_with_another_one() {
        let (pid, tid) = (std::process::id(), nix::unistd::gettid().as_raw().unsigned_abs());
        let ours = Kernel::default().task_stat(pid, tid).unwrap();
        let own = procfs::process::Process::myself().unwrap().task_from_tid(tid.try_into().unwrap()).unwrap();
        let theirs = own.stat().unwrap();
        assert_eq!((ours.comm, ours.start_ticks), (theirs.comm, theirs.starttime));
        assert!(
            ours.guest_ticks.is_some()
                && ours.user_ticks <= theirs.utime
                && ours.system_ticks <= theirs.stime
        );
    }

    #[test]
    fn schedstat_is_three_numbers() {
        let read = |text: &str| Schedstat::parse(text.as_bytes()).ok();
        let expected = Schedstat { on_cpu_ns: 1, runq_wait_ns: 22, arrivals: u64::MAX };
        assert_eq!(read("1 22 18446744073709551615\n"), Some(expected));
        for bad in ["", "1 2", "1 2 x", "1 2 18446744073709551616", "-1 2 3", "1  2 3"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn our_own_threads_are_there_and_match_the_kernels_ids() {
        let (pid, tid) = (nix::unistd::getpid(), nix::unistd::gettid());
        let (pid, tid) = (pid.as_raw().unsigned_abs(), tid.as_raw().unsigned_abs());
        let kernel = Kernel::default();
        let (threads, unread) = kernel.threads(pid);
        assert_eq!(unread, []);
        let own = threads.iter().find(|thread| thread.tid == tid).unwrap();
        assert_eq!(*own, kernel.thread(pid, tid).unwrap());
        assert!(own.start_ticks > 0);
        // The kernel books a running thread's time at the next tick.
        let deadline = Instant::now() + Duration::from_secs(5);
        while kernel.schedstat(pid, tid).unwrap().on_cpu_ns == 0 {
            assert!(Instant::now() < deadline);
        }
    }

    #[test]
    fn the_ids_of_threads_are_compared_without_a_look_at_them() {
        let kernel = Kernel::default();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        assert!(kernel.has_threads(pid, [pid].into_iter()));
        assert!(!kernel.has_threads(pid, std::iter::empty()));
        assert!(!kernel.has_threads(pid, [pid, pid + 1].into_iter()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!kernel.has_threads(pid, [pid].into_iter()));
        assert!(!kernel.has_threads(pid, std::iter::empty()), "nothing is known");
    }

    #[test]
    fn a_process_that_is_gone_is_reported_not_invented() {
        let root = tempfile::tempdir().unwrap();
        let (threads, unread) = Kernel::at(root.path(), root.path()).threads(77);
        assert_eq!(threads, []);
        assert_eq!(unread.len(), 1);
        assert!(unread[0].to_string().contains("77/task"), "{}", unread[0]);
    }
}

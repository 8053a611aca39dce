//! Descriptors that are kept open on a process and its threads, so that a question that is asked each cycle costs one
//! system call: does it live, how many threads has it, what did a thread use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::thread::TaskStat;
use super::{Kernel, Schedstat, thread};

/// Threads' files are kept open as long as at most 1 / this of all descriptors are in use: the rest is for what fails
/// without one.
const MOST_KEPT_OF: u64 = 2;

/// A process that is followed: the descriptor means this very process, also after its pid went to another one.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pub(super) pidfd: OwnedFd,
    tasks: File,
}

/// A thread's `schedstat` that is kept open. It means this very thread, also after its tid went to another one.
#[derive(Debug)]
pub struct SchedstatFile(File);

/// A thread's `stat`, likewise.
#[derive(Debug)]
pub(super) struct StatFile(File);

impl Process {
    /// Process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Number of its threads, 0 after its end. From the link count of `/proc/PID/task`, which the kernel makes up of it.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn thread_count(&self) -> io::Result<usize> {
        let links = match self.tasks.metadata() {
            Ok(metadata) => metadata.nlink(),
            Err(err) if thread::vanished(&err) => 0,
            Err(err) => return Err(err),
        };
        Ok(usize::try_from(links.saturating_sub(2)).unwrap_or(usize::MAX))
    }

    /// Which of these processes have ended, in their order: one system call for all.
    ///
    /// # Errors
    /// As `poll`.
    pub fn ended<'a>(processes: impl Iterator<Item = &'a Self>) -> io::Result<Vec<bool>> {
        let mut fds: Vec<PollFd<'_>> =
            processes.map(|process| PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN)).collect();
        // A kernel's limit on the number of descriptors in one call is RLIMIT_NOFILE, which they keep already.
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect())
    }
}

impl SchedstatFile {
    /// The kernel's three figures.
    ///
    /// # Errors
    /// `ESRCH` once the thread has ended.
    pub fn read(&self) -> io::Result<Schedstat> {
        let mut text = [0; thread::SCHEDSTAT_BYTES];
        let length = self.0.read_at(&mut text, 0)?;
        Schedstat::parse(&text[..length])
    }
}

impl StatFile {
    /// What we want of it.
    pub(super) fn read(&self) -> io::Result<TaskStat> {
        let mut text = [0; thread::STAT_BYTES];
        let length = self.0.read_at(&mut text, 0)?;
        TaskStat::parse(&text[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Kernel {
    /// Holds a process. Whoever found `pid` by other means must check *afterwards* that it is still the one that was
    /// meant.
    ///
    /// # Errors
    /// Where there is no such process, no descriptor is left, or the kernel is older than 5.3.
    pub fn hold(&self, pid: u32) -> io::Result<Process> {
        let number = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a system call with two integers; flags must be 0.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: the kernel has just made this descriptor for us alone, and it is close-on-exec.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let tasks = File::open(self.proc.join(pid.to_string()).join("task"))?;
        Ok(Process { pid, pidfd, tasks })
    }

    /// Keeps a thread's `schedstat` open.
    ///
    /// # Errors
    /// Where there is no such thread, no descriptor is left, or the kernel is built without `CONFIG_SCHED_INFO`.
    pub fn hold_schedstat(&self, tgid: u32, tid: u32) -> io::Result<SchedstatFile> {
        self.hold_file(tgid, tid, "schedstat").map(SchedstatFile)
    }

    /// Keeps a thread's `stat` open.
    pub(super) fn hold_stat(&self, tgid: u32, tid: u32) -> io::Result<StatFile> {
        self.hold_file(tgid, tid, "stat").map(StatFile)
    }

    /// Opens a thread's file to keep it, unless too few descriptors are left for others.
    fn hold_file(&self, tgid: u32, tid: u32, name: &str) -> io::Result<File> {
        let file = File::open(self.task_path(tgid, tid, name))?;
        // The kernel gives out the lowest free number.
        let number = u64::try_from(file.as_raw_fd()).unwrap_or(u64::MAX);
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if number < limit / MOST_KEPT_OF { Ok(file) } else { Err(Errno::EMFILE.into()) }
    }

    /// Lets this process open as many files as the system lets it: some descriptors are kept for each QEMU. Returns how
    /// many that are.
    ///
    /// # Errors
    /// As `setrlimit`.
    pub fn raise_file_limit() -> io::Result<u64> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    fn wait_for(mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_process_that_ends_is_seen_to_end_and_another_one_is_not() {
        let kernel = Kernel::default();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let ends = kernel.hold(child.id()).unwrap();
        let lives = kernel.hold(std::process::id()).unwrap();
        assert_eq!(ends.thread_count().unwrap(), 1);
        assert_eq!(Process::ended([&ends, &lives].into_iter()).unwrap(), [false, false]);
        drop(child.stdin.take());
        // Not reaped yet: ended all the same.
        wait_for(|| Process::ended([&ends, &lives].into_iter()).unwrap() == [true, false]);
        child.wait().unwrap();
        assert_eq!(Process::ended([&ends, &lives].into_iter()).unwrap(), [true, false]);
        assert_eq!(ends.thread_count().unwrap(), 0);
        assert!(kernel.hold(child.id()).is_err());
    }

    #[test]
    fn threads_are_counted_and_their_figures_end_with_them() {
        let kernel = Kernel::default();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let held = kernel.hold_schedstat(child.id(), child.id()).unwrap();
        wait_for(|| held.read().unwrap() == kernel.schedstat(child.id(), child.id()).unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(held.read().unwrap_err().raw_os_error(), Some(libc::ESRCH));

        let own = kernel.hold(std::process::id()).unwrap();
        // Other tests come and go in this process: enough threads to be told apart from them.
        let before = own.thread_count().unwrap();
        let (report, started) = channel();
        let more: Vec<_> = (0..500)
            .map(|_| {
                let (end, ends) = channel::<()>();
                let report = report.clone();
                let thread = thread::spawn(move || {
                    report.send(()).unwrap();
                    let _ = ends.recv();
                });
                (end, thread)
            })
            .collect();
        more.iter().for_each(|_| started.recv().unwrap());
        assert!(own.thread_count().unwrap() > before + 300);
        for (end, thread) in more {
            drop(end);
            thread.join().unwrap();
        }
        wait_for(|| own.thread_count().unwrap() < before + 300);
    }

    #[test]
    fn the_file_limit_is_the_systems() {
        let limit = Kernel::raise_file_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }
}

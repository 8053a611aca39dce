//! Descriptors that another process holds: what they are, and duplicates of them (`pidfd_getfd`, Linux 5.6).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{Kernel, Process};

/// More descriptors than this of one process are not looked at: QEMU has some hundreds.
const MOST: usize = 16_384;

impl Kernel {
    /// Duplicates of those of a process' descriptors whose link in `/proc/PID/fd` is `wanted`, each with the link.
    ///
    /// The process may close one and open another meanwhile, so the link of the duplicate itself is what counts.
    ///
    /// # Errors
    /// Where its descriptors cannot be listed or duplicated: both need `CAP_SYS_PTRACE`.
    pub fn duplicates(
        &self,
        process: &Process,
        wanted: impl Fn(&str) -> bool,
    ) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut found = Vec::new();
        for entry in self.proc.join(process.pid().to_string()).join("fd").read_dir()?.take(MOST) {
            let entry = entry?;
            let is_wanted = |link: io::Result<String>| link.ok().filter(|link| wanted(link));
            let seen = match link(&entry.path()) {
                // Refused once is refused for all.
                Err(err) if err.kind() == io::ErrorKind::PermissionDenied => return Err(err),
                seen => is_wanted(seen),
            };
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(number) = number.filter(|_| seen.is_some()) else { continue };
            let ours = process.duplicate(number)?;
            let path = self.proc.join(format!("self/fd/{}", ours.as_raw_fd()));
            if let Some(link) = is_wanted(link(&path)) {
                found.push((link, ours));
            }
        }
        Ok(found)
    }

    /// Whether a process has a descriptor of this file.
    pub(super) fn holds(&self, pid: u32, file: &str) -> bool {
        let entries = self.proc.join(pid.to_string()).join("fd").read_dir().into_iter().flatten();
        entries
            .take(MOST)
            .filter_map(Result::ok)
            .any(|entry| link(&entry.path()).is_ok_and(|link| link == file))
    }
}

impl Process {
    fn duplicate(&self, number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_getfd takes three integers and touches none of our memory.
        owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), number, 0) })
    }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn link(path: &std::path::Path) -> io::Result<String> {
    Ok(fs::read_link(path)?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::process::Command;

    use super::*;

    #[test]
    fn a_duplicate_is_the_same_open_file() {
        let kernel = Kernel::default();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        // Somebody else's: among our own the duplicate is met as well, where it has the largest number of all.
        let mut holder =
            Command::new("sleep").arg("60").stdin(file.as_file().try_clone().unwrap()).spawn().unwrap();
        let pid = holder.id();
        let process = kernel.hold(pid).unwrap();
        let mut found = kernel.duplicates(&process, |link| link == path).unwrap();
        assert_eq!(found.len(), 1);
        let (link, ours) = found.remove(0);
        assert_eq!(link, path);
        file.write_all(b"seen").unwrap();
        let mut ours = File::from(ours);
        ours.rewind().unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "seen");
        assert!(kernel.holds(pid, &path) && !kernel.holds(pid, "/dev/none"));
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
}

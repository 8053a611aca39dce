//! cgroups like those that libvirt makes for its domains, in a directory of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const V1: &str = "/sys/fs/cgroup/cpu";
const V2: &str = "/sys/fs/cgroup";
/// How long the kernel may take to let go of a cgroup whose last thread has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory of cgroups. Dropping it removes it; what a killed process left is removed by the next one.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
    unified: bool,
}

impl Cgroups {
    /// `NAME-PID` in the hierarchy of the cpu controller.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let unified = Path::new(V2).join("cgroup.controllers").exists();
        let hierarchy = Path::new(if unified { V2 } else { V1 });
        for entry in fs::read_dir(hierarchy)?.filter_map(Result::ok) {
            let file_name = entry.file_name();
            let pid = file_name.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove(&entry.path());
            }
        }
        let root = hierarchy.join(format!("{name}-{}", std::process::id()));
        make(&root)?;
        if unified {
            // Absent where the controller is not there for us: then there are no weights, but there are cgroups.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        }
        Ok(Self { root, unified })
    }

    /// Puts the threads of a process where libvirt would: each vcpu in one of its own, the rest with the emulator.
    pub(crate) fn add(&self, number: usize, pid: u32, threads: &[(u32, String)]) -> Result<()> {
        let domain = if self.unified {
            let scope = self.root.join(format!("machine-qemu\\x2d{number}\\x2dlike.scope"));
            make(&scope)?;
            let _ = fs::write(scope.join("cgroup.subtree_control"), "+cpu");
            scope.join("libvirt")
        } else {
            self.root.join(format!("qemu-{number}-like.libvirt-qemu"))
        };
        make(&domain)?;
        if self.unified {
            put(&domain.join("cgroup.procs"), pid)?;
        }
        for (tid, comm) in threads {
            let vcpu = comm.strip_prefix("CPU ").and_then(|rest| rest.split_once('/'));
            let group = domain
                .join(vcpu.map_or_else(|| "emulator".to_owned(), |(number, _)| format!("vcpu{number}")));
            if !group.exists() {
                make(&group)?;
                if self.unified {
                    fs::write(group.join("cgroup.type"), "threaded")?;
                }
            }
            put(&group.join(if self.unified { "cgroup.threads" } else { "tasks" }), *tid)?;
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove(&self.root);
    }
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))
}

fn put(file: &Path, id: u32) -> Result<()> {
    fs::write(file, id.to_string()).with_context(|| format!("cannot put {id} into {}", file.display()))
}

/// Removes a cgroup with all below it, once their threads have ended.
fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = fs::remove_dir(path) {
        if Instant::now() > deadline || error.kind() == std::io::ErrorKind::NotFound {
            eprintln!("cannot remove {}: {error}", path.display());
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

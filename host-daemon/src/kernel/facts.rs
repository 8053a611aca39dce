//! Facts about the running kernel that do not change, or hardly: what start-up and `doctor` ask for.

use super::{Kernel, text};

impl Kernel {
    /// Release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> Option<String> {
        Some(text(&self.proc.join("sys/kernel/osrelease")).ok()?.trim().to_owned())
    }

    /// Name of this host.
    #[must_use]
    pub fn host_name(&self) -> Option<String> {
        Some(text(&self.proc.join("sys/kernel/hostname")).ok()?.trim().to_owned())
    }

    /// Lockdown mode: `none`, `integrity` or `confidentiality`; `None` where securityfs is not mounted.
    #[must_use]
    pub fn lockdown(&self) -> Option<String> {
        let text = text(&self.sys.join("kernel/security/lockdown")).ok()?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }

    /// Whether the kernel is locked down so far that BPF may not look at it.
    #[must_use]
    pub fn is_confidential(&self) -> bool {
        self.lockdown().as_deref() == Some("confidentiality")
    }

    /// Whether the kernel shows its own type information.
    #[must_use]
    pub fn has_btf(&self) -> bool {
        self.sys.join("kernel/btf/vmlinux").exists()
    }

    /// First thread id that the kernel will not use.
    #[must_use]
    pub fn pid_max(&self) -> Option<u32> {
        text(&self.proc.join("sys/kernel/pid_max")).ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_mode_in_brackets_counts() {
        let root = tempfile::tempdir().unwrap();
        let kernel = Kernel::at(root.path(), root.path());
        assert_eq!(kernel.lockdown(), None);
        fs::create_dir_all(root.path().join("kernel/security")).unwrap();
        fs::write(root.path().join("kernel/security/lockdown"), "none [integrity] confidentiality\n")
            .unwrap();
        assert_eq!(kernel.lockdown().as_deref(), Some("integrity"));
        assert!(!kernel.has_btf());
    }

    #[test]
    fn this_kernel_tells_its_release_and_largest_id() {
        let kernel = Kernel::default();
        assert!(kernel.release().is_some_and(|release| release.contains('.')));
        assert!(kernel.pid_max().is_some_and(|max| max > 300));
    }
}

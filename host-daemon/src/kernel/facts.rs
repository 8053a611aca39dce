//! Facts about the running kernel that do not change, or hardly: what start-up and `doctor` ask for.

use std::net::IpAddr;

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

    /// Addresses of this host's interfaces but loopback, without those of link scope.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let address = |found: nix::ifaddrs::InterfaceAddress| {
            let found = found.address?;
            let v4 = found.as_sockaddr_in().map(|found| IpAddr::from(found.ip()));
            v4.or_else(|| found.as_sockaddr_in6().map(|found| IpAddr::from(found.ip())))
        };
        let is_link = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let found = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(address);
        found.filter(|found| !found.is_loopback() && !is_link(found)).map(|found| found.to_string()).collect()
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

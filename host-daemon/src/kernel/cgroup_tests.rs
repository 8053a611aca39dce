//! Tests of cgroups with files as v1, v2 and hybrid hosts have them.

use std::fs;

use super::*;

const V1: &str = "nr_periods 120\nnr_throttled 30\nthrottled_time 4500000000\nnr_bursts 0\nburst_time 0\n";
const V2: &str = "usage_usec 912\nuser_usec 900\nsystem_usec 12\nnr_periods 120\nnr_throttled 30\n\
                  throttled_usec 4500000\nnr_bursts 0\nburst_usec 0\n";
const PSI: &str =
    "some avg10=1.50 avg60=0.70 avg300=0.10 total=4242\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";

/// What `cpu.stat` of either version says.
fn expected(quota_usec: Option<u64>) -> BandwidthSample {
    BandwidthSample {
        periods: 120,
        throttled_periods: 30,
        throttled_ns: 4_500_000_000,
        quota_usec,
        period_usec: Some(100_000),
    }
}

struct Host {
    root: tempfile::TempDir,
    mountinfo: String,
    membership: String,
}

impl Host {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), mountinfo: String::new(), membership: String::new() }
    }

    fn mount(&mut self, at: &str, kind: &str, options: &str) {
        let at = self.root.path().join(at);
        self.mountinfo += &format!("48 47 0:29 / {} rw,relatime - {kind} none rw,{options}\n", at.display());
    }

    fn group(&self, path: &str, files: &[(&str, &str)]) {
        let directory = self.root.path().join(path);
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    fn look(&self) -> (Hierarchies, Membership) {
        (mounts(&self.mountinfo), membership(&self.membership))
    }
}

#[test]
fn a_v1_host() {
    let mut host = Host::new();
    host.mount("cpuset", "cgroup", "cpuset");
    host.mount("cpu", "cgroup", "cpu,cpuacct");
    let files = [("cpu.stat", V1), ("cpu.cfs_quota_us", "-1\n"), ("cpu.cfs_period_us", "100000\n")];
    host.group("cpu/machine/qemu-1-web.libvirt-qemu", &files);
    let mut limited = files;
    limited[1].1 = "25000\n";
    host.group("cpu/machine/qemu-1-web.libvirt-qemu/vcpu0", &limited);
    host.membership = "5:cpuset:/other\n4:cpu,cpuacct:/machine/qemu-1-web.libvirt-qemu/vcpu0\n".to_owned();
    let (hierarchies, vcpu) = host.look();
    let mut group = hierarchies.vcpu(&vcpu, None).unwrap();
    assert_eq!(group.read(false).unwrap(), expected(Some(25_000)));
    assert_eq!(group.path(), "/machine/qemu-1-web.libvirt-qemu/vcpu0");

    let emulator = membership("4:cpu,cpuacct:/machine/qemu-1-web.libvirt-qemu/emulator\n");
    let mut groups = hierarchies.domain(&emulator, Vec::new()).unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].read(false).unwrap(), expected(None));
    assert!(hierarchies.pressure(&emulator, None).unwrap_err().to_string().contains("v1"));
    // The main thread's cgroup is no vcpu's, and a vcpu's is not the main thread's.
    assert!(hierarchies.vcpu(&emulator, None).is_err() && hierarchies.domain(&vcpu, Vec::new()).is_err());
}

#[test]
fn a_v2_host_with_systemd() {
    let mut host = Host::new();
    host.mount("cg", "cgroup2", "nsdelegate");
    let scope = "machine.slice/machine-qemu\\x2d1\\x2dweb.scope";
    host.group(&format!("cg/{scope}"), &[("cpu.stat", V2), ("cpu.max", "max 100000\n")]);
    let files =
        [("cpu.stat", V2), ("cpu.max", "50000 100000\n"), ("cpu.pressure", PSI), ("io.pressure", PSI)];
    host.group(&format!("cg/{scope}/libvirt"), &files);
    host.group(&format!("cg/{scope}/libvirt/vcpu11"), &files);
    host.membership = format!("0::/{scope}/libvirt/vcpu11\n");
    let (hierarchies, vcpu) = host.look();
    assert_eq!(hierarchies.vcpu(&vcpu, None).unwrap().read(false).unwrap(), expected(Some(50_000)));
    let emulator = membership(&format!("0::/{scope}/libvirt/emulator\n"));
    let mut groups = hierarchies.domain(&emulator, Vec::new()).unwrap();
    let quotas: Vec<_> = groups.iter_mut().map(|group| group.read(false).unwrap().quota_usec).collect();
    assert_eq!(quotas, [Some(50_000), None], "the domain's own, then the scope");
    let pressure = hierarchies.pressure(&emulator, None).unwrap().read();
    assert_eq!(pressure.cpu.unwrap().some_total_usec, 4242);
    assert!(pressure.memory.is_none() && pressure.io.is_some());
}

#[test]
fn a_hybrid_host_has_cpu_in_v1_and_pressure_in_v2() {
    let mut host = Host::new();
    host.mount("unified", "cgroup2", "relatime");
    host.mount("cpu", "cgroup", "cpu");
    host.group("cpu/p/d/vcpu0", &[("cpu.stat", V1)]);
    host.group("unified/p/d", &[("cpu.stat", "usage_usec 1\n"), ("cpu.pressure", PSI)]);
    host.membership = "1:cpu:/p/d/vcpu0\n0::/p/d/emulator\n".to_owned();
    let (hierarchies, of) = host.look();
    let read = hierarchies.vcpu(&of, None).unwrap().read(false).unwrap();
    assert_eq!((read.throttled_ns, read.quota_usec), (4_500_000_000, None));
    assert!(hierarchies.pressure(&of, None).unwrap().read().cpu.is_some());
}

#[test]
fn what_cannot_have_changed_is_not_read_and_a_limit_is_seen_when_it_works() {
    let mut host = Host::new();
    host.mount("cg", "cgroup2", "relatime");
    let unlimited = [("cpu.stat", V2), ("cpu.max", "max 100000\n")];
    let limited = [("cpu.stat", V2), ("cpu.max", "50000 100000\n")];
    host.group("cg/p/d/vcpu0", &unlimited);
    host.membership = "0::/p/d/vcpu0\n".to_owned();
    let (hierarchies, of) = host.look();
    let mut group = hierarchies.vcpu(&of, None).unwrap();
    assert_eq!(group.read(false).unwrap(), expected(None));
    // No period has begun under the new limit.
    host.group("cg/p/d/vcpu0", &limited);
    assert_eq!(group.read(false).unwrap(), expected(None));
    let mut again = hierarchies.vcpu(&of, Some(group)).unwrap();
    assert_eq!(again.read(true).unwrap(), expected(Some(50_000)), "the first reading after a look reads all");
    host.group("cg/p/d/vcpu0", &[("cpu.stat", &V2.replace("120", "121")), ("cpu.max", "max 100000\n")]);
    let last = BandwidthSample { periods: 121, ..expected(None) };
    assert_eq!(again.read(true).unwrap(), last, "a limit may change while all rests");
    host.group("cg/p/d/vcpu0", &[("cpu.stat", &V2.replace("120", "122")), ("cpu.max", "70000 100000\n")]);
    assert_eq!(again.read(true).unwrap(), last);
    let now = BandwidthSample { periods: 122, ..expected(Some(70_000)) };
    assert_eq!(again.read(false).unwrap(), now, "periods rise under a limit only");
    // Another group is opened anew.
    host.group("cg/p/d/vcpu1", &unlimited);
    let mut other = hierarchies.vcpu(&membership("0::/p/d/vcpu1\n"), Some(again)).unwrap();
    assert_eq!(other.read(true).unwrap(), expected(None));
    assert_eq!(other.path(), "/p/d/vcpu1");
}

#[test]
fn a_domain_without_cgroups_of_its_own_shows_nobody_elses() {
    let mut host = Host::new();
    host.mount("cg", "cgroup2", "nsdelegate");
    for path in ["", "user.slice/session-1.scope"] {
        host.group(&format!("cg/{path}"), &[("cpu.stat", V2), ("cpu.pressure", PSI)]);
    }
    for path in ["/", "/user.slice/session-1.scope", "/emulator"] {
        let (hierarchies, _) = host.look();
        let of = membership(&format!("0::{path}\n"));
        assert!(hierarchies.vcpu(&of, None).is_err(), "{path}");
        assert!(
            hierarchies.domain(&of, Vec::new()).is_err() && hierarchies.pressure(&of, None).is_err(),
            "{path}"
        );
    }
}

#[test]
fn nobody_leads_us_out_of_the_hierarchy() {
    let mount = Mount { at: "/sys/fs/cgroup".into(), root: "/".to_owned() };
    for path in ["/../../etc", "/a/../../b", "/./a/.."] {
        assert!(mount.directory(path).is_err(), "{path}");
    }
    let inner = Mount { root: "/docker/1".to_owned(), ..mount };
    assert_eq!(inner.directory("/docker/1/machine/d").unwrap(), Path::new("/sys/fs/cgroup/machine/d"));
    assert!(inner.directory("/machine/d").is_err());
}

#[test]
fn texts_that_are_not_as_documented() {
    for text in
        ["", "nr_periods x\n", "nr_periods 1\nnr_throttled 1\n", "throttled_usec 99999999999999999999\n"]
    {
        assert_eq!(bandwidth(text), None, "{text}");
    }
    let overflow = format!("nr_periods 1\nnr_throttled 1\nthrottled_usec {}\n", u64::MAX);
    assert_eq!(bandwidth(&overflow), None);
    assert_eq!(cpu_max("max 100000\n"), Some((None, Some(100_000))));
    assert_eq!((cpu_max("max"), cpu_max("a b"), cpu_max("-1 5")), (None, None, None));
    assert_eq!(unescaped("/a\\040b\\x\\"), "/a b\\x\\");
    assert_eq!(
        mounts("garbage\n - cgroup2\n1 2 3 / /x rw - cgroup2 none rw\n").unified.unwrap().at,
        Path::new("/x")
    );
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_much(text in ".{0,300}", controllers in "[a-z,:]{0,12}", path in "[./a-z:\\\\]{0,40}") {
        let _ = (mounts(&text), membership(&text), bandwidth(&text), cpu_max(&text), unescaped(&text));
        let of = membership(&format!("3:{controllers}:{path}\n0::{path}\n"));
        let mount = Mount { at: "/sys/fs/cgroup".into(), root: "/".to_owned() };
        let hierarchies = Hierarchies { cpu: Some(mount.clone()), memory: None, unified: Some(mount.clone()) };
        let _ = (hierarchies.vcpu(&of, None), hierarchies.domain(&of, Vec::new()), hierarchies.pressure(&of, None));
        if let Ok(directory) = mount.directory(&path) {
            proptest::prop_assert!(directory.starts_with("/sys/fs/cgroup"));
            proptest::prop_assert!(!directory.components().any(|part| part == Component::ParentDir));
        }
    }
}

#[test]
fn this_host_has_a_cpu_controller() {
    let kernel = Kernel::default();
    let hierarchies = kernel.hierarchies().unwrap();
    let pid = std::process::id();
    let own = kernel.membership(pid, pid).unwrap();
    assert!(hierarchies.cpu(&own).is_ok(), "{hierarchies:?} {own:?}");
}

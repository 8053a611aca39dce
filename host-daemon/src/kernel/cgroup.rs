//! cgroups of a domain: where they are on cgroup v1, v2 and hybrid hosts, their CPU bandwidth and their pressure.
//!
//! libvirt makes, below its partition, one directory for each domain, and in it `emulator`, `vcpuN` and `iothreadN`; under
//! systemd the domain's own is called `libvirt`, inside the machine's scope. A domain that libvirt gave no such
//! directories (session mode, no cgroups) has none here: what it shares with others says nothing about it.

use std::io;
use std::path::{Component, Path, PathBuf};

use kvmpilot_core::sample::{BandwidthSample, GroupPressureSample};

use super::host::pressure;
use super::kept::Kept;
use super::{Kernel, text};

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// The v1 hierarchy that has the cpu controller.
    cpu: Option<Mount>,
    /// The v1 hierarchy that has the memory controller.
    memory: Option<Mount>,
    /// The v2 hierarchy.
    unified: Option<Mount>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    /// The cgroup that is visible there: not `/` in a container.
    root: String,
}

/// The cgroups of one thread, as `/proc/PID/task/TID/cgroup` writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    cpu: Option<String>,
    memory: Option<String>,
    unified: Option<String>,
}

/// CPU bandwidth of a cgroup, its files kept open.
#[derive(Debug)]
pub struct Bandwidth {
    path: String,
    stat: Kept,
    quota: Option<Quota>,
    last: Option<BandwidthSample>,
}

#[derive(Debug)]
enum Quota {
    /// `cpu.cfs_quota_us`, `cpu.cfs_period_us`.
    V1(Kept, Kept),
    /// `cpu.max`.
    V2(Kept),
}

/// Pressure of a cgroup, its files kept open.
#[derive(Debug)]
pub struct Pressure {
    directory: PathBuf,
    cpu: Option<Kept>,
    memory: Option<Kept>,
    io: Option<Kept>,
}

impl Kernel {
    /// Finds where cgroups are mounted.
    ///
    /// # Errors
    /// Where `/proc/self/mountinfo` cannot be read.
    pub fn hierarchies(&self) -> io::Result<Hierarchies> {
        Ok(mounts(&text(&self.proc.join("self/mountinfo"))?))
    }

    /// The cgroups of a thread.
    ///
    /// # Errors
    /// Where there is no such thread.
    pub fn membership(&self, tgid: u32, tid: u32) -> io::Result<Membership> {
        Ok(membership(&text(&self.proc.join(format!("{tgid}/task/{tid}/cgroup")))?))
    }
}

impl Hierarchies {
    /// The cgroup of one vcpu alone; `known` is taken over if it is still that one.
    ///
    /// # Errors
    /// Why there is none, or it cannot be opened.
    pub fn vcpu(&self, of: &Membership, known: Option<Bandwidth>) -> io::Result<Bandwidth> {
        let (mount, path, v2) = self.cpu(of)?;
        if !last(path).starts_with("vcpu") {
            return Err(absent("libvirt has not given the vcpu a cgroup of its own"));
        }
        Bandwidth::open(mount, path, v2, known)
    }

    /// The cgroups that hold a whole domain, from its own outwards, from those of its main thread. Those `known` are taken
    /// over.
    ///
    /// # Errors
    /// Why there are none, or the first cannot be opened.
    pub fn domain(&self, of: &Membership, known: Vec<Bandwidth>) -> io::Result<Vec<Bandwidth>> {
        let mut known = known.into_iter();
        let (mount, path, v2) = self.cpu(of)?;
        let own = domain_group(path)?;
        let mut groups = vec![Bandwidth::open(mount, own, v2, known.next())?];
        if last(own) == "libvirt" {
            groups.push(Bandwidth::open(mount, parent(own), v2, known.next())?);
        }
        Ok(groups)
    }

    /// Directories that may hold the CPU weight of a whole domain, from its own outwards, and whether they are of cgroup v2.
    pub(super) fn weighted(&self, of: &Membership) -> io::Result<(Vec<PathBuf>, bool)> {
        let (mount, path, v2) = self.cpu(of)?;
        let own = domain_group(path)?;
        let mut groups = vec![mount.directory(own)?];
        if last(own) == "libvirt" {
            groups.push(mount.directory(parent(own))?);
        }
        Ok((groups, v2))
    }

    /// Pressure of a whole domain, from the cgroups of its main thread; `known` is taken over if it is still that one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pressure(&self, of: &Membership, known: Option<Pressure>) -> io::Result<Pressure> {
        let (Some(mount), Some(path)) = (&self.unified, &of.unified) else {
            return Err(absent("cgroup v1 keeps no pressure"));
        };
        let directory = mount.directory(domain_group(path)?)?;
        if let Some(known) = known.filter(|known| known.directory == directory) {
            return Ok(known);
        }
        let open = |name: &str| Kept::open(&directory.join(name)).ok();
        let (cpu, memory, io) = (open("cpu.pressure"), open("memory.pressure"), open("io.pressure"));
        if cpu.is_none() && memory.is_none() && io.is_none() {
            return Err(absent("the kernel keeps no pressure of cgroups (psi=0, or before Linux 4.20)"));
        }
        Ok(Pressure { directory, cpu, memory, io })
    }

    /// Directories with the memory of a whole domain, from the cgroups of its main thread: the first that has the file
    /// wanted counts.
    ///
    /// # Errors
    /// Why there are none.
    pub fn memory(&self, of: &Membership) -> io::Result<Vec<PathBuf>> {
        if let (Some(mount), Some(path)) = (&self.memory, &of.memory) {
            // libvirt makes directories for single threads below the cpu controllers only.
            if !last(path).contains("qemu") {
                return Err(absent("libvirt has not given the domain a cgroup of its own"));
            }
            return Ok(vec![mount.directory(path)?]);
        }
        let (Some(mount), Some(path)) = (&self.unified, &of.unified) else {
            return Err(absent("no hierarchy with the memory controller is mounted"));
        };
        let own = domain_group(path)?;
        Ok(vec![mount.directory(own)?, mount.directory(parent(own))?])
    }

    /// Where the cpu controller is, v1 before v2: a hybrid host has it in v1.
    fn cpu<'a>(&'a self, of: &'a Membership) -> io::Result<(&'a Mount, &'a str, bool)> {
        if let (Some(mount), Some(path)) = (&self.cpu, &of.cpu) {
            return Ok((mount, path, false));
        }
        match (&self.unified, &of.unified) {
            (Some(mount), Some(path)) => Ok((mount, path, true)),
            _ => Err(absent("no hierarchy with the cpu controller is mounted")),
        }
    }
}

impl Mount {
    /// The directory of a cgroup.
    fn directory(&self, path: &str) -> io::Result<PathBuf> {
        let below = if self.root == "/" { Some(path) } else { path.strip_prefix(&self.root) };
        let below = below.map(|path| Path::new(path.trim_start_matches('/')));
        // `..` is how a cgroup outside of our cgroup namespace is written.
        let inside = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let below =
            below.filter(inside).ok_or_else(|| absent("it is outside of the cgroups that we can see"))?;
        Ok(self.at.join(below))
    }
}

impl Bandwidth {
    fn open(mount: &Mount, path: &str, v2: bool, known: Option<Self>) -> io::Result<Self> {
        // A v2 group may have been given its controller since.
        if let Some(known) = known.filter(|known| known.path == path && known.quota.is_some()) {
            return Ok(Self { last: None, ..known });
        }
        let directory = mount.directory(path)?;
        let open = |name: &str| Kept::open(&directory.join(name));
        // The root of the hierarchy, and a v2 group without the controller, have no quota.
        let quota = if v2 {
            open("cpu.max").map(Quota::V2)
        } else {
            open("cpu.cfs_quota_us").and_then(|quota| Ok(Quota::V1(quota, open("cpu.cfs_period_us")?)))
        };
        Ok(Self { path: path.to_owned(), stat: open("cpu.stat")?, quota: quota.ok(), last: None })
    }

    /// Path below the mount of its hierarchy.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// One reading. `rests` if nothing in it has run since the one before.
    ///
    /// Without a limit the kernel counts no periods, so that nothing but a new limit changes what it says, and that shows
    /// by periods as soon as something runs: where there was no limit, files are left unread that cannot say anything new.
    /// A new limit on a group that rests is seen once it is [taken over](Hierarchies::vcpu).
    ///
    /// # Errors
    /// As [`Kept::read`]; a v2 group without the cpu controller has no bandwidth either.
    pub fn read(&mut self, rests: bool) -> io::Result<BandwidthSample> {
        let unlimited = self.last.take().filter(|last| last.quota_usec.is_none());
        let fresh = match unlimited {
            Some(last) if rests => last,
            Some(last) => {
                let now = self.stat.read(bandwidth)?;
                if now.periods == last.periods {
                    BandwidthSample { period_usec: last.period_usec, ..now }
                } else {
                    self.limited(now)?
                }
            }
            None => {
                let now = self.stat.read(bandwidth)?;
                self.limited(now)?
            }
        };
        self.last = Some(fresh);
        Ok(fresh)
    }

    /// With the limit.
    fn limited(&self, now: BandwidthSample) -> io::Result<BandwidthSample> {
        let (quota_usec, period_usec) = match &self.quota {
            Some(Quota::V2(max)) => max.read(cpu_max)?,
            Some(Quota::V1(quota, period)) => {
                let period = period.read(|text| text.trim().parse().ok())?;
                // -1 is "no limit".
                (quota.read(|text| text.trim().parse::<i64>().ok())?.try_into().ok(), Some(period))
            }
            None => (None, None),
        };
        Ok(BandwidthSample { quota_usec, period_usec, ..now })
    }
}

impl Pressure {
    /// One reading; what is switched off is `None`.
    #[must_use]
    pub fn read(&self) -> GroupPressureSample {
        let read = |file: &Option<Kept>| file.as_ref()?.read(pressure).ok();
        GroupPressureSample { cpu: read(&self.cpu), memory: read(&self.memory), io: read(&self.io) }
    }
}

fn absent(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, why)
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The domain's directory, from that of its main thread.
fn domain_group(emulator: &str) -> io::Result<&str> {
    if last(emulator) == "emulator" && !parent(emulator).is_empty() {
        return Ok(parent(emulator));
    }
    Err(absent("libvirt has not given the domain a cgroup of its own"))
}

/// `36 35 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct`
fn mounts(text: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in text.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let mut place = place.split(' ').skip(3);
        let (Some(root), Some(at)) = (place.next(), place.next()) else { continue };
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next(), kind.nth(1).unwrap_or_default());
        let mount = || Some(Mount { at: PathBuf::from(unescaped(at)), root: unescaped(root) });
        match name {
            Some("cgroup2") if found.unified.is_none() => found.unified = mount(),
            Some("cgroup") if found.cpu.is_none() && options.split(',').any(|option| option == "cpu") => {
                found.cpu = mount();
            }
            Some("cgroup")
                if found.memory.is_none() && options.split(',').any(|option| option == "memory") =>
            {
                found.memory = mount();
            }
            _ => {}
        }
    }
    found
}

/// `\040` and the like stand for characters that would end a word.
fn unescaped(word: &str) -> String {
    let [mut text, mut rest] = [String::new(), word.to_owned()];
    while let Some(at) = rest.find('\\') {
        let code = rest.get(at + 1..at + 4).and_then(|code| u8::from_str_radix(code, 8).ok());
        let after = if code.is_some() { at + 4 } else { at + 1 };
        text.push_str(&rest[..at]);
        text.push(code.map_or('\\', char::from));
        rest = rest[after..].to_owned();
    }
    text + &rest
}

/// `4:cpu,cpuacct:/machine/qemu-1-web.libvirt-qemu/vcpu0` and `0::/machine.slice/...`.
fn membership(text: &str) -> Membership {
    let mut found = Membership::default();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if number == "0" && controllers.is_empty() {
            found.unified = Some(path.to_owned());
        }
        for controller in controllers.split(',') {
            match controller {
                "cpu" => found.cpu = Some(path.to_owned()),
                "memory" => found.memory = Some(path.to_owned()),
                _ => {}
            }
        }
    }
    found
}

/// `cpu.stat`: v1 counts throttled time in ns, v2 in us.
fn bandwidth(text: &str) -> Option<BandwidthSample> {
    let [mut periods, mut throttled_periods, mut throttled_ns] = [None; 3];
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        let value = || value.trim().parse::<u64>().ok();
        match key {
            "nr_periods" => periods = Some(value()?),
            "nr_throttled" => throttled_periods = Some(value()?),
            "throttled_time" => throttled_ns = Some(value()?),
            "throttled_usec" => throttled_ns = Some(value()?.checked_mul(1000)?),
            _ => {}
        }
    }
    Some(BandwidthSample {
        periods: periods?,
        throttled_periods: throttled_periods?,
        throttled_ns: throttled_ns?,
        quota_usec: None,
        period_usec: None,
    })
}

/// `max 100000` or `50000 100000`.
fn cpu_max(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (quota, period) = text.trim().split_once(' ')?;
    let quota = if quota == "max" { None } else { Some(quota.parse().ok()?) };
    Some((quota, Some(period.parse().ok()?)))
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;

//! What the host's kernel, libvirt and the guests say, asked without kvmpilot: all that it may change.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use kvmpilot_tests::host_vm::HostVm;

/// Values by what they are of; two looks are compared as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts(BTreeMap<String, String>);

/// One line for each value: its name, a tab, the value.
const HOST: &str = r#"
cd /sys/fs/cgroup/machine.slice
for domain in $(virsh -q list --name); do
    scope=$(echo *$domain.scope)
    printf '%s cpu.weight\t%s\n' $domain "$(cat "$scope/cpu.weight")"
    find "$scope/libvirt" -mindepth 1 -maxdepth 1 -type d | sort | while read -r group; do
        printf '%s %s cpus\t%s\n' $domain "${group##*/}" "$(cat "$group/cpuset.cpus.effective")"
    done
    printf '%s cpu_shares\t%s\n' $domain "$(virsh -q schedinfo $domain | awk '/^cpu_shares/ {print $3}')"
    virsh -q vcpupin $domain | awk -v d=$domain 'NF {print d " vcpupin " $1 "\t" $2}'
    printf '%s emulatorpin\t%s\n' $domain "$(virsh -q emulatorpin $domain | awk '{print $NF}')"
    printf '%s balloon\t%s\n' $domain "$(virsh -q dommemstat $domain | awk '/^actual/ {print $2}')"
done"#;
/// The nice values of what the guests run; kernel threads have no executable.
const GUEST: &str =
    "cd /proc; for p in [0-9]*; do [ -e $p/exe ] && s=\"$s $p/stat\"; done; cat $s 2>/dev/null; true";
/// Names of the processes whose nice values count: others come and go.
const STAY: [&str; 3] = ["httpd", "hog", "sleeper"];

impl Facts {
    /// Asks virsh, the cgroups and the guests.
    pub(crate) fn look(host: &HostVm) -> Result<Self> {
        let text = host.run(HOST)?;
        let mut facts: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        for domain in host.virsh("list --name")?.split_whitespace() {
            for line in host.guest_exec(domain, GUEST, Duration::from_secs(120))?.lines() {
                let (head, rest) = line.rsplit_once(')').context("no stat line")?;
                let (pid, name) = head.split_once(" (").context("no stat line")?;
                if STAY.contains(&name) || name.starts_with("cruncher") {
                    let nice = rest.split_whitespace().nth(16).context("short stat line")?;
                    // A worker that serves one request is not there a moment later: the first of its name is its parent.
                    let _: u32 = pid.parse()?;
                    facts.entry(format!("{domain} {name} nice")).or_insert_with(|| nice.to_owned());
                }
            }
        }
        Ok(Self(facts))
    }

    /// One of them.
    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("nobody tells {name}: {:?}", self.0))
    }

    /// What differs, for people.
    pub(crate) fn difference(&self, other: &Self) -> Vec<String> {
        let names = self.0.keys().chain(other.0.keys().filter(|name| !self.0.contains_key(*name)));
        names
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .map(|name| format!("{name}: {:?}, was {:?}", other.0.get(name), self.0.get(name)))
            .collect()
    }
}

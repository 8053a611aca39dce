//! The story, step by step, and what each step uses.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::host_vm::PAYLOAD;
use kvmpilot_tests::{GuestSpec, Work, guests, wait_for};
use serde_json::Value;

use super::Story;
use super::facts::Facts;

/// For a guest to boot while everything else on the host is busy.
pub(super) const GUEST_BOOT: Duration = Duration::from_secs(180);
/// As an administrator would change it: faster, so that three cycles are not a quarter of an hour.
/// An emulated host costs twenty times as much as a real one, so nothing is given up for it.
const CONFIG: &str = "[loops]\ncycle = \"10s\"\nguest = \"10s\"\n\n[agent]\ntimeout = \"30s\"\n\n[overhead]\nenabled = false\n";

/// pcpus that the administrator keeps the guests to: the second socket, two cores of two threads. With more of them busy, an
/// emulated host on two real cores is not a host any more.
const GUESTS: &str = "4-7";

/// Serves HTTP; a hog and an idle process beside the server are what the ladder has to sort out.
fn web() -> GuestSpec {
    guests::web().memory_mib(384).on(GUESTS)
}

/// As many vcpus as there are pcpus for guests, all of them busy.
fn batch() -> GuestSpec {
    let hogs = (1..=4).map(|n| Work::Hog(format!("cruncher{n}")));
    hogs.fold(GuestSpec::new("batch", 12).vcpus(4).memory_mib(384).on(GUESTS), GuestSpec::runs)
}

impl Story {
    pub(super) fn tell(&self, old: &str, new: &str) -> Result<()> {
        self.install(old)?;
        self.unit_is_sound()?;
        self.watchdog_bites()?;
        self.host.boot(&web())?;
        self.host.wait_agent("web", GUEST_BOOT)?;
        self.host.boot(&batch())?;
        self.host.wait_agent("batch", GUEST_BOOT)?;
        self.say("web and batch answer, under KVM");
        let before = Facts::look(&self.host)?;
        self.host.run(LOAD)?;
        self.doctor_tells()?;
        self.orders_are_proposed()?;
        ensure!(Facts::look(&self.host)? == before, "mode recommend has changed something");
        self.exits_agree()?;
        self.everything_is_moved(&before)?;
        self.upgrade(new, &before)?;
        self.resets_are_drift()?;
        self.killed_and_restarted(&before)?;
        self.hook_is_quick()?;
        self.leaves_nothing(&before)
    }

    /// The package as it was, and a configuration that an administrator has touched.
    fn install(&self, deb: &str) -> Result<()> {
        let list = "find / -xdev -not -path '/proc/*' -not -path '/sys/*' | sort >/root/files-before";
        self.host.run(list)?;
        self.host.write("/etc/kvmpilot/conf.d/10-lab.toml", CONFIG)?;
        self.host.run(&format!("DEBIAN_FRONTEND=noninteractive dpkg -i {PAYLOAD}/{deb}"))?;
        // So that libvirt knows the new hook, as the package says.
        self.host.run("systemctl reload libvirtd")?;
        self.say("installed");
        Ok(())
    }

    /// What `kvmpilot WORDS --json` says.
    pub(super) fn json(&self, words: &str) -> Result<Value> {
        let done = self.host.try_run(&format!("kvmpilot {words} --json"), Duration::from_secs(120))?;
        serde_json::from_str(&done.out).with_context(|| format!("kvmpilot {words}: {}{}", done.out, done.err))
    }

    /// Waits until `look` finds what it looks for.
    pub(super) fn until<T>(&self, what: &str, seconds: u64, look: impl FnMut() -> Result<T>) -> Result<T> {
        wait_for(what, Duration::from_secs(seconds), look)
    }

    pub(super) fn say(&self, text: &str) {
        println!("{:6.1} s  {text}", self.began.elapsed().as_secs_f64());
    }
}

/// Four clients of web that ask all the time.
const LOAD: &str = "for n in 1 2 3 4; do systemd-run --quiet --unit load$n --collect bash -c 'while :; do \
    exec 3<>/dev/tcp/10.77.0.11/80 || { sleep 1; continue; }; printf \"GET /cgi-bin/work HTTP/1.0\\r\\n\\r\\n\" >&3; \
    cat <&3 >/dev/null; exec 3>&-; done'; done";

/// An order of this kind for this domain, in one of these states.
pub(super) fn order<'a>(orders: &'a Value, domain: &str, kind: &str, states: &[&str]) -> Result<&'a Value> {
    let all = orders["orders"].as_array().context("no orders")?;
    let found = all.iter().find(|order| {
        order["domain_name"] == domain
            && order["action"]["kind"] == kind
            && states.iter().any(|state| order["state"] == *state)
    });
    match found {
        Some(order) => Ok(order),
        None => bail!("no {kind} for {domain} among {} orders", all.len()),
    }
}

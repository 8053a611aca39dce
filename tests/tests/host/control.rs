//! Contention, and what becomes of it: orders, weights, cpusets, balloons, levels; what systemd resets.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::host_vm::PAYLOAD;

use super::Story;
use super::facts::Facts;
use super::story::order;

/// A weight that somebody else sets, which kvmpilot would not.
const THEIRS: u64 = 450;
/// Where the policy says that ours is set again.
const ENFORCE: &str = "/etc/kvmpilot/conf.d/30-enforce.toml";
const WEIGHT: &str = "cat /sys/fs/cgroup/machine.slice/machine-qemu*web.scope/cpu.weight";
/// How an administrator sets a weight with systemd; libvirt does the same over D-Bus.
const SET_PROPERTY: &str = "systemctl set-property --runtime \"$(basename /sys/fs/cgroup/machine.slice/machine-qemu*web.scope)\" CPUWeight";
/// The file that a person adds to let kvmpilot act.
const AUTO: &str = "/etc/kvmpilot/conf.d/20-auto.toml";

impl Story {
    pub(super) fn orders_are_proposed(&self) -> Result<()> {
        let summary = self.until("an order for web's weight", 180, || {
            let orders = self.json("orders")?;
            let order = order(&orders, "web", "set_cpu_shares", &["proposed"])?;
            Ok(order["reason"]["summary"].as_str().unwrap_or_default().to_owned())
        })?;
        self.say(&format!("contention is seen, and an order waits for approval: {summary}"));
        Ok(())
    }

    pub(super) fn everything_is_moved(&self, before: &Facts) -> Result<()> {
        self.host.write(AUTO, "[modes]\ndefault = \"auto\"\n")?;
        self.host.run("systemctl reload kvmpilotd")?;
        let original: u64 = before.get("web cpu.weight")?.parse()?;
        let raised = self.until("web's weight in its cgroup", 120, || match self.weight_of_web()? {
            weight if weight > original => Ok(weight),
            weight => bail!("cpu.weight of web is {weight}"),
        })?;
        self.say(&format!("in mode auto: cpu.weight of web's scope went from {original} to {raised}"));
        self.until("web's server to be raised and its hog to be lowered", 240, || {
            let now = Facts::look(&self.host)?;
            let nice = |name: &str| -> Result<i64> {
                now.get(&format!("web {name} nice"))?.parse().context("a nice value")
            };
            let (server, hog) = (nice("httpd")?, nice("hog")?);
            if server < 0 && hog > 0 { Ok(()) } else { bail!("nice values: httpd {server}, hog {hog}") }
        })?;
        self.say("in web, the server was raised and the hog lowered");
        self.until("web on pcpus of its own", 420, || self.are_apart())?;
        self.until("a balloon to be moved", 240, || {
            let now = Facts::look(&self.host)?;
            for domain in ["web", "batch"] {
                let name = format!("{domain} balloon");
                let (was, is): (u64, u64) = (before.get(&name)?.parse()?, now.get(&name)?.parse()?);
                if is < was {
                    self.say(&format!("the balloon of {domain} went from {was} to {is} KiB"));
                    return Ok(());
                }
            }
            bail!("no balloon has moved: {:?}", before.difference(&now))
        })
    }

    /// web's vcpus are on one node, on whole cores, and batch's vcpus are neither on these pcpus nor on their siblings.
    fn are_apart(&self) -> Result<()> {
        let facts = Facts::look(&self.host)?;
        let of = |domain: &str, vcpus: usize| -> Result<Vec<u32>> {
            let mut all = Vec::new();
            for vcpu in 0..vcpus {
                all.extend(cpus(facts.get(&format!("{domain} vcpu{vcpu} cpus"))?)?);
            }
            all.sort_unstable();
            all.dedup();
            Ok(all)
        };
        let (web, batch) = (of("web", 2)?, of("batch", 4)?);
        // Two threads a core, four pcpus a node.
        let core = |cpu: &u32| cpu / 2;
        let shared = web.iter().any(|cpu| batch.iter().any(|other| core(other) == core(cpu)));
        ensure!(!shared, "web has pcpus {web:?}, batch {batch:?}");
        let nodes: Vec<u32> = web.iter().map(|cpu| cpu / 4).collect();
        ensure!(nodes.windows(2).all(|pair| pair[0] == pair[1]), "web is on two nodes: {web:?}");
        let memory = self.host.run(
            "numastat -p $(cat /run/libvirt/qemu/web.pid) | awk '/^Private/ {print ($2 > $3) ? 0 : 1}'",
        )?;
        ensure!(
            memory.trim() == nodes[0].to_string(),
            "web's memory is on node {}, its pcpus are {web:?}",
            memory.trim()
        );
        self.say(&format!(
            "web has the pcpus {web:?} of node {}, where its memory is; batch {batch:?}",
            nodes[0]
        ));
        Ok(())
    }

    /// An upgrade puts every value back, and keeps the database and what the administrator wrote.
    pub(super) fn upgrade(&self, deb: &str, before: &Facts) -> Result<()> {
        let orders = |story: &Self| -> Result<u64> {
            story.json("status")?["orders"]["total"].as_u64().context("no number of orders")
        };
        let had = orders(self)?;
        let config = "cat /etc/kvmpilot/kvmpilot.toml /etc/kvmpilot/conf.d/*.toml | sha256sum";
        let written = self.host.run(config)?;
        // Not to change anything again at once: what the stop has put back must be seen.
        self.host.run(&format!("mv {AUTO} {AUTO}.off"))?;
        self.host.run_within(&format!("dpkg -i {PAYLOAD}/{deb}"), Duration::from_secs(180))?;
        let version = self.json("version")?;
        ensure!(version["version"] == env!("CARGO_PKG_VERSION"), "after the upgrade: {version}");
        self.until("the daemon after the upgrade", 60, || self.json("status").map(drop))?;
        let now = Facts::look(&self.host)?;
        ensure!(now == *before, "after the upgrade: {:?}", before.difference(&now));
        let has = orders(self)?;
        ensure!(has >= had, "the database has {has} orders, it had {had}");
        self.host.run(&format!("mv {AUTO}.off {AUTO}"))?;
        ensure!(self.host.run(config)? == written, "the configuration was changed");
        self.host.run("systemctl is-active kvmpilotd && systemctl reload kvmpilotd")?;
        self.say(&format!(
            "upgraded: every value went back, {has} orders and the configuration are still there"
        ));
        Ok(())
    }

    /// systemd re-reads its units without undoing what we set; what it is told to set over ours is drift: told, and repaired
    /// where the policy says so.
    pub(super) fn resets_are_drift(&self) -> Result<()> {
        self.until("web's weight after the upgrade", 180, || match self.weight_of_web()? {
            100 => bail!("cpu.weight of web is 100"),
            _ => Ok(()),
        })?;
        // In one go, because the daemon goes on deciding.
        let both = self.host.run(&format!("{WEIGHT}; systemctl daemon-reload; {WEIGHT}"))?;
        let (earlier, later) = both.trim().split_once('\n').context("two weights")?;
        ensure!(earlier == later && earlier != "100", "daemon-reload made {later} of {earlier}");
        self.say(&format!("daemon-reload leaves web's weight at {later}: libvirt has told systemd of it"));

        // Not so little that web's QEMU starves: then nobody can read anything of it.
        self.host.run(&format!("{SET_PROPERTY}={THEIRS}"))?;
        let summary = self.until("the finding of drift", 60, || {
            let status = self.json("status")?;
            let findings = status["findings"].as_array().context("no findings")?;
            let drift = findings.iter().find(|finding| finding["name"] == "drift");
            let drift = drift.with_context(|| format!("other findings: {:#}", status["findings"]))?;
            Ok(drift["summary"].as_str().unwrap_or_default().to_owned())
        })?;
        self.say(&format!("set over ours by systemd: {summary}"));
        self.host.run(&format!("{SET_PROPERTY}=100"))?;

        self.host.write(ENFORCE, "[guard]\nenforce = true\n")?;
        self.host.run("systemctl reload kvmpilotd")?;
        let raised = |what: &str| {
            self.until(what, 180, || match self.weight_of_web()? {
                weight if weight > 100 && weight != THEIRS => Ok(weight),
                weight => bail!("cpu.weight of web is {weight}"),
            })
        };
        raised("web's weight with enforce")?;
        self.host.run(&format!("{SET_PROPERTY}={THEIRS}"))?;
        let again = raised("our weight to be set again")?;
        self.host.run(&format!("rm {ENFORCE}; systemctl reload kvmpilotd"))?;
        self.say(&format!("with enforce it was set again, to {again}"));
        Ok(())
    }

    pub(super) fn weight_of_web(&self) -> Result<u64> {
        self.host.run(WEIGHT)?.trim().parse().context("a weight")
    }
}

/// `0-1,4` as numbers.
fn cpus(list: &str) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().context(list.to_owned())?, to.parse()?);
        all.extend(from..=to);
    }
    Ok(all)
}

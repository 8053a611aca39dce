//! Dying and leaving: whatever happens to the daemon or its package, every value is as it was before.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Story;
use super::facts::Facts;

const DROP_IN: &str = "/etc/systemd/system/kvmpilotd.service.d/test.conf";

impl Story {
    /// A SIGKILL while values are changed: systemd's ExecStopPost puts them back, and where even that does not run, the next
    /// start does.
    pub(super) fn killed_and_restarted(&self, before: &Facts) -> Result<()> {
        // So that what is put back can be seen before the next daemon changes it again.
        self.host.write(DROP_IN, "[Service]\nRestart=no\n")?;
        self.host.run("systemctl daemon-reload")?;
        self.kill_while_changed(before)?;
        self.until("ExecStopPost to put everything back", 60, || {
            let now = Facts::look(&self.host)?;
            if now == *before { Ok(()) } else { bail!("{:?}", before.difference(&now)) }
        })?;
        self.say("killed: ExecStopPost put everything back");

        self.host.write(DROP_IN, "[Service]\nRestart=no\nExecStopPost=\n")?;
        self.host.run(
            "systemctl daemon-reload && systemctl reset-failed kvmpilotd && systemctl start kvmpilotd",
        )?;
        self.kill_while_changed(before)?;
        let left = Facts::look(&self.host)?;
        ensure!(left != *before, "without ExecStopPost everything went back by itself");
        self.host.run(&format!(
            "printf '[modes]\\ndefault = \"recommend\"\\n' >/etc/kvmpilot/conf.d/90-calm.toml; rm -r $(dirname {DROP_IN}); \
             systemctl daemon-reload; systemctl reset-failed kvmpilotd; systemctl start kvmpilotd"
        ))?;
        self.until("the next start to put everything back", 60, || {
            let now = Facts::look(&self.host)?;
            if now == *before { Ok(()) } else { bail!("{:?}", before.difference(&now)) }
        })?;
        self.host.run("rm /etc/kvmpilot/conf.d/90-calm.toml; systemctl reload kvmpilotd")?;
        self.say("killed without ExecStopPost: the next start put everything back");
        Ok(())
    }

    fn kill_while_changed(&self, before: &Facts) -> Result<()> {
        let original: u64 = before.get("web cpu.weight")?.parse()?;
        self.until("a changed weight", 180, || match self.weight_of_web()? {
            weight if weight == original => bail!("web has its original weight"),
            _ => Ok(()),
        })?;
        self.host.run("systemctl kill -s KILL kvmpilotd")?;
        self.until("systemd to notice", 60, || {
            self.host.run("! systemctl --quiet is-active kvmpilotd").context("it is active").map(drop)
        })
    }

    /// Removal puts everything back, and a purge leaves no file.
    pub(super) fn leaves_nothing(&self, before: &Facts) -> Result<()> {
        self.host.run_within("apt-get -q -y remove kvmpilot", Duration::from_secs(180))?;
        let state = self.host.try_run("systemctl is-active kvmpilotd", Duration::from_secs(30))?;
        ensure!(state.code != 0, "the removed unit is {}", state.out.trim());
        let now = Facts::look(&self.host)?;
        ensure!(now == *before, "after the removal: {:?}", before.difference(&now));
        self.say("removed: every value is as before the installation");
        self.host.run_within("apt-get -q -y purge kvmpilot", Duration::from_secs(120))?;
        let left = self.host.run(
            "find / -xdev -not -path '/proc/*' -not -path '/sys/*' | sort >/root/files-after; \
             comm -13 /root/files-before /root/files-after | grep -i kvmpilot || true; getent group kvmpilot || true",
        )?;
        ensure!(left.is_empty(), "the purge left something: {left}");
        let dpkg = self.host.run("dpkg -l kvmpilot 2>/dev/null | tail -1 || true").context("dpkg")?;
        ensure!(!dpkg.contains("kvmpilot"), "dpkg still knows it: {dpkg}");
        self.say("purged: no file of it is left");
        Ok(())
    }
}

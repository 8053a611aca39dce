//! The unit: whether systemd is content with it, what doctor says of the host, and that the watchdog bites.

use anyhow::{Context, Result, bail, ensure};

use super::Story;
use super::story::GUEST_BOOT;

impl Story {
    pub(super) fn unit_is_sound(&self) -> Result<()> {
        let show = self.host.run(
            "systemctl show kvmpilotd -p Type -p ActiveState -p UnitFileState -p WatchdogUSec -p NRestarts -p Result",
        )?;
        for line in
            ["Type=notify", "ActiveState=active", "UnitFileState=enabled", "NRestarts=0", "Result=success"]
        {
            ensure!(show.lines().any(|shown| shown == line), "no {line}: {show}");
        }
        let status = self.until("the daemon to be well", 60, || {
            let status = self.json("status")?;
            ensure!(status["health"]["ok"] == true, "it is not well: {:#}", status["health"]);
            Ok(status)
        })?;
        ensure!(status["mode"] == "recommend", "it is not in mode recommend: {status}");
        let tiers = status["tiers"].as_array().context("no tiers")?;
        ensure!(
            tiers.len() == 4 && tiers.iter().all(|tier| tier["on"] == true),
            "a tier is off: {:#}",
            status["tiers"]
        );
        let exposure = self.host.run("systemd-analyze security kvmpilotd --no-pager | tail -1")?;
        let level = exposure.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        ensure!(level.context("no exposure level")? <= 3.0, "{exposure}");
        // A warning of a start is for the administrator to act on; there must be none on a host like this.
        let journal = self.host.run("journalctl -q --no-pager -u kvmpilotd -p warning -o cat")?;
        ensure!(journal.is_empty(), "the journal has warnings:\n{journal}");
        let told = self
            .host
            .run("journalctl -q --no-pager -u kvmpilotd -o cat | grep -c -E 'WARN|ERROR' || true")?;
        ensure!(
            told.trim() == "0",
            "the daemon warns: {}",
            self.host.run("journalctl -q -u kvmpilotd -o cat")?
        );
        self.say(&format!(
            "the unit is active, all tiers are on, the journal is clean; exposure: {}",
            exposure.trim()
        ));
        Ok(())
    }

    /// What is true of this host, and of no development machine.
    pub(super) fn doctor_tells(&self) -> Result<()> {
        self.doctor_says("cgroups", "ok", "version 2, with cpuset cpu io memory")?;
        self.doctor_says("sockets", "ok", "tcx")?;
        self.doctor_says("libvirt", "ok", "connected to qemu:///system")?;
        self.doctor_says("agent of web", "ok", "answers")?;
        self.say("doctor knows the host: cgroup v2, tcx, libvirt, agents");
        Ok(())
    }

    pub(super) fn doctor_says(&self, name: &str, verdict: &str, part: &str) -> Result<()> {
        let doctor = self.json("doctor")?;
        let checks = doctor["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.with_context(|| format!("doctor says nothing of {name}: {doctor:#}"))?;
        let told = check["message"].as_str().unwrap_or_default();
        ensure!(
            check["verdict"] == verdict && told.contains(part),
            "{name} is not {verdict}, {part}: {check:#}"
        );
        Ok(())
    }

    /// A daemon that hangs is ended by systemd and started again; one that is well is left alone.
    pub(super) fn watchdog_bites(&self) -> Result<()> {
        let restarts = || -> Result<u32> {
            let shown = self.host.run("systemctl show kvmpilotd -p NRestarts --value")?;
            shown.trim().parse().context("NRestarts")
        };
        self.host
            .write("/etc/systemd/system/kvmpilotd.service.d/quick.conf", "[Service]\nWatchdogSec=10s\n")?;
        self.host.run("systemctl daemon-reload && systemctl restart kvmpilotd && sleep 15")?;
        ensure!(restarts()? == 0, "the watchdog bit a daemon that was well");
        self.host.run("kill -STOP $(systemctl show kvmpilotd -p MainPID --value)")?;
        self.until("the watchdog", 60, || match restarts()? {
            0 => bail!("it was not restarted"),
            _ => self.json("status").map(drop),
        })?;
        let journal = self.host.run("journalctl -q --no-pager -u kvmpilotd -o cat | grep -i watchdog")?;
        self.host.run(
            "rm -r /etc/systemd/system/kvmpilotd.service.d && systemctl daemon-reload && systemctl restart kvmpilotd",
        )?;
        self.say(&format!("a daemon that hangs is ended: {}", journal.lines().next().unwrap_or_default()));
        Ok(())
    }

    /// The hook costs a guest's start next to nothing, and the daemon knows of the guest at once.
    pub(super) fn hook_is_quick(&self) -> Result<()> {
        let times = self.host.run(
            "for n in $(seq 20); do b=${EPOCHREALTIME/./}; \
             /etc/libvirt/hooks/qemu.d/kvmpilot web started begin - </dev/null; e=${EPOCHREALTIME/./}; \
             echo $((e - b)); done | sort -n",
        )?;
        let times: Vec<u64> =
            times.lines().map(|line| line.parse().context("a time")).collect::<Result<_>>()?;
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        self.say(&format!("a call of the hook takes {median} us, at most {worst} us, in this emulated host"));
        self.host.run("virsh -q destroy batch; systemctl stop load1 load2 load3 load4; sleep 2")?;
        // Until the daemon had all of its threads, from when libvirt said that it runs; both clocks are the host's.
        let clocks = self.host.run("echo $EPOCHREALTIME; virsh -q start batch; echo $EPOCHREALTIME")?;
        let clocks: Vec<f64> =
            clocks.lines().map(|line| line.parse().context("a time")).collect::<Result<_>>()?;
        let [asked, running] = clocks[..] else { bail!("no two clocks: {clocks:?}") };
        let known = self.until("the daemon's word of the new guest", 20, || {
            let journal = self
                .host
                .run("journalctl -q -u kvmpilotd -o short-unix | grep 'has come.*batch' | tail -1")?;
            let at: f64 = journal.split(' ').next().unwrap_or_default().parse().context("a time")?;
            ensure!(at > asked, "the last one that came is the one before: {journal}");
            Ok(at - running)
        })?;
        self.say(&format!(
            "a new guest, which took {:.2} s to start, is known with all of its vcpus {known:.2} s after it runs",
            running - asked
        ));
        ensure!(known <= 2.0, "a new guest was known after {known:.2} s");
        self.doctor_says("libvirt hook", "ok", "was heard of")?;
        self.host.wait_agent("batch", GUEST_BOOT)
    }
}

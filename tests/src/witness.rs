//! [`Witness`]: what libvirt and the guests say, asked with virsh and inside the guests, without kvmpilot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::{Lab, System};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const EXEC: Duration = Duration::from_secs(60);

/// All values that kvmpilot may change, of all running guests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// CPU weight by domain.
    pub shares: BTreeMap<String, u64>,
    /// Pins by domain and vcpu.
    pub pins: BTreeMap<(String, u32), String>,
    /// Emulator pin by domain.
    pub emulator_pins: BTreeMap<String, String>,
    /// Pins by domain and iothread.
    pub iothread_pins: BTreeMap<(String, u32), String>,
    /// Memory by domain, KiB.
    pub balloons: BTreeMap<String, u64>,
    /// Nice values inside the guests.
    pub nices: Nices,
    /// Nice values of autogroups, by domain and number.
    pub autogroups: BTreeMap<(String, u64), i8>,
    /// `CPUWeight` of systemd units by domain and unit.
    pub units: BTreeMap<(String, String), String>,
    /// Domains with the files in which their systemd keeps what was set at run time.
    pub set_at_run_time: BTreeSet<(String, String)>,
}

/// Nice value and name by domain, pid and start time.
pub type Nices = BTreeMap<(String, u32, u64), (String, i8)>;

impl Witness {
    /// Asks virsh and the guests.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub fn look(lab: &Lab) -> Result<Self> {
        let names: Vec<&str> = lab.guests().iter().map(|guest| guest.name.as_str()).collect();
        Self::look_at(lab, &names)
    }

    /// As [`Self::look`], for these domains.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub fn look_at(lab: &Lab, names: &[&str]) -> Result<Self> {
        let mut witness = Self::look_outside(lab, names)?;
        for name in names {
            let guest = lab.guest(name)?;
            if guest.agent {
                witness.nices.extend(nices(lab, name)?);
                witness.autogroups.extend(autogroups(lab, name)?);
                if guest.system == System::Debian {
                    witness.look_at_units(lab, name)?;
                }
            }
        }
        Ok(witness)
    }

    /// As [`Self::look_at`], what libvirt says alone: for guests that cannot be asked, because they are suspended.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn look_outside(lab: &Lab, names: &[&str]) -> Result<Self> {
        let mut witness = Self::default();
        for name in names {
            let name = (*name).to_owned();
            let scheduler = lab.virsh(&["schedinfo", &name])?;
            let shares = value_after(&scheduler, "cpu_shares")?.parse()?;
            witness.shares.insert(name.clone(), shares);
            for (vcpu, pin) in table(&lab.virsh(&["vcpupin", &name])?) {
                witness.pins.insert((name.clone(), vcpu.parse()?), pin);
            }
            // `0-1`, or `*: 0-1` where virsh is older.
            let emulator = lab.virsh(&["emulatorpin", &name])?;
            let pin = emulator.trim().rsplit(':').next().unwrap_or_default().trim().to_owned();
            witness.emulator_pins.insert(name.clone(), pin);
            if lab.guest(&name)?.iothreads > 0 {
                for (iothread, pin) in table(&lab.virsh(&["iothreadinfo", &name])?) {
                    witness.iothread_pins.insert((name.clone(), iothread.parse()?), pin);
                }
            }
            let memory = lab.virsh(&["dommemstat", &name])?;
            let actual =
                memory.lines().find_map(|line| line.strip_prefix("actual ")).context("no balloon")?;
            witness.balloons.insert(name.clone(), actual.trim().parse()?);
        }
        Ok(witness)
    }

    /// Asks systemd in a guest.
    fn look_at_units(&mut self, lab: &Lab, guest: &str) -> Result<()> {
        let script = "systemctl show -p Id -p CPUWeight '*.service'; echo; cd /run/systemd; \
                      grep -r . system.control transient/*.d 2>/dev/null; true";
        let text = lab.guest_exec(guest, script, EXEC)?;
        // A block of lines for each unit, its properties in systemctl's order.
        for block in text.split("\n\n") {
            let value = |key: &str| block.lines().find_map(|line| line.strip_prefix(key));
            if let (Some(unit), Some(weight)) = (value("Id="), value("CPUWeight=")) {
                self.units.insert((guest.to_owned(), unit.to_owned()), weight.to_owned());
            }
        }
        ensure!(!self.units.is_empty(), "systemctl told nothing in {guest}");
        let is_file = |line: &&str| line.starts_with("system.control/") || line.starts_with("transient/");
        let files = text.lines().filter(is_file);
        self.set_at_run_time.extend(files.map(|line| (guest.to_owned(), line.to_owned())));
        Ok(())
    }

    /// The part of it that is about these domains.
    #[must_use]
    pub fn of(&self, names: &[&str]) -> Self {
        let mut part = self.clone();
        let wanted = |name: &str| names.contains(&name);
        part.shares.retain(|name, _| wanted(name));
        part.pins.retain(|(name, _), _| wanted(name));
        part.emulator_pins.retain(|name, _| wanted(name));
        part.iothread_pins.retain(|(name, _), _| wanted(name));
        part.balloons.retain(|name, _| wanted(name));
        part.nices.retain(|(name, _, _), _| wanted(name));
        part.autogroups.retain(|(name, _), _| wanted(name));
        part.units.retain(|(name, _), _| wanted(name));
        part.set_at_run_time.retain(|(name, _)| wanted(name));
        part
    }

    /// Whether everything here is as it was `before`; processes that came or went meanwhile do not count, but new ones
    /// must not have inherited a nice value.
    ///
    /// # Errors
    /// Names what differs.
    pub fn is_as(&self, before: &Self) -> Result<()> {
        for (key, (name, nice)) in &self.nices {
            let was = before.nices.get(key).map_or(0, |(_, nice)| *nice);
            ensure!(was == *nice, "nice of {name} {key:?} is {nice}, was {was}");
        }
        for (group, nice) in &self.autogroups {
            let was = before.autogroups.get(group).copied().unwrap_or(0);
            ensure!(was == *nice, "nice of autogroup {group:?} is {nice}, was {was}");
        }
        // systemd forgets units that are stopped and loads others; what is there must be as it was, or never set.
        for (unit, weight) in &self.units {
            let was = before.units.get(unit).map_or("[not set]", String::as_str);
            ensure!(was == weight, "CPUWeight of {unit:?} is {weight}, was {was}");
        }
        let values = |witness: &Self| Self {
            nices: Nices::new(),
            autogroups: BTreeMap::new(),
            units: BTreeMap::new(),
            ..witness.clone()
        };
        let (now, before) = (values(self), values(before));
        ensure!(now == before, "libvirt says {now:?}, was {before:?}");
        Ok(())
    }

    /// Whether each value that an order says it has set is what is found here. Of several orders for one value the
    /// newest counts; a balloon may still be on its way.
    ///
    /// # Errors
    /// Names the first value that differs.
    pub fn agrees_with(&self, orders: &[Value]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for order in orders.iter().filter(|order| is_in_force(order)) {
            let domain = order["domain_name"].as_str().context("an order without a domain")?.to_owned();
            let action = &order["action"];
            let kind = action["kind"].as_str().context("an order without a kind")?;
            if !seen.insert((
                domain.clone(),
                kind.to_owned(),
                action["vcpu"].as_u64().or_else(|| action["iothread"].as_u64()),
                action["application"].to_string(),
            )) {
                continue;
            }
            let vcpu = u32::try_from(action["vcpu"].as_u64().unwrap_or(0))?;
            let (wanted, found) = match kind {
                "set_cpu_shares" => (action["to"].to_string(), self.shares.get(&domain).map(u64::to_string)),
                "pin_vcpu" => (text(&action["to"]), self.pins.get(&(domain.clone(), vcpu)).cloned()),
                "pin_emulator" => (text(&action["to"]), self.emulator_pins.get(&domain).cloned()),
                "pin_iothread" => {
                    let iothread = u32::try_from(action["iothread"].as_u64().unwrap_or(0))?;
                    (text(&action["to"]), self.iothread_pins.get(&(domain.clone(), iothread)).cloned())
                }
                "set_balloon" => (action["to"].to_string(), self.balloons.get(&domain).map(u64::to_string)),
                "set_level" => {
                    self.agrees_with_level(&domain, action)?;
                    continue;
                }
                other => bail!("the demo does not know orders of kind {other}"),
            };
            ensure!(
                found.as_deref() == Some(&wanted),
                "{kind} of {domain}: order says {wanted}, libvirt says {found:?}"
            );
        }
        Ok(())
    }

    fn agrees_with_level(&self, domain: &str, action: &Value) -> Result<()> {
        for process in action["processes"].as_array().context("no processes")? {
            let pid = u32::try_from(process["key"]["pid"].as_u64().context("no pid")?)?;
            let start = process["key"]["start_ticks"].as_u64().context("no start time")?;
            // It may have ended since.
            let Some((name, nice)) = self.nices.get(&(domain.to_owned(), pid, start)) else { continue };
            ensure!(
                process["nice_to"].as_i64() == Some(i64::from(*nice)),
                "{name} in {domain}: order says nice {}, the guest says {nice}",
                process["nice_to"]
            );
        }
        for step in action["groups"].as_array().into_iter().flatten() {
            let Some(unit) = step["group"]["name"].as_str() else { continue };
            let found = self.units.get(&(domain.to_owned(), unit.to_owned()));
            let wanted =
                if step["to"] == step["original"] { found.cloned() } else { Some(step["to"].to_string()) };
            ensure!(
                found == wanted.as_ref(),
                "{unit} in {domain}: order says {step}, systemd says {found:?}"
            );
        }
        Ok(())
    }
}

/// Whether an order's change is in force, on trial or for good.
#[must_use]
pub fn is_in_force(order: &Value) -> bool {
    order["state"] == "verified" || order["state"] == "kept"
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn value_after<'a>(text: &'a str, key: &str) -> Result<&'a str> {
    let line = text.lines().find(|line| line.trim_start().starts_with(key));
    let value =
        line.and_then(|line| line.split_once(':')).with_context(|| format!("no {key} in:\n{text}"))?;
    Ok(value.1.trim())
}

/// Lines like ` 0      0-1`.
fn table(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let (key, value) = line.trim().split_once(char::is_whitespace)?;
        key.parse::<u32>().is_ok().then(|| (key.to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// `/autogroup-7 nice 0`, once for each group of a guest; nothing where autogroup is off.
fn autogroups(lab: &Lab, guest: &str) -> Result<BTreeMap<(String, u64), i8>> {
    let text = lab.guest_exec(guest, "cat /proc/[0-9]*/autogroup 2>/dev/null | sort -u; true", EXEC)?;
    let group = |line: &str| {
        let (id, nice) = line.strip_prefix("/autogroup-")?.split_once(" nice ")?;
        Some(((guest.to_owned(), id.parse().ok()?), nice.parse().ok()?))
    };
    Ok(text.lines().filter_map(group).collect())
}

/// Nice values of all processes of a guest but kernel threads, from its own /proc.
fn nices(lab: &Lab, guest: &str) -> Result<Nices> {
    // Kernel threads have no executable. One `cat` for all: a fork for each process takes seconds under TCG.
    let script =
        "cd /proc; for p in [0-9]*; do [ -e $p/exe ] && s=\"$s $p/stat\"; done; cat $s 2>/dev/null; true";
    let mut found = BTreeMap::new();
    for line in lab.guest_exec(guest, script, EXEC)?.lines() {
        let (head, rest) = line.rsplit_once(')').with_context(|| format!("no stat line: {line}"))?;
        let (pid, name) = head.split_once(" (").with_context(|| format!("no stat line: {line}"))?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let (nice, start) =
            (fields.get(16).context("short stat line")?, fields.get(19).context("short stat line")?);
        found.insert((guest.to_owned(), pid.parse()?, start.parse()?), (name.to_owned(), nice.parse()?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_virsh_tables() {
        let pins = " VCPU   CPU Affinity\n----------------------\n 0      0-1\n 1      1\n\n";
        let row = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(table(pins), [row("0", "0-1"), row("1", "1")]);
    }
}

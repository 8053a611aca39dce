//! What is checked all along, between events: health, cadence, what the daemon uses, and that who is excluded is left alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use kvmpilot_tests::{Held, api};
use serde_json::Value;

use super::reading::Reading;
use super::world::{Soak, state_files};
use super::{Broken, CYCLE, DATABASE_MIB};

/// Between two looks at what takes longer.
const SELDOM: Duration = Duration::from_secs(30);
/// Between two readings of what the daemon uses.
const READING: Duration = Duration::from_secs(5);
/// Health that is red for so long, with nothing that excuses it, is a fault: reading a guest that goes is one for a moment.
const RED: Duration = Duration::from_secs(30);
/// Files of a process that has ended may be held for so long.
const DEAD: Duration = Duration::from_secs(60);
/// A priority cycle was missed when the last one is so many periods old.
const MISSED_CYCLES: u32 = 3;
/// With a full write-ahead log the files are larger than what is kept in them.
const DATABASE_BYTES: u64 = 3 * DATABASE_MIB * 1024 * 1024;

/// For how long it has been red, and until when that is no wonder.
#[derive(Debug)]
pub(super) struct Health {
    red_since: Option<Instant>,
    excused_until: Instant,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { red_since: None, excused_until: Instant::now() }
    }

    /// A fault is injected that may make it red for so long.
    pub(super) fn excuse(&mut self, time: Duration) {
        self.excused_until = self.excused_until.max(Instant::now() + time);
    }

    fn check(&mut self, status: &Value) -> Result<()> {
        let now = Instant::now();
        if status["health"]["ok"] == true || now < self.excused_until {
            self.red_since = None;
            return Ok(());
        }
        let red = now - *self.red_since.get_or_insert(now);
        ensure!(red < RED, "health has been red for {red:?}, and no fault is injected: {}", status["health"]);
        Ok(())
    }
}

impl Soak<'_> {
    /// Checks what is cheap, and what is not if it was long ago or `all` is to be checked.
    pub(super) fn check(&mut self, all: bool) -> Result<()> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let socket = life.daemon.socket();
        let status = match api::get(&socket, "/api/v1/status") {
            Ok(status) => status,
            // Ctrl-C at a terminal reaches the daemon, too.
            Err(_) if self.interrupted.load(std::sync::atomic::Ordering::Relaxed) => return Ok(()),
            Err(error) => return Err(error.context("the daemon does not answer")).context(Broken),
        };
        self.health.check(&status).context(Broken)?;
        life.cadence.check(&self.lateness).context(Broken)?;
        let age = life.began.elapsed();
        cycles_come(&status, age).context(Broken)?;
        life.status = status;
        let last = life.readings.last().map_or(0.0, |reading| reading.at_s);
        if all || age.as_secs_f64() - last >= READING.as_secs_f64() {
            self.read()?;
        }
        if all || self.checked.is_none_or(|at| at.elapsed() >= SELDOM) {
            self.name_objects()?;
            self.kept_are_untouched()?;
            self.checked = Some(Instant::now());
        }
        Ok(())
    }

    /// Reads what the daemon uses, and compares that with its bounds.
    fn read(&mut self) -> Result<()> {
        let database = state_files(self.lab)?.values().sum();
        let Some(life) = &mut self.life else { return Ok(()) };
        let pid = life.daemon.process_id();
        let held = Held::by(pid)?;
        let domains = life.status["domains"]["running"].as_u64().context("no number of domains")?;
        let reading = Reading::take(pid, &held, life.began.elapsed().as_secs_f64(), database, domains)?;
        // First of all into the books: it may be what is wrong.
        life.readings.push(reading.clone());
        self.books.database.push(database);
        reading.check(self.alone.rss_kib).context(Broken)?;
        let dead = held.of_the_dead();
        life.dead.retain(|pid, _| dead.contains(pid));
        for pid in dead {
            let since = life.dead.entry(pid).or_insert_with(Instant::now).elapsed();
            if since > DEAD {
                let files: Vec<&String> =
                    held.links.iter().filter(|link| link.starts_with(&format!("/proc/{pid}/"))).collect();
                return Err(anyhow!(
                    "leak: process {pid} ended {since:?} ago, and files of it are held: {files:?}"
                ))
                .context(Broken);
            }
        }
        if database > DATABASE_BYTES {
            return Err(anyhow!("the database has {database} bytes, {DATABASE_BYTES} at most"))
                .context(Broken);
        }
        Ok(())
    }

    /// Remembers how the daemon's eBPF objects are called, to find what it leaves behind.
    fn name_objects(&mut self) -> Result<()> {
        let held = Held::by(self.pid()?)?;
        // One may go meanwhile, and links have no names. `.rodata` is everybody's.
        let names = held.objects.iter().filter_map(|object| object.name().ok());
        self.names.extend(names.filter(|name| !name.is_empty() && !name.starts_with('.')));
        Ok(())
    }
}

/// The priority cycle comes when it is due.
fn cycles_come(status: &Value, age: Duration) -> Result<()> {
    let late = CYCLE * MISSED_CYCLES;
    let since = status["cycle"]["seconds_since_last"].as_f64();
    let since = since.map_or(age, Duration::from_secs_f64);
    ensure!(
        since < late || age < late * 2,
        "missed cadence: the last priority cycle ended {since:?} ago, period {CYCLE:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn red_health_is_a_fault_only_when_it_lasts_and_nothing_excuses_it() {
        let red = json!({"health": {"ok": false, "problems": ["libvirt is gone"]}});
        let mut health = Health::new();
        health.check(&red).unwrap();
        health.red_since = Instant::now().checked_sub(RED);
        assert!(health.check(&red).unwrap_err().to_string().contains("libvirt is gone"));
        health.excuse(RED);
        health.check(&red).unwrap();
        assert_eq!(health.red_since, None);
    }

    #[test]
    fn a_cycle_that_does_not_come_is_missed() {
        let status = |since: Option<f64>| json!({"cycle": {"seconds_since_last": since}});
        let (young, old) = (CYCLE * 4, CYCLE * 10);
        cycles_come(&status(Some(6.0)), old).unwrap();
        cycles_come(&status(None), young).unwrap();
        assert!(cycles_come(&status(None), old).is_err());
        assert!(cycles_come(&status(Some(20.0)), old).is_err());
    }
}

//! Faults of what kvmpilotd stands on: its database, its disk, its clock, its configuration. It changes nothing while it
//! cannot write the originals down, says why, goes on looking, and gets over it by itself where that is possible.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::witness::is_in_force;
use kvmpilot_tests::{Lab, LabOptions, Witness, guests, wait_for};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(90);
const CONFIG: &str =
    "[modes]\ndefault = \"auto\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"10s\"\n";
/// Byte of SQLite's `-shm` file that stands for the right to write (`WAL_WRITE_LOCK`, wal.c).
const WRITE_LOCK: i64 = 120;

#[test]
fn what_it_stands_on_may_break() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web()] })?;
    lab.wait_agents(BOOT)?;
    let before = Witness::look(&lab)?;
    let part = |what: &str, happens: fn(&Lab, &Witness) -> Result<()>| {
        let began = Instant::now();
        happens(&lab, &before).with_context(|| what.to_owned())?;
        println!("{what}: {:.0} s", began.elapsed().as_secs_f64());
        anyhow::Ok(())
    };
    part("bad files, and a deleted database", bad_files_and_a_deleted_database)?;
    part("a full disk, and a locked database", disk_and_lock)?;
    part("a damaged database", a_damaged_database)?;
    part("a clock that steps", the_clock_steps)?;
    lab.stop()
}

/// Waits until health is green, or red for a reason with these words in it.
fn health(daemon: &Daemon<'_>, wrong: Option<&str>) -> Result<()> {
    wait_for(&format!("health to say {wrong:?}"), PATIENCE, || {
        let health = daemon.json(&["status"])?["health"].clone();
        match wrong {
            None => ensure!(health["ok"] == true, "{health}"),
            Some(words) => ensure!(health["problems"].to_string().contains(words), "{health}"),
        }
        Ok(())
    })
    .with_context(|| daemon.log())
}

/// Waits for an order of this life in force: the ledger has entries.
fn changed(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    lab.under_load("web", 4, || changes_come(daemon))
}

fn changes_come(daemon: &Daemon<'_>) -> Result<()> {
    wait_for("changed values", PATIENCE, || {
        let left = daemon.json(&["status"])?["ledger_entries"].as_u64();
        ensure!(left > Some(0) && daemon.orders()?.iter().any(is_in_force), "{left:?} values are changed");
        Ok(())
    })
    .with_context(|| daemon.log())
}

fn is_back(lab: &Lab, before: &Witness) -> Result<()> {
    wait_for("everything to be back", PATIENCE, || Witness::look(lab)?.is_as(before))
}

/// Two cycles go by under load, in which nothing is changed and the domain is seen as ever.
fn it_only_looks(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let newest = || Ok::<_, anyhow::Error>(daemon.orders()?.first().map(|order| order["id"].clone()));
    let cycle = || Ok::<_, anyhow::Error>(daemon.json(&["status"])?["cycle"]["number"].as_u64().unwrap_or(0));
    let (then, first) = (newest()?, cycle()?);
    lab.under_load("web", 4, || {
        wait_for("two more cycles", PATIENCE, || {
            let now = cycle()?;
            ensure!(now >= first + 2, "cycle {now}");
            Ok(())
        })
    })?;
    ensure!(newest()? == then, "an order came: {:?}", daemon.orders()?.first());
    let vcpu = daemon.json(&["domain", "web"])?["vcpus"][0].clone();
    ensure!(vcpu["run_ratio"].is_number(), "{vcpu}");
    Ok(())
}

/// Policy and rules are replaced by garbage: the last good ones stay in force, and what they had changed goes back.
fn bad_files_and_a_deleted_database(lab: &Lab, before: &Witness) -> Result<()> {
    let daemon = lab.start_daemon("files", CONFIG)?;
    lab.under_load("web", 4, || {
        changes_come(&daemon)?;
        daemon.reload("\u{0}\u{1}garbage = [[[\n")?;
        health(&daemon, Some("kvmpilot.toml:1:"))?;
        ensure!(daemon.json(&["status"])?["mode"] == "auto", "not the last good one");
        ensure!(Witness::look(lab)?.is_as(before).is_err(), "a bad file is no reason to give everything up");
        Ok(())
    })?;
    daemon.text(&["restore"])?;
    is_back(lab, before).context("with a bad configuration")?;

    let rules = lab.state_dir().join("files/rules.d");
    fs::create_dir(&rules)?;
    fs::write(rules.join("mine.toml"), [0xff; 4096])?;
    daemon.reload(CONFIG)?;
    health(&daemon, Some("the rules are bad"))?;
    changed(lab, &daemon).context("by the last good rules")?;
    fs::remove_dir_all(&rules)?;
    daemon.reload(CONFIG)?;
    health(&daemon, None)?;

    fs::remove_file(lab.state_dir().join("files/state/kvmpilot.db"))?;
    health(&daemon, Some("was deleted"))?;
    it_only_looks(lab, &daemon).context("with a deleted database")?;
    ensure!(daemon.stop()?.success(), "it did not put everything back as it stopped");
    is_back(lab, before).context("after the database was deleted")
}

/// A disk of a few MiB that only this daemon sees.
fn disk_and_lock(lab: &Lab, before: &Witness) -> Result<()> {
    let state = lab.state_dir().join("disk/state");
    fs::create_dir_all(&state)?;
    let script =
        format!("mount -t tmpfs -o size=16m,mode=0700 none {} && exec \"$0\" \"$@\"", state.display());
    let daemon = lab.start_wrapped_daemon("disk", CONFIG, &["unshare", "--mount", "sh", "-c", &script])?;
    let seen = PathBuf::from(format!("/proc/{}/root{}", daemon.process_id(), state.display()));
    changed(lab, &daemon)?;

    fill(&seen.join("filler"))?;
    health(&daemon, Some("no space left"))?;
    it_only_looks(lab, &daemon).context("with a full disk")?;
    // Going back needs no room that is not there.
    daemon.text(&["restore"])?;
    is_back(lab, before).context("with a full disk")?;
    fs::remove_file(seen.join("filler"))?;
    health(&daemon, None)?;

    daemon.reload(CONFIG)?;
    changed(lab, &daemon).context("after the disk was full")?;
    let file = File::options().read(true).write(true).open(seen.join("kvmpilot.db-shm"))?;
    lock(&file, libc_lock(nix::libc::F_WRLCK))?;
    health(&daemon, Some("locked by another program"))?;
    it_only_looks(lab, &daemon).context("with a locked database")?;
    lock(&file, libc_lock(nix::libc::F_UNLCK))?;
    drop(file);
    health(&daemon, None)?;
    daemon.text(&["restore"])?;
    is_back(lab, before).context("after the database was locked")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

fn fill(path: &Path) -> Result<()> {
    let mut filler = File::create(path)?;
    while filler.write(&[0; 4096]).is_ok() {}
    Ok(())
}

fn libc_lock(kind: i32) -> nix::libc::flock {
    nix::libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: i16::try_from(nix::libc::SEEK_SET).unwrap_or(0),
        l_start: WRITE_LOCK,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes the lock that SQLite's own writers take, or gives it back.
fn lock(file: &File, lock: nix::libc::flock) -> Result<()> {
    wait_for("SQLite's lock", PATIENCE, || Ok(fcntl(file.as_fd(), FcntlArg::F_SETLK(&lock))?))?;
    Ok(())
}

/// Damaged while it was down, with originals in it: nothing is changed, nothing is lost.
fn a_damaged_database(lab: &Lab, before: &Witness) -> Result<()> {
    let daemon = lab.start_daemon("damaged", CONFIG)?;
    changed(lab, &daemon)?;
    daemon.kill()?;
    let state = lab.state_dir().join("damaged/state");
    let sound = lab.state_dir().join("sound");
    fs::create_dir_all(&sound)?;
    for entry in fs::read_dir(&state)? {
        let path = entry?.path();
        fs::rename(&path, sound.join(path.file_name().context("no name")?))?;
    }
    fs::write(
        state.join("kvmpilot.db"),
        "This is no database, and it is long enough to look like one.".repeat(200),
    )?;

    let daemon = lab.start_daemon("damaged", CONFIG)?;
    health(&daemon, Some("is damaged"))?;
    it_only_looks(lab, &daemon).context("with a damaged database")?;
    let refused = daemon.text(&["restore"]).err().context("restored from nothing")?;
    ensure!(format!("{refused:#}").contains("is damaged"), "{refused:#}");
    ensure!(Witness::look(lab)?.is_as(before).is_err(), "nothing was left to put back");

    // Mended, while the daemon runs: what the killed one had changed goes back.
    fs::rename(&state, lab.state_dir().join("bad"))?;
    fs::rename(&sound, &state)?;
    daemon.reload("[modes]\ndefault = \"observe\"\n")?;
    health(&daemon, None)?;
    is_back(lab, before).context("after the database was mended")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

/// The wall clock goes a day ahead, a day back and comes home. Only ages know, and an age that cannot be is none.
fn the_clock_steps(lab: &Lab, before: &Witness) -> Result<()> {
    let clock = lab.state_dir().join("wall-clock");
    let step = |seconds: i64| fs::write(&clock, format!("{seconds:+}\n"));
    step(0)?;
    let script = format!(
        "LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 \
         FAKETIME_DONT_FAKE_MONOTONIC=1 exec \"$0\" \"$@\"",
        clock.display()
    );
    let daemon = lab.start_wrapped_daemon("clock", CONFIG, &["sh", "-c", &script])?;
    changed(lab, &daemon)?;
    let stale = |wanted: bool| {
        wait_for(&format!("balloon figures that are stale: {wanted}"), PATIENCE, || {
            let balloon = daemon.json(&["domain", "web"])?["balloon"].clone();
            ensure!(balloon["stale"] == wanted, "{balloon}");
            Ok(())
        })
    };
    stale(false)?;
    for days in [1, -1] {
        step(days * 86_400)?;
        stale(true).context("no clock that steps: is faketime installed? run `cargo xtask setup`")?;
        let first = daemon.json(&["status"])?;
        wait_for("the cycles to go on", PATIENCE, || {
            let now = daemon.json(&["status"])?;
            let number = |status: &Value| status["cycle"]["number"].as_u64().unwrap_or(0);
            ensure!(number(&now) >= number(&first) + 2, "{now}");
            ensure!(now["cycle"]["seconds_since_last"].as_f64() < Some(10.0), "{now}");
            Ok(())
        })?;
    }
    // The daemon's clock was what stepped: orders bear its time.
    let newest = daemon.orders()?.first().and_then(|order| order["changed_unix_ms"].as_u64()).unwrap_or(0);
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    println!("the newest order is {} s old by this clock", now.abs_diff(newest) / 1000);
    step(0)?;
    stale(false)?;
    daemon.text(&["restore"])?;
    is_back(lab, before).context("after the clock stepped")?;
    ensure!(daemon.stop()?.success());
    Ok(())
}

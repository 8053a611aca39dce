//! The lab itself: its guests answer, and nothing of it is left behind, however it ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::{GuestSpec, HttpLoad, Lab, LabOptions, Work, guests, reap_stale, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BOOT: Duration = Duration::from_secs(180);
const EXEC: Duration = Duration::from_secs(20);
/// A process may end between its name in the directory and its file.
const NAMES: &str = "cat /proc/[0-9]*/comm 2>/dev/null; true";
const GONE: Duration = Duration::from_secs(20);

#[test]
fn guests_answer_and_serve() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: guests::standard() })?;
    lab.wait_agents(BOOT)?;

    let processes = lab.guest_exec("web", NAMES, EXEC)?;
    for name in ["httpd", "hog", "sleeper", "qemu-ga"] {
        ensure!(processes.lines().any(|comm| comm == name), "no {name} in web:\n{processes}");
    }
    let processes = lab.guest_exec("batch", NAMES, EXEC)?;
    ensure!(
        processes.contains("cruncher1\n") && processes.contains("cruncher2\n"),
        "no crunchers in:\n{processes}"
    );
    let failure = lab.guest_exec("idle", "echo oops >&2; exit 3", EXEC).unwrap_err().to_string();
    ensure!(failure.contains("oops") && failure.contains('3'), "{failure}");

    let report = lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 4, seconds: 3 })?;
    ensure!(report.requests > 10 && report.errors == 0, "{report:?}");
    ensure!(report.p50_ms > 1.0 && report.p99_ms >= report.p50_ms, "{report:?}");

    for guest in lab.guests() {
        let comm = fs::read_to_string(format!("/proc/{}/comm", lab.qemu_pid(&guest.name)?))?;
        ensure!(comm.starts_with("qemu-system"), "{comm}");
        let xml = lab.virsh(&["dumpxml", &guest.name])?;
        ensure!(xml.contains(&format!("<partition>/{}</partition>", lab.name())), "{xml}");
    }
    // 512 MiB less what the kernel keeps for itself; the balloon's statistics come from the guest.
    wait_for("balloon statistics of idle", EXEC, || {
        let stats = lab.virsh(&["dommemstat", "idle"])?;
        let usable = stats.lines().find_map(|line| line.strip_prefix("usable ")).context("no usable yet")?;
        let usable: u64 = usable.trim().parse()?;
        ensure!((300_000..524_288).contains(&usable), "usable {usable} KiB");
        Ok(())
    })?;

    let name = lab.name().to_owned();
    lab.stop()?;
    nothing_left(&name)
}

#[test]
fn a_guest_without_agent_runs_beside_another_lab() -> Result<()> {
    let mute = GuestSpec::new("mute", 20).runs(Work::Http).without_agent();
    let first = Lab::start(&LabOptions { guests: vec![mute] })?;
    let mut second = Lab::start(&LabOptions::default())?;
    second.boot(&GuestSpec::new("mute", 20))?;
    second.wait_agent("mute", BOOT)?;
    ensure!(first.qemu_pid("mute")? != second.qemu_pid("mute")?);
    let refusal = first.wait_agent("mute", Duration::ZERO).unwrap_err();
    ensure!(format!("{refusal:#}").contains("agent"), "{refusal:#}");
    wait_for("the first lab's guest to serve", BOOT, || {
        let report = first.http_load(&HttpLoad { guest: "mute".to_owned(), connections: 1, seconds: 1 })?;
        ensure!(report.requests > 0 && report.errors == 0, "{report:?}");
        Ok(())
    })?;

    let names = [first.name().to_owned(), second.name().to_owned()];
    drop(first);
    ensure!(second.virsh(&["domstate", "mute"])?.starts_with("running"), "the other lab went down, too");
    drop(second);
    names.iter().try_for_each(|name| nothing_left(name))
}

#[test]
fn nothing_is_left_when_the_owner_goes() -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        let (mut owner, name) = owner()?;
        something_runs(&name)?;
        kill(Pid::from_raw(i32::try_from(owner.id())?), signal)?;
        owner.wait()?;
        nothing_left(&name).with_context(|| format!("after {signal}"))?;
    }
    let (mut owner, name) = owner()?;
    owner.stdin.take().context("no stdin")?.write_all(b"panic\n")?;
    ensure!(!owner.wait()?.success());
    nothing_left(&name).context("after a panic")
}

#[test]
fn the_next_lab_buries_one_whose_keeper_was_killed() -> Result<()> {
    let (mut owner, name) = owner()?;
    let record = fs::read_to_string(format!("/run/kvmpilot-lab/{name}/keeper"))?;
    let keeper: i32 = record.split_whitespace().next().context("empty record")?.parse()?;
    kill(Pid::from_raw(keeper), Signal::SIGKILL)?;
    kill(Pid::from_raw(i32::try_from(owner.id())?), Signal::SIGKILL)?;
    owner.wait()?;
    wait_for("the keeper to be dead", GONE, || {
        ensure!(!Path::new(&format!("/proc/{keeper}")).exists());
        Ok(())
    })?;
    something_runs(&name).context("QEMU should outlive both")?;
    // Another test of this file may start a lab first and do it for us.
    reap_stale()?;
    nothing_left(&name)
}

/// Starts a process that owns a lab with one guest, and returns it with the lab's name.
fn owner() -> Result<(Child, String)> {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_lab-owner"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut name = String::new();
    BufReader::new(owner.stdout.take().context("no stdout")?).read_line(&mut name)?;
    ensure!(name.starts_with("kvmpilot-lab-"), "the owner printed {name:?}");
    Ok((owner, name.trim().to_owned()))
}

fn something_runs(name: &str) -> Result<()> {
    let traces = traces(name)?;
    let both = traces.iter().any(|trace| trace.contains("cgroup"))
        && traces.iter().any(|trace| trace.contains("process"));
    ensure!(both, "a running lab should be seen, but: {traces:?}");
    Ok(())
}

fn nothing_left(name: &str) -> Result<()> {
    wait_for("the lab's remains to go", GONE, || match traces(name)? {
        traces if traces.is_empty() => Ok(()),
        traces => bail!("{traces:#?}"),
    })
}

/// Whatever of a lab can still be seen: its processes, cgroups, directory.
fn traces(name: &str) -> Result<Vec<String>> {
    let mut traces = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        let told =
            ["environ", "cgroup", "cmdline"].map(|file| String::from_utf8_lossy(&read(file)).into_owned());
        if told.iter().any(|text| text.contains(name)) {
            traces.push(format!("process {pid} {}", told[2].replace('\0', " ")));
        }
    }
    let found =
        Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("{name}*")]).output()?;
    traces.extend(String::from_utf8_lossy(&found.stdout).lines().map(|path| format!("cgroup {path}")));
    let state = Path::new("/run/kvmpilot-lab").join(name);
    if state.exists() {
        traces.push(format!("directory {}", state.display()));
    }
    Ok(traces)
}

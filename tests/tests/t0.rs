//! Tier 0 against independent witnesses: KVM's statistics against debugfs and QEMU (A8), the wait for a pcpu against the
//! steal that the guest itself sees (A6), the split of lost time against cgroups. Real domains under a real libvirt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvmpilot::kernel::{Kernel, KvmStats};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{Firmware, GuestSpec, Lab, LabOptions, Work, firmware, output_of, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "[modes]\ndefault = \"observe\"\n[agent]\nenabled = false\n";

type Statistics = BTreeMap<String, Vec<u64>>;

/// All statistics files of a QEMU whose links begin so, in the order of their names.
fn statistics(pid: u32, kind: &str) -> Result<Vec<Statistics>> {
    let kernel = Kernel::default();
    let process = kernel.hold(pid)?;
    let mut found = kernel.duplicates(&process, |link| link.starts_with(kind))?;
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    let read = |fd| -> Result<Statistics> {
        Ok(KvmStats::new(fd, None)?.all()?.into_iter().map(|(stat, values)| (stat.name, values)).collect())
    };
    found.into_iter().map(|(_, fd)| read(fd)).collect()
}

/// The same from QEMU, in the order of its vcpus' numbers.
fn query_stats(lab: &Lab, guest: &str) -> Result<Vec<Statistics>> {
    let ask = |command: &str| -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&lab.virsh(&["qemu-monitor-command", guest, command])?)?;
        Ok(answer["return"].as_array().with_context(|| format!("{answer}"))?.clone())
    };
    let results = ask("{\"execute\":\"query-stats\",\"arguments\":{\"target\":\"vcpu\"}}")?;
    let mut vcpus = ask("{\"execute\":\"query-cpus-fast\"}")?;
    vcpus.sort_by_key(|vcpu| vcpu["cpu-index"].as_u64());
    let of = |vcpu: &Value| -> Result<Statistics> {
        let result = results.iter().find(|result| result["qom-path"] == vcpu["qom-path"]);
        let stats = result.and_then(|result| result["stats"].as_array()).context("no stats")?;
        stats
            .iter()
            .map(|stat| {
                let values = numbers(&stat["value"])?;
                Ok((text(&stat["name"])?, values))
            })
            .collect()
    };
    vcpus.iter().map(of).collect()
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("{value} is no text"))?.to_owned())
}

fn numbers(value: &Value) -> Result<Vec<u64>> {
    match value {
        Value::Bool(set) => Ok(vec![u64::from(*set)]),
        Value::Array(values) => {
            values.iter().map(|value| value.as_u64().with_context(|| format!("{value}"))).collect()
        }
        value => Ok(vec![value.as_u64().with_context(|| format!("{value} is no number"))?]),
    }
}

/// KVM's debugfs directory of a QEMU: totals over its vcpus. What the kernel refuses (lockdown) is left out.
fn debugfs(lab: &Lab, pid: u32) -> Result<Statistics> {
    let script = format!(
        "mkdir -p {dir} && mount -t debugfs debugfs {dir} && cd {dir}/kvm/{pid}-* &&
         for file in *; do [ -f $file ] && echo $file $(cat $file 2>/dev/null); done; cd /; umount {dir}",
        dir = lab.state_dir().join("debugfs").display()
    );
    let text = output_of(lab.command("sh").args(["-c", &script]))?;
    let mut found = Statistics::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let values: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        if !values.is_empty() {
            found.insert(name.to_owned(), values);
        }
    }
    Ok(found)
}

/// Whatever can be told apart must be the same; `known` is ours.
fn same(what: &str, known: &Statistics, other: &Statistics, least: usize) -> Result<()> {
    let mut compared = 0;
    for (name, values) in known {
        if let Some(others) = other.get(name) {
            // QEMU 10.0 lists the buckets of a histogram from the last to the first.
            let turned: Vec<u64> = others.iter().rev().copied().collect();
            ensure!(values == others || *values == turned, "{name}: {values:?} here, {others:?} from {what}");
            compared += 1;
        }
    }
    println!(
        "A8: {compared} of {} statistics are the same from {what}, which shows {}",
        known.len(),
        other.len()
    );
    ensure!(compared >= least, "{what} has {compared} of {known:?}: {other:?}");
    Ok(())
}

fn total(statistics: &[Statistics]) -> Statistics {
    let mut sum = Statistics::new();
    for (name, values) in statistics.iter().flatten() {
        let sums = sum.entry(name.clone()).or_insert_with(|| vec![0; values.len()]);
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    sum
}

fn firmware_lab(guest: &Firmware) -> Result<Option<Lab>> {
    if let Some(why) = firmware::refusal() {
        println!("not shown: this machine runs no KVM guest: {why}");
        return Ok(None);
    }
    let lab = Lab::start(&LabOptions::default())?;
    lab.boot_firmware(guest)?;
    Ok(Some(lab))
}

fn guest(sleeps: bool) -> Firmware {
    Firmware { name: "fw".to_owned(), vcpus: 2, most_vcpus: 2, sleeps }
}

/// One domain as the daemon shows it, once it has read it in detail twice.
fn shown(daemon: &Daemon<'_>, domain: &str) -> Result<Value> {
    wait_for("a detailed window", PATIENCE, || {
        let view = daemon.json(&["domain", domain])?;
        ensure!(view["vcpu_times"][0]["idle_ratio"].is_number(), "{view}");
        Ok(view)
    })
    .with_context(|| daemon.log())
}

const PARTS: [&str; 6] = [
    "run_ratio",
    "contention_ratio",
    "throttled_ratio",
    "halt_polling_ratio",
    "exit_handling_ratio",
    "idle_ratio",
];

fn parts(time: &Value) -> Vec<Option<f64>> {
    PARTS.iter().map(|part| time[part].as_f64()).collect()
}

#[test]
fn kvm_statistics_are_those_of_debugfs_and_qemu() -> Result<()> {
    let Some(lab) = firmware_lab(&guest(true))? else { return Ok(()) };
    let pid = lab.qemu_pid("fw")?;
    // A guest that sleeps: halts are the interesting part.
    wait_for("halts", PATIENCE, || {
        let halts = statistics(pid, "anon_inode:kvm-vcpu-stats:")?[0]["halt_exits"][0];
        ensure!(halts > 1000, "{halts} halts");
        Ok(())
    })?;

    let daemon = lab.start_daemon("d", CONFIG)?;
    let view = shown(&daemon, "fw")?;
    ensure!(view["detail_missing"].as_array().is_some_and(Vec::is_empty), "{view}");
    let time = &view["vcpu_times"][0];
    let parts = parts(time);
    ensure!(parts.iter().all(Option::is_some), "not all parts are known: {time}");
    let sum: f64 = parts.iter().flatten().sum();
    ensure!((0.98..=1.000_001).contains(&sum), "{sum}: {time}");
    // A timer interrupt each 200 us.
    ensure!(
        time["halt_wait_p50_us"].as_f64().is_some_and(|micros| (1.0..=600.0).contains(&micros)),
        "{time}"
    );
    ensure!(time["halt_polling_ratio"].as_f64() > Some(0.0), "{time}");
    println!("a halting vcpu: {time}");
    drop(daemon);
    the_weak_daemon_says_what_it_cannot_read(&lab)?;

    lab.virsh(&["suspend", "fw"])?;
    let mut last = Vec::new();
    wait_for("counters to stand still", PATIENCE, || {
        let now = statistics(pid, "anon_inode:kvm-vcpu-stats:")?;
        let still = now == last;
        last = now;
        sleep(Duration::from_millis(200));
        ensure!(still);
        Ok(())
    })?;
    ensure!(
        last.len() == 2 && last[0]["halt_exits"][0] > 40 && last[0].contains_key("halt_wait_hist"),
        "{last:?}"
    );
    let qemu = query_stats(&lab, "fw")?;
    ensure!(qemu.len() == last.len());
    for (ours, theirs) in last.iter().zip(&qemu) {
        same("query-stats", ours, theirs, 20)?;
        ensure!(ours.len() >= theirs.len(), "QEMU knows more: {ours:?} {theirs:?}");
    }
    let shown = debugfs(&lab, pid)?;
    // Counters that can be reset have a writable file, and lockdown refuses those.
    let locked = !shown.contains_key("exits");
    if locked {
        println!("A8: this kernel is locked down and refuses most of debugfs");
    }
    same("debugfs", &total(&last), &shown, if locked { 2 } else { 20 })?;
    ensure!(statistics(pid, "anon_inode:kvm-vcpu-stats:")? == last, "they moved while they were compared");
    lab.stop()
}

/// Without the right to use BPF, or to duplicate QEMU's descriptors: the same shape, from what is left, with the reason.
fn the_weak_daemon_says_what_it_cannot_read(lab: &Lab) -> Result<()> {
    let wrapper = ["setpriv", "--bounding-set", "-sys_admin,-bpf,-perfmon,-sys_ptrace"];
    let daemon = lab.start_wrapped_daemon("weak", CONFIG, &wrapper)?;
    let view = shown(&daemon, "fw")?;
    let time = &view["vcpu_times"][0];
    ensure!(time["contention_ratio"].is_number() && time["throttled_ratio"].is_number(), "{view}");
    ensure!(time["exits_per_s"].is_null() && time["halt_polling_ratio"].is_null(), "{view}");
    ensure!(
        view["detail_missing"][0].as_str().is_some_and(|why| why.starts_with("KVM statistics: ")),
        "{view}"
    );
    ensure!(view["detail_missing"].to_string().contains("denied"), "not the reason: {view}");
    let threads = view["threads"].as_array().context("no threads")?;
    ensure!(threads.iter().all(|thread| thread["source"] == "schedstat"), "{view}");
    println!("without the rights: {}", view["detail_missing"]);
    Ok(())
}

/// Burns CPU on one pcpu until dropped.
struct Hog(Child);

impl Hog {
    fn start(pcpu: &str) -> Result<Self> {
        Ok(Self(Command::new("taskset").args(["-c", pcpu, "sh", "-c", "while :; do :; done"]).spawn()?))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_delay(pid: u32) -> Result<BTreeMap<u32, u64>> {
    let kernel = Kernel::default();
    let (threads, _) = kernel.threads(pid);
    let mut found = BTreeMap::new();
    for thread in threads {
        if let Some(number) = thread.comm.strip_prefix("CPU ").and_then(|rest| rest.split('/').next()) {
            found.insert(number.parse()?, kernel.schedstat(pid, thread.tid)?.runq_wait_ns);
        }
    }
    Ok(found)
}

#[test]
fn the_wait_for_a_pcpu_is_the_steal_that_the_guest_sees() -> Result<()> {
    const LEAST_STEAL: u64 = 5_000_000_000;
    const WINDOW: Duration = Duration::from_secs(60);
    let Some(lab) = firmware_lab(&guest(false))? else { return Ok(()) };
    let pid = lab.qemu_pid("fw")?;
    // Both vcpus on one pcpu, and a hog beside them.
    for vcpu in ["0", "1"] {
        lab.virsh(&["vcpupin", "fw", vcpu, "0", "--live"])?;
    }
    let hog = Hog::start("0")?;
    // Of a paused guest both books are closed: nothing is under way that one of them has seen and the other has not.
    let read = || -> Result<(u64, u64)> {
        lab.virsh(&["suspend", "fw"])?;
        let steal = lab.steal_ns("fw", 0)? + lab.steal_ns("fw", 1)?;
        let waits: u64 = run_delay(pid)?.values().sum();
        lab.virsh(&["resume", "fw"])?;
        Ok((steal, waits))
    };
    let (steal_begin, waits_begin) = read()?;
    let began = Instant::now();
    let mut worst = 0;
    let (mut steal, mut waited) = (0, 0);
    while began.elapsed() < WINDOW {
        sleep(WINDOW / 6);
        let (steal_now, waits_now) = read()?;
        (steal, waited) = (steal_now - steal_begin, waits_now - waits_begin);
        worst = worst.max(steal.abs_diff(waited));
    }
    drop(hog);
    println!(
        "A6: in {:.0} s the guest saw {:.3} s of steal, its vcpus waited {:.3} s: {:.3} ms apart ({:.4} %), at most {:.3} ms on the way",
        began.elapsed().as_secs_f64(),
        steal as f64 / 1e9,
        waited as f64 / 1e9,
        steal.abs_diff(waited) as f64 / 1e6,
        steal.abs_diff(waited) as f64 / steal.max(1) as f64 * 100.0,
        worst as f64 / 1e6
    );
    ensure!(steal >= LEAST_STEAL, "only {steal} ns of steal");
    ensure!(
        steal.abs_diff(waited) <= (steal / 100).max(20_000_000),
        "{steal} ns of steal, {waited} ns waited"
    );
    lab.stop()
}

/// The cgroup directory of a guest's vcpu in the hierarchy with the cpu controller.
fn vcpu_directory(lab: &Lab, guest: &str) -> Result<PathBuf> {
    let pid = lab.qemu_pid(guest)?;
    let (threads, _) = Kernel::default().threads(pid);
    let thread = threads.iter().find(|thread| thread.comm.starts_with("CPU 0/")).context("no vcpu thread")?;
    let text = fs::read_to_string(format!("/proc/{pid}/task/{}/cgroup", thread.tid))?;
    for line in text.lines() {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { bail!("{text}") };
        let root = if controllers.is_empty() {
            "/sys/fs/cgroup".to_owned()
        } else {
            format!("/sys/fs/cgroup/{controllers}")
        };
        let directory = Path::new(&root).join(path.trim_start_matches('/'));
        if directory.join("cpu.stat").exists()
            && (directory.join("cpu.cfs_quota_us").exists() || directory.join("cpu.max").exists())
        {
            return Ok(directory);
        }
    }
    bail!("no cpu cgroup in {text}")
}

/// Throttled time in ns, as the kernel's file has it.
fn throttled(directory: &Path) -> Result<u64> {
    let text = fs::read_to_string(directory.join("cpu.stat"))?;
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    value("throttled_time ").or_else(|| Some(value("throttled_usec ")? * 1000)).with_context(|| text.clone())
}

/// The next whole window of the daemon, with what it should say: the parts throttled and waited of the same time, as this
/// test reads them when the daemon has published. `directory` is the cgroup that throttles.
fn window(lab: &Lab, daemon: &Daemon<'_>, guest: &str, directory: &Path) -> Result<(Value, f64, f64)> {
    let pid = lab.qemu_pid(guest)?;
    let read = || Ok::<_, anyhow::Error>((throttled(directory)?, run_delay(pid)?[&0], Instant::now()));
    let next = |last: &Value| {
        wait_for("the next window", PATIENCE, || {
            let view = shown(daemon, guest)?;
            ensure!(view["vcpu_times"] != last["vcpu_times"], "still the same");
            Ok((view, read()?))
        })
    };
    let (first, before) = next(&shown(daemon, guest)?)?;
    let (view, after) = next(&first)?;
    let elapsed = (after.2 - before.2).as_nanos() as f64;
    let part = |before: u64, after: u64| (after - before) as f64 / elapsed;
    Ok((view, part(before.0, after.0), part(before.1, after.1)))
}

fn part(view: &Value, name: &str) -> Result<f64> {
    view["vcpu_times"][0][name].as_f64().with_context(|| format!("no {name} in {view}"))
}

#[test]
fn a_quota_is_not_taken_for_contention_and_contention_not_for_a_quota() -> Result<()> {
    let hog = |name: &str, octet| {
        GuestSpec::new(name, octet).memory_mib(256).without_agent().runs(Work::Hog("hog".to_owned()))
    };
    let lab = Lab::start(&LabOptions { guests: vec![hog("one", 21), hog("two", 22)] })?;
    for (guest, pcpu) in [("one", "0"), ("two", "1")] {
        lab.virsh(&["vcpupin", guest, "0", pcpu, "--live"])?;
    }
    for guest in ["one", "two"] {
        let console = lab.logs_dir().join(format!("console-{guest}.log"));
        wait_for(&format!("{guest} to burn CPU"), PATIENCE, || {
            ensure!(fs::read_to_string(&console)?.contains("kvmpilot lab: ready"), "it boots");
            Ok(())
        })?;
    }
    let daemon = lab.start_daemon("d", CONFIG)?;

    // One vcpu may run a tenth of the time: so little that it gets that soon in each period, also on a busy host.
    lab.virsh(&["schedinfo", "one", "--live", "--set", "vcpu_period=100000"])?;
    lab.virsh(&["schedinfo", "one", "--live", "--set", "vcpu_quota=10000"])?;
    let (view, throttled, waited) = window(&lab, &daemon, "one", &vcpu_directory(&lab, "one")?)?;
    println!("quota of 0.1: throttled {throttled:.3}, waited {waited:.3}; {}", view["vcpu_times"][0]);
    ensure!(throttled > 0.4, "the quota does not bite: {throttled}");
    ensure!((part(&view, "throttled_ratio")? - throttled).abs() < 0.06, "cpu.stat says {throttled}: {view}");
    let contention = part(&view, "contention_ratio")?;
    ensure!(
        (contention - (waited - throttled)).abs() < 0.06 && contention < throttled,
        "{waited} {throttled}: {view}"
    );
    ensure!(view["vcpu_times"][0]["quota_pcpus"] == 0.1, "{view}");
    let sum: f64 = parts(&view["vcpu_times"][0]).iter().flatten().sum();
    ensure!((0.98..=1.000_001).contains(&sum), "{sum}: {view}");
    // TCG: no KVM, and nobody says that something is missing.
    ensure!(view["vcpu_times"][0]["halt_polling_ratio"].is_null(), "{view}");
    ensure!(view["detail_missing"].as_array().is_some_and(Vec::is_empty), "{view}");
    let roles = view["roles"].as_array().context("no roles")?;
    ensure!(roles.iter().any(|sum| sum["role"] == "emulator" && sum["threads"] == 1), "{view}");

    // No quota, and both on one pcpu.
    lab.virsh(&["schedinfo", "one", "--live", "--set", "vcpu_quota=-1"])?;
    lab.virsh(&["vcpupin", "two", "0", "0", "--live"])?;
    let (view, throttled, waited) = window(&lab, &daemon, "one", &vcpu_directory(&lab, "one")?)?;
    println!("two on one pcpu: throttled {throttled:.3}, waited {waited:.3}; {}", view["vcpu_times"][0]);
    ensure!(part(&view, "throttled_ratio")? < 0.01, "{view}");
    ensure!(part(&view, "contention_ratio")? > 0.3, "{view}");
    ensure!((part(&view, "contention_ratio")? - waited).abs() < 0.06, "{waited}: {view}");
    ensure!(view["vcpu_times"][0]["quota_pcpus"].is_null(), "{view}");

    // A quota of the whole domain, which the vcpu's own cgroup knows nothing of.
    lab.virsh(&["vcpupin", "two", "0", "1", "--live"])?;
    lab.virsh(&["schedinfo", "one", "--live", "--set", "global_period=100000"])?;
    lab.virsh(&["schedinfo", "one", "--live", "--set", "global_quota=10000"])?;
    let group = vcpu_directory(&lab, "one")?.parent().context("no parent")?.to_owned();
    let (view, throttled, waited) = window(&lab, &daemon, "one", &group)?;
    println!(
        "quota of 0.1 for the domain: throttled {throttled:.3}, waited {waited:.3}; {}",
        view["vcpu_times"][0]
    );
    ensure!(throttled > 0.4 && view["quota_pcpus"] == 0.1, "{view}");
    ensure!((part(&view, "throttled_ratio")? - throttled).abs() < 0.06, "cpu.stat says {throttled}: {view}");
    let contention = part(&view, "contention_ratio")?;
    ensure!((contention - (waited - throttled)).abs() < 0.06, "{waited} {throttled}: {view}");
    if let Some(pressure) = view["pressure"]["cpu_ratio"].as_f64() {
        ensure!(pressure <= 1.0, "{view}");
    }
    drop(daemon);
    lab.stop()
}

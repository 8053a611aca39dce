//! `cargo xtask bench cycle`: what the fast cycle costs over many domains. Sensing, models and decisions are the daemon's
//! own, on one thread; processes, `/proc`, slots, taps and cgroups are real; libvirt's side is a recorded domain, many
//! times. The cycles come once a second, as in the daemon, so that caches are as cold as there.

#[path = "cycle/plan.rs"]
mod plan;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use kvmpilot::config::{DaemonConfig, ProbesConfig};
use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{Capacity, Ground, Probes, ThreadKey, Totals};
use kvmpilot::sense::{Cadence, Entries, HostSense, InventoryEntry};
use kvmpilot_core::Uuid;
use kvmpilot_core::decide::History;
use kvmpilot_core::policy::Policy;
use kvmpilot_core::sample::DomainSample;
use kvmpilot_core::windows::{Moment, Windows};
use kvmpilot_tests::{Farm, farm};
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

const RECORDING: &str = include_str!("domain.json");
const SIZES: [usize; 4] = [50, 100, 200, 500];
const PERIOD: Duration = Duration::from_secs(1);
/// Cycles before those that count: threads are found, and met by the probes, and the cgroups of a new QEMU are looked for
/// at each of its first four ticks.
const WARM_UP: usize = 22;
/// vcpu 0 of one domain in ten is busy, the others' wake up for their timers.
const BUSY: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_secs(1);

struct Arguments {
    domains: usize,
    cycles: usize,
    probes: bool,
    json: Option<PathBuf>,
    /// Without the smaller numbers before.
    alone: bool,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    // First of all, while there is one thread: the taps must be in a network namespace of their own.
    unshare(CloneFlags::CLONE_NEWNET).context("this needs root")?;
    add_taps(arguments.domains)?;
    Kernel::raise_file_limit()?;
    let mut farm = Farm::new(Path::new(env!("CARGO_BIN_EXE_qemu-like")))?;
    let mut bench = Bench::new(arguments.probes)?;
    let mut sizes: Vec<usize> =
        SIZES.into_iter().filter(|size| !arguments.alone && *size < arguments.domains).collect();
    sizes.push(arguments.domains);
    let mut rows = Vec::new();
    println!(
        "domains  cpu ms/cycle: median   mean    p99   ticks  (sensed)    of it sense  decide     rss MiB"
    );
    for size in sizes {
        bench.grow(&mut farm, size)?;
        let row = bench.measure(arguments.cycles)?;
        let ms = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        println!(
            "{size:7}                {:6.2} {:6.2} {:6.2}  {:6.2}  ({:6.2})        {:6.2}  {:6.2}      {:6.1}",
            ms("median_ms"),
            ms("cpu_ms_per_cycle"),
            ms("p99_ms"),
            ms("tick_ms"),
            ms("tick_sense_ms"),
            ms("sense_ms"),
            ms("decide_ms"),
            ms("rss_mib")
        );
        rows.push(row);
    }
    let plan = plan::measure()?;
    let of_plan = |name: &str| plan[name].as_f64().unwrap_or(f64::NAN);
    println!(
        "a plan for 1000 vcpus on 256 pcpus: median {:.2} ms, worst {:.2}, with its models {:.2}; {} proposals in {} plans",
        of_plan("plan_ms_256x1000"),
        of_plan("plan_worst_ms_256x1000"),
        of_plan("turn_ms_256x1000"),
        plan["proposals"],
        plan["plans"]
    );
    let mut report = report(&arguments, &rows)?;
    if let (Some(report), Some(plan)) = (report.as_object_mut(), plan.as_object()) {
        report.extend(plan.clone());
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { domains: 500, cycles: 25, probes: true, json: None, alone: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            // What `cargo bench` adds.
            "--bench" => {}
            "--domains" => arguments.domains = value()?.parse()?,
            "--cycles" => arguments.cycles = value()?.parse()?,
            "--alone" => arguments.alone = true,
            "--no-probes" => arguments.probes = false,
            "--json" => arguments.json = Some(value()?.into()),
            _ => bail!("usage: cycle [--domains N] [--cycles N] [--no-probes] [--alone] [--json FILE]"),
        }
    }
    ensure!(arguments.domains > 0 && arguments.cycles > 0, "some domains and some cycles, please");
    Ok(arguments)
}

fn add_taps(count: usize) -> Result<()> {
    let lines: String = (0..count).map(|n| format!("tuntap add dev vnet{n} mode tap\n")).collect();
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().context("no pipe")?.write_all(lines.as_bytes())?;
    ensure!(ip.wait()?.success(), "ip cannot add taps");
    Ok(())
}

struct Bench {
    recorded: DomainSample,
    inventory: Entries,
    sense: HostSense,
    windows: Windows,
    history: History,
    policy: Policy,
    began: Instant,
}

/// CPU time of one cycle.
struct Cost {
    sense: Duration,
    decide: Duration,
    tick: bool,
}

impl Bench {
    fn new(with_probes: bool) -> Result<Self> {
        let probes = if with_probes { Some(probes()?) } else { None };
        Ok(Self {
            recorded: serde_json::from_str(RECORDING)?,
            inventory: BTreeMap::new(),
            sense: HostSense::new(Kernel::default(), probes),
            windows: Windows::default(),
            history: History::default(),
            policy: Policy::default(),
            began: Instant::now(),
        })
    }

    fn grow(&mut self, farm: &mut Farm, size: usize) -> Result<()> {
        for number in self.inventory.len()..size {
            let uuid = Uuid::from_u128(farm.uuid(number.try_into()?));
            farm.add(&uuid.to_string(), if number.is_multiple_of(10) { BUSY } else { IDLE })?;
            let mut domain = DomainSample { uuid, name: format!("domain{number}"), ..self.recorded.clone() };
            for tap in &mut domain.interfaces {
                tap.device = format!("vnet{number}");
            }
            let entry = InventoryEntry::read(domain, Instant::now().into(), Vec::new());
            self.inventory.insert(uuid, Arc::new(entry));
        }
        Ok(())
    }

    /// One turn, as the daemon's.
    fn turn(&mut self) -> Result<Cost> {
        let start = thread_cpu()?;
        let plan = self.windows.plan(self.began.elapsed(), &self.policy, false);
        // A copy of the map, as the daemon takes one from the inventory.
        let inventory = self.inventory.clone();
        let (sample, unread) = self.sense.sample(&inventory, |_| None, Cadence::of(plan.detail));
        let sensed = thread_cpu()?;
        let sample = Arc::new(sample);
        let wall_unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let moment = Moment { now: self.began.elapsed(), wall_unix_s };
        let decided =
            self.windows.decide(&sample, plan.due, moment, &self.policy, &mut self.history, |model, _| model);
        let tick = plan.detail;
        drop(decided);
        let end = thread_cpu()?;
        let threads: usize = sample.domains.iter().map(|domain| domain.threads.len()).sum();
        ensure!(threads == farm::THREADS * inventory.len(), "{threads} threads are seen; {unread:?}");
        Ok(Cost { sense: sensed - start, decide: end - sensed, tick })
    }

    fn measure(&mut self, cycles: usize) -> Result<Value> {
        let mut costs = Vec::new();
        for n in 0..WARM_UP + cycles {
            let next = Instant::now() + PERIOD;
            let cost = self.turn()?;
            if n >= WARM_UP {
                costs.push(cost);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let all =
            |part: fn(&Cost) -> Duration| -> Vec<f64> { costs.iter().map(|cost| ms(part(cost))).collect() };
        let total = all(|cost| cost.sense + cost.decide);
        let ticks = |part: fn(&Cost) -> Duration| -> Vec<f64> {
            costs.iter().filter(|cost| cost.tick).map(|cost| ms(part(cost))).collect()
        };
        let (ticks, tick_sense) = (ticks(|cost| cost.sense + cost.decide), ticks(|cost| cost.sense));
        let rss_kib = Kernel::default().own_use()?.rss_kib;
        Ok(json!({
            "domains": self.inventory.len(),
            "threads": self.inventory.len() * farm::THREADS,
            // The mean over all cycles, ticks included: what the daemon uses of a pcpu in a second.
            "cpu_ms_per_cycle": total.iter().sum::<f64>() / f64::from(u32::try_from(total.len())?),
            "median_ms": quantile(total.clone(), 0.5),
            "p99_ms": quantile(total, 0.99),
            // Medians of the cycles that carry the tick, and of their sensing alone.
            "tick_ms": quantile(ticks, 0.5),
            "tick_sense_ms": quantile(tick_sense, 0.5),
            "sense_ms": quantile(all(|cost| cost.sense), 0.5),
            "decide_ms": quantile(all(|cost| cost.decide), 0.5),
            "rss_mib": Duration::from_secs(rss_kib).as_secs_f64() / 1024.0,
        }))
    }
}

fn thread_cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The smallest value that at least this part of all does not exceed.
fn quantile(mut values: Vec<f64>, part: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let past = values.iter().enumerate().find(|(n, _)| {
        let seen = f64::from(u32::try_from(n + 1).unwrap_or(u32::MAX));
        seen >= part * f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX))
    });
    past.map(|(_, value)| *value)
}

fn probes() -> Result<Probes> {
    let kernel = Kernel::default();
    let own_thread = |tid| {
        let pid = std::process::id();
        let stat = kernel.schedstat(pid, tid)?;
        let key = ThreadKey { tid, start_ticks: kernel.thread(pid, tid)?.start_ticks };
        let (on_cpu_ns, runq_wait_ns) = (stat.on_cpu_ns, stat.runq_wait_ns);
        Ok((key, Totals { on_cpu_ns, runq_wait_ns, arrivals: stat.arrivals }))
    };
    let ground = Ground {
        pid_max: kernel.pid_max().context("no pid_max")?,
        confidential: kernel.lockdown().as_deref() == Some("confidentiality"),
        own_thread: &own_thread,
    };
    let ProbesConfig { max_threads, max_domains, .. } = DaemonConfig::default().probes;
    Ok(Probes::load(&ground, Capacity { threads: max_threads, domains: max_domains })?)
}

fn report(arguments: &Arguments, rows: &[Value]) -> Result<Value> {
    let output = |program: &str, words: &[&str]| -> Result<String> {
        let output = Command::new(program).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let (first, last) = rows.first().zip(rows.last()).context("nothing was measured")?;
    let rise = |name: &str| Some(last[name].as_f64()? - first[name].as_f64()?);
    let more = rise("domains").filter(|more| *more > 0.0);
    let per_100 = |name: &str| Some(rise(name)? / more? * 100.0);
    let mut report = last.clone();
    let object = report.as_object_mut().context("not an object")?;
    object.extend([
        ("tier".to_owned(), json!(u8::from(arguments.probes))),
        ("cycles".to_owned(), json!(arguments.cycles)),
        ("profile".to_owned(), json!(if cfg!(debug_assertions) { "debug" } else { "release" })),
        ("cpu".to_owned(), json!(cpu.map(|(_, name)| name))),
        ("pcpus".to_owned(), json!(std::thread::available_parallelism()?.get())),
        ("kernel".to_owned(), json!(output("uname", &["-r"])?)),
        ("date".to_owned(), json!(output("date", &["-u", "+%FT%TZ"])?)),
        (
            "growth_per_100_domains".to_owned(),
            json!({
                "cpu_ms_per_cycle": per_100("cpu_ms_per_cycle"),
                "median_ms": per_100("median_ms"),
                "tick_ms": per_100("tick_ms"),
                "rss_mib": per_100("rss_mib"),
            }),
        ),
        ("sizes".to_owned(), json!(rows)),
    ]);
    Ok(report)
}

//! `/metrics` with a real guest and a real Prometheus: what it answers is what `kvmpilot domains` shows, the text is clean, and
//! a domain that is gone has no series any more. Also that the shipped rules, alerts and scrape configuration are accepted
//! and do what their tests say.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, guests, output_of, run, wait_for, workspace};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = r#"
[modes]
default = "observe"
[weight]
period = "3s"
[loops]
cycle = "5s"
guest = "5s"
[agent]
timeout = "20s"
[tcp]
address = "127.0.0.1:9178"
plain = "loopback"
access = "read"
[otlp]
endpoint = "http://127.0.0.1:4318"
period = "1s"
"#;
/// As in `CONFIG`.
const SCRAPED: &str = "127.0.0.1:9178";
const PROMETHEUS: &str = "127.0.0.1:9190";

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shipped() -> PathBuf {
    workspace().join("systemd/prometheus")
}

#[test]
fn the_shipped_rules_alerts_and_configuration_hold() -> Result<()> {
    let promtool = |arguments: &[&str]| run(Command::new("promtool").args(arguments).current_dir(shipped()));
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "kvmpilot.rules.yml", "kvmpilot.alerts.yml"])?;
    promtool(&["check", "config", "prometheus.example.yml"])?;
    promtool(&["test", "rules", "kvmpilot.test.yml"])
}

#[test]
fn prometheus_shows_what_the_daemon_knows() -> Result<()> {
    let guest = GuestSpec::new("passing", 33).vcpus(2).memory_mib(256).without_agent();
    let lab = Lab::start(&LabOptions { guests: vec![guests::idle(), guest] })?;
    let daemon = lab.start_daemon("m", CONFIG)?;
    let socket = lab.state_dir().join("m/sock");
    let _prometheus = start_prometheus(&lab)?;
    lab.wait_agents(BOOT)?;

    wait_for("Prometheus to scrape kvmpilotd", PATIENCE, || {
        ensure!(value(&lab, "up{job=\"kvmpilot\"}")? == 1.0, "not up");
        Ok(())
    })
    .with_context(|| log(&lab))?;
    for guest in ["idle", "passing"] {
        wait_for("both to say the same", PATIENCE, || agree(&lab, &daemon, guest))
            .with_context(|| daemon.log())?;
    }
    waits_are_counted(&lab, &daemon)?;
    // What is recorded is of whole scrapes, one of which may have been without the guests.
    wait_for("a recording rule", PATIENCE, || {
        let (promised, recorded) = (
            value(&lab, "sum(kvmpilot_domain_vcpus) / sum(kvmpilot_host_pcpus)")?,
            value(&lab, "host:kvmpilot_domain_vcpus:per_pcpu")?,
        );
        ensure!(recorded == promised && promised > 0.0, "{recorded}, not {promised}");
        Ok(())
    })?;
    // There is no collector, and all of this works all the same.
    ensure!(value(&lab, "kvmpilot_otlp_failed_attempts_total")? > 0.0, "nothing was pushed");
    ensure!(value(&lab, "kvmpilot_otlp_queue_bytes")? > 0.0, "nothing waits");
    let text = scrape(&socket)?;
    is_clean(&lab, &text).with_context(|| text.clone())?;
    ensure!(text.contains("domain=\"passing\""), "{text}");

    lab.virsh(&["destroy", "passing"])?;
    wait_for("the series of a domain that is gone to go", PATIENCE, || {
        // A recorded rate looks back five minutes.
        let left = instant(&lab, "count({domain=\"passing\",__name__=~\"kvmpilot_.*\"})")?;
        ensure!(left.is_empty(), "{left:?}");
        ensure!(value(&lab, "count(kvmpilot_domain_info)")? == 1.0, "the other one went, too");
        Ok(())
    })?;
    ensure!(!scrape(&socket)?.contains("passing"), "the text still has it");

    ensure!(daemon.stop()?.success(), "a bad end");
    wait_for("Prometheus to miss kvmpilotd", PATIENCE, || {
        ensure!(value(&lab, "up{job=\"kvmpilot\"}")? == 0.0, "still up");
        Ok(())
    })?;
    lab.stop()
}

/// The shipped configuration with a shorter interval and this target.
fn start_prometheus(lab: &Lab) -> Result<Program> {
    let directory = lab.state_dir().join("prometheus");
    fs::create_dir_all(&directory)?;
    for file in ["kvmpilot.rules.yml", "kvmpilot.alerts.yml"] {
        fs::copy(shipped().join(file), directory.join(file))?;
    }
    let example = fs::read_to_string(shipped().join("prometheus.example.yml"))?;
    let config = example.replace("interval: 15s", "interval: 1s").replace("127.0.0.1:8765", SCRAPED);
    ensure!(config.contains(SCRAPED) && config.contains("scrape_interval: 1s"), "{config}");
    let file = directory.join("prometheus.yml");
    fs::write(&file, config)?;
    let log = File::create(lab.logs_dir().join("prometheus.log"))?;
    let mut command = lab.command("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .args(["--storage.tsdb.retention.time=1h", "--log.level=warn"]);
    Ok(Program(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?))
}

fn log(lab: &Lab) -> String {
    fs::read_to_string(lab.logs_dir().join("prometheus.log")).unwrap_or_default()
}

/// What Prometheus answers to a query now: labels and value of each series.
fn instant(lab: &Lab, query: &str) -> Result<Vec<Value>> {
    let mut command = lab.command("promtool");
    command.args(["query", "--format=json", "instant", &format!("http://{PROMETHEUS}"), query]);
    let text = output_of(&mut command)?;
    serde_json::from_str(&text).with_context(|| format!("{query} is answered with {text}"))
}

/// The value of the only series that the query has.
fn value(lab: &Lab, query: &str) -> Result<f64> {
    match &instant(lab, query)?[..] {
        [series] => {
            let text = series["value"][1].as_str().with_context(|| format!("no value: {series}"))?;
            Ok(text.parse()?)
        }
        other => bail!("{query} has {} series: {other:?}", other.len()),
    }
}

/// Whether Prometheus has what `kvmpilot domains` shows of a domain.
fn agree(lab: &Lab, daemon: &Daemon<'_>, name: &str) -> Result<()> {
    let all = daemon.json(&["domains"])?;
    let row = all["domains"].as_array().into_iter().flatten().find(|row| row["name"] == name);
    let row = row.with_context(|| format!("no {name} in {all:#}"))?;
    let uuid = row["uuid"].as_str().context("no uuid")?;
    let of = |metric: &str, more: &str| {
        value(lab, &format!("kvmpilot_domain_{metric}{{domain=\"{name}\",uuid=\"{uuid}\",host!=\"\"{more}}}"))
    };
    let kib = |value: &Value| value.as_f64().map(|kib| kib * 1024.0);
    let truth = |value: &Value| value.as_bool().map(|is| f64::from(u8::from(is)));
    let equal = [
        // These are others each tick: they are asked first, because the next one is three seconds away.
        ("cpu_use_ratio", row["cpu_use_ratio"].as_f64()),
        ("cpu_wait_ratio", row["wait_ratio"].as_f64()),
        ("network_received_bytes_per_second", row["network"]["received_bytes_per_s"].as_f64()),
        ("vcpus", row["vcpu_count"].as_f64()),
        ("memory_current_bytes", kib(&row["memory_current_kib"])),
        ("memory_maximum_bytes", kib(&row["memory_maximum_kib"])),
        ("cpu_shares", row["cpu_shares"]["current"].as_f64()),
        ("agent_usable", truth(&row["agent"]["usable"])),
        ("cycles_off_optimum", row["cycles_off_optimum"].as_f64()),
    ];
    for (metric, shown) in equal {
        let shown = shown.with_context(|| format!("{metric} is not known: {row:#}"))?;
        let told = of(metric, "")?;
        ensure!((told - shown).abs() <= 1e-9 * shown.abs(), "{metric} of {name}: {told} there, {shown} here");
    }
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of("info", &format!(",class=\"{}\",balloon=\"observe\"", word(&row["class"])))?;
    of("state", ",state=\"running\"")?;
    of("resource_state", &format!(",resource=\"cpu\",state=\"{}\"", word(&row["states"]["cpu"])))?;
    ensure!(of("quarantined", "")? == 0.0, "it is not in quarantine");
    Ok(())
}

/// Waits rise and are counted, if there is a scheduler probe; without one there are none.
fn waits_are_counted(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let status = daemon.json(&["status"])?;
    let on =
        status["tiers"].as_array().into_iter().flatten().any(|tier| tier["tier"] == 1 && tier["on"] == true);
    let count = "count(kvmpilot_vcpu_runq_wait_seconds_count)";
    if !on {
        let without = instant(lab, count)?;
        ensure!(without.is_empty(), "waits without a probe: {without:?}");
        return Ok(());
    }
    wait_for("waits of all three vcpus", PATIENCE, || {
        ensure!(value(lab, count)? == 3.0, "not all vcpus");
        let waits = value(lab, "sum(increase(kvmpilot_vcpu_runq_wait_seconds_count[10s]))")?;
        let ran = value(lab, "sum(increase(kvmpilot_vcpu_run_seconds_total[10s]))")?;
        // Three vcpus cannot run longer than the clock.
        ensure!(waits > 0.0 && ran > 0.0 && ran <= 33.0, "{waits} waits, {ran} s");
        let (all, counted) = (
            value(lab, "sum(kvmpilot_vcpu_runq_wait_seconds_bucket{le=\"+Inf\"})")?,
            value(lab, "sum(kvmpilot_vcpu_runq_wait_seconds_count)")?,
        );
        ensure!(all == counted, "{all} in the buckets, {counted} counted");
        Ok(())
    })
}

/// The metrics in Prometheus' own format, as who asks for nothing special gets them.
fn scrape(socket: &Path) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: kvmpilot\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, text) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.starts_with("HTTP/1.0 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    Ok(text.to_owned())
}

/// Whether promtool has nothing to say about the text.
fn is_clean(lab: &Lab, text: &str) -> Result<()> {
    let file = lab.state_dir().join("metrics.txt");
    fs::write(&file, text)?;
    let mut command = Command::new("promtool");
    let output = command.args(["check", "metrics"]).stdin(File::open(&file)?).output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && said.is_empty(), "promtool says: {}", String::from_utf8_lossy(&said));
    Ok(())
}

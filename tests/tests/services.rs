//! A service on two real guests: a web server whose pages ask a database-like peer in the other guest. It is healthy, degraded
//! while the connection is cut, failed while the peer's process is gone, and healthy again, each within two polls; a change of
//! a watched file is reported; and what is learned from the running pair is accepted and healthy.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Work, output_of, run, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(90);
/// From one poll of a guest to the next.
const POLL: Duration = Duration::from_secs(5);
/// What a poll itself takes here, where guests are emulated, and the tick after it.
const GUEST: Duration = Duration::from_secs(20);

fn config(services: &str) -> String {
    format!(
        "[modes]\ndefault = \"observe\"\n[weight]\nperiod = \"1s\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n\
         [agent]\ntimeout = \"20s\"\n[watched]\nfiles = \"5s\"\n{services}"
    )
}

const SHOP: &str = r#"
[[service]]
name = "shop"
[[service.component]]
name = "web"
domain = "web"
process = "httpd"
port = 80
[[service.component]]
name = "db"
domain = "db"
process = "answer"
port = 7000
[[service.connection]]
from = "web"
to = "db"
port = 7000
[[service.file]]
component = "web"
path = "/etc/app.conf"
[[service.file]]
component = "web"
path = "/etc/none.conf"
"#;

fn service(daemon: &Daemon<'_>, name: &str) -> Result<Value> {
    daemon.json(&["services", name])
}

/// Polls since it began, of the guest that was asked less often.
struct Polls {
    began: Instant,
    /// When each guest was asked last, in seconds since then, and how often.
    guests: [(f64, u32); 2],
}

impl Polls {
    fn look(&mut self, daemon: &Daemon<'_>) -> Result<u32> {
        for (name, (last, count)) in ["web", "db"].into_iter().zip(&mut self.guests) {
            let age = daemon.json(&["domain", name])?["agent"]["last_poll_age_s"].as_f64();
            let at = self.began.elapsed().as_secs_f64() - age.context("never asked")?;
            // The age is rounded, and the answer takes its time.
            if at > *last + 2.0 {
                (*last, *count) = (at, *count + 1);
            }
        }
        Ok(self.guests.map(|(_, count)| count).into_iter().min().unwrap_or(0))
    }
}

/// Waits for a state, and says after how many polls it was there, and the view.
fn becomes(daemon: &Daemon<'_>, name: &str, state: &str, why: &str) -> Result<(u32, Value)> {
    let began = Instant::now();
    let mut polls = Polls { began, guests: [(0.0, 0); 2] };
    let mut count = 0;
    let view = wait_for(&format!("service {name} to be {state}"), PATIENCE, || {
        count = polls.look(daemon)?;
        let view = service(daemon, name)?;
        let reasons = view["service"]["reasons"].to_string();
        ensure!(view["service"]["state"] == state && reasons.contains(why), "{view:#}");
        Ok(view)
    })
    .with_context(|| daemon.log())?;
    let took = began.elapsed().as_secs_f64();
    println!("{state} after {took:.1} s and {count} polls: {}", view["service"]["reasons"]);
    Ok((count, view))
}

/// And the one that was under way, which may still have seen what was before.
fn within_two_polls((polls, view): (u32, Value)) -> Result<Value> {
    ensure!(polls <= 3, "it took {polls} polls: {view:#}");
    Ok(view)
}

fn finding(daemon: &Daemon<'_>, name: &str) -> Result<Option<Value>> {
    let status = daemon.json(&["status"])?;
    Ok(status["findings"].as_array().into_iter().flatten().find(|finding| finding["name"] == name).cloned())
}

/// Takes the tap of a guest out of the lab's bridge, or puts it back.
fn cut(lab: &Lab, guest: &str, away: bool) -> Result<()> {
    let list = lab.virsh(&["domiflist", guest])?;
    let tap = list.split_whitespace().find(|word| word.starts_with("vnet")).context("no tap")?.to_owned();
    let mut command = lab.command("ip");
    command.args(["link", "set", &tap]);
    if away {
        command.arg("nomaster")
    } else {
        command.args(["master", "br0"])
    };
    run(&mut command)
}

#[test]
fn a_service_of_two_guests_fails_and_comes_back() -> Result<()> {
    let web = GuestSpec::new("web", 61)
        .memory_mib(256)
        .runs(Work::Http)
        .runs(Work::Customer("10.77.0.62".to_owned()));
    let db = GuestSpec::new("db", 62).memory_mib(256).runs(Work::Answer);
    let lab = Lab::start(&LabOptions { guests: vec![web, db] })?;
    lab.wait_agents(BOOT)?;
    lab.guest_exec("web", "echo one >/etc/app.conf", GUEST)?;
    let daemon = lab.start_daemon("d", &config(SHOP))?;

    let (_, view) = becomes(&daemon, "shop", "healthy", "")?;
    let connection = &view["service"]["connections"][0];
    ensure!(connection["present"] == true && connection["port_open"] == true, "{view:#}");
    // It stays so: requests that last a moment do not come and go with the polls.
    let calm = Instant::now();
    while calm.elapsed() < 6 * POLL {
        let view = service(&daemon, "shop")?;
        ensure!(view["service"]["state"] == "healthy", "it flaps: {view:#}");
        std::thread::sleep(Duration::from_secs(1));
    }

    // The connection is cut.
    cut(&lab, "db", true)?;
    let view = within_two_polls(becomes(&daemon, "shop", "degraded", "web to db: ")?)?;
    ensure!(
        view["service"]["components"].as_array().into_iter().flatten().all(|part| part["state"] == "up"),
        "{view:#}"
    );
    let found = finding(&daemon, "service_degraded")?.context("no finding")?;
    ensure!(found["summary"].to_string().contains("service shop is degraded: web to db"), "{found}");
    cut(&lab, "db", false)?;
    within_two_polls(becomes(&daemon, "shop", "healthy", "")?)?;
    ensure!(finding(&daemon, "service_degraded")?.is_none(), "the finding stays");

    // The process is killed, and started again.
    lab.guest_exec("db", "kill $(pidof answer)", GUEST)?;
    within_two_polls(becomes(&daemon, "shop", "failed", "db: no process answer in db")?)?;
    ensure!(finding(&daemon, "service_failed")?.is_some(), "no finding");
    lab.guest_exec("db", "/lab/answer 7000 >/dev/null 2>&1 &", GUEST)?;
    let view = within_two_polls(becomes(&daemon, "shop", "healthy", "")?)?;

    // All of that is in its history and in its up-time.
    let states: Vec<&str> =
        view["transitions"].as_array().into_iter().flatten().filter_map(|step| step["to"].as_str()).collect();
    let degraded = states.iter().filter(|state| **state == "degraded").count();
    ensure!(states.contains(&"failed") && (1..=3).contains(&degraded), "{states:?}");
    let up = view["service"]["connections"][0]["up_ratio"].as_f64().context("no up-time")?;
    ensure!(up > 0.3 && up < 0.99, "{view:#}");
    let page = daemon.text(&["services", "shop"])?;
    ensure!(page.contains("healthy") && page.contains("TRANSITIONS") && page.contains("7000"), "{page}");

    files(&lab, &daemon)?;
    learned(&lab, &daemon)?;
    survives(&lab, daemon)
}

/// A watched file changes, and another one is not there.
fn files(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let file = |at: usize| anyhow::Ok(service(daemon, "shop")?["service"]["files"][at].clone());
    let (first, missing) = (file(0)?, file(1)?);
    ensure!(first["state"] == "same" && missing["state"] == "missing", "{first} {missing}");
    lab.guest_exec("web", "echo two >/etc/app.conf", GUEST)?;
    let changed = wait_for("the drift", PATIENCE, || {
        let now = file(0)?;
        ensure!(now["state"] == "changed", "{now}");
        Ok(now)
    })?;
    ensure!(changed["expected_sha256"] == first["found_sha256"], "{changed}");
    ensure!(
        changed["found_sha256"] != first["found_sha256"] && changed["since_unix_ms"].is_number(),
        "{changed}"
    );
    let drifts = daemon.json(&["domain", "web"])?["findings"].to_string();
    for hash in [&changed["expected_sha256"], &changed["found_sha256"]] {
        ensure!(
            drifts.contains("file_drift") && drifts.contains(hash.as_str().context("no hash")?),
            "{drifts}"
        );
    }
    Ok(())
}

/// What is learned from the running pair is accepted, and is healthy.
fn learned(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let directory = lab.state_dir().join("d/services.d");
    fs::create_dir_all(&directory)?;
    let file = directory.join("learned.toml");
    let path = file.to_string_lossy().into_owned();
    let learn = ["service", "learn", "learned", "--from", "web", "db", "--output", &path];
    let said = output_of(&mut daemon.command(&learn)?)?;
    let text = fs::read_to_string(&file)?;
    println!("{said}{text}");
    ensure!(
        text.contains("port = 80\n")
            && text.contains("process = \"answer\"")
            && text.contains("to = \"db-answer\""),
        "{text}"
    );
    let again = daemon.command(&learn)?.output()?;
    let refused = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(again.status.code() == Some(1) && refused.contains("--force"), "{refused}");
    daemon.reload(&config(SHOP))?;
    wait_for("the learned service", PATIENCE, || {
        let health = daemon.json(&["status"])?["health"].clone();
        ensure!(health["ok"] == true, "{health}");
        service(daemon, "learned")
    })
    .with_context(|| daemon.log())?;
    becomes(daemon, "learned", "healthy", "")?;
    Ok(())
}

/// Another daemon knows what this one knew: the first hash, and the transitions.
fn survives(lab: &Lab, daemon: Daemon<'_>) -> Result<()> {
    let before = service(&daemon, "shop")?;
    daemon.stop()?;
    let daemon = lab.start_daemon("d", &config(SHOP))?;
    let (_, after) = becomes(&daemon, "shop", "healthy", "")?;
    ensure!(after["transitions"] == before["transitions"], "{after:#}");
    let file = |view: &Value| view["service"]["files"][0]["expected_sha256"].clone();
    ensure!(file(&after) == file(&before) && file(&after).is_string(), "{after:#}");
    wait_for("the drift", PATIENCE, || {
        let view = service(&daemon, "shop")?;
        ensure!(view["service"]["files"][0]["state"] == "changed", "{view:#}");
        Ok(())
    })
}

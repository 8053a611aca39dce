//! A latency guest beside two CPU-hungry neighbours, on the real scheduler: it is re-weighted and separated, emulator,
//! iothread and vhost threads go with their vcpus, and what somebody else changes is named and respected, or put back where
//! it is enforced. Every claim is checked with virsh and in the kernel's own files.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::witness::is_in_force;
use kvmpilot_tests::{GuestSpec, HttpLoad, Lab, LabOptions, Witness, Work, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(180);

/// Weights may do little, so that they do not suffice.
fn config(more: &str) -> String {
    format!(
        "[weight]\nmax_factor = 4.0\n[modes]\ndefault = \"auto\"\nballoon = \"observe\"\n\
         ladder = \"observe\"\n[loops]\ncycle = \"5s\"\n[agent]\nenabled = false\n[[domain]]\nname = \"web\"\nclass = \"latency\"\n[[domain]]\nname = \"hog*\"\n\
         class = \"batch\"\n{more}"
    )
}

/// The server's only vcpu always has work, too: it fills the pcpu that is kept free, and gains by it, on any machine of two.
fn guests() -> Vec<GuestSpec> {
    let cruncher = |n| Work::Hog(format!("cruncher{n}"));
    let hog = |name: &str, octet| {
        GuestSpec::new(name, octet)
            .vcpus(2)
            .memory_mib(256)
            .runs(cruncher(1))
            .runs(cruncher(2))
            .without_agent()
    };
    let web = GuestSpec::new("web", 11).memory_mib(256).runs(Work::Http).runs(cruncher(1)).without_agent();
    vec![web, hog("hog1", 12).iothreads(1), hog("hog2", 13)]
}

fn orders_of(daemon: &Daemon<'_>, rule: &str) -> Result<Vec<Value>> {
    let orders = daemon.orders()?;
    Ok(orders.into_iter().filter(|order| order["reason"]["rule"] == rule).collect())
}

/// pcpus that each thread of a guest's QEMU may run on, with the thread's name.
fn affinities(lab: &Lab, guest: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", lab.qemu_pid(guest)?))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(|value| value.trim().to_owned()).with_context(|| format!("no {key}"))
        };
        found.push((value("Name:")?, value("Cpus_allowed_list:")?));
    }
    Ok(found)
}

fn drift(daemon: &Daemon<'_>, ours: &str, live: &str) -> Result<()> {
    let findings = daemon.json(&["status"])?["findings"].clone();
    let named = |finding: &Value| {
        let evidence = finding["evidence"].to_string();
        finding["name"] == "drift"
            && evidence.contains(&format!("\"{ours}\""))
            && evidence.contains(&format!("\"{live}\""))
    };
    ensure!(
        findings.as_array().is_some_and(|all| all.iter().any(named)),
        "no drift {ours} -> {live}: {findings}"
    );
    Ok(())
}

#[test]
fn neighbours_are_separated_and_what_others_change_is_respected_or_put_back() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: guests() })?;
    lab.wait_booted(BOOT)?;
    wait_for("the server", BOOT, || {
        lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 1, seconds: 1 }).map(|_| ())
    })?;
    let before = Witness::look(&lab)?;
    let daemon = lab.start_daemon("d", &config(""))?;
    lab.outweigh_the_machine(2)?;
    lab.under_load("web", 6, || {
        separated(&lab, &daemon)?;
        outside_changes(&lab, &daemon)
    })
    .with_context(|| format!("{}{}", daemon.log(), daemon.text(&["domain", "web"]).unwrap_or_default()))?;
    daemon.text(&["restore"])?;
    wait_for("everything to be back", PATIENCE, || Witness::look(&lab)?.is_as(&before))?;
    ensure!(daemon.stop()?.success());
    lab.stop()
}

fn separated(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    wait_for("both neighbours to be confined", PATIENCE, || {
        let now = Witness::look(lab)?;
        let pinned =
            |hog: &str| now.pins.iter().filter(|((name, _), pin)| name == hog && *pin != "0-1").count() == 2;
        ensure!(now.shares["web"] > 1024, "web has {} shares", now.shares["web"]);
        ensure!(pinned("hog1") && pinned("hog2"), "{:?}", now.pins);
        ensure!(now.emulator_pins["hog1"] != "0-1" && now.emulator_pins["hog2"] != "0-1", "{now:?}");
        ensure!(now.iothread_pins[&("hog1".to_owned(), 1)] != "0-1", "{:?}", now.iothread_pins);
        Ok(())
    })?;
    let now = Witness::look(lab)?;
    ensure!(
        now.pins.iter().all(|((name, _), pin)| name != "web" || pin == "0-1"),
        "the victim keeps all: {now:?}"
    );
    for hog in ["hog1", "hog2"] {
        let own = &now.emulator_pins[hog];
        ensure!(now.pins[&(hog.to_owned(), 0)] == *own, "{now:?}");
        // vhost workers and all other threads of QEMU are where the emulator is.
        for (name, pcpus) in affinities(lab, hog)? {
            ensure!(pcpus == *own, "thread {name} of {hog} may run on {pcpus}, not on {own}");
        }
    }
    let vhost = affinities(lab, "hog1")?.into_iter().any(|(name, _)| name.starts_with("vhost-"));
    if !vhost {
        println!("this host has no vhost-net: its workers are not checked");
    }
    let order = orders_of(daemon, "placement.separate")?.into_iter().next().context("no order")?;
    let why = daemon.text(&["why", &order["id"].to_string()])?;
    for part in [
        "takes the CPU of web",
        "its part of the waiting of web",
        "waiting saved in 30 s",
        "placement.separate",
    ] {
        ensure!(why.contains(part), "{part} is not in\n{why}");
    }
    Ok(())
}

/// A weight and a pin that somebody else sets are named and left alone; once the weight is back and enforced, it is put back.
fn outside_changes(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let ours = Witness::look(lab)?;
    let (weight, pin) = (ours.shares["web"].to_string(), ours.pins[&("hog1".to_owned(), 1)].clone());
    // A pcpu that kvmpilot did not choose.
    let theirs = if pin == "0" { "1" } else { "0" };
    lab.virsh(&["schedinfo", "web", "--live", "--set", "cpu_shares=3000"])?;
    lab.virsh(&["vcpupin", "hog1", "1", theirs, "--live"])?;
    wait_for("the weight to be reported", PATIENCE, || drift(daemon, &weight, "3000"))?;
    wait_for("the pin to be reported", PATIENCE, || drift(daemon, &pin, theirs))?;
    let newest = daemon.orders()?.first().and_then(|order| order["id"].as_u64()).unwrap_or(0);
    let cycle = || daemon.json(&["status"])?["cycle"]["number"].as_u64().context("no cycle");
    let then = cycle()?;
    wait_for("three more cycles", PATIENCE, || {
        ensure!(cycle()? >= then + 3);
        Ok(())
    })?;
    let now = Witness::look(lab)?;
    ensure!(now.shares["web"] == 3000, "the weight that somebody else set was changed: {now:?}");
    ensure!(
        now.pins[&("hog1".to_owned(), 1)] == theirs,
        "the pin that somebody else set was changed: {now:?}"
    );
    let fresh = |order: &Value| {
        let (domain, action) = (&order["domain_name"], &order["action"]);
        let weight = domain == "web" && action["kind"] == "set_cpu_shares";
        let pin = domain == "hog1" && action["kind"] == "pin_vcpu" && action["vcpu"] == 1;
        order["id"].as_u64() > Some(newest) && (weight || pin)
    };
    ensure!(
        !daemon.orders()?.iter().any(fresh),
        "orders for values that are somebody else's: {:?}",
        daemon.orders()?
    );

    // Handed back, and then enforced.
    lab.virsh(&["vcpupin", "hog1", "1", "0-1", "--live"])?;
    lab.virsh(&["schedinfo", "web", "--live", "--set", "cpu_shares=1024"])?;
    daemon.reload(&config("enforce = true\n[guard]\nenforce = true\n"))?;
    wait_for("the weight to be kvmpilot's again", PATIENCE, || {
        let now = Witness::look(lab)?.shares["web"];
        ensure!(now > 1024 && now != 3000, "{now}");
        Ok(())
    })?;
    let ours = Witness::look(lab)?.shares["web"];
    lab.virsh(&["schedinfo", "web", "--live", "--set", "cpu_shares=2222"])?;
    wait_for("it to be put back", PATIENCE, || {
        let orders = orders_of(daemon, "drift.enforce")?;
        let back = |order: &&Value| order["action"]["from"] == 2222 && is_in_force(order);
        let order = orders.iter().find(back).context("no order")?;
        ensure!(order["action"]["to"] == ours, "{order}");
        Ok(())
    })
}

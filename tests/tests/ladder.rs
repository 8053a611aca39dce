//! Levels inside real guests of both kinds, under load: they step once a cycle to their ends, they count, they go back one
//! step a cycle when scarcity ends, and nothing is left of them after a restore.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, HttpLoad, HttpReport, Lab, LabOptions, System, Witness, Work, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(180);
const EXEC: Duration = Duration::from_secs(30);
const LADDER: [&str; 5] = ["low", "below_normal", "normal", "above_normal", "high"];

/// The class has no target for waiting, so that only what goes on inside the guest makes CPU scarce there.
const CONFIG: &str = "[modes]\ndefault = \"observe\"\nladder = \"auto\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n\
         [agent]\ntimeout = \"20s\"\n[ladder]\naffinity = true\n[[domain]]\nname = \"web\"\nclass = \"batch\"\n";

/// A web server that asks a database in another guest, beside CPU hogs and a backup job.
fn web(system: System) -> GuestSpec {
    let hog = |n| Work::Hog(format!("hog{n}"));
    let web = GuestSpec::new("web", 11).vcpus(2).runs(Work::Http).runs(Work::Customer(db().ip()));
    let web = (1..=3).fold(web, |web, n| web.runs(hog(n))).runs(Work::Hog("backup".to_owned()));
    match system {
        System::Busybox => web,
        System::Debian => web.memory_mib(768).debian(),
    }
}

fn db() -> GuestSpec {
    GuestSpec::new("db", 12).memory_mib(256).runs(Work::Answer)
}

fn load(lab: &Lab, seconds: u32) -> Result<HttpReport> {
    lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 4, seconds })
}

/// A load, and the vcpus that the hogs had meanwhile, by the guest's own books.
fn measured(lab: &Lab) -> Result<(HttpReport, f64)> {
    let hogs = ["hog1", "hog2", "hog3", "backup"];
    let (before, began) = (lab.guest_cpu("web", &hogs)?, Instant::now());
    let report = load(lab, 8)?;
    Ok((report, (lab.guest_cpu("web", &hogs)? - before).as_secs_f64() / began.elapsed().as_secs_f64()))
}

/// The vcpus that all threads of these processes may run on, by the guest's own books.
fn vcpus_of(lab: &Lab, names: &str) -> Result<String> {
    let script = format!(
        "cd /proc; for pid in $(PATH=$PATH:/lab/bin pidof {names}); do cat $pid/task/*/status; done | sed -n 's/^Cpus_allowed_list:.//p' | sort -u"
    );
    Ok(lab.guest_exec("web", &script, EXEC)?.trim().to_owned())
}

/// Levels by application: `httpd (/bin/busybox)` or `httpd.service` both as `httpd`.
fn levels(daemon: &Daemon<'_>) -> Result<BTreeMap<String, String>> {
    let view = daemon.json(&["processes", "web"])?;
    let applications = view["applications"].as_array().context("no applications")?;
    let entry = |application: &Value| {
        let name = application["name"].as_str()?.split([' ', '.']).next()?.to_owned();
        Some((name, application["level"].as_str()?.to_owned()))
    };
    Ok(applications.iter().filter_map(entry).collect())
}

fn place(level: &str) -> Result<usize> {
    LADDER.iter().position(|other| *other == level).with_context(|| format!("no level {level}"))
}

/// Waits until the applications are at these levels; none may skip one on its way.
fn climb(daemon: &Daemon<'_>, ends: &[(&str, &str)]) -> Result<()> {
    // It may not have looked into the guest yet.
    let mut last = levels(daemon).unwrap_or_default();
    wait_for(&format!("levels {ends:?}"), PATIENCE, || {
        let now = levels(daemon)?;
        for (name, level) in &now {
            let before = last.get(name).map_or("normal", String::as_str);
            ensure!(place(level)?.abs_diff(place(before)?) <= 1, "{name} went from {before} to {level}");
        }
        last.clone_from(&now);
        for (name, level) in ends {
            ensure!(now.get(*name).is_some_and(|now| now == level), "{now:?}");
        }
        Ok(())
    })
}

/// Steps of one application in the order in which they were made. A step whose trial was not over when scarcity ended counts
/// as rolled back by the step that leads back.
fn steps(daemon: &Daemon<'_>, application: &str) -> Result<Vec<(String, String)>> {
    let orders = daemon.orders()?;
    let of = |order: &&Value| {
        order["action"]["application"].as_str().is_some_and(|name| name.starts_with(application))
            && ["verified", "kept", "rolled_back"].iter().any(|state| order["state"] == *state)
            && order["action"]["from"] != order["action"]["to"]
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let step = |order: &Value| (text(&order["action"]["from"]), text(&order["action"]["to"]));
    Ok(orders.iter().rev().filter(of).map(step).collect())
}

#[test]
fn levels_count_in_a_guest_with_nice_values_alone() -> Result<()> {
    levels_count(System::Busybox)
}

#[test]
fn levels_count_in_a_guest_with_systemd() -> Result<()> {
    levels_count(System::Debian)
}

fn levels_count(system: System) -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![web(system), db()] })?;
    lab.wait_agents(BOOT)?;
    lab.outweigh_the_machine(2)?;
    wait_for("the server", BOOT, || load(&lab, 1).map(drop))?;
    let mut ends = vec![("httpd", "high"), ("hog1", "low"), ("hog3", "low"), ("backup", "low")];
    if system == System::Debian {
        // A transient unit, whose settings systemd keeps in another place, and with a weight of its own.
        lab.guest_exec("web", "systemd-run --quiet --unit=job -p CPUWeight=200 /lab/bin/hog2", EXEC)?;
        ends.push(("job", "low"));
    }
    let before = Witness::look(&lab)?;
    let (off, hogs_off) = measured(&lab)?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    let (on, hogs_on) = lab
        .under_load("web", 4, || {
            climb(&daemon, &ends)?;
            // Without its clients the server would seem to have lost its answers.
            wait_for("the trials to be over", PATIENCE, || {
                let orders = daemon.orders()?;
                ensure!(orders.iter().all(|order| order["state"] != "verified"), "one is on trial");
                Ok(())
            })
        })
        .and_then(|()| measured(&lab))
        .with_context(|| daemon.log())?;
    println!("{system:?}: off {off:?}, hogs {hogs_off:.2} vcpus; on {on:?}, hogs {hogs_on:.2} vcpus");
    // How much it brings is `bench guest-priority`'s question: a poll each 5 s disturbs an emulated guest. That it does bring
    // something, the guest's own books say.
    ensure!(hogs_on < hogs_off * 0.6, "the hogs had {hogs_off:.2} vcpus, and have {hogs_on:.2}");
    for (application, end) in ends.iter().copied() {
        let steps = steps(&daemon, application)?;
        ensure!(
            steps.len() == 2 && steps[0].0 == "normal" && steps[0].1 == steps[1].0,
            "{application}: {steps:?}"
        );
        ensure!(steps[1].1 == end, "{application}: {steps:?}");
    }
    // The guest itself says so, and kvmpilot has measured it.
    let now = Witness::look(&lab)?;
    now.agrees_with(&daemon.orders()?)?;
    let (bottom, top) = (vcpus_of(&lab, "hog1 hog3 backup")?, vcpus_of(&lab, "httpd")?);
    ensure!(bottom == "1" && top == "0-1", "what is low runs on vcpu {bottom}, what is high on {top}");
    let view = daemon.json(&["processes", "web"])?;
    let means = match system {
        System::Busybox => "nice",
        System::Debian => "unit_weight",
    };
    ensure!(
        view["ladder"][0]["means"] == means && view["ladder"][0]["verdict"] != "void",
        "{}",
        view["ladder"]
    );
    if system == System::Debian {
        ensure!(now.units[&("web".to_owned(), "httpd.service".to_owned())] == "932", "{:?}", now.units);
        ensure!(now.units[&("web".to_owned(), "job.service".to_owned())] == "22", "{:?}", now.units);
        ensure!(is_untouched(&now, &before), "nice values were changed, too");
        // Started anew it is another process with the same weight, and goes back all the same.
        lab.guest_exec("web", "systemctl restart httpd", EXEC)?;
    }

    // Without scarcity everything goes back, a step a cycle.
    let (hog, stop) = match system {
        System::Busybox => ("hog1", "kill $(pidof hog2 hog3 backup)"),
        System::Debian => ("job", "systemctl stop hog1 hog2 hog3 backup"),
    };
    lab.guest_exec("web", stop, EXEC)?;
    climb(&daemon, &[("httpd", "normal"), (hog, "normal")]).with_context(|| daemon.log())?;
    ensure!(steps(&daemon, hog)?.len() == 4, "{:?}", steps(&daemon, hog)?);
    let restored = daemon.text(&["restore"])?;
    wait_for("everything to be back", PATIENCE, || Witness::look(&lab)?.is_as(&before))
        .with_context(|| format!("{restored}{}", daemon.log()))?;
    let all = vcpus_of(&lab, if system == System::Busybox { "hog1 httpd" } else { "httpd customer hog2" })?;
    ensure!(all == "0-1", "vcpus after the restore: {all}");
    ensure!(daemon.stop()?.success());
    lab.stop()
}

/// Whether no process that was there has another nice value.
fn is_untouched(now: &Witness, before: &Witness) -> bool {
    now.nices.iter().all(|(key, value)| before.nices.get(key).is_none_or(|before| before == value))
}

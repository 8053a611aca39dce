//! kvmpilotd on real guests, from end to end: what it does, that everything goes back, that it asks first, and that one
//! sick guest disturbs no other. Every claim is checked with virsh and inside the guests.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::witness::is_in_force;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Witness, Work, guests, wait_for, workspace};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
/// On a machine that builds beside it, classes and pins take a while.
const PATIENCE: Duration = Duration::from_secs(180);

fn config(mode: &str) -> String {
    format!(
        "[modes]\ndefault = \"{mode}\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n"
    )
}

fn start(guests: Vec<GuestSpec>) -> Result<Lab> {
    let lab = Lab::start(&LabOptions { guests })?;
    lab.wait_agents(BOOT)?;
    Ok(lab)
}

fn find<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let found = list.as_array().into_iter().flatten().find(|entry| entry["name"] == name);
    found.with_context(|| format!("no {name} in {list}"))
}

/// Waits until verified orders have used each of these means.
fn wait_for_orders(daemon: &Daemon<'_>, kinds: &[&str]) -> Result<()> {
    wait_for(&format!("orders of {kinds:?}"), PATIENCE, || {
        let orders = daemon.orders()?;
        for kind in kinds {
            let done = |order: &&Value| order["action"]["kind"] == **kind && is_in_force(order);
            ensure!(orders.iter().any(|order| done(&order)), "no verified {kind}");
        }
        Ok(())
    })
    .with_context(|| daemon.log())
}

const ALL: [&str; 6] =
    ["set_level", "set_cpu_shares", "pin_vcpu", "pin_emulator", "pin_iothread", "set_balloon"];

#[test]
fn everything_changes_and_everything_goes_back() -> Result<()> {
    let lab = start(guests::standard())?;
    let before = Witness::look(&lab)?;

    // All five means are used, and a stop puts everything back.
    let daemon = lab.start_daemon("d", &config("auto"))?;
    lab.under_load("web", 4, || wait_for_orders(&daemon, &ALL))?;
    answers_have_the_documented_shapes(&daemon)?;
    let httpd = find(&daemon.json(&["processes", "web"])?["applications"], "httpd (/bin/busybox)")?.clone();
    ensure!(httpd["communicating"] == true && httpd["level"] != httpd["level_original"], "{httpd}");
    daemon.reload(&config("observe"))?;
    wait_for("what was set to be there", PATIENCE, || {
        ensure!(daemon.orders()?.iter().all(|order| order["state"] != "approved"), "orders are on their way");
        Witness::look(&lab)?.agrees_with(&daemon.orders()?)
    })?;
    ensure!(Witness::look(&lab)?.is_as(&before).is_err(), "nothing has changed");
    ensure!(daemon.stop()?.success(), "a bad end");
    wait_for("everything to be back after SIGTERM", PATIENCE, || Witness::look(&lab)?.is_as(&before))?;

    // Killed: what it left is put back by the next one before it does anything else.
    let daemon = lab.start_daemon("d", &config("auto"))?;
    lab.under_load("web", 4, || wait_for_new_orders(&daemon))?;
    daemon.kill()?;
    ensure!(Witness::look(&lab)?.is_as(&before).is_err(), "nothing was left to put back");
    let daemon = lab.start_daemon("d", &config("observe"))?;
    wait_for("the ledger to be empty", PATIENCE, || {
        let left = daemon.json(&["status"])?["ledger_entries"].clone();
        ensure!(left == 0, "{left} values in the ledger");
        Ok(())
    })?;
    wait_for("everything to be back after kill -9 and a restart", PATIENCE, || {
        Witness::look(&lab)?.is_as(&before)
    })?;

    // Asked to, while it runs: it puts everything back and rests.
    daemon.reload(&config("auto"))?;
    lab.under_load("web", 4, || wait_for_new_orders(&daemon))?;
    let answer = daemon.json(&["restore"])?;
    ensure!(!answer["restore"]["values"].as_array().context("no list")?.is_empty(), "{answer}");
    ensure!(daemon.json(&["status"])?["paused"] == true, "it goes on changing things");
    wait_for("everything to be back after restore", PATIENCE, || Witness::look(&lab)?.is_as(&before))?;

    // Killed once more, and put back by the command line alone.
    daemon.reload(&config("auto"))?;
    lab.under_load("web", 4, || wait_for_new_orders(&daemon))?;
    let restore = daemon.offline(&["restore"])?;
    daemon.kill()?;
    kvmpilot_tests::output_of(&mut { restore })?;
    wait_for("everything to be back after an offline restore", PATIENCE, || {
        Witness::look(&lab)?.is_as(&before)
    })?;
    lab.stop()
}

/// Waits for orders of this daemon's life that libvirt and the guest have carried out.
fn wait_for_new_orders(daemon: &Daemon<'_>) -> Result<()> {
    wait_for("changed values", PATIENCE, || {
        let left = daemon.json(&["status"])?["ledger_entries"].as_u64().context("no count")?;
        let orders = daemon.orders()?;
        let newest = orders.iter().filter(|order| is_in_force(order)).count();
        ensure!(left >= 6 && newest > 0, "{left} values are changed so far");
        Ok(())
    })
    .with_context(|| daemon.log())
}

/// Validates real answers against the schemas in the repository.
fn answers_have_the_documented_shapes(daemon: &Daemon<'_>) -> Result<()> {
    let shown = [
        (vec!["status"], "status"),
        (vec!["domains"], "domains"),
        (vec!["domain", "web"], "domain"),
        (vec!["processes", "web"], "processes"),
        (vec!["orders"], "orders"),
        (vec!["why", "1"], "order"),
        (vec!["doctor"], "doctor"),
        (vec!["version"], "version"),
    ];
    for (args, name) in shown {
        let answer = daemon.json(&args)?;
        let file = workspace().join(format!("docs/schema/{name}.schema.json"));
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        let index = compiler.compile(&file.to_string_lossy(), &mut schemas);
        let index = index.map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
        if let Err(error) = schemas.validate(&answer, index) {
            bail!("kvmpilot {args:?} --json does not have the documented shape: {error:#}\n{answer:#}");
        }
    }
    Ok(())
}

#[test]
fn recommend_changes_nothing_until_somebody_approves() -> Result<()> {
    let lab = start(guests::standard())?;
    let before = Witness::look(&lab)?;
    let daemon = lab.start_daemon("d", &config("recommend"))?;
    let proposed = |kind: &str, domain: &str| {
        let orders = daemon.orders()?;
        let wanted = |order: &&Value| {
            order["action"]["kind"] == kind && order["domain_name"] == domain && order["state"] == "proposed"
        };
        orders.iter().find(wanted).cloned().with_context(|| format!("no proposed {kind} for {domain}"))
    };
    lab.under_load("web", 4, || {
        let weight = wait_for("a proposed weight", PATIENCE, || proposed("set_cpu_shares", "web"))?;
        wait_for("a proposed level", PATIENCE, || proposed("set_level", "web"))?;
        Witness::look(&lab)?.is_as(&before).context("recommend changed something")?;

        // Approved: exactly that one value changes, and only then.
        let id = weight["id"].to_string();
        daemon.text(&["orders", "approve", &id])?;
        let after = Witness::look(&lab)?;
        let to = weight["action"]["to"].as_u64().context("no target")?;
        ensure!(after.shares["web"] == to, "web has {} shares, the order says {to}", after.shares["web"]);
        let others = Witness { shares: before.shares.clone(), ..after };
        others.is_as(&before).context("more than the approved value changed")?;
        let why = daemon.text(&["why", &id])?;
        ensure!(why.contains("waits") && why.contains("weight.protect"), "{why}");
        ensure!(daemon.text(&["orders", "approve", &id]).is_err(), "approved twice");

        // Rolled back: the value is the old one, and the same order is not proposed again at once.
        daemon.text(&["orders", "rollback", &id])?;
        ensure!(Witness::look(&lab)?.shares == before.shares, "not rolled back");
        ensure!(daemon.json(&["orders", "show", &id])?["state"] == "rolled_back");

        let level = wait_for("a proposed level", PATIENCE, || proposed("set_level", "web"))?;
        let id = level["id"].to_string();
        daemon.text(&["orders", "reject", &id])?;
        ensure!(daemon.json(&["orders", "show", &id])?["state"] == "rejected");
        Ok(())
    })
    .with_context(|| daemon.log())?;
    Witness::look(&lab)?.is_as(&before)?;
    ensure!(daemon.stop()?.success());
    lab.stop()
}

#[test]
fn a_sick_guest_disturbs_no_other() -> Result<()> {
    let burner = |name: &str, octet| {
        let work = Work::Hog("cruncher".to_owned());
        GuestSpec::new(name, octet).memory_mib(256).runs(work)
    };
    let lab = start(vec![
        guests::web(),
        burner("mute", 20).without_agent(),
        burner("paused", 21),
        burner("doomed", 22),
    ])?;
    let daemon = lab.start_daemon("d", &config("auto"))?;
    lab.under_load("web", 4, || {
        wait_for("all four domains", PATIENCE, || {
            let domains = daemon.json(&["domains"])?["domains"].clone();
            ensure!(domains.as_array().map(Vec::len) == Some(4), "{domains}");
            Ok(())
        })?;
        lab.virsh(&["suspend", "paused"])?;
        let at_suspension = daemon.orders()?.first().and_then(|order| order["id"].as_u64()).unwrap_or(0);
        // In mid-cycle: orders for it may be on their way.
        wait_for("an order for doomed", PATIENCE, || {
            let orders = daemon.orders()?;
            ensure!(orders.iter().any(|order| order["domain_name"] == "doomed"), "none yet");
            Ok(())
        })?;
        lab.virsh(&["destroy", "doomed"])?;
        let cycles = |status: &Value| status["cycle"]["number"].as_u64().unwrap_or(0);
        let then = cycles(&daemon.json(&["status"])?);

        wait_for("the server to reach the top of the ladder", PATIENCE, || {
            let processes = daemon.json(&["processes", "web"])?;
            let level = find(&processes["applications"], "httpd (/bin/busybox)")?["level"].clone();
            ensure!(level == "high", "level {level}");
            Ok(())
        })?;
        wait_for("the guest without agent to get another weight or pin", PATIENCE, || {
            let changed = |order: &Value| order["domain_name"] == "mute" && is_in_force(order);
            ensure!(daemon.orders()?.iter().any(changed), "no order for mute");
            Ok(())
        })?;
        wait_for("more cycles", PATIENCE, || {
            let now = cycles(&daemon.json(&["status"])?);
            ensure!(now >= then + 3, "{now} cycles, {then} when doomed was destroyed");
            Ok(())
        })?;

        let domains = daemon.json(&["domains"])?["domains"].clone();
        ensure!(find(&domains, "doomed").is_err(), "doomed is still listed");
        ensure!(find(&domains, "paused")?["state"] == "paused", "{domains}");
        ensure!(find(&domains, "mute")?["agent"]["connected"].is_null(), "{domains}");
        // What was under way when it was suspended may still have ended; nothing new is decided for it.
        let new = |order: &Value| {
            order["domain_name"] == "paused" && order["id"].as_u64() > Some(at_suspension + 8)
        };
        ensure!(!daemon.orders()?.iter().any(new), "orders for a paused domain: {:?}", daemon.orders()?);
        Ok(())
    })
    .with_context(|| daemon.log())?;
    lab.virsh(&["resume", "paused"])?;
    let status = daemon.stop()?;
    ensure!(status.success(), "{status}");
    for (domain, shares) in Witness::look_at(&lab, &["web", "mute", "paused"])?.shares {
        ensure!(shares == 1024, "{domain} has {shares} shares");
    }
    lab.stop()
}

#[test]
fn it_says_what_is_wrong_and_works_with_what_it_has() -> Result<()> {
    let lab = start(vec![guests::web()])?;

    // A bad file is named with line and caret, before anything else happens.
    let mut bad = lab.spawn_daemon("bad", "[loops]\ncycle = \"1s\"\nguets = \"5s\"\n")?;
    let status = bad.wait()?;
    let said = bad.log();
    ensure!(status.code() == Some(2), "{status}: {said}");
    ensure!(
        said.contains("kvmpilot.toml:2:") && said.contains("kvmpilot.toml:3:") && said.contains('^'),
        "{said}"
    );
    ensure!(said.contains("guest"), "the nearest key is not named: {said}");
    drop(bad);

    // A bad file while it runs keeps the last good one, and turns health red.
    let daemon = lab.start_daemon("good", &config("observe"))?;
    daemon.reload("[modes]\ndefault = \"always\"\n")?;
    wait_for("red health", PATIENCE, || {
        let status = daemon.json(&["status"])?;
        ensure!(status["health"]["ok"] == false && status["mode"] == "observe", "{status}");
        ensure!(status["health"]["problems"].to_string().contains("kvmpilot.toml:2:"), "{status}");
        Ok(())
    })?;
    daemon.reload(&config("recommend"))?;
    wait_for("the new mode", PATIENCE, || {
        ensure!(daemon.json(&["status"])?["mode"] == "recommend");
        Ok(())
    })?;
    let tier = &daemon.json(&["status"])?["tiers"][1];
    ensure!(tier["on"] == true, "BPF does not work here: {tier}");
    drop(daemon);

    // No type information, or no right to use BPF: tier 0, said so, with figures all the same.
    let blind = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
    let weak = "exec setpriv --bounding-set -sys_admin,-bpf,-perfmon \"$0\" \"$@\"";
    for (name, script, reason) in [("blind", blind, "/sys/kernel/btf"), ("weak", weak, "CAP_BPF")] {
        let wrapper = ["unshare", "--mount", "sh", "-c", script];
        let daemon = lab.start_wrapped_daemon(name, &config("observe"), &wrapper)?;
        let tier = daemon.json(&["status"])?["tiers"][1].clone();
        ensure!(tier["on"] == false && tier["reason"].to_string().contains(reason), "{name}: {tier}");
        wait_for("figures of tier 0", PATIENCE, || {
            let vcpu = daemon.json(&["domain", "web"])?["vcpus"][0].clone();
            ensure!(vcpu["run_ratio"].is_number() && vcpu["wait_ratio"].is_number(), "{vcpu}");
            Ok(())
        })
        .with_context(|| daemon.log())?;
    }

    // No libvirt: it waits for it, says so, and goes on when it is there.
    let socket = lab.state_dir().join("nowhere");
    let uri = format!("[daemon]\nlibvirt_uri = \"qemu+unix:///system?socket={}\"\n", socket.display());
    let daemon = lab.start_daemon("alone", &(config("observe") + &uri))?;
    wait_for("word of libvirt's absence", PATIENCE, || {
        let status = daemon.json(&["status"])?;
        let message = status["libvirt"]["message"].to_string();
        ensure!(status["libvirt"]["connected"] == false && message.contains("systemctl start"), "{status}");
        ensure!(message.contains("next try"), "{message}");
        Ok(())
    })?;
    let real = format!("/proc/{}/root/run/libvirt/libvirt-sock", lab.qemu_pid("web")?);
    std::os::unix::fs::symlink(real, &socket)?;
    wait_for("the connection", PATIENCE, || {
        ensure!(daemon.json(&["status"])?["libvirt"]["connected"] == true);
        Ok(())
    })?;
    drop(daemon);
    fs::remove_file(&socket)?;

    // --once looks, tells and changes nothing.
    let before = Witness::look(&lab)?;
    let mut once = lab.spawn_wrapped_daemon("once", &config("auto"), &[], &["--once"])?;
    let status = once.wait()?;
    ensure!(status.success() && once.log().contains("nothing was changed"), "{status}: {}", once.log());
    Witness::look(&lab)?.is_as(&before)?;
    drop(once);
    lab.stop()
}

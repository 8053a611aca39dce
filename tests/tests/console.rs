//! The web console in a real browser, on two real guests under load: every page with live data, read-only without a token, an
//! order that is approved with one and changes the guest's weight. What the browser does is in `tests/browser/console.mjs`;
//! what came of it is checked with virsh. The screenshots are in `target/console`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{Lab, LabOptions, Witness, guests, target_dir, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(120);
/// For the whole visit of the browser.
const VISIT_S: u32 = 110;
/// Nobody else listens in the lab's network namespace.
const ADDRESS: &str = "127.0.0.1:8765";

/// Who comes without a token may look. A trial takes three ticks, so an approved weight is still there when virsh is asked.
fn config() -> String {
    format!(
        "[modes]\ndefault = \"recommend\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n\
         [tcp]\naddress = \"{ADDRESS}\"\naccess = \"read\"\nplain = \"loopback\"\n\
         [[service]]\nname = \"shop\"\n\
         [[service.component]]\nname = \"web\"\ndomain = \"web\"\nprocess = \"httpd\"\nport = 80\n\
         [[service.component]]\nname = \"cruncher\"\ndomain = \"batch\"\nprocess = \"cruncher1\"\n\
         [[service.connection]]\nfrom = \"cruncher\"\nto = \"web\"\nport = 80\n"
    )
}

/// All that the pages show has been measured, and there is a weight to approve.
fn is_worth_a_visit(daemon: &Daemon<'_>) -> Result<()> {
    let orders = daemon.orders()?;
    let weight = |order: &&Value| {
        order["action"]["kind"] == "set_cpu_shares"
            && order["domain_name"] == "web"
            && order["state"] == "proposed"
    };
    ensure!(orders.iter().any(|order| weight(&order)), "no proposed weight for web in {orders:#?}");
    let steal = daemon.json(&["steal"])?;
    ensure!(steal["domains"].as_array().is_some_and(|domains| domains.len() == 2), "{steal}");
    let service = daemon.json(&["services", "shop"])?["service"].clone();
    ensure!(service["components"][0]["state"] == "up", "{service}");
    Ok(())
}

#[test]
fn it_shows_everything_and_changes_what_a_token_may_change() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web(), guests::batch()] })?;
    lab.wait_agents(BOOT)?;
    let before = Witness::look(&lab)?;
    let daemon = lab.start_daemon("d", &config())?;
    lab.under_load("web", 4, || {
        wait_for("data for every page", PATIENCE, || is_worth_a_visit(&daemon))
            .with_context(|| daemon.log())?;
        let token = daemon.json(&["token", "create", "console-test", "--may-change"])?["token"].clone();
        let token = token.as_str().context("no token")?;
        ensure!(Witness::look(&lab)?.is_as(&before).is_ok(), "something changed before anybody approved");

        let shots = target_dir().join("console");
        let (address, shots) = (format!("http://{ADDRESS}"), shots.to_string_lossy());
        let arguments = [&*address, &*shots, token];
        let last = lab.browse("console.mjs", &arguments, VISIT_S).with_context(|| daemon.log())?;
        let outcome: Value = serde_json::from_str(&last).with_context(|| last.clone())?;
        ensure!(!daemon.log().contains(token), "the token is in the log");

        // Exactly what was approved in the browser is so in libvirt, and nothing else.
        let after = Witness::look(&lab)?;
        let to = outcome["to"].as_u64().context("no target")?;
        let id = outcome["order"].to_string();
        let order = daemon.json(&["orders", "show", &id])?;
        ensure!(after.shares["web"] == to, "web has {} shares, the order says {order}", after.shares["web"]);
        ensure!(order["decided_by_token"] == "console-test", "{order}");
        let verified =
            order["history"].as_array().into_iter().flatten().any(|event| event["state"] == "verified");
        ensure!(verified, "{order}");
        println!("order {id}: web has {} shares, and had {}", after.shares["web"], before.shares["web"]);
        let others = Witness { shares: before.shares.clone(), ..after };
        others.is_as(&before).context("more than the approved value changed")?;

        // Rolled back in the browser before its trial is over: all is as it was.
        let last = lab
            .browse("undo.mjs", &[&*address, &*shots, token, &id], VISIT_S)
            .with_context(|| daemon.log())?;
        Witness::look(&lab)?.is_as(&before).context("after the rollback")?;
        let rejected = serde_json::from_str::<Value>(&last)?["rejected"].to_string();
        let order = daemon.json(&["orders", "show", &rejected])?;
        ensure!(order["state"] == "rejected" && order["decided_by_token"] == "console-test", "{order}");
        Ok(())
    })
    .with_context(|| daemon.log())?;
    ensure!(daemon.stop()?.success());
    wait_for("everything to be back", PATIENCE, || Witness::look(&lab)?.is_as(&before))?;
    lab.stop()
}

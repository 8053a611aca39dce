//! What a domain's own XML says about kvmpilot, end to end: written by `kvmpilot policy`, kept by libvirt, followed by the
//! daemon within seconds, explained, and harmless where it is not understood.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::guests::Work;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
/// From a change of the metadata to the daemon's own view of it: an event, a reading, a tick.
const SOON: Duration = Duration::from_secs(20);
const URI: &str = "https://kvmpilot.dev/policy/1";
/// Nothing is changed unless a domain itself allows it. One entry holds a means back whatever the domain says.
const CONFIG: &str = "[modes]\ndefault = \"recommend\"\n[agent]\nenabled = false\n[weight]\nperiod = \"1s\"\n\
                      [[domain]]\nname = \"front\"\nmodes = { balloon = \"observe\" }\n";

/// A guest whose two vcpus burn CPU from its start.
fn burner(name: &str, octet: u8) -> GuestSpec {
    let hog = |number: u32| Work::Hog(format!("hog{number}"));
    GuestSpec::new(name, octet).vcpus(2).memory_mib(256).without_agent().runs(hog(1)).runs(hog(2))
}

fn shares(lab: &Lab, domain: &str) -> Result<u64> {
    let text = lab.virsh(&["schedinfo", domain])?;
    let line = text.lines().find(|line| line.starts_with("cpu_shares")).context("no cpu_shares")?;
    Ok(line.split(':').nth(1).context("no value")?.trim().parse()?)
}

fn xml(lab: &Lab, domain: &str, more: &[&str]) -> Result<String> {
    lab.virsh(&[&["dumpxml", domain], more].concat())
}

fn row(daemon: &Daemon<'_>, domain: &str) -> Result<Value> {
    let view = daemon.json(&["domains"])?;
    let rows = view["domains"].as_array().context("no domains")?;
    rows.iter().find(|row| row["name"] == domain).cloned().with_context(|| format!("no {domain} in {view}"))
}

/// The named entry of one of the lists of `kvmpilot explain`.
fn explained(daemon: &Daemon<'_>, domain: &str, list: &str, key: &str, name: &str) -> Result<Value> {
    let view = daemon.json(&["explain", domain])?;
    let found = view[list].as_array().context("no list")?.iter().find(|entry| entry[key] == name);
    found.cloned().with_context(|| format!("no {name} in {list} of {view}"))
}

fn means(daemon: &Daemon<'_>, domain: &str, name: &str) -> Result<Value> {
    explained(daemon, domain, "means", "means", name)
}

fn findings(daemon: &Daemon<'_>, domain: &str, name: &str) -> Result<Vec<Value>> {
    let view = daemon.json(&["domain", domain])?;
    let all = view["findings"].as_array().context("no findings")?.clone();
    Ok(all.into_iter().filter(|finding| finding["name"] == name).collect())
}

#[test]
fn a_domain_s_own_word_is_written_followed_and_explained() -> Result<()> {
    let guests = vec![burner("front", 51), burner("back", 52)];
    let lab = Lab::start(&LabOptions { guests })?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    wait_for("both domains to be seen", PATIENCE, || {
        ensure!(
            row(&daemon, "front")?["wait_ratio"].is_number()
                && row(&daemon, "back")?["wait_ratio"].is_number()
        );
        Ok(())
    })?;
    ensure!(row(&daemon, "front")?["modes"]["weight"] == "recommend");
    ensure!(!xml(&lab, "front", &[])?.contains(URI));

    written_and_kept(&lab, &daemon)?;
    classes_and_modes_are_followed(&lab, &daemon)?;
    it_is_explained(&daemon)?;
    what_is_not_understood_is_harmless(&lab, &daemon)?;
    it_outlives_the_run(&lab, &daemon)?;
    ensure!(daemon.stop()?.success());
    lab.stop()
}

/// `policy set` says what it wrote, and both XMLs have it; the daemon follows within seconds.
fn written_and_kept(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let said = daemon.text(&["policy", "set", "back", "class=batch", "mode=observe"])?;
    ensure!(
        said.contains(
            "back: wrote class=batch mode=observe (the running domain and the stored configuration)"
        ),
        "{said}"
    );
    let began = Instant::now();
    let said = daemon.text(&["policy", "set", "front", "class=latency", "mode=auto", "floor=128MiB"])?;
    ensure!(said.contains("balloon stays in mode observe: the configuration allows no more"), "{said}");
    for stored in [&[][..], &["--inactive"]] {
        let xml = xml(lab, "front", stored)?;
        let element = xml.lines().find(|line| line.contains(URI)).with_context(|| xml.clone())?;
        for attribute in ["<kvmpilot:policy ", "class=\"latency\"", "mode=\"auto\"", "floor=\"128MiB\""] {
            ensure!(element.contains(attribute), "{attribute} in {element}");
        }
    }
    wait_for("the daemon to follow", SOON, || {
        let row = row(daemon, "front")?;
        ensure!(row["class"] == "latency" && row["class_source"] == "configured", "{row}");
        ensure!(row["modes"]["weight"] == "auto" && row["modes"]["balloon"] == "observe", "{row}");
        Ok(())
    })?;
    println!("the daemon followed the metadata after {:.1} s", began.elapsed().as_secs_f64());
    let again = daemon.text(&["policy", "set", "front", "class=latency"])?;
    ensure!(again.contains("nothing was written, because that stands there already"), "{again}");
    let nobody = daemon.command(&["policy", "set", "nobody", "class=batch"])?.output()?;
    ensure!(nobody.status.code() == Some(1), "{nobody:?}");
    ensure!(String::from_utf8_lossy(&nobody.stderr).contains("there is no domain \"nobody\""), "{nobody:?}");
    Ok(())
}

/// The class steers weights where the domain's own mode is auto, and nothing is changed where it is observe.
fn classes_and_modes_are_followed(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    wait_for("front to get a larger weight", PATIENCE, || {
        let shares = shares(lab, "front")?;
        ensure!(shares > 1024, "{shares}");
        Ok(())
    })
    .with_context(|| daemon.log())?;
    // `back` ought to yield, and only its mode keeps it.
    wait_for("a change that mode observe keeps back", PATIENCE, || {
        let weight = means(daemon, "back", "weight")?;
        ensure!(weight["state"] == "observes", "{weight}");
        ensure!(weight["text"].to_string().contains("it would: cpu_shares: 1024 -> "), "{weight}");
        Ok(())
    })
    .with_context(|| daemon.log())?;
    ensure!(shares(lab, "back")? == 1024);
    ensure!(daemon.orders()?.iter().all(|order| order["domain_name"] != "back"), "{:?}", daemon.orders()?);
    daemon.text(&["policy", "set", "back", "mode=auto"])?;
    wait_for("back to yield", PATIENCE, || {
        let shares = shares(lab, "back")?;
        ensure!(shares < 1024, "{shares}");
        Ok(())
    })
    .with_context(|| daemon.log())
}

fn it_is_explained(daemon: &Daemon<'_>) -> Result<()> {
    let setting = |key: &str| explained(daemon, "front", "settings", "key", key);
    let class = setting("class")?;
    ensure!(class["origin"] == "metadata" && class["place"] == "class", "{class}");
    let mode = setting("mode.balloon")?;
    ensure!(mode["origin"] == "file" && mode["value"] == "observe", "{mode}");
    ensure!(mode["place"].as_str().is_some_and(|place| place.ends_with("kvmpilot.toml:9")), "{mode}");
    ensure!(mode["note"].as_str().is_some_and(|note| note.contains("metadata asks for auto")), "{mode}");
    ensure!(setting("floor")?["value"] == "128MiB" && setting("enforce")?["origin"] == "default");
    ensure!(setting("weight.max_factor")?["origin"] == "default");
    let held = explained(daemon, "front", "held", "what", "cpu_shares")?;
    ensure!(held["original"] == "1024" && held["ours"] != "1024", "{held}");
    let ladder = means(daemon, "front", "ladder")?;
    ensure!(
        ladder["state"] == "refused" && ladder["text"].to_string().contains("[agent] enabled"),
        "{ladder}"
    );
    let page = daemon.text(&["explain", "front"])?;
    ensure!(page.contains("front: class latency, as configured"), "{page}");
    Ok(())
}

/// Somebody writes nonsense past us: the domain is only observed, that is said, and the other one goes on.
fn what_is_not_understood_is_harmless(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let nonsense = "<policy class='fast' mode='auto' colour='red'/>";
    lab.virsh(&["metadata", "front", "--uri", URI, "--key", "kvmpilot", "--set", nonsense, "--live"])?;
    let began = Instant::now();
    wait_for("a finding about the metadata", SOON, || {
        let found = findings(daemon, "front", "policy_metadata")?;
        let text = serde_json::to_string(&found)?;
        ensure!(
            text.contains("\\\"fast\\\" is no value") && text.contains("there is no setting colour"),
            "{text}"
        );
        ensure!(text.contains("kvmpilot policy unset front class"), "{text}");
        Ok(())
    })?;
    println!("the finding was there after {:.1} s", began.elapsed().as_secs_f64());
    for means in ["ladder", "weight", "placement", "balloon"] {
        ensure!(row(daemon, "front")?["modes"][means] == "observe", "{means}");
    }
    ensure!(row(daemon, "back")?["modes"]["weight"] == "auto");
    ensure!(daemon.json(&["policy", "show", "front"])?["running"]["problems"][0].is_string());
    let refused = daemon.command(&["policy", "set", "front", "mode=recommend"])?.output()?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("nothing was written"), "{refused:?}");
    daemon.text(&["policy", "unset", "front", "colour", "class"])?;
    wait_for("it to be understood again", SOON, || {
        ensure!(findings(daemon, "front", "policy_metadata")?.is_empty());
        let row = row(daemon, "front")?;
        ensure!(row["modes"]["weight"] == "auto" && row["class_source"] == "inferred", "{row}");
        Ok(())
    })
}

/// A stored word is there when the domain starts again; one that does not run has only that.
fn it_outlives_the_run(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    lab.virsh(&["destroy", "back"])?;
    let said = daemon.text(&["policy", "set", "back", "weight.max_factor=2"])?;
    ensure!(said.contains("(the stored configuration)"), "{said}");
    lab.virsh(&["start", "back"])?;
    let began = Instant::now();
    ensure!(xml(lab, "back", &[])?.contains("weight.max_factor=\"2\""));
    wait_for("the daemon to know the new run's word", SOON, || {
        let row = row(daemon, "back")?;
        ensure!(row["class"] == "batch" && row["class_source"] == "configured", "{row}");
        ensure!(explained(daemon, "back", "settings", "key", "weight.max_factor")?["value"] == "2");
        Ok(())
    })?;
    println!("the new run's word was known after {:.1} s", began.elapsed().as_secs_f64());
    daemon.text(&["policy", "unset", "back", "--all"])?;
    ensure!(!xml(lab, "back", &[])?.contains(URI) && !xml(lab, "back", &["--inactive"])?.contains(URI));
    wait_for("the configuration to count again", SOON, || {
        ensure!(row(daemon, "back")?["modes"]["weight"] == "recommend");
        Ok(())
    })
}

//! A scripted agent of a Windows guest on a real virtio channel, behind a real libvirt: PowerShell is sent, what it prints is
//! read, priority classes step and go back. That a real Windows prints this is not proven here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Work, wait_for};

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(90);
const CONFIG: &str = "[modes]\ndefault = \"observe\"\nladder = \"auto\"\n[loops]\ncycle = \"5s\"\nguest = \"3s\"\n\
    [agent]\ntimeout = \"10s\"\n";
const AGENT: &str = include_str!("../guest/windows");

/// What the guest remembers: `FILE:LINE`.
fn inside(lab: &Lab) -> Result<String> {
    let page = lab.http_get("win", 81, "/cgi-bin/state")?;
    ensure!(page.ends_with("end\n"), "{page}");
    Ok(page)
}

fn wait_for_classes(lab: &Lab, httpd: &str, cruncher: &str) -> Result<()> {
    wait_for(&format!("httpd {httpd} and cruncher {cruncher}"), PATIENCE, || {
        let state = inside(lab)?;
        for line in [
            format!("httpd.2000:{httpd}\n"),
            format!("cruncher.2500:{cruncher}\n"),
            "rt.3000:RealTime\n".to_owned(),
        ] {
            ensure!(state.contains(&line), "{state}");
        }
        ensure!(!state.contains("wrong:"), "{state}");
        Ok(())
    })
}

#[test]
fn priority_classes_step_in_a_guest_that_says_it_is_windows() -> Result<()> {
    // CPU is scarce, which the host sees: two hogs want the one vcpu.
    let hog = |n| Work::Hog(format!("hog{n}"));
    let guest = GuestSpec::new("win", 44).memory_mib(256).runs(hog(1)).runs(hog(2));
    let lab = Lab::start(&LabOptions { guests: vec![guest] })?;
    lab.wait_agents(BOOT)?;
    lab.replace_agent("win", AGENT)?;
    wait_for("the agent's own books", PATIENCE, || inside(&lab).map(drop))?;
    lab.wait_agent("win", PATIENCE)?;

    let daemon = lab.start_daemon("d", CONFIG)?;
    wait_for_classes(&lab, "High", "Idle").with_context(|| daemon.log())?;
    // What is shown is what the latest poll saw.
    wait_for("the processes of the guest", PATIENCE, || {
        let processes = daemon.json(&["processes", "win"])?.to_string();
        for part in ["httpd", "cruncher", "\"high\"", "\"low\"", "--password=***"] {
            ensure!(processes.contains(part), "no {part} in {processes}");
        }
        Ok(())
    })?;
    let domain = daemon.json(&["domain", "win"])?;
    ensure!(domain["guest"]["system"]["os"] == "Windows Server 2022 Standard", "{domain}");
    ensure!(domain["guest"]["system"]["host_name"] == "WIN-1", "{domain}");
    ensure!(domain.to_string().contains("Spooler"), "no services: {domain}");
    let doctor = String::from_utf8(daemon.command(&["doctor"])?.output()?.stdout)?;
    ensure!(doctor.contains("Windows guests are not proven yet"), "{doctor}");

    daemon.text(&["restore"])?;
    wait_for_classes(&lab, "Normal", "Normal").with_context(|| daemon.log())?;
    ensure!(daemon.stop()?.success(), "a bad end");
    lab.stop()
}

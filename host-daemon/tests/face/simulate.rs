//! `kvmpilot simulate`: without a daemon, with a clear word on what is wrong, and an exit code that tells missed bounds.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::schema::assert_valid;
use crate::server::{kvmpilot, stderr};

const NO_DAEMON: &str = "/nonexistent/kvmpilot.sock";

fn scenario(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").join(name);
    fs::read_to_string(path).unwrap()
}

fn simulate(text: &str, more: &[&str]) -> (std::process::Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.toml").display().to_string();
    fs::write(&file, text).unwrap();
    (kvmpilot(Path::new(NO_DAEMON), &[&["simulate", &file], more].concat()), file)
}

#[test]
fn a_scenario_needs_no_daemon_and_is_the_same_each_time() {
    let text = scenario("step.toml");
    let (first, _) = simulate(&text, &["--json"]);
    assert!(first.status.success(), "{}", stderr(&first));
    let json = String::from_utf8(first.stdout).unwrap();
    assert_valid("simulate", &json);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert!(report["actions"].as_object().unwrap().contains_key("weight.protect"), "{report}");
    let (second, _) = simulate(&text, &["--json"]);
    assert_eq!(String::from_utf8(second.stdout).unwrap(), json);
    let (shorter, _) = simulate(&text, &["--json", "--hours", "0.01"]);
    let shorter: Value = serde_json::from_slice(&shorter.stdout).unwrap();
    assert_eq!(shorter["seconds"], 36);
}

#[test]
fn a_bound_that_is_missed_is_named_and_is_no_success() {
    let text = scenario("step.toml").replace("least_actions = 2", "least_actions = 100000");
    let (output, _) = simulate(&text, &[]);
    assert_eq!(output.status.code(), Some(1));
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("missed: least_actions"), "{page}");
}

#[test]
fn what_is_wrong_in_a_scenario_has_its_place() {
    let text = scenario("step.toml");
    for (wrong, place, word) in [
        (text.replace("vcpus = 4", "vcpus = \"four\""), ":10:9", "invalid type"),
        (text.replacen("cores = 8", "cores = 0", 1), ":5:1", "the host has 0 pcpus"),
        (text.replacen("cores = 8", "coers = 8", 1), ":6:1", "coers"),
    ] {
        assert_ne!(wrong, text, "nothing was spoilt");
        let (output, file) = simulate(&wrong, &[]);
        let said = stderr(&output);
        assert!(!output.status.success() && said.contains(&format!("{file}{place}")), "{said}");
        assert!(said.contains(word), "{said}");
    }
    let gone = kvmpilot(Path::new(NO_DAEMON), &["simulate", "/nonexistent/own.toml"]);
    assert!(stderr(&gone).contains("/nonexistent/own.toml"), "{gone:?}");
}

//! The command line against the server: what it prints, its exit codes, its JSON.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;

use kvmpilot::api::Command;
use kvmpilot::store::{Limits, Store};
use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, Value as LedgerValue};
use kvmpilot_core::order::OrderState;
use serde_json::Value;

use crate::schema::{assert_valid, validate};
use crate::server::{Face, kvmpilot, stderr};

#[test]
fn every_json_is_as_documented() {
    let face = Face::start();
    for (arguments, schema) in [
        (&["status"][..], "status"),
        (&["domains"], "domains"),
        (&["domain", "web"], "domain"),
        (&["processes", "web"], "processes"),
        (&["processes", "silent/1 ä"], "processes"),
        (&["flows", "web"], "flows"),
        (&["flows", "silent/1 ä"], "flows"),
        (&["orders"], "orders"),
        (&["orders", "list", "--state", "proposed"], "orders"),
        (&["orders", "show", "1"], "order"),
        (&["why", "1"], "order"),
        (&["steal"], "steal"),
        (&["doctor", "--config", "/dev/null"], "doctor"),
        (&["explain", "web"], "explain"),
        (&["policy", "show", "web"], "policy"),
        (&["policy", "set", "web", "class=latency"], "policy"),
        (&["orders", "approve", "2"], "command"),
        (&["services"], "services"),
        (&["services", "shop"], "service"),
        (&["service", "learn", "shop", "--from", "web"], "learned"),
        (&["version"], "version"),
    ] {
        assert_valid(schema, &face.prints(&[arguments, &["--json"]].concat()));
    }
    let restored = face.kvmpilot(&["restore", "--config", "/dev/null", "--json"]);
    assert_valid("command", std::str::from_utf8(&restored.stdout).unwrap());
}

#[test]
fn the_schemas_are_strict_enough_to_find_mistakes() {
    let face = Face::start();
    let good: Value = serde_json::from_str(&face.prints(&["status", "--json"])).unwrap();
    let spoilt = |spoil: fn(&mut Value)| {
        let mut value = good.clone();
        spoil(&mut value);
        validate("status", &value.to_string())
    };
    assert_eq!(spoilt(|_| {}), Ok(()));
    assert!(spoilt(|status| drop(status.as_object_mut().unwrap().remove("ledger_entries"))).is_err());
    assert!(spoilt(|status| status["mode"] = "automatic".into()).is_err());
    assert!(spoilt(|status| status["uptime_s"] = (-1).into()).is_err());
    assert!(spoilt(|status| status["host"]["pcpus"] = Value::Null).is_err());
    assert!(spoilt(|status| status["tiers"][0]["on"] = "yes".into()).is_err());
}

#[test]
fn the_documented_examples_are_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert_valid(&name, &std::fs::read_to_string(&path).unwrap());
        names.push(name);
    }
    assert!(names.len() >= 6, "{names:?}");
}

#[test]
fn pages_show_what_the_daemon_published_last() {
    let face = Face::start();
    assert!(face.prints(&["status"]).contains("recommend"));
    assert!(face.prints(&["domains"]).contains("silent/1 ä"));
    assert!(face.prints(&["domain", "5d4c0a52-6f4e-4c32-9f0e-0a4a3c2f1b11"]).starts_with("web ("));
    assert!(face.prints(&["processes", "web"]).contains("above_normal (was normal)"));
    assert!(face.prints(&["flows", "web"]).contains("httpd 120"));
    assert!(face.prints(&["flows", "silent/1 ä"]).contains("not been looked at yet"));
    assert!(face.prints(&["processes", "silent/1 ä"]).contains("the agent does not answer"));
    assert!(face.prints(&["why", "2"]).contains("`kvmpilot orders approve 2`"));
    let steal = face.prints(&["steal"]);
    assert!(steal.contains("batch") && steal.contains("2.9 s") && steal.contains("HOST"), "{steal}");
    assert!(face.prints(&["version"]).starts_with("kvmpilot 0."));
    assert!(face.prints(&["doctor", "--config", "/dev/null"]).contains("CONFIG_DEBUG_INFO_BTF=y"));

    let mut views = crate::server::views();
    views.status.version = "9.8.7".into();
    face.views.send_replace(views.into());
    assert!(face.prints(&["status"]).starts_with("kvmpilotd 9.8.7 on host1"));
}

#[test]
fn orders_are_filtered_paged_and_decided_on() {
    let face = Face::start();
    let ids = |arguments: &[&str]| -> Vec<u64> {
        let json: Value = serde_json::from_str(&face.prints(&[arguments, &["--json"]].concat())).unwrap();
        json["orders"].as_array().unwrap().iter().map(|order| order["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids(&["orders"]), [2, 1]);
    assert_eq!(ids(&["orders", "--state", "kept"]), [1]);
    assert_eq!(ids(&["orders", "list", "--domain", "web", "--limit", "1"]), [2]);
    assert_eq!(ids(&["orders", "--domain", "no&such=domain"]), [] as [u64; 0]);
    assert_eq!(ids(&["orders", "--before", "2"]), [1]);
    assert!(face.prints(&["orders", "--limit", "1"]).contains("--before 2"));

    assert_eq!(face.prints(&["orders", "approve", "2"]), "order 2 is verified\n");
    assert_eq!(face.store.order(2).unwrap().unwrap().state, OrderState::Verified);
    for (arguments, message) in [
        (&["orders", "approve", "2"][..], "kvmpilot: work order 2 is verified; only proposed orders"),
        (&["orders", "reject", "77"], "kvmpilot: there is no work order 77; `kvmpilot orders` lists them"),
        (&["why", "77"], "kvmpilot: there is no work order 77"),
        (&["orders", "rollback", "1"], "kvmpilot: the domain is gone"),
        (&["domain", "wbe"], "kvmpilot: there is no domain \"wbe\"; `kvmpilot domains` lists them"),
    ] {
        let output = face.kvmpilot(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).starts_with(message), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let own = nix::unistd::Uid::effective().as_raw();
    let commands = [Command::Approve(2), Command::Approve(2), Command::Reject(77), Command::Rollback(1)];
    assert_eq!(*face.commands.lock().unwrap(), commands.map(|command| (command, own)));
}

#[test]
fn restore_says_what_is_left_and_fails_then() {
    let face = Face::start();
    let output = face.kvmpilot(&["restore", "--config", "/dev/null"]);
    assert_eq!(output.status.code(), Some(1));
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("nice of httpd") && page.contains("the agent does not answer"), "{page}");
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &["stauts"][..],
        &["domain"],
        &["orders", "approve", "x"],
        &["orders", "--state", "done"],
        &["orders", "--limit", "0"],
        &[],
    ] {
        let output = kvmpilot(Path::new("/nonexistent"), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.sock");
    // A socket file that a killed daemon has left.
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    for socket in [absent, stale] {
        let output = kvmpilot(&socket, &["status"]);
        assert_eq!(output.status.code(), Some(1));
        let message = stderr(&output);
        assert!(
            message.contains("kvmpilotd does not run") && message.contains("systemctl start kvmpilotd"),
            "{message}"
        );
    }
}

#[test]
fn without_a_daemon_restore_uses_the_ledger_and_keeps_what_it_cannot_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let config = directory.path().join("kvmpilot.toml");
    let text = format!(
        "[daemon]\nstate_directory = '{}'\nlibvirt_uri = 'qemu+unix:///system?socket=/nonexistent'\nlog_level = 3\n",
        state.display()
    );
    std::fs::write(&config, text).unwrap();
    let restore = || {
        let output = kvmpilot(
            &directory.path().join("s"),
            &["restore", "--config", config.to_str().unwrap(), "--json"],
        );
        // The mistake in the configuration is told, but is no reason to leave a host as it is.
        assert!(stderr(&output).contains("kvmpilot.toml:4:13: daemon.log_level"), "{}", stderr(&output));
        output
    };
    let output = restore();
    assert!(output.status.success());
    assert_valid("command", std::str::from_utf8(&output.stdout).unwrap());
    assert!(!state.exists(), "restore made a database");

    let entry = LedgerEntry {
        domain: uuid::Uuid::from_u128(1),
        domain_name: "web".into(),
        incarnation: "1:1".into(),
        target: LedgerTarget::CpuShares,
        original: LedgerValue::Shares(1024),
        applied: None,
        intended: LedgerValue::Shares(2048),
    };
    let store = || Store::open(&state, Limits::default()).unwrap();
    store().ledger_put(&entry).unwrap();
    let output = restore();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("1 values are not at their originals, but libvirt is"),
        "{}",
        stderr(&output)
    );
    assert_eq!(store().ledger().unwrap(), [entry]);
}

#[test]
fn garbage_at_the_other_end_is_called_so() {
    let answers: [&[u8]; 5] = [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n{\"version\":",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>",
    ];
    for answer in answers {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Closing with an unread request would be a reset, not an answer.
            let mut request = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        let output = kvmpilot(&socket, &["status"]);
        peer.join().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("does not talk like kvmpilotd"), "{}", stderr(&output));
    }
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let face = Face::start();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kvmpilot"))
        .args(["orders", "--json", "--socket"])
        .arg(&face.socket)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

//! `kvmpilot explain` and `kvmpilot policy`: what they print, what they pass on, what they refuse.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use kvmpilot_core::policy::Change;

use crate::server::{Face, stderr};

#[test]
fn explain_says_what_counts_and_who_said_so() {
    let face = Face::start();
    let page = face.prints(&["explain", "web"]);
    for expected in [
        "web: class latency, as configured",
        "what it does looks like standard",
        "wait ratio 31.0 %",
        "no agent is connected; is qemu-guest-agent running in the guest?",
        "at its last look: cpu_shares: 1024 -> 8192",
        "the domain's metadata (class)",
        "/etc/kvmpilot/kvmpilot.toml:71; the domain's metadata asks for auto",
        "/etc/kvmpilot/conf.d/shop.toml:4",
        "no-pins-at-noon",
        "veto = \"placement\"",
    ] {
        assert!(page.contains(expected), "{expected} in\n{page}");
    }
    let unknown = face.kvmpilot(&["explain", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("there is no domain \"nobody\""), "{unknown:?}");
}

#[test]
fn a_policy_is_passed_on_as_it_was_written() {
    let face = Face::start();
    let shown = face.prints(&["policy", "show", "web"]);
    assert!(shown.contains("IN THE RUNNING DOMAIN AND ITS STORED CONFIGURATION"), "{shown}");
    assert!(shown.contains("balloon stays in mode observe"), "{shown}");
    let set =
        face.prints(&["policy", "set", "web", "class=latency", "protected= nginx,php-* ", "floor=512MiB"]);
    assert!(set.starts_with("web: wrote it\n"), "{set}");
    face.prints(&["policy", "unset", "silent/1 ä", "mode.balloon", "colour"]);
    face.prints(&["policy", "unset", "web", "--all"]);
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let uid = nix::unistd::Uid::current().as_raw();
    let set = pairs(&[("class", "latency"), ("floor", "512MiB"), ("protected", "nginx,php-*")]);
    let expected = [
        ("web", Change { set, ..Change::default() }),
        ("silent/1 ä", Change { unset: vec!["mode.balloon".into(), "colour".into()], ..Change::default() }),
        ("web", Change { clear: true, ..Change::default() }),
    ];
    let expected: Vec<_> =
        expected.into_iter().map(|(domain, change)| (domain.to_owned(), change, uid)).collect();
    assert_eq!(*face.changes.lock().unwrap(), expected);
}

#[test]
fn what_is_no_setting_is_a_usage_error_and_goes_nowhere() {
    let face = Face::start();
    for (arguments, says) in [
        (&["policy", "set", "web"][..], "KEY=VALUE"),
        (&["policy", "set", "web", "class"], "write KEY=VALUE, like class=latency"),
        (&["policy", "set", "web", "colour=red"], "there is no setting colour; the settings are class, mode"),
        (&["policy", "set", "web", "class=fast"], "write latency, standard, batch or auto"),
        (&["policy", "set", "web", "floor=12"], "a size from 16MiB"),
        (&["policy", "set", "web", "pcpus=7-2"], "not part of a CPU list"),
        (&["policy", "unset", "web"], "required"),
        (&["policy", "unset", "web", "class", "--all"], "cannot be used with"),
    ] {
        let output = face.kvmpilot(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(says), "{says} in {}", stderr(&output));
    }
    assert!(face.changes.lock().unwrap().is_empty());
}

#[test]
fn bodies_that_are_no_change_are_refused() {
    let face = Face::start();
    let post = |body: &str| {
        let mut stream = UnixStream::connect(&face.socket).unwrap();
        let length = body.len();
        let head = "POST /api/v1/domains/web/policy HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close";
        write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for body in ["", "[1]", "{", "{\"set\": [\"class\"]}", "{\"sett\": {}}", "{\"set\": {\"class\": 1}}"] {
        let answer = post(body);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body}: {answer}");
    }
    assert!(post("{\"set\": {\"class\": \"batch\"}}").starts_with("HTTP/1.1 200 "));
}

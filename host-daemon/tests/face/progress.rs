//! Who waits at a terminal is told so, and nobody else is.

use std::process::Command;
use std::time::Duration;

use kvmpilot::api::Limits;

use crate::server::{Face, stderr};

/// Nobody answers an approval of order 99.
const SLOW: [&str; 3] = ["orders", "approve", "99"];

fn slow() -> Face {
    Face::with_limits(Limits { command: Duration::from_millis(2500), ..Limits::default() })
}

#[test]
fn a_command_that_takes_its_time_says_so_on_a_terminal() {
    let face = slow();
    let line =
        format!("{} --socket {} {}", env!("CARGO_BIN_EXE_kvmpilot"), face.socket.display(), SLOW.join(" "));
    // `script` is a terminal for what it runs.
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8(output.stdout).unwrap();
    let (waiting, message) =
        (shown.find("waiting for kvmpilotd: 1 s"), shown.find("kvmpilotd was not done within"));
    assert!(waiting.is_some() && waiting < message, "{shown:?}");
    // The line is gone before the message comes.
    assert!(shown[..message.unwrap()].ends_with("\r\u{1b}[Kkvmpilot: "), "{shown:?}");
    let quick = line.replace(&SLOW.join(" "), "status");
    let output = Command::new("script").args(["-qec", &quick, "/dev/null"]).output().unwrap();
    assert!(!String::from_utf8(output.stdout).unwrap().contains("waiting"));
}

#[test]
fn without_a_terminal_nothing_but_the_message_is_written() {
    let output = slow().kvmpilot(&SLOW);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("kvmpilot: kvmpilotd was not done"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
}

//! Recordings: `kvmpilot record` against the real API, with a daemon that sends what the test wants.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kvmpilot::record::{FORMAT, Header, Line, Recorded, State};
use kvmpilot_core::policy::Policy;
use kvmpilot_core::windows::Due;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::schema::assert_valid;
use crate::server::{Face, stderr};

fn header() -> Line {
    Line::Header(Box::new(Header {
        format: FORMAT,
        version: "0".repeat(8),
        host: "h".to_owned(),
        kernel: "k".to_owned(),
        at: Duration::ZERO,
        started_unix_ms: 1,
        policy: Policy::default(),
        state: State::default(),
    }))
}

fn turn(number: u32) -> Line {
    Line::Turn(Box::new(Recorded {
        at: Duration::from_secs(number.into()),
        unix_s: number.into(),
        events: Vec::new(),
        sample: Arc::default(),
        due: Due { tick: false, cycle: false },
    }))
}

/// Sends a header, then a line every 20 ms until the client is gone; returns how many were taken.
fn daemon(face: &Face, line: impl Fn(u32) -> Line + Send + 'static) -> Arc<AtomicU32> {
    let mut requests = face.recordings.lock().unwrap().take().unwrap();
    let taken = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&taken);
    face.runtime.spawn(async move {
        let request = requests.recv().await.unwrap();
        assert!(request.send(Arc::new(header())));
        while request.send(Arc::new(line(count.load(Relaxed)))) {
            count.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    taken
}

fn record(face: &Face, length: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmpilot"));
    command.args(["record", "out.rec", "--for", length, "--socket"]).arg(&face.socket);
    command.current_dir(face.directory.path()).stderr(Stdio::piped()).spawn().unwrap()
}

fn replay(face: &Face) -> serde_json::Value {
    let file = face.directory.path().join("out.rec");
    let json = face.prints(&["replay", file.to_str().unwrap(), "--json"]);
    assert_valid("replay", &json);
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_recording_lasts_as_long_as_asked_and_is_its_owner_s() {
    let face = Face::start();
    let taken = daemon(&face, turn);
    let begin = Instant::now();
    let output = record(&face, "1s").wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let file = face.directory.path().join("out.rec");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let view = replay(&face);
    assert_eq!((&view["complete"], &view["host"]), (&true.into(), &"h".into()));
    let turns = view["turns"].as_u64().unwrap();
    assert!(turns > 10 && turns <= taken.load(Relaxed).into(), "{turns} turns");
    assert!(face.prints(&["replay", file.to_str().unwrap()]).contains("nothing would have been proposed"));
}

#[test]
fn ctrl_c_leaves_a_whole_file_and_nothing_else() {
    let face = Face::start();
    let taken = daemon(&face, turn);
    let child = record(&face, "1h");
    let deadline = Instant::now() + Duration::from_secs(20);
    while taken.load(Relaxed) < 10 {
        assert!(Instant::now() < deadline, "no lines are taken");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let view = replay(&face);
    assert_eq!(view["complete"], true);
    assert!(view["turns"].as_u64().unwrap() >= 5, "{view}");
    let files = std::fs::read_dir(face.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        !files.into_iter().any(|name| name.to_str().unwrap().starts_with(".out.rec")),
        "a partial file is left"
    );
}

#[test]
fn a_daemon_that_goes_away_is_told_and_what_came_is_kept() {
    let mut face = Face::start();
    let taken = daemon(&face, turn);
    let child = record(&face, "1h");
    let deadline = Instant::now() + Duration::from_secs(20);
    while taken.load(Relaxed) < 10 {
        assert!(Instant::now() < deadline, "no lines are taken");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(face.server.take());
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("ended early: kvmpilotd stops"), "{}", stderr(&output));
    assert!(replay(&face)["turns"].as_u64().unwrap() >= 5);
}

#[test]
fn who_does_not_read_is_dropped_and_the_daemon_waits_for_nobody() {
    let face = Face::start();
    let mut requests = face.recordings.lock().unwrap().take().unwrap();
    let mut client = UnixStream::connect(&face.socket).unwrap();
    client.write_all(b"GET /api/v1/record?seconds=3600 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let request = face.runtime.block_on(requests.recv()).unwrap();
    let large = Line::Header(Box::new(Header {
        version: "0".repeat(1 << 20),
        ..match header() {
            Line::Header(header) => *header,
            other => panic!("{other:?}"),
        }
    }));
    let large = Arc::new(large);
    let begin = Instant::now();
    let mut sent = 0;
    // A socket's buffer and hyper's hold less than one line.
    while request.send(Arc::clone(&large)) {
        sent += 1;
        assert!(sent < 12, "{sent} lines for a client that does not read");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "sending has waited");
    drop(request);
    // It may still read why, and then the connection ends.
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut text = Vec::new();
    client.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"reason\":\"too_slow\""), "{}", &text[text.len().saturating_sub(200)..]);
}

#[test]
fn impossible_lengths_are_refused() {
    let face = Face::start();
    let output = record(&face, "2d").wait_with_output().unwrap();
    assert!(stderr(&output).contains("1s to 24h"), "{}", stderr(&output));
    let mut client = UnixStream::connect(&face.socket).unwrap();
    let request = b"GET /api/v1/record?seconds=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    client.write_all(request).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("1 to 86400 s"), "{text}");
}

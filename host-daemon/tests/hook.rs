//! The program `kvmpilot-hook` as libvirt runs it: whatever the daemon's state and whatever it is given, it succeeds at once
//! and prints nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// "Never delays": far more than it takes on a machine that is busy with other things, far less than anybody would wait.
const AT_ONCE: Duration = Duration::from_secs(1);

fn hook(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmpilot-hook"));
    command.env("KVMPILOT_HOOK_SOCKET", socket).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, while `stdin` is written to it. How long it took.
fn run(command: &mut Command, stdin: &[u8]) -> Duration {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // As libvirt does: what stays unread is no error of the reader's.
    let written = stdin.to_vec();
    let writer: JoinHandle<()> = std::thread::spawn(move || drop(pipe.write_all(&written)));
    let status = child.wait().unwrap();
    let took = began.elapsed();
    writer.join().unwrap();
    let mut said = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
    child.stderr.take().unwrap().read_to_end(&mut said).unwrap();
    assert!(status.success(), "{status}");
    assert!(said.is_empty(), "it says {}", String::from_utf8_lossy(&said));
    assert!(took < AT_ONCE, "{command:?} took {took:?}");
    took
}

fn xml(bytes: usize) -> Vec<u8> {
    let text = format!(
        "<domain type='kvm'><name>web</name><description>{}</description></domain>",
        "x".repeat(bytes)
    );
    text.into_bytes()
}

#[test]
fn each_operation_is_one_datagram_and_migrate_s_xml_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hook.sock");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let operations = [
        ("prepare", "begin"),
        ("start", "begin"),
        ("started", "begin"),
        ("stopped", "end"),
        ("release", "end"),
        ("reconnect", "begin"),
        ("migrate", "begin"),
        ("restore", "begin"),
        ("attach", "begin"),
    ];
    for (operation, sub_operation) in operations {
        run(hook(&path).args(["web", operation, sub_operation, "-"]), &xml(10));
        let mut buffer = [0; 1024];
        let length = daemon.recv(&mut buffer).unwrap();
        let said = String::from_utf8_lossy(&buffer[..length]);
        assert_eq!(said, format!("1 {operation} {sub_operation} web"));
    }
    daemon.set_nonblocking(true).unwrap();
    assert!(daemon.recv(&mut [0; 8]).is_err(), "more than one datagram each");
}

#[test]
fn nothing_that_it_is_given_makes_it_fail_or_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hook.sock");
    let daemon = UnixDatagram::bind(&path).unwrap();
    let name = OsString::from_vec(b"\xff\xfe web".to_vec());
    run(hook(&path).arg(name).args(["started", "begin", "-"]), &[]);
    let mut buffer = [0; 64];
    let length = daemon.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"1 started begin \xff\xfe web", "it is the daemon's to judge");
    let long = "x".repeat(100_000);
    let odd: [&[&str]; 7] = [
        &[],
        &["web"],
        &["web", "started"],
        &["", "started", "begin", "-"],
        &["web", "two words", "begin", "-"],
        &["web", "", "", ""],
        &[&long, &long, &long, &long, &long],
    ];
    for arguments in odd {
        run(hook(&path).args(arguments), &[]);
    }
    // More than a pipe holds, and nobody reads it.
    run(hook(&path).args(["web", "started", "begin", "-"]), &xml(4 << 20));
    let closed = format!("exec {} web started begin - <&- >&- 2>&-", env!("CARGO_BIN_EXE_kvmpilot-hook"));
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &closed])
        .env("KVMPILOT_HOOK_SOCKET", &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    run(&mut shell, &[]);
}

#[test]
fn nothing_at_the_socket_s_place_makes_it_fail_or_wait() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let arguments = ["web", "started", "begin", "-"];
    run(hook(&place("nothing/there")).args(arguments), &[]);
    run(hook(Path::new(&"long/".repeat(100))).args(arguments), &[]);
    std::fs::write(place("file"), "").unwrap();
    run(hook(&place("file")).args(arguments), &[]);
    run(hook(directory.path()).args(arguments), &[]);
    let _stream = UnixListener::bind(place("stream")).unwrap();
    run(hook(&place("stream")).args(arguments), &[]);
    drop(UnixDatagram::bind(place("stale")).unwrap());
    run(hook(&place("stale")).args(arguments), &[]);

    // A daemon that hangs: it never reads, and its queue is full.
    let _hung = UnixDatagram::bind(place("hung")).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let full = (0..100_000).any(|_| filler.send_to(b"1 started begin filler", place("hung")).is_err());
    assert!(full, "the queue takes anything");
    let mut times: Vec<Duration> =
        (0..20).map(|_| run(hook(&place("hung")).args(arguments), &xml(10_000))).collect();
    times.sort();
    println!("with a full queue: median {:?}, worst {:?} of 20", times[10], times[19]);
}

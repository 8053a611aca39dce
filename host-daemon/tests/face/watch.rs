//! Watching a domain: from the command line to whoever watches, and back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvmpilot::api::WatchRequest;
use kvmpilot::watch::{Ask, Outcome, Refusal, Seen, Thread};
use kvmpilot_core::Uuid;
use kvmpilot_core::model::WatchWhat;
use kvmpilot_core::sample::{
    ExitReasonSample, LatencyBucket, LatencySample, ThreadLatencySample, ThreadRole, VcpuExitSample,
};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::schema::assert_valid;
use crate::server::{Face, stderr, wait_for};

/// What the made-up daemon was asked, and whether the asker went away before it answered.
pub(crate) type Watched = Arc<Mutex<Vec<(WatchWhat, Duration, bool)>>>;

/// Knows about `web`, and never comes to an end with any other domain.
pub(crate) async fn watcher(mut requests: mpsc::Receiver<WatchRequest>, watched: Watched) {
    while let Some(WatchRequest { domain, what, length, mut reply, .. }) = requests.recv().await {
        watched.lock().unwrap().push((what, length, false));
        let number = watched.lock().unwrap().len() - 1;
        if domain == Uuid::from_u128(7) {
            let watched = Arc::clone(&watched);
            tokio::spawn(async move {
                reply.closed().await;
                watched.lock().unwrap()[number].2 = true;
            });
        } else if length == Duration::from_secs(60) {
            reply.send(Err(Refusal::Overhead("the probes take too much of the host's time".into()))).unwrap();
        } else {
            reply.send(Ok(outcome(domain, what, length))).unwrap();
        }
    }
}

fn outcome(domain: Uuid, what: WatchWhat, length: Duration) -> Outcome {
    let latency = |count, ns| LatencySample {
        count,
        sum_ns: count * ns,
        max_ns: ns,
        buckets: vec![
            LatencyBucket { below_ns: Some(ns + 1), count },
            LatencyBucket { below_ns: None, count: 0 },
        ],
    };
    let seen = match what {
        WatchWhat::WakeLatency => Seen::Latencies(vec![
            ThreadLatencySample { tid: 70, woken: latency(1000, 20_000), preempted: latency(10, 3_000_000) },
            ThreadLatencySample { tid: 71, woken: latency(3, 900), preempted: LatencySample::default() },
        ]),
        WatchWhat::Exits => Seen::Exits(vec![VcpuExitSample {
            tid: 70,
            guest_ns: 5_000_000,
            isa: 1,
            reasons: vec![ExitReasonSample { reason: 48, count: 7, total_ns: 21_000, max_ns: 9_000 }],
        }]),
    };
    Outcome {
        ask: Ask { domain, name: "web".into(), accel: "kvm".into(), what, length },
        watched: length,
        sampled: length / 10,
        windows: 1,
        ended: None,
        overflowed: false,
        vcpus_ran: Some(length / 20),
        kvm_exits: matches!(seen, Seen::Exits(_)).then_some(7),
        back_end: Some("kvm_intel"),
        threads: vec![Thread { tid: 70, role: ThreadRole::Vcpu(0), comm: "CPU 0/KVM".into() }],
        seen,
    }
}

#[test]
fn both_kinds_are_shown_and_documented() {
    let face = Face::start();
    let page = face.prints(&["domain", "web", "--watch", "wake-latency", "--for", "2s"]);
    for text in [
        "web: waits for a pcpu in 1 window of 0.2 s",
        "after a wake-up",
        "1003",
        "20 us",
        "vcpu 0",
        "(ended)",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let page = face.prints(&["domain", "web", "--watch", "exits", "--for", "2"]);
    for text in ["EXITS (vmx)", "EPT_VIOLATION", "3.0 us", "5.0 ms"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    for what in ["wake-latency", "exits"] {
        let json = face.prints(&["domain", "web", "--watch", what, "--json"]);
        assert_valid("watch", &json);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["asked_s"].as_f64(), json["sampled_s"].as_f64()), (Some(30.0), Some(3.0)));
    }
    let seconds: Vec<_> = face.watched.lock().unwrap().iter().map(|asked| asked.1.as_secs()).collect();
    assert_eq!(seconds, [2, 2, 30, 30]);
}

#[test]
fn what_cannot_be_watched_is_refused_with_a_reason() {
    let face = Face::start();
    for arguments in [
        &["domain", "web", "--for", "5s"][..],
        &["domain", "web", "--watch", "steal"],
        &["domain", "web", "--watch", "exits", "--for", "61s"],
        &["domain", "web", "--watch", "exits", "--for", "0"],
        &["domain", "web", "--watch", "exits", "--for", "5h"],
    ] {
        assert_eq!(face.kvmpilot(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for (arguments, message) in [
        (["domain", "wbe", "--watch", "exits"].as_slice(), "there is no domain \"wbe\""),
        (&["domain", "web", "--watch", "exits", "--for", "1min"], "not now: the probes take too much"),
    ] {
        let output = face.kvmpilot(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
    assert_eq!(face.watched.lock().unwrap().len(), 1);
}

#[test]
fn a_watch_ends_with_whoever_asked_for_it() {
    let face = Face::start();
    let mut client = std::process::Command::new(env!("CARGO_BIN_EXE_kvmpilot"))
        .args(["domain", "silent/1 ä", "--watch", "exits", "--socket"])
        .arg(&face.socket)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the request arrives", || face.watched.lock().unwrap().len() == 1);
    // It takes its time, so the person in front is told.
    let mut said = [0; 8];
    std::io::Read::read_exact(client.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"watching");
    assert!(!face.watched.lock().unwrap()[0].2);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for("the watch ends", || face.watched.lock().unwrap()[0].2);
}

//! Loading: what is refused, and what comes out beside counters.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io, thread};

use kvmpilot::probes::{ProbeError, Probes, offsets};

use crate::workers::*;

#[test]
fn wrong_offsets_are_refused_by_the_verifier_or_by_the_self_test() {
    let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let right = offsets::resolve(&btf).unwrap();
    let load = |offsets| Probes::load_with(&ground(), CAPACITY, &btf, &offsets);
    let refused = load(offsets::Offsets { run_delay: right.run_delay + 4, ..right });
    assert!(matches!(refused, Err(ProbeError::Refused { .. })), "{refused:?}");
    println!("{}", refused.unwrap_err());
    // Of the same size, so that the verifier cannot know.
    let wrong = load(offsets::Offsets { run_delay: right.pcount, pcount: right.run_delay, ..right });
    assert!(matches!(wrong, Err(ProbeError::Wrong { .. })), "{wrong:?}");
    println!("{}", wrong.unwrap_err());
    for last_arrival in [right.exec_runtime, right.run_delay, right.pcount, right.start] {
        let wrong = load(offsets::Offsets { last_arrival, ..right });
        assert!(matches!(wrong, Err(ProbeError::WrongClock { .. })), "{wrong:?}");
        println!("{}", wrong.unwrap_err());
    }
}

#[test]
fn without_privileges_the_reason_is_named() {
    // Once with privileges: aya looks only once what the kernel can do.
    drop(load());
    let nobody = thread::spawn(|| {
        // SAFETY: a plain system call; unlike glibc's wrapper it changes this thread only, which ends soon.
        let changed = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        Probes::load(&ground(), CAPACITY).map(drop)
    });
    let err = nobody.join().unwrap().unwrap_err();
    assert!(matches!(err, ProbeError::NotPermitted { .. }), "{err:?}");
    assert!(err.to_string().contains("CAP_BPF"), "{err}");
}

#[test]
fn the_probes_rare_messages_reach_the_log() {
    #[derive(Clone, Default)]
    struct Capture(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Capture {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let capture = Capture::default();
    let writer = capture.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(move || writer.clone())
        .init();
    let mut probes = load();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build().unwrap();
    runtime.spawn(probes.take_log().unwrap());
    assert!(probes.take_log().is_none());
    let worker = Worker::start(pcpu(), &Arc::new(AtomicBool::new(false)), || spin(Duration::from_micros(10)));
    let message = format!("watched thread {} exited", worker.key.tid);
    probes.watch(worker.key, DOMAIN).unwrap();
    drop(worker);
    wait_for(&message, || String::from_utf8_lossy(&capture.0.lock().unwrap()).contains(&message));
}

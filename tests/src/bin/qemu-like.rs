//! A process that looks to the kernel like a QEMU with two vcpus: `qemu-like -uuid UUID WAKE_MS`. Five threads with QEMU's
//! names, asleep, but vcpu 0 wakes up each `WAKE_MS` and runs a little. A line `fork` on its standard input makes one more
//! worker, `join` ends it. It ends with its standard input, and so with whoever made it.

use std::hint::black_box;
use std::io::{BufRead, stdin};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_micros(50);

fn main() -> ExitCode {
    let wake = std::env::args().nth(3).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    let (Some("-uuid"), Some(wake)) = (std::env::args().nth(1).as_deref(), wake) else {
        eprintln!("usage: qemu-like -uuid UUID WAKE_MS");
        return ExitCode::FAILURE;
    };
    start("CPU 0/KVM", move || {
        loop {
            thread::sleep(wake);
            let begin = Instant::now();
            while black_box(begin.elapsed()) < RUN {}
        }
    });
    for name in ["CPU 1/KVM", "IO iothread1", "worker"] {
        start(name, || {
            loop {
                thread::park();
            }
        });
    }
    let mut more: Vec<(Sender<()>, JoinHandle<()>)> = Vec::new();
    for order in stdin().lock().lines().map_while(Result::ok) {
        match order.as_str() {
            "fork" => {
                let (end, ends) = channel::<()>();
                let wait = move || {
                    // An error is the order to end.
                    let _ = ends.recv();
                };
                more.push((end, start("worker", wait)));
            }
            "join" => drop(more.pop().map(|(end, worker)| {
                drop(end);
                worker.join()
            })),
            unknown => eprintln!("qemu-like: what is {unknown}?"),
        }
    }
    ExitCode::SUCCESS
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(64 << 10).spawn(work);
    thread.unwrap_or_else(|error| panic!("cannot start thread {name}: {error}"))
}

//! Tier 0: schedstat against a thread's own CPU clock.

use std::time::Duration;

use anyhow::{Result, bail};
use kvmpilot::kernel::Kernel;

use crate::subjects::{Subject, Turn, last_pcpu, schedstat};

/// The clock is read before the thread goes to sleep, which in a slow virtual machine takes some milliseconds.
const TOLERANCE: f64 = 0.1;
/// What a turn of 300 ms gets at least, however busy the machine is.
const LEAST_NS: u64 = 20_000_000;

pub(crate) fn check(kernel: &Kernel) -> Result<String> {
    let turn = Turn { run: Duration::from_millis(300), sleep: Duration::ZERO };
    let subject = Subject::start(last_pcpu()?, turn)?;
    let before = schedstat(subject.key.tid)?;
    subject.go()?;
    let own_ns = subject.rest()?;
    let after = schedstat(subject.key.tid)?;
    #[expect(clippy::cast_precision_loss, reason = "an error needs no more than 53 bits")]
    let error = after.on_cpu_ns.abs_diff(own_ns) as f64 / own_ns as f64;
    if after.on_cpu_ns - before.on_cpu_ns < LEAST_NS || after.on_cpu_ns < own_ns || error > TOLERANCE {
        bail!("schedstat shows {} ns on a pcpu, the thread's own clock {own_ns} ns", after.on_cpu_ns);
    }
    let (host, _) = kernel.host();
    let pressure = if host.cpu_pressure.is_some() { "with" } else { "without" };
    Ok(format!("schedstat within {:.3} % of the thread's clock, {pressure} pressure (PSI)", error * 100.0))
}

//! The probes' rare messages on their way to the daemon's log.

use std::io;
use std::pin::Pin;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::level_filters::LevelFilter;

use super::ProbeError;

/// Task that hands the probes' rare messages on to the `log` crate, and so to tracing. For a tokio runtime.
pub type LogTask = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Messages that nobody would see are not even composed: the verifier drops their code.
pub(super) fn level() -> u8 {
    match LevelFilter::current() {
        LevelFilter::OFF => 0,
        LevelFilter::ERROR => 1,
        LevelFilter::WARN => 2,
        LevelFilter::INFO => 3,
        LevelFilter::DEBUG => 4,
        _ => 5,
    }
}

pub(super) fn task(ebpf: &mut Ebpf) -> Result<LogTask, ProbeError> {
    let log = EbpfLogger::init(ebpf).map_err(|err| ProbeError::Load(err.into()))?;
    Ok(Box::pin(async move {
        // SAFETY: the logger owns its file descriptor, always names the same one, and moves into the AsyncFd.
        let log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) };
        let mut log = log.map_err(|err| err.into_parts().1)?;
        loop {
            let mut ready = log.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}

//! The daemon's own command line: here, so that its man page comes from it.

use std::path::PathBuf;

use clap::Parser;

/// Autopilot for libvirt/KVM hosts
///
/// Watches how every vcpu is really scheduled and adjusts CPU weights, pins, balloons and the priorities of guest
/// processes. Puts every value back when it stops. In mode `recommend`, the default, it changes nothing that nobody
/// approved (`kvmpilot orders`).
#[derive(Debug, Parser)]
#[command(name = "kvmpilotd", version)]
pub struct DaemonArguments {
    /// Configuration file; `conf.d/*.toml` beside it is read too [default: /etc/kvmpilot/kvmpilot.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Look for one cycle, print what would be done, change nothing
    #[arg(long)]
    pub once: bool,
}

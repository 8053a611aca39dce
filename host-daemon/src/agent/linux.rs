//! Linux guests: one shell program for the whole inventory. What it prints is read in `parse.rs`.

use std::hash::{BuildHasher, RandomState};

use kvmpilot_core::sample::GuestSample;

use super::parse::{Bounds, parse};
use super::{Agent, AgentError, Transport};

const INVENTORY: &str = include_str!("inventory.sh");

/// The guest's shell is started without the environment of its agent: no surprises from there.
pub(super) const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

impl<T: Transport> Agent<T> {
    /// The inventory of a Linux guest.
    pub(super) async fn linux_inventory(&mut self) -> Result<GuestSample, AgentError> {
        let limits = self.limits;
        let nonce = nonce();
        let arguments =
            [limits.processes, limits.sockets, limits.output_bytes].map(|limit| limit.to_string());
        let environment = [PATH.to_owned(), format!("K={nonce}")];
        let output = self.exec(&program(INVENTORY), &arguments, &environment).await?;
        let bounds =
            Bounds { processes: limits.processes, sockets: limits.sockets, bytes: limits.output_bytes };
        parse(&output.stdout, &nonce, bounds)
    }
}

/// A script without its comments: it shows in the guest's list of processes, and the guest's shell has to read it.
pub(super) fn program(script: &str) -> String {
    let code = |line: &&str| !line.trim_start().starts_with('#') && !line.trim().is_empty();
    script.lines().filter(code).map(|line| line.trim_start().to_owned() + "\n").collect()
}

/// A word that nobody in the guest can guess: the hasher's keys are random.
pub(super) fn nonce() -> String {
    let half = || RandomState::new().hash_one("kvmpilot");
    format!("{:016x}{:016x}", half(), half())
}

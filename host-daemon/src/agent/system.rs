//! What changes rarely inside a guest: asked of the agent's own commands where it permits them, else of a shell program.

use std::collections::BTreeMap;

use kvmpilot_core::sample::{GuestFileSystem, GuestInterface, GuestService, GuestSystem};
use tokio::time::Instant;

use super::exec::malformed;
use super::facts::{
    self, FSINFO, FileSystems, HOST_NAME, HostName, INTERFACES, Interfaces, MOST, OSINFO, OsInfo, filled,
};
use super::linux::{PATH, nonce, program};
use super::parse::{lines, sections};
use super::text::printable;
use super::{Agent, AgentError, Kind, Transport, services};

const SYSTEM: &str = include_str!("system.sh");
/// What the program may print.
const OUTPUT_BYTES: usize = 256 << 10;
/// Services and users at most.
const MOST_SERVICES: usize = 512;
const MOST_USERS: usize = 1024;
/// Notes on what is missing.
const NOTES: usize = 16;

impl<T: Transport> Agent<T> {
    /// Reads what changes rarely. What cannot be read is named in [`GuestSystem::missing`].
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn system(&mut self) -> Result<GuestSystem, AgentError> {
        let kind = self.kind().await?;
        let deadline = Instant::now() + self.limits.total;
        let mut system = GuestSystem::default();
        let mut missing = Vec::new();
        let mut wanted = vec!["users", "services"];
        match self.ask::<OsInfo>(OSINFO, deadline, &mut missing).await? {
            Some(info) => info.put(&mut system),
            None => wanted.extend(["release", "kernel"]),
        }
        match self.ask::<HostName>(HOST_NAME, deadline, &mut missing).await? {
            Some(name) => name.put(&mut system),
            None if wanted.contains(&"kernel") => {}
            None => wanted.push("kernel"),
        }
        match self.ask::<FileSystems>(FSINFO, deadline, &mut missing).await? {
            Some(found) => facts::put_file_systems(found, &mut system),
            None => wanted.push("mounts"),
        }
        match self.ask::<Interfaces>(INTERFACES, deadline, &mut missing).await? {
            Some(found) => facts::put_interfaces(found, &mut system),
            None => wanted.push("net"),
        }
        let rest = match kind {
            Kind::Unix => self.system_program(&wanted, &mut system).await,
            Kind::Windows => self.windows_services(&mut system).await,
        };
        match rest {
            Ok(()) => {}
            Err(error @ (AgentError::NotConnected(_) | AgentError::TimedOut { .. } | AgentError::Frozen)) => {
                return Err(error);
            }
            Err(error) => missing.push(format!("{}: {error}", wanted.join(", "))),
        }
        system.missing.extend(missing);
        system.missing.truncate(NOTES);
        Ok(system)
    }

    async fn system_program(&mut self, wanted: &[&str], system: &mut GuestSystem) -> Result<(), AgentError> {
        let nonce = nonce();
        let arguments = [wanted.join(" "), OUTPUT_BYTES.to_string()];
        let environment = [PATH.to_owned(), format!("K={nonce}")];
        let output = self.exec(&program(SYSTEM), &arguments, &environment).await?;
        parse(&output.stdout, &nonce, system)
    }
}

/// Reads the output of `system.sh` that was run with `nonce`. Pure, total and bounded.
pub(super) fn parse(output: &[u8], nonce: &str, system: &mut GuestSystem) -> Result<(), AgentError> {
    let mut complete = false;
    for (name, body) in sections(output, nonce) {
        let services_of = |read: fn(&[u8]) -> Option<GuestService>| {
            lines(body).filter_map(read).take(MOST_SERVICES).collect::<Vec<_>>()
        };
        match name {
            "users" => system.users = users(body),
            "systemd" => system.services = services_of(services::systemd),
            "openrc" => system.services = services_of(services::openrc),
            "scripts" => system.services = services_of(services::script),
            "release" => release(body, system),
            "kernel" => kernel(body, system),
            "mounts" => system.file_systems = lines(body).skip(1).filter_map(mount).take(MOST).collect(),
            "net" => system.interfaces = lines(body).filter_map(interface).take(MOST).collect(),
            "end" => complete = true,
            _ => {}
        }
    }
    if complete { Ok(()) } else { Err(malformed("system: its program did not come to its end")) }
}

/// `name:x:uid:...`; the first of a uid counts, as in the guest.
fn users(body: &[u8]) -> BTreeMap<u32, String> {
    let mut users = BTreeMap::new();
    for line in lines(body) {
        let line = printable(line, 256);
        let mut parts = line.split(':');
        let (Some(name), Some(uid)) = (parts.next(), parts.nth(1)) else { continue };
        if let (Some(name), Ok(uid)) = (filled(name), uid.parse()) {
            users.entry(uid).or_insert(name);
        }
        if users.len() >= MOST_USERS {
            break;
        }
    }
    users
}

/// os-release(5): shell assignments.
fn release(body: &[u8], system: &mut GuestSystem) {
    for line in lines(body) {
        let line = printable(line, 256);
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = filled(value.trim_matches(['"', '\'']));
        match key {
            "PRETTY_NAME" => system.os = value,
            "ID" => system.os_id = value,
            _ => {}
        }
    }
}

fn kernel(body: &[u8], system: &mut GuestSystem) {
    for line in lines(body) {
        let line = printable(line, 256);
        match line.split_once(' ') {
            Some(("kernel", release)) if system.kernel.is_none() => system.kernel = filled(release),
            Some(("host", name)) if system.host_name.is_none() => system.host_name = filled(name),
            _ => {}
        }
    }
}

/// A line of `df -P -k`: `DEVICE TOTAL USED AVAILABLE PER% MOUNT`.
fn mount(line: &[u8]) -> Option<GuestFileSystem> {
    let line = printable(line, 1024);
    let mut words = line.split_ascii_whitespace();
    let device = facts::path(words.next()?);
    let (total, used) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let mount = facts::path(words.nth(2)?);
    Some(GuestFileSystem { mount, device, kind: None, total_kib: Some(total), used_kib: Some(used) })
}

/// A line of `/proc/net/dev`: `NAME: RX_BYTES 7 more TX_BYTES ...`.
fn interface(line: &[u8]) -> Option<GuestInterface> {
    let line = printable(line, 512);
    let (name, counters) = line.rsplit_once(':')?;
    let counters: Vec<u64> = counters.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let (received, sent) = (*counters.first()?, *counters.get(8)?);
    Some(GuestInterface {
        name: filled(name)?,
        mac: None,
        addresses: Vec::new(),
        received_bytes: Some(received),
        sent_bytes: Some(sent),
    })
}

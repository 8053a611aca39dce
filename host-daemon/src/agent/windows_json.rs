//! The JSON that the programs for Windows print, made into samples. Pure, total and bounded.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kvmpilot_core::sample::{
    GuestSample, GuestService, GuestSystem, Listener, ProcessKey, ProcessSample, SchedPolicy, ServiceState,
    SocketProtocol, SocketSample, SocketState,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::AgentError;
use super::exec::malformed;
use super::facts::{filled, name, path};
use super::few::Few;
use super::parse::Bounds;
use super::text::{command_line, printable};
use super::windows::level;

/// Elements of a list, whatever the bounds are.
const MOST: usize = 16384;
/// Times are in milliseconds.
const TICKS_PER_SECOND: u64 = 1000;
const COMMAND_CHARS: usize = 256;

/// Without them Windows does not go on, or nobody can log in: their policy is `Unknown`, so that no step touches them.
const SYSTEM: [&str; 12] = [
    "System",
    "Registry",
    "smss",
    "csrss",
    "wininit",
    "services",
    "lsass",
    "lsaiso",
    "winlogon",
    "dwm",
    "LogonUI",
    "Memory Compression",
];

#[derive(Deserialize)]
struct Inside {
    up: u64,
    vcpus: u32,
    #[serde(rename = "self")]
    own: u32,
    processes: Few<Process, MOST>,
    tcp: Few<Tcp, MOST>,
    udp: Few<Udp, MOST>,
}

/// pid, parent, start in ms since 1601, CPU time in ms, working set in KiB, threads, base priority, name, path, command line.
#[derive(Deserialize)]
struct Process(u32, u32, u64, u64, u64, u32, u64, String, String, String);

/// State, local address and port, foreign address and port, owner.
#[derive(Deserialize)]
struct Tcp(u32, String, u16, String, u16, u32);

/// Address, port, owner.
#[derive(Deserialize)]
struct Udp(String, u16, u32);

#[derive(Deserialize)]
struct Services {
    services: Few<(String, String, String), 512>,
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AgentError> {
    serde_json::from_slice(bytes).map_err(|error| {
        malformed(format!("PowerShell's JSON: {}", printable(error.to_string().as_bytes(), 200)))
    })
}

/// Reads what `windows.ps1` printed, out of its base64.
pub(super) fn parse_json(bytes: &[u8], bounds: Bounds) -> Result<GuestSample, AgentError> {
    let Inside { up, vcpus, own, processes, tcp, udp } = json(bytes)?;
    let mut sample = GuestSample {
        uptime_cs: up,
        ticks_per_second: TICKS_PER_SECOND,
        vcpus_online: Some(vcpus).filter(|vcpus| *vcpus > 0),
        ..GuestSample::default()
    };
    // The idle process has all the time that no vcpu was used.
    let idle = processes.items.iter().find(|process| process.0 == 0).map(|process| process.3);
    sample.busy_ticks =
        idle.and_then(|idle| up.checked_mul(10)?.checked_mul(u64::from(vcpus))?.checked_sub(idle));
    let starts: BTreeMap<u32, u64> = processes.items.iter().map(|process| (process.0, process.2)).collect();
    let found =
        processes.items.iter().filter(|process| process.0 != 0 && process.0 != own && process.1 != own);
    let mut found = found.map(|process| read(process, &starts));
    sample.processes = found.by_ref().take(bounds.processes).collect();
    if found.next().is_some() || processes.more {
        sample.truncated.push(format!("processes beyond {}", bounds.processes));
    }
    let mut sockets = 0;
    let mut room = || {
        sockets += 1;
        sockets <= bounds.sockets
    };
    for socket in &tcp.items {
        let (Some(local_address), Some(peer_address)) = (address(&socket.1), address(&socket.3)) else {
            continue;
        };
        let (protocol, local_port, owners) = (SocketProtocol::Tcp, socket.2, vec![socket.5]);
        let state = match socket.0 {
            2 if room() => {
                sample.listeners.push(Listener {
                    protocol,
                    address: local_address,
                    port: local_port,
                    owners,
                });
                continue;
            }
            3 | 4 => SocketState::Opening,
            5 => SocketState::Established,
            6..=12 => SocketState::Closing,
            _ => continue,
        };
        if room() {
            let peer_port = socket.4;
            sample.sockets.push(SocketSample {
                protocol,
                local_address,
                local_port,
                peer_address,
                peer_port,
                state,
                owners,
            });
        }
    }
    for Udp(text, port, owner) in &udp.items {
        if let Some(address) = address(text).filter(|_| room()) {
            let owners = vec![*owner];
            sample.listeners.push(Listener { protocol: SocketProtocol::Udp, address, port: *port, owners });
        }
    }
    if sockets > bounds.sockets || tcp.more || udp.more {
        sample.truncated.push(format!("sockets beyond {}", bounds.sockets));
    }
    Ok(sample)
}

fn read(process: &Process, starts: &BTreeMap<u32, u64>) -> ProcessSample {
    let Process(pid, parent, started, cpu, rss_kib, threads, priority, image, executable, command) = process;
    let image = name(image);
    let image = image.strip_suffix(".exe").unwrap_or(&image).to_owned();
    let (nice, policy) = level(*priority);
    // Windows gives the pid of a parent that has ended to others.
    let is_older = starts.get(parent).is_some_and(|parent| parent <= started);
    ProcessSample {
        key: ProcessKey { pid: *pid, start_ticks: *started },
        parent: if is_older { *parent } else { 0 },
        policy: if SYSTEM.contains(&image.as_str()) { SchedPolicy::Unknown } else { policy },
        name: image,
        executable: Some(path(executable)).filter(|path| !path.is_empty()),
        // One text, as Windows has it: looked at as a script, because it may be quoted.
        command: command_line(format!("\0-c\0{command}").as_bytes(), COMMAND_CHARS + 4)
            .chars()
            .skip(4)
            .collect(),
        state: '-',
        threads: *threads,
        cpu_ticks: *cpu,
        rss_kib: *rss_kib,
        nice,
        ..ProcessSample::default()
    }
}

/// An address without the name of its interface.
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.split('%').next()?.parse().ok()?;
    Some(address.to_canonical())
}

/// Reads what `windows_services.ps1` printed, out of its base64.
pub(super) fn parse_services_json(bytes: &[u8], system: &mut GuestSystem) -> Result<(), AgentError> {
    let Services { services } = json(bytes)?;
    let read = |(name, state, mode): &(String, String, String)| {
        let of = match state.as_str() {
            "Running" => ServiceState::Running,
            "Stopped" | "Paused" => ServiceState::Stopped,
            "Start Pending" | "Stop Pending" | "Continue Pending" | "Pause Pending" => ServiceState::Changing,
            _ => ServiceState::Unknown,
        };
        let detail = super::facts::name(&format!("{state}, {mode}"));
        Some(GuestService { name: filled(name)?, state: of, detail })
    };
    system.services = services.items.iter().filter_map(read).collect();
    if services.more {
        system.missing.push("services beyond 512".to_owned());
    }
    Ok(())
}
